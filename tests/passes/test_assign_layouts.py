"""Channels last and batch last: the same numbers through everything that may stand between convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import onnxruntime as ort
import pytest

import sofie


class Net:
    """A graph of nodes one after the other, with random weights."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(3)

    def constant(self, array: Any) -> str:
        """A constant."""
        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape: int) -> str:
        """A random one of float32."""
        return self.constant((self._rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one result."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(oh.make_node(kind, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, channels: int, outputs: int, kernel: int = 3, **attributes: Any) -> str:
        """A convolution that keeps the size, unless strides say otherwise."""
        group = attributes.get("group", 1)
        w = self.weight(outputs, channels // group, kernel, kernel)
        pads = [kernel // 2] * 4
        return self.op("Conv", x, w, pads=pads, **attributes)


def _residual(net: Net) -> list[str]:
    a = net.op("Relu", net.conv("x", 16, 16))
    return [net.op("Relu", net.op("Add", net.conv(a, 16, 16), a))]


def _concat_slice_pool(net: Net) -> list[str]:
    a, b = net.conv("x", 16, 24), net.conv("x", 16, 8, 1)
    joined = net.op("Concat", a, b, axis=1)
    part = net.op("Slice", joined, net.constant([4, 1]), net.constant([28, 11]), net.constant([1, 2]))
    pooled = net.op("MaxPool", part, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return [net.op("AveragePool", pooled, kernel_shape=[2, 2], ceil_mode=1), joined]


def _groups(net: Net) -> list[str]:
    a = net.conv("x", 16, 16, group=16)
    b = net.conv(net.op("Clip", a, net.constant(np.float32(0)), net.constant(np.float32(6))), 16, 32, group=4)
    return [net.conv(b, 32, 8, strides=[2, 1], dilations=[1, 2])]


def _head(net: Net) -> list[str]:
    a = net.op("Relu", net.conv("x", 16, 32))
    pooled = net.op("GlobalAveragePool", a)
    flat = net.op("Flatten", pooled)
    gate = net.op("Sigmoid", net.op("MatMul", flat, net.weight(32, 32)))
    scaled = net.op("Mul", a, net.op("Reshape", gate, net.constant([1, 32, 1, 1])))
    return [net.op("Softmax", scaled, axis=1), net.op("Flatten", scaled), net.op("ReduceMax", a, net.constant([1]))]


def _upsample(net: Net) -> list[str]:
    a = net.conv("x", 16, 16)
    up = net.op("ConvTranspose", a, net.weight(16, 8, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1])
    sizes = net.constant(np.array([1, 1, 2, 2], np.float32))
    asymmetric = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    resized = net.op("Resize", a, "", sizes, **asymmetric)
    both = net.op("Concat", up, resized, axis=1)
    return [net.op("InstanceNormalization", net.conv(both, 24, 8), net.weight(8), net.weight(8))]


def _shuffle(net: Net) -> list[str]:
    a = net.conv("x", 16, 16)
    apart = net.op("Reshape", a, net.constant([1, 4, 4, 12, 10]))
    swapped = net.op("Transpose", apart, perm=[0, 2, 1, 3, 4])
    b = net.op("Reshape", swapped, net.constant([1, 16, 12, 10]))
    c = net.conv(b, 16, 16)
    return [net.op("DepthToSpace", c, blocksize=2), net.op("Squeeze", net.op("ReduceSum", c, net.constant([2, 3])))]


NETS: list[Callable[[Net], list[str]]] = [_residual, _concat_slice_pool, _groups, _head, _upsample, _shuffle]


def _model(build: Callable[[Net], list[str]]) -> onnx.ModelProto:
    net = Net()
    outputs = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in build(net)]
    inputs = [oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 16, 12, 10])]
    graph = oh.make_graph(net.nodes, "net", inputs, outputs, net.weights)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)


LEFT_OUT = [[], ["assign-layouts"], ["winograd", "collapse-loops"], ["fuse-elementwise"]]


@pytest.mark.parametrize("without", LEFT_OUT, ids=str)
@pytest.mark.parametrize("build", NETS)
def test_channels_last(build: Callable[[Net], list[str]], without: list[str]) -> None:
    """An op that reads or writes a tensor in an order it does not have."""
    model = _model(build)
    x = np.random.default_rng(0).standard_normal((1, 16, 12, 10)).astype(np.float32)
    got = sofie.compile(model, without=without).run({"x": x})
    names = [o.name for o in model.graph.output]
    for name, want in zip(names, ort.InferenceSession(model.SerializeToString()).run(names, {"x": x}), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=2e-5, atol=2e-5 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize("batch", [16, 48, 64])
@pytest.mark.parametrize("without", [[], ["assign-layouts"], ["pack-weights"]], ids=str)
def test_batch_last(batch: int, without: list[str]) -> None:
    """Weights by rows and by columns, an elementwise op, a residual and a result in the model's own order."""
    net = Net()
    a = net.op("Relu", net.op("Gemm", "x", net.weight(50, 30), transB=1))
    b = net.op("Tanh", net.op("Gemm", a, net.weight(50, 50), net.constant(np.ones(50, np.float32))))
    y = net.op("Softmax", net.op("MatMul", net.op("Add", a, b), net.weight(50, 10)), axis=1)
    outputs = [oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in (y, b)]
    inputs = [oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 30])]
    graph = oh.make_graph(net.nodes, "mlp", inputs, outputs, net.weights)
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)
    x = np.random.default_rng(0).standard_normal((batch, 30)).astype(np.float32)
    got = sofie.compile(model, without=without).run({"x": x})
    for name, want in zip((y, b), ort.InferenceSession(model.SerializeToString()).run([y, b], {"x": x}), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=2e-5, atol=2e-6, err_msg=name)


def test_border_at_a_run_time_batch_between_transposes() -> None:
    """Padding that is turned and loses the size that the run tells: a depthwise convolution of Keras."""
    net = Net()
    first = net.op("Transpose", "x", perm=[0, 2, 1])
    deep = net.op("Conv", first, net.weight(8, 1, 3), group=4, pads=[1, 1])
    last = net.op("Transpose", deep, perm=[0, 2, 1])
    x, y = (oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 9, c]) for n, c in (("x", 4), (last, 8)))
    graph = oh.make_graph(net.nodes, "g", [x], [y], net.weights)
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 22)], ir_version=10)
    compiled = sofie.compile(model, dims={"batch": (1, 8)})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        values = np.random.default_rng(batch).standard_normal((batch, 9, 4)).astype(np.float32)
        np.testing.assert_allclose(compiled(values), session.run(None, {"x": values})[0], rtol=1e-6, atol=1e-6)
