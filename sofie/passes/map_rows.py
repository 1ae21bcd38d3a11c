"""map-rows: where few rows are long, the threads of a warp or of a block share each (level 4 -> level 4').

    scf.parallel (%i) .. {                           %row = warps before this one ; %lane = gpu.lane_id
      %sum = scf.for %k = 0 to 1024 { .. }     ->    %part = scf.for %step = 0 to 32 { .. [%step * 32 + %lane] }
      memref.store %sum, %y[%i]                      %sum = gpu.subgroup_reduce add %part
    }                                                scf.if %lane == 0 { memref.store %sum, %y[%row] }

Reductions become partial ones and a `gpu.subgroup_reduce` (a `gpu.all_reduce` where a block has the row); loops over
the row are shared out in turns, so that lanes read side by side. A local buffer that only such loops walk stays in
registers, a place of it a turn; any other is the block's memory. A barrier stands wherever a thread may read, or write
over, what another has written or read. Softmax, normalisations, sums over rows and products with few results are such
nests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, gpu, memref, scf
from xdsl.dialects.builtin import AnyFloat, FloatAttr, IntegerAttr, IntegerType, MemRefType, ModuleOp
from xdsl.dialects.gpu import AllReduceOpEnum
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.affine import Load, movement
from sofie.body import Body
from sofie.dialects.upstream import SubgroupReduceOp
from sofie.launches import (
    BLOCK,
    PARTIALS_BYTES,
    SHARED_BYTES,
    WARP,
    Frame,
    bytes_in,
    extents_of,
    is_pure,
    kernels_of,
    nest_of,
    starts_at_zero,
)
from sofie.loops import trips
from sofie.memory import memory_of

COMBINED: dict[type[Operation], AllReduceOpEnum] = {
    arith.AddfOp: AllReduceOpEnum.Add,
    arith.AddiOp: AllReduceOpEnum.Add,
    arith.MulfOp: AllReduceOpEnum.Mul,
    arith.MuliOp: AllReduceOpEnum.Mul,
    arith.MaximumfOp: AllReduceOpEnum.Max,
    arith.MaxSIOp: AllReduceOpEnum.Max,
    arith.MinimumfOp: AllReduceOpEnum.Min,
    arith.MinSIOp: AllReduceOpEnum.Min,
    arith.AndIOp: AllReduceOpEnum.And,
    arith.OrIOp: AllReduceOpEnum.Or,
    arith.XOrIOp: AllReduceOpEnum.Xor,
}
SHORTEST = 32
"""Rows that are shorter are one thread's."""
TURNS = 32
"""Turns of a loop that are written out, and so places of a buffer in registers."""
LONG = 1024
"""Rows that are longer are shared by a block, unless there are as many of them as fill a card with warps."""
FEW = 4096
"""Fewer rows than this get a warp even where it reads far apart: one thread each would leave most of a card idle."""


@dataclass(frozen=True)
class MapRows(ModulePass):
    """Maps the nests whose rows are worth sharing."""

    name: ClassVar[str] = "map-rows"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for kernel in kernels_of(op):
            nest = nest_of(kernel)
            rows = None if nest is None else Rows.of(nest)
            if nest is not None and rows is not None:
                _map(kernel, nest, rows)


def _map(kernel: func.FuncOp, nest: scf.ParallelOp, rows: Rows) -> None:
    """Replaces a kernel: a warp or a block a row."""
    frame = Frame(kernel)
    body, extents = frame.body, frame.extents(nest)
    if rows.width == WARP:
        lane = body.add(gpu.LaneIdOp(), "lane")
        thread = body.add(gpu.GlobalIdOp(gpu.DimensionAttr(gpu.DimensionEnum.X)), "thread")
        row = body.over(thread, WARP, "row")
    else:
        lane = body.add(gpu.ThreadIdOp(gpu.DimensionAttr(gpu.DimensionEnum.X)), "lane")
        row = body.block_id()
        row.name_hint = "row"
    Sharing(nest, rows, frame.values, lane).row(body.when(body.less(row, body.product(extents))), row)
    each = BLOCK // rows.width
    frame.launch(lambda here, bounds: here.filled(here.product(bounds), each), BLOCK, list(nest.upperBound))


@dataclass(frozen=True)
class Rows:
    """How a nest is shared out.

    width: threads a row. shared: the loop of each reduction, by its outermost one, that they share. registers: the
    buffers of which each of them has its own part.
    """

    width: int
    shared: dict[scf.ForOp, scf.ForOp]
    registers: set[SSAValue]

    @staticmethod
    def of(nest: scf.ParallelOp, any_order: bool = False) -> Rows | None:
        """What is best for a nest; None where an iteration should stay one thread's.

        any_order: as if all that is read lay side by side.
        """
        shared: dict[scf.ForOp, scf.ForOp] = {}
        lengths: list[int] = []
        for op in nest.body.block.ops:
            if isinstance(op, scf.ParallelOp):
                if not starts_at_zero(op) or op.results or None in extents_of(op):
                    return None
                lengths.append(math.prod(e for e in extents_of(op) if e is not None))
            elif isinstance(op, scf.ForOp):
                chosen = _shared_loop(op)
                length = None if chosen is None else trips(chosen.lb, chosen.ub, chosen.step)
                if chosen is not None and length is not None:
                    shared[op] = chosen
                    lengths.append(length)
                elif not _is_short(op):
                    return None
            elif op.regions and any(isinstance(o, scf.ForOp | scf.ParallelOp) for o in op.walk()):
                return None
        if not shared or max(lengths) < SHORTEST:
            return None
        extents = extents_of(nest)
        rows = None if None in extents else math.prod(e for e in extents if e is not None)
        near = any_order or all(map(reads_side_by_side, shared.values()))
        if not near and not (rows is not None and rows < FEW):
            return None
        for width in (WARP, BLOCK):
            registers = {b for b in _buffers(nest) if _walked_alike(b, nest, shared, width)}
            rest = [b for b in _buffers(nest) if b not in registers]
            room = sum(bytes_in(b.type) for b in rest if isinstance(b.type, MemRefType)) + PARTIALS_BYTES
            many = rows is None or rows >= FEW
            if width == WARP and (rest or (max(lengths) > LONG and not many)):
                continue
            if room <= SHARED_BYTES:
                return Rows(width, shared, registers)
        return None


def _is_short(loop: scf.ForOp) -> bool:
    times = trips(loop.lb, loop.ub, loop.step)
    return times is not None and times < SHORTEST // 2 and not any(isinstance(o, memref.StoreOp) for o in loop.walk())


def _kinds(loop: scf.ForOp) -> list[AllReduceOpEnum] | None:
    """How each carried value of a loop gathers what the iterations give; None where their order matters."""
    if any(isinstance(op, memref.StoreOp) for op in loop.walk()):
        return None
    last = loop.body.block.last_op
    assert isinstance(last, scf.YieldOp)
    found: list[AllReduceOpEnum] = []
    for carried, value in zip(loop.body.block.args[1:], last.arguments, strict=True):
        uses = list(carried.uses)
        if len(uses) != 1 or uses[0].operation is not value.owner:
            return None
        op = value.owner
        if isinstance(op, scf.ForOp):
            kinds = _kinds(op)
            place = uses[0].index - 3
            if kinds is None or op.results[place] is not value:
                return None
            found.append(kinds[place])
        elif type(op) in COMBINED and len(list(value.uses)) == 1:
            found.append(COMBINED[type(op)])
        else:
            return None
    return found or None


def _shared_loop(outer: scf.ForOp) -> scf.ForOp | None:
    """The loop of a reduction over several that threads had best share: the longest, of those the one furthest in."""
    if _kinds(outer) is None:
        return None
    chain = [outer]
    while (inner := _next(chain[-1])) is not None:
        chain.append(inner)
    fit = [o for o in chain if affine.constant(o.lb) == 0 and affine.constant(o.step) == 1 and _length(o)]
    return max(reversed(fit), key=_length, default=None)


def _length(loop: scf.ForOp) -> int:
    return trips(loop.lb, loop.ub, loop.step) or 0


def _next(loop: scf.ForOp) -> scf.ForOp | None:
    """The one loop in a reduction's loop that goes on with its values, or that it adds from zero."""
    inner = [op for op in loop.body.block.ops if isinstance(op, scf.ForOp)]
    if len(inner) != 1 or _kinds(inner[0]) is None or _kinds(inner[0]) != _kinds(loop):
        return None
    kinds, last = _kinds(loop), loop.body.block.last_op
    assert kinds is not None and last is not None
    if list(inner[0].iter_args) == list(loop.body.block.args[1:]):
        return inner[0]
    from_nothing = all(_is_identity(v, kind) for v, kind in zip(inner[0].iter_args, kinds, strict=True))
    added = all(
        [use.operation for use in result.uses] == [value.owner]
        for result, value in zip(inner[0].results, last.operands, strict=True)
    )
    return inner[0] if from_nothing and added else None


def _identity(kind: AllReduceOpEnum, element: Attribute) -> IntegerAttr | FloatAttr | None:
    """The value that changes nothing, where there is one to write."""
    if isinstance(element, AnyFloat):
        known = {
            AllReduceOpEnum.Add: 0.0,
            AllReduceOpEnum.Mul: 1.0,
            AllReduceOpEnum.Max: -math.inf,
            AllReduceOpEnum.Min: math.inf,
        }
        return FloatAttr(known[kind], element) if kind in known else None
    if isinstance(element, IntegerType):
        width = element.width.data
        if width == 1:
            truth = {AllReduceOpEnum.And: 1, AllReduceOpEnum.Or: 0, AllReduceOpEnum.Xor: 0}
            return IntegerAttr(truth[kind], element) if kind in truth else None
        numbers = {
            AllReduceOpEnum.Add: 0,
            AllReduceOpEnum.Mul: 1,
            AllReduceOpEnum.Max: -(2 ** (width - 1)),
            AllReduceOpEnum.Min: 2 ** (width - 1) - 1,
            AllReduceOpEnum.And: -1,
            AllReduceOpEnum.Or: 0,
            AllReduceOpEnum.Xor: 0,
        }
        return IntegerAttr(numbers[kind], element)
    return None


def _is_identity(value: SSAValue, kind: AllReduceOpEnum) -> bool:
    owner, element = value.owner, value.type
    return isinstance(owner, arith.ConstantOp) and owner.value == _identity(kind, element)


def reads_side_by_side(loop: scf.ForOp, but: Sequence[SSAValue] = ()) -> bool:
    """Whether what a loop reads, but of some memory, lies an element further an iteration, or nowhere else."""
    for op in loop.walk():
        if isinstance(op, Load) and op.memref not in but and movement(op, loop.body.block.args[0]) not in (0, 1):
            return False
    return True


def _buffers(nest: scf.ParallelOp) -> list[SSAValue]:
    return [op.memref for op in nest.body.block.ops if isinstance(op, memref.AllocaOp)]


def _walked_alike(buffer: SSAValue, nest: scf.ParallelOp, shared: dict[scf.ForOp, scf.ForOp], width: int) -> bool:
    """Whether every access of a buffer is at the place that a shared loop has come to: no thread sees another's."""
    kind = buffer.type
    assert isinstance(kind, MemRefType)
    size = math.prod(kind.get_shape())
    if size > width * TURNS:
        return False
    for use in buffer.uses:
        op = use.operation
        if not isinstance(op, memref.LoadOp | memref.StoreOp):
            return False
        loop = op.parent_op()
        if isinstance(loop, scf.ParallelOp) and loop.parent_op() is nest:
            variables, extents = list(loop.body.block.args), extents_of(loop)
        elif isinstance(loop, scf.ForOp) and loop in shared and shared[loop] is loop:
            variables, extents = [loop.body.block.args[0]], [_length(loop)]
        else:
            return False
        at, shape = list(op.indices), list(kind.get_shape())
        if at != variables or shape != extents:
            return False
    return True


@dataclass
class Sharing:
    """How threads come to share the rows of a nest. values: by those of the kernel, the function's."""

    nest: scf.ParallelOp
    rows: Rows
    values: dict[SSAValue, SSAValue]
    lane: SSAValue
    written: set[SSAValue] = field(default_factory=set)
    read: set[SSAValue] = field(default_factory=set)
    """What memory threads have touched since they last waited for each other."""

    def row(self, body: Body, row: SSAValue) -> None:
        """What the threads of a row do, at the end of `body`."""
        extents = [self.values[bound] for bound in self.nest.upperBound]
        variables = self.nest.body.block.args
        self.values.update(zip(variables, body.apart(row, extents, [v.name_hint for v in variables]), strict=True))
        for op in self.nest.body.block.ops:
            self._row(body, op)

    def _row(self, body: Body, op: Operation) -> None:
        """What one op of a row becomes."""
        if isinstance(op, memref.AllocaOp):
            kind = op.memref.type
            own = op.memref in self.rows.registers
            shape = [-(-math.prod(kind.get_shape()) // self.rows.width)] if own else list(kind.get_shape())
            name = op.memref.name_hint or "kept"
            self.values[op.memref] = body.room(shape, kind.get_element_type(), name, shared=not own)
        elif isinstance(op, scf.ReduceOp):
            return
        elif is_pure(op):
            body.clone([op], self.values)
        else:
            self._wait(body, op)
            if isinstance(op, scf.ParallelOp):
                self._share(body, op)
            elif isinstance(op, scf.ForOp) and op in self.rows.shared:
                self._reduce(body, op)
            elif _writes(op):
                body.when(body.less(self.lane, 1)).clone([op], self.values)
            else:
                body.clone([op], self.values)

    def _wait(self, body: Body, op: Operation) -> None:
        """A barrier where an op touches what other threads may have written, or writes what they may still read."""
        reads, writes = _touched(op)
        reads, writes = reads - self.rows.registers, writes - self.rows.registers
        if reads & self.written or writes & (self.written | self.read):
            body.barrier(warp=self.rows.width == WARP)
            self.written, self.read = set(), set()
        self.written |= writes
        self.read |= reads

    def _turns(self, length: int) -> tuple[int, bool]:
        """How many turns a loop of so many iterations takes, and whether they are written out."""
        turns = -(-length // self.rows.width)
        return turns, turns <= TURNS

    def _share(self, body: Body, loop: scf.ParallelOp) -> None:
        """A loop over the row, its iterations in turns."""
        length = math.prod(e for e in extents_of(loop) if e is not None)
        turns, unroll = self._turns(length)
        variables = loop.body.block.args
        extents = [self.values[bound] for bound in loop.upperBound]
        ops = [op for op in loop.body.block.ops if not isinstance(op, scf.ReduceOp)]

        def turn(here: Body, step: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            place = here.plus(here.times(step, self.rows.width), self.lane)
            inside = here.when(here.less(place, length) if length % self.rows.width else None)
            indices = inside.apart(place, extents, [v.name_hint for v in variables])
            self.values.update(zip(variables, indices, strict=True))
            self._clone(inside, ops, step)
            return []

        body.loop(0, turns, 1, turn, name="turn", unroll=unroll or None)

    def _reduce(self, body: Body, loop: scf.ForOp) -> None:
        """A reduction: each thread's part, and then what all parts come to."""
        kinds = _kinds(loop)
        assert kinds is not None
        starts = [_identity(kind, value.type) for kind, value in zip(kinds, loop.iter_args, strict=True)]
        parts: list[SSAValue] = []
        for start, result in zip(starts, loop.results, strict=True):
            assert start is not None
            parts.append(body.add(arith.ConstantOp(start)))
            parts[-1].name_hint = result.name_hint
        parts = self._part(body, loop, self.rows.shared[loop], parts)
        for kind, first, part, result in zip(kinds, loop.iter_args, parts, loop.results, strict=True):
            whole: Operation
            if self.rows.width == WARP:
                whole = SubgroupReduceOp(kind, part)
            else:
                whole = gpu.AllReduceOp.from_op(gpu.AllReduceOpAttr(kind), part)
            total = body.add(whole, result.name_hint)
            if not _is_identity(first, kind):
                combine = next(
                    op
                    for op in loop.walk()
                    if COMBINED.get(type(op)) == kind and op.results[0].type == total.type  # not one of places
                )
                total = body.add(combine.clone(dict(zip(combine.operands, (self.values[first], total), strict=True))))
            self.values[result] = total

    def _part(self, body: Body, loop: scf.ForOp, shared: scf.ForOp, start: Sequence[SSAValue]) -> list[SSAValue]:
        """What one thread adds up of a reduction's loops."""
        variable, carried = loop.body.block.args[0], loop.body.block.args[1:]
        last = loop.body.block.last_op
        assert isinstance(last, scf.YieldOp)

        def iteration(here: Body, step: SSAValue) -> list[SSAValue]:
            for op in loop.body.block.ops:
                if isinstance(op, scf.ForOp) and shared in op.walk():
                    found = self._part(here, op, shared, [self.values[v] for v in op.iter_args])
                    self.values.update(zip(op.results, found, strict=True))
                elif op is not last:
                    self._clone(here, [op], step)
            return [self.values[v] for v in last.arguments]

        def turn(here: Body, step: SSAValue, parts: list[SSAValue]) -> list[SSAValue]:
            self.values.update(zip(carried, parts, strict=True))
            if loop is not shared:
                self.values[variable] = step
                return iteration(here, step)
            length, width = _length(loop), self.rows.width
            place = here.plus(here.times(step, width), self.lane, variable.name_hint)
            self.values[variable] = place
            condition = here.less(place, length) if length % width else None
            return here.choose(condition, lambda inside: iteration(inside, step), parts)

        if loop is shared:
            turns, unroll = self._turns(_length(loop))
            return body.loop(0, turns, 1, turn, start, "turn", unroll or None)
        bounds = [self.values[v] for v in (loop.lb, loop.ub, loop.step)]
        return body.loop(bounds[0], bounds[1], bounds[2], turn, start, variable.name_hint or "k")

    def _clone(self, body: Body, ops: Sequence[Operation], turn: SSAValue) -> None:
        """Copies of ops; what is in registers is read and written at the turn."""
        for op in ops:
            if isinstance(op, memref.LoadOp) and op.memref in self.rows.registers:
                self.values[op.res] = body.load(self.values[op.memref], turn)
            elif isinstance(op, memref.StoreOp) and op.memref in self.rows.registers:
                body.store(self.values[op.value], self.values[op.memref], turn)
            else:
                body.clone([op], self.values)


def _writes(op: Operation) -> bool:
    return any(isinstance(o, memref.StoreOp) for o in op.walk())


def _touched(op: Operation) -> tuple[set[SSAValue], set[SSAValue]]:
    """The memory that an op reads, and that it writes."""
    reads = {memory_of(o.memref) for o in op.walk() if isinstance(o, Load)}
    writes = {memory_of(o.memref) for o in op.walk() if isinstance(o, memref.StoreOp)}
    return reads, writes
