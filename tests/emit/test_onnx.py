"""`-t onnx`: level 1 as a model that ONNX's checker and ONNX Runtime take, and that means what was read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from sofie import opt
from sofie.dialects.onnx import OnnxOp
from sofie.emit import onnx as emit
from sofie.errors import SofieError
from sofie.frontends.onnx import load
from sofie.rewrite import replace_results
from tests import models


def answers(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(model.SerializeToString()).run(None, feeds)


def written(model: onnx.ModelProto, **dims: int | tuple[int, int]) -> onnx.ModelProto:
    made = emit.model_proto(load(model, dims))
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.mark.parametrize("make", models.ALL.values(), ids=list(models.ALL))
def test_what_is_written_computes_what_was_read(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """Through the command and a file, which is read again and written once more."""
    model = make()
    onnx.save(model, tmp_path / "a.onnx")
    opt.main([str(tmp_path / "a.onnx"), "-t", "onnx", "-o", str(tmp_path / "b.onnx")])
    opt.main([str(tmp_path / "b.onnx"), "-t", "onnx", "-o", str(tmp_path / "c.onnx")])
    once = onnx.load(tmp_path / "b.onnx")
    onnx.checker.check_model(once, full_check=True)
    assert [v.name for v in once.graph.input] == [v.name for v in model.graph.input]
    assert [v.name for v in once.graph.output] == [v.name for v in model.graph.output]
    feeds = models.feeds(model)
    expected = answers(model, feeds)
    for again in (once, onnx.load(tmp_path / "c.onnx")):
        for ours, theirs in zip(answers(again, feeds), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_names_of_nodes_and_weights_are_kept() -> None:
    made = written(models.convnet())
    names = [node.name for node in made.graph.node]
    assert names == ["stem", "norm", "relu", "body", "residual", "pool", "average", "flatten"]
    assert {t.name for t in made.graph.initializer} == {"w1", "b1", "g", "b", "m", "v", "w2"}


def test_values_of_nodes_without_names_keep_theirs() -> None:
    """Whoever leaves a node in float, or looks for a value, knows it by its name in the file."""
    nodes = [
        helper.make_node("Relu", ["x"], ["/block.1/act/Relu_output_0"]),
        helper.make_node("Neg", ["/block.1/act/Relu_output_0"], ["neg_2"], name="neg_2"),
        helper.make_node("Abs", ["neg_2"], ["y"]),
    ]
    made = written(models.build(nodes, {"x": [3]}, ["y"], {}))
    assert [n.output[0] for n in made.graph.node] == ["/block.1/act/Relu_output_0", "neg_2", "y"]


def test_the_opset_is_the_oldest_that_means_the_same() -> None:
    """A model that any runtime takes would need the newest one."""
    relu = models.build([helper.make_node("Relu", ["x"], ["y"])], {"x": [3]}, ["y"], {}, opset=28)
    both = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Swish", ["r"], ["y"])]
    swish = models.build(both, {"x": [3]}, ["y"], {}, opset=28)
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E8M0, round_mode="down")
    narrow = models.build([cast], {"x": [3]}, ["y"], {}, {"y": TensorProto.FLOAT8E8M0}, opset=28)
    versions = [emit.model_proto(load(m)).opset_import[0].version for m in (relu, swish, narrow)]
    assert versions == [emit.OLDEST, 24, 24]


def test_sizes_of_the_run_are_named_dimensions() -> None:
    model = models.mlp("batch")
    made = written(model, batch=(1, 64))
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in made.graph.output]
    assert shapes == [["batch", 5]]
    for rows in (1, 9):
        feeds = {"x": models.normal(rows, 7)}
        np.testing.assert_array_equal(answers(made, feeds)[0], answers(model, feeds)[0])


def test_shapes_that_the_run_computes_are_computed_of_shapes() -> None:
    """A Reshape to [2 * batch + 1, 3] needs a product, a sum and a list."""
    nodes = [
        helper.make_node("Concat", ["x", "x", "row"], ["c"], axis=0),
        helper.make_node("Shape", ["c"], ["s"], start=0, end=1),
        helper.make_node("Concat", ["s", "three", "two"], ["shape"], axis=0),
        helper.make_node("Reshape", ["c", "shape"], ["y"]),
        helper.make_node("Gather", ["s", "first"], ["scalar"]),
        helper.make_node("Cast", ["scalar"], ["rows"], to=TensorProto.INT32),
    ]
    weights = {
        "row": models.normal(1, 6),
        "three": np.array([3]),
        "two": np.array([2]),
        "first": np.array(0),
    }
    model = models.build(nodes, {"x": ["batch", 6]}, ["y", "rows"], weights, {"rows": TensorProto.INT32})
    made = written(model, batch=(1, 8))
    for rows in (1, 5):
        feeds = {"x": models.normal(rows, 6)}
        for ours, theirs in zip(answers(made, feeds), answers(model, feeds), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_a_value_that_is_two_outputs_or_an_input_is_copied() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
    nodes.append(helper.make_node("Identity", ["x"], ["c"]))
    model = models.build(nodes, {"x": [4]}, ["a", "b", "c"], {})
    module = load(model)
    for op in [o for o in module.walk() if isinstance(o, OnnxOp) and o.operator == "Identity"]:
        replace_results(op, [op.operands[0]])
    feeds = {"x": models.normal(4)}
    made = emit.model_proto(module)
    onnx.checker.check_model(made, full_check=True)
    for ours, theirs in zip(answers(made, feeds), answers(model, feeds), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loop_is_a_loop_again() -> None:
    """Its body reads a weight and a value from outside, and its condition may end it."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "t"], ["a"]),
            helper.make_node("Mul", ["a", "w"], ["next"]),
            helper.make_node("ReduceMax", ["next"], ["largest"], keepdims=0),
            helper.make_node("Less", ["largest", "limit"], ["go"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [3]),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [3]),
        ],
        [numpy_helper.from_array(np.float32(1.5), "w"), numpy_helper.from_array(np.float32(20), "limit")],
    )
    nodes = [helper.make_node("Abs", ["x"], ["t"]), helper.make_node("Loop", ["m", "", "t"], ["y"], body=body)]
    model = models.build(nodes, {"x": [3]}, ["y"], {"m": np.array(70)})
    feeds = {"x": models.normal(3)}
    np.testing.assert_array_equal(answers(written(model), feeds)[0], answers(model, feeds)[0])


@pytest.mark.parametrize("kind", ["int4", "uint4", "float8_e4m3fn", "bfloat16"])
def test_weights_of_every_width_keep_their_bits(kind: str) -> None:
    array = np.arange(-3, 4).astype(getattr(ml_dtypes, kind))
    tensor = numpy_helper.from_array(array, "w")
    node = helper.make_node("Identity", ["w"], ["y"])
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", tensor.data_type, [7])], [tensor])
    made = emit.model_proto(load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])))
    (held,) = (numpy_helper.to_array(t) for t in made.graph.initializer)
    assert held.dtype == array.dtype
    assert held.tobytes() == array.tobytes()


def test_standard_output_gets_the_bytes(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    onnx.save(models.mlp(), tmp_path / "m.onnx")
    opt.main([str(tmp_path / "m.onnx"), "-t", "onnx"])
    assert onnx.load_model_from_string(capfdbinary.readouterr().out).graph.node[0].name == "dense_1"


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(models.mlp(), tmp_path / "m.onnx")
    with pytest.raises(SystemExit):
        opt.main([str(tmp_path / "m.onnx"), "-p", "fuse", "-t", "onnx"])
    assert "-t onnx prints the onnx level, which --stop-after onnx leaves" in capsys.readouterr().err
    (tmp_path / "f.mlir").write_text(
        "func.func @f(%x: tensor<3xf32>) -> tensor<3xf32> {\n  return %x : tensor<3xf32>\n}"
    )
    with pytest.raises(SystemExit):
        opt.main([str(tmp_path / "f.mlir"), "-t", "onnx"])
    assert "-t onnx prints the function @infer" in capsys.readouterr().err


def test_a_model_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit, "LARGEST", 99)
    with pytest.raises(SofieError, match="an ONNX file at most 99: quantise its weights"):
        emit.serialized(models.mlp())
