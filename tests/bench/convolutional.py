"""Convolutional networks of the suite."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from tests.bench.graph import Graph

DEEP = (2, 4, 8, 16, 32, 64, 128, 64, 32, 16, 8, 4, 2, 1)
"""The channels of rootbench's deepest chain of convolutions."""


def chain_2d(name: str, channels: Sequence[int]) -> Graph:
    """5 x 5 convolutions of a 100 x 100 image."""
    g = Graph(name)
    x = g.input("input", [1, 1, 100, 100])
    for takes, gives in pairwise((1, *channels)):
        x = g.relu(g.conv(x, takes, gives, 5, pads=2))
    g.output(x, [1, channels[-1], 100, 100])
    return g


def chain_3d(name: str) -> Graph:
    """Convolutions of a 32 x 32 x 32 block."""
    g = Graph(name)
    x = g.input("input", [1, 1, 32, 32, 32])
    for takes, gives in ((1, 32), (32, 8), (8, 8), (8, 8)):
        x = g.relu(g.conv(x, takes, gives, [5, 5, 5], pads=1))
    x = g.relu(g.conv(x, 8, 4, [6, 6, 6], stride=6))
    g.output(g.gemm(g.op("Flatten", x, axis=1), 256, 8), [1, 8])
    return g


def shower_upsampler(name: str) -> Graph:
    """A generator of calorimeter showers by transposed convolutions (rootbench's ConvTModel_G4)."""
    g = Graph(name)
    x = g.relu(g.gemm(g.input("input", [1, 15]), 15, 5940))
    x = g.op("Transpose", g.op("Reshape", x, g.integers(1, 3, 11, 180)), perm=[0, 3, 1, 2])
    for takes, gives, kernel, stride in ((180, 180, 3, 2), (180, 90, 3, 2), (90, 45, 4, 1)):
        weight = g.weight(takes, gives, kernel, kernel, fan=takes * kernel * kernel / (stride * stride))
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [0] * 4, "dilations": [1, 1]}
        x = g.op("ConvTranspose", x, weight, g.bias(gives), **attributes, group=1)
        x = g.relu(x) if gives != 45 else g.op("Sigmoid", x)
    g.output(g.op("Transpose", x, perm=[0, 3, 1, 2]), [1, 50, 45, 18])
    return g


def resnet18(name: str) -> Graph:
    """ResNet-18 with its batch norms."""
    g = Graph(name)
    x = g.input("input", [1, 3, 224, 224])
    x = g.relu(g.batch_norm(g.conv(x, 3, 64, 7, 2, 3, bias=False), 64))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    takes = 64
    for stage, gives in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = g.relu(g.batch_norm(g.conv(x, takes, gives, 3, stride, 1, bias=False), gives))
            y = g.batch_norm(g.conv(y, gives, gives, 3, 1, 1, bias=False), gives)
            if stride != 1 or takes != gives:
                x = g.batch_norm(g.conv(x, takes, gives, 1, stride, 0, bias=False), gives)
            x = g.relu(g.op("Add", y, x))
            takes = gives
    x = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    g.output(g.gemm(x, 512, 1000), [1, 1000])
    return g


def resnet8(name: str) -> Graph:
    """MLPerf Tiny's image classification."""
    g = Graph(name)
    x = g.relu(g.conv(g.input("input", [1, 3, 32, 32]), 3, 16, 3, 1, 1))
    takes = 16
    for gives in (16, 32, 64):
        stride = 1 if gives == 16 else 2
        y = g.conv(g.relu(g.conv(x, takes, gives, 3, stride, 1)), gives, gives, 3, 1, 1)
        if stride != 1:
            x = g.conv(x, takes, gives, 1, stride, 0)
        x = g.relu(g.op("Add", y, x))
        takes = gives
    x = g.op("AveragePool", x, kernel_shape=[8, 8], strides=[8, 8])
    _classify(g, g.op("Flatten", x, axis=1), 64, 10)
    return g


def keyword_spotting(name: str) -> Graph:
    """MLPerf Tiny's keyword spotting: depthwise separable convolutions of a spectrogram."""
    g = Graph(name)
    x = g.relu(g.conv(g.input("input", [1, 1, 49, 10]), 1, 64, [10, 4], 2, [4, 1, 5, 1]))
    for _ in range(4):
        x = g.relu(g.conv(x, 64, 64, 3, 1, 1, group=64))
        x = g.relu(g.conv(x, 64, 64, 1))
    _classify(g, g.op("Flatten", g.op("GlobalAveragePool", x), axis=1), 64, 12)
    return g


def mobilenet_v1(name: str) -> Graph:
    """MLPerf Tiny's visual wake words: MobileNetV1 with a quarter of its channels."""
    g = Graph(name)
    x = g.relu(g.batch_norm(g.conv(g.input("input", [1, 3, 96, 96]), 3, 8, 3, 2, 1, bias=False), 8))
    takes = 8
    blocks = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))
    for gives, stride in blocks:
        x = g.relu(g.batch_norm(g.conv(x, takes, takes, 3, stride, 1, group=takes, bias=False), takes))
        x = g.relu(g.batch_norm(g.conv(x, takes, gives, 1, bias=False), gives))
        takes = gives
    _classify(g, g.op("Flatten", g.op("GlobalAveragePool", x), axis=1), 256, 2)
    return g


def mobilenet_v2(name: str) -> Graph:
    """MobileNetV2 with its batch norms folded."""
    g = Graph(name)
    low, high = g.scalar(0.0), g.scalar(6.0)
    relu6 = partial(_clip, g, low, high)
    x = relu6(g.conv(g.input("input", [1, 3, 224, 224]), 3, 32, 3, 2, 1))
    takes = 32
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, gives, repeats, first_stride in rows:
        for k in range(repeats):
            stride = first_stride if k == 0 else 1
            y, wide = x, takes * expansion
            if expansion != 1:
                y = relu6(g.conv(y, takes, wide, 1))
            y = relu6(g.conv(y, wide, wide, 3, stride, 1, group=wide))
            y = g.conv(y, wide, gives, 1)
            x = g.op("Add", x, y) if stride == 1 and takes == gives else y
            takes = gives
    x = relu6(g.conv(x, 320, 1280, 1))
    x = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    g.output(g.gemm(x, 1280, 1000), [1, 1000])
    return g


def _clip(g: Graph, low: str, high: str, x: str) -> str:
    return g.op("Clip", x, low, high)


def _classify(g: Graph, x: str, takes: int, classes: int) -> None:
    g.output(g.op("Softmax", g.gemm(x, takes, classes), axis=-1), [1, classes])
