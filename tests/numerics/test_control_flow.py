"""If: the branch that a condition picks, at every level and in C++, with what branches may hold and what they see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from xdsl.dialects import scf

from sofie import interpreter, pipeline
from sofie.compiler import Options, compile_model
from sofie.dialects.onnx import OnnxOp
from sofie.errors import UnsupportedError
from sofie.frontends.onnx import load
from tests import models
from tests.numerics.levels import SPARE

N = helper.make_node
BOOL, INT64, UINT8 = TensorProto.BOOL, TensorProto.INT64, TensorProto.UINT8


def graph(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], kind: int = TensorProto.FLOAT, **weights: np.ndarray
) -> onnx.GraphProto:
    """A branch; it has no inputs."""
    return helper.make_graph(
        list(nodes),
        "branch",
        [],
        [helper.make_tensor_value_info(n, kind, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )


def branch(
    outputs: Sequence[str], then: onnx.GraphProto, other: onnx.GraphProto, condition: str = "c"
) -> onnx.NodeProto:
    return N("If", [condition], list(outputs), name="choice", then_branch=then, else_branch=other)


def model(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    weights: dict | None = None,
    shape: Sequence[int] = (),
    **kinds: int,
) -> onnx.ModelProto:
    inputs = {"x": (3, 4), "c": shape}
    return models.build(nodes, inputs, outputs, weights or {}, {"c": BOOL, **kinds})


W = models.normal(4, 4)
NESTED = branch(
    ["inner"],
    graph([N("Exp", ["t"], ["p"])], ["p"]),
    graph([N("MatMul", ["x", "w"], ["q"])], ["q"]),
    condition="d",
)
CASES = {
    "branches that compute": model(
        [branch(["y"], graph([N("Relu", ["x"], ["a"])], ["a"]), graph([N("MatMul", ["x", "w"], ["b"])], ["b"], w=W))],
        ["y"],
    ),
    "branches that hand out what they see": model(
        [
            N("Exp", ["x"], ["e"]),
            branch(["y"], graph([], ["e"]), graph([], ["x"])),
            N("Relu", ["e"], ["z"]),
        ],
        ["y", "z"],
    ),
    "a branch that is a weight": model(
        [branch(["y"], graph([], ["k"], k=models.normal(3, 4)), graph([N("Neg", ["x"], ["b"])], ["b"]))], ["y"]
    ),
    "the same value twice": model(
        [
            branch(
                ["y", "z"],
                graph([N("Relu", ["x"], ["a"])], ["a", "a"]),
                graph([N("Exp", ["x"], ["b"]), N("Tanh", ["b"], ["d"])], ["d", "b"]),
            ),
            N("Add", ["y", "z"], ["sum"]),
        ],
        ["y", "sum"],
    ),
    "a value that both branches and what follows read": model(
        [
            N("Tanh", ["x"], ["t"]),
            branch(["y"], graph([N("Neg", ["t"], ["a"])], ["a"]), graph([N("Exp", ["t"], ["b"])], ["b"])),
            N("Add", ["t", "y"], ["z"]),
        ],
        ["z"],
    ),
    "a value that dies in the branches": model(
        [
            N("Tanh", ["x"], ["t"]),
            N("Exp", ["x"], ["e"]),
            branch(
                ["y"],
                graph([N("Neg", ["t"], ["a"]), N("MatMul", ["a", "w"], ["a1"]), N("Add", ["a1", "e"], ["a2"])], ["a2"]),
                graph(
                    [N("MatMul", ["e", "w"], ["b"]), N("MatMul", ["b", "w"], ["b1"]), N("Mul", ["b1", "t"], ["b2"])],
                    ["b2"],
                ),
            ),
        ],
        ["y"],
        {"w": W},
    ),
    "chains whose values die one by one": model(
        [
            branch(
                ["y"],
                graph([N("Exp", ["x"], ["a"]), N("Neg", ["a"], ["a1"]), N("Tanh", ["a1"], ["a2"])], ["a2"]),
                graph([N("Neg", ["x"], ["b"]), N("Exp", ["b"], ["b1"]), N("Relu", ["b1"], ["b2"])], ["b2"]),
            ),
            N("Transpose", ["y"], ["z"]),
        ],
        ["z"],
    ),
    "one inside another": model(
        [
            N("Tanh", ["x"], ["t"]),
            N("ReduceSum", ["x"], ["total"], keepdims=0),
            N("Greater", ["total", "zero"], ["d"]),
            branch(["y"], graph([NESTED], ["inner"]), graph([N("Neg", ["t"], ["b"])], ["b"])),
        ],
        ["y"],
        {"w": W, "zero": np.float32(0)},
    ),
    "one behind another, into a Concat": model(
        [
            branch(["a"], graph([N("Relu", ["x"], ["a1"])], ["a1"]), graph([N("Exp", ["x"], ["a2"])], ["a2"])),
            N("Not", ["c"], ["d"]),
            branch(["b"], graph([N("Relu", ["a"], ["b1"])], ["b1"]), graph([N("Neg", ["a"], ["b2"])], ["b2"]), "d"),
            N("Concat", ["a", "b", "a"], ["y"], axis=1),
        ],
        ["y"],
    ),
    "softmax in a branch": model(
        [
            branch(
                ["y"],
                graph([N("Softmax", ["x"], ["s"], axis=1)], ["s"]),
                graph([N("Gemm", ["x", "w", "v"], ["g"]), N("Sigmoid", ["g"], ["b"])], ["b"], v=models.normal(4)),
            )
        ],
        ["y"],
        {"w": W},
    ),
    "a condition of one element": model(
        [branch(["y"], graph([N("Relu", ["x"], ["a"])], ["a"]), graph([N("Exp", ["x"], ["b"])], ["b"]))],
        ["y"],
        shape=(1,),
    ),
    "bytes": model(
        [
            N("Cast", ["x"], ["i"], to=UINT8),
            branch(
                ["y"],
                graph([N("Add", ["i", "i"], ["a"])], ["a"], UINT8),
                graph([N("Div", ["i", "two"], ["b"])], ["b"], UINT8, two=np.uint8(2)),
            ),
        ],
        ["y"],
        y=UINT8,
    ),
    "a recurrent layer in a branch": model(
        [
            N("Unsqueeze", ["x", "axis"], ["u"]),
            branch(
                ["y"],
                graph([N("RNN", ["u", "W", "R"], ["r", ""], hidden_size=4), N("Reshape", ["r", "flat"], ["a"])], ["a"]),
                graph([N("Neg", ["x"], ["b"])], ["b"]),
            ),
        ],
        ["y"],
        {"W": models.normal(1, 4, 4), "R": models.normal(1, 4, 4), "flat": np.array([3, 4]), "axis": np.array([1])},
    ),
}


def feeds(case: onnx.ModelProto, condition: bool) -> dict[str, np.ndarray]:
    shape = [d.dim_value for d in case.graph.input[1].type.tensor_type.shape.dim]
    return {"x": np.abs(models.normal(3, 4)), "c": np.full(shape, condition)}


@pytest.mark.parametrize("spec", SPARE)
@pytest.mark.parametrize("name", CASES)
def test_every_level(name: str, spec: str) -> None:
    """A pass that breaks a branch: a result left where the other branch wrote, a shared byte, a captured value lost."""
    case = CASES[name]
    for condition in (True, False):
        given = feeds(case, condition)
        module = load(case)
        assert any(o.operator == "If" for o in module.walk() if isinstance(o, OnnxOp))
        if spec:
            pipeline.run(module, pipeline.parse(spec), verify_each=True)
            assert any(isinstance(o, scf.IfOp) for o in module.walk())
        expected = ReferenceEvaluator(case).run(None, given)
        for got, want in zip(interpreter.run(module, list(given.values())), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str) -> None:
    """The emitted condition, or a pointer that only one branch knows."""
    case = CASES[name]
    compiled = compile_model(case, Options())
    for condition in (True, False):
        given = feeds(case, condition)
        expected = ReferenceEvaluator(case).run(None, given)
        for got, want in zip(compiled.run(given).values(), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_known_condition_leaves_one_branch(name: str, condition: bool) -> None:
    """A branch that is compiled though it can never run, or whose names are lost when it moves out."""
    case = CASES[name]
    given = feeds(case, condition)
    module = load(case, values={"c": given["c"]})
    chosen = [o for o in module.walk() if isinstance(o, OnnxOp) and o.operator == "If"]
    assert len(chosen) == (1 if name == "one inside another" and condition else 0)
    expected = ReferenceEvaluator(case).run(None, given)
    for got, want in zip(interpreter.run(module, [given["x"]]), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_branches_of_other_shapes_need_a_known_condition() -> None:
    """Shapes that depend on the condition: refused with the remedy, and fine where the condition is known."""
    other = graph([N("Transpose", ["x"], ["b"])], ["b"])
    case = model([branch(["y"], graph([N("Relu", ["x"], ["a"])], ["a"]), other)], ["y"])
    with pytest.raises(UnsupportedError) as raised:
        load(case)
    assert "'choice' (If)" in str(raised.value)
    assert "--set" in str(raised.value)
    assert load(case, values={"c": False}) is not None


@pytest.mark.parametrize("opset", [11, 13])
def test_branches_of_older_opsets_are_converted(opset: int) -> None:
    """A node inside a branch that keeps the meaning of an older version: Softmax before 13 flattens."""
    nodes = [branch(["y"], graph([N("Softmax", ["x"], ["a"])], ["a"]), graph([N("Neg", ["x"], ["b"])], ["b"]))]
    case = models.build(nodes, {"x": [2, 3, 4], "c": []}, ["y"], {}, {"c": BOOL}, opset=opset)
    given = {"x": models.normal(2, 3, 4), "c": np.array(True)}
    module = load(case)
    (got,) = interpreter.run(module, list(given.values()))
    axes = (1, 2) if opset == 11 else 2
    power = np.exp(given["x"])
    np.testing.assert_allclose(got, power / power.sum(axes, keepdims=True), rtol=1e-5)


def test_condition_that_becomes_known_is_folded() -> None:
    """fold-constants on an If whose condition is a weight."""
    text = """
    func.func @infer(%x: tensor<3xf32>) -> tensor<3xf32> {
      %c = sofie.weight "c" <dense<true> : tensor<i1>> : tensor<i1>
      %y = onnx.If(%c) then_branch {
        %a = onnx.Neg(%x) : (tensor<3xf32>) -> tensor<3xf32>
        onnx.yield %a : tensor<3xf32>
      } else_branch {
        onnx.yield %x : tensor<3xf32>
      } : (tensor<i1>) -> tensor<3xf32>
      func.return %y : tensor<3xf32>
    }"""
    from xdsl.parser import Parser

    module = Parser(pipeline.context(), text).parse_module()
    assert str(Parser(pipeline.context(), str(module)).parse_module()) == str(module)
    pipeline.run(module, pipeline.parse("fold-constants"), verify_each=True)
    assert [o.operator for o in module.walk() if isinstance(o, OnnxOp)] == ["Neg"]
