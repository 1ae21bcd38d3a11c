"""Many small graphs in one model, so that a table of cases costs one compilation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import sofie
from sofie import interpreter, pipeline
from sofie.dialects.onnx import DOMAINS
from sofie.frontends.onnx import load
from tests.numerics.levels import SPARE

LEVELS = ("decompose,lower-onnx", *SPARE[1:])
"""Pipelines that stop at each level below ONNX's own."""

Arrays = dict[str, np.ndarray]
Results = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Row:
    """A graph with its inputs and constants, and what its outputs have to be (None: what onnx.reference says)."""

    nodes: Sequence[onnx.NodeProto]
    feeds: Arrays
    weights: Arrays = field(default_factory=dict)
    outputs: Sequence[str] = ("y",)
    answer: Callable[..., object] | None = None


def row(
    operator: str,
    feeds: Arrays,
    constants: Arrays | None = None,
    outputs: Sequence[str] = ("y",),
    answer: Callable[..., object] | None = None,
    inputs: str = "",
    domain: str = "",
    **attributes: object,
) -> Row:
    """One node that reads `inputs` ("-" is an absent one), by default all feeds and then all constants."""
    names = ["" if n == "-" else n for n in inputs.split()] or [*feeds, *(constants or {})]
    node = helper.make_node(operator, names, list(outputs), domain=domain, **attributes)
    return Row([node], feeds, constants or {}, outputs, answer)


def model(rows: Mapping[str, Row], opset: int = DOMAINS[""]) -> onnx.ModelProto:
    """All rows side by side; the names of row k begin with `rk_`."""
    nodes, inputs, outputs, weights = [], [], [], []
    for k, one in enumerate(rows.values()):
        for node in one.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for names in (copy.input, copy.output):
                names[:] = [f"r{k}_{n}" if n else "" for n in names]
            nodes.append(copy)
        inputs += [
            helper.make_tensor_value_info(f"r{k}_{n}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in one.feeds.items()
        ]
        outputs += [onnx.ValueInfoProto(name=f"r{k}_{n}") for n in one.outputs if n]
        weights += [numpy_helper.from_array(np.asarray(a), f"r{k}_{n}") for n, a in one.weights.items()]
    graph = helper.make_graph(nodes, "rows", inputs, outputs, weights)
    versions = [helper.make_opsetid(d, v) for d, v in (DOMAINS | {"": opset}).items()]
    return helper.make_model(graph, opset_imports=versions, ir_version=10)


def feeds(rows: Mapping[str, Row]) -> Arrays:
    """The inputs of all rows, under the names that `model` gives them."""
    return {f"r{k}_{n}": np.asarray(a) for k, one in enumerate(rows.values()) for n, a in one.feeds.items()}


def named(rows: Mapping[str, Row], values: Sequence[np.ndarray]) -> Results:
    """The values of all outputs, in the order of the rows, by row."""
    left = iter(values)
    return {name: [np.asarray(next(left)) for n in one.outputs if n] for name, one in rows.items()}


def by_compiler(rows: Mapping[str, Row], opset: int = DOMAINS[""]) -> Results:
    """What the compiled program makes of each row."""
    return named(rows, list(sofie.compile(model(rows, opset)).run(feeds(rows)).values()))


def by_level(rows: Mapping[str, Row], spec: str, opset: int = DOMAINS[""]) -> Results:
    """What the interpreter makes of each row after these passes."""
    module = load(model(rows, opset))
    pipeline.run(module, pipeline.parse(spec))
    return named(rows, interpreter.run(module, list(feeds(rows).values())))


def by_reference(one: Row, opset: int = DOMAINS[""]) -> list[np.ndarray]:
    """The row's own answer, or that of onnx.reference."""
    if one.answer is not None:
        answer = one.answer(**one.feeds, **one.weights)
        return [np.asarray(a) for a in (answer if isinstance(answer, tuple) else (answer,))]
    alone = model({"": one}, opset)
    return [np.asarray(a) for a in ReferenceEvaluator(alone).run(None, feeds({"": one}))]


def by_runtime(one: Row, opset: int = 21) -> list[np.ndarray]:
    """What ONNX Runtime says."""
    alone = model({"": one}, opset)
    session = onnxruntime.InferenceSession(alone.SerializeToString())
    return [np.asarray(a) for a in session.run(None, feeds({"": one}))]
