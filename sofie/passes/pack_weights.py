"""pack-weights: the constant of a contraction is laid out for the loop that will run over lanes (level 2).

    %w : tensor<50x100xf32>, read as (m, n, k) -> (n, k)     ->     %w' : tensor<100x50xf32>, read as (k, n)

The loop on lanes is the one that the constant and the result have and the other operand has not: output features,
output channels. It goes innermost, the reductions before it in the order they run, so that a tile streams through the
weights. Declines where there are too few outputs for a vector: then lanes run along something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import AffineMapAttr, ArrayAttr, ModuleOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_of
from sofie.rewrite import erase

FEWEST_LANES = 4


@dataclass(frozen=True)
class PackWeights(ModulePass):
    """Re-lays the weights of every contraction; the old constants go where nobody else reads them."""

    name: ClassVar[str] = "pack-weights"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        packed: dict[tuple[WeightOp, tuple[int, ...]], WeightOp] = {}
        for generic in [o for o in op.walk() if isinstance(o, GenericOp)]:
            for k in range(len(generic.inputs)):
                self._pack(generic, k, packed)
        for weight in [o for o in op.walk() if isinstance(o, WeightOp)]:
            if not weight.result.uses:
                erase(weight)

    def _pack(self, generic: GenericOp, k: int, packed: dict[tuple[WeightOp, tuple[int, ...]], WeightOp]) -> None:
        weight = generic.inputs[k].owner
        maps, reduce = structured.maps_of(generic), structured.reductions(generic)
        dims = structured.dims_of(maps[k])
        if not isinstance(weight, WeightOp) or not reduce or dims is None or None in dims:
            return
        lanes = _lanes_loop(generic, k, [d for d in dims if d is not None])
        if lanes is None:
            return
        order = sorted(range(len(dims)), key=lambda a: (dims[a] == lanes, dims[a] in reduce, dims[a] or 0))
        if order == list(range(len(dims))):
            return
        key = (weight, tuple(order))
        if key not in packed:
            array = np.ascontiguousarray(weight.blob.value.transpose(order))
            packed[key] = WeightOp.of(weight.weight_name.data, array, element_of(weight.result))
            packed[key].result.name_hint = weight.result.name_hint
            block = weight.parent_block()
            assert block is not None
            block.insert_op_before(packed[key], weight)
        generic.operands[k] = packed[key].result
        maps[k] = structured.dims_map(maps[k].num_dims, [dims[a] for a in order])
        generic.properties["indexing_maps"] = ArrayAttr([AffineMapAttr(m) for m in maps])


def _lanes_loop(generic: GenericOp, k: int, dims: list[int]) -> int | None:
    """The parallel loop of the constant that no other input has; the longest of several."""
    extents, reduce = structured.extents(generic), structured.reductions(generic)
    others = [m for j, m in enumerate(structured.maps_of(generic)[: len(generic.inputs)]) if j != k]
    elsewhere = {d for m in others for e in m.results for d in e.used_dims()}
    free = [d for d in dims if d not in reduce and d not in elsewhere and extents[d] >= FEWEST_LANES]
    return max(free, key=lambda d: extents[d], default=None)
