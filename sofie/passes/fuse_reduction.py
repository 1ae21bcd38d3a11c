"""fuse-reduction: reductions and elementwise ops over the same rows share the loops over rows (level 2).

    %m = max_k(%x) ; %e = exp(%x - %m) ; %s = sum_k(%e) ; %y = %e / %s      (softmax)
    ->
    %y = sofie.fused { max; exp; sum; div }         one loop over rows, one row of %e in memory

Starts at a reduction of one operand and takes in readers as long as all its own parallel loops stay shared and the
values inside need at most `max_tile_bytes` per iteration. Contractions are left to fuse-epilogue.
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
from sofie.grouping import fuse, next_reader, shared_loops, tile_bytes, with_start


@dataclass(frozen=True)
class FuseReduction(ModulePass):
    """Groups rows; `max_tile_bytes` should leave room in the first-level cache."""

    name: ClassVar[str] = "fuse-reduction"

    max_tile_bytes: int = 16384
    max_members: int = 16

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for seed in [o for o in op.walk() if isinstance(o, GenericOp)]:
            if isinstance(seed.parent_op(), FusedOp) or not structured.reductions(seed) or len(seed.inputs) != 1:
                continue
            members = self._grow(seed)
            if len(members) > len(with_start(seed)):
                fuse(members)

    def _grow(self, seed: GenericOp) -> list[GenericOp]:
        members = with_start(seed)
        own = len(seed.iterator_types) - len(structured.reductions(seed))
        while len(members) < self.max_members:
            reader = next_reader(members)
            if reader is None or isinstance(reader.parent_op(), FusedOp):
                break
            if structured.reductions(reader) and len(reader.inputs) != 1:
                break  # a contraction: the rows would be read again and again
            grown = [*members, *(m for m in with_start(reader) if m not in members)]
            if len(shared_loops(grown)) != own or tile_bytes(grown) > self.max_tile_bytes:
                break
            members = grown
        return members
