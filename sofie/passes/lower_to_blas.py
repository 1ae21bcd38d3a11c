"""lower-to-blas: a matrix product becomes the call of a library that has it (level 3).

    linalg.generic {(m, n, k)} ins(%a, %b) outs(%c)     ->     blas.gemm %a, %b, %c

Only with `library=cblas`. The members of its group before and behind the product become groups of their own. Declines
for anything but one product of two float matrices whose rows are contiguous: convolutions and batches stay loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, memref
from xdsl.dialects.builtin import Float32Type, Float64Type, MemRefType, ModuleOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.blas import GemmOp
from sofie.dialects.sofie import FusedOp, TileOp, YieldOp
from sofie.dialects.types import element_of, shape_of, strides_and_offset
from sofie.errors import SofieError
from sofie.extents import values
from sofie.rewrite import erase

LIBRARIES = ("none", "cblas")


@dataclass(frozen=True)
class LowerToBlas(ModulePass):
    """Replaces the products; `library` is none or cblas."""

    name: ClassVar[str] = "lower-to-blas"

    library: str = "none"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.library not in LIBRARIES:
            raise SofieError(f"lower-to-blas: library {self.library!r} is not one of {', '.join(LIBRARIES)}")
        if self.library == "none":
            return
        for group in [o for o in op.walk() if isinstance(o, FusedOp)]:
            products = [m for m in group.members() if isinstance(m, GenericOp) and is_gemm(m)]
            if len(products) == 1:
                _split(group, products[0])


def is_gemm(op: Operation) -> bool:
    """Whether an op is one product of two float matrices with contiguous rows."""
    if not isinstance(op, GenericOp) or len(op.inputs) != 2 or len(op.outputs) != 1:
        return False
    if len(op.iterator_types) != 3 or structured.reductions(op) != [2]:
        return False
    names = [type(o) for o in structured.body_ops(op)]
    if names != [arith.MulfOp, arith.AddfOp] or not isinstance(element_of(op.outputs[0]), Float32Type | Float64Type):
        return False
    a, b, c = (structured.dims_of(m) for m in structured.maps_of(op))
    if c != [0, 1] or a not in ([0, 2], [2, 0]) or b not in ([2, 1], [1, 2]):
        return False
    return all(_rows_are_contiguous(v) for v in (*op.inputs, *op.outputs))


def _gemm(op: GenericOp) -> GemmOp:
    """The call that a product becomes."""
    a, b, _ = (structured.dims_of(m) for m in structured.maps_of(op))
    return GemmOp(op.inputs[0], op.inputs[1], op.outputs[0], a == [2, 0], b == [1, 2])


def _rows_are_contiguous(value: SSAValue) -> bool:
    assert isinstance(value.type, MemRefType)
    strides, _ = strides_and_offset(value.type)
    return strides[1] == 1


def _split(group: FusedOp, product: GenericOp) -> None:
    """The group as three: what comes before the product, the call, what comes behind. Values between get buffers."""
    block = group.parent_block()
    assert block is not None
    for tile in [o for o in group.members() if isinstance(o, TileOp)]:
        alloc = memref.AllocOp(values(shape_of(tile.result), group), [], tile.result.type)
        block.insert_op_before(alloc, group)
        tile.result.replace_all_uses_with(alloc.memref)
        erase(tile)
    gemm = _gemm(product)
    gemm.location = product.location
    members = group.members()
    at = members.index(product)
    parts: list[list[Operation]] = [members[:at], [gemm], members[at + 1 :]]
    for member in members:
        member.detach()
    product.erase()
    for part in parts:
        if part:
            new = FusedOp(Block([*part, YieldOp()]))
            new.location = group.location
            block.insert_op_before(new, group)
    erase(group)
