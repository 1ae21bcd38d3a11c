"""Reductions: each row is the start value and the fold; what follows the fold is elementwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import f32, f64, i64
from xdsl.ir import Attribute, SSAValue

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, is_float, shape_of
from sofie.errors import SofieError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars, highest, lowest

Unary = Callable[[Scalars, SSAValue], SSAValue]
Binary = Callable[[Scalars, SSAValue, SSAValue], SSAValue]


@dataclass(frozen=True)
class Fold:
    """`start(element type, unsigned)`, the fold, what it folds of each element, and what becomes of the result.

    `after` is a function of floats: integers take it by way of float64.
    """

    start: Callable[[Attribute, bool], float | int]
    join: Binary
    term: Unary | None = None
    after: Unary | None = None
    mean: bool = False

    def step(self, s: Scalars, x: SSAValue, accumulated: SSAValue) -> SSAValue:
        """The accumulated value with one more element."""
        return self.join(s, accumulated, x if self.term is None else self.term(s, x))


def _zero(_kind: Attribute, _unsigned: bool) -> float | int:
    return 0


def _one(_kind: Attribute, _unsigned: bool) -> float | int:
    return 1


def _square(s: Scalars, x: SSAValue) -> SSAValue:
    return s.mul(x, x)


FOLDS: dict[str, Fold] = {
    "ReduceL1": Fold(_zero, Scalars.add, term=Scalars.abs),
    "ReduceL2": Fold(_zero, Scalars.add, term=_square, after=lambda s, x: s.unary("sqrt", x)),
    "ReduceLogSum": Fold(_zero, Scalars.add, after=lambda s, x: s.unary("log", x)),
    "ReduceMax": Fold(lowest, Scalars.max),
    "ReduceMean": Fold(_zero, Scalars.add, mean=True),
    "ReduceMin": Fold(highest, Scalars.min),
    "ReduceProd": Fold(_one, Scalars.mul),
    "ReduceSum": Fold(_zero, Scalars.add),
}


@lowers(*FOLDS, limits="axes known when compiling")
def reduce(op: OnnxOp, build: Lowering) -> SSAValue:
    """Folds the axes given, all of them by default; an empty list may mean none (Reduce* 18, 20, 28).

    Over no axes every element stands alone: ReduceL1 gives |x|, ReduceL2 too.
    """
    fold = FOLDS[op.operator]
    x = build.operand(0)
    shape, kind = shape_of(x), element_of(x)
    axes = _axes(op, build, len(shape))
    total = x
    if axes:
        start = fold.start(kind, build.unsigned)
        keep = op.integer("keepdims") == 1
        adds = fold.join is Scalars.add
        total = build.sum(fold.step, x, axes, keep) if adds else build.reduce(fold.step, start, x, axes, keep)
    elif fold.term is not None:
        total = build.elementwise(fold.term, x)
    if fold.after is not None:
        return build.elementwise(_by_way_of_floats(fold.after), total)
    if not fold.mean:
        return total
    count = math.prod(shape[a] for a in axes)
    if not is_float(kind) and count == 0:
        raise SofieError("the mean of no integers is not defined")
    divisor = build.number(count, kind)
    return build.elementwise(lambda s, v: s.div(v, divisor(s)), total)


def _by_way_of_floats(fn: Unary) -> Unary:
    """`fn` of floats themselves, of integers in float64, truncated again."""

    def through(s: Scalars, x: SSAValue) -> SSAValue:
        if is_float(x.type):
            return fn(s, x)
        return s.cast(fn(s, s.cast(x, f64)), x.type, s.unsigned)

    return through


@lowers("ReduceLogSumExp", limits="axes known when compiling")
def log_sum_exp(op: OnnxOp, build: Lowering) -> SSAValue:
    """m + log(sum(exp(x - m))) for the maximum m, which is kept finite: infinities stay right (ReduceLogSumExp 28)."""
    x = build.operand(0)
    shape = shape_of(x)
    axes, keep = _axes(op, build, len(shape)), op.integer("keepdims") == 1
    if not axes:
        return x
    largest = build.reduce(lambda s, v, acc: s.max(acc, v), -math.inf, x, axes, keep=True)
    limit = float(np.finfo(np.float32 if element_of(x) == f32 else np.float64).max)
    largest = build.elementwise(
        lambda s, m: s.min(s.max(m, s.constant(-limit, m.type)), s.constant(limit, m.type)), largest
    )
    powers = build.elementwise(lambda s, v, m: s.unary("exp", s.sub(v, m)), x, largest)
    total = build.reduce(lambda s, v, acc: s.add(acc, v), 0, powers, axes, keep=True)
    result = build.elementwise(lambda s, t, m: s.add(s.unary("log", t), m), total, largest)
    return result if keep else build.reshape(result, [e for a, e in enumerate(shape) if a not in axes])


@lowers("ArgMax", "ArgMin")
def arg_extremum(op: OnnxOp, build: Lowering) -> SSAValue:
    """The position of the largest or smallest element along one axis, the first or the last of equals (ArgMax 13)."""
    x = build.operand(0)
    last = op.integer("select_last_index") == 1
    axis = build.axis("axis", max(len(shape_of(x)), 1))
    position = position_of_extremum(build, x, axis, op.operator == "ArgMax", last)
    return position if op.integer("keepdims") == 1 else build.reshape(position, build.result_shape())


def position_of_extremum(build: Lowering, x: SSAValue, axis: int, largest: bool, last: bool) -> SSAValue:
    """Positions as int64, with an extent of 1 along `axis`; one fold carries the extremum and its position."""
    shape, kind = shape_of(x), element_of(x)
    if not shape:
        return build.fill(0, (), i64)
    kept = [a for a in range(len(shape)) if a != axis]
    extents = [shape[a] for a in kept]
    start = (lowest if largest else highest)(kind, build.unsigned)
    outputs = [build.fill(start, extents, kind), build.fill(0, extents, i64)]
    predicate = ("g" if largest else "l") + ("e" if last else "t")

    def fn(s: Scalars, args: Sequence[SSAValue]) -> list[SSAValue]:
        value, best, at = args
        place = s.place(axis)
        better = s.compare(predicate, value, best)
        return [s.select(better, value, best), s.select(better, place, at)]

    rank = len(shape)
    maps = [structured.identity(rank), *[structured.dims_map(rank, kept)] * 2]
    _, position = build.generic([x], outputs, maps, fn, [axis])
    return build.reshape(position, [1 if a == axis else e for a, e in enumerate(shape)])


def _axes(op: OnnxOp, build: Lowering, rank: int) -> list[int]:
    axes = build.known_ints(1)
    if not axes:
        return [] if op.integer("noop_with_empty_axes") else list(range(rank))
    if any(not -rank <= a < rank for a in axes):
        raise SofieError(f"axes {axes} do not exist in a tensor of rank {rank}")
    return sorted({a % rank for a in axes})
