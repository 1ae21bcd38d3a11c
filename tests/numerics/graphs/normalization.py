"""Rows of normalisations, losses and training steps."""

from __future__ import annotations

import numpy as np

from tests.numerics.graphs.graph import Graph
from tests.numerics.graphs.products import divisors
from tests.numerics.graphs.registry import Row, draws, enter

TRAINING = "ai.onnx.preview.training"
BOTH = ("float32", "float32", "float64")


@draws("BatchNormalization")
def batch_norm(g: Graph) -> None:
    x = g.value(*BOTH, rank=(2, 5), fits=lambda s: min(s) > 0)
    c, kind = g.shape(x)[1], g.kind(x)
    inputs = [x, *(g.operand(c, kind=kind) for _ in range(3)), g.positive(c, kind=kind)]
    g.node("BatchNormalization", inputs, epsilon=1e-3)


def last_axes(operator: str) -> Row:
    def row(g: Graph) -> None:
        x = g.value(rank=(1, 5), fits=lambda s: min(s) > 0)
        axis = g.integer(0, g.rank(x) - 1)
        rest = g.shape(x)[axis:]
        bias = [g.operand(*rest)] if operator == "LayerNormalization" and g.flag() else []
        g.node(operator, [x, g.operand(*rest), *bias], axis=axis, epsilon=0.1)

    return row


for _operator in ("LayerNormalization", "RMSNormalization"):
    enter(_operator, last_axes(_operator))


def channel_norm(operator: str) -> Row:
    def row(g: Graph) -> None:
        x = g.value(rank=(3, 5), fits=lambda s: min(s) > 0)
        c = g.shape(x)[1]
        how = {"num_groups": g.one_of(*divisors(c))} if operator == "GroupNormalization" else {}
        g.node(operator, [x, g.operand(c), g.operand(c)], epsilon=0.1, **how)

    return row


for _operator in ("InstanceNormalization", "GroupNormalization"):
    enter(_operator, channel_norm(_operator))


def spread_out(g: Graph, *shape: int) -> str:
    """A new value whose elements differ widely along every axis."""
    return g.feed((g.rng.standard_normal(shape) + np.arange(shape[-1])).astype(np.float32))


@draws("LpNormalization")
def lp_normalization(g: Graph) -> None:
    x = g.squared(g.value(*BOTH, rank=(1, 4), fits=lambda s: min(s) > 0))
    g.node("LpNormalization", [x], axis=g.integer(-g.rank(x), g.rank(x) - 1), p=g.one_of(1, 2))


@draws("MeanVarianceNormalization")
def mean_variance_normalization(g: Graph) -> None:
    x = spread_out(g, g.integer(1, 2), g.integer(2, 3), g.integer(1, 3), g.integer(2, 4))
    g.node("MeanVarianceNormalization", [x], axes=g.one_of([0, 2, 3], [-1, 1], [1, 2, 3]))


def loss(operator: str) -> Row:
    def row(g: Graph) -> None:
        x = g.value(rank=(2, 4), fits=lambda s: min(s) > 0)
        shape = g.shape(x)
        classes = g.rng.integers(0, shape[1], (shape[0], *shape[2:])).astype(g.one_of("int32", "int64"))
        weights = [g.positive(shape[1])] if g.flag() else []
        results = g.integer(1, 2) if operator == "SoftmaxCrossEntropyLoss" else 1
        ignored = {"ignore_index": int(classes.flat[0])} if classes.size > 1 and len(set(classes.flat)) > 1 else {}
        how = {"reduction": g.one_of("none", "sum", "mean"), **(ignored if g.flag() else {})}
        g.nodes_of(operator, [x, g.feed(classes), *weights], results, **how)

    return row


for _operator in ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"):
    enter(_operator, loss(_operator))


def optimiser(operator: str, states: int, **how: object) -> Row:
    """States that are divided by are positive."""

    def row(g: Graph) -> None:
        x = g.value(fits=lambda s: int(np.prod(s)) < 100)
        shape, step = g.shape(x), g.given(np.array(g.integer(0, 3)))
        values = [x, g.operand(*shape), *(g.positive(*shape) for _ in range(states))]
        mode = {"mode": g.one_of("standard", "nesterov")} if operator == "Momentum" else {}
        rate = g.given(np.array(0.125, np.float32))
        g.nodes_of(operator, [rate, step, *values], 1 + states, domain=TRAINING, **how, **mode)

    return row


_EXACT = {"norm_coefficient": 0.125, "epsilon": 2**-10}
enter("Momentum", optimiser("Momentum", 1, alpha=0.75, beta=0.5, norm_coefficient=0.125), TRAINING)
enter("Adagrad", optimiser("Adagrad", 1, decay_factor=0.125, **_EXACT), TRAINING)
enter("Adam", optimiser("Adam", 2, alpha=0.75, beta=0.9375, norm_coefficient_post=0.25, **_EXACT), TRAINING)
