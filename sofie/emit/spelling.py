"""How types, literals and operators of the IR are spelled in C++, and how tightly each binds."""

from __future__ import annotations

import math as pymath
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import (
    Float32Type,
    Float64Type,
    IndexType,
    IntegerType,
    VectorType,
)
from xdsl.ir import Attribute, Operation

from sofie.errors import SofieError

LINE = 120
"""Columns of a line."""

WIDTH = 110
"""Columns after which an expression is cut into named parts."""

BINARY: dict[type[Operation], tuple[str, int]] = {
    arith.AddfOp: ("+", 12),
    arith.SubfOp: ("-", 12),
    arith.MulfOp: ("*", 13),
    arith.DivfOp: ("/", 13),
    arith.AndIOp: ("&", 8),
    arith.OrIOp: ("|", 6),
    arith.XOrIOp: ("^", 7),
}
WRAPPING: dict[type[Operation], tuple[str, str]] = {
    arith.AddiOp: ("wrapping_add", "+"),
    arith.SubiOp: ("wrapping_sub", "-"),
    arith.MuliOp: ("wrapping_mul", "*"),
}
CALLS: dict[type[Operation], str] = {
    math.ExpOp: "exp",
    math.LogOp: "log",
    math.SqrtOp: "sqrt",
    math.TanhOp: "tanh",
    math.ErfOp: "erf",
    math.AbsFOp: "detail::abs",
    math.FloorOp: "detail::floor",
    math.CeilOp: "detail::ceil",
    math.TruncOp: "detail::trunc",
    math.RoundEvenOp: "detail::round_even",
    math.ExpM1Op: "detail::expm1",
    math.Log1pOp: "detail::log1p",
    math.SinOp: "detail::sin",
    math.CosOp: "detail::cos",
    math.TanOp: "detail::tan",
    math.AsinOp: "detail::asin",
    math.AcosOp: "detail::acos",
    math.AtanOp: "detail::atan",
    math.SinhOp: "detail::sinh",
    math.CoshOp: "detail::cosh",
    math.AsinhOp: "detail::asinh",
    math.AcoshOp: "detail::acosh",
    math.AtanhOp: "detail::atanh",
    math.PowFOp: "detail::pow",
    math.CopySignOp: "detail::copysign",
    math.FmaOp: "detail::fma",
    arith.ShRSIOp: "detail::shift_right",
    arith.MaxSIOp: "detail::maximum",
    arith.MinSIOp: "detail::minimum",
    arith.MaxnumfOp: "detail::maximum_number",
    arith.MinnumfOp: "detail::minimum_number",
}
QUICK_CALLS: dict[type[Operation], str] = {math.TanhOp: "quick_tanh"}
"""Of ops marked `fastmath<afn>`: functions that give up some ULP."""
EXTREMA: dict[type[Operation], tuple[str, str, str]] = {
    arith.MaximumfOp: ("detail::maximum", "<", "detail::at_least"),
    arith.MinimumfOp: ("detail::minimum", ">", "detail::at_most"),
}
"""What takes either of two values, what compares a number with a constant, and what limits a vector by one."""
UNSIGNED_CALLS: dict[type[Operation], str] = {
    arith.MaxUIOp: "detail::maximum",
    arith.MinUIOp: "detail::minimum",
    arith.ShLIOp: "detail::shift_left",
    arith.ShRUIOp: "detail::shift_right",
}
DIVISION: dict[type[Operation], tuple[str, str]] = {
    arith.DivSIOp: ("/", "detail::quotient"),
    arith.DivUIOp: ("/", "detail::quotient"),
    arith.RemSIOp: ("%", "detail::remainder"),
    arith.RemUIOp: ("%", "detail::remainder"),
}
UNSIGNED_LANES: dict[type[Operation], str] = {
    arith.MaxUIOp: "detail::unsigned_maximum",
    arith.MinUIOp: "detail::unsigned_minimum",
    arith.ShLIOp: "detail::shift_left",
    arith.ShRUIOp: "detail::unsigned_shift_right",
}
"""Of vectors."""
COMPARE_F = ["false", "==", ">", ">=", "<", "<=", "one", "ord", "ueq", "ugt", "uge", "ult", "ule", "!=", "uno", "true"]
ORDERED = {"one": "__builtin_islessgreater", "uno": "__builtin_isunordered"}
UNORDERED = {"ugt": "{} <= {}", "uge": "{} < {}", "ult": "{} >= {}", "ule": "{} > {}"} | {
    "ueq": "__builtin_islessgreater({}, {})",
    "ord": "__builtin_isunordered({}, {})",
}
"""Float comparisons that hold where this does not: C++ has no operator for them."""
COMPARE_I = ["==", "!=", "<", "<=", ">", ">=", "<", "<=", ">", ">="]
FIRST_UNSIGNED_PREDICATE = 6

ATOM, UNARY, ADDITIVE, EQUALITY, TERNARY = 20, 14, 12, 9, 1
"""How tightly operators bind, tightest first."""


def scalar_type(kind: Attribute, unsigned: bool = False) -> str:
    """The C++ spelling of a scalar type."""
    if isinstance(kind, IndexType):
        return "index"
    if isinstance(kind, Float32Type):
        return "float"
    if isinstance(kind, Float64Type):
        return "double"
    if isinstance(kind, IntegerType):
        width = kind.width.data
        return "bool" if width == 1 else f"std::{'u' if unsigned else ''}int{width}_t"
    raise SofieError(f"values of type {kind} cannot be printed as C++")


def type_name(kind: Attribute) -> str:
    """The C++ spelling of a scalar or vector type."""
    if isinstance(kind, VectorType):
        element = kind.get_element_type()
        letter = "f" if isinstance(element, Float32Type | Float64Type) else "i"
        bits = {Float32Type: 32, Float64Type: 64}.get(type(element)) or getattr(element, "width", None)
        bits = bits if isinstance(bits, int) else bits.data if bits is not None else 32
        return f"v{kind.get_shape()[0]}{letter}{bits}"
    return scalar_type(kind)


def literal(value: float | int | bool, kind: Attribute) -> str:
    """A literal that reads back as exactly `value`."""
    if isinstance(kind, Float32Type | Float64Type):
        single = isinstance(kind, Float32Type)
        suffix = "f" if single else ""
        if pymath.isnan(value):
            return f'__builtin_nan{suffix}("")'
        if pymath.isinf(value):
            return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
        if not single:
            return repr(float(value))
        short = np.format_float_positional(np.float32(value), trim="0", unique=True)
        text = short if len(short) <= 12 else np.format_float_scientific(np.float32(value), trim="0")
        return text + suffix
    if isinstance(kind, IntegerType) and kind.width.data == 1:
        return "true" if value else "false"
    if isinstance(kind, IntegerType) and kind.width.data == 64:
        return "(-9223372036854775807 - 1)" if value == -(1 << 63) else str(value)
    return str(value)


def listed(head: str, items: Sequence[str], tail: str) -> str:
    """A list in brackets on one line where it fits, else an item a line."""
    line = f"{head}{', '.join(items)}{tail}"
    if len(line) <= LINE:
        return line
    indent = "\n" + " " * (len(head) - len(head.lstrip()) + 4)
    return f"{head}{indent}{f',{indent}'.join(items)}{tail}"


@dataclass
class Expression:
    """Text and how tightly its outermost operator binds."""

    text: str
    level: int
    reads: bool = False
    """Whether evaluating it reads memory."""
    symbol: str = ""
    """The outermost binary operator, where chains of it need no parentheses."""

    def inside(self, level: int) -> str:
        """The text as an operand of an operator that binds at `level`."""
        return self.text if self.level >= level else f"({self.text})"


_CHARACTERS = [chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in range(256)]


def string(text: str | bytes) -> str:
    """A C++ string literal of any bytes, or any text as UTF-8: in octal escapes where they are not plain."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return f'"{"".join(map(_CHARACTERS.__getitem__, content))}"'


def comment(text: str, most: int = 200) -> str:
    """Text that can stand in a `//` comment: printable ASCII, no line ends, no trailing backslash."""
    safe = text.encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else " " for c in safe).rstrip("\\").replace("??/", "?? /")[:most]
