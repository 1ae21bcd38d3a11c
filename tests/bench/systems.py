"""The systems that are timed, and how the worker of each is built; those not installed are named and left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sofie.bench import systems as installed
from sofie.bench.case import Case
from sofie.bench.systems import NATIVE, PLAIN, Command
from sofie.emit.cpp import Program


@dataclass(frozen=True)
class System:
    """label: its name in tables. build: its worker for a model and our program of it; raises SofieError."""

    label: str
    build: Callable[[Case, Program], Command]


def _ours(label: str, flags: tuple[str, ...], case: Case, program: Program) -> Command:
    return installed.ours(case, program, flags, label)


def _onnxruntime(case: Case, program: Program) -> Command:
    return installed.onnxruntime(case)


SYSTEMS = {
    "ours": System("ours -O3 -march=native", partial(_ours, "ours", NATIVE)),
    "ours-O2": System("ours -O2", partial(_ours, "ours-O2", PLAIN)),
    "ort": System("ONNX Runtime's C API", _onnxruntime),
}
QUICK = ("ours", "ort")
