"""`sofie quantize`, `sofie.quantize` and the pass: one result, a table that is read, one sentence where it is wrong."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import sofie
from sofie import opt
from sofie.cli import main
from sofie.demo.events import roc_auc
from sofie.errors import SofieError
from tests import models
from tests.quantize.running import decibels, runtime

pytestmark = pytest.mark.usefixtures("needs_compiler")

LABELS = (models.normal(64, seed=5) > 0).astype(np.int64)
ROWS = models.normal(64, 7)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model, data with labels, and data of another shape."""
    monkeypatch.chdir(tmp_path)
    onnx.save(models.mlp("batch"), "mlp.onnx")
    np.savez("calib.npz", x=ROWS, labels=LABELS)
    np.savez("plain.npz", x=ROWS)
    np.savez("wide.npz", x=models.normal(9, 8))
    np.savez("empty.npz", x=models.normal(0, 7))
    np.savez("strange.npz", x=ROWS, z=ROWS)
    np.savez("nothing.npz", z=ROWS)
    np.savez("broken.npz", x=np.full((4, 7), np.nan, np.float32))
    np.savez("whole.npz", x=np.zeros((4, 7), np.complex64))
    np.savez("few.npz", x=ROWS, labels=LABELS[:9])


def quantize(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["quantize", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_writes_the_model_and_tells_what_it_costs() -> None:
    status, printed, errors = quantize(
        "mlp.onnx", "--data", "calib.npz", "-o", "int8.onnx", "--metric", "accuracy", "--calibrate", "mse"
    )
    assert (status, errors) == (0, "")
    made = onnx.load("int8.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert re.search(r"dense_1 +Gemm +int8 +\d\d\.\d dB", printed)
    assert re.search(r"dense_2 +Gemm +int8 +\d\d\.\d dB", printed)
    assert re.search(r"output +y: \d\d\.\d dB", printed)
    assert re.search(r"size +[\d.]+ k?B before, [\d.]+ k?B after", printed)
    exact, rounded = (runtime(m, {"x": ROWS})[0].argmax(axis=1) for m in (models.mlp("batch"), made))
    before, after = np.mean(exact == LABELS), np.mean(rounded == LABELS)
    assert f"accuracy  {before:.6f} before, {after:.6f} after, {before - after:+.6f} lost" in printed
    assert not list(Path().glob(".int8*"))


def test_function_pass_and_command_make_one_model() -> None:
    options = {"calibrate": "mse", "equalize": True, "leave": ("dense_2",), "activations": "int8"}
    made = sofie.quantize("mlp.onnx", "plain.npz", **options)
    words = ["--calibrate", "mse", "--equalize", "--leave", "dense_2", "--activations", "int8"]
    assert quantize("mlp.onnx", "--data", "plain.npz", "-o", "a.onnx", *words)[0] == 0
    spec = 'quantize{data="plain.npz" calibrate=mse equalize=true leave="dense_2" activations=int8}'
    opt.main(["mlp.onnx", "--dim", "batch=1..256", "-p", spec, "-t", "onnx", "-o", "b.onnx"])
    assert made.model == onnx.load("a.onnx") == onnx.load("b.onnx")


def test_the_pass_stands_before_the_others() -> None:
    """The compiled model is the one that is written: its integers are those of the runtime."""
    spec = 'quantize{data="plain.npz"},fuse,lower'
    ours = np.asarray(sofie.compile("mlp.onnx", dims={"batch": (1, 64)}, passes=spec)(ROWS))
    exact = runtime(models.mlp("batch"), {"x": ROWS})[0]
    written = runtime(sofie.quantize("mlp.onnx", "plain.npz").model, {"x": ROWS})[0]
    assert 25 < decibels(exact, ours) < 60
    assert decibels(written, ours) > decibels(exact, ours) + 10


def test_the_area_under_the_curve_is_reported() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], name="dense"), helper.make_node("Sigmoid", ["h"], ["y"])]
    model = models.build(nodes, {"x": ["batch", 7]}, ["y"], {"w": models.normal(7, 1, seed=2)})
    made = sofie.quantize(model, {"x": ROWS, "truth": LABELS}, metric="auc", labels="truth")
    assert made.metric is not None and made.metric.name == "auc"
    assert made.metric.before == pytest.approx(roc_auc(runtime(model, {"x": ROWS})[0], LABELS), abs=1e-3)
    assert made.metric.after == pytest.approx(roc_auc(runtime(made.model, {"x": ROWS})[0], LABELS), abs=5e-3)


def test_weights_alone_need_no_data() -> None:
    status, printed, _ = quantize("mlp.onnx", "-o", "w.onnx", "--activations", "none")
    assert status == 0 and re.search(r"dense_1 +Gemm +int8 +-", printed)
    assert quantize("mlp.onnx", "-o", "w4.onnx", "--activations", "none", "--weights", "int4", "--block", "32")[0] == 0
    assert {n.op_type for n in onnx.load("w4.onnx").graph.node} == {"DequantizeLinear", "Gemm", "Relu", "Softmax"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "activations=uint8 needs data: give arrays by the names of the inputs, or choose activations=none"),
        ("--activations none --snr 20", "snr=20 needs data"),
        ("--data gone.npz", "there is no file 'gone.npz'"),
        ("--data mlp.onnx", "'mlp.onnx' is no .npz"),
        ("--data wide.npz", r"input 'x' has shape (9, 8), the model takes (rows, 7)"),
        ("--data empty.npz", "the data have 0 row(s), and a run of the model takes 1: give more"),
        ("--data strange.npz", "the model has no input 'z'; its inputs are x"),
        ("--data nothing.npz", "the model has no input 'z'; its inputs are x"),
        ("--data broken.npz", "input 'x' is not finite on the calibration data"),
        ("--data whole.npz", "input 'x' is complex64, the model takes float32"),
        ("--data plain.npz --weights int5", "weights=int5: choose one of int8, int7, int4"),
        ("--data plain.npz --weights int4", "weights=int4 are for activations=none, not uint8: choose that, or int8"),
        ("--data plain.npz --activations int2", "activations=int2: choose one of uint8, int8, none"),
        ("--data plain.npz --calibrate best", "calibrate=best: choose one of minmax, percentile, entropy, mse"),
        ("--data plain.npz --percentile 40", "percentile=40: choose one above 50 and up to 100"),
        ("--data plain.npz --block 12", "block=12: choose a power of two, at least 16"),
        ("--data plain.npz --snr -3", "snr=-3: give decibels, as in 30, or 0 for no bound"),
        ("--data plain.npz --leave dense_9", "leave=dense_9: the model has no node of that name"),
        ("--data plain.npz --leave dense_1,dense_2", "nothing to quantise: leave= names every layer"),
        ("--data plain.npz --metric auc", "metric=auc needs the array 'labels' in the data"),
        ("--data plain.npz --metric f1", "metric=f1: choose one of auc, accuracy"),
        ("--data calib.npz --metric auc", "the metric auc needs one score a row, or two, and the output has 5"),
        ("--data few.npz --metric accuracy", "there are 9 labels for 64 rows of the first output: give as many"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_written(words: str, said: str) -> None:
    status, printed, errors = quantize("mlp.onnx", "-o", "out.onnx", *words.split())
    assert status == 1 and printed == "" and errors.count("\n") == 1 and "internal error" not in errors
    assert said in errors
    assert not Path("out.onnx").exists()


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(SofieError, match="nothing to quantise: no Conv, ConvTranspose, Gemm or MatMul has constant"):
        sofie.quantize(models.reductions(), {"x": models.normal(3, 4, 13)})


def test_inputs_of_different_lengths_are_refused() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"], name="m")]
    model = models.build(nodes, {"a": [1, 7], "b": [1, 7]}, ["y"], {"w": models.normal(7, 3)})
    with pytest.raises(SofieError, match="the inputs differ in their numbers of rows: 'a' has 8, 'b' has 9"):
        sofie.quantize(model, {"a": ROWS[:8], "b": ROWS[:9]})


def test_a_value_that_overflows_names_its_node() -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"], name="exponential")]
    nodes.append(helper.make_node("MatMul", ["e", "w"], ["y"], name="product"))
    model = models.build(nodes, {"x": [1, 7]}, ["y"], {"w": models.normal(7, 3)})
    with pytest.raises(SofieError, match=r"node 'exponential' \(Exp\): its result is not finite on the calibration"):
        sofie.quantize(model, {"x": 100 * np.abs(ROWS)})


def test_the_pass_says_what_is_wrong_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    cases = {"": "needs data", "{weights=int3}": "weights=int3", '{data="no.npz"}': "no file 'no.npz'"}
    for options, said in cases.items():
        with pytest.raises(SystemExit):
            opt.main(["mlp.onnx", "--dim", "batch=1", "-p", f"quantize{options}"])
        errors = capsys.readouterr().err
        assert said in errors and errors.count("\n") == 1


def test_a_file_that_cannot_be_written_is_one_sentence() -> None:
    status, _, errors = quantize("mlp.onnx", "--data", "plain.npz", "-o", "gone/out.onnx")
    assert status == 1 and "cannot be written" in errors and errors.count("\n") == 1


def test_bytes_and_protos_are_taken_and_kept() -> None:
    model = models.mlp("batch")
    held, buffer = model.SerializeToString(), io.BytesIO()
    onnx.save(model, buffer)
    made = [sofie.quantize(source, {"x": ROWS}).model for source in (model, buffer.getvalue())]
    assert made[0] == made[1]
    assert model.SerializeToString() == held
