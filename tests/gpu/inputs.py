"""Inputs that follow from their places, so that the card's machine draws the same without a file; see harness.hxx."""

from __future__ import annotations

import numpy as np

from sofie.weights import Array

INDICES = 64
"""Integers are below this: the suite's are tokens and neighbours of one of 64 particles."""


def drawn(number: int, places: Array, dtype: np.dtype[np.generic]) -> Array:
    """Elements of an input, by its number in the first set of inputs: nearly normal floats, or small integers."""
    bits = _scrambled(np.asarray(places, np.uint64) + np.uint64(number << 40))
    if dtype.kind != "f":
        return (bits % np.uint64(INDICES)).astype(dtype)
    total = sum((bits >> np.uint64(shift)) & np.uint64(65535) for shift in (0, 16, 32, 48))
    centred = np.asarray(total, np.int64) - 131070
    return centred.astype(np.float32) * (np.float32(1) / np.float32(37837))


def _scrambled(place: Array) -> Array:
    """splitmix64."""
    with np.errstate(over="ignore"):
        z = (place + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
