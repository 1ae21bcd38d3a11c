"""The strategy: a model of several nodes, what to feed it and what must come out."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

from sofie.dialects.onnx import DOMAINS
from tests.numerics.graphs.graph import EXTENTS, LARGEST, Declined, Draw, Graph, code
from tests.numerics.graphs.registry import ROWS, Key

EXCUSED: dict[Key, str] = {
    ("", "Constant"): "every weight is one",
}
"""Operators that no row draws, and where else they are tested."""


@dataclass(frozen=True)
class Drawn:
    """A model, what to feed it, and its outputs by name in both widths (see `graph.py`)."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    double: dict[str, np.ndarray]
    single: dict[str, np.ndarray]
    operators: Counter[Key]

    def __repr__(self) -> str:
        return onnx.printer.to_text(self.model)


@st.composite
def models(draw: Draw, operators: Sequence[Key] = (), most: int = 6, first: Sequence[Key] = ()) -> Drawn:
    """A valid model of nodes of these operators (all there are); it begins with `first`."""
    seed = [*draw(st.binary(min_size=8, max_size=8)), zlib.crc32(str(list(first)).encode())]
    g = Graph(draw, np.random.default_rng(seed))
    for _ in range(draw(st.integers(1, 2))):
        shape = g.rng.choice(EXTENTS, g.one_of(0, 1, 2, 3, 3, 4, 4)).tolist()
        while np.prod(shape) > LARGEST // 4:
            shape.pop()
        g.fresh(shape)
    table = sorted(operators or ROWS)
    order = [table[k] for k in g.rng.permutation(len(table))]
    steps = [draw(st.integers(0, len(order) - 1)) for _ in range(draw(st.integers(2, most)))]
    for key in [*first, *(order[k] for k in steps)]:
        g.rng = np.random.default_rng([*seed, zlib.crc32(str(key).encode())])  # the same whatever else is left out
        _add(g, key)
    if not g.nodes:
        g.node("Relu", [next(iter(g.values))])
    return _finished(g)


def _add(g: Graph, key: Key) -> None:
    before = set(g.values), len(g.nodes), len(g.weights), len(g.inputs)
    try:
        ROWS[key](g)
    except Declined:
        values, nodes, weights, inputs = before
        g.values = {name: v for name, v in g.values.items() if name in values}
        del g.nodes[nodes:], g.weights[weights:], g.inputs[inputs:]


def _finished(g: Graph) -> Drawn:
    """The outputs are what no node reads; in one of four graphs one of these and any other value."""
    read = {name for node in g.nodes for name in node.input}
    made = [name for node in g.nodes for name in node.output]
    outputs = [name for name in made if name not in read]
    if g.rng.random() < 0.25:
        outputs = list(dict.fromkeys([outputs[-1], g.one_of(*made)]))
    takes = [helper.make_tensor_value_info(n, code(g.kind(n)), g.shape(n)) for n in g.inputs]
    gives = [helper.make_tensor_value_info(n, code(g.kind(n)), None) for n in outputs]
    graph = helper.make_graph(g.nodes, "random", takes, gives, g.weights)
    versions = [helper.make_opsetid(domain, version) for domain, version in DOMAINS.items()]
    model = helper.make_model(graph, opset_imports=versions, ir_version=10)
    return Drawn(
        model,
        {n: g.values[n].double.astype(g.kind(n)) for n in g.inputs},
        {n: g.values[n].double for n in outputs},
        {n: g.values[n].single for n in outputs},
        g.operators(),
    )
