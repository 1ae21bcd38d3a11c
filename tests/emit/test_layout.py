"""The layout of emitted code: clang-format, in the style that lies beside the emitter, leaves it nearly as it is."""

from __future__ import annotations

import difflib
import subprocess
from importlib import resources

import pytest
from clang_format import get_executable

from sofie.compiler import Options, lower
from tests import models

STYLE = resources.files("sofie.emit").joinpath(".clang-format")
CHANGED = 0.02
"""The part of all lines that may come out differently: long sums break otherwise."""

WIDE = ("samples", "quantized", "tiles")
"""Their expressions are wider than a line, which the printer does not break."""


@pytest.mark.parametrize("name", [n for n in models.ALL if n not in WIDE])
def test_clang_format_has_little_to_say(name: str) -> None:
    dims = {"batch": (1, 8)} if name == "mlp" else {}
    text = lower(models.ALL[name](), name, Options(cpu="x86-64-v3", dims=dims)).header()
    command = [get_executable("clang-format"), f"-style=file:{STYLE}", "--assume-filename=model.cpp"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    before, after = text.splitlines(), done.stdout.splitlines()
    changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line.startswith("-")][1:]
    assert len(changed) <= CHANGED * len(before), "\n".join(changed)
