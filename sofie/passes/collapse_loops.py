"""collapse-loops: two loops that walk through memory as one become one (level 3).

    generic {(y, x, c, k)} ins(%a[y, x, k], %w[k, c]) outs(%o[y, x, c])     y < 7, x < 7
    ->
    generic {(p, c, k)} ins(%a'[p, k], %w[k, c]) outs(%o'[p, c])            p < 49

where a' and o' are the same memory with two axes collapsed. A long loop fills tiles and vectors better than short ones
in each other, and a short sum gets fewer starts: the columns of a kernel and the channels under them are one run when
channels come last. Loops of one step are dropped. Declines where an operand walks the two loops otherwise, and, around
sums, where the inner loop is long enough for tiles: there the outer one decides which operand stays in cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import memref
from xdsl.dialects.builtin import AffineMapAttr, ArrayAttr, MemRefType, ModuleOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import SSAValue
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)
from xdsl.passes import ModulePass

from sofie import sizes, structured
from sofie.dialects.sofie import FusedOp, TileOp
from sofie.dialects.types import element_of, shape_of, strides_and_offset
from sofie.dialects.types import memref as memref_type
from sofie.grouping import shared_loops
from sofie.reshapes import reassociation
from sofie.rewrite import erase


@dataclass(frozen=True)
class CollapseLoops(ModulePass):
    """Collapses shared parallel loops and reductions; around sums only loops of at most `max_inner` steps."""

    name: ClassVar[str] = "collapse-loops"

    max_inner: int = 16

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for group in [o for o in op.walk() if isinstance(o, FusedOp)]:
            members = [m for m in group.members() if isinstance(m, GenericOp)]
            if not members or len(members) != sum(not isinstance(m, TileOp) for m in group.members()):
                continue
            for member in members:
                _drop_unit_loops(member)
                while _collapse_reductions(group, member):
                    pass
            while self._collapse_shared(group, members):
                pass

    def _collapse_shared(self, group: FusedOp, members: Sequence[GenericOp]) -> bool:
        """Whether a pair of neighbouring shared loops could be collapsed in all members at once."""
        shared = shared_loops(members)
        sums = any(structured.reductions(m) for m in members)
        for outer, inner in zip(shared, shared[1:], strict=False):
            if not sizes.is_static([outer.extent, inner.extent]) or (sums and inner.extent > self.max_inner):
                continue
            pairs = [Pair(member, outer.loops[m], inner.loops[m]) for m, member in enumerate(members)]
            if all(pair.fits() for pair in pairs) and _agree(pairs):
                _rewrite(group, pairs)
                return True
        return False


def _drop_unit_loops(op: GenericOp) -> None:
    """Takes loops of one step out of the op."""
    extents = structured.extents(op)
    kept = [d for d, extent in enumerate(extents) if extent != 1]
    if len(kept) == len(extents) or not kept or _indexed(op):
        return
    at: list[AffineExpr] = [AffineExpr.constant(0)] * len(extents)
    for place, d in enumerate(kept):
        at[d] = AffineExpr.dimension(place)
    maps = [
        AffineMap(len(kept), 0, tuple(_simplified(e.replace_dims_and_symbols(at, [])) for e in m.results))
        for m in structured.maps_of(op)
    ]
    if structured.covers_all_loops(maps) and structured.extents_agree(op.operands, maps):
        _set(op, maps, kept)


def _indexed(op: GenericOp) -> bool:
    """Whether the body uses a loop's variable."""
    return any(isinstance(o, linalg.IndexOp) for o in op.body.walk())


def _set(op: GenericOp, maps: Sequence[AffineMap], kept: Sequence[int]) -> None:
    op.properties["indexing_maps"] = ArrayAttr([AffineMapAttr(m) for m in maps])
    op.properties["iterator_types"] = ArrayAttr([op.iterator_types.data[d] for d in kept])


def _simplified(expr: AffineExpr) -> AffineExpr:
    """The expression without additions of 0, and products of 0."""
    if not isinstance(expr, AffineBinaryOpExpr):
        return expr
    lhs, rhs = _simplified(expr.lhs), _simplified(expr.rhs)
    zero = AffineExpr.constant(0)
    if expr.kind == AffineBinaryOpKind.Add and zero in (lhs, rhs):
        return rhs if lhs == zero else lhs
    if expr.kind == AffineBinaryOpKind.Mul and zero in (lhs, rhs):
        return zero
    return AffineExpr.binary(expr.kind, lhs, rhs)


def _collapse_reductions(group: FusedOp, op: GenericOp) -> bool:
    """Whether two reductions of an op that follow one another could be collapsed."""
    reduce = structured.reductions(op)
    for outer, inner in zip(reduce, reduce[1:], strict=False):
        pair = Pair(op, outer, inner)
        if pair.fits() and not any(isinstance(op.operands[k].owner, TileOp) for k in pair.touched()):
            _rewrite(group, [pair])
            return True
    return False


@dataclass(frozen=True)
class Pair:
    """Two loops of a member, the outer and the inner one."""

    op: GenericOp
    outer: int
    inner: int

    @property
    def extents(self) -> tuple[int, int]:
        """The steps of the two."""
        extents = structured.extents(self.op)
        return extents[self.outer], extents[self.inner]

    def touched(self) -> list[int]:
        """The operands that walk one of the loops."""
        maps = structured.maps_of(self.op)
        return [k for k, m in enumerate(maps) if any({self.outer, self.inner} & e.used_dims() for e in m.results)]

    def fits(self) -> bool:
        """Whether every operand walks both loops as one, or neither."""
        if _indexed(self.op) or not sizes.is_static(self.extents) or not self.touched():
            return False
        axes = {k: self.axis(k) for k in self.touched()}
        plain = [k for k, axis in axes.items() if axis is not None and self._plain(k, axis)]
        return None not in axes.values() and bool(plain)

    def _plain(self, k: int, axis: int) -> bool:
        return structured.maps_of(self.op)[k].results[axis] == AffineDimExpr(self.outer)

    def axis(self, k: int) -> int | None:
        """The axis of operand `k` that the outer loop walks, where the next is the inner loop's, whole and alone."""
        exprs, value = structured.maps_of(self.op)[k].results, self.op.operands[k]
        walked = [a for a, e in enumerate(exprs) if self.outer in e.used_dims()]
        if len(walked) != 1 or walked[0] + 1 == len(exprs):
            return None
        axis = walked[0]
        inner = [a for a, e in enumerate(exprs) if self.inner in e.used_dims()]
        if inner != [axis + 1] or exprs[axis + 1] != AffineDimExpr(self.inner):
            return None
        if _without(exprs[axis], self.outer) is None:
            return None
        kind, shape = value.type, shape_of(value)
        assert isinstance(kind, MemRefType)
        strides, _ = strides_and_offset(kind)
        whole = shape[axis + 1] == self.extents[1] and strides[axis] == strides[axis + 1] * shape[axis + 1]
        return axis if whole and sizes.is_static(shape[axis : axis + 2]) else None


def _without(expr: AffineExpr, loop: int) -> AffineExpr | None:
    """What is left of a sum in which a loop stands alone as one term; None where it does not."""
    if expr == AffineDimExpr(loop):
        return AffineExpr.constant(0)
    if not isinstance(expr, AffineBinaryOpExpr) or expr.kind != AffineBinaryOpKind.Add:
        return None
    for mine, other in ((expr.lhs, expr.rhs), (expr.rhs, expr.lhs)):
        if loop in mine.used_dims() and loop not in other.used_dims():
            rest = _without(mine, loop)
            return None if rest is None else _simplified(rest + other)
    return None


def _agree(pairs: Sequence[Pair]) -> bool:
    """Whether members that share a tile walk it along the same axes."""
    found: dict[SSAValue, set[int | None]] = {}
    for pair in pairs:
        for k, value in enumerate(pair.op.operands):
            if isinstance(value.owner, TileOp):
                found.setdefault(value, set()).add(pair.axis(k) if k in pair.touched() else None)
    return all(len(axes) == 1 for axes in found.values())


def _rewrite(group: FusedOp, pairs: Sequence[Pair]) -> None:
    made: dict[tuple[SSAValue, int], SSAValue] = {}
    for pair in pairs:
        op, (_, steps) = pair.op, pair.extents
        maps = structured.maps_of(op)
        axes = {k: pair.axis(k) for k in pair.touched()}
        for k, axis in axes.items():
            assert axis is not None
            value = op.operands[k]
            if (value, axis) not in made:
                made[value, axis] = _collapsed(group, value, axis)
            exprs = list(maps[k].results)
            rest = _without(exprs[axis], pair.outer)
            assert rest is not None
            exprs[axis : axis + 2] = [_simplified(rest * steps + AffineExpr.dimension(pair.outer))]
            maps[k] = AffineMap(maps[k].num_dims, 0, tuple(exprs))
            op.operands[k] = made[value, axis]
        rank = len(op.iterator_types)
        kept = [d for d in range(rank) if d != pair.inner]
        at: list[AffineExpr] = [AffineExpr.constant(0)] * rank
        for place, d in enumerate(kept):
            at[d] = AffineExpr.dimension(place)
        new = [AffineMap(len(kept), 0, tuple(e.replace_dims_and_symbols(at, []) for e in m.results)) for m in maps]
        _set(op, new, kept)
    for value, _ in made:
        if isinstance(value.owner, TileOp) and not value.uses:
            erase(value.owner)


def _collapsed(group: FusedOp, value: SSAValue, axis: int) -> SSAValue:
    """The same memory with an axis and the next one as one."""
    kind, shape = value.type, list(shape_of(value))
    assert isinstance(kind, MemRefType)
    strides, offset = strides_and_offset(kind)
    shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
    steps = [*strides[:axis], *strides[axis + 1 :]]
    if isinstance(value.owner, TileOp):
        tile = TileOp(memref_type(element_of(value), shape))
        group.body.block.insert_op_before(tile, value.owner)
        tile.result.name_hint = value.name_hint
        return tile.result
    groups = [[a] if a < axis else [axis, axis + 1] if a == axis else [a + 1] for a in range(len(shape))]
    view = memref.CollapseShapeOp.build(
        operands=[value],
        result_types=[memref_type(element_of(value), shape, steps, offset)],
        properties={"reassociation": reassociation(groups)},
    )
    block = group.parent_block()
    assert block is not None
    block.insert_op_before(view, group)
    view.result.name_hint = value.name_hint
    return view.result
