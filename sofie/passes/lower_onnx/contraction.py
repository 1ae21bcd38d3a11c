"""Sums of products: Gemm, MatMul, Conv and a step of Einsum are one `linalg.generic` each, with different maps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Attribute, SSAValue
from xdsl.ir.affine import AffineExpr

from sofie import sizes, structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.passes.lower_onnx.windows import Windows, windows_of


@lowers("Gemm")
def gemm(op: OnnxOp, build: Lowering) -> SSAValue:
    """Y = alpha * A' B' + beta * C; A' and B' may be transposed, C broadcasts to (M, N) (Gemm 13)."""
    a, b, c = build.operand(0), build.operand(1), build.optional(2)
    m, n = build.result_shape()
    a_dims = [2, 0] if op.integer("transA") else [0, 2]
    b_dims = [1, 2] if op.integer("transB") else [2, 1]
    maps = [structured.dims_map(3, dims) for dims in (a_dims, b_dims, [0, 1])]
    product = build.contract(a, b, build.fill(0, (m, n), element_of(a)), maps, [2])
    alpha, beta = op.real("alpha"), op.real("beta")

    def scaled(s: Scalars, x: SSAValue, factor: float) -> SSAValue:
        return x if factor == 1.0 else s.mul(s.constant(factor, x.type), x)

    if c is not None and beta != 0.0:
        return build.elementwise(lambda s, x, bias: s.add(scaled(s, x, alpha), scaled(s, bias, beta)), product, c)
    return product if alpha == 1.0 else build.elementwise(lambda s, x: scaled(s, x, alpha), product)


@lowers("MatMul")
def matmul(op: OnnxOp, build: Lowering) -> SSAValue:
    """`numpy.matmul`: vectors, matrices and batches of them, batches broadcast (MatMul 13)."""
    return build.reshape(product(build, build.operand(0), build.operand(1)), build.result_shape())


def product(build: Lowering, a: SSAValue, b: SSAValue, element: Attribute | None = None) -> SSAValue:
    """The matrix product of (.., M, K) and (.., K, N), batches broadcast; a vector is a row on the left, else a column.

    The result has shape (.., M, N): extents of vectors stay as 1. Bytes are summed as `element`.
    """
    if len(shape_of(a)) == 1:
        a = build.reshape(a, [1, *shape_of(a)])
    if len(shape_of(b)) == 1:
        b = build.reshape(b, [*shape_of(b), 1])
    *batch_a, m, _ = shape_of(a)
    *batch_b, k, n = shape_of(b)
    batch = sizes.broadcast(batch_a, batch_b)
    rank = len(batch)
    row, column, inner, loops = rank, rank + 1, rank + 2, rank + 3

    def dims(own: list[int], last: list[int]) -> list[int | AffineExpr | None]:
        lead = rank - len(own)
        return [*(lead + d if e == batch[lead + d] else None for d, e in enumerate(own)), *last]

    maps = [
        structured.dims_map(loops, dims(batch_a, [row, inner])),
        structured.dims_map(loops, dims(batch_b, [inner, column])),
        structured.dims_map(loops, [*range(rank), row, column]),
    ]
    start = build.fill(0, [*batch, m, n], element or element_of(a))
    return start if k == 0 else build.contract(a, b, start, maps, [inner])


@lowers("Conv")
def conv(op: OnnxOp, build: Lowering) -> SSAValue:
    """Convolution of any rank with groups, strides, dilations and padding; the bias starts the sum (Conv 22)."""
    return convolve(op, build, build.operand(0), build.operand(1), build.optional(2))


def convolve(
    op: OnnxOp, build: Lowering, x: SSAValue, w: SSAValue, bias: SSAValue | None, value: int = 0, more: int = 0
) -> SSAValue:
    """The convolution of x (N, C, d..) with w (M, (C + more) / group, k..) by the attributes of Conv.

    It is padded with `value`, and with `more` channels of it. Bytes are summed as the bias says.
    """
    batch, channels, *inputs = shape_of(x)
    windows = windows_of(op, inputs, shape_of(w)[2:])
    groups = op.integer("group")
    after = [max(extra, 0) for extra in windows.overhang(inputs)]
    padded = build.pad(x, [0, 0, *windows.before], [0, more, *after], value)
    channels += more
    result = _convolution(build, padded, w, bias, windows, batch, channels, groups)
    return build.reshape(result, build.result_shape())


def _convolution(
    build: Lowering,
    x: SSAValue,
    w: SSAValue,
    bias: SSAValue | None,
    windows: Windows,
    batch: int,
    channels: int,
    groups: int,
) -> SSAValue:
    """The contraction over loops (n, group, out, o1.., in, k1..).

    Without groups there is no group loop; with them, a group of one channel has no channel loop (depthwise), so that
    in both cases the result has ONNX's own rank and no reshape stands between it and its epilogue.
    """
    out_channels, per_group = shape_of(w)[0], channels // groups
    extents = {"n": batch, "g": groups, "out": out_channels // groups, "in": per_group}
    for a in range(windows.rank):
        extents |= {f"o{a}": windows.outputs[a], f"k{a}": windows.kernel[a]}
    spatial = [f"o{a}" for a in range(windows.rank)]
    kernel = [f"k{a}" for a in range(windows.rank)]
    order = ["n", *(["g"] if groups > 1 else []), *(["out"] if groups == 1 or extents["out"] > 1 else []), *spatial]
    reduce_names = ["in", *kernel] if groups == 1 or per_group > 1 else kernel
    loop = {name: d for d, name in enumerate(order + reduce_names)}
    padded_extents = list(shape_of(x)[2:])

    def part(value: SSAValue, names: list[str], rest: list[int]) -> SSAValue:
        return build.reshape(value, [extents[n] for n in names if n in loop] + rest)

    x = part(x, ["n", "g", "in"], padded_extents)
    w = part(w, ["g", "out", "in", *kernel], [])
    walk = [
        AffineExpr.dimension(loop[o]) * s + AffineExpr.dimension(loop[k]) * d
        for o, k, s, d in zip(spatial, kernel, windows.strides, windows.dilations, strict=True)
    ]
    rank = len(loop)
    maps = [
        structured.dims_map(rank, [*(loop[n] for n in ["n", "g", "in"] if n in loop), *walk]),
        structured.dims_map(rank, [loop[n] for n in ["g", "out", "in", *kernel] if n in loop]),
        structured.dims_map(rank, [loop[n] for n in order]),
    ]
    result_extents = [extents[n] for n in order]
    if bias is None:
        start = build.fill(0, result_extents, element_of(x))
    else:
        bias = part(bias, ["g", "out"], [])
        axes = [order.index(n) for n in ["g", "out"] if n in loop]
        start = _spread(build, bias, axes, result_extents)
    return build.contract(x, w, start, maps, [loop[n] for n in reduce_names])


def _spread(build: Lowering, bias: SSAValue, axes: list[int], shape: list[int]) -> SSAValue:
    """`bias` laid along `axes` of a tensor of `shape`, constant along the others."""
    rank = len(shape)
    maps = [structured.dims_map(rank, list(axes)), structured.identity(rank)]
    return build.generic([bias], [build.empty(shape, element_of(bias))], maps, lambda _, args: [args[0]])[0]


@lowers("ConvTranspose")
def conv_transpose(op: OnnxOp, build: Lowering) -> SSAValue:
    """The transpose of a convolution: one of stride 1 for every residue of a result's place by the strides.

    The result at stride * q + r takes the elements of the kernel that lie r + pad apart from a multiple of the stride,
    and no others; each convolution fills its own places of the result (ConvTranspose 22).
    """
    x, w, bias = build.operand(0), build.operand(1), build.optional(2)
    batch, channels, *inputs = shape_of(x)
    _, per_group, *kernel = shape_of(w)
    rank, groups, result = len(inputs), op.integer("group"), build.result_shape()
    ones = (1,) * rank
    strides, dilations = op.ints("strides", ones) or ones, op.ints("dilations", ones) or ones
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    cut = _cut_before(op, inputs, strides, reach, result[2:])
    flipped = _transposed_kernel(build, w, groups)
    axes = [
        [_phase(r, *numbers) for r in range(min(numbers[0], numbers[-1]))]
        for numbers in zip(strides, dilations, kernel, cut, inputs, result[2:], strict=True)
    ]
    y = None if all(s == 1 for s in strides) else build.empty(result, element_of(x))
    for phases in itertools.product(*axes):
        part = _of_phases(build, x, flipped, bias, phases, groups)
        if y is None:
            return build.reshape(part, result)
        y = build.insert_slice(part, y, [0, 0, *(p.residue for p in phases)], [1, 1, *strides])
    assert y is not None
    return y


@dataclass(frozen=True)
class Phase:
    """The results at `residue` + stride * q on one axis: `outputs` of them.

    They sum over `taps` elements of the flipped kernel, from `first` on and `step` apart, which meet elements of x that
    are `dilation` apart; the first of the first result is at -`before`.
    """

    residue: int
    outputs: int
    first: int
    step: int
    taps: int
    dilation: int
    before: int


def _phase(residue: int, stride: int, dilation: int, kernel: int, cut: int, extent: int, outputs: int) -> Phase:
    """The phase of one residue; in the flipped kernel, element j is the kernel's element kernel - 1 - j.

    Result o gets x[i] w[k] where i * stride + k * dilation = o + cut.
    """
    common = math.gcd(stride, dilation)
    period = stride // common
    taps = [k for k in range(kernel) if (residue + cut - k * dilation) % stride == 0]
    count = -(-(outputs - residue) // stride)
    if not taps:
        return Phase(residue, count, 0, 1, 0, 1, 0)
    last = taps[-1]
    return Phase(
        residue,
        count,
        kernel - 1 - last,
        period,
        len(taps),
        dilation // common,
        -((residue + cut - last * dilation) // stride),
    )


def _of_phases(
    build: Lowering, x: SSAValue, w: SSAValue, bias: SSAValue | None, phases: Sequence[Phase], groups: int
) -> SSAValue:
    """One phase's results (batch, outputs.., phase outputs..), of x (batch, channels, ..) and the flipped kernel w."""
    batch, channels, *inputs = shape_of(x)
    outputs = tuple(p.outputs for p in phases)
    shape = [batch, shape_of(w)[0], *outputs]
    if any(p.taps == 0 for p in phases):  # no element of the kernel falls on these places
        return _only_bias(build, bias, shape, element_of(x))
    part = _every(build, w, phases)
    after = [
        (p.outputs - 1) + (p.taps - 1) * p.dilation + 1 - p.before - extent
        for p, extent in zip(phases, inputs, strict=True)
    ]
    padded = build.pad(x, [0, 0, *(p.before for p in phases)], [0, 0, *after], 0)
    ones, none = (1,) * len(phases), (0,) * len(phases)
    windows = Windows(tuple(p.taps for p in phases), ones, tuple(p.dilation for p in phases), none, none, outputs)
    return build.reshape(_convolution(build, padded, part, bias, windows, batch, channels, groups), shape)


def _every(build: Lowering, w: SSAValue, phases: Sequence[Phase]) -> SSAValue:
    """The elements of the flipped kernel that the phases take."""
    array = build.known(w)
    if array is not None:
        places = [slice(None)] * 2 + [slice(p.first, p.first + p.taps * p.step, p.step) for p in phases]
        return build.weight("W", np.ascontiguousarray(array[tuple(places)]))
    shape = [*shape_of(w)[:2], *(p.taps for p in phases)]
    return build.slice(w, [0, 0, *(p.first for p in phases)], shape, [1, 1, *(p.step for p in phases)])


def _only_bias(build: Lowering, bias: SSAValue | None, shape: Sequence[int], element: Attribute) -> SSAValue:
    return build.fill(0, shape, element) if bias is None else _spread(build, bias, [1], list(shape))


def _cut_before(
    op: OnnxOp, inputs: Sequence[int], strides: Sequence[int], reach: Sequence[int], outputs: Sequence[int]
) -> list[int]:
    """Elements cut off in front of each axis of the full result: `pads`, or what `output_shape` and auto_pad leave."""
    rank, mode = len(inputs), op.string("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID") and not op.ints("output_shape"):
        pads = op.ints("pads") if mode == "NOTSET" else None
        return list(pads or [0] * rank)[:rank]
    extra = op.ints("output_padding", [0] * rank) or (0,) * rank
    full = [(i - 1) * s + e + r + 1 for i, s, e, r in zip(inputs, strides, extra, reach, strict=True)]
    totals = [max(f - o, 0) for f, o in zip(full, outputs, strict=True)]
    return [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in totals]


def _transposed_kernel(build: Lowering, w: SSAValue, groups: int) -> SSAValue:
    """The kernel (in, out / groups, k..) as Conv wants it: (out, in / groups, k..), flipped along k."""
    channels, per_group, *kernel = shape_of(w)
    apart = build.reshape(w, [groups, channels // groups, per_group, *kernel])
    swapped = build.transpose(apart, [0, 2, 1, *range(3, 3 + len(kernel))])
    joined = build.reshape(swapped, [groups * per_group, channels // groups, *kernel])
    return build.flip(joined, range(2, 2 + len(kernel)))


Term = tuple[SSAValue, list[str]]
"""An operand of an Einsum with one name an axis, no name twice."""


@lowers("Einsum")
def einsum(op: OnnxOp, build: Lowering) -> SSAValue:
    """`numpy.einsum`: products over named axes, summed over those that the result lacks (Einsum 12).

    Operands are joined from the left, and an axis is summed as soon as nothing to come needs it.
    """
    values = [build.operand(k) for k in range(len(build.operands))]
    names, result = _parse(op.string("equation"), [len(shape_of(v)) for v in values])
    terms = [_distinct(build, v, axes) for v, axes in zip(values, names, strict=True)]
    extents: dict[str, int] = {}
    for value, axes in terms:
        for name, extent in zip(axes, shape_of(value), strict=True):
            if extents.setdefault(name, extent) == 1:
                extents[name] = extent
    while len(terms) > 2:
        needed = {*result, *(name for _, axes in terms[2:] for name in axes)}
        here = {*terms[0][1], *terms[1][1]}
        kept = sorted(here & needed)
        terms = [(_product(build, terms[:2], kept, extents), kept), *terms[2:]]
    return _product(build, terms, result, extents)


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The names of every operand's axes and of the result's; those under an ellipsis are 0, 1, .. from the back."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise SofieError(f"equation {equation!r} does not have one term for each of {len(ranks)} operands")
    widest = max((r - len(t.replace("...", "")) for t, r in zip(terms, ranks, strict=True) if "..." in t), default=0)
    names = [_axis_names(t, r - len(t.replace("...", ""))) for t, r in zip(terms, ranks, strict=True)]
    if any(len(axes) != rank for axes, rank in zip(names, ranks, strict=True)):
        raise SofieError(f"equation {equation!r} does not fit operands of ranks {list(ranks)}")
    if arrow:
        return names, _axis_names(right, widest)
    letters = left.replace(",", "").replace("...", "")
    return names, _axis_names("..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1)), widest)


def _axis_names(term: str, covered: int) -> list[str]:
    """One name an axis; an ellipsis covers `covered` of them, counted from its back."""
    front, dots, back = term.partition("...")
    return [*front, *(str(k) for k in reversed(range(covered)) if dots), *back]


def _distinct(build: Lowering, x: SSAValue, names: list[str]) -> Term:
    """The operand with the diagonal taken where a name stands twice."""
    unique = list(dict.fromkeys(names))
    if unique == names:
        return x, names
    shape = [shape_of(x)[names.index(name)] for name in unique]
    maps = [
        structured.dims_map(len(unique), [unique.index(name) for name in names]),
        structured.identity(len(unique)),
    ]
    return build.generic([x], [build.empty(shape, element_of(x))], maps, lambda _, args: [args[0]])[0], unique


def _product(build: Lowering, terms: Sequence[Term], result: Sequence[str], extents: dict[str, int]) -> SSAValue:
    """The product of one or two terms over the axes of `result`, summed over all others."""
    summed = [n for n in dict.fromkeys(n for _, axes in terms for n in axes) if n not in result]
    names = [*result, *summed]
    shape, rank = [extents[n] for n in result], len(names)

    def read(term: Term) -> list[int | AffineExpr | None]:
        pairs = zip(term[1], shape_of(term[0]), strict=True)
        return [None if extent == 1 != extents[n] else names.index(n) for n, extent in pairs]

    start = build.fill(0, shape, element_of(terms[0][0]))
    maps = [*(structured.dims_map(rank, read(t)) for t in terms), structured.dims_map(rank, list(range(len(result))))]
    reduce = range(len(result), rank)
    if len(terms) == 2:
        return build.contract(terms[0][0], terms[1][0], start, maps, reduce)
    return build.generic([terms[0][0]], [start], maps, lambda s, args: [s.add(args[1], args[0])], reduce)[0]
