"""Events in files of every format, and the model that they are given to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx.reference import ReferenceEvaluator

from sofie.cli import main
from tests import models

NAMES = tuple("abcdefg")
ROWS = 1003
"""Rows of a file: more than one call of the model takes, and no multiple of any chunk."""


@pytest.fixture(autouse=True)
def in_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs_compiler: None) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """7 numbers in, 5 out, any batch."""
    onnx.save(models.mlp("batch"), tmp_path / "mlp.onnx")
    return tmp_path / "mlp.onnx"


def events(rows: int = ROWS, seed: int = 3) -> dict[str, np.ndarray]:
    """Seven columns of numbers, and one that counts."""
    table = models.normal(rows, 7, seed=seed)
    columns = {name: np.ascontiguousarray(table[:, k]) for k, name in enumerate(NAMES)}
    return {**columns, "event": np.arange(rows, dtype=np.int64)}


def expected(columns: dict[str, np.ndarray], model: Path) -> np.ndarray:
    """What onnx.reference makes of them."""
    x = np.stack([columns[name] for name in NAMES], axis=1).astype(np.float32)
    return np.asarray(ReferenceEvaluator(onnx.load(model)).run(None, {"x": x})[0])


@pytest.fixture
def apply() -> Callable[..., Result]:
    """Runs `sofie apply` with the given words."""
    return lambda *words: CliRunner().invoke(main, ["apply", *map(str, words)])


@pytest.fixture
def fails(apply: Callable[..., Result]) -> Callable[..., str]:
    """Runs `sofie apply`, which must fail with one sentence on stderr; returns the sentence."""

    def run(*words: object, status: int = 1) -> str:
        result = apply(*words)
        assert result.exit_code == status, result.output
        assert result.stderr.count("\n") == 1 and "internal error" not in result.stderr, result.stderr
        assert result.stdout == ""
        return result.stderr

    return run
