"""Cross-layer equalisation: channels between two layers are scaled so that both spread their weights alike.

    W2 relu(W1 x + b1)     ->     (W2 / s) relu((s W1) x + s b1)       for every channel an s > 0

One scale for a tensor or an input then loses less (M. Nagel et al., "Data-Free Quantization Through Weight Equalization
and Bias Correction", ICCV 2019, section 4.1). The model computes the same, up to rounding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import shape_of
from sofie.quantization.layers import Layer, add_weight, drop_unused_weights, find_layers, sole_reader
from sofie.weights import Array

Floats = npt.NDArray[np.float64]

SCALES_THROUGH = ("AveragePool", "GlobalAveragePool", "MaxPool", "Relu")
"""Operators whose result scales as their operand does, channel by channel."""
SWEEPS = 20
CONVERGED = 1e-3
"""Sweeps end when no channel is scaled by more than this, relatively."""


def equalize(module: ModuleOp) -> int:
    """Scales the weights of a prepared module; returns how many pairs of layers were scaled."""
    layers = {layer.op: layer for layer in find_layers(module)}
    pairs = [(layer, follower) for layer in layers.values() if (follower := _follower(layer, layers)) is not None]
    held = {layer.op: _Held(layer) for pair in pairs for layer in pair}
    for _ in range(SWEEPS):
        if max((_balance(held[a.op], held[b.op]) for a, b in pairs), default=0.0) < CONVERGED:
            break
    for weights in held.values():
        weights.store()
    drop_unused_weights(module)
    return len(pairs)


def _follower(layer: Layer, layers: dict[OnnxOp, Layer]) -> Layer | None:
    """The layer whose input channels are the output channels of another, with nothing between that mixes them."""
    if layer.weight is None or layer.channels is None or len(shape_of(layer.op.results[0])) < 2:
        return None
    value: SSAValue = layer.op.results[0]
    if len(layer.op.inputs) > 2 and layer.bias is None:
        return None
    while (reader := sole_reader(value)) is not None:
        if reader in layers:
            return layers[reader] if _takes_channels(layers[reader], value) else None
        whole = (
            reader.operator == "Flatten" and all(e == 1 for e in shape_of(value)[2:]) and reader.integer("axis") == 1
        )
        if reader.operator not in SCALES_THROUGH and not whole or len(reader.results) != 1:
            return None
        value = reader.results[0]
    return None


def _takes_channels(layer: Layer, value: SSAValue) -> bool:
    """Whether the channels of a layer's input are an axis of its weights."""
    if layer.weight is None or layer.op.operands[0] is not value:
        return False
    if layer.op.operator in ("Conv", "ConvTranspose"):
        return layer.op.integer("group") == 1
    return len(shape_of(value)) == 2 and len(shape_of(layer.weight.result)) == 2


class _Held:
    """The weights and bias of a layer while they are scaled, in float64."""

    def __init__(self, layer: Layer) -> None:
        assert layer.weight is not None
        self.layer = layer
        self.weight: Floats = layer.weight.blob.value.astype(np.float64)
        self.bias: Floats | None = None if layer.bias is None else layer.bias.blob.value.astype(np.float64)

    def largest(self, axis: int) -> Floats:
        """The largest weight of each channel."""
        others = tuple(a for a in range(self.weight.ndim) if a != axis)
        return np.asarray(np.abs(self.weight).max(axis=others))

    def scale(self, axis: int, by: Floats) -> None:
        """Multiplies the weights of each channel."""
        self.weight = self.weight * by.reshape([-1 if a == axis else 1 for a in range(self.weight.ndim)])

    def store(self) -> None:
        """Writes new weights into the module."""
        op, weight, bias = self.layer.op, self.layer.weight, self.layer.bias
        assert weight is not None
        op.operands[1] = _stored(op, weight, self.weight)
        if bias is not None and self.bias is not None:
            op.operands[2] = _stored(op, bias, self.bias)


def _stored(op: OnnxOp, old: WeightOp, array: Floats) -> SSAValue:
    stored: Array = array.astype(np.float32)
    return add_weight(op, old.weight_name.data, stored, old.result.name_hint)


def _balance(before: _Held, behind: _Held) -> float:
    """Scales the channels between two layers; returns by how much at most, relatively."""
    out, into = before.layer.channels, behind.layer.reduction
    assert out is not None
    first, second = before.largest(out), behind.largest(into)
    used = (first > 0) & (second > 0)
    by = np.where(used, np.sqrt(np.where(used, second, 1.0) / np.where(used, first, 1.0)), 1.0)
    before.scale(out, by)
    behind.scale(into, 1 / by)
    if before.bias is not None:
        before.bias = before.bias * by
    return float(np.abs(by - 1).max(initial=0.0))
