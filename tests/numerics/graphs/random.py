"""Rows of random operators whose numbers are certain: no spread, or chances of 0 and 1.

What they are otherwise is told by their distributions, in `tests/numerics/test_random.py`; here their nodes stand among
others, whose passes must leave them what they are.
"""

from __future__ import annotations

import numpy as np

from tests.numerics.graphs.graph import Graph, code
from tests.numerics.graphs.registry import draws

KINDS = ("float32", "float64")


@draws("RandomNormal")
def normal(g: Graph) -> None:
    kind = g.one_of(*KINDS)
    g.node(
        "RandomNormal", [], shape=[g.integer(1, 5), g.integer(1, 5)], mean=1.5, scale=0.0, dtype=code(kind), kind=kind
    )


@draws("RandomUniform")
def uniform(g: Graph) -> None:
    kind = g.one_of(*KINDS)
    g.node(
        "RandomUniform", [], shape=[g.integer(1, 5), g.integer(1, 5)], low=0.75, high=0.75, dtype=code(kind), kind=kind
    )


@draws("RandomNormalLike")
def normal_like(g: Graph) -> None:
    g.node("RandomNormalLike", [g.value("float32", "int64", rank=(1, 4))], mean=-0.5, scale=0.0, dtype=code("float32"))


@draws("RandomUniformLike")
def uniform_like(g: Graph) -> None:
    g.node("RandomUniformLike", [g.value("float32", "int64", rank=(1, 4))], low=2.5, high=2.5, dtype=code("float32"))


@draws("Bernoulli")
def bernoulli(g: Graph) -> None:
    chances = g.feed(g.rng.integers(0, 2, g.shape(g.value(rank=(1, 4)))).astype(np.float32))
    g.node("Bernoulli", [chances], dtype=code(g.one_of("float32", "int32", "bool")))


@draws("Multinomial")
def multinomial(g: Graph) -> None:
    batch, classes = g.integer(1, 3), g.integer(1, 4)
    logarithms = np.full((batch, classes), -np.inf, np.float32)
    logarithms[np.arange(batch), g.rng.integers(0, classes, batch)] = 0
    kind = g.one_of("int32", "int64")
    g.node("Multinomial", [g.feed(logarithms)], sample_size=g.integer(1, 5), dtype=code(kind))


@draws("Dropout")
def dropout(g: Graph) -> None:
    x = g.value(*KINDS)
    training = g.flag()
    inputs = [x, g.constant(np.array(0, np.float32)), g.given(np.array(True))] if training else [x]
    g.nodes_of("Dropout", inputs, 2, kind=g.kind(x))
