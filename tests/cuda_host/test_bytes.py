"""Products of bytes on a GPU: by tensor cores, by dot products, by a row's lanes, each with every kind of word."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as every
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sofie import pipeline
from sofie.compiler import Options, compile_model, lower
from sofie.emit.cuda import CudaProgram
from sofie.emit.hip import HipProgram
from tests.cuda_host.emulation import emulated

pytestmark = pytest.mark.usefixtures("needs_compiler")

KINDS = {"u8": (TensorProto.UINT8, np.uint8), "s8": (TensorProto.INT8, np.int8)}
SCHEDULES = {
    "mma": f"{pipeline.GPU}{{least=1 cycles=0}}",
    "dot": f"{pipeline.GPU}{{bytes=dot least=1 cycles=0}}",
    "lanes": f"{pipeline.GPU}{{least={2**40} cycles=0}}",
    "as it comes": pipeline.GPU,
}
"""Every product by tiles, however small, or none; and what a user gets."""


def drawn(kind: str, *shape: int) -> np.ndarray:
    """All bytes there are."""
    limits = np.iinfo(KINDS[kind][1])
    return np.random.default_rng(11).integers(limits.min, limits.max + 1, shape).astype(KINDS[kind][1])


def model(
    node: onnx.NodeProto, x: tuple[str, Sequence[int]], w: np.ndarray | None, y: Sequence[Any], zeros: Sequence[int]
) -> onnx.ModelProto:
    """One operator with zero points; its weights are an input where they are None."""
    weights = np.zeros((x[1][-1], *y[1:]), np.int8) if w is None else w
    kind = x[0]
    inputs = [helper.make_tensor_value_info("x", KINDS[kind][0], x[1])]
    known = {"xz": np.array(zeros[0], KINDS[kind][1]), "wz": np.array(zeros[1], weights.dtype)}
    if w is None:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.INT8, weights.shape))
    else:
        known["w"] = weights
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, y)]
    constants = [numpy_helper.from_array(value, name) for name, value in known.items()]
    graph = helper.make_graph([node], "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def matmul(
    kind: str, rows: int, terms: int, columns: int, constant: bool = True, weights: str = "s8", zero: int = 0
) -> onnx.ModelProto:
    """y = (x - 3) (w - zero)"""
    node = helper.make_node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])
    w = drawn(weights, terms, columns) if constant else None
    return model(node, (kind, (rows, terms)), w, (rows, columns), (3, zero))


def conv(kind: str, channels: int, outputs: int, kernel: int, **attributes: Any) -> onnx.ModelProto:
    """y = conv(x - 3, w - 0)"""
    node = helper.make_node("ConvInteger", ["x", "w", "xz", "wz"], ["y"], **attributes)
    w = drawn("s8", outputs, channels // attributes.get("group", 1), kernel, kernel)
    image = np.zeros((2, channels, 9, 7), KINDS[kind][1])
    free = model(node, (kind, image.shape), w, ["a", "b", "c", "d"], (3, 0))
    (result,) = ReferenceEvaluator(free).run(None, {"x": image})
    return model(node, (kind, image.shape), w, result.shape, (3, 0))


MODELS = {
    "words": lambda: matmul("u8", 40, 128, 72),
    "ragged": lambda: matmul("u8", 33, 45, 35),
    "with_signs": lambda: matmul("s8", 40, 64, 40),
    "without_signs": lambda: matmul("u8", 40, 64, 40, weights="u8", zero=128),
    "nine_bits": lambda: matmul("u8", 40, 64, 40, zero=2),
    "inputs": lambda: matmul("s8", 33, 45, 35, constant=False, zero=2),
    "long_row": lambda: matmul("u8", 1, 2048, 10),
    "image": lambda: conv("u8", 3, 8, 3, pads=[1, 1, 1, 1]),
    "channels": lambda: conv("s8", 8, 36, 3, strides=[2, 1]),
    "odd_channels": lambda: conv("u8", 6, 33, 3, dilations=[2, 1], pads=[2, 1, 2, 1]),
    "pointwise": lambda: conv("u8", 5, 32, 1),
    "depthwise": lambda: conv("u8", 4, 4, 3, group=4, pads=[1, 1, 1, 1]),
    "groups": lambda: conv("u8", 8, 64, 3, group=2, pads=[1, 1, 1, 1]),
}


@pytest.mark.parametrize(("name", "schedule"), list(every(MODELS, SCHEDULES)))
def test_sums_are_exact(name: str, schedule: str) -> None:
    """A byte beyond the end of a row, a sign that is lost, a word of other terms than the other factor's."""
    proto = MODELS[name]()
    feeds = {}
    for value in proto.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = drawn("u8" if value.type.tensor_type.elem_type == TensorProto.UINT8 else "s8", *shape)
    options = Options(target="cuda", passes=SCHEDULES[schedule])
    with emulated():
        (got,) = compile_model(proto, options).run(feeds).values()
    np.testing.assert_array_equal(got, ReferenceEvaluator(proto).run(None, feeds)[0])


@pytest.mark.parametrize(
    ("name", "schedule", "has", "lacks"),
    [
        ("words", "mma", "product_u8s8", "detail::dot("),
        ("channels", "mma", "product_s8u8", "detail::dot("),
        ("words", "dot", "detail::dot(", "product_"),
        ("words", "dot", "load_word", "detail::join("),
        ("channels", "dot", "detail::join(", "product_"),
        ("long_row", "lanes", "detail::dot(", "detail::join("),
        ("pointwise", "dot", "detail::join(", "product_"),
    ],
)
def test_which_instructions_are_used(name: str, schedule: str, has: str, lacks: str) -> None:
    """A schedule that falls back to single bytes."""
    program = lower(MODELS[name](), "m", Options(target="cuda", passes=SCHEDULES[schedule]))
    assert isinstance(program, CudaProgram)
    kernels = "\n".join(program.kernels)
    assert has in kernels and lacks not in kernels


def test_hip_has_dot_products() -> None:
    """PTX in a program for AMD's GPUs."""
    program = lower(MODELS["words"](), "m", Options(target="hip", passes=f"{pipeline.GPU}{{least=1 cycles=0}}"))
    assert isinstance(program, HipProgram)
    assert "detail::dot(" in program.header()
