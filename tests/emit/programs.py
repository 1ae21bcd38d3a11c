"""Builds and runs C++ programs around generated headers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from sofie.compiler import Generated, Options, generate

STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Wshadow", "-Wpedantic", "-Werror")


def emit(folder: Path, model: onnx.ModelProto, name: str, embed: bool = False, **options: object) -> Generated:
    """Header and weights of a model in `folder`."""
    return generate(model, folder, Options(**options), name, embed)


def compile_and_run(
    folder: Path,
    main: str,
    flags: Sequence[str] = ("-O1",),
    compiler: str = "g++",
    emulator: Sequence[str] = (),
) -> str:
    """Compiles `main` with warnings as errors, runs it in `folder` and returns what it printed.

    Skips where the compiler is missing, or the `emulator` that the program is run by.
    """
    for tool in (compiler, *emulator[:1]):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    (folder / "main.cpp").write_text(main)
    command = [compiler, *STRICT, *flags, "main.cpp", "-o", "main", "-pthread"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    ran = subprocess.run([*emulator, "./main"], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[:3000]
    return ran.stdout


def session_code(generated: Generated, feeds: dict[str, np.ndarray], label: str, level: str = "") -> str:
    """C++ statements that run a session on `feeds`, by the kernels of `level`, into files `<label>_<k>.bin`."""
    program = generated.program
    name = f"SOFIE_{program.name}"
    lines = [
        f'   {name}::Session {label}({name}::Weights("{program.name}.dat"), {level});'
        if level
        else f"   {name}::Session {label};"
    ]
    takes, gives = [], []
    for k, port in enumerate(program.inputs):
        (generated.header.parent / f"{label}_in_{k}.bin").write_bytes(np.ascontiguousarray(feeds[port.name]).tobytes())
        lines.append(f'   const auto {label}_in_{k} = read<{port.cpp}>("{label}_in_{k}.bin");')
        takes.append(f"{label}_in_{k}.data()")
    for k, port in enumerate(program.outputs):
        lines.append(f"   std::vector<{port.cpp}> {label}_out_{k}({port.elements});")
        gives.append(f"{label}_out_{k}.data()")
    lines.append(f"   {label}.infer({', '.join(takes + gives)});")
    lines += [f'   write("{label}_{k}.bin", {label}_out_{k});' for k in range(len(program.outputs))]
    return "\n".join(lines)


FILES = """#include <fstream>
#include <iterator>
#include <string>
#include <vector>

template <class T> std::vector<T> read(const std::string &name)
{
   std::ifstream file(name, std::ios::binary);
   const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
   std::vector<T> values(bytes.size() / sizeof(T));
   for (std::size_t i = 0; i < values.size() * sizeof(T); ++i)
      reinterpret_cast<char *>(values.data())[i] = bytes[i];
   return values;
}

template <class T> void write(const std::string &name, const std::vector<T> &values)
{
   std::ofstream(name, std::ios::binary)
      .write(reinterpret_cast<const char *>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
}
"""


def assert_outputs(generated: Generated, model: onnx.ModelProto, feeds: dict[str, np.ndarray], label: str) -> None:
    """The files written by `session_code` hold what ONNX Runtime says (the reference errs on indices of MaxPool).

    It does so node by node: its own fusions of quantised nodes round in other places.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    expected = session.run(None, feeds)
    for k, (port, want) in enumerate(zip(generated.program.outputs, expected, strict=True)):
        raw = (generated.header.parent / f"{label}_{k}.bin").read_bytes()
        got = np.frombuffer(raw, port.dtype).reshape(port.shape)
        if np.issubdtype(got.dtype, np.floating):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * max(np.abs(want).max(), 1e-30))
        else:
            np.testing.assert_array_equal(got, want)
