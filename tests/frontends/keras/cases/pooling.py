"""Pooling."""

from __future__ import annotations

import keras

from tests.frontends.keras.cases.convolution import SHAPES
from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()

for _rank in (1, 2, 3):
    for _kind in ("Max", "Average"):
        _pool = getattr(L, f"{_kind}Pooling{_rank}D")
        _all = getattr(L, f"Global{_kind}Pooling{_rank}D")
        FAMILY.one(f"{_kind}{_rank}_valid", lambda d, c=_pool: c(d.size(2, 3), strides=d.size(1, 3)), SHAPES[_rank])
        FAMILY.one(f"{_kind}{_rank}_same", lambda d, c=_pool: c(3, strides=1, padding="same"), SHAPES[_rank])
        FAMILY.one(f"{_kind}{_rank}_default", lambda d, c=_pool: c(2), SHAPES[_rank])
        FAMILY.one(f"global_{_kind}{_rank}", lambda d, c=_all: c(), SHAPES[_rank])
        FAMILY.one(f"global_{_kind}{_rank}_kept", lambda d, c=_all: c(keepdims=True), SHAPES[_rank])

for _rank in (1, 2, 3):  # Keras on PyTorch repeats the border in averages where more is padded after than before
    FAMILY.one(
        f"Max{_rank}_same_strides",
        lambda d, r=_rank: getattr(L, f"MaxPooling{r}D")(d.size(2, 3), strides=d.size(1, 3), padding="same"),
        SHAPES[_rank],
    )
FAMILY.one("average_same_even", lambda d: L.AveragePooling2D(3, 2, padding="same"), lambda d: (7, 9, 2))
FAMILY.one("first", lambda d: L.MaxPooling2D(2, data_format="channels_first"), lambda d: (2, 6, 5))
FAMILY.one("first_global", lambda d: L.GlobalAveragePooling2D(data_format="channels_first"), lambda d: (2, 6, 5))
FAMILY.one("free_average_same", lambda d: L.AveragePooling1D(3, 2, "same"), lambda d: (None, 2))


@FAMILY.case
def global_average_of_masked_steps(d: Draw) -> keras.Model:
    x = keras.Input((d.size(3, 6), 3), name="steps")
    return keras.Model(x, L.GlobalAveragePooling1D()(L.Masking()(x)))


@FAMILY.case
def global_average_behind_a_convolution(d: Draw) -> keras.Model:
    x = keras.Input((6, 6, 2))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D(keepdims=True)(L.Conv2D(3, 3)(x))))
