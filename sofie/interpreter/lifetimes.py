"""Where the life of a buffer in the arena begins: at the first op that touches it, not at its `memref.view`.

plan-memory lets two buffers share bytes when one is last touched before the other is first touched; a view may stand
earlier than that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from xdsl.dialects import memref
from xdsl.dialects.func import CallOp, FuncOp
from xdsl.ir import Block, Operation, SSAValue, Use
from xdsl.traits import SymbolTable

from sofie.memory import VIEWS, writes_operand
from sofie.rewrite import ancestor_in, positions


def births(block: Block) -> Mapping[Operation, list[SSAValue]]:
    """For each op of `block` the views of an arena, made in `block` and written by somebody, that it touches first."""
    born: dict[Operation, list[SSAValue]] = defaultdict(list)
    views = [op for op in block.ops if isinstance(op, memref.ViewOp) and is_written(op.result)]
    order = positions(block.ops) if views else {}
    for view in views:
        first = min((ancestor_in(view, use.operation) for use in _touches(view.result)), key=order.__getitem__)
        born[first].append(view.result)
    return born


def is_written(value: SSAValue) -> bool:
    """Whether anything writes through this memref, a view of it, or the parameter of a kernel it is passed to."""
    return any(_writes(use.operation, use.index) for use in _touches(value))


def _touches(value: SSAValue) -> Iterator[Use]:
    for use in value.uses:
        if isinstance(use.operation, VIEWS):
            yield from _touches(use.operation.results[0])
        else:
            yield use


def _writes(op: Operation, index: int) -> bool:
    if isinstance(op, memref.CopyOp):
        return index == 1
    if isinstance(op, CallOp):
        kernel = SymbolTable.lookup_symbol(op, op.callee)
        return isinstance(kernel, FuncOp) and is_written(kernel.body.block.args[index])
    return writes_operand(op, index)
