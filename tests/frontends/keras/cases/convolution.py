"""Convolutions, and what is stored with its channels first behind them."""

from __future__ import annotations

import keras

from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()
SHAPES = {
    1: lambda d: (d.size(7, 12), 2 * d.size(1, 2)),
    2: lambda d: (d.size(6, 9), d.size(6, 9), 2 * d.size(1, 2)),
    3: lambda d: (d.size(5, 6), d.size(5, 6), d.size(5, 6), 2 * d.size(1, 2)),
}
CLASSES = {1: L.Conv1D, 2: L.Conv2D, 3: L.Conv3D}
TRANSPOSED = {1: L.Conv1DTranspose, 2: L.Conv2DTranspose, 3: L.Conv3DTranspose}

for _rank in (1, 2, 3):
    _conv, _shape = CLASSES[_rank], SHAPES[_rank]
    for _padding in ("valid", "same"):
        FAMILY.one(f"conv{_rank}_{_padding}", lambda d, c=_conv, p=_padding: c(3, d.size(1, 4), padding=p), _shape)
        FAMILY.one(
            f"conv{_rank}_{_padding}_strides",
            lambda d, c=_conv, p=_padding: c(3, d.size(1, 4), padding=p, strides=d.size(2, 3), activation="relu"),
            _shape,
        )
        FAMILY.one(
            f"conv{_rank}_{_padding}_dilation",
            lambda d, c=_conv, p=_padding: c(3, 2, padding=p, dilation_rate=d.size(2, 3), use_bias=False),
            _shape,
        )
    FAMILY.one(f"conv{_rank}_groups", lambda d, c=_conv: c(4, 2, groups=2), _shape)
    _back = TRANSPOSED[_rank]
    for _padding in ("valid", "same"):
        FAMILY.one(f"back{_rank}_{_padding}", lambda d, c=_back, p=_padding: c(3, 3, padding=p), _shape)
        FAMILY.one(
            f"back{_rank}_{_padding}_strides",
            lambda d, c=_back, p=_padding: c(3, 4, padding=p, strides=2, activation="tanh"),
            _shape,
        )

FAMILY.many(
    SHAPES[1],
    causal=lambda d: L.Conv1D(3, d.size(2, 4), padding="causal"),
    causal_dilated=lambda d: L.Conv1D(3, 3, padding="causal", dilation_rate=2),
    causal_strided=lambda d: L.Conv1D(3, 3, padding="causal", strides=2),
    depthwise_1d=lambda d: L.DepthwiseConv1D(3, padding="same", depth_multiplier=2),
    depthwise_1d_strides=lambda d: L.DepthwiseConv1D(3, strides=2),
    separable_1d=lambda d: L.SeparableConv1D(4, 3, depth_multiplier=2, activation="relu"),
    separable_1d_causal=lambda d: L.SeparableConv1D(4, 3, padding="same"),
    back_extra=lambda d: L.Conv1DTranspose(2, 3, strides=2, output_padding=1),
    back_same_extra=lambda d: L.Conv1DTranspose(2, 3, strides=2, padding="same", output_padding=0),
    back_dilated=lambda d: L.Conv1DTranspose(2, 3, dilation_rate=2),
    back_long_stride=lambda d: L.Conv1DTranspose(2, 2, strides=3),
)
FAMILY.many(
    SHAPES[2],
    unequal=lambda d: L.Conv2D(3, (2, 3), strides=(2, 1), padding="same"),
    depthwise=lambda d: L.DepthwiseConv2D(3, depth_multiplier=2),
    depthwise_same=lambda d: L.DepthwiseConv2D(3, padding="same", activation="relu"),
    depthwise_strides=lambda d: L.DepthwiseConv2D(3, strides=2, padding="same"),
    depthwise_dilation=lambda d: L.DepthwiseConv2D(2, dilation_rate=2, use_bias=False),
    separable=lambda d: L.SeparableConv2D(4, 3, depth_multiplier=2),
    separable_same=lambda d: L.SeparableConv2D(4, 3, padding="same", strides=2, use_bias=False),
    back_unequal=lambda d: L.Conv2DTranspose(3, (2, 4), strides=(1, 2), padding="same"),
)
FAMILY.one("free_sizes", lambda d: L.Conv2D(3, 3, padding="same"), lambda d: (None, None, 2))
FAMILY.one("free_length_same_strides", lambda d: L.Conv1D(3, 3, padding="same", strides=2), lambda d: (None, 2))
FAMILY.one(
    "channels_first",
    lambda d: L.Conv2D(3, 2, data_format="channels_first", padding="same"),
    lambda d: (2, 5, 6),
)


@FAMILY.case
def a_chain_without_transposes(d: Draw) -> keras.Model:
    x = keras.Input((8, 8, 2))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x)))
    z = L.Conv2D(4, 3, padding="same")(L.ZeroPadding2D(((1, 0), (0, 2)))(L.Cropping2D(((0, 1), (2, 0)))(y)))
    w = L.Concatenate()([L.Add()([y, z]), y])
    return keras.Model(x, L.Dense(3)(L.Flatten()(L.MaxPooling2D()(L.UpSampling2D()(w)))))


@FAMILY.case
def residuals_of_sequences(d: Draw) -> keras.Model:
    x = keras.Input((None, 4))
    y = L.Conv1D(6, 1)(x)
    z = L.Conv1D(6, 3, dilation_rate=2, padding="same", activation="relu")(L.BatchNormalization()(y))
    return keras.Model(x, L.Softmax()(L.Conv1D(3, 1)(L.Cropping1D(1)(L.Add()([y, z])))))
