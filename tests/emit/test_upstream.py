"""Level 2 as upstream MLIR reads it: nothing of SOFIE is left, and IREE computes the same numbers from it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from sofie import pipeline
from sofie.emit.upstream import text, upstream_module
from sofie.errors import SofieError
from sofie.frontends.onnx import load
from tests import models


def shared_weight() -> onnx.ModelProto:
    """One weight under two names, behind one that is used later than it is declared."""
    same = models.normal(4, 4)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["m"]),
        helper.make_node("MatMul", ["m", "b"], ["n"]),
        helper.make_node("Add", ["n", "late"], ["y"]),
    ]
    weights = {"late": np.arange(1, 5, dtype=np.float32), "a": same, "b": same.copy()}
    return models.build(nodes, {"x": [2, 4]}, ["y"], weights)


MODELS = {**models.ALL, "shared weight": shared_weight}


def fused(model: onnx.ModelProto) -> ModuleOp:
    module = load(model)
    pipeline.run(module, pipeline.parse("fuse"))
    return module


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_sofie_is_left_and_the_rest_verifies(name: str) -> None:
    module = fused(MODELS[name]())
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
    model = models.mlp()
    model.graph.initializer[0].name = model.graph.node[0].input[1] = 'w\n"x'
    lines = text(fused(model)).splitlines()
    assert lines[1].startswith('//   w\\n"x ') and len(lines[1].split()[-1]) == 64
    assert lines[5] == "builtin.module {"


def test_integers_are_signless() -> None:
    assert "ui8" not in text(fused(models.integers()))


def test_sizes_of_the_run_are_question_marks() -> None:
    module = load(models.mlp(), {"batch": (1, 8)})
    pipeline.run(module, pipeline.parse("fuse"))
    converted, _ = upstream_module(module)
    converted.verify()
    signature = str(converted).splitlines()[1]
    assert "%batch: index, %x: tensor<?x7xf32>" in signature and "-> tensor<?x5xf32>" in signature
    assert "sofie." not in str(converted)


def test_another_level_is_refused_in_one_sentence() -> None:
    with pytest.raises(SofieError, match="tensor level, made by --pipeline=fuse.*onnx.Gemm"):
        upstream_module(load(models.mlp()))


@pytest.mark.parametrize("name", [*MODELS, "mlp in batches"])
def test_iree_computes_what_onnx_runtime_does(name: str) -> None:
    compiler = pytest.importorskip("iree.compiler")
    runtime = pytest.importorskip("iree.runtime")
    sizes = [] if name in MODELS else [3]
    model = MODELS[name.split()[0] if sizes else name]()
    module = load(model, {"batch": (1, 8)} if sizes else {})
    pipeline.run(module, pipeline.parse("fuse"))
    _, weights = upstream_module(module)
    binary = compiler.compile_str(
        text(module), target_backends=["llvm-cpu"], extra_args=["--iree-llvmcpu-target-cpu=generic"]
    )
    context = runtime.SystemContext(config=runtime.Config("local-sync"))
    context.add_vm_module(runtime.VmModule.copy_buffer(context.instance, binary))
    feeds = models.feeds(model)
    results = context.modules.module["infer"](*sizes, *feeds.values(), *(w.value for w in weights))
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    for result, truth in zip(results if isinstance(results, tuple) else [results], expected, strict=True):
        signless = truth.view(truth.dtype.str.replace("u", "i"))  # as upstream's types are
        largest = float(np.abs(signless).max())
        np.testing.assert_allclose(result.to_host(), signless, rtol=0, atol=2e-6 * largest)
