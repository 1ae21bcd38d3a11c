"""The command as a whole: help is fast, the version is the package's, every pass is listed."""

from __future__ import annotations

import subprocess
import sys

import sofie
from sofie import pipeline
from sofie.cli.options import CPUS, DEFAULT_PIPELINE, dims, values
from sofie.registry import own_passes
from sofie.target import CPUS as KNOWN
from tests.cli.conftest import Fails, Invoke


def test_version_and_help(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"sofie {sofie.__version__}\n"
    for words in ([], ["--help"], ["-h"]):
        result = invoke(*words)
        assert result.exit_code == 0
        assert all(name in result.stdout for name in ("compile", "run", "check", "info", "demo", "passes"))


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, sofie.cli; print(*{'onnx', 'xdsl', 'rich', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == ""


def test_what_is_repeated_to_keep_help_fast_is_still_true() -> None:
    assert set(CPUS) == {"multi", "native", *KNOWN}
    assert DEFAULT_PIPELINE == pipeline.DEFAULT


def test_passes_are_listed_with_a_line_each(invoke: Invoke) -> None:
    lines = invoke("passes").stdout.splitlines()
    named = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert set(own_passes()) <= set(named) and "dce" in named
    assert all(len(line.split()) > 3 for line in named.values())
    assert "lower-onnx" in named and named["lower-onnx"].endswith("(always)")


def test_unknown_command(fails: Fails) -> None:
    assert fails("nope", status=2) == "sofie: No such command 'nope'; see sofie --help\n"


def test_a_name_may_hold_an_equals_sign() -> None:
    assert dims(["a=b=3"]) == {"a=b": 3}
    assert values(["v=1", "w=true,false", "u=-2.5"]) == {"v": 1, "w": [True, False], "u": -2.5}
