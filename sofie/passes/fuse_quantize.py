"""fuse-quantize: what makes a byte of a sum of products, or of a float, becomes one operation (level 2).

    sitofp %sum : f64 ; mulf %scale ; addf %offset ; roundeven ; fptosi ; addi 3 ; maxsi 0 ; minsi 255 ; trunci
    ->
    sofie.requantize %sum, %scale, %offset {zero = 3, least = 0, most = 255}

    divf %number, %scale ; maxnumf -3.0 ; minnumf 252.0 ; roundeven ; fptosi ; addi 3 ; trunci
    ->
    sofie.quantize %number, %scale {zero = 3, least = 0, most = 255}

A CPU computes both on lanes by products in float32, and exactly only where a number lies so near to a half that these
cannot tell. Declines where scales or offsets are not known, and where they are so large that this would be often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import FloatAttr, ModuleOp, f32, f64, i8, i32
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.dialects.scalars import LARGEST_OFFSET, QuantizeOp, RequantizeOp, fit_a_byte
from sofie.dialects.sofie import WeightOp
from sofie.rewrite import erase

LARGEST_SCALE = 2.0**120
"""Whose reciprocal is no subnormal number."""


@dataclass(frozen=True)
class FuseQuantize(ModulePass):
    """Rewrites the bodies of all structured ops."""

    name: ClassVar[str] = "fuse-quantize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for generic in [o for o in op.walk() if isinstance(o, GenericOp)]:
            for last in [o for o in generic.body.block.ops if isinstance(o, arith.TruncIOp)]:
                if last.result.type == i8 and last.input.type == i32:
                    _Byte(generic, last).rewrite()


@dataclass
class _Byte:
    """A byte of a body, read backwards from where integers become one."""

    generic: GenericOp
    last: arith.TruncIOp

    def rewrite(self) -> None:
        """Makes one operation of it, if it is such a byte."""
        made = self._of_sum() or self._of_number()
        if made is None:
            return
        self.generic.body.block.insert_op_before(made, self.last)
        self.last.result.replace_all_uses_with(made.results[0])
        _erase_unread(self.last)

    def _of_sum(self) -> RequantizeOp | None:
        upper = _with(self.last.input, arith.MinSIOp)
        lower = None if upper is None else _with(upper[0], arith.MaxSIOp)
        if upper is None or lower is None:
            return None
        whole, zero = _with(lower[0], arith.AddiOp) or (lower[0], 0)
        number = _rounded(whole)
        if not fit_a_byte(zero, lower[1], upper[1]) or number is None or number.type != f64:
            return None
        added = _step(number, arith.AddfOp)
        parts: Sequence[SSAValue | None] = (number, None) if added is None else added.operands
        for product, offset in (parts, parts[::-1]):
            multiplied = None if product is None else _step(product, arith.MulfOp)
            for wide, scale in () if multiplied is None else (multiplied.operands, multiplied.operands[::-1]):
                total = _step(wide, arith.SIToFPOp)
                if total is not None and total.operands[0].type == i32:
                    return self._requantize(total.operands[0], scale, offset, (zero, lower[1], upper[1]))
        return None

    def _requantize(
        self, total: SSAValue, scale: SSAValue, offset: SSAValue | None, numbers: tuple[int, int, int]
    ) -> RequantizeOp | None:
        if not self._is_known(scale, np.inf) or not (offset is None or self._is_known(offset, LARGEST_OFFSET)):
            return None
        if offset is None:
            nothing = arith.ConstantOp(FloatAttr(0.0, f64))
            self.generic.body.block.insert_op_before(nothing, self.last)
            offset = nothing.result
        return RequantizeOp([total, scale, offset], *numbers)

    def _of_number(self) -> QuantizeOp | None:
        whole, zero = _with(self.last.input, arith.AddiOp) or (self.last.input, 0)
        number = _rounded(whole)
        upper = None if number is None or number.type != f32 else _with(number, arith.MinnumfOp)
        lower = None if upper is None else _with(upper[0], arith.MaxnumfOp)
        if upper is None or lower is None or not fit_a_byte(zero, lower[1] + zero, upper[1] + zero):
            return None
        divided = _step(lower[0], arith.DivfOp)
        if divided is None or not self._is_known(divided.operands[1], LARGEST_SCALE, 1 / LARGEST_SCALE):
            return None
        return QuantizeOp(divided.operands, zero, lower[1] + zero, upper[1] + zero)

    def _is_known(self, value: SSAValue, largest: float, least: float = 0.0) -> bool:
        """Whether a scale or an offset is a constant, of numbers no larger and no smaller than these."""
        owner, block = value.owner, self.generic.body.block
        if isinstance(owner, Block):
            operand = self.generic.operands[block.args.index(value)].owner if owner is block else None
            sizes = np.abs(operand.blob.value) if isinstance(operand, WeightOp) else np.array(np.nan)
            return bool(np.all((least <= sizes) & (sizes <= largest)))
        if not isinstance(owner, arith.ConstantOp) or not isinstance(owner.value, FloatAttr):
            return False
        return least <= abs(owner.value.value.data) <= largest


def _step(value: SSAValue, kind: type[Operation]) -> Operation | None:
    """The op of a kind that makes a value which nobody else reads."""
    owner = value.owner
    return owner if isinstance(owner, kind) and len(list(value.uses)) == 1 else None


def _with(value: SSAValue, kind: type[Operation]) -> tuple[SSAValue, int] | None:
    """What an op of a kind combines with a whole number, and that."""
    op = _step(value, kind)
    for inner, other in () if op is None else (op.operands, op.operands[::-1]):
        if (number := _number(other)) is not None:
            return inner, number
    return None


def _rounded(whole: SSAValue) -> SSAValue | None:
    """The float that a whole number is the nearest one of."""
    cast = _step(whole, arith.FPToSIOp)
    rounded = None if cast is None else _step(cast.operands[0], math.RoundEvenOp)
    return None if rounded is None else rounded.operands[0]


def _erase_unread(op: Operation) -> None:
    """Erases an op of a body that nobody reads, and what it alone read."""
    if any(result.uses for result in op.results):
        return
    block, sources = op.parent, dict.fromkeys(v.owner for v in op.operands)
    erase(op)
    for source in sources:
        if isinstance(source, Operation) and source.parent is block:
            _erase_unread(source)


def _number(value: SSAValue) -> int | None:
    """The whole number that a value is, where constants say so."""
    owner = value.owner
    if isinstance(owner, arith.ExtUIOp | arith.ExtSIOp):
        number = _number(owner.input)
        return number if number is None or isinstance(owner, arith.ExtSIOp) else number & 0xFF
    if isinstance(owner, arith.SIToFPOp):
        return _number(owner.input)
    if isinstance(owner, arith.SubiOp):
        a, b = _number(owner.lhs), _number(owner.rhs)
        return None if a is None or b is None else a - b
    if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, FloatAttr):
        real = owner.value.value.data
        return int(real) if float(real).is_integer() else None
    return affine.constant(value)
