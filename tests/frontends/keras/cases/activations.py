"""Activation functions and the layers that are one."""

from __future__ import annotations

import keras
from keras import activations

from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()
NAMES = (
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu linear "
    "log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax "
    "softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink hard_swish "
).split()


def flat(d: Draw) -> tuple[int]:
    return (2 * d.size(2, 5),)


def picture(d: Draw) -> tuple[int, int, int]:
    return d.size(3, 6), d.size(3, 6), 2 * d.size(1, 3)


for _name in NAMES:
    FAMILY.one(_name, lambda d, name=_name: L.Activation(name), flat)
FAMILY.one("glu", lambda d: L.Activation(activations.glu), flat)
FAMILY.many(
    picture,
    softmax_of_an_image=lambda d: L.Activation("softmax"),
    relu_plain=lambda d: L.ReLU(),
    relu_capped=lambda d: L.ReLU(max_value=0.7),
    relu_sloped=lambda d: L.ReLU(negative_slope=0.2),
    relu_above=lambda d: L.ReLU(threshold=0.3),
    relu_all=lambda d: L.ReLU(max_value=1.5, negative_slope=0.2, threshold=0.3),
    relu_six=lambda d: L.ReLU(max_value=6),
    leaky=lambda d: L.LeakyReLU(negative_slope=0.15),
    leaky_default=lambda d: L.LeakyReLU(),
    elu_layer=lambda d: L.ELU(alpha=0.7),
    prelu=lambda d: L.PReLU(),
    prelu_shared=lambda d: L.PReLU(shared_axes=[1, 2]),
    softmax_layer=lambda d: L.Softmax(),
    softmax_axis=lambda d: L.Softmax(axis=1),
    softmax_axes=lambda d: L.Softmax(axis=(1, 2)),
)


@FAMILY.case
def prelu_behind_a_convolution(d: Draw) -> keras.Model:
    x = keras.Input((5, 5, 2))
    return keras.Model(x, L.PReLU()(L.Conv2D(3, 2)(x)))


@FAMILY.case
def glu_behind_a_convolution(d: Draw) -> keras.Model:
    x = keras.Input((5, 5, 2))
    return keras.Model(x, L.Conv2D(4, 2, activation=activations.glu)(x))


@FAMILY.case
def layers_as_activations(d: Draw) -> keras.Model:
    x = keras.Input((d.size(),))
    return keras.Model(x, L.Dense(4, activation=L.LeakyReLU(0.1))(L.Dense(3, activation=L.ELU(0.5))(x)))


@FAMILY.case
def mask_reaches_softmax(d: Draw) -> keras.Model:
    n = d.size(3, 5)
    x, m = keras.Input((n,)), keras.Input((n,), dtype="bool")
    return keras.Model([x, m], L.Softmax()(x, mask=m))
