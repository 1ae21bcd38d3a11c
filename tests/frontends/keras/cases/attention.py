"""Attention."""

from __future__ import annotations

import keras

from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()


def two(make):
    def model(d: Draw) -> keras.Model:
        q, v = keras.Input((d.size(3, 5), 4)), keras.Input((d.size(3, 5), 4))
        return keras.Model([q, v], make(q, v))

    return model


def masked(make):
    def model(d: Draw) -> keras.Model:
        q = keras.Input((d.size(3, 5), 4), name="steps")
        v = keras.Input((d.size(3, 5), 4), name="steps2")
        return keras.Model([q, v], make(L.Masking()(q), L.Masking()(v)))

    return model


FAMILY.cases |= {
    "heads": two(lambda q, v: L.MultiHeadAttention(2, 3)(q, v)),
    "heads_key": two(lambda q, v: L.MultiHeadAttention(2, 3)(q, v, key=L.Dense(5)(v))),
    "heads_without_bias": two(lambda q, v: L.MultiHeadAttention(2, 3, use_bias=False)(q, v)),
    "heads_values": two(lambda q, v: L.MultiHeadAttention(2, 3, value_dim=5, output_shape=6)(q, v)),
    "heads_causal": two(lambda q, v: L.MultiHeadAttention(2, 3)(q, q, use_causal_mask=True)),
    "heads_scores": two(lambda q, v: L.MultiHeadAttention(2, 3)(q, v, return_attention_scores=True)),
    "heads_gate": two(lambda q, v: L.MultiHeadAttention(2, 3, use_gate=True)(q, v)),
    "heads_dropout": two(lambda q, v: L.MultiHeadAttention(2, 3, dropout=0.3)(q, v)),
    "groups": two(lambda q, v: L.GroupQueryAttention(3, 4, 2)(q, v)),
    "groups_causal": two(lambda q, v: L.GroupQueryAttention(3, 4, 2, use_bias=False)(q, q, use_causal_mask=True)),
    "groups_scores": two(lambda q, v: L.GroupQueryAttention(3, 4, 1)(q, v, return_attention_scores=True)),
    "dot": two(lambda q, v: L.Attention()([q, v])),
    "dot_scaled": two(lambda q, v: L.Attention(use_scale=True)([q, v])),
    "dot_key": two(lambda q, v: L.Attention()([q, v, L.Dense(4)(v)])),
    "dot_causal": two(lambda q, v: L.Attention()([q, v], use_causal_mask=True)),
    "dot_scores": two(lambda q, v: L.Attention()([q, v], return_attention_scores=True)),
    "concatenated": two(lambda q, v: L.Attention(score_mode="concat", use_scale=True)([q, v])),
    "concatenated_plain": two(lambda q, v: L.Attention(score_mode="concat")([q, v])),
    "additive": two(lambda q, v: L.AdditiveAttention()([q, v])),
    "additive_plain": two(lambda q, v: L.AdditiveAttention(use_scale=False)([q, v], use_causal_mask=True)),
    "masked_heads": masked(lambda q, v: L.MultiHeadAttention(2, 3)(q, v)),
    "masked_heads_scores": masked(lambda q, v: L.MultiHeadAttention(2, 3)(q, v, return_attention_scores=True)),
    "masked_heads_causal": masked(lambda q, v: L.MultiHeadAttention(2, 3)(q, q, use_causal_mask=True)),
    "masked_heads_dropout": masked(lambda q, v: L.MultiHeadAttention(2, 3, dropout=0.1)(q, v, use_causal_mask=True)),
    "masked_groups": masked(lambda q, v: L.GroupQueryAttention(3, 4, 2)(q, v, use_causal_mask=True)),
    "masked_groups_scores": masked(lambda q, v: L.GroupQueryAttention(3, 4, 2)(q, v, return_attention_scores=True)),
    "groups_gate": two(lambda q, v: L.GroupQueryAttention(3, 4, 2, use_gate=True)(q, v)),
    "masked_key": masked(lambda q, v: L.MultiHeadAttention(2, 3)(q, L.Dense(3)(q), key=q)),
    "masked_dot": masked(lambda q, v: L.Attention()([q, v])),
    "masked_dot_causal": masked(lambda q, v: L.Attention()([q, v], use_causal_mask=True)),
    "masked_additive": masked(lambda q, v: L.AdditiveAttention()([q, v])),
    "masked_through": masked(lambda q, v: L.LSTM(3)(L.Add()([q, L.MultiHeadAttention(2, 3)(q, q)]))),
}


@FAMILY.case
def attention_mask(d: Draw) -> keras.Model:
    q, v, m = keras.Input((4, 4)), keras.Input((5, 4)), keras.Input((4, 5), dtype="bool")
    return keras.Model([q, v, m], L.MultiHeadAttention(2, 3)(q, v, attention_mask=m))


@FAMILY.case
def free_lengths(d: Draw) -> keras.Model:
    x = keras.Input((None, 4))
    y = L.LayerNormalization()(x + L.MultiHeadAttention(2, 3)(x, x))
    return keras.Model(x, L.LayerNormalization()(y + L.Dense(4)(L.Dense(8, activation="gelu")(y))))
