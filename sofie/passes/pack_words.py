"""pack-words: a sum of products of bytes takes four terms at a time, which lie side by side in a word (level 2).

    %s += ext(%x[m, k]) * ext(%w[n, k])
    ->
    %x' = expand_shape %x : tensor<7x64xi8> into tensor<7x16x4xi8>
    %s += ext(%x'[m, k, j]) * ext(%w'[n, k, j])          k < 16, j < 4

The loop of the sum along which the bytes of x lie is split; `pack-weights` then puts the outputs between k and j, and
`dot-words` makes one operation of the loop over j. Of numbers of 16 bits, a word has two. Declines where x is made
inside the group, and where the loop is no multiple of four (or two) long: lowerings fill up such operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import AffineMapAttr, ArrayAttr, ModuleOp, i8, i16, i32
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.scalars import WORD
from sofie.dialects.sofie import FusedOp, WeightOp
from sofie.dialects.types import bytes_of, element_of, shape_of
from sofie.reshapes import reshaped


@dataclass(frozen=True)
class PackWords(ModulePass):
    """Splits the sums of all contractions of bytes, or of 16 bits, with constants."""

    name: ClassVar[str] = "pack-words"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for generic in [o for o in op.walk() if isinstance(o, GenericOp)]:
            if terms_of(generic) and isinstance(generic.inputs[1].owner, WeightOp):
                _split(generic)


def terms_of(generic: GenericOp) -> int:
    """How many terms a word has of an op that sums products of two tensors of bytes, or of 16 bits, as 32 bits.

    None, of any other op.
    """
    kinds = [element_of(v) for v in (*generic.inputs, *generic.outputs)]
    if kinds not in ([i8, i8, i32], [i16, i16, i32]) or not structured.reductions(generic):
        return 0
    return WORD // bytes_of(kinds[0])


def sums_words(generic: GenericOp) -> bool:
    """Whether the innermost loop of such a sum is over the terms of words."""
    terms = terms_of(generic)
    if not terms:
        return False
    loop = len(generic.iterator_types) - 1
    last = [m.results[-1:] for m in structured.maps_of(generic)[:1]]
    return structured.extents(generic)[loop] == terms and last == [(AffineExpr.dimension(loop),)]


def _split(generic: GenericOp) -> None:
    x, w = generic.inputs
    of_x, of_w, of_sum = structured.maps_of(generic)
    last, extents = of_x.results[-1], structured.extents(generic)
    if not isinstance(last, AffineDimExpr) or last.position not in structured.reductions(generic):
        return
    loop = last.position
    axes = [axis for axis, e in enumerate(of_w.results) if e == last]
    inside = generic.parent_op()
    terms = terms_of(generic)
    made_inside = isinstance(inside, FusedOp) and any(o is x.owner for o in inside.body.walk())
    if made_inside or extents[loop] % terms or len(axes) != 1 or _uses(of_x, loop) != 1 or _uses(of_w, loop) != 1:
        return
    rank = len(extents)
    word = AffineExpr.dimension(rank)
    operands = [_in_words(generic, v, axis, terms) for v, axis in ((x, len(of_x.results) - 1), (w, axes[0]))]
    maps = [
        AffineMap(rank + 1, 0, (*of_x.results, word)),
        AffineMap(rank + 1, 0, (*of_w.results[: axes[0] + 1], word, *of_w.results[axes[0] + 1 :])),
        AffineMap(rank + 1, 0, of_sum.results),
    ]
    for k, operand in enumerate(operands):
        generic.operands[k] = operand
    generic.properties["indexing_maps"] = ArrayAttr([AffineMapAttr(m) for m in maps])
    generic.properties["iterator_types"] = ArrayAttr([*generic.iterator_types, generic.iterator_types.data[loop]])


def _uses(map: AffineMap, loop: int) -> int:
    return sum(loop in e.used_dims() for e in map.results)


def _in_words(generic: GenericOp, value: SSAValue, axis: int, terms: int) -> SSAValue:
    """The operand with an axis in words of so many terms."""
    shape = shape_of(value)
    split = (*shape[:axis], shape[axis] // terms, terms, *shape[axis + 1 :])
    group = generic.parent_op()
    if not isinstance(value.owner, WeightOp):
        return reshaped(value, split, group if isinstance(group, FusedOp) else generic)
    new = WeightOp.of(value.owner.weight_name.data, value.owner.blob.value.reshape(split), element_of(value))
    new.result.name_hint = value.name_hint
    block = value.owner.parent_block()
    assert block is not None
    block.insert_op_before(new, value.owner)
    return new.result
