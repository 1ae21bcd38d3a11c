"""Rows of resampling, regions of interest and signals; positions lie off the lattice where a mode rounds them."""

from __future__ import annotations

import numpy as np

from tests.numerics.graphs.graph import UNFOLDED, Graph
from tests.numerics.graphs.registry import Row, draws, enter


def small(s: tuple[int, ...]) -> bool:
    return min(s) > 0 and max(s) < 14


@draws("Resize")
def resize(g: Graph) -> None:
    x = g.value(rank=(1, 4), fits=small)
    shape = tuple(g.integer(1, 2 * e + 1) if g.rng.random() < 0.5 else e for e in g.shape(x))
    coordinates = g.one_of("half_pixel", "align_corners", "asymmetric")
    mode = g.one_of("nearest", "linear", "cubic")
    filters = {"antialias": int(g.flag())} if mode != "nearest" else {}
    inputs = [x, "", "", g.ints(*shape)]
    g.node("Resize", inputs, mode=mode, coordinate_transformation_mode=coordinates, **filters)


@draws("GridSample")
def grid_sample(g: Graph) -> None:
    x = g.value(rank=(3, 5), fits=small)
    batch, _, *spatial = g.shape(x)
    grid = g.given(
        g.rng.uniform(-1.3, 1.3, (batch, *(g.integer(1, 4) for _ in spatial), len(spatial))).astype(np.float32)
    )
    g.node("GridSample", [x, grid], mode=g.one_of("nearest", "linear"), padding_mode=g.one_of("zeros", "border"))


@draws("AffineGrid")
def affine_grid(g: Graph) -> None:
    axes, batch = g.integer(2, 3), g.integer(1, 2)
    size = g.ints(batch, 1, *(g.integer(2, 4) for _ in range(axes)))
    theta = g.feed(g.random((batch, axes, axes + 1), "float32"))
    g.node("AffineGrid", [theta, size], align_corners=int(g.flag()))


def regions(g: Graph, count: int) -> np.ndarray:
    """Left, top, right, bottom: within some pixels, off the halves."""
    corners = g.rng.integers(0, 5, (count, 2)) + 0.2
    return np.concatenate([corners, corners + g.rng.integers(1, 6, (count, 2)) + 0.1], 1).astype(np.float32)


def picture(g: Graph) -> str:
    return g.value(rank=(4, 4), fits=lambda s: small(s) and min(s[2:]) > 2, shape=(2, 3, 4, 5))


@draws("RoiAlign")
def roi_align(g: Graph) -> None:
    x, count = picture(g), g.integer(1, 3)
    images = g.given(g.rng.integers(0, g.shape(x)[0], count))
    how = {"output_height": g.integer(1, 2), "output_width": g.integer(1, 3), "sampling_ratio": g.integer(0, 2)}
    g.node("RoiAlign", [x, g.given(regions(g, count)), images], mode=g.one_of("avg", "max"), spatial_scale=0.5, **how)


@draws("MaxRoiPool")
def max_roi_pool(g: Graph) -> None:
    x, count = picture(g), g.integer(1, 3)
    images = g.rng.integers(0, g.shape(x)[0], (count, 1)).astype(np.float32)
    rois = g.given(np.concatenate([images, regions(g, count)], 1))
    g.node("MaxRoiPool", [x, rois], pooled_shape=[g.integer(1, 2), g.integer(1, 3)])


# -- signals -----------------------------------------------------------------------------------------------------


@draws("DFT")
def dft(g: Graph) -> None:
    x = g.value(rank=(1, 4), fits=small)
    shape = (*g.shape(x), 1)
    signal, axis = g.node("Reshape", [x, g.ints(*shape)]), g.integer(0, len(shape) - 2)
    g.node("DFT", [signal, "", g.constant(np.array(axis))], onesided=int(g.flag()))


@draws("STFT")
def stft(g: Graph) -> None:
    batch, length, frame = g.integer(1, 2), g.integer(8, 20), g.integer(2, 8)
    signal = g.feed(g.random((batch, length, 1), "float32"))
    window = g.given(g.rng.uniform(0, 1, frame).astype(np.float32))
    step = g.constant(np.array(g.integer(1, 5)))
    g.node("STFT", [signal, step, window], onesided=int(g.flag()))


def window(operator: str) -> Row:
    """Part of a window that is too long to be folded."""

    def row(g: Graph) -> None:
        size, x = UNFOLDED + g.integer(0, 9), g.fresh((g.integer(2, 13),))
        made = g.node(operator, [g.constant(np.array(size))], periodic=int(g.flag()), output_datatype=1)
        for start in (g.one_of(0, size // 3), size - g.shape(x)[0]):
            g.node("Mul", [g.part(made, start, g.shape(x)[0]), x])

    return row


for _operator in ("HannWindow", "HammingWindow", "BlackmanWindow"):
    enter(_operator, window(_operator))


@draws("MelWeightMatrix")
def mel_weight_matrix(g: Graph) -> None:
    """Some columns of a matrix that is too large to be folded."""
    bins, length, rate, low, high = 80, g.one_of(128, 400), 16000, g.one_of(0.0, 20.0), 8000.0
    numbers = [g.constant(np.array(n)) for n in (bins, length, rate)]
    edges = [g.constant(np.array(e, np.float32)) for e in (low, high)]
    made = g.node("MelWeightMatrix", [*numbers, *edges])
    for start in (g.integer(0, bins - 4), bins - 3):
        columns = g.node("Slice", [made, g.ints(start), g.ints(start + 3), g.ints(1)])
        g.node("Mul", [columns, g.fresh((3,))])
