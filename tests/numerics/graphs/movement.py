"""Rows of operators that move, repeat, pick and put elements."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.numerics.graphs.graph import ALL, FLOATS, UNFOLDED, Graph, code
from tests.numerics.graphs.registry import draws


@draws("Transpose")
def transpose(g: Graph) -> None:
    x = g.value(*ALL, rank=(2, 5))
    g.node("Transpose", [x], perm=list(g.draw(st.permutations(range(g.rank(x))))))


@draws("Reshape")
def reshape(g: Graph) -> None:
    x = g.value(*ALL)
    size, shape = int(np.prod(g.shape(x))), []
    for _ in range(g.integer(0, 3)):
        factor = g.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        shape.append(factor)
        size //= factor
    g.node("Reshape", [x, g.ints(*shape, g.one_of(size, -1))])


@draws("Flatten")
def flatten(g: Graph) -> None:
    x = g.value(*ALL)
    g.node("Flatten", [x], axis=g.integer(0, g.rank(x)))


@draws("Unsqueeze")
def unsqueeze(g: Graph) -> None:
    x = g.value(*ALL, rank=(0, 4))
    g.node("Unsqueeze", [x, g.ints(g.integer(-g.rank(x) - 1, g.rank(x)))])


def with_one(g: Graph) -> str:
    """A value with an extent of 1."""
    return g.value(*ALL, rank=(1, 5), fits=lambda s: 1 in s, shape=(1, 3, 1, 2))


@draws("Squeeze")
def squeeze(g: Graph) -> None:
    x = with_one(g)
    g.node("Squeeze", [x, g.ints(g.shape(x).index(1))] if g.flag() else [x])


@draws("Expand")
def expand(g: Graph) -> None:
    x = with_one(g)
    g.node("Expand", [x, g.ints(*(g.integer(1, 4) if e == 1 else e for e in g.shape(x)))])


@draws("Concat")
def concat(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 5))
    axis = g.integer(0, g.rank(x) - 1)

    def fits(name: str) -> bool:
        v = g.values[name]
        same = v.open and v.kind == g.kind(x) and len(v.shape) == g.rank(x)
        return same and all(a == axis or e == g.shape(x)[a] for a, e in enumerate(v.shape))

    parts = [x, *(g.draw(st.sampled_from([n for n in g.values if fits(n)])) for _ in range(g.integer(0, 2)))]
    shape = [g.integer(1, 3) if a == axis else e for a, e in enumerate(g.shape(x))]
    parts.insert(g.integer(0, len(parts)), g.operand(*shape, kind=g.kind(x)))
    g.node("Concat", parts, axis=axis - g.one_of(0, g.rank(x)))


@draws("Slice")
def slice_(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 5), fits=lambda s: min(s) > 0)
    axis = g.integer(0, g.rank(x) - 1)
    extent, step = g.shape(x)[axis], g.one_of(1, 1, 2, -1, -2)
    first, last = sorted((g.integer(0, extent - 1), g.integer(0, extent - 1)))
    start, stop = (first, last + 1) if step > 0 else (last, first - 1 if first else -extent - 1)
    g.node("Slice", [x, g.ints(start), g.ints(stop), g.ints(axis), g.ints(step)])


@draws("Pad")
def pad(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 5), fits=lambda s: min(s) > 0)
    mode = g.one_of("constant", "reflect", "edge", "wrap")
    most = [2 if mode in ("constant", "edge") else max(e - 1, 0) for e in g.shape(x)]
    amounts = [g.integer(0, min(m, 2)) for m in (*most, *most)]
    fill = [g.given(np.array(1.5, g.kind(x)))] if mode == "constant" and g.flag() else []
    g.node("Pad", [x, g.ints(*amounts), *fill], mode=mode)


@draws("Split")
def split(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 5), fits=lambda s: max(s) >= 2)
    axis = int(np.argmax(g.shape(x)))
    first = g.integer(1, g.shape(x)[axis] - 1)
    if g.flag():
        g.nodes_of("Split", [x], 2, axis=axis, num_outputs=2)
    else:
        g.nodes_of("Split", [x, g.ints(first, g.shape(x)[axis] - first)], 2, axis=axis)


@draws("Tile")
def tile(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 4))
    g.node("Tile", [x, g.ints(*(g.integer(1, 2) for _ in g.shape(x)))])


@draws("Trilu")
def trilu(g: Graph) -> None:
    x = g.value(*ALL, rank=(2, 5))
    g.node("Trilu", [x, g.given(np.array(g.integer(-2, 2)))], upper=int(g.flag()))


@draws("CenterCropPad")
def center_crop_pad(g: Graph) -> None:
    x = g.value("float32", "int64", rank=(1, 4))
    axes = g.some(g.rank(x))
    g.node("CenterCropPad", [x, g.ints(*(g.integer(1, g.shape(x)[a] + 3) for a in axes))], axes=axes)


@draws("DepthToSpace")
def depth_to_space(g: Graph) -> None:
    x = g.value(*ALL, rank=(4, 4), fits=lambda s: s[1] % 4 == 0, shape=(1, 8, 2, 3))
    g.node("DepthToSpace", [x], blocksize=2, mode=g.one_of("DCR", "CRD"))


@draws("SpaceToDepth")
def space_to_depth(g: Graph) -> None:
    x = g.value(*ALL, rank=(4, 4), fits=lambda s: s[2] % 2 == s[3] % 2 == 0, shape=(2, 2, 4, 2))
    g.node("SpaceToDepth", [x], blocksize=2)


# -- at places that other values tell ----------------------------------------------------------------------------


def places(g: Graph, extent: int, *shape: int, negative: bool = True) -> str:
    low = -extent if negative else 0
    return g.given(g.rng.integers(low, extent, shape).astype(g.one_of("int32", "int64")))


def filled(s: tuple[int, ...]) -> bool:
    return min(s) > 0


@draws("Gather")
def gather(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 4), fits=filled)
    axis = g.integer(0, g.rank(x) - 1)
    g.node("Gather", [x, places(g, g.shape(x)[axis], *g.one_of((), (3,), (2, 2)))], axis=axis)


@draws("GatherElements")
def gather_elements(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 4), fits=filled)
    axis = g.integer(0, g.rank(x) - 1)
    shape = [g.integer(1, 4) if a == axis else e for a, e in enumerate(g.shape(x))]
    g.node("GatherElements", [x, places(g, g.shape(x)[axis], *shape)], axis=axis)


@draws("GatherND")
def gather_nd(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 4), fits=filled)
    depth = g.integer(1, g.rank(x))
    spots = [g.rng.integers(-e, e, (3, 1)) for e in g.shape(x)[:depth]]
    g.node("GatherND", [x, g.given(np.concatenate(spots, 1))])


@draws("ScatterElements")
def scatter_elements(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 4), fits=filled)
    axis, kind = g.integer(0, g.rank(x) - 1), g.kind(x)
    shape = list(g.shape(x))
    shape[axis] = g.integer(1, shape[axis])
    spots = np.argsort(g.rng.random(g.shape(x)), axis=axis).take(range(shape[axis]), axis=axis)
    how = g.one_of("none", "none", "add", "mul", "max", "min") if kind in (*FLOATS, "int32", "int64") else "none"
    g.node("ScatterElements", [x, g.given(spots), g.operand(*shape, kind=kind)], axis=axis, reduction=how)


@draws("ScatterND")
def scatter_nd(g: Graph) -> None:
    x = g.value(*ALL, rank=(1, 4), fits=filled)
    depth, kind = g.integer(1, g.rank(x)), g.kind(x)
    lead, rest = g.shape(x)[:depth], g.shape(x)[depth:]
    count = g.integer(1, min(4, int(np.prod(lead))))
    flat = g.rng.permutation(int(np.prod(lead)))[:count]
    spots = np.stack(np.unravel_index(flat, lead), -1).astype(np.int64)
    how = g.one_of("none", "none", "add", "mul", "max", "min") if kind in (*FLOATS, "int32", "int64") else "none"
    g.node("ScatterND", [x, g.given(spots), g.operand(count, *rest, kind=kind)], reduction=how)


@draws("TensorScatter")
def tensor_scatter(g: Graph) -> None:
    x = g.value(*ALL, rank=(2, 4), fits=filled)
    batch, steps, *rest = g.shape(x)
    if len(rest) == 0:
        x = g.node("Unsqueeze", [x, g.ints(2)])
        rest = [1]
    length = g.integer(1, steps)
    mode = g.one_of("linear", "circular")
    starts = g.rng.integers(0, steps - length + 1 if mode == "linear" else steps, batch)
    update = g.operand(batch, length, *rest, kind=g.kind(x))
    g.node("TensorScatter", [x, update, g.given(starts)], axis=1, mode=mode)


@draws("ReverseSequence")
def reverse_sequence(g: Graph) -> None:
    x = g.value(*ALL, rank=(2, 4), fits=filled)
    steps, batch = g.shape(x)[:2]
    turned = g.flag()
    lengths = g.rng.integers(1, (batch if turned else steps) + 1, steps if turned else batch)
    g.node("ReverseSequence", [x, g.given(lengths)], time_axis=int(turned), batch_axis=1 - int(turned))


@draws("OneHot")
def one_hot(g: Graph) -> None:
    depth, kind = g.integer(1, 5), g.one_of("float32", "int64", "int32")
    spots = g.given(g.rng.integers(-depth, depth, g.one_of((1,), (3,), (2, 2))).astype(g.one_of("int32", "int64")))
    values = g.given(np.array([2, 5], kind))
    if not any(n.startswith("x") for n in (spots, values)):
        values = g.feed(np.array([2, 5], kind))
    g.node("OneHot", [spots, g.constant(np.array(depth)), values], axis=g.one_of(-1, 0))


# -- made of nothing but numbers ---------------------------------------------------------------------------------


@draws("EyeLike")
def eye_like(g: Graph) -> None:
    x = g.value("float32", "int64", rank=(2, 2))
    target = g.one_of("float32", "int32")
    eye = g.node("EyeLike", [x], dtype=code(target), k=g.integer(-2, 2))
    g.node("Mul", [eye, g.operand(*g.shape(x), kind=target)])


@draws("Range")
def range_(g: Graph) -> None:
    """Part of a range that is too long to be folded; its ends are known, since its size follows from them."""
    kind, x = g.one_of("float32", "int32", "int64"), g.integer(1, 9)
    start, count, step = g.integer(-3, 3), UNFOLDED + g.integer(0, 9), g.one_of(1, 2, -1)
    made = g.node("Range", [g.constant(np.array(v, kind)) for v in (start, start + count * step, step)])
    g.node("Add", [g.part(made, g.one_of(0, count - x), x), g.fresh((x,), kind)])


@draws("ConstantOfShape")
def constant_of_shape(g: Graph) -> None:
    """Part of a constant that is too large to be folded."""
    x = g.fresh((g.integer(1, 9),), g.one_of("float32", "int64", "uint8"))
    value = numpy_helper.from_array(np.array([3], g.kind(x)))
    made = g.node("ConstantOfShape", [g.ints(UNFOLDED)], value=value)
    g.node("Sub", [x, g.part(made, UNFOLDED - g.shape(x)[0], g.shape(x)[0])])
