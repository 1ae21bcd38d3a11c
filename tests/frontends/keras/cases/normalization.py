"""Normalisation."""

from __future__ import annotations

import keras
import numpy as np

from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()


def flat(d: Draw) -> tuple[int]:
    return (d.size(),)


def picture(d: Draw) -> tuple[int, int, int]:
    return d.size(3, 5), d.size(3, 5), 4


FAMILY.many(
    flat,
    batch_flat=lambda d: L.BatchNormalization(epsilon=0.01),
    batch_plain=lambda d: L.BatchNormalization(center=False, scale=False),
    layer_flat=lambda d: L.LayerNormalization(),
    unit_flat=lambda d: L.UnitNormalization(),
    rms_flat=lambda d: L.RMSNormalization(),
    adapted=lambda d: L.Normalization(),
    given=lambda d: L.Normalization(mean=2.0, variance=3.0),
    given_back=lambda d: L.Normalization(mean=2.0, variance=3.0, invert=True),
    given_whole=lambda d: L.Normalization(axis=None, mean=1.0, variance=0.5),
    group_flat=lambda d: L.GroupNormalization(groups=-1),
)
FAMILY.many(
    picture,
    batch=lambda d: L.BatchNormalization(),
    batch_scale=lambda d: L.BatchNormalization(center=False),
    batch_centre=lambda d: L.BatchNormalization(scale=False),
    batch_first=lambda d: L.BatchNormalization(axis=1),
    batch_middle=lambda d: L.BatchNormalization(axis=2),
    layer=lambda d: L.LayerNormalization(),
    layer_plain=lambda d: L.LayerNormalization(center=False, scale=False),
    layer_axes=lambda d: L.LayerNormalization(axis=[2, 3]),
    group=lambda d: L.GroupNormalization(groups=2),
    group_all=lambda d: L.GroupNormalization(groups=1, center=False),
    group_each=lambda d: L.GroupNormalization(groups=-1, scale=False),
    group_first=lambda d: L.GroupNormalization(groups=-1, axis=1),
    unit=lambda d: L.UnitNormalization(axis=(1, 2)),
    rms=lambda d: L.RMSNormalization(epsilon=0.01),
    adapted_channels=lambda d: L.Normalization(axis=-1),
    adapted_two=lambda d: L.Normalization(axis=(1, 3)),
    given_channels=lambda d: L.Normalization(mean=np.arange(4.0), variance=np.arange(1.0, 5.0)),
)


@FAMILY.case
def behind_a_convolution(d: Draw) -> keras.Model:
    x = keras.Input((6, 5, 2))
    y = L.Conv2D(4, 2)(x)
    outputs = [
        L.LayerNormalization()(y),
        L.GroupNormalization(2)(y),
        L.BatchNormalization(axis=1)(y),
        L.UnitNormalization()(y),
    ]
    return keras.Model(x, outputs)
