"""Pooling over windows and over whole images."""

from __future__ import annotations

from sofie.frontends.keras.builder import Tensor, number
from sofie.frontends.keras.layers.convolution import channels_last, image, imaged, window
from sofie.frontends.keras.registry import Inputs, layer
from sofie.frontends.keras.translate import Translator


@layer(
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    options="pool_size, strides, padding valid and same",
)
def _pool(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    rank = int(own.kind[-2])
    value, _ = image(own, x, rank, translator)
    sizes = own.sizes("pool_size", rank, 2)
    strides = own.sizes("strides", rank) if own.config.get("strides") is not None else sizes
    ones = [1] * rank
    padding = window(own.word("padding", "valid", "valid", "same"), value.shape[2:], sizes, strides, ones)
    operator = "MaxPool" if own.kind.startswith("Max") else "AveragePool"
    result = translator.build(operator, value, kernel_shape=sizes, strides=strides, **padding)
    return imaged(own, result, rank)


@layer(
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalAveragePooling3D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    options="keepdims; GlobalAveragePooling1D takes a mask",
)
def _global(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    rank = int(own.kind[-2])
    value, _ = image(own, x, rank, translator)
    b, keep = translator.build, own.flag("keepdims", False)
    axes = list(range(2, 2 + rank))
    if x.mask is not None and own.kind == "GlobalAveragePooling1D":
        kept = b.unsqueeze(x.mask, 1)
        total = b.reduce("ReduceSum", b("Where", kept, value, number(0)), axes, keep)
        result = b("Div", total, b.reduce("ReduceSum", b("Cast", kept, to=1), axes, keep))
    else:
        result = b.reduce("ReduceMax" if "Max" in own.kind else "ReduceMean", value, axes, keep)
    return Tensor(result, first=keep and channels_last(own, rank))
