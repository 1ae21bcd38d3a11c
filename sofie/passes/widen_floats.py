"""widen-floats: what computes on floats of 16 bits and fewer computes on float32, and rounds its results (level 1).

    %y = onnx.Add(%a, %b) : f16     ->     %x0 = onnx.Cast(%a) : f32 ; %x1 = onnx.Cast(%b) : f32
                                           %z = onnx.Add(%x0, %x1) : f32 ; %y = onnx.Cast(%z) : f16

Sums of an operator are float32 sums, rounded once, and every operator rounds, as ONNX says. Declines for operators that
only move elements, and for those that convert: casts, and (de)quantisation of floats of 8 bits and fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx
from xdsl.context import Context
from xdsl.dialects.builtin import Float32Type, IntegerAttr, ModuleOp, TensorType, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from sofie.dialects.narrow import NarrowFloat
from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.types import element_of, element_to_onnx, is_narrow, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import UnsupportedError
from sofie.rewrite import blame

MOVES = frozenset(
    """BitCast Cast CastLike CenterCropPad Compress Concat ConstantOfShape DepthToSpace Expand Flatten Gather
    GatherElements GatherND Identity If Loop OneHot Pad Reshape ReverseSequence Scan Shape Size Slice SpaceToDepth Split
    Squeeze TensorScatter Tile Transpose Trilu Unsqueeze Where""".split()
)
"""Operators that take narrow floats as they are."""
SCATTERS = frozenset(("Scatter", "ScatterElements", "ScatterND"))
"""Operators that do so unless they add or compare."""
CONVERTS = frozenset(("QuantizeLinear", "DequantizeLinear"))
"""Operators that lower floats of 8 bits and fewer themselves."""


@dataclass(frozen=True)
class WidenFloats(ModulePass):
    """Puts casts around operators, whatever they are nested in."""

    name: ClassVar[str] = "widen-floats"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for inner in [o for o in op.walk() if isinstance(o, OnnxOp)]:
            if not _moves(inner):
                _widen(inner)


def _moves(op: OnnxOp) -> bool:
    return op.operator in MOVES or (op.operator in SCATTERS and op.string("reduction", "none") == "none")


def _widen(op: OnnxOp) -> None:
    def wide(value: SSAValue) -> bool:
        element = element_of(value) if isinstance(value.type, TensorType) else value.type
        return is_narrow(element) and not (op.operator in CONVERTS and isinstance(element, NarrowFloat))

    allowed = {c.type_param_str: c.allowed_type_strs for c in op.SCHEMA.type_constraints}
    for values, formals in ((op.inputs, op.SCHEMA.inputs), (op.results, op.SCHEMA.outputs)):
        for k, value in enumerate(values):
            kind = formals[min(k, len(formals) - 1)].type_str  # a variadic one is the last
            if value is not None and wide(value) and "tensor(float)" not in allowed.get(kind, (kind,)):
                raise UnsupportedError(f"{blame(op)}: floats of 8 bits are not multiplied; dequantise its operands")
    for k, value in enumerate(op.operands):
        if wide(value):
            op.operands[k] = _cast(op, value, Float32Type(), before=True)
    narrowed = [(result, element_of(result)) for result in op.results if wide(result)]
    if narrowed and isinstance(op.attribute("dtype"), IntegerAttr):
        op.properties["onnx_dtype"] = IntegerAttr(onnx.TensorProto.FLOAT, i64)
    for result, element in narrowed:
        computed = Rewriter.replace_value_with_new_type(result, tensor_type(Float32Type(), shape_of(result)))
        uses = list(computed.uses)
        if uses:
            rounded = _cast(op, computed, element, before=False)
            for use in uses:
                use.operation.operands[use.index] = rounded


def _cast(op: OnnxOp, value: SSAValue, element: Attribute, before: bool) -> SSAValue:
    """The value as another element type, by an op before or behind `op`."""
    to: dict[str, Attribute] = {"to": IntegerAttr(element_to_onnx(element), i64)}
    results: Sequence[Attribute] = [tensor_type(element, shape_of(value))]
    made = op_classes()["", "Cast"].from_positions([value], results, to)
    made.location = op.location
    made.results[0].name_hint = value.name_hint
    block = op.parent_block()
    assert block is not None
    if before:
        block.insert_op_before(made, op)
    else:
        block.insert_op_after(made, op)
    return made.results[0]
