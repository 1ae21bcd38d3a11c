"""Builds the suite's ONNX graphs as exporters write them: float32, opset 17, static shapes, weights from a seed."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sofie.weights import Array

OPSET, IR_VERSION = 17, 8


class Graph:
    """A graph under construction; values go by their names, weights are drawn from a seed that its name tells."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._named = 0

    def model(self) -> onnx.ModelProto:
        """The model, checked, with the shapes of all values."""
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, self._constants)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], producer_name="bench", ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    # -- values ----------------------------------------------------------------------------------------------------

    def input(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> str:
        """An input."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, value: str, shape: Sequence[int]) -> None:
        """Makes a value an output."""
        self._outputs.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, shape))

    def constant(self, array: Array, name: str = "c") -> str:
        """An initialiser."""
        name = f"{name}_{self._next()}"
        self._constants.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        """A shape, or axes."""
        return self.constant(np.array(values, np.int64), "shape")

    def scalar(self, value: float) -> str:
        """A float32 without dimensions."""
        return self.constant(np.array(value, np.float32), "s")

    def normal(self, shape: Sequence[int], scale: float, name: str = "c") -> str:
        """An initialiser drawn from a normal distribution."""
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32), name)

    def zeros(self, *shape: int) -> str:
        """An initialiser of zeros."""
        return self.constant(np.zeros(shape, np.float32))

    def weight(self, *shape: int, fan: float) -> str:
        """A weight that keeps the size of what has `fan` summands."""
        drawn = self.rng.standard_normal(shape).astype(np.float32)
        return self.constant(drawn * np.float32(np.sqrt(2.0 / fan)), "w")

    def bias(self, extent: int) -> str:
        """A small vector."""
        return self.normal([extent], 0.05, "b")

    def op(self, operator: str, *operands: str, **attributes: Any) -> str:
        """The result of an operator."""
        number = self._next()
        return self._node(operator, operands, [f"{operator.lower()}_{number}"], f"n{number}_{operator}", attributes)[0]

    def top_k(self, scores: str, count: int) -> str:
        """The indices of the smallest elements along axis 1."""
        k = self.integers(count)
        number = self._next()
        results, attributes = [f"topk_{number}_0", f"topk_{number}_1"], {"axis": 1, "largest": 0, "sorted": 1}
        return self._node("TopK", [scores, k], results, f"n{number}_TopK", attributes)[1]

    def _node(
        self, operator: str, operands: Sequence[str], results: list[str], name: str, attributes: dict[str, Any]
    ) -> list[str]:
        self._nodes.append(helper.make_node(operator, operands, results, name=name, **attributes))
        return results

    def _next(self) -> int:
        self._named += 1
        return self._named

    # -- layers ----------------------------------------------------------------------------------------------------

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.op("Relu", x)

    def gemm(self, x: str, takes: int, gives: int, transposed: bool = True) -> str:
        """A dense layer on (batch, takes)."""
        weight = self.weight(gives, takes, fan=takes) if transposed else self.weight(takes, gives, fan=takes)
        return self.op("Gemm", x, weight, self.bias(gives), transB=int(transposed))

    def linear(self, x: str, takes: int, gives: int) -> str:
        """A dense layer on any rank."""
        return self.op("Add", self.op("MatMul", x, self.weight(takes, gives, fan=takes)), self.bias(gives))

    def conv(
        self,
        x: str,
        takes: int,
        gives: int,
        kernel: int | Sequence[int],
        stride: int = 1,
        pads: int | Sequence[int] = 0,
        group: int = 1,
        bias: bool = True,
    ) -> str:
        """A convolution of `takes` channels into `gives`; of two dimensions where `kernel` is one number."""
        kernel = [kernel] * 2 if isinstance(kernel, int) else list(kernel)
        rank = len(kernel)
        each = takes // group
        weight = self.weight(gives, each, *kernel, fan=each * math.prod(kernel))
        operands = [x, weight, *([self.bias(gives)] if bias else [])]
        return self.op(
            "Conv",
            *operands,
            kernel_shape=kernel,
            strides=[stride] * rank,
            pads=[pads] * (2 * rank) if isinstance(pads, int) else list(pads),
            group=group,
            dilations=[1] * rank,
        )

    def batch_norm(self, x: str, channels: int) -> str:
        """A batch normalisation with statistics near 0 and 1."""
        normal, uniform = self.rng.standard_normal, self.rng.random
        drawn = {
            "bn_g": 1 + 0.1 * normal(channels),
            "bn_b": 0.1 * normal(channels),
            "bn_m": 0.1 * normal(channels),
            "bn_v": 1 + 0.2 * uniform(channels),
        }
        constants = [self.constant(array.astype(np.float32), name) for name, array in drawn.items()]
        return self.op("BatchNormalization", x, *constants, epsilon=1e-5)

    def layer_norm(self, x: str, width: int) -> str:
        """A normalisation of the last dimension."""
        scale = self.constant((1 + 0.1 * self.rng.standard_normal(width)).astype(np.float32), "ln_g")
        return self.op("LayerNormalization", x, scale, self.bias(width), axis=-1, epsilon=1e-5)

    def recurrent(self, operator: str, x: str, takes: int, hidden: int, last: bool) -> str:
        """RNN, GRU or LSTM over (steps, 1, takes) from a state of zeros: all hidden states, or the last."""
        gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator]
        initial = self.zeros(1, 1, hidden)
        weights = self.weight(1, gates * hidden, takes, fan=2 * takes)
        recurrence = self.weight(1, gates * hidden, hidden, fan=2 * hidden)
        operands = [x, weights, recurrence, self.normal([1, 2 * gates * hidden], 0.05), "", initial]
        if operator == "LSTM":
            operands.append(self.zeros(1, 1, hidden))
        attributes: dict[str, Any] = {"hidden_size": hidden} | ({"linear_before_reset": 1} if operator == "GRU" else {})
        number = self._next()
        results = ["", f"gru_h_{number}"] if last else [f"{operator.lower()}_y"]
        self._nodes.append(helper.make_node(operator, operands, results, **attributes))
        return results[-1]

    # -- activations and attention -----------------------------------------------------------------------------------

    def gelu_erf(self, x: str) -> str:
        """x (1 + erf(x / sqrt 2)) / 2, in the order in which PyTorch exports it."""
        erf = self.op("Erf", self.op("Div", x, self.scalar(np.sqrt(2.0))))
        return self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.scalar(1.0))), self.scalar(0.5))

    def gelu_tanh(self, x: str) -> str:
        """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
        cube = self.op("Pow", x, self.scalar(3.0))
        inner = self.op("Add", x, self.op("Mul", cube, self.scalar(0.044715)))
        tanh = self.op("Tanh", self.op("Mul", inner, self.scalar(np.sqrt(2 / np.pi))))
        return self.op("Mul", self.op("Mul", x, self.scalar(0.5)), self.op("Add", tanh, self.scalar(1.0)))

    def attention(self, x: str, tokens: int, width: int, heads: int, mask: str | None = None) -> str:
        """Self-attention on (1, tokens, width) with a projection each for queries, keys and values."""
        each = width // heads
        split = []
        for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            projected = self.linear(x, width, width)
            parts = self.op("Reshape", projected, self.integers(1, tokens, heads, each))
            split.append(self.op("Transpose", parts, perm=order))
        queries, keys, values = split
        scores = self.op("Div", self.op("MatMul", queries, keys), self.scalar(np.sqrt(each)))
        if mask is not None:
            scores = self.op("Add", scores, mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)
        joined = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", joined, self.integers(1, tokens, width)), width, width)
