"""Compiles an emitted program for CUDA with nvcc and calls it on arrays of the host and of the device.

The unit's functions have C linkage and do not know who compiled them: the tests build the same text with a C++ compiler
on an emulation of CUDA. Compiled objects are in the cache of `sofie.jit`.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sofie import jit
from sofie.device_array import LEGACY, Borrowed, DeviceArray
from sofie.emit.cuda import CudaProgram
from sofie.emit.device_session import device_session
from sofie.emit.sources import source
from sofie.errors import SofieError, printable
from sofie.sizes import NO_SIZES
from sofie.weights import Array

FLAGS = ("-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC", "-Xlinker", "--exclude-libs=ALL", "-w", "-x", "cu")


def nvcc() -> jit.Compiler:
    """NVIDIA's compiler: $NVCC, that of $CUDA_HOME, or nvcc. Raises SofieError, with the ways to get it."""
    home = os.environ.get("CUDA_HOME")
    at_home = shutil.which(str(Path(home, "bin", "nvcc"))) if home else None
    given = os.environ.get("NVCC")
    command = given.split() if given else [at_home or shutil.which("nvcc") or ""]
    if not command[0]:
        raise SofieError(
            "there is no nvcc to compile CUDA: install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads), "
            "or point NVCC at nvcc or CUDA_HOME at the toolkit's folder"
        )
    return jit.Compiler(tuple(command), "nvcc", "NVCC", ".cu")


def cards() -> str:
    """What the GPUs of this machine are; empty where there is none."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode == 0 and told.stdout.strip():
            return "; ".join(told.stdout.split("\n")).strip("; ")
    except OSError:
        pass
    return f"those of {platform.node()}" if any(Path("/dev").glob("nvidia[0-9]*")) else ""


def build(program: CudaProgram, arch: str) -> Path:
    """The shared library of a program for a card, that of this machine if none is given. Raises SofieError."""
    text, found = source_of(program), "" if arch else cards()
    if not arch and not found:
        raise SofieError(
            "there is no GPU on this machine to compile for: name the card's architecture, as in arch='sm_90', "
            "or compile for a CPU with target='cpu'"
        )
    # the card stands in the text, so that a cache that machines share keeps them apart
    return jit.build(f"// for {arch or printable(found)}\n{text}", (*FLAGS, f"-arch={arch or 'native'}"), by=nvcc())


def source_of(program: CudaProgram) -> str:
    """The unit: kernels and session as in the .cuh, weights that the caller has, and functions with C linkage."""
    sizes = [f"static_cast<std::size_t>(sizes[{k}])" for k in range(len(program.sizes))]
    takes = [f"static_cast<const {p.cpp} *>(in[{k}])" for k, p in enumerate(program.inputs)]
    late, count = iter(range(len(program.late))), len(program.outputs)
    gives = []
    for k, port in enumerate(program.outputs):
        gives.append(f"static_cast<{port.cpp} *>(out[{k}])")
        if port.found:
            gives.append(f"static_cast<std::size_t *>(out[{count + next(late)}])")
    arguments = ", ".join([*sizes, *takes, *gives])
    seed = "session.seed(seed, nullptr, call);" if program.draws else ""
    unused = "" if program.draws else "[[maybe_unused]] "
    return f"""{chr(10).join(f"#include <{name}>" for name in program.includes)}
#include <exception>
{chr(10).join(program.runtime)}

namespace model {{

namespace {{

namespace detail {{
inline constexpr std::size_t weight_file_bytes = {program.file.size};
}} // namespace detail

// The contents of the weight file, where the caller has them.
class Weights {{
public:
   explicit Weights(const unsigned char *bytes) : bytes_(bytes) {{}}
   const unsigned char *data() const noexcept {{ return bytes_; }}

private:
   const unsigned char *bytes_;
}};

{program.core()}

{device_session(program, whole=False)}

void infer(Session &session, const std::int64_t *sizes, const void *const *in, void *const *out)
{{
   static_cast<void>(sizes);
   static_cast<void>(in);
   session.infer({arguments});
}}

void infer_device(
    Session &session, const std::int64_t *sizes, const void *const *in, void *const *out, cudaStream_t stream)
{{
   static_cast<void>(sizes);
   static_cast<void>(in);
   session.infer_device({arguments}, stream);
}}

void begin_numbers({unused}Session &session, {unused}std::uint64_t seed, {unused}std::uint64_t call)
{{
   {seed}
}}

}} // namespace

{source("device_calls.cuh")}

}} // namespace model
"""


_POINTER, _SIZES = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64)
_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_INT = ctypes.c_int
FUNCTIONS: dict[str, list[type]] = {
    "create": [_POINTER, ctypes.POINTER(_INT), _POINTERS],
    "free": [_INT, _POINTER],
    "infer": [_INT, _POINTER, _SIZES, _POINTERS, _POINTERS],
    "infer_device": [_INT, _POINTER, _SIZES, _POINTERS, _POINTERS, _POINTER],
    "seed": [_INT, _POINTER, ctypes.c_uint64, ctypes.c_uint64],
    "allocate": [_INT, ctypes.c_size_t, _POINTERS],
    "release": [_INT, _POINTER],
    "copy": [_INT, _POINTER, _POINTER, ctypes.c_size_t, _INT],
    "order": [_INT, _POINTER, _POINTER],
    "mark": [_INT, _POINTER, _POINTERS],
    "passed": [_INT, _POINTER, ctypes.POINTER(_INT)],
}
"""The functions of `emit/device_calls.cuh` and what they take."""


class Unit:
    """A loaded unit: calls its functions by name."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self._error = loaded.sofie_error
        self._error.restype = ctypes.c_char_p
        self._functions = {name: getattr(loaded, f"sofie_{name}") for name in FUNCTIONS}
        for name, function in self._functions.items():
            function.argtypes = FUNCTIONS[name]

    def __call__(self, name: str, *arguments: object) -> None:
        """Calls `sofie_<name>`. Raises SofieError with what it tells."""
        if not self._functions[name](*arguments):
            raise SofieError(self._error().decode(errors="replace"))


@dataclass
class Compiled:
    """A model on a device: its weights are there, for as long as it lives. Raises SofieError where there is no device.

    It stays on the device that is CUDA's current one when it is made.
    """

    program: CudaProgram
    library: Path

    def __post_init__(self) -> None:
        self.unit = Unit(self.library)
        weights, device, session = self.program.weight_bytes(), ctypes.c_int(), ctypes.c_void_p()
        self.unit("create", weights, ctypes.byref(device), ctypes.byref(session))
        self.device, self._session = device.value, session
        self._in_use: list[tuple[ctypes.c_void_p, object]] = []
        self.state = np.zeros(2, np.uint64)
        self._begun: list[int] | None = [0, 0]
        weakref.finalize(self, _close, self.unit, self.device, session, self._in_use)

    def seed(self, seed: int) -> None:
        """Begins the random numbers of this seed (modulo 2^64); equal seeds give equal numbers, call by call."""
        self.state[:] = seed % 2**64, 0

    def _begin(self) -> None:
        """Tells the device what numbers come next, where it does not know: it counts its calls by itself.

        A `LateModel` has one state for all that it compiles.
        """
        if self.program.draws and self._begun != self.state.tolist():
            self.unit("seed", self.device, self._session, *self.state.tolist())
        self._begun = None

    def _drawn(self) -> None:
        """A call has begun without an error, and so will the next one."""
        self.state[1] += np.uint64(1)
        self._begun = self.state.tolist()

    def run(self, inputs: Sequence[Array | Borrowed], sizes: Mapping[str, int] = NO_SIZES) -> list[Array | DeviceArray]:
        """The outputs, freshly allocated: on the device if an input is there. Sizes are those of the run, by name.

        The inputs must be contiguous and of the model's types and shapes. On the device, the outputs are there when the
        legacy default stream has come to them.
        """
        outputs = self.program.outputs
        rooms = [jit.room(port, sizes) for port in outputs]
        found = [np.zeros(max(len(p.shape), 1), np.intp) for p in self.program.late]
        given = [sizes[symbol.name] for symbol in self.program.sizes]
        numbers = (ctypes.c_int64 * max(len(given), 1))(*given)
        late = list(zip(self.program.late, found, strict=True))
        ends = [shape.ctypes.data for shape in found]
        if not any(isinstance(value, Borrowed) for value in inputs):
            arrays = [np.empty(room, port.dtype) for room, port in zip(rooms, outputs, strict=True)]
            read = [array.ctypes.data for array in inputs if isinstance(array, np.ndarray)]
            written = [*(array.ctypes.data for array in arrays), *ends]
            self._begin()
            self.unit("infer", self.device, self._session, numbers, _addresses(read), _addresses(written))
            self._drawn()
            for port, shape in late:
                k = outputs.index(port)
                arrays[k] = arrays[k][: math.prod(shape.tolist())].reshape(shape).copy()
            return [*arrays]
        self._forget()
        there = [self._there(value, port.name) for value, port in zip(inputs, self.program.inputs, strict=True)]
        made = [DeviceArray(self.unit, self.device, r, np.dtype(p.dtype)) for r, p in zip(rooms, outputs, strict=True)]
        into = _addresses([*(array.pointer for array in made), *ends])
        read = [array.pointer for array in there]
        self._begin()
        self.unit("infer_device", self.device, self._session, numbers, _addresses(read), into, None)
        self._drawn()
        mark = ctypes.c_void_p()
        self.unit("mark", self.device, None, ctypes.byref(mark))
        self._in_use.append((mark, there))
        for port, shape in late:
            made[outputs.index(port)].cut(shape.tolist())
        return [*made]

    def _there(self, value: Array | Borrowed, name: str) -> Borrowed | DeviceArray:
        """An input on this device, behind all that computes it. Raises SofieError where it is on another."""
        if not isinstance(value, Borrowed):
            return DeviceArray.of(self.unit, self.device, value)
        if value.device not in (None, self.device):
            places = f"is on device {value.device} and the model on device {self.device}"
            raise SofieError(f"input {printable(name)!r} {places}; copy it there")
        if value.stream not in (None, LEGACY):
            self.unit("order", self.device, value.stream, None)
        return value

    def _forget(self) -> None:
        """Lets go of the arrays of calls that the device has done."""
        self._in_use[:] = [(mark, arrays) for mark, arrays in self._in_use if not _passed(self.unit, self.device, mark)]


def _passed(unit: Unit, device: int, mark: ctypes.c_void_p) -> bool:
    passed = ctypes.c_int()
    unit("passed", device, mark, ctypes.byref(passed))
    return bool(passed.value)


def _close(unit: Unit, device: int, session: ctypes.c_void_p, in_use: list[tuple[ctypes.c_void_p, object]]) -> None:
    """Frees a session, which waits for the device, and what its calls still use."""
    unit("free", device, session)
    for mark, _ in in_use:
        _passed(unit, device, mark)
    in_use.clear()


def _addresses(values: Sequence[int]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(len(values), 1))(*values)


def compile_program(program: CudaProgram, arch: str = "") -> Compiled:
    """Builds and loads a program."""
    return Compiled(program, build(program, arch))
