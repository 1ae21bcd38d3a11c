"""Fixed-point twins of float values (level 1): what passes that put a model into fixed point are written with.

A twin has the value of its float, exactly or as the pass defines it. Operators are made anew on twins; at the end what
nobody reads any more goes, and a float that is still read is converted from its twin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import cast

import numpy as np
import numpy.typing as npt
from xdsl.ir import Attribute, Operation, SSAValue

from sofie.dialects.fixed import ConvertOp, FixedType
from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import printable
from sofie.fixed import FRACTIONS, MOST_BITS, Fixed, covering
from sofie.rewrite import erase
from sofie.weights import Array

Exact = npt.NDArray[np.object_]
"""An array of fractions."""


class Declined(Exception):
    """Why an operator stays as it is; ends a sentence that begins with the operator."""


def exact(array: Array) -> Exact:
    """The numbers of a float array as fractions. Raises Declined where one is not finite."""
    if not np.all(np.isfinite(array)):
        raise Declined("one of its constants is not finite")
    return np.array([Fraction(float(v)) for v in array.reshape(-1)] + [None], object)[:-1].reshape(array.shape)


def usable(kind: Fixed) -> Fixed:
    """The type. Raises Declined where compiled code cannot compute with it."""
    low, high = FRACTIONS
    if kind.width > MOST_BITS:
        raise Declined(f"its numbers need {kind.width} bits, {MOST_BITS} is the most; quantise its operands to fewer")
    if not low <= kind.fraction <= high:
        raise Declined(f"its numbers have {kind.fraction} bits behind the binary point, {low} to {high} is possible")
    return kind


class Twins:
    """The twins of the floats of a module, and the op before which the next ops are put."""

    def __init__(self) -> None:
        self.of: dict[SSAValue, SSAValue] = {}
        self.here: Operation | None = None
        self._made: list[Operation] = []

    def add(self, op: Operation) -> SSAValue:
        """Puts an op of one result before the op at hand."""
        self.put(op)
        return op.results[0]

    def put(self, op: Operation) -> None:
        """Puts any op there."""
        block = None if self.here is None else self.here.parent_block()
        assert block is not None and self.here is not None
        op.location = self.here.location
        block.insert_op_before(op, self.here)
        self._made.append(op)

    def constant(self, name: str, values: Exact, kind: Fixed) -> SSAValue:
        """A constant tensor, each number converted."""
        raw = [kind.raw(v) for v in values.reshape(-1)]
        element = FixedType(usable(kind))
        array = np.array(raw, numpy_dtype(element)).reshape(values.shape)
        return self.add(WeightOp.of(name, array, element))

    def of_constant(self, name: str, values: Exact, most: int = MOST_BITS) -> SSAValue:
        """A constant tensor in the narrowest type that holds it. Raises Declined where there is none of `most` bits."""
        kind = covering(values.reshape(-1))
        if kind is None or kind.width > most:
            raise Declined(f"its constant {name!r} is no fixed-point number of {most} bits or fewer; quantise it")
        return self.constant(name, values, kind)

    def convert(self, value: SSAValue, kind: Fixed) -> SSAValue:
        """A float or a twin as a number of another type."""
        if kind_of(value) == kind:
            return value
        return self.add(ConvertOp(value, tensor_type(FixedType(usable(kind)), shape_of(value))))

    def op(self, operator: str, operands: Sequence[SSAValue], kind: Fixed, shape: Sequence[int]) -> SSAValue:
        """An ONNX operator without attributes."""
        return self.add(
            op_classes()["", operator].from_positions(operands, [tensor_type(FixedType(usable(kind)), shape)])
        )

    def again(self, op: OnnxOp, operands: Sequence[SSAValue | None], kind: Fixed) -> list[SSAValue]:
        """The op on twins, with the attributes that it has; all results get the type."""
        results: list[Attribute] = [tensor_type(FixedType(usable(kind)), shape_of(r)) for r in op.results]
        made = type(op).from_positions(operands, results, op.attributes_given())
        self.put(made)
        return list(made.results)

    def remember(self, op: OnnxOp, twins: Sequence[SSAValue]) -> None:
        """Says whose twins these are."""
        for result, twin in zip(op.results, twins, strict=True):
            twin.name_hint = result.name_hint
            self.of[result] = twin

    def finish(self) -> None:
        """Takes out the ops that have twins, the last first; what is still read is converted from its twin."""
        for op in reversed(list(dict.fromkeys(cast(Operation, value.owner) for value in self.of))):
            self.here = op
            for result in op.results:
                if result.uses:
                    back = self.add(ConvertOp(self.of[result], result.type))
                    back.name_hint = result.name_hint
                    result.replace_all_uses_with(back)
            erase(op)
        for made in reversed(self._made):
            if not any(result.uses for result in made.results):
                erase(made)


def kind_of(value: SSAValue) -> Fixed | None:
    """The fixed-point type of a value; None where it has another."""
    element = element_of(value)
    return element.data if isinstance(element, FixedType) else None


def label(value: SSAValue) -> str:
    """The name of a constant, fit for a sentence."""
    name = value.owner.weight_name.data if isinstance(value.owner, WeightOp) else value.name_hint
    return printable(name or "constant")


def numbers(values: Exact, function: Callable[[Fraction], Fraction]) -> Exact:
    """A function of each number."""
    return cast(Exact, np.array([function(v) for v in values.reshape(-1)] + [None], object)[:-1].reshape(values.shape))
