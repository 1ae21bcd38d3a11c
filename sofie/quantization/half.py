"""A module in floats of 16 bits: weights, activations and what computes on them, as far as ONNX's schemas go."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from xdsl.dialects.builtin import Float32Type, IntegerAttr, ModuleOp, TensorType, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.rewriter import Rewriter

from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_to_onnx, numpy_dtype, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import SofieError, printable
from sofie.quantization.layers import drop_unused_weights, infer_block, is_float, labels
from sofie.rewrite import erase

CONTROL = ("If", "Loop", "Scan")


def to_narrow(module: ModuleOp, element: Attribute, left: Collection[str] = ()) -> None:
    """Makes every op of @infer compute in `element` that may, with casts where floats meet it; in place.

    Inputs and outputs stay float32. Raises SofieError where a weight is too large for the type, and on names in `left`
    that no node has.
    """
    ops = [op for op in infer_block(module).ops if isinstance(op, OnnxOp)]
    known = {label for op in ops for label in labels(op)}
    if unknown := [name for name in left if name not in known]:
        raise SofieError(f"leave={printable(unknown[0])}: the model has no node of that name")
    narrowing = _Narrowing(element)
    for op in ops:
        if op.operator not in CONTROL and not set(left) & set(labels(op)):
            narrowing.narrow(op)
    for op in reversed([o for o in module.walk() if isinstance(o, OnnxOp) and o.operator == "Cast"]):
        if not op.results[0].uses:
            erase(op)
    drop_unused_weights(module)


class _Narrowing:
    """Ops one after the other; a value that is there in both types is cast once."""

    def __init__(self, element: Attribute) -> None:
        self._element = element
        self._spelled = f"tensor({numpy_dtype(element).name})"
        self._narrow: dict[SSAValue, SSAValue] = {}

    def narrow(self, op: OnnxOp) -> None:
        """Gives an op operands and results of the type, where its schema lets it."""
        schema = op.SCHEMA
        allowed = {c.type_param_str for c in schema.type_constraints if self._spelled in c.allowed_type_strs}
        operands = [(v, schema.inputs[min(k, len(schema.inputs) - 1)].type_str) for k, v in enumerate(op.inputs)]
        results = [(v, schema.outputs[min(k, len(schema.outputs) - 1)].type_str) for k, v in enumerate(op.results)]
        computed = {kind for value, kind in operands if is_float(value) and kind in allowed}
        floats = [kind for value, kind in results if is_float(value)]
        if not floats or not computed.issuperset(floats):  # what has a type of its own, as a Cast, keeps it
            return
        narrowed = {value for value, kind in operands if value is not None and is_float(value) and kind in computed}
        for k, value in enumerate(op.operands):
            if value in narrowed:
                op.operands[k] = self.of(value, op)
        for result, _ in results:
            if is_float(result):
                self._widened(op, result)

    def of(self, value: SSAValue, reader: OnnxOp) -> SSAValue:
        """A value in the type: a weight converted, a result from before it was cast back, else a cast."""
        if value not in self._narrow:
            block = reader.parent_block()
            assert block is not None and block.first_op is not None
            if isinstance(value.owner, WeightOp):
                made = WeightOp.of(value.owner.weight_name.data, self._converted(value.owner, reader))
                made.result.name_hint = value.name_hint
                block.insert_op_before(made, value.owner if value.owner.parent is block else block.first_op)
                self._narrow[value] = made.result
            else:
                cast = _cast(value, self._element, reader)
                block.insert_op_before(cast, reader)
                self._narrow[value] = cast.results[0]
        return self._narrow[value]

    def _converted(self, weight: WeightOp, reader: OnnxOp) -> np.ndarray:
        array = weight.blob.value
        with np.errstate(over="ignore"):
            converted = array.astype(numpy_dtype(self._element))
        if not np.array_equal(np.isfinite(array), np.isfinite(converted.astype(np.float32))):
            name = printable(weight.weight_name.data)
            raise SofieError(
                f"node {labels(reader)[0]!r} ({reader.operator}): its weights {name!r} are too large for "
                f"{numpy_dtype(self._element).name}; use to-bf16, or leave={labels(reader)[0]}"
            )
        return converted

    def _widened(self, op: OnnxOp, result: SSAValue) -> None:
        """Gives a result the type, and a cast back to float32 to all that read it."""
        block = op.parent_block()
        assert block is not None
        hint = result.name_hint
        narrow = Rewriter.replace_value_with_new_type(result, tensor_type(self._element, shape_of(result)))
        uses = list(narrow.uses)
        wide = _cast(narrow, Float32Type(), op)
        block.insert_op_after(wide, op)
        narrow.name_hint = wide.results[0].name_hint = hint
        for use in uses:
            use.operation.operands[use.index] = wide.results[0]
        self._narrow[wide.results[0]] = narrow


def _cast(value: SSAValue, element: Attribute, of: OnnxOp) -> OnnxOp:
    to: dict[str, Attribute] = {"to": IntegerAttr(element_to_onnx(element), i64)}
    result: TensorType[Attribute] = tensor_type(element, shape_of(value))
    return op_classes()["", "Cast"].from_positions([value], [result], to)
