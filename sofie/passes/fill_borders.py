"""fill-borders: of a buffer that is padded, only what stays padding is filled (level 2).

    %p = fill 0 : tensor<1x58x58x64xf32>                          %p = tensor.empty
    %y = insert %x into %p[0, 1, 1, 0]                    ->      %q = insert fill 0 into %p[0, 0, 0, 0] top
                                                                  ...                                    bottom, sides
                                                                  %y = insert %x into %q[0, 1, 1, 0]

The inside is written once, by what computes %x. A loop that carries the padded buffer and puts its %x into it anew
each time fills as little. Declines where the inside is so small that one fill of everything is as quick, where others
read the filled tensor, and for sizes and places of the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import extents, sizes, structured
from sofie.dialects.types import bytes_of, element_of, shape_of
from sofie.rewrite import users
from sofie.site import Site


@dataclass(frozen=True)
class FillBorders(ModulePass):
    """Rewrites where the inside has at least `min_bytes`."""

    name: ClassVar[str] = "fill-borders"

    min_bytes: int = 16384

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for insert in [o for o in op.walk() if isinstance(o, tensor.InsertSliceOp)]:
            place = _carrying(insert) or insert
            filled = place.operands[_filled(insert, place)]
            constant = structured.fill_of(filled)
            if constant is not None and len(users(filled)) == 1:
                inside = math.prod(map(sizes.most, shape_of(insert.source))) * bytes_of(element_of(insert.source))
                if inside >= self.min_bytes:
                    _rewrite(insert, place, constant)


def _carrying(insert: tensor.InsertSliceOp) -> scf.ForOp | None:
    """The loop that only carries what `insert` writes into from step to step, and is not read for it afterwards."""
    carried, loop = insert.dest, insert.parent_op()
    if (
        not isinstance(loop, scf.ForOp)
        or not isinstance(carried, BlockArgument)
        or carried.block is not loop.body.block
    ):
        return None
    position = carried.index - 1
    last = loop.body.block.last_op
    assert last is not None
    kept = users(carried) == [insert] and last.operands[position] is insert.result
    return loop if kept and not loop.res[position].uses else None


def _filled(insert: tensor.InsertSliceOp, place: Operation) -> int:
    """Which operand of `place` is the tensor that `insert` writes into, as it was before all."""
    if place is insert:
        return 1
    assert isinstance(place, scf.ForOp) and isinstance(insert.dest, BlockArgument)
    return len(place.operands) - len(place.iter_args) + insert.dest.index - 1


def _rewrite(insert: tensor.InsertSliceOp, place: Operation, constant: arith.ConstantOp) -> None:
    """The border is filled before `place`: the insertion, or the loop around it that carries the padded tensor."""
    offsets = extents.entries(insert.static_offsets.get_values(), insert.offsets)
    shape, inside = list(shape_of(insert.dest)), list(shape_of(insert.source))
    starts = [offset for offset in offsets if not isinstance(offset, SSAValue)]
    steps = set(insert.static_strides.get_values())
    if len(starts) != len(shape) or not sizes.is_static([*shape, *inside]) or steps != {1}:
        return
    site = Site(insert.location, place)
    value = site.empty(shape, element_of(insert.dest))
    low, high = [0] * len(shape), list(shape)
    for axis, (start, extent) in enumerate(zip(starts, inside, strict=True)):
        for first, last in ((0, start), (start + extent, shape[axis])):
            if first < last:
                at = [*low[:axis], first, *low[axis + 1 :]]
                part = [h - a for h, a in zip([*high[:axis], last, *high[axis + 1 :]], at, strict=True)]
                value = site.put(site.fill(constant.clone(), part, element_of(value)), value, at)
        low[axis], high[axis] = start, start + extent
    place.operands[_filled(insert, place)] = value
    block = site.home
    assert block is not None
    structured.erase_unread(block)
