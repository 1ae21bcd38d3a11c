"""Which operands an op writes: the one place where passes and printers ask."""

from __future__ import annotations

from xdsl.dialects import memref, vector
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Operation, SSAValue

from sofie.dialects.blas import GemmOp

VIEWS = (memref.SubviewOp, memref.CollapseShapeOp, memref.ExpandShapeOp, memref.CastOp, memref.ReinterpretCastOp)
"""Ops whose result is another view of their first operand's memory."""


def memory_of(value: SSAValue) -> SSAValue:
    """The memory behind a view."""
    while isinstance(value.owner, VIEWS):
        value = value.owner.operands[0]
    return value


_WRITTEN: dict[type[Operation], int] = {memref.StoreOp: 1, vector.StoreOp: 1, GemmOp: 2}


def writes_operand(op: Operation, index: int) -> bool:
    """Whether `op` writes through its operand `index`."""
    if isinstance(op, GenericOp):
        return index >= len(op.inputs)
    return _WRITTEN.get(type(op)) == index


def is_written(value: SSAValue) -> bool:
    """Whether anything writes through this memref or a view of it."""
    return any(
        writes_operand(use.operation, use.index)
        or (isinstance(use.operation, VIEWS) and is_written(use.operation.results[0]))
        for use in value.uses
    )
