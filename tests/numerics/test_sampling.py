"""Operators that read between elements, over regions, or put windows back: every mode, padding and type."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import sofie
from sofie import interpreter, pipeline
from sofie.frontends.onnx import load
from tests import models
from tests.numerics.cases import Case, check, run, side_by_side
from tests.numerics.levels import LEVELS

RNG = np.random.default_rng(0)
MODES, PADDINGS = ("nearest", "linear", "cubic"), ("zeros", "border", "reflection")
IMAGE, VOLUME = RNG.standard_normal((2, 3, 5, 4)), RNG.standard_normal((1, 2, 3, 4, 2))
GRID, CUBE = RNG.uniform(-1.6, 1.6, (2, 3, 6, 2)), RNG.uniform(-1.6, 1.6, (1, 2, 3, 4, 3))


def grid_samples() -> list[Case]:
    found = []
    for mode, padding, aligned in itertools.product(MODES, PADDINGS, (0, 1)):
        attributes = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
        name = f"{mode}_{padding}_{aligned}"
        if (mode, padding) != ("cubic", "border"):  # there the reference moves positions, with a jump at the border
            found.append(Case(f"image_{name}", "GridSample", [IMAGE, GRID], attributes=attributes))
            found.append(Case(f"volume_{name}", "GridSample", [VOLUME, CUBE], attributes=attributes))
    line = [RNG.standard_normal((1, 2, 6)), RNG.uniform(-1.2, 1.2, (1, 5, 1))]
    return [*found, Case("line", "GridSample", line, attributes={"padding_mode": "reflection"})]


def affine_grids() -> list[Case]:
    flat, deep = RNG.standard_normal((2, 2, 3)), RNG.standard_normal((2, 3, 4))
    return [
        Case(f"grid_{name}_{aligned}", "AffineGrid", [theta, np.array(size)], (1,), {"align_corners": aligned})
        for aligned in (0, 1)
        for name, theta, size in (("flat", flat, [2, 3, 5, 4]), ("deep", deep, [2, 1, 3, 4, 2]))
    ]


def deformed(name: str, groups: int = 1, offset_groups: int = 1, mask: bool = False, **attributes: object) -> Case:
    x = RNG.standard_normal((2, 4, 6, 5))
    w, bias = RNG.standard_normal((6, 4 // groups, 2, 3)), RNG.standard_normal(6)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups, **attributes)
    shaped = models.build([node], {"x": x.shape, "w": w.shape}, ["y"], {})
    spots = [d.dim_value for d in onnx.shape_inference.infer_shapes(shaped).graph.output[0].type.tensor_type.shape.dim]
    offset = 2 * RNG.standard_normal((2, offset_groups * 12, *spots[2:]))
    operands = [x, w, offset, bias, RNG.uniform(0, 1, (2, offset_groups * 6, *spots[2:])) if mask else None]
    attributes |= {"group": groups, "offset_group": offset_groups}
    return Case(name, "DeformConv", operands[: 5 if mask else 4], attributes=attributes)


DEFORMED = [
    deformed("plain"),
    deformed("strided", strides=[2, 1], pads=[1, 0, 2, 1], dilations=[2, 1]),
    deformed("grouped", groups=2, offset_groups=4, mask=True),
]
EDGES = np.array([[0.3, 1.2, 20.7, 15.1], [-8.3, -3.1, 3.9, 30.2], [5.1, 4.3, 5.2, 4.4], [9.3, 8.2, 4.1, 3.3]])
IMAGES = np.array([1, 0, 1, 0])


def roi_aligns() -> list[Case]:
    settings = itertools.product(("avg", "max"), (0, 2), ("half_pixel", "output_half_pixel"))
    shared = {"output_height": 2, "output_width": 3, "spatial_scale": 0.25}
    return [
        Case(
            f"{mode}_{ratio}_{where}",
            "RoiAlign",
            [IMAGE, EDGES, IMAGES],
            attributes={**shared, "mode": mode, "sampling_ratio": ratio, "coordinate_transformation_mode": where},
        )
        for mode, ratio, where in settings
    ]


def folded(name: str, columns: tuple[int, ...], image: list[int], block: list[int], **attributes: object) -> Case:
    operands = [RNG.standard_normal(columns), np.array(image), np.array(block)]
    return Case(name, "Col2Im", operands, (1, 2), attributes)


FOLDED = [
    folded("over", (2, 12, 16), [5, 6], [2, 3]),
    folded("apart", (1, 8, 9), [6, 7], [2, 2], strides=[2, 3], pads=[1, 0, 0, 1]),
    folded("wide", (1, 4, 12), [5, 5], [2, 2], dilations=[2, 1]),
    folded("deep", (1, 16, 8), [3, 3, 3], [2, 2, 2]),
]
POOLED = RNG.standard_normal((1, 2, 2, 3))
PLACES = np.array([5, 7, 1, 12, 23, 14, 25, 34, 29, 36, 41, 47]).reshape(1, 2, 2, 3)
UNPOOLED = [
    Case("unpooled", "MaxUnpool", [POOLED, PLACES], attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case(
        "unpooled_to_shape",
        "MaxUnpool",
        [POOLED, PLACES, np.array([1, 2, 5, 7])],
        (2,),
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
]
CROPPED = [
    Case("cropped", "CenterCropPad", [IMAGE, np.array([4, 9])], (1,), {"axes": [-2, 3]}),
    Case("cropped_all", "CenterCropPad", [IMAGE, np.array([1, 5, 2, 7])], (1,)),
]
CASES = [*grid_samples(), *affine_grids(), *DEFORMED, *roi_aligns(), *FOLDED, *UNPOOLED, *CROPPED]
NARROW = ("GridSample", "DeformConv", "AffineGrid")
"""The reference computes the positions, or the result, of these in float32."""


def agrees(c: Case, got: np.ndarray, kind: str) -> None:
    narrow = c.operator in NARROW
    check(got, c.expected(kind), kind, 64 if narrow else 16, narrow)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_every_mode_is_right(kind: str) -> None:
    """A neighbour, a weight or a border that is not the one ONNX means."""
    got = run(CASES, kind)
    for c in CASES:
        agrees(c, got[c.name], kind)


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_means_the_same(level: str) -> None:
    """A pass changes what a body reads, or how long the loops in it run."""
    cases = CASES[::3]
    model, feeds = side_by_side(cases, "float32")
    module = load(model)
    pipeline.run(module, pipeline.parse(level))
    for c, got in zip(cases, interpreter.run(module, list(feeds.values())), strict=True):
        agrees(c, np.asarray(got), "float32")


def by_runtime(case: Case, opset: int, ulps: float = 16.0) -> None:
    """As near to ONNX Runtime as float32 allows."""
    model, feeds = side_by_side([case], "float32")
    model.opset_import[0].version = opset
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    check(sofie.compile(model).run(feeds)[case.name], want, "float32", ulps)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("aligned", [0, 1])
def test_cubics_have_no_jump_at_the_border(aligned: int) -> None:
    """Positions outside moved onto the border, where cubics see other neighbours."""
    attributes = {"mode": "cubic", "padding_mode": "border", "align_corners": aligned}
    by_runtime(Case("y", "GridSample", [IMAGE, GRID], attributes=attributes), 20, 64)


@pytest.mark.usefixtures("needs_compiler")
def test_max_roi_pool_is_that_of_onnx_runtime() -> None:
    """Edges rounded another way, empty bins that are not 0: the reference lacks the operator."""
    regions = np.concatenate([IMAGES[:, None], EDGES], axis=1)
    halves = np.array([[0, 2, 6, 10, 14], [1, -2, -6, 2, 2]])  # times 0.25 they lie between two elements
    rois = np.concatenate([regions, halves]).astype("float64")
    attributes = {"pooled_shape": [2, 3], "spatial_scale": 0.25}
    by_runtime(Case("y", "MaxRoiPool", [IMAGE, rois], attributes=attributes), 21, 0)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("kind", ["int8", "uint8", "int64", "bool"])
def test_integers_are_moved_and_added_exactly(kind: str) -> None:
    """Sums that lose width or sign; a boolean sum that is not an or."""
    x, columns = models.random(kind, (2, 3, 5, 4), 1), models.random(kind, (2, 12, 16), 2)
    cases = [
        *(Case(p, "GridSample", [x, GRID], attributes={"mode": "nearest", "padding_mode": p}) for p in PADDINGS),
        Case("folded", "Col2Im", [columns, np.array([5, 6]), np.array([2, 3])], (1, 2)),
        Case("cropped", "CenterCropPad", [x, np.array([7, 3])], (1,), {"axes": [2, 3]}),
    ]
    got = run(cases, "float32")
    for c in cases:
        check(got[c.name], c.expected("float32"), kind)


@pytest.mark.usefixtures("needs_compiler")
def test_positions_that_are_no_number_or_far_away_read_nothing_wrong() -> None:
    """An index made of NaN or infinity."""
    grid = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e12]).repeat(2).reshape(1, 1, 6, 2)
    cases = [
        Case(f"{m}_{p}", "GridSample", [IMAGE[:1], grid], attributes={"mode": m, "padding_mode": p})
        for m in MODES
        for p in PADDINGS
    ]
    for name, value in run(cases, "float32").items():
        assert np.isfinite(value).all(), name
        if name.endswith("zeros"):
            assert not value.any(), name


@pytest.mark.usefixtures("needs_compiler")
def test_extents_of_one_and_of_zero() -> None:
    """A division by the extent minus one; a loop over nothing."""
    one, batch = RNG.standard_normal((1, 2, 1, 1)), RNG.uniform(-3, 3, (1, 2, 2, 2))
    aligned = {"align_corners": 1}
    cases = [
        *(
            Case(f"one_{p}", "GridSample", [one, batch], attributes={"padding_mode": p, "mode": "nearest", **aligned})
            for p in ("border", "reflection")
        ),
        Case("grid", "AffineGrid", [RNG.standard_normal((1, 2, 3)), np.array([1, 1, 1, 1])], (1,), aligned),
        Case("no_batch", "GridSample", [IMAGE[:0], GRID[:0]]),
        Case("no_rois", "RoiAlign", [IMAGE, EDGES[:0], IMAGES[:0]]),
        Case("no_blocks", "Col2Im", [np.zeros((0, 4, 4)), np.array([3, 3]), np.array([2, 2])], (1, 2)),
    ]
    got = run(cases, "float32")
    for padding in ("border", "reflection"):
        np.testing.assert_array_equal(got[f"one_{padding}"], np.broadcast_to(one, (1, 2, 2, 2)).astype(np.float32))
    theta = cases[2].arrays("float32")[0]
    np.testing.assert_allclose(got["grid"][0, 0, 0], theta[0] @ [-1, -1, 1], rtol=1e-6, atol=1e-6)
    assert got["no_batch"].shape == (0, 3, 3, 6)
    assert got["no_rois"].shape == (0, 3, 1, 1)
    assert got["no_blocks"].shape == (0, 1, 3, 3)


@pytest.mark.usefixtures("needs_compiler")
def test_regions_that_are_no_number_end() -> None:
    """A loop of NaN or infinitely many steps, or an index made of one."""
    rois = np.array([[np.nan] * 4, [0, 0, np.nan, 3], [np.nan, 1, 2, 3]])
    images = np.zeros(3, np.int64)
    far = np.concatenate([rois, [[-np.inf, 0, np.inf, 3], [0, 0, 3e38, 3e38]]])
    cases = [
        Case("align", "RoiAlign", [IMAGE, rois, images], attributes={"output_width": 2}),
        Case("pool", "MaxRoiPool", [IMAGE, np.insert(far, 0, 0, 1)], attributes={"pooled_shape": [2, 2]}),
    ]
    for value in run(cases, "float32").values():
        assert not np.isinf(value).any()
