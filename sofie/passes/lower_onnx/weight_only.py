"""Products of floats with weights of 8 and 4 bits, which stay so in memory and become floats in registers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import f32, i32
from xdsl.ir import BlockArgument, SSAValue
from xdsl.ir.affine import AffineExpr

from sofie import structured
from sofie.dialects.microsoft import DOMAIN
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import UnsupportedError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars


@lowers("MatMulNBits", domain=DOMAIN, limits="4 and 8 bits, no g_idx")
def matmul_n_bits(op: OnnxOp, build: Lowering) -> SSAValue:
    """A (.., K) times the transpose of (B - zero points) scales; B is (N, blocks, bytes) (com.microsoft 1).

    The sum runs over blocks and over their bytes: a byte of 4 bits is two terms, the lower half the first.
    """
    if build.optional(4) is not None:
        raise UnsupportedError("its operand 'g_idx' is not supported; export the model without it")
    a, packed = build.operand(0), build.operand(1)
    columns, blocks, size = shape_of(packed)
    bits, block = op.integer("bits"), op.integer("block_size")
    if bits not in (4, 8) or size * 8 != block * bits:
        raise UnsupportedError(f"weights of {bits} bits in blocks of {block} do not have the shape of its operand B")
    *lead, terms = shape_of(a)
    rows = math.prod(lead)
    scale = build.reshape(build.operand(2), [columns, blocks])
    zero = _zero_points(build, columns, blocks, bits)
    halves = 8 // bits
    x = build.pad(build.reshape(a, [rows, terms]), [0, 0], [0, -terms % halves], 0)
    total = build.fill(0, [rows, columns], element_of(a))
    whole = terms // block
    for first, last in ((0, whole), (whole, blocks)):  # a block that is not filled is cut where its terms end
        if first < last:
            size = block // halves if last == whole else -(-(terms - whole * block) // halves)
            bytes_ = _cut(build, packed, [0, first, 0], [columns, last - first, size])
            given = [_cut(build, v, [0, first], [columns, last - first]) for v in (scale, zero) if v is not None]
            total = _add(build, x, first * block, bytes_, given, total, bits)
    bias = build.optional(5)
    if bias is not None:
        total = build.elementwise(lambda s, v, b: s.add(v, b), total, bias)
    return build.reshape(total, build.result_shape())


def _cut(build: Lowering, value: SSAValue, start: Sequence[int], shape: Sequence[int]) -> SSAValue:
    """A part of an operand, which of a constant is a constant."""
    array = build.known(value)
    if array is None:
        return build.slice(value, start, shape)
    places = tuple(slice(at, at + extent) for at, extent in zip(start, shape, strict=True))
    return build.weight("weights", np.ascontiguousarray(array[places]))


def _add(
    build: Lowering,
    x: SSAValue,
    first: int,
    packed: SSAValue,
    scale_and_zero: Sequence[SSAValue],
    start: SSAValue,
    bits: int,
) -> SSAValue:
    """start (rows, columns) and the product of x (rows, terms), from term `first` on, with packed weights.

    Those are (columns, blocks, bytes), and scale and zero points (columns, blocks).
    """
    size, halves = shape_of(packed)[2], 8 // bits
    block, byte = AffineExpr.dimension(2), AffineExpr.dimension(3)
    terms = [block * (size * halves) + byte * halves + (first + half) for half in range(halves)]
    maps = [*(structured.dims_map(4, [0, term]) for term in terms), structured.dims_map(4, [1, 2, 3])]
    maps += [structured.dims_map(4, [1, 2])] * len(scale_and_zero) + [structured.dims_map(4, [0, 1])]

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        byte, step, *given = args[halves:-1]
        offset: SSAValue = given[0] if given else s.constant(2.0 ** (bits - 1), f32)
        total: SSAValue = args[-1]
        numbers = [s.cast(byte, i32, unsigned_source=True)]
        if bits == 4:
            numbers = [s.binary("and", numbers[0], s.constant(15, i32)), numbers[0]]
            numbers[1] = s.insert(arith.ShRUIOp(numbers[1], s.constant(4, i32)))
        for term, number in zip(args[:halves], numbers, strict=True):
            real = s.mul(s.sub(s.cast(number, f32, unsigned_source=False), offset), step)
            total = s.add(total, s.mul(term, real))
        return [total]

    inputs = [*[x] * halves, packed, *scale_and_zero]
    return build.generic(inputs, [start], maps, fn, [2, 3])[0]


def _zero_points(build: Lowering, columns: int, blocks: int, bits: int) -> SSAValue | None:
    """The zero point of each block as a float, (columns, blocks); None where they are all half of the range."""
    value = build.optional(3)
    if value is None:
        return None
    if element_of(value) == f32:
        return build.reshape(value, [columns, blocks])
    array = np.asarray(build.constant(3), np.uint8).reshape(columns, -1)
    if bits == 4:
        array = np.stack([array & 15, array >> 4], -1).reshape(columns, -1)[:, :blocks]
    return build.weight("zero points", array.astype(np.float32))
