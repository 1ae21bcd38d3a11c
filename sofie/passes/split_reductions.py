"""split-reductions: a reduction along a row becomes partial results side by side, joined pair by pair (level 2).

    %s = sum over k of %x[i, k]
    ->
    %p = sum over k of %x[i, 32 k + l]                            one partial result a lane
    %h = %p[i, 8 h + l] + %p[i, 8 h + l + 16]                     two halves of 8
    %q = %h[i, 0, 4 h + l] + %h[i, 1, 4 h + l] ; ... ; %s = %a[i, 0, 0] + %a[i, 1, 0]

A row that a loop walks in order takes the latency of an addition an element; side by side the partial results are
vectors, and the rounding of a sum grows with a part of its length. Their number depends on the row's length alone, so
that the result is the same on every CPU. Sums, products, maxima and minima of floats are split, whatever is computed of
each element before: also products of a row with a vector, as of a layer with one output. Declines for rows of run-time
length, for short ones, and where the loop over the row is not the innermost in memory, or where other inputs have rows
of their own: there lanes run along something else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import AnyFloat, FloatAttr, ModuleOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from sofie import sizes, structured
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_of, is_float, shape_of
from sofie.rewrite import replace_results
from sofie.site import Site

NEUTRAL: dict[type[Operation], float] = {
    arith.AddfOp: 0.0,
    arith.MulfOp: 1.0,
    arith.MaximumfOp: -math.inf,
    arith.MinimumfOp: math.inf,
}
"""What changes nothing when it is joined with anything."""

LONG = 128
"""The length of rows from which on twice as many partial results are worth their joining."""
PARTS = (16, 8, 12, 14, 10, 6, 4)
"""How many partial results there may be, best first; a long row may have twice as many as the first."""
PRODUCT_PARTS = (16, 8, 4, 5, 6, 7, 3)
"""The same where rows are multiplied: no vector lies across two of those in which the row may just have been stored."""


@dataclass(frozen=True)
class SplitReductions(ModulePass):
    """Splits rows of at least `shortest` elements."""

    name: ClassVar[str] = "split-reductions"

    shortest: int = 8

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for generic in [o for o in op.walk() if isinstance(o, GenericOp)]:
            row = _row(generic)
            if row is not None and row.length >= self.shortest:
                block = generic.parent_block()
                assert block is not None
                _split(row)
                structured.erase_unread(block)


@dataclass(frozen=True)
class Row:
    """A reduction whose `loop`, of `length` steps, walks what lies side by side in the inputs `operands` that it reads.

    Of these one has a value for each of its steps at least; others may be the same for all.
    """

    op: GenericOp
    join: type[Operation]
    loop: int
    length: int
    operands: tuple[int, ...]

    def joined(self, b: Builder, one: SSAValue, other: SSAValue) -> SSAValue:
        """Two partial results as one."""
        return b.insert(self.join.create(operands=[one, other], result_types=[one.type])).results[0]


def _row(op: GenericOp) -> Row | None:
    """The reduction that an op is, if it can be split."""
    read = [k for k in range(len(op.inputs)) if op.body.block.args[k].uses]
    reduce, maps = structured.reductions(op), structured.maps_of(op)
    if not read or len(op.results) != 1 or not reduce or not is_float(element_of(op.results[0])):
        return None
    extents = structured.extents(op)
    innermost = {_innermost(maps[k], extents) for k in read} - {None}
    if len(innermost) != 1:
        return None
    (loop,) = innermost
    if loop not in reduce or any(not _plainly(maps[k], loop) for k in read) or not _one_side(op, read):
        return None
    length = extents[loop]
    (result,), carried = structured.yielded(op), op.body.block.args[-1]
    join = result.owner
    if not isinstance(join, Operation) or type(join) not in NEUTRAL or carried not in join.operands:
        return None
    if not sizes.is_static([length]) or 0 in structured.extents(op):
        return None
    if len(list(carried.uses)) != 1 or structured.dims_of(maps[-1]) is None:
        return None
    if any(isinstance(o, linalg.IndexOp) or o.regions for o in structured.body_ops(op)):
        return None
    return Row(op, type(join), loop, length, tuple(read))


def _innermost(map: AffineMap, extents: Sequence[int]) -> int | None:
    """The loop along the last axis that is longer than 1, -1 where that is no single loop; None where there is none."""
    for expr in reversed(map.results):
        used = [d for d in expr.used_dims() if extents[d] != 1]
        if used:
            return used[0] if isinstance(expr, AffineDimExpr) else -1
    return None


def _plainly(map: AffineMap, loop: int) -> bool:
    """Whether a loop is one axis of an operand, or none."""
    walked = [expr for expr in map.results if loop in expr.used_dims()]
    return not walked or walked == [AffineDimExpr(loop)]


def _one_side(op: GenericOp, read: Sequence[int]) -> bool:
    """Whether the inputs that loops of the result walk are all walked by the same: else lanes run along one of them.

    So they do along a constant, which `pack-weights` lays out for it.
    """
    extents, reduce, maps = structured.extents(op), structured.reductions(op), structured.maps_of(op)
    walked = {
        k: {d for e in maps[k].results for d in e.used_dims() if d not in reduce and extents[d] != 1} for k in read
    }
    if len(read) > 1 and any(loops and isinstance(op.inputs[k].owner, WeightOp) for k, loops in walked.items()):
        return False
    return len({frozenset(loops) for loops in walked.values() if loops}) <= 1


def _parts(row: Row) -> int | None:
    """How many partial results a row has; None where its length has no fitting divisor."""
    if row.length >= LONG and row.length % (2 * PARTS[0]) == 0:
        return 2 * PARTS[0]
    choice = PARTS if len(row.operands) == 1 else PRODUCT_PARTS
    return next((parts for parts in choice if row.length % parts == 0), None)


def _split(row: Row) -> None:
    parts = _parts(row)
    if parts is None:
        return
    op, site = row.op, Site(row.op.location, row.op)
    if row.length == parts and len(structured.reductions(op)) == 1:
        if parts % 4:
            return
        last = _Joining(site, row, [op.inputs[k] for k in row.operands], raw=True)
    else:
        last = _Joining(site, row, [_partial(site, row, parts)])
    replace_results(op, [_from_start(site, row, last.run(parts))])


def _kept(op: GenericOp) -> list[int]:
    """The loops of the result, in the order of its axes."""
    dims = structured.dims_of(structured.output_maps(op)[0])
    assert dims is not None
    return [d for d in dims if d is not None]


def _renumbered(op: GenericOp, map: AffineMap, rank: int, more: dict[int, AffineExpr]) -> AffineMap:
    """A map over the loops of the result, first, and others; `more` says what stands for the loops that reduce."""
    at = [AffineExpr.constant(0)] * len(op.iterator_types)
    for place, loop in enumerate(_kept(op)):
        at[loop] = AffineExpr.dimension(place)
    for loop, expr in more.items():
        at[loop] = expr
    return AffineMap(rank, 0, tuple(e.replace_dims_and_symbols(at, []) for e in map.results))


def _neutral(row: Row, kind: Attribute) -> Operation:
    return arith.ConstantOp(FloatAttr(NEUTRAL[row.join], cast(AnyFloat, kind)))


def _element(row: Row, b: Builder, read: Sequence[SSAValue]) -> SSAValue:
    """What the op makes of the elements of a step before that is joined."""
    (result,), carried = structured.yielded(row.op), row.op.body.block.args[-1]
    arguments = [row.op.body.block.args[k] for k in row.operands]
    values: dict[SSAValue, SSAValue] = dict(zip(arguments, read, strict=True))
    for inner in structured.body_ops(row.op):
        if inner is not result.owner:
            clone = inner.clone(values)
            b.insert(clone)
            values.update(zip(inner.results, clone.results, strict=True))
    assert isinstance(result.owner, Operation)
    (value,) = [v for v in result.owner.operands if v is not carried] or [carried]
    return values.get(value, value)


def _partial(site: Site, row: Row, parts: int) -> SSAValue:
    """The partial results: (.., parts) over the axes of the result that loops walk."""
    op, kept = row.op, _kept(row.op)
    place, step, rank = len(kept), len(kept) + 1, len(kept) + 1 + len(structured.reductions(op))
    others = [d for d in structured.reductions(op) if d != row.loop]
    more = {d: AffineExpr.dimension(step + 1 + k) for k, d in enumerate(others)}
    d = AffineExpr.dimension
    more[row.loop] = d(step) * parts + d(place)
    extent, kind = structured.extents(op), element_of(op.results[0])
    shape = [*(extent[loop] for loop in kept), parts]
    told = [site.empty([row.length // parts], kind), *(site.empty([extent[loop]], kind) for loop in others)]
    maps = [
        *(_renumbered(op, structured.maps_of(op)[k], rank, more) for k in row.operands),
        *(structured.dims_map(rank, [step + k]) for k in range(len(told))),  # nobody reads these: they tell extents
        structured.dims_map(rank, list(range(step))),
    ]

    def body(b: Builder, args: Sequence[SSAValue]) -> list[SSAValue]:
        return [row.joined(b, args[-1], _element(row, b, args[: len(row.operands)]))]

    start = site.fill(_neutral(row, kind), shape, kind)
    inputs = [op.inputs[k] for k in row.operands]
    return site.generic([*inputs, *told], [start], maps, body, list(range(step, rank)))[0]


@dataclass(frozen=True)
class _Joining:
    """Partial results on their way to one: a tensor (.., n), or (.., 2, n) of two halves, over the result's loops.

    `raw`: they are elements of the op's inputs, of which its body makes what is joined.
    """

    site: Site
    row: Row
    sources: Sequence[SSAValue]
    halves: bool = False
    raw: bool = False

    def run(self, count: int) -> SSAValue:
        """The result; `count` partial ones are left."""
        if count == 2:
            return self._pair(None)
        if count % 4:
            return self._in_order(count)
        return _Joining(self.site, self.row, [self._pair(count // 4)], halves=True).run(count // 2)

    def _reads(self, rank: int, place: AffineExpr, half: int, length: int) -> list[AffineMap]:
        """The maps that read a place of the first or the second half, each of `length`, of every source."""
        if self.raw:
            maps, more = structured.maps_of(self.row.op), {self.row.loop: place + half * length}
            return [_renumbered(self.row.op, maps[k], rank, more) for k in self.row.operands]
        kept = [AffineExpr.dimension(axis) for axis in range(len(_kept(self.row.op)))]
        if self.halves:
            return [AffineMap(rank, 0, (*kept, AffineExpr.constant(half), place))]
        return [AffineMap(rank, 0, (*kept, place + half * length))]

    def _value(self, b: Builder, read: Sequence[SSAValue]) -> SSAValue:
        return _element(self.row, b, read) if self.raw else read[0]

    def _result_map(self, rank: int) -> AffineMap:
        return _renumbered(self.row.op, structured.output_maps(self.row.op)[0], rank, {})

    def _pair(self, length: int | None) -> SSAValue:
        """The first half joined with the second: two halves of `length`, or the result where None."""
        op, rank = self.row.op, len(_kept(self.row.op))
        extent, kind = structured.extents(op), element_of(op.results[0])
        if length is None:
            reads = [m for half in (0, 1) for m in self._reads(rank, AffineExpr.constant(0), half, 1)]
            shape, written = list(shape_of(op.results[0])), self._result_map(rank)
        else:
            place = AffineExpr.dimension(rank) * length + AffineExpr.dimension(rank + 1)
            reads = [m for half in (0, 1) for m in self._reads(rank + 2, place, half, 2 * length)]
            shape, written = [*(extent[d] for d in _kept(op)), 2, length], structured.identity(rank + 2)

        def body(b: Builder, args: Sequence[SSAValue]) -> list[SSAValue]:
            count = len(self.sources)
            return [self.row.joined(b, self._value(b, args[:count]), self._value(b, args[count : 2 * count]))]

        empty = self.site.empty(shape, kind)
        return self.site.generic([*self.sources] * 2, [empty], [*reads, written], body)[0]

    def _in_order(self, count: int) -> SSAValue:
        """One after the other."""
        op, first = self.row.op, len(_kept(self.row.op))
        kind = element_of(op.results[0])
        own = [2, count // 2] if self.halves else [count]
        rank, loops = first + len(own), range(first, first + len(own))
        start = self.site.fill(_neutral(self.row, kind), shape_of(op.results[0]), kind)

        def body(b: Builder, args: Sequence[SSAValue]) -> list[SSAValue]:
            return [self.row.joined(b, args[-1], args[0])]

        return self.site.generic(
            self.sources, [start], [structured.identity(rank), self._result_map(rank)], body, list(loops)
        )[0]


def _from_start(site: Site, row: Row, result: SSAValue) -> SSAValue:
    """The result joined with what the op started from, unless that changes nothing."""
    start = row.op.outputs[0]
    constant = structured.fill_of(start)
    number = constant.value if constant is not None else None
    if isinstance(number, FloatAttr) and number.value.data == NEUTRAL[row.join]:
        return result
    maps = [structured.identity(len(shape_of(result)))] * 3
    empty = site.empty(shape_of(result), element_of(result))
    return site.generic([start, result], [empty], maps, lambda b, args: [row.joined(b, args[0], args[1])])[0]
