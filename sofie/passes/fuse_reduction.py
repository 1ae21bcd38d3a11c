"""fuse-reduction: reductions and elementwise ops over the same rows share the loops over rows (level 2).

    %m = max_k(%x) ; %e = exp(%x - %m) ; %s = sum_k(%e) ; %y = %e / %s      (softmax)
    ->
    %y = sofie.fused { max; exp; sum; div }         one loop over rows, one row of %e in memory

Starts at a reduction of one operand and takes in readers as long as all its own parallel loops stay shared (but for a
loop over partial results, which split-reductions makes) and the values inside need at most `max_tile_bytes` an
iteration. Contractions are left to fuse-epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir.affine import AffineExpr
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.sofie import FusedOp
from sofie.grouping import fuse, next_reader, shared_loops, tile_bytes, with_start
from sofie.sizes import is_static


@dataclass(frozen=True)
class FuseReduction(ModulePass):
    """Groups rows; `max_tile_bytes` should leave room in the first-level cache."""

    name: ClassVar[str] = "fuse-reduction"

    max_tile_bytes: int = 16384
    max_members: int = 32

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for seed in [o for o in op.walk() if isinstance(o, GenericOp)]:
            if isinstance(seed.parent_op(), FusedOp) or not structured.reductions(seed) or _reads(seed) != 1:
                continue
            members = self._grow(seed)
            if len(members) > len(with_start(seed)):
                fuse(members)

    def _grow(self, seed: GenericOp) -> list[GenericOp]:
        members = with_start(seed)
        rows = len(seed.iterator_types) - len(structured.reductions(seed)) - _partial_loops(seed)
        while len(members) < self.max_members:
            reader = next_reader(members)
            if reader is None or isinstance(reader.parent_op(), FusedOp):
                break
            if structured.reductions(reader) and _reads(reader) != 1:
                break  # a contraction: the rows would be read again and again
            grown = [*members, *(m for m in with_start(reader) if m not in members)]
            if len(shared_loops(grown)) < rows or tile_bytes(grown) > self.max_tile_bytes:
                break
            members = grown
        return members


def _partial_loops(op: GenericOp) -> int:
    """How many parallel loops run over partial results side by side: `k * n + l` in a last axis, l of extent n."""
    extents, reduce = structured.extents(op), structured.reductions(op)
    parallel = [d for d in range(len(extents)) if d not in reduce and is_static([extents[d]])]
    steps = [AffineExpr.dimension(k) * extents[d] + AffineExpr.dimension(d) for d in parallel for k in reduce]
    return sum(expr in steps for map in structured.maps_of(op) for expr in map.results[-1:])


def _reads(op: GenericOp) -> int:
    """How many operands an op reads; those that only tell extents do not count."""
    return sum(bool(argument.uses) for argument in op.body.block.args[: len(op.inputs)])
