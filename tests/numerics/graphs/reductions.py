"""Rows of operators that fold, scan or order along axes."""

from __future__ import annotations

import numpy as np

from tests.numerics.graphs.graph import FLOATS, NUMBERS, WIDE, Graph
from tests.numerics.graphs.registry import Row, draws, enter

BOTH = ("float32", "float32", "float64")
EXTREMA = ("float32", "float32", "float64", "int8", "uint8", "int32", "int64", "bool")


def reduction(operator: str, kinds: tuple[str, ...]) -> Row:
    def row(g: Graph) -> None:
        x = g.value(*kinds, rank=(1, 5), fits=lambda s: min(s) > 0)
        if operator == "ReduceLogSum":
            x = g.squared(x)
        if operator == "ReduceProd" and g.kind(x) in FLOATS:
            x = g.squared(x)
        axes = g.some(g.rank(x))
        g.node(operator, [x, g.ints(*(a - g.one_of(0, g.rank(x)) for a in axes))], keepdims=int(g.flag()))

    return row


for _operator in ("ReduceSum", "ReduceProd", "ReduceL1"):
    enter(_operator, reduction(_operator, WIDE))
for _operator in ("ReduceMax", "ReduceMin"):
    enter(_operator, reduction(_operator, EXTREMA))
for _operator in ("ReduceMean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"):
    enter(_operator, reduction(_operator, BOTH))
enter("ReduceSumSquare", reduction("ReduceSumSquare", (*BOTH, "int64", "uint64")))  # the reference widens the others


def extremum(operator: str) -> Row:
    def row(g: Graph) -> None:
        x = g.value(*NUMBERS, rank=(1, 5), exact=True)
        how = {"keepdims": int(g.flag()), "select_last_index": int(g.flag())}
        g.node(operator, [x], axis=g.integer(-g.rank(x), g.rank(x) - 1), **how)

    return row


for _operator in ("ArgMax", "ArgMin"):
    enter(_operator, extremum(_operator))


def along(operator: str, kinds: tuple[str, ...], exact: bool = False) -> Row:
    """An operator with an attribute `axis` that keeps the shape."""

    def row(g: Graph) -> None:
        x = g.value(*kinds, rank=(1, 5), exact=exact)
        g.node(operator, [x], axis=g.integer(-g.rank(x), g.rank(x) - 1))

    return row


for _operator in ("Softmax", "LogSoftmax"):
    enter(_operator, along(_operator, BOTH))
enter("Hardmax", along("Hardmax", ("float32",), exact=True))


def running(operator: str) -> Row:
    def row(g: Graph) -> None:
        x = g.value(*WIDE, rank=(1, 5), fits=lambda s: max(s) < 14)
        if operator == "CumProd" and g.kind(x) in FLOATS:
            x = g.squared(x)
        axis = g.constant(np.array(g.integer(-g.rank(x), g.rank(x) - 1), g.one_of("int32", "int64")))
        g.node(operator, [x, axis], exclusive=int(g.flag()), reverse=int(g.flag()))

    return row


for _operator in ("CumSum", "CumProd"):
    enter(_operator, running(_operator))


@draws("TopK")
def top_k(g: Graph) -> None:
    """Without ties: of equal elements the reference takes any."""
    shape = g.shape(g.value(rank=(1, 4)))
    axis = g.integer(0, len(shape) - 1)
    count = g.ints(g.integer(1, shape[axis]))
    g.nodes_of("TopK", [g.spread(*shape, axis=axis), count], 2, axis=axis, largest=int(g.flag()))


@draws("NonZero")
def non_zero(g: Graph) -> None:
    x = g.value("float32", "int64", "bool", "uint8", rank=(1, 4), exact=True)
    places = g.node("NonZero", [x], found=True)
    summed(g, places)


def summed(g: Graph, x: str) -> None:
    """Its sum, a value of a size that is known."""
    if g.flag():
        g.node("ReduceSum", [x], keepdims=0)


@draws("Compress")
def compress(g: Graph) -> None:
    x = g.value("float32", "int64", "uint8", rank=(1, 4))
    axis = {"axis": g.integer(0, g.rank(x) - 1)} if g.flag() else {}
    length = g.shape(x)[axis["axis"]] if axis else int(np.prod(g.shape(x)))
    mask = g.rng.random(length) < 0.6
    mask[0] = True
    kept = g.node("Compress", [x, g.feed(mask)], found=True, **axis)
    if g.kind(x) != "uint8":
        summed(g, kept)


@draws("Unique")
def unique(g: Graph) -> None:
    x = g.fresh((g.integer(1, 9), *g.one_of((), (2,))), g.one_of("float32", "int64"))
    axis = {"axis": 0} if g.rank(x) > 1 or g.flag() else {}
    g.nodes_of("Unique", [x], 4, found=True, sorted=1, **axis)


@draws("NonMaxSuppression")
def non_max_suppression(g: Graph) -> None:
    """Corners on a lattice, thresholds off it, and scores of which no two are equal."""
    batches, classes, spots = g.integer(1, 2), g.integer(1, 2), g.integer(1, 6)
    corners = g.rng.integers(0, 8, (batches, spots, 2))
    boxes = np.concatenate([corners, corners + g.rng.integers(1, 5, corners.shape)], -1).astype(np.float32)
    scores = g.spread(batches, classes, spots)
    limits = [g.given(np.array([v], np.float32)) for v in (0.37, -0.6)]
    most = g.given(np.array([g.integer(1, spots)], np.int64))
    picked = g.node("NonMaxSuppression", [g.feed(boxes), scores, most, *limits[: g.integer(1, 2)]], found=True)
    summed(g, picked)
