"""What a quantisation costs: signal-to-noise ratios of values, and the metric that the model is made for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sofie.demo.events import roc_auc
from sofie.errors import SofieError
from sofie.weights import Array


@dataclass
class Noise:
    """Sums of squares of a value and of what it is off, over all that is added."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, exact: Array, rounded: Array) -> None:
        """Adds arrays of one shape."""
        expected, difference = exact.astype(np.float64), rounded.astype(np.float64) - exact.astype(np.float64)
        self.signal += float(np.sum(expected**2))
        self.noise += float(np.sum(difference**2))

    @property
    def decibels(self) -> float:
        """The signal-to-noise ratio, 10 log10 of the powers; infinite without noise."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf


def auc(scores: Array, labels: Array) -> float:
    """The area under the ROC curve; scores are [n], [n, 1], or [n, 2] with the signal's second."""
    flat = scores.reshape(len(scores), -1)
    if flat.shape[1] > 2:
        raise SofieError(
            f"the metric auc needs one score a row, or two, and the output has {flat.shape[1]}: use accuracy"
        )
    try:
        return roc_auc(flat[:, -1], labels)
    except ValueError as error:
        raise SofieError(f"the metric auc: {error}") from error


def accuracy(scores: Array, labels: Array) -> float:
    """The part of rows whose largest score is their label's; a single score above 0.5 is label 1."""
    flat = scores.reshape(len(scores), -1)
    if scores.dtype.kind in "iub":
        chosen = flat[:, 0]
    else:
        chosen = flat.argmax(axis=1) if flat.shape[1] > 1 else np.greater(flat[:, 0], 0.5)
    return float(np.mean(chosen == labels.reshape(-1)))


METRICS: dict[str, Callable[[Array, Array], float]] = {"auc": auc, "accuracy": accuracy}


@dataclass(frozen=True)
class Metric:
    """A metric of the first output on all data, before and after."""

    name: str
    before: float
    after: float


@dataclass
class Scores:
    """The first outputs of two models, row by row."""

    before: list[Array] = field(default_factory=list)
    after: list[Array] = field(default_factory=list)

    def metric(self, name: str, labels: Array) -> Metric:
        """The metric of both. Raises SofieError where the labels do not fit."""
        before, after = _joined(self.before), _joined(self.after)
        if len(labels) < len(before):
            raise SofieError(f"there are {len(labels)} labels for {len(before)} rows of the first output: give as many")
        used = labels[: len(before)]
        return Metric(name, METRICS[name](before, used), METRICS[name](after, used))


def _joined(parts: Sequence[Array]) -> Array:
    return np.concatenate([np.atleast_1d(part) for part in parts])
