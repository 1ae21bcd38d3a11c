"""The rule by which a result is right, and the tally of how one output fares under it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sofie.emit.ports import Port
from sofie.weights import Array

FACTOR = 4.0
"""How many times ONNX Runtime's worst error a result may have."""

SLACK = 8.0
"""ULP of the output's largest value that are always allowed.

A single score can come out exact in ONNX Runtime by chance. In 525 runs of 21 models, one sample each, at most 0.9 was
needed beside FACTOR; sums that cancel were off by up to 35 in both.
"""

SLACK_AGAINST_SAME_PRECISION = 64.0
"""The same where the truth is itself rounded at every step, as the result is."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutputReport:
    """One output, the worst over all samples.

    error: worst absolute distance to the truth. relative: `error` over the truth's largest magnitude. ulp: `error` in
    units in the last place of that magnitude. runtime, reference: the errors of ONNX Runtime and of onnx.reference in
    the model's own precision, None where they did not run. allowed: what `error` may be. note: what the
    numbers do not say.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    error: float
    relative: float
    ulp: float
    runtime: float | None
    reference: float | None
    allowed: float
    agrees: bool
    note: str = ""


@dataclass
class Tally:
    """The worst of one output so far."""

    port: Port
    error: float = 0.0
    reference: float | None = None
    runtime: float | None = None
    largest: float = 0.0
    note: str = ""
    samples: int = 0
    worst: int = 0
    """The sample of the worst error, by number."""

    def add(self, result: Array, truth: Array, native: Array | None, runtime: Array | None) -> None:
        """Counts one sample; `truth` may be of another precision than the output."""
        before = self.error
        self._add(result, truth, native, runtime)
        if self.error > before:
            self.worst = self.samples
        self.samples += 1

    def _add(self, result: Array, truth: Array, native: Array | None, runtime: Array | None) -> None:
        if result.shape != truth.shape:
            self.note = self.note or f"its shape is {result.shape}, that of the truth {truth.shape}"
            self.error = np.inf
            return
        if np.dtype(self.port.dtype).kind != "f":
            truth = truth if native is None else native  # a value next to a step may fall to either side in float64
            self._add_exact(result, truth, runtime)
            return
        wide = np.asarray(truth, np.float64)
        usual = truth if native is None else native
        self.largest = max(self.largest, float(np.max(np.abs(wide), where=np.isfinite(wide), initial=0)))
        self.error = max(self.error, distance(result, wide, usual))
        if native is not None:
            self.reference = max(self.reference or 0.0, distance(native, wide, usual))
        if runtime is not None and runtime.shape == wide.shape:
            self.runtime = max(self.runtime or 0.0, distance(runtime, wide, usual))

    def _add_exact(self, result: Array, truth: Array, runtime: Array | None) -> None:
        accepted = [a for a in (truth, runtime) if a is not None and a.shape == result.shape]
        off = [distance(result, a) for a in accepted]
        self.error = max(self.error, min(off))
        if off[0] > min(off):  # the reference has its own mistakes: MaxPool's indices
            self.note = "as ONNX Runtime has it, onnx.reference differs"
        self.reference = 0.0
        if runtime is not None:
            self.runtime = max(self.runtime or 0.0, distance(runtime, truth))
        self.largest = max(self.largest, float(np.max(np.abs(truth.astype(np.float64)), initial=0)))

    def verdict(self, double: bool = True) -> OutputReport:
        """What this output comes to; `double` says whether the truth was in double precision."""
        slack = SLACK if double else SLACK_AGAINST_SAME_PRECISION
        dtype = np.dtype(self.port.dtype)
        floating = dtype.kind == "f"
        unit = float(np.spacing(dtype.type(self.largest))) if floating else 1.0
        yardstick = next((e for e in (self.runtime, self.reference) if e is not None and np.isfinite(e)), 0.0)
        allowed = FACTOR * yardstick + slack * unit if floating else 0.0
        return OutputReport(
            name=self.port.name,
            dtype=self.port.dtype,
            shape=self.port.shape,
            error=self.error,
            relative=self.error / self.largest if self.largest else self.error,
            ulp=self.error / unit,
            runtime=self.runtime,
            reference=self.reference,
            allowed=allowed,
            agrees=self.error <= allowed,
            note=self.note,
        )


def distance(result: Array, truth: Array, usual: Array | None = None) -> float:
    """The largest of `gaps`."""
    return float(np.max(gaps(result, truth, usual), initial=0))


def gaps(result: Array, truth: Array, usual: Array | None = None) -> Floats:
    """The absolute difference of every element; infinite where only one of the two is finite.

    What is not finite counts as 0 where it equals `truth` or `usual`, a result of the same precision: a float32
    exponential overflows where the truth does not. Integers are apart by whole steps, booleans by 1.
    """
    if result.dtype.kind != "f":
        return _steps(result, truth)
    with np.errstate(all="ignore"):
        rounded = truth.astype(result.dtype)
        expected = np.isfinite(result) & np.isfinite(rounded)
        off = np.where(expected, np.abs(result.astype(np.float64) - truth.astype(np.float64)), np.inf)
        for same in (rounded, usual):
            if same is not None and same.shape == result.shape:
                off[~expected & ((result == same) | (np.isnan(result) & np.isnan(same)))] = 0
    return off


def _steps(result: Array, truth: Array) -> Floats:
    difference = np.abs(np.asarray(result.astype(np.float64) - truth.astype(np.float64)))
    difference[(result != truth) & (difference == 0)] = 1  # 64 bits do not fit into a double
    return difference
