"""Every dialect and container, as files written here, against numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import sofie
from sofie.frontends.formats import READERS, reader
from sofie.frontends.keras import read
from tests.frontends.keras import writing
from tests.frontends.keras.writing import archive, functional, h5, new, old, run, tensor

RNG = np.random.default_rng(7)


def draw(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.7).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


# -- Sequential --------------------------------------------------------------------------------------------------------

K, B, K2 = draw(4, 3), draw(3), draw(3, 2)
X = draw(5, 4)
DENSE = np.maximum(X @ K + B, 0) @ K2
SEQUENTIAL_WEIGHTS = {"one": [("one/kernel:0", K), ("one/bias:0", B)], "two": [("two/kernel:0", K2)]}


def sequential(wrapped: bool = True) -> dict:
    layers = [
        {
            "class_name": "Dense",
            "config": {"name": "one", "units": 3, "activation": "relu", "batch_input_shape": [None, 4]},
        },
        {"class_name": "Dense", "config": {"name": "two", "units": 2, "use_bias": False}},
    ]
    return {"class_name": "Sequential", "config": {"name": "s", "layers": layers} if wrapped else layers}


def keras3_sequential(**first: object) -> dict:
    layers = [
        new("InputLayer", "x", batch_shape=[None, 4], dtype="float32"),
        new("Dense", "one", units=3, activation="relu", use_bias=True, **first),
        new("Dense", "two", units=2, activation="linear", use_bias=False),
    ]
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": layers}}


TREE = {"layers/dense/vars/0": K, "layers/dense/vars/1": B, "layers/dense_1/vars/0": K2}


@pytest.mark.parametrize("version, wrapped", [("2.0.5", False), ("2.2.4-tf", False), ("2.11.0", True)])
def test_sequential_of_keras_2(version: str, wrapped: bool, tmp_path: Path) -> None:
    """A list of layers or a dictionary of them, and an input that only the first layer tells."""
    proto = read(h5(tmp_path / "m.h5", sequential(wrapped), SEQUENTIAL_WEIGHTS, version))
    near(run(proto, X)[0], DENSE)
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == ["batch", 4]


def test_list_of_weights_in_several_attributes(tmp_path: Path) -> None:
    """A layer with so many weights that HDF5 wants their names in parts."""
    weights = {"one": SEQUENTIAL_WEIGHTS["one"], "two": [("two/kernel:0", K2)]}
    near(run(read(h5(tmp_path / "m.h5", sequential(), weights, chunked=True)), X)[0], DENSE)


def test_sequential_of_keras_3(tmp_path: Path) -> None:
    """The archive, and the .h5 of the same."""
    near(run(read(archive(tmp_path / "m.keras", keras3_sequential(), TREE)), X)[0], DENSE)
    weights = {"one": [("one/kernel", K), ("one/bias", B)], "two": [("two/kernel", K2)]}
    near(run(read(h5(tmp_path / "m.h5", keras3_sequential(), weights, "3.3.3")), X)[0], DENSE)


def test_archive_of_tf_keras(tmp_path: Path) -> None:
    """Weights below another name, as tf.keras 2.12 to 2.15 write them."""
    tree = {name.replace("layers/", "_layer_checkpoint_dependencies/"): array for name, array in TREE.items()}
    near(run(read(archive(tmp_path / "m.keras", keras3_sequential(), tree)), X)[0], DENSE)


def test_ending_says_nothing_about_the_container(tmp_path: Path) -> None:
    """An archive that is called .h5."""
    near(run(read(archive(tmp_path / "m.h5", keras3_sequential(), TREE)), X)[0], DENSE)


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_graph_of_keras_2_with_shared_and_nested_layers(tmp_path: Path) -> None:
    """Calls by number: those of a model inside are counted from 1, those of a layer from 0."""
    k, inner_k, gamma, mean, variance = draw(4, 4), draw(4, 4), draw(4), draw(4), np.abs(draw(4)) + 0.5
    inside = functional(
        [
            old("InputLayer", "i", batch_input_shape=[None, 4], dtype="float32"),
            old("BatchNormalization", "norm", [[["i", 0, 0, {}]]], center=False, epsilon=0.01),
            old("Dense", "deep", [[["norm", 0, 0, {}]]], units=4, use_bias=False),
        ],
        [["i", 0, 0]],
        [["deep", 0, 0]],
    )["config"]
    layers = [
        old("InputLayer", "x", batch_input_shape=[None, 4], dtype="float32"),
        old("Dense", "shared", [[["x", 0, 0, {}]], [["shared", 0, 0, {}]]], units=4, use_bias=False),
        {**old("Model", "inner", [[["x", 0, 0, {}]], [["shared", 1, 0, {}]]]), "config": {**inside, "name": "inner"}},
        old("Subtract", "minus", [[["inner", 1, 0, {}], ["inner", 2, 0, {}]]]),
    ]
    config = {**functional(layers, [["x", 0, 0]], [["minus", 0, 0], ["shared", 1, 0]]), "class_name": "Model"}
    weights = {
        "shared": [("shared/kernel:0", k)],
        "inner": [  # trained ones first, as Keras 2 has it: the statistics stand behind the kernel
            ("norm/gamma:0", gamma), ("deep/kernel:0", inner_k), ("norm/mean:0", mean), ("norm/variance:0", variance),
        ],
    }  # fmt: skip

    def inner(x: np.ndarray) -> np.ndarray:
        return ((x - mean) / np.sqrt(variance + 0.01) * gamma) @ inner_k

    for renamed in (False, True):  # by names, and by order where names say nothing
        if renamed:
            weights["inner"] = [(f"w{k}", array) for k, (_, array) in enumerate(weights["inner"])]
        found = run(read(h5(tmp_path / f"{renamed}.h5", config, weights, "2.2.4")), X)
        near(found[0], inner(X) - inner(X @ k @ k))
        near(found[1], X @ k @ k)


def test_graph_of_keras_3_with_nested_layers(tmp_path: Path) -> None:
    """Calls of a model inside are counted from 0 between layers and from 1 as outputs."""
    k = draw(4, 4)
    inside = functional(
        [new("InputLayer", "i", batch_shape=[None, 4]), new("Dense", "deep", [[tensor("i")]], units=4, use_bias=False)],
        ["i", 0, 0],
        ["deep", 0, 0],
        "inner",
    )["config"]
    inner = {**new("Functional", "inner", [[tensor("x")], [tensor("inner", 0)]]), "config": inside}
    layers = [
        new("InputLayer", "x", batch_shape=[None, 4]),
        inner,
        new("Add", "sum", [[[tensor("x"), tensor("inner", 1)]]]),
    ]
    config = functional(layers, [["x", 0, 0]], [["sum", 0, 0], ["inner", 2, 0]])
    found = run(read(archive(tmp_path / "m.keras", config, {"layers/functional/layers/dense/vars/0": k})), X)
    near(found[0], X + X @ k @ k)
    near(found[1], X @ k @ k)


def test_functions_between_layers(tmp_path: Path) -> None:
    """x * 2 + y is no layer, and takes no place in the numbering of layers: of Add in a .keras and in a .h5."""
    k = draw(4, 4)

    def layers(module: dict) -> list:
        twice = {"class_name": "Multiply", "config": {"name": "twice"}, "name": "twice", **module}
        twice["inbound_nodes"] = [{"args": [tensor("x"), 2.0], "kwargs": {}}]
        plus = {"class_name": "Add", "config": {"name": "plus"}, "name": "plus", **module}
        plus["inbound_nodes"] = [{"args": [tensor("twice"), tensor("d")], "kwargs": {}}]
        inputs = [
            new("InputLayer", "x", batch_shape=[None, 4]),
            new("Dense", "d", [[tensor("x")]], units=4, use_bias=False),
        ]
        return [*inputs, twice, plus, new("Add", "sum", [[[tensor("plus"), tensor("x")]]])]

    archived = functional(layers({"module": "keras.src.ops.numpy"}), ["x", 0, 0], ["sum", 0, 0])
    near(run(read(archive(tmp_path / "m.keras", archived, {"layers/dense/vars/0": k})), X)[0], 3 * X + X @ k)
    flat = functional(layers({}), ["x", 0, 0], ["sum", 0, 0])
    for layer in flat["config"]["layers"]:
        layer.pop("module", None)
    near(run(read(h5(tmp_path / "m.h5", flat, {"d": [("d/kernel", k)]}, "3.1.0")), X)[0], 3 * X + X @ k)


# -- what changed between the versions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version, slope", [("2.4.0", 0.2), ("3.0.5", 1 / 6)])
def test_hard_sigmoid_of_each_version(version: str, slope: float, tmp_path: Path) -> None:
    """0.2 x + 0.5 in Keras 2, x / 6 + 0.5 in Keras 3."""
    layers = [old("Activation", "a", activation="hard_sigmoid", batch_input_shape=[None, 4], trainable=True)]
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    near(run(read(h5(tmp_path / "m.h5", config, {}, version)), 4 * X)[0], np.clip(slope * 4 * X + 0.5, 0, 1))


def gru(x: np.ndarray, k: np.ndarray, r: np.ndarray, b: np.ndarray, after: bool, hard: bool) -> np.ndarray:
    """Of Keras: gates z, r, h; with `after` the second row of the bias is inside the reset."""
    gate = (lambda v: np.clip(0.2 * v + 0.5, 0, 1)) if hard else sigmoid
    h = np.zeros((x.shape[0], r.shape[0]), np.float32)
    for t in range(x.shape[1]):
        xz, xr, xh = np.split(x[:, t] @ k + (b[0] if after else b), 3, axis=1)
        rz, rr, rh = np.split(h @ r + (b[1] if after else 0), 3, axis=1)
        z, reset = gate(xz + rz), gate(xr + rr)
        candidate = np.tanh(xh + (reset * rh if after else (reset * h) @ r[:, -r.shape[0] :]))
        h = z * h + (1 - z) * candidate
    return h


@pytest.mark.parametrize("after", [None, False, True])
def test_gru_of_keras_2(after: bool | None, tmp_path: Path) -> None:
    """The reset gate before the product, which was the only way and stands in no setting; gates in Keras' order."""
    k, r, b = draw(3, 6), draw(2, 6), draw(2, 6) if after else draw(6)
    more = {} if after is None else {"reset_after": after}
    settings = {
        "units": 2,
        "activation": "tanh",
        "recurrent_activation": "hard_sigmoid",
        "batch_input_shape": [None, 5, 3],
    }
    config = {"class_name": "Sequential", "config": {"layers": [old("GRU", "g", **settings, **more)]}}
    x = draw(2, 5, 3)
    weights = {"g": [("g/kernel:0", k), ("g/recurrent_kernel:0", r), ("g/bias:0", b)]}
    proto = read(h5(tmp_path / "m.h5", config, weights, "2.1.6"))
    near(run(proto, x)[0], gru(x, k, r, b, bool(after), hard=True))
    assert [n.op_type for n in proto.graph.node].count("GRU") == 1


def lstm(x: np.ndarray, k: np.ndarray, r: np.ndarray, b: np.ndarray, h: np.ndarray, c: np.ndarray) -> np.ndarray:
    """All outputs, (batch, time, units); gates i, f, c, o."""
    outputs = []
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ k + h @ r + b, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, 1)


def test_initial_states_of_keras_2(tmp_path: Path) -> None:
    """States that stand behind the input in a list."""
    k, r, b = draw(3, 8), draw(2, 8), draw(8)
    layers = [
        old("InputLayer", "x", batch_input_shape=[None, None, 3]),
        old("InputLayer", "h", batch_input_shape=[None, 2]),
        old("InputLayer", "c", batch_input_shape=[None, 2]),
        old("LSTM", "l", [[["x", 0, 0, {}], ["h", 0, 0, {}], ["c", 0, 0, {}]]], units=2, return_sequences=True),
    ]
    config = functional(layers, [["x", 0, 0], ["h", 0, 0], ["c", 0, 0]], [["l", 0, 0]])
    x, h, c = draw(2, 4, 3), draw(2, 2), draw(2, 2)
    weights = {"l": [("l/lstm_cell/kernel:0", k), ("l/lstm_cell/recurrent_kernel:0", r), ("l/lstm_cell/bias:0", b)]}
    proto = read(h5(tmp_path / "m.h5", config, weights))
    near(run(proto, x, h, c)[0], lstm(x, k, r, b, h, c))
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        "x_length",
        3,
    ]


def test_both_directions_of_keras_2(tmp_path: Path) -> None:
    """A Bidirectional without a layer for the way back in its configuration."""
    one, two = (draw(3, 8), draw(2, 8), draw(8)), (draw(3, 8), draw(2, 8), draw(8))
    inside = {"class_name": "LSTM", "config": {"name": "l", "units": 2, "return_sequences": True}}
    layers = [old("Bidirectional", "b", layer=inside, merge_mode="concat", batch_input_shape=[None, 4, 3])]
    config = {"class_name": "Sequential", "config": {"layers": layers}}
    listed = [
        (f"{way}/{n}:0", a) for way, arrays in (("f", one), ("b", two)) for n, a in zip("krb", arrays, strict=True)
    ]
    x, zero = draw(2, 4, 3), np.zeros((2, 2), np.float32)
    proto = read(h5(tmp_path / "m.h5", config, {"b": listed}))
    back = lstm(x[:, ::-1], *two, zero, zero)[:, ::-1]
    near(run(proto, x)[0], np.concatenate([lstm(x, *one, zero, zero), back], -1))
    assert [n.op_type for n in proto.graph.node].count("LSTM") == 1


@pytest.mark.parametrize("version, joined", [("2.9.0", np.logical_and), ("3.9.0", np.logical_or)])
def test_masks_of_a_sum(version: str, joined: np.ufunc, tmp_path: Path) -> None:
    """Keras 2 wants every mask, Keras 3 any."""
    layers = [old("InputLayer", n, batch_input_shape=[None, 4, 2]) for n in "xy"]
    layers += [old("Masking", f"m{n}", [[[n, 0, 0, {}]]], trainable=True) for n in "xy"]
    both = [[["mx", 0, 0, {}], ["my", 0, 0, {}]]]
    layers += [old("Add", "sum", both, trainable=True), old("Concatenate", "join", both, trainable=True, axis=-1)]
    layers += [old("GlobalAveragePooling1D", f"of_{n}", [[[n, 0, 0, {}]]], trainable=True) for n in ("sum", "join")]
    config = functional(layers, [["x", 0, 0], ["y", 0, 0]], [["of_sum", 0, 0], ["of_join", 0, 0]])
    x, y = draw(3, 4, 2), draw(3, 4, 2)
    x[:, 1], y[:, 2] = 0, 0
    counts = joined((x != 0).any(-1), (y != 0).any(-1)).astype(np.float32)[..., None]
    found = run(read(h5(tmp_path / "m.h5", config, {}, version)), x, y)
    near(found[0], ((x + y) * counts).sum(1) / counts.sum(1))
    near(found[1], (np.concatenate([x, y], -1) * counts).sum(1) / counts.sum(1))


def test_attention_of_tf_keras(tmp_path: Path) -> None:
    """A tensor that is passed by name, as a list."""
    dims = {"query": (4, 2, 3), "key": (4, 2, 3), "value": (4, 2, 3), "attention_output": (2, 3, 4)}
    arrays = {name: (draw(*shape), draw(*(shape[1:] if shape[0] == 4 else shape[2:]))) for name, shape in dims.items()}
    layers = [old("InputLayer", n, batch_input_shape=[None, 5, 4]) for n in "qv"]
    settings = {"num_heads": 2, "key_dim": 3, "value_dim": 3, "use_bias": True, "attention_axes": None}
    layers.append(old("MultiHeadAttention", "m", [[["q", 0, 0, {"value": ["v", 0, 0]}]]], **settings))
    config = functional(layers, [["q", 0, 0], ["v", 0, 0]], [["m", 0, 0]])
    listed = [
        (f"m/{name}/{n}:0", a) for name, pair in arrays.items() for n, a in zip(("kernel", "bias"), pair, strict=True)
    ]
    q, v = draw(2, 5, 4), draw(2, 5, 4)
    found = run(read(h5(tmp_path / "m.h5", config, {"m": listed}, "2.12.0")), q, v)[0]
    parts = {
        n: np.einsum("btf,fhd->bhtd", x, arrays[n][0]) + arrays[n][1][:, None]
        for n, x in (("query", q), ("key", v), ("value", v))
    }
    scores = np.einsum("bhtd,bhsd->bhts", parts["query"], parts["key"]) / np.sqrt(3)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhts,bhsd->bthd", shares, parts["value"])
    near(found, np.einsum("bthd,hdo->bto", mixed, arrays["attention_output"][0]) + arrays["attention_output"][1])


# -- what Keras on PyTorch does otherwise than Keras elsewhere ---------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [4, 5])
def test_same_transposed_convolution_is_the_gradient_of_same(
    kernel: int, stride: int, size: int, tmp_path: Path
) -> None:
    """TensorFlow: the gradient of the convolution that takes size * stride to size."""
    k, x = draw(kernel, 1, 1), draw(1, size, 1)
    layers = [
        old(
            "Conv1DTranspose",
            "c",
            filters=1,
            kernel_size=[kernel],
            strides=[stride],
            padding="same",
            use_bias=False,
            batch_input_shape=[None, size, 1],
        )
    ]
    config = {"class_name": "Sequential", "config": {"layers": layers}}
    before = max(kernel - stride, 0) // 2
    expected = np.zeros(size * stride, np.float32)
    for i in range(size):
        for j in range(kernel):
            if 0 <= i * stride + j - before < size * stride:
                expected[i * stride + j - before] += x[0, i, 0] * k[j, 0, 0]
    found = run(read(h5(tmp_path / "m.h5", config, {"c": [("kernel:0", k)]})), x)[0]
    near(found[0, :, 0], expected)


@pytest.mark.parametrize("kind", ["AveragePooling1D", "MaxPooling1D"])
@pytest.mark.parametrize("free", [False, True])
def test_same_pooling_overlooks_what_is_padded(kind: str, free: bool, tmp_path: Path) -> None:
    """An average over what is there; more is padded at the end; with a length that the run tells, too."""
    size, pool, stride, x = 8, 3, 2, draw(1, 8, 1)
    layers = [
        old(
            kind,
            "p",
            pool_size=[pool],
            strides=[stride],
            padding="same",
            batch_input_shape=[None, None if free else size, 1],
        )
    ]
    found = run(read(h5(tmp_path / "m.h5", {"class_name": "Sequential", "config": {"layers": layers}}, {})), x)[0]
    total = max((-(-size // stride) - 1) * stride + pool - size, 0)
    starts = [i * stride - total // 2 for i in range(-(-size // stride))]
    reduce = np.mean if kind.startswith("Average") else np.max
    near(found[0, :, 0], np.array([reduce(x[0, max(s, 0) : s + pool, 0]) for s in starts]))


@pytest.mark.parametrize("axes", [[1], [2], [1, 2], [1, 3]])
def test_layer_normalization_of_any_axes(axes: list[int], tmp_path: Path) -> None:
    """Statistics and scales along axes that are not the last ones, where Keras on PyTorch fails."""
    x = draw(2, 3, 4, 5)
    shape = [x.shape[a] for a in axes]
    spread = [x.shape[a] if a in axes else 1 for a in range(4)]
    gamma, beta = draw(*shape), draw(*shape)
    layers = [old("LayerNormalization", "n", axis=axes, epsilon=0.01, batch_input_shape=[None, 3, 4, 5])]
    config = {"class_name": "Sequential", "config": {"layers": layers}}
    found = run(read(h5(tmp_path / "m.h5", config, {"n": [("gamma:0", gamma), ("beta:0", beta)]})), x)[0]
    unit = (x - x.mean(tuple(axes), keepdims=True)) / np.sqrt(x.var(tuple(axes), keepdims=True) + 0.01)
    near(found, unit * gamma.reshape(spread) + beta.reshape(spread))


# -- the hook ----------------------------------------------------------------------------------------------------------


def test_table_of_formats_finds_its_readers() -> None:
    """An ending whose module or function is not there, capital letters, an ending of ONNX's own."""
    assert all(callable(reader(f"m{ending}")) for ending in READERS)
    assert reader("M.KERAS") is read
    assert reader(Path("m.onnx")) is None
    assert reader(b"m.keras") is None


@pytest.mark.usefixtures("needs_compiler")
def test_path_is_compiled_as_any_other(tmp_path: Path) -> None:
    """sofie.compile and sofie.generate on the path, and on what from_keras makes of it."""
    path = archive(tmp_path / "m.keras", keras3_sequential(), TREE)
    near(sofie.compile(path, dims={"batch": (1, 8)})(X), DENSE)
    near(sofie.compile(sofie.from_keras(str(path)), dims={"batch": 5})(X), DENSE)
    assert sofie.generate(path, tmp_path / "out", dims={"batch": 1}).header == tmp_path / "out" / "m.hxx"


def test_names_are_those_of_the_layers(tmp_path: Path) -> None:
    """Nodes that cannot be found in the Keras model; inputs and outputs under other names than Keras has."""
    proto = read(archive(tmp_path / "m.keras", keras3_sequential(), TREE))
    assert ([i.name for i in proto.graph.input], [o.name for o in proto.graph.output]) == (["x"], ["two"])
    assert [n.name for n in proto.graph.node] == ["s/one/Gemm", "s/one/Relu", "s/two/MatMul"]
    assert isinstance(proto, onnx.ModelProto)


def test_chain_of_convolutions_is_turned_twice(tmp_path: Path) -> None:
    """A Transpose between convolutions that follow one another."""
    k = draw(3, 3, 2, 2)
    layers = [
        old(
            "Conv2D",
            "a",
            filters=2,
            kernel_size=[3, 3],
            use_bias=False,
            padding="same",
            batch_input_shape=[None, 6, 6, 2],
        ),
        old("Activation", "r", activation="relu"),
        old("Conv2D", "b", filters=2, kernel_size=[3, 3], use_bias=False, padding="same"),
    ]
    weights = {"a": [("kernel:0", k)], "b": [("kernel:0", k)]}
    proto = read(h5(tmp_path / "m.h5", {"class_name": "Sequential", "config": {"layers": layers}}, weights))
    assert [n.op_type for n in proto.graph.node] == ["Transpose", "Conv", "Relu", "Conv", "Transpose"]
    assert writing.run(proto, draw(2, 6, 6, 2))[0].shape == (2, 6, 6, 2)
