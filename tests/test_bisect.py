"""The bisection names the node that is wrong, also where only a fusion is, and leaves healthy models alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from xdsl.dialects import arith
from xdsl.ir import Block, SSAValue

from sofie import bisect, executors
from sofie.check import Report, check
from sofie.cli.check import IR_LINES
from sofie.compiler import Options
from sofie.errors import SofieError
from sofie.passes import fuse_elementwise
from sofie.passes.lower_onnx import rules
from tests import models
from tests.cli.conftest import Invoke
from tests.cli.conftest import invoke as invoke

pytestmark = pytest.mark.usefixtures("needs_compiler")

Break = Callable[[str], None]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Lets an operator return its operand."""

    def become_identity(operator: str) -> None:
        monkeypatch.setitem(rules(), ("", operator), lambda op, build: build.operand(0))

    return become_identity


@pytest.fixture
def badly_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fused op takes from its producer is doubled: right alone, wrong together."""
    inline = fuse_elementwise._inline

    def doubled(*given: Any) -> SSAValue:
        scalar = inline(*given)
        block = given[1]
        assert isinstance(block, Block)
        twice = arith.AddfOp(scalar, scalar)
        block.add_op(twice)
        return twice.result

    monkeypatch.setattr(fuse_elementwise, "_inline", doubled)


def chain(*operators: str, shape: tuple[int | str, ...] = (4, 9)) -> onnx.ModelProto:
    """One operator after the other, n0 to v0, n1 to v1, ..."""
    names = ["x", *(f"v{k}" for k in range(len(operators)))]
    nodes = [helper.make_node(o, [names[k]], [names[k + 1]], name=f"n{k}") for k, o in enumerate(operators)]
    return models.build(nodes, {"x": shape}, [names[-1]], {})


SIX = ("Sigmoid", "Neg", "Exp", "Tanh", "Reciprocal", "Sqrt")


def first(report: Report) -> bisect.Finding:
    assert report.first is not None
    return report.first


@pytest.mark.parametrize("position", range(len(SIX)))
def test_each_node_of_a_chain_is_found(broken: Break, position: int) -> None:
    broken(SIX[position])
    report = check(chain(*SIX), bisect=True)
    found = first(report)
    assert not report.agrees and report.intermediates == ()
    assert (found.node, found.operator, found.value) == (f"n{position}", SIX[position], f"v{position}")
    assert found.error > found.allowed and found.note == ""


def test_values_at_the_worst_element_are_shown(broken: Break) -> None:
    broken("Exp")
    x = np.zeros((4, 9), np.float32)
    x[2, 5] = 3
    found = first(check(chain("Neg", "Exp"), feeds={"x": x}, bisect=True))
    assert found.index == (2, 5) and found.ours == -3
    assert found.truth == pytest.approx(np.exp(-3)) and found.runtime == pytest.approx(np.exp(-3))


def diamond() -> onnx.ModelProto:
    """x -> a; a -> b1 -> b2 and a -> c1 -> c2; then both together."""
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], name="top"),
        helper.make_node("Tanh", ["a"], ["b1"], name="left_1"),
        helper.make_node("Abs", ["b1"], ["b2"], name="left_2"),
        helper.make_node("Sigmoid", ["a"], ["c1"], name="right_1"),
        helper.make_node("Exp", ["c1"], ["c2"], name="right_2"),
        helper.make_node("Mul", ["b2", "c2"], ["y"], name="bottom"),
    ]
    return models.build(nodes, {"x": (4, 9)}, ["y"], {})


@pytest.mark.parametrize(
    ("operator", "node"),
    [("Neg", "top"), ("Tanh", "left_1"), ("Abs", "left_2"), ("Sigmoid", "right_1"), ("Exp", "right_2")],
)
def test_a_right_branch_does_not_hide_the_wrong_one(broken: Break, operator: str, node: str) -> None:
    broken(operator)
    assert first(check(diamond(), bisect=True)).node == node


def test_the_ir_shows_the_node_at_every_level_and_whom_it_joined(broken: Break) -> None:
    broken("Tanh")
    levels = {level.level: level for level in first(check(chain(*SIX), bisect=True)).levels}
    assert list(levels) == ["onnx", "tensor", "buffer", "loop"]
    assert levels["onnx"].text.count("onnx.") == 1 and "onnx.Tanh" in levels["onnx"].text


def test_a_fused_node_shows_its_group(badly_fused: None) -> None:
    levels = {level.level: level for level in first(check(chain(*SIX), bisect=True)).levels}
    assert levels["onnx"].joined == ()
    for level in ("tensor", "buffer", "loop"):
        assert len(levels[level].joined) == len(SIX) - 1, level
    assert "linalg.generic" in levels["tensor"].text and "func.func" in levels["loop"].text


def test_a_wrong_fusion_is_found_where_some_of_it_is_left(badly_fused: None) -> None:
    found = first(check(chain("Tanh", "Neg", "Sigmoid", "Exp"), bisect=True))
    assert found.node == "n1" and "v0 is stored too" in found.note


def test_a_wrong_fusion_is_found_where_storing_any_value_heals_it(badly_fused: None) -> None:
    report = check(chain("Tanh", "Neg"), intermediates=True)
    found = first(report)
    assert all(value.agrees for value in report.intermediates) and not report.agrees
    assert found.node == "n0" and found.value == "v1" and "as soon as v0 is stored" in found.note


def test_a_wrong_fusion_between_healthy_layers_is_found(badly_fused: None) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Softmax", ["a"], ["p"], name="scores", axis=-1),
        helper.make_node("MatMul", ["p", "w"], ["b"], name="second"),
        helper.make_node("MaxPool", ["b"], ["m"], name="pool", kernel_shape=[1, 2]),
        helper.make_node("Tanh", ["m"], ["t"], name="squash"),
        helper.make_node("Neg", ["t"], ["y"], name="turn"),
    ]
    model = models.build(nodes, {"x": (1, 2, 3, 5)}, ["y"], {"w": models.normal(5, 5)})
    assert first(check(model, bisect=True)).node in ("squash", "turn")


@pytest.mark.parametrize("name", models.ALL)
def test_every_value_of_a_healthy_model_agrees(name: str) -> None:
    model = models.ALL[name]()
    report = check(model, intermediates=True)
    assert report.agrees and report.first is None
    assert [v.value for v in report.intermediates] == [o for node in model.graph.node for o in node.output if o]
    assert all(v.report is not None and v.report.agrees for v in report.intermediates)


def test_a_wrong_value_that_no_output_shows_is_reported(broken: Break) -> None:
    broken("Neg")
    report = check(chain("Tanh", "Neg", "Abs", "Exp"), intermediates=True)
    assert report.agrees
    assert first(report).node == "n1" and "the outputs agree" in first(report).note
    assert check(chain("Tanh", "Neg", "Abs", "Exp"), bisect=True).first is None


def test_sizes_that_the_run_tells(broken: Break) -> None:
    broken("Exp")
    model = chain(*SIX, shape=("batch", 9))
    report = check(model, Options(dims={"batch": (1, 20)}), intermediates=True, samples=2)
    assert first(report).node == "n2"
    assert [v.value for v in report.intermediates if not v.agrees][0] == "v2"


def test_nodes_of_one_name_are_told_apart(broken: Break) -> None:
    broken("Exp")
    model = chain("Tanh", "Exp", "Abs")
    for node in model.graph.node:
        node.name = "same"
    found = first(check(model, bisect=True))
    assert found.operator == "Exp" and "onnx.Exp" in found.levels[0].text and "onnx.Tanh" not in found.levels[0].text


def test_integers_are_exact(broken: Break) -> None:
    broken("Abs")
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Abs", ["n"], ["y"], name="size")]
    kinds = dict.fromkeys(("x", "y"), onnx.TensorProto.INT32)
    found = first(check(models.build(nodes, {"x": (3, 5)}, ["y"], {}, kinds), bisect=True))
    assert found.node == "size" and found.allowed == 0 and isinstance(found.ours, int)


def test_a_value_that_nobody_can_judge_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hear = executors.Witnesses.hear

    def silent_on_v1(self: executors.Witnesses, feeds: dict[str, np.ndarray]) -> executors.Testimony:
        if any(v.name == "v1" for v in self.native.proto.graph.output):
            raise SofieError("nobody knows v1")
        return hear(self, feeds)

    monkeypatch.setattr(executors.Witnesses, "hear", silent_on_v1)
    report = check(chain("Tanh", "Neg", "Exp"), intermediates=True)
    assert report.agrees and [v.reason for v in report.intermediates] == ["", "nobody knows v1", ""]


def test_a_value_that_cannot_be_stored_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_model = bisect.compile_model

    def refuses(model: onnx.ModelProto, *given: Any) -> object:
        if any(v.name == "v1" for v in model.graph.output):
            raise SofieError("v1 will not do")
        return compile_model(model, *given)

    monkeypatch.setattr(bisect, "compile_model", refuses)
    monkeypatch.setattr(bisect, "lower", lambda model, name, options: refuses(model, options))
    report = check(chain("Tanh", "Neg", "Exp"), intermediates=True)
    assert report.agrees and [v.reason for v in report.intermediates] == ["", "v1 will not do", ""]


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_names_the_node_and_shows_its_ir(invoke: Invoke, broken: Break, tmp_path: Path) -> None:
    broken("Tanh")
    onnx.save(chain(*SIX), tmp_path / "six.onnx")
    result = invoke("check", tmp_path / "six.onnx", "--bisect")
    assert result.exit_code == 1
    assert "first node outside the rule: 'n3' (Tanh)" in result.stdout and "-- loop level" in result.stdout
    assert max(map(len, result.stdout.split("-- "))) < 200 * IR_LINES


def test_the_command_lists_every_value(invoke: Invoke, tmp_path: Path) -> None:
    onnx.save(chain(*SIX), tmp_path / "six.onnx")
    result = invoke("check", tmp_path / "six.onnx", "--all")
    assert result.exit_code == 0 and "all 6 values agree" in result.stdout and "v3 float32[4, 9]" in result.stdout


def test_json_holds_the_findings(invoke: Invoke, broken: Break, tmp_path: Path) -> None:
    broken("Tanh")
    onnx.save(chain(*SIX), tmp_path / "six.onnx")
    report = json.loads(invoke("check", tmp_path / "six.onnx", "--all", "--json").stdout)
    assert [v["value"] for v in report["intermediates"]] == [f"v{k}" for k in range(6)]
    assert report["first"]["node"] == "n3" and len(report["first"]["index"]) == 2
    assert [level["level"] for level in report["first"]["levels"]] == ["onnx", "tensor", "buffer", "loop"]
