"""Random ONNX graphs for hypothesis: each row of `OPERATORS` draws one node on values that are there already.

A row gets the draw function and the graph so far and returns the names of its results, or None where no value fits.
Shapes stay small, so that a graph is compiled and run in a fraction of a second; constants are weights, so that the
folding passes have something to fold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[[st.SearchStrategy], object]


@dataclass
class Graph:
    """A graph under construction: shapes of all values by name, nodes and weights."""

    draw: Draw
    rng: np.random.Generator
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def pick(self, fits: Callable[[tuple[int, ...]], bool] = lambda s: True) -> str | None:
        """A value whose shape fits, newest most likely; None where there is none."""
        names = [n for n, s in self.shapes.items() if fits(s)]
        return self.draw(st.sampled_from(names[::-1])) if names else None

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def weight(self, *shape: int, positive: bool = False) -> str:
        array = self.rng.standard_normal(shape).astype(np.float32)
        array = np.abs(array) + np.float32(0.5) if positive else array
        return self.constant(array)

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def node(self, operator: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> str:
        return self.nodes_of(operator, inputs, [shape], **attributes)[0]

    def nodes_of(
        self, operator: str, inputs: list[str], shapes: list[tuple[int, ...] | None], **attributes: object
    ) -> list[str]:
        """A node of several results; one without a shape is no float and not drawn from."""
        number = len(self.nodes)
        names = [f"v{number}" if not k else f"v{number}_{k}" for k in range(len(shapes))]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"{operator}_{number}", **attributes))
        self.shapes |= {name: tuple(shape) for name, shape in zip(names, shapes, strict=True) if shape is not None}
        return names


def unary(operator: str) -> Callable[[Graph], str | None]:
    def row(g: Graph) -> str | None:
        x = g.pick()
        assert x is not None
        if operator in ("Exp", "Sqrt"):  # keep values where both sides are well conditioned
            x = g.node("Tanh", [x], g.shapes[x])
        if operator == "Sqrt":
            x = g.node("Mul", [x, x], g.shapes[x])
        attributes = {"alpha": g.draw(st.sampled_from([0.01, 0.5, 2.0]))} if operator == "LeakyRelu" else {}
        return g.node(operator, [x], g.shapes[x], **attributes)

    return row


def binary(operator: str) -> Callable[[Graph], str | None]:
    def row(g: Graph) -> str | None:
        x = g.pick()
        assert x is not None
        shape = g.shapes[x]
        other = g.pick(lambda s: s == shape) if g.flag() else None
        if other is None or operator == "Div":
            kept = [e if g.flag() else 1 for e in shape]
            lead = g.integer(0, len(shape))
            other = g.weight(*kept[lead:], positive=operator == "Div")
        pair = [x, other]
        if operator in ("Add", "Mul") and g.flag():
            pair.reverse()
        return g.node(operator, pair, shape)

    return row


def clip(g: Graph) -> str | None:
    x = g.pick()
    assert x is not None
    low = g.constant(np.float32(-0.5)) if g.flag() else ""
    high = g.constant(np.float32(0.75)) if g.flag() or not low else ""
    return g.node("Clip", [x, low, high] if high else [x, low], g.shapes[x])


def gemm(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) == 2)
    if x is None:
        return None
    m, k = g.shapes[x]
    n = g.draw(st.sampled_from([1, 3, 4, 8, 17, 20]))
    flip_a, flip_b = g.flag(), g.flag()
    if flip_a:
        m, k = k, m
    inputs = [x, g.weight(n, k) if flip_b else g.weight(k, n)]
    if g.flag():
        inputs.append(g.weight(*g.draw(st.sampled_from([(n,), (1, n), (m, 1), (m, n), (1,)]))))
    alpha, beta = (g.draw(st.sampled_from([1.0, 0.5])) for _ in range(2))
    return g.node("Gemm", inputs, (m, n), transA=int(flip_a), transB=int(flip_b), alpha=alpha, beta=beta)


def matmul(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    *lead, k = g.shapes[x]
    other = g.pick(lambda s: len(s) == 2 and s[0] == k) if g.flag() and len(lead) == 1 else None
    if other is not None:
        return g.node("MatMul", [x, other], (*lead, g.shapes[other][1]))
    n = g.draw(st.sampled_from([1, 5, 8, 19]))
    batch = lead[:-1] if g.flag() else []
    return g.node("MatMul", [x, g.weight(*batch, k, n)], (*lead, n))


def _window(g: Graph, extents: tuple[int, ...]) -> tuple[list[int], list[int], list[int], list[int]] | None:
    kernel = [g.integer(1, min(3, e)) for e in extents]
    strides = [g.integer(1, 2) for _ in extents]
    dilations = [g.integer(1, 2) if e >= 2 * (k - 1) + 1 else 1 for k, e in zip(kernel, extents, strict=True)]
    pads = [g.integer(0, k - 1) for k in kernel] + [g.integer(0, k - 1) for k in kernel]
    return kernel, strides, dilations, pads


def _outputs(extents, kernel, strides, dilations, pads) -> list[int]:
    rank = len(extents)
    return [
        (extents[a] + pads[a] + pads[rank + a] - (kernel[a] - 1) * dilations[a] - 1) // strides[a] + 1
        for a in range(rank)
    ]


def conv(g: Graph) -> str | None:
    x = g.pick(lambda s: 3 <= len(s) <= 5 and min(s) > 0)
    if x is None:
        return None
    n, c, *extents = g.shapes[x]
    kernel, strides, dilations, pads = _window(g, tuple(extents))
    group = g.draw(st.sampled_from([d for d in range(1, c + 1) if c % d == 0]))
    out = group * g.draw(st.sampled_from([1, 2, 5, 8]))
    inputs = [x, g.weight(out, c // group, *kernel)] + ([g.weight(out)] if g.flag() else [])
    shape = (n, out, *_outputs(extents, kernel, strides, dilations, pads))
    return g.node(
        "Conv", inputs, shape, group=group, kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads
    )


def pool(operator: str) -> Callable[[Graph], str | None]:
    def row(g: Graph) -> str | None:
        x = g.pick(lambda s: 3 <= len(s) <= 5 and min(s) > 0)
        if x is None:
            return None
        n, c, *extents = g.shapes[x]
        kernel, strides, dilations, _ = _window(g, tuple(extents))
        roomy = min(extents) >= 4  # onnx.reference drops windows of small or unevenly padded inputs
        pads = [g.integer(0, k - 1) if roomy else 0 for k in kernel] * 2
        attributes: dict[str, object] = {"dilations": dilations}
        if operator == "AveragePool":
            attributes["count_include_pad"] = int(g.flag())
        shape = (n, c, *_outputs(extents, kernel, strides, dilations, pads))
        return g.node(operator, [x], shape, kernel_shape=kernel, strides=strides, pads=pads, **attributes)

    return row


def global_average_pool(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 3)
    return None if x is None else g.node("GlobalAveragePool", [x], (*g.shapes[x][:2], *[1] * (len(g.shapes[x]) - 2)))


def batch_norm(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    c = g.shapes[x][1]
    inputs = [x, g.weight(c), g.weight(c), g.weight(c), g.weight(c, positive=True)]
    return g.node("BatchNormalization", inputs, g.shapes[x], epsilon=1e-3)


def softmax(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    return (
        None
        if x is None
        else g.node("Softmax", [x], g.shapes[x], axis=g.integer(-len(g.shapes[x]), len(g.shapes[x]) - 1))
    )


def reduce(operator: str) -> Callable[[Graph], str | None]:
    def row(g: Graph) -> str | None:
        x = g.pick(lambda s: len(s) >= 1)
        if x is None:
            return None
        shape = g.shapes[x]
        axes = [a for a in range(len(shape)) if g.flag()] or [g.integer(0, len(shape) - 1)]
        keep = g.flag()
        result = [1 if a in axes else e for a, e in enumerate(shape) if keep or a not in axes]
        return g.node(operator, [x, g.ints(*axes)], tuple(result), keepdims=int(keep))

    return row


def transpose(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    perm = g.draw(st.permutations(range(len(g.shapes[x]))))
    return g.node("Transpose", [x], tuple(g.shapes[x][p] for p in perm), perm=list(perm))


def reshape(g: Graph) -> str | None:
    x = g.pick()
    assert x is not None
    size, shape = int(np.prod(g.shapes[x])), []
    for _ in range(g.integer(0, 3)):
        factor = g.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        shape.append(factor)
        size //= factor
    shape = [*shape, size]
    return g.node("Reshape", [x, g.ints(*shape)], tuple(shape))


def flatten(g: Graph) -> str | None:
    x = g.pick()
    assert x is not None
    axis = g.integer(0, len(g.shapes[x]))
    shape = (int(np.prod(g.shapes[x][:axis])), int(np.prod(g.shapes[x][axis:])))
    return g.node("Flatten", [x], shape, axis=axis)


def unsqueeze(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) < 5)
    if x is None:
        return None
    axis = g.integer(0, len(g.shapes[x]))
    shape = list(g.shapes[x])
    shape.insert(axis, 1)
    return g.node("Unsqueeze", [x, g.ints(axis)], tuple(shape))


def squeeze(g: Graph) -> str | None:
    x = g.pick(lambda s: 1 in s)
    if x is None:
        return None
    axis = g.shapes[x].index(1)
    shape = list(g.shapes[x])
    del shape[axis]
    return g.node("Squeeze", [x, g.ints(axis)], tuple(shape))


def concat(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    axis = g.integer(0, len(g.shapes[x]) - 1)
    same = [
        n
        for n, s in g.shapes.items()
        if len(s) == len(g.shapes[x]) and all(a == axis or e == s[a] for a, e in enumerate(g.shapes[x]))
    ]
    parts = [x, *(g.draw(st.sampled_from(same)) for _ in range(g.integer(1, 2)))]
    shape = list(g.shapes[x])
    shape[axis] = sum(g.shapes[p][axis] for p in parts)
    return g.node("Concat", parts, tuple(shape), axis=axis)


def slice_(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    axis = g.integer(0, len(g.shapes[x]) - 1)
    extent = g.shapes[x][axis]
    step = g.draw(st.sampled_from([1, 1, 2, -1, -2]))
    start, end = sorted((g.integer(0, extent - 1), g.integer(0, extent - 1)))
    picked = (
        range(extent)[start : end + 1 : step]
        if step > 0
        else range(extent)[end : (start - 1 if start else None) : step]
    )
    stop = end + 1 if step > 0 else (start - 1 if start else -extent - 1)
    shape = list(g.shapes[x])
    shape[axis] = len(picked)
    first = start if step > 0 else end
    return g.node("Slice", [x, g.ints(first), g.ints(stop), g.ints(axis), g.ints(step)], tuple(shape))


def pad(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    shape = g.shapes[x]
    mode = g.draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
    most = [2 if mode in ("constant", "edge") else max(e - 1, 0) for e in shape]
    before, after = ([g.integer(0, min(m, 2)) for m in most] for _ in range(2))
    inputs = [x, g.ints(*before, *after)]
    if mode == "constant" and g.flag():
        inputs.append(g.constant(np.float32(1.5)))
    return g.node("Pad", inputs, tuple(b + e + a for b, e, a in zip(before, shape, after, strict=True)), mode=mode)


def variadic(operator: str) -> Callable[[Graph], str | None]:
    def row(g: Graph) -> str | None:
        x = g.pick()
        assert x is not None
        same = [name for name, shape in g.shapes.items() if shape == g.shapes[x]]
        others = [g.draw(st.sampled_from(same)) for _ in range(g.integer(0, 2))]
        return g.node(operator, [x, *others, g.weight(*g.shapes[x][1:])], g.shapes[x])

    return row


def p_relu(g: Graph) -> str | None:
    x = g.pick()
    assert x is not None
    return g.node("PRelu", [x, g.weight(*(e if g.flag() else 1 for e in g.shapes[x]))], g.shapes[x])


def log_softmax(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    return None if x is None else g.node("LogSoftmax", [x], g.shapes[x], axis=g.integer(0, len(g.shapes[x]) - 1))


def layer_norm(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    axis = g.integer(0, len(g.shapes[x]) - 1)
    rest = g.shapes[x][axis:]
    inputs = [x, g.weight(*rest)] + ([g.weight(*rest)] if g.flag() else [])
    return g.node("LayerNormalization", inputs, g.shapes[x], axis=axis, epsilon=0.1)


def channel_norm(operator: str) -> Callable[[Graph], str | None]:
    def row(g: Graph) -> str | None:
        x = g.pick(lambda s: len(s) >= 3)
        if x is None:
            return None
        c = g.shapes[x][1]
        groups = {"num_groups": g.draw(st.sampled_from([d for d in range(1, c + 1) if c % d == 0]))}
        attributes = groups if operator == "GroupNormalization" else {}
        return g.node(operator, [x, g.weight(c), g.weight(c)], g.shapes[x], epsilon=0.1, **attributes)

    return row


def conv_transpose(g: Graph) -> str | None:
    x = g.pick(lambda s: 3 <= len(s) <= 4 and max(s[2:]) <= 6)
    if x is None:
        return None
    n, c, *extents = g.shapes[x]
    kernel, strides = [g.integer(1, 3) for _ in extents], [g.integer(1, 2) for _ in extents]
    extra = [g.integer(0, step - 1) for step in strides]
    group = g.draw(st.sampled_from([d for d in range(1, c + 1) if c % d == 0]))
    out = g.draw(st.sampled_from([1, 2, 5]))
    biased = group == 1 and g.flag()  # onnx.reference gives every group the bias of the first
    inputs = [x, g.weight(c, out, *kernel)] + ([g.weight(out)] if biased else [])
    spatial = [(e - 1) * step + k + p for e, step, k, p in zip(extents, strides, kernel, extra, strict=True)]
    attributes = {"group": group, "kernel_shape": kernel, "strides": strides, "output_padding": extra}
    return g.node("ConvTranspose", inputs, (n, out * group, *spatial), **attributes)


def split(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1 and max(s) >= 2)
    if x is None:
        return None
    shape = list(g.shapes[x])
    axis = g.draw(st.sampled_from([a for a, e in enumerate(shape) if e >= 2]))
    first = g.integer(1, shape[axis] - 1)
    parts = [tuple(n if a == axis else e for a, e in enumerate(shape)) for n in (first, shape[axis] - first)]
    return g.nodes_of("Split", [x, g.ints(first, shape[axis] - first)], list(parts), axis=axis)[0]


def gather(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    shape = list(g.shapes[x])
    axis = g.integer(0, len(shape) - 1)
    picked = [g.integer(-shape[axis], shape[axis] - 1) for _ in range(g.integer(1, 4))]
    return g.node("Gather", [x, g.ints(*picked)], (*shape[:axis], len(picked), *shape[axis + 1 :]), axis=axis)


def where(g: Graph) -> str | None:
    x = g.pick()
    assert x is not None
    mask = g.constant(g.rng.random(g.shapes[x][g.integer(0, len(g.shapes[x])) :]) > 0.5)
    return g.node("Where", [mask, *g.draw(st.permutations([x, g.weight()]))], g.shapes[x])


def expand(g: Graph) -> str | None:
    x = g.pick(lambda s: 1 in s)
    if x is None:
        return None
    shape = [g.integer(1, 4) if e == 1 else e for e in g.shapes[x]]
    return g.node("Expand", [x, g.ints(*shape)], tuple(shape))


def tile(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    times = [g.integer(1, 2) for _ in g.shapes[x]]
    return g.node("Tile", [x, g.ints(*times)], tuple(e * n for e, n in zip(g.shapes[x], times, strict=True)))


def cum_sum(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    axis = g.constant(np.array(g.integer(0, len(g.shapes[x]) - 1), np.int64))
    return g.node("CumSum", [x, axis], g.shapes[x], exclusive=int(g.flag()), reverse=int(g.flag()))


def trilu(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    return g.node("Trilu", [x, g.constant(np.array(g.integer(-2, 2)))], g.shapes[x], upper=int(g.flag()))


def top_k(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None or x not in ("x0", "x1"):  # of rounded values the order may be another
        return None
    shape = list(g.shapes[x])
    axis = g.integer(0, len(shape) - 1)
    shape[axis] = k = g.integer(1, shape[axis])
    return g.nodes_of("TopK", [x, g.ints(k)], [tuple(shape), None], axis=axis, largest=int(g.flag()))[0]


def resize(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    shape = tuple(g.integer(1, 2 * e + 1) if g.flag() else e for e in g.shapes[x])
    coordinates = g.draw(st.sampled_from(["half_pixel", "align_corners", "asymmetric"]))
    mode = g.draw(st.sampled_from(["nearest", "linear", "cubic"]))
    filters = {"antialias": int(g.flag())} if mode != "nearest" else {}
    inputs = [x, "", "", g.ints(*shape)]
    return g.node("Resize", inputs, shape, mode=mode, coordinate_transformation_mode=coordinates, **filters)


def grid_sample(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 3)
    if x is None:
        return None
    batch, channels, *spatial = g.shapes[x]
    outputs = [g.integer(1, 4) for _ in spatial]
    attributes = {
        "mode": g.draw(st.sampled_from(["nearest", "linear"])),
        "padding_mode": g.draw(st.sampled_from(["zeros", "border"])),
    }
    return g.node("GridSample", [x, g.weight(batch, *outputs, len(spatial))], (batch, channels, *outputs), **attributes)


def dft(g: Graph) -> str | None:
    x = g.pick(lambda s: len(s) >= 1)
    if x is None:
        return None
    shape = (*g.shapes[x], 1)
    signal, axis = g.node("Reshape", [x, g.ints(*shape)], shape), g.integer(0, len(shape) - 2)
    onesided = g.flag()
    result = [e // 2 + 1 if onesided and a == axis else e for a, e in enumerate(shape[:-1])]
    place = g.constant(np.array(axis, np.int64))
    return g.node("DFT", [signal, "", place], (*result, 2), onesided=int(onesided))


def recurrent(operator: str, gates: int) -> Callable[[Graph], str | None]:
    def row(g: Graph) -> str | None:
        x = g.pick(lambda s: len(s) == 3)
        if x is None:
            return None
        steps, batch, features = g.shapes[x]
        hidden = g.integer(1, 5)
        inputs = [x, g.weight(1, gates * hidden, features), g.weight(1, gates * hidden, hidden)]
        if g.flag():
            inputs.append(g.weight(1, 2 * gates * hidden))
        every, last = (steps, 1, batch, hidden), (1, batch, hidden)
        linear = {"linear_before_reset": int(g.flag())} if operator == "GRU" else {}
        return g.draw(st.sampled_from(g.nodes_of(operator, inputs, [every, last], hidden_size=hidden, **linear)))

    return row


def if_(g: Graph) -> str | None:
    x, other = g.pick(), g.pick(lambda s: len(s) >= 1)
    if x is None or other not in ("x0", "x1"):  # of rounded values the maximum may be on the other side
        return None
    number = len(g.nodes)
    g.nodes.append(helper.make_node("ReduceMax", [other], [f"c{number}"], keepdims=0))
    g.nodes.append(helper.make_node("Greater", [f"c{number}", g.constant(np.float32(1.0))], [f"b{number}"]))
    kind = helper.make_tensor_value_info(f"t{number}", TensorProto.FLOAT, g.shapes[x])
    branches = {
        "then_branch": [helper.make_node("Tanh", [x], [f"t{number}"])],
        "else_branch": [helper.make_node("Sub", [x, g.weight(*g.shapes[x][1:])], [f"t{number}"])],
    }
    graphs = {name: helper.make_graph(nodes, name, [], [kind]) for name, nodes in branches.items()}
    return g.node("If", [f"b{number}"], g.shapes[x], **graphs)


OPERATORS: dict[str, Callable[[Graph], str | None]] = {
    **{name: unary(name) for name in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Exp", "Sqrt", "Identity")},
    **{name: unary(name) for name in ("Elu", "Selu", "Celu", "Gelu", "Mish", "HardSwish", "HardSigmoid")},
    **{name: unary(name) for name in ("Softplus", "Softsign", "Erf", "Abs", "Neg", "Atan", "Sin")},
    **{name: variadic(name) for name in ("Sum", "Mean", "Max", "Min")},
    **{name: binary(name) for name in ("Add", "Sub", "Mul", "Div")},
    **{name: reduce(name) for name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")},
    **{name: reduce(name) for name in ("ReduceSumSquare", "ReduceLogSumExp")},
    **{name: channel_norm(name) for name in ("InstanceNormalization", "GroupNormalization")},
    **{name: recurrent(name, gates) for name, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4))},
    **{name: pool(name) for name in ("MaxPool", "AveragePool")},
    "BatchNormalization": batch_norm,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "CumSum": cum_sum,
    "DFT": dft,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "GridSample": grid_sample,
    "If": if_,
    "LayerNormalization": layer_norm,
    "LogSoftmax": log_softmax,
    "MatMul": matmul,
    "PRelu": p_relu,
    "Pad": pad,
    "Reshape": reshape,
    "Resize": resize,
    "Slice": slice_,
    "Softmax": softmax,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "TopK": top_k,
    "Transpose": transpose,
    "Trilu": trilu,
    "Where": where,
    "Unsqueeze": unsqueeze,
}
"""Every operator of the suite, by name."""

LARGEST = 4000
"""Elements a value may have before the graph stops growing from it."""


@st.composite
def models(draw: Draw, operators: tuple[str, ...] = tuple(OPERATORS), most: int = 6) -> onnx.ModelProto:
    """A valid model with one or two float inputs and one or two outputs."""
    g = Graph(draw, np.random.default_rng(draw(st.integers(0, 2**16))))
    inputs = []
    for k in range(draw(st.integers(1, 2))):
        extents = st.sampled_from([1, 2, 3, 4, 5, 6, 9, 13])
        shape = tuple(draw(st.lists(extents, min_size=draw(st.sampled_from([0, 2, 3, 4])), max_size=4)))
        while np.prod(shape) > LARGEST // 4:
            shape = shape[:-1]
        g.shapes[f"x{k}"] = shape
        inputs.append(helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, shape))
    for _ in range(draw(st.integers(1, most))):
        OPERATORS[draw(st.sampled_from(operators))](g)
        for name in [n for n, s in g.shapes.items() if np.prod(s) > LARGEST]:
            del g.shapes[name]
    if not g.nodes:
        unary("Relu")(g)
    made = [n.output[0] for n in g.nodes if n.output[0] in g.shapes] or [g.nodes[-1].output[0]]
    names = list(dict.fromkeys([made[-1], draw(st.sampled_from(made))]))
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]
    graph = helper.make_graph(g.nodes, "random", inputs, outputs, g.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
