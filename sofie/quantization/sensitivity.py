"""Which layers stay in float so that the outputs keep a signal-to-noise ratio: those that alone cost it most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from sofie.errors import SofieError
from sofie.quantization.qdq import plan, quantize
from sofie.quantization.quality import Noise
from sofie.quantization.ranges import Range
from sofie.quantization.running import Data, cloned, observed
from sofie.quantization.scheme import Scheme

ROWS = 256
"""Rows on which layers are compared with each other."""


def sensitive(module: ModuleOp, data: Data, ranges: Mapping[SSAValue, Range], scheme: Scheme) -> list[str]:
    """The names of the layers to leave in float, besides `scheme.leave`, so that the outputs reach `scheme.snr`.

    Each layer is quantised alone, and they are left from the worst on; how many is found by halving. The program is
    compiled once for each layer and each such step. Raises SofieError where no output is of floats.
    """
    trial = _Trial(module, data, ranges, scheme)
    names = [layer.label for layer in plan(module, scheme, scheme.leave).layers]
    if trial.decibels(scheme.leave) >= scheme.snr:
        return []
    alone = {name: trial.decibels([*scheme.leave, *(other for other in names if other != name)]) for name in names}
    order = sorted(names, key=lambda name: alone[name])
    few, enough = 0, len(order)
    while enough - few > 1:
        count = (few + enough) // 2
        if trial.decibels([*scheme.leave, *order[:count]]) >= scheme.snr:
            enough = count
        else:
            few = count
    return order[:enough]


class _Trial:
    """Runs copies of a module with some layers quantised."""

    def __init__(self, module: ModuleOp, data: Data, ranges: Mapping[SSAValue, Range], scheme: Scheme) -> None:
        self._module, self._data, self._ranges, self._scheme = module, data, ranges, scheme
        run = observed(module, [])
        self._expected = [list(run(given)) for given in data.pieces(ROWS)]
        if not any(array.dtype.kind == "f" for array in self._expected[0]):
            raise SofieError("snr= is of outputs of floats, and the model has none: leave it out")

    def decibels(self, left: Sequence[str]) -> float:
        """The least signal-to-noise ratio of an output, where the nodes named stay in float."""
        copy, mapper = cloned(self._module)
        ranges = {mapper[value]: found for value, found in self._ranges.items()}
        quantize(copy, plan(copy, self._scheme, left), ranges, self._scheme)
        run = observed(copy, [])
        noises = [Noise() for _ in self._expected[0]]
        for given, expected in zip(self._data.pieces(ROWS), self._expected, strict=True):
            for noise, exact, rounded in zip(noises, expected, run(given), strict=True):
                if exact.dtype.kind == "f":
                    noise.add(exact, rounded)
        return min(noise.decibels for noise in noises)
