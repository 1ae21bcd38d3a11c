"""Products by a BLAS: the call, what is split off around it, and the numbers, where a library is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import sofie
from sofie import interpreter, jit, pipeline
from sofie.frontends.onnx import load
from tests import models


@pytest.fixture
def needs_blas(tmp_path: Path, needs_compiler: None) -> None:
    (tmp_path / "t.cpp").write_text(
        "#include <cblas.h>\nint main() { return cblas_ddot(0, nullptr, 1, nullptr, 1) != 0; }\n"
    )
    command = [*jit.compiler(), str(tmp_path / "t.cpp"), "-o", str(tmp_path / "t"), *jit.flags_for("cblas")[-1:]]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no CBLAS: install libopenblas-dev, or name one in SOFIE_BLAS")


@pytest.mark.parametrize("name", models.ALL)
def test_calls_mean_what_the_loops_meant(name: str) -> None:
    model = models.ALL[name]()
    feeds = list(models.feeds(model).values())
    results = []
    for library in ("none", "cblas"):
        module = load(model)
        pipeline.run(module, pipeline.parse(f"fuse,lower{{library={library}}}"), verify_each=True)
        results.append(interpreter.run(module, feeds))
    for loops, calls in zip(*results, strict=True):
        np.testing.assert_allclose(loops, calls, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("needs_blas")
def test_library_computes_the_same_numbers() -> None:
    model, x = models.mlp(), models.normal(3, 7)
    by_library = sofie.compile(model, blas="cblas")
    assert by_library.program.uses_blas
    np.testing.assert_allclose(by_library(x), sofie.compile(model)(x), rtol=1e-5, atol=1e-6)
