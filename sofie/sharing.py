"""Which tensor values share a buffer: through destinations, slices, reshapes, loops and branches (level 2).

A value that a loop carries is one buffer: that of its start, of the argument inside and of the result. The result of an
`scf.if` lies where both branches put it. Inside the body of a loop the chain ends at the argument, since what an
iteration finds there is all that it can see of the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.dialects import scf, tensor
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, Operation, OpResult, SSAValue

from sofie import structured
from sofie.dialects.sofie import FusedOp

RESHAPES = (tensor.CollapseShapeOp, tensor.ExpandShapeOp)
VIEWS = (*RESHAPES, tensor.ExtractSliceOp)


def sources_of(value: SSAValue) -> list[SSAValue]:
    """The values whose buffer `value` shares: destination of an op, source of a view, start of a loop, both branches.

    Empty at a root.
    """
    owner = value.owner
    if not isinstance(value, OpResult) or not structured.is_tensor(value):
        return []
    if isinstance(owner, GenericOp):
        return [owner.outputs[value.index]]
    if isinstance(owner, FusedOp):
        return [owner.yielded()[value.index]]
    if isinstance(owner, scf.ForOp):
        return [owner.iter_args[value.index]]
    if isinstance(owner, scf.IfOp):
        return [branch.operands[value.index] for branch in yields(owner)]
    if isinstance(owner, tensor.InsertSliceOp | tensor.InsertOp):
        return [owner.dest]
    if isinstance(owner, tensor.ExtractSliceOp):
        return [owner.source]
    return [owner.src] if isinstance(owner, RESHAPES) else []


def chain(value: SSAValue) -> Iterator[SSAValue]:
    """`value` and the values it shares a buffer with, down to the root; of an `scf.if`, through its first branch."""
    current: SSAValue | None = value
    while current is not None:
        yield current
        current = next(iter(sources_of(current)), None)


def root(value: SSAValue) -> SSAValue:
    """The `tensor.empty`, weight or argument at the end of `value`'s chain."""
    *_, last = chain(value)
    return last


def made_from(value: SSAValue) -> set[SSAValue]:
    """Everything on the chains of `value`, through both branches of an `scf.if`."""
    found: set[SSAValue] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += sources_of(current)
    return found


def yields(op: scf.ForOp | scf.IfOp) -> list[scf.YieldOp]:
    """The terminators of the regions of a loop or a condition."""
    return [last for region in op.regions for b in region.blocks if isinstance(last := b.last_op, scf.YieldOp)]


def loop_around(op: Operation) -> scf.ForOp | None:
    """The innermost loop whose body holds `op`."""
    current = op.parent_op()
    while current is not None and not isinstance(current, scf.ForOp):
        current = current.parent_op()
    return current


def is_carried(value: SSAValue) -> bool:
    """Whether `value` is what a loop carries, as its body sees it."""
    block = value.owner
    return isinstance(block, Block) and isinstance(block.parent_op(), scf.ForOp)


def place_in(block: Block, op: Operation) -> Operation | None:
    """The op of `block` that is `op` or contains it; None where `op` stands outside of `block`."""
    current: Operation | None = op
    while current is not None and current.parent_block() is not block:
        current = current.parent_op()
    return current


def outside(value: SSAValue, branch: Block) -> SSAValue | None:
    """The first value on the chain of `value` that is there before `branch` runs; None where its root is inside."""
    return next((v for v in chain(value) if isinstance(v.owner, Block) or place_in(branch, v.owner) is None), None)


def exclude_each_other(a: Operation, b: Operation) -> bool:
    """Whether the ops stand in different branches of one `scf.if`: only one of them runs."""
    branches: dict[Operation, object] = {}
    current: Operation | None = a
    while current is not None:
        parent = current.parent_op()
        if isinstance(parent, scf.IfOp):
            branches[parent] = current.parent_region()
        current = parent
    current = b
    while current is not None:
        parent = current.parent_op()
        if parent in branches and branches[parent] is not current.parent_region():
            return True
        current = parent
    return False
