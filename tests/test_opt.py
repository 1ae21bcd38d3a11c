"""`sofie-opt`: models and modules in, any level out, weights beside the text, one sentence on errors."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp, i32
from xdsl.parser import Parser

from sofie import jit, levels, pipeline, weight_file
from sofie.compiler import Model, Options, lower
from sofie.dialects.sofie import active_weights
from sofie.opt import blobs_of, main
from sofie.passes.fold_reshape import FoldReshape
from sofie.weights import WeightStore
from tests import models

Opt = Callable[..., str]
Fails = Callable[..., str]


@pytest.fixture(autouse=True)
def in_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(models.mlp("batch"), "mlp.onnx")
    Path("plain.mlir").write_text(
        "func.func @f(%x: i32) -> i32 {\n  %y = arith.addi %x, %x : i32\n  return %x : i32\n}\n"
    )


@pytest.fixture
def opt(capsys: pytest.CaptureFixture[str]) -> Opt:
    """Runs sofie-opt and returns what it prints."""

    def run(*words: object) -> str:
        main([str(word) for word in words])
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs sofie-opt, which must fail with one sentence; returns it."""

    def run(*words: object, status: int = 1) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert stopped.value.code == status
        assert captured.out == "" and captured.err.count("\n") == 1 and "Traceback" not in captured.err, captured.err
        assert "internal error" not in captured.err
        return captured.err

    return run


MLP = ("mlp.onnx", "--dim", "batch=3")


# -- levels and passes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", levels.LEVELS)
def test_every_level_can_be_printed_and_obeys_its_law(opt: Opt, level: str) -> None:
    module = Parser(pipeline.context(), opt(*MLP, "--stop-after", level)).parse_module()
    module.verify()
    levels.check(module, level)


def test_a_model_is_printed_as_read_without_passes(opt: Opt) -> None:
    assert "onnx.Softmax" in opt(*MLP)


@pytest.mark.parametrize("option", ["--pipeline=fuse,lower", "--passes=fuse,lower", "-pfuse,lower"])
def test_the_pipeline_has_three_spellings(opt: Opt, option: str) -> None:
    levels.check(Parser(pipeline.context(), opt(*MLP, option)).parse_module(), "loop")


def test_options_reach_the_pass_of_a_group_that_declares_them(opt: Opt) -> None:
    assert opt(*MLP, "-p", "fuse,lower{cpu=scalar}").count("vector.") == 0
    assert opt(*MLP, "-p", "fuse,lower{cpu=x86-64-v3}").count("vector<8xf32>") > 0
    assert opt(*MLP, "-p", "fuse{max-ops=1}").count("linalg.generic") > opt(*MLP, "-p", "fuse").count("linalg.generic")


def test_xdsls_own_passes_and_dialects_are_there(opt: Opt) -> None:
    assert "arith.addi" in opt("plain.mlir")
    assert "arith.addi" not in opt("plain.mlir", "-p", "dce")


def test_standard_input(opt: Opt, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ((), ("-",)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("plain.mlir").read_bytes())))
        assert "func.func @f" in opt(*words)


def test_chunks_are_processed_one_by_one(opt: Opt) -> None:
    text = Path("plain.mlir").read_text()
    Path("two.mlir").write_text(f"{text}// -----\n{text}")
    assert opt("two.mlir", "--split-input-file").count("builtin.module") == 2


def test_expected_errors_are_output(opt: Opt) -> None:
    good = "func.func @g() {\n  return\n}\n"
    Path("bad.mlir").write_text(f"{good}// -----\nnonsense\n\n// -----\n{good}")
    printed = opt("bad.mlir", "--split-input-file", "--parsing-diagnostics")
    assert "bad.mlir:7:1" in printed and printed.count("@g") == 2
    Path("unverified.mlir").write_text("func.func @f() -> i32 {\n  return\n}\n")
    printed = opt("unverified.mlir", "--verify-diagnostics")
    assert "does not verify" in printed and "builtin.module" not in printed


def test_reports_go_where_they_do_not_disturb(capsys: pytest.CaptureFixture[str]) -> None:
    main([*MLP, "-p", "fuse", "--time-passes"])
    plain, table = capsys.readouterr()
    assert plain.startswith("builtin.module") and re.search(r"lower-onnx +[\d.]+ +\d+ %", table)
    main([*MLP, "-p", "fold-reshape,dce", "--print-between-passes"])
    printed = capsys.readouterr().out
    assert printed.startswith("IR after fold-reshape:\nbuiltin.module") and "IR after dce" not in printed


def test_verify_each_names_the_pass_that_broke_the_module(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(self: object, ctx: object, op: ModuleOp) -> None:
        for function in op.walk():
            if isinstance(function, func.FuncOp):
                function.body.block.insert_arg(i32, 0)

    monkeypatch.setattr(FoldReshape, "apply", apply)
    assert "after fold-reshape" in fails("plain.mlir", "-p", "fold-reshape,dce", "--verify-each")
    assert "at the end" in fails("plain.mlir", "-p", "fold-reshape,dce")


# -- weights beside the text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.ALL)
@pytest.mark.parametrize("passes", ["", "fuse", "fuse,lower"])
def test_text_and_weights_come_back_exactly(opt: Opt, name: str, passes: str) -> None:
    onnx.save(models.ALL[name](), "model.onnx")
    assert opt("model.onnx", "-p", passes, "-o", "a.mlir") == ""
    assert opt("a.mlir", "-o", "b.mlir") == ""
    assert Path("a.mlir").read_text() == Path("b.mlir").read_text()
    sides = [Path(f"{stem}.mlir.weights") for stem in "ab"]
    assert sides[0].exists() == sides[1].exists()
    assert not sides[0].exists() or sides[0].read_bytes() == sides[1].read_bytes()


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("passes", ["fold-constants", "fuse"])
def test_what_is_read_back_compiles_and_runs(opt: Opt, passes: str) -> None:
    opt(*MLP, "-p", passes, "-o", "a.mlir")
    token = active_weights.set(WeightStore.from_arrays(weight_file.read("a.mlir.weights")))
    try:
        module = Parser(pipeline.context(), Path("a.mlir").read_text()).parse_module()
    finally:
        active_weights.reset(token)
    x = models.normal(3, 7)
    (expected,) = ReferenceEvaluator(onnx.load("mlp.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(Model(jit.compile_program(lower(module, "a", Options())))(x), expected, rtol=1e-5)


def test_weights_elsewhere_are_named_by_an_option(opt: Opt, fails: Fails) -> None:
    opt(*MLP, "-o", "a.mlir")
    Path("a.mlir.weights").rename("elsewhere")
    assert "--weights FILE" in fails("a.mlir", "-p", "fuse,lower")
    assert "memref" in opt("a.mlir", "-p", "fuse,lower", "--weights", "elsewhere")
    assert "cannot be read" in fails("a.mlir", "--weights", "nowhere")


def test_damaged_weights_are_found(opt: Opt, fails: Fails) -> None:
    opt(*MLP, "-o", "a.mlir")
    side = Path("a.mlir.weights")
    content = bytearray(side.read_bytes())
    content[-5] ^= 1
    side.write_bytes(content)
    assert "corrupt" in fails("a.mlir")


def test_what_another_text_needs_is_not_written(opt: Opt) -> None:
    opt("plain.mlir", "-o", "a.mlir")
    assert not Path("a.mlir.weights").exists()


def test_blobs_are_listed_once_an_op(opt: Opt) -> None:
    module = Parser(pipeline.context(), opt(*MLP)).parse_module()
    assert len(blobs_of(module)) == 4


# -- targets -----------------------------------------------------------------------------------------------------------


def test_cpp_learns_name_and_cpu(opt: Opt) -> None:
    header = opt(*MLP, "-p", "fuse,lower{cpu=x86-64-v3}", "-t", "cpp")
    assert "namespace SOFIE_mlp {" in header and "#define SOFIE_LANES 8" in header
    assert "namespace SOFIE_net {" in opt(*MLP, "-p", "fuse,lower", "-t", "cpp{model=net}")


def test_cpp_above_the_loop_level_is_refused(fails: Fails) -> None:
    assert "--pipeline=fuse,lower" in fails(*MLP, "-t", "cpp")
    assert "--pipeline=fuse,lower" in fails(*MLP, "-p", "fuse", "-t", "cpp")


def test_upstream_text(opt: Opt, fails: Fails) -> None:
    text = opt(*MLP, "-p", "fuse", "-t", "upstream-mlir")
    assert text.startswith("// @infer takes") and "sofie." not in text
    assert "--pipeline=fuse" in fails(*MLP, "-t", "upstream-mlir")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nope.onnx"], "no file 'nope.onnx'|'nope.onnx': No such file"),
        (["nope.mlir"], "'nope.mlir': No such file"),
        (["mlp.onnx"], "--dim batch=N"),
        ([*MLP, "-p", "nope"], "no pass 'nope'"),
        ([*MLP, "-p", "fuse{"], "cannot be read"),
        ([*MLP, "-t", "cpp{"], "cannot be read"),
        ([*MLP, "-p", "fuse{nope=1}"], "no pass of 'fuse' has an option 'nope'"),
        ([*MLP, "-p", "fuse", "--stop-after", "buffer"], "no pass of 'fuse' completes that level"),
        ([*MLP, "-p", "fuse,lower", "-o", "no/out.mlir"], "no/out.mlir"),
        ([*MLP, "-p", "fuse,lower", "-t", "cpp{cpu=z80}"], "z80"),
        ([*MLP, "-p", "fuse,lower", "-t", "cpp{nope=1}"], "nope"),
    ],
)
def test_errors_are_one_sentence(fails: Fails, words: list[str], sentence: str) -> None:
    assert re.search(sentence, fails(*words))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*MLP, "-t", "nope"], "invalid choice: 'nope'"),
        ([*MLP, "--stop-after", "nope"], "invalid choice: 'nope'"),
        ([*MLP, "--nope"], "--nope"),
        (["mlp.onnx", "--dim", "batch"], "as in --dim batch=1"),
    ],
)
def test_misuse_is_one_sentence_with_status_2(fails: Fails, words: list[str], sentence: str) -> None:
    assert sentence in fails(*words, status=2)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"func.func @f() {\n  nonsense\n}\n", "text.mlir:3:1: "),
        (b'%0 = "acme.op"() : () -> i32', "acme.op is not registered"),
        (b"\xff\xfe", "no text"),
        (b"func.func @f() -> i32 {\n  return\n}", "verify|type"),
        (b'%0 = sofie.weight "w" <"12"> : i32', "text.mlir: Unexpected attribute i32"),
    ],
)
def test_a_text_that_is_wrong(fails: Fails, content: bytes, sentence: str) -> None:
    Path("text.mlir").write_bytes(content)
    assert re.search(sentence, fails("text.mlir"))


def test_a_file_of_another_kind(fails: Fails) -> None:
    Path("model.cfg").write_text("")
    assert "say with -f" in fails("model.cfg")
    Path("broken.onnx").write_bytes(b"\xff\xfe")
    assert "cannot be read as an ONNX model" in fails("broken.onnx")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["mlp.onnx", "--debug"])
    error = capsys.readouterr().err
    assert "Traceback" in error and "--dim batch=N" in error.splitlines()[-1]


def test_a_failure_leaves_the_old_file_and_no_scraps(opt: Opt, fails: Fails, tmp_path: Path) -> None:
    opt(*MLP, "-o", "out.mlir")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    fails(*MLP, "-p", "fuse", "-t", "cpp", "-o", "out.mlir")
    fails("nope.mlir", "-o", "out.mlir")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
