"""Operators on fixed-point numbers: what they give in the type of their result, in integers that lose nothing before.

An elementwise operator is exact and then converted. A sum of products converts each product and each sum, as
`acc += x * w` does for an `acc` of `ap_fixed`; where the type holds every sum, that is the plain integer product. Sums
that wrap are taken modulo 2^32 or 2^64 and cut at the end, which is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.builder import Builder
from xdsl.dialects import tensor
from xdsl.dialects.builtin import IntegerType
from xdsl.ir import Attribute, BlockArgument, SSAValue
from xdsl.ir.affine import AffineMap

from sofie import extents, structured
from sofie.dialects.fixed import ConvertOp, fixed_of
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import shape_of, stored
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import SofieError, UnsupportedError
from sofie.fixed import MOST_BITS, Fixed, difference, product, sum_of, total
from sofie.passes.lower_onnx import lowers_fixed, rules
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.contraction import convolve
from sofie.passes.lower_onnx.contraction import product as matrix_product
from sofie.passes.lower_onnx.pooling import window_counts, window_sums
from sofie.passes.lower_onnx.rounding import convert, from_float, stored_in, to_float, word
from sofie.passes.lower_onnx.scalars import Scalars

MOVES = frozenset(
    """DepthToSpace Expand Flatten Gather GlobalMaxPool Identity MaxPool Reshape Slice SpaceToDepth Split Squeeze Tile
    Transpose Unsqueeze""".split()
)
"""Operators that give elements of their first operand as they are."""
EXACT = {"Add": total, "Sub": difference, "Mul": product}
"""The type in which an elementwise operator loses nothing."""


def lower_convert(op: ConvertOp, source: Attribute, target: Attribute) -> SSAValue:
    """A conversion of elements, by one elementwise op before `op`. Raises SofieError where neither side is a float."""
    before, after = fixed_of(source), fixed_of(target)

    def body(builder: Builder, args: tuple[BlockArgument, ...]) -> list[SSAValue]:
        s, x = Scalars(builder.insert), args[0]
        if before is None:
            assert after is not None
            return [from_float(s, x, after)]
        return [to_float(s, x, before, target) if after is None else convert(s, x, before, after)]

    shape, block = shape_of(op.result), op.parent_block()
    assert block is not None
    empty = tensor.EmptyOp(extents.values(shape, op), tensor_type(stored(target), shape))
    generic = structured.generic([op.value], [empty.tensor], [structured.identity(len(shape))] * 2, body)
    for made in (empty, generic):
        made.location = op.location
    block.insert_ops_before([empty, generic], op)
    return generic.results[0]


def _kinds(build: Lowering, count: int) -> tuple[list[Fixed], Fixed]:
    """The types of the first operands and of the result. Raises SofieError where one is no fixed-point type."""
    found = [fixed_of(element) for element in [*build.operand_elements[:count], build.result_elements[0]]]
    kinds = [kind for kind in found if kind is not None]
    if len(kinds) != len(found):
        raise SofieError("it mixes fixed-point numbers with others; convert its operands and its result")
    return kinds[:-1], kinds[-1]


def fits(kind: Fixed) -> Fixed:
    """The type of an intermediate number. Raises UnsupportedError where an integer of 64 bits does not hold it."""
    if kind.width > MOST_BITS:
        remedy = "use fewer bits, or convert an operand to a narrower type before"
        raise UnsupportedError(f"its numbers need {kind.width} bits, {MOST_BITS} is the most; {remedy}")
    return kind


def _as(s: Scalars, x: SSAValue, own: Fixed, fraction: int, kind: IntegerType) -> SSAValue:
    """A raw number as an integer of type `kind` that counts steps of 2^-fraction, which are no larger than its own."""
    wide = s.cast(x, kind, unsigned_source=not own.signed)
    return wide if fraction == own.fraction else s.binary("shl", wide, s.constant(fraction - own.fraction, kind))


@lowers_fixed("Add", "Sub", "Mul")
def arithmetic(op: OnnxOp, build: Lowering) -> SSAValue:
    """a + b, a - b or a * b, converted."""
    (a, b), target = _kinds(build, 2)
    exact = fits(EXACT[op.operator](a, b))
    kind, name = word(exact.width), op.operator.lower()

    def fn(s: Scalars, x: SSAValue, y: SSAValue) -> SSAValue:
        fractions = (a.fraction, b.fraction) if name == "mul" else (exact.fraction, exact.fraction)
        raw = s.binary(name, _as(s, x, a, fractions[0], kind), _as(s, y, b, fractions[1], kind))
        return convert(s, raw, exact, target)

    return build.elementwise(fn, build.operand(0), build.operand(1), element=stored_in(target))


@lowers_fixed("Relu")
def relu(op: OnnxOp, build: Lowering) -> SSAValue:
    """max(x, 0), converted."""
    (a,), target = _kinds(build, 1)

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        own = Scalars(s.insert, not a.signed)
        return convert(s, own.max(x, own.constant(0, x.type)), a, target)

    return build.elementwise(fn, build.operand(0), element=stored_in(target))


@lowers_fixed(*MOVES)
def moved(op: OnnxOp, build: Lowering) -> SSAValue | Sequence[SSAValue]:
    """Elements as they are."""
    (a,), target = _kinds(build, 1)
    if (a.width, a.integer, a.signed) != (target.width, target.integer, target.signed):
        raise SofieError(f"it gives elements of {a} as they are, not as {target}; convert its result")
    return rules()["", op.operator](op, build)


@lowers_fixed("Concat")
def joined(op: OnnxOp, build: Lowering) -> SSAValue | Sequence[SSAValue]:
    """Parts of one type, one behind the other."""
    kinds, target = _kinds(build, len(op.inputs))
    if len({(k.width, k.integer, k.signed) for k in (*kinds, target)}) > 1:
        raise SofieError("its parts have several fixed-point types; convert them to one")
    return rules()["", op.operator](op, build)


@lowers_fixed("AveragePool", "GlobalAveragePool")
def average(op: OnnxOp, build: Lowering) -> SSAValue:
    """The mean of each window, whose size is a power of two: the sum, read with more bits behind the binary point."""
    (a,), target = _kinds(build, 1)
    x = build.operand(0)
    count = math.prod(op.ints("kernel_shape") or shape_of(x)[2:])
    if count & (count - 1):
        raise UnsupportedError(
            f"a mean of {count} numbers is no fixed-point number; use windows of 2, 4, 8, .. elements"
        )
    many = fits(sum_of(a, count))
    kind = word(many.width)
    wide = build.elementwise(lambda s, v: s.cast(v, kind, unsigned_source=not a.signed), x, element=kind)
    if op.operator == "AveragePool":
        sums, windows = window_sums(op, build, wide)
        counts = window_counts(windows, shape_of(x)[2:], op.integer("count_include_pad") == 1)
        if counts.min() != count:
            raise UnsupportedError("its windows at the edges have fewer elements; let it count the padding")
    else:
        sums = build.reduce(lambda s, v, acc: s.add(acc, v), 0, wide, range(2, len(shape_of(x))), keep=True)
    mean = Fixed(many.width, many.integer - (count.bit_length() - 1), many.signed)
    return build.elementwise(lambda s, v: convert(s, v, mean, target), sums, element=stored_in(target))


@dataclass(frozen=True)
class Sums:
    """How products of numbers of two types are added up: `running` is the type of a sum on the way.

    Where sums wrap, it has all bits of the integer `kind`; `target` takes what it needs of them at the end.
    """

    left: Fixed
    right: Fixed
    target: Fixed

    @property
    def term(self) -> Fixed:
        """The type of an exact product."""
        return fits(product(self.left, self.right))

    @property
    def kind(self) -> IntegerType:
        """The integer that holds a sum, and a number of the left operand."""
        return word(max(self.target.width + (self.target.overflow != "AP_WRAP"), self.left.width))

    @property
    def running(self) -> Fixed:
        """The type of a sum on the way."""
        target = self.target
        if target.overflow != "AP_WRAP":
            return target
        bits = self.kind.width.data
        return Fixed(bits, bits - target.fraction, target.signed, target.rounding)

    def step(self, s: Scalars, x: SSAValue, y: SSAValue, sum_: SSAValue) -> SSAValue:
        """sum + x * y."""
        term, running, kind = self.term, self.running, word(self.term.width)
        wide = [s.cast(v, kind, unsigned_source=not t.signed) for v, t in ((x, self.left), (y, self.right))]
        raw = convert(s, s.mul(*wide), term, running)
        raw = s.cast(raw, self.kind, unsigned_source=not running.signed)
        added = s.add(sum_, raw)
        if running.overflow == "AP_WRAP":
            return added
        exact = fits(total(running, running))
        return s.cast(convert(s, added, exact, running), self.kind, unsigned_source=not running.signed)

    def factor(self, build: Lowering, x: SSAValue) -> SSAValue:
        """The left operand in integers of a sum's type: what the sums of `contraction` start with has the same."""
        signed = self.left.signed
        return build.elementwise(lambda s, v: s.cast(v, self.kind, unsigned_source=not signed), x, element=self.kind)

    def start(self, build: Lowering, bias: SSAValue, own: Fixed) -> SSAValue:
        """The bias as a sum."""
        running = self.running

        def fn(s: Scalars, v: SSAValue) -> SSAValue:
            return s.cast(convert(s, v, own, running), self.kind, unsigned_source=not running.signed)

        return build.elementwise(fn, bias, element=self.kind)

    def end(self, build: Lowering, sums: SSAValue) -> SSAValue:
        """Sums as they are stored."""
        running = self.running
        return build.elementwise(lambda s, v: convert(s, v, running, self.target), sums, element=stored_in(self.target))


class SumLowering(Lowering):
    """A lowering whose contractions add up fixed-point numbers."""

    def __init__(self, op: OnnxOp, build: Lowering, sums: Sums) -> None:
        super().__init__(op, build.operand_elements, build.result_elements)
        self.sums = sums

    def contract(
        self, a: SSAValue, b: SSAValue, start: SSAValue, maps: Sequence[AffineMap], reduce: Sequence[int]
    ) -> SSAValue:
        """start + sum of a * b over the loops `reduce`."""
        return self.generic([a, b], [start], maps, lambda s, args: [self.sums.step(s, *args)], reduce)[0]


@lowers_fixed("MatMul")
def matmul(op: OnnxOp, build: Lowering) -> SSAValue:
    """`numpy.matmul`."""
    (a, b), target = _kinds(build, 2)
    sums = Sums(a, b, target)
    made = matrix_product(SumLowering(op, build, sums), sums.factor(build, build.operand(0)), build.operand(1))
    return sums.end(build, build.reshape(made, build.result_shape()))


@lowers_fixed("Gemm")
def gemm(op: OnnxOp, build: Lowering) -> SSAValue:
    """A' B' + C: C is where a sum starts."""
    kinds, target = _kinds(build, len(op.inputs))
    if op.real("alpha") != 1.0 or (len(kinds) > 2 and op.real("beta") != 1.0):
        raise UnsupportedError("its alpha and beta are not 1; multiply the weights and the bias by them")
    m, n = build.result_shape()
    sums = Sums(kinds[0], kinds[1], target)
    own = SumLowering(op, build, sums)
    c = build.optional(2)
    start = build.fill(0, (m, n), sums.kind) if c is None else build.broadcast(sums.start(build, c, kinds[2]), (m, n))
    dims = [[2, 0] if op.integer("transA") else [0, 2], [1, 2] if op.integer("transB") else [2, 1], [0, 1]]
    maps = [structured.dims_map(3, axes) for axes in dims]
    return sums.end(build, own.contract(build.operand(0), build.operand(1), start, maps, [2]))


@lowers_fixed("Conv")
def conv(op: OnnxOp, build: Lowering) -> SSAValue:
    """Convolution; the bias starts the sum."""
    kinds, target = _kinds(build, len(op.inputs))
    if target.overflow != "AP_WRAP":
        raise UnsupportedError("its sums saturate, which depends on their order; give it an accumulator that wraps")
    sums = Sums(kinds[0], kinds[1], target)
    own = SumLowering(op, build, sums)
    bias = build.optional(2)
    start = None if bias is None else sums.start(build, bias, kinds[2])
    return sums.end(build, convolve(op, own, sums.factor(build, build.operand(0)), build.operand(1), start))
