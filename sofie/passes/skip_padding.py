"""skip-padding: a sum leaves out the terms that are known zeros around a tensor (level 3).

    generic {(i, j, c, k, k1)} ins(%p[i + k, j + k1], %w[..]) outs(%y)    %p: 18 + 3 rows, zeros but for rows 3 to 17
    ->
    the same with {sofie.inside = [[3 (k), 0 (i), 1, 3, 18]]}             the terms with 3 <= i + k < 18

`lower-loops` starts the loop over k at max(0, 3 - i) and ends it at min(4, 18 - i). What is written is read off the
buffers: along an axis, zeros are where nobody writes anything but a fill with 0. x + 0 * w is x, so the sums are the
same, and where w is infinite they are what the padding means: nothing is there.

Axes only whose loop stands outside of rows and lanes, so that all of a tile leaves out the same: the rows of an image,
not its columns. Declines where an average sum is spared less than `min_terms` terms, for a loop of a length that is
not known is not unrolled; and where the kernel is dilated.
A calorimeter's decoder of three ConvTranspose: 1.94 -> 1.66 ms (Zen 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, memref
from xdsl.dialects.builtin import ArrayAttr, DenseArrayBase, FloatAttr, ModuleOp, i64
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.ir.affine import AffineExpr
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.sofie import FusedOp
from sofie.dialects.types import shape_of
from sofie.sizes import is_static

INSIDE = "sofie.inside"
"""On a `linalg.generic`: one array a reduction whose terms are zero outside of a range, see `Inside`."""

COLUMNS = 6
"""The fewest columns under the rows: rows of a tile."""


@dataclass(frozen=True)
class Inside:
    """The terms of a sum are zero unless low <= stride * outer + inner < high; both are loops, `inner` reduces."""

    inner: int
    outer: int
    stride: int
    low: int
    high: int

    def saved(self, steps: int, taps: int) -> float:
        """The share of the terms that are zero."""
        kept = (min(taps, self.high - self.stride * i) - max(0, self.low - self.stride * i) for i in range(steps))
        return 1 - sum(max(k, 0) for k in kept) / (steps * taps)


@dataclass(frozen=True)
class SkipPadding(ModulePass):
    """Notes for every contraction which terms to leave out, if a sum has at least `min_terms` of them."""

    name: ClassVar[str] = "skip-padding"

    min_terms: int = 2

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for generic in [o for o in op.walk() if isinstance(o, GenericOp) and isinstance(o.parent_op(), FusedOp)]:
            found: dict[int, Inside] = {}
            for k in _factors(generic):
                for inside in _zeros(generic, k):
                    extents = structured.extents(generic)
                    terms = math.prod(extents[d] for d in structured.reductions(generic))
                    if inside.saved(extents[inside.outer], extents[inside.inner]) * terms >= self.min_terms:
                        found.setdefault(inside.inner, inside)
            if found:
                arrays = [[i.inner, i.outer, i.stride, i.low, i.high] for i in found.values()]
                generic.attributes[INSIDE] = ArrayAttr([DenseArrayBase.from_list(i64, a) for a in arrays])


def insides(op: GenericOp) -> list[Inside]:
    """What the pass has noted on an op."""
    noted = op.attributes.get(INSIDE)
    if not isinstance(noted, ArrayAttr):
        return []
    return [Inside(*(int(v) for v in array.get_values())) for array in noted if isinstance(array, DenseArrayBase)]


def _factors(op: GenericOp) -> list[int]:
    """The inputs whose product is summed, if that is all the op does."""
    if len(op.outputs) != 1 or len(structured.body_ops(op)) != 2:
        return []
    product, total = structured.body_ops(op)
    arguments = op.body.block.args
    if not isinstance(product, arith.MulfOp) or not isinstance(total, arith.AddfOp):
        return []
    if set(total.operands) != {product.result, arguments[-1]} or structured.yielded(op) != (total.result,):
        return []
    return [k for k, argument in enumerate(arguments[:-1]) if argument in product.operands]


def _zeros(op: GenericOp, k: int) -> Iterator[Inside]:
    """For each axis of input `k` that a sum slides along: where it is not zero."""
    extents, reduce = structured.extents(op), structured.reductions(op)
    results = structured.maps_of(op)[k].results
    if not is_static(extents):
        return
    others = [m for j, m in enumerate(structured.maps_of(op)[: len(op.inputs)]) if j != k]
    weights = {d for m in others for e in m.results for d in e.used_dims()}  # these are no rows: weights change
    for axis, expr in enumerate(results):
        slides = _slide(expr, reduce)
        below = {d for e in results[axis + 1 :] for d in e.used_dims() if d not in reduce and extents[d] >= COLUMNS}
        if slides is None or not below - weights:
            continue
        part = _part_of(op.operands[k], axis)
        if part is None:
            continue
        base, along, offset = part
        low, high = _written(base, along)
        if low > offset or high < offset + shape_of(op.operands[k])[axis]:
            outer, inner, stride = slides
            yield Inside(inner, outer, stride, max(low - offset, 0), max(high - offset, 0))


def _slide(expr: AffineExpr, reduce: list[int]) -> tuple[int, int, int] | None:
    """(outer, inner, stride) of stride * outer + inner, where just `inner` reduces."""
    dims = expr.used_dims()
    inner, outer = [d for d in dims if d in reduce], [d for d in dims if d not in reduce]
    if len(inner) != 1 or len(outer) != 1:
        return None
    (within,), (around,) = inner, outer

    def at(values: dict[int, int]) -> int:
        return expr.eval([values.get(d, 0) for d in range(max(dims) + 1)], [])

    start, stride, step = at({}), at({around: 1}) - at({}), at({within: 1}) - at({})
    linear = at({around: 2, within: 2}) == 2 * (stride + step)
    return (around, within, stride) if linear and start == 0 and step == 1 and stride > 0 else None


def _part_of(value: SSAValue, axis: int) -> tuple[SSAValue, int, int] | None:
    """The buffer behind a view, the axis of it, and where along that the view starts; None where it is no local one."""
    offset = 0
    while True:
        match value.owner:
            case memref.CollapseShapeOp() as view:
                source = _source_axis(view, axis)
                if source is None:
                    return None
                value, axis = view.src, source
            case memref.SubviewOp() as view:
                starts = view.static_offsets.get_values()
                if set(view.static_strides.get_values()) != {1} or len(starts) != len(shape_of(value)):
                    return None
                if not isinstance(starts[axis], int) or starts[axis] < 0:
                    return None
                offset, value = offset + starts[axis], view.source
            case memref.ViewOp() | memref.AllocOp():
                return value, axis, offset
            case _:
                return None


def _source_axis(view: memref.CollapseShapeOp, axis: int) -> int | None:
    """The axis that an axis of a collapsed view is alone."""
    groups = [[int(a.value.data) for a in group] for group in view.reassociation]
    return groups[axis][0] if len(groups[axis]) == 1 else None


def _written(base: SSAValue, axis: int) -> tuple[int, int]:
    """The range along an axis of a buffer outside of which only zeros are written."""
    ranges = list(_writes(base, axis, 0, shape_of(base)[axis]))
    return min((r[0] for r in ranges), default=0), max((r[1] for r in ranges), default=0)


def _writes(value: SSAValue, axis: int | None, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges of all writes into a view that may be other than zeros.

    The view has `start` to `end` of the buffer's axis, and it as its own `axis`; None where that is not an axis of it.
    """
    for use in value.uses:
        op = use.operation
        if isinstance(op, GenericOp):
            if use.index >= len(op.inputs) and not _fills_zeros(op):
                yield start, end
        elif isinstance(op, memref.SubviewOp):
            starts, extents = op.static_offsets.get_values(), op.static_sizes.get_values()
            kept = len(extents) == len(shape_of(op.result)) and set(op.static_strides.get_values()) == {1}
            if axis is None or not kept or starts[axis] < 0 or extents[axis] < 0:
                yield from _writes(op.result, None, start, end)
            else:
                first = start + int(starts[axis])
                yield from _writes(op.result, axis, first, first + int(extents[axis]))
        elif isinstance(op, memref.CollapseShapeOp):
            alone = [a for a in range(len(shape_of(op.result))) if axis is not None and _source_axis(op, a) == axis]
            yield from _writes(op.result, alone[0] if alone else None, start, end)
        elif not isinstance(op, memref.LoadOp | memref.DimOp):
            yield start, end  # who knows what it does


def _fills_zeros(op: GenericOp) -> bool:
    """Whether an op writes 0 everywhere."""
    (value,) = structured.yielded(op) if len(op.outputs) == 1 else (None,)
    owner: Operation | Block | None = None if value is None else value.owner
    if not isinstance(owner, arith.ConstantOp) or not isinstance(owner.value, FloatAttr):
        return False
    return owner.value.value.data == 0
