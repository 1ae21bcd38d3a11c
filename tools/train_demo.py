"""Trains the demonstration network on simulated events and writes it as ONNX, with numpy alone.

The network is 7 features -> 5 hidden layers of 200 ReLU units -> 1 sigmoid, the size of a typical trigger classifier.
Seeds are fixed: run without arguments, under the same numpy and BLAS, this file makes the shipped model again.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from sofie.demo.events import FEATURES, generate, roc_auc

Array = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.uint8]

HIDDEN_LAYERS = 5
HIDDEN_UNITS = 200
BATCH = 512
LEARNING_RATE = 1e-3
OPSET = 13

TRAINING_SEED = 1
VALIDATION_SEED = 2
NETWORK_SEED = 3
VALIDATION_EVENTS = 50_000
SHIPPED_MODEL = Path(__file__).resolve().parents[1] / "sofie" / "demo" / "higgs.onnx"


class Dense(NamedTuple):
    """A fully connected layer, or its gradient: weight [outputs, inputs], as PyTorch stores it, and bias [outputs]."""

    weight: Array
    bias: Array


def initial_network(widths: list[int], rng: np.random.Generator) -> list[Dense]:
    """Layers joining each width to the next, float32, with the normal weights of He et al. 2015 (arXiv:1502.01852)."""
    return [
        Dense(
            weight=rng.normal(0, np.sqrt(2 / inputs), (outputs, inputs)).astype(np.float32),
            bias=np.zeros(outputs, np.float32),
        )
        for inputs, outputs in zip(widths, widths[1:], strict=False)
    ]


def forward(network: list[Dense], features: Array) -> tuple[list[Array], Array]:
    """The input of every layer, each [batch, inputs], and the logits [batch] of the last one."""
    inputs = [features]
    for layer in network[:-1]:
        inputs.append(np.maximum(inputs[-1] @ layer.weight.T + layer.bias, 0))
    return inputs, (inputs[-1] @ network[-1].weight.T + network[-1].bias)[:, 0]


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), by tanh, which does not overflow."""
    probability: Array = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return probability


def cross_entropy(logits: Array, labels: Labels) -> float:
    """Mean binary cross-entropy in nats, from the logits, so that a confident mistake costs a finite amount."""
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def gradients(network: list[Dense], features: Array, labels: Labels) -> list[Dense]:
    """Derivatives of ``cross_entropy`` by every weight and bias, in the order of ``network``."""
    inputs, logits = forward(network, features)
    upstream = ((sigmoid(logits) - labels) / len(labels))[:, None]
    found = []
    for layer, entering in zip(reversed(network), reversed(inputs), strict=True):
        found.append(Dense(weight=upstream.T @ entering, bias=upstream.sum(axis=0)))
        upstream = (upstream @ layer.weight) * (entering > 0)  # entering is a ReLU's output, positive where it passed
    return found[::-1]


class Adam:
    """Adam (Kingma and Ba 2014, arXiv:1412.6980), updating the network's arrays in place."""

    def __init__(self, network: list[Dense]) -> None:
        self.parameters = [array for layer in network for array in layer]
        self.mean = [np.zeros_like(array) for array in self.parameters]
        self.square = [np.zeros_like(array) for array in self.parameters]
        self.steps = 0

    def step(self, gradient: list[Dense], rate: float) -> None:
        self.steps += 1
        rate *= float(np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps))
        slopes = [array for layer in gradient for array in layer]
        for parameter, slope, mean, square in zip(self.parameters, slopes, self.mean, self.square, strict=True):
            mean += 0.1 * (slope - mean)
            square += 0.001 * (slope * slope - square)
            parameter -= rate * mean / (np.sqrt(square) + 1e-8)


def batches(events: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Every event's index once, in random order, ``BATCH`` at a time; the last batch may be shorter."""
    order = rng.permutation(events)
    for start in range(0, events, BATCH):
        yield order[start : start + BATCH]


def train(epochs: int, events: int) -> list[Dense]:
    """Trains on ``events`` simulated events, printing after each epoch the loss and AUC on events it has not seen."""
    features, labels = generate(events, TRAINING_SEED)
    unseen_features, unseen_labels = generate(VALIDATION_EVENTS, VALIDATION_SEED)
    rng = np.random.default_rng(NETWORK_SEED)
    network = initial_network([len(FEATURES), *[HIDDEN_UNITS] * HIDDEN_LAYERS, 1], rng)
    adam = Adam(network)
    total_steps = epochs * -(-events // BATCH)
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        for chosen in batches(events, rng):
            remaining = 1 - adam.steps / total_steps
            adam.step(gradients(network, features[chosen], labels[chosen]), LEARNING_RATE * remaining)
        _, logits = forward(network, unseen_features)
        loss, auc = cross_entropy(logits, unseen_labels), roc_auc(logits, unseen_labels)
        seconds = time.perf_counter() - started
        print(f"epoch {epoch:2d}/{epochs}  validation loss {loss:.4f}  AUC {auc:.4f}  {seconds:.1f} s", flush=True)
    return network


def to_onnx(network: list[Dense]) -> onnx.ModelProto:
    """The network as Gemm, Relu and Sigmoid nodes: ``features`` [batch, 7] -> ``score`` [batch, 1], checked by onnx."""
    nodes, initializers = [], []
    entering = "features"
    for number, layer in enumerate(network, start=1):
        dense, relu = f"dense_{number}", f"relu_{number}"
        operands = [entering, f"{dense}.weight", f"{dense}.bias"]
        nodes.append(onnx.helper.make_node("Gemm", operands, [dense], name=dense, transB=1))
        initializers.append(onnx.numpy_helper.from_array(layer.weight, operands[1]))
        initializers.append(onnx.numpy_helper.from_array(layer.bias, operands[2]))
        if number == len(network):
            nodes.append(onnx.helper.make_node("Sigmoid", [dense], ["score"], name="score"))
        else:
            nodes.append(onnx.helper.make_node("Relu", [dense], [relu], name=relu))
        entering = relu
    columns = "standardised " + ", ".join(FEATURES)
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "higgs",
        inputs=[onnx.helper.make_tensor_value_info("features", real, ["batch", len(FEATURES)], columns)],
        outputs=[onnx.helper.make_tensor_value_info("score", real, ["batch", 1], "1 for signal, 0 for background")],
        initializer=initializers,
    )
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    oldest_format = onnx.helper.find_min_ir_version_for(opsets)
    model = onnx.helper.make_model(graph, opset_imports=opsets, producer_name="sofie", ir_version=oldest_format)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demonstration network and write it as ONNX.")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training events (default: %(default)s)")
    parser.add_argument("--events", type=int, default=200_000, help="training events (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=SHIPPED_MODEL, help="ONNX file to write (default: %(default)s)")
    arguments = parser.parse_args()
    output: Path = arguments.output
    if arguments.epochs < 1 or arguments.events < 1:
        parser.error("--epochs and --events must be at least 1")
    if not output.parent.is_dir():
        parser.error(f"--output {output}: the folder {output.parent} does not exist")

    model = to_onnx(train(arguments.epochs, arguments.events))
    partial = output.with_name(output.name + ".partial")
    partial.write_bytes(model.SerializeToString(deterministic=True))
    os.replace(partial, output)  # a reader finds the old model or the new one, never half of one
    print(f"wrote {output} ({output.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
