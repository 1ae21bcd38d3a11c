"""Sums that become bytes by float32's numbers, two vectors at a time: the same bytes, whatever is left over."""

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

CHANNELS = (3, 12, 21, 40)
"""Of no vector, of one, of pairs of them and what is left."""
CPUS = [name for name in runs_here() if name.startswith("x86")]
Case = tuple[int, str, bool, bool]
"""Channels, the type of the result, whether a scale for each of them, whether part of the range only."""
CASES: list[Case] = [
    (channels, kind, each, part)
    for channels in CHANNELS
    for kind in ("uint8", "int8")
    for each in (False, True)
    for part in (False, True)
]


@cache
def _model() -> tuple[onnx.ModelProto, dict[str, np.ndarray], list[np.ndarray]]:
    """All cases side by side, their inputs, and the results in exact arithmetic: every number is a multiple of 1/64."""
    rng = np.random.default_rng(7)
    nodes, weights, feeds, truth, kinds = [], {}, {}, [], {}
    for i, (channels, kind, each, part) in enumerate(CASES):
        x, w = rng.integers(0, 256, (7, 5), np.uint8), rng.integers(-128, 128, (5, channels), np.int8)
        scale = (2.0 ** -rng.integers(2, 7, channels if each else ())).astype(np.float32)
        zero = np.array(rng.integers(-20, 20) + 100 * (kind == "uint8"), kind)
        feeds[f"x{i}"] = x
        weights |= {f"w{i}": w, f"ws{i}": scale, f"z{i}": zero}
        of_x, of_w, one = [f"x{i}", "one", "none"], [f"w{i}", f"ws{i}"], "one"
        weights |= {"one": np.float32(1), "none": np.uint8(0)}
        nodes += [
            helper.make_node("DequantizeLinear", of_x, [f"xf{i}"]),
            helper.make_node("DequantizeLinear", of_w, [f"wf{i}"], axis=1),
            helper.make_node("MatMul", [f"xf{i}", f"wf{i}"], [f"s{i}"]),
        ]
        result, bounds = f"s{i}", np.iinfo(kind)
        low, high = (-30.0, 40.0) if part else (-np.inf, np.inf)
        if part:
            weights |= {"low": np.float32(low), "high": np.float32(high)}
            nodes.append(helper.make_node("Clip", [result, "low", "high"], [f"c{i}"]))
            result = f"c{i}"
        nodes.append(helper.make_node("QuantizeLinear", [result, one, f"z{i}"], [f"y{i}"]))
        sums = np.clip((x.astype(np.float64) @ w.astype(np.float64)) * scale, low, high)
        truth.append(np.clip(np.rint(sums) + int(zero), bounds.min, bounds.max).astype(kind))
        kinds |= {f"x{i}": TensorProto.UINT8, f"y{i}": TensorProto.UINT8 if kind == "uint8" else TensorProto.INT8}
    names = [f"y{i}" for i in range(len(CASES))]
    proto = models.build(nodes, {name: x.shape for name, x in feeds.items()}, names, weights, kinds)
    return proto, feeds, truth


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize(("cpu", "without"), [*((cpu, ()) for cpu in CPUS), ("native", ("round-lanes",))])
def test_bytes_are_those_of_exact_arithmetic(cpu: str, without: tuple[str, ...]) -> None:
    """A tie that goes the other way, a vector in another's place, bounds that are not those of a byte."""
    proto, feeds, truth = _model()
    results = compile_model(proto, Options(cpu=cpu, without=without)).run(feeds).values()
    for case, got, want in zip(CASES, results, truth, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=str(case))


@pytest.mark.parametrize("cpu", ["x86-64-v3", "x86-64-v4"])
def test_no_number_outside_of_memory_is_read(cpu: str) -> None:
    """A load that compiled code may do unseen: the interpreter refuses it."""
    proto, feeds, truth = _model()
    module = load(proto)
    pipeline.run(module, pipeline.parse(f"fuse,lower{{cpu={cpu}}}"), verify_each=True)
    for got, want in zip(interpreter.run(module, list(feeds.values())), truth, strict=True):
        np.testing.assert_array_equal(np.asarray(got).view(want.dtype), want)


@pytest.mark.parametrize(("cpu", "widest"), [("portable", 0), ("x86-64-v2", 8), ("x86-64-v3", 16), ("x86-64-v4", 32)])
def test_how_many_bytes_are_made_together(cpu: str, widest: int) -> None:
    """Neighbours that are packed one by one; a CPU that has no such instructions and makes float32's numbers."""
    header = lower(_model()[0], "m", Options(cpu=cpu)).header()
    kernels = header[header.index("namespace kernels") :]
    made = [n for n in (4, 8, 16, 32) if f"requantized_x{n}<" in kernels]
    assert max(made, default=0) == widest
