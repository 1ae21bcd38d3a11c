"""Every layer and option against Keras' own results on PyTorch: `pytest -m keras`."""

from __future__ import annotations

import importlib
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest

import sofie
from sofie.frontends.keras import read
from tests.frontends.keras import oracle

pytestmark = pytest.mark.keras

FAMILIES = (
    "activations", "attention", "convolution", "core", "merging", "networks", "normalization", "pooling", "recurrent",
    "reshaping",
)  # fmt: skip


def cases(family: str) -> dict:
    return importlib.import_module(f"tests.frontends.keras.cases.{family}").FAMILY.cases


def drawn(family: str, name: str, seed: int):
    """A model of a case with numbers in all weights, and the generator that goes on."""
    from tests.frontends.keras.cases.drawing import Draw

    rng = np.random.default_rng([seed, zlib.crc32(f"{family}/{name}".encode())])
    model = cases(family)[name](Draw(rng))
    oracle.randomise(model, rng)
    return model, rng


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_translation_computes_what_keras_computes(family: str, seed: int, tmp_path: Path) -> None:
    """A layer, an option or a place of a weight that is translated wrong, from .keras or from .h5."""
    wrong = []
    for name in cases(family):
        model, rng = drawn(family, name, seed)
        arrays = oracle.feeds(model, 3, rng)
        expected = oracle.truth(model, arrays)
        for path in oracle.saved(model, tmp_path, name):
            try:
                proto = read(path)
                onnx.checker.check_model(proto, full_check=True)
                found = oracle.run(proto, arrays)
                faults = [oracle.far(o, t) for o, t in zip(found, expected, strict=True)]
            except Exception as error:
                faults = [f"{type(error).__name__}: {error}"]
            wrong += [f"{name}{path.suffix}: {fault}" for fault in faults if fault]
    assert not wrong, "\n".join(wrong)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_code_computes_what_keras_computes(family: str) -> None:
    """A translation that ONNX Runtime takes and the compiler does not, at batches of 1 to 8 from one compilation."""
    models, protos = {}, {}
    for name in cases(family):
        model, rng = drawn(family, name, 0)
        models[name], protos[name] = (model, rng), sofie.from_keras(model)
    one = oracle.together(protos)
    free = {d.dim_param for i in one.graph.input for d in i.type.tensor_type.shape.dim}
    fixed = {key: size for key, size in oracle.FREE.items() if key in free}
    compiled = sofie.compile(one, dims={"batch": (1, 8), **fixed})
    wrong = []
    for batch in (3, 8, 1):
        arrays, expected = {}, {}
        for name, (model, rng) in models.items():
            given = oracle.feeds(model, batch, rng)
            arrays |= {f"{name}.{key}": array for key, array in given.items()}
            outputs = [o.name for o in protos[name].graph.output]
            expected |= {f"{name}.{o}": t for o, t in zip(outputs, oracle.truth(model, given), strict=True)}
        found = compiled.run({p.name: arrays[p.name] for p in compiled.inputs})
        wrong += [f"{key} at {batch}: {far}" for key, t in expected.items() if (far := oracle.far(found[key], t))]
    assert not wrong, "\n".join(wrong)


def test_every_layer_of_the_table_is_in_a_case() -> None:
    """A layer that is promised and never compared."""
    from sofie.frontends.keras.registry import layers

    used: set[str] = set()
    for family in FAMILIES:
        for name in cases(family):
            model, _ = drawn(family, name, 0)
            used |= {type(layer).__name__ for layer in model._flatten_layers()}
    elsewhere = {"ThresholdedReLU", "SyncBatchNormalization", "InputLayer"}  # of Keras 2; never a layer of its own
    assert set(layers()) - used - elsewhere == set()
