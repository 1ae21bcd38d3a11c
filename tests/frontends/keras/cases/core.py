"""Dense layers, embeddings, layers that do nothing, wrappers, rescaling."""

from __future__ import annotations

import keras

from tests.frontends.keras.cases.drawing import Draw, Family, L

FAMILY = Family()


def flat(d: Draw) -> tuple[int]:
    return (d.size(),)


def sequence(d: Draw) -> tuple[int, int]:
    return d.size(3, 6), d.size()


def picture(d: Draw) -> tuple[int, int, int]:
    return d.size(4, 6), d.size(4, 6), d.size(1, 3)


FAMILY.many(
    flat,
    dense=lambda d: L.Dense(d.size(), activation="tanh"),
    dense_without_bias=lambda d: L.Dense(d.size(), use_bias=False),
    dropout=lambda d: L.Dropout(0.4),
    alpha_dropout=lambda d: L.AlphaDropout(0.4),
    gaussian_dropout=lambda d: L.GaussianDropout(0.4),
    gaussian_noise=lambda d: L.GaussianNoise(0.4),
    activity=lambda d: L.ActivityRegularization(l2=0.1),
    identity=lambda d: L.Identity(),
    rescaling=lambda d: L.Rescaling(1 / 255, offset=-0.5),
    einsum_dense=lambda d: L.EinsumDense("ab,bc->ac", output_shape=d.size(), bias_axes="c"),
)
FAMILY.many(
    sequence,
    dense_of_a_sequence=lambda d: L.Dense(d.size(), activation="relu"),
    dense_of_a_sequence_without_bias=lambda d: L.Dense(d.size(), use_bias=False),
    einsum_split=lambda d: L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de"),
    einsum_ellipsis=lambda d: L.EinsumDense("...x,xy->...y", output_shape=4, activation="relu"),
    einsum_over_time=lambda d: L.EinsumDense("abc,bd->adc", output_shape=(4, None), bias_axes="d"),
    spatial_dropout_1d=lambda d: L.SpatialDropout1D(0.3),
    distributed_dense=lambda d: L.TimeDistributed(L.Dense(3, activation="softmax")),
    distributed_flat=lambda d: L.TimeDistributed(L.BatchNormalization()),
    distributed_model=lambda d: L.TimeDistributed(keras.Sequential([L.Dense(3), L.LayerNormalization(), L.Dense(2)])),
)
FAMILY.many(
    picture,
    dense_of_an_image=lambda d: L.Dense(3),
    spatial_dropout_2d=lambda d: L.SpatialDropout2D(0.3),
    rescaling_channels=lambda d: L.Rescaling([2.0], offset=[0.25]),
    distributed_convolution=lambda d: L.TimeDistributed(L.Conv1D(3, 2)),
    distributed_pool=lambda d: L.TimeDistributed(L.GlobalAveragePooling1D()),
    distributed_flatten=lambda d: L.TimeDistributed(L.Flatten()),
    distributed_lstm=lambda d: L.TimeDistributed(L.LSTM(2)),
)
FAMILY.one("distributed_picture", lambda d: L.TimeDistributed(L.Conv2D(2, 2)), lambda d: (3, 5, 4, 2))
FAMILY.one("distributed_free", lambda d: L.TimeDistributed(L.Conv1D(2, 2)), lambda d: (None, 5, 2))
FAMILY.one("spatial_dropout_3d", lambda d: L.SpatialDropout3D(0.3), lambda d: (3, 4, 5, 2))


@FAMILY.case
def embedding(d: Draw) -> keras.Model:
    x = keras.Input((d.size(3, 6),), dtype="int32")
    return keras.Model(x, L.Embedding(9, d.size())(x))


@FAMILY.case
def embedding_of_floats(d: Draw) -> keras.Model:
    x = keras.Input((4,), dtype="float32", name="index_floats")
    return keras.Model(x, L.Embedding(9, 3)(x))


@FAMILY.case
def embedding_of_a_free_length(d: Draw) -> keras.Model:
    x = keras.Input((None,), dtype="int64")
    return keras.Model(x, L.Dense(2)(L.Embedding(9, 3)(x)))


@FAMILY.case
def dense_behind_a_convolution(d: Draw) -> keras.Model:
    x = keras.Input((5, 4, 2))
    return keras.Model(x, L.Dense(3)(L.Conv2D(4, 2)(x)))


@FAMILY.case
def dense_of_integers(d: Draw) -> keras.Model:
    x = keras.Input((4,), dtype="int32")
    return keras.Model(x, L.Dense(3)(L.Rescaling(0.5)(x)))
