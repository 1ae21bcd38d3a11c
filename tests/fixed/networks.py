"""QONNX networks, and models of them in Python's integers that share nothing with the compiler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DOMAIN = "qonnx.custom_op.general"

ROUND: dict[str, Callable[[Fraction], int]] = {
    "ROUND": round,
    "FLOOR": math.floor,
    "CEIL": math.ceil,
    "DOWN": math.trunc,
    "UP": lambda x: math.ceil(x) if x > 0 else math.floor(x),
    "HALF_UP": lambda x: math.floor(abs(x) + Fraction(1, 2)) * (1 if x > 0 else -1),
    "HALF_DOWN": lambda x: math.ceil(abs(x) - Fraction(1, 2)) * (1 if x > 0 else -1),
}


def quantised(x: Fraction, scale: Fraction, bits: int, mode: str, narrow: bool = False, signed: int = 1) -> Fraction:
    """QONNX's Quant with zero point 0."""
    low, high = (-(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return ROUND[mode](min(max(x / scale, Fraction(low)), Fraction(high))) * scale


class Graph:
    """An ONNX graph while it is written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, value: object) -> str:
        """A float32 constant."""
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def whole(self, value: list[int]) -> str:
        """A constant of integers."""
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.int64), f"c{len(self.weights)}"))
        return self.weights[-1].name

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """A node of one result."""
        name = f"v{len(self.nodes)}"
        label = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=label, domain=domain, **attributes))
        return name

    def quant(self, x: str, scale: object, bits: float, mode: str = "ROUND", signed: int = 1, narrow: int = 0) -> str:
        """A Quant."""
        parameters = [self.constant(v) for v in (scale, 0.0, bits)]
        words = {"rounding_mode": mode, "signed": signed, "narrow": narrow}
        return self.node("Quant", x, *parameters, domain=DOMAIN, **words)

    def model(self, shape: Sequence[int | str], *results: str) -> onnx.ModelProto:
        """The model of one input `x`."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
        graph = helper.make_graph(self.nodes, "g", [x], outputs, self.weights)
        versions = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=versions, ir_version=9)


LAYERS = (
    # inputs, outputs, weight bits, weight scale, bias bits, bias scale, output bits, output scale, mode
    (16, 8, 5, Fraction(1, 8), 6, Fraction(1, 16), 8, Fraction(1, 16), "HALF_UP"),
    (8, 8, 4, Fraction(1, 4), 7, Fraction(1, 32), 7, Fraction(1, 8), "FLOOR"),
    (8, 1, 6, Fraction(1, 16), 5, Fraction(1, 4), 12, Fraction(1, 64), "ROUND"),
)
"""Three dense layers: each quantises weights, bias and result in its own way, as ap_fixed<8,4> and its like."""

INPUT = (8, Fraction(1, 32), "ROUND")
"""ap_fixed<8,3>."""


def parameters() -> list[tuple[np.ndarray, np.ndarray]]:
    """Float32 weights (inputs, outputs) and biases, before they are quantised."""
    rng = np.random.default_rng(20)
    made = []
    for inputs, outputs, *_ in LAYERS:
        weights = rng.normal(0, 0.8, (inputs, outputs)).astype(np.float32)
        made.append((weights, rng.normal(0, 0.7, outputs).astype(np.float32)))
    return made


def three_layers(rows: int | str) -> onnx.ModelProto:
    """Quant, then three times MatMul, Add, (Relu,) Quant with quantised weights and biases."""
    graph = Graph()
    bits, scale, mode = INPUT
    value = graph.quant("x", float(scale), bits, mode)
    for k, ((w, b), (_, _, w_bits, w_scale, b_bits, b_scale, bits, scale, mode)) in enumerate(
        zip(parameters(), LAYERS, strict=True)
    ):
        weights = graph.quant(graph.constant(w), float(w_scale), w_bits, "ROUND", narrow=1)
        bias = graph.quant(graph.constant(b), float(b_scale), b_bits, "HALF_UP")
        value = graph.node("Add", graph.node("MatMul", value, weights), bias)
        if k < 2:
            value = graph.node("Relu", value)
        value = graph.quant(value, float(scale), bits, mode)
    return graph.model([rows, 16], value)


def three_layers_exact(x: np.ndarray) -> list[Fraction]:
    """The same in fractions: one result a row."""
    results = []
    for row in x:
        values = [quantised(Fraction(float(v)), INPUT[1], INPUT[0], INPUT[2]) for v in row]
        for k, ((w, b), (ins, outs, w_bits, w_scale, b_bits, b_scale, bits, scale, mode)) in enumerate(
            zip(parameters(), LAYERS, strict=True)
        ):
            made = []
            for j in range(outs):
                total = quantised(Fraction(float(b[j])), b_scale, b_bits, "HALF_UP")
                for i in range(ins):
                    total += values[i] * quantised(Fraction(float(w[i, j])), w_scale, w_bits, "ROUND", narrow=True)
                if k < 2:
                    total = max(total, Fraction(0))
                made.append(quantised(total, scale, bits, mode))
            values = made
        results += values
    return results


def swept() -> np.ndarray:
    """Rows of 16 features: the first takes every value of ap_fixed<8,3>, the ties between them, and some beyond."""
    first = np.arange(-266, 267) / 64
    others = np.random.default_rng(3).normal(0, 1.2, 15)
    return np.column_stack([first, np.tile(others, (len(first), 1))]).astype(np.float32)
