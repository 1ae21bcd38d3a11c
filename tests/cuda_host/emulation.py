"""Runs CUDA on the CPU: kernels as they are emitted, compiled by a C++ compiler against `cuda_host.hxx`.

A `Build` says how: plainly, or under a sanitizer, which then sees a kernel's faults.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest

from sofie import cuda_jit, jit
from sofie.emit.cuda import CudaProgram

HOST = Path(__file__).with_name("cuda_host.hxx")
EVENTS = Path(__file__).with_name("cuda_events.hxx")
SCHEDULER = Path(__file__).with_name("cuda_host.cxx")
EMIT = Path(str(resources.files("sofie.emit")))

WARNINGS = ("-std=c++17", "-Wall", "-Wextra", "-Wshadow", "-Wpedantic", "-Werror", "-Wno-unknown-pragmas")


@dataclass(frozen=True)
class Build:
    """A compiler with the flags of kernels, and those of the scheduler where it needs others."""

    compiler: str
    flags: tuple[str, ...]
    scheduler_flags: tuple[str, ...] = ()

    def scheduler(self) -> Path:
        """The scheduler as an object file, from the cache of compiled objects."""
        header = HOST.read_text().replace("#pragma once\n", "")
        text = header + SCHEDULER.read_text().replace(f'#include "{HOST.name}"\n', "")
        flags = (*WARNINGS, *(self.scheduler_flags or self.flags), "-fPIC", "-c")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CXX", self.compiler)
            return jit.build(text, flags, ".o")


PLAIN = Build("g++", ("-O2",))
ADDRESS = Build("g++", ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
THREAD = Build("g++", ("-O1", "-g", "-fsanitize=thread"), ("-O1", "-g", "-DCUDA_HOST_TSAN"))
UCONTEXT = Build("g++", ("-O1", "-DCUDA_HOST_UCONTEXT"))
MEMORY = Build("clang++", ("-O1", "-g", "-fsanitize=memory"))
"""The instrumentation of each finds other faults; for ThreadSanitizer the scheduler is not part of what it looks at.
UCONTEXT is what CPUs other than x86-64 have."""


def compiled(folder: Path, main: str, build: Build) -> Path:
    """The program of a C++ text that includes `cuda_host.hxx`; skips where its compiler is not installed."""
    if shutil.which(build.compiler) is None:
        pytest.skip(f"{build.compiler} is not installed")
    (folder / "main.cpp").write_text(main)
    include = (f"-I{HOST.parent}", f"-I{EMIT}")
    command = [build.compiler, *WARNINGS, *build.flags, *include, "main.cpp", str(build.scheduler()), "-o", "main"]
    done = subprocess.run([*command, "-pthread"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return folder / "main"


def run(program: Path, arguments: Sequence[str] = (), seed: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a program in its folder, its threads in the order of the seed."""
    environment = {**os.environ, "SOFIE_CUDA_SEED": str(seed)}
    command = [str(program), *arguments]
    return subprocess.run(
        command, cwd=program.parent, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def build(program: CudaProgram, _arch: str = "") -> Path:
    """The shared library of a program in which memory of the device is memory: of the very text that nvcc gets."""
    text = "\n".join([HOST.read_text(), EVENTS.read_text(), cuda_jit.source_of(program)])
    return jit.build(text, (*jit.FLAGS, "-O1", str(PLAIN.scheduler())))


@contextmanager
def emulated(seed: int | None = None) -> Iterator[None]:
    """While it lasts, models that are compiled with target="cuda" run here.

    Their threads run in the order of the seed, else of the environment's SOFIE_CUDA_SEED, else of 1: shuffled.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_jit, "build", build)
        patch.setenv("SOFIE_CUDA_SEED", os.environ.get("SOFIE_CUDA_SEED", "1") if seed is None else str(seed))
        yield
