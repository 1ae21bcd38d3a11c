"""fold-reshape: an op reads through a reshape that only adds or drops axes of extent 1 (level 2).

    %r = tensor.expand_shape %m : tensor<8xf32> into tensor<8x1xf32>
    linalg.generic {(d0, d1) -> (d0, 0)} ins(%r)      ->      linalg.generic {(d0, d1) -> (d0)} ins(%m)

keepdims=1 leaves such reshapes between a reduction and its reader, where they would keep the two from sharing a nest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import tensor
from xdsl.dialects.builtin import AffineMapAttr, ArrayAttr, ModuleOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.types import shape_of
from sofie.rewrite import erase


@dataclass(frozen=True)
class FoldReshape(ModulePass):
    """Folds until no operand changes, then erases reshapes that nobody reads."""

    name: ClassVar[str] = "fold-reshape"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for generic in [o for o in op.walk() if isinstance(o, GenericOp)]:
            while any(_fold(generic, k) for k in range(len(generic.inputs))):
                pass
        for reshape in reversed([o for o in op.walk() if isinstance(o, tensor.CollapseShapeOp | tensor.ExpandShapeOp)]):
            if not reshape.result.uses:
                erase(reshape)


def _fold(generic: GenericOp, k: int) -> bool:
    reshape = generic.operands[k].owner
    if not isinstance(reshape, tensor.CollapseShapeOp | tensor.ExpandShapeOp):
        return False
    maps = structured.maps_of(generic)
    exprs = _through(reshape, list(maps[k].results))
    if exprs is None:
        return False
    maps[k] = AffineMap(maps[k].num_dims, 0, tuple(exprs))
    if not structured.covers_all_loops(maps):
        return False
    generic.operands[k] = reshape.src
    generic.properties["indexing_maps"] = ArrayAttr([AffineMapAttr(m) for m in maps])
    return True


def _through(
    reshape: tensor.CollapseShapeOp | tensor.ExpandShapeOp, exprs: list[AffineExpr]
) -> list[AffineExpr] | None:
    """The index of each axis of the reshape's source, or None where it is more than unit axes."""
    groups = [[d.value.data for d in group] for group in reshape.reassociation]
    long = shape_of(reshape.result) if isinstance(reshape, tensor.ExpandShapeOp) else shape_of(reshape.src)
    if any(sum(long[a] != 1 for a in group) > 1 for group in groups):
        return None
    if isinstance(reshape, tensor.ExpandShapeOp):
        return [exprs[next((a for a in group if long[a] != 1), group[0])] for group in groups]
    found: list[AffineExpr] = [AffineExpr.constant(0)] * len(long)
    for axis, group in enumerate(groups):
        for a in group:
            if long[a] != 1:
                found[a] = exprs[axis]
    return found
