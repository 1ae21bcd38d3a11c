"""What is asked of a quantisation, checked once for the pass, the command and the function."""

from __future__ import annotations

from dataclasses import dataclass

from sofie.errors import SofieError, printable
from sofie.quantization.ranges import METHODS

WEIGHTS = ("int8", "int7", "int4")
ACTIVATIONS = ("uint8", "int8", "none")
LEAST_BLOCK = 16
"""Below it, the scales weigh as much as the weights."""


@dataclass(frozen=True)
class Scheme:
    """How a model is quantised.

    weights: "int8", a scale for each output channel; "int7", the same with integers from -64 to 64, two products of
    which with bytes have 16 bits; or "int4", a scale for each `block` of weights that are summed.
    activations: "uint8" or "int8", with a scale and a zero point for each tensor, or "none", where only weights are
    quantised. calibrate: how ranges follow from data, a name of `ranges.METHODS`. percentile: of the values that a
    range covers, in percent, for that method. equalize: whether channels are scaled across layers first. leave: names
    of nodes that stay in float. snr: the least signal-to-noise ratio of the outputs, in dB; the layers that cost most
    stay in float till it holds; 0 for no such bound.
    """

    weights: str = "int8"
    activations: str = "uint8"
    calibrate: str = "percentile"
    percentile: float = 99.99
    block: int = 64
    equalize: bool = False
    leave: tuple[str, ...] = ()
    snr: float = 0.0

    def __post_init__(self) -> None:
        """Raises SofieError on values that are not there."""
        for option, value, choices in (
            ("weights", self.weights, WEIGHTS),
            ("activations", self.activations, ACTIVATIONS),
            ("calibrate", self.calibrate, tuple(METHODS)),
        ):
            if value not in choices:
                raise SofieError(f"{option}={printable(value)}: choose one of {', '.join(choices)}")
        if self.weights == "int4" and self.activations != "none":
            raise SofieError(f"weights=int4 are for activations=none, not {self.activations}: choose that, or int8")
        if not 50 < self.percentile <= 100:
            raise SofieError(f"percentile={self.percentile:g}: choose one above 50 and up to 100, as in 99.99")
        if self.block < LEAST_BLOCK or self.block & (self.block - 1):
            raise SofieError(f"block={self.block}: choose a power of two, at least {LEAST_BLOCK}")
        if not 0 <= self.snr < float("inf"):
            raise SofieError(f"snr={self.snr:g}: give decibels, as in 30, or 0 for no bound")

    @property
    def only_weights(self) -> bool:
        """Whether activations stay in float."""
        return self.activations == "none"
