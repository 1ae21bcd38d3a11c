"""Layers that move, repeat, cut and pad."""

from __future__ import annotations

from typing import Any

import numpy as np

from sofie.frontends.keras.builder import Size, Tensor, ints, number
from sofie.frontends.keras.config import plain
from sofie.frontends.keras.layers.convolution import channels_last, image, imaged
from sofie.frontends.keras.registry import Inputs, layer
from sofie.frontends.keras.translate import Translator

END = np.iinfo(np.int64).max


@layer("Flatten", options="data_format")
def _flatten(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b, value = translator.build, translator.build.last(x)
    if not channels_last(own, x.rank) and x.rank > 2:
        value = b("Transpose", value, perm=[0, *range(2, x.rank), 1])
    if x.rank == 1:
        return Tensor(b.unsqueeze(value, 1))
    return Tensor(_resized(translator, value, x.shape[0], [-1], x.shape[1:]))


def _resized(translator: Translator, value: Any, batch: Size, target: list[int], rest: tuple[Size, ...]) -> Any:
    """(batch, *target); at most one of `target` is -1, and is computed where all sizes are known."""
    b = translator.build
    known = [s for s in rest if isinstance(s, int)]
    sizes = list(target)
    if len(known) == len(rest) and -1 in sizes:
        left = int(np.prod([s for s in sizes if s != -1], dtype=object))
        if left == 0 or int(np.prod(known, dtype=object)) % left:
            raise ValueError(f"{list(rest)} cannot become {target}")
        sizes[sizes.index(-1)] = int(np.prod(known, dtype=object)) // left
    elif len(known) == len(rest) and int(np.prod(known, dtype=object)) != int(np.prod(sizes, dtype=object)):
        raise ValueError(f"{list(rest)} cannot become {target}")
    result = b.reshape(value, [0, *sizes])
    return b.shaped(result, [batch, *(s if s != -1 else None for s in sizes)])


@layer("Reshape", options="target_shape")
def _reshape(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    target = plain(own.config.get("target_shape"))
    if not isinstance(target, list) or not all(isinstance(s, int) and -1 <= s < 2**31 and s for s in target):
        raise own.wrong("its target_shape is no list of sizes")
    if target.count(-1) > 1:
        raise own.wrong("its target_shape leaves two sizes open")
    return Tensor(_resized(translator, translator.build.last(x), x.shape[0], target, x.shape[1:]))


@layer("Permute", options="dims")
def _permute(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    dims = plain(own.config.get("dims"))
    if not isinstance(dims, list) or sorted(map(str, dims)) != sorted(map(str, range(1, x.rank))):
        raise own.wrong("its dims are no order of the axes of its input")
    return Tensor(translator.build("Transpose", translator.build.last(x), perm=[0, *dims]))


@layer("RepeatVector", options="n")
def _repeat_vector(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b = translator.build
    if x.rank != 2:
        raise own.wrong(f"its input has rank {x.rank}, and has to have rank 2")
    return Tensor(b("Tile", b.unsqueeze(b.last(x), 1), ints([1, own.integer("n"), 1])))


def _spatial(inputs: Inputs, rank: int) -> tuple[list[int], bool]:
    """The axes of an image as they are stored, and whether its channels are stored first."""
    own, x = inputs.layer, inputs.x
    if x.rank != rank + 2:
        raise own.wrong(f"its input has rank {x.rank}, and has to have rank {rank + 2}")
    begin = 1 if channels_last(own, rank) else 2
    return [x.axis(begin + k) for k in range(rank)], x.first


@layer("Cropping1D", "Cropping2D", "Cropping3D", options="cropping")
def _crop(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    rank = int(own.kind[-2])
    axes, _ = _spatial(inputs, rank)
    pairs = own.pairs("cropping", rank)
    for axis, (before, after) in zip(axes, pairs, strict=True):
        size = x.value.shape[axis]
        if isinstance(size, int) and before + after >= size:
            raise own.wrong(f"it crops {before + after} of {size}, and nothing is left")
    used = [(a, p) for a, p in zip(axes, pairs, strict=True) if p != (0, 0)]
    if not used:
        return Tensor(x.value, x.first)
    starts, ends = [p[0] for _, p in used], [-p[1] if p[1] else END for _, p in used]
    result = translator.build("Slice", x.value, ints(starts), ints(ends), ints([a for a, _ in used]))
    return Tensor(result, x.first)


@layer("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", options="padding")
def _zero_padding(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    rank = int(own.kind[-2])
    axes, _ = _spatial(inputs, rank)
    pairs = own.pairs("padding", rank)
    pads = [[0, 0] for _ in range(x.rank)]
    for axis, pair in zip(axes, pairs, strict=True):
        pads[axis] = list(pair)
    value = translator.build.floating(x.value)
    flat = [p[0] for p in pads] + [p[1] for p in pads]
    return Tensor(translator.build("Pad", value, ints(flat), number(0)), x.first)


@layer("UpSampling1D", "UpSampling2D", "UpSampling3D", options="nearest; bilinear in 2D")
def _upsample(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    rank = int(own.kind[-2])
    value, _ = image(own, x, rank, translator)
    sizes = own.sizes("size", rank, 2)
    how = own.word("interpolation", "nearest", *(("nearest", "bilinear") if rank == 2 else ("nearest",)))
    scales = np.array([1, 1, *sizes], np.float32)
    attributes = (
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if how == "nearest"
        else {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    )
    return imaged(own, translator.build("Resize", value, None, scales, **attributes), rank)
