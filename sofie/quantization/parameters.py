"""Scales, zero points and integers: of activations, a pair a tensor; of weights, a scale for a channel or block."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from sofie.weights import Array

Floats = npt.NDArray[np.float64]

LARGEST = {"int8": 127, "int7": 64}
"""Of weights, up and down."""
BOUNDS = {"uint8": (0, 255), "int8": (-128, 127), "int4": (-8, 7), "int32": (-(2**31), 2**31 - 1)}
"""The least and the largest integer of each type that is used."""

LARGEST_BIAS = 2**30
"""Biases are kept below it, so that sums of products have room in int32 beside them."""

PARTS = np.linspace(0.65, 1.0, 15)
"""The scales of 4 bits that are tried, in units of the largest weight of a block over 7."""


@dataclass(frozen=True)
class Parameters:
    """The numbers of one tensor: `value = scale * (integer - zero)`; scale is float32, zero an integer of `kind`."""

    scale: np.float32
    zero: int
    kind: str

    def quantized(self, values: npt.ArrayLike) -> Array:
        """The integers of some values: rounded half to even and saturated (QuantizeLinear 21)."""
        moved = np.rint(np.asarray(values, np.float32) / self.scale) + np.float32(self.zero)
        integers: Array = np.clip(moved, *BOUNDS[self.kind]).astype(self.kind)
        return integers

    def saturates(self, low: float, high: float) -> bool:
        """Whether clipping values to [low, high] changes no integer: they end there anyhow."""
        ends = np.rint(np.array([low, high], np.float32) / self.scale) + self.zero
        least, largest = BOUNDS[self.kind]
        return bool(ends[0] <= least and ends[1] >= largest)


def of_range(low: float, high: float, kind: str) -> Parameters:
    """The parameters for values between `low` and `high`, 0 among them, which is an integer exactly."""
    least, largest = BOUNDS[kind]
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / (largest - least))
    if not scale > np.finfo(np.float32).tiny:  # nothing but 0 was seen, or next to it
        return Parameters(np.float32(1), 0 if least < 0 else least, kind)
    return Parameters(scale, int(np.clip(round(least - low / float(scale)), least, largest)), kind)


def channels(weights: Array, axis: int | None, least: Floats | float = 0.0, kind: str = "int8") -> tuple[Array, Array]:
    """Weights as int8, and their float32 scales: [channels] along `axis`, [] without one.

    `least` bounds the scales from below; kind: one of `LARGEST`, which bounds the integers.
    """
    values = weights.astype(np.float64)
    others = tuple(a for a in range(values.ndim) if a != axis)
    largest = np.abs(values).max(axis=None if axis is None else others, initial=0.0)
    scale = np.maximum(np.maximum(largest / LARGEST[kind], least), 0.0).astype(np.float32)
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)
    shape = [1] * values.ndim if axis is None else [-1 if a == axis else 1 for a in range(values.ndim)]
    integers = np.clip(np.rint(values / scale.astype(np.float64).reshape(shape)), -LARGEST[kind], LARGEST[kind])
    return integers.astype(np.int8), scale


def blocks(weights: Array, axis: int, block: int) -> tuple[Array, Array]:
    """Weights as int4, and their float32 scales: one for each `block` along `axis`, the last may be shorter.

    Each scale has the least squared error among `PARTS`.
    """
    values = np.moveaxis(weights.astype(np.float64), axis, -1)
    *others, length = values.shape
    count = -(-length // block)
    padded = np.zeros((*others, count * block))
    padded[..., :length] = values
    grouped = padded.reshape(*others, count, block)
    unit = np.abs(grouped).max(axis=-1, keepdims=True) / 7
    unit = np.where(unit > np.finfo(np.float32).tiny, unit, 1.0)
    best, error = unit, np.full_like(unit, np.inf)
    for part in PARTS:
        scale = (unit * part).astype(np.float32).astype(np.float64)
        missed = ((_four_bits(grouped, scale) * scale - grouped) ** 2).sum(axis=-1, keepdims=True)
        best, error = np.where(missed < error, scale, best), np.minimum(missed, error)
    integers = _four_bits(grouped, best).reshape(padded.shape)[..., :length]
    scales = best[..., 0].astype(np.float32)
    return np.moveaxis(integers, -1, axis).astype(ml_dtypes.int4), np.ascontiguousarray(np.moveaxis(scales, -1, axis))


def _four_bits(values: Floats, scale: Floats) -> Floats:
    return np.clip(np.rint(values / scale), *BOUNDS["int4"])


def bias(values: Array, scale: Array) -> Array:
    """A bias as int32 of this scale, which is that of the sums of products."""
    integers = np.rint(values.astype(np.float64) / scale.astype(np.float64))
    return np.clip(integers, *BOUNDS["int32"]).astype(np.int32)


def least_scale(values: Array, scale: np.float32) -> Floats:
    """The least scale of each channel's weights for which its bias has room, where inputs have `scale`."""
    return np.abs(values.astype(np.float64)) / (float(scale) * LARGEST_BIAS)
