"""Which loops are so short that every compiler should unroll them.

    for (index k = 0; k < 3; ++k) {     ->     #pragma GCC unroll 3
                                               for (index k = 0; k < 3; ++k) {

g++ -O3 and clang do so unasked, g++ -O2 only where it is told; what a header gives must not depend on that.
"""

from __future__ import annotations

from xdsl.dialects import func, gpu, scf

from sofie.loops import trips

MOST_TRIPS = 16
MOST_OPS = 200
"""What g++ -O3 unrolls completely, about (its max-completely-peel-times and max-completely-peeled-insns)."""


def unrolled(loop: scf.ForOp | scf.ParallelOp) -> int | None:
    """The operations of a loop once it and all loops in it are unrolled, None where it should stay a loop.

    Of a parallel nest it is the innermost loop. One that calls kernels stays: each would be inlined again and again.
    """
    times = steps(loop)
    if times is None or not 1 < times <= MOST_TRIPS:
        return None
    total = 0
    for op in loop.body.block.ops:
        if isinstance(op, scf.ForOp):
            size = unrolled(op)
        else:
            size = None if op.regions or isinstance(op, func.CallOp | gpu.LaunchFuncOp) else 1
        if size is None:
            return None
        total += size
    return total * times if total * times <= MOST_OPS else None


def steps(loop: scf.ForOp | scf.ParallelOp) -> int | None:
    """How often the innermost loop of an op runs, None where only the run knows it."""
    if isinstance(loop, scf.ForOp):
        return trips(loop.lb, loop.ub, loop.step)
    return trips(loop.lowerBound[-1], loop.upperBound[-1], loop.step[-1])
