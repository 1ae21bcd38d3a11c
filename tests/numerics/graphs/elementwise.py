"""Rows of elementwise operators: tables of what types they take and where they are well conditioned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.numerics.graphs.graph import ALL, FLOATS, INTEGERS, NUMBERS, SIGNED, UNSIGNED, WIDE, Graph, code
from tests.numerics.graphs.registry import Row, draws, enter

FLOAT = ("float32",)
BOTH = ("float32", "float32", "float64")
BOOL = ("bool",)


def plain(g: Graph, x: str) -> str:
    return x


def halved(g: Graph, x: str) -> str:
    """Within -1/2 and 1/2."""
    return g.node("Mul", [g.bounded(x), g.constant(np.array(0.3, g.kind(x)))])


def above_one(g: Graph, x: str) -> str:
    return g.node("Add", [g.squared(x), g.constant(np.array(1, g.kind(x)))])


@dataclass(frozen=True)
class Unary:
    """Types, what keeps the operand where the operator is well conditioned, attributes and their values.

    `exact`: it jumps, so that its operand must not have been rounded.
    """

    kinds: tuple[str, ...] = FLOAT
    prepare: Callable[[Graph, str], str] = plain
    attributes: tuple[tuple[str, tuple[float | str, ...]], ...] = ()
    exact: bool = False


def attributes(**choices: tuple[float | str, ...]) -> tuple[tuple[str, tuple[float | str, ...]], ...]:
    return tuple(choices.items())


ALPHA = attributes(alpha=(0.01, 0.5, 2.0))
UNARY: dict[str, Unary] = {
    "Abs": Unary(NUMBERS),
    "Acos": Unary(BOTH, halved),
    "Acosh": Unary(BOTH, above_one),
    "Asin": Unary(BOTH, halved),
    "Asinh": Unary(BOTH),
    "Atan": Unary(BOTH),
    "Atanh": Unary(BOTH, halved),
    "BitwiseNot": Unary(INTEGERS),
    "Ceil": Unary(BOTH, exact=True),
    "Celu": Unary(FLOAT, attributes=ALPHA),
    "Cos": Unary(BOTH, Graph.bounded),
    "Cosh": Unary(BOTH, Graph.bounded),
    "Elu": Unary(BOTH, attributes=ALPHA),
    "Erf": Unary(FLOAT),
    "Exp": Unary(BOTH, Graph.bounded),
    "Floor": Unary(BOTH, exact=True),
    "Gelu": Unary(FLOAT, attributes=attributes(approximate=("none", "tanh"))),
    "HardSigmoid": Unary(BOTH, attributes=attributes(alpha=(0.2, 0.5), beta=(0.5, 0.25))),
    "HardSwish": Unary(FLOAT),
    "Identity": Unary(ALL),
    "LeakyRelu": Unary(BOTH, attributes=ALPHA),
    "Log": Unary(BOTH, Graph.squared),
    "Mish": Unary(FLOAT),
    "Neg": Unary((*BOTH, *SIGNED)),
    "Not": Unary(BOOL),
    "Reciprocal": Unary(BOTH, Graph.squared),
    "Relu": Unary((*BOTH, *SIGNED)),
    "Round": Unary(BOTH, exact=True),
    "Selu": Unary(FLOAT),
    "Shrink": Unary(NUMBERS, attributes=attributes(lambd=(0.5, 1.5)), exact=True),
    "Sigmoid": Unary(BOTH),
    "Sign": Unary(NUMBERS, exact=True),
    "Sin": Unary(BOTH, Graph.bounded),
    "Sinh": Unary(BOTH, Graph.bounded),
    "Softplus": Unary(BOTH),
    "Softsign": Unary(BOTH),
    "Sqrt": Unary(BOTH, Graph.squared),
    "Swish": Unary(FLOAT, attributes=attributes(alpha=(1.0, 0.5))),
    "Tan": Unary(BOTH, Graph.bounded),
    "Tanh": Unary(BOTH),
    "ThresholdedRelu": Unary(BOTH, attributes=ALPHA, exact=True),
}


def unary(operator: str, how: Unary) -> Row:
    def row(g: Graph) -> None:
        rank = (1, 5) if operator == "Softsign" else (0, 5)  # onnx.reference fails on a scalar
        x = how.prepare(g, g.value(*how.kinds, rank=rank, exact=how.exact))
        g.node(operator, [x], **{name: g.one_of(*choices) for name, choices in how.attributes})

    return row


for _operator, _how in UNARY.items():
    enter(_operator, unary(_operator, _how))


def beside(g: Graph, x: str, exact: bool = False, kind: str | None = None) -> str:
    """An operand that is broadcast to `x`, or has its shape."""
    shape = g.shape(x)
    kept = [e if g.rng.random() < 0.6 else 1 for e in shape]
    return g.operand(*kept[int(g.rng.integers(len(shape) + 1)) :], kind=kind or g.kind(x), exact=exact)


def binary(operator: str, kinds: tuple[str, ...], exact: bool = False, **choices: tuple[object, ...]) -> None:
    def row(g: Graph) -> None:
        x = g.value(*kinds, exact=exact)
        pair = [x, beside(g, x, exact)]
        if g.flag():
            pair.reverse()
        g.node(operator, pair, **{name: g.one_of(*values) for name, values in choices.items()})

    enter(operator, row)


for _operator in ("Add", "Sub", "Mul"):
    binary(_operator, NUMBERS)
for _operator in ("And", "Or", "Xor"):
    binary(_operator, BOOL)
for _operator in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
    binary(_operator, INTEGERS)
for _operator in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
    binary(_operator, NUMBERS, exact=True)
binary("Equal", ALL, exact=True)


@draws("SwiGLU")
def swi_glu(g: Graph) -> None:
    x = g.value()
    g.node("SwiGLU", [x, g.operand(*g.shape(x))], alpha=g.one_of(1.0, 0.5))


@draws("BitShift")
def bit_shift(g: Graph) -> None:
    x = g.value(*UNSIGNED)
    by = g.given(g.rng.integers(0, 9, g.shape(x)).astype(g.kind(x)))
    g.node("BitShift", [x, by], direction=g.one_of("LEFT", "RIGHT"))


def divisor(g: Graph, x: str) -> str:
    """No element is 0, or -1."""
    kind = g.kind(x)
    if kind in FLOATS:
        return g.positive(*g.shape(x)[g.integer(0, g.rank(x)) :], kind=kind)
    numbers = g.rng.integers(1, 9, g.shape(x))
    signs = g.rng.choice([-1, 1], g.shape(x)) if kind in SIGNED else 1
    return g.given(np.where(numbers == 1, 1, numbers * signs).astype(kind))


@draws("Div")
def div(g: Graph) -> None:
    x = g.value(*NUMBERS)
    g.node("Div", [x, divisor(g, x)])


@draws("Mod")
def mod(g: Graph) -> None:
    x = g.value(*NUMBERS, exact=True)
    floats = g.kind(x) in FLOATS
    by = g.constant(np.array(g.one_of(0.75, 2.5, -1.25), g.kind(x))) if floats else divisor(g, x)
    g.node("Mod", [x, by], fmod=int(floats or g.flag()))


@draws("Pow")
def power(g: Graph) -> None:
    x = g.value("float32", "float32", "float64", "int32", "int64")
    if g.kind(x) in FLOATS:
        exponent = g.given(np.asarray(g.rng.integers(-8, 9, g.shape(x)[1:]) / 4, g.one_of("float32", "float64")))
        if g.flag():
            g.node(
                "Pow",
                [g.bounded(x), g.constant(np.array(g.integer(1, 3), g.one_of("float32", "int64")))],
                kind=g.kind(x),
            )
        else:
            g.node("Pow", [g.squared(x), exponent], kind=g.kind(x))
    else:
        g.node("Pow", [x, g.given(g.rng.integers(0, 4, g.shape(x)).astype(g.one_of("int32", "uint8", "int64")))])


@draws("PRelu")
def p_relu(g: Graph) -> None:
    x = g.value(*WIDE)
    kept = [e if g.flag() else 1 for e in g.shape(x)]
    g.node("PRelu", [x, g.operand(*kept, kind=g.kind(x))])


def variadic(operator: str, kinds: tuple[str, ...]) -> Row:
    def row(g: Graph) -> None:
        x = g.value(*kinds)
        g.node(operator, [x, *(beside(g, x) for _ in range(g.integer(0, 3)))])

    return row


for _operator in ("Max", "Min"):
    enter(_operator, variadic(_operator, NUMBERS))
for _operator in ("Sum", "Mean"):
    enter(_operator, variadic(_operator, BOTH))


@draws("Clip")
def clip(g: Graph) -> None:
    x = g.value(*NUMBERS)
    low, high = (g.given(np.array(v, g.kind(x))) if g.flag() else "" for v in (1, 3))
    g.node("Clip", [x, low, high] if high else [x, low] if low else [x])


@draws("Where")
def where(g: Graph) -> None:
    x = g.value(*ALL)
    mask = beside(g, x, kind="bool")
    g.node("Where", [mask, *(g.one_of([x, beside(g, x)], [beside(g, x), x]))])


@draws("Cast")
def cast(g: Graph) -> None:
    x = g.value(*ALL, exact=True)
    target = g.one_of(*ALL)
    g.node("Cast", [held(g, x, target)], to=code(target))


@draws("CastLike")
def cast_like(g: Graph) -> None:
    x = g.value(*ALL, exact=True)
    target = g.one_of(*ALL)
    g.node("CastLike", [held(g, x, target), g.operand(2, kind=target)], kind=target)


def held(g: Graph, x: str, target: str) -> str:
    """A float within what the target holds: beyond it, numpy's answer is not defined."""
    if g.kind(x) not in FLOATS or target in (*FLOATS, "bool"):
        return x
    low, high = (0, 100) if target in UNSIGNED else (-100, 100)
    return g.node("Clip", [x, *(g.constant(np.array(v, g.kind(x))) for v in (low, high))])


WIDTHS = (("int8", "uint8"), ("int16", "uint16"), ("float32", "int32", "uint32"), ("float64", "int64", "uint64"))


@draws("BitCast")
def bit_cast(g: Graph) -> None:
    """Of integers, or of floats to integers and back: in between there is nothing but bits."""
    kinds = g.one_of(*WIDTHS)
    integers = [k for k in kinds if k not in FLOATS]
    g.node("BitCast", [g.value(*integers)], to=code(g.one_of(*integers)))


SPECIAL = np.array([0, 1, -1, np.inf, -np.inf, np.nan, 2], np.float32)


@draws("IsNaN")
def is_nan(g: Graph) -> None:
    g.node("IsNaN", [g.feed(g.rng.choice(SPECIAL, g.shape(g.value())))])


@draws("IsInf")
def is_inf(g: Graph) -> None:
    sides = {f"detect_{side}": int(g.flag()) for side in ("positive", "negative")}
    g.node("IsInf", [g.feed(g.rng.choice(SPECIAL, g.shape(g.value())))], **sides)
