"""fuse-decode: a product reads floats of 16 bits where it multiplies them (level 2).

    %f = generic(%w : tensor<64x48xi16>) { sofie.decode }          %y = contraction(%x, %w : tensor<64x48xi16>) {
    %y = contraction(%x, %f) { mulf ; addf }                ->       sofie.decode ; mulf ; addf }

so that weights take half the room in the file and half the way through memory; a CPU makes floats of a whole register
of them at a time. `values=all`: tensors that the model computes as well, which a CPU would make floats of time and
again, and tensor cores multiply as they are. Weights that anything else reads become floats now, and those that do not
lie along the lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import Float32Type, ModuleOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from sofie import structured
from sofie.dialects.scalars import CODES, DecodeOp
from sofie.dialects.sofie import WeightOp
from sofie.errors import SofieError, printable
from sofie.rewrite import erase

VALUES = ("weights", "all")


@dataclass(frozen=True)
class FuseDecode(ModulePass):
    """Rewrites every tensor that is only decoded."""

    name: ClassVar[str] = "fuse-decode"

    values: str = VALUES[0]

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.values not in VALUES:
            raise SofieError(f"{self.name}: values={printable(self.values)}: choose one of {', '.join(VALUES)}")
        for generic in [o for o in op.walk() if isinstance(o, GenericOp)]:
            decode = _decode(generic)
            if decode is None:
                continue
            source = generic.inputs[0]
            for use in list(generic.results[0].uses):
                reader = use.operation
                if isinstance(reader, GenericOp) and _multiplies(reader, use.index):
                    if self.values == "all" or isinstance(source.owner, WeightOp) and _is_on_lanes(reader, use.index):
                        _read_codes(reader, use.index, generic, decode)
            if not generic.results[0].uses:
                erase(generic)
            elif isinstance(source.owner, WeightOp):
                _fold(generic, source.owner, decode)


def _decode(generic: GenericOp) -> DecodeOp | None:
    """What a tensor's elements go through, if that is all, and each stays in its place."""
    body = structured.body_ops(generic)
    maps = structured.maps_of(generic)
    if len(body) != 1 or not isinstance(body[0], DecodeOp) or len(generic.inputs) != 1 or len(generic.results) != 1:
        return None
    same = maps[0] == maps[1] == structured.identity(maps[1].num_dims)
    return body[0] if same and body[0].code is generic.body.block.args[0] else None


def _multiplies(generic: GenericOp, k: int) -> bool:
    """Whether an operand is but a factor of what a contraction adds up."""
    if k >= len(generic.inputs) or not structured.reductions(generic):
        return False
    argument = generic.body.block.args[k]
    uses = [use.operation for use in argument.uses]
    return len(uses) == 1 and isinstance(uses[0], arith.MulfOp) and uses[0].lhs is not uses[0].rhs


def _is_on_lanes(generic: GenericOp, k: int) -> bool:
    """Whether the elements of an operand differ between the lanes that the results lie along: else each is decoded by
    itself, time and again.
    """
    last = structured.output_maps(generic)[0].results[-1:]
    return any(last[0].used_dims() & e.used_dims() for e in structured.maps_of(generic)[k].results) if last else False


def _read_codes(reader: GenericOp, k: int, generic: GenericOp, decode: DecodeOp) -> None:
    """An operand of a contraction is the codes."""
    reader.operands[k] = generic.inputs[0]
    code = Rewriter.replace_value_with_new_type(reader.body.block.args[k], decode.code.type)
    uses = list(code.uses)
    number = Builder(InsertPoint.at_start(reader.body.block)).insert(DecodeOp(decode.format.data, code)).number
    for use in uses:
        use.operation.operands[use.index] = number


def _fold(generic: GenericOp, weight: WeightOp, decode: DecodeOp) -> None:
    """Weights as the floats that they stand for."""
    numbers = weight.blob.value.view(CODES[decode.format.data]).astype(np.float32)
    new = WeightOp.of(weight.weight_name.data, numbers, Float32Type())
    new.result.name_hint = generic.results[0].name_hint
    block = weight.parent_block()
    assert block is not None
    block.insert_op_after(new, weight)
    generic.results[0].replace_all_uses_with(new.result)
    erase(generic)
