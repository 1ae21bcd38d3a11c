"""Quantised operators: real numbers as integers times a scale, products summed exactly in int32.

A scale and its zero point hold for a tensor, for an index of one axis, or for a block of elements along it. A number is
divided by its scale, rounded half to even, moved by the zero point and saturated; NaN becomes the least integer.
"""

from __future__ import annotations

import math

from xdsl.dialects.builtin import f64, i32
from xdsl.ir import Attribute, SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_from_onnx, element_of, is_float, is_unsigned, shape_of
from sofie.errors import SofieError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.contraction import convolve, product
from sofie.passes.lower_onnx.scalars import Scalars, highest, lowest


@lowers("QuantizeLinear")
def quantize_linear(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = saturate(round(x / scale) + zero point), divided in the scale's type or `precision` (QuantizeLinear 25)."""
    x, scale = build.operand(0), build.operand(1)
    named = op.integer("precision", 0)
    precision = element_from_onnx(named) if named else element_of(scale)
    kind = precision if is_float(precision) else f64
    target, unsigned = build.result_element(), is_unsigned(build.result_elements[0])

    def fn(s: Scalars, v: SSAValue, step: SSAValue, *zero: SSAValue) -> SSAValue:
        quotient = s.div(s.cast(v, kind), s.cast(step, kind))
        return _saturated(s, quotient, target, unsigned, *zero)

    return build.elementwise(fn, x, *_granular(build, 1, 2), element=target)


@lowers("DequantizeLinear")
def dequantize_linear(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = (x - zero point) * scale, multiplied in the result's type (DequantizeLinear 25)."""
    kind = build.result_element()

    def fn(s: Scalars, v: SSAValue, step: SSAValue, *zero: SSAValue) -> SSAValue:
        wide = s.cast(v, i32)
        moved = s.sub(wide, s.cast(zero[0], i32)) if zero else wide
        return s.mul(s.cast(moved, kind, unsigned_source=False), s.cast(step, kind))

    return build.elementwise(fn, build.operand(0), *_granular(build, 1, 2), element=kind)


def _saturated(s: Scalars, x: SSAValue, target: Attribute, unsigned: bool, *zero: SSAValue) -> SSAValue:
    """The float x as an integer: rounded half to even, moved by the zero point, and held within the type's bounds."""
    kind = x.type
    value = s.unary("round", x)
    if zero:
        value = s.add(value, s.cast(zero[0], kind, unsigned_source=unsigned))
    low, high = (s.constant(bound(target, unsigned), kind) for bound in (lowest, highest))
    value = s.select(s.compare("gt", value, low), value, low)
    value = s.select(s.compare("lt", value, high), value, high)
    return s.cast(s.cast(value, i32), target)


def _granular(build: Lowering, *operands: int) -> list[SSAValue]:
    """The scale and the zero point, where there is one, so that they broadcast against operand 0."""
    found = [build.optional(k) for k in operands]
    return [_spread(build, value) for value in found if value is not None]


def _spread(build: Lowering, value: SSAValue) -> SSAValue:
    """A scale of a tensor as (1, .., 1), of an axis as (1, .., D, .., 1), of blocks repeated along their axis."""
    shape, own = shape_of(build.operand(0)), shape_of(value)
    if math.prod(own) == 1 and len(own) <= 1:
        return build.reshape(value, [1] * len(shape))
    axis, block = build.axis("axis", len(shape)) if len(shape) > 1 else 0, build.op.integer("block_size", 0)
    if len(own) == 1 and (len(shape) > 1 or not block):
        return build.reshape(value, [e if a == axis else 1 for a, e in enumerate(shape)])
    if block < 1 or len(own) != len(shape):
        raise SofieError(f"a scale of rank {len(own)} needs a block_size of 1 at least and an operand of its rank")
    before, after = own[: axis + 1], own[axis + 1 :]
    repeated = build.broadcast(build.reshape(value, [*before, 1, *after]), [*before, block, *after])
    joined = build.reshape(repeated, [*own[:axis], own[axis] * block, *after])
    return build.slice(joined, [0] * len(shape), shape)


@lowers("MatMulInteger")
def matmul_integer(op: OnnxOp, build: Lowering) -> SSAValue:
    """(A - zero point of each row) (B - zero point of each column), summed in int32 (MatMulInteger 10)."""
    zero = build.optional(2)
    a = _without_zero_point(build, 0, None if zero is None else _of_rows(build, zero))
    b = _without_zero_point(build, 1, build.optional(3))
    return build.reshape(product(build, a, b), build.result_shape())


@lowers("QLinearMatMul")
def qlinear_matmul(op: OnnxOp, build: Lowering) -> SSAValue:
    """The product of quantised matrices, quantised; rows of a and columns of b have scales (QLinearMatMul 21)."""
    a = _without_zero_point(build, 0, _of_rows(build, build.operand(2)))
    b = _without_zero_point(build, 3, build.operand(5))
    scales = [_of_rows(build, build.operand(1)), build.operand(4), _of_rows(build, build.operand(6))]
    result = _requantized(build, product(build, a, b), scales, _of_rows(build, build.operand(7)))
    return build.reshape(result, build.result_shape())


@lowers("ConvInteger")
def conv_integer(op: OnnxOp, build: Lowering) -> SSAValue:
    """Conv on integers without their zero points, which w has one of for each output channel (ConvInteger 10)."""
    x = _without_zero_point(build, 0, build.optional(2))
    zero, rank = build.optional(3), len(shape_of(x))
    w = _without_zero_point(build, 1, None if zero is None else _of_channels(build, zero, rank, 0))
    return convolve(op, build, x, w, None)


@lowers("QLinearConv")
def qlinear_conv(op: OnnxOp, build: Lowering) -> SSAValue:
    """Conv of quantised x and w, quantised; the bias is an int32 in units of x_scale * w_scale (QLinearConv 10)."""
    rank = len(shape_of(build.operand(0)))
    x = _without_zero_point(build, 0, build.optional(2))
    w = _without_zero_point(build, 3, _of_channels(build, build.operand(5), rank, 0))
    scales = [build.operand(1), _of_channels(build, build.operand(4), rank, 1), build.operand(6)]
    return _requantized(build, convolve(op, build, x, w, build.optional(8)), scales, build.operand(7))


def _without_zero_point(build: Lowering, index: int, zero: SSAValue | None) -> SSAValue:
    """An operand as int32, without its zero point, which broadcasts to it."""
    x, kind = build.operand(index), build.operand_elements[index]
    assert kind is not None
    unsigned = is_unsigned(kind)
    known = None if zero is None else build.known(zero)
    if zero is None or (known is not None and not known.any()):
        return build.elementwise(lambda s, v: s.cast(v, i32, unsigned_source=unsigned), x, element=i32)

    def fn(s: Scalars, v: SSAValue, z: SSAValue) -> SSAValue:
        return s.sub(s.cast(v, i32, unsigned_source=unsigned), s.cast(z, i32, unsigned_source=unsigned))

    return build.elementwise(fn, x, _scalar(build, zero), element=i32)


def _scalar(build: Lowering, value: SSAValue) -> SSAValue:
    """One element of any rank as a scalar, so that it broadcasts to every rank."""
    return build.reshape(value, []) if math.prod(shape_of(value)) == 1 else value


def _of_rows(build: Lowering, value: SSAValue) -> SSAValue:
    """A scale or zero point that a vector gives row by row, as a column; others as they are."""
    shape = shape_of(value)
    return build.reshape(value, [shape[0], 1]) if len(shape) == 1 and shape[0] != 1 else value


def _of_channels(build: Lowering, value: SSAValue, rank: int, axis: int) -> SSAValue:
    """A scale or zero point that a vector gives channel by channel, along one axis of a tensor."""
    extent = math.prod(shape_of(value))
    return value if extent == 1 else build.reshape(value, [extent if a == axis else 1 for a in range(rank)])


def _requantized(build: Lowering, total: SSAValue, scales: list[SSAValue], zero: SSAValue) -> SSAValue:
    """The int32 `total` times a * b / y of the three scales, as an integer of the result's type."""
    target, unsigned = build.result_element(), is_unsigned(build.result_elements[0])
    a, b, y, z = (_scalar(build, value) for value in (*scales, zero))
    factor = build.elementwise(lambda s, p, q, r: s.div(s.mul(p, q), r), a, b, y)

    def fn(s: Scalars, v: SSAValue, scale: SSAValue, offset: SSAValue) -> SSAValue:
        real = s.mul(s.cast(v, scale.type, unsigned_source=False), scale)
        return _saturated(s, real, target, unsigned, offset)

    return build.elementwise(fn, total, factor, z, element=target)
