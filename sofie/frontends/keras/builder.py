"""Writes the ONNX graph, node by node: each node's types and shapes are inferred as it is added, by ONNX itself.

A Tensor is what a Keras layer sees. It may be stored with its channels right after the batch, as ONNX wants images;
what does not look at the order of axes leaves it so, and a Transpose is written where something does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TypeProto, helper, numpy_helper

from sofie.weights import Array

OPSET = 23
IR_VERSION = 11
KNOWN_BYTES = 1024
"""Constants up to this size are shown to the inference, as shapes and axes have to be."""

Size = int | str | None


@dataclass(frozen=True)
class Value:
    """A value of the graph: its name, element type and shape; a size is a number, a name or not known."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Size, ...]


@dataclass(frozen=True)
class Tensor:
    """A value as Keras sees it. first: its last axis is stored as axis 1. mask: booleans (batch, time)."""

    value: Value
    first: bool = False
    mask: Value | None = None

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.value.shape)

    @property
    def shape(self) -> tuple[Size, ...]:
        """Its shape in Keras' order."""
        shape = self.value.shape
        return (shape[0], *shape[2:], shape[1]) if self.first else shape

    def axis(self, axis: int) -> int:
        """Where an axis of Keras' order (from 0, or from the end) is stored."""
        axis %= self.rank
        if not self.first or axis == 0:
            return axis
        return 1 if axis == self.rank - 1 else axis + 1

    def of(self, value: Value) -> Tensor:
        """Another value that is stored alike, with the same mask."""
        return replace(self, value=value)


Operand = Value | Array | None


class Builder:
    """A graph that grows. `scope` is the name of the layer that is being translated."""

    def __init__(self) -> None:
        self.scope = ""
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._values: dict[bytes, Value] = {}
        self._types: dict[str, TypeProto] = {}
        self._names: dict[str, int] = {}
        self._orders: dict[tuple[str, bool], Value] = {}

    def name(self, wanted: str) -> str:
        """A name that is not in use."""
        count = self._names.get(wanted, 0)
        self._names[wanted] = count + 1
        return self.name(f"{wanted}_{count}") if count else wanted

    def input(self, name: str, dtype: np.dtype[Any], shape: Sequence[Size]) -> Value:
        """An input of the model."""
        name = self.name(name)
        info = helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), list(shape))
        self.inputs.append(info)
        self._types[name] = info.type
        return Value(name, dtype, tuple(shape))

    def constant(self, array: Array, name: str = "constant") -> Value:
        """A constant; the same numbers are stored once."""
        array = np.asarray(array, order="C")
        key = hashlib.sha256(str((array.dtype, array.shape)).encode() + array.tobytes()).digest()
        if key not in self._values:
            called = self.name(f"{self.scope}/{name}")
            tensor = self.constants[called] = numpy_helper.from_array(array, called)
            self._types[called] = helper.make_tensor_type_proto(tensor.data_type, array.shape)
            self._values[key] = Value(called, array.dtype, array.shape)
        return self._values[key]

    def node(self, operator: str, *operands: Operand, results: int = 1, **attributes: Any) -> list[Value]:
        """A node and its results. Raises onnx.shape_inference.InferenceError where the operands do not fit."""
        values = [self.constant(v) if isinstance(v, np.ndarray) else v for v in operands]
        names = ["" if v is None else v.name for v in values]
        while names and not names[-1]:
            names.pop()
        called = self.name(f"{self.scope}/{operator}")
        outputs = [called, *(self.name(f"{called}:{k}") for k in range(1, results))]
        node = helper.make_node(operator, names, outputs, called, **attributes)
        self.nodes.append(node)
        found = self._inferred(node)
        self._types |= found
        return [_value(name, found[name]) for name in outputs]

    def __call__(self, operator: str, *operands: Operand, **attributes: Any) -> Value:
        """A node with one result."""
        return self.node(operator, *operands, **attributes)[0]

    def _inferred(self, node: onnx.NodeProto) -> dict[str, TypeProto]:
        given = [name for name in node.input if name]
        small = {n: t for n in given if (t := self.constants.get(n)) is not None and t.ByteSize() <= KNOWN_BYTES}
        return onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, OPSET, ""),
            node,
            {name: self._types[name] for name in given},
            small,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )

    def shaped(self, value: Value, shape: Sequence[Size]) -> Value:
        """The value with a shape that is known better than the inference told."""
        sizes = tuple(s if s is not None else old for s, old in zip(shape, value.shape or shape, strict=True))
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        self._types[value.name] = helper.make_tensor_type_proto(kind, list(sizes))
        return replace(value, shape=sizes)

    # -- the order of axes ---------------------------------------------------------------------------------------------

    def first(self, tensor: Tensor) -> Value:
        """The value with its channels right after the batch."""
        if tensor.first or tensor.rank <= 2:
            return tensor.value
        return self._ordered(tensor.value, True, [0, tensor.rank - 1, *range(1, tensor.rank - 1)])

    def last(self, tensor: Tensor) -> Value:
        """The value in Keras' order."""
        if not tensor.first:
            return tensor.value
        return self._ordered(tensor.value, False, [0, *range(2, tensor.rank), 1])

    def _ordered(self, value: Value, first: bool, axes: list[int]) -> Value:
        key = (value.name, first)
        if key not in self._orders:
            self._orders[key] = self("Transpose", value, perm=axes)
            self._orders[self._orders[key].name, not first] = value
        return self._orders[key]

    # -- what many layers need -----------------------------------------------------------------------------------------

    def floating(self, value: Value) -> Value:
        """The value as float32."""
        return value if value.dtype == np.float32 else self("Cast", value, to=onnx.TensorProto.FLOAT)

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """Reshape; 0 copies a size, -1 is what is left."""
        return self("Reshape", value, ints(shape))

    def reduce(self, operator: str, value: Value, axes: Sequence[int], keep: bool = False) -> Value:
        """A reduction over axes."""
        return self(operator, value, ints(axes), keepdims=int(keep))

    def unsqueeze(self, value: Value, *axes: int) -> Value:
        """New axes of size 1."""
        return self("Unsqueeze", value, ints(axes))

    def squeeze(self, value: Value, *axes: int) -> Value:
        """Without axes of size 1."""
        return self("Squeeze", value, ints(axes))

    def slice(self, value: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
        """A part of an axis."""
        return self("Slice", value, ints([start]), ints([end]), ints([axis]), ints([step]))

    def size(self, value: Value, axis: int) -> Value:
        """The size of an axis as a list of one number, for shapes."""
        return self("Shape", value, start=axis, end=axis + 1)


def ints(values: Sequence[int]) -> Array:
    """Whole numbers, as shapes and axes are given."""
    return np.array(values, np.int64)


def number(value: float) -> Array:
    """A constant of float32."""
    return np.array(value, np.float32)


def _value(name: str, found: TypeProto) -> Value:
    tensor = found.tensor_type
    sizes: list[Size] = []
    for dim in tensor.shape.dim:
        kind = dim.WhichOneof("value")
        sizes.append(dim.dim_value if kind == "dim_value" else dim.dim_param or None if kind else None)
    return Value(name, helper.tensor_dtype_to_np_dtype(tensor.elem_type), tuple(sizes))
