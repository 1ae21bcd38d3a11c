"""Four ways from the values of an activation to the range that its integers cover.

    minmax      all that was seen
    percentile  all but the outermost of each side
    entropy     the least loss of information from the histogram to the quantised one (S. Migacz, "8-bit inference with
                TensorRT", GTC 2017: Kullback-Leibler divergence, here with a zero point)
    mse         the least mean squared error of rounding and clipping

Each works on a histogram, so that data may come in pieces. Every range holds 0, which then is an integer exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Range = tuple[float, float]

BINS = 8192
"""Bins of a histogram: 32 for each of 256 integers."""

LEVELS = 256
LEAST = 1e-7
"""The probability of a value that the integers leave out, as the divergence counts it."""
FRACTIONS = np.linspace(0.02, 1.0, 99)
"""The parts of all that was seen which are tried as an end of the range."""


@dataclass
class Histogram:
    """How often values occur between the least and the largest, 0 among them; zeros are counted apart.

    low, high: the ends, as far as data has been `seen`. counts: [BINS], as far as it has been `counted` since.
    """

    low: float = 0.0
    high: float = 0.0
    zeros: int = 0
    counts: Floats = field(default_factory=lambda: np.zeros(BINS))

    def see(self, values: npt.ArrayLike) -> None:
        """Widens the ends to some values."""
        array = np.asarray(values)
        if array.size:
            self.low, self.high = min(self.low, float(array.min())), max(self.high, float(array.max()))

    def count(self, values: npt.ArrayLike) -> None:
        """Counts values that have been seen."""
        array = np.asarray(values, np.float64).reshape(-1)
        kept = array[array != 0]
        self.zeros += array.size - kept.size
        if kept.size:
            self.counts += np.histogram(kept, BINS, (self.low, self.high))[0]

    @property
    def edges(self) -> Floats:
        """The ends of the bins, [BINS + 1]."""
        return np.linspace(self.low, self.high, BINS + 1)

    @property
    def centres(self) -> Floats:
        """The middles of the bins, [BINS]."""
        return (self.edges[1:] + self.edges[:-1]) / 2


def minmax(histogram: Histogram, percentile: float) -> Range:
    """All that was seen."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, percentile: float) -> Range:
    """The range of `percentile` of the values, as many left out on either side."""
    counts = histogram.counts.copy()
    counts[_bin(histogram, 0.0)] += histogram.zeros
    cumulated = np.cumsum(counts)
    out = cumulated[-1] * (1 - percentile / 100) / 2
    first, last = np.searchsorted(cumulated, out, "right"), np.searchsorted(cumulated, cumulated[-1] - out)
    edges = histogram.edges
    return min(float(edges[min(first, BINS)]), 0.0), max(float(edges[min(last + 1, BINS)]), 0.0)


def mse(histogram: Histogram, percentile: float) -> Range:
    """The ends with the least squared error, each in turn, twice."""
    low, high = histogram.low, histogram.high
    occupied = histogram.counts > 0
    values, weights = histogram.centres[occupied], histogram.counts[occupied]
    for _ in range(2):
        high = min(histogram.high * FRACTIONS, key=lambda end: _squared(values, weights, low, float(end)))
        low = min(histogram.low * FRACTIONS, key=lambda end: _squared(values, weights, float(end), high))
    return float(low), float(high)


def entropy(histogram: Histogram, percentile: float) -> Range:
    """The part of all that was seen, in proportion on both sides, that loses the least information."""
    losses = [_divergence(histogram, f * histogram.low, f * histogram.high) for f in FRACTIONS]
    best = float(FRACTIONS[int(np.argmin(losses))])
    return best * histogram.low, best * histogram.high


METHODS: dict[str, Callable[[Histogram, float], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def _bin(histogram: Histogram, value: float) -> int:
    if histogram.high == histogram.low:
        return 0
    place = (value - histogram.low) / (histogram.high - histogram.low) * BINS
    return min(max(int(place), 0), BINS - 1)


def _squared(values: Floats, weights: Floats, low: float, high: float) -> float:
    """The squared error of values that are rounded to LEVELS integers between `low` and `high`."""
    if high <= low:
        return float(np.sum(weights * values**2))
    step = (high - low) / (LEVELS - 1)
    zero = round(-low / step)
    rounded = (np.clip(np.rint(values / step) + zero, 0, LEVELS - 1) - zero) * step
    return float(np.sum(weights * (values - rounded) ** 2))


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """The Kullback-Leibler divergence of the values, clipped to a range, from what LEVELS integers make of them."""
    first, last = _bin(histogram, low), _bin(histogram, high) + 1
    inside = histogram.counts[first:last]
    if last - first < LEVELS or not inside.any():
        return float("inf")
    clipped = inside.copy()
    clipped[0] += histogram.counts[:first].sum()
    clipped[-1] += histogram.counts[last:].sum()
    level = np.arange(inside.size) * LEVELS // inside.size
    sums = np.bincount(level, inside, LEVELS)
    occupied = np.bincount(level, clipped > 0, LEVELS)
    spread = np.where(clipped > 0, (sums / np.maximum(occupied, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], LEAST))))
