"""The demonstration's events, the trainer's derivatives and the model that ships."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from sofie.demo import events
from sofie.demo.events import FEATURES, generate, roc_auc

ROOT = Path(__file__).resolve().parents[2]
SHIPPED_MODEL = ROOT / "sofie" / "demo" / "higgs.onnx"


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_demo", ROOT / "tools" / "train_demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_same_seed_gives_same_events_and_another_seed_gives_others() -> None:
    features, labels = generate(500, seed=7)
    again, labels_again = generate(500, seed=7)
    others, _ = generate(500, seed=8)
    assert np.array_equal(features, again) and np.array_equal(labels, labels_again)
    assert not np.array_equal(features, others)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_events_have_the_promised_shapes_and_types(count: int) -> None:
    features, labels = generate(count, seed=0)
    assert features.shape == (count, len(FEATURES)) == (count, 7) and features.dtype == np.float32
    assert labels.shape == (count,) and labels.dtype == np.uint8


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (-1, 0), (10, -1)])
def test_impossible_requests_are_refused(count: int, seed: int) -> None:
    with pytest.raises(ValueError, match="cannot"):
        generate(count, seed)


def test_standardised_features_are_finite_and_of_order_one() -> None:
    features, labels = generate(20_000, seed=11)
    assert np.isfinite(features).all()
    assert np.abs(features.mean(axis=0)).max() < 0.1
    assert np.abs(features.std(axis=0) - 1).max() < 0.15
    assert 0.45 < labels.mean() < 0.55


def test_events_respect_the_cuts_and_the_ranges_of_their_units() -> None:
    features, _ = generate(20_000, seed=12)
    physical = dict(zip(FEATURES, (features * events.SPREAD + events.CENTRE).T, strict=True))
    rounding = 1e-4
    assert physical["leading_pt"].min() > events.LEADING_PT_CUT - rounding
    assert physical["subleading_pt"].min() > events.SUBLEADING_PT_CUT - rounding
    assert (physical["leading_pt"] >= physical["subleading_pt"] - rounding).all()
    assert physical["delta_eta"].min() > -rounding and physical["delta_eta"].max() < 2 * events.ETA_CUT
    assert physical["delta_phi"].min() > -rounding and physical["delta_phi"].max() < np.pi + rounding
    assert min(physical[name].min() for name in ("invariant_mass", "missing_pt", "transverse_mass")) > -rounding


def test_invariant_mass_agrees_with_the_other_columns() -> None:
    features, _ = generate(5_000, seed=13)
    columns = features.astype(np.float64) * events.SPREAD + events.CENTRE
    leading, subleading, delta_eta, delta_phi, mass = columns.T[:5]
    expected = np.sqrt(2 * leading * subleading * (np.cosh(delta_eta) - np.cos(delta_phi)))
    assert np.allclose(mass, expected, rtol=1e-3)


def test_decay_conserves_the_mass_and_momentum_of_the_parent() -> None:
    rng = np.random.default_rng(5)
    mass, recoil = rng.uniform(50, 200, 1000), rng.uniform(0, 100, 1000)
    pt, eta, phi = events._decay(mass, recoil, rng.uniform(-1, 1, 1000), rng)
    momenta = np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    energy, px, py, pz = momenta.sum(axis=2)
    assert np.allclose(np.sqrt(energy**2 - px**2 - py**2 - pz**2), mass)
    assert np.allclose(px, recoil) and np.allclose(py, 0)


def _known_event(eta: float) -> events._Truth:
    """Objects of 100 and 50 GeV at a right angle, half of the first invisible; the second at pseudorapidity -0.5."""
    products = events._Objects(np.array([[100.0, 50.0]]), np.array([[eta, -0.5]]), np.array([[0.0, -np.pi / 2]]))
    return events._Truth(products, visible_share=np.array([[0.5, 1.0]]))


def test_perfect_detector_measures_a_known_event_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOMENTUM_RESOLUTION", 0.0)
    monkeypatch.setattr(events, "MISSING_RESOLUTION", 0.0)
    (measured,) = events._measure(_known_event(eta=0.5), np.random.default_rng(0))
    pair_pt, missing_pt, angle = 50 * np.sqrt(2), 50.0, np.pi / 4
    transverse_mass = np.sqrt(2 * pair_pt * missing_pt * (1 - np.cos(angle)))
    assert measured == pytest.approx([50, 50, 1, np.pi / 2, 50 * np.sqrt(2 * np.cosh(1)), missing_pt, transverse_mass])


def test_object_beyond_the_detector_loses_the_event() -> None:
    for eta, kept in ((2.49, 1), (2.51, 0), (-2.51, 0)):
        assert len(events._measure(_known_event(eta), np.random.default_rng(0))) == kept


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([0.3, 0.1, 0.2], [1, 0, 1], 1.0),
        ([5, 5, 5, 5], [0, 1, 0, 1], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
        ([2, 2, 2, 1], [1, 1, 0, 0], 0.75),
    ],
    ids=["perfect", "reversed", "one pair of four wrong", "unbalanced", "all tied", "one tie", "tie of three"],
)
def test_auc_is_the_share_of_pairs_in_the_right_order(scores: list[float], labels: list[int], expected: float) -> None:
    assert roc_auc(scores, labels) == pytest.approx(expected, abs=1e-15)
    assert roc_auc(np.array(scores)[:, None], labels) == pytest.approx(expected, abs=1e-15)


def test_auc_counts_pairs_like_the_definition_when_many_tie() -> None:
    rng = np.random.default_rng(3)
    scores, labels = rng.integers(0, 10, 300), rng.integers(0, 2, 300)
    difference = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    assert roc_auc(scores, labels) == pytest.approx(np.mean((difference > 0) + 0.5 * (difference == 0)))


@pytest.mark.parametrize(
    ("scores", "labels", "complaint"),
    [
        ([0.1, 0.2], [0, 1, 1], "2 scores"),
        ([0.1, float("nan")], [0, 1], "NaN"),
        ([0.1, 0.2], [0, 2], "labels must be"),
        ([0.1, 0.2], [1, 1], "0 background"),
        ([], [], "0 signal"),
    ],
)
def test_auc_without_a_meaning_is_refused(scores: list[float], labels: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        roc_auc(scores, labels)


def test_backpropagation_agrees_with_finite_differences(trainer: ModuleType) -> None:
    rng = np.random.default_rng(4)
    widths = [3, 5, 4, 1]
    network = [
        trainer.Dense(rng.normal(size=(outputs, inputs)), rng.normal(size=outputs))
        for inputs, outputs in zip(widths, widths[1:], strict=False)
    ]
    features, labels = rng.normal(size=(8, 3)), rng.integers(0, 2, 8, dtype=np.uint8)

    def loss() -> float:
        cost: float = trainer.cross_entropy(trainer.forward(network, features)[1], labels)
        return cost

    step = 1e-6
    for layer, gradient in zip(network, trainer.gradients(network, features, labels), strict=True):
        for parameter, slope in zip(layer, gradient, strict=True):
            assert parameter.shape == slope.shape
            for index in np.ndindex(parameter.shape):
                here = parameter[index]
                parameter[index] = here + step
                above = loss()
                parameter[index] = here - step
                below = loss()
                parameter[index] = here
                assert slope[index] == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-9)


def test_exported_network_computes_what_was_trained(trainer: ModuleType) -> None:
    rng = np.random.default_rng(6)
    network = [
        trainer.Dense(layer.weight, rng.normal(size=layer.bias.shape).astype(np.float32))
        for layer in trainer.initial_network([7, 6, 5, 1], rng)
    ]
    features = rng.normal(size=(10, 7)).astype(np.float32)
    (score,) = ReferenceEvaluator(trainer.to_onnx(network)).run(None, {"features": features})
    _, logits = trainer.forward(network, features)
    assert np.allclose(np.ravel(score), 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_trainer_learns_and_leaves_one_valid_file(
    trainer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model.onnx"
    monkeypatch.setattr(trainer, "HIDDEN_UNITS", 20)
    monkeypatch.setattr(trainer, "VALIDATION_EVENTS", 1000)
    monkeypatch.setattr(sys, "argv", ["train_demo", "--epochs", "3", "--events", "20000", "--output", str(output)])
    trainer.main()
    assert list(tmp_path.iterdir()) == [output]
    assert _auc(onnx.load(output)) > 0.8


def test_shipped_model_tells_signal_from_background() -> None:
    best_linear_fit = 0.83
    assert _auc(onnx.load(SHIPPED_MODEL)) > best_linear_fit + 0.05


def test_shipped_model_keeps_its_interface_and_size() -> None:
    model = onnx.load(SHIPPED_MODEL)
    onnx.checker.check_model(model, full_check=True)
    (given,), (returned,) = model.graph.input, model.graph.output
    types = [value.type.tensor_type for value in (given, returned)]
    shapes = [[dim.dim_param or dim.dim_value for dim in type_.shape.dim] for type_ in types]
    assert (given.name, returned.name, shapes) == ("features", "score", [["batch", 7], ["batch", 1]])
    weights = [tuple(tensor.dims) for tensor in model.graph.initializer if tensor.name.endswith(".weight")]
    assert weights == [(200, 7), *[(200, 200)] * 4, (1, 200)]
    assert [node.name for node in model.graph.node][:3] == ["dense_1", "relu_1", "dense_2"]


def _auc(model: onnx.ModelProto) -> float:
    """AUC on 2,000 events that no training or validation sample holds."""
    features, labels = generate(2_000, seed=99)
    (score,) = ReferenceEvaluator(model).run(None, {"features": features})
    return roc_auc(score, labels)
