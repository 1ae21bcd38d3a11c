"""`to-half` and `to-bf16`: models in 16 bits that ONNX Runtime, the reference and SOFIE's own code agree on."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sofie
from sofie import interpreter, pipeline
from sofie.emit.onnx import model_proto
from sofie.errors import SofieError
from sofie.frontends.onnx import load
from tests import models
from tests.quantize.running import decibels, runtime

KINDS = {"to-half": np.dtype(np.float16), "to-bf16": np.dtype(ml_dtypes.bfloat16)}
LEAST = {"to-half": 50, "to-bf16": 32}
"""Decibels that mantissas of 11 and 8 bits leave of a few layers."""


def narrowed(model: onnx.ModelProto, spec: str) -> onnx.ModelProto:
    module = load(model)
    pipeline.run(module, pipeline.parse(spec), verify_each=True)
    made = model_proto(module)
    onnx.checker.check_model(made, full_check=True)
    return made


MODELS = {name: models.ALL[name] for name in ("mlp", "convnet", "movement", "reductions", "sequences", "choices")}


@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_half_models_run_in_the_runtime(make: Callable[[], onnx.ModelProto]) -> None:
    model = make()
    made, feeds = narrowed(model, "to-half"), models.feeds(model)
    for exact, rounded in zip(runtime(model, feeds), runtime(made, feeds), strict=True):
        assert rounded.dtype == exact.dtype
        assert decibels(exact, rounded) > LEAST["to-half"]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("make", MODELS.values(), ids=list(MODELS))
def test_models_mean_nearly_the_same(make: Callable[[], onnx.ModelProto], name: str) -> None:
    """By the interpreter, since the runtime has no kernels for bfloat16 on a CPU."""
    model = make()
    module, feeds = load(model), models.feeds(model)
    given = list(feeds.values())
    exact = interpreter.run(module, given)
    pipeline.run(module, pipeline.parse(name), verify_each=True)
    pipeline.run(module, pipeline.parse("widen-floats"))
    for a, b in zip(exact, interpreter.run(module, given), strict=True):
        assert decibels(a, b) > LEAST[name]


@pytest.mark.parametrize("name", KINDS)
def test_weights_and_what_is_between_layers_are_narrow(name: str) -> None:
    """One cast of the input, one of the output; half of the bytes."""
    model = models.mlp()
    made = narrowed(model, name)
    assert [n.op_type for n in made.graph.node] == ["Cast", "Gemm", "Relu", "Gemm", "Softmax", "Cast"]
    held = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert {a.dtype for a in held.values()} == {KINDS[name]}
    original = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w1"))
    np.testing.assert_array_equal(held["w1"], original.astype(KINDS[name]))


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("name", KINDS)
def test_compiled_code_takes_them(name: str) -> None:
    model = models.mlp()
    feeds = models.feeds(model)
    ours = sofie.compile(narrowed(model, name))(feeds["x"])
    assert decibels(runtime(model, feeds)[0], np.asarray(ours)) > LEAST[name]


def test_a_node_that_is_left_computes_in_float32() -> None:
    made = narrowed(models.mlp(), 'to-half{leave="dense_2"}')
    assert [n.op_type for n in made.graph.node] == ["Cast", "Gemm", "Relu", "Cast", "Gemm", "Cast", "Softmax", "Cast"]
    with pytest.raises(SofieError, match="leave=nothing: the model has no node of that name"):
        narrowed(models.mlp(), 'to-half{leave="nothing"}')


def test_a_weight_that_is_too_large_is_refused_and_fits_bf16() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="large")
    model = models.build([node], {"x": [2, 3]}, ["y"], {"w": np.full((3, 2), 1e5, np.float32)})
    with pytest.raises(SofieError, match=r"node 'large' \(MatMul\): its weights 'w' are too large for float16; use"):
        narrowed(model, "to-half")
    assert len(narrowed(model, "to-bf16").graph.node) == 3


def test_an_operator_with_a_type_of_its_own_keeps_it() -> None:
    """EyeLike says which type it makes, Resize takes scales in float32, Shape gives integers."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Resize", ["r", "", "scales"], ["z"], mode="nearest"),
        helper.make_node("EyeLike", ["z"], ["e"], dtype=TensorProto.FLOAT),
        helper.make_node("Add", ["z", "e"], ["y"]),
    ]
    model = models.build(nodes, {"x": [3, 4]}, ["y"], {"scales": np.float32([2, 2])})
    made = narrowed(model, "to-half")
    scales = next(t for t in made.graph.initializer if t.name == "scales")
    assert scales.data_type == TensorProto.FLOAT
    feeds = models.feeds(model)
    assert decibels(runtime(model, feeds)[0], runtime(made, feeds)[0]) > LEAST["to-half"]
