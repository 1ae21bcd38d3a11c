"""ONNX's own meaning of an operator, from `onnx.reference`; used to fold constants and to check results."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import onnx

from sofie.dialects.vendors import TABLES
from sofie.errors import SofieError, printable
from sofie.frontends import bodies
from sofie.weights import Array

NONDETERMINISTIC = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"}
)
"""Operators whose value may not be fixed when compiling."""


def evaluate_node(node: onnx.NodeProto, inputs: Sequence[Array | None], opsets: dict[str, int]) -> list[Array]:
    """The results of one node on numpy arrays (None: an absent optional input).

    Raises SofieError, naming the operator, where the reference has no implementation or fails.
    """
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import RuntimeContextError

    names = [name for name in node.input]
    feeds = {name: np.asarray(a) for name, a in zip(names, inputs, strict=True) if name and a is not None}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if node.domain in TABLES:
                return _by_body(node, inputs)
            try:
                evaluator = ReferenceEvaluator(node, opsets=opsets)
            except (NotImplementedError, RuntimeContextError):  # a body that depends on types, which a model tells
                evaluator = ReferenceEvaluator(_model(node, feeds, opsets))
            values = evaluator.run(None, feeds)
    except Exception as error:
        raise SofieError(
            f"operator {printable(node.op_type)} cannot be evaluated by onnx.reference: {printable(str(error))}"
        ) from error
    return [np.asarray(value) for value in cast(list[Array], values)]


def _by_body(node: onnx.NodeProto, inputs: Sequence[Array | None]) -> list[Array]:
    """The results of an operator of another domain, whose body the reference runs."""
    from onnx.reference import ReferenceEvaluator

    types = [
        None
        if a is None
        else onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for a in inputs
    ]
    function = bodies.body(node, types)
    feeds = {name: np.asarray(a) for name, a in zip(function.input, inputs, strict=False) if a is not None}
    takes = [onnx.helper.make_value_info(n, t) for n, t in zip(function.input, types, strict=False) if t is not None]
    gives = [onnx.ValueInfoProto(name=name) for name in function.output]
    graph = onnx.helper.make_graph(list(function.node), "body", takes, gives)
    model = onnx.helper.make_model(graph, opset_imports=list(function.opset_import))
    values = ReferenceEvaluator(onnx.shape_inference.infer_shapes(model)).run(None, feeds)
    return [np.asarray(value) for value in cast(list[Array], values)]


def _model(node: onnx.NodeProto, feeds: Mapping[str, Array], opsets: dict[str, int]) -> onnx.ModelProto:
    """The node as a model of its own, with the types of its operands."""
    takes = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in feeds.items()
    ]
    gives = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", takes, gives)
    versions = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return onnx.helper.make_model(graph, opset_imports=versions)
