"""What is written: which values are integers, what ONNX Runtime makes of it, and that it means what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sofie
from sofie.errors import SofieError
from sofie.quantization import running
from tests import models
from tests.quantize.digits import as_onnx
from tests.quantize.running import Feeds, decibels, fused, reference, runtime

pytestmark = pytest.mark.usefixtures("needs_compiler")


def convolutional() -> onnx.ModelProto:
    """The network of the digits, untrained, that ends in a Softmax."""
    shapes = {"w1": (8, 1, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "b2": (16,), "w3": (256, 10), "b3": (10,)}
    model = as_onnx({n: models.normal(*s, seed=k) / 4 for k, (n, s) in enumerate(shapes.items())})
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["chances"], name="softmax"))
    model.graph.output[0].name = "chances"
    return model


def attention() -> onnx.ModelProto:
    """Products of activations, a bias that is added to a product of rank 3, and a residual of an input."""
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q0"], name="query"),
        helper.make_node("Add", ["q0", "bq"], ["q"], name="query bias"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], name="key"),
        helper.make_node("Transpose", ["k"], ["kt"], name="transposed", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"], name="scores"),
        helper.make_node("Softmax", ["s"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "x"], ["m"], name="mix"),
        helper.make_node("Add", ["m", "x"], ["y"], name="residual"),
    ]
    weights = {"wq": models.normal(8, 8) / 3, "bq": models.normal(8, seed=2), "wk": models.normal(8, 8, seed=1) / 3}
    return models.build(nodes, {"x": ["batch", 5, 8]}, ["y"], weights)


def joined() -> onnx.ModelProto:
    """Between convolutions: a residual, a Concat, an average, a clip, a constant; and a transposed convolution."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c1", "zero", "six"], ["r1"], name="relu6"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1], group=2),
        helper.make_node("Add", ["c2", "r1"], ["a"], name="residual"),
        helper.make_node("Add", ["a", "shift"], ["t"], name="shift"),
        helper.make_node("AveragePool", ["t"], ["v"], name="average", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["v", "v"], ["j"], name="join", axis=1),
        helper.make_node("Reshape", ["j", "shape"], ["g"], name="reshaped"),
        helper.make_node("Conv", ["g", "w3", "b3"], ["c3"], name="third"),
        helper.make_node("ConvTranspose", ["c3", "w4", "b4"], ["y"], name="up", strides=[2, 2]),
    ]
    weights = {
        "w1": models.normal(4, 3, 3, 3, seed=1) / 3,
        "b1": models.normal(4, seed=2),
        "zero": np.float32(0),
        "six": np.float32(2),
        "w2": models.normal(4, 2, 3, 3, seed=3) / 3,
        "shift": models.normal(4, 1, 1, seed=4),
        "shape": np.array([0, 4, 4, 8]),
        "w3": models.normal(4, 4, 1, 1, seed=5),
        "b3": models.normal(4, seed=6),
        "w4": models.normal(4, 6, 2, 2, seed=7),
        "b4": models.normal(6, seed=8),
    }
    return models.build(nodes, {"x": [1, 3, 8, 8]}, ["y"], weights)


def dense() -> onnx.ModelProto:
    """Gemm with factors and odd biases, and a product with a bias that is added to it."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"], name="scaled", alpha=0.5, beta=2.0, transB=1),
        helper.make_node("Relu", ["h1"], ["r1"], name="relu"),
        helper.make_node("MatMul", ["r1", "w2"], ["m"], name="product"),
        helper.make_node("Add", ["b2", "m"], ["h2"], name="bias"),
        helper.make_node("Tanh", ["h2"], ["t"], name="tanh"),
        helper.make_node("Gemm", ["t", "w3", "b3"], ["h3"], name="one bias"),
        helper.make_node("Gemm", ["h3", "w4", "b4"], ["y"], name="rows of bias"),
    ]
    weights = {
        "w1": models.normal(16, 7, seed=1),
        "b1": models.normal(1, 16, seed=2),
        "w2": models.normal(16, 12, seed=3) / 4,
        "b2": models.normal(12, seed=4),
        "w3": models.normal(12, 9, seed=5),
        "b3": np.float32([0.7]),
        "w4": models.normal(9, 5, seed=6),
        "b4": models.normal(4, 5, seed=7),
    }
    return models.build(nodes, {"x": [4, 7]}, ["y"], weights)


CASES = {
    "convolutional": (convolutional, {"image": (96, 1, 8, 8)}),
    "attention": (attention, {"x": (96, 5, 8)}),
    "joined": (joined, {"x": (48, 3, 8, 8)}),
    "dense": (dense, {"x": (96, 7)}),
    "batch norm": (models.convnet, {"x": (24, 3, 9, 11)}),
}
LEAST = 25.0
"""Decibels that integers of 8 bits leave of every output here."""


def data(name: str, seed: int = 0) -> Feeds:
    return {n: models.normal(*shape, seed=seed) for n, shape in CASES[name][1].items()}


def rows(feeds: Feeds, model: onnx.ModelProto, seed: int = 9) -> Feeds:
    """Other inputs, as many rows as a run of the model takes."""
    taken = {v.name: v.type.tensor_type.shape.dim[0].dim_value or 7 for v in model.graph.input}
    return {n: models.normal(taken[n], *a.shape[1:], seed=seed) for n, a in feeds.items()}


SCHEMES: list[dict[str, object]] = [
    {"activations": "int8"},
    {"equalize": True},
    {"activations": "none"},
    {"weights": "int7"},
]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, {}) for name in CASES), *((name, s) for name in ("joined", "dense") for s in SCHEMES)],
    ids=str,
)
def test_the_model_is_standard_and_close_to_the_one_of_floats(name: str, scheme: dict[str, object]) -> None:
    """ONNX Runtime and ONNX's reference agree on it, to a step of its integers."""
    model, feeds = CASES[name][0](), data(name)
    made = sofie.quantize(model, feeds, **scheme)
    onnx.checker.check_model(made.model, full_check=True)
    given = rows(feeds, made.model)
    exact, by_runtime, by_reference = runtime(model, given), runtime(made.model, given), reference(made.model, given)
    for a, b, c, output in zip(exact, by_runtime, by_reference, made.model.graph.output, strict=True):
        assert decibels(a, b) > LEAST
        assert decibels(b, c) > LEAST + 10
        assert made.outputs[output.name] > LEAST
    assert [v.name for v in made.model.graph.output] == [v.name for v in model.graph.output]
    assert all(layer.snr is not None and LEAST < layer.snr < 90 for layer in made.layers)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_every_way_to_calibrate_gives_a_model_that_works(method: str) -> None:
    model, feeds = convolutional(), data("convolutional")
    made = sofie.quantize(model, feeds, calibrate=method)
    given = rows(feeds, made.model)
    assert decibels(runtime(model, given)[0], runtime(made.model, given)[0]) > LEAST
    scales = [t for t in made.model.graph.initializer if t.name == "relu_1_scale"]
    seen = float(numpy_helper.to_array(scales[0]) * 255)
    assert 0 < seen < 9


def test_the_runtime_fuses_all_of_a_convolutional_network(tmp_path: Path) -> None:
    """A Q or DQ in the wrong place, and a layer would be computed in float."""
    made = sofie.quantize(convolutional(), data("convolutional"))
    found = fused(made.model, tmp_path)
    assert found == {
        "QuantizeLinear": 1, "QLinearConv": 2, "MaxPool": 1, "Flatten": 1, "QGemm": 1, "Softmax": 1,
    }  # fmt: skip


def test_the_runtime_fuses_what_is_between_layers(tmp_path: Path) -> None:
    found = fused(sofie.quantize(joined(), data("joined")).model, tmp_path)
    assert found["QLinearConv"] == 3 and found["QLinearAdd"] == 2
    assert found["QLinearAveragePool"] == found["QLinearConcat"] == found["ConvTranspose"] == 1
    assert found["Add"] == found["Concat"] == found["Clip"] == found["Conv"] == 0


def test_the_runtime_fuses_a_convolution_that_only_floats_read(tmp_path: Path) -> None:
    """The residual behind the last layer stays in float, and its convolution would with it."""
    found = fused(sofie.quantize(models.convnet(), data("batch norm")).model, tmp_path)
    assert found["QLinearConv"] == 2 and found["Conv"] == 0 and found["Add"] == 1


def test_the_runtime_fuses_products_of_activations(tmp_path: Path) -> None:
    found = fused(sofie.quantize(attention(), data("attention")).model, tmp_path)
    assert found["MatMulIntegerToFloat"] == 3 and found["QLinearMatMul"] == 1 and found["MatMul"] == 0


def test_groups_of_a_transposed_convolution_share_a_scale() -> None:
    """Their weights have the outputs of a group along the second axis; the reference has groups wrong."""
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], name="up", strides=[2, 2], group=2)
    weights = {"w": models.normal(4, 3, 2, 2), "b": models.normal(6, seed=1)}
    model = models.build([node], {"x": [1, 4, 5, 5]}, ["y"], weights)
    given = {"x": models.normal(1, 4, 5, 5, seed=3)}
    for scheme in ({}, {"weights": "int4", "activations": "none"}):
        made = sofie.quantize(model, {"x": models.normal(32, 4, 5, 5)}, **scheme)
        assert decibels(runtime(model, given)[0], runtime(made.model, given)[0]) > (LEAST if not scheme else 15)


def consumers(model: onnx.ModelProto, name: str) -> list[str]:
    return [node.op_type for node in model.graph.node if name in node.input]


def test_what_saturation_does_goes_and_what_it_does_not_stays() -> None:
    """A Relu before uint8 from 0 on is saturation; before int8 with a range around 0 it would be lost."""
    made = sofie.quantize(convolutional(), data("convolutional")).model
    assert "Relu" not in [node.op_type for node in made.graph.node]
    clipped = sofie.quantize(joined(), data("joined")).model
    assert "Clip" not in [node.op_type for node in clipped.graph.node]
    node = helper.make_node("Clip", ["h", "low", "high"], ["r"], name="clip")
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], name="a"), node]
    nodes.append(helper.make_node("Gemm", ["r", "w"], ["y"], name="b"))
    weights = {"w": models.normal(7, 7), "low": np.float32(0.5), "high": np.float32(6)}
    model = models.build(nodes, {"x": [1, 7]}, ["y"], weights)
    kept = sofie.quantize(model, {"x": models.normal(99, 7)}).model
    assert "Clip" in [node.op_type for node in kept.graph.node]
    given = {"x": models.normal(1, 7, seed=3)}
    assert decibels(runtime(model, given)[0], runtime(kept, given, exact=False)[0]) > LEAST


def test_results_that_only_floats_read_stay_float() -> None:
    """256 scores would be all that a classifier can say."""
    made = sofie.quantize(convolutional(), data("convolutional")).model
    assert consumers(made, "logits") == ["Softmax"]


def test_floats_read_an_input_as_it_is() -> None:
    made = sofie.quantize(attention(), data("attention")).model
    assert sorted(consumers(made, "x")) == ["Add", "QuantizeLinear"]


def test_numbers_of_a_layer() -> None:
    """int8 for each output channel, int32 of the scale of the products, uint8 whose range holds 0."""
    made = sofie.quantize(convolutional(), data("convolutional")).model
    held = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert held["w2_quantized"].dtype == np.int8 and held["w2_scale"].shape == (16,)
    assert not held["w2_zero_point"].any()
    assert held["b2_quantized"].dtype == np.int32
    np.testing.assert_array_equal(held["b2_scale"], held["relu_1_scale"] * held["w2_scale"])
    assert held["relu_1_zero_point"] == 0 and held["relu_1_zero_point"].dtype == np.uint8
    assert 0 < held["image_zero_point"] < 255
    assert held["w3_quantized"].shape == (256, 10) and held["w3_scale"].shape == (10,)


def test_the_reported_ratio_is_that_of_the_values(tmp_path: Path) -> None:
    """Of the output, on the data, by another program."""
    model, feeds = dense(), data("dense")
    made = sofie.quantize(model, feeds)
    pieces = [{"x": feeds["x"][k : k + 4]} for k in range(0, 96, 4)]
    exact, rounded = (np.concatenate([runtime(m, piece)[0] for piece in pieces]) for m in (model, made.model))
    assert made.outputs["y"] == pytest.approx(decibels(exact, rounded), abs=0.5)
    assert made.before == model.ByteSize() and made.after == made.model.ByteSize()


def test_test_data_is_what_is_measured_on() -> None:
    model = dense()
    made = [sofie.quantize(model, data("dense"), test=test) for test in (None, {"x": 50 * models.normal(8, 7)})]
    assert made[0].model == made[1].model
    assert made[1].outputs["y"] < made[0].outputs["y"] - 10  # far outside of what calibration saw


# -- options -----------------------------------------------------------------------------------------------------------


def held(model: onnx.ModelProto, name: str) -> np.ndarray:
    """An initializer."""
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def test_a_smaller_percentile_is_a_smaller_range() -> None:
    made = [sofie.quantize(dense(), data("dense"), percentile=p).model for p in (80.0, 100.0)]
    narrow, wide = (float(held(m, "x_scale")) for m in made)
    assert narrow < 0.7 * wide
    values = data("dense")["x"]
    assert wide * 255 == pytest.approx(values.max() - values.min(), rel=1e-5)


def test_an_input_that_is_set_is_a_constant_of_the_quantised_model() -> None:
    nodes = [helper.make_node("Mul", ["x", "factor"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"], name="m")]
    model = models.build(nodes, {"x": ["batch", 7], "factor": []}, ["y"], {"w": models.normal(7, 3)})
    x = models.normal(64, 7)
    made = sofie.quantize(model, {"x": x}, set={"factor": 3.0}).model
    assert [v.name for v in made.graph.input] == ["x"]
    exact = runtime(model, {"x": x, "factor": np.array(3, np.float32)})[0]
    assert decibels(exact, runtime(made, {"x": x})[0]) > LEAST


def test_layers_that_are_left_stay_in_float() -> None:
    model, feeds = convolutional(), data("convolutional")
    made = sofie.quantize(model, feeds, leave=["conv_2"])
    assert [(layer.name, layer.weights) for layer in made.layers] == [
        ("conv_1", "int8"), ("conv_2", "float32"), ("dense", "int8"),
    ]  # fmt: skip
    held = {t.name for t in made.model.graph.initializer}
    assert "w2" in held and "w2_quantized" not in held


def test_layers_are_left_until_the_ratio_holds() -> None:
    """One layer with a few large weights in each channel costs most, and it is the one that is left."""
    model, feeds = convolutional(), data("convolutional")
    weight = next(t for t in model.graph.initializer if t.name == "w2")
    spoiled = numpy_helper.to_array(weight).copy()
    spoiled[:, 0, 0, 0] *= 80
    feeds = {"image": feeds["image"] * (np.arange(64).reshape(8, 8) > 9)}  # no patch begins there that has signal
    weight.CopyFrom(numpy_helper.from_array(spoiled, "w2"))
    plain = sofie.quantize(model, feeds)
    wanted = plain.outputs["chances"] + 3
    made = sofie.quantize(model, feeds, snr=wanted)
    assert made.outputs["chances"] >= wanted
    assert {layer.name: layer.weights for layer in made.layers}["conv_2"] == "float32"
    assert "int8" in {layer.weights for layer in made.layers}


def test_a_ratio_that_holds_leaves_nothing() -> None:
    made = sofie.quantize(dense(), data("dense"), snr=5)
    assert {layer.weights for layer in made.layers} == {"int8"}
    everything = sofie.quantize(dense(), data("dense"), snr=300)
    assert {layer.weights for layer in everything.layers} == {"float32"} and everything.outputs["y"] > 300


def test_equalisation_rescues_channels_of_different_size() -> None:
    """Channels that differ by a factor of 300, which one scale for all activations cannot hold."""
    factors = np.float32(300) ** np.linspace(-0.5, 0.5, 16, dtype=np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="a", transB=1),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2"], ["y"], name="b", transB=1),
    ]
    weights = {
        "w1": models.normal(16, 7) * factors[:, None],
        "b1": models.normal(16, seed=1) * factors,
        "w2": models.normal(5, 16, seed=2) / factors,
    }
    model = models.build(nodes, {"x": ["batch", 7]}, ["y"], weights)
    feeds = {"x": models.normal(256, 7, seed=4)}
    plain, equalized = (sofie.quantize(model, feeds, equalize=chosen) for chosen in (False, True))
    assert equalized.outputs["y"] > plain.outputs["y"] + 10
    given = {"x": models.normal(9, 7, seed=5)}
    assert decibels(runtime(model, given)[0], runtime(equalized.model, given)[0]) > 30


@pytest.mark.parametrize("name", ["convolutional", "attention", "dense"])
@pytest.mark.parametrize("block", [16, 64])
def test_weights_of_four_bits(name: str, block: int) -> None:
    """Blocks along what is summed, in a file that the runtime reads; the data are not needed."""
    model, feeds = CASES[name][0](), data(name)
    made = sofie.quantize(model, weights="int4", activations="none", block=block)
    onnx.checker.check_model(made.model, full_check=True)
    kinds = {t.data_type for t in made.model.graph.initializer if t.name.endswith("_quantized")}
    assert kinds == {TensorProto.INT4}
    given = rows(feeds, made.model)
    exact, by_runtime, by_reference = (
        f(m, given)[0] for f, m in ((runtime, model), (runtime, made.model), (reference, made.model))
    )
    assert decibels(exact, by_runtime) > 12
    assert decibels(by_runtime, by_reference) > 80
    assert all(layer.snr is None for layer in made.layers) and not made.outputs


def test_inner_graphs_stay_as_they_are() -> None:
    """A layer in the branch of an If is not a layer of the model."""
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["h", "v"], ["b"])], "branch", [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(models.normal(7, 7), "v")],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["n"])],
        "other",
        [],
        [helper.make_tensor_value_info("n", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="dense"),
        helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=other),
    ]
    kinds = {"c": TensorProto.BOOL}
    model = models.build(nodes, {"x": [1, 7], "c": []}, ["y"], {"w": models.normal(7, 7)}, kinds)
    feeds = {"x": models.normal(64, 7), "c": np.array(True)}
    made = sofie.quantize(model, feeds)
    assert [layer.name for layer in made.layers] == ["dense"]
    for flag in (True, False):
        given = {"x": models.normal(1, 7, seed=3), "c": np.array(flag)}
        assert decibels(runtime(model, given)[0], runtime(made.model, given)[0]) > LEAST


# -- data --------------------------------------------------------------------------------------------------------------


def test_without_a_compiler_the_interpreter_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = dense(), {"x": data("dense")["x"][:8]}
    compiled = sofie.quantize(model, feeds, calibrate="minmax")

    def missing() -> list[str]:
        raise SofieError("no compiler")

    monkeypatch.setattr(running.jit, "compiler", missing)
    interpreted = sofie.quantize(model, feeds, calibrate="minmax")
    ours, theirs = (
        {t.name: numpy_helper.to_array(t) for t in m.model.graph.initializer} for m in (compiled, interpreted)
    )
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(theirs[name].astype(np.float64), array.astype(np.float64), rtol=1e-5, atol=1)


def test_the_batch_stays_free_or_fixed_as_it_was() -> None:
    def leading(model: onnx.ModelProto) -> int | str:
        dim = model.graph.output[0].type.tensor_type.shape.dim[0]
        return dim.dim_param or dim.dim_value

    assert leading(sofie.quantize(models.mlp("batch"), {"x": models.normal(300, 7)}).model) == "batch"
    assert leading(sofie.quantize(models.mlp(1), {"x": models.normal(30, 7)}).model) == 1
    assert leading(sofie.quantize(models.mlp(8), {"x": models.normal(30, 7)}).model) == 8
    assert leading(sofie.quantize(models.mlp("batch"), {"x": models.normal(30, 7)}, dims={"batch": 5}).model) == 5


def test_all_rows_count_whatever_a_run_takes() -> None:
    """The largest value is in the last row, that of a second piece."""
    feeds = {"x": np.zeros((300, 7), np.float32)}
    feeds["x"][-1, 3], feeds["x"][0, 0] = 5.1, -0.1
    for batch in ("batch", 1, 4):
        made = sofie.quantize(models.mlp(batch), feeds, calibrate="minmax").model
        scale = next(numpy_helper.to_array(t) for t in made.graph.initializer if t.name == "x_scale")
        assert float(scale) * 255 == pytest.approx(5.2, rel=1e-5)
