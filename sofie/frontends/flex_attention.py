"""FlexAttention with modifier graphs as the operators it stands for: the graphs are read where their operand is made.

Y = FlexAttention(Q, K, V) {score_mod = f, prob_mod = g}
->
S = MatMul(Q * r, Transpose(K) * r) ; S' = f(S) ; P = Softmax(S') ; P' = g(P) ; Y = MatMul(P', V)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from xdsl.ir import Attribute

from sofie.dialects.types import element_to_onnx
from sofie.errors import SofieError, UnsupportedError
from sofie.sizes import Size
from sofie.weights import Array


@dataclass(frozen=True)
class Modifier:
    """A graph of one input and one output, applied to the value `given`."""

    name: str
    graph: onnx.GraphProto
    given: str
    result: str


def is_modified(node: onnx.NodeProto) -> bool:
    """Whether the node is a FlexAttention with a graph."""
    is_flex = (node.domain, node.op_type) == ("ai.onnx.preview", "FlexAttention")
    return is_flex and any(a.type == a.GRAPH for a in node.attribute)


def parts(
    node: onnx.NodeProto, label: str, element: Attribute, query: Sequence[int], key: Sequence[int]
) -> list[onnx.NodeProto | Modifier]:
    """What stands for the node, in order, given the element type and the shapes (batch, heads, steps, size) of Q and K.

    Scores and probabilities have the type `softmax_precision`, by default double for double and float for others.
    """
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    heads, groups, size = query[1], key[1], query[3]
    if any(isinstance(e, Size) for e in (heads, groups, size)):
        raise UnsupportedError("the heads of Q and K and their size must be numbers; give their dimensions values")
    if heads % groups:
        raise SofieError(f"{heads} heads of Q cannot share {groups} of K; their number must be a multiple")
    given = element_to_onnx(element)
    precision = attributes.get("softmax_precision", TensorProto.DOUBLE if given == TensorProto.DOUBLE else 1)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(given)
    root = np.asarray(np.sqrt(np.float32(attributes.get("scale", 1 / math.sqrt(size)))), dtype)
    made: list[onnx.NodeProto | Modifier] = []

    def fresh() -> str:
        return f"{node.output[0]}#flex{len(made)}"

    def add(operator: str, *inputs: str, result: str = "", **how: Any) -> str:
        result = result or fresh()
        made.append(onnx.helper.make_node(operator, list(inputs), [result], name=label, **how))
        return result

    def constant(array: Array) -> str:
        return add("Constant", value=numpy_helper.from_array(array))

    def modified(name: str, value: str) -> str:
        graph = attributes.get(name)
        if graph is None:
            return value
        if len(graph.input) != 1 or len(graph.output) != 1:
            raise SofieError(f"its graph {name!r} must have one input and one output")
        result = fresh()
        made.append(Modifier(name, graph, value, result))
        return result

    q, k, v = node.input
    if heads != groups:
        shared = constant(np.repeat(np.arange(groups), heads // groups))
        k, v = (add("Gather", x, shared, axis=1) for x in (k, v))
    factor = constant(root)
    turned = add("Transpose", k, perm=[0, 1, 3, 2])
    scores = add("MatMul", add("Mul", q, factor), add("Mul", turned, factor))
    scores = modified("score_mod", add("Cast", scores, to=precision))
    shares = modified("prob_mod", add("Softmax", scores, axis=-1))
    add("Cast", add("MatMul", shares, add("Cast", v, to=precision)), to=given, result=node.output[0])
    return made
