"""The command in this process, and small models in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from sofie.cli import main
from tests import models

Invoke = Callable[..., Result]
Fails = Callable[..., str]


@pytest.fixture(autouse=True)
def in_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def invoke() -> Invoke:
    """Runs `sofie` with the given words."""
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def fails(invoke: Invoke) -> Fails:
    """Runs `sofie`, which must fail with one sentence on stderr and nothing on stdout; returns the sentence."""

    def run(*words: object, status: int = 1) -> str:
        result = invoke(*words)
        assert result.exit_code == status, result.output
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr, result.stderr
        assert result.stdout == "" and "internal error" not in result.stderr, result.stderr
        return result.stderr

    return run


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """A model with a free dimension `batch`."""
    onnx.save(models.mlp("batch"), tmp_path / "mlp.onnx")
    return tmp_path / "mlp.onnx"


@pytest.fixture
def unsupported(tmp_path: Path) -> Path:
    """A model with an operator that has no lowering."""
    nodes = [onnx.helper.make_node("StringSplit", ["x"], ["y", "n"], name="splitter", delimiter=",")]
    kinds = {"x": onnx.TensorProto.STRING, "y": onnx.TensorProto.STRING, "n": onnx.TensorProto.INT64}
    onnx.save(models.build(nodes, {"x": [2]}, ["y", "n"], {}, kinds), tmp_path / "strings.onnx")
    return tmp_path / "strings.onnx"


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """A model with a vendor's operator."""
    node = onnx.helper.make_node("Mystery", ["x"], ["y"], name="riddle", domain="acme")
    model = models.build([node], {"x": [2]}, ["y"], {})
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    onnx.save(model, tmp_path / "unknown.onnx")
    return tmp_path / "unknown.onnx"
