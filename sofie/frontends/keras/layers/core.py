"""Dense layers, embeddings, layers that do nothing when a model runs, and wrappers."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from sofie.errors import printable
from sofie.frontends.keras.builder import Tensor, Value, number
from sofie.frontends.keras.config import Layer
from sofie.frontends.keras.layers.activations import activate
from sofie.frontends.keras.registry import Inputs, layer, layers, named
from sofie.frontends.keras.translate import Translator


@layer("Dense", weights=named("kernel", "bias?use_bias"), masks="kept", options="any rank; activation")
def _dense(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b, units = translator.build, own.integer("units")
    value = b.floating(b.last(x))
    if x.rank < 2:
        raise own.wrong(f"its input has rank {x.rank}, and has to have a batch")
    kernel = translator.weight(own, "kernel", translator.known(own, x, -1), units)
    bias = translator.weight(own, "bias", units) if own.flag("use_bias", True) else None
    if x.rank == 2:
        result = b("Gemm", value, kernel, bias) if bias is not None else b("MatMul", value, kernel)
    else:
        result = b("MatMul", value, kernel)
        result = b("Add", result, bias) if bias is not None else result
    return activate(own, Tensor(result), translator)


@layer("EinsumDense", weights=named("kernel", "bias?bias_axes"), options="equation, bias_axes; activation")
def _einsum_dense(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b, equation = translator.build, own.config.get("equation")
    parts = re.fullmatch(r"([a-zA-Z.]+),([a-zA-Z.]+)->([a-zA-Z.]+)", str(equation).replace(" ", ""))
    if not isinstance(equation, str) or parts is None:
        raise own.wrong("its equation is not of the form ab,bc->ac")
    left, middle, right = parts.groups()
    shape = own.weights["kernel"].shape if "kernel" in own.weights else ()
    if "." in middle or len(shape) != len(middle):
        raise own.wrong(f"its kernel has shape {list(shape)}, which does not fit its equation")
    kernel = translator.weight(own, "kernel", *shape)
    result = b("Einsum", b.floating(b.last(x)), kernel, equation=f"{left},{middle}->{right}")
    axes = own.config.get("bias_axes")
    if axes:
        letters = right.replace("...", "")
        if not isinstance(axes, str) or any(a not in letters for a in axes):
            raise own.wrong("its bias_axes are not among those of its result")
        found = own.weights["bias"].shape
        bias = translator.weight(own, "bias", *found)
        result = b("Add", result, bias)
    return activate(own, Tensor(result), translator)


@layer("Embedding", weights=named("embeddings"), masks="own", options="mask_zero")
def _embedding(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b = translator.build
    table = translator.weight(own, "embeddings", own.integer("input_dim"), own.integer("output_dim"))
    value = b.last(x)
    if value.dtype not in (np.int32, np.int64):
        value = b("Cast", value, to=6)
    mask = None
    if own.flag("mask_zero", False):
        mask = b("Not", b("Equal", value, np.array(0, value.dtype)))
    return Tensor(b("Gather", table, value, axis=0), mask=mask)


@layer("Masking", masks="own", options="mask_value")
def _masking(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b = translator.build
    value = b.floating(b.last(x))
    same = b("Equal", value, number(own.real("mask_value", 0.0)))
    kept = differs(translator, same)
    return Tensor(b("Where", b.unsqueeze(kept, -1), value, number(0)), mask=kept)


def differs(translator: Translator, same: Value) -> Value:
    """Whether any along the last axis is false."""
    b = translator.build
    return b("Less", b.reduce("ReduceMin", b("Cast", same, to=1), [-1]), number(0.5))


@layer(
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    masks="kept",
    options="nothing of it is left when a model runs",
)
def _nothing(inputs: Inputs, translator: Translator) -> Tensor:
    return inputs.x


@layer("InputLayer", masks="kept")
def _input(inputs: Inputs, translator: Translator) -> Tensor:
    return inputs.x


EVERY_STEP = {"Activation", "Dense", "Dropout", "ELU", "Identity", "LeakyReLU", "ReLU"}
"""Layers that do the same to each step whether it is a step or not."""


@layer("TimeDistributed", masks="own", options="any layer inside; a mask where the layer takes none")
def _time_distributed(inputs: Inputs, translator: Translator) -> Tensor:
    """The layer on (batch time, ...): each step is an element of a larger batch."""
    own, x = inputs.layer, inputs.x
    b, inner = translator.build, _child(own, "layer")
    if x.rank < 3:
        raise own.wrong(f"its input has rank {x.rank}, and has to have a batch and steps")
    if inner.kind in EVERY_STEP:
        return translator.apply(inner, [x], {})[0]
    if x.mask is not None and (
        inner.network is not None or (e := layers().get(inner.kind)) is None or e.masks == "own"
    ):
        own.refuse("a mask reaches the layer inside it, which is not supported")
    value = b.last(x)
    rest = [translator.known(own, x, axis) for axis in range(2, x.rank)]
    results = translator.apply(inner, [Tensor(b.reshape(value, [-1, *rest]))], {})
    if len(results) != 1:
        own.refuse("the layer inside it has several results")
    made = b.last(results[0])
    sizes = [s if isinstance(s, int) else -1 for s in made.shape[1:]]
    if -1 in sizes:
        own.refuse("the size of its result is not known; give the model's Input a full shape")
    batch, time = x.shape[0], x.shape[1]
    if isinstance(time, int):
        result = b.reshape(made, [-1, time, *sizes])
    elif isinstance(batch, int):
        result = b.reshape(made, [batch, -1, *sizes])
    else:
        lead = b("Shape", value, start=0, end=2)
        result = b("Reshape", made, b("Concat", lead, np.array(sizes, np.int64), axis=0))
        result = b.shaped(result, [batch, time, *sizes])
    return Tensor(b.shaped(result, [batch, time, *sizes]), mask=x.mask)


def _child(owner: Layer, key: str) -> Layer:
    if key not in owner.children:
        raise owner.wrong(f"its configuration has no {key}")
    return owner.children[key]


@layer("Rescaling", masks="kept", options="scale, offset: numbers or one a channel")
def _rescaling(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b = translator.build
    value = b.floating(b.last(x))
    for operator, key, neutral in (("Mul", "scale", 1.0), ("Add", "offset", 0.0)):
        array = numbers(own, key, neutral)
        if array.ndim and array.shape[-1] not in (1, x.shape[-1]):
            raise own.wrong(
                f"its {key} has {array.shape[-1]} numbers, its input {printable(str(x.shape[-1]))} channels"
            )
        if array.ndim > x.rank:
            raise own.wrong(f"its {key} has more axes than its input")
        if array.ndim or float(array) != neutral:
            value = b(operator, value, array)
    return replace(x, value=value, first=False)


def numbers(owner: Layer, key: str, default: object = None) -> np.ndarray:
    """A setting that is a number or lists of them. Raises SofieError."""
    from sofie.frontends.keras.config import plain

    try:
        array = np.asarray(plain(owner.config.get(key, default)), np.float64)
    except (TypeError, ValueError) as error:
        raise owner.wrong(f"its {key} is neither a number nor a list of numbers") from error
    return np.asarray(array, np.float32)
