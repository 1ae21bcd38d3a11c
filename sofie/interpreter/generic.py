"""linalg.generic, on tensors and on buffers: parallel loops at once along numpy axes, reductions one by one in order.

The body runs once a point of the reductions, on arrays that have one axis a parallel loop (of extent 1 where the value
does not vary), so that each element sees the same operations in the same order and precision as in the emitted loops.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided
from xdsl.dialects.linalg.ops import GenericOp, IndexOp
from xdsl.interpreter import Interpreter, PythonValues, impl, register_impls
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)

from sofie import structured
from sofie.interpreter.machine import Functions, numbers, refusal
from sofie.weights import Array

_OVERLAP_WORK = 100_000
"""Steps spent on the question whether two strided views share an element."""

Linear = tuple[list[int], int]
"""A factor a loop, and a constant."""


@dataclass(frozen=True)
class Space:
    """The loops of a generic: those walked in order, and those that run at once, by number."""

    extents: list[int]
    sequential: list[int]
    parallel: list[int]

    @staticmethod
    def of(op: GenericOp, numbers: Callable[[Sequence[int]], Sequence[int]]) -> Space:
        """Reductions are walked; where the body branches, everything is."""
        extents = list(numbers(structured.extents(op)))
        loops = list(range(len(extents)))
        sequential = loops if any(o.regions for o in op.body.block.ops) else structured.reductions(op)
        return Space(extents, sequential, [d for d in loops if d not in sequential])

    @property
    def order(self) -> list[int]:
        """The loops as they become axes."""
        return [*self.sequential, *self.parallel]

    def along(self, loop: int) -> Array:
        """The values of a loop variable, along its axis."""
        shape = [1] * len(self.extents)
        shape[self.order.index(loop)] = -1
        return np.arange(self.extents[loop], dtype=np.int64).reshape(shape)


@dataclass(frozen=True)
class Strided:
    """An operand reached by a linear map: a view with one axis a loop."""

    view: Array

    def read(self, point: tuple[int, ...]) -> Any:
        """The elements at one point of the sequential loops."""
        return self.view[point]

    def write(self, point: tuple[int, ...], value: Any) -> None:
        """Replaces them."""
        self.view[point] = value


@dataclass(frozen=True)
class Gathered:
    """An operand reached by any other map: an array of indices an axis."""

    view: Array
    indices: tuple[Array, ...]

    def read(self, point: tuple[int, ...]) -> Any:
        """The elements at one point of the sequential loops."""
        return self.view[tuple(index[point] for index in self.indices)]

    def write(self, point: tuple[int, ...], value: Any) -> None:
        """Replaces them."""
        self.view[tuple(index[point] for index in self.indices)] = value


Access = Strided | Gathered


@register_impls
class GenericFunctions(Functions):
    """`linalg.generic` and the loop variables of its body."""

    def __init__(self) -> None:
        super().__init__()
        self._space = Space([], [], [])
        self._point: tuple[int, ...] = ()

    @impl(IndexOp)
    def index(self, interpreter: Interpreter, op: IndexOp, values: PythonValues) -> PythonValues:
        """A loop variable: its value, or all its values along its axis."""
        loop, space = op.dim.value.data, self._space
        if loop in space.sequential:
            return (np.int64(self._point[space.sequential.index(loop)]),)
        return (space.along(loop)[(0,) * len(space.sequential)],)

    @impl(GenericOp)
    def generic(self, interpreter: Interpreter, op: GenericOp, values: PythonValues) -> PythonValues:
        """Buffers are written in place; tensors are copied first and returned."""
        count, on_tensors = len(op.inputs), structured.is_tensor(op.outputs[0])
        arrays = [*values[:count], *(v.copy() if on_tensors else v for v in values[count:])]
        results = tuple(arrays[count:]) if on_tensors else ()
        self._space = space = Space.of(op, lambda extents: numbers(interpreter, extents))
        if 0 in space.extents:
            return results
        arguments, maps = op.body.block.args, structured.maps_of(op)
        accesses = [
            _access(op, space, a, m) if k >= count or arguments[k].uses else None
            for k, (a, m) in enumerate(zip(arrays, maps, strict=True))
        ]
        if not on_tensors:
            _check_aliasing(op, space, accesses)
        written = cast(list[Access], accesses[count:])
        copies = len(written) > 1  # a body may hand one output on to another
        body = op.body
        for self._point in itertools.product(*(range(space.extents[d]) for d in space.sequential)):
            point = self._point
            scalars: list[Any] = [None if a is None else a.read(point) for a in accesses]
            if copies:
                scalars[count:] = [None if s is None else s.copy() for s in scalars[count:]]
            made = interpreter.run_ssacfg_region(body, tuple(scalars))
            for access, value in zip(written, made, strict=True):
                access.write(point, value)
        return results


def _access(op: GenericOp, space: Space, array: Array, map: AffineMap) -> Access:
    forms = [_linear(expr, map.num_dims) for expr in map.results]
    if None in forms:
        return _gathered(op, space, array, map)
    return _strided(op, space, array, cast(list[Linear], forms))


def _linear(expr: AffineExpr, rank: int) -> Linear | None:
    """An expression as a weighted sum of loops; None where it divides."""
    if isinstance(expr, AffineConstantExpr):
        return [0] * rank, expr.value
    if isinstance(expr, AffineDimExpr):
        return [int(d == expr.position) for d in range(rank)], 0
    assert isinstance(expr, AffineBinaryOpExpr), expr
    lhs, rhs = _linear(expr.lhs, rank), _linear(expr.rhs, rank)
    if lhs is None or rhs is None:
        return None
    if expr.kind == AffineBinaryOpKind.Add:
        return [a + b for a, b in zip(lhs[0], rhs[0], strict=True)], lhs[1] + rhs[1]
    if expr.kind == AffineBinaryOpKind.Mul and not (any(lhs[0]) and any(rhs[0])):
        (factors, constant), by = (rhs, lhs[1]) if any(rhs[0]) else (lhs, rhs[1])
        return [f * by for f in factors], constant * by
    return None


def _strided(op: GenericOp, space: Space, array: Array, forms: Sequence[Linear]) -> Strided:
    for axis, (factors, constant) in enumerate(forms):
        reach = [f * (n - 1) for f, n in zip(factors, space.extents, strict=True)]
        low, high = constant + sum(min(r, 0) for r in reach), constant + sum(max(r, 0) for r in reach)
        _check_inside(op, array, axis, low, high)
    used = [any(factors[d] for factors, _ in forms) for d in range(len(space.extents))]
    shape = [space.extents[d] if used[d] or d in space.sequential else 1 for d in space.order]
    steps = [sum(f[d] * s for (f, _), s in zip(forms, array.strides, strict=True)) for d in space.order]
    corner: tuple[Any, ...] = (*(slice(constant, None) for _, constant in forms), ...)
    return Strided(as_strided(array[corner], shape, steps))


def _gathered(op: GenericOp, space: Space, array: Array, map: AffineMap) -> Gathered:
    loops = [space.along(d) for d in range(len(space.extents))]
    found = [np.asarray(expr.eval(cast(Sequence[int], loops), ()), np.int64) for expr in map.results]
    for axis, index in enumerate(found):
        _check_inside(op, array, axis, int(index.min()), int(index.max()))
    walked = [space.extents[d] for d in space.sequential] + [1] * len(space.parallel)
    shape = np.broadcast_shapes(tuple(walked), *(index.shape for index in found))
    return Gathered(array, tuple(np.broadcast_to(index, shape) for index in found))


def _check_inside(op: GenericOp, array: Array, axis: int, low: int, high: int) -> None:
    extent = array.shape[axis]
    if low < 0 or high >= extent:
        raise refusal(op, f"reaches index {low if low < 0 else high} of axis {axis}, which has {extent} elements")


def _check_aliasing(op: GenericOp, space: Space, accesses: Sequence[Access | None]) -> None:
    """Refuses an output that overlaps another operand, but for an elementwise op that overwrites what it just read."""
    count = len(op.inputs)
    for k, output in enumerate(accesses[count:], count):
        for other in (a for j, a in enumerate(accesses) if a is not None and (j < count or j > k)):
            assert output is not None
            if _overlap(output.view, other.view) and (space.sequential or not _same(output, other)):
                raise refusal(op, "writes elements of a buffer that other iterations read")


def _overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=_OVERLAP_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return False


def _same(a: Access, b: Access) -> bool:
    """Whether both reach the same element at every point."""
    if isinstance(a, Gathered) or isinstance(b, Gathered):
        return False
    x, y = a.view, b.view
    return x.ctypes.data == y.ctypes.data and x.shape == y.shape and x.strides == y.strides
