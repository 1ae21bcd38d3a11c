"""vectorize: one parallel loop of a nest goes onto vector lanes, another into a register tile (level 4).

    scf.parallel (%i, %j) {                          scf.for %j = ... step 16 { scf.for %i = ... step 6 {
      %s = scf.for %k iter_args(%acc)                  %s0_0, ..., %s5_1 = scf.for %k iter_args(12 vectors)
             { %acc + %x[%i, %k] * %w[%k, %j] }   ->          { %w0 = vector.load; %x0 = memref.load; ... }
      store %s, %y[%i, %j]                             vector.store ...
    }                                                }}

The lanes' loop is the one along which the accesses inside the reductions are contiguous or do not move; stores may be
strided, they happen once. Where there is a reduction, `tile` iterations of a second loop and several vectors are
unrolled together: one SSA vector an accumulator, so that each loaded value serves many multiply-adds. What does not
fill a tile is done by smaller ones: fewer rows, fewer vectors, a last vector across the one before it where elements
may be computed twice, else 4 lanes and single elements; rows of a run-time extent go by whole tiles, by two, one by
one. The loops around a tile stand in the order that moves the fewest bytes. Every element sees the same operations in
the same order. `sofie.lanes` plans all that. Declines (the scalar nest stays) for comparisons, integers of 64 bits, and
operations that the emitted run-time code has no vector form of.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf, vector
from xdsl.dialects import math as math_dialect
from xdsl.dialects.builtin import IndexType, ModuleOp, VectorType
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.affine import movement
from sofie.dialects.scalars import NEAREST, CastLanesOp, JoinOp, LoadWordOp, cast_of
from sofie.dialects.sofie import FusedOp
from sofie.lanes import CONVERSIONS, Plan, Segment, adds_up, extent_of, panels_of, plan_of, segments
from sofie.memory import is_written
from sofie.passes.dot_words import dot_single
from sofie.passes.lower_loops import Indices
from sofie.rewrite import erase, users
from sofie.target import cpu


@dataclass(frozen=True)
class Vectorize(ModulePass):
    """Vectorises every innermost parallel nest for `cpu`, with at most `tile` rows (0: what the registers hold)."""

    name: ClassVar[str] = "vectorize"

    cpu: str = "portable"
    tile: int = 0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = cpu(self.cpu)
        if target.lanes == 1:
            return
        for nest in [o for o in op.walk() if isinstance(o, scf.ParallelOp)]:
            if not any(isinstance(o, scf.ParallelOp) for o in nest.body.walk()):
                plan = plan_of(nest, target, self.tile)
                if plan is not None:
                    if target.vnni:
                        dot_single(nest)
                    _Tiler(nest, plan, Indices(_kernel_of(nest))).rewrite()


def _kernel_of(nest: scf.ParallelOp) -> Block:
    """The block that becomes, or is, the body of the kernel around a nest."""
    current: Operation | None = nest.parent_op()
    while not isinstance(current, FusedOp | func.FuncOp):
        assert current is not None
        current = current.parent_op()
    return current.body.block


@dataclass(frozen=True)
class Tier:
    """Rows from `start` to `end`, as many at a time as `rows` says, with so many vectors each."""

    rows: int
    vectors: int
    start: SSAValue
    end: SSAValue


Instance = tuple[int, int]
"""(row, vector) of a tile."""


@dataclass
class _Tiler:
    """Rewrites one nest by a plan."""

    nest: scf.ParallelOp
    plan: Plan
    indices: Indices
    moves: dict[SSAValue, tuple[bool, bool]] = field(default_factory=dict)
    """Whether a value differs between rows, and between lanes."""

    def rewrite(self) -> None:
        nest, plan = self.nest, self.plan
        self._analyse(nest.body.block)
        others = [d for d in range(len(nest.body.block.args)) if d not in (plan.lanes_loop, plan.rows_loop)]
        block = nest.parent_block()
        assert block is not None
        made = Block()
        if adds_up(nest):
            for tier in self._tiers(made):
                self._columns(made, others, tier)
        else:
            body, loops = self._parallel(made, others)
            for segment in self._segments(plan.vectors):
                inner, at = self._loop(body, segment.start, segment.end, segment.step, plan.lanes_loop)
                self._tile(inner, {**loops, plan.lanes_loop: at}, segment, 1)
            if body is not made:
                body.add_op(scf.ReduceOp())
        self._end_loops(made)
        for op in list(made.ops):
            op.detach()
            block.insert_op_before(op, nest)
        erase(nest)

    def _columns(self, block: Block, others: list[int], tier: Tier | None) -> None:
        """All columns of some rows, or of all, in the plan's order of loops."""
        plan = self.plan
        panels = [d for d in panels_of(self.nest, plan.lanes_loop) if d in others and plan.outermost != "columns"]
        outside = [d for d in others if d not in panels and plan.outermost != "columns"]
        inside = [d for d in others if d not in outside and d not in panels]
        body, loops = self._parallel(block, outside)
        vectors = plan.vectors if tier is None else tier.vectors
        if plan.outermost == "rows" and tier is None:
            for rows, start, end in self._row_parts(plan.rows(vectors)):
                assert plan.rows_loop is not None
                inner, row = self._loop(body, start, end, rows, plan.rows_loop)
                columns, more = self._parallel(inner, panels)
                for segment in self._segments(vectors):
                    last, at = self._loop(columns, segment.start, segment.end, segment.step, plan.lanes_loop)
                    self._tile(last, {**loops, **more, plan.rows_loop: row, plan.lanes_loop: at}, segment, rows)
        else:
            body, more = self._parallel(body, panels)
            for segment in self._segments(vectors):
                inner, at = self._loop(body, segment.start, segment.end, segment.step, plan.lanes_loop)
                self._others(inner, inside, {**loops, **more, plan.lanes_loop: at}, segment, tier)
        for op in [o for o in block.walk() if isinstance(o, scf.ParallelOp)]:
            if not isinstance(op.body.block.last_op, scf.ReduceOp):
                op.body.block.add_op(scf.ReduceOp())

    def _row_parts(self, height: int) -> list[tuple[int, int, int]]:
        """(rows of a tile, start, end): whole tiles, then what is left."""
        assert self.plan.rows_loop is not None
        extent = extent_of(self.nest, self.plan.rows_loop)
        assert extent is not None
        whole = extent - extent % height
        return [part for part in ((height, 0, whole), (extent - whole, whole, extent)) if part[1] < part[2]]

    def _end_loops(self, block: Block) -> None:
        for op in list(block.walk()):
            if isinstance(op, scf.ForOp) and not isinstance(op.body.block.last_op, scf.YieldOp):
                op.body.block.add_op(scf.YieldOp())

    def _others(
        self, block: Block, others: list[int], at: dict[int, SSAValue], segment: Segment, tier: Tier | None
    ) -> None:
        """The loops that are neither lanes nor rows, then the rows in tiles: those of a tier, or all."""
        body, loops = self._parallel(block, others)
        loops |= at
        plan = self.plan
        if plan.rows_loop is None:
            self._tile(body, loops, segment, 1)
        else:
            if tier is not None:
                inner = Block(arg_types=[IndexType()])
                inner.args[0].name_hint = self.nest.body.block.args[plan.rows_loop].name_hint
                body.add_op(scf.ForOp(tier.start, tier.end, self.indices.constant(tier.rows), [], inner))
                self._tile(inner, {**loops, plan.rows_loop: inner.args[0]}, segment, tier.rows)
            else:
                for rows, start, end in self._row_parts(plan.rows(len(segment.offsets))):
                    inner, row = self._loop(body, start, end, rows, plan.rows_loop)
                    self._tile(inner, {**loops, plan.rows_loop: row}, segment, rows)
        if body is not block:
            body.add_op(scf.ReduceOp())

    def _tiers(self, block: Block) -> list[Tier | None]:
        """How rows of a run-time extent are walked: in whole tiles, then by two, then one by one; else [None].

        Fewer rows leave registers for more vectors, so that there are as many sums under way.
        """
        plan = self.plan
        if plan.rows_loop is None or extent_of(self.nest, plan.rows_loop) is not None:
            return [None]
        count, start = self.nest.upperBound[plan.rows_loop], self.indices.constant(0)
        height = plan.rows(plan.vectors)
        tiers: list[Tier | None] = []
        for rows in [r for r in dict.fromkeys((height, 2, 1)) if r <= height]:
            end = count
            if rows > 1:
                left = arith.SubiOp(count, start)
                rest = arith.RemUIOp(left.result, self.indices.constant(rows))
                whole = arith.SubiOp(count, rest.result)
                block.add_ops([left, rest, whole])
                end = whole.result
            vectors = plan.vectors if rows == height else min(self._whole_vectors(), 8 // rows)
            tiers.append(Tier(rows, vectors, start, end))
            start = end
        return tiers

    def _whole_vectors(self) -> int:
        extent = extent_of(self.nest, self.plan.lanes_loop)
        assert extent is not None
        return max(extent // self.plan.lanes, 1)

    def _segments(self, vectors: int) -> list[Segment]:
        extent = extent_of(self.nest, self.plan.lanes_loop)
        assert extent is not None
        return segments(self.plan, extent, vectors)

    def _parallel(self, block: Block, others: list[int]) -> tuple[Block, dict[int, SSAValue]]:
        """The untouched loops, still parallel."""
        if not others:
            return block, {}
        body = Block(arg_types=[IndexType()] * len(others))
        for argument, d in zip(body.args, others, strict=True):
            argument.name_hint = self.nest.body.block.args[d].name_hint
        low, high, step = ([s[d] for d in others] for s in (self.nest.lowerBound, self.nest.upperBound, self.nest.step))
        block.add_op(scf.ParallelOp(low, high, step, Region(body)))
        return body, dict(zip(others, body.args, strict=True))

    def _loop(self, block: Block, start: int, end: int, step: int, d: int) -> tuple[Block, SSAValue]:
        """A loop from `start` to `end`; just its start where it runs once."""
        if end - start == step:
            return block, self.indices.constant(start)
        body = Block(arg_types=[IndexType()])
        body.args[0].name_hint = self.nest.body.block.args[d].name_hint
        block.add_op(
            scf.ForOp(self.indices.constant(start), self.indices.constant(end), self.indices.constant(step), [], body)
        )
        return body, body.args[0]

    def _analyse(self, block: Block) -> None:
        """Which values differ between rows and between lanes of a tile."""
        plan = self.plan
        for d, argument in enumerate(self.nest.body.block.args):
            self.moves[argument] = (d == plan.rows_loop, d == plan.lanes_loop)
        changed = True
        while changed:
            changed = False
            for op in self.nest.body.walk():
                changed |= self._spread(op)

    def _spread(self, op: Operation) -> bool:
        before = [self.moves.get(r) for r in op.results]
        if isinstance(op, scf.ForOp):
            last = op.body.block.last_op
            assert isinstance(last, scf.YieldOp)
            groups = [
                (result, argument, [init, value])
                for result, argument, init, value in zip(
                    op.res, op.body.block.args[1:], op.iter_args, last.arguments, strict=True
                )
            ]
            changed = False
            for result, argument, sources in groups:
                moved = self._union([*sources, argument])
                changed |= self.moves.get(argument) != moved or self.moves.get(result) != moved
                self.moves[argument] = self.moves[result] = moved
            return changed
        for result in op.results:
            self.moves[result] = self._union(op.operands)
        return before != [self.moves.get(r) for r in op.results]

    def _union(self, values: Iterable[SSAValue]) -> tuple[bool, bool]:
        flags = [self.moves.get(v, (False, False)) for v in values]
        return any(f[0] for f in flags), any(f[1] for f in flags)

    # -- one tile ------------------------------------------------------------------------------------------------

    def _tile(self, block: Block, loops: dict[int, SSAValue], segment: Segment, rows: int) -> None:
        """The body of the nest for `rows` rows and the vectors of a segment's step, starting at `loops`."""
        emitter = _TileEmitter(self, block, segment.lanes, len(segment.offsets), rows)
        for d, argument in enumerate(self.nest.body.block.args):
            start = loops[d]
            if d == self.plan.rows_loop:
                values = {(m, 0): emitter.shifted(start, m) for m in range(rows)}
            elif d == self.plan.lanes_loop:
                values = {(0, n): emitter.shifted(start, offset) for n, offset in enumerate(segment.offsets)}
            else:
                values = {(0, 0): start}
            emitter.values[argument] = values
        emitter.block(self.nest.body.block)


@dataclass
class _TileEmitter:
    """Emits the ops of a tile: each scalar op once per instance in which it differs, what reads one place once."""

    tiler: _Tiler
    target: Block
    lanes: int
    count: int
    rows: int
    values: dict[SSAValue, dict[Instance, SSAValue]] = field(default_factory=dict)
    splats: dict[SSAValue, SSAValue] = field(default_factory=dict)
    loaded: dict[tuple[SSAValue, Attribute, tuple[affine.Form, ...]], SSAValue] = field(default_factory=dict)
    """What was read in this block of memory that nobody writes."""
    joined: dict[tuple[SSAValue, ...], SSAValue] = field(default_factory=dict)

    def add(self, op: Operation) -> SSAValue:
        """Appends an op of one result."""
        self.target.add_op(op)
        return op.results[0]

    def shifted(self, start: SSAValue, by: int) -> SSAValue:
        """start + by."""
        known = affine.constant(start)
        if known is not None:
            return self.tiler.indices.constant(known + by)
        return start if by == 0 else self.add(arith.AddiOp(start, self.tiler.indices.constant(by)))

    def instances(self, value: SSAValue) -> list[Instance]:
        """The instances in which a value differs."""
        by_row, by_lane = self.tiler.moves.get(value, (False, False))
        return list(itertools.product(range(self.rows if by_row else 1), range(self.count if by_lane else 1)))

    def on_lanes(self, value: SSAValue) -> bool:
        """Whether the value is a vector in the tile: it differs between lanes and is no index."""
        return (
            self.lanes > 1 and self.tiler.moves.get(value, (False, False))[1] and not isinstance(value.type, IndexType)
        )

    def at(self, value: SSAValue, instance: Instance) -> SSAValue:
        """The value in an instance, scalar or vector as it is."""
        if value not in self.values:
            return value
        by_row, by_lane = self.tiler.moves.get(value, (False, False))
        return self.values[value][instance[0] if by_row else 0, instance[1] if by_lane else 0]

    def vector_at(self, value: SSAValue, instance: Instance) -> SSAValue:
        """The value in an instance as a vector."""
        found = self.at(value, instance)
        if isinstance(found.type, VectorType):
            return found
        splat = self.splats.get(found)
        if splat is None or splat.owner.parent_block() is not self.target:
            splat = self.splats[found] = self.add(vector.BroadcastOp(found, self.vector_type(found.type)))
        return splat

    def vector_type(self, element: Attribute) -> VectorType[Attribute]:
        """A vector of the tile's lanes."""
        return VectorType(element, [self.lanes])

    def block(self, block: Block) -> None:
        """All ops of a block, terminators of loops excluded."""
        for op in block.ops:
            if isinstance(op, scf.ForOp):
                self._for(op)
            elif isinstance(op, memref.LoadOp | LoadWordOp):
                self.values[op.res] = {i: self._load(op, i) for i in self.instances(op.res)}
            elif isinstance(op, memref.StoreOp):
                self._stores(op)
            elif isinstance(op, CONVERSIONS) and self.on_lanes(op.results[0]):
                self._convert(op)
            elif isinstance(op, math_dialect.RoundEvenOp) and self.on_lanes(op.result) and _becomes_whole(op):
                continue  # what converts it rounds
            elif not isinstance(op, scf.YieldOp | scf.ReduceOp):
                self._compute(op)

    def _compute(self, op: Operation) -> None:
        result = op.results[0]
        wide = self.on_lanes(result)
        made: dict[Instance, SSAValue] = {}
        for instance in self.instances(result):
            operands = [self.vector_at(v, instance) if wide else self.at(v, instance) for v in op.operands]
            kind = self.vector_type(result.type) if wide else result.type
            if isinstance(op, JoinOp) and (*operands,) in self.joined:
                made[instance] = self.joined[*operands,]
                continue
            clone = type(op).create(
                operands=operands,
                result_types=[kind],
                properties=op.properties,
                attributes=op.attributes,
                location=op.location,
            )
            made[instance] = self.add(clone)
            if isinstance(op, JoinOp):
                self.joined[*operands,] = made[instance]
        self.values[result] = made

    def _convert(self, op: Operation) -> None:
        """The lanes as another type; a float that is rounded first, in one conversion."""
        (source,), (result,) = op.operands, op.results
        how, rounded = cast_of(op), source.owner
        if isinstance(rounded, math_dialect.RoundEvenOp) and _becomes_whole(rounded):
            how, source = NEAREST, rounded.operand
        self.values[result] = {
            instance: self.add(CastLanesOp(how, self.vector_at(source, instance), self.vector_type(result.type)))
            for instance in self.instances(result)
        }

    def _load(self, op: memref.LoadOp | LoadWordOp, instance: Instance) -> SSAValue:
        indices = [self.at(v, instance) for v in op.indices]
        kind = self.vector_type(op.res.type) if self.on_lanes(op.res) else op.res.type
        key = op.memref, kind, tuple(map(affine.form, indices))
        if key not in self.loaded or is_written(op.memref):
            self.loaded[key] = self._loaded(op, indices, kind)
        return self.loaded[key]

    def _loaded(self, op: memref.LoadOp | LoadWordOp, indices: Sequence[SSAValue], kind: Attribute) -> SSAValue:
        if isinstance(op, LoadWordOp):
            return self.add(LoadWordOp(op.memref, indices, kind))
        if isinstance(kind, VectorType):
            return self.add(vector.LoadOp(op.memref, indices, kind))
        return self.add(memref.LoadOp.get(op.memref, indices))

    def _stores(self, op: memref.StoreOp) -> None:
        across = self.tiler.nest.body.block.args[self.tiler.plan.lanes_loop]
        moved = movement(op, across)
        rows = any(self.tiler.moves.get(v, (False, False))[0] for v in op.operands)
        lanes = any(self.tiler.moves.get(v, (False, False))[1] for v in op.operands)
        for instance in itertools.product(range(self.rows if rows else 1), range(self.count if lanes else 1)):
            indices = [self.at(v, instance) for v in op.indices]
            if self.lanes == 1 or not lanes:
                self.target.add_op(memref.StoreOp.get(self.at(op.value, instance), op.memref, indices))
            elif moved == 1:
                self.target.add_op(vector.StoreOp(self.vector_at(op.value, instance), op.memref, indices))
            else:
                self._scatter(op, across, indices, self.at(op.value, instance))

    def _scatter(self, op: memref.StoreOp, across: SSAValue, indices: Sequence[SSAValue], value: SSAValue) -> None:
        """A short loop over the lanes, each index moved as far as the loop on lanes moves it."""
        indices_of = self.tiler.indices
        body = Block(arg_types=[IndexType()])
        lane = body.args[0]
        lane.name_hint = "lane"
        inner = _TileEmitter(self.tiler, body, self.lanes, self.count, self.rows)
        spread = isinstance(value.type, VectorType)
        element = inner.add(vector.ExtractOp(value, [lane], op.value.type)) if spread else value
        place = []
        for index, original in zip(indices, op.indices, strict=True):
            moved = affine.coefficient(original, across) or 0
            by = lane if moved == 1 else inner.add(arith.MuliOp(lane, indices_of.constant(moved))) if moved else None
            place.append(index if by is None else inner.add(arith.AddiOp(index, by)))
        body.add_op(memref.StoreOp.get(element, op.memref, place))
        body.add_op(scf.YieldOp())
        zero, one = indices_of.constant(0), indices_of.constant(1)
        self.target.add_op(scf.ForOp(zero, indices_of.constant(self.lanes), one, [], body))

    def _for(self, op: scf.ForOp) -> None:
        """One loop that carries every instance of every carried value."""
        carried = op.body.block.args[1:]
        slots = [(k, i) for k, argument in enumerate(carried) for i in self.instances(argument)]
        starts = [
            self.vector_at(op.iter_args[k], i) if self.on_lanes(carried[k]) else self.at(op.iter_args[k], i)
            for k, i in slots
        ]
        body = Block(arg_types=[IndexType(), *(s.type for s in starts)])
        body.args[0].name_hint = op.body.block.args[0].name_hint
        inner = _TileEmitter(self.tiler, body, self.lanes, self.count, self.rows, dict(self.values))
        inner.values[op.body.block.args[0]] = {(0, 0): body.args[0]}
        for k, argument in enumerate(carried):
            inner.values[argument] = {}
            for (j, i), new in zip(slots, body.args[1:], strict=True):
                if j == k:
                    inner.values[argument][i] = new
                    new.name_hint = _slot_name(argument, i, self.rows, self.count)
        inner.block(op.body.block)
        last = op.body.block.last_op
        assert isinstance(last, scf.YieldOp)
        ends = [
            inner.vector_at(last.arguments[k], i) if self.on_lanes(carried[k]) else inner.at(last.arguments[k], i)
            for k, i in slots
        ]
        body.add_op(scf.YieldOp(*ends))
        low, high = (self.at(bound, (0, 0)) for bound in (op.lb, op.ub))  # no row or lane has others
        loop = scf.ForOp(low, high, op.step, starts, body)
        self.target.add_op(loop)
        for k, result in enumerate(op.res):
            self.values[result] = {i: new for (j, i), new in zip(slots, loop.res, strict=True) if j == k}


def _becomes_whole(op: math_dialect.RoundEvenOp) -> bool:
    """Whether a value is rounded only to become an integer: on lanes, that is one conversion."""
    readers = users(op.result)
    return bool(readers) and all(isinstance(reader, arith.FPToSIOp) for reader in readers)


def _slot_name(argument: SSAValue, instance: Instance, rows: int, count: int) -> str:
    """`sum`, `sum3` (row 3), `sumb` (the second vector) or `sum3b`; after `sumz` comes `sumaa`."""
    row, column = instance
    name = argument.name_hint or "sum"
    more, letter = divmod(column, 26)
    letters = (chr(ord("a") + more - 1) if more else "") + chr(ord("a") + letter)
    return f"{name}{row if rows > 1 else ''}{letters if count > 1 else ''}"
