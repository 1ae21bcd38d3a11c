"""Scalar code with loops: what has an order of its own and writes where data says (compaction, scatter, search).

    def count(walk, into):                      # one kernel; `into` is its result, updated in place
        def step(i, carried):
            return [walk.add(carried[0], walk.load(flags, i))]
        (total,) = walk.for_(0, n, [zero], step)
        return [walk.store(total, into, 0)]

    (total,) = kernel(build, [build.empty([1], i64)], count)

Tensors are values here too: `store` returns the tensor after it, a loop or a choice carries it on. Each version is used
once, so that all of them share one buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import IndexType, i64
from xdsl.ir import Attribute, Block, Region, SSAValue

from sofie.dialects.sofie import FusedOp, YieldOp
from sofie.dialects.types import element_of
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.sizes import Size

INDEX = IndexType()

Place = SSAValue | int
"""A position: a number (a run-time size among them), or a value of type index."""

Step = Callable[[SSAValue, Sequence[SSAValue]], Sequence[SSAValue]]
Visited = Sequence[SSAValue]
Visit = Callable[[Visited, Sequence[SSAValue]], Sequence[SSAValue]]


class Walk(Scalars):
    """Inserts scalar code, loops and choices at the end of the block that is being written."""

    def __init__(self, build: Lowering) -> None:
        super().__init__(build.add, build.unsigned)
        self._build = build

    def index(self, place: Place) -> SSAValue:
        """A position as a value of type index."""
        return self._build.index(place)

    def number(self, value: SSAValue, kind: Attribute) -> SSAValue:
        """An index as an integer of type `kind`, or the other way round."""
        return self.insert(arith.IndexCastOp(value, kind))

    def load(self, source: SSAValue, *places: Place) -> SSAValue:
        """One element."""
        return self.insert(tensor.ExtractOp(source, [self.index(p) for p in places], element_of(source)))

    def store(self, value: SSAValue, into: SSAValue, *places: Place) -> SSAValue:
        """`into` with one element replaced."""
        return self.insert(tensor.InsertOp(value, into, [self.index(p) for p in places]))

    def for_(self, low: Place, high: Place, carried: Sequence[SSAValue], step: Step, name: str = "i") -> list[SSAValue]:
        """carried = step(i, carried) for i in low .. high - 1; what is carried at the end. `name` is that of i."""
        bounds = self.index(low), self.index(high), self.index(1)
        body = Block(arg_types=[INDEX, *(v.type for v in carried)])
        body.args[0].name_hint = name
        for argument, start in zip(body.args[1:], carried, strict=True):
            argument.name_hint = start.name_hint
        with self._build.inside(body):
            self._build.add(scf.YieldOp(*step(body.args[0], body.args[1:])))
        loop = scf.ForOp(*bounds, carried, body)
        self._build.add(loop)
        return list(loop.res)

    def each(self, shape: Sequence[int], carried: Sequence[SSAValue], step: Visit) -> list[SSAValue]:
        """carried = step(position, carried) for every position of a tensor of `shape`, in row-major order."""
        return self._each(list(shape), [], carried, step)

    def _each(self, shape: Sequence[int], outer: Visited, carried: Sequence[SSAValue], step: Visit) -> list[SSAValue]:
        if not shape:
            return list(step(outer, carried))
        return self.for_(0, shape[0], carried, lambda i, c: self._each(shape[1:], [*outer, i], c, step))

    def plus(self, place: SSAValue, number: int) -> SSAValue:
        """A position further on."""
        return self.add(place, self.constant(number, INDEX)) if number else place

    def both(self, *conditions: SSAValue) -> SSAValue:
        """Whether all conditions hold; all of them are computed."""
        return reduce(lambda a, b: self.binary("and", a, b), conditions)

    def choose(
        self, condition: SSAValue, yes: Callable[[], Sequence[SSAValue]], no: Sequence[SSAValue]
    ) -> list[SSAValue]:
        """What `yes()` computes where the condition holds, else `no`."""
        branches = []
        for values in (yes, lambda: no):
            block = Block()
            with self._build.inside(block):
                self._build.add(scf.YieldOp(*values()))
            branches.append(Region(block))
        choice = scf.IfOp(condition, [v.type for v in no], branches[0], branches[1])
        self._build.add(choice)
        return list(choice.output)


@contextmanager
def _group(build: Lowering) -> Iterator[Block]:
    block = Block()
    with build.inside(block):
        yield block


def kernel(build: Lowering, results: Sequence[SSAValue], fn: Callable[..., Sequence[SSAValue]]) -> list[SSAValue]:
    """One kernel of scalar code: `fn(walk, *results)` returns the results after it, which it updates in place.

    The results start as they are given (`build.empty`, `build.fill`, `build.copy`); what `fn` loads from must be made
    before.
    """
    with _group(build) as block:
        made = fn(Walk(build), *results)
        build.add(YieldOp(*made))
    group = FusedOp(block, [v.type for v in made])
    build.add(group)
    return list(group.res)


def found(build: Lowering, extent: int, count: Callable[[Walk], SSAValue]) -> None:
    """A kernel that counts: `count(walk)` is what the size `extent` is in this run."""

    def fn(walk: Walk, into: SSAValue) -> Sequence[SSAValue]:
        return [walk.store(walk.number(count(walk), i64), into, 0)]

    if isinstance(extent, Size):
        (total,) = kernel(build, [build.empty([1], i64)], fn)
        tell(build, extent, total)


def tell(build: Lowering, extent: int, total: SSAValue) -> None:
    """Says that the size `extent` is the first element of an int64 tensor."""
    if isinstance(extent, Size):
        build.found(extent, build.element(total))
