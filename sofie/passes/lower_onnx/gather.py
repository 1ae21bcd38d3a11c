"""Operators that read or write where an index tensor says: gathers, scatters, orderings along an axis.

A gather reads its data with `tensor.extract` inside the body. A scatter walks the updates in order. Indices count from
the end where they are negative; what lies outside is the caller's error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import IndexType, i64
from xdsl.ir import BlockArgument, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError, UnsupportedError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Fn, Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.passes.lower_onnx.sequential import Visited, Walk, kernel

_INDEX = IndexType()


def position(build: Lowering, s: Scalars, index: SSAValue, extent: int) -> SSAValue:
    """An element of an index tensor as a position (of type index) on an axis of `extent`."""
    here = s.insert(arith.IndexCastOp(index, _INDEX))
    behind = s.insert(arith.CmpiOp(here, s.constant(0, _INDEX), "slt"))
    return s.select(behind, s.insert(arith.AddiOp(here, build.number(extent, _INDEX)(s))), here)


def same(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
    """Whether two integers or indices are equal."""
    return s.insert(arith.CmpiOp(a, b, "eq"))


Where = Callable[[Scalars, tuple[BlockArgument, ...]], Sequence[SSAValue]]


def gather_at(
    build: Lowering, data: SSAValue, shape: Sequence[int], inputs: Sequence[tuple[SSAValue, AffineMap]], where: Where
) -> SSAValue:
    """A tensor of `shape` whose elements are data[where(scalars, elements of the inputs)]."""
    kind = element_of(data)

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        return [s.insert(tensor.ExtractOp(data, where(s, args), kind))]

    maps = [*(m for _, m in inputs), structured.identity(len(shape))]
    return build.generic([v for v, _ in inputs], [build.empty(shape, kind)], maps, fn)[0]


@lowers("Gather")
def gather(op: OnnxOp, build: Lowering) -> SSAValue:
    """y[.., i.., ..] = x[.., indices[i..], ..]: slabs of x picked along an axis (Gather 13)."""
    x, indices = build.operand(0), build.operand(1)
    shape, picked = shape_of(x), len(shape_of(indices))
    axis = build.axis("axis", len(shape))
    rank = len(shape) - 1 + picked
    read = structured.dims_map(rank, list(range(axis, axis + picked)))

    def where(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        before = [s.loop(d) for d in range(axis)]
        return [*before, position(build, s, args[0], shape[axis]), *(s.loop(d) for d in range(axis + picked, rank))]

    return gather_at(build, x, build.result_shape(), [(indices, read)], where)


@lowers("GatherElements")
def gather_elements(op: OnnxOp, build: Lowering) -> SSAValue:
    """y[i, j] = x[indices[i, j], j] for axis 0, and so on for the others (GatherElements 13)."""
    x, indices = build.operand(0), build.operand(1)
    shape = shape_of(x)
    axis = build.axis("axis", len(shape))

    def where(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        return [position(build, s, args[0], e) if a == axis else s.loop(a) for a, e in enumerate(shape)]

    return gather_at(build, x, build.result_shape(), [(indices, structured.identity(len(shape)))], where)


@lowers("GatherND")
def gather_nd(op: OnnxOp, build: Lowering) -> SSAValue:
    """Slabs of x at the coordinates in the last axis of indices, batch by batch (GatherND 13)."""
    x, indices = build.operand(0), build.operand(1)
    shape, (*lead, depth) = shape_of(x), shape_of(indices)
    batches, rank = op.integer("batch_dims"), len(build.result_shape())
    reads = [_coordinate(rank, len(lead), k) for k in range(depth)]

    def where(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        coordinates = [position(build, s, args[k], shape[batches + k]) for k in range(depth)]
        rest = [s.loop(d) for d in range(len(lead), rank)]
        return [*(s.loop(d) for d in range(batches)), *coordinates, *rest]

    return gather_at(build, x, build.result_shape(), [(indices, read) for read in reads], where)


def _coordinate(rank: int, lead: int, k: int, first: int = 0) -> AffineMap:
    """The map (.., d[first], .., d[first + lead - 1], ..) -> (d[first].., k) that reads one coordinate."""
    return structured.dims_map(rank, [*range(first, first + lead), AffineExpr.constant(k)])


@lowers("ReverseSequence")
def reverse_sequence(op: OnnxOp, build: Lowering) -> SSAValue:
    """The first sequence_lens[b] steps of each sequence b in reverse order (ReverseSequence 10)."""
    x, lengths = build.operand(0), build.operand(1)
    rank = len(shape_of(x))
    time, batch = build.axis("time_axis", rank), build.axis("batch_axis", rank)

    def where(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        step, length = s.loop(time), s.insert(arith.IndexCastOp(args[0], _INDEX))
        last = s.insert(arith.SubiOp(length, s.constant(1, _INDEX)))
        mirrored = s.insert(arith.SubiOp(last, step))
        turned = s.select(s.insert(arith.CmpiOp(step, length, "slt")), mirrored, step)
        return [turned if a == time else s.loop(a) for a in range(rank)]

    return gather_at(build, x, shape_of(x), [(lengths, structured.dims_map(rank, [batch]))], where)


# -- scatters ----------------------------------------------------------------------------------------------------


def _combine(op: OnnxOp) -> Fn:
    """How an update joins the element that it lands on: (scalars, old, update) -> new."""
    table: dict[str, Fn] = {
        "none": lambda s, old, new: new,
        "add": lambda s, old, new: s.add(old, new),
        "mul": lambda s, old, new: s.mul(old, new),
        "max": lambda s, old, new: s.max(old, new),
        "min": lambda s, old, new: s.min(old, new),
    }
    reduction = op.string("reduction", "none")
    if reduction not in table:
        raise UnsupportedError(f"reduction {reduction!r} is not one of {', '.join(table)}")
    return table[reduction]


def _scatter(
    build: Lowering, x: SSAValue, updates: SSAValue, combine: Fn, where: Callable[[Walk, Visited], Visited]
) -> SSAValue:
    """A copy of x into which the updates are combined, each at `where(walk, its position)`, in row-major order."""

    def fn(walk: Walk, into: SSAValue) -> Sequence[SSAValue]:
        def step(place: Visited, carried: Visited) -> Visited:
            target, update = where(walk, place), walk.load(updates, *place)
            return [walk.store(combine(walk, walk.load(carried[0], *target), update), carried[0], *target)]

        return walk.each(shape_of(updates), [into], step)

    return kernel(build, [build.copy(x)], fn)[0]


@lowers("ScatterElements")
def scatter_elements(op: OnnxOp, build: Lowering) -> SSAValue:
    """y[indices[i, j], j] = updates[i, j] over a copy of x for axis 0, and so on (ScatterElements 18)."""
    x, indices, updates = build.operand(0), build.operand(1), build.operand(2)
    shape = shape_of(x)
    axis = build.axis("axis", len(shape))

    def where(walk: Walk, place: Visited) -> Visited:
        index = position(build, walk, walk.load(indices, *place), shape[axis])
        return [*place[:axis], index, *place[axis + 1 :]]

    return _scatter(build, x, updates, _combine(op), where)


@lowers("ScatterND")
def scatter_nd(op: OnnxOp, build: Lowering) -> SSAValue:
    """A copy of x with slabs replaced at the coordinates in the last axis of indices (ScatterND 18)."""
    x, indices, updates = build.operand(0), build.operand(1), build.operand(2)
    shape, (*lead, depth) = shape_of(x), shape_of(indices)

    def where(walk: Walk, place: Visited) -> Visited:
        row, rest = place[: len(lead)], place[len(lead) :]
        return [*(position(build, walk, walk.load(indices, *row, k), shape[k]) for k in range(depth)), *rest]

    return _scatter(build, x, updates, _combine(op), where)


@lowers("TensorScatter")
def tensor_scatter(op: OnnxOp, build: Lowering) -> SSAValue:
    """A cache with each sample's update from its write index on, round the end if circular (TensorScatter 24)."""
    cache, update, starts = build.operand(0), build.operand(1), build.optional(2)
    shape, rank = shape_of(cache), len(shape_of(cache))
    axis, circular = build.axis("axis", rank), op.string("mode") == "circular"
    if axis == 0:
        raise SofieError("axis 0 is the batch; the cache is written along a later one")
    count, extent = (build.number(shape_of(v)[axis], _INDEX) for v in (update, cache))
    if 0 in shape_of(update):
        return cache

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        zero, start = s.constant(0, _INDEX), s.constant(0, _INDEX)
        if starts is not None:
            start = s.insert(arith.IndexCastOp(args[1], _INDEX))
        place = s.insert(arith.SubiOp(s.loop(axis), start))
        if circular:
            rest = s.insert(arith.RemSIOp(place, extent(s)))
            is_before = s.insert(arith.CmpiOp(rest, zero, "slt"))
            place = s.select(is_before, s.insert(arith.AddiOp(rest, extent(s))), rest)
        is_after = s.insert(arith.CmpiOp(place, zero, "sge"))
        hit = s.insert(arith.AndIOp(is_after, s.insert(arith.CmpiOp(place, count(s), "slt"))))
        inside = s.select(hit, place, zero)
        where = [inside if a == axis else s.loop(a) for a in range(rank)]
        return [s.select(hit, s.insert(tensor.ExtractOp(update, where, args[0].type)), args[0])]

    inputs, maps = [cache], [structured.identity(rank)]
    if starts is not None:
        inputs, maps = [cache, starts], [*maps, structured.dims_map(rank, [0])]
    empty = build.empty(shape, element_of(cache))
    return build.generic(inputs, [empty], [*maps, structured.identity(rank)], fn)[0]


# -- positions -------------------------------------------------------------------------------------------


@lowers("OneHot", limits="depth known when compiling")
def one_hot(op: OnnxOp, build: Lowering) -> SSAValue:
    """values[1] where the new axis counts to the index, values[0] elsewhere (OneHot 11)."""
    indices, values = build.operand(0), build.operand(2)
    shape = build.result_shape()
    rank = len(shape)
    axis = build.axis("axis", rank)
    read = structured.dims_map(rank, [a for a in range(rank) if a != axis])
    either = [structured.dims_map(rank, [AffineExpr.constant(k)]) for k in (0, 1)]

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        index = s.cast(args[0], i64)  # indices may be of any type, unsigned and float too
        return [s.select(same(s, position(build, s, index, shape[axis]), s.loop(axis)), args[2], args[1])]

    destination = build.empty(shape, element_of(values))
    return build.generic([indices, values, values], [destination], [read, *either, structured.identity(rank)], fn)[0]
