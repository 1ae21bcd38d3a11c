"""Dense and recurrent networks of the suite; those of SOFIE have the structures of CERN's rootbench."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tests.bench.graph import Graph


def layers(g: Graph, x: str, widths: Sequence[int], transposed: bool = True) -> str:
    """Dense layers with a Relu between them."""
    for k, (takes, gives) in enumerate(pairwise(widths)):
        x = g.gemm(x, takes, gives, transposed)
        if k < len(widths) - 2:
            x = g.relu(x)
    return x


def higgs_dense(name: str, batch: int) -> Graph:
    """Seven features, five hidden layers of 200."""
    g = Graph(name)
    x = layers(g, g.input("input", [batch, 7]), [7] + [200] * 5 + [1], transposed=False)
    g.output(g.op("Sigmoid", x), [batch, 1])
    return g


def linear(name: str, batch: int) -> Graph:
    """Ten layers of 50."""
    g = Graph(name)
    g.output(layers(g, g.input("input", [batch, 100]), [100] + [50] * 9 + [10]), [batch, 10])
    return g


def alice(name: str) -> Graph:
    """Three layers with LeakyRelu, the smallest of the suite."""
    g = Graph(name)
    x = g.input("input", [1, 16])
    for takes, gives in ((16, 100), (100, 50)):
        x = g.op("LeakyRelu", g.linear(x, takes, gives), alpha=0.01)
    g.output(g.linear(x, 50, 1), [1, 1])
    return g


def shower_generator(name: str, batch: int) -> Graph:
    """Decoder of a calorimeter's variational autoencoder, as in Geant4's Par04: 14 numbers to 50 x 45 x 18 cells."""
    g = Graph(name)
    x = g.input("input", [batch, 14])
    for takes, gives in pairwise((14, 20, 50, 100)):
        x = g.batch_norm(g.op("LeakyRelu", g.gemm(x, takes, gives), alpha=0.2), gives)
    g.output(g.op("Sigmoid", g.gemm(x, 100, 40500)), [batch, 40500])
    return g


def anomaly_autoencoder(name: str) -> Graph:
    """MLPerf Tiny's anomaly detection."""
    g = Graph(name)
    x = g.input("input", [1, 640])
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    for k, (takes, gives) in enumerate(pairwise(widths)):
        x = g.gemm(x, takes, gives)
        if k < len(widths) - 2:
            x = g.relu(g.batch_norm(x, gives))
    g.output(x, [1, 640])
    return g


def recurrent(name: str, operator: str) -> Graph:
    """20 steps of 10 features through 8 hidden units; the last state decides."""
    g = Graph(name)
    x = g.op("Transpose", g.input("input", [1, 20, 10]), perm=[1, 0, 2])
    states = g.recurrent(operator, x, 10, 8, last=False)
    states = g.op("Transpose", g.op("Squeeze", states, g.integers(1)), perm=[1, 0, 2])
    state = g.op("Slice", states, g.integers(-1), g.integers(2**63 - 1), g.integers(1))
    g.output(g.gemm(g.op("Squeeze", state, g.integers(1)), 8, 2), [1, 2])
    return g


def deep_double_b(name: str) -> Graph:
    """CMS's DeepDoubleB: three inputs, batch norms, pointwise convolutions, two GRUs, dense layers."""
    g = Graph(name)
    jet, tracks, vertices = (
        g.input("input_1", [1, 1, 27]),
        g.input("input_2", [1, 60, 8]),
        g.input("input_3", [1, 5, 2]),
    )

    def flipped(x: str) -> str:
        return g.op("Transpose", x, perm=[0, 2, 1])

    branches = [g.op("Reshape", flipped(g.batch_norm(flipped(jet), 27)), g.integers(1, 27))]
    for x, features in ((tracks, 8), (vertices, 2)):
        x = flipped(g.batch_norm(flipped(x), features))
        for takes in (features, 32):
            x = g.relu(flipped(g.conv(flipped(x), takes, 32, [1])))
        state = g.recurrent("GRU", g.op("Transpose", x, perm=[1, 0, 2]), 32, 50, last=True)
        branches.append(g.op("Reshape", g.op("Transpose", state, perm=[1, 0, 2]), g.integers(1, 50)))
    x = g.relu(g.linear(g.op("Concat", *branches, axis=1), 127, 100))
    g.output(g.op("Softmax", g.linear(x, 100, 2), axis=-1), [1, 2])
    return g
