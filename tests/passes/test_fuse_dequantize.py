"""fuse-dequantize: weights of 8 and 4 bits stay integers, and mean what they meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sofie import pipeline
from sofie.compiler import Options, compile_model, generate
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import WeightOp
from sofie.frontends.onnx import load
from tests import models

ROWS, TERMS, COLUMNS = 5, 96, 40
KINDS = {"int8": np.int8, "uint8": np.uint8, "int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4}


def weights(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    dtype = np.dtype(KINDS[kind])
    ends = ml_dtypes.iinfo(dtype)
    return models.rng(seed).integers(int(ends.min), int(ends.max) + 1, shape).astype(dtype)


def scales(*shape: int) -> np.ndarray:
    return (np.abs(models.normal(*shape, seed=1)) / 50 + 0.01).astype(np.float32)


def model(nodes: list[onnx.NodeProto], given: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (ROWS, TERMS))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in given.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def dequantized(kind: str, across: bool, granularity: str, zero: bool, bias: bool = False) -> onnx.ModelProto:
    """x times weights (terms, columns), or (columns, terms), dequantised by a tensor's, an axis' or blocks' scale."""
    shape = (COLUMNS, TERMS) if across else (TERMS, COLUMNS)
    along = int(across)
    how: dict[str, Any] = {"axis": 1 - along}
    extent: tuple[int, ...] = {"tensor": (), "axis": (COLUMNS,)}.get(granularity, ())
    if granularity == "blocks":
        how = {"axis": along, "block_size": 32}
        extent = (COLUMNS, TERMS // 32) if across else (TERMS // 32, COLUMNS)
    given = {"q": weights(kind, shape), "s": scales(*extent)}
    if zero:
        given["z"] = weights(kind, extent, seed=2)
    if bias:
        given["b"] = models.normal(COLUMNS, seed=3)
    operands = ["x", "w", *(["b"] if bias else [])]
    gemm = across or bias
    product = helper.make_node("Gemm" if gemm else "MatMul", operands, ["y"], **({"transB": along} if gemm else {}))
    return model([helper.make_node("DequantizeLinear", [*given][: 2 + zero], ["w"], **how), product], given)


def scaled(columns: bool) -> onnx.ModelProto:
    """x times Cast(integers) times a scale; more of them than are folded while importing."""
    given = {"q": weights("int8", (TERMS, 8 * COLUMNS)), "s": scales(8 * COLUMNS) if columns else scales()}
    nodes = [
        helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    return model(nodes, given)


MODELS = {"a Cast and a Mul": scaled(False), "a Cast and a Mul, by columns": scaled(True)}
for kind in KINDS:
    MODELS |= {
        f"{kind}: a tensor": dequantized(kind, False, "tensor", True),
        f"{kind}: outputs, across": dequantized(kind, True, "axis", False, True),
        f"{kind}: blocks": dequantized(kind, False, "blocks", True, True),
        f"{kind}: blocks, across": dequantized(kind, True, "blocks", True),
    }


@pytest.mark.parametrize("name", MODELS)
def test_no_weight_becomes_a_float(name: str) -> None:
    """A form of weights that the pass does not see, so that they take eight times the room."""
    module = load(MODELS[name])
    pipeline.run(module, pipeline.parse("fuse-dequantize,dce"))
    operators = {op.operator for op in module.walk() if isinstance(op, OnnxOp)}
    assert operators <= {"MatMulNBits", "Add"}
    held = {
        np.asarray(op.blob.value).dtype for op in module.walk() if isinstance(op, WeightOp) if op.blob.value.size > 480
    }
    assert held == {np.dtype(np.uint8)}


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("cpu", ["scalar", "portable", "native"])
def test_they_mean_what_they_meant(cpu: str) -> None:
    """Halves of a byte that are swapped, blocks along the wrong axis, a zero point of another block."""
    for name, one in MODELS.items():
        x = models.normal(ROWS, TERMS, seed=5)
        (want,) = ReferenceEvaluator(one).run(None, {"x": x})
        got = compile_model(one, Options(cpu=cpu, verify_each=True)).run({"x": x})["y"]
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * np.abs(want).max(), err_msg=name)


def test_weights_of_4_bits_take_less_than_a_sixth_of_the_room_of_floats(tmp_path: Path) -> None:
    """Halves of bytes that are stored as bytes, or scales that take more room than they should."""
    terms, columns = 512, 384
    given = {"q": weights("int4", (terms, columns)), "s": scales(terms // 32, columns)}
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=32), product]
    one = model(nodes, given)
    one.graph.input[0].type.tensor_type.shape.dim[1].dim_value = terms
    data = generate(one, tmp_path, Options(), "few").data
    assert data is not None and data.stat().st_size < 0.16 * 4 * terms * columns


def test_weights_of_a_convolution_become_floats_once() -> None:
    """300 KB of weights that are dequantised in each call, and that no pass can lay out or transform."""
    given = {"q": weights("int8", (96, 96, 3, 3)), "s": scales(96), "b": models.normal(96)}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1]),
    ]
    proto = models.build(nodes, {"x": [1, 96, 14, 14]}, ["y"], given)
    module = load(proto)
    pipeline.run(module, pipeline.parse("fuse-qdq,fuse-dequantize,fold-constants"))
    assert [op.operator for op in module.walk() if isinstance(op, OnnxOp)] == ["Conv"]
    x = models.normal(1, 96, 14, 14)
    (want,) = ReferenceEvaluator(proto).run(None, {"x": x})
    (got,) = compile_model(proto, Options()).run({"x": x}).values()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
