"""The layout of emitted code: clang-format, in the style that lies beside the emitter, leaves it nearly as it is."""

from __future__ import annotations

import difflib
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from sofie.compiler import Options, lower
from tests import models

STYLE = resources.files("sofie.emit").joinpath(".clang-format")
CHANGED = 0.02
"""The part of all lines that may come out differently: long sums break otherwise."""


@pytest.fixture(scope="module")
def clang_format() -> str:
    beside = Path(sys.executable).with_name("clang-format")
    found = str(beside) if beside.exists() else shutil.which("clang-format")
    if found is None:
        pytest.skip("clang-format is not installed")
    return found


@pytest.mark.parametrize("name", models.ALL)
def test_clang_format_has_little_to_say(name: str, clang_format: str) -> None:
    dims = {"batch": (1, 8)} if name == "mlp" else {}
    text = lower(models.ALL[name](), name, Options(cpu="x86-64-v3", dims=dims)).header()
    command = [clang_format, f"-style=file:{STYLE}", "--assume-filename=model.cpp"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    before, after = text.splitlines(), done.stdout.splitlines()
    changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line.startswith("-")][1:]
    assert len(changed) <= CHANGED * len(before), "\n".join(changed)
