"""CUDA without a GPU: what is emitted computes what the operators mean, on threads that run in a shuffled order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import sofie
from sofie.compiler import Options, compile_model, generate, lower
from tests import models
from tests.cuda_host.emulation import ADDRESS, HOST, emulated
from tests.emit.programs import FILES, assert_outputs, compile_and_run, session_code

pytestmark = pytest.mark.usefixtures("needs_compiler")


def test_sessions(tmp_path: Path) -> None:
    """A header with a warning; a thread beyond the end; copies to or from the device of another size."""
    made = {}
    for name, make in models.ALL.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(make(), path)
        made[name] = generate(path, tmp_path, Options(target="cuda"), name)
    feeds = {name: models.feeds(models.ALL[name]()) for name in made}
    body = "\n".join(session_code(generated, feeds[name], name) for name, generated in made.items())
    includes = f'#include "{HOST}"\n' + "".join(f'#include "{name}.cuh"\n' for name in made)
    flags = (*ADDRESS.flags, "-Wno-unknown-pragmas", str(ADDRESS.scheduler()))
    compile_and_run(tmp_path, f"{includes}{FILES}\nint main()\n{{\n{body}\n}}\n", flags)
    for name, generated in made.items():
        assert_outputs(generated, models.ALL[name](), feeds[name], name)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_threads_of_a_launch_may_run_in_any_order(seed: int) -> None:
    """A kernel whose iterations need each other: in one of the orders, or in all but one, it gives another sum."""
    model = models.mlp()
    feeds = models.feeds(model)
    with emulated(seed):
        got = compile_model(model, Options(target="cuda")).run(feeds)
    for name, want in zip(got, ReferenceEvaluator(model).run(None, feeds), strict=True):
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-6)


def test_what_is_of_cpus_is_refused() -> None:
    """An option that would be ignored."""
    for options in ({"threads": 2}, {"blas": "cblas"}, {"reproducible": True}):
        with pytest.raises(sofie.SofieError, match="is for CPUs; leave it out with --target cuda"):
            lower(models.mlp(), "m", Options(target="cuda", **options))


@pytest.mark.parametrize("asked", ["cmake", "profile"])
def test_files_that_are_of_cpus_are_refused(tmp_path: Path, asked: str) -> None:
    """A CMake target of a header that is not there, times that nobody takes."""
    with pytest.raises(sofie.SofieError, match=f"--{asked} is for CPUs"):
        generate(models.mlp().SerializeToString(), tmp_path, Options(target="cuda"), "m", **{asked: True})
    assert not list(tmp_path.iterdir())


def test_nothing_to_do_is_no_error() -> None:
    """A launch of no block, which CUDA refuses."""
    node = helper.make_node("Relu", ["x"], ["y"])
    model = models.build([node], {"x": ["n", 3]}, {"y": ["n", 3]}, {})
    with emulated():
        made = compile_model(model, Options(dims={"n": (0, 4)}, target="cuda"))
        for rows in (0, 4):
            assert made.run({"x": np.ones((rows, 3), np.float32)})["y"].shape == (rows, 3)
