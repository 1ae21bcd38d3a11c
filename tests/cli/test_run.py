"""`sofie run`: arrays in, arrays out, and the sizes that the arrays give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from tests import models
from tests.cli.conftest import Fails, Invoke

X = models.normal(6, 7, seed=9)


@pytest.mark.usefixtures("needs_compiler")
def test_the_shapes_of_the_inputs_bind_free_dimensions(invoke: Invoke, mlp: Path) -> None:
    np.savez("in.npz", x=X)
    result = invoke("run", mlp, "--input", "in.npz", "--output", "out.npz")
    assert result.exit_code == 0, result.stderr
    with np.load("out.npz") as out:
        assert out.files == ["y"]
        np.testing.assert_allclose(out["y"], reference(mlp), rtol=1e-5, atol=1e-7)


def reference(model: Path) -> np.ndarray:
    return np.asarray(ReferenceEvaluator(onnx.load(model)).run(None, {"x": X})[0])


@pytest.mark.usefixtures("needs_compiler")
def test_one_array_needs_no_name(invoke: Invoke, mlp: Path) -> None:
    np.save("in.npy", X)
    assert invoke("run", mlp, "--input", "in.npy", "--output", "out.npy").exit_code == 0
    np.testing.assert_allclose(np.load("out.npy"), reference(mlp), rtol=1e-5, atol=1e-7)


@pytest.fixture
def added(tmp_path: Path) -> Path:
    """Two inputs that share a free dimension, two outputs."""
    nodes = [onnx.helper.make_node("Add", ["a", "b"], ["s"]), onnx.helper.make_node("Relu", ["s"], ["r"])]
    onnx.save(models.build(nodes, {"a": ["n"], "b": ["n"]}, ["s", "r"], {}), tmp_path / "added.onnx")
    return tmp_path / "added.onnx"


def test_inputs_that_disagree_about_a_dimension(fails: Fails, added: Path) -> None:
    np.savez("in.npz", a=X[0, :3], b=X[0, :4])
    sentence = fails("run", added, "--input", "in.npz", "--output", "out.npz")
    assert "input 'b' has 4 along axis 0, but input 'a' makes that dimension 3" in sentence


def test_an_input_that_disagrees_with_the_option(fails: Fails, added: Path) -> None:
    np.savez("in.npz", a=X[0, :3], b=X[0, :3])
    assert "--dim n=5 makes" in fails("run", added, "--input", "in.npz", "--output", "out.npz", "--dim", "n=5")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"wrong": X}, "no input 'wrong'; its inputs are x"),
        ({}, "input 'x' is missing"),
        ({"x": X, "more": X}, "no input 'more'"),
        ({"x": X[:, :6]}, "has shape (6, 6), the model takes (6, 7)"),
        ({"x": X[0, 0]}, "has 0 dimension(s)"),
        ({"x": X.astype(np.complex64)}, "is complex64"),
    ],
)
@pytest.mark.usefixtures("needs_compiler")
def test_arrays_that_do_not_fit(fails: Fails, mlp: Path, arrays: dict[str, np.ndarray], sentence: str) -> None:
    np.savez("in.npz", **arrays)
    assert sentence in fails("run", mlp, "--input", "in.npz", "--output", "out.npz")
    assert not Path("out.npz").exists()


def test_files_that_are_not_arrays(fails: Fails, mlp: Path) -> None:
    Path("in.npz").write_text("no arrays")
    np.savez("objects.npz", x=np.array([object()]))
    assert "no .npz or .npy" in fails("run", mlp, "--input", "in.npz", "--output", "out.npz")
    assert "no .npz or .npy" in fails("run", mlp, "--input", "objects.npz", "--output", "out.npz")
    assert "no file 'nope.npz'" in fails("run", mlp, "--input", "nope.npz", "--output", "out.npz")


def test_one_array_for_two_inputs(fails: Fails, added: Path) -> None:
    np.save("in.npy", X)
    assert "give a .npz with a, b" in fails("run", added, "--input", "in.npy", "--output", "out.npz")


@pytest.mark.usefixtures("needs_compiler")
def test_outputs_that_cannot_be_written(fails: Fails, added: Path, tmp_path: Path) -> None:
    np.savez("in.npz", a=X[0], b=X[0])
    assert "a .npy holds one array" in fails("run", added, "--input", "in.npz", "--output", "out.npy")
    assert "cannot be written" in fails("run", added, "--input", "in.npz", "--output", "no/out.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["added.onnx", "in.npz"]
