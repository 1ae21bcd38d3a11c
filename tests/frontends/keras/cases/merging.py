"""Layers of several inputs, and functions between layers."""

from __future__ import annotations

import keras
from keras import ops

from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()


def pair(make, left, right):
    def model(d: Draw) -> keras.Model:
        inputs = [keras.Input(left), keras.Input(right)]
        return keras.Model(inputs, make(inputs))

    return model


for _name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"):
    _layer = getattr(L, _name)
    FAMILY.cases[_name] = pair(lambda v, c=_layer: c()(v), (4, 3), (4, 3))
    FAMILY.cases[f"{_name}_broadcast"] = pair(lambda v, c=_layer: c()(v), (4, 3), (1, 3))
    FAMILY.cases[f"{_name}_ranks"] = pair(lambda v, c=_layer: c()(v), (4, 3), (3,))
for _axis in (-1, 1, 2):
    FAMILY.cases[f"concatenate_{_axis}"] = pair(lambda v, a=_axis: L.Concatenate(axis=a)(v), (4, 3), (4, 3))
FAMILY.cases["dot"] = pair(lambda v: L.Dot(axes=1)(v), (4,), (4,))
FAMILY.cases["dot_normalised"] = pair(lambda v: L.Dot(axes=1, normalize=True)(v), (4,), (4,))
FAMILY.cases["dot_of_sequences"] = pair(lambda v: L.Dot(axes=(2, 2))(v), (4, 3), (5, 3))
FAMILY.cases["dot_across"] = pair(lambda v: L.Dot(axes=(2, 1), normalize=True)(v), (4, 3), (3, 5))
FAMILY.cases["dot_of_unlike"] = pair(lambda v: L.Dot(axes=(2, 1))(v), (4, 3), (3,))
FAMILY.cases["operators"] = pair(lambda v: (v[0] + v[1]) * 2.0 - v[1] / (ops.abs(v[0]) + 1.5), (4,), (4,))
FAMILY.cases["comparisons"] = pair(lambda v: ops.maximum(v[0], 0.1) - ops.minimum(v[1], v[0]), (4,), (4,))
FAMILY.cases["functions"] = pair(
    lambda v: ops.tanh(ops.concatenate(v, axis=-1)) * ops.mean(v[0], axis=-1, keepdims=True), (4,), (4,)
)
FAMILY.cases["gelu_function"] = pair(lambda v: ops.gelu(v[0]) + ops.gelu(v[1], approximate=False), (4,), (4,))
FAMILY.cases["product_function"] = pair(lambda v: ops.matmul(v[0], ops.transpose(v[1], (0, 2, 1))), (4, 3), (5, 3))
FAMILY.cases["reshape_functions"] = pair(
    lambda v: ops.squeeze(ops.expand_dims(v[0], 1), 1) + ops.sum(v[1], axis=1, keepdims=True), (4, 3), (4, 3)
)


@FAMILY.case
def three_inputs(d: Draw) -> keras.Model:
    inputs = [keras.Input((4,), name=n) for n in "abc"]
    return keras.Model(inputs, [L.Add()(inputs), L.Multiply()(inputs), L.Average()(inputs), L.Concatenate()(inputs)])


@FAMILY.case
def scaled_channels_behind_a_convolution(d: Draw) -> keras.Model:
    x = keras.Input((6, 5, 2))
    y = L.Conv2D(4, 3)(x)
    return keras.Model(
        x, L.Multiply()([y, L.Dense(4, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(y))])
    )


@FAMILY.case
def image_and_sequence_join(d: Draw) -> keras.Model:
    x = keras.Input((6, 2))
    return keras.Model(x, L.Concatenate()([L.Conv1D(3, 1)(x), x]))
