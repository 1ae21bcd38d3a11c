"""Transformed tiles against the direct sum: every shape of what is left at the edges, and the rule of errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import sofie
from sofie import pipeline
from sofie.compiler import Options, lower
from sofie.frontends.onnx import load
from sofie.tiles import integer_transform, transform
from tests import models
from tests.cpus import BYTE_CPUS
from tests.draws import bytes_of_layer

SHAPES: dict[str, dict[str, Any]] = {
    "whole tiles": {"height": 16, "width": 16},
    "rest of rows": {"height": 13, "width": 16, "residual": True},
    "rest of columns": {"height": 8, "width": 11, "batch": 2},
    "one row of tiles": {"height": 7, "width": 28, "pads": (0, 0, 0, 0)},
    "uneven padding": {"height": 14, "width": 15, "pads": (0, 1, 2, 0), "bias": False},
    "less than a tile": {"height": 3, "width": 3, "residual": True},
    "many rows": {"height": 64, "width": 8},
}


def _model(
    height: int,
    width: int,
    batch: int = 1,
    channels: int = 32,
    outputs: int = 48,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    bias: bool = True,
    residual: bool = False,
    taps: int = 3,
) -> onnx.ModelProto:
    """A convolution, perhaps a sum with another input, and Relu."""
    rng = np.random.default_rng(7)
    w = (rng.standard_normal((outputs, channels, taps, taps)) * np.sqrt(2 / taps**2 / channels)).astype(np.float32)
    weights = [onnx.numpy_helper.from_array(w, "w")]
    if bias:
        weights.append(onnx.numpy_helper.from_array(rng.standard_normal(outputs).astype(np.float32), "b"))
    shape = [batch, outputs, height + pads[0] + pads[2] - taps + 1, width + pads[1] + pads[3] - taps + 1]
    names = ["x", *(i.name for i in weights)]
    nodes = [oh.make_node("Conv", names, ["c"], kernel_shape=[taps, taps], pads=list(pads))]
    inputs = [oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, channels, height, width])]
    if residual:
        inputs.append(oh.make_tensor_value_info("r", onnx.TensorProto.FLOAT, shape))
        nodes.append(oh.make_node("Add", ["c", "r"], ["s"]))
    nodes.append(oh.make_node("Relu", [nodes[-1].output[0]], ["y"]))
    output = oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    graph = oh.make_graph(nodes, "conv", inputs, [output], weights)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


WORSE = {(2, 3): 1.1, (4, 3): 2.5, (2, 5): 4.0}
"""How much larger than the direct sum's error that of a tile may be, by tile and taps: no more than the rule allows."""


@pytest.mark.parametrize(("tile", "taps"), WORSE)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_numbers(shape: dict[str, Any], tile: int, taps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile at an edge that is read or written beyond it; points whose error is not of the direct sum's size."""
    monkeypatch.setattr("sofie.passes.winograd.cheapest", lambda *_: tile)
    model = _model(**{**shape, "height": shape["height"] + taps - 3, "width": shape["width"] + taps - 3, "taps": taps})
    rng = np.random.default_rng(1)
    feeds = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32)
        for i in model.graph.input
    }
    got = sofie.compile(model, passes="fuse,lower").run(feeds)["y"]
    direct = sofie.compile(model, without=["winograd"]).run(feeds)["y"]
    truth = _direct(model, feeds)
    scale = np.abs(truth).max()
    assert np.abs(got - truth).max() <= WORSE[tile, taps] * np.abs(direct - truth).max() + 4 * np.spacing(
        np.float32(scale)
    )


def _direct(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The result in double precision."""
    weights = {i.name: onnx.numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer}
    top, left, bottom, right = model.graph.node[0].attribute[1].ints
    x = np.pad(feeds["x"].astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weights["w"].shape[2:], axis=(2, 3))
    y = np.einsum("nchwij,ocij->nohw", windows, weights["w"], optimize=True)
    if "b" in weights:
        y += weights["b"][:, None, None]
    return np.maximum(y + feeds.get("r", np.float32(0)), 0)


SIDES = [*((s["height"], s["width"]) for s in SHAPES.values() if s["height"] < 20), (4, 5), (9, 3)]


@st.composite
def byte_layers(draw: st.DrawFn) -> dict[str, Any]:
    """A convolution of bytes."""
    (height, width), channels = draw(st.sampled_from(SIDES)), draw(st.sampled_from([16, 18, 32, 144]))
    layer: dict[str, Any] = {"pads": [draw(st.integers(0, 1)) for _ in range(4)]}
    shapes = {"x": (draw(st.integers(1, 2)), channels, height, width), "w": (draw(st.integers(16, 33)), channels, 3, 3)}
    return layer | draw(bytes_of_layer(shapes))


def _byte_model(layers: list[dict[str, Any]]) -> onnx.ModelProto:
    """Each layer by itself."""
    nodes, inputs, weights = [], [], {}
    for k, layer in enumerate(layers):
        names = [f"x{k}", f"w{k}", f"x_zero{k}", f"w_zero{k}"]
        nodes.append(oh.make_node("ConvInteger", names, [f"y{k}"], pads=layer["pads"]))
        kind = models.BYTES[str(layer["x"].dtype)]
        inputs.append(oh.make_tensor_value_info(f"x{k}", kind, layer["x"].shape))
        weights |= {f"{name}{k}": layer[name] for name in ("w", "x_zero", "w_zero")}
    outputs = [oh.make_tensor_value_info(f"y{k}", onnx.TensorProto.INT32, None) for k in range(len(layers))]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = oh.make_graph(nodes, "bytes", inputs, outputs, tensors)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


def _sums(layer: dict[str, Any]) -> np.ndarray:
    """The products' sums in 64 bits."""
    x = layer["x"].astype(np.int64) - int(layer["x_zero"])
    top, left, bottom, right = layer["pads"]
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))), (3, 3), axis=(2, 3)
    )
    return np.einsum("nchwij,ocij->nohw", windows, layer["w"].astype(np.int64) - int(layer["w_zero"]), optimize=True)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("byte_cpu", BYTE_CPUS, indirect=True)
def test_sums_of_products_of_bytes_are_exact(byte_cpu: str, tile: int) -> None:
    """A transformed byte or weight that leaves 16 bits, a result that leaves what its division keeps, a wrong edge."""

    @settings(phases=[Phase.explicit, Phase.generate], max_examples=3, deadline=None, print_blob=True)
    @given(st.lists(byte_layers(), min_size=1, max_size=1))
    def agrees(layers: list[dict[str, Any]]) -> None:
        program = sofie.compile(_byte_model(layers), cpu=byte_cpu)
        results = program.run({f"x{k}": layer["x"] for k, layer in enumerate(layers)})
        assert any(array.dtype == np.int16 for _, array in program.program.weights)
        for layer, got in zip(layers, results.values(), strict=True):
            np.testing.assert_array_equal(got, _sums(layer))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sofie.passes.winograd.cheapest", lambda *sizes: min(tile, sizes[4]))
        agrees()


@pytest.mark.parametrize("vnni", [True, False])
def test_bytes_are_summed_as_they_are_where_a_cpu_does_four_at_a_time(vnni: bool) -> None:
    """Tiles of many channels, whose weights take 8 times the bytes, where a dot product is quicker, or no tiles."""
    w, zeros = np.ones((256, 256, 3, 3), np.int8), (np.asarray(0, np.uint8), np.asarray(0, np.int8))
    layer = {"x": np.zeros((1, 256, 14, 14), np.uint8), "w": w, "x_zero": zeros[0], "w_zero": zeros[1], "pads": [1] * 4}
    program = lower(_byte_model([layer]), "net", Options(passes=f"fuse{{vnni={str(vnni).lower()}}},lower"))
    assert any(array.dtype == np.int16 for _, array in program.weights) != vnni


def test_a_sum_beyond_what_a_tile_of_four_divides_takes_a_tile_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """144 channels of the largest bytes: a sum of 42 million, where 2^25 is 34 million."""
    monkeypatch.setattr("sofie.passes.winograd.cheapest", lambda *sizes: sizes[4])
    weights = {outputs: np.full((16, outputs, 3, 3), 127, np.int8) for outputs in (112, 144)}
    for channels, w in weights.items():
        zero = np.asarray(0, np.uint8), np.asarray(0, np.int8)
        x = np.full((1, channels, 8, 8), 255, np.uint8)
        layer = {"x": x, "w": w, "x_zero": zero[0], "w_zero": zero[1], "pads": [1] * 4}
        program = sofie.compile(_byte_model([layer]))
        (points,) = {array.size // w[..., 0, 0].size for _, array in program.program.weights if array.dtype == np.int16}
        assert points == (36 if channels == 112 else 16)
        np.testing.assert_array_equal(program.run({"x0": x})["y0"], _sums(layer))


@pytest.mark.parametrize("tile", [2, 4])
def test_integer_matrices(tile: int) -> None:
    """A' (G g . B' d) is the convolution times the square root of the divisor; of bytes nothing leaves 16 bits."""
    form, rng = integer_transform(tile), np.random.default_rng(0)
    d, g = rng.integers(-9, 9, form.size), rng.integers(-9, 9, 3)
    y = np.array(form.a) @ ((np.array(form.g) @ g) * (np.array(form.b) @ d))
    assert (y == math.isqrt(form.divisor) * np.convolve(d, g[::-1], "valid")).all()
    for matrix, low, high in ((form.b, 0, 255), (form.g, -128, 127)):
        twice = np.array([np.outer(a, b) for a in matrix for b in matrix])
        up, down = np.maximum(twice, 0).sum((1, 2)), np.minimum(twice, 0).sum((1, 2))
        assert (up * high + down * low).max() < 1 << 15
        assert (up * low + down * high).min() >= -(1 << 15)


@pytest.mark.parametrize(("tile", "taps"), WORSE)
def test_matrices(tile: int, taps: int) -> None:
    """A' (G g . B' d) is the sum of products of d with g at every place: exact up to rounding, in double."""
    form, rng = transform(tile, taps), np.random.default_rng(0)
    d, g = rng.standard_normal(form.size), rng.standard_normal(taps)
    y = np.array(form.a) @ ((np.array(form.g) @ g) * (np.array(form.b) @ d))
    np.testing.assert_allclose(y, np.convolve(d, g[::-1], "valid"), rtol=1e-12, atol=1e-12)


def test_the_largest_tile_is_named() -> None:
    """An option that is not one of the choices."""
    with pytest.raises(sofie.SofieError, match="max is one of 2, 4, off"):
        sofie.compile(_model(8, 8), passes='fuse{max="3"},lower')


def test_a_convolution_of_float16_is_transformed_too() -> None:
    """An epilogue that rounds to 16 bits, which the pass takes for more than arithmetic."""
    half = onnx.TensorProto.FLOAT16
    nodes = [oh.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), oh.make_node("Relu", ["c"], ["y"])]
    weights = {"w": (models.normal(32, 32, 3, 3) / 17).astype(np.float16)}
    module = load(models.build(nodes, {"x": [1, 32, 28, 28]}, ["y"], weights, {"x": half, "y": half}))
    pipeline.run(module, pipeline.parse("fuse"))
    assert "tensor<32x32x3x3xf32>" not in str(module)
