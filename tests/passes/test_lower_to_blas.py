"""Products by a BLAS: the call, what is split off around it, and the numbers, where a library is installed."""

from __future__ import annotations

import numpy as np
import pytest

import sofie
from sofie import interpreter, jit, pipeline
from sofie.frontends.onnx import load
from tests import models


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


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("dims", [{}, {"x:0": (1, 8)}])
def test_library_computes_the_same_numbers(dims: dict[str, tuple[int, int]]) -> None:
    model, x = models.mlp(), models.normal(3, 7)
    if dims:
        model.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_value")
    by_library = sofie.compile(model, blas="cblas", dims=dims)
    assert by_library.program.uses_blas
    np.testing.assert_allclose(by_library(x), sofie.compile(model, dims=dims)(x), rtol=1e-5, atol=1e-6)


def test_a_library_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFIE_BLAS", "-L/opt/mkl -lmkl_rt")
    assert jit.flags_for("cblas")[-2:] == ("-L/opt/mkl", "-lmkl_rt")
