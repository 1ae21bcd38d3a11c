"""Fixed-point numbers with the meaning of Vitis HLS's `ap_fixed`, as whole numbers of any size: the definition.

A number of `Fixed(16, 6)` is a raw integer of 16 bits times 2^-10. A real number becomes one in two steps: it is
rounded to a whole number of those 2^-10, then what lies beyond the integers of 16 bits is brought back. Everything that
computes with fixed-point numbers is tested against this file; nothing here is used when a model runs.

Meaning: AMD, "Vitis High-Level Synthesis User Guide" (UG1399), "Arbitrary Precision Fixed-Point Data Types".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

from sofie.errors import SofieError, printable

Real = int | float | Fraction

HALF = Fraction(1, 2)
MOST_BITS = 64
"""The widest type that compiled code computes with."""

FRACTIONS = (-62, 126)
"""The least and the largest number of fraction bits in compiled code: all of float32's normal numbers and no more."""

_GOES_UP: dict[str, Callable[[Fraction, int, Fraction], bool]] = {
    "AP_TRN": lambda x, low, rest: False,
    "AP_TRN_ZERO": lambda x, low, rest: x < 0,
    "AP_RND": lambda x, low, rest: rest >= HALF,
    "AP_RND_ZERO": lambda x, low, rest: rest > HALF or (rest == HALF and x < 0),
    "AP_RND_INF": lambda x, low, rest: rest > HALF or (rest == HALF and x > 0),
    "AP_RND_MIN_INF": lambda x, low, rest: rest > HALF,
    "AP_RND_CONV": lambda x, low, rest: rest > HALF or (rest == HALF and low % 2 == 1),
    "CEIL": lambda x, low, rest: True,
    "UP": lambda x, low, rest: x > 0,
}
"""Whether x, which lies `rest` above the whole number `low`, becomes the one above: by rounding mode."""

ROUNDINGS = tuple(_GOES_UP)
"""Those of `ap_fixed`, and two that only QONNX has: CEIL (to plus infinity) and UP (away from zero)."""

OVERFLOWS = ("AP_WRAP", "AP_SAT", "AP_SAT_ZERO", "AP_SAT_SYM")


@dataclass(frozen=True)
class Fixed:
    """The type of numbers of `width` bits, `integer` of them before the binary point, the sign among them.

    `integer` may be negative or larger than `width`. `rounding` is one of `ROUNDINGS`, `overflow` one of `OVERFLOWS`;
    the defaults are those of `ap_fixed`: truncation to minus infinity, and wrapping. Raises SofieError on others.
    """

    width: int
    integer: int
    signed: bool = True
    rounding: str = "AP_TRN"
    overflow: str = "AP_WRAP"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise SofieError(f"a fixed-point type has at least 1 bit, not {self.width}")
        for given, known in ((self.rounding, ROUNDINGS), (self.overflow, OVERFLOWS)):
            if given not in known:
                raise SofieError(f"{printable(given)!r} is not one of {', '.join(known)}")

    @staticmethod
    def parse(text: str) -> Fixed:
        """The type of a text: `fixed<16,6>`, `ap_ufixed<8, 0, AP_RND, AP_SAT>`. Raises SofieError."""
        form = r"\s*(?:ap_)?(u?)fixed\s*<\s*(\d+)\s*,\s*(-?\d+)\s*(?:,\s*(\w+)\s*)?(?:,\s*(\w+)\s*)?>\s*"
        match = re.fullmatch(form, text)
        if match is None:
            wanted = "write fixed<16,6>, or ap_ufixed<8,0,AP_RND,AP_SAT> with a rounding and an overflow mode"
            raise SofieError(f"{printable(text)!r} is no fixed-point type; {wanted}")
        unsigned, width, integer, rounding, overflow = match.groups()
        return Fixed(int(width), int(integer), not unsigned, rounding or "AP_TRN", overflow or "AP_WRAP")

    def __str__(self) -> str:
        modes = [self.rounding, self.overflow] if (self.rounding, self.overflow) != ("AP_TRN", "AP_WRAP") else []
        return f"ap_{'' if self.signed else 'u'}fixed<{','.join([str(self.width), str(self.integer), *modes])}>"

    @property
    def fraction(self) -> int:
        """Bits behind the binary point: a raw number counts steps of 2^-fraction."""
        return self.width - self.integer

    @property
    def lowest(self) -> int:
        """The least raw number."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The largest raw number."""
        return (1 << (self.width - self.signed)) - 1

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the largest raw number that a conversion gives: AP_SAT_SYM has no least one without a twin."""
        symmetric = self.overflow == "AP_SAT_SYM" and self.signed and self.width > 1
        return (-self.highest if symmetric else self.lowest), self.highest

    def value(self, raw: int) -> Fraction:
        """The number that a raw number stands for."""
        return Fraction(raw) / Fraction(2) ** self.fraction

    def raw(self, value: Real) -> int:
        """The raw number that `value` becomes, rounded and then brought into the type's range.

        What is infinite lies beyond the range, NaN as well, to the side of its sign; where the type wraps they give 0.
        """
        if isinstance(value, float) and not math.isfinite(value):
            low, high = self.bounds if self.overflow in ("AP_SAT", "AP_SAT_SYM") else (0, 0)
            return low if math.copysign(1.0, value) < 0 else high
        return self.wrapped(rounded(Fraction(value) * Fraction(2) ** self.fraction, self.rounding))

    def wrapped(self, raw: int) -> int:
        """A raw number of any size in the type's range, by its overflow mode."""
        low, high = self.bounds
        if low <= raw <= high:
            return raw
        if self.overflow == "AP_WRAP":
            return (raw - self.lowest) % (1 << self.width) + self.lowest
        if self.overflow == "AP_SAT_ZERO":
            return 0
        return low if raw < low else high

    def holds(self, other: Fixed) -> bool:
        """Whether every number of `other` is one of this type, so that a conversion loses nothing."""
        grain = other.fraction <= self.fraction
        low, high = self.bounds
        ends = [other.value(end) * Fraction(2) ** self.fraction for end in (other.lowest, other.highest)]
        return grain and low <= ends[0] and ends[1] <= high


def rounded(x: Fraction, mode: str) -> int:
    """The whole number that x becomes."""
    low = math.floor(x)
    rest = x - low
    return low + 1 if rest and _GOES_UP[mode](x, low, rest) else low


def _common(a: Fixed, b: Fixed) -> tuple[int, int]:
    """Integer and fraction bits that hold the numbers of both: a sign is a bit more for those without."""
    integer = max(a.integer + (b.signed and not a.signed), b.integer + (a.signed and not b.signed))
    return integer, max(a.fraction, b.fraction)


def product(a: Fixed, b: Fixed) -> Fixed:
    """The type of a * b: the bits of both."""
    return Fixed(a.width + b.width, a.integer + b.integer, a.signed or b.signed)


def total(a: Fixed, b: Fixed) -> Fixed:
    """The type of a + b: the longer integer part and a bit more, the longer fraction."""
    integer, fraction = _common(a, b)
    return Fixed(max(integer + 1 + fraction, 1), integer + 1, a.signed or b.signed)


def difference(a: Fixed, b: Fixed) -> Fixed:
    """The type of a - b: that of the sum, with a sign."""
    made = total(a, b)
    return Fixed(made.width, made.integer)


def sum_of(term: Fixed, count: int) -> Fixed:
    """The type that holds the sum of `count` numbers of a type: log2(count) integer bits more."""
    more = max(count - 1, 0).bit_length()
    return Fixed(term.width + more, term.integer + more, term.signed)


def spanning(low: int, high: int, fraction: int) -> Fixed:
    """The narrowest type that holds the raw numbers from `low` to `high`, which count steps of 2^-fraction."""
    signed = low < 0
    width = max(max(high, 0).bit_length() + signed, (~low).bit_length() + 1 if signed else 0, 1)
    return Fixed(width, width - fraction, signed)


def covering(values: Iterable[Fraction]) -> Fixed | None:
    """The narrowest type that holds all of these numbers; None where one is no multiple of a power of two."""
    numbers = list(values)
    if any(v.denominator & (v.denominator - 1) for v in numbers):
        return None
    raised = [v for v in numbers if v]
    if not raised:
        return Fixed(1, 1, False)
    fraction = max(v.denominator.bit_length() - 1 or -((v.numerator & -v.numerator).bit_length() - 1) for v in raised)
    scale = Fraction(2) ** fraction
    return spanning(int(min(numbers) * scale), int(max(numbers) * scale), fraction)
