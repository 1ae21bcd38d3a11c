"""What code is written for: CPUs, whose instruction set stands in the code, as a function attribute, not in the flags;
and GPUs, whose architecture is told to their compiler.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sofie.errors import SofieError, printable


@dataclass(frozen=True)
class Cpu:
    """A CPU as kernels see it: float lanes of a vector, number of vector registers, and the features they need.

    fma: whether a multiply-add is one instruction. level: the x86-64 level that the features need, 0 for none.
    tune: an early CPU of that level, as compilers call it, whose costs they schedule for. vnni: whether four products
    of bytes and their sum are one instruction.
    """

    name: str
    lanes: int
    features: str = ""
    level: int = 0
    registers: int = 16
    fma: bool = False
    tune: str = ""
    vnni: bool = False

    @property
    def attribute(self) -> str:
        """What stands before each kernel; levels are spelled as features, since clang 14 does not know their names.

        They are tuned for the same CPU whatever the flags say: for Zen, g++ 12 loads a tile's weights once for each
        row, so that -march=native was up to 1.3 times slower than plain -O2.
        """
        return f'__attribute__((target("{self.features},tune={self.tune}")))' if self.features else ""

    @property
    def multiplies_pairs(self) -> bool:
        """Whether two products of 16 bits and their sum are one instruction, and four of bytes are not."""
        return self.level > 0 and not self.vnni

    @property
    def namespace(self) -> str:
        """The C++ namespace of its kernels."""
        return f"v{self.level}{'_vnni' if self.vnni else ''}" if self.level else self.name


_V2 = "sse3,ssse3,sse4.1,sse4.2,popcnt"
_V3 = f"{_V2},avx,avx2,bmi,bmi2,f16c,fma,lzcnt,movbe"
_V4 = f"{_V3},avx512f,avx512vl,avx512dq,avx512bw,avx512cd"

CPUS = {
    "scalar": Cpu("scalar", 1),
    "portable": Cpu("portable", 4),
    "aarch64": Cpu("aarch64", 4, registers=32, fma=True),
    "x86-64-v2": Cpu("x86-64-v2", 4, _V2, 2, tune="nehalem"),
    "x86-64-v3": Cpu("x86-64-v3", 8, _V3, 3, fma=True, tune="haswell"),
    "x86-64-v3-vnni": Cpu("x86-64-v3-vnni", 8, f"{_V3},avxvnni", 3, fma=True, tune="alderlake", vnni=True),
    "x86-64-v4": Cpu("x86-64-v4", 16, _V4, 4, registers=32, fma=True, tune="skylake-avx512"),
    "x86-64-v4-vnni": Cpu(
        "x86-64-v4-vnni", 16, f"{_V4},avx512vnni", 4, registers=32, fma=True, tune="skylake-avx512", vnni=True
    ),
}
WITH_VNNI = tuple(name for name, cpu in CPUS.items() if cpu.level)
"""What `multi` holds of a model with sums of products of bytes, least first."""
LEVELS = tuple(name for name in WITH_VNNI if not CPUS[name].vnni)
"""What it holds of any other."""


ARCHITECTURES = {"cuda": (r"sm_[1-9][0-9]{1,2}a?", "sm_90 or sm_90a"), "hip": (r"gfx[0-9a-f]{3,4}", "gfx90a")}
"""How the architectures of the GPUs of a target are written, and examples."""


def check_arch(target: str, arch: str) -> None:
    """Raises SofieError where `arch` is no architecture of a GPU of that target; an empty one is any."""
    if not arch:
        return
    if target not in ARCHITECTURES:
        raise SofieError("--arch is for GPUs; leave it out, or give --target cuda or hip")
    form, examples = ARCHITECTURES[target]
    if not re.fullmatch(form, arch):
        raise SofieError(f"--arch {printable(arch)}: write the architecture of a GPU as in --arch {examples}")


def cpu(name: str) -> Cpu:
    """The CPU of that name; `native` is the best level that this machine runs. Raises SofieError."""
    if name == "native":
        return native()
    if name not in CPUS:
        raise SofieError(f"--cpu {printable(name)}: choose one of native, {', '.join(CPUS)}")
    return CPUS[name]


def cpus(name: str) -> tuple[Cpu, ...]:
    """The CPUs that one header serves, least first: several for `multi`, else the one of that name."""
    return tuple(CPUS[level] for level in LEVELS) if name == "multi" else (cpu(name),)


def runs_here() -> list[str]:
    """The names of the CPUs whose code this machine runs, least first; two of them any machine runs."""
    flags = _flags() if platform.machine() in ("x86_64", "AMD64") else set()
    found = [name for name in WITH_VNNI if set(CPUS[name].features.split(",")) <= flags]
    return ["scalar", "portable", *(["aarch64"] if platform.machine() in ("aarch64", "arm64") else found)]


@cache
def native() -> Cpu:
    """The best level that this machine runs."""
    return CPUS[runs_here()[-1]]


_KERNEL_NAMES = {
    "pni": "sse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "bmi1": "bmi",
    "abm": "lzcnt",
    "avx_vnni": "avxvnni",
    "avx512_vnni": "avx512vnni",
}
"""Features that Linux calls otherwise than compilers do."""


def _flags() -> set[str]:
    """The features that the operating system reports, as compilers call them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    words = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return {_KERNEL_NAMES.get(word, word) for word in words}
