"""The ceilings of this machine's core, measured, and the floor they set for a model.

Nothing is faster than its floating-point operations at the core's peak, nor than reading its weights and inputs and
writing its outputs once at the bandwidth of the level of memory that holds them.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from sofie.bench.build import executable, source
from sofie.bench.workers import pinned_output
from sofie.errors import SofieError
from sofie.target import native

RUNS = 3


@dataclass(frozen=True)
class Ceilings:
    """peak: float32 GFLOP/s of multiply-adds. bandwidth: GB/s of reading by the bytes that are read over and over."""

    peak: float
    bandwidth: tuple[tuple[int, float], ...]

    def gigabytes_per_second(self, working_set: int) -> float:
        """The bandwidth of the smallest measured set that holds so many bytes, or of the largest there is."""
        k = bisect_left([size for size, _ in self.bandwidth], working_set)
        return self.bandwidth[min(k, len(self.bandwidth) - 1)][1]

    def floor(self, flops: int, moved: int) -> Floor:
        """The least time of that many floating-point operations and bytes, each byte once, with what binds it."""
        compute, memory = flops / self.peak * 1e-3, moved / self.gigabytes_per_second(moved) * 1e-3
        return Floor(max(compute, memory), "flops" if compute >= memory else "memory")


@dataclass(frozen=True)
class Floor:
    """The least time in us, and what binds: `flops` or `memory`."""

    us: float
    bound: str


def measure(core: int) -> Ceilings:
    """Measures `core`: the best peak and the best bandwidth of each size. Raises SofieError."""
    cpu = native()
    flags = ["-std=c++17", "-O2", "-ffp-contract=fast"]
    flags += [f"-DSOFIE_TARGET={cpu.attribute}", f"-DSOFIE_LANES={cpu.lanes}"]
    program = executable(source("ceilings.cpp"), flags)
    peaks: list[float] = []
    rates: dict[int, list[float]] = {}
    for _ in range(RUNS):
        for line in pinned_output([str(program)], core).splitlines():
            match line.split():
                case ["peak", rate]:
                    peaks.append(float(rate))
                case ["bandwidth", size, rate]:
                    rates.setdefault(int(size), []).append(float(rate))
                case _:
                    raise SofieError("the program that measures the machine's ceilings printed what it should not")
    return Ceilings(max(peaks), tuple((size, max(found)) for size, found in sorted(rates.items())))
