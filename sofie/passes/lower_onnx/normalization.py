"""Normalisations: compositions of reductions and elementwise ops, which the fusing passes join into one kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from xdsl.ir import Attribute, SSAValue
from xdsl.ir.affine import AffineExpr

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.reduction import position_of_extremum
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


@lowers("LogSoftmax")
def log_softmax(op: OnnxOp, build: Lowering) -> SSAValue:
    """x - max - log(sum(exp(x - max))) along one axis: no logarithm of a small quotient (LogSoftmax 13)."""
    x = build.operand(0)
    axis = build.axis("axis", len(shape_of(x)))
    if not shape_of(x):
        return build.fill(0, (), element_of(x))
    if 0 in shape_of(x):
        return x
    largest = build.reduce(lambda s, v, acc: s.max(acc, v), -math.inf, x, [axis], keep=True)
    shifted = build.elementwise(lambda s, v, m: s.sub(v, m), x, largest)
    powers = build.elementwise(lambda s, v: s.unary("exp", v), shifted)
    total = build.reduce(lambda s, v, acc: s.add(acc, v), 0, powers, [axis], keep=True)
    return build.elementwise(lambda s, v, t: s.sub(v, s.unary("log", t)), shifted, total)


@lowers("Hardmax")
def hardmax(op: OnnxOp, build: Lowering) -> SSAValue:
    """1 at the first maximum along one axis and 0 elsewhere (Hardmax 13)."""
    x = build.operand(0)
    shape, kind = shape_of(x), element_of(x)
    axis = build.axis("axis", len(shape))
    if not shape:
        return build.fill(1, (), kind)
    best = position_of_extremum(build, x, axis, largest=True, last=False)

    def fn(s: Scalars, args: Sequence[SSAValue]) -> list[SSAValue]:
        place = s.place(axis)
        return [s.select(s.compare("eq", place, args[0]), s.constant(1, kind), s.constant(0, kind))]

    maps = [build.broadcast_map(shape_of(best), shape), structured.identity(len(shape))]
    return build.generic([best], [build.empty(shape, kind)], maps, fn)[0]


@lowers("LpNormalization")
def lp_normalization(op: OnnxOp, build: Lowering) -> SSAValue:
    """x / (sum of |x|^p)^(1/p) along one axis for a p of 1 or 2; 0 where that norm is 0 (LpNormalization 22)."""
    x, p = build.operand(0), op.integer("p")
    if p not in (1, 2):
        raise SofieError(f"p is {p}; only the norms of p 1 and 2 are defined")
    axis = build.axis("axis", len(shape_of(x)))

    def power(s: Scalars, v: SSAValue, acc: SSAValue) -> SSAValue:
        return s.add(acc, s.abs(v) if p == 1 else s.mul(v, v))

    def fn(s: Scalars, v: SSAValue, total: SSAValue) -> SSAValue:
        zero = s.constant(0, v.type)
        norm = total if p == 1 else s.unary("sqrt", total)
        return s.select(s.compare("eq", norm, zero), zero, s.div(v, norm))

    return build.elementwise(fn, x, build.reduce(power, 0, x, [axis], keep=True))


@lowers("MeanVarianceNormalization")
def mean_variance_normalization(op: OnnxOp, build: Lowering) -> SSAValue:
    """(x - mean) / (deviation + 1e-9) over `axes`, all but the channels by default (MeanVarianceNormalization 13)."""
    x = build.operand(0)
    rank = len(shape_of(x))
    axes = sorted({a % rank for a in op.ints("axes") or ()})
    count = build.number(math.prod(shape_of(x)[a] for a in axes), element_of(x))
    _, centered = _centered(build, x, axes)
    total = build.reduce(lambda s, v, acc: s.add(acc, s.mul(v, v)), 0, centered, axes, keep=True)

    def fn(s: Scalars, v: SSAValue, t: SSAValue) -> SSAValue:
        return s.div(v, s.add(s.unary("sqrt", s.div(t, count(s))), s.constant(1e-9, v.type)))

    return build.elementwise(fn, centered, total)


@lowers("BatchNormalization")
def batch_normalization(op: OnnxOp, build: Lowering) -> SSAValue | list[SSAValue]:
    """scale * (x - mean) / sqrt(var + epsilon) + bias per channel (BatchNormalization 15).

    In training mode with the batch's own mean and variance, which then move the running ones by 1 - momentum.
    """
    if op.integer("training_mode"):
        return _batch_normalization_in_training(op, build)
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


def _batch_normalization_in_training(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    x = build.operand(0)
    shape = shape_of(x)
    scale, bias, *running = (build.reshape(build.operand(k), _channel_shape(shape)) for k in range(1, 5))
    axes = [a for a in range(len(shape)) if a != 1]
    mean, centered = _centered(build, x, axes)
    count = build.number(math.prod(shape[a] for a in axes), element_of(x))
    total = build.reduce(lambda s, v, acc: s.add(acc, s.mul(v, v)), 0, centered, axes, keep=True)
    variance = build.elementwise(lambda s, v: s.div(v, count(s)), total)
    y = _scaled(build, centered, _inverse_deviation(build, centered, axes, op.real("epsilon")), scale, bias)
    momentum = op.real("momentum")

    def moved(s: Scalars, old: SSAValue, new: SSAValue) -> SSAValue:
        kept, taken = (s.constant(f, old.type) for f in (momentum, 1 - momentum))
        return s.add(s.mul(old, kept), s.mul(s.cast(new, old.type), taken))

    channels = shape_of(build.operand(3))
    statistics = zip(running, (mean, variance), strict=True)
    return [y, *(build.reshape(build.elementwise(moved, old, new), channels) for old, new in statistics)]


@lowers("LayerNormalization")
def layer_normalization(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the axes from `axis` on (LayerNormalization 17)."""
    x = build.operand(0)
    rank = len(shape_of(x))
    axes = list(range(build.axis("axis", rank), rank))
    mean, centered = _centered(build, x, axes)
    inverse = _inverse_deviation(build, centered, axes, op.real("epsilon"))
    y = _scaled(build, centered, inverse, build.operand(1), build.optional(2))
    kinds = [build.result_element(k) for k in range(1, len(op.results))]
    statistics = zip((mean, inverse), kinds, strict=False)
    return [y, *(_cast(build, value, kind) for value, kind in statistics)]


@lowers("RMSNormalization")
def rms_normalization(op: OnnxOp, build: Lowering) -> SSAValue:
    """x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on (RMSNormalization 23)."""
    x = build.operand(0)
    rank = len(shape_of(x))
    axes = list(range(build.axis("axis", rank), rank))
    return _scaled(build, x, _inverse_deviation(build, x, axes, op.real("epsilon")), build.operand(1), None)


@lowers("InstanceNormalization")
def instance_normalization(op: OnnxOp, build: Lowering) -> SSAValue:
    """(x - mean) / sqrt(var + epsilon) * scale + bias per instance and channel (InstanceNormalization 22)."""
    x = build.operand(0)
    shape = shape_of(x)
    scale, bias = (build.reshape(build.operand(k), _channel_shape(shape)) for k in (1, 2))
    axes = list(range(2, len(shape)))
    _, centered = _centered(build, x, axes)
    return _scaled(build, centered, _inverse_deviation(build, centered, axes, op.real("epsilon")), scale, bias)


def _centered(build: Lowering, x: SSAValue, axes: list[int]) -> tuple[SSAValue, SSAValue]:
    """The mean over `axes`, extents kept as 1, and x without it."""
    count = build.number(math.prod(shape_of(x)[a] for a in axes), element_of(x))
    total = build.reduce(lambda s, v, acc: s.add(acc, v), 0, x, axes, keep=True)
    mean = build.elementwise(lambda s, v: s.div(v, count(s)), total)
    return mean, build.elementwise(lambda s, v, m: s.sub(v, m), x, mean)


def _inverse_deviation(build: Lowering, x: SSAValue, axes: list[int], epsilon: float) -> SSAValue:
    """1 / sqrt(mean(x^2) + epsilon) over `axes`, extents kept as 1."""
    count = build.number(math.prod(shape_of(x)[a] for a in axes), element_of(x))
    total = build.reduce(lambda s, v, acc: s.add(acc, s.mul(v, v)), 0, x, axes, keep=True)

    def fn(s: Scalars, v: SSAValue) -> SSAValue:
        mean = s.div(v, count(s))
        return s.div(s.constant(1, v.type), s.unary("sqrt", s.add(mean, s.constant(epsilon, v.type))))

    return build.elementwise(fn, total)


def _scaled(build: Lowering, x: SSAValue, inverse: SSAValue, scale: SSAValue, bias: SSAValue | None) -> SSAValue:
    """x * inverse * scale + bias."""

    def fn(s: Scalars, v: SSAValue, i: SSAValue, g: SSAValue, *b: SSAValue) -> SSAValue:
        scaled = s.mul(s.mul(v, i), s.cast(g, v.type))
        return s.add(scaled, s.cast(b[0], v.type)) if b else scaled

    return build.elementwise(fn, x, inverse, scale, *([] if bias is None else [bias]))


def _cast(build: Lowering, x: SSAValue, kind: Attribute) -> SSAValue:
    return x if element_of(x) == kind else build.elementwise(lambda s, v: s.cast(v, kind), x, element=kind)


def _channel_shape(shape: tuple[int, ...]) -> list[int]:
    """(C, 1, .., 1): channels against axis 1 under numpy's broadcasting."""
    return [shape[1], *[1] * (len(shape) - 2)] if len(shape) > 1 else list(shape)


Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def scale_and_offset(scale: Array, bias: Array, mean: Array, variance: Array, epsilon: float) -> tuple[Floats, Floats]:
    """The batch normalisation as x * factor + offset, computed in float64."""
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    return factor, bias.astype(np.float64) - mean.astype(np.float64) * factor


@lowers("LRN")
def local_response_normalization(op: OnnxOp, build: Lowering) -> SSAValue:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ^ beta (LRN 13)."""
    x = build.operand(0)
    shape, kind, size = shape_of(x), element_of(x), op.integer("size")
    alpha, beta, bias = op.real("alpha") / size, op.real("beta"), op.real("bias")
    before, after = ([edge if a == 1 else 0 for a in range(len(shape))] for edge in ((size - 1) // 2, size // 2))
    padded = build.pad(x, before, after, 0)
    rank = len(shape)
    walk = [AffineExpr.dimension(a) + AffineExpr.dimension(rank) if a == 1 else a for a in range(rank)]
    maps = [
        structured.dims_map(rank + 1, walk),
        structured.dims_map(rank + 1, [rank]),
        structured.dims_map(rank + 1, list(range(rank))),
    ]
    window, start = build.empty([size], kind), build.fill(0, shape, kind)
    squares = build.generic([padded, window], [start], maps, lambda s, a: [s.add(a[2], s.mul(a[0], a[0]))], [rank])[0]

    def fn(s: Scalars, v: SSAValue, total: SSAValue) -> SSAValue:
        base = s.add(s.constant(bias, kind), s.mul(s.constant(alpha, kind), total))
        return s.div(v, s.binary("pow", base, s.constant(beta, kind)))

    return build.elementwise(fn, x, squares)
