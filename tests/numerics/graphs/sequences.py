"""Rows of recurrent layers, attention, and graphs within graphs."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from tests.numerics.graphs.graph import Graph
from tests.numerics.graphs.registry import Row, draws, enter

PREVIEW = "ai.onnx.preview"
N = helper.make_node


def recurrent(operator: str, gates: int) -> Row:
    def row(g: Graph) -> None:
        x = g.value(rank=(3, 3), fits=lambda s: 0 < min(s) and max(s) < 10)
        features, hidden = g.shape(x)[2], g.integer(1, 5)
        inputs = [x, g.weight(1, gates * hidden, features), g.weight(1, gates * hidden, hidden)]
        if g.flag():
            inputs.append(g.weight(1, 2 * gates * hidden))
        linear = {"linear_before_reset": int(g.flag())} if operator == "GRU" else {}
        g.nodes_of(operator, inputs, g.one_of(1, 2), hidden_size=hidden, **linear)

    return row


for _operator, _gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
    enter(_operator, recurrent(_operator, _gates))


def scaled(g: Graph, *shape: int) -> str:
    """A new value within -1 and 1."""
    return g.bounded(g.operand(*shape) if g.flag() else g.fresh(shape))


@draws("Attention")
def attention(g: Graph) -> None:
    batch, heads, queries, keys, size, width = (g.integer(1, n) for n in (2, 3, 4, 5, 4, 3))
    q, k, v = (
        g.fresh((batch, heads, queries, size)),
        scaled(g, batch, heads, keys, size),
        g.operand(batch, heads, keys, width),
    )
    mask = (
        [g.given(g.one_of(g.random((queries, keys), "float32"), np.tri(queries, keys, 1).astype(bool)))]
        if g.flag()
        else []
    )
    g.node("Attention", [q, k, v, *mask], is_causal=int(g.flag()), softcap=g.one_of(0.0, 2.0))


@draws("FlexAttention", domain=PREVIEW)
def flex_attention(g: Graph) -> None:
    batch, heads, queries, keys, size = (g.integer(1, n) for n in (2, 3, 4, 5, 4))
    feeds = [
        g.fresh((batch, heads, queries, size)),
        scaled(g, batch, heads, keys, size),
        g.operand(batch, heads, keys, 3),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in "ab"]
    nodes = [N("Mul", ["a", "half"], ["b"])]
    halved = helper.make_graph(nodes, "halved", ends[:1], ends[1:], [numpy_helper.from_array(np.float32(0.5), "half")])
    g.node("FlexAttention", feeds, domain=PREVIEW, **({g.one_of("score_mod", "prob_mod"): halved} if g.flag() else {}))


@draws("LinearAttention")
def linear_attention(g: Graph) -> None:
    batch, steps, heads, size, width = (g.integer(1, n) for n in (2, 4, 2, 3, 3))
    q, k = g.fresh((batch, steps, heads * size)), scaled(g, batch, steps, heads * size)
    rule = g.one_of("linear", "gated", "delta", "gated_delta")
    inputs = [q, k, g.operand(batch, steps, heads * width), g.operand(batch, heads, size, width)]
    decay = [g.given(-np.abs(g.random((batch, steps, heads), "float32")))] if "gated" in rule else [""]
    beta = [g.given(g.rng.random((batch, steps, heads)).astype(np.float32))] if "delta" in rule else []
    inputs += decay + beta if rule != "linear" else []
    g.nodes_of("LinearAttention", inputs, 2, update_rule=rule, q_num_heads=heads, kv_num_heads=heads)


@draws("RotaryEmbedding")
def rotary_embedding(g: Graph) -> None:
    batch, heads, steps, half = (g.integer(1, n) for n in (2, 3, 4, 3))
    x = g.operand(batch, heads, steps, 2 * half)
    x = g.feed(g.array(x)) if x.startswith("w") else x
    angles = g.rng.uniform(-2, 2, (batch, steps, half))
    turns = [g.given(fn(angles).astype(np.float32)) for fn in (np.cos, np.sin)]
    g.node("RotaryEmbedding", [x, *turns], interleaved=int(g.flag()))


@draws("CausalConvWithState")
def causal_conv(g: Graph) -> None:
    batch, channels, steps, kernel = (g.integer(1, n) for n in (2, 3, 5, 3))
    inputs = [g.fresh((batch, channels, steps)), g.operand(channels, 1, kernel), g.operand(channels)]
    if kernel > 1:
        inputs.append(g.operand(batch, channels, kernel - 1))
    g.nodes_of("CausalConvWithState", inputs, 2, activation=g.one_of("none", "silu"))


POOL = {"pool_int64s": [1, 2, 3, 1, 1, 2, 3, 3, 1], "ngram_counts": [0, 3], "ngram_indexes": [2, 0, 1, 5, 3, 4]}


@draws("TfIdfVectorizer")
def ngrams(g: Graph) -> None:
    """Counts of one and two tokens; the reference gives weights to columns, so all are alike."""
    tokens = g.feed(g.rng.integers(0, 4, g.one_of((9,), (2, 6))).astype(g.one_of("int32", "int64")))
    how = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": g.integer(0, 2)}
    g.node("TfIdfVectorizer", [tokens], **POOL, **how)


# -- graphs within graphs ----------------------------------------------------------------------------------------


def body(nodes: list[NodeProto], takes: dict[str, tuple], gives: dict[str, tuple], **weights: np.ndarray) -> GraphProto:
    """A graph; `takes` and `gives` tell element type and shape by name."""
    ends = [[helper.make_tensor_value_info(n, *how) for n, how in side.items()] for side in (takes, gives)]
    return helper.make_graph(
        nodes, "body", *ends, [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    )


def floats(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return TensorProto.FLOAT, shape


INT64, BOOL = (TensorProto.INT64, ()), (TensorProto.BOOL, ())


@draws("If")
def if_(g: Graph) -> None:
    """A condition of exact values: of rounded ones it may be another."""
    x, other, k = g.value(), g.value(rank=(1, 4), exact=True), len(g.nodes)
    most = g.node("ReduceMax", [other], keepdims=0)
    condition = g.node("Greater", [most, g.constant(np.float32(1.1))])
    w = g.operand(*g.shape(x)[1:])
    kind = {f"t{k}": floats(g.shape(x))}
    then = body([N("Tanh", [x], [f"t{k}"])], {}, kind)
    otherwise = body([N("Sub", [x, w], [f"t{k}"])], {}, kind)
    g.node("If", [condition], reads=[x, w], kind="float32", then_branch=then, else_branch=otherwise)


@draws("Loop")
def loop(g: Graph) -> None:
    """Carries a value, adds rows of results, and reads a value from outside."""
    x, k = g.value(fits=lambda s: int(np.prod(s)) < 100), len(g.nodes)
    w, shape = g.operand(*g.shape(x)), floats(g.shape(x))
    takes = {f"i{k}": INT64, f"c{k}": BOOL, f"a{k}": shape}
    gives = {f"d{k}": BOOL, f"b{k}": shape, f"r{k}": shape}
    nodes = [
        N("Identity", [f"c{k}"], [f"d{k}"]),
        N("Cast", [f"i{k}"], [f"f{k}"], to=TensorProto.FLOAT),
        N("Add", [f"a{k}", f"f{k}"], [f"s{k}"]),
        N("Sub", [f"s{k}", w], [f"b{k}"]),
        N("Tanh", [f"b{k}"], [f"r{k}"]),
    ]
    count, condition = g.constant(np.array(g.integer(1, 4))), g.constant(np.array(True))
    g.nodes_of("Loop", [count, condition, x], 2, reads=[w], kind="float32", body=body(nodes, takes, gives))


@draws("Scan")
def scan(g: Graph) -> None:
    """Forwards: the reference knows no other direction."""
    x, k = g.value(rank=(2, 3), fits=lambda s: 0 < min(s) and max(s) < 10), len(g.nodes)
    row = floats(g.shape(x)[1:])
    nodes = [N("Add", [f"a{k}", f"e{k}"], [f"b{k}"]), N("Tanh", [f"b{k}"], [f"r{k}"])]
    graph = body(nodes, {f"a{k}": row, f"e{k}": row}, {f"b{k}": row, f"r{k}": row})
    start = g.operand(*g.shape(x)[1:])
    g.nodes_of("Scan", [start, x], 2, kind="float32", body=graph, num_scan_inputs=1)
