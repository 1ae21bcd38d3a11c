"""Activation functions: those that layers have by name, and the layers that are one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sofie.errors import printable
from sofie.frontends.keras.builder import Builder, Tensor, Value, ints, number
from sofie.frontends.keras.config import Layer, plain
from sofie.frontends.keras.registry import Inputs, layer, named
from sofie.frontends.keras.translate import Translator

Function = Callable[[Builder, Value, int], Value]
"""Of the graph, the value and the axis that softmax and its like go along."""


def _single(operator: str, **attributes: Any) -> Function:
    return lambda b, x, _axis: b(operator, x, **attributes)


def _clip(low: float, high: float) -> Function:
    return lambda b, x, _axis: b("Clip", x, number(low), number(high))


def _gelu(approximate: bool) -> Function:
    return _single("Gelu", approximate="tanh" if approximate else "none")


def silu(b: Builder, x: Value, _axis: int = -1) -> Value:
    """x sigmoid(x)."""
    return b("Mul", x, b("Sigmoid", x))


def _glu(b: Builder, x: Value, axis: int) -> Value:
    kept, gate = b.node("Split", x, results=2, axis=axis, num_outputs=2)
    return b("Mul", kept, b("Sigmoid", gate))


def _sparse_plus(b: Builder, x: Value, _axis: int) -> Value:
    near = b("Add", b("Clip", x, number(-1), number(1)), number(1))
    curve = b("Mul", b("Mul", near, near), number(0.25))
    return b("Where", b("Less", x, number(1)), curve, x)


def _sparsemax(b: Builder, x: Value, axis: int) -> Value:
    """By a sort, as Keras has it: by the sum of all partial sums, where Martins and Astudillo (2016) have the last."""
    size = x.shape[axis]
    if not isinstance(size, int):
        raise ValueError("sparsemax needs an axis of known size")
    by = [1] * len(x.shape)
    by[axis] = size
    place = np.arange(1, size + 1, dtype=np.float32).reshape(by)
    ordered, _ = b.node("TopK", x, ints([size]), results=2, axis=axis)
    total = b("CumSum", ordered, np.array(axis % len(by), np.int64))
    over = b("Sub", ordered, b("Div", b("Sub", total, number(1)), place))
    support = b("Cast", b("Greater", over, number(0)), to=1)
    count = b.reduce("ReduceSum", support, [axis], keep=True)
    above = b("Sub", b.reduce("ReduceSum", b("Mul", total, support), [axis], keep=True), number(1))
    return b("Relu", b("Sub", x, b("Div", above, count)))


ACTIVATIONS: dict[str, Function] = {
    "celu": _single("Celu", alpha=1.0),
    "elu": _single("Elu", alpha=1.0),
    "exponential": _single("Exp"),
    "gelu": _gelu(False),
    "glu": _glu,
    "hard_shrink": _single("Shrink", bias=0.0, lambd=0.5),
    "hard_sigmoid": _single("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_silu": _single("HardSwish"),
    "hard_swish": _single("HardSwish"),
    "hard_tanh": _clip(-1, 1),
    "leaky_relu": _single("LeakyRelu", alpha=0.2),
    "linear": lambda b, x, _axis: x,
    "log_sigmoid": lambda b, x, _axis: b("Neg", b("Softplus", b("Neg", x))),
    "log_softmax": lambda b, x, axis: b("LogSoftmax", x, axis=axis),
    "mish": _single("Mish"),
    "relu": _single("Relu"),
    "relu6": _clip(0, 6),
    "selu": _single("Selu"),
    "sigmoid": _single("Sigmoid"),
    "silu": silu,
    "soft_shrink": _single("Shrink", bias=0.5, lambd=0.5),
    "softmax": lambda b, x, axis: b("Softmax", x, axis=axis),
    "softplus": _single("Softplus"),
    "softsign": _single("Softsign"),
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": lambda b, x, _axis: b(
        "Clip", b("Mul", b("Add", x, number(1)), number(0.5)), number(0), number(1)
    ),
    "sparsemax": _sparsemax,
    "squareplus": lambda b, x, _axis: b(
        "Mul", b("Add", x, b("Sqrt", b("Add", b("Mul", x, x), number(4)))), number(0.5)
    ),
    "swish": silu,
    "tanh": _single("Tanh"),
    "tanh_shrink": lambda b, x, _axis: b("Sub", x, b("Tanh", x)),
}
"""By the name that Keras 3 gives them."""

OLD = {"hard_sigmoid": _single("HardSigmoid", alpha=0.2, beta=0.5)}
"""What was another function in Keras 2."""


def name_of(owner: Layer, key: str = "activation") -> Any:
    """The activation in a setting: a name, or the layer that stands for one. Raises SofieError."""
    given = plain(owner.config.get(key))
    if isinstance(given, dict):
        config, kind = given.get("config"), given.get("class_name")
        if kind == "function" and isinstance(config, str):
            return config
        if kind == "function" and isinstance(config, dict) and isinstance(config.get("name"), str):
            return config["name"]
        if isinstance(config, dict) and isinstance(kind, str):
            return Layer(owner.file, kind, f"{owner.name}/{key}", config, owner.version, scope=owner.scope)
    if given is not None and not isinstance(given, str):
        raise owner.wrong(f"its {key} is no activation")
    return given or "linear"


def activate(owner: Layer, tensor: Tensor, translator: Translator, key: str = "activation") -> Tensor:
    """The activation in a setting of a layer, on a tensor. Raises SofieError on one that is not known."""
    given = name_of(owner, key)
    if isinstance(given, Layer):
        return translator.apply(given, [tensor], {})[0]
    known = ACTIVATIONS | OLD if owner.version < 3 else ACTIVATIONS
    if given not in known:
        owner.refuse(f"its activation {printable(given, 40)!r} has no translation; use one of {', '.join(ACTIVATIONS)}")
    if given == "linear":
        return tensor
    value = translator.build.floating(tensor.value)
    return tensor.of(known[given](translator.build, value, tensor.of(value).axis(-1)))


@layer("Activation", masks="kept", options="all of Keras's activations by name")
def _activation(inputs: Inputs, translator: Translator) -> Tensor:
    return activate(inputs.layer, inputs.x, translator)


@layer("ReLU", masks="kept", options="max_value, negative_slope, threshold")
def _relu(inputs: Inputs, translator: Translator) -> Tensor:
    """max(x, threshold) with a slope below it: f(x) = x, negative_slope (x - threshold), at most max_value."""
    own, x = inputs.layer, inputs.x
    b = translator.build
    value = b.floating(x.value)
    slope = own.real("negative_slope", 0.0) if own.config.get("negative_slope") is not None else 0.0
    threshold = own.real("threshold", 0.0) if own.config.get("threshold") is not None else 0.0
    most = own.real("max_value") if own.config.get("max_value") is not None else None
    below = b("Mul", b("Sub", value, number(threshold)), number(slope)) if slope and threshold else None
    if threshold:
        above = b("Greater", value, number(threshold))
        capped = value if most is None else b("Min", value, number(most))
        return x.of(b("Where", above, capped, number(0) if below is None else below))
    if most is None:
        return x.of(b("LeakyRelu", value, alpha=slope) if slope else b("Relu", value))
    result = b("LeakyRelu", value, alpha=slope) if slope else b("Relu", value)
    return x.of(b("Min", result, number(most)))


@layer("LeakyReLU", masks="kept")
def _leaky(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    slope = own.real("negative_slope" if "negative_slope" in own.config else "alpha", 0.3)
    return x.of(translator.build("LeakyRelu", translator.build.floating(x.value), alpha=slope))


@layer("ELU", masks="kept")
def _elu(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    return x.of(translator.build("Elu", translator.build.floating(x.value), alpha=own.real("alpha", 1.0)))


@layer("ThresholdedReLU", masks="kept", options="Keras 2")
def _thresholded(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    value = translator.build.floating(x.value)
    return x.of(translator.build("ThresholdedRelu", value, alpha=own.real("theta", 1.0)))


@layer("PReLU", weights=named("alpha"), masks="kept", options="shared_axes; sizes of the other axes are known")
def _prelu(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b = translator.build
    shared = own.axes("shared_axes", x.rank) if own.config.get("shared_axes") else []
    shape = [1 if axis in shared else translator.known(own, x, axis) for axis in range(1, x.rank)]
    slope = translator.weight(own, "alpha", *shape)
    if x.first:
        slope = np.moveaxis(slope, -1, 0)
    return x.of(b("PRelu", b.floating(x.value), slope))


@layer("Softmax", masks="kept", options="axis, several of them; a mask")
def _softmax(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b = translator.build
    axes = own.axes("axis", x.rank)
    value, mask = b.floating(b.last(x)), x.mask
    if mask is not None:
        if len(mask.shape) != x.rank:
            own.refuse(f"its mask has rank {len(mask.shape)} and its input rank {x.rank}")
        value = b("Where", mask, value, b("Sub", value, number(1e9)) if own.version < 3 else number(-1e9))
    if len(axes) == 1:
        result = b("Softmax", value, axis=axes[0])
    else:
        result = b("Exp", b("Sub", value, b.reduce("ReduceLogSumExp", value, axes, keep=True)))
    return Tensor(result if mask is None or own.version < 3 else b("Where", mask, result, number(0)))
