"""Operators that keep some elements and drop others: how many is found in the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from xdsl.dialects.builtin import i1, i64
from xdsl.ir import SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.ordering import above, sort
from sofie.passes.lower_onnx.sequential import INDEX, Walk, found, kernel, tell
from sofie.sizes import most

Holds = Callable[[Walk, Sequence[SSAValue]], SSAValue]
"""Whether what stands at a position is kept."""


def _counted(build: Lowering, extent: int, shape: Sequence[int], holds: Holds) -> None:
    """Finds at how many positions of `shape` something is kept."""

    def count(walk: Walk) -> SSAValue:
        def step(where: Sequence[SSAValue], carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            return [walk.add(carried[0], walk.number(walk.cast(holds(walk, where), i64), INDEX))]

        return walk.each(shape, [walk.index(0)], step)[0]

    found(build, extent, count)


@lowers("NonZero")
def nonzero(op: OnnxOp, build: Lowering) -> SSAValue:
    """The positions of the elements that are not zero, one a column, in row-major order (NonZero 13)."""
    x = build.operand(0)
    shape, result = shape_of(x), build.result_shape()

    def holds(walk: Walk, where: Sequence[SSAValue]) -> SSAValue:
        value = walk.load(x, *where)
        return walk.compare("ne", value, walk.constant(0, value.type))

    _counted(build, result[1], shape, holds)

    def fn(walk: Walk, into: SSAValue) -> Sequence[SSAValue]:
        def step(where: Sequence[SSAValue], carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            column, into = carried

            def keep() -> Sequence[SSAValue]:
                kept = into
                for axis, i in enumerate(where):
                    kept = walk.store(walk.number(i, i64), kept, axis, column)
                return [walk.plus(column, 1), kept]

            return walk.choose(holds(walk, where), keep, [column, into])

        return [walk.each(shape, [walk.index(0), into], step)[1]]

    return kernel(build, [build.empty(result, i64)], fn)[0]


@lowers("Compress")
def compress(op: OnnxOp, build: Lowering) -> SSAValue:
    """The slices along an axis, or elements, whose condition holds; there may be fewer conditions (Compress 11)."""
    x, condition = build.operand(0), build.operand(1)
    flat = op.attribute("axis") is None
    if flat:
        x = build.reshape(x, [math.prod(shape_of(x))])
    shape, result = shape_of(x), build.result_shape()
    axis = 0 if flat else build.axis("axis", len(shape))
    (conditions,) = shape_of(condition)
    others = [e for a, e in enumerate(shape) if a != axis]

    def holds(walk: Walk, where: Sequence[SSAValue]) -> SSAValue:
        return walk.load(condition, *where)

    def reach(walk: Walk) -> SSAValue:
        """How many conditions have a slice."""
        return walk.min(walk.index(conditions), walk.index(shape[axis]))

    def count(walk: Walk) -> SSAValue:
        def step(i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            return [walk.add(carried[0], walk.number(walk.cast(holds(walk, [i]), i64), INDEX))]

        return walk.for_(0, reach(walk), [walk.index(0)], step)[0]

    found(build, result[axis], count)

    def fn(walk: Walk, into: SSAValue) -> Sequence[SSAValue]:
        def step(i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            place, into = carried

            def copy(where: Sequence[SSAValue], carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
                value = walk.load(x, *where[:axis], i, *where[axis:])
                return [walk.store(value, carried[0], *where[:axis], place, *where[axis:])]

            return walk.choose(
                holds(walk, [i]), lambda: [walk.plus(place, 1), *walk.each(others, [into], copy)], [place, into]
            )

        return [walk.for_(0, reach(walk), [walk.index(0), into], step)[1]]

    return kernel(build, [build.empty(result, element_of(x))], fn)[0]


@lowers("NonMaxSuppression")
def non_max_suppression(op: OnnxOp, build: Lowering) -> SSAValue:
    """Rows (batch, class, box): of each class the boxes that overlap no better one too much (NonMaxSuppression 11).

    Boxes whose score is not above the threshold are left out; two of them overlap where their intersection over union
    is above `iou_threshold`. Equal scores: the lower box first.
    """
    boxes, scores = build.operand(0), build.operand(1)
    limit, overlap, threshold = (build.optional(k) for k in (2, 3, 4))
    (batches, classes, count), (selected, _) = shape_of(scores), build.result_shape()
    room = [most(selected), 3]
    if limit is None or room[0] == 0:
        return build.empty([selected, 3], i64)
    centred = op.integer("center_point_box") == 1

    def fn(walk: Walk, *rooms: SSAValue) -> Sequence[SSAValue]:
        most_of_class = walk.number(_scalar(walk, limit), INDEX)
        least_overlap = None if overlap is None else _scalar(walk, overlap)

        def of_class(where: Sequence[SSAValue], carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            batch, kind = where
            start, rows, order, spare = carried

            def before(a: SSAValue, b: SSAValue) -> SSAValue:
                return above(walk, walk.load(scores, batch, kind, a), walk.load(scores, batch, kind, b))

            order, spare = sort(walk, count, order, spare, before)

            def candidate(k: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
                end, rows = carried
                number = walk.load(order, k)
                box = walk.number(number, INDEX)
                corners = _corners(walk, boxes, batch, box, centred)
                open_ = walk.compare("lt", walk.sub(end, start), most_of_class)
                if threshold is not None:
                    score = walk.load(scores, batch, kind, box)
                    open_ = walk.both(open_, walk.compare("gt", score, _scalar(walk, threshold)))

                def clear() -> Sequence[SSAValue]:
                    def step(row: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
                        other = walk.number(walk.load(rows, row, 2), INDEX)
                        limit = least_overlap or walk.constant(0.0, element_of(boxes))
                        apart = _apart(walk, corners, _corners(walk, boxes, batch, other, centred), limit)
                        return [walk.both(carried[0], apart)]

                    return walk.for_(start, end, [walk.constant(True, i1)], step)

                kept = walk.choose(open_, clear, [walk.constant(False, i1)])[0]

                def keep() -> Sequence[SSAValue]:
                    written = rows
                    for column, value in enumerate((walk.number(batch, i64), walk.number(kind, i64), number)):
                        written = walk.store(value, written, end, column)
                    return [walk.plus(end, 1), written]

                return walk.choose(kept, keep, [end, rows])

            end, rows = walk.for_(0, count, [start, rows], candidate)
            return [end, rows, order, spare]

        rows, order, spare, total = rooms
        end, rows, order, spare = walk.each([batches, classes], [walk.index(0), rows, order, spare], of_class)
        return [rows, order, spare, walk.store(walk.number(end, i64), total, 0)]

    starts = [build.empty(shape, i64) for shape in (room, [count], [count], [1])]
    rows, _, _, total = kernel(build, starts, fn)
    tell(build, selected, total)
    return build.slice(rows, [0, 0], [selected, 3])


def _scalar(walk: Walk, value: SSAValue) -> SSAValue:
    """The only element of a tensor of rank 0 or 1."""
    return walk.load(value, *(0 for _ in shape_of(value)))


def _corners(walk: Walk, boxes: SSAValue, batch: SSAValue, box: SSAValue, centred: bool) -> list[list[SSAValue]]:
    """(low, high) of a box along both axes, from two opposite corners or from the centre and the extents."""
    a, b, c, d = (walk.load(boxes, batch, box, k) for k in range(4))
    if not centred:
        return [[walk.min(a, c), walk.max(a, c)], [walk.min(b, d), walk.max(b, d)]]
    half = walk.constant(0.5, a.type)
    spans = [(a, walk.mul(c, half)), (b, walk.mul(d, half))]
    return [[walk.sub(centre, reach), walk.add(centre, reach)] for centre, reach in spans]


def _apart(
    walk: Walk, one: Sequence[Sequence[SSAValue]], two: Sequence[Sequence[SSAValue]], limit: SSAValue
) -> SSAValue:
    """Whether the intersection of two boxes is at most `limit` of their union; boxes without area overlap nothing."""
    zero = walk.constant(0.0, limit.type)
    shared = [
        walk.max(walk.sub(walk.min(a[1], b[1]), walk.max(a[0], b[0])), zero) for a, b in zip(one, two, strict=True)
    ]
    areas = [walk.mul(walk.sub(*box[0][::-1]), walk.sub(*box[1][::-1])) for box in (one, two)]
    both = walk.mul(shared[0], shared[1])
    union = walk.sub(walk.add(areas[0], areas[1]), both)
    solid = walk.both(*(walk.compare("gt", area, zero) for area in (*areas, union)))
    over = walk.compare("gt", walk.div(both, union), limit)
    return walk.binary("xor", walk.both(solid, over), walk.constant(True, i1))
