"""The systems that are timed, and how the worker of each is built; those not installed are named and left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sofie.bench import systems as installed
from sofie.bench.case import Case
from sofie.bench.systems import NATIVE, PLAIN, Command
from sofie.emit.cpp import Program
from tests.bench import peers


@dataclass(frozen=True)
class System:
    """label: its name in tables. build: its worker for a model and our program of it; raises SofieError."""

    label: str
    build: Callable[[Case, Program, Path], Command]
    package: str = ""
    """What has to be there: a package or one of the peers' environments."""

    def absent(self, cache: Path) -> str:
        """Why it takes no part, or nothing."""
        return peers.absent(self.package, cache) if self.package else ""


def _ours(label: str, flags: tuple[str, ...], case: Case, program: Program, cache: Path) -> Command:
    return installed.ours(case, program, flags, label)


def _onnxruntime(case: Case, program: Program, cache: Path) -> Command:
    return installed.onnxruntime(case)


def _openvino(case: Case, program: Program, cache: Path) -> Command:
    return peers.openvino(case, cache)


def _cern(label: str, level: str, case: Case, program: Program, cache: Path) -> Command:
    return peers.cern(case, cache, label, level)


def _emx(case: Case, program: Program, cache: Path) -> Command:
    return peers.emx(case, cache)


SYSTEMS = {
    "ours": System("ours -O3", partial(_ours, "ours", NATIVE)),
    "ours-O2": System("ours -O2", partial(_ours, "ours-O2", PLAIN)),
    "ort": System("ONNX Runtime", _onnxruntime, "onnxruntime"),
    "openvino": System("OpenVINO", _openvino, "openvino"),
    "cern-O3": System("CERN -O3", partial(_cern, "cern-O3", "-O3"), "cern"),
    "cern-Ofast": System("CERN -Ofast", partial(_cern, "cern-Ofast", "-Ofast"), "cern"),
    "emx": System("emx", _emx, "emx"),
}
OURS = ("ours", "ours-O2")
CERN = ("cern-O3", "cern-Ofast")
QUICK = ("ours", "ort")
