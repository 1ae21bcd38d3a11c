"""Sums of products of bytes whose words are widened: the same integers, whatever rows and words are left over."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sofie import interpreter, pipeline
from sofie.compiler import Options, compile_model, lower
from sofie.frontends.onnx import load
from sofie.target import runs_here
from tests import models

PRODUCTS = [(m, k, n) for m in (1, 3, 9) for k, n in ((4, 8), (36, 24), (100, 17))]
"""Rows, terms, columns."""
LONG = [(6, 4096, 16), (3, 8212, 8)]
"""Sums that go by parts, one of them by no even one."""
CONVOLUTIONS = [(c, taps, stride) for c in (8, 20) for taps in (1, 3) for stride in (1, 2)]
CPUS = [name for name in runs_here() if name in ("x86-64-v2", "x86-64-v3", "x86-64-v4")]


@cache
def _model() -> tuple[onnx.ModelProto, dict[str, np.ndarray], list[np.ndarray]]:
    """All of them side by side, their inputs, and the results of exact arithmetic."""
    rng = np.random.default_rng(3)
    nodes, weights, feeds, truth = [], {}, {}, []
    for i, (m, k, n) in enumerate([*PRODUCTS, *LONG]):
        x, w = rng.integers(0, 256, (m, k), np.uint8), rng.integers(-128, 128, (k, n), np.int8)
        feeds[f"x{i}"], weights[f"w{i}"] = x, w
        nodes.append(helper.make_node("MatMulInteger", [f"x{i}", f"w{i}"], [f"y{i}"]))
        truth.append(x.astype(np.int32) @ w.astype(np.int32))
    for i, (channels, taps, stride) in enumerate(CONVOLUTIONS, len(feeds)):
        x = rng.integers(0, 256, (1, channels, 13, 13), np.uint8)
        w = rng.integers(-128, 128, (24, channels, taps, taps), np.int8)
        feeds[f"x{i}"], weights[f"w{i}"] = x, w
        nodes.append(helper.make_node("ConvInteger", [f"x{i}", f"w{i}"], [f"y{i}"], strides=[stride, stride]))
        windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.int32), (taps, taps), axis=(2, 3))
        truth.append(np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], w.astype(np.int32)))
    kinds = {name: TensorProto.UINT8 for name in feeds} | {f"y{i}": TensorProto.INT32 for i in range(len(truth))}
    proto = models.build(
        nodes, {name: x.shape for name, x in feeds.items()}, [n.output[0] for n in nodes], weights, kinds
    )
    return proto, feeds, truth


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("without", [(), ("widen-words",)], ids=["widened", "plain"])
@pytest.mark.parametrize("cpu", CPUS)
def test_sums_are_those_of_exact_arithmetic(cpu: str, without: tuple[str, ...]) -> None:
    """A word of another row, a byte whose sign is lost, a last vector that reads what lies behind a row."""
    proto, feeds, truth = _model()
    for got, want in zip(
        compile_model(proto, Options(cpu=cpu, without=without)).run(feeds).values(), truth, strict=True
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("cpu", "room"), [("x86-64-v3", 768), ("x86-64-v4", 24576)])
def test_no_word_outside_of_memory_is_read(cpu: str, room: int) -> None:
    """A load that compiled code may do unseen: the interpreter refuses it."""
    proto, feeds, truth = _model()
    module = load(proto)
    pipeline.run(module, pipeline.parse(f"fuse,lower{{cpu={cpu} room={room}}}"), verify_each=True)
    for got, want in zip(interpreter.run(module, list(feeds.values())), truth, strict=True):
        np.testing.assert_array_equal(got, want)


def test_only_x86_without_vnni_widens() -> None:
    """A CPU with dot products of bytes that makes halves of them; one of the others that does not."""
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    kinds = {"x": TensorProto.UINT8, "y": TensorProto.INT32}
    proto = models.build([node], {"x": [4, 16]}, ["y"], {"w": np.full((16, 8), 127, np.int8)}, kinds)
    for cpu in ("portable", "aarch64", "x86-64-v2", "x86-64-v3", "x86-64-v3-vnni", "x86-64-v4", "x86-64-v4-vnni"):
        widened = "std::int32_t wide[" in lower(proto, "m", Options(cpu=cpu)).header()
        assert widened == (cpu in ("x86-64-v2", "x86-64-v3", "x86-64-v4")), cpu
