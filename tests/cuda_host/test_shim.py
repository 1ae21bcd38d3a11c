"""The host emulation of CUDA itself: right kernels are right in every order, and a planted fault is found, by the build
that is there to find it."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from sofie.compiler import Options, compile_model
from sofie.emit.cuda import CudaProgram
from sofie.errors import SofieError
from tests import models
from tests.cuda_host.emulation import (
    ADDRESS,
    EMIT,
    HOST,
    MEMORY,
    PLAIN,
    THREAD,
    UCONTEXT,
    Build,
    compiled,
    emulated,
    run,
)

pytestmark = pytest.mark.usefixtures("needs_compiler")

KERNELS = HOST.with_name("kernels.cuh")
PROGRAMS = HOST.with_name("kernels.cxx")
BUILDS = {"plain": PLAIN, "address": ADDRESS, "thread": THREAD, "memory": MEMORY, "ucontext": UCONTEXT}

RIGHT = ("row_sum", "twice", "eights", "product", "matrices", "rounding", "shuffles", "atomics", "graph", "limits")

RACE = r"data race(.|\n)*kernels\.cuh:{line}\b"
BEYOND = r"AddressSanitizer: heap-buffer-overflow(.|\n)*kernels\.cuh:{line}\b"
UNDEFINED = "MemorySanitizer: use-of-uninitialized-value"
NUMBERS = r"kernels\.cxx:\d+ does not hold"
STUCK = r"kernel \S*row_sum<.*>, block \(\d,0,0\): not every thread reaches .*; 224 of 256 wait at line {line}\b"

FAULTS = [
    ("no_barrier", "plain", 1, NUMBERS),
    ("no_barrier", "thread", 0, RACE),
    ("no_ring_barrier", "plain", 0, NUMBERS),
    ("no_ring_barrier", "thread", 0, RACE),
    ("lax_wait", "plain", 0, NUMBERS),
    ("lax_wait", "memory", 0, UNDEFINED),
    ("shared_index", "plain", 0, NUMBERS),
    ("shared_index", "address", 0, BEYOND),
    ("unwritten", "plain", 0, NUMBERS),
    ("unwritten", "memory", 0, UNDEFINED),
    ("few_blocks", "plain", 0, NUMBERS),
    ("few_blocks", "memory", 0, UNDEFINED),
    ("global_read", "address", 0, BEYOND),
    ("global_write", "address", 0, BEYOND),
    ("register_index", "address", 0, r"kernels\.cuh:{line}\b.*: runtime error: index 8 out of bounds"),
    ("blocks_race", "thread", 0, RACE),
    ("other_line", "plain", 0, r"thread \(5,0,0\), line {line}: threads wait at different lines"),
    *(("early_return", build, seed, STUCK) for seed, build in enumerate(BUILDS)),
]
"""Fault, build, seed and what is said; {line} is where kernels.cuh has the fault."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory):
    """The program of kernels.cxx by build, compiled when it is first asked for."""

    @cache
    def program(build: Build) -> Path:
        return compiled(tmp_path_factory.mktemp("program"), PROGRAMS.read_text(), build)

    return program


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("build", BUILDS)
def test_right_kernels(programs, build: str, seed: int) -> None:
    """A barrier, shuffle, copy, product of matrices or graph that does something else here than on a device, a launch
    that a device would refuse, and a sanitizer's false alarm.
    """
    done = run(programs(BUILDS[build]), RIGHT, seed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("fault", "build", "seed", "says"), FAULTS, ids=[f"{f[0]}-{f[1]}" for f in FAULTS])
def test_planted_fault(programs, fault: str, build: str, seed: int, says: str) -> None:
    """A fault that no build sees any more, or sees without its line."""
    line = next((k for k, text in enumerate(KERNELS.read_text().split("\n"), 1) if f"fault: {fault}" in text), 0)
    done = run(programs(BUILDS[build]), [fault], seed)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert re.search(says.replace("{line}", str(line)), said), said[:3000]


def test_order_follows_from_the_seed(programs) -> None:
    """Seeds that all give one order of blocks or threads; the same seed that gives two."""
    orders = {}
    for seed in range(5):
        first, second = (run(programs(PLAIN), ["order"], seed).stdout for _ in range(2))
        assert first == second
        orders[seed] = [int(thread) for thread in first.split()]
        assert sorted(orders[seed]) == list(range(96))
    assert orders[0] == sorted(orders[0])
    assert len(set(map(tuple, orders.values()))) == 5
    assert len({tuple(thread // 32 for thread in order[::32]) for order in orders.values()}) > 1


def test_fault_of_an_emulated_model_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that hangs, and takes the test run with it."""
    core = CudaProgram.core

    def broken(self: CudaProgram, profile: bool = False) -> str:
        return core(self, profile).replace("+ threadIdx.x;", "+ threadIdx.x;\nif (threadIdx.x == 0) __syncthreads();")

    monkeypatch.setattr(CudaProgram, "core", broken)
    model = models.mlp()
    with emulated():
        made = compile_model(model, Options(target="cuda", without=["merge-launches"]))
        for _ in range(2):
            with pytest.raises(SofieError, match=r"kernel kernels::\S+, block \(0,0,0\): not every thread reaches"):
                made.run(models.feeds(model))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_nvcc_takes_the_same_text(tmp_path: Path) -> None:
    """A name that only the emulation has, PTX that a device has not; shared memory through generic loads, which are
    slower.
    """
    command = ["nvcc", "-std=c++17", f"-I{EMIT}", f"-I{HOST.parent}", "-x", "cu", str(PROGRAMS)]
    targets = [f"-gencode=arch=compute_{k},code=sm_{k}" for k in (75, 80, 90)]
    for asked in (["-fatbin", *targets, "-o", "all.fatbin"], ["-ptx", "-arch=sm_80", "-o", "all.ptx"]):
        done = subprocess.run([*command, *asked], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert not done.stderr.strip(), done.stderr[-2000:]
    accesses = re.findall(r"^\s+((?:ld|st)\.[\w.]+)", (tmp_path / "all.ptx").read_text(), re.MULTILINE)
    assert {"ld.shared.f32", "st.shared.f32"} <= set(accesses)
    assert not [access for access in accesses if re.match(r"(ld|st)\.(v[24]\.)?[bfsu]\d+$", access)]
