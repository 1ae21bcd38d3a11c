"""Rows of products, convolutions and poolings."""

from __future__ import annotations

import numpy as np

from tests.numerics.graphs.graph import WIDE, Graph
from tests.numerics.graphs.registry import Row, draws, enter

BOTH = ("float32", "float32", "float64")


@draws("Gemm")
def gemm(g: Graph) -> None:
    x = g.value("float32", "float32", "float64", rank=(2, 2), fits=lambda s: s[0] < 20 and min(s) > 0)
    kind, (m, k) = g.kind(x), g.shape(x)
    n = g.one_of(1, 3, 4, 8, 17, 20)
    flip_a, flip_b = g.flag(), g.flag()
    if flip_a:
        m, k = k, m
    inputs = [x, g.operand(*((n, k) if flip_b else (k, n)), kind=kind)]
    if g.flag():
        inputs.append(g.operand(*g.one_of((n,), (1, n), (m, 1), (m, n), (1,)), kind=kind))
    alpha, beta = g.one_of(1.0, 0.5), g.one_of(1.0, 0.5)
    g.node("Gemm", inputs, transA=int(flip_a), transB=int(flip_b), alpha=alpha, beta=beta)


@draws("MatMul")
def matmul(g: Graph) -> None:
    x = g.value(*WIDE, rank=(1, 4))
    *lead, k = g.shape(x)
    n, batch = g.one_of(1, 5, 8, 19), lead[:-1] if g.flag() else []
    other = g.operand(*batch, k, n, kind=g.kind(x)) if g.integer(0, 5) else g.operand(k, kind=g.kind(x))
    g.node("MatMul", [x, other])


EQUATIONS = {
    1: ("i,i->", "i,j->ij", "i,j->ji"),
    2: ("ij,jk->ik", "ij,kj->ki", "ij,j", "ij->ji", "ij->j", "ij,ij->i"),
    3: ("bij,bjk->bik", "bij,j->bi", "bij->bji", "bij,bj->i", "...ij,...jk"),
}


@draws("Einsum")
def einsum(g: Graph) -> None:
    x = g.value(*BOTH, "int32", rank=(1, 3), fits=lambda s: max(s) < 14)
    equation = g.one_of(*EQUATIONS[g.rank(x)])
    terms = equation.split("->")[0].replace("...", "b").split(",")
    extents = dict(zip(terms[0], g.shape(x), strict=True))
    others = [g.operand(*(extents.setdefault(letter, 3) for letter in term), kind=g.kind(x)) for term in terms[1:]]
    g.node("Einsum", [x, *others], equation=equation)


@draws("Det")
def det(g: Graph) -> None:
    """Far from singular: a diagonal that outweighs the rest."""
    n, batch = g.integer(1, 4), g.one_of((), (3,), (2, 2))
    near = g.node("Tanh", [g.fresh((*batch, n, n), g.one_of("float32", "float64"))])
    g.node("Det", [g.node("Add", [near, g.constant(3 * np.eye(n, dtype=g.kind(near)))])])


# -- windows -----------------------------------------------------------------------------------------------------


def image(g: Graph, low: int = 3, high: int = 5, least: int = 1, kind: str = "float32") -> str:
    """A batch of channels over one to three axes, not too long."""
    shape = (2, 3, 4, 5, 4)[:high] if least < 5 else (1, 2, 5, 6)
    return g.value(
        kind, rank=(low, high), fits=lambda s: min(s) > 0 and min(s[2:]) >= least and max(s) < 14, shape=shape
    )


def window(g: Graph, extents: tuple[int, ...]) -> dict[str, list[int]]:
    kernel = [g.integer(1, min(3, e)) for e in extents]
    return {
        "kernel_shape": kernel,
        "strides": [g.integer(1, 2) for _ in extents],
        "dilations": [g.integer(1, 2) if e >= 2 * (k - 1) + 1 else 1 for k, e in zip(kernel, extents, strict=True)],
        "pads": [g.integer(0, k - 1) for k in (*kernel, *kernel)],
    }


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@draws("Conv")
def conv(g: Graph) -> None:
    x = image(g)
    channels, *extents = g.shape(x)[1:]
    how, group = window(g, tuple(extents)), g.one_of(*divisors(channels))
    out = group * g.one_of(1, 2, 5, 8)
    bias = [g.operand(out)] if g.flag() else []
    g.node("Conv", [x, g.operand(out, channels // group, *how["kernel_shape"]), *bias], group=group, **how)


@draws("ConvTranspose")
def conv_transpose(g: Graph) -> None:
    x = image(g, high=4)
    channels, *extents = g.shape(x)[1:]
    kernel, strides = [g.integer(1, 3) for _ in extents], [g.integer(1, 2) for _ in extents]
    extra = [g.integer(0, step - 1) for step in strides]
    group, out = g.one_of(*divisors(channels)), g.one_of(1, 2, 5)
    biased = group == 1 and g.flag()  # onnx.reference gives every group the bias of the first
    inputs = [x, g.operand(channels, out, *kernel)] + ([g.operand(out)] if biased else [])
    g.node("ConvTranspose", inputs, group=group, kernel_shape=kernel, strides=strides, output_padding=extra)


@draws("DeformConv")
def deform_conv(g: Graph) -> None:
    x = g.value(rank=(4, 4), fits=lambda s: min(s) > 0 and min(s[2:]) > 1 and max(s) < 10, shape=(1, 2, 5, 4))
    batch, channels, *extents = g.shape(x)
    kernel = [g.integer(1, 2) for _ in extents]
    spots = [e - k + 1 for e, k in zip(extents, kernel, strict=True)]
    taps, out = int(np.prod(kernel)), g.integer(1, 3)
    offset = g.given(g.rng.uniform(-1, 1, (batch, 2 * taps, *spots)).astype(np.float32))
    inputs = [x, g.operand(out, channels, *kernel), offset]
    if g.flag():
        inputs.append(g.operand(out))
        inputs += [g.operand(batch, taps, *spots)] if g.flag() else []
    g.node("DeformConv", inputs, kernel_shape=kernel)


def pool(operator: str) -> Row:
    def row(g: Graph) -> None:
        x = image(g)
        extents = g.shape(x)[2:]
        how: dict[str, object] = dict(window(g, extents))
        roomy = min(extents) >= 4  # onnx.reference drops windows of small or unevenly padded inputs
        pads = [g.integer(0, k - 1) if roomy else 0 for k in how["kernel_shape"]]
        if operator == "MaxPool" and {*how["strides"], *how["dilations"]} == {1}:
            pads = [min(pads)] * len(pads)  # else onnx.reference takes an end of one axis for the start of another
        how["pads"] = pads * 2
        if operator == "AveragePool":
            how["count_include_pad"] = int(g.flag())
        if operator == "LpPool":
            how["p"] = g.one_of(1, 2, 3)
        g.node(operator, [x], **how)

    return row


for _operator in ("MaxPool", "AveragePool", "LpPool"):
    enter(_operator, pool(_operator))


def global_pool(operator: str) -> Row:
    def row(g: Graph) -> None:
        ranks = (4, 4) if operator == "GlobalMaxPool" else (3, 5)  # the reference pools over two axes
        x = g.value(*BOTH, rank=ranks, fits=lambda s: min(s) > 0)
        g.node(operator, [x], **({"p": g.one_of(1, 2, 3)} if operator == "GlobalLpPool" else {}))

    return row


for _operator in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
    enter(_operator, global_pool(_operator))


@draws("LRN")
def lrn(g: Graph) -> None:
    x = g.value(rank=(3, 4), fits=lambda s: 0 < min(s) and max(s) < 14)
    g.node("LRN", [x], size=g.one_of(1, 3, 5), alpha=0.1, beta=0.75, bias=1.0)


@draws("MaxUnpool")
def max_unpool(g: Graph) -> None:
    """Windows that do not overlap: each element has a place of its own."""
    n, c, *extents = g.integer(1, 2), g.integer(1, 2), *(g.integer(1, 3) for _ in range(2))
    whole = [2 * e for e in extents]
    spots = []
    for _ in range(n * c):
        corners = np.arange(int(np.prod(whole))).reshape(extents[0], 2, extents[1], 2).transpose(0, 2, 1, 3)
        chosen = g.rng.integers(0, 4, extents)
        spots.append(np.take_along_axis(corners.reshape(*extents, 4), chosen[..., None], -1)[..., 0])
    size = int(np.prod(whole))
    indices = np.stack(spots).reshape(n, c, *extents) + size * np.arange(n * c).reshape(n, c, 1, 1)
    g.node("MaxUnpool", [g.operand(n, c, *extents), g.feed(indices)], kernel_shape=[2, 2], strides=[2, 2])


@draws("Col2Im")
def col2im(g: Graph) -> None:
    n, c, image_shape = g.integer(1, 2), g.integer(1, 2), [g.integer(2, 5), g.integer(2, 5)]
    block, strides = [g.integer(1, 2), g.integer(1, 2)], [g.integer(1, 2), g.integer(1, 2)]
    steps = [(e - k) // s + 1 for e, k, s in zip(image_shape, block, strides, strict=True)]
    columns = g.operand(n, c * int(np.prod(block)), int(np.prod(steps)), kind=g.one_of("float32", "float64", "int32"))
    if columns.startswith("w"):
        columns = g.feed(g.array(columns))
    g.node("Col2Im", [columns, g.ints(*image_shape), g.ints(*block)], strides=strides)
