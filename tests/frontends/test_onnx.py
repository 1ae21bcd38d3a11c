"""The importer: what it accepts, what it binds and folds, and what it says about the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from xdsl.parser import Parser

from sofie.compiler import Options, lower
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import WeightOp
from sofie.errors import SofieError, UnsupportedError
from sofie.frontends.inference import complete
from sofie.frontends.onnx import load
from sofie.pipeline import context
from tests import models


def operators(module: object) -> list[str]:
    return [op.operator for op in module.walk() if isinstance(op, OnnxOp)]


def refused(model: object, **options: object) -> str:
    """The sentence that `load` raises."""
    with pytest.raises(SofieError) as raised:
        load(model, **options)
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21, 25, 28])
def test_every_opset_is_brought_to_one(opset: int) -> None:
    """A version of an operator that is not converted."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Softmax", ["h"], ["y"], axis=1),
    ]
    weights = {"w": models.normal(5, 7), "b": models.normal(5)}
    module = load(models.build(nodes, {"x": [2, 7]}, ["y"], weights, opset=opset))
    assert "Gemm" in operators(module)


def test_old_softmax_keeps_its_old_meaning() -> None:
    """Softmax before opset 13 flattens; the converter has to say so in nodes."""
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    module = load(models.build([node], {"x": [2, 3, 4]}, ["y"], {}, opset=11))
    assert len(operators(module)) > 1


def test_opset_out_of_range_names_the_remedy() -> None:
    model = models.mlp()
    model.opset_import[0].version = 99
    assert "opset 99" in refused(model)
    assert "update SOFIE" in refused(model)


def test_unbound_dimensions_are_listed_with_the_flag() -> None:
    assert refused(models.mlp("batch")) == (
        "the sizes of these dimensions are not bound: batch; give them with --dim batch=N"
    )


@pytest.mark.parametrize("dims", [{"batch": 4}, {"x:0": 4}])
def test_dimension_is_bound_by_name_or_by_place(dims: dict[str, int]) -> None:
    module = load(models.mlp("batch"), dims)
    assert "tensor<4x5xf32>" in str(module)


@pytest.mark.parametrize(
    ("dims", "said"), [({"batch": 4, "time": 2}, "no free dimension"), ({"batch": -1}, "cannot be negative")]
)
def test_wrong_dimension_is_refused(dims: dict[str, int], said: str) -> None:
    assert said in refused(models.mlp("batch"), dims=dims)


def test_contradicting_a_fixed_dimension_is_refused() -> None:
    assert "fixes this dimension at 7" in refused(models.mlp("batch"), dims={"batch": 1, "x:1": 8})


def test_set_turns_an_input_into_a_constant() -> None:
    """A run-time value where a constant was given."""
    nodes = [helper.make_node("Mul", ["x", "rate"], ["y"])]
    model = models.build(nodes, {"x": [3], "rate": []}, ["y"], {}, {"rate": TensorProto.INT64, "x": TensorProto.INT64})
    module = load(model, values={"rate": 16000})
    assert 'sofie.weight "rate" <dense<16000> : tensor<i64>>' in str(module)
    assert "no input of that name" in refused(model, values={"speed": 1})
    assert "is no int64" in refused(model, values={"rate": "fast"})


def test_shape_arithmetic_disappears() -> None:
    """Shape, Gather, Concat and Reshape as exporters write Flatten."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["u"]),
        helper.make_node("Concat", ["u", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    weights = {"zero": np.array(0), "axis": np.array([0]), "minus": np.array([-1])}
    module = load(models.build(nodes, {"x": ["n", 3, 4]}, ["y"], weights), {"n": 2})
    assert operators(module) == ["Reshape"]
    assert "tensor<2x12xf32>" in str(module)


def test_local_functions_are_inlined() -> None:
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    function = helper.make_function("own", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 21)])
    model = models.build([helper.make_node("Twice", ["x"], ["y"], domain="own")], {"x": [3]}, ["y"], {})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert operators(load(model)) == ["Relu", "Neg"]


def test_external_data_is_read_from_the_models_folder(tmp_path: Path) -> None:
    model = models.mlp()
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    weights = {
        op.weight_name.data: op.blob.value for op in load(tmp_path / "m.onnx").walk() if isinstance(op, WeightOp)
    }
    np.testing.assert_array_equal(weights["w1"], models.normal(20, 7, seed=1))
    (tmp_path / "m.bin").unlink()
    assert "m.bin" in refused(tmp_path / "m.onnx")


def test_weights_among_the_inputs_are_weights() -> None:
    """Files of IR version 3 list them there."""
    model = models.mlp()
    model.ir_version = 3
    model.opset_import[0].version = 9
    for weight in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims)))
    assert len(load(model).body.block.first_op.regions[0].block.args) == 1


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 40])
def test_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert "m.onnx" in refused(tmp_path / "m.onnx")
    assert "there is no file" in refused(tmp_path / "missing.onnx")


def test_unknown_operator_names_its_node() -> None:
    model = models.build([helper.make_node("Frobnicate", ["x"], ["y"], name="f1")], {"x": [3]}, ["y"], {})
    sentence = refused(model)
    assert "node 'f1'" in sentence
    assert "Frobnicate" in sentence


def test_shapes_that_do_not_fit_name_the_node() -> None:
    model = models.build([helper.make_node("MatMul", ["x", "x"], ["y"], name="mm")], {"x": [3, 4]}, ["y"], {})
    assert refused(model).startswith("node 'mm' (MatMul):")


def test_strings_are_unsupported() -> None:
    model = models.build([helper.make_node("Identity", ["x"], ["y"])], {"x": [2]}, ["y"], {}, {"x": TensorProto.STRING})
    with pytest.raises(UnsupportedError, match="STRING"):
        load(model)


def test_node_out_of_order_is_refused() -> None:
    nodes = [helper.make_node("Relu", ["h"], ["y"], name="late"), helper.make_node("Relu", ["x"], ["h"])]
    assert "made by no earlier node" in refused(models.build(nodes, {"x": [3]}, ["y"], {}))


def test_large_weights_survive_the_conversion_bit_by_bit() -> None:
    """They do not pass through the converter; they come back under their names."""
    model = models.build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 300]}, ["y"], {"w": models.normal(300, 40)}, opset=9
    )
    (weight,) = [op for op in load(model).walk() if isinstance(op, WeightOp)]
    np.testing.assert_array_equal(weight.blob.value, numpy_helper.to_array(model.graph.initializer[0]))


def test_names_are_hostile_until_they_are_hints() -> None:
    """A value name that breaks the text of the module."""
    model = models.build([helper.make_node("Relu", ["a\n%b"], ['"} y'], name="*/")], {"a\n%b": [3]}, ['"} y'], {})
    text = str(load(model))
    from xdsl.parser import Parser

    from sofie import pipeline

    assert str(Parser(pipeline.context(), text).parse_module()) == text


def test_outputs_left_out_before_others_keep_their_place() -> None:
    """Y_c taken for Y because the outputs before it have no names."""
    node = helper.make_node("LSTM", ["x", "w", "r"], ["", "", "c"], hidden_size=2)
    weights = {"w": models.normal(1, 8, 3), "r": models.normal(1, 8, 2)}
    module = load(models.build([node], {"x": [4, 1, 3]}, ["c"], weights))
    (layer,) = [op for op in module.walk() if isinstance(op, OnnxOp)]
    assert [bool(r.uses) for r in layer.results] == [False, False, True]


@pytest.mark.parametrize(
    ("node", "shapes", "expected"),
    [
        (helper.make_node("GatherND", ["x", "i"], ["y"]), {"x": [2, 3], "i": [2]}, ()),
        (helper.make_node("GatherND", ["x", "i"], ["y"], batch_dims=1), {"x": [2, 3, 4], "i": [2, 1]}, (2, 4)),
        (
            helper.make_node("GroupNormalization", ["x", "i", "i"], ["y"], num_groups=2),
            {"x": [5, 4, 3], "i": [4]},
            (5, 4, 3),
        ),
    ],
)
def test_shapes_that_onnx_leaves_open(node: onnx.NodeProto, shapes: dict, expected: tuple[int, ...]) -> None:
    """A result without a shape where the operands say it."""
    kinds = {"i": TensorProto.INT64} if node.op_type == "GatherND" else {}
    module = load(models.build([node], shapes, ["y"], {}, kinds))
    (op,) = [op for op in module.walk() if isinstance(op, OnnxOp)]
    assert op.results[0].type.get_shape() == expected


def test_gathered_slices_have_a_shape_with_batches_too() -> None:
    """A rule that is only right where this version of ONNX leaves the shape open."""
    node = helper.make_node("GatherND", ["x", "i"], ["y"], batch_dims=1)
    known = {n: helper.make_tensor_type_proto(1, s) for n, s in {"x": [2, 3, 4, 5], "i": [2, 7, 1]}.items()}
    inferred = {"y": helper.make_tensor_type_proto(1, None)}
    complete(node, inferred, known, {})
    assert [d.dim_value for d in inferred["y"].tensor_type.shape.dim] == [2, 7, 4, 5]


def test_unknown_operator_in_a_branch_is_named() -> None:
    """An operator that only the converter stumbles over, since it stands in a graph inside the graph."""
    branch = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["a"], name="odd")],
        "branch",
        [],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    case = models.build([node], {"x": [2], "c": []}, ["y"], {}, {"c": TensorProto.BOOL})
    assert "node 'odd': operator Frobnicate is not known" in refused(case)


@pytest.mark.parametrize("name", ["lambda", "class", "x", "infer", "a b", "N"])
def test_any_name_of_a_dimension_can_be_a_size(name: str) -> None:
    """A name that is a word of Python, of C++ or of the emitted code, or that of an input."""
    model = models.mlp()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    text = str(load(model, {name: (1, 8)}))
    assert str(Parser(context(), text).parse_module()) == text
    assert "const index " in lower(model, "net", Options(dims={name: (1, 8)})).core()


def test_placeholders_of_exporters_are_no_names() -> None:
    """Two dimensions called "?" were taken for the same, and a size of -1 for a size."""
    model = models.build([helper.make_node("Relu", ["x"], ["y"])], {"x": [3, "?", "?"]}, ["y"], {})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    module = load(model, {"x:0": 2, "x:1": 3, "x:2": 5})
    assert "tensor<2x3x5xf32>" in str(module)
    assert "x:0, x:1, x:2" in refused(model)
