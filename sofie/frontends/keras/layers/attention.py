"""Attention: multi-head attention as ONNX's Attention, and Keras' dot-product and additive attention step by step.

A mask is added to the scores as a large negative number, never as minus infinity: a row in which nothing counts then
is what Keras makes of it, and no NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sofie.frontends.keras.builder import Builder, Tensor, Value, number
from sofie.frontends.keras.config import Layer, plain
from sofie.frontends.keras.layers.merging import several
from sofie.frontends.keras.registry import Inputs, Weight, layer
from sofie.frontends.keras.translate import Translator

BELOW = -1e9
"""What Keras adds to a score that does not count."""


def causal(queries: Value, keys: Value, b: Builder) -> Value:
    """Which keys are no later than a query, (queries, keys), of values (batch, time, ...)."""
    sizes = [b.size(queries, 1), b.size(keys, 1)]
    one = np.array(1, np.int64)
    rows, columns = (b("Range", np.array(0, np.int64), b.squeeze(s, 0), one) for s in sizes)
    return b("GreaterOrEqual", b.unsqueeze(rows, 1), b.unsqueeze(columns, 0))


def _together(masks: Sequence[Value | None], b: Builder) -> Value | None:
    held = [m for m in masks if m is not None]
    result = held[0] if held else None
    for other in held[1:]:
        result = b("And", result, other)
    return result


# -- several heads -----------------------------------------------------------------------------------------------------


def _dense_weights(own: Layer) -> list[Weight]:
    """Those of the layers for query, key, value and output, which hold a kernel and a bias each."""
    parts = ["query", "key", *(["gate"] if own.config.get("use_gate") else []), "value", "output"]
    bias = own.flag("use_bias", True)
    return [
        Weight(f"{part}/{kind}", (f"{part}_dense", f"_{part}_dense"))
        for part in parts
        for kind in (["kernel", "bias"] if bias else ["kernel"])
    ]


def _projected(own: Layer, part: str, x: Tensor, heads: int, size: int, translator: Translator) -> Value:
    """(batch, time, heads size): the layer of a query, key or value."""
    b, features = translator.build, translator.known(own, x, -1)
    kernel = translator.weight(own, f"{part}/kernel", features, heads, size)
    value = b("MatMul", b.floating(b.last(x)), kernel.reshape(features, heads * size))
    if own.flag("use_bias", True):
        value = b("Add", value, translator.weight(own, f"{part}/bias", heads, size).reshape(-1))
    return value


def _given(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Query, value and key, and whether the key was given."""
    own = inputs.layer
    flat = inputs.args[0] if isinstance(inputs.args[0], list) else inputs.args
    query, value, key, *rest = [*flat, *[None] * 3][: max(3, len(flat))]
    value, key = inputs.kwargs.get("value", value), inputs.kwargs.get("key", key)
    if any(r is not None for r in rest):
        own.refuse("it is called with more tensors than query, value and key; pass masks by name")
    if not isinstance(query, Tensor) or not isinstance(value, Tensor):
        raise own.wrong("it takes a query and a value")
    if any(t.rank != 3 for t in (query, value, *([key] if isinstance(key, Tensor) else []))):
        own.refuse("only sequences (batch, time, features) are supported, not attention over several axes")
    return query, value, key if isinstance(key, Tensor) else value, isinstance(key, Tensor)


def _attend(inputs: Inputs, translator: Translator, heads: tuple[int, int], size: int, value_size: int) -> list[Tensor]:
    """Attention of `heads` (of queries, of keys and values) with heads of `size`."""
    own, b = inputs.layer, translator.build
    query, value, key, keyed = _given(inputs)
    if own.config.get("sliding_window") is not None:
        own.refuse("sliding_window is not supported")
    projected = [
        _projected(own, part, x, count, width, translator)
        for part, x, count, width in (
            ("query", query, heads[0], size),
            ("key", key, heads[1], size),
            ("value", value, heads[1], value_size),
        )
    ]
    mask = _attention_mask(inputs, query, value, key if keyed else None, translator)
    ahead, wanted = not inputs.kwargs.get("use_causal_mask"), bool(inputs.kwargs.get("return_attention_scores"))
    if mask is None:
        made, scores = _fused(projected, None, heads, 1 / math.sqrt(size), not ahead, wanted, b)
    elif wanted or own.config.get("dropout"):
        made, scores = _by_steps(projected, mask, heads, size, not ahead, b)
    else:
        if not ahead:
            mask = b("And", mask, b.unsqueeze(causal(projected[0], projected[1], b), 0, 1))
        bias = b("Where", mask, number(0), number(BELOW))
        made, scores = _fused(projected, bias, heads, 1 / math.sqrt(size), False, False, b)
    if own.config.get("use_gate"):
        made = b("Mul", made, b("Sigmoid", _projected(own, "gate", query, heads[0], value_size, translator)))
    result = _output(own, made, query, heads[0] * value_size, (heads[0], value_size), translator)
    held = Tensor(result, mask=query.mask)
    return [held, Tensor(scores)] if wanted and scores is not None else [held]


def _fused(
    projected: Sequence[Value],
    bias: Value | None,
    heads: tuple[int, int],
    scale: float,
    ahead: bool,
    wanted: bool,
    b: Builder,
) -> tuple[Value, Value | None]:
    """ONNX's Attention, and its scores where they are wanted."""
    results = b.node(
        "Attention",
        *projected,
        bias,
        results=4 if wanted else 1,
        q_num_heads=heads[0],
        kv_num_heads=heads[1],
        scale=scale,
        is_causal=int(ahead),
        **({"qk_matmul_output_mode": 3} if wanted else {}),
    )
    return results[0], results[3] if wanted else None


def _by_steps(
    projected: Sequence[Value], mask: Value, heads: tuple[int, int], size: int, ahead: bool, b: Builder
) -> tuple[Value, Value]:
    """Attention with scores that are 0 where the mask says so, in a row where nothing counts too."""
    split = [b("Transpose", b.reshape(projected[0], [0, 0, heads[0], size]), perm=[0, 2, 1, 3])]
    for value in projected[1:]:
        width = value.shape[2]
        assert isinstance(width, int)
        one = b("Transpose", b.reshape(value, [0, 0, heads[1], width // heads[1]]), perm=[0, 2, 1, 3])
        if heads[0] != heads[1]:
            repeated = b("Tile", b.unsqueeze(one, 2), np.array([1, 1, heads[0] // heads[1], 1, 1], np.int64))
            one = b.reshape(repeated, [0, heads[0], -1, width // heads[1]])
        split.append(one)
    query, key, value = split
    product = b("MatMul", b("Mul", query, number(1 / math.sqrt(size))), b("Transpose", key, perm=[0, 1, 3, 2]))
    if ahead:
        mask = b("And", mask, b.unsqueeze(causal(projected[0], projected[1], b), 0, 1))
    scores = b("Softmax", b("Where", mask, product, number(BELOW)), axis=-1)
    scores = b("Where", mask, scores, number(0))
    joined = b("Transpose", b("MatMul", scores, value), perm=[0, 2, 1, 3])
    return b.reshape(joined, [0, 0, -1]), scores


def _attention_mask(
    inputs: Inputs, query: Tensor, value: Tensor, key: Tensor | None, translator: Translator
) -> Value | None:
    """Which scores count, (batch, 1, queries, keys): by the masks of the tensors and by the argument."""
    own, b = inputs.layer, translator.build
    masks: list[Value | None] = []
    for name, tensor, axis in (("query_mask", query, 2), ("value_mask", value, 1), ("key_mask", key, 1)):
        explicit = inputs.kwargs.get(name)
        held = explicit.value if isinstance(explicit, Tensor) else None if tensor is None else tensor.mask
        if held is not None and own.version < 3:
            own.refuse("a mask reaches it, which tf.keras follows since 2.10 only; pass it as attention_mask")
        masks.append(None if held is None else b.unsqueeze(held, axis))
    explicit = inputs.kwargs.get("attention_mask")
    if isinstance(explicit, Tensor):
        given = b.last(explicit)
        masks.append(given if given.dtype == np.bool_ else b("Cast", given, to=9))
    if any(len(m.shape) not in (3, 4) for m in masks if m is not None):
        own.refuse("an attention mask of another rank than (batch, queries, keys) is not supported")
    masks = [m if m is None or len(m.shape) == 4 else b.unsqueeze(m, 1) for m in masks]
    return _together(masks, b)


def _output(
    own: Layer, made: Value, query: Tensor, inner: int, heads: tuple[int, int], translator: Translator
) -> Value:
    b, shape = translator.build, plain(own.config.get("output_shape"))
    if isinstance(shape, int):
        shape = [shape]
    if shape is not None and (not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int)):
        own.refuse("an output_shape of several axes is not supported")
    units = shape[0] if shape else translator.known(own, query, -1)
    kernel = translator.weight(own, "output/kernel", *heads, units)
    result = b("MatMul", made, kernel.reshape(inner, units))
    return b("Add", result, translator.weight(own, "output/bias", units)) if own.flag("use_bias", True) else result


MASKS = ("value", "key", "query_mask", "value_mask", "key_mask", "attention_mask")
CALLED = (*MASKS, "return_attention_scores", "use_causal_mask")


@layer(
    "MultiHeadAttention",
    weights=_dense_weights,
    masks="own",
    arguments=CALLED,
    options="masks, use_causal_mask, return_attention_scores, value_dim, output_shape; one attention axis",
)
def _multi_head(inputs: Inputs, translator: Translator) -> list[Tensor]:
    own = inputs.layer
    axes = plain(own.config.get("attention_axes"))
    if axes not in (None, [1], 1):
        own.refuse("attention over other axes than the time is not supported")
    heads, size = own.integer("num_heads"), own.integer("key_dim")
    value_size = size if own.config.get("value_dim") is None else own.integer("value_dim")
    return _attend(inputs, translator, (heads, heads), size, value_size)


@layer(
    "GroupedQueryAttention",
    weights=_dense_weights,
    masks="own",
    arguments=CALLED,
    options="masks, use_causal_mask, return_attention_scores",
)
def _grouped(inputs: Inputs, translator: Translator) -> list[Tensor]:
    own = inputs.layer
    heads = own.integer("num_query_heads"), own.integer("num_key_value_heads")
    if heads[0] % heads[1]:
        raise own.wrong(f"{heads[1]} heads of keys do not divide {heads[0]} of queries")
    size = own.integer("head_dim")
    return _attend(inputs, translator, heads, size, size)


# -- without weights of their own for query, key and value -------------------------------------------------------------


def _score_weights(own: Layer) -> list[Weight]:
    if own.kind == "AdditiveAttention":
        return [Weight("scale")] if own.flag("use_scale", True) else []
    names = ["scale"] if own.flag("use_scale", False) else []
    return [Weight(n) for n in [*names, *(["concat_score_weight"] if own.config.get("score_mode") == "concat" else [])]]


def _scores(own: Layer, query: Value, key: Value, features: int, translator: Translator) -> Value:
    """(batch, queries, keys)."""
    b = translator.build
    mode = own.word("score_mode", "dot", "dot", "concat")
    if own.kind == "Attention" and mode == "dot":
        scores = b("MatMul", query, b("Transpose", key, perm=[0, 2, 1]))
        scale = translator.weight(own, "scale") if own.flag("use_scale", False) else None
        return scores if scale is None else b("Mul", scores, scale)
    pairs = b("Add", b.unsqueeze(query, 2), b.unsqueeze(key, 1))
    if own.kind == "Attention":
        if own.flag("use_scale", False):
            pairs = b("Mul", pairs, translator.weight(own, "scale"))
        total = b.reduce("ReduceSum", b("Tanh", pairs), [3])
        return b("Mul", total, translator.weight(own, "concat_score_weight"))
    bent = b("Tanh", pairs)
    if own.flag("use_scale", True):
        bent = b("Mul", bent, translator.weight(own, "scale", features))
    return b.reduce("ReduceSum", bent, [3])


@layer(
    "AdditiveAttention",
    "Attention",
    weights=_score_weights,
    masks="own",
    arguments=("return_attention_scores", "use_causal_mask"),
    options="use_scale, score_mode, masks, use_causal_mask, return_attention_scores",
)
def _attention(inputs: Inputs, translator: Translator) -> list[Tensor]:
    own, b = inputs.layer, translator.build
    given = several(inputs)
    if len(given) > 3 or any(t.rank != 3 for t in given):
        own.refuse("it takes a query, a value and a key of (batch, time, features)")
    query, value, *keys = [b.floating(b.last(t)) for t in given]
    key = keys[0] if keys else value
    scores = _scores(own, query, key, translator.known(own, given[0], -1), translator)
    masks = [None if given[1].mask is None else b.unsqueeze(given[1].mask, 1)]
    if inputs.kwargs.get("use_causal_mask", False) or own.flag("causal", False):
        masks.append(causal(query, key, b))
    together = _together(masks, b)
    if together is not None:
        scores = b("Where", together, scores, b("Add", scores, number(BELOW)))
    shares = b("Softmax", scores, axis=-1)
    result = b("MatMul", shares, value)
    mask = given[0].mask
    if mask is not None:
        result = b("Where", b.unsqueeze(mask, 2), result, number(0))
    held = Tensor(result, mask=mask)
    return [held, Tensor(shares)] if inputs.kwargs.get("return_attention_scores", False) else [held]
