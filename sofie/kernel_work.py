"""How much work a kernel does, counted in its level 4 code: what a time is to be held against.

Counted is what the loops do, not what the operator needs: work that a pass adds or saves shows. Where an extent or a
condition is the run's, the most that may happen counts.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects import arith, memref, scf, vector
from xdsl.dialects.builtin import IntegerAttr, MemRefType, ModuleOp, VectorType
from xdsl.dialects.func import CallOp, FuncOp
from xdsl.ir import Block, Operation, Region, SSAValue

from sofie.dialects.blas import GemmOp
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import bytes_of, element_of, shape_of
from sofie.extents import symbols_by_argument
from sofie.loops import most_trips
from sofie.memory import memory_of
from sofie.sizes import most
from sofie.work import Work, counts

_LOADS = (memref.LoadOp, vector.LoadOp)


def kernel_work(function: FuncOp, times: int = 1) -> Work:
    """The work of so many calls on the same memory.

    flops: as in `sofie.work`. bytes: of each argument, what is accessed, each element once.
    """
    counter = _count(function, times)
    return Work(counter.flops, sum(_touched(counter, function)))


def weights_read(module: ModuleOp) -> int:
    """The bytes of weights that an inference reads, each once: of a table, the rows that it looks up."""
    functions = {op.sym_name.data: op for op in module.body.block.ops if isinstance(op, FuncOp)}
    touched = {name: _touched(_count(function), function) for name, function in functions.items() if name != "infer"}
    read: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    for call in [op for op in functions["infer"].walk() if isinstance(op, CallOp)]:
        repeated = call.parent_op() is not functions["infer"]
        for operand, part in zip(call.operands, touched[call.callee.root_reference.data], strict=True):
            weight = memory_of(operand).owner
            if isinstance(weight, WeightOp):
                sizes[weight.blob.digest] = size = weight.blob.value.nbytes
                read[weight.blob.digest] += size if repeated else part
    return sum(min(read[digest], size) for digest, size in sizes.items())


def _count(function: FuncOp, times: int = 1) -> _Counter:
    counter = _Counter({argument: symbol.high for argument, symbol in symbols_by_argument(function).items()})
    counter.block(function.body.block, times)
    return counter


def _touched(counter: _Counter, function: FuncOp) -> list[int]:
    """The bytes of each argument that are accessed, each once; 0 for a size."""
    return [
        min(_bytes(a), counter.accessed[a]) if isinstance(a.type, MemRefType) else 0 for a in function.body.block.args
    ]


def _bytes(value: SSAValue) -> int:
    return most(math.prod(shape_of(value))) * bytes_of(element_of(value))


@dataclass
class _Counter:
    """sizes: the largest value of each argument that is a size. highest: of each counter of a loop. accessed: bytes by
    the memory behind the views, repetitions included.
    """

    sizes: dict[SSAValue, int]

    def __post_init__(self) -> None:
        self.flops = 0
        self.highest: dict[SSAValue, int] = {}
        self.accessed: Counter[SSAValue] = Counter()

    def block(self, block: Block, times: int) -> None:
        """Counts the ops of a block that runs so many times."""
        for op in block.ops:
            match op:
                case scf.ForOp():
                    self.block(op.body.block, times * self._enter(op.body.block.args[0], op.lb, op.ub, op.step))
                case scf.ParallelOp():
                    bounds = zip(op.body.block.args, op.lowerBound, op.upperBound, op.step, strict=True)
                    self.block(op.body.block, times * math.prod(self._enter(*b) for b in bounds))
                case scf.IfOp():
                    self._branches([op.true_region, op.false_region], times)
                case _:
                    for region in op.regions:
                        for inner in region.blocks:
                            self.block(inner, times)
                    self._op(op, times)

    def _branches(self, regions: list[Region], times: int) -> None:
        """Counts the branch with the most work."""
        before = self.flops, self.accessed
        candidates = []
        for region in regions:
            self.flops, self.accessed = before[0], before[1].copy()
            for block in region.blocks:
                self.block(block, times)
            candidates.append((self.flops, self.accessed.total(), self.accessed))
        self.flops, _, self.accessed = max(candidates, key=lambda c: c[:2])

    def _op(self, op: Operation, times: int) -> None:
        if isinstance(op, GemmOp):
            self.flops += 2 * most(math.prod(op.sizes)) * times
            for matrix in op.operands:
                self.accessed[memory_of(matrix)] += _bytes(matrix) * times
        elif isinstance(op, _LOADS):
            self.accessed[memory_of(op.operands[0])] += _size(op.results[0]) * times
        elif isinstance(op, memref.StoreOp | vector.StoreOp):
            self.accessed[memory_of(op.operands[1])] += _size(op.operands[0]) * times
        elif isinstance(op, vector.FMAOp):
            self.flops += 2 * _lanes(op.results[0]) * times
        elif isinstance(op, vector.ReductionOp):
            self.flops += (_lanes(op.operands[0]) - 1) * times
        elif counts(op):
            self.flops += _lanes(op.results[0]) * times

    # -- bounds ----------------------------------------------------------------------------------------------------

    def _enter(self, counter: SSAValue, low: SSAValue, high: SSAValue, step: SSAValue) -> int:
        """How often a loop runs at most; notes the largest value of its counter."""
        start, end = self._least(low), self._most(high)
        self.highest[counter] = max(end - 1, start)
        if (trips := most_trips(low, high, step)) is not None:
            return trips
        span = self._beyond(high, low)
        return max(0, -(-(end - start if span is None else span) // max(self._most(step), 1)))

    def _beyond(self, high: SSAValue, low: SSAValue) -> int | None:
        """How far `high` lies beyond `low` at most, where it is built on that: a tile."""
        owner = high.owner
        if isinstance(owner, arith.AddiOp) and low in owner.operands:
            other = owner.rhs if owner.lhs is low else owner.lhs
            return self._most(other)
        if isinstance(owner, arith.MinSIOp):
            found = [d for d in (self._beyond(v, low) for v in owner.operands) if d is not None]
            return min(found, default=None)
        return None

    def _least(self, value: SSAValue) -> int:
        """The value of an index where no loop has a say in it, else the least it can be."""
        return self._value(value, {}) or 0

    def _most(self, value: SSAValue) -> int:
        """The largest value of an index; 1 where nothing is known about it."""
        known = self._value(value, self.highest)
        return 1 if known is None else known

    def _value(self, value: SSAValue, counters: dict[SSAValue, int]) -> int | None:
        """The value of an index from constants, the sizes, and the given values of counters."""
        if (known := _constant(value)) is not None:
            return known
        if value in self.sizes or value in counters:
            return self.sizes.get(value, counters.get(value))
        compute = _ARITHMETIC.get(type(value.owner))
        if compute is None or not isinstance(value.owner, Operation):
            return None
        left, right = (self._value(operand, counters) for operand in value.owner.operands)
        if left is None or right is None or (right == 0 and type(value.owner) in _DIVISIONS):
            return None
        return compute(left, right)


_DIVISIONS: dict[type, Callable[[int, int], int]] = {
    arith.DivSIOp: operator.floordiv,
    arith.DivUIOp: operator.floordiv,
    arith.FloorDivSIOp: operator.floordiv,
    arith.CeilDivSIOp: lambda a, b: -(-a // b),
    arith.RemSIOp: operator.mod,
    arith.RemUIOp: operator.mod,
}
_ARITHMETIC: dict[type, Callable[[int, int], int]] = {
    arith.AddiOp: operator.add,
    arith.SubiOp: operator.sub,
    arith.MuliOp: operator.mul,
    arith.MinSIOp: min,
    arith.MaxSIOp: max,
    **_DIVISIONS,
}
"""Index arithmetic; no index is negative."""


def _constant(value: SSAValue) -> int | None:
    known = value.owner.value if isinstance(value.owner, arith.ConstantOp) else None
    return known.value.data if isinstance(known, IntegerAttr) else None


def _lanes(value: SSAValue) -> int:
    return math.prod(value.type.get_shape()) if isinstance(value.type, VectorType) else 1


def _size(value: SSAValue) -> int:
    return _lanes(value) * bytes_of(element_of(value))
