"""Layers that move, repeat, cut and pad."""

from __future__ import annotations

import keras

from tests.frontends.keras.cases.convolution import SHAPES
from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()


FAMILY.many(
    SHAPES[2],
    flatten=lambda d: L.Flatten(),
    flatten_first=lambda d: L.Flatten(data_format="channels_first"),
    permute=lambda d: L.Permute((3, 1, 2)),
    cropping_2d=lambda d: L.Cropping2D(((1, 2), (0, 1))),
    cropping_2d_even=lambda d: L.Cropping2D(1),
    padding_2d=lambda d: L.ZeroPadding2D(((1, 2), (0, 3))),
    padding_2d_first=lambda d: L.ZeroPadding2D((1, 2), data_format="channels_first"),
    up_2d=lambda d: L.UpSampling2D((2, 3)),
    up_2d_bilinear=lambda d: L.UpSampling2D((2, 3), interpolation="bilinear"),
    up_2d_first=lambda d: L.UpSampling2D(2, data_format="channels_first"),
    reshape_open=lambda d: L.Reshape((-1, 2)),
)
FAMILY.many(
    SHAPES[1],
    cropping_1d=lambda d: L.Cropping1D((1, 2)),
    cropping_1d_even=lambda d: L.Cropping1D(2),
    padding_1d=lambda d: L.ZeroPadding1D((2, 1)),
    padding_1d_even=lambda d: L.ZeroPadding1D(3),
    up_1d=lambda d: L.UpSampling1D(3),
    flatten_1d=lambda d: L.Flatten(),
)
FAMILY.many(
    SHAPES[3],
    cropping_3d=lambda d: L.Cropping3D(((1, 1), (0, 2), (1, 0))),
    padding_3d=lambda d: L.ZeroPadding3D(((1, 1), (0, 2), (1, 0))),
    up_3d=lambda d: L.UpSampling3D((1, 2, 3)),
)
FAMILY.one("reshape", lambda d: L.Reshape((3, 4)), lambda d: (2, 6))
FAMILY.one("reshape_scalar", lambda d: L.Reshape((1,)), lambda d: (1, 1))
FAMILY.one("repeat", lambda d: L.RepeatVector(d.size()), lambda d: (d.size(),))
FAMILY.one("reshape_of_a_free_length", lambda d: L.Reshape((-1, 2, 3)), lambda d: (None, 6))
FAMILY.one("padding_of_a_free_length", lambda d: L.ZeroPadding1D(2), lambda d: (None, 3))
FAMILY.one("cropping_of_a_free_length", lambda d: L.Cropping1D((1, 0)), lambda d: (None, 3))


@FAMILY.case
def behind_a_convolution(d: Draw) -> keras.Model:
    x = keras.Input((6, 5, 2))
    y = L.Conv2D(4, 2)(x)
    outputs = [L.Flatten()(y), L.Reshape((-1, 8))(y), L.Permute((2, 1, 3))(y), L.ZeroPadding2D(1)(y)]
    return keras.Model(x, outputs)
