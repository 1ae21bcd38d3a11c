"""The CPUs code is written for: the instruction set stands in the code, as a function attribute, not in the flags."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sofie.errors import SofieError


@dataclass(frozen=True)
class Cpu:
    """A level of instructions: how many float lanes its vectors have, and the attribute that allows them."""

    name: str
    lanes: int
    features: str
    level: int = 0
    """The x86-64 level the features need; 0 for none."""

    @property
    def attribute(self) -> str:
        """What stands before each kernel."""
        return f'__attribute__((target("{self.features}")))' if self.features else ""

    @property
    def registers(self) -> int:
        """The number of vector registers."""
        return 32 if self.lanes == 16 else 16


CPUS = {
    "scalar": Cpu("scalar", 1, ""),
    "portable": Cpu("portable", 4, ""),
    "x86-64-v3": Cpu("x86-64-v3", 8, "avx2,fma", 3),
    "x86-64-v4": Cpu("x86-64-v4", 16, "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma", 4),
}


def cpu(name: str) -> Cpu:
    """The CPU of that name; `native` is the best level that this machine runs. Raises SofieError."""
    if name == "native":
        return native()
    if name not in CPUS:
        raise SofieError(f"--cpu {name}: choose one of native, {', '.join(CPUS)}")
    return CPUS[name]


@cache
def native() -> Cpu:
    """The best level that this machine runs."""
    flags: set[str] = set()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                flags = set(line.split(":", 1)[1].split())
                break
    except OSError:
        pass
    if platform.machine() in ("x86_64", "AMD64"):
        if {"avx512f", "avx512vl", "avx512dq", "avx512bw", "fma"} <= flags:
            return CPUS["x86-64-v4"]
        if {"avx2", "fma"} <= flags:
            return CPUS["x86-64-v3"]
    return CPUS["portable"]
