"""dot-words: the loop over the bytes of words that are multiplied and added becomes one operation (level 4).

    %s = scf.for %j = 0 to 4 iter_args(%a = %sum) { %a + extui(%x[%m, %k, %j]) * extsi(%w[%k, %n, %j]) }
    ->
    %s = sofie.dot %sum, sofie.load_word %x[%m, %k, 0], sofie.load_word %w[%k, %n, 0]

On lanes that is one instruction where the CPU has dot products of bytes (VNNI), a few elsewhere, and the same sum
everywhere: nothing saturates. Two terms of 16 bits with a sign are `sofie.dot_pairs`: two instructions on any x86, one
with VNNI. Where two neighbouring products of bytes never exceed 16 bits, as the weights tell (those of 7 bits do), they
are marked `narrow`: x86 without VNNI adds them in 16 bits, and a matrix product takes a third less. Declines loops of
another form. Where the CPU has the instruction, `vectorize` makes it of single products of bytes as well
(`dot_single`): those of a depthwise convolution that `join-bytes` leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf
from xdsl.dialects.builtin import MemRefType, ModuleOp, UnitAttr, i8, i16, i32
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.dialects.scalars import WORD, DotOp, DotPairsOp, LoadWordOp
from sofie.dialects.types import element_of, strides_and_offset
from sofie.kernel_weights import calls_of, given_weights
from sofie.rewrite import erase
from sofie.weights import Array


@dataclass(frozen=True)
class DotWords(ModulePass):
    """Rewrites every loop of that form."""

    name: ClassVar[str] = "dot-words"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        calls = calls_of(op)
        for loop in [o for o in op.walk() if isinstance(o, scf.ForOp)]:
            operands = _operands(loop)
            if operands is not None:
                _rewrite(loop, *operands, calls)


def dot_single(nest: Operation) -> None:
    """Makes a dot product of each sum with one product of bytes, the others of its words being zero.

    Where four products take one instruction, one of them alone is cheaper so than multiplied and added.
    """
    for total in [o for o in nest.walk() if isinstance(o, arith.AddiOp) and o.result.type == i32]:
        for carried, value in ((total.lhs, total.rhs), (total.rhs, total.lhs)):
            sides = _byte_factors(value)
            if sides is not None and len(list(value.uses)) == 1:
                dot = DotOp(carried, *(side.result for side in sides))
                block = total.parent_block()
                assert block is not None
                block.insert_op_before(dot, total)
                total.result.replace_all_uses_with(dot.res)
                product = value.owner
                assert isinstance(product, Operation)
                erase(total)
                erase(product)
                break


def _byte_factors(product: SSAValue) -> tuple[arith.ExtUIOp, arith.ExtSIOp] | None:
    """The factors of a product of bytes, the one without a sign first."""
    if not isinstance(product.owner, arith.MuliOp):
        return None
    sides = {type(v.owner): v.owner for v in product.owner.operands}
    x, w = sides.get(arith.ExtUIOp), sides.get(arith.ExtSIOp)
    if not isinstance(x, arith.ExtUIOp) or not isinstance(w, arith.ExtSIOp):
        return None
    return (x, w) if x.input.type == w.input.type == i8 and product.type == i32 else None


def _half_factors(product: SSAValue) -> tuple[arith.ExtSIOp, arith.ExtSIOp] | None:
    """The factors of a product of numbers of 16 bits with a sign."""
    if not isinstance(product.owner, arith.MuliOp) or product.type != i32:
        return None
    x, w = (v.owner for v in product.owner.operands)
    if not isinstance(x, arith.ExtSIOp) or not isinstance(w, arith.ExtSIOp):
        return None
    return (x, w) if x.input.type == w.input.type == i16 else None


def _operands(loop: scf.ForOp) -> tuple[memref.LoadOp, memref.LoadOp] | None:
    """The loads of x and of w, if a loop does nothing but add the products of their terms."""
    first, terms, step = (affine.constant(v) for v in (loop.lb, loop.ub, loop.step))
    last = loop.body.block.last_op
    if (first, step) != (0, 1) or len(loop.res) != 1 or loop.res[0].type != i32 or not isinstance(last, scf.YieldOp):
        return None
    _, carried = loop.body.block.args
    total = last.arguments[0].owner
    if not isinstance(total, arith.AddiOp) or carried not in total.operands:
        return None
    product = total.rhs if total.lhs is carried else total.lhs
    factors = _byte_factors(product) if terms == WORD else _half_factors(product) if terms == WORD // 2 else None
    if factors is None:
        return None
    x, w = factors
    left, right = x.input.owner, w.input.owner
    if not isinstance(left, memref.LoadOp) or not isinstance(right, memref.LoadOp):
        return None
    if not _walks_a_word(left, loop) or not _walks_a_word(right, loop):
        return None
    known = {total, product.owner, x, w, left, right, last}
    pure = (arith.AddiOp, arith.MuliOp, arith.ConstantOp)  # of indices
    if not all(op in known or isinstance(op, pure) for op in loop.body.block.ops):
        return None
    return left, right


def _walks_a_word(load: memref.LoadOp, loop: scf.ForOp) -> bool:
    """Whether a load goes from term to term, and the word begins where the loop does."""
    kind = load.memref.type
    assert isinstance(kind, MemRefType)
    strides, _ = strides_and_offset(kind)
    counter = loop.body.block.args[0]
    return (
        element_of(load.memref) in (i8, i16)
        and affine.step(load.memref, list(load.indices), strides, counter) == 1
        and load.indices[-1] is counter
    )


def _rewrite(loop: scf.ForOp, x: memref.LoadOp, w: memref.LoadOp, calls: Mapping[str, Sequence[func.CallOp]]) -> None:
    block = loop.parent_block()
    assert block is not None
    counter = loop.body.block.args[0]
    words = []
    for load in (x, w):
        indices: list[SSAValue] = [loop.lb if v is counter else v for v in load.indices]
        words.append(LoadWordOp(load.memref, indices))
    kind = DotOp if element_of(x.memref) == i8 else DotPairsOp
    dot = kind(loop.iter_args[0], words[0].res, words[1].res)
    if isinstance(dot, DotOp) and _is_narrow(w.memref, calls):
        dot.narrow = UnitAttr()
    moved = [op for op in loop.body.block.ops if isinstance(op, arith.AddiOp | arith.MuliOp | arith.ConstantOp)]
    indices_only: list[Operation] = [o for o in moved if o.results[0].type != i32]
    for index in indices_only:
        index.detach()
        block.insert_op_before(index, loop)
    for made in (*words, dot):
        block.insert_op_before(made, loop)
    loop.res[0].replace_all_uses_with(dot.res)
    erase(loop)


def _is_narrow(words: SSAValue, calls: Mapping[str, Sequence[func.CallOp]]) -> bool:
    """Whether two neighbours of all bytes that a kernel is given for an argument, times any byte, have 16 bits."""
    function = words.owner.parent_op() if isinstance(words, BlockArgument) else None
    if not isinstance(words, BlockArgument) or not isinstance(function, func.FuncOp):
        return False
    given = given_weights(words, calls.get(function.sym_name.data, []))
    return bool(given) and all(_are_narrow(weight.blob.value) for weight in given)


def _are_narrow(words: Array) -> bool:
    pairs = words.reshape(-1, 2).astype(np.int16)
    largest, least = np.maximum(pairs, 0).sum(1).max(initial=0), np.minimum(pairs, 0).sum(1).min(initial=0)
    return bool(largest * 255 < 2**15 and least * 255 >= -(2**15))
