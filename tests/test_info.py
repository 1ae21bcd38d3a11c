"""What `sofie.info` says of a model: counts worked out by hand, and every node that stands in the way."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node, make_opsetid
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from sofie import pipeline
from sofie.compiler import Options
from sofie.dialects.onnx import op_classes
from sofie.errors import SofieError
from sofie.info import Operator, Report, Unsupported, info
from sofie.passes.lower_onnx import limits, rules
from sofie.support import BODY, FOLDED, LOWERING, NO, REPLACED, support
from sofie.work import flops
from tests import models


def rows(report: Report) -> dict[str, Operator]:
    return {row.operator: row for row in report.operators}


def work(report: Report) -> dict[str, tuple[int | None, int | None]]:
    return {row.operator: (row.flops, row.bytes) for row in report.operators}


def test_work_and_memory_of_a_perceptron() -> None:
    """7 -> 20 -> 5 on 3 rows: the counts are the formulas of a textbook."""
    report = info(models.mlp())
    first, second = 2 * 3 * 7 * 20 + 3 * 20, 2 * 3 * 20 * 5 + 3 * 5  # products and biases
    parameters = 7 * 20 + 20 + 20 * 5 + 5
    assert work(report) == {
        "Gemm": (first + second, 4 * (3 * 7 + 3 * 20 + 3 * 20 + 3 * 5 + parameters)),
        "Relu": (3 * 20, 4 * 2 * 3 * 20),
        "Softmax": (5 * 3 * 5, 4 * 2 * 3 * 5),  # maximum, difference, exponential, sum, quotient
    }
    assert report.flops == first + second + 60 + 75
    assert (report.parameters, report.parameter_bytes) == (parameters, 4 * parameters)
    assert report.bytes_moved == 4 * (3 * 7 + 3 * 5 + parameters)
    assert report.opsets == {"ai.onnx": 21}
    assert (report.inputs[0].shape, report.outputs[0].shape) == ((3, 7), (3, 5))
    assert report.error is None and report.unsupported == ()
    assert report.kernels is not None and report.arena_bytes is not None and report.weight_file_bytes is not None
    assert report.weight_file_bytes > 4 * parameters and report.arena_bytes >= 4 * 3 * 20


def test_work_of_a_convolution_counts_every_tap_and_no_folded_batch_norm() -> None:
    found = work(info(models.convnet()))
    pixels = 9 * 11
    stem = 2 * pixels * 10 * 3 * 9  # the bias is what the sum starts with
    body = 2 * pixels * 10 * 5 * 9
    assert found["Conv"][0] == stem + body
    assert found["BatchNormalization"] == (0, 0)
    assert found["Add"] == (pixels * 10, 3 * 4 * pixels * 10)
    assert found["MaxPool"][0] == 4 * 5 * 10 * 4
    assert found["Flatten"] == (0, 0)


def test_work_of_a_large_product() -> None:
    report = info(models.build([make_node("MatMul", ["a", "b"], ["y"])], {"a": [64, 768], "b": [768, 3072]}, ["y"], {}))
    assert report.flops == 2 * 64 * 768 * 3072


def test_integers_are_no_floating_point() -> None:
    report = info(models.integers())
    assert report.flops == 0 and work(report)["Add"] == (0, 15 + 5 + 15)


def test_work_no_result_depends_on_is_not_counted() -> None:
    nodes = [make_node("Relu", ["x"], ["y"]), make_node("Exp", ["x"], ["unused"])]
    assert work(info(models.build(nodes, {"x": [8]}, ["y"], {}))) == {"Relu": (8, 64), "Exp": (0, 0)}


def test_loops_around_a_structured_op_repeat_its_work() -> None:
    text = """
    builtin.module { func.func @infer(%x: tensor<4xf32>) -> tensor<4xf32> {
      %a = arith.constant 0 : index  %b = arith.constant 10 : index  %s = arith.constant 3 : index
      %y = scf.for %i = %a to %b step %s iter_args(%t = %x) -> (tensor<4xf32>) {
        %n = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
          iterator_types = ["parallel"]} ins(%x : tensor<4xf32>) outs(%t : tensor<4xf32>) {
          ^bb0(%p: f32, %q: f32):
            %m = arith.mulf %p, %q : f32  %r = math.exp %m : f32  linalg.yield %r : f32
        } -> tensor<4xf32>
        scf.yield %n : tensor<4xf32>
      }
      func.return %y : tensor<4xf32>
    } }"""
    module = Parser(pipeline.context(), text).parse_module()
    assert isinstance(module, ModuleOp)
    assert flops(module) == 4 * 4 * 2


@pytest.fixture
def without_det(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An operator that has no lowering, whatever the others come to have."""
    support.cache_clear()
    with monkeypatch.context() as patch:
        for table in (rules(), limits()):
            patch.delitem(table, ("", "Det"))
        yield
    support.cache_clear()


def riddles() -> onnx.ModelProto:
    """A vendor's operator in the middle, what depends on it, and two operators without a lowering beside it."""
    nodes = [
        make_node("Exp", ["x"], ["e"], name="before"),
        make_node("Mystery", ["e"], ["m"], name="riddle", domain="acme"),
        make_node("Relu", ["m"], ["r"], name="behind"),
        make_node("SequenceConstruct", ["r"], ["s"], name="unfit"),
        make_node("Det", ["x"], ["d"], name="first"),
        make_node("Det", ["e"], ["f"], name="second"),
    ]
    model = models.build(nodes, {"x": [3, 3]}, ["r", "s", "d", "f"], {"w": np.zeros((5, 2), np.int16)})
    model.opset_import.append(make_opsetid("acme", 1))
    return model


@pytest.mark.usefixtures("without_det")
def test_every_node_in_the_way_is_named_with_its_reason() -> None:
    report = info(riddles())
    assert {(u.node, u.operator) for u in report.unsupported} == {
        ("riddle", "acme.Mystery"),
        ("unfit", "SequenceConstruct"),
        ("first", "Det"),
        ("second", "Det"),
    }
    reasons = {u.node: u.reason for u in report.unsupported}
    assert "not known" in reasons["riddle"] and "known when compiling" in reasons["second"]
    assert "no lowering" in reasons["unfit"] and "node" not in reasons["unfit"]
    assert report.error is not None and "'riddle'" in report.error


@pytest.mark.usefixtures("without_det")
def test_what_is_certain_without_shapes_is_told_without_them() -> None:
    model = riddles()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    report = info(model)
    assert [(u.node, u.reason[:8]) for u in report.unsupported] == [("riddle", "operator"), ("unfit", "there is")]
    assert report.flops is None and report.error is not None and "--dim n=N" in report.error


@pytest.mark.usefixtures("without_det")
def test_what_can_be_read_of_such_a_model_is_told() -> None:
    report = info(riddles())
    assert report.opsets == {"ai.onnx": 21, "acme": 1}
    assert (report.parameters, report.parameter_bytes) == (10, 20)
    assert (report.flops, report.bytes_moved, report.kernels, report.arena_bytes) == (None,) * 4
    found = rows(report)
    assert (found["Exp"].flops, found["Relu"].flops, found["Det"].flops) == (9, None, None)
    assert (found["Exp"].support, found["acme.Mystery"].support, found["Det"].nodes) == (LOWERING, NO, 2)
    shapes = {o.name: o.shape for o in report.outputs}
    assert shapes["d"] == () and shapes["r"] is None


def test_an_input_that_is_no_number_is_named() -> None:
    nodes = [make_node("StringSplit", ["x"], ["y", "n"], name="splitter"), make_node("Exp", ["k"], ["e"], name="fine")]
    kinds = {"x": TensorProto.STRING, "y": TensorProto.STRING, "n": TensorProto.INT64}
    report = info(models.build(nodes, {"x": [2], "k": [4]}, ["y", "n", "e"], {}, kinds))
    assert [(u.node, u.operator) for u in report.unsupported] == [("x", ""), ("splitter", "StringSplit")]
    assert report.inputs[0].type == "string" and rows(report)["Exp"].flops == 4


def test_a_type_without_code_is_a_reason() -> None:
    kinds = {"x": TensorProto.COMPLEX64, "y": TensorProto.COMPLEX64}
    report = info(models.build([make_node("Identity", ["x"], ["y"], name="same")], {"x": [2]}, ["y"], {}, kinds))
    assert any("COMPLEX64" in found.reason for found in report.unsupported)


def test_a_lowering_that_declines_is_quoted() -> None:
    nodes = [make_node("Pad", ["x", "p"], ["y"], name="nowhere", mode="mirror")]
    report = info(models.build(nodes, {"x": [3]}, ["y"], {"p": np.array([1, 1])}))
    sentence = "mode 'mirror' is not one of constant, edge, reflect, wrap"
    assert report.unsupported == (Unsupported("nowhere", "Pad", sentence),)


def test_free_dimensions_are_shown_and_the_option_is_named() -> None:
    report = info(models.mlp("batch"))
    assert report.inputs[0].shape == ("batch", 7)
    assert report.flops is None and report.unsupported == ()
    assert report.error is not None and "--dim batch=N" in report.error
    bound = info(models.mlp("batch"), Options(dims={"batch": 2}))
    assert bound.inputs[0].shape == (2, 7) and bound.error is None


@pytest.mark.parametrize("options", [Options(dims={"other": 3}), Options(values={"other": 3}), Options(without=["no"])])
def test_options_that_fit_nothing_are_an_error(options: Options) -> None:
    with pytest.raises(SofieError):
        info(models.mlp("batch"), options)


def test_retired_operators_are_counted_as_what_replaces_them() -> None:
    nodes = [make_node("Scatter", ["x", "i", "u"], ["y"], axis=0)]
    model = models.build(nodes, {"x": [3, 3], "u": [1, 3]}, ["y"], {"i": np.array([[0, 1, 2]])}, opset=9)
    found = rows(info(model))
    assert (found["Scatter"].nodes, found["Scatter"].support) == (1, REPLACED)
    assert (found["ScatterElements"].nodes, found["ScatterElements"].bytes) == (0, 4 * (9 + 3 + 9) + 8 * 3)


@pytest.mark.parametrize("name", models.ALL)
def test_what_compiles_has_nothing_in_the_way_and_is_json(name: str) -> None:
    report = info(models.ALL[name]())
    assert report.error is None and report.unsupported == () and report.flops is not None
    assert report.flops == sum(row.flops or 0 for row in report.operators)
    assert json.loads(json.dumps(report.as_dict()))["operators"][0]["nodes"] > 0


@pytest.mark.usefixtures("without_det")
def test_support_of_every_kind() -> None:
    kinds = {
        "Conv": LOWERING,
        "GroupNormalization": BODY,
        "Shape": FOLDED,
        "Det": FOLDED,
        "SequenceAt": NO,
        "Upsample": REPLACED,
    }
    assert {name: support("", name).how for name in kinds} == kinds
    assert support("acme", "Mystery").how == NO
    assert support("", "Shape").limits == "" and support("", "Det").limits != ""
    assert "float16" in support("", "Conv").types and "bool" not in support("", "Conv").types
    assert "uint8" in support("", "Add").types


def test_every_lowering_tells_its_limits_and_every_limit_has_one() -> None:
    assert limits().keys() == rules().keys() <= op_classes().keys()
    assert support("", "Pad").limits == limits()["", "Pad"] != ""
