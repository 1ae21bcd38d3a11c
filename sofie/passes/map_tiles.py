"""map-tiles: a contraction's results become tiles, a tile a block, with both factors in the block's memory (4 -> 4').

    scf.parallel (%i, %j) .. {                        %a, %b = memory of the block, twice
      %sum = scf.for %k .. { %x[%i, %k] %w[%k, %j] }  scf.for %step = 0 to K / 16 + 1 {
      memref.store f(%sum), %y[%i, %j]          ->      registers = parts of x and w for this step
    }                                                   sums += what %a and %b hold, for 8 x 8 results a thread
                                                        %a, %b = registers ; gpu.barrier }
                                                      memref.store f(sums[..]), %y[..]

A factor is whatever the product multiplies: a matrix, the windows of a convolution of any rank, a gathered row. The
loops that only one factor depends on are the rows of the result, those that only the other depends on its columns, and
those of both a batch; the last loop of the nest is among the columns, so that threads write side by side. Rows, columns
and terms beyond the end are zeros, or are not stored. While a step is multiplied, the next is on its way. The tile is
the one that keeps most of the card at work, by the cost of `sofie.block_tiles.Tile`; `precision` says in which
arithmetic it is multiplied: float32 by each thread, any other by tensor cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf
from xdsl.dialects.builtin import Float32Type, FloatAttr, ModuleOp, f32
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.block_tiles import PRECISIONS, Arithmetic, arithmetic
from sofie.dialects.types import strides_of
from sofie.errors import SofieError, printable
from sofie.launches import BLOCK, Body, Frame, extents_of, is_pure, kernels_of, nest_of

LEAST_RESULTS = 32 * 1024
"""With fewer, tiles would leave most processors idle: a warp or a thread each is better."""
LEAST_TERMS = 16
UNKNOWN = 4096
"""What an extent of the run is taken for."""


@dataclass(frozen=True)
class MapTiles(ModulePass):
    """Maps the contractions that are large enough."""

    name: ClassVar[str] = "map-tiles"

    precision: str = "float32"
    least: int = LEAST_RESULTS

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.precision not in PRECISIONS:
            raise SofieError(
                f"map-tiles: {printable(self.precision)!r} is no precision; choose {', '.join(PRECISIONS)}"
            )
        for kernel in kernels_of(op):
            nest = nest_of(kernel)
            product = None if nest is None else _Product.of(nest)
            if nest is not None and product is not None and product.results >= self.least:
                _Mapping(kernel, nest, product, product.arithmetic(self.precision)).map()


@dataclass(frozen=True)
class _Product:
    """A nest read as a sum of products.

    loops: those of the sum, from the outermost. parts: how many of them are around sums that start afresh, and are
    added. left, right: the factors. batch, rows, columns: which loops of the nest are which.
    """

    nest: scf.ParallelOp
    loops: Sequence[scf.ForOp]
    parts: int
    left: SSAValue
    right: SSAValue
    batch: Sequence[int]
    rows: Sequence[int]
    columns: Sequence[int]

    @staticmethod
    def of(nest: scf.ParallelOp) -> _Product | None:
        """The product of a nest; None where it is anything else."""
        outer = [op for op in nest.body.block.ops if op.regions and not isinstance(op, scf.ReduceOp)]
        if len(outer) != 1 or not isinstance(outer[0], scf.ForOp):
            return None
        loops, parts = _sum(outer[0])
        if not loops or any(isinstance(op, memref.AllocaOp) for op in nest.body.block.ops):
            return None
        product = _added(loops[-1])
        if product is None:
            return None
        needs = [_depends(side, nest, loops) for side in product.operands]
        if None in needs:
            return None
        first, second = (set(need or ()) for need in needs)
        last = len(nest.body.block.args) - 1
        left, right = product.lhs, product.rhs
        if last in first:
            first, second, left, right = second, first, right, left
        every = range(last + 1)
        if last not in second or last in first or not first | second >= set(every):
            return None
        rows, columns = sorted(first - second), sorted(second - first)
        return _Product(nest, loops, parts, left, right, sorted(first & second), rows, columns) if rows else None

    def size(self, loops: Iterable[int]) -> int:
        """About how many iterations some loops of the nest have."""
        extents = extents_of(self.nest)
        return math.prod(extents[d] or UNKNOWN for d in loops)

    @property
    def results(self) -> int:
        """About how many there are; none where each has too few terms."""
        terms = math.prod(affine.constant(loop.ub) or UNKNOWN for loop in self.loops)
        return 0 if terms < LEAST_TERMS else self.size((*self.batch, *self.rows, *self.columns))

    def arithmetic(self, precision: str) -> Arithmetic:
        """The best tile for this size."""
        return arithmetic(precision, *(self.size(loops) for loops in (self.batch, self.rows, self.columns)))


def _sum(outer: scf.ForOp) -> tuple[list[scf.ForOp], int]:
    """The loops of a sum of floats, each in the one before, and how many are around sums that start afresh; no loops
    where it is anything else.
    """
    loops, parts = [outer], 0
    while True:
        loop = loops[-1]
        last = loop.body.block.last_op
        assert isinstance(last, scf.YieldOp)
        simple = len(loop.iter_args) == 1 and affine.constant(loop.lb) == 0 and affine.constant(loop.step) == 1
        if not simple or loop.results[0].type != f32 or not isinstance(loop.ub.owner, arith.ConstantOp | Block):
            return [], 0
        inner = [op for op in loop.body.block.ops if op.regions]
        if not inner:
            return loops, parts
        (next_loop,) = inner if len(inner) == 1 else (None,)
        carried, value = loop.body.block.args[1], last.arguments[0]
        if not isinstance(next_loop, scf.ForOp) or len(next_loop.iter_args) != 1 or len(list(carried.uses)) != 1:
            return [], 0
        goes_on = next_loop.iter_args[0] is carried and value is next_loop.results[0]
        adds = isinstance(value.owner, arith.AddfOp) and set(value.owner.operands) == {carried, next_loop.results[0]}
        if adds and _is_zero(next_loop.iter_args[0]):
            parts = parts or len(loops)
        elif not goes_on:
            return [], 0
        loops.append(next_loop)


def _is_zero(value: SSAValue) -> bool:
    owner = value.owner
    return isinstance(owner, arith.ConstantOp) and isinstance(owner.value, FloatAttr) and owner.value.value.data == 0.0


def _added(loop: scf.ForOp) -> arith.MulfOp | None:
    """The product that the innermost loop of a sum adds."""
    last, carried = loop.body.block.last_op, loop.body.block.args[1]
    assert isinstance(last, scf.YieldOp)
    total = last.arguments[0].owner
    if not isinstance(total, arith.AddfOp) or len(list(carried.uses)) != 1 or carried not in total.operands:
        return None
    other = total.rhs if total.lhs is carried else total.lhs
    return other.owner if isinstance(other.owner, arith.MulfOp) and isinstance(other.type, Float32Type) else None


def _depends(value: SSAValue, nest: scf.ParallelOp, loops: Sequence[scf.ForOp]) -> set[int] | None:
    """Which loops of the nest a factor depends on; None where it is made by anything but loads and pure ops."""
    found: set[int] = set()
    variables = list(nest.body.block.args)
    terms = {loop.body.block.args[0] for loop in loops}
    seen: set[SSAValue] = set()

    def visit(v: SSAValue) -> bool:
        if v in seen:
            return True
        seen.add(v)
        if isinstance(v, BlockArgument):
            if v in variables:
                found.add(variables.index(v))
                return True
            return v in terms or v.block is not nest.body.block and not _inside(v.block, nest)
        owner = v.owner
        assert isinstance(owner, Operation)
        if not _inside(owner.parent_block(), nest):
            return True
        return (is_pure(owner) or isinstance(owner, memref.LoadOp)) and all(map(visit, owner.operands))

    return found if visit(value) else None


def _inside(block: Block | None, nest: scf.ParallelOp) -> bool:
    while block is not None:
        if block is nest.body.block:
            return True
        block = block.parent_block()
    return False


@dataclass
class _Mapping:
    """A contraction on its way to a function that works tile by tile."""

    kernel: func.FuncOp
    nest: scf.ParallelOp
    product: _Product
    arithmetic: Arithmetic
    frame: Frame = field(init=False)

    def map(self) -> None:
        """Replaces the kernel."""
        self.frame = Frame(self.kernel)
        body, tile, product = self.frame.body, self.arithmetic.tile, self.product
        extents = self.frame.extents(self.nest)
        batch, rows, columns = ([extents[d] for d in loops] for loops in (product.batch, product.rows, product.columns))
        height, width = body.product(rows), body.product(columns)
        thread, block = body.thread(), body.block_id()
        down, across = body.filled(height, tile.rows), body.filled(width, tile.columns)
        first = body.times(body.modulo(body.over(block, across), down), tile.rows)
        start = body.times(body.modulo(block, across), tile.columns)
        first.name_hint, start.name_hint = "first_row", "first_column"
        at_batch = body.apart(body.over(block, body.times(down, across)), batch)
        self._enter(product.batch, at_batch)
        left = _Factor(self, product.left, tile.rows, first, product.rows, rows, height, "a")
        right = _Factor(self, product.right, tile.columns, start, product.columns, columns, width, "b")
        left.prepare(body)
        right.prepare(body)
        sums = totals = self.arithmetic.start(body, "sums")
        if not product.parts:
            self._sum(body, thread, left, right, sums)
        else:
            gathers = self.arithmetic.is_exact
            totals = self.arithmetic.start(body, "totals") if gathers else sums
            around = product.loops[: product.parts]
            trips = [self.frame.values[loop.ub] for loop in around]

            def part(here: Body, number: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
                for loop, place in zip(around, here.apart(number, trips), strict=True):
                    self.frame.values[loop.body.block.args[0]] = place
                self._sum(here, thread, left, right, sums)
                if gathers:
                    self.arithmetic.gather(here, sums, totals)
                return []

            body.loop(0, body.product(trips), 1, part, name="part", unroll=False)
        self._store(body, thread, left, right, totals)
        bounds = list(self.nest.upperBound)

        def blocks(here: Body, given: list[SSAValue]) -> SSAValue:
            groups = (product.batch, product.rows, product.columns)
            parts = [here.product([given[d] for d in loops]) for loops in groups]
            tiles = [here.filled(parts[1], tile.rows), here.filled(parts[2], tile.columns)]
            return here.product([parts[0], *tiles])

        self.frame.launch(blocks, BLOCK, bounds, 1 if totals is not sums else self.arithmetic.together)

    def _sum(self, body: Body, thread: SSAValue, left: _Factor, right: _Factor, sums: SSAValue) -> None:
        """Adds up the products of all terms, or of a part of them."""
        terms = [self.frame.values[loop.ub] for loop in self.product.loops[self.product.parts :]]
        whole, depth = body.product(terms), self.arithmetic.depth * self.arithmetic.terms
        steps = body.filled(whole, depth)

        def step(here: Body, number: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            more, term = here.less(number, steps), here.times(number, depth)
            this, other = here.modulo(number, 2), here.modulo(here.plus(number, 1), 2)
            this.name_hint, other.name_hint = "half", "other"
            fetching = here.when(more)
            for factor in (left, right):
                factor.fetch(fetching, thread, term, terms, whole)
            multiplying = here.when(here.add(arith.CmpiOp(number, here.number(0), "sgt")))
            self.arithmetic.multiply(multiplying, thread, other, left.shared, right.shared, sums)
            keeping = here.when(more)
            for factor in (left, right):
                factor.keep(keeping, thread, this)
            here.barrier()
            return []

        body.loop(0, body.plus(steps, 1), 1, step, name="step", unroll=False)

    def _enter(self, loops: Sequence[int], values: Sequence[SSAValue]) -> None:
        variables = self.nest.body.block.args
        for d, value in zip(loops, values, strict=True):
            value.name_hint = value.name_hint or variables[d].name_hint
            self.frame.values[variables[d]] = value

    def _store(self, body: Body, thread: SSAValue, left: _Factor, right: _Factor, sums: SSAValue) -> None:
        """What the nest does with each sum."""
        (loop,) = [op for op in self.nest.body.block.ops if isinstance(op, scf.ForOp)]
        rest = [op for op in self.nest.body.block.ops if op is not loop and not isinstance(op, scf.ReduceOp)]

        def one(here: Body, down: SSAValue, across: SSAValue, total: SSAValue) -> None:
            row, column = here.plus(left.first, down, "row"), here.plus(right.first, across, "column")
            inside = here.when(here.both(left.within(here, row), right.within(here, column)))
            self._enter(self.product.rows, inside.apart(row, left.extents))
            self._enter(self.product.columns, inside.apart(column, right.extents))
            values = dict(self.frame.values)
            for op in rest:
                if loop.results[0] in op.operands and loop.results[0] not in values:
                    start = loop.iter_args[0]
                    known = _is_zero(start)
                    values[loop.results[0]] = total if known else inside.add(arith.AddfOp(values[start], total))
                inside.clone([op], values)

        self.arithmetic.each(body, thread, sums, one)


@dataclass
class _Factor:
    """One factor of the products: how a block gets its part for a step.

    size: rows (or columns) of the tile. first: the tile's first. loops, extents, whole: the loops of the nest that are
    its rows, how long they are and how many rows that makes.
    """

    mapping: _Mapping
    value: SSAValue
    size: int
    first: SSAValue
    loops: Sequence[int]
    extents: Sequence[SSAValue]
    whole: SSAValue
    name: str
    shared: SSAValue = field(init=False)
    next: SSAValue = field(init=False)

    @property
    def arithmetic(self) -> Arithmetic:
        """That of the product."""
        return self.mapping.arithmetic

    @property
    def count(self) -> int:
        """Words that a thread brings for a step."""
        return self.size * self.arithmetic.depth // BLOCK

    def within(self, body: Body, row: SSAValue) -> SSAValue | None:
        """Whether there is such a row; None where all tiles are full."""
        whole = affine.constant(self.whole)
        return None if whole is not None and whole % self.size == 0 else body.less(row, self.whole)

    def prepare(self, body: Body) -> None:
        """The memory of the block, twice, and registers for what is on its way; rows are padded against conflicts."""
        how = self.arithmetic
        self.shared = body.room([2, how.depth, self.size + how.padding], how.word, self.name, shared=True)
        self.next = body.room([self.count, how.terms], f32, f"next_{self.name}")

    def _element(self, body: Body, thread: SSAValue, n: SSAValue) -> tuple[SSAValue, SSAValue]:
        """Row and word of the n-th element that a thread brings: threads read side by side."""
        place = body.plus(body.times(n, BLOCK), thread)
        if self._terms_are_near:
            return body.over(place, self.arithmetic.depth), body.modulo(place, self.arithmetic.depth)
        return body.modulo(place, self.size), body.over(place, self.size)

    @property
    def _terms_are_near(self) -> bool:
        """Whether the terms of a row lie side by side in memory, rather than the rows of a term."""
        variable = self.mapping.nest.body.block.args[self.loops[-1]]
        term = self.mapping.product.loops[-1].body.block.args[0]
        loads = [op for op in _made_by(self.value, self.mapping.nest) if isinstance(op, memref.LoadOp)]
        steps = [
            (affine.step(o.memref, list(o.indices), strides_of(o.memref), v)) for o in loads for v in (term, variable)
        ]
        return 1 in steps[::2] and 1 not in steps[1::2]

    def fetch(self, body: Body, thread: SSAValue, start: SSAValue, terms: Sequence[SSAValue], depth: SSAValue) -> None:
        """Loads this thread's elements of the step that starts at a term."""
        ops = _made_by(self.value, self.mapping.nest)
        zero = body.add(arith.ConstantOp(FloatAttr(0.0, f32)))
        each = self.arithmetic.terms
        known = affine.constant(depth)
        full = known is not None and known % (self.arithmetic.depth * each) == 0

        def element(here: Body, n: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            row, word = self._element(here, thread, n)
            row, near = here.plus(self.first, row, "row"), here.plus(start, here.times(word, each), "term")
            for k in range(each):
                term = here.plus(near, k)
                inside = here.both(self.within(here, row), None if full else here.less(term, depth))
                (found,) = here.choose(inside, lambda there: [value(there, row, term)], [zero])  # noqa: B023
                here.store(found, self.next, n, here.number(k))
            return []

        def value(there: Body, row: SSAValue, term: SSAValue) -> SSAValue:
            values = dict(self.mapping.frame.values)
            variables = self.mapping.nest.body.block.args
            places = there.apart(row, self.extents)
            values.update({variables[d]: place for d, place in zip(self.loops, places, strict=True)})
            inner = self.mapping.product.loops[self.mapping.product.parts :]
            for loop, place in zip(inner, there.apart(term, terms), strict=True):
                values[loop.body.block.args[0]] = place
            there.clone(ops, values)
            return values[self.value]

        body.loop(0, self.count, 1, element, name="n", unroll=True)

    def keep(self, body: Body, thread: SSAValue, half: SSAValue) -> None:
        """Puts them into the block's memory, term by term."""

        def element(here: Body, n: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            row, word = self._element(here, thread, n)
            values = [here.load(self.next, n, here.number(k)) for k in range(self.arithmetic.terms)]
            here.store(self.arithmetic.pack(here, values), self.shared, half, word, row)
            return []

        body.loop(0, self.count, 1, element, name="n", unroll=True)


def _made_by(value: SSAValue, nest: scf.ParallelOp) -> list[Operation]:
    """The ops of a nest that a factor is made by, those that others need first."""
    found: dict[Operation, None] = {}

    def visit(v: SSAValue) -> None:
        owner = v.owner
        if isinstance(owner, Operation) and owner not in found and _inside(owner.parent_block(), nest):
            for operand in owner.operands:
                visit(operand)
            found[owner] = None

    visit(value)
    return list(found)
