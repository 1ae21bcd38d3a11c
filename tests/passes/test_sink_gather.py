"""Products before rows are repeated: the same numbers, less work, and no digits lost. Numbers are the interpreter's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sofie import interpreter, pipeline
from sofie.dialects.onnx import OnnxOp
from sofie.frontends.onnx import load
from sofie.work import flops
from tests import models

N = helper.make_node

NODES, EDGES, WIDTH, OUTPUTS = 6, 10, 24, 5

EDGE = [
    N("Gather", ["x", "edges"], ["j"], axis=0),
    N("Unsqueeze", ["x", "one"], ["u"]),
    N("Expand", ["u", "shape"], ["i"]),
    N("Sub", ["j", "i"], ["d"]),
]
CASES = {
    "own features and differences": [
        *EDGE,
        N("Concat", ["i", "d"], ["c"], axis=2),
        N("MatMul", ["c", "w2"], ["y"]),
    ],
    "the difference comes first, and is also read itself": [
        *EDGE,
        N("Concat", ["d", "j"], ["c"], axis=-1),
        N("MatMul", ["c", "w2"], ["p"]),
        N("ReduceSum", ["d"], ["s"], keepdims=0),
        N("Add", ["p", "s"], ["y"]),
    ],
    "only repeated rows": [*EDGE[:3], N("MatMul", ["i", "w"], ["y"])],
    "rows of another axis": [
        N("Gather", ["v", "edges"], ["j"], axis=-2),
        N("MatMul", ["j", "w"], ["y"]),
    ],
    "beside what is not repeated": [
        N("Gather", ["x", "edges"], ["j"], axis=0),
        N("Concat", ["j", "e"], ["c"], axis=2),
        N("MatMul", ["c", "w2"], ["y"]),
    ],
}
INPUTS = {"x": (NODES, WIDTH), "v": (2, NODES, WIDTH), "e": (NODES, EDGES, WIDTH)}


def model_of(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    weights = {
        "w": models.normal(WIDTH, OUTPUTS, seed=1),
        "w2": models.normal(2 * WIDTH, OUTPUTS, seed=2),
        "edges": models.rng(3).integers(-NODES, NODES, (NODES, EDGES)),
        "one": np.array([1]),
        "shape": np.array([NODES, EDGES, WIDTH]),
    }
    used = {name for node in nodes for name in node.input}
    inputs = {name: shape for name, shape in INPUTS.items() if name in used}
    return models.build(nodes, inputs, ["y"], {k: v for k, v in weights.items() if k in used})


def sunk(model: onnx.ModelProto, options: str = "") -> tuple[int, int, list[np.ndarray]]:
    """Floating-point operations before and after, and the results after."""
    counts = []
    for passes in ("", f"sink-gather{options},"):
        module = load(model)
        pipeline.run(module, pipeline.parse(f"{passes}decompose,lower-onnx,dce"))
        counts.append(flops(module))
    feeds = models.feeds(model)
    return counts[0], counts[1], interpreter.run(module, [feeds[i.name] for i in model.graph.input])


@pytest.mark.parametrize("case", CASES)
def test_results_stay_and_work_shrinks(case: str) -> None:
    """Weights that go to the wrong rows, a sign that is lost, a Gather along another axis."""
    model = model_of(CASES[case])
    before, after, got = sunk(model)
    want = ReferenceEvaluator(model).run(None, models.feeds(model))
    assert after < (0.9 if case.startswith("beside") else 0.6) * before
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


def test_a_difference_that_is_all_there_is_stays() -> None:
    """Far from the origin, the products of neighbours cancel to noise."""
    model = model_of([*EDGE, N("MatMul", ["d", "w"], ["y"])])
    before, after, _ = sunk(model)
    assert after == before


def test_small_direct_weights_keep_the_difference() -> None:
    """The same, where the features reach the result with hardly any weight."""
    model = model_of(CASES["own features and differences"])
    (w2,) = [i for i in model.graph.initializer if i.name == "w2"]
    array = onnx.numpy_helper.to_array(w2).copy()
    array[:WIDTH] *= 0.01
    w2.CopyFrom(onnx.numpy_helper.from_array(array, "w2"))
    before, after, _ = sunk(model)
    assert after == before
    before, after, _ = sunk(model, "{max-growth=1000}")
    assert after < before


def test_rows_that_are_not_repeated_stay() -> None:
    """A Gather of fewer rows than there are: more products, not fewer."""
    nodes = [N("Gather", ["x", "few"], ["j"], axis=0), N("MatMul", ["j", "w"], ["y"])]
    weights = {"few": np.array([1, 4]), "w": models.normal(WIDTH, OUTPUTS)}
    module = load(models.build(nodes, {"x": (NODES, WIDTH)}, ["y"], weights))
    pipeline.run(module, pipeline.parse("sink-gather"))
    (product,) = [op for op in module.walk() if isinstance(op, OnnxOp) and op.operator == "MatMul"]
    assert isinstance(product.inputs[0].owner, OnnxOp) and product.inputs[0].owner.operator == "Gather"
