"""Each way to choose a range, on values of a known distribution; and the numbers that follow from a range."""

from __future__ import annotations

import numpy as np
import pytest

from sofie.quantization import parameters
from sofie.quantization.ranges import METHODS, Histogram, Range

RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal(200_000)


def chosen(method: str, values: np.ndarray, percentile: float = 99.99) -> Range:
    """The range of values that come in two pieces."""
    histogram = Histogram()
    for action in (histogram.see, histogram.count):
        for piece in np.array_split(values, 2):
            action(piece)
    return METHODS[method](histogram, percentile)


def error(values: np.ndarray, ends: Range) -> float:
    numbers = parameters.of_range(*ends, "uint8")
    restored = (numbers.quantized(values).astype(np.float64) - numbers.zero) * float(numbers.scale)
    return float(np.mean((values - restored) ** 2))


def test_minmax_is_all_that_was_seen() -> None:
    assert chosen("minmax", NORMAL) == (NORMAL.min(), NORMAL.max())
    assert chosen("minmax", np.abs(NORMAL) + 1) == (0, np.abs(NORMAL).max() + 1)
    assert chosen("minmax", -np.abs(NORMAL) - 1) == (-np.abs(NORMAL).max() - 1, 0)


@pytest.mark.parametrize("percentile", [90, 99, 99.9])
def test_percentile_is_that_of_numpy(percentile: float) -> None:
    """Half of what is left out lies on either side."""
    out = (100 - percentile) / 2
    expected = np.percentile(NORMAL, [out, 100 - out])
    bin_width = (NORMAL.max() - NORMAL.min()) / 8192
    np.testing.assert_allclose(chosen("percentile", NORMAL, percentile), expected, atol=2 * bin_width)


def test_percentile_counts_zeros() -> None:
    """Behind a Relu half of the values are 0, and they are values as well."""
    halved = np.maximum(NORMAL, 0)
    low, high = chosen("percentile", halved, 98)
    assert low == 0
    assert high == pytest.approx(np.percentile(halved, 99), abs=2e-3)


def test_mse_is_the_best_range_of_a_normal_distribution() -> None:
    """The optimal step of a uniform quantiser of 256 levels is 0.0308 sigma (Hui and Neuhoff 2001, table 1)."""
    low, high = chosen("mse", NORMAL)
    assert (high - low) / 255 == pytest.approx(0.0308, rel=0.05)
    best = error(NORMAL, (low, high))
    for factor in (0.85, 0.92, 1.08, 1.15):
        assert error(NORMAL, (low * factor, high * factor)) > best


@pytest.mark.parametrize(
    "values",
    [NORMAL, np.append(NORMAL, 40.0), np.maximum(NORMAL, 0), RNG.laplace(1, 1, 100_000)],
    ids=["normal", "an outlier", "half normal", "two exponentials"],
)
def test_no_other_way_has_a_smaller_squared_error_than_mse(values: np.ndarray) -> None:
    errors = {method: error(values, chosen(method, values)) for method in METHODS}
    assert errors["mse"] <= 1.001 * min(errors.values())
    assert errors["mse"] < 0.99 * errors["minmax"]


def test_mse_keeps_a_box() -> None:
    np.testing.assert_allclose(chosen("mse", RNG.uniform(-1, 3, 100_000)), (-1, 3), atol=0.01)


def test_entropy_cuts_off_lone_outliers() -> None:
    low, high = chosen("entropy", np.append(NORMAL, [60.0, -60.0]))
    assert high < 12 and low > -12


@pytest.mark.parametrize("ends", [(-1, 3), (-3, 0), (0, 3)])
def test_entropy_keeps_a_box(ends: Range) -> None:
    """It has no tail that could be left out, on either side."""
    np.testing.assert_allclose(chosen("entropy", RNG.uniform(*ends, 400_000)), ends, rtol=0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values", [np.zeros(10), np.zeros(0), np.full(9, 2.5), np.full(9, -1e-30), NORMAL[:3], np.maximum(NORMAL, 0)]
)
def test_every_range_holds_zero_and_is_within_what_was_seen(method: str, values: np.ndarray) -> None:
    low, high = chosen(method, values)
    assert values.min(initial=0) <= low <= 0 <= high <= values.max(initial=0)
    numbers = parameters.of_range(low, high, "uint8")
    assert numbers.scale > 0 and np.isfinite(numbers.scale)
    assert numbers.quantized(np.zeros(1))[0] == numbers.zero


def test_numbers_of_a_range() -> None:
    numbers = parameters.of_range(-1, 3, "uint8")
    assert (numbers.zero, numbers.kind) == (64, "uint8") and numbers.scale == np.float32(4 / 255)
    assert numbers.quantized([-9, -1, 0, 3, 9]).tolist() == [0, 0, 64, 255, 255]
    signed = parameters.of_range(-1, 3, "int8")
    assert signed.zero == -64 and signed.quantized([-9, 0, 9]).tolist() == [-128, -64, 127]
    assert parameters.of_range(0, 6, "uint8").zero == 0


def test_halves_are_rounded_to_even() -> None:
    numbers = parameters.Parameters(np.float32(1), 0, "uint8")
    assert numbers.quantized([0.5, 1.5, 2.5]).tolist() == [0, 2, 2]


def test_weights_of_a_channel_share_a_scale() -> None:
    weights = np.array([[1.27, -0.5], [0.0, 0.0], [-254.0, 2.0]], np.float32)
    integers, scale = parameters.channels(weights, 0)
    assert integers.tolist() == [[127, -50], [0, 0], [-127, 1]]
    np.testing.assert_allclose(scale, [0.01, 1, 2], rtol=1e-6)
    integers, scale = parameters.channels(weights, 0, kind="int7")
    assert integers.tolist() == [[64, -25], [0, 0], [-64, 1]]
    integers, scale = parameters.channels(weights, None)
    assert scale.shape == () and integers.tolist() == [[1, 0], [0, 0], [-127, 1]]


def test_weights_make_room_for_their_bias() -> None:
    """A bias that is huge beside its channel's weights would overflow int32."""
    weights, bias = np.array([[1e-9], [1.0]], np.float32), np.array([5.0, 5.0], np.float32)
    _, scale = parameters.channels(weights, 0, parameters.least_scale(bias, np.float32(0.01)))
    integers = parameters.bias(bias, np.float32(0.01) * scale)
    assert np.abs(integers).max() <= parameters.LARGEST_BIAS
    np.testing.assert_allclose(integers * (np.float32(0.01) * scale), bias, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_of_four_bits(axis: int) -> None:
    """The last block is shorter; a scale is never worse than the largest weight over 7."""
    weights = RNG.standard_normal((5, 50)).astype(np.float32)
    weights[2] = 0
    if axis == 0:
        weights = np.ascontiguousarray(weights.T)
    integers, scales = parameters.blocks(weights, axis, 16)
    assert scales.shape == ((4, 5) if axis == 0 else (5, 4)) and str(integers.dtype) == "int4"
    restored = integers.astype(np.float32) * np.repeat(scales, 16, axis)[tuple(map(slice, weights.shape))]
    rows, back = (a if axis else a.T for a in (weights, restored))
    for start in range(0, 50, 16):
        block, found = rows[:, start : start + 16], back[:, start : start + 16]
        unit = np.maximum(np.abs(block).max(axis=1, keepdims=True), 1e-9) / 7
        plain = np.clip(np.rint(block / unit), -8, 7) * unit
        assert np.all(((block - found) ** 2).sum(axis=1) <= ((block - plain) ** 2).sum(axis=1) * 1.0001)
        assert np.all(np.abs(block - found).max(axis=1) <= 1.2 * unit[:, 0])
