"""fold-batchnorm: an inference BatchNormalization next to a linear layer becomes part of its weights (level 1).

    BN(W x + b)       ->   (s W) x + (s b + o)              s = scale / sqrt(var + epsilon), o = bias - s mean
    W BN(x) + b       ->   (W s) x + (b + W o)              no padding: padded zeros would not be normalised

for Conv, ConvTranspose (behind only), Gemm and MatMul with constant weights. Computed in float64, stored in the type
of the weights. Declines where the layer's result has another reader, or any of the parameters is a run-time value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.sofie import WeightOp, contents
from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.passes.lower_onnx.normalization import scale_and_offset
from sofie.rewrite import erase, fused_location, replace_results, users

Floats = npt.NDArray[np.float64]

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class FoldBatchnorm(ModulePass):
    """Folds every BatchNormalization it can: into the layer before it, else into the layer behind it."""

    name: ClassVar[str] = "fold-batchnorm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for norm in [o for o in op.walk() if isinstance(o, OnnxOp) and o.operator == "BatchNormalization"]:
            parameters = _parameters(norm)
            if parameters is not None and not _fold_behind(norm, *parameters):
                _fold_before(norm, *parameters)


def _constant(value: SSAValue | None) -> Floats | None:
    array = contents(value)
    return None if array is None else array.astype(np.float64)


def _parameters(norm: OnnxOp) -> tuple[Floats, Floats] | None:
    """Scale and offset per channel, or None for training mode and run-time parameters."""
    scale, bias, mean, variance = (_constant(v) for v in norm.inputs[1:5])
    if norm.integer("training_mode") or len(norm.results) != 1:
        return None
    if scale is None or bias is None or mean is None or variance is None:
        return None
    return scale_and_offset(scale, bias, mean, variance, norm.real("epsilon"))


def _linear(value: SSAValue | None) -> OnnxOp | None:
    owner = value.owner if value is not None else None
    return owner if isinstance(owner, OnnxOp) and owner.operator in LINEAR else None


def _fold_behind(norm: OnnxOp, scale: Floats, offset: Floats) -> bool:
    """BN(W x + b): the layer's outputs are scaled."""
    layer = _linear(norm.inputs[0])
    if layer is None or len(users(layer.results[0])) != 1:
        return False
    weight, bias = _constant(layer.inputs[1]), _bias(layer)
    if weight is None or bias is None or (layer.operator in ("Gemm", "MatMul") and len(shape_of(norm.results[0])) != 2):
        return False
    if layer.operator == "Conv":
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    elif layer.operator == "ConvTranspose":
        group = layer.integer("group")
        split = weight.reshape(group, -1, *weight.shape[1:])
        scaled = (split * scale.reshape(group, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    else:
        if weight.ndim != 2:
            return False
        scaled = weight * (scale[:, None] if _transposed(layer) else scale[None, :])
    _replace(norm, layer, layer.inputs[0], scaled, bias * scale + offset)
    return True


def _fold_before(norm: OnnxOp, scale: Floats, offset: Floats) -> bool:
    """W BN(x) + b: the layer's inputs are scaled."""
    readers = users(norm.results[0])
    if len(readers) != 1 or not isinstance(readers[0], OnnxOp) or readers[0].operator not in ("Conv", "Gemm", "MatMul"):
        return False
    layer = readers[0]
    weight, bias = _constant(layer.inputs[1]), _bias(layer)
    if weight is None or bias is None or layer.inputs[0] is not norm.results[0] or norm.results[0] in layer.inputs[1:]:
        return False
    if layer.operator == "Conv":
        if any(layer.ints("pads", []) or ()) or layer.string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return False
        group = layer.integer("group")
        split = weight.reshape(group, -1, *weight.shape[1:])
        ones = [1] * (weight.ndim - 2)
        scaled = (split * scale.reshape(group, 1, -1, *ones)).reshape(weight.shape)
        extra = (split * offset.reshape(group, 1, -1, *ones)).reshape(weight.shape[0], -1).sum(axis=1)
    else:
        plain = len(shape_of(norm.results[0])) == 2 and weight.ndim == 2
        if not plain or (layer.operator == "Gemm" and layer.integer("transA")):
            return False
        across = _transposed(layer)
        scaled = weight * (scale[None, :] if across else scale[:, None])
        extra = weight @ offset if across else offset @ weight
        extra = extra * (layer.real("alpha") if layer.operator == "Gemm" else 1.0)
    _replace(layer, layer, norm.inputs[0], scaled, bias + extra)
    erase(norm)
    return True


def _transposed(layer: OnnxOp) -> bool:
    return layer.operator == "Gemm" and layer.integer("transB") == 1


def _bias(layer: OnnxOp) -> Floats | None:
    """The bias added to each output channel, in full; None where it is not a constant vector."""
    channels = shape_of(layer.results[0])[1] if len(shape_of(layer.results[0])) > 1 else 0
    if layer.operator == "MatMul":
        return np.zeros(channels)
    given = layer.inputs[2] if len(layer.inputs) > 2 else None
    if given is None:
        return np.zeros(channels)
    array = _constant(given)
    if array is None:
        return None
    if layer.operator == "Gemm":
        if array.size > 1 and array.shape not in ((channels,), (1, channels)):
            return None
        array = np.broadcast_to(array.reshape(-1), (channels,)) * layer.real("beta")
    return array.astype(np.float64)


def _replace(old: OnnxOp, layer: OnnxOp, x: SSAValue | None, weight: Floats, bias: Floats) -> None:
    """A new layer with folded weights in the place of `old`; the layers it stands for go."""
    assert x is not None
    kind = element_of(layer.results[0])
    block = old.parent_block()
    assert block is not None
    stored = layer.inputs[1]
    assert stored is not None and isinstance(stored.owner, WeightOp)
    name = stored.owner.weight_name.data
    weights = [
        WeightOp.of(f"{name} folded", weight.astype(numpy_dtype(kind)), kind),
        WeightOp.of(f"{name} folded bias", bias.astype(numpy_dtype(kind)), kind),
    ]
    operator = "Gemm" if layer.operator == "MatMul" else layer.operator
    attributes = {name: value for name, value in layer.attributes_given().items() if name != "beta"}
    operands: Sequence[SSAValue] = [x, *(w.result for w in weights)]
    new = op_classes()["", operator].from_positions(operands, [old.results[0].type], attributes)
    new.location = fused_location([layer.location, old.location])
    weights[0].result.name_hint = stored.name_hint
    weights[1].result.name_hint = f"{stored.name_hint or 'layer'}_bias"
    added: list[Operation] = [*weights, new]
    block.insert_ops_before(added, old)
    replace_results(old, list(new.results))
    if layer is not old:
        erase(layer)
