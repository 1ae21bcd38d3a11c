"""Floats of 16 bits and fewer, and integers of 4 and 2, as the bits that stand for them.

A code is sign, exponent and mantissa from the highest bit on. Decoding moves the fields into float32's places; numbers
below the least normal one are a count of its steps. Encoding rounds to the nearest, halves to even. All of it is
integer arithmetic, so it is the same on every target, lane by lane. float16 and bfloat16, for which targets have
instructions, are `sofie.decode` and `sofie.encode`.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import Float16Type, IntegerType, f32, f64, i8, i32, i64
from xdsl.ir import Attribute, SSAValue

from sofie.dialects.narrow import NarrowFloat
from sofie.dialects.scalars import CODES, DecodeOp, EncodeOp
from sofie.dialects.types import is_narrow, is_unsigned, stored
from sofie.passes.lower_onnx.scalars import Scalars

BIAS, MANTISSA = 127, 23
"""Of float32."""


@dataclass(frozen=True)
class Format:
    """A format: bits of exponent and mantissa, what is added to exponents, and which codes are no finite numbers.

    most: the code of the largest number. infinity: its code, None where there is none. nan: that of NaN, or of what
    stands for it. zero: whether -0 is there.
    """

    exponent: int
    mantissa: int
    bias: int
    most: int
    infinity: int | None
    nan: int
    zero: bool = True

    @property
    def bits(self) -> int:
        """All bits but the sign."""
        return self.exponent + self.mantissa


FORMATS: dict[str, Format] = {
    "f8E4M3FN": Format(4, 3, 7, 0x7E, None, 0x7F),
    "f8E4M3FNUZ": Format(4, 3, 8, 0x7F, None, 0x80, zero=False),
    "f8E5M2": Format(5, 2, 15, 0x7B, 0x7C, 0x7E),
    "f8E5M2FNUZ": Format(5, 2, 16, 0x7F, None, 0x80, zero=False),
    "f4E2M1FN": Format(2, 1, 1, 0x7, None, 0x8),
}
EXPONENTS = "f8E8M0FNU"
"""The format that is an exponent alone, without sign or zero; 255 is NaN."""


def name_of(element: Attribute) -> str:
    """The name of a narrow float in MLIR."""
    if isinstance(element, NarrowFloat):
        return element.format.data
    return "f16" if isinstance(element, Float16Type) else "bf16"


def decode(s: Scalars, code: SSAValue, element: Attribute) -> SSAValue:
    """The float32 that a code stands for."""
    name = name_of(element)
    if name in CODES:
        return s.insert(DecodeOp(name, code))
    wide = s.cast(code, i32, unsigned_source=True)
    if name == EXPONENTS:
        return _decoded_exponent(s, wide)
    form = FORMATS[name]
    magnitude = s.binary("and", wide, s.constant((1 << form.bits) - 1, i32))
    moved = s.binary("shl", magnitude, s.constant(MANTISSA - form.mantissa, i32))
    normal = s.bits(s.add(moved, s.constant((BIAS - form.bias) << MANTISSA, i32)), f32)
    small = s.mul(
        s.cast(magnitude, f32, unsigned_source=False), s.constant(2.0 ** (1 - form.bias - form.mantissa), f32)
    )
    value = s.select(s.compare("lt", magnitude, s.constant(1 << form.mantissa, i32)), small, normal)
    nan = s.constant(float("nan"), f32)
    if form.infinity is not None:
        finite = s.compare("lt", magnitude, s.constant(form.infinity, i32))
        infinite = s.compare("eq", magnitude, s.constant(form.infinity, i32))
        value = s.select(finite, value, s.select(infinite, s.constant(float("inf"), f32), nan))
    elif form.zero:
        value = s.select(s.compare("eq", magnitude, s.constant(form.nan, i32)), nan, value)
    negative = s.compare("ne", s.binary("and", wide, s.constant(1 << form.bits, i32)), s.constant(0, i32))
    value = s.select(negative, s.neg(value), value)
    if not form.zero:
        value = s.select(s.compare("eq", wide, s.constant(1 << form.bits, i32)), nan, value)
    return value


def _decoded_exponent(s: Scalars, code: SSAValue) -> SSAValue:
    """2^(code - 127); the least is a subnormal of float32."""
    normal = s.bits(s.binary("shl", code, s.constant(MANTISSA, i32)), f32)
    value = s.select(s.compare("eq", code, s.constant(0, i32)), s.constant(2.0**-BIAS, f32), normal)
    return s.select(s.compare("eq", code, s.constant(255, i32)), s.constant(float("nan"), f32), value)


def encode(s: Scalars, x: SSAValue, element: Attribute, saturate: bool = True, mode: str = "up") -> SSAValue:
    """The code of a float32 or float64: the nearest, halves to even.

    saturate: of formats of 8 bits and fewer, numbers beyond the largest become it; otherwise infinite, or NaN. mode:
    how the format of exponents rounds: up, down or nearest.
    """
    kind = stored(element)
    x = _to_odd(s, x) if x.type == f64 else x
    name = name_of(element)
    if name in CODES:
        return s.insert(EncodeOp(name, x))
    bits = s.bits(x, i32)
    magnitude = s.binary("and", bits, s.constant(0x7FFFFFFF, i32))
    if name == EXPONENTS:
        return s.cast(_encoded_exponent(s, bits, magnitude, saturate, mode), kind)
    form = FORMATS[name]
    shift = MANTISSA - form.mantissa
    odd = s.binary("and", s.binary("shr", magnitude, s.constant(shift, i32)), s.constant(1, i32))
    rounded = s.add(s.add(magnitude, s.constant((1 << (shift - 1)) - 1, i32)), odd)
    code = s.sub(s.binary("shr", rounded, s.constant(shift, i32)), s.constant((BIAS - form.bias) << form.mantissa, i32))
    size = s.bits(magnitude, f32)
    least = s.constant(2.0 ** (1 - form.bias), f32)
    bounded = s.min(size, least)  # what is larger or NaN has no use of it
    steps = s.unary("round", s.mul(bounded, s.constant(2.0 ** (form.bias - 1 + form.mantissa), f32)))
    numbers = s.select(s.compare("lt", size, least), steps, s.constant(0.0, f32))
    code = s.select(s.compare("lt", size, least), s.cast(numbers, i32), code)  # steps below the least normal number
    overflow = form.infinity if form.infinity is not None else form.nan
    limited = form.bits < 7 or saturate  # those of 4 bits have neither infinity nor NaN
    beyond = s.constant(form.most if limited else overflow, i32)
    code = s.select(s.compare("gt", code, s.constant(form.most, i32)), beyond, code)
    number = s.compare("le", magnitude, s.constant(0x7F800000, i32))
    code = s.select(number, code, s.constant(form.nan, i32))
    sign = s.binary(
        "shl",
        s.binary("and", s.binary("shr", bits, s.constant(31, i32)), s.constant(1, i32)),
        s.constant(form.bits, i32),
    )
    signed = s.binary("or", code, sign)
    if not form.zero:  # neither zero nor NaN has a sign
        signed = s.select(s.compare("eq", code, s.constant(0, i32)), code, signed)
    return s.cast(signed, kind)


def _encoded_exponent(s: Scalars, bits: SSAValue, magnitude: SSAValue, saturate: bool, mode: str) -> SSAValue:
    """The exponent of a positive number, rounded; of one that has none, NaN."""
    fraction = s.binary("and", magnitude, s.constant((1 << MANTISSA) - 1, i32))
    exponent = s.binary("shr", magnitude, s.constant(MANTISSA, i32))
    if mode != "down":
        limit = 0 if mode == "up" else (1 << (MANTISSA - 1)) - 1
        more = s.compare("gt", fraction, s.constant(limit, i32))
        exponent = s.add(exponent, s.select(more, s.constant(1, i32), s.constant(0, i32)))
    largest = 254 if saturate else 255
    exponent = s.select(s.compare("gt", exponent, s.constant(254, i32)), s.constant(largest, i32), exponent)
    wrong = s.compare("gt", magnitude, s.constant(0x7F800000, i32))
    return s.select(wrong, s.constant(255, i32), exponent)


def _to_odd(s: Scalars, x: SSAValue) -> SSAValue:
    """A float64 as a float32 that rounds on as the float64 would: where it is not exact, its last bit is set."""
    near = s.cast(x, f32)
    back = s.cast(near, f64)
    bits = s.bits(near, i32)
    exact = s.binary("or", s.compare("eq", back, x), s.compare("ne", x, x))
    outwards = s.compare("gt", s.abs(back), s.abs(x))
    even = s.compare("eq", s.binary("and", bits, s.constant(1, i32)), s.constant(0, i32))
    step = s.select(outwards, s.constant(-1, i32), s.constant(1, i32))
    moved = s.add(bits, s.select(even, step, s.constant(0, i32)))
    return s.bits(s.select(exact, bits, moved), f32)


def short(element: Attribute) -> bool:
    """Whether the element type is an integer of 4 or 2 bits."""
    return isinstance(element, IntegerType) and 1 < element.width.data < 8


def shorten(s: Scalars, x: SSAValue, element: Attribute) -> SSAValue:
    """An integer's lowest bits as an integer of 4 or 2, in a byte of its own whose other bits are 0."""
    assert isinstance(element, IntegerType)
    byte = s.cast(x, i8)
    return s.binary("and", byte, s.constant((1 << element.width.data) - 1, i8))


def extend(s: Scalars, x: SSAValue, element: Attribute) -> SSAValue:
    """The byte of an integer of 4 or 2 bits as an int8."""
    assert isinstance(element, IntegerType)
    unused = s.constant(8 - element.width.data, i8)
    own = Scalars(s.insert, is_unsigned(element))
    return own.binary("shr", own.binary("shl", x, unused), unused)


def convert(
    s: Scalars, x: SSAValue, source: Attribute, target: Attribute, saturate: bool = True, mode: str = "up"
) -> SSAValue:
    """A value of a level 1 element type as another: as C converts between those that C has."""
    if source == target:
        return x
    unsigned = is_unsigned(source)
    if is_narrow(source):
        x, source, unsigned = decode(s, x, source), f32, False
    if short(source):
        x, source = extend(s, x, source), i8  # positive where unsigned
        unsigned = False
    if is_narrow(target):
        if isinstance(source, IntegerType):  # exact, or rounded once
            exact = source.width.data < 24
            x = s.cast(x, f32 if exact else f64, unsigned_source=unsigned)
        return encode(s, x, target, saturate, mode)
    if short(target):
        wide = s.cast(x, i64 if source in (f32, f64) else i32, unsigned_source=unsigned) if x.type in (f32, f64) else x
        return shorten(s, wide, target)
    return s.cast(x, stored(target), is_unsigned(target), unsigned_source=unsigned)
