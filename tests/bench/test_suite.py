"""A model of the suite that ONNX or SOFIE refuses, or that is another one than it was."""

from __future__ import annotations

import hashlib

import onnx
import pytest

from tests.bench.cases import case, error, truth
from tests.bench.models import MODELS, model

SMALL = [name for name in MODELS if name not in ("gpt2_block", "mobilenetv2", "resnet18", "tiny_bert", "generator_mlp")]


@pytest.mark.parametrize("name", SMALL)
def test_models_are_valid(name):
    built = model(name)
    onnx.checker.check_model(built, full_check=True)
    assert all(d.dim_value > 0 for v in built.graph.output for d in v.type.tensor_type.shape.dim)


def test_the_suite_has_its_28_models():
    assert len(MODELS) == 28


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("alice_nn", "914ab829e35f2cf3"),
        ("rnn_d10_L20_h8", "1de021125908aa08"),
        ("dscnn_kws", "40dd0fd541f3c902"),
        ("particlenet_knn", "1495dc17d683bf4e"),
    ],
)
def test_weights_come_from_the_name_alone(name, digest):
    """Numbers of different days can be compared only if the models are the same."""
    weights = b"".join(t.raw_data for t in model(name).graph.initializer)
    assert hashlib.sha256(weights).hexdigest()[:16] == digest


def test_inputs_are_drawn_afresh_and_kept_for_every_system(tmp_path):
    made = case("alice_nn", tmp_path)
    assert made.sets > 1
    sets = (made.folder / "input_0").read_bytes()
    each = len(sets) // made.sets
    assert sets[:each] != sets[each : 2 * each]
    assert made.first()["input"].tobytes() == sets[:each]


def test_truth_is_float64_and_found_once(tmp_path, monkeypatch):
    made = case("alice_nn", tmp_path)
    found = truth(made, tmp_path)
    assert found[0].dtype == "float64"
    monkeypatch.setattr("tests.bench.cases.Witnesses", None)
    assert truth(made, tmp_path)[0] == found[0]
    assert error([found[0].astype("float32")], found) < 1e-7
    assert error([found[0] * float("nan")], found) == float("inf")
