"""Runs regions: each block is planned once, as a list of steps over numbered values, and then walked.

xDSL's own walk looks every value up through a chain of scopes and prints the whole module into an error; a kernel's
inner loop needs neither. Values are numpy arrays and numpy scalars, never Python numbers, so that arithmetic keeps the
element type. There is no recursion in a module, hence one frame.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.interpreter import Interpreter, InterpreterFunctions, OpImplResult, PythonValues, impl, register_impls
from xdsl.ir import Attribute, Operation, Region, SSAValue

from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.errors import SofieError
from sofie.interpreter.lifetimes import births
from sofie.rewrite import blame
from sofie.sizes import Symbol, at, symbols_of
from sofie.weights import Array

_POISON_BYTE = b"\xa5"

_Meaning = Callable[[InterpreterFunctions, Interpreter, Operation, PythonValues], OpImplResult]
_Step = tuple[_Meaning, InterpreterFunctions, Operation, tuple[int, ...], tuple[int, ...]]
_Fact = TypeVar("_Fact")
_Op = TypeVar("_Op", bound=Operation)


def refusal(op: Operation, reason: str) -> SofieError:
    """The error that `op` cannot be run, in one sentence that names its ONNX node where there is one."""
    return SofieError(f"{blame(op)}: {op.name} {reason}")


def poison(array: Array) -> None:
    """Fills memory that nobody has written: NaN, or bytes 0xA5 where there is no NaN."""
    if array.dtype.kind == "f":
        array.fill(np.nan)
    else:
        array.fill(True if array.dtype.kind == "b" else np.frombuffer(_POISON_BYTE * array.itemsize, array.dtype)[0])


def poisoned(value: SSAValue, sizes: Mapping[str, int]) -> Array:
    """New memory for a tensor or memref value, given the run-time sizes."""
    return poison_of(element_of(value), at(shape_of(value), sizes))


def poison_of(element: Attribute, shape: tuple[int, ...]) -> Array:
    """New memory for elements of a type."""
    array: Array = np.empty(shape, numpy_dtype(element))
    poison(array)
    return array


def within(room: Array, shape: tuple[int, ...]) -> Array:
    """The first elements of some memory under a shape."""
    return room.reshape(-1)[: math.prod(shape)].reshape(shape)


def numbers(interpreter: Interpreter, extents: Iterable[int]) -> tuple[int, ...]:
    """Extents, strides or offsets in this run."""
    assert isinstance(interpreter, Machine)
    return at(extents, interpreter.sizes)


def room_for(interpreter: Interpreter, value: SSAValue) -> Array:
    """New memory for a value in this run."""
    assert isinstance(interpreter, Machine)
    return poisoned(value, interpreter.sizes)


class Functions(InterpreterFunctions):
    """Base of the meanings: remembers what follows from an op alone, since a loop runs it many times."""

    def __init__(self) -> None:
        self._facts: defaultdict[Callable[..., Any], dict[Operation, Any]] = defaultdict(dict)

    def fact(self, op: _Op, find: Callable[[_Op], _Fact]) -> _Fact:
        """`find(op)`, found once; `find` is a function of a module, not made for the call."""
        known = self._facts[find]
        if op not in known:
            known[op] = find(op)
        found: _Fact = known[op]
        return found


def tabulated(meanings: Mapping[type[Operation], Callable[..., PythonValues]]) -> type[Functions]:
    """Functions with one meaning an op, written as a table."""
    rows = {kind.name: impl(kind)(meaning) for kind, meaning in meanings.items()}
    made: type[Functions] = type("TabulatedFunctions", (Functions,), rows)
    return register_impls(made)


@dataclass(frozen=True)
class _Plan:
    arguments: tuple[int, ...]
    steps: list[_Step]


class Machine(Interpreter):
    """xDSL's interpreter with a planned walk, the lives of the arena's buffers, and the run-time sizes by name."""

    def __init__(
        self,
        module: ModuleOp,
        functions: Iterable[InterpreterFunctions],
        sizes: Mapping[str, int],
        random: Callable[[ModuleOp, Sequence[Array]], list[Array]],
    ) -> None:
        """`random` runs another module on operands and the random state of this run."""
        super().__init__(module)
        self.sizes, self.random = dict(sizes), random
        self.late: list[tuple[SSAValue, Array]] = []
        """Arguments whose sizes the run finds, and the memory for their bounds."""
        for each in functions:
            self.register_implementations(each)
        self._plans: dict[Region, _Plan] = {}
        self._slots: dict[SSAValue, int] = {}
        self._values: list[Any] = []

    def found(self, symbol: Symbol, number: int) -> None:
        """The run has found a size: buffers that waited for it get their shapes. Raises ValueError out of bounds."""
        if not symbol.low <= number <= symbol.high:
            raise ValueError(f"{symbol.name} is {number}, which is not in {symbol.low}..{symbol.high}")
        self.sizes[symbol.name] = number
        for argument, room in self.late:
            if all(s.name in self.sizes for s in symbols_of(shape_of(argument))):
                self._values[self._slots[argument]] = within(room, at(shape_of(argument), self.sizes))

    def run_ssacfg_region(self, region: Region, args: PythonValues, name: str = "") -> PythonValues:
        """Runs a region of one block on `args`; returns what its terminator hands out. Raises SofieError."""
        plan = self._plans.get(region) or self._plan(region)
        values = self._values
        for slot, value in zip(plan.arguments, args, strict=True):
            values[slot] = value
        op: Operation | None = None
        try:
            for meaning, owner, op, operands, results in plan.steps:
                made, end = meaning(owner, self, op, tuple([values[slot] for slot in operands]))
                if end is not None:
                    return made
                for slot, value in zip(results, made, strict=True):
                    values[slot] = value
        except SofieError:
            raise
        except Exception as error:
            assert op is not None
            raise refusal(op, f"cannot be run: {error}") from error
        return ()

    def _plan(self, region: Region) -> _Plan:
        block = region.block
        arguments = self._numbered(block.args)
        born = births(block)
        steps: list[_Step] = []
        for op in block.ops:
            if op in born:
                steps.append((_poison_step, InterpreterFunctions(), op, self._numbered(born[op]), ()))
            owner, meaning = self._meaning(op)
            steps.append((meaning, owner, op, self._numbered(op.operands), self._numbered(op.results)))
        self._plans[region] = plan = _Plan(arguments, steps)
        return plan

    def _meaning(self, op: Operation) -> tuple[InterpreterFunctions, _Meaning]:
        found = self._impls._impl_dict.get(type(op))
        if found is None:
            raise refusal(op, "has no meaning in the interpreter")
        return found

    def _numbered(self, values: Iterable[SSAValue]) -> tuple[int, ...]:
        numbers = tuple(self._slots.setdefault(value, len(self._slots)) for value in values)
        self._values.extend([None] * (len(self._slots) - len(self._values)))
        return numbers


def _poison_step(
    functions: InterpreterFunctions, interpreter: Interpreter, op: Operation, arrays: PythonValues
) -> OpImplResult:
    """The life of these buffers begins: whatever lay there before is gone."""
    for array in arrays:
        poison(array)
    return OpImplResult((), None)
