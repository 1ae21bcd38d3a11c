"""`sofie compile`: what it writes, what it says about it, and how it fails."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from sofie import jit
from sofie.cli import main
from tests import models
from tests.cli.conftest import Fails, Invoke


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_header_and_weights_are_written_and_described(invoke: Invoke, mlp: Path, tmp_path: Path) -> None:
    result = invoke("compile", mlp, "-o", "out", "--dim", "batch=2")
    assert result.exit_code == 0, result.stderr
    assert files(tmp_path / "out") == ["mlp.dat", "mlp.hxx"]
    assert "float32[2, 7] x" in result.stdout and "float32[2, 5] y" in result.stdout
    assert re.search(r"out/mlp.hxx  [\d.]+ kB", result.stdout)
    assert result.stderr == ""


def test_embedded_weights_need_no_second_file(invoke: Invoke, mlp: Path, tmp_path: Path) -> None:
    result = invoke("compile", mlp, "-o", "out", "--dim", "batch=1", "--weights", "embed", "--name", "net")
    assert files(tmp_path / "out") == ["net.hxx"]
    assert "SOFIE_net::Session session;" in result.stdout


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("make", [models.mlp, models.convnet])
def test_the_lines_it_shows_compile(invoke: Invoke, tmp_path: Path, make: type[onnx.ModelProto]) -> None:
    model = make()
    onnx.save(model, "model.onnx")
    result = invoke("compile", "model.onnx", "-o", "out", "--cpu", "portable")
    include, session, call = usage(result)
    arguments = "".join(f"const float *{v.name} = nullptr;" for v in model.graph.input)
    source = tmp_path / "out" / "main.cpp"
    source.write_text(f"{include}\nint main() {{ {arguments} {session} {call} }}\n")
    command = [*jit.compiler(), "-std=c++17", "-fsyntax-only", "-Wall", "-Wno-unused-variable", "-Werror", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def usage(result: Result) -> list[str]:
    return [line.strip() for line in result.stdout.splitlines()[-3:]]


def test_sizes_come_by_input_and_axis_too(invoke: Invoke, mlp: Path) -> None:
    assert "float32[4, 7] x" in invoke("compile", mlp, "-o", "out", "--dim", "x:0=4").stdout


def test_an_input_that_is_set_is_no_input(invoke: Invoke, tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Mul", ["x", "scale"], ["y"])]
    onnx.save(models.build(nodes, {"x": [3], "scale": [3]}, ["y"], {}), "scaled.onnx")
    result = invoke("compile", "scaled.onnx", "-o", "out", "--set", "scale=1,2.5,-3")
    assert usage(result)[-1] == "auto y = session.infer(x);"
    assert " scale\n" not in result.stdout and "float32[3] x\n" in result.stdout


def test_names_from_the_model_cannot_write_to_the_terminal() -> None:
    nodes = [onnx.helper.make_node("Relu", ["a\x1b[2J"], ["[bold]b"])]
    onnx.save(models.build(nodes, {"a\x1b[2J": [3]}, ["[bold]b"], {}), "rude.onnx")
    output = CliRunner().invoke(main, ["compile", "rude.onnx", "-o", "out"], color=True).output
    assert "\x1b" not in output and "[bold]b" in output


def test_missing_model(fails: Fails, tmp_path: Path) -> None:
    assert "no file 'nope.onnx'" in fails("compile", "nope.onnx", "-o", "out")
    assert not (tmp_path / "out").exists()


def test_file_that_is_no_model(fails: Fails) -> None:
    Path("model.onnx").write_bytes(b"\xff\xfeno model")
    assert "cannot be read as an ONNX model" in fails("compile", "model.onnx", "-o", "out")


def test_unbound_dimension_names_the_option(fails: Fails, mlp: Path) -> None:
    assert "--dim batch=N" in fails("compile", mlp, "-o", "out")


def test_unsupported_operator_names_the_node(fails: Fails, unknown: Path, tmp_path: Path) -> None:
    assert "node 'riddle': operator acme.Mystery" in fails("compile", unknown, "-o", "out")
    assert not (tmp_path / "out").exists()


def test_unsupported_type_is_named(fails: Fails, unsupported: Path) -> None:
    assert "STRING" in fails("compile", unsupported, "-o", "out")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--pipeline", "fuse,nope"], "no pass 'nope'"),
        (["--pipeline", "fuse{"], "the pipeline 'fuse{' cannot be read"),
        (["--pipeline", "fuse{nope=1}"], "no pass of 'fuse' has an option 'nope'"),
        (["--without", "lower-onnx"], "cannot be left out"),
        (["--dim", "other=3"], "no free dimension"),
        (["--set", "nope=3"], "no input of that name"),
        (["-o", "/dev/null/out"], "/dev/null/out"),
    ],
)
def test_wrong_values_are_one_sentence(fails: Fails, mlp: Path, words: list[str], sentence: str) -> None:
    assert sentence in fails("compile", mlp, "-o", "out", "--dim", "batch=1", *words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dim", "batch"], "as in --dim batch=1"),
        (["--dim", "batch=many"], "whole number"),
        (["--dim", "batch=1", "--dim", "batch=2"], "given twice"),
        (["--set", "x=1,a"], "no number, true or false"),
        (["--cpu", "z80"], "'z80' is not one of"),
        (["--weights", "nowhere"], "'nowhere' is not one of"),
        (["--nope"], "--nope"),
    ],
)
def test_misuse_is_one_sentence_with_status_2(fails: Fails, mlp: Path, words: list[str], sentence: str) -> None:
    assert sentence in fails("compile", mlp, "-o", "out", *words, status=2)


def test_debug_shows_the_traceback(invoke: Invoke, mlp: Path) -> None:
    for words in (["compile", mlp, "-o", "out", "--debug"], ["--debug", "compile", mlp, "-o", "out"]):
        result = invoke(*words)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr and "--dim batch=N" in result.stderr.splitlines()[-1]


def test_a_bug_is_called_one(invoke: Invoke, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("lost\nthing")

    monkeypatch.setattr("sofie.compiler.lower", broken)
    result = invoke("compile", mlp, "-o", "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("sofie: internal error (KeyError") and result.stderr.count("\n") == 1


def test_a_full_disk_leaves_the_old_header_and_no_scraps(
    invoke: Invoke, fails: Fails, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("compile", mlp, "-o", "out", "--dim", "batch=1").exit_code == 0
    before = (tmp_path / "out" / "mlp.hxx").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert "No space left" in fails("compile", mlp, "-o", "out", "--dim", "batch=2")
    assert files(tmp_path / "out") == ["mlp.dat", "mlp.hxx"]
    assert (tmp_path / "out" / "mlp.hxx").read_bytes() == before


@pytest.mark.usefixtures("needs_compiler")
def test_several_models_share_a_header(invoke: Invoke, tmp_path: Path) -> None:
    onnx.save(models.mlp(), "a.onnx")
    onnx.save(models.convnet(), "b.onnx")
    (tmp_path / "other").mkdir()
    onnx.save(models.mlp(), "other/a.onnx")
    result = invoke("compile", "a.onnx", "b.onnx", "other/a.onnx", "-o", "out", "--name", "nets")
    assert files(tmp_path / "out") == ["a.dat", "a_1.dat", "b.dat", "nets.hxx"]
    assert all(f"SOFIE_{n}::Session session" in result.stdout for n in ("a", "b", "a_1"))
    source = tmp_path / "out" / "main.cpp"
    source.write_text(
        '#include "nets.hxx"\n'
        'int main() { SOFIE_a::Session a; SOFIE_b::Session b; TMVA_SOFIE_a_1::Session c("a_1.dat"); }\n'
    )
    command = [*jit.compiler(), "-std=c++17", "-Wall", "-Wextra", "-Wshadow", "-Werror", "main.cpp", "-o", "main"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=source.parent)
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["./main"], cwd=source.parent).returncode == 0


CMAKE_PROJECT = """cmake_minimum_required(VERSION 3.16)
project(app CXX)
include(out/mlp.cmake)
add_executable(app main.cpp)
target_link_libraries(app PRIVATE sofie::mlp)
target_compile_definitions(app PRIVATE WEIGHTS="${SOFIE_mlp_WEIGHTS}")
"""


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_the_cmake_target_builds(invoke: Invoke, mlp: Path, tmp_path: Path) -> None:
    assert "out/mlp.cmake" in invoke("compile", mlp, "-o", "out", "--dim", "batch=1..4", "--cmake").stdout
    (tmp_path / "CMakeLists.txt").write_text(CMAKE_PROJECT)
    (tmp_path / "main.cpp").write_text(
        '#include "mlp.hxx"\n'
        "int main() { SOFIE_mlp::Session s(WEIGHTS); const float x[14] = {}; return s.infer(2, x).size() != 10; }\n"
    )
    for command in (["cmake", "-S", ".", "-B", "build"], ["cmake", "--build", "build"], ["build/app"]):
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "arch", "header", "command"),
    [
        ("cuda", "sm_90a", "mlp.cuh", "nvcc -std=c++17 -O3 -arch=sm_90a"),
        ("cuda", None, "mlp.cuh", "nvcc -std=c++17 -O3 -arch=native"),
        ("hip", "gfx90a", "mlp.hip.hxx", "hipcc -std=c++17 -O3 --offload-arch=gfx90a"),
    ],
)
def test_a_card_is_named_in_the_header_and_to_its_compiler(
    invoke: Invoke, mlp: Path, tmp_path: Path, target: str, arch: str | None, header: str, command: str
) -> None:
    """A header that nobody knows how to compile; an architecture that is dropped."""
    card = ["--arch", arch] if arch else []
    result = invoke("compile", mlp, "-o", "out", "--dim", "batch=2", "--target", target, *card)
    assert result.exit_code == 0, result.stderr
    assert files(tmp_path / "out") == sorted(["mlp.dat", header])
    assert f"\n// Compile with {command}\n" in (tmp_path / "out" / header).read_text()
    assert result.stdout.splitlines()[-1].strip().startswith(f"{command} main.")
    assert f'#include "{header}"' in result.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--target", "cuda", "--arch", "90"],
            "--arch 90: write the architecture of a GPU as in --arch sm_90 or sm_90a",
        ),
        (["--target", "cuda", "--arch", "sm_90 -G"], "--arch sm_90 -G: write"),
        (["--target", "hip", "--arch", "sm_90"], "--arch sm_90: write the architecture of a GPU as in --arch gfx90a"),
        (["--arch", "sm_90"], "--arch is for GPUs"),
        (["--precision", "tf32"], "--precision tf32 is for GPUs; leave it out with --target cpu"),
        (["--target", "hip", "--threads", "2"], "--threads is for CPUs; leave it out with --target hip"),
        (["--target", "hip", "--cmake"], "--cmake is for CPUs; leave it out with --target hip"),
        (["--target", "hip", "--tune", "1s"], "--tune is for CPUs; leave it out with --target hip"),
    ],
)
def test_what_no_card_is(fails: Fails, mlp: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    """Words that reach a shell by the command in the comment; an option that is ignored."""
    assert sentence in fails("compile", mlp, "-o", "out", "--dim", "batch=2", *words)
    assert not (tmp_path / "out").exists()
