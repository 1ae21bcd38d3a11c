"""Determinants, by elimination with partial pivoting on a batch of matrices at once."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import IndexType, i64
from xdsl.ir import BlockArgument, SSAValue

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.control import repeat
from sofie.passes.lower_onnx.scalars import Scalars

_INDEX = IndexType()


@lowers("Det")
def det(op: OnnxOp, build: Lowering) -> SSAValue:
    """The determinants of the matrices in the last two axes (Det 22).

    Step k brings the row of the largest element of column k up and takes it off the rows below; the determinant is the
    product of those elements, with the sign of the exchanges (Golub and Van Loan, Matrix Computations, 3.4).
    """
    x = build.operand(0)
    *batch, n, _ = shape_of(x)
    kind, count = element_of(x), 1
    for extent in batch:
        count *= extent
    start = build.fill(1, [count], kind)
    if n == 0 or count == 0:
        return build.reshape(start, batch)

    def step(k: SSAValue, carried: Sequence[SSAValue]) -> list[SSAValue]:
        matrices, product = carried
        pivot = _pivot(build, matrices, k)
        return [_eliminated(build, matrices, pivot, k), _multiplied(build, product, matrices, pivot, k)]

    matrices = build.copy(build.reshape(x, [count, n, n]))
    return build.reshape(repeat(build, n, [matrices, start], step)[1], batch)


def _pivot(build: Lowering, matrices: SSAValue, k: SSAValue) -> SSAValue:
    """The row from k on with the largest element of column k, for each matrix."""
    count, n, _ = shape_of(matrices)
    kind = element_of(matrices)
    column = build.slice(matrices, [0, 0, k], [count, n, 1])

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        size, best, row = s.abs(args[0]), args[1], args[2]
        is_left = s.insert(arith.CmpiOp(s.loop(1), k, "sge"))
        better = s.insert(arith.AndIOp(is_left, s.compare("gt", size, best)))
        return [s.select(better, size, best), s.select(better, s.place(1), row)]

    maps = [structured.dims_map(2, [0, 1, None]), *[structured.dims_map(2, [0])] * 2]
    first = build.generic([], [build.empty([count], i64)], [structured.identity(1)], lambda s, _: [_as_i64(s, k)])[0]
    return build.generic([column], [build.fill(-1, [count], kind), first], maps, fn, [1])[1]


def _as_i64(s: Scalars, k: SSAValue) -> SSAValue:
    return s.insert(arith.IndexCastOp(k, i64))


def _element(s: Scalars, matrices: SSAValue, row: SSAValue, column: SSAValue) -> SSAValue:
    return s.insert(tensor.ExtractOp(matrices, [s.loop(0), row, column], element_of(matrices)))


def _multiplied(build: Lowering, product: SSAValue, matrices: SSAValue, pivot: SSAValue, k: SSAValue) -> SSAValue:
    """The determinants so far times the pivots of step k, with the signs of the exchanges."""

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        row = s.insert(arith.IndexCastOp(args[1], _INDEX))
        value = _element(s, matrices, row, k)
        stays = s.insert(arith.CmpiOp(row, k, "eq"))
        return [s.mul(args[0], s.select(stays, value, s.neg(value)))]

    maps = [structured.identity(1)] * 3
    return build.generic([product, pivot], [build.empty(shape_of(product), element_of(product))], maps, fn)[0]


def _eliminated(build: Lowering, matrices: SSAValue, pivot: SSAValue, k: SSAValue) -> SSAValue:
    """The matrices with rows k and pivot exchanged and multiples of the upper one taken off the rows below k."""

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        row, column = s.loop(1), s.loop(2)
        upper = s.insert(arith.IndexCastOp(args[1], _INDEX))
        was_upper = s.insert(arith.CmpiOp(row, upper, "eq"))
        source = s.select(was_upper, k, row)
        own, lead = (_element(s, matrices, source, at) for at in (column, k))
        above, top = (_element(s, matrices, upper, at) for at in (column, k))
        zero = s.constant(0, top.type)
        factor = s.select(s.compare("eq", top, zero), zero, s.div(lead, top))
        below = s.insert(arith.CmpiOp(row, k, "sgt"))
        kept = s.select(s.insert(arith.CmpiOp(row, k, "eq")), above, args[0])
        return [s.select(below, s.sub(own, s.mul(factor, above)), kept)]

    maps = [structured.identity(3), structured.dims_map(3, [0]), structured.identity(3)]
    return build.generic([matrices, pivot], [build.empty(shape_of(matrices), element_of(matrices))], maps, fn)[0]
