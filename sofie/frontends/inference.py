"""Shapes that ONNX's own inference leaves open: those that follow from the operands, and those that the run finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from sofie.sizes import Size, most
from sofie.weights import Array

Shape = Sequence[int]
Rule = Callable[[onnx.NodeProto, Sequence[Shape]], Shape]


def _as_first(node: onnx.NodeProto, operands: Sequence[Shape]) -> Shape:
    return operands[0]


def _gathered(node: onnx.NodeProto, operands: Sequence[Shape]) -> Shape:
    """One element, or slice, of the data for every row of the indices."""
    data, indices = operands
    batch = next((a.i for a in node.attribute if a.name == "batch_dims"), 0)
    return [*indices[:-1], *data[batch + indices[-1] :]]


RULES: dict[str, Rule] = {
    "GatherND": _gathered,
    "GroupNormalization": _as_first,
}
"""The shape of the first result, from the node and the shapes of its operands."""


SCALARS = frozenset({"Range"})
"""Operators whose operands are scalars, which many models give as tensors of one element; inference is strict there."""


def complete(node: onnx.NodeProto, inferred: Mapping[str, onnx.TypeProto], known: Mapping[str, onnx.TypeProto]) -> None:
    """Gives the first result its shape where ONNX has inferred a type without one and a rule here knows better."""
    rule = None if node.domain else RULES.get(node.op_type)
    result = inferred.get(node.output[0])
    if rule is None or result is None or result.tensor_type.HasField("shape"):
        return
    shapes = [[d.dim_value for d in known[name].tensor_type.shape.dim] for name in node.input if name]
    whole = onnx.helper.make_tensor_type_proto(result.tensor_type.elem_type, list(rule(node, shapes)))
    result.CopyFrom(whole)


# -- sizes that the run finds ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """An extent that depends on data: what it counts, and its bounds."""

    what: str
    low: int
    high: int

    def size(self, name: str) -> Any:
        """The size of a new symbol, or a number where the bounds leave only one."""
        return Size.named(name, self.low, self.high) if self.low < self.high else self.low


FoundRule = Callable[[onnx.NodeProto, Sequence[Shape], Sequence[Array | None]], Sequence[Sequence[int | Found]]]


def _attribute(node: onnx.NodeProto, name: str) -> int | None:
    return next((a.i for a in node.attribute if a.name == name), None)


def _nonzero(node: onnx.NodeProto, shapes: Sequence[Shape], known: Sequence[Array | None]) -> list[list[int | Found]]:
    """A column of coordinates for every element that is not zero (NonZero 13)."""
    (shape,) = shapes
    return [[len(shape), Found("found", 0, math.prod(map(most, shape)))]]


def _compress(node: onnx.NodeProto, shapes: Sequence[Shape], known: Sequence[Array | None]) -> list[list[int | Found]]:
    """The slices along an axis, or elements, whose condition holds (Compress 11)."""
    shape, (conditions,) = shapes
    axis = _attribute(node, "axis")
    whole = math.prod(map(most, shape)) if axis is None else most(shape[axis])
    kept = Found("kept", 0, min(whole, most(conditions)))
    return [[kept]] if axis is None else [[kept if a == axis % len(shape) else e for a, e in enumerate(shape)]]


def _unique(node: onnx.NodeProto, shapes: Sequence[Shape], known: Sequence[Array | None]) -> list[list[int | Found]]:
    """Elements, or slices along an axis, each once; where each was first and is now; how often (Unique 11)."""
    shape = shapes[0]
    axis = _attribute(node, "axis")
    whole: int = math.prod(shape) if axis is None else shape[axis]
    unique = Found("unique", min(1, most(whole)), most(whole))
    values = [unique] if axis is None else [unique if a == axis % len(shape) else e for a, e in enumerate(shape)]
    return [list(values), [unique], [whole], [unique]]


def _boxes(node: onnx.NodeProto, shapes: Sequence[Shape], known: Sequence[Array | None]) -> list[list[int | Found]]:
    """A row (batch, class, box) for every box that is kept (NonMaxSuppression 11)."""
    batches, classes, boxes = map(most, shapes[1])
    limit = known[2] if len(known) > 2 else np.zeros(1)
    each = boxes if limit is None else min(boxes, max(int(limit.reshape(-1)[0]), 0))
    return [[Found("selected", 0, batches * classes * each), 3]]


FOUND: dict[str, FoundRule] = {
    "Compress": _compress,
    "NonMaxSuppression": _boxes,
    "NonZero": _nonzero,
    "Unique": _unique,
}
"""The shapes of all results, from the node, the shapes of its operands, and those of their values that are known."""
