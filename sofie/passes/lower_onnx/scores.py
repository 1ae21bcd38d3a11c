"""What operators of ai.onnx.ml share: events as rows, post transforms of scores, the best class and its label."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import IndexType, f32, f64, i64
from xdsl.ir import SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import UnsupportedError, printable
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.gather import gather_at
from sofie.passes.lower_onnx.reduction import position_of_extremum
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.structured import identity

POST_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""In the order of the numbers that TreeEnsemble 5 gives them."""

WINITZKI = 0.147
"""The constant of S. Winitzki's approximation of the inverse error function, which ONNX Runtime uses."""

NOTHING = 1e-7
"""Scores that SOFTMAX_ZERO takes for zero lie within this."""

Unary = Callable[[Scalars, SSAValue], SSAValue]


def rows(build: Lowering) -> SSAValue:
    """The first operand as (events, features) of float32, or of float64 where it is that."""
    x = build.operand(0)
    shape = shape_of(x)
    if len(shape) > 2:
        raise UnsupportedError(f"its input has rank {len(shape)}; reshape it to (events, features)")
    if len(shape) < 2:
        x = build.reshape(x, [1, *shape] if shape else [1, 1])
    return x if element_of(x) in (f32, f64) else build.elementwise(lambda s, v: s.cast(v, f32), x, element=f32)


def logistic(s: Scalars, x: SSAValue) -> SSAValue:
    """1 / (1 + exp(-x))."""
    return s.sigmoid(x)


def probit(s: Scalars, p: SSAValue) -> SSAValue:
    """sqrt(2) erfinv(2 p - 1), approximated as ONNX Runtime does; NaN beyond 0 and 1."""

    def number(value: float) -> SSAValue:
        return s.constant(value, p.type)

    x = s.sub(s.mul(number(2), p), number(1))
    log = s.unary("log", s.mul(s.sub(number(1), x), s.add(number(1), x)))
    v = s.add(number(2 / (math.pi * WINITZKI)), s.mul(number(0.5), log))
    root = s.unary("sqrt", s.sub(s.mul(v, v), s.mul(number(1 / WINITZKI), log)))
    size = s.unary("sqrt", s.sub(root, v))
    return s.mul(number(math.sqrt(2)), s.select(s.compare("lt", x, number(0)), s.neg(size), size))


_ELEMENTWISE: dict[str, Unary] = {"LOGISTIC": logistic, "PROBIT": probit}


def post_transform(build: Lowering, scores: SSAValue, name: str) -> SSAValue:
    """Scores (N, classes) as the attribute `post_transform` wants them; raises UnsupportedError on other names."""
    if name == "NONE":
        return scores
    if name in _ELEMENTWISE:
        return build.elementwise(_ELEMENTWISE[name], scores)
    if name not in POST_TRANSFORMS:
        raise UnsupportedError(f"post_transform {printable(name)!r} is not one of {', '.join(POST_TRANSFORMS)}")

    def power(s: Scalars, v: SSAValue, m: SSAValue) -> SSAValue:
        raised = s.unary("exp", s.sub(v, m))
        if name == "SOFTMAX":
            return raised
        is_some = s.compare("gt", s.abs(v), s.constant(NOTHING, v.type))
        return s.select(is_some, raised, s.mul(v, s.unary("exp", s.neg(m))))

    best = build.reduce(lambda s, v, acc: s.max(acc, v), -math.inf, scores, [1], keep=True)
    powers = build.elementwise(power, scores, best)
    total = build.reduce(lambda s, v, acc: s.add(acc, v), 0, powers, [1], keep=True)
    return build.elementwise(lambda s, v, t: s.div(v, t), powers, total)


def class_labels(op: OnnxOp) -> list[int]:
    """The label of each class, by the attribute of whichever name the operator gives it."""
    labels = op.ints("classlabels_int64s" if "classlabels_int64s" in op.SCHEMA.attributes else "classlabels_ints")
    return list(labels or ())


def best_label(build: Lowering, scores: SSAValue, labels: Sequence[int]) -> SSAValue:
    """The label (N) of the first of the largest scores (N, classes)."""
    rows = shape_of(scores)[0]
    best = build.reshape(position_of_extremum(build, scores, 1, largest=True, last=False), [rows])
    if list(labels) == list(range(len(labels))):
        return best
    table = build.weight("labels", np.array(labels, np.int64))
    return gather_at(
        build, table, [rows], [(best, identity(1))], lambda s, a: [s.insert(arith.IndexCastOp(a[0], IndexType()))]
    )


def either_label(build: Lowering, score: SSAValue, limit: float, labels: Sequence[int]) -> SSAValue:
    """The second label (N) where the score (N, 1) lies above a limit, the first elsewhere."""
    flat = build.reshape(score, [shape_of(score)[0]])

    def fn(s: Scalars, v: SSAValue) -> SSAValue:
        above = s.compare("gt", v, s.constant(limit, v.type))
        return s.select(above, s.constant(labels[1], i64), s.constant(labels[0], i64))

    return build.elementwise(fn, flat, element=i64)


def two_scores(build: Lowering, score: SSAValue, first: Unary, second: Unary = lambda s, v: v) -> SSAValue:
    """(N, 2) of two functions of one score (N, 1), which the second returns as it is by default."""
    parts = [build.elementwise(fn, score, element=element_of(score)) for fn in (first, second)]
    return build.concat(parts, 1)
