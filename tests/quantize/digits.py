"""A small convolutional network for scikit-learn's handwritten digits, trained with numpy in seconds.

8 x 8 pixels -> conv 3 x 3, 8 channels -> relu -> conv 3 x 3, 16 channels -> relu -> max pool 2 x 2 -> dense 10
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper
from sklearn.datasets import load_digits

from tests.models import build

CHANNELS = (1, 8, 16)
EPOCHS = 25
BATCH = 64
LEARNING_RATE = 4e-3
HELD_OUT = 597

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Digits:
    """The network as ONNX, and images [n, 1, 8, 8] with labels [n]: those it was trained on, and others."""

    model: onnx.ModelProto
    trained: tuple[np.ndarray, np.ndarray]
    others: tuple[np.ndarray, np.ndarray]


def digits(seed: int) -> Digits:
    """Trains the network; the split, the first weights and the order follow from the seed."""
    generator = np.random.default_rng(seed)
    data = load_digits()
    order = generator.permutation(len(data.target))
    images = (data.images[order, None] / 16).astype(np.float32)
    labels = data.target[order].astype(np.int64)
    trained, others = (images[HELD_OUT:], labels[HELD_OUT:]), (images[:HELD_OUT], labels[:HELD_OUT])
    return Digits(as_onnx(_trained(*trained, generator)), trained, others)


def as_onnx(weights: Weights) -> onnx.ModelProto:
    """The network, for any batch; the result are logits [batch, 10]."""
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv_1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu_1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv_2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu_2"),
        helper.make_node("MaxPool", ["r2"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], name="dense"),
    ]
    return build(nodes, {"image": ["batch", 1, 8, 8]}, ["logits"], weights)


def _trained(images: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> Weights:
    """The weights after `EPOCHS` of Adam (Kingma and Ba, arXiv:1412.6980)."""
    weights = _first(generator)
    moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in weights.items()}
    step = 0
    for _ in range(EPOCHS):
        order = generator.permutation(len(labels))
        for start in range(0, len(order), BATCH):
            picked, step = order[start : start + BATCH], step + 1
            for name, gradient in _gradients(weights, images[picked], labels[picked]).items():
                mean, square = moments[name]
                mean += 0.1 * (gradient - mean)
                square += 0.001 * (gradient**2 - square)
                rate = LEARNING_RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                weights[name] -= (rate * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)
    return weights


def _first(generator: np.random.Generator) -> Weights:
    """Normal weights (He et al. 2015, arXiv:1502.01852) and no bias."""
    shapes = {"w1": (8, 1, 3, 3), "w2": (16, 8, 3, 3), "w3": (256, 10)}
    weights: Weights = {}
    for name, shape in shapes.items():
        inputs = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        weights[name] = generator.normal(0, np.sqrt(2 / inputs), shape).astype(np.float32)
        weights[name.replace("w", "b")] = np.zeros(shape[1] if len(shape) == 2 else shape[0], np.float32)
    return weights


def _patches(x: np.ndarray) -> np.ndarray:
    """The 3 x 3 neighbourhoods of every pixel, zeros beyond the edge: [n, channels * 9, 64]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifted = [padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    return np.stack(shifted, axis=2).reshape(len(x), -1, 64)


def _convolve(patches: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[n, outputs, 8, 8]"""
    sums = weight.reshape(len(weight), -1) @ patches
    return sums.reshape(len(patches), len(weight), 8, 8) + bias.reshape(-1, 1, 1)


def _gradients(weights: Weights, images: np.ndarray, labels: np.ndarray) -> Weights:
    """Of the mean cross-entropy, by every weight."""
    count = len(labels)
    patches_1 = _patches(images)
    relu_1 = np.maximum(_convolve(patches_1, weights["w1"], weights["b1"]), 0)
    patches_2 = _patches(relu_1)
    relu_2 = np.maximum(_convolve(patches_2, weights["w2"], weights["b2"]), 0)
    blocks = relu_2.reshape(count, 16, 4, 2, 4, 2)
    pooled = blocks.max(axis=(3, 5))
    flat = pooled.reshape(count, -1)
    logits = flat @ weights["w3"] + weights["b3"]
    upstream = np.exp(logits - logits.max(axis=1, keepdims=True))
    upstream /= upstream.sum(axis=1, keepdims=True)
    upstream[np.arange(count), labels] -= 1
    upstream /= count
    found = {"w3": flat.T @ upstream, "b3": upstream.sum(axis=0)}
    through = (upstream @ weights["w3"].T).reshape(pooled.shape)[:, :, :, None, :, None]
    through = np.where(blocks == pooled[:, :, :, None, :, None], through, 0).reshape(relu_2.shape) * (relu_2 > 0)
    found |= _of_convolution("2", through, patches_2, weights)
    turned = np.ascontiguousarray(weights["w2"][:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
    through = _convolve(_patches(through), turned, np.zeros(8, np.float32)) * (relu_1 > 0)
    return found | _of_convolution("1", through, patches_1, weights)


def _of_convolution(which: str, upstream: np.ndarray, patches: np.ndarray, weights: Weights) -> Weights:
    flat = upstream.reshape(len(upstream), -1, 64)
    weight = (flat @ patches.transpose(0, 2, 1)).sum(axis=0)
    return {f"w{which}": weight.reshape(weights[f"w{which}"].shape), f"b{which}": flat.sum(axis=(0, 2))}
