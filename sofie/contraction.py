"""Kernels read as sums of products, and how a block of a GPU brings their factors into its memory.

A factor is whatever the product multiplies: a matrix, the windows of a convolution of any rank, a gathered row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from xdsl.dialects import arith, memref, scf
from xdsl.dialects.builtin import Float32Type, FloatAttr, IntegerAttr, IntegerType, f32, i32
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from sofie import affine
from sofie.affine import Load, movement
from sofie.block_tiles import Arithmetic, Reader, zero_of
from sofie.body import Body
from sofie.dialects.scalars import WORD, DecodeOp, DotOp
from sofie.dialects.sofie import BYTES
from sofie.launches import BLOCK, extents_of, is_pure

LEAST_TERMS = 16
UNKNOWN = 4096
"""What an extent of the run is taken for."""

Values = dict[SSAValue, SSAValue]
"""By values of a kernel, those of the function that is made of it."""


@dataclass(frozen=True)
class Product:
    """A nest read as a sum of products.

    loops: those of the sum, from the outermost. parts: how many of them are around sums that start afresh, and are
    added. term: what is added, a product of floats or integers, or the dot product of two words of bytes. left, right:
    the factors. batch, rows, columns: which loops of the nest are which.
    """

    nest: scf.ParallelOp
    loops: Sequence[scf.ForOp]
    parts: int
    term: Term
    left: SSAValue
    right: SSAValue
    batch: Sequence[int]
    rows: Sequence[int]
    columns: Sequence[int]

    @staticmethod
    def of(nest: scf.ParallelOp, by_vectors: bool = False) -> Product | None:
        """The product of a nest; None where it is anything else. by_vectors: whether one without columns is one."""
        outer = [op for op in nest.body.block.ops if op.regions and not isinstance(op, scf.ReduceOp)]
        if len(outer) != 1 or not isinstance(outer[0], scf.ForOp):
            return None
        loops, parts = sum_of(outer[0])
        if not loops or any(isinstance(op, memref.AllocaOp) for op in nest.body.block.ops):
            return None
        term = added(loops[-1])
        if term is None:
            return None
        left, right = factors_of(term)
        needs = [_depends(side, nest, loops) for side in (left, right)]
        if None in needs:
            return None
        first, second = (set(need or ()) for need in needs)
        last = len(nest.body.block.args) - 1
        if last in first:
            first, second, left, right = second, first, right, left
        if by_vectors and set(range(last + 1)) in (first, second) and not first & second:
            left, right = (left, right) if first else (right, left)
            return Product(nest, loops, parts, term, left, right, [], list(range(last + 1)), [])
        every = range(last + 1)
        if last not in second or last in first or not first | second >= set(every):
            return None
        rows, columns = sorted(first - second), sorted(second - first)
        return Product(nest, loops, parts, term, left, right, sorted(first & second), rows, columns) if rows else None

    def size(self, loops: Iterable[int]) -> int:
        """About how many iterations some loops of the nest have."""
        extents = extents_of(self.nest)
        return math.prod(extents[d] or UNKNOWN for d in loops)

    @property
    def results(self) -> int:
        """About how many there are; none where each has too few terms."""
        terms = math.prod(affine.constant(loop.ub) or UNKNOWN for loop in self.loops) * (WORD if self.signs else 1)
        return 0 if terms < LEAST_TERMS else self.size((*self.batch, *self.rows, *self.columns))

    @property
    def sum(self) -> scf.ForOp:
        """The outermost loop."""
        return self.loops[0]

    @property
    def kind(self) -> Float32Type | IntegerType:
        """The type of the sum."""
        kind = self.term.results[0].type
        assert isinstance(kind, Float32Type | IntegerType)
        return kind

    @property
    def codes(self) -> tuple[SSAValue, SSAValue, str] | None:
        """The factors as codes of 16 bits, and their format, where both are decoded."""
        left, right = self.left.owner, self.right.owner
        if not isinstance(left, DecodeOp) or not isinstance(right, DecodeOp) or left.format != right.format:
            return None
        return left.code, right.code, left.format.data

    @property
    def signs(self) -> str | None:
        """Of bytes, which of `BYTES` the factors are."""
        return BYTES[self.term.x is not self.left] if isinstance(self.term, DotOp) else None

    @property
    def inner(self) -> Sequence[scf.ForOp]:
        """The loops of one part of the sum."""
        return self.loops[self.parts :]

    @property
    def rest(self) -> list[Operation]:
        """What the nest does beside the sum."""
        return [op for op in self.nest.body.block.ops if op is not self.sum and not isinstance(op, scf.ReduceOp)]

    def enter(self, values: Values, loops: Sequence[int], places: Sequence[SSAValue]) -> None:
        """Says which places some loops of the nest have come to."""
        variables = self.nest.body.block.args
        for d, place in zip(loops, places, strict=True):
            place.name_hint = place.name_hint or variables[d].name_hint
            values[variables[d]] = place

    def finish(self, body: Body, values: Values, total: SSAValue) -> list[tuple[memref.StoreOp, SSAValue]]:
        """Writes what the nest does with a sum, but for its stores: those, each with the value that it would write.

        `values` knows the places of the nest's loops.
        """
        result, start = self.sum.results[0], self.sum.iter_args[0]
        found = []
        for op in self.rest:
            if result in op.operands and result not in values:
                add = arith.AddfOp if self.kind == f32 else arith.AddiOp
                values[result] = total if is_zero(start) else body.add(add(values[start], total))
            if isinstance(op, memref.StoreOp):
                found.append((op, values.get(op.value, op.value)))
            else:
                body.clone([op], values)
        return found


Term = arith.MulfOp | arith.MuliOp | DotOp


def factors_of(term: Term) -> tuple[SSAValue, SSAValue]:
    """What is multiplied."""
    return (term.x, term.w) if isinstance(term, DotOp) else (term.lhs, term.rhs)


def sum_of(outer: scf.ForOp) -> tuple[list[scf.ForOp], int]:
    """The loops of a sum of float32 or int32, each in the one before, and how many are around sums that start afresh;
    no loops where it is anything else.
    """
    loops, parts = [outer], 0
    while True:
        loop = loops[-1]
        last = loop.body.block.last_op
        assert isinstance(last, scf.YieldOp)
        simple = len(loop.iter_args) == 1 and affine.constant(loop.lb) == 0 and affine.constant(loop.step) == 1
        sums = simple and loop.results[0].type in (f32, i32)
        if not sums or not isinstance(loop.ub.owner, arith.ConstantOp | Block):
            return [], 0
        inner = [op for op in loop.body.block.ops if op.regions and not _is_read(op)]
        if not inner:
            return loops, parts
        (next_loop,) = inner if len(inner) == 1 else (None,)
        carried, value = loop.body.block.args[1], last.arguments[0]
        if not isinstance(next_loop, scf.ForOp) or len(next_loop.iter_args) != 1 or len(list(carried.uses)) != 1:
            return [], 0
        goes_on = next_loop.iter_args[0] is carried and value is next_loop.results[0]
        both = {carried, next_loop.results[0]}
        adds = isinstance(value.owner, arith.AddfOp | arith.AddiOp) and set(value.owner.operands) == both
        if adds and is_zero(next_loop.iter_args[0]):
            parts = parts or len(loops)
        elif not goes_on:
            return [], 0
        loops.append(next_loop)


def is_zero(value: SSAValue) -> bool:
    """Whether a value is known to be the number that adds nothing."""
    owner = value.owner
    return (
        isinstance(owner, arith.ConstantOp)
        and isinstance(owner.value, FloatAttr | IntegerAttr)
        and owner.value.value.data == 0
    )


def added(loop: scf.ForOp) -> Term | None:
    """The product that the innermost loop of a sum adds."""
    last, carried = loop.body.block.last_op, loop.body.block.args[1]
    assert isinstance(last, scf.YieldOp)
    total = last.arguments[0].owner
    if not isinstance(total, arith.AddfOp | arith.AddiOp) or carried not in total.operands:
        return None
    term = (total.rhs if total.lhs is carried else total.lhs).owner
    if len(list(carried.uses)) != 1 or not isinstance(term, Term):
        return None
    return term if not isinstance(term, DotOp) or is_zero(term.sum) and term.res.type == i32 else None


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
        return all(map(_is_read, owner.walk())) and all(map(visit, _needs(owner)))

    return found if visit(value) else None


def _is_read(op: Operation) -> bool:
    """Whether an op computes or reads, or chooses between values."""
    return is_pure(op) or isinstance(op, Load | scf.IfOp | scf.YieldOp)


def _needs(op: Operation) -> list[SSAValue]:
    """What an op and all in it use and do not make."""
    made = {result for inner in op.walk() for result in inner.results}
    return [v for inner in op.walk() for v in inner.operands if v not in made]


def _inside(block: Block | None, nest: scf.ParallelOp | scf.ForOp) -> bool:
    while block is not None:
        if block is nest.body.block:
            return True
        block = block.parent_block()
    return False


@dataclass
class Factor:
    """One factor of the products: how a block gets its part for a step.

    size: rows (or columns) of the tile. first: the tile's first. loops, extents, whole: the loops of the nest that are
    its rows, how long they are and how many rows that makes.
    """

    product: Product
    arithmetic: Arithmetic
    values: Values
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
    def count(self) -> int:
        """Words that a thread brings for a step."""
        return self.size * self.arithmetic.depth // BLOCK

    def within(self, body: Body, row: SSAValue) -> SSAValue | None:
        """Whether there is such a row; None where all tiles are full."""
        whole = affine.constant(self.whole)
        return None if whole is not None and whole % self.size == 0 else body.less(row, self.whole)

    def prepare(self, body: Body, memory: SSAValue | None = None) -> None:
        """The memory of the block, twice, and registers for what is on its way; rows are padded against conflicts.

        memory: an array of it that is there already, as large or larger.
        """
        how = self.arithmetic
        self.shared = memory or body.room([2, how.depth, self.size + how.padding], how.word, self.name, shared=True)
        self.next = body.room([self.count, how.terms], how.term, f"next_{self.name}")

    def reader(self, half: SSAValue) -> Reader:
        """How the words of one half are read."""
        return lambda body, word, row: body.load(self.shared, half, word, row)

    def _element(self, body: Body, thread: SSAValue, n: SSAValue) -> tuple[SSAValue, SSAValue]:
        """Row and word of the n-th element that a thread brings: threads read side by side."""
        place = body.plus(body.times(n, BLOCK), thread)
        if self._terms_are_near:
            return body.over(place, self.arithmetic.depth), body.modulo(place, self.arithmetic.depth)
        return body.modulo(place, self.size), body.over(place, self.size)

    @property
    def _terms_are_near(self) -> bool:
        """Whether the terms of a row lie side by side in memory, rather than the rows of a term."""
        if not self.loops:
            return True
        variable = self.product.nest.body.block.args[self.loops[-1]]
        term = self.product.loops[-1].body.block.args[0]
        loads = [o for op in made_by(self.value, self.product.nest) for o in op.walk() if isinstance(o, Load)]
        steps = [movement(o, v) for o in loads for v in (term, variable)]
        return 1 in steps[::2] and 1 not in steps[1::2]

    def fetch(self, body: Body, thread: SSAValue, start: SSAValue, terms: Sequence[SSAValue], depth: SSAValue) -> None:
        """Loads this thread's elements of the step that starts at a term."""
        each = self.arithmetic.terms
        known = affine.constant(depth)
        full = known is not None and known % (self.arithmetic.depth * each) == 0

        def element(here: Body, n: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            row, word = self._element(here, thread, n)
            row, near = here.plus(self.first, row, "row"), here.plus(start, here.times(word, each), "term")
            for k in range(each):
                term = here.plus(near, k)
                inside = here.both(self.within(here, row), None if full else here.less(term, depth))
                here.store(self.guarded(here, inside, row, term, terms), self.next, n, here.number(k))
            return []

        body.loop(0, self.count, 1, element, name="n", unroll=True)

    def guarded(
        self, body: Body, inside: SSAValue | None, row: SSAValue, term: SSAValue, terms: Sequence[SSAValue]
    ) -> SSAValue:
        """The factor at a row and a term where a condition holds, else zero."""
        zero = zero_of(body, self.arithmetic.term)
        (value,) = body.choose(inside, lambda there: [self.element(there, row, term, terms)], [zero])
        return value

    def element(self, body: Body, row: SSAValue, term: SSAValue, terms: Sequence[SSAValue]) -> SSAValue:
        """The factor at a row and a term, of loops of so many terms."""
        values = dict(self.values)
        variables = self.product.nest.body.block.args
        values.update({variables[d]: place for d, place in zip(self.loops, body.apart(row, self.extents), strict=True)})
        for loop, place in zip(self.product.inner, body.apart(term, terms), strict=True):
            values[loop.body.block.args[0]] = place
        body.clone(made_by(self.value, self.product.nest), values)
        return values[self.value]

    def keep(self, body: Body, thread: SSAValue, half: SSAValue) -> None:
        """Puts them into the block's memory, term by term."""

        def element(here: Body, n: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            row, word = self._element(here, thread, n)
            values = [here.load(self.next, n, here.number(k)) for k in range(self.arithmetic.terms)]
            here.store(self.arithmetic.pack(here, values), self.shared, half, word, row)
            return []

        body.loop(0, self.count, 1, element, name="n", unroll=True)


def add_up(
    body: Body,
    thread: SSAValue,
    moving: Sequence[Factor],
    terms: Sequence[SSAValue],
    readers: Callable[[Body, SSAValue, SSAValue], tuple[Reader, Reader]],
    sums: SSAValue,
) -> None:
    """Adds up the products of all terms, of loops of so many: while one step is multiplied, the next is on its way.

    moving: the factors that come step by step. readers: how both are read, of the step before a number, which lies in
    the half that is given.
    """
    how = moving[0].arithmetic
    whole, depth = body.product(terms), how.depth * how.terms
    steps = body.filled(whole, depth)

    def step(here: Body, number: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
        more, term = here.less(number, steps), here.times(number, depth)
        this, other = here.modulo(number, 2), here.modulo(here.plus(number, 1), 2)
        this.name_hint, other.name_hint = "half", "other"
        left, right = readers(here, number, other)
        fetching = here.when(more)
        for factor in moving:
            factor.fetch(fetching, thread, term, terms, whole)
        how.multiply(here.when(here.add(arith.CmpiOp(number, here.number(0), "sgt"))), thread, left, right, sums)
        keeping = here.when(more)
        for factor in moving:
            factor.keep(keeping, thread, this)
        here.barrier()
        return []

    body.loop(0, body.plus(steps, 1), 1, step, name="step", unroll=False)


def made_by(value: SSAValue, nest: scf.ParallelOp | scf.ForOp) -> list[Operation]:
    """The ops of a nest, or a loop, that a factor is made by, those that others need first."""
    found: dict[Operation, None] = {}

    def visit(v: SSAValue) -> None:
        owner = v.owner
        if isinstance(owner, Operation) and owner not in found and _inside(owner.parent_block(), nest):
            for operand in _needs(owner):
                visit(operand)
            found[owner] = None

    visit(value)
    return list(found)
