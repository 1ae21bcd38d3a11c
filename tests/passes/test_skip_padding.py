"""Sums that leave out known zeros: the same bits, and only where they are zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest
from xdsl.dialects.linalg.ops import GenericOp

import sofie
from sofie import pipeline
from sofie.frontends.onnx import load
from sofie.passes.skip_padding import insides

BEFORE = "fuse,fill-borders,pack-weights,assign-destinations,bufferize,plan-memory,collapse-loops"


def model_of(
    op: str = "Conv",
    image: tuple[int, ...] = (9, 10),
    kernel: tuple[int, ...] = (3, 3),
    pads: tuple[int, ...] = (1, 1, 1, 1),
    channels: int = 4,
    outputs: int = 20,
    batch: int = 1,
    group: int = 1,
    pad_value: float | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """One convolution; with `pad_value`, of what a Pad has put such values around; then Relu."""
    rng = np.random.default_rng(5)
    shape = (channels, outputs // group) if op == "ConvTranspose" else (outputs, channels // group)
    constants = {"w": rng.standard_normal((*shape, *kernel)), "b": rng.standard_normal(outputs)}
    nodes = []
    last, given = "x", list(pads)
    if pad_value is not None:
        rank = len(image)
        constants["around"] = np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64)
        constants["value"] = np.array(pad_value)
        nodes.append(oh.make_node("Pad", ["x", "around", "value"], ["p"]))
        last, given = "p", [0] * len(pads)
    nodes.append(oh.make_node(op, [last, "w", "b"], ["c"], pads=given, group=group, **attributes))
    nodes.append(oh.make_node("Relu", ["c"], ["y"]))
    kinds = {"around": np.int64}
    weights = [onnx.numpy_helper.from_array(a.astype(kinds.get(n, np.float32)), n) for n, a in constants.items()]
    x = oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, channels, *image])
    y = oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = oh.make_graph(nodes, "padded", [x], [y], weights)
    return onnx.shape_inference.infer_shapes(
        oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    )


def skipped(model: onnx.ModelProto, passes: str = BEFORE) -> list[tuple[int, int]]:
    """The range in which terms are not zero, for every sum from which the pass takes any."""
    module = load(model)
    pipeline.run(module, pipeline.parse(f"{passes},skip-padding"))
    return [(i.low, i.high) for op in module.walk() if isinstance(op, GenericOp) for i in insides(op)]


CASES: dict[str, tuple[dict[str, Any], list[tuple[int, int]]]] = {
    "padded": ({}, [(1, 10)]),
    "uneven": ({"kernel": (4, 4), "pads": (3, 0, 1, 2)}, [(3, 12)]),
    "above only": ({"pads": (2, 0, 0, 0)}, [(2, 11)]),
    "stride": ({"kernel": (5, 5), "pads": (2, 2, 2, 2), "image": (12, 12), "strides": [2, 2]}, [(2, 14)]),
    "all of a row": ({"kernel": (2, 3), "pads": (3, 1, 3, 1)}, [(3, 12)]),
    "batch": ({"batch": 3}, [(1, 10)]),
    "depthwise": ({"group": 20, "channels": 20, "kernel": (7, 7), "pads": (3, 3, 3, 3)}, [(3, 12)]),
    "grouped": ({"group": 2, "channels": 8}, []),  # copied after it is padded
    "volume": (
        {"image": (5, 6, 7), "kernel": (3, 3, 3), "pads": (1, 1, 1, 1, 1, 1)},
        [(1, 6), (1, 7)],
    ),
    "ConvTranspose": ({"op": "ConvTranspose", "kernel": (4, 4), "pads": (0, 0, 0, 0)}, [(3, 12)]),
    "ConvTranspose with stride": (
        {"op": "ConvTranspose", "pads": (0, 0, 0, 0), "strides": [2, 2], "channels": 16},
        [(1, 10), (1, 10)],
    ),
    "Pad with zeros": ({"pad_value": 0.0}, [(1, 10)]),
}


@pytest.mark.parametrize(("case", "ranges"), CASES.values(), ids=CASES.keys())
def test_bits(case: dict[str, Any], ranges: list[tuple[int, int]]) -> None:
    """A bound that is one off at either end, a sum that starts beyond its end, a row that is no padding."""
    model = model_of(**case)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    assert skipped(model, BEFORE) == ranges
    results = [
        sofie.compile(model, without=["winograd", *without], **options).run(feeds)["y"]
        for without, options in (((), {}), (["skip-padding"], {}), ((), {"threads": 2}), (["fill-borders"], {}))
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


DECLINED: dict[str, dict[str, Any]] = {
    "nothing is padded": {"pads": (0, 0, 0, 0)},
    "only columns are padded": {"pads": (0, 1, 0, 1)},
    "few columns": {"image": (9, 3)},
    "dilated": {"dilations": [2, 2], "pads": (2, 2, 2, 2)},
    "padded with something else": {"pad_value": 1.0},
    "little to save": {"image": (60, 20)},
    "few terms": {"group": 20, "channels": 20},
}


@pytest.mark.parametrize("case", DECLINED.values(), ids=DECLINED.keys())
def test_declines(case: dict[str, Any]) -> None:
    """Terms left out that are no zeros, or a tile whose rows leave out different ones."""
    assert skipped(model_of(**case)) == []
