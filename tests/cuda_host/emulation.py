"""Runs CUDA on the CPU: kernels as they are emitted, compiled by a C++ compiler against `cuda_host.hxx`.

A `Build` says how: plainly, or under a sanitizer, which then sees a kernel's faults.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest

from sofie import jit
from sofie.emit.cpp import Program
from sofie.emit.cuda import CudaProgram

HOST = Path(__file__).with_name("cuda_host.hxx")
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


def source_of(program: CudaProgram) -> str:
    """A translation unit with the function that `jit.Compiled` calls: memory of the device is memory.

    What a launch throws is kept for `sofie_error`.
    """
    arguments = ["weights", "arena", "nullptr"]
    arguments += [f"static_cast<model::index>(sizes[{k}])" for k in range(len(program.sizes))]
    arguments += [f"static_cast<const {p.inner} *>(in[{k}])" for k, p in enumerate(program.inputs)]
    arguments += [f"static_cast<{p.inner} *>(out[{k}])" for k, p in enumerate(program.outputs)]
    arguments += [f"static_cast<model::index *>(out[{len(program.outputs) + k}])" for k in range(len(program.late))]
    return f"""#include <memory>
#include <stdexcept>
#include <string>
{HOST.read_text()}
namespace model {{
{program.core()}
}}
static std::string error;
extern "C" const char *sofie_error() {{ return error.empty() ? nullptr : error.c_str(); }}
extern "C" void sofie_infer(
    const unsigned char *weights, unsigned char *arena, const std::int64_t *sizes, const void *const *in,
    void *const *out)
{{
   static_cast<void>(sizes);
   static_cast<void>(in);
   static_cast<void>(out);
   error.clear();
   try {{
      model::launch({", ".join(arguments)});
   }} catch (const std::exception &e) {{
      error = e.what();
   }}
}}
"""


class Emulated(jit.Compiled):
    """A model whose kernels run here; a fault of theirs is a RuntimeError with the kernel, the block and the line."""

    def __post_init__(self) -> None:
        super().__post_init__()
        infer, error = self._infer, ctypes.CDLL(str(self.library)).sofie_error
        error.restype = ctypes.c_char_p

        def checked(*arguments: object) -> None:
            infer(*arguments)
            if said := error():
                raise RuntimeError(said.decode())

        self._infer = checked


@contextmanager
def emulated(seed: int | None = None) -> Iterator[None]:
    """While it lasts, models that are compiled with target="cuda" run here.

    Their threads run in the order of the seed, else of the environment's SOFIE_CUDA_SEED, else of 1: shuffled.
    """

    def compile_program(program: Program, *_: object) -> jit.Compiled:
        assert isinstance(program, CudaProgram)
        return Emulated(program, jit.build(source_of(program), (*jit.FLAGS, str(PLAIN.scheduler()))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "compile_program", compile_program)
        patch.setenv("SOFIE_CUDA_SEED", os.environ.get("SOFIE_CUDA_SEED", "1") if seed is None else str(seed))
        yield
