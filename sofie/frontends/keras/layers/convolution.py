"""Convolutions: ONNX's, with the channels first; kernels are turned once, when they are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sofie.frontends.keras.builder import Size, Tensor, Value
from sofie.frontends.keras.config import Layer
from sofie.frontends.keras.layers.activations import activate
from sofie.frontends.keras.registry import Inputs, layer, named
from sofie.frontends.keras.translate import Translator
from sofie.weights import Array


def channels_last(owner: Layer, rank: int) -> bool:
    """Whether the channels are the last axis; `rank` is that of the images alone."""
    return owner.word("data_format", "channels_last", "channels_last", "channels_first") == "channels_last"


def image(owner: Layer, tensor: Tensor, rank: int, translator: Translator) -> tuple[Value, int]:
    """An image as (batch, channels, spatial...), and its number of channels. Raises SofieError on another rank."""
    if tensor.rank != rank + 2:
        raise owner.wrong(f"its input has rank {tensor.rank}, and has to have rank {rank + 2}")
    b, last = translator.build, channels_last(owner, rank)
    value = b.floating(b.first(tensor) if last else b.last(tensor))
    return value, translator.known(owner, tensor, -1 if last else 1)


def imaged(owner: Layer, value: Value, rank: int) -> Tensor:
    """The tensor of a result (batch, channels, spatial...)."""
    return Tensor(value, first=channels_last(owner, rank))


def window(
    kind: str, sizes: Sequence[Size], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> dict[str, object]:
    """ONNX's attributes for a padding of Keras: `same` has out = ceil(in / stride), with more at the end.

    Where that follows from sizes that are not known, ONNX computes it alike.
    """
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    if kind == "valid":
        return {}
    if kind == "causal":
        return {"pads": [*reach, *[0] * len(reach)]}
    total = []
    for size, r, stride in zip(sizes, reach, strides, strict=True):
        if stride == 1:
            total.append(r)
        elif isinstance(size, int):
            total.append(max((-(-size // stride) - 1) * stride + r + 1 - size, 0))
        else:
            return {"auto_pad": "SAME_UPPER"}
    return {"pads": [*(t // 2 for t in total), *(t - t // 2 for t in total)]}


def convolve(own: Layer, value: Value, kernel: Array, bias: Array | None, groups: int, translator: Translator) -> Value:
    """A convolution with ONNX's kernel (outputs, inputs / groups, spatial...) and the settings of a layer."""
    rank = kernel.ndim - 2
    strides, dilations = own.sizes("strides", rank, 1), own.sizes("dilation_rate", rank, 1)
    words = ("valid", "same", "causal") if rank == 1 else ("valid", "same")
    padding = window(own.word("padding", "valid", *words), value.shape[2:], kernel.shape[2:], strides, dilations)
    return translator.build(
        "Conv",
        value,
        kernel,
        bias,
        kernel_shape=list(kernel.shape[2:]),
        strides=strides,
        dilations=dilations,
        group=groups,
        **padding,
    )


def _bias(own: Layer, count: int, translator: Translator) -> Array | None:
    return translator.weight(own, "bias", count) if own.flag("use_bias", True) else None


KERNEL = named("kernel", "bias?use_bias")


@layer("Conv1D", "Conv2D", "Conv3D", weights=KERNEL, options="padding valid, same, causal; strides, dilation, groups")
def _conv(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    rank = int(own.kind[4])
    value, channels = image(own, x, rank, translator)
    filters, groups = own.integer("filters"), own.integer("groups", 1)
    if channels % groups or filters % groups:
        raise own.wrong(f"{groups} groups do not divide its {channels} channels and {filters} filters")
    kernel = translator.weight(own, "kernel", *own.sizes("kernel_size", rank), channels // groups, filters)
    turned = np.moveaxis(kernel, (-1, -2), (0, 1))
    result = convolve(own, value, turned, _bias(own, filters, translator), groups, translator)
    return activate(own, imaged(own, result, rank), translator)


def _by_channel(own: Layer, name: str, rank: int, channels: int, translator: Translator) -> Array:
    """The kernel (spatial..., channels, multiplier) of a depthwise convolution as ONNX's, a group a channel."""
    multiplier = own.integer("depth_multiplier", 1)
    kernel = translator.weight(own, name, *own.sizes("kernel_size", rank), channels, multiplier)
    spatial = kernel.shape[:rank]
    return np.moveaxis(kernel, (-2, -1), (0, 1)).reshape(channels * multiplier, 1, *spatial)


@layer(
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    weights=named("kernel", "bias?use_bias"),
    options="depth_multiplier, padding, strides, dilation",
)
def _depthwise(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    rank = int(own.kind[13])
    value, channels = image(own, x, rank, translator)
    kernel = _by_channel(own, "kernel", rank, channels, translator)
    result = convolve(own, value, kernel, _bias(own, kernel.shape[0], translator), channels, translator)
    return activate(own, imaged(own, result, rank), translator)


@layer(
    "SeparableConv1D",
    "SeparableConv2D",
    weights=named("depthwise_kernel", "pointwise_kernel", "bias?use_bias"),
    options="depth_multiplier, padding, strides, dilation",
)
def _separable(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    rank = int(own.kind[13])
    value, channels = image(own, x, rank, translator)
    each = _by_channel(own, "depthwise_kernel", rank, channels, translator)
    filters = own.integer("filters")
    point = translator.weight(own, "pointwise_kernel", *[1] * rank, each.shape[0], filters)
    deep = convolve(own, value, each, None, channels, translator)
    mixed = translator.build("Conv", deep, np.moveaxis(point, (-1, -2), (0, 1)), _bias(own, filters, translator))
    return activate(own, imaged(own, mixed, rank), translator)


def transposed_window(kind: str, reach: int, stride: int, extra: int | None) -> tuple[int, int, int]:
    """What a transposed convolution crops before and after, and adds after, along one axis.

    Keras fixes the size: in * stride for `same`, (in - 1) * stride + max(reach, stride) for `valid`; with an
    output_padding, (in - 1) * stride + reach % 2 + extra and (in - 1) * stride + reach + extra. `reach` is the kernel's
    with its dilation. The split is that of keras.src.backend.common.backend_utils for JAX and TensorFlow.
    """
    if kind == "valid":
        return 0, 0, max(reach, stride) - reach if extra is None else extra
    total = stride + reach - 2 if extra is None else reach + reach % 2 - 2 + extra
    before = min(total // 2 + total % 2, reach - 1)
    after = total - before
    return reach - 1 - before, max(reach - 1 - after, 0), max(after - reach + 1, 0)


@layer(
    "Conv1DTranspose",
    "Conv2DTranspose",
    "Conv3DTranspose",
    weights=KERNEL,
    options="padding, output_padding, strides, dilation; sizes as TensorFlow and JAX have them",
)
def _transposed(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    rank = int(own.kind[4])
    value, channels = image(own, x, rank, translator)
    filters, sizes = own.integer("filters"), own.sizes("kernel_size", rank)
    kernel = translator.weight(own, "kernel", *sizes, filters, channels)
    strides, dilations = own.sizes("strides", rank, 1), own.sizes("dilation_rate", rank, 1)
    extra: list[int | None] = [None] * rank
    if own.config.get("output_padding") is not None:
        extra = list(own.sizes("output_padding", rank, low=0))
    kind = own.word("padding", "valid", "valid", "same")
    reach = [(k - 1) * d + 1 for k, d in zip(sizes, dilations, strict=True)]
    crops = [transposed_window(kind, r, s, e) for r, s, e in zip(reach, strides, extra, strict=True)]
    result = translator.build(
        "ConvTranspose",
        value,
        np.moveaxis(kernel, (-1, -2), (0, 1)),
        _bias(own, filters, translator),
        kernel_shape=sizes,
        strides=strides,
        dilations=dilations,
        pads=[*(c[0] for c in crops), *(c[1] for c in crops)],
        output_padding=[c[2] for c in crops],
    )
    return activate(own, imaged(own, result, rank), translator)
