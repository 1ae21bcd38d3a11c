"""The ONNX backend interface, and the compile cache under many processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.backend.base import Backend

import sofie
from sofie.backend import SofieBackend
from tests import models

pytestmark = pytest.mark.usefixtures("needs_compiler")


def test_it_is_a_backend_for_the_cpu() -> None:
    assert issubclass(SofieBackend, Backend)
    assert SofieBackend.supports_device("CPU")
    assert SofieBackend.supports_device("CPU:0")
    assert not SofieBackend.supports_device("CUDA")


def test_model_runs_from_a_list_and_from_a_dictionary() -> None:
    model, x = models.mlp(), models.normal(3, 7)
    first = SofieBackend.run_model(model, [x])[0]
    second = SofieBackend.prepare(model).run({"x": x})[0]
    np.testing.assert_array_equal(first, second)
    assert first.shape == (3, 5)


def test_node_runs_alone() -> None:
    x = models.normal(2, 3)
    (y,) = SofieBackend.run_node(helper.make_node("Relu", ["x"], ["y"]), [x])
    np.testing.assert_array_equal(y, np.maximum(x, 0))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "takes 1 input"),
        ((np.zeros((2, 7), np.float32),), "has shape (2, 7), the model takes (3, 7)"),
        ((np.zeros((3, 7), np.complex64),), "is complex64, the model takes float32"),
    ],
)
def test_wrong_inputs_are_refused_in_a_sentence(arguments: tuple[object, ...], said: str) -> None:
    model = sofie.compile(models.mlp())
    with pytest.raises(sofie.SofieError) as raised:
        model(*arguments)
    assert said in str(raised.value)
    with pytest.raises(sofie.SofieError, match="no input 'z'"):
        model.run({"z": 1})


def test_cache_serves_many_processes_at_once(tmp_path: Path) -> None:
    """Two processes that build the same library trip over each other's files."""
    onnx.save(models.mlp(seed=77), tmp_path / "m.onnx")
    code = (
        "import sofie, numpy as np; m = sofie.compile('m.onnx');"
        "print(float(m(np.ones((3, 7), np.float32)).sum()), m.library)"
    )
    environment = {"SOFIE_CACHE": str(tmp_path / "cache"), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    said = {p.communicate(timeout=120)[0] for p in processes}
    assert all(p.returncode == 0 for p in processes)
    assert len(said) == 1
    assert [f.suffix for f in (tmp_path / "cache").iterdir()] == [".so"]


def test_compilers_error_keeps_the_text_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sofie import jit

    monkeypatch.setenv("SOFIE_CACHE", str(tmp_path))
    with pytest.raises(sofie.SofieError, match="rejects the emitted code"):
        jit.build("this is not C++")
    assert [f.suffix for f in tmp_path.iterdir()] == [".cpp"]


def test_no_compiler_is_one_sentence_with_the_ways_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from sofie import jit

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(jit.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(sofie.SofieError) as raised:
        jit.compiler()
    assert "\n" not in str(raised.value)
    assert "sofie-mlir[cc]" in str(raised.value)
