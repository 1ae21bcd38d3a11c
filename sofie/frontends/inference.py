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


def _apart(node: onnx.NodeProto, operands: Sequence[Shape], index: int, name: str) -> Shape:
    """(batch, heads, steps, size) of an operand of Attention, whose heads may be joined in its last axis."""
    shape = operands[index]
    if len(shape) == 4:
        return shape
    heads = next(a.i for a in node.attribute if a.name == name)
    return [shape[0], heads, shape[1], shape[2] // heads]


def _present(index: int) -> Rule:
    """The cached keys or values and the new ones."""

    def rule(node: onnx.NodeProto, operands: Sequence[Shape]) -> Shape:
        batch, heads, steps, size = _apart(node, operands, index, "kv_num_heads")
        past = operands[index + 3][2] if len(operands) > index + 3 and operands[index + 3] else 0
        return [batch, heads, past + steps, size]

    return rule


def _scores(node: onnx.NodeProto, operands: Sequence[Shape]) -> Shape:
    """(batch, heads of the query, queries, cached keys and new ones)."""
    return [*_apart(node, operands, 0, "q_num_heads")[:3], _present(1)(node, operands)[2]]


RULES: dict[tuple[str, int], Rule] = {
    ("Attention", 1): _present(1),
    ("Attention", 2): _present(2),
    ("Attention", 3): _scores,
    ("GatherND", 0): _gathered,
    ("GroupNormalization", 0): _as_first,
    ("MeanVarianceNormalization", 0): _as_first,
}
"""The shape of a result by its operator and place, from the node and the shapes of its operands, empty where absent."""


def complete(node: onnx.NodeProto, inferred: Mapping[str, onnx.TypeProto], known: Mapping[str, onnx.TypeProto]) -> None:
    """Gives results their shapes where ONNX has inferred a type without one and a rule here knows better."""
    for place, name in enumerate(node.output):
        rule, result = None if node.domain else RULES.get((node.op_type, place)), inferred.get(name)
        if rule is None or result is None or result.tensor_type.HasField("shape"):
            continue
        shapes = [[d.dim_value for d in known[n].tensor_type.shape.dim] if n else [] for n in node.input]
        whole = onnx.helper.make_tensor_type_proto(result.tensor_type.elem_type, list(rule(node, shapes)))
        result.CopyFrom(whole)
