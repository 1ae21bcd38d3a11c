"""Builds the body of a function at the loop levels: index arithmetic that folds what it knows, loops, choices, arrays.

What it makes is upstream's `scf`, `memref`, `arith` and `gpu`; a `Body` is only where the next op goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from xdsl.dialects import arith, gpu, memref, scf
from xdsl.dialects.builtin import IndexType, IntegerAttr, MemRefType, NoneAttr, StringAttr, UnitAttr, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue

from sofie import affine
from sofie.rewrite import erase

SHARED = 3
"""The memory space of a block's own memory."""
UNROLL = "sofie.unroll"
"""On a loop of a `gpu.func` whose every step shall be written out, so that arrays that it walks are registers."""
ROLLED = "sofie.rolled"
"""On one that shall stay a loop: written out, it would want more registers and be no faster."""


@dataclass
class Numbers:
    """The numbers of a function, each made once: at its top, or before an op."""

    block: Block
    before: Operation | None = None
    known: dict[int, arith.ConstantOp] = field(default_factory=dict)

    def value(self, number: int) -> SSAValue:
        """A number as an `index`."""
        if number not in self.known:
            self.known[number] = made = arith.ConstantOp(IntegerAttr(number, IndexType()))
            place = self.before or self.block.first_op
            if place is None:
                self.block.add_op(made)
            else:
                self.block.insert_op_before(made, place)
        return self.known[number].result

    def tidy(self) -> None:
        """Erases those that turned out not to be needed."""
        for made in self.known.values():
            if not made.result.uses:
                erase(made)


@dataclass(frozen=True)
class Body:
    """Where ops of a function go: the end of a block, or before an op. Index arithmetic folds what it knows."""

    block: Block
    before: Operation | None = None
    like: Operation | None = None
    """Whose location new ops get."""
    numbers: Numbers | None = None
    """Where those of a function are; without, each is made where it is needed."""

    def add(self, op: Operation, name: str | None = None) -> SSAValue:
        """Puts an op here; returns its first result, named."""
        self.put(op)
        if name is not None:
            op.results[0].name_hint = name
        return op.results[0]

    def put(self, op: Operation) -> None:
        """Puts any op here."""
        if self.like is not None:
            op.location = self.like.location
        if self.before is not None:
            self.block.insert_op_before(op, self.before)
        else:
            self.block.add_op(op)

    def number(self, value: int) -> SSAValue:
        """An `index`."""
        if self.numbers is not None:
            return self.numbers.value(value)
        return self.add(arith.ConstantOp(IntegerAttr(value, IndexType())))

    def plus(self, a: SSAValue, b: SSAValue | int, name: str | None = None) -> SSAValue:
        """a + b"""
        x, y = affine.constant(a), _known(b)
        if x is not None and y is not None:
            return self.number(x + y)
        return a if y == 0 else self._value(b) if x == 0 else self.add(arith.AddiOp(a, self._value(b)), name)

    def minus(self, a: SSAValue, b: SSAValue | int) -> SSAValue:
        """a - b"""
        return a if _known(b) == 0 else self.add(arith.SubiOp(a, self._value(b)))

    def times(self, a: SSAValue, b: SSAValue | int) -> SSAValue:
        """a b"""
        x, y = affine.constant(a), _known(b)
        if x is not None and y is not None:
            return self.number(x * y)
        return a if y == 1 else self._value(b) if x == 1 else self.add(arith.MuliOp(a, self._value(b)))

    def over(self, a: SSAValue, b: SSAValue | int, name: str | None = None) -> SSAValue:
        """a / b rounded down, of what is not negative."""
        x, y = affine.constant(a), _known(b)
        if x is not None and y:
            return self.number(x // y)
        return a if y == 1 else self.add(arith.DivUIOp(a, self._value(b)), name)

    def modulo(self, a: SSAValue, b: SSAValue | int, name: str | None = None) -> SSAValue:
        """What a / b leaves, of what is not negative."""
        return self.number(0) if _known(b) == 1 else self.add(arith.RemUIOp(a, self._value(b)), name)

    def filled(self, a: SSAValue, b: int) -> SSAValue:
        """a / b rounded up."""
        return self.over(self.plus(a, b - 1), b)

    def product(self, values: Sequence[SSAValue]) -> SSAValue:
        """The product of all."""
        total = self.number(1)
        for value in values:
            total = self.times(total, value)
        return total

    def less(self, a: SSAValue, b: SSAValue | int) -> SSAValue | None:
        """a < b; None where a is known to be less: a remainder of something no larger than b, or a number."""
        y = _known(b)
        if y is not None and (most := _most(a)) is not None and most < y:
            return None
        return self.add(arith.CmpiOp(a, self._value(b), "slt"))

    def both(self, *conditions: SSAValue | None) -> SSAValue | None:
        """Whether all hold; None for nothing to ask."""
        asked = [c for c in conditions if c is not None]
        if not asked:
            return None
        total = asked[0]
        for condition in asked[1:]:
            total = self.add(arith.AndIOp(total, condition))
        return total

    def apart(self, whole: SSAValue, extents: Sequence[SSAValue], names: Sequence[str | None] = ()) -> list[SSAValue]:
        """The indices of a row-major place among extents; the first takes what is left."""
        found: list[SSAValue] = []
        hints = list(names) or [None] * len(extents)
        for extent, name in reversed(list(zip(extents[1:], hints[1:], strict=True))):
            found.append(self.modulo(whole, extent, name))
            whole = self.over(whole, extent)
        if len(extents) > 1 and hints[0] and isinstance(whole.owner, Operation) and whole.owner.name == "arith.divui":
            whole.name_hint = hints[0]
        return [whole, *reversed(found)] if extents else []

    def clone(self, ops: Iterable[Operation], values: dict[SSAValue, SSAValue]) -> None:
        """Copies of ops, whose operands `values` gives; their results are entered there."""
        for op in ops:
            self.put(copy := op.clone(values))
            for old, new in zip(op.results, copy.results, strict=True):
                new.name_hint = old.name_hint
                values[old] = new

    def when(self, condition: SSAValue | None) -> Body:
        """Where ops run if a condition holds; here, if there is none."""
        if condition is None:
            return self
        inside = Block()
        self.put(scf.IfOp(condition, [], [inside]))
        inside.add_op(end := scf.YieldOp())
        return Body(inside, end, self.like, self.numbers)

    def choose(
        self, condition: SSAValue | None, make: Callable[[Body], list[SSAValue]], other: Sequence[SSAValue]
    ) -> list[SSAValue]:
        """What `make` gives if a condition holds, else `other`."""
        if condition is None:
            return make(self)
        yes, no = Block(), Block()
        made = make(Body(yes, None, self.like, self.numbers))
        yes.add_op(scf.YieldOp(*made))
        no.add_op(scf.YieldOp(*other))
        self.put(branch := scf.IfOp(condition, [v.type for v in made], [yes], [no]))
        return list(branch.results)

    def loop(
        self,
        low: SSAValue | int,
        high: SSAValue | int,
        step: SSAValue | int,
        make: Callable[[Body, SSAValue, list[SSAValue]], list[SSAValue]],
        start: Sequence[SSAValue] = (),
        name: str = "i",
        unroll: bool | None = None,
    ) -> list[SSAValue]:
        """A loop whose body `make` writes from the variable and what is carried; a single step is no loop.

        unroll: whether every step is to be written out, or none; without, that is left to who compiles it.
        """
        numbers = [_known(v) for v in (low, high, step)]
        if None not in numbers and numbers[0] == 0 and numbers[1] == numbers[2]:
            return make(self, self.number(0), list(start))
        inside = Block(arg_types=[IndexType(), *(v.type for v in start)])
        inside.args[0].name_hint = name
        for argument, value in zip(inside.args[1:], start, strict=True):
            argument.name_hint = value.name_hint
        first, last, by = (self._value(v) for v in (low, high, step))
        made = make(Body(inside, None, self.like, self.numbers), inside.args[0], list(inside.args[1:]))
        inside.add_op(scf.YieldOp(*made))
        self.put(loop := scf.ForOp(first, last, by, list(start), inside))
        if unroll is not None:
            loop.attributes[UNROLL if unroll else ROLLED] = UnitAttr()
        for result, argument in zip(loop.results, inside.args[1:], strict=True):
            result.name_hint = argument.name_hint
        return list(loop.results)

    def room(self, shape: Sequence[int], element: Attribute, name: str, shared: bool = False) -> SSAValue:
        """An array of this thread, or of the block."""
        space = IntegerAttr(SHARED, i64) if shared else NoneAttr()
        kind = MemRefType(element, shape, NoneAttr(), space)
        made = memref.AllocaOp.build(operands=[[], []], result_types=[kind], properties={"alignment": None})
        return self.add(made, name)

    def load(self, array: SSAValue, *indices: SSAValue) -> SSAValue:
        """An element."""
        return self.add(memref.LoadOp.get(array, list(indices)))

    def store(self, value: SSAValue, array: SSAValue, *indices: SSAValue) -> None:
        """Writes an element."""
        self.put(memref.StoreOp.get(value, array, list(indices)))

    def barrier(self, warp: bool = False) -> None:
        """Waits until all threads of the block, or of the warp, are here; each then sees what the others wrote."""
        op = gpu.BarrierOp()
        if warp:
            op.attributes["sofie.scope"] = StringAttr("subgroup")
        self.put(op)

    def thread(self) -> SSAValue:
        """The place of this thread in its block."""
        return self.add(gpu.ThreadIdOp(gpu.DimensionAttr(gpu.DimensionEnum.X)), "thread")

    def block_id(self) -> SSAValue:
        """The place of this block among all."""
        return self.add(gpu.BlockIdOp(gpu.DimensionAttr(gpu.DimensionEnum.X)), "block")

    def _value(self, a: SSAValue | int) -> SSAValue:
        return self.number(a) if isinstance(a, int) else a


def _known(a: SSAValue | int) -> int | None:
    return a if isinstance(a, int) else affine.constant(a)


def _most(value: SSAValue) -> int | None:
    """The largest that an index can be, where its arithmetic says so."""
    owner = value.owner
    if (known := affine.constant(value)) is not None:
        return known
    if isinstance(owner, arith.RemUIOp):
        divisor = affine.constant(owner.rhs)
        return None if divisor is None else divisor - 1
    if isinstance(owner, arith.AddiOp | arith.MuliOp):
        a, b = _most(owner.lhs), _most(owner.rhs)
        if a is None or b is None:
            return None
        return a + b if isinstance(owner, arith.AddiOp) else a * b
    return None
