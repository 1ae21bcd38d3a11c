"""A model's graph as JSON, for the peers on the card's machine: constants by value, weights by how they are spread.

Only the time of a peer is taken there, so that no weights need to travel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

SMALL = 64
"""Constants of so many elements are shapes, axes and factors."""


def as_json(proto: onnx.ModelProto) -> dict[str, Any]:
    """Inputs, outputs, constants and nodes."""
    return {
        "opset": proto.opset_import[0].version,
        "inputs": [_value(value) for value in proto.graph.input],
        "outputs": [_value(value) for value in proto.graph.output],
        "constants": [_constant(tensor) for tensor in proto.graph.initializer],
        "nodes": [_node(node) for node in proto.graph.node],
    }


def _value(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    return {"name": value.name, "dtype": dtype, "shape": [d.dim_value for d in kind.shape.dim]}


def _constant(tensor: onnx.TensorProto) -> dict[str, Any]:
    array = numpy_helper.to_array(tensor)
    about = {"name": tensor.name, "dtype": str(array.dtype), "shape": list(array.shape)}
    if array.size <= SMALL:
        return {**about, "values": array.reshape(-1).tolist()}
    spread = {"mean": array.mean(), "deviation": array.std(), "low": array.min(), "high": array.max()}
    return {**about, **{name: float(number) for name, number in spread.items()}}


def _node(node: onnx.NodeProto) -> dict[str, Any]:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    plain = {
        name: value.decode()
        if isinstance(value, bytes)
        else list(value)
        if not isinstance(value, int | float)
        else value
        for name, value in attributes.items()
    }
    return {"op": node.op_type, "inputs": list(node.input), "outputs": list(node.output), "attributes": plain}
