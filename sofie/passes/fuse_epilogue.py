"""fuse-epilogue: what follows a contraction element by element joins it (level 2).

    %s = fill 0 ; %p = contraction(%x, %w) outs(%s) ; %y = relu(%p + %bias)
    ->
    %y = sofie.fused { fill; contraction; elementwise }

The anchor is the contraction (or window reduction): all its parallel loops are shared, so the sum is still in a
register when bias, activation and residual arrive. Declines where the result has another reader before the epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.sofie import FusedOp
from sofie.grouping import fuse, next_reader, shared_loops, with_start


@dataclass(frozen=True)
class FuseEpilogue(ModulePass):
    """Groups every reduction with the op that starts it and the elementwise ops behind it, `max_members` in all."""

    name: ClassVar[str] = "fuse-epilogue"

    max_members: int = 8

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for seed in [o for o in op.walk() if isinstance(o, GenericOp)]:
            if structured.reductions(seed) and not isinstance(seed.parent_op(), FusedOp):
                self._group(seed)

    def _group(self, seed: GenericOp) -> None:
        members = with_start(seed)
        whole = len(seed.iterator_types) - len(structured.reductions(seed))
        while len(members) < self.max_members:
            reader = next_reader(members)
            if reader is None or not structured.is_parallel(reader) or len(reader.iterator_types) != whole:
                break
            grown = [*members, *(m for m in with_start(reader) if m not in members)]
            if len(shared_loops(grown)) != whole:
                break
            members = grown
        if len(members) > 1:
            fuse(members)
