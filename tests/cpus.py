"""The CPUs whose kernels of bytes are tested: the machine's, and one with VNNI, which is emulated where it has none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sofie import jit
from sofie.target import CPUS, runs_here

VNNI = "x86-64-v3-vnni"
EMULATED = VNNI not in runs_here() and "x86-64-v3" in runs_here()
BYTE_CPUS = [*runs_here(), *([VNNI] if EMULATED else [])]


def prepare(cpu: str, patch: pytest.MonkeyPatch) -> str:
    """The CPU's name; where it is emulated, its kernels call functions for what the machine does not have."""
    if EMULATED and cpu == VNNI:
        header = Path(__file__).with_name("vnni.hxx")
        patch.setenv("CXX", " ".join([*jit.compiler(), "-mavx2", "-include", str(header)]))
        patch.setitem(CPUS, VNNI, dataclasses.replace(CPUS[VNNI], features=CPUS["x86-64-v3"].features))
    return cpu
