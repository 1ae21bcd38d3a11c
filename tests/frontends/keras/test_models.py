"""Whole models: keras.Model objects, and the five networks of SpliceAI as Keras 2.0.5 saved them. `pytest -m keras`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sofie
from sofie.errors import UnsupportedError
from sofie.frontends.keras import read
from tests.frontends.keras import oracle

pytestmark = pytest.mark.keras
WHEEL = "spliceai==1.3.1"
LENGTH = 10_400
"""Bases: 5,000 on each side are context, 400 are judged."""


@pytest.fixture(scope="module")
def spliceai(pytestconfig: pytest.Config) -> Iterator[list[Path]]:
    """The five files out of the wheel, which stays in pytest's cache. Skips where it cannot be had."""
    folder = Path(pytestconfig.cache.mkdir("wheels"))
    wheels = list(folder.glob("spliceai-*.whl"))
    if not wheels:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder), WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("spliceai-*.whl"))
        if not wheels:
            pytest.skip(f"{WHEEL} cannot be downloaded: {done.stderr.strip().splitlines()[-1:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        for k in range(1, 6):
            wheel.extract(f"spliceai/models/spliceai{k}.h5", folder)
    yield [folder / f"spliceai/models/spliceai{k}.h5" for k in range(1, 6)]


def bases(count: int) -> np.ndarray:
    """A random sequence as one-hot, (1, count, 4)."""
    return np.eye(4, dtype=np.float32)[np.random.default_rng(3).integers(0, 4, (1, count))]


def test_spliceai_computes_what_keras_computes(spliceai: list[Path]) -> None:
    """39 convolutions with dilation, their batch norms and sums, or a crop of them, out of an old file."""
    import keras

    x = bases(LENGTH)
    for path in spliceai:
        proto = read(path)
        expected = keras.models.load_model(path, compile=False).predict(x, verbose=0)
        (found,) = oracle.run(proto, {"input_1": x})
        assert found.shape == (1, LENGTH - 10_000, 3)
        assert not (fault := oracle.far(found, expected)), f"{path.name}: {fault}"
        assert [n.op_type for n in proto.graph.node].count("Transpose") == 2


@pytest.mark.usefixtures("needs_compiler")
def test_spliceai_compiles(spliceai: list[Path]) -> None:
    """The same through the compiler, at a length that is no multiple of anything."""
    x = bases(LENGTH + 37)
    compiled = sofie.compile(spliceai[0], dims={"batch": 1, "length": LENGTH + 37})
    (expected,) = oracle.run(read(spliceai[0]), {"input_1": x})
    assert not (fault := oracle.far(compiled(x), expected)), fault


def test_object_is_translated_without_its_file() -> None:
    """A model that was never saved."""
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    given = _named(model, np.ones((2, 4), np.float32))
    (found,) = oracle.run(sofie.from_keras(model), given)
    assert not oracle.far(found, oracle.truth(model, given)[0])


def _named(model: object, x: np.ndarray) -> dict[str, np.ndarray]:
    return {name: x for name in oracle.inputs(model)}


def test_custom_layer_of_an_object_is_exported_by_keras() -> None:
    """A layer of the user's own: its code is not in the file, and Keras on PyTorch can run it."""
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(3)(Twice()(x)))
    values = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    proto = sofie.from_keras(model)
    (found,) = oracle.run(proto, {proto.graph.input[0].name: values})
    assert not oracle.far(found, oracle.truth(model, _named(model, values))[0])


def test_custom_layer_of_a_file_is_refused(tmp_path: Path) -> None:
    """The same out of a file, and a Lambda: nothing of it is run."""
    import keras

    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Lambda(lambda v: v + 1, name="mine")(x))
    for path in oracle.saved(model, tmp_path, "m"):
        with pytest.raises(UnsupportedError, match="mine' .Lambda.: .* the code of a Lambda is not run"):
            read(path)
