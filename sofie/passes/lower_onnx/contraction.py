"""Sums of products: Gemm, MatMul and Conv of any rank are one `linalg.generic` each, with different maps."""

from __future__ import annotations

from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineExpr

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
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
    a, b = build.operand(0), build.operand(1)
    if len(shape_of(a)) == 1:
        a = build.reshape(a, [1, *shape_of(a)])
    if len(shape_of(b)) == 1:
        b = build.reshape(b, [*shape_of(b), 1])
    *batch_a, m, _ = shape_of(a)
    *batch_b, k, n = shape_of(b)
    rank = max(len(batch_a), len(batch_b))
    batch = [
        max(x, y) if min(x, y) else 0
        for x, y in zip([1] * (rank - len(batch_a)) + batch_a, [1] * (rank - len(batch_b)) + batch_b, strict=True)
    ]
    row, column, inner, loops = rank, rank + 1, rank + 2, rank + 3

    def dims(own: list[int], last: list[int]) -> list[int | AffineExpr | None]:
        lead = rank - len(own)
        return [*(lead + d if e == batch[lead + d] else None for d, e in enumerate(own)), *last]

    maps = [
        structured.dims_map(loops, dims(batch_a, [row, inner])),
        structured.dims_map(loops, dims(batch_b, [inner, column])),
        structured.dims_map(loops, [*range(rank), row, column]),
    ]
    if k == 0:
        return build.fill(0, build.result_shape(), element_of(a))
    product = build.contract(a, b, build.fill(0, [*batch, m, n], element_of(a)), maps, [inner])
    return build.reshape(product, build.result_shape())


@lowers("Conv")
def conv(op: OnnxOp, build: Lowering) -> SSAValue:
    """Convolution of any rank with groups, strides, dilations and padding; the bias starts the sum (Conv 22)."""
    x, w, bias = build.operand(0), build.operand(1), build.optional(2)
    batch, channels, *inputs = shape_of(x)
    windows = windows_of(op, inputs, shape_of(w)[2:])
    groups = op.integer("group")
    after = [max(extra, 0) for extra in windows.overhang(inputs)]
    padded = build.pad(x, [0, 0, *windows.before], [0, 0, *after], 0)
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
