"""Poolings: a reduction over a sliding window; the window's extents come from an operand that is never read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import prod

import numpy as np
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import i64
from xdsl.ir import BlockArgument, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import contiguous_strides, element_of, numpy_dtype, shape_of
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars, lowest
from sofie.passes.lower_onnx.windows import Windows, windows_of


def _maps(windows: Windows) -> tuple[list[AffineMap], list[int]]:
    """Maps of the padded input, the window and the result over loops (n, c, o1.., k1..); and the window's loops."""
    rank = windows.rank
    outputs, kernel = range(2, 2 + rank), range(2 + rank, 2 + 2 * rank)
    walk = [
        AffineExpr.dimension(o) * s + AffineExpr.dimension(k) * d
        for o, k, s, d in zip(outputs, kernel, windows.strides, windows.dilations, strict=True)
    ]
    loops = 2 + 2 * rank
    return [
        structured.dims_map(loops, [0, 1, *walk]),
        structured.dims_map(loops, list(kernel)),
        structured.dims_map(loops, [0, 1, *outputs]),
    ], list(kernel)


def _padded(op: OnnxOp, build: Lowering, x: SSAValue, value: float | int) -> tuple[SSAValue, Windows]:
    inputs = shape_of(x)[2:]
    windows = windows_of(op, inputs, op.ints("kernel_shape") or inputs)
    after = [max(extra, 0) for extra in windows.overhang(inputs)]
    return build.pad(x, [0, 0, *windows.before], [0, 0, *after], value), windows


@lowers("MaxPool")
def max_pool(op: OnnxOp, build: Lowering) -> SSAValue | Sequence[SSAValue]:
    """The largest element of each window, and where asked its index in the flat input (MaxPool 22)."""
    kind = element_of(build.operand(0))
    padded, windows = _padded(op, build, build.operand(0), lowest(kind, build.unsigned))
    maps, kernel = _maps(windows)
    shape = build.result_shape()
    window = build.empty(windows.kernel, kind)
    start = build.fill(lowest(kind, build.unsigned), shape, kind)
    if len(op.results) == 1:
        return build.generic([padded, window], [start], maps, lambda s, args: [s.max(args[2], args[0])], kernel)
    position = build.fill(-1, shape, i64)
    inputs = shape_of(build.operand(0))
    column_major = op.integer("storage_order") == 1

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        value, _, best, index = args
        first = s.compare("lt", index, s.constant(0, i64))
        inside, here = _flat_index(s, windows, inputs, column_major)
        better = s.insert(arith.OrIOp(first, s.compare("gt", value, best)))
        better = s.insert(arith.AndIOp(inside, better))
        return [s.select(better, value, best), s.select(better, here, index)]

    return build.generic([padded, window], [start, position], [*maps, maps[2]], fn, kernel)


def _flat_index(s: Scalars, windows: Windows, inputs: Sequence[int], column_major: bool) -> tuple[SSAValue, SSAValue]:
    """Whether the window's element lies inside the unpadded input, and its flat index there (i64)."""
    spatial = list(contiguous_strides(inputs[2:]))
    if column_major:
        spatial = list(reversed(contiguous_strides(list(reversed(inputs[2:])))))
    plane = int(np.prod(inputs[2:]))

    def times(x: SSAValue, factor: int) -> SSAValue:
        return x if factor == 1 else s.mul(x, s.constant(factor, i64))

    flat = s.add(times(s.place(0), inputs[1] * plane), times(s.place(1), plane))
    inside: SSAValue | None = None
    for a in range(windows.rank):
        at = s.add(
            times(s.place(2 + a), windows.strides[a]), times(s.place(2 + windows.rank + a), windows.dilations[a])
        )
        at = s.sub(at, s.constant(windows.before[a], i64))
        flat = s.add(flat, times(at, spatial[a]))
        low = s.insert(arith.CmpiOp(at, s.constant(0, i64), "sge"))
        high = s.insert(arith.CmpiOp(at, s.constant(inputs[2 + a], i64), "slt"))
        both = s.insert(arith.AndIOp(low, high))
        inside = both if inside is None else s.insert(arith.AndIOp(inside, both))
    assert inside is not None
    return inside, flat


@lowers("AveragePool")
def average_pool(op: OnnxOp, build: Lowering) -> SSAValue:
    """The mean of each window; padding counts if asked, the overhang of ceil_mode never (AveragePool 22)."""
    x = build.operand(0)
    kind = element_of(x)
    total, windows = window_sums(op, build, x)
    counts = window_counts(windows, shape_of(x)[2:], op.integer("count_include_pad") == 1)
    if counts.min() == counts.max():
        counts = counts.reshape(-1)[:1]
    divisor = build.weight("window counts", counts.astype(numpy_dtype(kind)))
    return build.elementwise(lambda s, x, n: s.div(x, n), total, divisor)


def window_sums(op: OnnxOp, build: Lowering, x: SSAValue) -> tuple[SSAValue, Windows]:
    """The sum of each window of x, padded with zeros."""
    padded, windows = _padded(op, build, x, 0)
    maps, kernel = _maps(windows)
    start, window = build.fill(0, build.result_shape(), element_of(x)), build.empty(windows.kernel, element_of(x))
    total = build.generic([padded, window], [start], maps, lambda s, args: [s.add(args[2], args[0])], kernel)[0]
    return total, windows


def window_counts(
    windows: Windows, inputs: Sequence[int], include_pad: bool
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """How many elements each window averages, shape (o1, ..)."""
    axes = []
    for a in range(windows.rank):
        low = 0 if include_pad else windows.before[a]
        high = windows.before[a] + inputs[a] + (windows.after[a] if include_pad else 0)
        starts = np.arange(windows.outputs[a])[:, None] * windows.strides[a]
        taps = starts + np.arange(windows.kernel[a])[None, :] * windows.dilations[a]
        axes.append(((taps >= low) & (taps < high)).sum(axis=1))
    return functools.reduce(np.multiply.outer, axes)


@lowers("GlobalAveragePool")
def global_average_pool(op: OnnxOp, build: Lowering) -> SSAValue:
    """The mean over all spatial axes, which stay with extent 1 (GlobalAveragePool 22)."""
    x = build.operand(0)
    shape = shape_of(x)
    kind = element_of(x)
    total = build.sum(lambda s, v, acc: s.add(acc, v), x, range(2, len(shape)), keep=True)
    count = build.number(prod(shape[2:]), kind)
    return build.elementwise(lambda s, v: s.div(v, count(s)), total)


@lowers("GlobalMaxPool")
def global_max_pool(op: OnnxOp, build: Lowering) -> SSAValue:
    """The largest element over all spatial axes, which stay with extent 1 (GlobalMaxPool 22)."""
    x = build.operand(0)
    least = lowest(element_of(x), build.unsigned)
    return build.reduce(lambda s, v, acc: s.max(acc, v), least, x, range(2, len(shape_of(x))), keep=True)


@lowers("GlobalLpPool")
def global_lp_pool(op: OnnxOp, build: Lowering) -> SSAValue:
    """The p-norm over all spatial axes, which stay with extent 1 (GlobalLpPool 22)."""
    x, p = build.operand(0), op.integer("p")

    def fn(s: Scalars, v: SSAValue, acc: SSAValue) -> SSAValue:
        return s.add(acc, _power(s, v, p))

    return _root(build, build.reduce(fn, 0, x, range(2, len(shape_of(x))), keep=True), p)


@lowers("LpPool")
def lp_pool(op: OnnxOp, build: Lowering) -> SSAValue:
    """The p-norm of each window; padding counts as zero (LpPool 22)."""
    padded, windows = _padded(op, build, build.operand(0), 0)
    kind, p = element_of(padded), op.integer("p")
    maps, kernel = _maps(windows)
    start, window = build.fill(0, build.result_shape(), kind), build.empty(windows.kernel, kind)

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        return [s.add(args[2], _power(s, args[0], p))]

    return _root(build, build.generic([padded, window], [start], maps, fn, kernel)[0], p)


def _power(s: Scalars, x: SSAValue, p: int) -> SSAValue:
    """|x| ** p."""
    if p == 2:
        return s.mul(x, x)
    return s.abs(x) if p == 1 else s.insert(math.PowFOp(s.abs(x), s.constant(p, x.type)))


def _root(build: Lowering, x: SSAValue, p: int) -> SSAValue:
    """x ** (1 / p)."""
    if p == 1:
        return x
    if p == 2:
        return build.elementwise(lambda s, v: s.unary("sqrt", v), x)
    return build.elementwise(lambda s, v: s.insert(math.PowFOp(v, s.constant(1 / p, v.type))), x)
