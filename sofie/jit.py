"""Compiles emitted C++ with the system's compiler and calls it from numpy; compiled objects are cached on disk.

The cache (`$SOFIE_CACHE`, else `$XDG_CACHE_HOME/sofie`, else `~/.cache/sofie`) is keyed by the digest of the text, the
compiler and the flags; an entry is written to a temporary file and renamed, so that any number of processes may share
it.
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import importlib
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sofie.errors import SofieError
from sofie.sizes import NO_SIZES, at, most
from sofie.weights import Array

if TYPE_CHECKING:
    from sofie.emit.cpp import Program
    from sofie.emit.ports import Port


@dataclass(frozen=True)
class Compiler:
    """A compiler: its command, what it is called, the variable that names another, and how its files end."""

    command: tuple[str, ...]
    name: str = "the C++ compiler"
    variable: str = "CXX"
    ending: str = ".cpp"


FLAGS = ("-std=c++17", "-O2", "-fno-math-errno", "-fPIC", "-shared", "-w")


def flags_for(blas: str, threaded: bool = False) -> tuple[str, ...]:
    """The flags with what a BLAS and threads need.

    `$SOFIE_BLAS` says what that is, else the package scipy-openblas32 is taken where it is installed, else the system's
    OpenBLAS.
    """
    flags = (*FLAGS, *["-pthread"] * threaded)
    if blas == "none":
        return flags
    if given := os.environ.get("SOFIE_BLAS"):
        return (*flags, *given.split())
    if importlib.util.find_spec("scipy_openblas32") is None:
        return (*flags, "-lopenblas")
    package = importlib.import_module("scipy_openblas32")
    folder = package.get_lib_dir()
    prefixed = [f"-Dcblas_{letter}gemm=scipy_cblas_{letter}gemm" for letter in "sd"]
    library = f"-l{package.get_library()}"
    return (*flags, f"-I{package.get_include_dir()}", *prefixed, f"-L{folder}", f"-Wl,-rpath,{folder}", library)


def compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, g++, clang++, c++, or zig's from the package ziglang.

    Raises SofieError, with the ways to get one, when there is none.
    """
    if os.environ.get("CXX"):
        return os.environ["CXX"].split()
    for name in ("g++", "clang++", "c++"):
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    raise SofieError(
        "there is no C++ compiler: install g++ or clang (apt-get install g++), point CXX at one, "
        "or let pip bring one with: pip install 'sofie-mlir[cc]'"
    )


def has_compiler() -> bool:
    """Whether there is a C++ compiler."""
    try:
        return bool(compiler())
    except SofieError:
        return False


def _run(by: Compiler, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([*by.command, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        words = f"{by.name} {by.command[0]!r} does not run: {error.strerror}; set {by.variable} to one"
        raise SofieError(words) from error


@cache
def _version(by: Compiler) -> str:
    return _run(by, "--version").stdout or " ".join(by.command)


def cache_folder() -> Path:
    """Where compiled objects are kept."""
    base = os.environ.get("SOFIE_CACHE")
    if base:
        return Path(base)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "sofie"


def build(source: str, flags: Sequence[str] = FLAGS, suffix: str = ".so", by: Compiler | None = None) -> Path:
    """What a compiler, of C++ if none is given, makes of a text: from the cache or freshly; with FLAGS, a library.

    Raises SofieError on compiler errors.
    """
    by = by or Compiler(tuple(compiler()))
    key = hashlib.sha256("\0".join([source, _version(by), *flags]).encode()).hexdigest()
    folder = cache_folder()
    library = folder / f"{key}{suffix}"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        text, made = Path(scratch, f"model{by.ending}"), Path(scratch, "model.so")
        text.write_text(source)
        done = _run(by, "-o", str(made), str(text), *flags)
        if done.returncode != 0:
            kept = folder / f"{key}{by.ending}"
            kept.write_text(source)
            said = done.stderr or done.stdout
            first = next((line for line in said.splitlines() if "error" in line), said[:300])
            raise SofieError(f"{by.name} rejects the emitted code (kept in {kept}): {first.strip()}")
        os.replace(made, library)
    return library


def source_of(program: Program) -> str:
    """The translation unit that the just-in-time compiler builds: the core and one function with C linkage."""
    arguments = ["weights", "arena", *(["threads"] if program.threads > 1 else [])]
    arguments += [f"static_cast<index>(sizes[{k}])" for k in range(len(program.sizes))]
    arguments += [f"static_cast<const {p.inner} *>(in[{k}])" for k, p in enumerate(program.inputs)]
    if program.draws:
        arguments.append(f"static_cast<const std::int64_t *>(in[{len(program.inputs)}])")
    arguments += [f"static_cast<{p.inner} *>(out[{k}])" for k, p in enumerate(program.outputs)]
    arguments += [f"static_cast<index *>(out[{len(program.outputs) + k}])" for k in range(len(program.late))]
    headers = (
        ["cstddef", "cstdint", "vector", *program.thread_headers] if program.threads > 1 else ["cstddef", "cstdint"]
    )
    # whoever calls has threads of its own, for as long as it lives
    threads = f"thread_local detail::Threads threads({program.threads});" if program.threads > 1 else ""
    return f"""{chr(10).join(f"#include <{name}>" for name in headers)}
{"#include <cblas.h>" if program.uses_blas else ""}

namespace {{

{program.core()}

}} // namespace

extern "C" void sofie_infer(
    const unsigned char *weights,
    unsigned char *arena,
    const std::int64_t *sizes,
    const void *const *in,
    void *const *out)
{{
   static_cast<void>(sizes);
   static_cast<void>(in);
   static_cast<void>(out);
   {threads}
   {program.variants[-1].cpu.namespace}::infer({", ".join(arguments)});
}}
"""


def aligned(size: int) -> Array:
    """`size` bytes that start on a multiple of 64."""
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


@dataclass
class Compiled:
    """A model as machine code: call it with arrays in model order."""

    program: Program
    library: Path

    def __post_init__(self) -> None:
        self._infer = ctypes.CDLL(str(self.library)).sofie_infer
        data = np.frombuffer(self.program.weight_bytes(), np.uint8)
        self._weights = aligned(data.size)
        self._weights[:] = data
        self._arena = aligned(max(self.program.arena_bytes, 64))
        self.state = np.zeros(2, np.uint64)

    def beside(self) -> Compiled:
        """The same code and weights with scratch memory and random numbers of its own, for another thread."""
        other = copy.copy(self)
        other._arena = aligned(self._arena.size)
        other.state = np.zeros(2, np.uint64)
        return other

    def seed(self, seed: int) -> None:
        """Begins the random numbers of this seed (modulo 2^64); equal seeds give equal numbers, call by call."""
        self.state[:] = seed % 2**64, 0

    def run(self, inputs: Sequence[Array], sizes: Mapping[str, int] = NO_SIZES) -> list[Array]:
        """The outputs, freshly allocated, for these run-time sizes by name.

        The inputs must be contiguous and of the model's types and shapes.
        """
        outputs = [np.empty(room(p, sizes), p.dtype) for p in self.program.outputs]
        found = [np.zeros(max(len(p.shape), 1), np.intp) for p in self.program.late]
        numbers = [sizes[symbol.name] for symbol in self.program.sizes]
        numbers_in = (ctypes.c_int64 * max(len(numbers), 1))(*numbers)
        read = [*inputs, self.state]
        pointers_in = (ctypes.c_void_p * len(read))(*(a.ctypes.data for a in read))
        written = [a.ctypes.data for a in (*outputs, *found)]
        pointers_out = (ctypes.c_void_p * max(len(written), 1))(*written)
        address = ctypes.c_void_p
        memory = address(self._weights.ctypes.data), address(self._arena.ctypes.data)
        self._infer(*memory, numbers_in, pointers_in, pointers_out)
        self.state[1] += np.uint64(1)
        for port, shape in zip(self.program.late, found, strict=True):
            k = self.program.outputs.index(port)
            outputs[k] = outputs[k][: math.prod(shape.tolist())].reshape(shape).copy()
        return outputs


def room(port: Port, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an output, or all the elements it may have where the run finds its shape."""
    return (math.prod(map(most, port.shape)),) if port.found else at(port.shape, sizes)


def compile_program(program: Program, flags: Sequence[str] = FLAGS) -> Compiled:
    """Builds and loads a program."""
    return Compiled(program, build(source_of(program), flags))
