"""Long sums: as near to the truth as ONNX Runtime's, the same on every CPU, and cut where their lengths allow it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from xdsl.dialects.linalg.ops import GenericOp

import sofie
from sofie import pipeline
from sofie.frontends.onnx import load
from sofie.passes.partial_sums import AFRESH
from sofie.target import native


def product(rows: int, terms: int, columns: int = 24) -> onnx.ModelProto:
    """A product with a constant."""
    w = np.random.default_rng(2).standard_normal((terms, columns)).astype(np.float32)
    return _model(oh.make_node("MatMul", ["x", "w"], ["y"]), w, [rows, terms])


def convolution(channels: int, kernel: int = 3) -> onnx.ModelProto:
    """A padded convolution with 24 outputs, of an image of 9 x 9."""
    w = np.random.default_rng(2).standard_normal((24, channels, kernel, kernel)).astype(np.float32)
    node = oh.make_node("Conv", ["x", "w"], ["y"], pads=[kernel // 2] * 4)
    return _model(node, w, [1, channels, 9, 9])


def _model(node: onnx.NodeProto, w: np.ndarray, shape: list[int]) -> onnx.ModelProto:
    x, y = (oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None)))
    graph = oh.make_graph([node], "sums", [x], [y], [onnx.numpy_helper.from_array(w, "w")])
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def in_double(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The result in float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    (w,) = wide.graph.initializer
    w.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(w).astype(np.float64), "w"))
    wide.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    wide.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return ReferenceEvaluator(wide).run(None, {"x": x.astype(np.float64)})[0]


def inputs(model: onnx.ModelProto) -> np.ndarray:
    """Random ones."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


LONG = {
    "one row": product(1, 4096),
    "rows": product(7, 3072),
    "channels": convolution(128),
    "a large kernel": convolution(16, 9),
}


@pytest.mark.parametrize("model", LONG.values(), ids=LONG.keys())
def test_errors_are_of_the_size_of_onnx_runtimes(model: onnx.ModelProto) -> None:
    """One chain of roundings over all terms, which is 3 to 9 times as far off as ONNX Runtime."""
    x = inputs(model)
    truth = in_double(model, x)

    def error(result: np.ndarray) -> float:
        return float(np.sqrt(np.mean((result - truth) ** 2)))

    theirs = error(onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])
    ours = error(sofie.compile(model, without=["winograd"])(x))
    chain = error(sofie.compile(model, without=["winograd", "partial-sums"])(x))
    assert ours <= 2 * theirs
    assert ours <= 0.75 * chain


@pytest.mark.parametrize("model", LONG.values(), ids=LONG.keys())
def test_every_cpu_cuts_alike(model: onnx.ModelProto) -> None:
    """A part that is one vector longer, or a last part that is left out."""
    x = inputs(model)
    names = [f"x86-64-v{level}" for level in (3, 4) if level <= native().level]
    results = [sofie.compile(model, cpu=cpu)(x) for cpu in (*names, "portable")]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-4 * float(np.abs(results[0]).max()))
    for result in results[1 : len(names)]:
        np.testing.assert_array_equal(result, results[0])


def parts(model: onnx.ModelProto) -> int:
    """How many sums are cut."""
    module = load(model)
    passes = "fuse,fill-borders,pack-weights,assign-destinations,bufferize,plan-memory,collapse-loops,partial-sums"
    pipeline.run(module, pipeline.parse(passes, without=["winograd"]))
    return sum(AFRESH in op.attributes for op in module.walk() if isinstance(op, GenericOp))


def test_declines() -> None:
    """A part of 16 terms, whose addition costs more than it is worth; a sum that is short."""
    assert parts(product(7, 3072)) == 1
    assert parts(product(7, 512)) == 0
    assert parts(product(7, 16 * 397)) == 0
    assert parts(product(7, 1031)) == 0
