"""Operators whose elements depend on where they stand: triangles, identities, running sums and products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import IndexType
from xdsl.ir import BlockArgument, SSAValue

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Fn, Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.passes.lower_onnx.sequential import Visited, Walk, kernel

_INDEX = IndexType()


def _diagonal(s: Scalars, rank: int) -> SSAValue:
    """The diagonal of a matrix that an element lies on: column - row."""
    return s.insert(arith.SubiOp(s.loop(rank - 1), s.loop(rank - 2)))


@lowers("Range")
def range_(op: OnnxOp, build: Lowering) -> SSAValue:
    """start, start + delta, .. (Range 11); how many there are was inferred."""
    start, delta = build.operand(0), build.operand(2)
    (count,), kind = build.result_shape(), element_of(start)

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        place = s.cast(s.place(0), kind)
        return [s.add(args[0], s.mul(place, args[1]))]

    one = structured.dims_map(1, [None])
    maps = [one, one, structured.identity(1)]
    operands = [build.reshape(v, [1]) for v in (start, delta)]
    return build.generic(operands, [build.empty([count], kind)], maps, fn)[0]


@lowers("Trilu")
def trilu(op: OnnxOp, build: Lowering) -> SSAValue:
    """The upper or lower triangle of each matrix from diagonal k on, zero elsewhere (Trilu 14)."""
    x, k = build.operand(0), build.optional(1)
    rank, kind = len(shape_of(x)), element_of(x)
    predicate = "sge" if op.integer("upper") == 1 else "sle"
    if k is None:
        k = build.weight("main diagonal", np.zeros(1, np.int64))

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        edge = s.insert(arith.IndexCastOp(args[1], _INDEX))
        kept = s.insert(arith.CmpiOp(_diagonal(s, rank), edge, predicate))
        return [s.select(kept, args[0], s.constant(0, kind))]

    one = structured.dims_map(rank, [None])
    maps = [structured.identity(rank), one, structured.identity(rank)]
    return build.generic([x, build.reshape(k, [1])], [build.empty(shape_of(x), kind)], maps, fn)[0]


@lowers("EyeLike")
def eye_like(op: OnnxOp, build: Lowering) -> SSAValue:
    """One on diagonal k, zero elsewhere, in the shape of the operand (EyeLike 22)."""
    kind, k = build.result_element(), op.integer("k")

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        hit = s.insert(arith.CmpiOp(_diagonal(s, 2), s.constant(k, _INDEX), "eq"))
        return [s.select(hit, s.constant(1, kind), s.constant(0, kind))]

    return build.generic([], [build.empty(build.result_shape(), kind)], [structured.identity(2)], fn)[0]


@lowers("CumSum")
def cum_sum(op: OnnxOp, build: Lowering) -> SSAValue:
    """Running sums along an axis (CumSum 14)."""
    return _running(op, build, 0, lambda s, a, b: s.add(a, b))


@lowers("CumProd")
def cum_prod(op: OnnxOp, build: Lowering) -> SSAValue:
    """Running products along an axis (CumProd 26)."""
    return _running(op, build, 1, lambda s, a, b: s.mul(a, b))


def _running(op: OnnxOp, build: Lowering, neutral: int, fn: Fn) -> SSAValue:
    """The running fold along the axis of operand 1; an axis known only at run time selects among those of all."""
    x, axis = build.operand(0), build.operand(1)
    rank = len(shape_of(x))
    if build.known(axis) is not None or rank == 1:
        (known,) = [0] if rank == 1 else build.known_ints(1) or [0]
        return _running_along(op, build, known % rank, neutral, fn)
    result = _running_along(op, build, 0, neutral, fn)
    axis = build.reshape(axis, [1] * rank)
    for k in range(1, rank):

        def pick(s: Scalars, chosen: SSAValue, yes: SSAValue, no: SSAValue, k: int = k) -> SSAValue:
            front, back = (s.compare("eq", chosen, s.constant(a, chosen.type)) for a in (k, k - rank))
            return s.select(s.insert(arith.OrIOp(front, back)), yes, no)

        along = _running_along(op, build, k, neutral, fn)
        result = build.elementwise(pick, axis, along, result, element=element_of(x))
    return result


def _running_along(op: OnnxOp, build: Lowering, axis: int, neutral: int, fn: Fn) -> SSAValue:
    """The fold of what stands at or (exclusive) before each element, from the end of the axis if `reverse`."""
    x = build.operand(0)
    shape, kind = shape_of(x), element_of(x)
    others = [e for a, e in enumerate(shape) if a != axis]
    exclusive, reverse = op.integer("exclusive") == 1, op.integer("reverse") == 1

    def run(walk: Walk, into: SSAValue) -> Sequence[SSAValue]:
        def row(where: Visited, carried: Visited) -> Visited:
            def step(i: SSAValue, carried: Visited) -> Visited:
                total, into = carried
                place = walk.sub(walk.plus(walk.index(shape[axis]), -1), i) if reverse else i
                here = [*where[:axis], place, *where[axis:]]
                after = fn(walk, total, walk.load(x, *here))
                return [after, walk.store(total if exclusive else after, into, *here)]

            return walk.for_(0, shape[axis], [walk.constant(neutral, kind), carried[0]], step)[1:]

        return walk.each(others, [into], row)

    return kernel(build, [build.empty(shape, kind)], run)[0]


@lowers("ConstantOfShape", limits="shape known when compiling")
def constant_of_shape(op: OnnxOp, build: Lowering) -> SSAValue:
    """One value everywhere, a float 0 by default (ConstantOfShape 25); small ones were folded before."""
    value, kind = op.tensor("value"), build.result_element()
    number = 0 if value is None else value.reshape(-1)[:1].view(numpy_dtype(kind))[0].item()
    return build.fill(number, build.result_shape(), kind)
