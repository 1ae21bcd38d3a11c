"""Weights of 16 bits stay so in the file, are decoded on lanes, and give what they gave."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sofie.compiler import Options, compile_model, lower
from tests import models

pytestmark = pytest.mark.usefixtures("needs_compiler")

KINDS = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}


def layer(kind: str, rows: int | str, across: bool = False) -> onnx.ModelProto:
    """y = relu(x) w + b, where w is of 16 bits; `across`: w is (outputs, terms)."""
    rng = np.random.default_rng(3)
    w = (rng.standard_normal((150, 40)) / 12).astype(KINDS[kind])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Cast", ["w"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Gemm", ["r", "f", "b"], ["y"], transB=int(across)),
    ]
    weights = {"w": w.T.copy() if across else w, "b": models.normal(40)}
    return models.build(nodes, {"x": [rows, 150]}, ["y"], weights)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("rows", [1, 9, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_the_floats(kind: str, rows: int, across: bool) -> None:
    model = layer(kind, rows, across)
    x = models.normal(rows, 150, seed=1)
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    for without in ([], ["fuse-decode"], ["fold-constants"], ["assign-layouts", "pack-weights"]):
        (got,) = compile_model(model, Options(without=without)).run({"x": x}).values()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cpu", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_decoded_on_lanes(kind: str, cpu: str) -> None:
    """A product that is left to scalars, forty times slower."""
    program = lower(layer(kind, 9), "m", Options(cpu=cpu))
    text = program.header()
    kernels = text[text.index("namespace kernels") :]
    assert f"detail::decode_{kind}(detail::load_v" in kernels or f"detail::decode_{kind}(w" in kernels
    weights = sum(array.nbytes for _, array in program.weights)
    assert weights < 2 * 150 * 48 + 4 * 48 + 64


@pytest.mark.parametrize("kind", KINDS)
def test_layers_in_16_bits_work_on_lanes(kind: str) -> None:
    """Sums that are rounded one by one."""
    element = helper.np_dtype_to_tensor_dtype(KINDS[kind])
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=element),
        helper.make_node("MatMul", ["c", "w"], ["p"]),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    model = models.build(nodes, {"x": [9, 60]}, ["y"], {"w": models.normal(60, 48).astype(KINDS[kind])})
    text = lower(model, "m", Options(cpu="x86-64-v3")).header()
    kernels = text[text.index("namespace kernels") :]
    assert f"detail::encode_{kind}(" in kernels
    assert "multiply_add(sum" not in kernels.replace(" ", "")
    assert kernels.count("v8f32 ") > 10
