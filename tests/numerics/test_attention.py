"""Attention with masks, caches, windows and shared heads; the modifiers of FlexAttention; linear attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sofie
from sofie.errors import SofieError
from sofie.frontends.onnx import load
from tests import models
from tests.numerics import rows
from tests.numerics.rows import Row, row

N = helper.make_node
PREVIEW = "ai.onnx.preview"
INF = np.float32(np.inf)


def attention(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], outputs: str = "y", more: dict | None = None, **how: object
) -> Row:
    """`more`: operands behind V by their names in the schema."""
    names = ("attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
    more = more or {}
    feeds = {n: models.normal(*shape, seed=s) for s, (n, shape) in enumerate((("q", q), ("k", k), ("v", v)))} | more
    listed = ["q", "k", "v", *(n if n in more else "-" for n in names)]
    return row("Attention", feeds, outputs=[o.strip("-") for o in outputs.split()], inputs=" ".join(listed), **how)


def bits(*shape: int) -> np.ndarray:
    """A mask that hides about a third, and the whole of its first row."""
    mask = models.rng(3).random(shape) < 0.65
    mask.reshape(-1, shape[-1])[0] = False
    return mask


def floats(*shape: int) -> np.ndarray:
    return np.where(bits(*shape), models.normal(*shape, seed=4), -INF).astype(np.float32)


def lengths(*values: int) -> dict[str, np.ndarray]:
    return {"nonpad_kv_seqlen": np.array(values, np.int64)}


PAST = {"past_key": models.normal(2, 3, 5, 8, seed=7), "past_value": models.normal(2, 3, 5, 6, seed=8)}
Q, K, V = (2, 3, 4, 8), (2, 3, 7, 8), (2, 3, 7, 6)
ALL_OUTPUTS = "y key value scores"
ATTENTION = {
    "plain": attention(Q, K, V),
    "joined heads": attention((2, 4, 24), (2, 7, 24), (2, 7, 18), q_num_heads=3, kv_num_heads=3),
    "joined and shared heads": attention(
        (2, 4, 48), (2, 7, 16), (2, 7, 12), q_num_heads=6, kv_num_heads=2, is_causal=1
    ),
    "shared heads": attention((2, 6, 4, 8), (2, 2, 7, 8), (2, 2, 7, 6), scale=0.2),
    "one head for all": attention((2, 6, 4, 8), (2, 1, 7, 8), (2, 1, 7, 6), more={"attn_mask": bits(4, 7)}),
    "causal": attention(Q, K, V, is_causal=1),
    "windows": attention(Q, K, V, left_window_size=1, right_window_size=2),
    "a causal window": attention(Q, K, V, left_window_size=2, right_window_size=3, is_causal=1),
    "bits that hide": attention(Q, K, V, more={"attn_mask": bits(4, 7)}),
    "bits of every head": attention(Q, K, V, more={"attn_mask": bits(2, 3, 4, 7)}, is_causal=1),
    "floats that hide": attention(Q, K, V, more={"attn_mask": floats(3, 4, 7)}, is_causal=1),
    "a mask shorter than the keys": attention(Q, K, V, more={"attn_mask": floats(2, 1, 4, 5)}),
    "bits shorter than the keys": attention(Q, K, V, more={"attn_mask": bits(4, 3)}),
    "padding": attention(Q, K, V, more=lengths(3, 7)),
    "padding and order": attention(Q, K, V, more=lengths(2, 6), is_causal=1),
    "padding and a window": attention(Q, K, V, more={"attn_mask": floats(4, 7), **lengths(3, 6)}, left_window_size=1),
    "a cache": attention(Q, K, V, "y key value", more=PAST),
    "a cache and order": attention(Q, K, V, "y key value", more={"attn_mask": floats(4, 12), **PAST}, is_causal=1),
    "a cache of joined heads": attention(
        (2, 4, 24), (2, 7, 24), (2, 7, 18), ALL_OUTPUTS, PAST, q_num_heads=3, kv_num_heads=3, qk_matmul_output_mode=2
    ),
    "a cap": attention(Q, K, V, more={"attn_mask": bits(4, 7)}, softcap=0.7),
    **{
        f"scores {mode}": attention(
            Q, K, V, ALL_OUTPUTS, {"attn_mask": floats(4, 7), **PAST}, qk_matmul_output_mode=mode
        )
        for mode in range(4)
    },
    "scores without a cache": attention(Q, K, V, "y - - scores", qk_matmul_output_mode=3),
    "in double precision": attention(Q, K, V, softmax_precision=TensorProto.DOUBLE),
    "large scores": attention(Q, K, V, scale=1e4),
}


def graph(name: str, nodes: list[onnx.NodeProto], kind: int = TensorProto.FLOAT, **weights: object) -> onnx.GraphProto:
    """A modifier from `a` to `b`."""
    tensors = [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()]
    ends = [helper.make_tensor_value_info(n, kind, [None] * 4) for n in "ab"]
    return helper.make_graph(nodes, name, [ends[0]], [ends[1]], tensors)


CAUSAL = graph(
    "causal",
    [
        N("Shape", ["a"], ["s"]),
        N("Gather", ["s", "two"], ["l"]),
        N("Gather", ["s", "three"], ["t"]),
        N("Range", ["zero", "l", "one"], ["i"]),
        N("Range", ["zero", "t", "one"], ["j"]),
        N("Unsqueeze", ["i", "last"], ["u"]),
        N("GreaterOrEqual", ["u", "j"], ["c"]),
        N("Where", ["c", "a", "hidden"], ["b"]),
    ],
    **{"two": 2, "three": 3, "zero": 0, "one": 1, "last": [1], "hidden": -INF},
)
HALVED = graph("halved", [N("Mul", ["a", "half"], ["b"])], half=np.float32(0.5))
WIDE = graph("wide", [N("Tanh", ["a"], ["b"])], TensorProto.DOUBLE)


def flex(heads: int, groups: int, **how: object) -> Row:
    shapes = {"q": (2, heads, 4, 8), "k": (2, groups, 7, 8), "v": (2, groups, 7, 6)}
    feeds = {n: models.normal(*shape, seed=s) for s, (n, shape) in enumerate(shapes.items())}
    return row("FlexAttention", feeds, domain=PREVIEW, **how)


FLEX = {
    "without graphs": flex(3, 3),
    "score_mod": flex(3, 3, score_mod=CAUSAL),
    "prob_mod": flex(3, 3, prob_mod=HALVED, scale=0.25),
    "both, names alike, heads shared": flex(6, 2, score_mod=CAUSAL, prob_mod=HALVED),
    "in double precision": flex(4, 1, score_mod=WIDE, softmax_precision=TensorProto.DOUBLE),
}


def linear(rule: str, heads: int, groups: int, past: bool, decays: int = 1, betas: int = 0, **how: object) -> Row:
    batch, steps, size, width = 2, 5, 4, 3
    key = models.normal(batch, steps, groups, size, seed=1)
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    feeds = {
        "q": models.normal(batch, steps, heads * size),
        "k": key.reshape(batch, steps, -1),
        "v": models.normal(batch, steps, groups * width, seed=2),
    }
    if past:
        feeds["s"] = models.normal(batch, groups, size, width, seed=3)
    if "gated" in rule:
        feeds["g"] = -np.abs(models.normal(batch, steps, groups * decays, seed=4))
    if "delta" in rule:
        feeds["b"] = models.rng(5).random((batch, steps, betas or groups)).astype(np.float32)
    names = " ".join(n if n in feeds else "-" for n in "qkvsgb").rstrip("- ")
    settings = {"update_rule": rule, "q_num_heads": heads, "kv_num_heads": groups, **how}
    return row("LinearAttention", feeds, outputs=("y", "end"), inputs=names, **settings)


LINEAR = {
    "linear": linear("linear", 2, 2, False),
    "gated": linear("gated", 4, 2, True, decays=4, scale=0.3),
    "gated by the head": linear("gated", 2, 2, True),
    "delta": linear("delta", 2, 2, True, betas=1),
    "gated delta": linear("gated_delta", 6, 2, True, decays=4),
    "gated delta of one head": linear("gated_delta", 3, 1, False),
}
ROWS = {
    **{f"Attention, {n}": r for n, r in ATTENTION.items()},
    **{f"FlexAttention, {n}": r for n, r in FLEX.items()},
    **{f"LinearAttention, {n}": r for n, r in LINEAR.items()},
}


def in_double(one: Row) -> Row:
    """The row on doubles: constants and graphs stay, but for those of a type of their own."""
    return Row(one.nodes, {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in one.feeds.items()})


@pytest.fixture(scope="module")
def judged() -> dict[str, list[tuple[np.ndarray, float]]]:
    """What is right for each result, and how far off it may be: as the reference in float32 is, four times over."""
    found: dict[str, list[tuple[np.ndarray, float]]] = {}
    for name, one in ROWS.items():
        single = [a.astype(np.float64) for a in rows.by_reference(one)]
        takes_double = not any(a.type == a.GRAPH for a in one.nodes[0].attribute) and "Linear" not in name
        wide = in_double(one)
        wide = Row(wide.nodes, wide.feeds, outputs=one.outputs)
        truth = rows.by_reference(wide) if takes_double else single
        found[name] = []
        for right, near in zip(truth, single, strict=True):
            finite = np.isfinite(right)
            largest = np.abs(right[finite]).max(initial=1.0)
            error = np.abs(near - right)[finite].max(initial=0.0)
            found[name].append((right, 4 * error + 8 * np.finfo(np.float32).eps * largest))
    return found


def check(got: rows.Results, judged: dict[str, list[tuple[np.ndarray, float]]]) -> None:
    for name, wanted in judged.items():
        for value, (right, bound) in zip(got[name], wanted, strict=True):
            assert value.dtype == np.float32, name
            np.testing.assert_allclose(value, right, rtol=0, atol=bound, err_msg=name)


@pytest.mark.usefixtures("needs_compiler")
def test_compiled(judged: dict[str, list[tuple[np.ndarray, float]]]) -> None:
    """A key seen by a query that must not, a head that reads another's keys, a row of NaN where all is hidden."""
    check(rows.by_compiler(ROWS), judged)


@pytest.mark.parametrize("spec", rows.LEVELS)
def test_every_level(spec: str, judged: dict[str, list[tuple[np.ndarray, float]]]) -> None:
    """A pass that loses a mask or carries a state on wrongly."""
    check(rows.by_level(ROWS, spec), judged)


def test_a_modifier_sees_the_values_around_it() -> None:
    """A name of the graph outside that the graph inside reads is not found."""
    inner = graph("shifted", [N("Add", ["a", "r0_bias"], ["b"])])
    one = flex(2, 2, score_mod=inner)
    feeds = {**one.feeds, "bias": models.normal(2, 2, 4, 7, seed=9)}
    node = one.nodes[0]
    plain = attention((2, 2, 4, 8), (2, 2, 7, 8), (2, 2, 7, 6), more={"attn_mask": feeds["bias"]})
    got = rows.by_level({"": Row([node], feeds)}, "decompose,lower-onnx")[""][0]
    np.testing.assert_allclose(got, rows.by_reference(plain)[0], rtol=1e-5, atol=1e-6)


def test_a_modifier_that_changes_the_type_is_refused() -> None:
    """Probabilities of another type than the sum over them."""
    doubled = graph("doubled", [N("Cast", ["a"], ["b"], to=TensorProto.DOUBLE)])
    with pytest.raises(SofieError, match="node 'r0_y' .FlexAttention.: its graph 'score_mod' must keep shape and type"):
        load(rows.model({"": flex(2, 2, score_mod=doubled)}))


@pytest.mark.usefixtures("needs_compiler")
def test_a_batch_that_only_the_run_knows() -> None:
    """Masks, lengths and caches of a run-time size."""
    one = attention(Q, K, V, more={"attn_mask": bits(4, 7), **lengths(3, 6)}, is_causal=1)
    free = rows.model({"": one})
    for value in free.graph.input:
        if value.name != "r0_attn_mask":
            value.type.tensor_type.shape.dim[0].ClearField("dim_value")
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    got = sofie.compile(free, dims={"batch": (1, 8)}).run(rows.feeds({"": one}))
    np.testing.assert_allclose(next(iter(got.values())), rows.by_reference(one)[0], rtol=1e-5, atol=1e-6)
