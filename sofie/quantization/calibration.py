"""The ranges of values inside a model, from data: two runs over them, one for the ends and one for the histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import contents
from sofie.errors import SofieError, printable
from sofie.quantization.ranges import METHODS, Histogram, Range, minmax
from sofie.quantization.running import Data, observed
from sofie.quantization.scheme import Scheme
from sofie.rewrite import blame


def calibrate(module: ModuleOp, values: Sequence[SSAValue], data: Data, scheme: Scheme) -> dict[SSAValue, Range]:
    """The range of each of `values`, constants among them. Raises SofieError where one is not finite."""
    ranges: dict[SSAValue, Range] = {}
    for value in values:
        if (array := contents(value)) is not None:
            histogram = Histogram()
            histogram.see(array)
            ranges[value] = minmax(histogram, scheme.percentile)
    inside = [value for value in values if value not in ranges]
    run = observed(module, inside)
    histograms = {value: Histogram() for value in inside}
    for given in data.pieces():
        for value, array in _seen(inside, run(given)):
            if not np.isfinite(array).all():
                raise SofieError(
                    f"{_named(value)} is not finite on the calibration data: look at the data, or leave it"
                )
            histograms[value].see(array)
    if scheme.calibrate != "minmax":
        for given in data.pieces():
            for value, array in _seen(inside, run(given)):
                histograms[value].count(array)
    method = METHODS[scheme.calibrate]
    return ranges | {value: method(histogram, scheme.percentile) for value, histogram in histograms.items()}


def _seen(values: Sequence[SSAValue], results: Sequence[np.ndarray]) -> list[tuple[SSAValue, np.ndarray]]:
    """The values with their arrays, which are the last results of a run."""
    return list(zip(values, results[len(results) - len(values) :], strict=True))


def _named(value: SSAValue) -> str:
    if isinstance(value.owner, OnnxOp):
        return f"{blame(value.owner)}: its result"
    return f"input {printable(value.name_hint or '?')!r}"
