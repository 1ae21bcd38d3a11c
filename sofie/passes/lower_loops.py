"""lower-loops: every fused group becomes one loop nest over scalars (level 3 -> level 4, before outlining).

    sofie.fused { linalg.generic {(m, n, k)} ins(%a, %b) outs(%t); linalg.generic {(m, n)} ins(%t, %bias) outs(%y) }
    ->
    sofie.fused {
      scf.parallel (%i, %j) = ... {
        %sum = scf.for %k = ... iter_args(%acc = %zero) { ... }
        memref.store (%sum + %bias[%j]), %y[%i, %j]
      }
    }

The loops that all members share stand outside, as `scf.parallel`: their iterations are independent. Inside, the
members follow one another, each with the loops it has left. A `sofie.tile` shrinks to the axes that are not shared:
to a scalar when there are none, else to a local buffer. A loop along which a constant is packed is walked panel by
panel, and what fills no panel once more behind it. Loops of one trip disappear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

from xdsl.context import Context
from xdsl.dialects import arith, memref, scf
from xdsl.dialects.builtin import AnyFloat, FloatAttr, IndexType, IntegerAttr, ModuleOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)
from xdsl.passes import ModulePass

from sofie import extents, structured
from sofie.dialects.sofie import FusedOp, TileOp, YieldOp
from sofie.dialects.types import element_of, shape_of
from sofie.extents import function_of, symbol_values
from sofie.grouping import SharedLoop, shared_loops
from sofie.passes.partial_sums import afresh
from sofie.passes.skip_padding import insides
from sofie.rewrite import erase
from sofie.sizes import Size, most, symbols_of

PARALLEL_NAMES = "ijlmnopq"
REDUCTION_NAMES = ("k", "k1", "k2", "k3", "k4")


@dataclass(frozen=True)
class LowerLoops(ModulePass):
    """Lowers every group; groups that hold no structured op (blas calls) stay as they are."""

    name: ClassVar[str] = "lower-loops"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for group in [o for o in op.walk() if isinstance(o, FusedOp)]:
            if any(isinstance(member, GenericOp) for member in group.members()):
                _Nest(group).lower()


class Indices:
    """Index constants and arithmetic of one kernel; every constant and size is made once, at its top."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._first = block.first_op
        self._constants: dict[int, SSAValue] = {}
        self._sizes: dict[Size, SSAValue] = {}
        self._panels: dict[SSAValue, tuple[SSAValue, SSAValue]] = {}

    def in_panel(self, panel: SSAValue, place: SSAValue, strip: Strip, add: Callable[[Operation], None]) -> SSAValue:
        """The variable of a loop walked in strips; what divides it by their width finds panel and place again."""
        if strip.panels == 1:
            panel = self.constant(strip.first)
            variable = arith.AddiOp(self.constant(strip.first * strip.step), place)
        else:
            first = arith.MuliOp(panel, self.constant(strip.step))
            add(first)
            variable = arith.AddiOp(first.result, place)
        add(variable)
        self._panels[variable.result] = panel, place
        return variable.result

    def extent(self, extent: int) -> SSAValue:
        """A constant, or the arithmetic of a run-time size."""
        if not isinstance(extent, Size):
            return self.constant(extent)
        if extent not in self._sizes:
            assert self._first is not None
            symbols = symbol_values(function_of(self._first), symbols_of([extent]))
            self._sizes[extent] = extents.compute(extent, symbols, self._at_top)
        return self._sizes[extent]

    def _at_top(self, op: Operation) -> SSAValue:
        if isinstance(op, arith.ConstantOp) and isinstance(op.value, IntegerAttr):
            return self.constant(op.value.value.data)
        assert self._first is not None
        self._block.insert_op_before(op, self._first)
        return op.results[0]

    def constant(self, value: int) -> SSAValue:
        """`arith.constant` of type index at the top of the kernel."""
        if value not in self._constants:
            op = arith.ConstantOp(IntegerAttr(value, IndexType()))
            first = self._block.first_op
            if first is None:
                self._block.add_op(op)
            else:
                self._block.insert_op_before(op, first)
            self._constants[value] = op.result
        return self._constants[value]

    def expression(self, expr: AffineExpr, loops: Sequence[SSAValue], add: Callable[[Operation], None]) -> SSAValue:
        """The value of an affine expression over loop variables."""
        known = self._known(expr, loops)
        if known is not None:
            return self.constant(known)
        if isinstance(expr, AffineDimExpr):
            return loops[expr.position]
        assert isinstance(expr, AffineBinaryOpExpr), expr
        if isinstance(expr.lhs, AffineDimExpr) and loops[expr.lhs.position] in self._panels:
            panel, place = self._panels[loops[expr.lhs.position]]
            if expr.kind in (AffineBinaryOpKind.FloorDiv, AffineBinaryOpKind.Mod):
                return panel if expr.kind == AffineBinaryOpKind.FloorDiv else place
        if expr.kind == AffineBinaryOpKind.Add and self._known(expr.rhs, loops) == 0:
            return self.expression(expr.lhs, loops, add)
        if expr.kind == AffineBinaryOpKind.Add and self._known(expr.lhs, loops) == 0:
            return self.expression(expr.rhs, loops, add)
        if expr.kind == AffineBinaryOpKind.Mul and self._known(expr.rhs, loops) == 1:
            return self.expression(expr.lhs, loops, add)
        kinds = {
            AffineBinaryOpKind.Add: arith.AddiOp,
            AffineBinaryOpKind.Mul: arith.MuliOp,
            AffineBinaryOpKind.FloorDiv: arith.FloorDivSIOp,
            AffineBinaryOpKind.Mod: arith.RemUIOp,
        }
        op: Operation = kinds[expr.kind](self.expression(expr.lhs, loops, add), self.expression(expr.rhs, loops, add))
        add(op)
        return op.results[0]

    def _known(self, expr: AffineExpr, loops: Sequence[SSAValue]) -> int | None:
        """The value of an expression that does not depend on a running loop."""
        if isinstance(expr, AffineConstantExpr):
            return expr.value
        if isinstance(expr, AffineDimExpr):
            owner = loops[expr.position].owner
            return (
                owner.value.value.data
                if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr)
                else None
            )
        assert isinstance(expr, AffineBinaryOpExpr)
        lhs, rhs = self._known(expr.lhs, loops), self._known(expr.rhs, loops)
        if expr.kind == AffineBinaryOpKind.Mul and 0 in (lhs, rhs):
            return 0
        return (
            None
            if lhs is None or rhs is None
            else AffineMap(
                0, 0, (AffineExpr.binary(expr.kind, AffineExpr.constant(lhs), AffineExpr.constant(rhs)),)
            ).eval([], [])[0]
        )


@dataclass(frozen=True)
class Strip:
    """A part of a shared loop that a constant is packed along: the first `width` elements of some panels of `step`."""

    loop: SharedLoop
    first: int
    panels: int
    step: int
    width: int


def _panel_width(expr: AffineExpr, loop: int) -> int | None:
    """The divisor of `loop floordiv width`, None for any other expression."""
    if isinstance(expr, AffineBinaryOpExpr) and expr.kind == AffineBinaryOpKind.FloorDiv:
        if expr.lhs == AffineDimExpr(loop) and isinstance(expr.rhs, AffineConstantExpr):
            return expr.rhs.value
    return None


@dataclass
class _Nest:
    """The loop nest of one group, as it is built."""

    group: FusedOp
    members: list[GenericOp] = field(init=False)
    shared: list[SharedLoop] = field(init=False)
    indices: Indices = field(init=False)
    scalars: dict[SSAValue, SSAValue] = field(default_factory=dict)
    tiles: dict[SSAValue, SSAValue] = field(default_factory=dict)
    kept_axes: dict[SSAValue, list[int]] = field(default_factory=dict)
    position: Operation = field(init=False)

    def lower(self) -> None:
        block = self.group.body.block
        self.members = [m for m in self.group.members() if isinstance(m, GenericOp)]
        self.shared = shared_loops(self.members)
        old = list(block.ops)
        terminator = old[-1]
        assert isinstance(terminator, YieldOp)
        outer = Block()
        self.indices = Indices(block)
        for strip in self._strips():
            self._build(outer, [o for o in old if isinstance(o, TileOp)], strip)
        for op in old[:-1]:
            op.detach()
        for op in list(outer.ops):
            op.detach()
            block.insert_op_before(op, terminator)
        for op in reversed(old[:-1]):
            op.erase(safe_erase=False)
        _erase_unused_constants(block)

    def _build(self, outer: Block, tiles: Sequence[TileOp], strip: Strip | None) -> None:
        """The nest of all members at the end of `outer`, over a part of one shared loop or over everything."""
        self.scalars, self.tiles = {}, {}
        inner, by_loop = self._shared_nest(outer, strip)
        for tile in tiles:  # a tile belongs to one iteration of the shared loops
            self._shape_tile(tile, inner)
        last_writer = self._last_writers()
        for m, member in enumerate(self.members):
            if self._only_starts(member):
                continue
            fixed = {s.loops[m]: by_loop.get(id(s), self.indices.constant(0)) for s in self.shared}
            self._member(m, member, fixed, inner, len(by_loop), last_writer)
        if inner is not outer:
            inner.add_op(scf.ReduceOp())

    def _shared_nest(self, outer: Block, strip: Strip | None) -> tuple[Block, dict[int, SSAValue]]:
        """The body of the shared loops, and the variable of each by identity; a strip's panels go outermost."""
        running = [s for s in self.shared if s.extent != 1 and (strip is None or s is not strip.loop)]
        bounds, names = [s.extent for s in running], list(PARALLEL_NAMES[: len(running)])
        if strip is not None:
            bounds, names = [strip.panels, *bounds, strip.width], ["panel", *names, PARALLEL_NAMES[len(running)]]
        if not bounds:
            return outer, {}
        inner, variables = self._parallel(outer, bounds, names)
        if strip is None:
            return inner, {id(s): v for s, v in zip(running, variables, strict=True)}
        by_loop = {id(s): v for s, v in zip(running, variables[1:-1], strict=True)}
        by_loop[id(strip.loop)] = self.indices.in_panel(variables[0], variables[-1], strip, inner.add_op)
        return inner, by_loop

    def _strips(self) -> list[Strip] | list[None]:
        """The shared loop along which a constant is packed, in whole panels and what is left; [None] where none is."""
        for m, member in enumerate(self.members):
            for expr in (e for map in structured.maps_of(member) for e in map.results):
                for s in self.shared:
                    width = _panel_width(expr, s.loops[m])
                    if width is not None:
                        whole = s.extent // width
                        strips = [Strip(s, 0, whole, width, width), Strip(s, whole, 1, width, s.extent % width)]
                        return [strip for strip in strips if strip.panels and strip.width]
        return [None]

    def _shape_tile(self, tile: TileOp, outer: Block) -> None:
        """Drops the axes of a tile that shared loops (or extents of 1) walk; a scalar needs no buffer."""
        shape = shape_of(tile.result)
        dims: list[int | None] = []
        for m, member in enumerate(self.members):
            for value, map in zip(member.outputs, structured.output_maps(member), strict=True):
                if value is tile.result:
                    shared = {s.loops[m] for s in self.shared}
                    own = structured.dims_of(map) or [None] * len(shape)
                    dims = [a for a, d in enumerate(own) if d not in shared and shape[a] != 1]
        self.kept_axes[tile.result] = [d for d in dims if d is not None]
        if dims:
            room = [most(shape[a]) for a in self.kept_axes[tile.result]]
            alloca = memref.AllocaOp.get(element_of(tile.result), 64, room)
            alloca.memref.name_hint = tile.result.name_hint
            outer.add_op(alloca)
            self.tiles[tile.result] = alloca.memref

    def _parallel(self, block: Block, extents: Sequence[int], names: Sequence[str]) -> tuple[Block, list[SSAValue]]:
        """An `scf.parallel` at the end of `block`; returns its body, still without terminator, and its variables."""
        zero, one = self.indices.constant(0), self.indices.constant(1)
        body = Block(arg_types=[IndexType()] * len(extents))
        for argument, name in zip(body.args, names, strict=False):
            argument.name_hint = name
        bounds = [self.indices.extent(e) for e in extents]
        block.add_op(scf.ParallelOp([zero] * len(extents), bounds, [one] * len(extents), Region(body)))
        return body, list(body.args)

    def _only_starts(self, member: GenericOp) -> bool:
        """Whether a member fills a tile with a constant that the next to write it, a reduction, may start from."""
        tile = member.outputs[0]
        if member.inputs or not isinstance(tile.owner, TileOp) or any(o.operands for o in structured.body_ops(member)):
            return False
        after = self.members[self.members.index(member) + 1 :]
        following = next((m for m in after if tile in m.operands), None)
        return following is not None and tile in following.outputs and bool(structured.reductions(following))

    def _constant_start(self, m: int, value: SSAValue, block: Block) -> SSAValue | None:
        """The constant that a tile was to be filled with before member `m`, which sums into it."""
        writers = [w for w in self.members[:m] if value in w.outputs]
        if not writers or not self._only_starts(writers[-1]):
            return None
        return structured.inlined(writers[-1], [], block.add_op)

    def _last_writers(self) -> dict[SSAValue, int]:
        return {value: m for m, member in enumerate(self.members) for value in member.outputs}

    def _member(
        self, m: int, member: GenericOp, fixed: dict[int, SSAValue], block: Block, depth: int, last: dict[SSAValue, int]
    ) -> None:
        """One member's own loops: what is left of its parallel ones, then its reductions."""
        extents, reduce = structured.extents(member), structured.reductions(member)
        loops: dict[int, SSAValue] = dict(fixed)
        own = [d for d in range(len(extents)) if d not in fixed and d not in reduce]
        loops.update({d: self.indices.constant(0) for d in [*own, *reduce] if extents[d] == 1})
        own = [d for d in own if extents[d] != 1]
        inner = block
        if own:
            inner, variables = self._parallel(block, [extents[d] for d in own], PARALLEL_NAMES[depth:])
            loops.update(zip(own, variables, strict=True))
        start = [
            self._constant_start(m, value, inner) or self._read(member, len(member.inputs) + k, loops, inner)
            for k, value in enumerate(member.outputs)
        ]
        results = self._reduce(member, [d for d in reduce if extents[d] != 1], loops, start, inner, extents)
        for k, (value, result) in enumerate(zip(member.outputs, results, strict=True)):
            if not own and self._is_scalar(value, m, member, k):
                self.scalars[value] = result
                if isinstance(value.owner, TileOp) or last[value] != m:
                    continue
            self._write(member, k, loops, result, inner)
        if own:
            inner.add_op(scf.ReduceOp())

    def _is_scalar(self, value: SSAValue, m: int, member: GenericOp, k: int) -> bool:
        """Whether one iteration of the shared loops sees a single element of `value`, written through this map."""
        if isinstance(value.owner, TileOp):
            return value not in self.tiles
        dims = structured.dims_of(structured.output_maps(member)[k])
        shared = {s.loops[m] for s in self.shared}
        shape = shape_of(value)
        return dims is not None and all(d in shared or shape[a] == 1 for a, d in enumerate(dims))

    def _reduce(
        self,
        member: GenericOp,
        reduce: list[int],
        loops: dict[int, SSAValue],
        start: list[SSAValue | None],
        block: Block,
        extents: list[int],
    ) -> list[SSAValue]:
        """Nested `scf.for` over the reductions, carrying one scalar an output; the body in the middle."""
        if not reduce:
            return self._inline(member, loops, start, block)
        d = reduce[0]
        carried = [s for s in start if s is not None]
        assert len(carried) == len(start)
        if d == afresh(member) and len(reduce) < len([r for r in structured.reductions(member) if extents[r] != 1]):
            zero = arith.ConstantOp(FloatAttr(0.0, cast(AnyFloat, carried[0].type)))
            block.add_op(zero)
            (part,) = self._from(member, reduce, loops, [zero.result], block, extents)
            total = arith.AddfOp(carried[0], part)
            block.add_op(total)
            return [total.result]
        return self._from(member, reduce, loops, carried, block, extents)

    def _from(
        self,
        member: GenericOp,
        reduce: list[int],
        loops: dict[int, SSAValue],
        carried: list[SSAValue],
        block: Block,
        extents: list[int],
    ) -> list[SSAValue]:
        """The same from known values."""
        d, rest = reduce[0], reduce[1:]
        body = Block(arg_types=[IndexType(), *(s.type for s in carried)])
        body.args[0].name_hint = REDUCTION_NAMES[min(len(structured.reductions(member)) - len(reduce), 4)]
        for argument in body.args[1:]:
            argument.name_hint = "sum" if len(carried) == 1 else "carried"
        results = self._reduce(member, rest, {**loops, d: body.args[0]}, list(body.args[1:]), body, extents)
        body.add_op(scf.YieldOp(*results))
        low, high = self._bounds(member, d, loops, block, extents[d])
        loop = scf.ForOp(low, high, self.indices.constant(1), carried, body)
        block.add_op(loop)
        for result in loop.results:
            result.name_hint = body.args[1].name_hint
        return list(loop.results)

    def _bounds(
        self, member: GenericOp, d: int, loops: dict[int, SSAValue], block: Block, extent: int
    ) -> tuple[SSAValue, SSAValue]:
        """Where a reduction starts and ends: without the terms that are known to be zero."""
        low, high = self.indices.constant(0), self.indices.extent(extent)
        inside = next((i for i in insides(member) if i.inner == d), None)
        if inside is None:
            return low, high

        def add(op: Operation) -> SSAValue:
            block.add_op(op)
            return op.results[0]

        outer = loops.get(inside.outer, self.indices.constant(0))
        if inside.stride != 1:
            outer = add(arith.MuliOp(outer, self.indices.constant(inside.stride)))
        if inside.low > 0:
            low = add(arith.MaxSIOp(add(arith.SubiOp(self.indices.constant(inside.low), outer)), low))
        if inside.stride * (structured.extents(member)[inside.outer] - 1) + extent > inside.high:
            high = add(arith.MinSIOp(add(arith.SubiOp(self.indices.constant(inside.high), outer)), high))
        return low, high

    def _inline(
        self, member: GenericOp, loops: dict[int, SSAValue], start: list[SSAValue | None], block: Block
    ) -> list[SSAValue]:
        """The scalar body at one point of the iteration space."""
        body = member.body.block
        values: dict[SSAValue, SSAValue] = {}
        for k, argument in enumerate(body.args):
            if not argument.uses:
                continue
            if k < len(member.inputs):
                found = self._read(member, k, loops, block)
            else:
                found = start[k - len(member.inputs)]
            assert found is not None
            values[argument] = found
        for op in structured.body_ops(member):
            if isinstance(op, linalg.IndexOp):
                values[op.result] = loops[op.dim.value.data]
                continue
            clone = op.clone(values)
            block.add_op(clone)
            for old, new in zip(op.results, clone.results, strict=True):
                values[old] = new
        return [values.get(v, v) for v in structured.yielded(member)]

    def _place(
        self, member: GenericOp, k: int, loops: dict[int, SSAValue], block: Block
    ) -> tuple[SSAValue, list[SSAValue]]:
        """The buffer and the indices of operand `k` at one point."""
        value, map = member.operands[k], structured.maps_of(member)[k]
        variables = [loops.get(d, self.indices.constant(0)) for d in range(map.num_dims)]
        axes = self.kept_axes.get(value, list(range(len(map.results))))
        at = [self.indices.expression(map.results[a], variables, block.add_op) for a in axes]
        return self.tiles.get(value, value), at

    def _read(self, member: GenericOp, k: int, loops: dict[int, SSAValue], block: Block) -> SSAValue | None:
        value = member.operands[k]
        if k >= len(member.inputs) and not member.body.block.args[k].uses:
            return None
        if value in self.scalars:
            return self.scalars[value]
        base, at = self._place(member, k, loops, block)
        load = memref.LoadOp.get(base, at)
        block.add_op(load)
        return load.res

    def _write(self, member: GenericOp, k: int, loops: dict[int, SSAValue], result: SSAValue, block: Block) -> None:
        base, at = self._place(member, len(member.inputs) + k, loops, block)
        block.add_op(memref.StoreOp.get(result, base, at))


def _erase_unused_constants(block: Block) -> None:
    for op in list(block.ops):
        if isinstance(op, arith.ConstantOp) and not op.result.uses:
            erase(op)
