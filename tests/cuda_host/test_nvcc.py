"""What NVIDIA's compiler says of the emitted kernels, on a machine that has it; no card is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from sofie.block_tiles import PRECISIONS
from sofie.compiler import Options, generate
from tests import models
from tests.bench import dense
from tests.bench.models import MODELS, model
from tests.cuda_host.test_bytes import conv, matmul
from tests.numerics import rows
from tests.numerics.test_random import SMALL

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

ARCHITECTURES = ("sm_75", "sm_90", "sm_120")
KERNEL = re.compile(r"Compiling entry function '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads", re.DOTALL)


def compiled(
    folder: Path, protos: dict[str, onnx.ModelProto], architectures: Sequence[str], precision: str = "float32"
) -> dict[str, int]:
    """Bytes that each kernel of some models spills, by architecture and mangled name; fails on a warning."""
    includes = ""
    for name, proto in protos.items():
        path = folder / f"{name}.onnx"
        onnx.save(proto, path)
        made = generate(path, folder, Options(target="cuda", precision=precision), name)
        includes += f'#include "{made.header}"\n'
    (folder / "all.cu").write_text(includes)
    spilled: dict[str, int] = {}
    for architecture in architectures:
        command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-Xptxas", "-v", "-c", "all.cu", "-o", "all.o"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "warning" not in done.stderr, done.stderr[-2000:]
        for kernel, stores, loads in KERNEL.findall(done.stderr):
            spilled[f"{architecture} {kernel}"] = int(stores) + int(loads)
    assert spilled
    return spilled


def test_every_small_model_compiles(tmp_path: Path) -> None:
    """What g++ lets pass and nvcc does not: an exception specification, a built-in function that no device has."""
    protos = {name: make() for name, make in models.ALL.items()} | {"random": rows.model(SMALL)}
    compiled(tmp_path, protos, ("sm_90",))


@pytest.mark.parametrize("name", MODELS)
def test_no_kernel_of_the_suite_spills(tmp_path: Path, name: str) -> None:
    """A tile that wants more registers than a card has, an array that an index of the run keeps out of registers."""
    spilled = compiled(tmp_path, {name: model(name)}, ARCHITECTURES)
    assert not {kernel: size for kernel, size in spilled.items() if size}


def _product(rows: int, terms: int, columns: int) -> onnx.ModelProto:
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    return models.build([node], {"x": [rows, terms], "w": [terms, columns]}, {"y": [rows, columns]}, {})


@pytest.mark.parametrize("shape", [(4096, 4096, 4096), (1000, 300, 77), (128, 2048, 65)])
def test_no_product_spills(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """As above, for the largest tile with and without edges."""
    spilled = compiled(tmp_path, {"product": _product(*shape)}, ARCHITECTURES)
    assert not {kernel: size for kernel, size in spilled.items() if size}


@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_no_product_by_tensor_cores_spills(tmp_path: Path, precision: str) -> None:
    """The same with the words of two factors, and of what rounding leaves of them, in registers; several layers."""
    protos = {"product": _product(1024, 2048, 1024), "layers": dense.higgs_dense("higgs", batch=4096).model()}
    spilled = compiled(tmp_path, protos, ("sm_80", "sm_90"), precision)
    assert not {kernel: size for kernel, size in spilled.items() if size}


def test_no_product_of_bytes_spills(tmp_path: Path) -> None:
    """The same with sums of 32 bits, and with words of bytes that lie apart."""
    protos = {
        "bytes": matmul("u8", 2048, 1024, 2048),
        "channels": conv("s8", 64, 256, 3, pads=[1, 1, 1, 1]),
        "inputs": matmul("u8", 512, 256, 512, constant=False, zero=2),
    }
    spilled = compiled(tmp_path, protos, ARCHITECTURES)
    assert not {kernel: size for kernel, size in spilled.items() if size}


@pytest.mark.parametrize(("kind", "architectures"), [("FLOAT16", ARCHITECTURES), ("BFLOAT16", ("sm_90", "sm_120"))])
def test_no_product_of_codes_spills(tmp_path: Path, kind: str, architectures: Sequence[str]) -> None:
    """The same with codes of 16 bits; those of bfloat16 are exchanged by Turing's lanes, which takes many registers."""
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    kinds = dict.fromkeys("xwy", getattr(onnx.TensorProto, kind))
    proto = models.build([node], {"x": [2048, 1024], "w": [1024, 2048]}, ["y"], {}, kinds)
    spilled = compiled(tmp_path, {"codes": proto}, architectures)
    assert not {kernel: size for kernel, size in spilled.items() if size}


def test_two_files_of_a_program_may_include_a_model(tmp_path: Path) -> None:
    """A kernel that the linker finds twice."""
    node = onnx.helper.make_node("RandomUniformLike", ["x"], ["y"])
    onnx.save(models.build([node], {"x": [3]}, {"y": [3]}, {}), tmp_path / "m.onnx")
    generate(tmp_path / "m.onnx", tmp_path, Options(target="cuda"), "m")
    (tmp_path / "a.cu").write_text('#include "m.cuh"\nint main() { return 0; }\n')
    (tmp_path / "b.cu").write_text('#include "m.cuh"\n')
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "a.cu", "b.cu", "-o", "program"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr[-2000:]
