"""Rows of quantised operators: scales are powers of two, so that no rounding is on the edge."""

from __future__ import annotations

import numpy as np

from tests.numerics.graphs.graph import Graph
from tests.numerics.graphs.products import window
from tests.numerics.graphs.registry import draws

BYTES = ("int8", "uint8")
SMALL = (*BYTES, "int16", "uint16")


def zero(g: Graph, kind: str, *shape: int) -> str:
    return g.given(np.asarray(g.rng.integers(0, 9, shape), kind))


def scale(g: Graph, *shape: int) -> str:
    return g.given(np.asarray(2.0 ** g.rng.integers(-5, 0, shape), np.float32))


def integers(g: Graph, kind: str, *shape: int) -> str:
    """Run-time values of a small type."""
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    return g.feed(g.rng.integers(least, most, shape, dtype=kind, endpoint=True))


@draws("QuantizeLinear")
def quantize(g: Graph) -> None:
    x = g.value(rank=(0, 4), exact=True)
    kind, axis = g.one_of(*SMALL), g.integer(0, max(g.rank(x) - 1, 0))
    shape = g.shape(x)[axis : axis + 1] if g.flag() else ()
    g.node(
        "QuantizeLinear", [x, scale(g, *shape), zero(g, kind, *shape)], axis=axis if shape else 0 if g.rank(x) else 1
    )


@draws("DequantizeLinear")
def dequantize(g: Graph) -> None:
    x = g.value(*SMALL, rank=(1, 4))
    axis = g.integer(0, g.rank(x) - 1)
    shape = g.shape(x)[axis : axis + 1] if g.flag() else ()
    g.node("DequantizeLinear", [x, scale(g, *shape), zero(g, g.kind(x), *shape)], axis=axis, kind="float32")


@draws("DynamicQuantizeLinear")
def quantize_by_range(g: Graph) -> None:
    """A range of 255 steps of a power of two."""
    x = g.rng.integers(0, 256, (g.integer(1, 3), g.integer(2, 5)))
    x.flat[:2] = 0, 255
    shifted = (x - g.integer(0, 255)) * 2.0 ** -g.integer(1, 5)
    g.nodes_of("DynamicQuantizeLinear", [g.feed(shifted.astype(np.float32))], 3)


def shapes(g: Graph) -> tuple[list[int], list[int]]:
    m, k, n = (g.integer(1, 6) for _ in range(3))
    batch = [2] if g.flag() else []
    return [*batch, m, k], [k, n]


@draws("MatMulInteger")
def matmul_integer(g: Graph) -> None:
    a, b = shapes(g)
    kind, other = g.one_of(*BYTES), g.one_of(*BYTES)
    g.node("MatMulInteger", [integers(g, kind, *a), integers(g, other, *b), zero(g, kind), zero(g, other)])


@draws("QLinearMatMul")
def q_linear_matmul(g: Graph) -> None:
    a, b = shapes(g)
    kind, other = g.one_of(("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8"))
    first = [integers(g, kind, *a), scale(g), zero(g, kind)]
    second = [integers(g, other, *b), scale(g), zero(g, other)]
    g.node("QLinearMatMul", [*first, *second, g.constant(np.float32(16)), zero(g, kind)])


def convolution(g: Graph) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, list[int]]]:
    extents = [g.integer(3, 5) for _ in range(g.integer(1, 2))]
    channels, how = g.integer(1, 3), window(g, tuple(extents))
    return (g.integer(1, 2), channels, *extents), (g.integer(1, 4), channels, *how["kernel_shape"]), how


@draws("ConvInteger")
def conv_integer(g: Graph) -> None:
    x, w, how = convolution(g)
    kind, other = g.one_of(("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8"))
    g.node("ConvInteger", [integers(g, kind, *x), integers(g, other, *w), zero(g, kind), zero(g, other)], **how)


@draws("QLinearConv")
def q_linear_conv(g: Graph) -> None:
    x, w, how = convolution(g)
    kind, other = g.one_of(("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8"))
    first = [integers(g, kind, *x), scale(g), zero(g, kind)]
    second = [integers(g, other, *w), scale(g), zero(g, other)]
    g.node("QLinearConv", [*first, *second, g.constant(np.float32(16)), zero(g, kind)], **how)


QONNX = "qonnx.custom_op.general"
ROUNDINGS = ("ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN")


def number(g: Graph, value: int) -> str:
    return g.constant(np.float32(value))


@draws("Quant", domain=QONNX)
def quant(g: Graph) -> None:
    x = g.value("float32", rank=(1, 4), exact=True)
    how = {"signed": g.integer(0, 1), "narrow": g.integer(0, 1), "rounding_mode": g.one_of(*ROUNDINGS)}
    operands = [x, scale(g), number(g, g.integer(0, 3)), number(g, g.integer(2, 9))]
    g.node("Quant", operands, domain=QONNX, kind="float32", **how)


@draws("BipolarQuant", domain=QONNX)
def bipolar_quant(g: Graph) -> None:
    g.node("BipolarQuant", [g.value("float32", rank=(1, 4), exact=True), scale(g)], domain=QONNX, kind="float32")


@draws("Trunc", domain=QONNX)
def trunc(g: Graph) -> None:
    x = g.value("float32", rank=(1, 4), exact=True)
    operands = [x, scale(g), number(g, 0), number(g, 8), number(g, g.integer(4, 8))]
    g.node("Trunc", operands, domain=QONNX, kind="float32", rounding_mode=g.one_of(*ROUNDINGS))
