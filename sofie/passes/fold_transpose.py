"""fold-transpose: an op reads what a transpose has read, in the transpose's order (level 2).

    %t = linalg.generic {(d0, d1) -> (d1, d0), (d0, d1) -> (d0, d1)} ins(%x) { yield %in }
    linalg.generic {(d0, d1, d2) -> (d0, d2)} ins(%t)      ->      linalg.generic {(d0, d1, d2) -> (d2, d0)} ins(%x)

On a GPU that saves a launch and a way through memory; a tile is brought into a block's memory in any order. On a CPU,
where lanes want what lies side by side, `assign-layouts` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import AffineMapAttr, ArrayAttr, ModuleOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineConstantExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from sofie import structured


@dataclass(frozen=True)
class FoldTranspose(ModulePass):
    """Folds until no operand changes, then erases transposes that nobody reads."""

    name: ClassVar[str] = "fold-transpose"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        generics = [o for o in op.walk() if isinstance(o, GenericOp)]
        for generic in generics:
            while any(_fold(generic, k) for k in range(len(generic.inputs))):
                pass
        for block in dict.fromkeys(b for g in generics if (b := g.parent_block()) is not None):
            structured.erase_unread(block)


def _source(value: SSAValue) -> tuple[SSAValue, list[int | None]] | None:
    """What a transpose reads, and which of its result's axes each axis of that is (None: it has one element)."""
    op = value.owner
    if not isinstance(op, GenericOp) or len(op.inputs) != 1 or len(op.results) != 1 or structured.reductions(op):
        return None
    read, written = structured.maps_of(op)
    if structured.yielded(op)[0] is not op.body.block.args[0] or not structured.is_permutation(written):
        return None
    loops, axes = structured.dims_of(read), structured.dims_of(written)
    if loops is None or axes is None or len([d for d in loops if d is not None]) != len(axes):
        return None  # a broadcast
    return op.inputs[0], [None if d is None else axes.index(d) for d in loops]


def _fold(generic: GenericOp, k: int) -> bool:
    found = _source(generic.operands[k])
    if found is None or generic.operands[k].owner is generic:
        return False
    source, axes = found
    maps = structured.maps_of(generic)
    zero: AffineExpr = AffineConstantExpr(0)
    exprs = tuple(zero if axis is None else maps[k].results[axis] for axis in axes)
    maps[k] = AffineMap(maps[k].num_dims, 0, exprs)
    if not structured.covers_all_loops(maps):
        return False
    generic.operands[k] = source
    generic.properties["indexing_maps"] = ArrayAttr([AffineMapAttr(m) for m in maps])
    return True
