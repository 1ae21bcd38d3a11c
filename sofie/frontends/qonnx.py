"""What the operators of QONNX are made of: rounding in seven ways to integers of any width, in floats."""

from __future__ import annotations

from collections.abc import Callable

from sofie.errors import UnsupportedError, printable
from sofie.frontends.bodies import Node


def _up(n: Node, x: str) -> str:
    return n("Mul", n("Sign", x), n("Ceil", n("Abs", x)))


def _down(n: Node, x: str) -> str:
    return n("Mul", n("Sign", x), n("Floor", n("Abs", x)))


def _half_up(n: Node, x: str) -> str:
    return n("Mul", n("Sign", x), n("Floor", n("Add", n("Abs", x), n.number(0.5, x))))


def _half_down(n: Node, x: str) -> str:
    return n("Mul", n("Sign", x), n("Ceil", n("Sub", n("Abs", x), n.number(0.5, x))))


ROUNDINGS: dict[str, Callable[[Node, str], str]] = {
    "CEIL": lambda n, x: n("Ceil", x),
    "DOWN": _down,
    "FLOOR": lambda n, x: n("Floor", x),
    "HALF_DOWN": _half_down,
    "HALF_EVEN": lambda n, x: n("Round", x),
    "HALF_UP": _half_up,
    "ROUND": lambda n, x: n("Round", x),
    "ROUND_TO_ZERO": _down,
    "UP": _up,
}
"""Rounding modes: UP is away from zero, DOWN towards it, ROUND to the nearest with halves to even."""


def _rounded(n: Node, x: str) -> str:
    mode = str(n.attributes["rounding_mode"]).upper()
    if mode not in ROUNDINGS:
        raise UnsupportedError(f"its rounding mode {printable(mode)!r} is not one of {', '.join(ROUNDINGS)}")
    return ROUNDINGS[mode](n, x)


def _quant(n: Node) -> None:
    """(round(clip(x / scale + zeropt)) - zeropt) scale; the bounds are those of an integer of `bitwidth` bits."""
    signed, narrow = int(n.attributes["signed"]), int(n.attributes["narrow"])
    bits = n("Sub", "bitwidth", n.number(1.0, "x")) if signed else "bitwidth"
    steps = n("Pow", n.number(2.0, "x"), bits)
    most = n("Sub", steps, n.number(2.0 if narrow and not signed else 1.0, "x"))
    if signed:
        least = n("Neg", most) if narrow else n("Neg", steps)
    else:
        least = n.number(0.0, "x")
    value = n("Add", n("Div", "x", "scale"), "zeropt")
    bounded = n("Max", n("Min", value, most), least)
    n("Mul", n("Sub", _rounded(n, bounded), "zeropt"), "scale", result="y")


def _bipolar_quant(n: Node) -> None:
    """scale or -scale."""
    least = n("GreaterOrEqual", n("Div", "x", "scale"), n.number(0.0, "x"))
    n("Mul", n("Where", least, n.number(1.0, "x"), n.number(-1.0, "x")), "scale", result="y")


def _trunc(n: Node) -> None:
    """(round((x / scale + zeropt) / 2^(in_bitwidth - out_bitwidth)) - zeropt) scale; the quotient by scale is whole."""
    whole = n("Round", n("Add", n("Div", "x", "scale"), "zeropt"))
    steps = n("Pow", n.number(2.0, "x"), n("Sub", "in_bitwidth", "out_bitwidth"))
    n("Mul", n("Sub", _rounded(n, n("Div", whole, steps)), "zeropt"), "scale", result="y")


BODIES: dict[str, Callable[[Node], None]] = {"BipolarQuant": _bipolar_quant, "Quant": _quant, "Trunc": _trunc}
"""What writes the body of each operator."""
