"""Shapes that ONNX's own inference leaves open though they follow from the operands: one rule an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx

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
    "MeanVarianceNormalization": _as_first,
}
"""The shape of the first result, from the node and the shapes of its operands."""


def complete(node: onnx.NodeProto, inferred: Mapping[str, onnx.TypeProto], known: Mapping[str, onnx.TypeProto]) -> None:
    """Gives the first result its shape where ONNX has inferred a type without one and a rule here knows better."""
    rule = None if node.domain else RULES.get(node.op_type)
    result = inferred.get(node.output[0])
    if rule is None or result is None or result.tensor_type.HasField("shape"):
        return
    shapes = [[d.dim_value for d in known[name].tensor_type.shape.dim] for name in node.input if name]
    whole = onnx.helper.make_tensor_type_proto(result.tensor_type.elem_type, list(rule(node, shapes)))
    result.CopyFrom(whole)
