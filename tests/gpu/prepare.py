"""Builds, on a machine without a GPU, the folder that the card's machine runs: only its driver is needed there."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from sofie.compiler import Options, lower
from sofie.cuda_jit import nvcc
from sofie.emit.cuda import CudaProgram
from sofie.errors import SofieError
from sofie.info import info
from tests.gpu import graph, truth
from tests.gpu.program import HARNESS, unit
from tests.gpu.workloads import WORKLOADS

ALONE = ("run.py", "peers.py")
"""What runs in the folder without this repository."""
FLAGS = ("-std=c++17", "-O3", "-cudart", "static", "-Xcompiler", "-static-libstdc++,-static-libgcc")
"""The card's machine may have other libraries of C++ and of CUDA than this one."""
MEGABYTES = 60
"""The most that a folder may hold."""


@dataclass(frozen=True)
class Known:
    """What is known of a model before it runs. flops: floating-point operations. moved: bytes of weights, inputs and
    outputs. launches: kernels that a call launches. graph: whether they are a CUDA graph.
    """

    flops: int
    moved: int
    launches: int
    graph: bool


def prepare(folder: Path, arch: str, names: Sequence[str]) -> None:
    """Makes the folder. Raises SofieError where there is no nvcc, or it has something to say."""
    compiler = nvcc().command
    scratch = folder / "build"
    shutil.rmtree(folder, ignore_errors=True)
    scratch.mkdir(parents=True)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        others = [pool.submit(compile_text, compiler, arch, HARNESS, scratch)]
        others.append(pool.submit(ceilings, compiler, arch, folder))
        made = {name: pool.submit(build, name, folder, compiler, arch) for name in names}
        known = {}
        for name, model in made.items():
            known[name] = asdict(model.result())
            print(f"{name}: {known[name]}", flush=True)
        for other in others:
            other.result()
    _call([*compiler, *FLAGS, *map(str, sorted(scratch.glob("*.o"))), "-o", str(folder / "models")])
    shutil.rmtree(scratch)
    for name in ALONE:
        shutil.copy(HARNESS.with_name(name), folder)
    finish(folder, arch, known)


def finish(folder: Path, arch: str, known: Mapping[str, object]) -> None:
    """Writes the list of models. Raises SofieError where the folder is too large to travel."""
    (folder / "models.json").write_text(json.dumps({"arch": arch, "models": known}, indent=1) + "\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if size > MEGABYTES:
        raise SofieError(f"{folder} holds {size:.0f} MB, more than {MEGABYTES}: name fewer models")
    print(f"{folder}: {len(known)} models for {arch}, {size:.0f} MB")


def write(name: str, folder: Path) -> tuple[CudaProgram, Known]:
    """Writes all about a model but its object file: text, compressed weights, what is expected, the peers' graph."""
    workload, scratch = WORKLOADS[name], folder / "build"
    proto = workload.model()
    program = lower(proto, name, Options(target="cuda", precision=workload.precision))
    assert isinstance(program, CudaProgram)
    (scratch / f"{name}.cuh").write_text(program.header())
    (scratch / f"{name}.cu").write_text(unit(program))
    (folder / f"{name}.dat.xz").write_bytes(lzma.compress(program.weight_bytes(), preset=1))
    (folder / f"{name}.expected").write_bytes(truth.expected(workload))
    (folder / f"{name}.graph.json").write_text(json.dumps(graph.as_json(proto)))
    return program, _known(program, info(proto).flops)


def build(name: str, folder: Path, compiler: Sequence[str], arch: str) -> Known:
    """Writes a model and compiles it."""
    _, known = write(name, folder)
    compile_text(compiler, arch, folder / "build" / f"{name}.cu", folder / "build")
    return known


def _known(program: CudaProgram, flops: int | None) -> Known:
    ports = sum(port.elements * np.dtype(port.dtype).itemsize for port in (*program.inputs, *program.outputs))
    weights = sum(array.nbytes for _, array in program.weights)
    return Known(flops or 0, ports + weights, program.kernel_calls, program.graphs)


def compile_text(compiler: Sequence[str], arch: str, text: Path, into: Path) -> None:
    """Compiles a unit to an object file."""
    include = f"-I{HARNESS.parent}"
    _call([*compiler, *FLAGS, f"-arch={arch}", include, "-c", str(text), "-o", str(into / f"{text.stem}.o")])


def ceilings(compiler: Sequence[str], arch: str, folder: Path) -> None:
    """Builds the program that measures what the card can do."""
    text = HARNESS.with_name("ceilings.cu")
    _call([*compiler, *FLAGS, f"-arch={arch}", str(text), "-o", str(folder / "ceilings"), "-ldl"])


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or "warning" in done.stderr:
        raise SofieError(f"{' '.join(command[-3:])}: {done.stderr[-2000:]}")
