"""What can be said of loops at any level."""

from __future__ import annotations

from xdsl.dialects import arith, scf
from xdsl.dialects.builtin import i1
from xdsl.ir import SSAValue

from sofie import affine

THREADS = "sofie.threads"
"""The attribute of a parallel loop in @infer that says how many threads run it."""


def trips(low: SSAValue, high: SSAValue, step: SSAValue) -> int | None:
    """How often a loop runs, None where only the run knows it."""
    first, last, by = (affine.constant(value) for value in (low, high, step))
    if first is None or last is None or not by:
        return None
    return max(-((first - last) // by), 0)


def most_trips(low: SSAValue, high: SSAValue, step: SSAValue) -> int | None:
    """How often a loop runs at most: a bound may be the larger, or the smaller, of a constant and another value."""
    if isinstance(low.owner, arith.MaxSIOp):
        low = next((v for v in low.owner.operands if affine.constant(v) is not None), low)
    if isinstance(high.owner, arith.MinSIOp):
        high = next((v for v in high.owner.operands if affine.constant(v) is not None), high)
    return trips(low, high, step)


def guard(loop: scf.ForOp) -> SSAValue | None:
    """The carried flag without which an iteration does nothing: once it is false, the loop may as well end.

    The body is one `scf.if` on the flag, whose else-branch hands on what is carried.
    """
    block = loop.body.block
    ops = [op for op in block.ops if not isinstance(op, arith.ConstantOp)]
    if len(ops) != 2:
        return None
    branching, last = ops
    if not isinstance(branching, scf.IfOp) or not isinstance(last, scf.YieldOp):
        return None
    flag, carried = branching.cond, list(block.args[1:])
    if flag.type != i1 or flag not in carried or list(last.operands) != list(branching.output):
        return None
    (other,) = branching.false_region.block.ops if len(branching.false_region.block.ops) == 1 else (None,)
    return flag if isinstance(other, scf.YieldOp) and list(other.operands) == carried else None
