"""Poolings over regions of interest: windows whose place and extent only the run knows.

Where a region begins and how large its bins are is computed once a region, in the type of the operands, since the
number of samples jumps with it. The body of the pooling then has loops of its own, as long as the bin asks for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import IndexType, i64
from xdsl.ir import Attribute, BlockArgument, SSAValue
from xdsl.ir.affine import AffineExpr

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import UnsupportedError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars

_INDEX = IndexType()

MOST_SAMPLES = 2**31
"""More samples than a bin can want, but for the number of samples of a region that is infinite or no number."""

Regions = Callable[[Scalars, SSAValue, SSAValue, int], Sequence[SSAValue]]
"""(scalars, low edge, high edge, bins) -> what the pooling needs to know of one axis of a region."""


def _regions(
    build: Lowering, rois: SSAValue, first: int, bins: Sequence[int], kinds: Sequence[Attribute], fn: Regions
) -> list[SSAValue]:
    """`fn` of every region, one tensor a result: those for the rows, then those for the columns.

    The edges of a region are its elements from `first` on: x, y, x, y.
    """
    (count, _) = shape_of(rois)

    def body(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        left, top, right, bottom = args[:4]
        return [*fn(s, top, bottom, bins[0]), *fn(s, left, right, bins[1])]

    reads = [structured.dims_map(1, [0, AffineExpr.constant(first + k)]) for k in range(4)]
    outputs = [build.empty([count], kind) for kind in (*kinds, *kinds)]
    return build.generic([rois] * 4, outputs, [*reads, *[structured.identity(1)] * len(outputs)], body)


@lowers("RoiAlign")
def roi_align(op: OnnxOp, build: Lowering) -> SSAValue:
    """The mean, or maximum, of samples between the elements of each bin of each region (RoiAlign 22).

    The maximum is that of the four weighted neighbours of all samples.
    """
    x, rois, images = build.operand(0), build.operand(1), build.operand(2)
    kind, result, (_, _, height, width) = element_of(x), build.result_shape(), shape_of(x)
    if 0 in result or 0 in shape_of(x):
        return build.fill(0, result, kind)
    mean = _chosen(op, "mode", ("avg", "max")) == 0
    facts = _regions(build, rois, 0, result[2:], (kind, kind, kind, i64), _sampling(op))

    def join(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
        return s.add(a, b) if mean else _larger(s, a, b)

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        image, top, bin_height, row_step, rows, left, bin_width, column_step, columns, _ = args
        lead = [s.insert(arith.IndexCastOp(image, _INDEX)), s.loop(1)]
        down, across = (s.cast(s.place(d), kind) for d in (2, 3))
        above, before = s.add(top, s.mul(down, bin_height)), s.add(left, s.mul(across, bin_width))

        def row(s: Scalars, i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            y = _neighbours(s, _sample(s, above, row_step, i), height)

            def column(s: Scalars, j: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
                parts = _weighted(s, x, lead, y, _neighbours(s, _sample(s, before, column_step, j), width))
                return [join(s, carried[0], functools.reduce(functools.partial(join, s), parts))]

            return s.repeat(s.insert(arith.IndexCastOp(columns, _INDEX)), carried, column)

        start = s.constant(0.0 if mean else float("-inf"), kind)
        (total,) = s.repeat(s.insert(arith.IndexCastOp(rows, _INDEX)), [start], row)
        samples = s.mul(rows, columns)
        if mean:
            return [s.div(total, s.cast(s.max(samples, s.constant(1, i64)), kind))]
        return [s.select(s.compare("gt", samples, s.constant(0, i64)), total, s.constant(0.0, kind))]

    each = structured.dims_map(4, [0])
    maps = [*[each] * (1 + len(facts)), structured.identity(4)]
    return build.generic([images, *facts], [build.empty(result, kind)], maps, fn)[0]


def _chosen(op: OnnxOp, name: str, choices: Sequence[str]) -> int:
    """Which of the values that ONNX defines for an attribute it has."""
    value = op.string(name).lower()
    if value not in choices:
        raise UnsupportedError(f"{name} {value!r} is not one of {', '.join(choices)}")
    return choices.index(value)


def _sampling(op: OnnxOp) -> Regions:
    """Along an axis: where a region starts, how large its bins are, how far apart their samples, and how many."""
    scale, given = op.real("spatial_scale"), op.integer("sampling_ratio")
    shifted = _chosen(op, "coordinate_transformation_mode", ("output_half_pixel", "half_pixel")) == 1

    def fn(s: Scalars, low: SSAValue, high: SSAValue, bins: int) -> Sequence[SSAValue]:
        kind = low.type
        start, end = (s.mul(edge, s.constant(scale, kind)) for edge in (low, high))
        if shifted:
            start, end = (s.sub(edge, s.constant(0.5, kind)) for edge in (start, end))
        extent = s.sub(end, start)
        if not shifted:
            extent = s.max(extent, s.constant(1.0, kind))
        size = s.div(extent, s.constant(bins, kind))
        count = s.constant(float(given), kind) if given > 0 else s.unary("ceil", size)
        return [start, size, s.div(size, count), s.cast(_within(s, count, MOST_SAMPLES), i64)]

    return fn


def _sample(s: Scalars, start: SSAValue, step: SSAValue, i: SSAValue) -> SSAValue:
    """Where sample i lies of those that a bin from `start` has."""
    middle = s.add(s.cast(s.insert(arith.IndexCastOp(i, i64)), start.type), s.constant(0.5, start.type))
    return s.add(start, s.mul(middle, step))


def _larger(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
    """The larger of two numbers; `a` where one is NaN."""
    return s.select(s.compare("gt", b, a), b, a)


def _within(s: Scalars, x: SSAValue, most: int) -> SSAValue:
    """x cut to 0 .. most; NaN becomes 0."""
    above, last = _larger(s, s.constant(0.0, x.type), x), s.constant(most, x.type)
    return s.select(s.compare("lt", above, last), above, last)


Neighbours = tuple[list[SSAValue], list[SSAValue], SSAValue]
"""The two elements next to a sample on an axis, their weights, and whether the sample counts."""


def _neighbours(s: Scalars, at: SSAValue, extent: int) -> Neighbours:
    """A sample up to one element outside counts as if it lay at the border; one farther away does not."""
    kind = at.type
    one = s.constant(1.0, kind)
    behind, ahead = s.compare("ge", at, s.constant(-1.0, kind)), s.compare("le", at, s.constant(extent, kind))
    bounded = _within(s, at, extent - 1)
    low = s.cast(bounded, i64)
    next_ = s.add(low, s.constant(1, i64))
    high = s.select(s.compare("lt", next_, s.constant(extent, i64)), next_, low)
    fraction = s.sub(bounded, s.cast(low, kind))
    places = [s.insert(arith.IndexCastOp(v, _INDEX)) for v in (low, high)]
    return places, [s.sub(one, fraction), fraction], s.insert(arith.AndIOp(behind, ahead))


def _weighted(s: Scalars, x: SSAValue, lead: list[SSAValue], rows: Neighbours, columns: Neighbours) -> list[SSAValue]:
    """The four neighbours of a sample times their weights; zeros where it does not count."""
    counts = s.insert(arith.AndIOp(rows[2], columns[2]))
    parts = []
    for row, down in zip(rows[0], rows[1], strict=True):
        for column, across in zip(columns[0], columns[1], strict=True):
            element = s.insert(tensor.ExtractOp(x, [*lead, row, column], element_of(x)))
            product = s.mul(s.mul(down, across), element)
            parts.append(s.select(counts, product, s.constant(0.0, element_of(x))))
    return parts


@lowers("MaxRoiPool")
def max_roi_pool(op: OnnxOp, build: Lowering) -> SSAValue:
    """The largest element of each bin of each region, 0 where a bin is empty (MaxRoiPool 22, as ONNX Runtime has it).

    Regions are rounded to whole elements, both edges included; bins are as large as it takes to leave none out.
    """
    x, rois = build.operand(0), build.operand(1)
    kind, result, (_, _, height, width) = element_of(x), build.result_shape(), shape_of(x)
    if 0 in result or 0 in shape_of(x):
        return build.fill(0, result, kind)
    scale = op.real("spatial_scale")

    def region(s: Scalars, low: SSAValue, high: SSAValue, bins: int) -> Sequence[SSAValue]:
        start, end = (_half_away(s, s.mul(edge, s.constant(scale, kind))) for edge in (low, high))
        extent = s.max(s.add(s.sub(end, start), s.constant(1.0, kind)), s.constant(1.0, kind))
        return [start, s.div(extent, s.constant(bins, kind))]

    facts = _regions(build, rois, 1, result[2:], (kind, kind), region)

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        image, top, bin_height, left, bin_width, _ = args
        lead = [s.insert(arith.IndexCastOp(s.cast(image, i64), _INDEX)), s.loop(1)]
        first_row, rows = _bin(s, top, bin_height, 2, height)
        first_column, columns = _bin(s, left, bin_width, 3, width)

        def row(s: Scalars, i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            here = s.insert(arith.AddiOp(first_row, i))

            def column(s: Scalars, j: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
                at = [*lead, here, s.insert(arith.AddiOp(first_column, j))]
                return [_larger(s, carried[0], s.insert(tensor.ExtractOp(x, at, kind)))]

            return s.repeat(columns, carried, column)

        (most,) = s.repeat(rows, [s.constant(float("-inf"), kind)], row)
        empty = s.insert(arith.CmpiOp(s.insert(arith.MuliOp(rows, columns)), s.constant(0, _INDEX), "eq"))
        return [s.select(empty, s.constant(0.0, kind), most)]

    each = structured.dims_map(4, [0])
    maps = [structured.dims_map(4, [0, None]), *[each] * len(facts), structured.identity(4)]
    return build.generic([rois, *facts], [build.empty(result, kind)], maps, fn)[0]


def _bin(s: Scalars, start: SSAValue, size: SSAValue, dimension: int, extent: int) -> tuple[SSAValue, SSAValue]:
    """The first element of a bin and how many it has, cut to the tensor (both of type index)."""
    kind = start.type
    place = s.cast(s.place(dimension), kind)
    low = s.unary("floor", s.mul(place, size))
    high = s.unary("ceil", s.mul(s.add(place, s.constant(1.0, kind)), size))
    edges = []
    for edge in (low, high):
        edges.append(_within(s, s.add(edge, start), extent))
    first, end = (s.cast(edge, i64) for edge in edges)
    count = s.max(s.sub(end, first), s.constant(0, i64))
    return s.insert(arith.IndexCastOp(first, _INDEX)), s.insert(arith.IndexCastOp(count, _INDEX))


def _half_away(s: Scalars, x: SSAValue) -> SSAValue:
    """x rounded to a whole number, halves away from zero."""
    whole = s.unary("trunc", x)
    far = s.compare("ge", s.abs(s.sub(x, whole)), s.constant(0.5, x.type))
    return s.select(far, s.add(whole, s.binary("copysign", s.constant(1.0, x.type), x)), whole)
