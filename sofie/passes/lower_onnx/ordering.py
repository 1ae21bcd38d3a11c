"""Operators that put elements into an order: TopK, Unique."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from xdsl.dialects.builtin import f32, i32, i64
from xdsl.ir import Attribute, SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import bytes_of, element_of, is_float, shape_of
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars, lowest
from sofie.passes.lower_onnx.sequential import INDEX, Place, Walk, kernel, tell
from sofie.sizes import Size, most

Before = Callable[[SSAValue, SSAValue], SSAValue]
"""Whether what stands at one position comes before what stands at another, strictly."""

At = Callable[[Place], Sequence[Place]]
"""Where the element of a row at some position stands in a tensor."""


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


WORD = 1 << 32


def _sort_key(walk: Walk, x: SSAValue, number: SSAValue, largest: bool) -> SSAValue:
    """An int64 that is the larger, the earlier an element comes: its order in the high half, in the low one its number.

    x has at most 32 bits. What is unsigned gives a key that is.
    """
    if is_float(x.type):
        single = walk.cast(x, f32)
        positive_zero = walk.add(single, walk.constant(0.0, f32))
        bits = walk.bits(positive_zero, i32)
        magnitude = walk.constant(0x7FFFFFFF, i32)
        negative = walk.compare("lt", bits, walk.constant(0, i32))
        ordered = walk.select(negative, walk.binary("xor", bits, magnitude), bits)
        order = walk.cast(walk.select(walk.compare("ne", single, single), magnitude, ordered), i64)
    else:
        order = walk.cast(x, i64)
    if not largest:
        order = walk.sub(walk.constant(WORD - 1 if walk.unsigned else -1, i64), order)
    later = walk.sub(walk.constant(WORD - 1, i64), walk.number(number, i64))
    return walk.add(walk.mul(order, walk.constant(WORD, i64)), later)


def shortlist(
    walk: Walk, key: Callable[[SSAValue], SSAValue], count: int, length: int, at: At, numbers: SSAValue
) -> SSAValue:
    """Writes the numbers of the `length` elements with the largest keys (`_sort_key`) into `numbers`, in order.

    `at` is the place of position k in it; returns it after it. It holds the keys found so far: one that belongs
    there pushes each that is smaller on by one, without a branch; most of a long row do not.
    """
    none = walk.constant(lowest(i64, walk.unsigned), i64)
    (numbers,) = walk.for_(0, length, [numbers], lambda k, c: [walk.store(none, c[0], *at(k))])
    last, end = walk.index(length - 1), walk.index(count)
    if isinstance(length, Size):  # an empty list takes no element
        last = walk.max(last, walk.index(0))
        end = walk.mul(walk.min(walk.index(length), walk.index(1)), end)

    def offer(i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        new = key(i)

        def push(k: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            held = walk.load(carried[1], *at(k))
            return [walk.min(held, carried[0]), walk.store(walk.max(held, carried[0]), carried[1], *at(k))]

        enters = walk.compare("gt", new, walk.load(carried[0], *at(last)))
        return walk.choose(enters, lambda: walk.for_(0, length, [new, carried[0]], push)[1:], carried)

    (numbers,) = walk.for_(0, end, [numbers], offer)

    def number(k: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        low = walk.binary("and", walk.load(carried[0], *at(k)), walk.constant(WORD - 1, i64))
        return [walk.store(walk.sub(walk.constant(WORD - 1, i64), low), carried[0], *at(k))]

    return walk.for_(0, length, [numbers], number)[0]


def _is_short(length: int, count: int, element: Attribute) -> bool:
    """Whether a list of `length` is no more work than sorting all, whatever their order is, and keys fit into int64."""
    return 0 < most(length) <= 4 * most(count).bit_length() and most(count) < WORD // 2 and bytes_of(element) <= 4


@lowers("TopK")
def top_k(op: OnnxOp, build: Lowering) -> Sequence[SSAValue]:
    """The k largest or smallest elements of an axis in order, and their indices; ties by the lower one (TopK 24).

    NaN is above all numbers. A short list is kept in order while all elements pass, else all are sorted.
    """
    x = build.operand(0)
    shape, result = shape_of(x), build.result_shape()
    axis = build.axis("axis", len(shape))
    largest = op.integer("largest") == 1
    others, count, length = [e for a, e in enumerate(shape) if a != axis], shape[axis], result[axis]
    walk = Walk(build)
    if not isinstance(build.operand(1).owner, WeightOp | ExtentsOp):
        wanted = walk.max(build.element(build.operand(1)), walk.index(0))
        build.found(length, walk.min(wanted, walk.index(count)))
    short = _is_short(length, count, element_of(x))

    def fn(walk: Walk, *rooms: SSAValue) -> Sequence[SSAValue]:
        def row(where: Sequence[SSAValue], carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            values, indices, *spares = carried

            def at(place: Place) -> list[Place]:
                return [*where[:axis], place, *where[axis:]]

            def element(place: SSAValue) -> SSAValue:
                return walk.load(x, *at(place))

            def key(i: SSAValue) -> SSAValue:
                return _sort_key(walk, element(i), i, largest)

            def before(a: SSAValue, b: SSAValue) -> SSAValue:
                one, two = element(a), element(b)
                return above(walk, one, two) if largest else above(walk, two, one)

            if short:
                indices = shortlist(walk, key, count, length, at, indices)
            else:
                spares = sort(walk, count, spares[0], spares[1], before)
                order = spares[0]
                (indices,) = walk.for_(
                    0, length, [indices], lambda k, c: [walk.store(walk.load(order, k), c[0], *at(k))]
                )

            def pick(k: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
                place = walk.number(walk.load(carried[1], *at(k)), INDEX)
                return [walk.store(element(place), carried[0], *at(k)), carried[1]]

            return [*walk.for_(0, length, [values, indices], pick), *spares]

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
