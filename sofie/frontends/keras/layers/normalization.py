"""Normalisation: by statistics of the training (batch), of the example (layer, group, unit, RMS), or given ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sofie.frontends.keras.builder import Tensor, number
from sofie.frontends.keras.config import Layer
from sofie.frontends.keras.layers.core import numbers
from sofie.frontends.keras.layers.merging import normalised
from sofie.frontends.keras.registry import Inputs, Weight, layer, named
from sofie.frontends.keras.translate import Translator
from sofie.weights import Array


def _scaled(own: Layer, shape: Sequence[int], translator: Translator) -> tuple[Array, Array]:
    """gamma and beta; ones and zeros where a layer has none."""
    gamma = translator.weight(own, "gamma", *shape) if own.flag("scale", True) else np.ones(shape, np.float32)
    beta = translator.weight(own, "beta", *shape) if own.flag("center", True) else np.zeros(shape, np.float32)
    return gamma, beta


def _batch_weights(own: Layer) -> list[Weight]:
    trained = named("gamma?scale", "beta?center")(own)
    return [*trained, Weight("moving_mean", trained=False), Weight("moving_variance", trained=False)]


@layer("BatchNormalization", "SyncBatchNormalization", weights=_batch_weights, masks="kept", options="axis; no renorm")
def _batch(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    if own.flag("renorm", False):
        own.refuse("renorm is not supported")
    b = translator.build
    axes = own.axes("axis", x.rank)
    if len(axes) != 1 or axes == [0]:
        own.refuse("it normalises several axes; use one")
    channels = translator.known(own, x, axes[0])
    gamma, beta = _scaled(own, [channels], translator)
    mean = translator.weight(own, "moving_mean", channels)
    variance = translator.weight(own, "moving_variance", channels)
    epsilon = own.real("epsilon", 1e-3)
    if axes[0] == x.rank - 1:
        value, back = b.first(x), None
    elif axes[0] == 1:
        value, back = b.last(x), None
    else:
        order = [0, axes[0], *(k for k in range(1, x.rank) if k != axes[0])]
        value, back = b("Transpose", b.last(x), perm=order), [int(k) for k in np.argsort(order)]
    result = b("BatchNormalization", b.floating(value), gamma, beta, mean, variance, epsilon=epsilon)
    if back is not None:
        return Tensor(b("Transpose", result, perm=back))
    return Tensor(result, first=axes[0] == x.rank - 1 and x.rank > 2)


@layer("LayerNormalization", weights=named("gamma?scale", "beta?center"), masks="kept", options="axis, several of them")
def _layer_norm(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    if own.flag("rms_scaling", False):
        own.refuse("rms_scaling is not supported; use RMSNormalization")
    b, value = translator.build, translator.build.floating(translator.build.last(x))
    axes = own.axes("axis", x.rank)
    shape = [translator.known(own, x, axis) for axis in axes]
    gamma, beta = _scaled(own, shape, translator)
    epsilon = own.real("epsilon", 1e-3)
    if axes == list(range(axes[0], x.rank)):
        return Tensor(b("LayerNormalization", value, gamma, beta, axis=axes[0], epsilon=epsilon))
    spread = [shape[axes.index(k)] if k in axes else 1 for k in range(x.rank)]
    centred = b("Sub", value, b.reduce("ReduceMean", value, axes, keep=True))
    variance = b.reduce("ReduceMean", b("Mul", centred, centred), axes, keep=True)
    unit = b("Div", centred, b("Sqrt", b("Add", variance, number(epsilon))))
    return Tensor(b("Add", b("Mul", unit, gamma.reshape(spread)), beta.reshape(spread)))


@layer("GroupNormalization", weights=named("gamma?scale", "beta?center"), masks="kept", options="groups, axis")
def _group(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b = translator.build
    axes = own.axes("axis", x.rank)
    if len(axes) != 1 or axes[0] not in (1, x.rank - 1) or x.rank < 2:
        own.refuse("it groups an axis that is neither the last nor the one after the batch")
    channels = translator.known(own, x, axes[0])
    groups = channels if own.config.get("groups", 32) == -1 else own.integer("groups", 32)
    if channels % groups:
        raise own.wrong(f"{groups} groups do not divide its {channels} channels")
    gamma, beta = _scaled(own, [channels], translator)
    last = axes[0] == x.rank - 1
    value = b.floating(b.first(x) if last else b.last(x))
    if x.rank == 2:
        value = b.unsqueeze(value, 2)
    epsilon = own.real("epsilon", 1e-3)
    result = b("GroupNormalization", value, gamma, beta, num_groups=groups, epsilon=epsilon)
    result = b.shaped(result, value.shape)
    return Tensor(b.squeeze(result, 2)) if x.rank == 2 else Tensor(result, first=last)


@layer("UnitNormalization", masks="kept", options="axis, several of them")
def _unit(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b = translator.build
    return Tensor(normalised(b, b.floating(b.last(x)), own.axes("axis", x.rank)))


@layer("RMSNormalization", weights=named("scale"), options="the last axis")
def _rms(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b, value = translator.build, translator.build.floating(translator.build.last(x))
    if own.axes("axis", x.rank) != [x.rank - 1]:
        own.refuse("it normalises another axis than the last, along which its scale lies")
    scale = translator.weight(own, "scale", translator.known(own, x, -1))
    return Tensor(b("RMSNormalization", value, scale, axis=-1, epsilon=own.real("epsilon", 1e-6)))


def _given_weights(own: Layer) -> list[Weight]:
    """The statistics are weights where they were learnt from data, and settings where they were given."""
    if _given(own):
        return []
    return [Weight(name, trained=False) for name in ("mean", "variance", "count")]


def _given(own: Layer) -> bool:
    mean = own.config.get("mean")
    return mean is not None and not (isinstance(mean, float) and mean != mean)


@layer("Normalization", weights=_given_weights, masks="kept", options="axis, mean and variance, invert; adapted before")
def _statistics(inputs: Inputs, translator: Translator) -> Tensor:
    """(x - mean) / max(sqrt(variance), 1e-7), or back."""
    own, x = inputs.layer, inputs.x
    b, value = translator.build, translator.build.floating(translator.build.last(x))
    axes = [] if own.config.get("axis", -1) is None or own.config.get("axis") == [] else own.axes("axis", x.rank)
    shape = [translator.known(own, x, axis) for axis in axes]
    spread = [shape[axes.index(k)] if k in axes else 1 for k in range(x.rank)]
    statistics = []
    for name in ("mean", "variance"):
        if _given(own):
            array = numbers(own, name)
            array = (
                array.reshape([1] * (len(axes) - array.ndim) + list(array.shape)) if array.ndim < len(axes) else array
            )
            array = np.broadcast_to(array.reshape(array.shape[-len(axes) :] if axes else ()), shape)
        else:
            array = translator.weight(own, name, *shape)
        statistics.append(np.reshape(array, spread))
    mean, variance = statistics
    deviation = np.maximum(np.sqrt(variance), np.float32(1e-7))
    if own.flag("invert", False):
        return Tensor(b("Add", mean, b("Mul", value, deviation)))
    return Tensor(b("Div", b("Sub", value, mean), deviation))
