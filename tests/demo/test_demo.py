"""`sofie demo`: the shipped network through the real pipeline, a C++ compiler and back."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sofie import jit
from sofie.cli import main
from sofie.demo.run import NAME, run
from sofie.errors import SofieError

FILES = ["events.bin", "higgs", "higgs.dat", "higgs.hxx", "main.cpp", "scores.bin"]


def demo(folder: Path) -> Result:
    return CliRunner().invoke(main, ["demo", "--events", "200", "--output", str(folder)])


@pytest.mark.usefixtures("needs_compiler")
def test_the_compiled_scores_are_those_of_the_reference(tmp_path: Path) -> None:
    steps: list[str] = []
    result = run(200, tmp_path / "demo", lambda step, seconds, reason: steps.append(step))
    assert result.worst < 5e-6
    assert result.auc == pytest.approx(result.reference_auc, abs=1e-4) and result.auc > 0.8
    assert 0 < result.microseconds < 1e5
    assert sorted(p.name for p in result.files) == FILES
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == FILES
    assert {"vectorize", "outline-kernels", "compile the C++"} <= set(steps)


@pytest.mark.usefixtures("needs_compiler")
def test_the_command_says_how_it_went_and_what_to_try_next(tmp_path: Path) -> None:
    result = demo(tmp_path / "demo")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"worst difference from onnx.reference +\d\.\de-0[5-9]", result.stdout)
    assert re.search(r"time per event +[\d.]+ us", result.stdout)
    following = next(line.strip() for line in result.stdout.splitlines() if line.startswith("  cd "))
    (tmp_path / "demo" / "scores.bin").unlink()
    again = subprocess.run(following, shell=True, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.endswith("over 200 events\n")
    assert np.fromfile(tmp_path / "demo" / "scores.bin", np.float32).shape == (200,)


def test_no_compiler_is_one_sentence_and_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = demo(tmp_path / "demo")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "apt-get install g++" in result.stderr
    assert not (tmp_path / "demo").exists()


def test_a_compiler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "'no-such-compiler' that CXX names is not there" in demo(tmp_path / "demo").stderr


def test_a_compiler_that_fails_leaves_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "compiler", lambda: ["false"])
    with pytest.raises(SofieError, match="cannot build"):
        run(200, tmp_path, lambda step, seconds, reason: None)
    assert NAME not in [p.name for p in tmp_path.iterdir()]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
