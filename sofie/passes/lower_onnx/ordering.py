"""Operators that put elements into an order: TopK, Unique."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from xdsl.dialects.builtin import i1, i64
from xdsl.ir import SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import element_of, is_float, shape_of
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.passes.lower_onnx.sequential import INDEX, Place, Walk, kernel, tell
from sofie.sizes import most

Before = Callable[[SSAValue, SSAValue], SSAValue]
"""Whether what stands at one position comes before what stands at another, strictly."""

At = Callable[[Place], Sequence[Place]]
"""Where the element of a row at some position stands in a tensor."""

Rooms = Sequence[SSAValue]


def above(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
    """Whether a > b, where NaN is above all numbers."""
    greater = s.compare("gt", a, b)
    if not is_float(a.type):
        return greater
    only_a = s.binary("and", s.compare("ne", a, a), s.compare("eq", b, b))
    return s.binary("or", greater, only_a)


def sort(walk: Walk, count: int, order: SSAValue, spare: SSAValue, before: Before) -> list[SSAValue]:
    """Writes 0 .. count - 1 into `order`, sorted by `before` and stable; returns `order` and `spare` after it.

    Both are int64 tensors of `count` elements. Merges runs of 1, 2, 4, .. elements: count * log2(count) comparisons.
    """
    n = walk.index(count)
    order = walk.for_(0, count, [order], lambda i, c: [walk.store(walk.number(i, i64), c[0], i)])[0]
    last = walk.sub(n, walk.index(1))

    def run(level: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        width, order, spare = carried
        both = walk.add(width, width)
        pairs = walk.div(walk.add(last, both), both)

        def merge(pair: SSAValue, merged: Sequence[SSAValue]) -> Sequence[SSAValue]:
            low = walk.mul(pair, both)
            middle, high = walk.min(walk.add(low, width), n), walk.min(walk.add(low, both), n)

            def take(k: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
                left, right, spare = carried
                mine, other = (walk.load(order, walk.min(at, last)) for at in (left, right))
                later = before(walk.number(other, INDEX), walk.number(mine, INDEX))
                from_right = walk.binary(
                    "and",
                    walk.compare("lt", right, high),
                    walk.binary("or", walk.compare("ge", left, middle), later),
                )
                one = walk.number(walk.cast(from_right, i64), INDEX)
                spare = walk.store(walk.select(from_right, other, mine), spare, k)
                return [walk.sub(walk.plus(left, 1), one), walk.add(right, one), spare]

            return [walk.for_(low, high, [low, middle, merged[0]], take)[2]]

        (spare,) = walk.for_(0, pairs, [spare], merge)
        (order,) = walk.for_(0, count, [order], lambda i, c: [walk.store(walk.load(spare, i), c[0], i)])
        return [both, order, spare]

    levels = max(most(count) - 1, 0).bit_length()
    return walk.for_(0, levels, [walk.index(1), order, spare], run)[1:]


def shortlist(
    walk: Walk, x: Callable[[SSAValue], SSAValue], first: Before, count: int, length: int, at: At, rooms: Rooms
) -> list[SSAValue]:
    """Writes the `length` first of `count` elements x(0), x(1), .. in order, and their numbers; stable.

    `rooms` are the tensors for both, `at` the place of position k in them; returns them after it. Each element is
    inserted where it belongs, which most elements of a long row do not: they come after the last of a full list.
    """

    def insert(value: SSAValue, number: SSAValue, slot: SSAValue, rooms: Rooms) -> list[SSAValue]:
        """Moves what comes after `value` from the end on, the first into the free `slot`."""

        def move(_: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            alive, free, values, numbers = carried

            def next_() -> Sequence[SSAValue]:
                prior = walk.plus(free, -1)
                other = walk.load(values, *at(prior))
                later = first(value, other)

                def shift() -> Sequence[SSAValue]:
                    moved = walk.load(numbers, *at(prior))
                    return [prior, walk.store(other, values, *at(free)), walk.store(moved, numbers, *at(free))]

                return [later, *walk.choose(later, shift, [free, values, numbers])]

            return walk.choose(alive, next_, carried)

        yes = walk.constant(True, i1)
        _, place, values, numbers = walk.for_(0, slot, [yes, slot, *rooms], move)
        return [walk.store(value, values, *at(place)), walk.store(walk.number(number, i64), numbers, *at(place))]

    rooms = walk.for_(0, length, rooms, lambda i, rooms: insert(x(i), i, i, rooms))
    last = walk.max(walk.plus(walk.index(length), -1), walk.index(0))

    def offer(i: SSAValue, rooms: Rooms) -> Sequence[SSAValue]:
        value = x(i)
        enters = first(value, walk.load(rooms[0], *at(last)))
        return walk.choose(enters, lambda: insert(value, i, last, rooms), rooms)

    some = walk.min(walk.index(length), walk.index(1))  # an empty list takes no element
    return walk.for_(length, walk.mul(some, walk.index(count)), rooms, offer)


def _is_short(length: int, count: int) -> bool:
    """Whether inserting into a list of `length` moves no more elements than sorting does, whatever their order is."""
    return 0 < most(length) <= 4 * most(count).bit_length() and most(length) < most(count)


@lowers("TopK")
def top_k(op: OnnxOp, build: Lowering) -> Sequence[SSAValue]:
    """The k largest or smallest elements of an axis in order, and their indices; ties by the lower one (TopK 24).

    NaN is above all numbers. Few of many are picked by insertion, else all are sorted.
    """
    x = build.operand(0)
    shape, result = shape_of(x), build.result_shape()
    axis = build.axis("axis", len(shape))
    largest = op.integer("largest") == 1
    others, count = [e for a, e in enumerate(shape) if a != axis], shape[axis]
    walk = Walk(build)
    if not isinstance(build.operand(1).owner, WeightOp | ExtentsOp):
        wanted = walk.max(build.element(build.operand(1)), walk.index(0))
        build.found(result[axis], walk.min(wanted, walk.index(count)))
    short = _is_short(result[axis], count)

    def fn(walk: Walk, *rooms: SSAValue) -> Sequence[SSAValue]:
        def row(where: Sequence[SSAValue], carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            def at(place: Place) -> list[Place]:
                return [*where[:axis], place, *where[axis:]]

            def element(place: SSAValue) -> SSAValue:
                return walk.load(x, *at(place))

            def first(a: SSAValue, b: SSAValue) -> SSAValue:
                return above(walk, a, b) if largest else above(walk, b, a)

            if short:
                return shortlist(walk, element, first, count, result[axis], at, carried)

            def pick(k: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
                place = walk.load(order, k)
                value = element(walk.number(place, INDEX))
                return [walk.store(value, carried[0], *at(k)), walk.store(place, carried[1], *at(k))]

            values, indices, order, spare = carried
            order, spare = sort(walk, count, order, spare, lambda a, b: first(element(a), element(b)))
            return [*walk.for_(0, result[axis], [values, indices], pick), order, spare]

        return walk.each(others, rooms, row)

    rooms = [build.empty(result, element_of(x)), build.empty(result, i64)]
    rooms += [] if short else [build.empty([count], i64), build.empty([count], i64)]
    return kernel(build, rooms, fn)[:2]


@lowers("Unique")
def unique(op: OnnxOp, build: Lowering) -> Sequence[SSAValue]:
    """Elements, or slices along an axis, each once: sorted, or as they come first (Unique 11).

    Also where each of them is first, where every element is among them, and how often they occur. NaN equals NaN and
    is above all numbers.
    """
    x = build.operand(0)
    shape, rank = shape_of(x), len(shape_of(x))
    flat = op.attribute("axis") is None
    axis = 0 if flat else build.axis("axis", rank)
    order = [axis, *(a for a in range(rank) if a != axis)]
    rest = [] if flat else [shape[a] for a in order[1:]]
    count: int = math.prod(shape) if flat else shape[axis]
    rows = build.reshape(x if flat else build.transpose(x, order), [count, math.prod(rest)])
    found = build.result_shape()[0 if flat else axis]
    group_of, first, times, rank_of, total = kernel(
        build,
        [*(build.empty([count], i64) for _ in range(4)), build.empty([1], i64)],
        lambda walk, *rooms: _groups(walk, build, rows, op.integer("sorted") == 1, rooms),
    )
    tell(build, found, total)

    def fn(walk: Walk, *rooms: SSAValue) -> Sequence[SSAValue]:
        def group(g: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            values, indices, counts = carried
            rank, start = walk.load(rank_of, g), walk.load(first, g)
            place, source = walk.number(rank, INDEX), walk.number(start, INDEX)
            (values,) = walk.for_(
                0,
                math.prod(rest),
                [values],
                lambda j, c: [walk.store(walk.load(rows, source, j), c[0], place, j)],
            )
            return [values, walk.store(start, indices, place), walk.store(walk.load(times, g), counts, place)]

        def inverse(i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            rank = walk.load(rank_of, walk.number(walk.load(group_of, i), INDEX))
            return [walk.store(rank, carried[0], i)]

        values, indices, counts = walk.for_(0, found, [rooms[0], rooms[1], rooms[3]], group)
        (places,) = walk.for_(0, count, [rooms[2]], inverse)
        return [values, indices, places, counts]

    rooms = [build.empty([found, math.prod(rest)], element_of(x))]
    rooms += [build.empty([extent], i64) for extent in (found, count, found)]
    values, *others = kernel(build, rooms, fn)
    values = build.reshape(values, [found, *rest])
    return [values if flat else build.transpose(values, [order.index(a) for a in range(rank)]), *others]


def _groups(walk: Walk, build: Lowering, rows: SSAValue, sorted_: bool, rooms: Sequence[SSAValue]) -> list[SSAValue]:
    """Equal rows become groups, numbered in ascending order.

    Writes the group of each row; the first row, the size and the rank of each group; and how many groups there are.
    """
    count, width = shape_of(rows)
    group_of, first, times, rank_of, total = rooms

    def differs(a: SSAValue, b: SSAValue) -> list[SSAValue]:
        """Whether row a comes before row b, and whether after: by the first elements that differ."""

        def step(j: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            less, more = carried
            one, two = walk.load(rows, a, j), walk.load(rows, b, j)
            open_ = walk.compare("eq", less, more)
            return [
                walk.select(open_, above(walk, two, one), less),
                walk.select(open_, above(walk, one, two), more),
            ]

        no = walk.constant(False, walk.compare("lt", a, b).type)
        return walk.for_(0, width, [no, no], step)

    order, spare = sort(walk, count, group_of, rank_of, lambda a, b: differs(a, b)[0])

    def split(k: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        groups, first, times, owner = carried
        row = walk.load(order, k)
        start = walk.number(walk.load(first, walk.max(walk.plus(groups, -1), walk.index(0))), INDEX)
        fresh = walk.choose(
            walk.compare("gt", k, walk.index(0)),
            lambda: [differs(start, walk.number(row, INDEX))[0]],
            [walk.constant(True, walk.compare("gt", k, k).type)],
        )[0]

        def opened() -> Sequence[SSAValue]:
            return [
                walk.plus(groups, 1),
                walk.store(row, first, groups),
                walk.store(walk.constant(0, i64), times, groups),
            ]

        groups, first, times = walk.choose(fresh, opened, [groups, first, times])
        mine = walk.plus(groups, -1)
        times = walk.store(walk.add(walk.load(times, mine), walk.constant(1, i64)), times, mine)
        owner = walk.store(walk.number(mine, i64), owner, walk.number(row, INDEX))
        return [groups, first, times, owner]

    groups, first, times, owner = walk.for_(0, count, [walk.index(0), first, times, spare], split)
    total = walk.store(walk.number(groups, i64), total, 0)
    if sorted_:
        ranks = order  # no longer needed
        (ranks,) = walk.for_(0, count, [ranks], lambda g, c: [walk.store(walk.number(g, i64), c[0], g)])
        return [owner, first, times, ranks, total]

    def number(i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        next_, ranks = carried
        group = walk.number(walk.load(owner, i), INDEX)
        leads = walk.compare("eq", walk.load(first, group), walk.number(i, i64))
        return walk.choose(
            leads,
            lambda: [walk.plus(next_, 1), walk.store(walk.number(next_, i64), ranks, group)],
            [next_, ranks],
        )

    (_, ranks) = walk.for_(0, count, [walk.index(0), order], number)
    return [owner, first, times, ranks, total]
