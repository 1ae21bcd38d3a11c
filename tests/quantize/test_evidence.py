"""What integers cost two real networks with the default settings, the worst of three seeds."""

from __future__ import annotations

from importlib import resources

import numpy as np
import onnx
import pytest

import sofie
from sofie.demo.events import generate, roc_auc
from tests.quantize.digits import Digits, digits
from tests.quantize.running import decibels, runtime

SEEDS = range(3)
EVENTS, ALL_EVENTS = 40_000, 200_000
AUC_LOSS = 0.001
ACCURACY_LOSS = 0.005


@pytest.fixture(scope="module")
def higgs() -> onnx.ModelProto:
    return onnx.load_model_from_string(resources.files("sofie.demo").joinpath("higgs.onnx").read_bytes())


@pytest.fixture(scope="module", params=SEEDS)
def trained(request: pytest.FixtureRequest) -> Digits:
    return digits(request.param)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("seed", SEEDS)
def test_the_demo_network_keeps_its_area_under_the_curve(
    higgs: onnx.ModelProto, seed: int, request: pytest.FixtureRequest
) -> None:
    """Calibrated on 2,000 events, judged on others; `--full` takes 200,000 of them."""
    calibration, _ = generate(2000, 10 + seed)
    made = sofie.quantize(higgs, {"features": calibration})
    features, labels = generate(ALL_EVENTS if request.config.getoption("--full") else EVENTS, 100 + seed)
    before, after = (runtime(model, {"features": features})[0] for model in (higgs, made.model))
    assert roc_auc(before, labels) > 0.9
    assert roc_auc(before, labels) - roc_auc(after, labels) < AUC_LOSS
    assert len(np.unique(after)) > 1000  # no integer between the last layer and the score
    assert made.after < 0.3 * made.before


@pytest.mark.usefixtures("needs_compiler")
def test_the_digits_keep_their_accuracy(trained: Digits) -> None:
    """Calibrated on images that the network was trained on, judged on others."""
    made = sofie.quantize(trained.model, {"image": trained.trained[0][:500]})
    images, labels = trained.others
    before, after = (runtime(model, {"image": images})[0].argmax(axis=1) for model in (trained.model, made.model))
    assert np.mean(before == labels) > 0.95
    assert np.mean(before == labels) - np.mean(after == labels) < ACCURACY_LOSS


@pytest.mark.usefixtures("needs_compiler")
def test_the_compiled_model_is_the_one_that_the_runtime_runs(trained: Digits) -> None:
    """The same file through sofie.compile: integers may differ by the rounding of a float, and no more."""
    made = sofie.quantize(trained.model, {"image": trained.trained[0][:500]})
    images = trained.others[0][:64]
    ours = sofie.compile(made.model, dims={"batch": 64})(images)
    assert decibels(runtime(made.model, {"image": images})[0], np.asarray(ours)) > 45


@pytest.mark.parametrize("block", [32, 64])
def test_four_bits_take_less_than_a_sixth_of_the_file(higgs: onnx.ModelProto, block: int) -> None:
    """At 64 weights a scale of float32; at 32 the scales are as many bytes more."""
    made = sofie.quantize(higgs, weights="int4", activations="none", block=block)
    assert made.after / made.before < {32: 0.175, 64: 0.16}[block]
    features, labels = generate(EVENTS, 7)
    before, after = (runtime(model, {"features": features})[0] for model in (higgs, made.model))
    assert roc_auc(before, labels) - roc_auc(after, labels) < AUC_LOSS
