"""Normalisations: compositions of reductions and elementwise ops, which the fusing passes join into one kernel."""

from __future__ import annotations

import math

import numpy as np
from xdsl.ir import SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import UnsupportedError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.weights import Array


@lowers("Softmax")
def softmax(op: OnnxOp, build: Lowering) -> SSAValue:
    """exp(x - max) / sum(exp(x - max)) along one axis (Softmax 13)."""
    x = build.operand(0)
    axis = build.axis("axis", len(shape_of(x)))
    if not shape_of(x):
        return build.fill(1, (), element_of(x))
    if 0 in shape_of(x):
        return x
    largest = build.reduce(lambda s, v, acc: s.max(acc, v), -math.inf, x, [axis], keep=True)
    powers = build.elementwise(lambda s, v, m: s.unary("exp", s.sub(v, m)), x, largest)
    total = build.reduce(lambda s, v, acc: s.add(acc, v), 0, powers, [axis], keep=True)
    return build.elementwise(lambda s, v, t: s.div(v, t), powers, total)


@lowers("BatchNormalization")
def batch_normalization(op: OnnxOp, build: Lowering) -> SSAValue:
    """scale * (x - mean) / sqrt(var + epsilon) + bias per channel, inference only (BatchNormalization 15)."""
    if op.integer("training_mode"):
        raise UnsupportedError("training_mode=1 is not supported; export the model for inference")
    x = build.operand(0)
    shape = shape_of(x)
    scale, bias, mean, variance = (build.reshape(build.operand(k), _channel_shape(shape)) for k in range(1, 5))
    epsilon = op.real("epsilon")
    g, b, m, var = (build.known(v) for v in (scale, bias, mean, variance))
    if g is not None and b is not None and m is not None and var is not None:
        factor, offset = scale_and_offset(g, b, m, var, epsilon)
        kind = g.dtype
        name = build.op.results[0].name_hint or "batch_norm"
        factors = build.weight(f"{name} scale", factor.astype(kind))
        offsets = build.weight(f"{name} offset", offset.astype(kind))
        return build.elementwise(lambda s, v, f, o: s.add(s.mul(v, f), o), x, factors, offsets)

    def fn(s: Scalars, v: SSAValue, g: SSAValue, b: SSAValue, m: SSAValue, var: SSAValue) -> SSAValue:
        deviation = s.unary("sqrt", s.add(var, s.constant(epsilon, var.type)))
        return s.add(s.mul(g, s.div(s.sub(v, m), deviation)), b)

    return build.elementwise(fn, x, scale, bias, mean, variance)


def _channel_shape(shape: tuple[int, ...]) -> list[int]:
    """(C, 1, .., 1): channels against axis 1 under numpy's broadcasting."""
    return [shape[1], *[1] * (len(shape) - 2)] if len(shape) > 1 else list(shape)


Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def scale_and_offset(scale: Array, bias: Array, mean: Array, variance: Array, epsilon: float) -> tuple[Floats, Floats]:
    """The batch normalisation as x * factor + offset, computed in float64."""
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    return factor, bias.astype(np.float64) - mean.astype(np.float64) * factor
