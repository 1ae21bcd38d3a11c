"""`sofie info`: the table people read, the JSON programs read, and models that cannot be compiled."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from sofie.cli import main
from sofie.cli.info import count, grouped
from sofie.info import Report, Unsupported
from tests import models
from tests.cli.conftest import Fails, Invoke


def test_a_model_is_described(invoke: Invoke, mlp: Path) -> None:
    result = invoke("info", mlp, "--dim", "batch=3")
    assert result.exit_code == 0 and result.stderr == ""
    for text in ("float32[3, 7] x", "float32[3, 5] y", "1.65 kFLOP", "265 in 1.1 kB", "Gemm", "3 kernels"):
        assert text in result.stdout, text
    assert "unsupported" not in result.stdout


def test_json_is_the_report_and_nothing_else(invoke: Invoke, mlp: Path) -> None:
    result = invoke("info", mlp, "--dim", "batch=3", "--json")
    report = json.loads(result.stdout)
    assert list(report) == [f.name for f in fields(Report)]
    assert report["inputs"] == [{"name": "x", "type": "float32", "shape": [3, 7]}]
    assert report["flops"] == 1650 and report["error"] is None
    assert result.stderr == ""


def test_free_dimensions_need_no_size_to_be_shown(invoke: Invoke, mlp: Path) -> None:
    result = invoke("info", mlp)
    assert result.exit_code == 0
    assert "float32[batch, 7] x" in result.stdout and "--dim batch=N" in result.stdout


def test_models_that_cannot_be_compiled_are_described(invoke: Invoke, unknown: Path, unsupported: Path) -> None:
    result = invoke("info", unknown)
    assert result.exit_code == 0
    assert "acme.Mystery riddle: operator acme.Mystery is not known" in result.stdout
    result = invoke("info", unsupported)
    assert result.exit_code == 0
    assert "string[2] x" in result.stdout and "StringSplit splitter: there is no lowering" in result.stdout
    assert json.loads(invoke("info", unsupported, "--json").stdout)["unsupported"][0]["node"] == "x"


def test_nodes_that_fail_alike_share_a_line() -> None:
    places = [Unsupported(f"n{k}", "Det", "why") for k in range(5)] + [Unsupported("x", "", "text")]
    assert list(grouped(places)) == ["input x: text", "Det n0, n1, n2 and 2 more: why"]


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_names_from_the_model_cannot_write_to_the_terminal(words: list[str]) -> None:
    rude = "\x1b[2J[bold]"
    nodes = [
        onnx.helper.make_node("Relu", ["a" + rude], ["b" + rude], name="n" + rude),
        onnx.helper.make_node("Odd" + rude, ["b" + rude], ["c" + rude], name="o" + rude, domain="d" + rude),
    ]
    model = models.build(nodes, {"a" + rude: [3, "k" + rude]}, ["c" + rude], {})
    model.opset_import.append(onnx.helper.make_opsetid("d" + rude, 1))
    onnx.save(model, "rude.onnx")
    result = CliRunner().invoke(main, ["info", "rude.onnx", *words], color=True)
    assert result.exit_code == 0 and "\x1b" not in result.output and "[bold]" in result.output


def test_files_that_cannot_be_read(fails: Fails) -> None:
    assert "no file 'nope.onnx'" in fails("info", "nope.onnx")
    Path("model.onnx").write_bytes(b"\xff\xfeno model")
    for words in ([], ["--json"]):
        assert "cannot be read as an ONNX model" in fails("info", "model.onnx", *words)


def test_options_that_fit_nothing(fails: Fails, mlp: Path) -> None:
    assert "no free dimension" in fails("info", mlp, "--dim", "other=3")
    assert "no input of that name" in fails("info", mlp, "--set", "other=3")
    assert "as in --dim batch=1" in fails("info", mlp, "--dim", "batch", status=2)


def test_large_numbers_are_short() -> None:
    assert [count(n) for n in (0, 999, 1000, 45_200, 999_999, 3_633_040_360)] == [
        *("0 ", "999 ", "1 k", "45.2 k", "1 M", "3.63 G")
    ]
