"""Depthwise sums of bytes by words of several rows: exact for every kernel, stride and CPU, and no word made twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from onnx import helper

import sofie
from sofie import interpreter, pipeline
from sofie.compiler import Options, lower
from sofie.frontends.onnx import load
from tests import models
from tests.cpus import BYTE_CPUS
from tests.draws import bytes_of_layer


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """A depthwise convolution of bytes."""
    channels = draw(st.sampled_from([4, 16, 19, 24, 48, 65]))
    taps = draw(st.sampled_from([(3, 3), (5, 5), (4, 2), (7, 3), (2, 3), (3, 1), (9, 1), (70, 1), (3, 17)]))
    layer: dict[str, Any] = {
        "strides": [draw(st.integers(1, 2)) for _ in range(2)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(2)],
        "pads": [draw(st.integers(0, 2)) for _ in range(4)],
    }
    spans = [(t - 1) * d + 1 for t, d in zip(taps, layer["dilations"], strict=True)]
    sides = [draw(st.integers(span, span + 9)) for span in spans]
    shapes = {"x": (draw(st.integers(1, 2)), channels, *sides), "w": (channels, 1, *taps)}
    return layer | draw(bytes_of_layer(shapes))


def model_of(layer: dict[str, Any]) -> onnx.ModelProto:
    """The layer alone."""
    how = {name: layer[name] for name in ("strides", "dilations", "pads")}
    node = helper.make_node("ConvInteger", ["x", "w", "x_zero", "w_zero"], ["y"], group=layer["w"].shape[0], **how)
    kinds = {"x": models.BYTES[str(layer["x"].dtype)], "y": onnx.TensorProto.INT32}
    weights = {name: layer[name] for name in ("w", "x_zero", "w_zero")}
    return models.build([node], {"x": layer["x"].shape}, ["y"], weights, kinds)


def truth_of(layer: dict[str, Any]) -> np.ndarray:
    """The sums in 64 bits."""
    top, left, bottom, right = layer["pads"]
    x = np.pad(layer["x"].astype(np.int64) - int(layer["x_zero"]), ((0, 0), (0, 0), (top, bottom), (left, right)))
    w = layer["w"].astype(np.int64)[:, 0]
    (down, across), (by, along) = layer["dilations"], layer["strides"]
    reach = [(w.shape[1] - 1) * down + 1, (w.shape[2] - 1) * across + 1]
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))[..., ::by, ::along, ::down, ::across]
    return np.einsum("nchwij,cij->nchw", windows, w)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("byte_cpu", BYTE_CPUS, indirect=True)
def test_sums_are_exact(byte_cpu: str) -> None:
    """A row in another's place, a word behind the last row that is not zero, a neighbour's word."""

    @settings(phases=[Phase.explicit, Phase.generate], max_examples=6, deadline=None, print_blob=True)
    @given(layers())
    def agrees(layer: dict[str, Any]) -> None:
        made = sofie.compile(model_of(layer), cpu=byte_cpu)
        np.testing.assert_array_equal(made(layer["x"]), truth_of(layer))

    agrees()


def plain(taps: int = 3, stride: int = 1, channels: int = 32) -> dict[str, Any]:
    """A layer with results of 8 x 8 places."""
    x = models.random("uint8", (1, channels, 8 * stride, 8 * stride), 0)
    w = models.random("int8", (channels, 1, taps, taps), 1)
    zeros = {"x_zero": np.asarray(3, np.uint8), "w_zero": np.asarray(0, np.int8)}
    return {"x": x, "w": w, **zeros, "strides": [stride] * 2, "dilations": [1, 1], "pads": [taps // 2] * 4}


@pytest.mark.parametrize(("taps", "stride", "columns"), [(3, 1, 8 + 2), (3, 2, 8 * 2 + 1), (5, 1, 8 + 4)])
def test_neighbours_share_words(taps: int, stride: int, columns: int) -> None:
    """A word that is made again for each of the 8 results in a row that it is of."""
    program = lower(model_of(plain(taps, stride)), "net", Options(cpu="x86-64-v4-vnni"))
    (kernel,) = [text for text in program.variants[0].kernels.values() if "detail::join(" in text]
    words = -(-taps // 4)
    assert kernel.count("detail::join(") == columns * words
    assert kernel.count("detail::dot(") == 8 * taps * words


@pytest.mark.parametrize("cpu", ["x86-64-v3", "x86-64-v4-vnni"])
def test_the_interpreter_joins_vectors(cpu: str) -> None:
    """Lanes that the compiled code joins otherwise; memory that is read beyond its end."""
    layer = plain(channels=24)
    module = load(model_of(layer))
    pipeline.run(module, Options(cpu=cpu).stages(), verify_each=True)
    (got,) = interpreter.run(module, [layer["x"]])
    np.testing.assert_array_equal(got, truth_of(layer))


def test_sums_over_channels_are_left_as_they_are() -> None:
    """Bytes that other passes lay side by side, or whose weights are no constants."""
    weights = {"w": models.random("int8", (32, 32, 3, 3), 1)}
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    kinds = {"x": onnx.TensorProto.UINT8, "y": onnx.TensorProto.INT32}
    dense = models.build([node], {"x": [1, 32, 8, 8]}, ["y"], weights, kinds)
    given = models.build(
        [helper.make_node("ConvInteger", ["x", "w"], ["y"], group=32)],
        {"x": [1, 32, 8, 8], "w": [32, 1, 3, 3]},
        ["y"],
        {},
        {**kinds, "w": onnx.TensorProto.INT8},
    )
    for model in (dense, given):
        assert "detail::join(" not in lower(model, "net", Options(cpu="x86-64-v4-vnni")).header().split("kernels {")[1]
