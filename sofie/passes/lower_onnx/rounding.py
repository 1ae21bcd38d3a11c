"""What brings a number into a fixed-point type, in plain integers: shifts, masks and comparisons.

`sofie.fixed.Fixed.raw` is the definition. A raw number is moved to the binary point of the target; the bits that fall
off say whether it goes up: the first of them (`half`), and whether any other is set (`rest`). What is moved to the left
is compared with the target's ends before, so that no bit is lost unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from xdsl.dialects.builtin import Float32Type, IntegerType, i32, i64
from xdsl.ir import Attribute, SSAValue

from sofie.fixed import Fixed, rounded
from sofie.passes.lower_onnx.scalars import Scalars

JAM = 8
"""Bits that become one where more are dropped than a word has; the one keeps that any of them was set."""

_Up = Callable[[Scalars, SSAValue, SSAValue, SSAValue, SSAValue], SSAValue]


def _and(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
    return s.binary("and", a, b)


def _or(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
    return s.binary("or", a, b)


def _not(s: Scalars, a: SSAValue) -> SSAValue:
    return s.binary("xor", a, s.constant(1, a.type))


_UP: dict[str, _Up] = {
    "AP_TRN_ZERO": lambda s, low, half, rest, sign: _and(s, sign, _or(s, half, rest)),
    "AP_RND": lambda s, low, half, rest, sign: half,
    "AP_RND_ZERO": lambda s, low, half, rest, sign: _and(s, half, _or(s, sign, rest)),
    "AP_RND_INF": lambda s, low, half, rest, sign: _and(s, half, _or(s, _not(s, sign), rest)),
    "AP_RND_MIN_INF": lambda s, low, half, rest, sign: _and(s, half, rest),
    "AP_RND_CONV": lambda s, low, half, rest, sign: _and(s, half, _or(s, _and(s, low, s.constant(1, low.type)), rest)),
    "CEIL": lambda s, low, half, rest, sign: _or(s, half, rest),
    "UP": lambda s, low, half, rest, sign: _and(s, _not(s, sign), _or(s, half, rest)),
}
"""What is added to `low`, 0 or 1, of the bits that fell off and of the sign, each 0 or 1: by rounding mode."""


def word(bits: int) -> IntegerType:
    """The integer in which numbers of so many bits are computed."""
    return i32 if bits <= 32 else i64


def stored_in(kind: Fixed) -> IntegerType:
    """The integer in which a raw number is stored."""
    return IntegerType(next(n for n in (8, 16, 32, 64) if kind.width <= n))


def convert(s: Scalars, raw: SSAValue, source: Fixed, target: Fixed) -> SSAValue:
    """A raw number of `source`, in an integer that holds it, as one of `target` in the integer of `stored_in`."""
    shift, width = source.fraction - target.fraction, source.width
    kind = word(max(width, target.width))
    if min(shift, width + 1) > 31:
        kind = i64
    own = Scalars(s.insert, not source.signed)
    x = own.cast(raw, kind, unsigned_source=not source.signed)
    if shift > 0:
        low, high = (rounded(Fraction(end, 2**shift), target.rounding) for end in (source.lowest, source.highest))
        if min(shift, width + 1) > 63:
            lost = own.compare("ne", _and(own, x, own.constant((1 << JAM) - 1, kind)), own.constant(0, kind))
            x = _or(own, own.binary("shr", x, own.constant(JAM, kind)), own.cast(lost, kind))
            shift, width = shift - JAM, width - JAM
        amount = min(shift, width + 1)  # beyond, a number is less than half a step anyway
        x = _dropped(own, x, own.constant(amount, kind), own.constant(amount - 1, kind), target.rounding)
        x = _within(own, x, x, 0, (low, high), target)
    else:
        none = -shift >= kind.width.data
        moved = x if shift == 0 else own.constant(0, kind) if none else own.binary("shl", x, own.constant(-shift, kind))
        x = _within(own, x, moved, -shift, (source.lowest, source.highest), target)
    return own.cast(x, stored_in(target), unsigned_source=not target.signed)


def _dropped(s: Scalars, x: SSAValue, bits: SSAValue, less: SSAValue, mode: str) -> SSAValue:
    """x without its lowest `bits`, rounded; less: one bit fewer."""
    low = s.binary("shr", x, bits)
    if mode == "AP_TRN":
        return low
    zero, one = s.constant(0, x.type), s.constant(1, x.type)
    half = _and(s, s.binary("shr", x, less), one)
    below = s.sub(s.binary("shl", one, less), one)
    rest = s.cast(s.compare("ne", _and(s, x, below), zero), x.type)
    sign = zero if s.unsigned else _top(s, x)
    return s.add(low, _UP[mode](s, low, half, rest, sign))


def _top(s: Scalars, x: SSAValue) -> SSAValue:
    """The highest bit."""
    assert isinstance(x.type, IntegerType)
    return Scalars(s.insert, True).binary("shr", x, s.constant(x.type.width.data - 1, x.type))


def _within(s: Scalars, x: SSAValue, moved: SSAValue, left: int, reach: tuple[int, int], target: Fixed) -> SSAValue:
    """x times 2^left, which is `moved` if nothing is lost, in the target's range; x lies within `reach`."""
    low, high = target.bounds
    least, most = -(-low >> left), high >> left
    over = s.compare("gt", x, s.constant(most, x.type)) if reach[1] > most else None
    under = s.compare("lt", x, s.constant(least, x.type)) if reach[0] < least else None
    if over is None and under is None:
        return moved
    return _wrapped(s, moved, target) if target.overflow == "AP_WRAP" else _saturated(s, moved, over, under, target)


def _saturated(s: Scalars, x: SSAValue, over: SSAValue | None, under: SSAValue | None, target: Fixed) -> SSAValue:
    """What the type puts in the place of a number that lies over or under its range."""
    low, high = target.bounds if target.overflow != "AP_SAT_ZERO" else (0, 0)
    if under is not None:
        x = s.select(under, s.constant(low, x.type), x)
    return x if over is None else s.select(over, s.constant(high, x.type), x)


def _wrapped(s: Scalars, x: SSAValue, target: Fixed) -> SSAValue:
    """The lowest bits of a number, as the type reads them; those of a whole stored integer need nothing."""
    assert isinstance(x.type, IntegerType)
    spare = x.type.width.data - target.width
    if target.width == stored_in(target).width.data:
        return x
    if not target.signed:
        return _and(s, x, s.constant((1 << target.width) - 1, x.type))
    bits = s.constant(spare, x.type)
    return Scalars(s.insert).binary("shr", s.binary("shl", x, bits), bits)


def from_float(s: Scalars, x: SSAValue, target: Fixed) -> SSAValue:
    """A float32 or float64 as a raw number of `target`: of its bits, so that no rounding of floats has a say."""
    own = Scalars(s.insert)
    mantissa, exponents, bias = (23, 255, 127) if isinstance(x.type, Float32Type) else (52, 2047, 1023)
    kind = i32 if mantissa == 23 and target.width <= 32 else i64
    last = kind.width.data - 1
    bits = own.cast(own.bits(x, i32 if mantissa == 23 else i64), kind)

    def number(value: int) -> SSAValue:
        return own.constant(value, kind)

    field = _and(own, own.binary("shr", bits, number(mantissa)), number(exponents))
    fraction = _and(own, bits, number((1 << mantissa) - 1))
    fraction = own.select(own.compare("eq", field, number(exponents)), number(0), fraction)
    exponent = own.max(field, number(1))
    lead = own.binary("shl", own.min(field, number(1)), number(mantissa))
    negative = own.binary("shr", bits, number(last))
    raw = own.sub(own.binary("xor", _or(own, fraction, lead), negative), negative)

    right = own.sub(number(bias + mantissa - target.fraction), exponent)
    dropping = own.compare("gt", right, number(0))
    amount = own.min(own.max(right, number(1)), number(last))
    dropped = _dropped(own, raw, amount, own.sub(amount, number(1)), target.rounding)
    left = own.max(own.neg(right), number(0))
    most = own.min(left, number(last))
    moved = own.select(own.compare("gt", left, number(last)), number(0), own.binary("shl", raw, most))
    value = own.select(dropping, dropped, moved)
    if target.overflow == "AP_WRAP":
        value = _wrapped(own, value, target)
    else:
        over, under = _beyond(own, own.select(dropping, dropped, raw), own.select(dropping, number(0), most), target)
        value = _saturated(own, value, over, under, target)
    return own.cast(value, stored_in(target))


def _beyond(s: Scalars, x: SSAValue, left: SSAValue, target: Fixed) -> tuple[SSAValue, SSAValue]:
    """Whether x times 2^left, no more than x's word has bits, lies over and under the target's range."""
    assert isinstance(x.type, IntegerType)
    low, high = target.bounds
    whole = Scalars(s.insert, True)
    most = whole.binary("shr", s.constant(high, x.type), left)
    least = s.neg(whole.binary("shr", s.constant(-low, x.type), left))
    under = s.compare("lt", x, least)
    if high < 1 << (x.type.width.data - 1):
        return s.compare("gt", x, most), under
    positive = s.compare("ge", x, s.constant(0, x.type))
    return _and(s, positive, whole.compare("gt", x, most)), under


def to_float(s: Scalars, raw: SSAValue, source: Fixed, kind: Attribute) -> SSAValue:
    """The float nearest to a raw number, halves to even."""
    own = Scalars(s.insert, not source.signed)
    whole = own.cast(raw, kind, unsigned_source=not source.signed)
    return whole if source.fraction == 0 else own.mul(whole, own.constant(2.0**-source.fraction, kind))
