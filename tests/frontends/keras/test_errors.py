"""Files that are damaged or hostile, and layers without a translation: one sentence that names file and layer."""

from __future__ import annotations

import copy
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import sofie
from sofie.cli import main
from sofie.errors import SofieError, UnsupportedError
from sofie.frontends.keras import read
from tests.frontends.keras.writing import archive, functional, h5, new, old, run, tensor

K, B = np.ones((4, 3), np.float32), np.zeros(3, np.float32)
WEIGHTS = {"one": [("one/kernel:0", K), ("one/bias:0", B)]}
TREE = {"layers/dense/vars/0": K, "layers/dense/vars/1": B}


def dense(**settings: Any) -> dict:
    layers = [old("Dense", "one", **{"units": 3, "batch_input_shape": [None, 4], "trainable": True, **settings})]
    return {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}


def single(kind: str, shape: list[Any] | None = None, **settings: Any) -> dict:
    """A model of one layer without weights."""
    layers = [old(kind, "one", batch_input_shape=[None, *(shape or [4])], trainable=True, **settings)]
    return {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}


def keras3(*layers: dict, output: str) -> dict:
    return functional([new("InputLayer", "x", batch_shape=[None, 4]), *layers], ["x", 0, 0], [output, 0, 0])


def sentence(path: Path) -> str:
    """The error of a file. It is one line, names the file, and no other exception comes."""
    with pytest.raises(SofieError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert path.name in text
    return text


# -- containers --------------------------------------------------------------------------------------------------------


def _bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", json.dumps(dense()))
        file.writestr("model.weights.h5", bytes(50_000_000))
    return path


def _cut(path: Path) -> Path:
    content = archive(path, dense(), TREE).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def _without(name: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        with zipfile.ZipFile(path, "w") as file:
            for part in {"config.json", "model.weights.h5"} - {name}:
                file.writestr(part, json.dumps(dense()))
        return path

    return write


def _text(path: Path) -> Path:
    path.write_text("not a model")
    return path


def _empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def _cut_h5(path: Path) -> Path:
    content = h5(path, dense(), WEIGHTS).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def _only_weights(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"one"]
    return path


CONTAINERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "text": (_text, "neither a .keras archive nor an HDF5 file"),
    "empty": (_empty, "neither a .keras archive nor an HDF5 file"),
    "half_an_archive": (_cut, "damaged"),
    "half_an_h5": (_cut_h5, "damaged"),
    "no_configuration": (_without("config.json"), "no config.json"),
    "no_weights": (_without("model.weights.h5"), "no model.weights.h5"),
    "bomb": (_bomb, "unpacks to 50000000 bytes"),
    "weights_only": (_only_weights, "save the whole model"),
    "no_json": (lambda p: h5(p, "{", {}), "no JSON"),
    "a_list": (lambda p: h5(p, [1], {}), "no dictionary"),
    "deep": (lambda p: h5(p, "[" * 5000 + "]" * 5000, {}), "no JSON|nested"),
    "deep_dictionaries": (lambda p: h5(p, '{"config":' * 500 + "1" + "}" * 500, {}), "nested 50. levels deep"),
    "keras_1": (lambda p: h5(p, dense(), WEIGHTS, "1.2.2"), "Keras 1"),
    "weights_that_are_no_h5": (lambda p: archive(p, dense(), {}, **{"model.weights.h5": b"none"}), "damaged"),
    "nothing": (lambda p: h5(p, {}, {}), "no layer"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_container_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    """A traceback, or a file that eats the memory."""
    write, words = CONTAINERS[name]
    assert re.search(words, sentence(write(tmp_path / "m.keras")))


def test_file_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no file" in sentence(tmp_path / "m.keras")


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError where the package for HDF5 is not installed."""
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SofieError, match=r"pip install 'sofie-mlir\[keras\]'"):
        read(h5_like(tmp_path))


def h5_like(folder: Path) -> Path:
    path = folder / "m.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    return path


# -- links -------------------------------------------------------------------------------------------------------------


def _linked(link: Any) -> Callable[[Path], Path]:
    """A file whose kernel is a link, to a file with a secret beside it or to another place."""

    def write(path: Path) -> Path:
        with h5py.File(path.parent / "secret.h5", "w") as file:
            file["kernel"] = K
        h5(path, dense(), {"one": [("one/bias:0", B)]})
        with h5py.File(path, "a") as file:
            group = file["model_weights/one"]
            group.attrs["weight_names"] = [b"one/kernel:0", b"one/bias:0"]
            group["one/kernel:0"] = link
        return path

    return write


def _external(path: Path) -> Path:
    (path.parent / "raw").write_bytes(K.tobytes())
    h5(path, dense(), {"one": [("one/bias:0", B)]})
    with h5py.File(path, "a") as file:
        group = file["model_weights/one"]
        group.attrs["weight_names"] = [b"one/kernel:0", b"one/bias:0"]
        group.create_dataset("one/kernel:0", (4, 3), "f4", external=[(str(path.parent / "raw"), 0, 48)])
    return path


def _virtual(path: Path) -> Path:
    with h5py.File(path.parent / "secret.h5", "w") as file:
        file["kernel"] = K
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(path.parent / "secret.h5", "kernel", (4, 3))
    h5(path, dense(), {"one": [("one/bias:0", B)]})
    with h5py.File(path, "a") as file:
        group = file["model_weights/one"]
        group.attrs["weight_names"] = [b"one/kernel:0", b"one/bias:0"]
        group.create_virtual_dataset("one/kernel:0", layout)
    return path


def _whole_group(path: Path) -> Path:
    h5(path.parent / "secret.h5", dense(), WEIGHTS)
    h5(path, dense(), {})
    with h5py.File(path, "a") as file:
        file["model_weights/one"] = h5py.ExternalLink("secret.h5", "/model_weights/one")
    return path


@pytest.mark.parametrize(
    "write",
    [_linked(h5py.ExternalLink("secret.h5", "/kernel")), _linked(h5py.SoftLink("/model_weights")), _whole_group],
    ids=["external", "soft", "group"],
)
def test_link_is_not_followed(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """Weights out of another file, whose contents a generated header would carry away."""
    text = sentence(write(tmp_path / "m.h5"))
    assert "links are not followed" in text
    assert "layer 's/one' (Dense)" in text


@pytest.mark.parametrize("write", [_external, _virtual], ids=["external", "virtual"])
def test_numbers_in_another_file_are_not_read(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """A data set of this file whose bytes lie elsewhere."""
    assert "lies in another file" in sentence(write(tmp_path / "m.h5"))


# -- weights -----------------------------------------------------------------------------------------------------------

WRONG_WEIGHTS: dict[str, tuple[dict, str]] = {
    "none": ({}, "no weights of it"),
    "one": ({"one": WEIGHTS["one"][:1]}, "has 1 weights of it, and its configuration 2"),
    "shape": ({"one": [("k", K.T), ("b", B)]}, r"kernel has shape \[3, 4\], its configuration \[4, 3\]"),
    "rank": ({"one": [("k", K), ("b", K)]}, r"bias has shape \[4, 3\]"),
    "words": ({"one": [("k", np.array([[b"w"] * 3] * 4)), ("b", B)]}, "no array of numbers"),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_weights_that_do_not_fit(name: str, tmp_path: Path) -> None:
    """Numbers of another layer, in another order, or none."""
    weights, words = WRONG_WEIGHTS[name]
    text = sentence(h5(tmp_path / "m.h5", dense(), weights))
    assert re.search(words, text)
    assert "layer 's/one' (Dense)" in text


def test_weight_that_is_a_group(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", dense(), {"layers/dense/vars/0/more": K, "layers/dense/vars/1": B})
    assert "is no array" in sentence(path)


def test_archive_without_a_weight(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", dense(), {"layers/dense/vars/0": K})
    assert "no weight 'layers/dense/vars/1', its bias" in sentence(path)


def test_data_set_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    """A few bytes of a file that claim to be all the memory there is."""
    path = h5(tmp_path / "m.h5", dense(units=2**30, use_bias=False), {"one": []})
    with h5py.File(path, "a") as file:
        file["model_weights/one"].attrs["weight_names"] = [b"k"]
        file["model_weights/one"].create_dataset("k", (4, 2**30), "f4", chunks=(1, 1024))
    assert "larger than the 2 GiB" in sentence(path)


# -- layers ------------------------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[dict, str]] = {
    "lambda": (single("Lambda", function={"class_name": "__lambda__", "config": {"code": "x"}}), "Lambda is not run"),
    "unknown": (single("MyLayer"), r"'s/one' \(MyLayer\): this class has no translation"),
    "convolution_lstm": (single("ConvLSTM2D"), "no translation"),
    "activation": (single("Activation", activation="my_function"), "'my_function' has no translation"),
    "activation_object": (single("Activation", activation={"class_name": "Mine", "config": {}}), "Mine"),
    "stateful": (single("GRU", [5, 4], units=3, stateful=True), "stateful"),
    "recurrent_activation": (
        single("SimpleRNN", [5, 4], units=3, activation="selu"),
        "'selu' is not supported in a rec",
    ),
    "half": (dense(dtype="float16"), "dtype is float16"),
    "double": (dense(dtype={"class_name": "DTypePolicy", "config": {"name": "float64"}}), "dtype is float64"),
    "quantised": (dense(dtype={"class_name": "Q", "config": {"name": "int8_from_float32"}}), "int8_from_float32"),
    "no_units": (dense(units=None), "units is None, not a whole number"),
    "negative": (dense(units=-3), "units is -3"),
    "absurd": (dense(units=10**30), "units is 1000"),
    "word": (single("MaxPooling1D", [4, 4], pool_size="two"), "pool_size is 'two'"),
    "rank": (single("Conv2D", [4], filters=2, kernel_size=[2, 2]), "has rank 2, and has to have rank 4"),
    "padding": (single("MaxPooling1D", [4, 4], padding="reflect"), "'reflect' is not supported; use valid or same"),
    "interpolation": (single("UpSampling2D", [4, 4, 2], interpolation="lanczos5"), "'lanczos5' is not supported"),
    "reshape": (single("Reshape", [4], target_shape=[3]), "cannot become"),
    "crop": (single("Cropping1D", [4, 2], cropping=[3, 2]), "crops 5 of 4, and nothing is left"),
    "permute": (single("Permute", [4, 2], dims=[1, 3]), "no order of the axes"),
    "shape": (dense(batch_input_shape=[None, "four"]), "a size four"),
    "free_channels": (dense(batch_input_shape=[None, None]), "size of axis -1 of its input is not known"),
    "no_shape": (dense(batch_input_shape=None), "no shape of its input"),
    "same_names": (
        {"class_name": "Sequential", "config": {"layers": [old("ReLU", "a"), old("ReLU", "a")]}},
        "called 'a'",
    ),
    "no_layers": ({"class_name": "Sequential", "config": {"layers": []}}, "no layers"),
    "subclassed": ({"class_name": "MyModel", "config": {}}, "subclassed model"),
    "circle": (
        keras3(new("ReLU", "a", [[tensor("b")]]), new("ReLU", "b", [[tensor("a")]]), output="b"),
        "the graph is a circle",
    ),
    "no_such_layer": (keras3(new("ReLU", "a", [[tensor("gone")]]), output="a"), "a layer 'gone' that it does not have"),
    "no_such_result": (keras3(new("ReLU", "a", [[tensor("x", 0, 3)]]), output="a"), "result 3 of layer 'x'"),
    "training": (
        keras3(
            {**new("ReLU", "a"), "inbound_nodes": [{"args": [tensor("x")], "kwargs": {"training": True}}]}, output="a"
        ),
        "training=True",
    ),
    "argument": (
        keras3({**new("ReLU", "a"), "inbound_nodes": [{"args": [tensor("x")], "kwargs": {"q": 1}}]}, output="a"),
        "called with q",
    ),
    "registered": (
        keras3({**new("ReLU", "a", [[tensor("x")]]), "registered_name": "mine>ReLU"}, output="a"),
        "mine>ReLU",
    ),
    "control_characters": (keras3(new("My\n\x1b[31m", "a", [[tensor("x")]]), output="a"), r"My\\n\\x1b"),
    "list_to_one": (keras3(new("ReLU", "a", [[[tensor("x"), tensor("x")]]]), output="a"), "called on a list"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_that_cannot_be_translated(name: str, tmp_path: Path) -> None:
    """Numbers that are wrong and nobody knows, or a traceback."""
    config, words = LAYERS[name]
    count = {"rec": 3, "sta": 9}.get(name[:3], 0)  # gates times units
    arrays = [np.ones(shape, np.float32) for shape in ((4, count), (3, count), count)] if count else [K, B]
    weights = {"one": list(zip("krb", arrays, strict=False))}
    version = "3.1.0" if "__keras_tensor__" in str(config) else "2.9.0"
    text = sentence(h5(tmp_path / "m.h5", config, weights, version))
    assert re.search(words, text), text


def test_layer_without_a_translation_is_unsupported(tmp_path: Path) -> None:
    """A valid model that this version cannot lower is told apart from a damaged file."""
    with pytest.raises(UnsupportedError, match=r"docs/keras\.md"):
        read(h5(tmp_path / "m.h5", single("MyLayer"), {}))


def test_weights_of_mixed_precision_are_float32(tmp_path: Path) -> None:
    """A policy that only tells what Keras computes in is no reason to refuse a model."""
    path = h5(tmp_path / "m.h5", dense(dtype={"class_name": "Policy", "config": {"name": "mixed_float16"}}), WEIGHTS)
    np.testing.assert_array_equal(run(read(path), np.ones((2, 4), np.float32))[0], np.full((2, 3), 4))


def test_mask_is_never_overlooked(tmp_path: Path) -> None:
    """Steps that do not count, counted: by a layer inside a TimeDistributed, and by a join along another axis."""
    masked = old("Masking", "m", batch_input_shape=[None, 4, 3], trainable=True)
    inside = {"class_name": "LSTM", "config": {"name": "l", "units": 2}}
    wrapped = old("TimeDistributed", "one", layer=inside, trainable=True)
    config = {
        "class_name": "Sequential",
        "config": {
            "layers": [{**masked, "config": {**masked["config"], "batch_input_shape": [None, 4, 5, 3]}}, wrapped]
        },
    }
    arrays = [("k", np.ones((3, 8), "f")), ("r", np.ones((2, 8), "f")), ("b", np.ones(8, "f"))]
    assert "a mask reaches the layer inside it" in sentence(h5(tmp_path / "m.h5", config, {"one": arrays}))


# -- anything ----------------------------------------------------------------------------------------------------------

JUNK: list[Any] = [
    None,
    -1,
    0,
    10**40,
    1.5,
    float("nan"),
    "word",
    [],
    {},
    [[1]],
    {"class_name": "x"},
    True,
    "\x00",
    "\ud800",
]


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _with(value: Any, path: tuple, junk: Any) -> Any:
    if not path:
        return junk
    changed = copy.copy(value)
    changed[path[0]] = _with(value[path[0]], path[1:], junk)
    return changed


def _models() -> dict[str, tuple[dict, dict]]:
    """Configurations with much in them, and their weights for a .h5."""
    cells = {"class_name": "LSTM", "config": {"name": "l", "units": 2, "return_sequences": True, "trainable": True}}
    layers = [
        new("InputLayer", "x", batch_shape=[None, 6, 4], dtype="float32"),
        new(
            "Conv1D",
            "c",
            [[tensor("x")]],
            filters=3,
            kernel_size=[2],
            strides=[1],
            padding="same",
            groups=1,
            use_bias=False,
        ),
        new("BatchNormalization", "n", [[tensor("c")]], axis=[-1], epsilon=0.001, center=False, scale=False),
        new("ZeroPadding1D", "z", [[tensor("n")]], padding=[1, 1]),
        new("Bidirectional", "b", [[tensor("z")]], layer=cells, merge_mode="concat"),
        new("MaxPooling1D", "p", [[tensor("b")]], pool_size=[2], strides=None, padding="valid"),
        new("Reshape", "r", [[tensor("p")]], target_shape=[-1, 2]),
        new("Dot", "d", [[[tensor("r"), tensor("r")]]], axes=[2, 2], normalize=True),
        new("Softmax", "s", [[tensor("d")]], axis=-1),
    ]
    lstm = [("k", np.ones((3, 8), "f")), ("r", np.ones((2, 8), "f")), ("b", np.ones(8, "f"))]
    weights = {
        "c": [("k", np.ones((2, 4, 3), "f"))],
        "n": [("mean", np.ones(3, "f")), ("variance", np.ones(3, "f"))],
        "b": [*((f"f/{n}", a) for n, a in lstm), *((f"b/{n}", a) for n, a in lstm)],
    }
    graph = functional(layers, ["x", 0, 0], [["s", 0, 0], ["c", 0, 0]])
    return {"graph": (graph, weights), "dense": (dense(activation="relu", use_bias=True), WEIGHTS)}


@pytest.mark.parametrize("name", ["graph", "dense"])
def test_any_place_of_a_configuration_may_hold_anything(name: str, tmp_path: Path) -> None:
    """An exception that is no sentence, whatever a configuration holds where."""
    config, weights = _models()[name]
    path = h5(tmp_path / "m.h5", config, weights, "3.0.0" if name == "graph" else "2.9.0")
    read(path)
    faults = []
    for place in _places(config):
        for junk in JUNK:
            with h5py.File(path, "a") as file:
                file.attrs["model_config"] = json.dumps(_with(config, place, junk))
            try:
                read(path)
            except SofieError as error:
                if "\n" in str(error) or "m.h5" not in str(error):
                    faults.append(f"{place} = {junk!r}: {error}")
            except Exception as error:
                faults.append(f"{place} = {junk!r}: {type(error).__name__}: {error}")
    assert not faults, "\n".join(faults[:20])


def test_any_byte_of_an_archive_may_be_wrong(tmp_path: Path) -> None:
    """An exception that is no sentence, on an archive with a wrong byte in its lists or its configuration."""
    content = archive(tmp_path / "m.keras", dense(), TREE).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        begin = file.getinfo("model.weights.h5").header_offset
    path = tmp_path / "b.keras"
    for place in [*range(0, begin + 60, 3), *range(len(content) - 240, len(content), 2)]:
        for wrong in (0, 255, content[place] ^ 1):
            path.write_bytes(content[:place] + bytes([wrong]) + content[place + 1 :])
            try:
                read(path)
            except SofieError as error:
                assert "\n" not in str(error)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["compile", "info", "check", "bench"])
def test_commands_say_one_sentence(command: str, tmp_path: Path) -> None:
    """A command with a traceback on a path of Keras, or one that takes no such path."""
    path = h5(tmp_path / "m.h5", single("MyLayer"), {})
    done = CliRunner().invoke(
        main, [command, str(path), *(["-o", str(tmp_path / "out")] if command == "compile" else [])]
    )
    assert done.exit_code == 1
    assert "(MyLayer): this class has no translation" in done.output
    assert "Traceback" not in done.output


@pytest.mark.usefixtures("needs_compiler")
def test_commands_take_the_path(tmp_path: Path) -> None:
    """A command that reads a model in a way of its own."""
    path = archive(tmp_path / "m.keras", dense(), TREE)
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    commands = [
        ["compile", str(path), "-o", str(tmp_path / "out"), "--dim", "batch=1..4"],
        ["run", str(path), "--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")],
        ["check", str(path), "--dim", "batch=2"],
        ["info", str(path), "--dim", "batch=2"],
    ]
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.full((2, 3), 4, np.float32))
    assert (tmp_path / "out" / "m.hxx").exists()


def test_from_keras_takes_models_and_paths() -> None:
    with pytest.raises(SofieError, match=r"takes the path of a \.keras or \.h5 file or a keras\.Model"):
        sofie.from_keras(3)
