"""`sofie bench`: a time that is not one, a ratio the wrong way round, a failure in more than a sentence."""

from __future__ import annotations

import json
import sys

import onnx
import pytest

from sofie.cli.bench import microseconds
from tests import models

pytestmark = pytest.mark.usefixtures("needs_compiler")


def test_the_report_has_times_ratio_floor_and_kernels(invoke, mlp):
    words = ("bench", mlp, "--dim", "batch=4", "--vs", "onnxruntime", "--profile", "--rounds", "2", "--json")
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["us"].keys() == {"sofie", "onnxruntime"}
    assert report["us"]["sofie"] > report["floor_us"] > 0
    assert report["ratio"] == pytest.approx(report["us"]["sofie"] / report["us"]["onnxruntime"], rel=0.5)
    assert [k["calls"] for k in report["kernels"]] == [1.0] * len(report["kernels"])
    assert all(k["us"] > 0 for k in report["kernels"])


def test_sizes_of_the_run_are_timed_at_their_largest(invoke, mlp):
    result = invoke("bench", mlp, "--dim", "batch=1..8", "--vs", "onnxruntime", "--rounds", "1", "--profile")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["model", "mlp,", "batch=8"]
    assert [line.split()[0] for line in lines[:6]] == "model sofie onnxruntime ratio floor distance".split()
    assert "kernel" in result.stdout and "Gemm" in result.stdout


def test_a_set_input_is_a_constant_for_both(invoke, tmp_path):
    nodes = [onnx.helper.make_node("Mul", ["x", "factor"], ["y"])]
    onnx.save(models.build(nodes, {"x": [64], "factor": []}, ["y"], {}), tmp_path / "scaled.onnx")
    result = invoke("bench", tmp_path / "scaled.onnx", "--set", "factor=2", "--vs", "onnxruntime", "--rounds", "1")
    assert result.exit_code == 0, result.output


def test_without_onnxruntime_it_says_how_to_get_it(fails, mlp, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("sofie.bench.systems.importlib.util.find_spec", lambda name: None)
    words = ("bench", mlp, "--dim", "batch=1", "--vs", "onnxruntime", "--rounds", "1")
    assert "pip install onnxruntime" in fails(*words)


def test_a_result_whose_size_the_run_finds_is_refused(fails, tmp_path):
    nodes = [onnx.helper.make_node("NonZero", ["x"], ["y"])]
    model = models.build(nodes, {"x": [6]}, ["y"], {}, {"y": onnx.TensorProto.INT64})
    onnx.save(model, tmp_path / "found.onnx")
    assert "only the run finds" in fails("bench", tmp_path / "found.onnx")


def test_an_unsupported_model_fails_as_in_compile(fails, unsupported):
    assert fails("bench", unsupported) == fails("compile", unsupported, "-o", "out")


def test_microseconds_have_three_digits():
    assert [microseconds(us) for us in (0.3364, 42.19, 12345.6)] == ["0.336 us", "42.2 us", "12,346 us"]
