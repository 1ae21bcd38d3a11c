"""Graphs of layers: shared layers, models in models, several inputs and outputs."""

from __future__ import annotations

import keras

from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()


@FAMILY.case
def sequential(d: Draw) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), L.Dense(5, activation="relu"), L.BatchNormalization(), L.Dense(2)])


@FAMILY.case
def sequential_built_late(d: Draw) -> keras.Model:
    model = keras.Sequential([L.Dense(5, activation="relu"), L.Dense(2)])
    model.build((None, 4))
    return model


@FAMILY.case
def shared_layer(d: Draw) -> keras.Model:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    dense = L.Dense(4, activation="tanh")
    return keras.Model([a, b], L.Subtract()([dense(a), dense(dense(b))]))


@FAMILY.case
def nested_models(d: Draw) -> keras.Model:
    i = keras.Input((4,))
    inner = keras.Model(i, [L.Dense(3)(L.BatchNormalization()(i)), L.Dense(4)(i)], name="inner")
    block = keras.Sequential([keras.Input((4,)), L.Dense(4), L.BatchNormalization(), inner], name="block")
    x = keras.Input((4,))
    first, second = inner(x)
    third, _ = block(second)
    return keras.Model(x, [first, third, inner(second)[1]])


@FAMILY.case
def nested_frozen(d: Draw) -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((4,)), L.Dense(4, name="one"), L.BatchNormalization(), L.Dense(4, name="two")]
    )
    inner.layers[0].trainable = False
    inner.layers[1].trainable = False
    return keras.Sequential([keras.Input((4,)), inner, L.Dense(2)])


@FAMILY.case
def nested_frozen_whole(d: Draw) -> keras.Model:
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4), L.BatchNormalization(), L.Dense(4)])
    inner.trainable = False
    return keras.Sequential([keras.Input((4,)), inner, L.BatchNormalization(trainable=False), L.Dense(2)])


@FAMILY.case
def three_deep(d: Draw) -> keras.Model:
    model = keras.Sequential([keras.Input((5, 2)), L.Conv1D(3, 2), L.BatchNormalization()])
    for _ in range(3):
        model = keras.Sequential([keras.Input((5, 2)), model, L.Dense(2), L.ZeroPadding1D((0, 1))])
    return model


@FAMILY.case
def nested_mask(d: Draw) -> keras.Model:
    i = keras.Input((5, 3))
    inner = keras.Model(i, L.GRU(3, return_sequences=True)(i))
    x = keras.Input((5, 3), name="steps")
    return keras.Model(x, inner(L.Masking()(x)))


@FAMILY.case
def outputs_by_name(d: Draw) -> keras.Model:
    a, b = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    return keras.Model({"left": a, "right": b}, {"sum": L.Dense(2)(a), "all": L.Concatenate()([a, b])})


@FAMILY.case
def input_is_output(d: Draw) -> keras.Model:
    x = keras.Input((4,))
    y = L.Dense(4, name="y")(x)
    return keras.Model(x, [y, L.Dropout(0.5)(x), y])


@FAMILY.case
def fixed_batch(d: Draw) -> keras.Model:
    x = keras.Input(batch_shape=(3, 4))
    return keras.Model(x, L.Dense(2)(x))
