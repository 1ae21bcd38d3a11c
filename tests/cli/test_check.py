"""`sofie check`: right code passes, wrong code does not, and the rule is what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sofie import check as checking
from sofie import executors
from sofie.check import check
from sofie.compiler import Options
from sofie.emit.ports import Port
from sofie.executors import in_double
from sofie.passes.lower_onnx import rules
from sofie.verdict import FACTOR, OutputReport, Tally, distance
from tests import models
from tests.cli.conftest import Fails, Invoke

compiled = pytest.mark.usefixtures("needs_compiler")


@compiled
@pytest.mark.parametrize("name", models.ALL)
def test_right_code_agrees(name: str) -> None:
    report = check(models.ALL[name](), samples=2, seed=3)
    assert report.agrees and report.truth == "onnx.reference in float64" and report.samples == 2
    assert all(o.error == 0 for o in report.outputs if o.dtype != "float32")


@compiled
def test_the_command_shows_a_row_an_output(invoke: Invoke, mlp: Path) -> None:
    result = invoke("check", mlp, "--dim", "batch=2", "--samples", "2")
    assert result.exit_code == 0, result.stderr
    assert "y float32[2, 5]" in result.stdout and "2 random samples, seed 0" in result.stdout
    assert "every output agrees" in result.stdout


@compiled
def test_given_inputs_are_used_and_bind_dimensions(invoke: Invoke, mlp: Path) -> None:
    np.savez("in.npz", x=models.normal(6, 7))
    result = invoke("check", mlp, "--input", "in.npz", "--json")
    report = json.loads(result.stdout)
    assert report["agrees"] and report["seed"] is None and report["outputs"][0]["shape"] == [6, 5]


@compiled
@pytest.mark.parametrize("operator", ["Relu", "Softmax"])
def test_wrong_code_is_found_and_the_status_says_so(
    invoke: Invoke, mlp: Path, monkeypatch: pytest.MonkeyPatch, operator: str
) -> None:
    monkeypatch.setitem(rules(), ("", operator), lambda op, build: build.operand(0))
    result = invoke("check", mlp, "--dim", "batch=2")
    assert result.exit_code == 1
    assert "disagrees" in result.stdout and "1 of 1 outputs disagree" in result.stdout


@compiled
def test_one_wrong_bit_in_the_exponent_of_an_integer_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    results = checking.Model.run

    def off_by_one(self: checking.Model, feeds: dict[str, object]) -> dict[str, np.ndarray]:
        made = results(self, feeds)
        made["where"] = made["where"] + 1
        return made

    monkeypatch.setattr(checking.Model, "run", off_by_one)
    wrong = [o.name for o in check(models.integers()).outputs if not o.agrees]
    assert wrong == ["where"]


@compiled
def test_where_the_reference_is_wrong_onnx_runtime_counts() -> None:
    where = next(o for o in check(models.integers()).outputs if o.name == "where")
    assert where.agrees and where.note == "as ONNX Runtime has it, onnx.reference differs"


def test_another_shape_disagrees() -> None:
    counted = Tally(Port("y", "y", "float32", (2,)))
    counted.add(np.zeros(2, np.float32), np.zeros(3), None, None)
    verdict = counted.verdict()
    assert not verdict.agrees and "(2,)" in verdict.note and "(3,)" in verdict.note


@compiled
def test_constants_set_on_the_command_line_reach_the_reference(invoke: Invoke) -> None:
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    onnx.save(models.build(nodes, {"x": [3], "scale": [1]}, ["y"], {}), "scaled.onnx")
    assert invoke("check", "scaled.onnx", "--set", "scale=3").exit_code == 0


@compiled
def test_without_onnx_runtime_the_reference_is_the_yardstick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    report = check(models.mlp())
    (output,) = report.outputs
    assert report.agrees and report.runtime.startswith("not used") and output.runtime is None
    assert output.reference is not None and output.allowed > FACTOR * output.reference


@compiled
def test_the_next_best_truth_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: onnx.ModelProto) -> onnx.ModelProto:
        raise RuntimeError("not this one")

    monkeypatch.setattr(executors, "in_double", broken)
    report = check(models.mlp())
    assert report.truth == "onnx.reference in the model's own precision" and report.agrees


def test_unsupported_operator(fails: Fails, unknown: Path) -> None:
    assert "acme.Mystery" in fails("check", unknown)


def test_no_samples(fails: Fails, mlp: Path) -> None:
    assert "--samples" in fails("check", mlp, "--samples", "0", status=2)


# -- the rule ----------------------------------------------------------------------------------------------------------


def tally(result: list[float], truth: list[float], runtime: list[float]) -> OutputReport:
    port = Port("y", "y", "float32", (len(result),))
    counted = Tally(port)
    narrow = [np.array(a, np.float32) for a in (result, truth, runtime)]
    counted.add(narrow[0], np.array(truth), None, narrow[2])
    return counted.verdict()


UNIT = 2.0**-23  # an ULP of 1.0


@pytest.mark.parametrize(
    ("ours", "theirs", "agrees"),
    [(8, 0, True), (9, 0, False), (48, 10, True), (49, 10, False)],
)
def test_four_times_their_error_and_eight_ulp(ours: int, theirs: int, agrees: bool) -> None:
    verdict = tally([1 + ours * UNIT, 0], [1, 0], [1 + theirs * UNIT, 0])
    assert verdict.ulp == pytest.approx(ours) and verdict.agrees is agrees


@pytest.mark.parametrize(
    ("result", "truth", "usual", "expected"),
    [
        ([1.0, np.nan], [1.0, np.nan], None, 0),
        ([np.inf], [np.inf], None, 0),
        ([np.inf], [1e40], None, 0),  # the truth does not fit into float32 either
        ([-np.inf], [np.inf], None, np.inf),
        ([np.nan], [1.0], None, np.inf),
        ([1.0], [np.nan], None, np.inf),
        ([np.nan], [1.0], [np.nan], 0),  # an intermediate overflows in float32, not in float64
        ([1.0], [2.0], [np.nan], 1),
    ],
)
def test_what_is_not_finite(
    result: list[float], truth: list[float], usual: list[float] | None, expected: float
) -> None:
    own = None if usual is None else np.array(usual, np.float32)
    assert distance(np.array(result, np.float32), np.array(truth), own) == expected


def test_one_overflow_does_not_excuse_the_rest() -> None:
    assert not tally([2.0, 1.0], [1.0, 1.0], [1.0, np.nan]).agrees


def attribute_model(kind: str) -> onnx.ModelProto:
    """x + c, where c comes about in one of the ways in which a float type hides in a model."""
    makers: dict[str, Callable[[], list[onnx.NodeProto]]] = {
        "constant": lambda: [helper.make_node("Constant", [], ["c"], value=tensor([0.1]))],
        "value_float": lambda: [helper.make_node("Constant", [], ["c"], value_float=0.1)],
        "value_floats": lambda: [helper.make_node("Constant", [], ["c"], value_floats=[0.1])],
        "cast": lambda: [
            helper.make_node("Constant", [], ["i"], value_int=3),
            helper.make_node("Cast", ["i"], ["c"], to=TensorProto.FLOAT),
        ],
        "filled": lambda: [helper.make_node("ConstantOfShape", ["n"], ["c"])],
        "filled with": lambda: [helper.make_node("ConstantOfShape", ["n"], ["c"], value=tensor([0.1]))],
        "branch": lambda: [helper.make_node("If", ["b"], ["c"], then_branch=branch(), else_branch=branch())],
    }
    nodes = [*makers[kind](), helper.make_node("Add", ["x", "c"], ["y"])]
    weights = {"n": np.array([1]), "b": np.array(True)}
    return models.build(nodes, {"x": [2]}, ["y"], weights)


def tensor(values: list[float]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32))


def branch() -> onnx.GraphProto:
    node = helper.make_node("Constant", [], ["inside"], value_floats=[0.25])
    return helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("inside", TensorProto.FLOAT, [1])])


@pytest.mark.parametrize("kind", ["constant", "value_float", "value_floats", "cast", "filled", "filled with", "branch"])
def test_the_double_copy_is_double_throughout(kind: str) -> None:
    model = attribute_model(kind)
    before = model.SerializeToString()
    x = np.array([1.0, 2.0])
    (narrow,) = ReferenceEvaluator(model).run(None, {"x": x.astype(np.float32)})
    (wide,) = ReferenceEvaluator(in_double(model)).run(None, {"x": x})
    assert wide.dtype == np.float64 and narrow.dtype == np.float32
    np.testing.assert_allclose(wide, narrow, rtol=1e-6)
    assert model.SerializeToString() == before


def test_options_reach_the_compiler() -> None:
    with pytest.raises(checking.SofieError, match="no pass 'nope'"):
        check(models.mlp(), Options(passes="nope"))


@compiled
def test_a_judge_that_gives_other_shapes_has_no_say() -> None:
    """onnx.reference joins the rows of a Loop where they are numbers; a right result was called wrong."""
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y, float[3] rows)
    <int64 m = {3}, bool c = {1}> {
      y, rows = Loop (m, c, x) <body = b (int64 i, bool ci, float[2] a) => (bool co, float[2] p, float r) {
        co = Identity (ci) p = Add (a, x) r = ReduceMax <keepdims = 0> (p) }> }"""
    report = check(onnx.parser.parse_model(text))
    assert report.agrees and "onnxruntime" in report.truth
