"""fill-borders: of a buffer that is padded, only what stays padding is filled (level 2).

    %p = fill 0 : tensor<1x58x58x64xf32>                          %p = tensor.empty
    %y = insert %x into %p[0, 1, 1, 0]                    ->      %q = insert fill 0 into %p[0, 0, 0, 0] top
                                                                  ...                                    bottom, sides
                                                                  %y = insert %x into %q[0, 1, 1, 0]

The inside is written once, by what computes %x. Declines where the inside is so small that one fill of everything is as
quick, where others read the filled tensor, and for sizes and places of the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
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
            constant = structured.fill_of(insert.dest)
            if constant is not None and users(insert.dest) == [insert]:
                inside = math.prod(map(sizes.most, shape_of(insert.source))) * bytes_of(element_of(insert.source))
                if inside >= self.min_bytes:
                    _rewrite(insert, constant)


def _rewrite(insert: tensor.InsertSliceOp, constant: arith.ConstantOp) -> None:
    offsets = extents.entries(insert.static_offsets.get_values(), insert.offsets)
    shape, inside = list(shape_of(insert.dest)), list(shape_of(insert.source))
    starts = [offset for offset in offsets if not isinstance(offset, SSAValue)]
    steps = set(insert.static_strides.get_values())
    if len(starts) != len(shape) or not sizes.is_static([*shape, *inside]) or steps != {1}:
        return
    site = Site(insert.location, insert)
    value = site.empty(shape, element_of(insert.dest))
    low, high = [0] * len(shape), list(shape)
    for axis, (start, extent) in enumerate(zip(starts, inside, strict=True)):
        for first, last in ((0, start), (start + extent, shape[axis])):
            if first < last:
                at = [*low[:axis], first, *low[axis + 1 :]]
                part = [h - a for h, a in zip([*high[:axis], last, *high[axis + 1 :]], at, strict=True)]
                value = site.put(site.fill(constant.clone(), part, element_of(value)), value, at)
        low[axis], high[axis] = start, start + extent
    insert.operands[1] = value
    block = site.home
    assert block is not None
    structured.erase_unread(block)
