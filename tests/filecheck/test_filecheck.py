"""Runs every `.mlir` here: its RUN line in this process, its CHECK lines on what that prints."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path

import pytest
from filecheck.matcher import Matcher
from filecheck.options import parse_argv_options

from sofie import pipeline
from sofie.opt import main
from sofie.registry import own_passes

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*.mlir"))


def run_line(path: Path) -> list[str]:
    """The arguments of sofie-opt in `// RUN: sofie-opt ARGUMENTS %s | filecheck %s`."""
    line = next(line for line in path.read_text().splitlines() if line.startswith("// RUN:"))
    command = line.removeprefix("// RUN:").split("|")[0].strip().replace("%s", str(path))
    tool, *arguments = shlex.split(command)
    assert tool == "sofie-opt", line
    return arguments


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_prints_what_the_file_says(path: Path, tmp_path: Path) -> None:
    """A pass that no longer does what its file shows."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            main(run_line(path))
        except SystemExit as stop:
            assert not stop.code, errors.getvalue()
    (tmp_path / "printed").write_text(printed.getvalue())
    options = parse_argv_options(["filecheck", str(path), "--input-file", str(tmp_path / "printed")])
    report = io.StringIO()
    with contextlib.redirect_stdout(report), contextlib.redirect_stderr(report):
        status = Matcher.from_opts(options).run()
    assert status == 0, f"{report.getvalue()}\nsofie-opt printed:\n{printed.getvalue()}"


def test_every_pass_has_a_file() -> None:
    """A new pass without a test of its own."""
    assert {p.replace("-", "_") for p in own_passes()} <= {p.stem for p in FILES}
    assert {s.name for group in pipeline.GROUPS.values() for s in group} <= {*own_passes(), "dce"}
