"""Reductions: each row is the start value and the fold; what follows the fold is elementwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Attribute, SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, is_float, shape_of
from sofie.errors import SofieError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars, lowest


@dataclass(frozen=True)
class Fold:
    """`start(element type, unsigned)`, `step(scalars, element, accumulated)`, and whether to divide by the count."""

    start: Callable[[Attribute, bool], float | int]
    step: Callable[[Scalars, SSAValue, SSAValue], SSAValue]
    mean: bool = False


def _zero(_kind: Attribute, _unsigned: bool) -> float | int:
    return 0


def _plus(s: Scalars, x: SSAValue, accumulated: SSAValue) -> SSAValue:
    return s.add(accumulated, x)


FOLDS: dict[str, Fold] = {
    "ReduceSum": Fold(_zero, _plus),
    "ReduceMean": Fold(_zero, _plus, mean=True),
    "ReduceMax": Fold(lowest, lambda s, x, accumulated: s.max(accumulated, x)),
}


@lowers(*FOLDS)
def reduce(op: OnnxOp, build: Lowering) -> SSAValue:
    """Folds the axes given, all of them by default; an empty list may mean none (Reduce* 18, 20)."""
    fold = FOLDS[op.operator]
    x = build.operand(0)
    shape, kind = shape_of(x), element_of(x)
    axes = _axes(op, build, len(shape))
    if not axes:
        return x
    start = fold.start(kind, build.unsigned)
    total = build.reduce(fold.step, start, x, axes, keep=op.integer("keepdims") == 1)
    if not fold.mean:
        return total
    count = int(np.prod([shape[a] for a in axes]))
    if not is_float(kind) and count == 0:
        raise SofieError("the mean of no integers is not defined")
    return build.elementwise(lambda s, v: s.div(v, s.constant(count, kind)), total)


def _axes(op: OnnxOp, build: Lowering, rank: int) -> list[int]:
    axes = build.known_ints(1)
    if not axes:
        return [] if op.integer("noop_with_empty_axes") else list(range(rank))
    if any(not -rank <= a < rank for a in axes):
        raise SofieError(f"axes {axes} do not exist in a tensor of rank {rank}")
    return sorted({a % rank for a in axes})
