"""The systems every user has: ours, with the flags a user may compile it with, and ONNX Runtime's C API."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from sofie import jit
from sofie.bench.build import executable, source
from sofie.bench.case import Case, largest
from sofie.emit.cpp import Program
from sofie.errors import SofieError
from sofie.files import write

NATIVE = ("-O3", "-march=native")
PLAIN = ("-O2",)

Command = tuple[str, ...]


def ours(case: Case, program: Program, flags: Sequence[str], label: str, blas: str = "none") -> Command:
    """The worker that runs a program's own header, compiled with `flags`. Raises SofieError."""
    weights = case.folder / f"{label}.dat"
    write(weights, program.weight_bytes())
    worker = executable(source_of(program), ["-std=c++17", "-w", *flags, *linked(program, blas)])
    return (*words(worker, case, label), str(weights))


def words(worker: Path, case: Case, label: str) -> Command:
    """What every worker is told first."""
    return str(worker), str(case.folder), str(case.output(label))


def source_of(program: Program) -> str:
    """The text of the worker that runs a program at its largest sizes."""
    return f"""{program.header(False)}
{source("worker.hxx")}
int main(int, char **words)
{{
   worker::Tensors tensors(words[1]);
   const double start = worker::now();
   SOFIE_{program.name}::Session session(words[3]);
   const double setup = worker::now() - start;
   return worker::serve(tensors, words[2], setup, [&] {{ {session_call(program)} }});
}}
"""


def session_call(program: Program) -> str:
    """The statement that runs `session` on `tensors`, at the largest sizes."""
    arguments = [str(size) for size in largest(program).values()]
    arguments += [f"tensors.inputs[{k}].as<const {p.cpp}>()" for k, p in enumerate(program.inputs)]
    arguments += [f"tensors.outputs[{k}].as<{p.cpp}>()" for k, p in enumerate(program.outputs)]
    return f"session.infer({', '.join(arguments)});"


def linked(program: Program, blas: str) -> list[str]:
    """What the compiler is told about threads and a BLAS."""
    return [flag for flag in jit.flags_for(blas, program.threads > 1) if flag not in jit.FLAGS]


def onnxruntime_version() -> str:
    """The version of ONNX Runtime, or nothing where it is not installed."""
    return version("onnxruntime") if importlib.util.find_spec("onnxruntime") is not None else ""


def onnxruntime(case: Case, threads: int = 1) -> Command:
    """The worker that runs the case's model by ONNX Runtime's C API, out of the wheel. Raises SofieError."""
    library = onnxruntime_library()
    parts = [source(name) for name in ("worker.hxx", "onnxruntime.hxx", "onnxruntime.cpp")]
    worker = executable("".join(parts), ["-std=c++17", "-O2", "-ldl"])
    return (*words(worker, case, "ort"), str(case.model), str(threads), str(library))


def onnxruntime_library() -> Path:
    """The shared library of the installed wheel. Raises SofieError."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise SofieError("ONNX Runtime is not installed: pip install onnxruntime")
    found = sorted(Path(spec.origin).parent.glob("capi/libonnxruntime.so*"))
    if not found:
        raise SofieError("the installed onnxruntime has no libonnxruntime.so, whose C API is what is timed")
    return found[0]
