"""Destinations: what may be overwritten, what must not, and what costs no copy. Numbers are the interpreter's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sofie import interpreter, pipeline
from sofie.frontends.onnx import load
from tests import models

N = helper.make_node

CASES = {
    "a value is read after an op that could overwrite it": [
        N("Tanh", ["x"], ["a"]),
        N("Relu", ["a"], ["b"]),
        N("Add", ["a", "b"], ["y"]),
    ],
    "a value is read through a view after it": [
        N("Tanh", ["x"], ["a"]),
        N("Reshape", ["a", "flat"], ["r"]),
        N("Relu", ["a"], ["b"]),
        N("Reshape", ["b", "flat"], ["s"]),
        N("Add", ["r", "s"], ["y"]),
    ],
    "both operands are the same value": [N("Tanh", ["x"], ["a"]), N("Mul", ["a", "a"], ["y"])],
    "an operand is read transposed by the op itself": [
        N("Tanh", ["x"], ["a"]),
        N("Transpose", ["a"], ["t"]),
        N("Add", ["a", "t"], ["y"]),
    ],
    "the same value goes into two places of a Concat": [
        N("Tanh", ["x"], ["a"]),
        N("Concat", ["a", "a"], ["y"], axis=0),
    ],
    "a part of a Concat is also read alone": [
        N("Tanh", ["x"], ["a"]),
        N("Relu", ["x"], ["b"]),
        N("Concat", ["a", "b"], ["c"], axis=1),
        N("ReduceSum", ["c"], ["s"], keepdims=0),
        N("Add", ["a", "s"], ["y"]),
    ],
    "a Concat of a Concat": [
        N("Tanh", ["x"], ["a"]),
        N("Relu", ["x"], ["b"]),
        N("Concat", ["a", "b"], ["c"], axis=1),
        N("Concat", ["c", "c", "x"], ["d"], axis=1),
        N("Neg", ["d"], ["y"]),
    ],
    "a padded value is also read unpadded": [
        N("Tanh", ["x"], ["a"]),
        N("Pad", ["a", "pads"], ["p"]),
        N("ReduceSum", ["p"], ["s"], keepdims=0),
        N("Add", ["a", "s"], ["y"]),
    ],
    "a Concat is overwritten while a part of it is still read": [
        N("Concat", ["x", "x"], ["a"], axis=1),
        N("Concat", ["a", "a"], ["c"], axis=0),
        N("Relu", ["c"], ["r"]),
        N("ReduceSum", ["r"], ["s"], keepdims=0),
        N("Add", ["a", "s"], ["y"]),
    ],
    "a result is also an operand of what follows": [N("Tanh", ["x"], ["y"]), N("Relu", ["y"], ["z"])],
    "two reversals cut to the first element": [
        N("Reshape", ["x", "flat"], ["f"]),
        N("Slice", ["f", "first", "before", "axis", "back"], ["r"]),
        N("Slice", ["r", "first", "before", "axis", "back"], ["s"]),
        N("Tanh", ["s"], ["y"]),
    ],
    "an input is a result": [N("Identity", ["x"], ["y"])],
}


@pytest.mark.parametrize("in_place", ["true", "false"])
@pytest.mark.parametrize(
    "without", [[], ["fuse-elementwise", "fuse-epilogue", "fuse-reduction"]], ids=["fused", "bare"]
)
@pytest.mark.parametrize("case", CASES)
def test_no_write_overtakes_a_read(case: str, without: list[str], in_place: str) -> None:
    nodes = CASES[case]
    outputs = ["y", "z"] if any("z" in n.output for n in nodes) else ["y"]
    weights = {
        "flat": np.array([9]),
        "pads": np.array([1, 0, 0, 2]),
        "first": np.array([0]),
        "before": np.array([-99]),
        "axis": np.array([0]),
        "back": np.array([-1]),
    }
    model = models.build(nodes, {"x": [3, 3]}, outputs, weights)
    feeds = models.feeds(model)
    module = load(model)
    passes = f"fuse,assign-destinations{{in-place={in_place}}},bufferize,plan-memory"
    pipeline.run(module, pipeline.parse(passes, without))
    for got, want in zip(interpreter.run(module, [feeds["x"]]), reference(model, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ReferenceEvaluator(model).run(None, feeds)


def copies(model: onnx.ModelProto) -> int:
    """Kernels that only move: groups of one generic without arithmetic."""
    module = load(model)
    pipeline.run(module, pipeline.parse("fuse,assign-destinations,bufferize"))
    from sofie import structured
    from sofie.dialects.sofie import FusedOp

    groups = [op for op in module.walk() if isinstance(op, FusedOp)]
    return sum(all(not structured.body_ops(m) for m in g.members() if m.regions) for g in groups)


def test_a_copy_for_scalar_code_is_seen_by_what_follows() -> None:
    """An op behind the copy that looks for it among the ops there were before, and fails."""
    nodes = [
        N("Tanh", ["x"], ["t"]),
        N("HardSwish", ["t"], ["y"]),
        N("Unsqueeze", ["x", "axis"], ["v"]),
        N("ScatterElements", ["v", "i", "update"], ["s"]),
        N("LeakyRelu", ["s"], ["unread"]),
    ]
    weights = {"axis": np.array([0]), "update": np.ones(1, np.float32)}
    model = models.build(nodes, {"x": [], "i": [1]}, ["y"], weights, {"i": TensorProto.INT64})
    module, feeds = load(model), {"x": np.float32(-2), "i": np.array([0])}
    pipeline.run(module, pipeline.parse("fuse,assign-destinations,bufferize,plan-memory", ["fuse-elementwise"]))
    for got, want in zip(interpreter.run(module, list(feeds.values())), reference(model, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_parts_of_a_concat_are_computed_in_place() -> None:
    """A copy for each part."""
    nodes = [N("Tanh", ["x"], ["a"]), N("Relu", ["x"], ["b"]), N("Concat", ["a", "b"], ["y"], axis=1)]
    assert copies(models.build(nodes, {"x": [3, 3]}, ["y"], {})) == 0


def test_padding_of_a_convolution_costs_no_copy_of_its_input() -> None:
    """A producer that does not write into the interior of the padded buffer."""
    nodes = [N("Tanh", ["x"], ["a"]), N("Conv", ["a", "w"], ["y"], pads=[1, 1, 1, 1])]
    assert copies(models.build(nodes, {"x": [1, 2, 5, 5]}, ["y"], {"w": models.normal(3, 2, 3, 3)})) == 0
