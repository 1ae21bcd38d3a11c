"""Layers of several inputs, and the functions of keras.ops that are called between layers."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
from onnx import numpy_helper

from sofie.errors import printable
from sofie.frontends.keras.builder import Builder, Tensor, Value, ints, number
from sofie.frontends.keras.config import Layer, plain
from sofie.frontends.keras.layers.activations import ACTIVATIONS
from sofie.frontends.keras.registry import Inputs, layer, operation
from sofie.frontends.keras.translate import Translator


def several(inputs: Inputs) -> list[Tensor]:
    """The tensors that a layer is called on. Raises SofieError where there are fewer than two."""
    given = inputs.args[0] if isinstance(inputs.args[0], list) else inputs.args
    if len(given) < 2 or not all(isinstance(t, Tensor) for t in given):
        raise inputs.layer.wrong("it takes a list of at least two tensors")
    return list(given)


def aligned(given: list[Tensor], b: Builder) -> tuple[list[Value], bool]:
    """The values of one rank and one order of axes: new axes come after the batch, as Keras adds them."""
    rank = max(t.rank for t in given)
    first = all(t.first and t.rank == rank for t in given)
    values = []
    for tensor in given:
        value = b.floating(tensor.value if first else b.last(tensor))
        missing = range(1, 1 + rank - tensor.rank)
        values.append(b.unsqueeze(value, *missing) if missing else value)
    return values, first


def _mask(own: Layer, given: list[Tensor], b: Builder) -> Value | None:
    """Keras 3: any mask, where all inputs have one. Keras 2: all masks that there are."""
    masks = [t.mask for t in given if t.mask is not None]
    if not masks or (own.version >= 3 and len(masks) < len(given)):
        return None
    return reduce(lambda a, c: b("Or" if own.version >= 3 else "And", a, c), masks)


MERGES: dict[str, str] = {
    "Add": "Sum",
    "Average": "Mean",
    "Maximum": "Max",
    "Minimum": "Min",
    "Multiply": "Mul",
    "Subtract": "Sub",
}


@layer(*MERGES, masks="own", options="broadcasting; masks")
def _merge(inputs: Inputs, translator: Translator) -> Tensor:
    own, given = inputs.layer, several(inputs)
    b = translator.build
    values, first = aligned(given, b)
    if own.kind == "Subtract" and len(values) != 2:
        raise own.wrong("it takes two tensors")
    if own.kind in ("Multiply", "Subtract", "Add"):
        operator = {"Multiply": "Mul", "Subtract": "Sub", "Add": "Add"}[own.kind]
        result = reduce(lambda x, y: b(operator, x, y), values)
    else:
        result = b(MERGES[own.kind], *values)
    return Tensor(result, first, _mask(own, given, b))


@layer("Concatenate", masks="own", options="axis; masks along the last axis or the time")
def _concatenate(inputs: Inputs, translator: Translator) -> Tensor:
    own, given = inputs.layer, several(inputs)
    b = translator.build
    if len({t.rank for t in given}) > 1:
        raise own.wrong("its inputs have several ranks")
    (axis,) = own.axes("axis", given[0].rank) if isinstance(own.config.get("axis", -1), int) else (-1,)
    first = all(t.first for t in given)
    like = given[0] if first else Tensor(b.last(given[0]))
    kinds = {t.value.dtype for t in given}
    values = [t.value if first else b.last(t) for t in given]
    if len(kinds) > 1:
        values = [b.floating(v) for v in values]
    result = b("Concat", *values, axis=like.axis(axis))
    return Tensor(result, first, _joined_mask(own, given, axis, b))


def _joined_mask(own: Layer, given: list[Tensor], axis: int, b: Builder) -> Value | None:
    """The mask of a concatenation of (batch, time, features): as of a sum, or along the time, joined."""
    masks = [t.mask for t in given]
    held = [m for m in masks if m is not None]
    if not held:
        return None
    if given[0].rank != 3 or axis == 0:
        own.refuse("masks reach it, and it joins neither the last axis nor the time of sequences")
    if axis == 1:
        if len(held) < len(masks):
            own.refuse("it joins sequences in time, and only some of them have a mask")
        return b("Concat", *held, axis=1)
    if own.version < 3:
        return reduce(lambda x, y: b("And", x, y), held)
    return None if len(held) < len(masks) else reduce(lambda x, y: b("Or", x, y), held)


@layer("Dot", masks="own", options="axes, normalize")
def _dot(inputs: Inputs, translator: Translator) -> Tensor:
    """Products of two tensors along an axis each, by batch."""
    own, given = inputs.layer, several(inputs)
    b = translator.build
    if len(given) != 2:
        raise own.wrong("it takes two tensors")
    axes = plain(own.config.get("axes"))
    axes = [axes] * 2 if isinstance(axes, int) else axes
    if not isinstance(axes, list) or len(axes) != 2 or not all(isinstance(a, int) for a in axes):
        raise own.wrong("its axes are neither a number nor two")
    places = [a % t.rank for a, t in zip(axes, given, strict=True) if -t.rank <= a < t.rank]
    if len(places) != 2 or 0 in places:
        raise own.wrong("its axes are not those of its inputs")
    values = [b.floating(b.last(t)) for t in given]
    if own.flag("normalize", False):
        values = [normalised(b, v, [a]) for v, a in zip(values, places, strict=True)]
    letters = iter("cdefghijklmnopqrstuvwxyz")
    terms = [
        "b" + "".join("a" if k == a else next(letters) for k in range(1, t.rank))
        for a, t in zip(places, given, strict=True)
    ]
    kept = "b" + "".join(c for c in terms[0] + terms[1] if c not in "ab")
    result = b("Einsum", *values, equation=f"{terms[0]},{terms[1]}->{kept}")
    return Tensor(b.unsqueeze(result, 1) if kept == "b" else result)


def normalised(b: Builder, value: Value, axes: list[int]) -> Value:
    """The value over its length along axes; lengths below 1e-6 count as that, as Keras has it."""
    square = b.reduce("ReduceSum", b("Mul", value, value), axes, keep=True)
    return b("Div", value, b("Sqrt", b("Max", square, number(1e-12))))


# -- keras.ops ---------------------------------------------------------------------------------------------------------

BINARY: dict[str, str] = {
    "Add": "Add",
    "Divide": "Div",
    "Equal": "Equal",
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "Maximum": "Max",
    "Minimum": "Min",
    "Multiply": "Mul",
    "NotEqual": "Equal",
    "Power": "Pow",
    "Subtract": "Sub",
    "TrueDivide": "Div",
}
"""Functions of keras.ops of two operands, as they are called between layers (`x + y`) and as masks are made."""

UNARY: dict[str, str] = {
    "Absolute": "Abs",
    "Cos": "Cos",
    "Exp": "Exp",
    "Log": "Log",
    "LogicalNot": "Not",
    "Negative": "Neg",
    "Sin": "Sin",
    "Sqrt": "Sqrt",
}


@operation(*BINARY, arguments=("x1", "x2"))
def _binary(inputs: Inputs, translator: Translator) -> Tensor:
    """x1 op x2, where one of them may be a number."""
    own, b = inputs.layer, translator.build
    given = [*inputs.args, *(v for k, v in inputs.kwargs.items() if k == "x2")]
    if len(given) != 2:
        raise own.wrong(f"it takes two operands and is called on {len(given)}")
    tensors = [t for t in given if isinstance(t, Tensor)]
    first = all(t.first for t in tensors) and len({t.rank for t in tensors}) == 1
    kinds = {t.value.dtype for t in tensors}
    dtype = kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
    if own.kind in ("Divide", "TrueDivide") or any(isinstance(v, float) and v % 1 for v in given):
        dtype = np.dtype(np.float32)
    operands: list[Any] = []
    for value in given:
        if isinstance(value, Tensor):
            raw = value.value if first else b.last(value)
            operands.append(raw if raw.dtype == dtype else b.floating(raw))
        elif isinstance(value, int | float):
            operands.append(np.array(value, dtype))
        else:
            own.refuse("one of its operands is neither a tensor nor a number")
    result = b(BINARY[own.kind], *operands)
    return Tensor(b("Not", result) if own.kind == "NotEqual" else result, first)


@operation(*UNARY)
def _unary(inputs: Inputs, translator: Translator) -> Tensor:
    x = inputs.x
    return replace(x, value=translator.build(UNARY[inputs.layer.kind], x.value))


FUNCTIONS: dict[str, str] = {
    "Elu": "elu", "Gelu": "gelu", "HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "LogSigmoid": "log_sigmoid",
    "Mish": "mish", "Relu": "relu", "ReLU": "relu", "Relu6": "relu6", "Selu": "selu", "Sigmoid": "sigmoid",
    "Silu": "silu", "Softplus": "softplus", "Softsign": "softsign", "Tanh": "tanh",
}  # fmt: skip
"""Functions of keras.ops that are activations; settings other than their defaults are refused."""
DEFAULTS: dict[str, Any] = {
    "alpha": 1.0,
    "approximate": True,
    "negative_slope": 0.0,
    "max_value": None,
    "threshold": 0.0,
}


@operation(*FUNCTIONS)
def _function(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    for key, value in own.config.items():
        if key in DEFAULTS and value != DEFAULTS[key] and (own.kind, key) != ("Gelu", "approximate"):
            own.refuse(f"its {key} is {printable(str(value), 40)}, which is not supported here; use a layer")
    value = translator.build.floating(x.value)
    if own.kind == "Gelu":
        how = "tanh" if own.flag("approximate", True) else "none"
        return replace(x, value=translator.build("Gelu", value, approximate=how))
    return replace(x, value=ACTIVATIONS[FUNCTIONS[own.kind]](translator.build, value, -1))


REDUCTIONS: dict[str, str] = {"Max": "ReduceMax", "Mean": "ReduceMean", "Min": "ReduceMin", "Sum": "ReduceSum"}


@operation("All", "Any", *REDUCTIONS)
def _reduction(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b, value = translator.build, translator.build.last(x)
    axes = list(range(x.rank)) if own.config.get("axis") is None else own.axes("axis", x.rank)
    keep = own.flag("keepdims", False)
    if own.kind in REDUCTIONS:
        return Tensor(b.reduce(REDUCTIONS[own.kind], b.floating(value), axes, keep))
    truth = value if value.dtype == np.bool_ else b("Not", b("Equal", value, np.array(0, value.dtype)))
    operator = "ReduceMax" if own.kind == "Any" else "ReduceMin"
    return Tensor(b("Greater", b.reduce(operator, b("Cast", truth, to=1), axes, keep), number(0.5)))


@operation("OnesLike", "ZerosLike", arguments=("dtype",))
def _filled(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    b, kind = translator.build, inputs.kwargs.get("dtype", own.config.get("dtype")) or x.value.dtype
    fill = np.array([own.kind == "OnesLike"], np.dtype(kind))
    result = b("ConstantOfShape", b("Shape", x.value), value=numpy_helper.from_array(fill))
    return x.of(b.shaped(result, x.value.shape))


@operation("ExpandDims")
def _expand_dims(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    axes = own.axes("axis", x.rank + 1)
    return Tensor(translator.build.unsqueeze(translator.build.last(x), *axes))


@operation("Squeeze")
def _squeeze(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    return Tensor(translator.build.squeeze(translator.build.last(x), *own.axes("axis", x.rank)))


@operation("Transpose")
def _transpose(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    axes = plain(own.config.get("axes"))
    axes = list(range(x.rank))[::-1] if axes is None else axes
    if not isinstance(axes, list) or sorted(axes) != list(range(x.rank)):
        raise own.wrong("its axes are no order of those of its input")
    return Tensor(translator.build("Transpose", translator.build.last(x), perm=axes))


@operation("Concatenate", arguments=("xs",))
def _joined(inputs: Inputs, translator: Translator) -> Tensor:
    joined: Tensor = _concatenate(inputs, translator)
    return replace(joined, mask=None)


@operation("Matmul", arguments=("x1", "x2"))
def _matmul(inputs: Inputs, translator: Translator) -> Tensor:
    b = translator.build
    return Tensor(b("MatMul", *(b.floating(b.last(t)) for t in several(inputs))))


@operation("Reshape")
def _reshape(inputs: Inputs, translator: Translator) -> Tensor:
    own, x = inputs.layer, inputs.x
    shape = plain(own.config.get("newshape"))
    if not isinstance(shape, list) or not all(isinstance(s, int) for s in shape):
        raise own.wrong("its newshape is no list of numbers")
    return Tensor(translator.build("Reshape", translator.build.last(x), ints(shape)))
