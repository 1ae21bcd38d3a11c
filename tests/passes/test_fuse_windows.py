"""Convolutions and the windows behind them, a panel of channels at a time: the same bits as one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest
from xdsl.dialects import scf

import sofie
from sofie import pipeline
from sofie.frontends.onnx import load
from sofie.loops import trips

CASES: dict[str, dict[str, Any]] = {
    "depthwise": {},
    "depthwise with stride": {"stride": 2, "height": 9},
    "depthwise with bias and clip": {"bias": True, "clip": True},
    "depthwise without padding": {"pads": (0, 0, 0, 0)},
    "depthwise, padding uneven": {"pads": (0, 1, 2, 1)},
    "3x3 before": {"kernel": 3, "clip": True},
    "batch": {"batch": 3, "bias": True},
    "residual before": {"residual": True, "bias": True},
    "MaxPool": {"window": "MaxPool"},
    "MaxPool with stride": {"window": "MaxPool", "stride": 2, "kernel": 3, "clip": True, "height": 11},
    "AveragePool": {"window": "AveragePool", "stride": 2, "pads": (0, 0, 0, 0)},
}


def model_of(
    height: int = 8,
    width: int = 7,
    channels: int = 6,
    outputs: int = 32,
    kernel: int = 1,
    batch: int = 1,
    window: str = "Conv",
    stride: int = 1,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    bias: bool = False,
    clip: bool = False,
    residual: bool = False,
    read_twice: bool = False,
) -> onnx.ModelProto:
    """Conv, perhaps a sum, perhaps Clip; a depthwise Conv or a pool over 3x3; perhaps Clip; and a 1x1 Conv."""
    rng = np.random.default_rng(3)
    weights = {
        "w": rng.standard_normal((outputs, channels, kernel, kernel)),
        "d": rng.standard_normal((outputs, 1, 3, 3)),
        "p": rng.standard_normal((8, outputs, 1, 1)),
        "b": rng.standard_normal(outputs),
        "low": np.array(-1.0),
        "high": np.array(1.5),
    }
    more = ["b"] if bias else []
    between = [batch, outputs, height - kernel + 1, width - kernel + 1]
    nodes = [oh.make_node("Conv", ["x", "w", *more], ["t"])]
    if residual:
        nodes.append(oh.make_node("Add", ["t", "r"], ["t_r"]))
    if clip:
        nodes.append(oh.make_node("Clip", [nodes[-1].output[0], "low", "high"], ["t_c"]))
    attributes = {"kernel_shape": [3, 3], "strides": [stride] * 2, "pads": list(pads)}
    last = nodes[-1].output[0]
    if window == "Conv":
        nodes.append(oh.make_node("Conv", [last, "d", *more], ["z"], group=outputs, **attributes))
    else:
        nodes.append(oh.make_node(window, [last], ["z"], **attributes))
    if clip:
        nodes.append(oh.make_node("Clip", ["z", "low", "high"], ["z_c"]))
    results = ["y", last] if read_twice else ["y"]
    nodes.append(oh.make_node("Conv", [nodes[-1].output[0], "p"], ["y"]))

    def value(name: str, shape: list[int] | None) -> onnx.ValueInfoProto:
        return oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    inputs = [value("x", [batch, channels, height, width])] + ([value("r", between)] if residual else [])
    used = {name for node in nodes for name in node.input}
    constants = [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items() if n in used]
    graph = oh.make_graph(nodes, "windows", inputs, [value(n, None) for n in results], constants)
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


FUSED = "fuse,fuse-windows{min_bytes=0}"


def panels(model: onnx.ModelProto, passes: str = FUSED) -> list[int]:
    """How many panels each loop has that the pass makes."""
    module = load(model)
    pipeline.run(module, pipeline.parse(passes))
    loops = [op for op in module.walk() if isinstance(op, scf.ForOp)]
    assert all(op.body.block.args[0].name_hint == "panel" for op in loops)
    return [trips(op.lb, op.ub, op.step) or 0 for op in loops]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bits(case: dict[str, Any]) -> None:
    """A panel that reads or writes the channels of another, zeros around that do not stay zeros."""
    model = model_of(**case)
    rng = np.random.default_rng(1)
    feeds = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32)
        for i in model.graph.input
    }
    assert panels(model) == [2]
    fused = sofie.compile(model, passes=f"{FUSED},lower").run(feeds)["y"]
    apart = sofie.compile(model, without=["fuse-windows"]).run(feeds)["y"]
    np.testing.assert_array_equal(fused, apart)


DECLINED: dict[str, dict[str, Any]] = {
    "channels are no multiple of a panel": {"outputs": 24},
    "a single panel": {"outputs": 16},
    "another reader": {"read_twice": True},
}


@pytest.mark.parametrize("case", DECLINED.values(), ids=DECLINED.keys())
def test_declines(case: dict[str, Any]) -> None:
    """A loop where there is nothing to gain, or where what is between has to be there as a whole."""
    assert panels(model_of(**case)) == []


def test_stays_apart_in_the_cache() -> None:
    """By itself, the pass only joins what is larger than the cache, and takes panels that are not."""
    assert panels(model_of(height=12, width=12, outputs=64), "fuse") == []
    assert panels(model_of(height=64, width=64, outputs=64), "fuse") == [4]
    assert panels(model_of(height=300, width=300, outputs=32), "fuse") == []
