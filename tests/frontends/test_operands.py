"""Inputs that tell shapes or axes: found, bound at the first run, named where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser

import sofie
from sofie.cli import main
from sofie.errors import SofieError
from sofie.frontends.operands import operand_inputs


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')


RESHAPE = "g (float[6] x, int64[2] shape) => (float[a, b] y) { d = Add (x, x) y = Reshape (d, shape) }"
COMPUTED = """g (float[6] x, int64[1] rows, int64[1] columns) => (float[a, b] y)
<int64[1] one = {1}> { s = Concat <axis = 0> (rows, columns) t = Mul (s, one) y = Reshape (x, t) }"""
RANGE = (
    "g (float limit, float[3] x) => (float[n] y) <float zero = {0}, float one = {1}> { y = Range (zero, limit, one) }"
)
DATA = "g (int64[3, 4] x, float[2] y) => (float[n] z) <int64[1] c = {-1}> { s = Reshape (x, c) z = Expand (y, s) }"
FROM_SHAPE = "g (float[6] x, float[2, 3] like) => (float[2, 3] y) { s = Shape (like) y = Reshape (x, s) }"
IN_BRANCH = """g (bool c, float[6] x, int64[2] shape) => (float[2, 3] y) {
  y = If (c) <then_branch = t () => (float[2, 3] a) { a = Reshape (x, shape) },
              else_branch = e () => (float[2, 3] b) { m = Neg (x) b = Reshape (m, shape) }> }"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (RESHAPE, ["shape"]),
        (COMPUTED, ["rows", "columns"]),
        (RANGE, ["limit"]),
        (DATA, []),
        (FROM_SHAPE, []),
        (IN_BRANCH, ["shape"]),
    ],
)
def test_inputs_that_tell_shapes_are_found(text: str, names: list[str]) -> None:
    assert operand_inputs(model(text).graph) == names


def test_a_model_is_compiled_for_each_set_of_values() -> None:
    compiled = sofie.compile(model(RESHAPE))
    x = np.arange(6, dtype=np.float32)
    for shape in ([2, 3], [3, -1], [2, 3]):
        result = compiled(x, np.array(shape))
        np.testing.assert_array_equal(result, (x + x).reshape(shape))
    assert [port.name for port in compiled.inputs] == ["x", "shape"]


def test_shapes_are_computed_from_several_inputs() -> None:
    x = np.arange(6, dtype=np.float32)
    compiled = sofie.compile(model(COMPUTED))
    assert np.shape(compiled(x, np.array([3]), np.array([2]))) == (3, 2)
    assert np.shape(compiled(x, np.array([1]), np.array([6]))) == (1, 6)


def test_what_is_read_as_data_stays_an_input() -> None:
    compiled = sofie.compile(model(RANGE))
    for limit in (3.0, 2.5, 5.0):
        result = compiled(np.float32(limit), np.zeros(3, np.float32))
        np.testing.assert_array_equal(result, np.arange(np.ceil(limit), dtype=np.float32))


def test_branches_see_what_is_bound() -> None:
    compiled = sofie.compile(model(IN_BRANCH))
    x = np.arange(6, dtype=np.float32)
    for condition in (True, False):
        result = compiled(np.array(condition), x, np.array([2, 3]))
        np.testing.assert_array_equal(result, (x if condition else -x).reshape(2, 3))


def test_before_the_first_run_the_error_names_the_inputs() -> None:
    with pytest.raises(SofieError, match="--set shape=VALUE"):
        _ = sofie.compile(model(RESHAPE)).inputs


def test_a_header_names_the_set_it_needs(tmp_path: Path) -> None:
    with pytest.raises(SofieError, match="'rows', 'columns'; give them with --set rows=VALUE --set columns=VALUE"):
        sofie.generate(model(COMPUTED), tmp_path)
    assert not list(tmp_path.iterdir())
    made = sofie.generate(model(COMPUTED), tmp_path, set={"rows": 2, "columns": 3})
    assert made.program.outputs[0].shape == (2, 3)


def test_run_binds_from_the_file(tmp_path: Path) -> None:
    onnx.save(model(RESHAPE), tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", x=np.arange(6, dtype=np.float32), shape=np.array([3, 2]))
    arguments = ["run", str(tmp_path / "m.onnx"), "--input", str(tmp_path / "in.npz"), "--output"]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "out.npz")])
    assert done.exit_code == 0, done.output
    assert np.load(tmp_path / "out.npz")["y"].shape == (3, 2)


def test_check_draws_no_shapes(tmp_path: Path) -> None:
    onnx.save(model(RESHAPE), tmp_path / "m.onnx")
    done = CliRunner().invoke(main, ["check", str(tmp_path / "m.onnx")])
    assert done.exit_code != 0
    assert "--set shape=VALUE" in done.output
    done = CliRunner().invoke(main, ["check", str(tmp_path / "m.onnx"), "--set", "shape=3,2"])
    assert done.exit_code == 0, done.output
