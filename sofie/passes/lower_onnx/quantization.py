"""Quantised operators: real numbers as integers times a scale, products summed exactly in int32.

A scale and its zero point hold for a tensor, for an index of one axis, or for a block of elements along it. A number is
divided by its scale, rounded half to even, moved by the zero point and saturated; NaN becomes the least integer.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import IntegerType, f32, f64, i32
from xdsl.ir import Attribute, SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.scalars import WORD
from sofie.dialects.types import element_from_onnx, element_of, is_float, is_narrow, is_unsigned, shape_of
from sofie.errors import SofieError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.contraction import convolve, product
from sofie.passes.lower_onnx.narrow import convert, decode, encode
from sofie.passes.lower_onnx.scalars import Scalars


@lowers("QuantizeLinear")
def quantize_linear(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = saturate(round(x / scale) + zero point), divided in the scale's type or `precision` (QuantizeLinear 25)."""
    x, scale = build.operand(0), build.operand(1)
    named = op.integer("precision", 0)
    precision = element_from_onnx(named) if named else element_of(scale)
    kind = precision if precision in (f32, f64) else f32 if is_float(precision) else f64
    target = build.result_elements[0]
    saturate = op.integer("saturate", 1) != 0

    def fn(s: Scalars, v: SSAValue, step: SSAValue, *zero: SSAValue) -> SSAValue:
        quotient = s.div(s.cast(v, kind), s.cast(step, kind))
        if is_narrow(target):
            moved = s.add(quotient, s.cast(decode(s, zero[0], target), kind)) if zero else quotient
            return encode(s, moved, target, saturate)
        return _saturated(s, quotient, target, *zero)

    return build.elementwise(fn, x, *_granular(build, 1, 2), element=build.result_element())


@lowers("DequantizeLinear")
def dequantize_linear(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = (x - zero point) * scale, multiplied in the result's type, and rounded to it (DequantizeLinear 25)."""
    kind, source = build.result_element(), build.operand_elements[0]
    assert source is not None
    wide: Attribute = f32 if is_narrow(source) else i32

    def fn(s: Scalars, v: SSAValue, step: SSAValue, *zero: SSAValue) -> SSAValue:
        value = convert(s, v, source, wide)
        moved = s.sub(value, convert(s, zero[0], source, wide)) if zero else value
        return s.rounded_product(s.cast(moved, kind, unsigned_source=False), s.cast(step, kind))

    return build.elementwise(fn, build.operand(0), *_granular(build, 1, 2), element=kind)


def _saturated(s: Scalars, x: SSAValue, target: Attribute, *zero: SSAValue) -> SSAValue:
    """The float x as an integer: rounded half to even, moved by the zero point, and held within the type's bounds."""
    low, high = (s.constant(bound, i32) for bound in bounds(target))
    moved = convert(s, zero[0], target, i32) if zero else None
    ends = [end if moved is None else s.sub(end, moved) for end in (low, high)]
    least, most = (s.cast(end, x.type, unsigned_source=False) for end in ends)  # whole, so that rounding keeps them
    inside = s.binary("minnum", s.binary("maxnum", x, least), most)
    whole = s.cast(s.unary("round", inside), i32)
    return convert(s, whole if moved is None else s.add(whole, moved), i32, target)


def bounds(element: Attribute) -> tuple[int, int]:
    """The least and the largest value of an integer type of level 1."""
    assert isinstance(element, IntegerType)
    bits = element.width.data
    return (0, (1 << bits) - 1) if is_unsigned(element) else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _granular(build: Lowering, *operands: int) -> list[SSAValue]:
    """The scale and the zero point, if it moves anything, so that they broadcast against operand 0."""
    found = [k for k in operands if build.optional(k) is not None and not _is_nothing(build, k)]
    return [_spread(build, build.operand(k)) for k in found]


def _is_nothing(build: Lowering, index: int) -> bool:
    """Whether an operand is the integer 0 throughout: of floats, adding 0 may change the sign of 0."""
    kind, value = build.operand_elements[index], build.known(build.operand(index))
    return isinstance(kind, IntegerType) and value is not None and not value.any()


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
    rows = None if zero is None else _of_rows(build, zero)
    return build.reshape(_matrix_product(build, 0, rows, 1, build.optional(3)), build.result_shape())


@lowers("QLinearMatMul")
def qlinear_matmul(op: OnnxOp, build: Lowering) -> SSAValue:
    """The product of quantised matrices, quantised; rows of a and columns of b have scales (QLinearMatMul 21)."""
    total = _matrix_product(build, 0, _of_rows(build, build.operand(2)), 3, build.operand(5))
    scales = [_of_rows(build, build.operand(1)), build.operand(4), _of_rows(build, build.operand(6))]
    return build.reshape(_requantized(build, total, scales, _of_rows(build, build.operand(7))), build.result_shape())


def _matrix_product(build: Lowering, a: int, zero_a: SSAValue | None, b: int, zero_b: SSAValue | None) -> SSAValue:
    """The product of two operands without their zero points, which broadcast to them, in int32."""
    weights = _byte_weights(build, b, zero_b)
    if weights is None or weights.ndim < 2:
        return product(build, _without_zero_point(build, a, zero_a), _without_zero_point(build, b, zero_b))
    x, zero = _unsigned_bytes(build, a, zero_a)
    filling = -weights.shape[-2] % WORD
    if filling:
        rank = len(shape_of(x))
        x = build.pad(x, [0] * rank, [0] * (rank - 1) + [filling], 0)
        weights = np.concatenate([weights, np.zeros((*weights.shape[:-2], filling, weights.shape[-1]), np.int8)], -2)
    total = product(build, x, build.weight("weights", weights), i32)
    if zero is None:
        return total
    sums = build.weight("sums", weights.sum(-2, dtype=np.int32, keepdims=True))
    return build.elementwise(lambda s, v, z, w: s.sub(v, s.mul(z, w)), total, zero, sums)


@lowers("ConvInteger")
def conv_integer(op: OnnxOp, build: Lowering) -> SSAValue:
    """Conv on integers without their zero points, which w has one of for each output channel (ConvInteger 10)."""
    zero, rank = build.optional(3), len(shape_of(build.operand(0)))
    return _convolution(op, build, build.optional(2), 1, None if zero is None else _of_channels(build, zero, rank, 0))


@lowers("QLinearConv")
def qlinear_conv(op: OnnxOp, build: Lowering) -> SSAValue:
    """Conv of quantised x and w, quantised; the bias is an int32 in units of x_scale * w_scale (QLinearConv 10)."""
    rank = len(shape_of(build.operand(0)))
    zero = _of_channels(build, build.operand(5), rank, 0)
    total = _convolution(op, build, build.optional(2), 3, zero, build.optional(8))
    scales = [build.operand(1), _of_channels(build, build.operand(4), rank, 1), build.operand(6)]
    return _requantized(build, total, scales, build.operand(7))


def _convolution(
    op: OnnxOp,
    build: Lowering,
    zero_x: SSAValue | None,
    w: int,
    zero_w: SSAValue | None,
    bias: SSAValue | None = None,
) -> SSAValue:
    """The convolution of operand 0 with operand `w` without their zero points, added to the bias, in int32."""
    weights = _byte_weights(build, w, zero_w)
    if weights is None or (zero_x is not None and build.known(zero_x) is None):
        plain, kernel = _without_zero_point(build, 0, zero_x), _without_zero_point(build, w, zero_w)
        return convolve(op, build, plain, kernel, bias)
    x, zero = _unsigned_bytes(build, 0, zero_x)
    number = 0 if zero is None else int(np.asarray(build.known(zero)).reshape(-1)[0])
    more = -weights.shape[1] % WORD if op.integer("group") == 1 else 0
    if more:
        weights = np.concatenate([weights, np.zeros((len(weights), more, *weights.shape[2:]), np.int8)], 1)
    start = build.weight("bias", -number * weights.sum(tuple(range(1, weights.ndim)), dtype=np.int32))
    if bias is not None:
        start = build.elementwise(lambda s, a, b: s.add(a, b), start, bias)
    return convolve(op, build, x, build.weight("weights", weights), start, number, more)


def _byte_weights(build: Lowering, index: int, zero: SSAValue | None) -> npt.NDArray[np.int8] | None:
    """A known operand without its zero point, which broadcasts to it, where bytes with a sign hold that."""
    array = build.known(build.operand(index))
    offset = np.zeros((), np.int8) if zero is None else build.known(zero)
    if array is None or offset is None:
        return None
    moved = array.astype(np.int32) - np.asarray(offset, np.int32)
    return moved.astype(np.int8) if moved.size and -128 <= moved.min() and moved.max() <= 127 else None


def _unsigned_bytes(build: Lowering, index: int, zero: SSAValue | None) -> tuple[SSAValue, SSAValue | None]:
    """An operand of bytes and its zero point, an int32, both without a sign: those that have one move by 128."""
    x, kind = build.operand(index), build.operand_elements[index]
    assert kind is not None
    if is_unsigned(kind):
        wide = None if zero is None else _as_int32(build, zero, unsigned=True, moved=0)
        return x, wide
    moved = build.elementwise(lambda s, v: s.binary("xor", v, s.constant(-128, v.type)), x)
    if zero is None:
        return moved, build.weight("zero", np.array(128, np.int32))
    return moved, _as_int32(build, zero, unsigned=False, moved=128)


def _as_int32(build: Lowering, zero: SSAValue, unsigned: bool, moved: int) -> SSAValue | None:
    """A zero point as an int32 moved by a number; None where it is known to be zero."""
    known = build.known(zero)
    if known is not None:
        array = np.asarray(known.astype(np.int32) + moved, np.int32)
        return build.weight("zero", array) if array.any() else None

    def fn(s: Scalars, z: SSAValue) -> SSAValue:
        return s.add(s.cast(z, i32, unsigned_source=unsigned), s.constant(moved, i32))

    return build.elementwise(fn, _scalar(build, zero), element=i32)


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
    target = build.result_elements[0]
    a, b, y, z = (_scalar(build, value) for value in (*scales, zero))
    factor = build.elementwise(lambda s, p, q, r: s.div(s.mul(p, q), r), a, b, y)

    def fn(s: Scalars, v: SSAValue, scale: SSAValue, offset: SSAValue) -> SSAValue:
        real = s.mul(s.cast(v, scale.type, unsigned_source=False), scale)
        return _saturated(s, real, target, offset)

    return build.elementwise(fn, total, factor, z, element=build.result_element())
