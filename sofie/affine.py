"""Index arithmetic read back as sums of products, to see how an access moves when a loop advances."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects import arith, memref
from xdsl.dialects.builtin import IntegerAttr, MemRefType
from xdsl.ir import BlockArgument, SSAValue

from sofie.dialects.scalars import WORD, LoadWordOp
from sofie.dialects.types import bytes_of, element_of, strides_of


def constant(value: SSAValue) -> int | None:
    """The value of an `arith.constant` of integer type, or None."""
    owner = value.owner
    return (
        owner.value.value.data if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr) else None
    )


def coefficient(value: SSAValue, loop: SSAValue) -> int | None:
    """How far an index moves when `loop` advances by one; None where that is not a constant."""
    if value is loop:
        return 1
    owner = value.owner
    if isinstance(value, BlockArgument) or isinstance(owner, arith.ConstantOp):
        return 0
    if isinstance(owner, arith.AddiOp | arith.SubiOp):
        a, b = coefficient(owner.lhs, loop), coefficient(owner.rhs, loop)
        return None if a is None or b is None else a + b if isinstance(owner, arith.AddiOp) else a - b
    if isinstance(owner, arith.MuliOp):
        a, b = coefficient(owner.lhs, loop), coefficient(owner.rhs, loop)
        if a == 0 and b == 0:
            return 0
        left, right = constant(owner.lhs), constant(owner.rhs)
        if right is not None and a is not None:
            return a * right
        return b * left if left is not None and b is not None else None
    operands = owner.operands  # type: ignore[union-attr]
    return 0 if all(coefficient(v, loop) == 0 for v in operands) else None


def distance(a: SSAValue, b: SSAValue) -> int | None:
    """b - a, where that is a number whatever other values are; else None."""
    (from_, terms), (to, others) = form(a), form(b)
    return to - from_ if terms == others else None


Form = tuple[int, frozenset[tuple[SSAValue, int]]]
"""A number, and factors of other values."""


def form(value: SSAValue) -> Form:
    """What an index is: equal where two are the same whatever other values are."""
    terms: dict[SSAValue, int] = {}
    known = _collect(value, 1, terms)
    return known, frozenset((v, factor) for v, factor in terms.items() if factor)


def _collect(value: SSAValue, factor: int, terms: dict[SSAValue, int]) -> int:
    """Adds `value * factor` to a sum of products of values with numbers; returns its constant part."""
    owner, known = value.owner, constant(value)
    if known is not None:
        return known * factor
    if isinstance(owner, arith.AddiOp):
        return _collect(owner.lhs, factor, terms) + _collect(owner.rhs, factor, terms)
    if isinstance(owner, arith.MuliOp):
        for other, number in ((owner.lhs, constant(owner.rhs)), (owner.rhs, constant(owner.lhs))):
            if number is not None:
                return _collect(other, factor * number, terms)
    terms[value] = terms.get(value, 0) + factor
    return 0


def step(base: SSAValue, indices: Sequence[SSAValue], strides: Sequence[int], loop: SSAValue) -> int | None:
    """How many elements an access of memref `base` moves when `loop` advances by one; None if that varies."""
    assert isinstance(base.type, MemRefType)
    total = 0
    for index, stride in zip(indices, strides, strict=True):
        moved = coefficient(index, loop)
        if moved is None:
            return None
        total += moved * stride
    return total


Load = memref.LoadOp | LoadWordOp
Access = Load | memref.StoreOp


def movement(op: Access, loop: SSAValue) -> int | None:
    """How many elements, or words, an access moves when a loop advances; None where that is no number of them."""
    moved = step(op.memref, list(op.indices), strides_of(op.memref), loop)
    if moved is None or not isinstance(op, LoadWordOp):
        return moved
    elements = WORD // bytes_of(element_of(op.memref))
    return moved // elements if moved % elements == 0 else None
