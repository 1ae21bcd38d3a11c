"""Resize: every mode in every system of coordinates, up and down, on every type, at run-time sizes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import sofie
from sofie import interpreter, pipeline
from sofie.errors import UnsupportedError
from sofie.frontends.onnx import load
from tests import models
from tests.numerics.cases import Case, check, run, side_by_side
from tests.numerics.levels import LEVELS

COORDINATES = (
    *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"),
    *("align_corners", "asymmetric", "tf_crop_and_resize"),
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = {"up": [1.0, 2.25, 1.625], "down": [1.0, 0.6, 0.37], "whole": [1.0, 2.0, 3.0]}
ROI = np.array([0.0, 0.1, -0.2, 1.0, 0.8, 1.3], np.float32)
X = np.random.default_rng(0).standard_normal((2, 5, 7))


def case(
    name: str,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
    x: np.ndarray = X,
    **attributes: object,
) -> Case:
    crops = attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    operands = [
        x,
        ROI if crops else None,
        None if scales is None else np.array(scales, np.float32),
        None if sizes is None else np.array(sizes, np.int64),
    ]
    while operands[-1] is None:
        operands.pop()
    return Case(name, "Resize", operands, (1, 2, 3), attributes)


def agrees(c: Case, got: np.ndarray, kind: str) -> None:
    """The reference makes the weights of cubics, and the region of a crop, in float32."""
    narrow = "cubic" in str(c.attributes) or "crop" in str(c.attributes)
    check(got, c.expected(kind), kind, 32 if narrow else 8, narrow)


def all_modes() -> list[Case]:
    found = []
    for coordinates, (factor, scales) in itertools.product(COORDINATES, SCALES.items()):
        shared = {"coordinate_transformation_mode": coordinates, "extrapolation_value": 2.5}
        name = f"{coordinates}_{factor}"
        found += [case(f"{name}_{r}", scales, mode="nearest", nearest_mode=r, **shared) for r in ROUNDINGS]
        found += [case(f"{name}_{mode}", scales, mode=mode, **shared) for mode in ("linear", "cubic")]
    return [c for c in found if c.name != MISSED]


MISSED = "half_pixel_symmetric_up_cubic"
"""The middle lies on an element, which the reference misses by a rounding and then takes the neighbours of another."""


FILTERS = [
    *(case(f"smooth_{m}_{f}", s, mode=m, antialias=1) for m in ("linear", "cubic") for f, s in SCALES.items()),
    *(case(f"excluding_{m}", SCALES["up"], mode=m, exclude_outside=1) for m in ("linear", "cubic")),
    case("smooth_excluding", SCALES["down"], mode="cubic", antialias=1, exclude_outside=1, cubic_coeff_a=-0.5),
    case("many_taps", sizes=[2, 1, 2], mode="cubic", antialias=1),
    case("steep", SCALES["up"], mode="cubic", cubic_coeff_a=-0.5),
]
SIZES = [
    case("to_sizes", sizes=[2, 9, 4], mode="linear"),
    case("to_axes", sizes=[4, 9], axes=[2, 1], mode="cubic"),
    case("not_larger", sizes=[9, 9], axes=[1, 2], mode="linear", keep_aspect_ratio_policy="not_larger"),
    case("not_smaller", sizes=[9, 9], axes=[2, 1], mode="nearest", keep_aspect_ratio_policy="not_smaller"),
    case("to_one", sizes=[2, 1, 1], mode="linear", coordinate_transformation_mode="align_corners"),
    case("from_one", sizes=[2, 4, 7], x=X[:, :1], mode="cubic", coordinate_transformation_mode="align_corners"),
    case("four_axes", sizes=[3, 4, 2, 5], x=np.random.default_rng(1).standard_normal((2, 3, 4, 2)), mode="linear"),
    case("vector", [0.4], x=X[0, 0], mode="cubic"),
    case("empty_batch", [1.0, 2.0, 2.0], x=X[:0], mode="linear"),
    case("nothing_left", [1.0, 0.1, 2.0], mode="nearest"),
]
CASES = [*all_modes(), *FILTERS, *SIZES]


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_every_mode_is_right(kind: str) -> None:
    """A position, weight or neighbour that is not the one ONNX means."""
    got = run(CASES, kind)
    for c in CASES:
        if c.name == "empty_batch":
            assert got[c.name].shape == (0, 10, 14)
        else:
            agrees(c, got[c.name], kind)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint64"])
def test_integers_are_rounded_and_stay_in_their_range(kind: str) -> None:
    """Cut instead of rounded, wrapped where a cubic overshoots, or read with the wrong sign."""
    x = (100 * X).astype("int8").astype(kind) if kind[0] == "i" else (100 + 40 * X).astype(kind)
    if kind[-1] == "8":
        x[:, :2], x[:, 2:4] = np.iinfo(kind).max, np.iinfo(kind).min
    modes = [{"mode": "nearest"}, {"mode": "linear"}, {"mode": "cubic"}, {"mode": "cubic", "antialias": 1}]
    cases = [case(f"y{k}_{f}", s, x=x, **m) for k, m in enumerate(modes) for f, s in SCALES.items()]
    got = run(cases, "float32")
    limits = np.iinfo(kind)
    for c in cases:
        exact = replace(c, operands=[x.astype("float64"), *c.operands[1:]]).expected("float64")
        assert got[c.name].dtype == np.dtype(kind)
        distance = np.abs(got[c.name].astype("float64") - np.clip(exact, limits.min, limits.max))
        assert distance.max() <= 0.5 + 1e-4


@pytest.mark.usefixtures("needs_compiler")
def test_booleans_move_as_they_are() -> None:
    """A boolean taken for a byte."""
    c = case("y", SCALES["whole"], x=X > 0, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    np.testing.assert_array_equal(run([c], "float32")["y"], (X > 0).repeat(2, 1).repeat(3, 2))


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_means_the_same(level: str) -> None:
    """A pass loses a tap, or reads a table at the wrong place."""
    cases = [c for c in CASES if c.name != "empty_batch"][::4] + FILTERS[-2:]
    model, feeds = side_by_side(cases, "float32")
    module = load(model)
    pipeline.run(module, pipeline.parse(level))
    for c, got in zip(cases, interpreter.run(module, list(feeds.values())), strict=True):
        agrees(c, np.asarray(got), "float32")


@pytest.mark.usefixtures("needs_compiler")
def test_a_single_element_lies_where_the_specification_puts_it() -> None:
    """pytorch_half_pixel to one element: position 0 by the specification, -0.5 in the reference."""
    c = case("y", sizes=[2, 1, 7], mode="cubic", coordinate_transformation_mode="pytorch_half_pixel")
    model, feeds = side_by_side([c], "float32")
    np.testing.assert_array_equal(sofie.compile(model).run(feeds)["y"], X[:, :1].astype(np.float32))


@pytest.mark.usefixtures("needs_compiler")
def test_infinity_and_nan_stay_where_they_are() -> None:
    """They spread beyond the neighbours that count."""
    x = np.array([[1.0, np.inf, 3.0, np.nan, 5.0, 6.0]])
    cases = [case("nearest", [1.0, 2.0], x=x, mode="nearest"), case("linear", [1.0, 2.0], x=x, mode="linear")]
    got = run(cases, "float32")
    np.testing.assert_array_equal(got["nearest"], x.repeat(2, 1).astype(np.float32))
    infinity, nan = np.inf, np.nan
    want = [[1, infinity, infinity, infinity, infinity, nan, nan, nan, nan, 5.25, 5.75, 6]]
    np.testing.assert_array_equal(got["linear"], np.array(want, np.float32))


def old(operator: str, opset: int, scales: list[float], mode: str) -> onnx.ModelProto:
    """A model from before Resize had an attribute for its coordinates."""
    given = {"scales": scales} if opset < 9 else {}
    node = helper.make_node(operator, ["x"] if given else ["x", "s"], ["y"], mode=mode, **given)
    weights = {} if given else {"s": np.array(scales, np.float32)}
    return models.build([node], {"x": (1, 2, 5, 6)}, ["y"], weights, opset=opset)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("operator", "opset"), [("Upsample", 7), ("Upsample", 9), ("Resize", 10)])
def test_models_of_old_opsets_keep_their_coordinates(operator: str, opset: int, mode: str) -> None:
    """The converter gives them the default of later opsets, which moves every element by a part of one."""
    model, x = old(operator, opset, [1.0, 1.0, 1.7, 2.5], mode), models.normal(1, 2, 5, 6)
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    check(sofie.compile(model).run({"x": x})["y"], want, "float32")


def moving(mode: str, **attributes: object) -> onnx.ModelProto:
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode=mode, **attributes)
    return models.build([node], {"x": ("n", 2, "h", 4)}, ["y"], {"s": np.array([1, 1, 2, 1.5], np.float32)})


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric"])
def test_run_time_axes_that_stay_or_repeat(coordinates: str) -> None:
    """Rows that are read as if the axis had the extent that was looked at when compiling."""
    rounding = "floor" if coordinates == "asymmetric" else "round_prefer_floor"
    model = moving("nearest", coordinate_transformation_mode=coordinates, nearest_mode=rounding)
    compiled = sofie.compile(model, dims={"n": (1, 4), "h": (1, 9)})
    for n, h in ((1, 1), (3, 9), (4, 5)):
        x = models.normal(n, 2, h, 4)
        want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        np.testing.assert_array_equal(compiled.run({"x": x})["y"], want)


def test_a_run_time_axis_that_is_interpolated_is_refused_with_the_remedy() -> None:
    """A traceback, or numbers for another size."""
    with pytest.raises(UnsupportedError, match=r"axis 2 needs the size h as a number; give it one with --dim"):
        sofie.compile(moving("linear"), dims={"n": 1, "h": (1, 9)})
