"""fuse-qdq: what a model computes between dequantising and quantising is computed on the integers (level 1).

    %y = QuantizeLinear(Relu(Conv(DequantizeLinear(%x), DequantizeLinear(%w), %b)))
    ->
    %s = ConvInteger(%x, %w) : si32 ; %r = Cast(%s) * m + c : f64 ; %y = Cast(Round(Clip(%r)))

for Conv, Gemm and MatMul with constant weights of 8 bits. Sums are exact; the scales are one factor, in float64, and
each result is rounded once: it is what the dequantised model gives in exact arithmetic. Without a QuantizeLinear behind
it, the sum is scaled to float32. Integers with a sign lose it, moved by 128, where nobody else sees them. What only
moves elements (reshapes, transposes, joins of one scale, MaxPool) does so on the integers, and quantising what was just
dequantised is nothing. Declines for scales and zero points of the run, for scales along other axes than the outputs of
the weights, and for sums that 32 bits do not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, IntegerType, ModuleOp, Signedness, f32, f64, i64
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.sofie import WeightOp, contents
from sofie.dialects.types import element_of, element_to_onnx, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.layers import limits
from sofie.passes.lower_onnx.quantization import bounds
from sofie.rewrite import erase, replace_results, users
from sofie.site import Site
from sofie.weights import Array

Reals = npt.NDArray[np.float64]

BYTE, UNSIGNED_BYTE = IntegerType(8), IntegerType(8, Signedness.UNSIGNED)
INT32 = IntegerType(32)
CONTRACTIONS = ("Conv", "Gemm", "MatMul")
MOVES = ("DepthToSpace", "Flatten", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that commute with dequantising: their first operand alone is data, and they keep its order."""
MOST_TERMS = 2**31 // 255**2
"""Of a sum that 32 bits hold, whatever the bytes are."""


@dataclass(frozen=True)
class Quantized:
    """A tensor that stands for (integers - zero) * scale; scale and zero are scalars or vectors along `axis`."""

    integers: SSAValue
    scale: Reals
    zero: npt.NDArray[np.int32]
    axis: int

    def same(self, other: Quantized) -> bool:
        """Whether both have one scale and zero point, the same ones."""
        alone = self.scale.size == other.scale.size == 1
        return alone and self.scale == other.scale and self.zero == other.zero and self.element == other.element

    @property
    def element(self) -> Attribute:
        """The type of the integers."""
        return element_of(self.integers)


@dataclass(frozen=True)
class FuseQdq(ModulePass):
    """Rewrites in program order, so that what one rewrite leaves is seen by the next."""

    name: ClassVar[str] = "fuse-qdq"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for quantize in _ops(op, "QuantizeLinear"):
            _without_sign(quantize)
        for inner in [o for o in op.walk() if isinstance(o, OnnxOp)]:
            if inner.operator in MOVES:
                _move(inner)
            elif inner.operator == "Concat":
                _join(inner)
        for quantize in _ops(op, "QuantizeLinear"):
            _forget(quantize)
        for operator in CONTRACTIONS:
            for contraction in _ops(op, operator):
                _contract(contraction)
        for dequantize in _ops(op, "DequantizeLinear"):
            if not dequantize.results[0].uses:
                erase(dequantize)


def _ops(module: ModuleOp, operator: str) -> list[OnnxOp]:
    return [o for o in module.walk() if isinstance(o, OnnxOp) and o.operator == operator and not o.SCHEMA.domain]


# -- what stands for what ----------------------------------------------------------------------------------------


def _parameters(op: OnnxOp, integers: SSAValue) -> Quantized | None:
    """What a (de)quantising op does, with constant scale and zero point of one number or along one axis."""
    _, scale, zero, *_ = [*op.inputs, None]
    known = contents(scale)
    offset = np.zeros((), np.int32) if zero is None else contents(zero)
    if known is None or offset is None or known.ndim > 1 or scale is None or element_of(scale) != f32:
        return None
    if op.integer("block_size", 0) or not np.isfinite(known).all() or float(known.min()) <= 0:
        return None
    rank = len(shape_of(integers))
    axis = op.integer("axis", 1) % rank if rank else 0
    numbers = offset.astype(np.int32)
    return Quantized(integers, known.astype(np.float64).reshape(-1), numbers.reshape(-1), axis)


def _dequantized(value: SSAValue | None, elements: Sequence[Attribute]) -> Quantized | None:
    """What a value was dequantised from, if to float32 from one of these types."""
    op = None if value is None else value.owner
    if not isinstance(op, OnnxOp) or op.operator != "DequantizeLinear" or element_of(op.results[0]) != f32:
        return None
    source = op.inputs[0]
    assert source is not None
    return _parameters(op, source) if element_of(source) in elements else None


def _quantizer(value: SSAValue) -> tuple[OnnxOp, Quantized] | None:
    """The only reader of a value, if it quantises it to 8 bits with one scale."""
    readers = users(value)
    if len(readers) != 1 or not isinstance(readers[0], OnnxOp) or readers[0].operator != "QuantizeLinear":
        return None
    found = _parameters(readers[0], readers[0].results[0])
    precise = readers[0].integer("precision", 0) in (0, onnx.TensorProto.FLOAT)
    if found is None or found.scale.size != 1 or found.element not in (BYTE, UNSIGNED_BYTE) or not precise:
        return None
    return readers[0], found


# -- rewriting ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Maker(Site):
    """Makes operators in front of one."""

    @staticmethod
    def before(op: Operation) -> _Maker:
        """The place before an op."""
        return _Maker(op.location, op)

    def weight(self, name: str, array: Array, element: Attribute | None = None) -> SSAValue:
        """A constant."""
        return self.insert(WeightOp.of(name, array, element))

    def op(
        self,
        operator: str,
        operands: Sequence[SSAValue | None],
        element: Attribute,
        shape: Sequence[int],
        attributes: dict[str, Attribute] | None = None,
    ) -> SSAValue:
        """The result of an operator."""
        made = op_classes()["", operator].from_positions(operands, [tensor_type(element, shape)], attributes)
        return self.insert(made)

    def cast(self, value: SSAValue, element: Attribute) -> SSAValue:
        """The value as another type."""
        to: dict[str, Attribute] = {"to": IntegerAttr(element_to_onnx(element), i64)}
        return self.op("Cast", [value], element, shape_of(value), to)

    def dequantized(self, value: SSAValue, like: OnnxOp) -> SSAValue:
        """What a value of another shape stands for, by the one scale of an op."""
        operands = [value, *like.inputs[1:]]
        return self.op("DequantizeLinear", operands, element_of(like.results[0]), shape_of(value))


def _without_sign(quantize: OnnxOp) -> None:
    """Bytes with a sign that are only dequantised again: moved by 128, they have none."""
    found = _parameters(quantize, quantize.results[0])
    readers = users(quantize.results[0])
    if found is None or found.scale.size != 1 or found.element != BYTE or not readers:
        return
    again = [_dequantized(r.results[0], [BYTE]) if len(r.results) == 1 else None for r in readers]
    if any(other is None or not found.same(other) for other in again):
        return
    make = _Maker.before(quantize)
    zero = make.weight("zero", (found.zero[0] + 128).astype(np.uint8).reshape(()), UNSIGNED_BYTE)
    attributes = {k: v for k, v in quantize.attributes_given().items() if k not in ("output_dtype",)}
    operands = [quantize.inputs[0], quantize.inputs[1], zero]
    moved = make.op("QuantizeLinear", operands, UNSIGNED_BYTE, shape_of(quantize.results[0]), attributes)
    moved.name_hint = quantize.results[0].name_hint
    for reader in readers:
        assert isinstance(reader, OnnxOp)
        remake = _Maker.before(reader)
        value = remake.op(
            "DequantizeLinear", [moved, reader.inputs[1], zero], f32, shape_of(moved), reader.attributes_given()
        )
        replace_results(reader, [value])
    erase(quantize)


def _move(op: OnnxOp) -> None:
    """op(dequantised) is dequantised op."""
    found = _dequantized(op.inputs[0], [BYTE, UNSIGNED_BYTE])
    if found is None or found.scale.size != 1 or len(op.results) != 1 or op.SCHEMA.domain:
        return
    source = op.inputs[0]
    assert source is not None and isinstance(source.owner, OnnxOp)
    make = _Maker.before(op)
    moved = make.op(
        op.operator, [found.integers, *op.inputs[1:]], found.element, shape_of(op.results[0]), op.attributes_given()
    )
    replace_results(op, [make.dequantized(moved, source.owner)])


def _join(op: OnnxOp) -> None:
    """Parts that were dequantised alike are joined as integers."""
    parts = [_dequantized(v, [BYTE, UNSIGNED_BYTE]) for v in op.inputs]
    first = op.inputs[0]
    if first is None or not isinstance(first.owner, OnnxOp):
        return
    same = [p for p in parts if p is not None and parts[0] is not None and p.same(parts[0])]
    if len(same) != len(parts):
        return
    make = _Maker.before(op)
    joined = make.op(
        "Concat", [p.integers for p in same], same[0].element, shape_of(op.results[0]), op.attributes_given()
    )
    replace_results(op, [make.dequantized(joined, first.owner)])


def _forget(quantize: OnnxOp) -> None:
    """Quantising what was dequantised with the same scale and zero point."""
    here = _parameters(quantize, quantize.results[0])
    before = _dequantized(quantize.inputs[0], [BYTE, UNSIGNED_BYTE])
    if here is not None and before is not None and here.same(before):
        replace_results(quantize, [before.integers])


# -- contractions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weights:
    """Integers as the integer operator wants them; zero, scale and bias have one number or one an output."""

    integers: Array
    element: Attribute
    zero: npt.NDArray[np.int32]
    scale: Reals
    bias: Reals


def _contract(op: OnnxOp) -> None:
    """Puts the integer operator and the scaling of its sums in the place of a contraction and what follows it."""
    x = _dequantized(op.inputs[0], [BYTE, UNSIGNED_BYTE])
    weights = _weights(op)
    if x is None or x.scale.size != 1 or weights is None:
        return
    clips, last = _activations(op.results[0])
    quantizer = _quantizer(last.results[0])
    make = _Maker.before(quantizer[0] if quantizer else op)
    zero = make.weight("zero", x.zero.reshape(()).astype(_dtype(x.element)), x.element)
    operands: list[SSAValue | None] = [x.integers, make.weight("weights", weights.integers, weights.element), zero]
    if weights.zero.any():
        operands.append(make.weight("zeros", weights.zero.astype(weights.integers.dtype), weights.element))
    operator = "ConvInteger" if op.operator == "Conv" else "MatMulInteger"
    shape = shape_of(op.results[0])
    total = make.op(operator, operands, INT32, shape, op.attributes_given() if op.operator == "Conv" else {})
    of_outputs = [-1, *[1] * (len(shape) - 2)] if op.operator == "Conv" else [-1]
    unit = quantizer[1].scale if quantizer else np.ones(1)
    factor, offset = (x.scale * weights.scale / unit).reshape(of_outputs), (weights.bias / unit).reshape(of_outputs)
    real = make.op("Mul", [make.cast(total, f64), make.weight("factor", _short(factor))], f64, shape)
    if offset.any():
        real = make.op("Add", [real, make.weight("offset", _short(offset))], f64, shape)
    if quantizer is None:
        replace_results(op, [make.cast(real, f32)])
        return
    terms = weights.integers.size // shape[1 if op.operator == "Conv" else -1]
    most = float(np.max(terms * 255.0 * 255.0 * np.abs(factor))) + float(np.max(np.abs(offset)))
    result = _rounded(make, real, clips, quantizer[1], most)
    replace_results(quantizer[0], [result])
    chain = [last]
    while chain[-1] is not op:
        source = chain[-1].inputs[0]
        assert source is not None and isinstance(source.owner, OnnxOp)
        chain.append(source.owner)
    for done in chain:
        erase(done)


def _short(array: Reals) -> Reals:
    """One number where all are equal."""
    return array.reshape(-1)[:1].reshape(()) if np.all(array == array.reshape(-1)[0]) else array


def _rounded(make: _Maker, real: SSAValue, clips: tuple[float, float], target: Quantized, most: float) -> SSAValue:
    """A sum in units of the scale as an integer within the type's bounds and those of the activations.

    Rounding keeps the order, so numbers up to `most`, if they are integers of 32 bits, are rounded before they are held
    within bounds.
    """
    zero, shape, unit = int(target.zero[0]), shape_of(real), float(target.scale[0])
    low, high = (float(bound - zero) for bound in bounds(target.element))
    low, high = max(low, clips[0] / unit), min(high, clips[1] / unit)
    low = min(low, high)
    if most >= 2**31 - 512:
        ends = [make.weight(name, np.array(end, np.float64)) for name, end in (("low", low), ("high", high))]
        real = make.op("Clip", [real, *ends], f64, shape)
    whole = make.cast(make.op("Round", [real], f64, shape), INT32)
    if zero:
        whole = make.op("Add", [whole, make.weight("zero", np.array(zero, np.int32))], INT32, shape)
    if most < 2**31 - 512:
        rounded = [int(np.rint(end)) + zero for end in (low, high)]
        ends = [make.weight(name, np.array(end, np.int32)) for name, end in zip(("low", "high"), rounded, strict=True)]
        whole = make.op("Clip", [whole, *ends], INT32, shape)
    return make.cast(whole, target.element)


def _activations(value: SSAValue) -> tuple[tuple[float, float], OnnxOp]:
    """The bounds that Relu and Clip give a value which nobody else reads, and the last op of that chain."""
    low, high = -np.inf, np.inf
    op = value.owner
    assert isinstance(op, OnnxOp)
    while len(readers := users(op.results[0])) == 1 and (ends := limits(readers[0])) is not None:
        op = readers[0]
        assert isinstance(op, OnnxOp)
        low, high = min(max(low, ends[0]), ends[1]), max(min(high, ends[1]), ends[0])
    return (low, high), op


def _weights(op: OnnxOp) -> _Weights | None:
    """The constant weights and bias of a contraction; None where the integer operator could not hold them."""
    w = _dequantized(op.inputs[1], [BYTE, UNSIGNED_BYTE])
    array = None if w is None else contents(w.integers)
    if w is None or array is None:
        return None
    outputs = 0 if op.operator == "Conv" else array.ndim - 1
    axis = w.axis
    if op.operator == "Gemm":
        if op.integer("transA") or op.real("alpha") != 1.0 or op.real("beta") != 1.0:
            return None
        if op.integer("transB"):
            array, axis = np.ascontiguousarray(array.T), 1 - axis
    if op.operator != "Conv" and (array.ndim != 2 or len(shape_of(op.results[0])) < 2):
        return None
    count, terms = array.shape[outputs], array.size // max(array.shape[outputs], 1)
    per_output = max(w.scale.size, w.zero.size) > 1
    if not 0 < terms < MOST_TERMS or (per_output and axis != outputs):
        return None
    bias = _bias(op.inputs[2] if len(op.inputs) > 2 else None, count)
    return None if bias is None else _Weights(array, w.element, w.zero, w.scale, bias)


def _bias(value: SSAValue | None, outputs: int) -> Reals | None:
    """The bias of each output, as it was dequantised or as it is; None where it is not that."""
    if value is None:
        return np.zeros(1)
    array = contents(value)
    if array is None:
        found = _dequantized(value, [INT32])
        integers = None if found is None else contents(found.integers)
        if found is None or integers is None or integers.ndim != 1:
            return None
        array = (integers.astype(np.float64) - found.zero) * found.scale
    if array.size != 1 and array.shape not in ((outputs,), (1, outputs)):
        return None
    return array.astype(np.float64).reshape(-1)


def _dtype(element: Attribute) -> npt.DTypeLike:
    return np.uint8 if element == UNSIGNED_BYTE else np.int8
