"""Level 2 as upstream MLIR reads it: nothing of SOFIE is left, and IREE computes the same numbers from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from sofie import pipeline
from sofie.emit.upstream import text, upstream_module
from sofie.errors import SofieError
from sofie.frontends.onnx import load

RNG = np.random.default_rng(5)


def graph(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[int]], weights: dict[str, Any], kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """A model that ends in `y`."""
    made = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mlp() -> onnx.ModelProto:
    shapes = {"w1": (7, 33), "b1": (33,), "w2": (33, 5), "b2": (5,)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
        helper.make_node("Softmax", ["z"], ["y"]),
    ]
    return graph(nodes, {"x": [3, 7]}, {n: RNG.standard_normal(s).astype(np.float32) for n, s in shapes.items()})


def convolution() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    weights = {"k": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), "b": np.ones(4, np.float32)}
    return graph(nodes, {"x": [1, 3, 8, 8]}, weights)


def shared_weight() -> onnx.ModelProto:
    """One weight under two names, behind one that is used later than it is declared."""
    same = RNG.standard_normal((4, 4)).astype(np.float32)
    late = np.arange(1, 5, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["m"]),
        helper.make_node("MatMul", ["m", "b"], ["n"]),
        helper.make_node("Add", ["n", "late"], ["y"]),
    ]
    return graph(nodes, {"x": [2, 4]}, {"late": late, "a": same, "b": same.copy()})


MODELS = [mlp, convolution, shared_weight]


def fused(model: onnx.ModelProto) -> ModuleOp:
    module = load(model)
    pipeline.run(module, pipeline.parse("fuse"))
    return module


@pytest.mark.parametrize("make", MODELS)
def test_nothing_of_sofie_is_left_and_the_rest_verifies(make: Callable[[], onnx.ModelProto]) -> None:
    module = fused(make())
    before = str(module)
    converted, _ = upstream_module(module)
    converted.verify()
    assert "sofie." not in str(converted)
    assert str(module) == before
    assert str(Parser(pipeline.context(), text(module)).parse_module()) == str(converted)


def test_equal_weights_are_one_argument_and_the_order_is_that_of_use() -> None:
    converted, weights = upstream_module(fused(shared_weight()))
    assert [w.value.shape for w in weights] == [(4, 4), (4,)]
    signature = str(converted).splitlines()[1]
    assert signature.count("tensor<4x4xf32>") == 1 and signature.count("tensor<4xf32>") == 1


def test_the_comment_names_each_weight_and_cannot_be_broken_by_its_name() -> None:
    model = mlp()
    model.graph.initializer[0].name = model.graph.node[0].input[1] = 'w\n"x'
    lines = text(fused(model)).splitlines()
    assert lines[1].startswith('//   w\\n"x ') and len(lines[1].split()[-1]) == 64
    assert lines[5] == "builtin.module {"


def test_integers_are_signless() -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    model = graph(nodes, {"x": [3]}, {"w": np.arange(3, dtype=np.uint8)}, TensorProto.UINT8)
    assert "ui8" not in text(fused(model))


def test_another_level_is_refused_in_one_sentence() -> None:
    with pytest.raises(SofieError, match="tensor level, made by --pipeline=fuse.*onnx.Gemm"):
        upstream_module(load(mlp()))


@pytest.mark.parametrize("make", MODELS)
def test_iree_computes_what_onnx_says(make: Callable[[], onnx.ModelProto]) -> None:
    compiler = pytest.importorskip("iree.compiler")
    runtime = pytest.importorskip("iree.runtime")
    model = make()
    module = fused(model)
    _, weights = upstream_module(module)
    binary = compiler.compile_str(
        text(module), target_backends=["llvm-cpu"], extra_args=["--iree-llvmcpu-target-cpu=generic"]
    )
    context = runtime.SystemContext(config=runtime.Config("local-sync"))
    context.add_vm_module(runtime.VmModule.copy_buffer(context.instance, binary))
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = RNG.standard_normal(shape).astype(np.float32)
    result = context.modules.module["infer"](x, *(w.value for w in weights)).to_host()
    np.testing.assert_allclose(result, ReferenceEvaluator(model).run(None, {"x": x})[0], rtol=2e-5, atol=2e-6)
