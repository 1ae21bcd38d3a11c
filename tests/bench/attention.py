"""Networks of the suite on sets of particles or tokens: sums, graphs, transformers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from tests.bench.dense import layers
from tests.bench.graph import Graph

POINTS = 64
"""Particles or tokens in an input."""
NEIGHBOURS = 7


def particle_flow(name: str) -> Graph:
    """A particle flow network: dense layers for each of 64 particles, their mean, dense layers."""
    g = Graph(name)
    x = g.input("input", [1, POINTS, 13])
    for takes, gives in ((13, 100), (100, 100), (100, 256)):
        x = g.relu(g.linear(x, takes, gives))
    x = g.op("ReduceSum", x, g.integers(1), keepdims=0)
    x = g.op("Mul", x, g.scalar(1.0 / POINTS))
    g.output(g.op("Softmax", layers(g, x, [256, 100, 100, 100, 2]), axis=-1), [1, 2])
    return g


def particle_net(name: str, search: bool) -> Graph:
    """ParticleNet-Lite: two edge convolutions over neighbours that are an input, or that it searches itself."""
    g = Graph(name)
    x = g.input("input", [POINTS, 7])
    neighbours = _nearest(g, x) if search else g.input("knn", [POINTS, NEIGHBOURS], TensorProto.INT64)
    x = g.batch_norm(x, 7)
    takes = 7
    for gives in (32, 64):
        x = _edge_convolution(g, x, neighbours, takes, gives)
        takes = gives
    x = g.op("ReduceMean", x, axes=[0], keepdims=1)
    g.output(g.op("Softmax", layers(g, x, [64, 128, 2]), axis=-1), [1, 2])
    return g


def _nearest(g: Graph, x: str) -> str:
    """The nearest neighbours by squared distance in the first two features, without the particle itself."""
    place = g.op("Slice", x, g.integers(0), g.integers(2), g.integers(1))
    norm = g.op("ReduceSum", g.op("Mul", place, place), g.integers(1), keepdims=1)
    product = g.op("MatMul", place, g.op("Transpose", place, perm=[1, 0]))
    cross = g.op("Mul", product, g.scalar(-2.0))
    distance = g.op("Add", cross, g.op("Add", norm, g.op("Transpose", norm, perm=[1, 0])))
    indices = g.top_k(distance, NEIGHBOURS + 1)
    return g.op("Slice", indices, g.integers(1), g.integers(NEIGHBOURS + 1), g.integers(1))


def _edge_convolution(g: Graph, x: str, neighbours: str, takes: int, gives: int) -> str:
    """Three dense layers on each (particle, neighbour - particle), the mean over the neighbours, a shortcut."""
    gathered = g.op("Gather", x, neighbours, axis=0)
    centre = g.op("Expand", g.op("Unsqueeze", x, g.integers(1)), g.integers(POINTS, NEIGHBOURS, takes))
    edges = g.op("Concat", centre, g.op("Sub", gathered, centre), axis=2)
    for width in (2 * takes, gives, gives):
        edges = g.relu(g.linear(edges, width, gives))
    mean = g.op("ReduceMean", edges, axes=[1], keepdims=0)
    return g.relu(g.op("Add", mean, g.linear(x, takes, gives)))


def _encoder(
    g: Graph,
    x: str,
    width: int,
    heads: int,
    inner: int,
    depth: int,
    normalise_first: bool,
    gelu: Callable[[str], str],
    mask: str | None = None,
) -> str:
    """Transformer layers on (1, 64, width)."""
    for _ in range(depth):
        if normalise_first:
            x = g.op("Add", x, g.attention(g.layer_norm(x, width), POINTS, width, heads, mask))
            y = g.linear(gelu(g.linear(g.layer_norm(x, width), width, inner)), inner, width)
            x = g.op("Add", x, y)
        else:
            x = g.layer_norm(g.op("Add", x, g.attention(x, POINTS, width, heads, mask)), width)
            y = g.linear(gelu(g.linear(x, width, inner)), inner, width)
            x = g.layer_norm(g.op("Add", x, y), width)
    return x


def particle_transformer(name: str) -> Graph:
    """Four layers of 128 on 64 particles of 17 features."""
    g = Graph(name)
    x = g.linear(g.input("input", [1, POINTS, 17]), 17, 128)
    x = _encoder(g, x, 128, 8, 512, 4, True, g.gelu_erf)
    x = g.op("ReduceMean", g.layer_norm(x, 128), axes=[1], keepdims=0)
    g.output(g.op("Softmax", layers(g, x, [128, 64, 10]), axis=-1), [1, 10])
    return g


def tiny_bert(name: str) -> Graph:
    """BERT-tiny with its vocabulary."""
    g = Graph(name)
    tokens = g.input("input_ids", [1, POINTS], TensorProto.INT64)
    x = g.op("Gather", g.normal([30522, 128], 0.5, "emb"), tokens, axis=0)
    x = g.op("Add", x, g.normal([1, POINTS, 128], 0.5, "pos"))
    x = _encoder(g, g.layer_norm(x, 128), 128, 2, 512, 2, False, g.gelu_erf)
    first = g.op("Gather", x, g.constant(np.array(0, np.int64)), axis=1)
    g.output(g.op("Tanh", g.gemm(first, 128, 128)), [1, 128])
    return g


def gpt2_block(name: str) -> Graph:
    """A layer of GPT-2 on 64 tokens."""
    g = Graph(name)
    x = g.input("input", [1, POINTS, 768])
    mask = g.constant(np.triu(np.full((1, 1, POINTS, POINTS), -1e9, np.float32), 1), "mask")
    g.output(_encoder(g, x, 768, 12, 3072, 1, True, g.gelu_tanh, mask), [1, POINTS, 768])
    return g
