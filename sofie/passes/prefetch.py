"""prefetch: while rows pass over one panel of weights, the next panel comes into the cache (level 4).

    scf.for %panel {                                     scf.for %panel {
      scf.for %i = ... step 6 {                            scf.for %i = ... step 6 {
        scf.for %k iter_args(..) {                           scf.for %k iter_args(..) {
          vector.load %w[%panel, %k, 0]         ->             vector.load %w[%panel, %k, 0]
                                                               memref.prefetch %w[%panel, %k, ..]

The hardware fetches ahead along a stream, but starts anew in each page of 4 KiB, and while rows pass it sees the same
panel again and again. So each of T tiles of rows asks for one T-th of what follows the panel in memory: an element
further a step, T-th by T-th. The last panel asks for the weights of the next kernel, which lie behind. Tiles of other
heights, one after the other, count together.

Weights only, of at least `min_bytes`: smaller ones stay in the second cache. Declines where a panel serves fewer than
two tiles (that is a stream, which the hardware follows) or more than `max_tiles` (the wait is short beside the work).
On 64 rows times weights of 768 x 768 out of memory: 81 -> 94 GFLOP/s of 104 (Zen 3); of bytes, 48 layers of
1024 x 1024: 80 -> 73 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, scf, vector
from xdsl.dialects.builtin import ModuleOp, VectorType
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.dialects.scalars import LoadWordOp
from sofie.dialects.types import bytes_of, element_of, shape_of, strides_of
from sofie.dialects.upstream import PrefetchOp
from sofie.loops import most_trips
from sofie.memory import is_written
from sofie.passes.lower_loops import Indices
from sofie.sizes import most

SECOND = 2
"""The hint for the second cache: the first one is full of the panel at hand."""


@dataclass(frozen=True)
class Prefetch(ModulePass):
    """Fetches the next panel of weights of at least `min_bytes` while up to `max_tiles` tiles pass over this one."""

    name: ClassVar[str] = "prefetch"

    min_bytes: int = 131072
    max_tiles: int = 64

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in [f for f in op.body.block.ops if isinstance(f, func.FuncOp)]:
            loops = [o for o in function.walk() if isinstance(o, scf.ForOp)]
            found: dict[tuple[SSAValue, SSAValue, int], list[tuple[scf.ForOp, Stream]]] = {}
            for loop in [o for o in loops if not any(inner.regions for inner in o.body.block.ops)]:
                for stream in _streams(loop):
                    found.setdefault((_base(stream.load), stream.panels, stream.panel), []).append((loop, stream))
            indices = Indices(function.body.block)
            for together in found.values():
                tiles = sum(stream.tiles for _, stream in together)
                if together[0][1].size >= self.min_bytes and 2 <= tiles <= self.max_tiles:
                    before = 0
                    for loop, stream in together:
                        _fetch(loop, stream, before, tiles, indices)
                        before += stream.tiles


@dataclass(frozen=True)
class Loop:
    """A loop around a load: its variable, how often and by how much it advances, how far the load then moves."""

    variable: SSAValue
    trips: int
    step: int
    moved: int
    """Elements for an advance by one."""


VectorLoad = vector.LoadOp | LoadWordOp


def _base(load: VectorLoad) -> SSAValue:
    """What is loaded from."""
    return load.base if isinstance(load, vector.LoadOp) else load.memref


def _elements(load: VectorLoad) -> int:
    """How many elements a load reads; none where it is no vector."""
    kind = load.results[0].type
    if not isinstance(kind, VectorType):
        return 0
    return kind.element_count() * bytes_of(kind.get_element_type()) // bytes_of(element_of(_base(load)))


@dataclass(frozen=True)
class Stream:
    """A load that walks through a panel, `width` elements a step, once for each of several tiles."""

    load: VectorLoad
    width: int
    walk: Sequence[Loop]
    """Through the panel, innermost first."""
    repeat: Sequence[Loop]
    """Over tiles, innermost first."""
    panels: SSAValue
    """The variable of the loop over panels."""

    @property
    def panel(self) -> int:
        """Elements."""
        return self.width * math.prod(loop.trips for loop in self.walk)

    @property
    def tiles(self) -> int:
        return math.prod(loop.trips for loop in self.repeat)

    @property
    def size(self) -> int:
        """Bytes of all that it reads from."""
        base = _base(self.load)
        return most(math.prod(shape_of(base))) * bytes_of(element_of(base))


def _streams(loop: scf.ForOp) -> list[Stream]:
    """One for each buffer that the vectors loaded in a step of `loop` walk through without a gap."""
    found = []
    loads = [op for op in loop.body.block.ops if isinstance(op, VectorLoad) and _elements(op)]
    for base in dict.fromkeys(_base(op) for op in loads):
        of_base = [op for op in loads if _base(op) is base]
        first, *_ = of_base
        width = _moved(first, loop.body.block.args[0])
        if not isinstance(base, BlockArgument) or is_written(base) or not width:
            continue
        if sum(map(_elements, of_base)) < width:
            continue
        stream = _stream(loop, first, width)
        if stream is not None:
            found.append(stream)
    return found


def _stream(loop: scf.ForOp, load: VectorLoad, width: int) -> Stream | None:
    """The loops around a load sorted into those that walk through its panel and those that repeat it.

    None where the load moves in another way, or where what follows the panel is not the next to be read.
    """
    walk: list[Loop] = []
    repeat: list[Loop] = []
    for variable, times, step, sums in _loops_around(loop):
        moved = _moved(load, variable)
        if moved is None or times is None:
            return None
        panel = width * math.prod(inner.trips for inner in walk)
        here = Loop(variable, times, step, moved)
        if moved == 0:
            repeat.append(here)
        elif moved * step == panel and sums:
            walk.append(here)
        else:
            return Stream(load, width, walk, repeat, variable) if moved * step == panel else None
    return None


def _loops_around(loop: scf.ForOp) -> list[tuple[SSAValue, int | None, int, bool]]:
    """(variable, trips, step, whether it carries sums) of a loop and all around it, innermost first."""
    found: list[tuple[SSAValue, int | None, int, bool]] = []
    current: Operation | None = loop
    while current is not None:
        if isinstance(current, scf.ForOp):
            bounds = [(current.body.block.args[0], current.lb, current.ub, current.step)]
        elif isinstance(current, scf.ParallelOp):
            bounds = list(
                zip(current.body.block.args, current.lowerBound, current.upperBound, current.step, strict=True)
            )
        else:
            bounds = []
        for variable, low, high, step in reversed(bounds):
            sums = isinstance(current, scf.ForOp) and bool(current.iter_args)
            found.append((variable, most_trips(low, high, step), affine.constant(step) or 1, sums))
        current = current.parent_op()
    return found


def _moved(load: VectorLoad, variable: SSAValue) -> int | None:
    base = _base(load)
    return affine.step(base, list(load.indices), strides_of(base), variable)


def _fetch(loop: scf.ForOp, stream: Stream, before: int, tiles: int, indices: Indices) -> None:
    """The prefetch behind a stream's load: where the load is, made a panel further and this tile's part of it.

    tiles: all that pass over the panel, of which so many come before those of this stream.
    """
    part = stream.panel // tiles
    first = before * part
    pace = -(-stream.width // tiles)  # elements a step, so that all steps reach across a part
    terms = [(inner.variable, inner.moved // stream.width * pace - inner.moved) for inner in stream.walk]
    for over in stream.repeat:
        terms.append((over.variable, part // over.step))
        part *= over.trips
    made: list[Operation] = []
    at = stream.load.indices[-1]

    def add(op: arith.AddiOp | arith.MuliOp) -> SSAValue:
        made.append(op)
        return op.result

    for variable, factor in terms:
        if factor:
            at = add(arith.AddiOp(at, add(arith.MuliOp(variable, indices.constant(factor)))))
    at = add(arith.AddiOp(at, indices.constant(stream.panel + first)))
    base = _base(stream.load)
    made.append(PrefetchOp(base, [*stream.load.indices[:-1], at], SECOND))
    block = loop.body.block
    last = [op for op in block.ops if isinstance(op, VectorLoad) and _base(op) is base][-1]
    block.insert_ops_after(made, last)
