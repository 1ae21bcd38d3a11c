"""The law of each level: what is forbidden is said in one sentence, what the descent makes is not forbidden."""

from __future__ import annotations

import pytest
from xdsl.parser import Parser

from sofie import levels, pipeline
from sofie.errors import SofieError
from sofie.frontends.onnx import load
from tests import models

FORBIDDEN = {
    "onnx": (
        "func.func @infer(%x : tensor<2xf32>) { %e = tensor.empty() : tensor<2xf32> func.return }",
        "tensor.empty may not stand at the onnx level",
    ),
    "tensor": (
        "func.func @infer(%x : tensor<2xf32>) { %y = onnx.Relu(%x) : (tensor<2xf32>) -> tensor<2xf32> func.return }",
        "onnx.Relu may not stand at the tensor level; run lower-onnx first",
    ),
    "buffer": (
        "func.func @infer(%x : memref<2xf32>) { %e = memref.alloc() : memref<2xf32> func.return }",
        "memref.alloc may not stand at the buffer level; run bufferize and plan-memory first",
    ),
    "loop": (
        "func.func @infer(%x : memref<2xf32>) { sofie.fused { sofie.yield } func.return }",
        "sofie.fused may not stand at the loop level; run lower-loops and outline-kernels first",
    ),
    "gpu": (
        'func.func @infer(%n : index) { "scf.parallel"(%n, %n, %n) <{operandSegmentSizes = array<i32: 1, 1, 1, 0>}> '
        "({ ^bb0(%i : index): scf.reduce }) : (index, index, index) -> () func.return }",
        "scf.parallel may not stand at the gpu level: no thread runs it; run map-gpu",
    ),
}


@pytest.mark.parametrize("level", levels.LEVELS)
def test_forbidden_op_is_one_sentence(level: str) -> None:
    """An op that nobody lowered passes in silence, or the message helps nobody."""
    text, sentence = FORBIDDEN[level]
    with pytest.raises(SofieError) as raised:
        levels.check(Parser(pipeline.context(), text).parse_module(), level)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", models.ALL)
def test_descent_obeys_every_law_and_keeps_node_names(name: str) -> None:
    """A pass that claims a level it does not reach."""
    module = load(models.ALL[name]())
    levels.check(module, "onnx")
    seen = []
    pipeline.run(module, pipeline.parse("fuse,lower"), verify_each=True, observe=lambda p, *_: seen.append(p.name))
    levels.check(module, "loop")
    assert "outline-kernels" in seen


def test_tensor_left_at_the_buffer_level_is_named() -> None:
    """A law that only looks at op names."""
    text = """func.func @infer(%x : tensor<2xf32>) {
      %y = arith.addf %x, %x : tensor<2xf32>
      func.return
    }"""
    with pytest.raises(SofieError, match="still works on tensors"):
        levels.check(Parser(pipeline.context(), text).parse_module(), "buffer")


def test_error_of_a_lost_op_names_the_onnx_node() -> None:
    """A user who cannot find the node in his model."""
    module = load(models.mlp())
    with pytest.raises(SofieError, match=r"node 'dense_1' \(Gemm\)"):
        levels.check(module, "tensor")


@pytest.mark.parametrize(
    ("body", "allowed"),
    [
        ("func.call @k(%x) : (memref<2xf32>) -> ()", True),
        ("memref.store %v, %x[%t] : memref<2xf32>", False),
        ("sofie.fused { sofie.yield }", False),
    ],
)
def test_loops_in_infer_hold_calls_and_nothing_that_computes(body: str, allowed: bool) -> None:
    """A law that does not look into the loops and branches of @infer."""
    text = f"""
    func.func private @k(%x : memref<2xf32>) {{ func.return }}
    func.func @infer(%x : memref<2xf32>) {{
      %a = arith.constant 0 : index
      %b = arith.constant 1 : index
      %v = arith.constant 1.0 : f32
      %c = arith.constant true
      scf.for %t = %a to %b step %b {{
        scf.if %c {{ {body} }}
      }}
      func.return
    }}"""
    module = Parser(pipeline.context(), text).parse_module()
    if allowed:
        levels.check(module, "loop")
    else:
        with pytest.raises(SofieError, match="may not stand"):
            levels.check(module, "loop")
