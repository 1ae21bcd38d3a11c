"""fuse-dequantize: a product of floats with dequantised weights reads the integers (level 1).

    %w = DequantizeLinear(%q : 64x48xsi4, %scale : 2x48xf32) {axis = 0, block_size = 32} ; %y = MatMul(%x, %w)
    ->
    %y = com.microsoft.MatMulNBits(%x, %q' : 48x2x16xui8, %scale') {bits = 4, block_size = 32}

so that weights of 4 and 8 bits take that room in the file and in memory, and become floats in registers. Weights may be
dequantised by DequantizeLinear, or by a Cast with a Mul. Declines for weights with other readers, which fold-constants
makes floats, for more than two axes, and where x was quantised too: that is fuse-qdq's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import Float32Type, IntegerAttr, IntegerType, ModuleOp, i64
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie.dialects.microsoft import DOMAIN
from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.sofie import WeightOp, contents
from sofie.dialects.types import element_of, is_float, is_unsigned, shape_of
from sofie.rewrite import erase, replace_results, users

Floats = npt.NDArray[np.float32]
WIDTHS = (4, 8)


@dataclass(frozen=True)
class Blocks:
    """Weights (N, K) as integers without a sign, in blocks of `size` along K; scale and zero are (N, blocks)."""

    numbers: npt.NDArray[np.uint8]
    bits: int
    size: int
    scale: Floats
    zero: Floats

    def packed(self) -> npt.NDArray[np.uint8]:
        """(N, blocks, bytes): the lower half of a byte is the first of two numbers; zeros behind the last."""
        outputs, terms = self.numbers.shape
        blocks = self.scale.shape[1]
        filled = np.zeros((outputs, blocks * self.size), np.uint8)
        filled[:, :terms] = self.numbers
        apart = filled.reshape(outputs, blocks, self.size)
        return apart if self.bits == 8 else apart[..., ::2] | apart[..., 1::2] << 4


@dataclass(frozen=True)
class FuseDequantize(ModulePass):
    """Rewrites MatMul and Gemm."""

    name: ClassVar[str] = "fuse-dequantize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for product in [o for o in op.walk() if isinstance(o, OnnxOp) and o.operator in ("MatMul", "Gemm")]:
            if not product.SCHEMA.domain:
                _rewrite(product)


def _rewrite(op: OnnxOp) -> None:
    x, w = op.inputs[:2]
    assert x is not None and w is not None
    if op.operator == "Gemm" and (op.integer("transA") or op.real("alpha") != 1.0 or op.real("beta") != 1.0):
        return
    across = op.operator == "Gemm" and op.integer("transB") == 1
    if element_of(x) != Float32Type() or users(w) != [op] or len(shape_of(x)) < 2 or x is w:
        return
    if not isinstance(w.owner, OnnxOp) or (made := _blocks(w.owner, across)) is None:
        return
    block = op.parent_block()
    assert block is not None
    outputs, terms = made.numbers.shape
    weights = [WeightOp.of("weights", made.packed()), WeightOp.of("scales", made.scale)]
    operands: list[SSAValue | None] = [x]
    if not np.all(made.zero == 2 ** (made.bits - 1)):
        weights.append(WeightOp.of("zero points", made.zero))
    operands += [weight.result for weight in weights]
    numbers = {"K": terms, "N": outputs, "bits": made.bits, "block_size": made.size}
    attributes: dict[str, Attribute] = {name: IntegerAttr(number, i64) for name, number in numbers.items()}
    new = op_classes()[DOMAIN, "MatMulNBits"].from_positions(operands, [op.results[0].type], attributes)
    added: list[Operation] = [*weights, new]
    if len(op.inputs) > 2 and op.inputs[2] is not None:
        added.append(op_classes()["", "Add"].from_positions([new.results[0], op.inputs[2]], [op.results[0].type]))
    for made_op in added:
        made_op.location = op.location
    block.insert_ops_before(added, op)
    replace_results(op, [added[-1].results[0]])
    _erase_unread(w.owner)


def _erase_unread(op: Operation) -> None:
    """Erases an op that nobody reads, and what it alone read."""
    if any(result.uses for result in op.results):
        return
    sources = [value.owner for value in op.operands]
    erase(op)
    for source in dict.fromkeys(sources):
        if isinstance(source, OnnxOp | WeightOp):
            _erase_unread(source)


def _blocks(op: OnnxOp, across: bool) -> Blocks | None:
    """What an op dequantises; `across`: (N, K) rather than (K, N)."""
    found = _dequantized(op) if op.operator == "DequantizeLinear" else _scaled(op) if op.operator == "Mul" else None
    if found is None:
        return None
    integers, element, scale, zero, axis, size = found
    width = element.width.data
    if integers.ndim != 2 or width not in WIDTHS or not integers.size:
        return None
    along = 1 if across else 0  # K
    if size == 0:
        if scale.size > 1 and axis == along:
            return None
        size = integers.shape[along] + integers.shape[along] % 2
        scale, zero = (np.broadcast_to(v.reshape(-1, 1), (integers.shape[1 - along], 1)) for v in (scale, zero))
    elif axis != along or size % 2:
        return None
    else:
        each = [np.broadcast_to(v, scale.shape) for v in (scale, zero)]
        scale, zero = each if across else [v.T for v in each]
    moved = 0 if is_unsigned(element) else 2 ** (width - 1)
    numbers = (integers if across else integers.T) + moved
    return Blocks(
        np.ascontiguousarray(numbers).astype(np.uint8),
        width,
        size,
        np.ascontiguousarray(scale, np.float32),
        np.ascontiguousarray(zero + moved, np.float32),
    )


Found = tuple[npt.NDArray[np.int32], IntegerType, Floats, Floats, int, int]
"""Integers and their type, scale, zero point, the axis of both and the size of a block, 0: none."""


def _dequantized(op: OnnxOp) -> Found | None:
    source, scale, zero = [*op.inputs, None][:3]
    integers, steps = contents(source), _steps(scale)
    offset = np.zeros((), np.float32) if zero is None else contents(zero)
    if source is None or integers is None or steps is None or offset is None:
        return None
    element = element_of(source)
    if not isinstance(element, IntegerType) or element_of(op.results[0]) != Float32Type():
        return None
    rank = integers.ndim
    axis, size = op.integer("axis", 1) % max(rank, 1), op.integer("block_size", 0)
    return integers.astype(np.int32), element, steps.astype(np.float32), offset.astype(np.float32), axis, size


def _scaled(op: OnnxOp) -> Found | None:
    """Cast(integers) * scale, one number or one a column."""
    for cast, scale in (op.inputs[:2], op.inputs[1::-1]):
        owner = None if cast is None else cast.owner
        if not isinstance(owner, OnnxOp) or owner.operator != "Cast" or owner.inputs[0] is None:
            continue
        integers, steps, element = contents(owner.inputs[0]), _steps(scale), element_of(owner.inputs[0])
        if integers is None or steps is None or not isinstance(element, IntegerType) or integers.ndim != 2:
            continue
        columns = integers.shape[1]
        if element_of(op.results[0]) != Float32Type() or steps.shape not in ((), (1,), (columns,), (1, columns)):
            continue
        numbers = steps.astype(np.float32).reshape(-1)
        return integers.astype(np.int32), element, numbers, np.zeros((), np.float32), 1, 0
    return None


def _steps(value: SSAValue | None) -> npt.NDArray[np.generic] | None:
    """Constant scales, which may be cast from narrower floats."""
    owner = None if value is None else value.owner
    if isinstance(owner, OnnxOp) and owner.operator == "Cast" and owner.inputs[0] is not None:
        return contents(owner.inputs[0]) if is_float(element_of(owner.inputs[0])) else None
    return contents(value)
