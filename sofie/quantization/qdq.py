"""Puts QuantizeLinear and DequantizeLinear into a module, in the way that ONNX Runtime's fusions look for.

    %y = onnx.Conv(%x, %w, %b)          %x1 = DQ(Q(%x))       uint8, a scale and a zero point
                                  ->    %w1 = DQ(int8)        a scale for each output channel
                                        %b1 = DQ(int32)       scale of x times that of the channel
                                        %y1 = DQ(Q(onnx.Conv(%x1, %w1, %b1)))

A Relu or Clip behind a layer stays between it and Q, or goes where saturation does the same. Add, Concat and pooling
between quantised layers are quantised as well; what only moves elements keeps the numbers of its operand. Results of
Gemm and MatMul that only floats read stay float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, NameLoc, StringAttr, UnknownLoc, f32, i64
from xdsl.ir import Attribute, Operation, SSAValue

from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.sofie import WeightOp, contents
from sofie.dialects.types import element_from_numpy, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.layers import limits
from sofie.naming import identifier
from sofie.quantization import parameters
from sofie.quantization.layers import (
    Layer,
    drop_unused_weights,
    find_layers,
    infer_block,
    is_float,
    labels,
    nodes_of,
)
from sofie.quantization.parameters import Parameters
from sofie.quantization.ranges import Range
from sofie.quantization.scheme import Scheme
from sofie.rewrite import erase
from sofie.weights import Array

Floats = npt.NDArray[np.float64]

JOINS = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "Relu")
"""Operators that are quantised between quantised layers, their results by numbers of their own."""
MOVES = ("Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators whose results have the numbers of their operand."""


@dataclass
class Plan:
    """What is quantised: the layers, the ops between them, the values in order, and of which value those are that were
    only moved.
    """

    layers: list[Layer]
    joins: list[OnnxOp] = field(default_factory=list)
    values: list[SSAValue] = field(default_factory=list)
    origin: dict[SSAValue, SSAValue] = field(default_factory=dict)

    def root(self, value: SSAValue) -> SSAValue:
        """The value whose numbers a value has."""
        while value in self.origin:
            value = self.origin[value]
        return value


def plan(module: ModuleOp, scheme: Scheme, left: Collection[str] = ()) -> Plan:
    """What of a prepared module is quantised, the nodes named in `left` excepted."""
    stays = set(left)
    layers = [layer for layer in find_layers(module) if stays.isdisjoint(labels(layer.op))]
    if scheme.only_weights:
        return Plan([layer for layer in layers if layer.weight is not None])
    by_op = {layer.op: layer for layer in layers}
    inside = {op for layer in layers for op in _between(layer)}
    wanted = {layer.op.operands[k] for layer in layers for k in layer.activations}
    made: set[SSAValue] = set()
    between: list[OnnxOp] = []
    for op in nodes_of(module):
        if op in by_op:
            made.add(by_op[op].result)
        elif op not in inside and stays.isdisjoint(labels(op)) and _joins(op, made | wanted):
            between.append(op)
            made.add(op.results[0])
    wanted |= {layer.result for layer in layers if layer.op.operator == "Conv"}
    found = Plan(layers)
    for op in reversed(between):
        if op.results[0] in wanted:
            wanted |= set(_joined(op))
            found.joins.append(op)
            if op.operator in MOVES:
                found.origin[op.results[0]] = op.operands[0]
    order = [*infer_block(module).args, *(result for op in infer_block(module).ops for result in op.results)]
    found.values = [value for value in order if value in wanted]
    return found


def _between(layer: Layer) -> list[OnnxOp]:
    """The ops behind a layer up to its result."""
    ops, value = [], layer.result
    while isinstance(value.owner, OnnxOp) and value.owner is not layer.op:
        ops.append(value.owner)
        value = next(v for v in value.owner.operands if contents(v) is None)
    return ops


def _joined(op: OnnxOp) -> list[SSAValue]:
    """The operands of an op between layers that are quantised with it."""
    return list(op.operands) if op.operator in ("Add", "Concat") else [op.operands[0]]


def _joins(op: OnnxOp, quantised: Collection[SSAValue]) -> bool:
    """Whether an op can work on integers: all its operands are quantised, or are constants."""
    if op.SCHEMA.domain or op.operator not in (*JOINS, *MOVES) or len(op.results) != 1:
        return False
    values = _joined(op)
    known = [v in quantised or contents(v) is not None for v in values]
    return all(known) and all(map(is_float, values)) and any(v in quantised for v in values)


# -- insertion ---------------------------------------------------------------------------------------------------------


def quantize(
    module: ModuleOp, planned: Plan, ranges: Mapping[SSAValue, Range], scheme: Scheme
) -> dict[SSAValue, SSAValue]:
    """Quantises a module by a plan; `ranges` are of its values. Returns what stands for each of them."""
    kind = scheme.activations
    numbers = {value: parameters.of_range(*ranges[planned.root(value)], kind) for value in planned.values}
    writer = _Writer(module, planned)
    for layer in planned.layers:
        if scheme.weights == "int4":
            writer.blocks(layer, scheme.block)
        elif layer.weight is not None:
            writer.channels(layer, numbers.get(layer.op.operands[0]), scheme.weights)
    stands = {value: writer.activation(value, numbers[value]) for value in planned.values}
    drop_unused_weights(module)
    return stands


class _Writer:
    """Writes ops into @infer; equal constants of one name are one weight."""

    def __init__(self, module: ModuleOp, planned: Plan) -> None:
        first = infer_block(module).first_op
        assert first is not None
        self._first = first
        self._working = {*(layer.op for layer in planned.layers), *planned.joins}
        self._made = {*(layer.result for layer in planned.layers), *(op.results[0] for op in planned.joins)}
        self._constants: dict[tuple[str, str], SSAValue] = {}

    def constant(self, name: str, array: Array) -> SSAValue:
        """A weight at the start of @infer."""
        op = WeightOp.of(name, array)
        key = (name, op.blob.digest)
        if key not in self._constants:
            op.result.name_hint = identifier(name)
            _put(op, self._first)
            self._constants[key] = op.result
        return self._constants[key]

    def dequantized(self, name: str, before: Operation, parts: Sequence[Array], **attributes: int) -> SSAValue:
        """DequantizeLinear of constant integers, a scale and, where there is one, a zero point."""
        endings = ("quantized", "scale", "zero_point")
        operands = [self.constant(f"{name}_{e}", part) for e, part in zip(endings, parts, strict=False)]
        return _insert(before, "DequantizeLinear", name, operands, (f32, shape_of(operands[0])), attributes)

    # -- activations ---------------------------------------------------------------------------------------------------

    def activation(self, value: SSAValue, numbers: Parameters) -> SSAValue:
        """Puts Q and DQ behind a value; returns the result of DQ.

        What quantised ops make is read through them by all; other values only by quantised ops.
        """
        scale, zero, shape = np.asarray(numbers.scale), np.asarray(numbers.zero, numbers.kind), shape_of(value)
        if isinstance(value.owner, WeightOp):
            name, array = value.owner.weight_name.data, value.owner.blob.value
            readers = [use for use in value.uses if use.operation in self._working]
            restored = self.dequantized(name, self._first, [numbers.quantized(array), scale, zero])
        else:
            name = labels(value.owner)[0] if isinstance(value.owner, OnnxOp) else value.name_hint or "value"
            readers = [use for use in value.uses if value in self._made or use.operation in self._working]
            pair = [self.constant(f"{name}_scale", scale), self.constant(f"{name}_zero_point", zero)]
            following = value.owner.next_op if isinstance(value.owner, Operation) else self._first
            assert following is not None
            source = _unclipped(value, numbers)
            integers = _insert(
                following, "QuantizeLinear", name, [source, *pair], (element_from_numpy(zero.dtype), shape)
            )
            restored = _insert(following, "DequantizeLinear", name, [integers, *pair], (f32, shape))
        for use in readers:
            use.operation.operands[use.index] = restored
        if not value.uses and isinstance(value.owner, OnnxOp):
            erase(value.owner)
        return restored

    # -- weights -------------------------------------------------------------------------------------------------------

    def channels(self, layer: Layer, numbers: Parameters | None, kind: str) -> None:
        """int8 for the weights and, where the inputs are integers of these `numbers`, int32 for the bias."""
        assert layer.weight is not None
        bias = layer.bias.blob.value if layer.bias is not None and numbers is not None else None
        least: Floats | float = 0.0
        if bias is not None and numbers is not None:
            rooms = parameters.least_scale(bias, numbers.scale)
            least = rooms if layer.channels is not None else float(rooms.max(initial=0.0))
        integers, scale = parameters.channels(layer.weight.blob.value, layer.channels, least, kind)
        parts = [integers, scale, np.zeros(scale.shape, np.int8)]
        axis = {} if layer.channels is None else {"axis": layer.channels}
        layer.op.operands[1] = self.dequantized(layer.weight.weight_name.data, layer.op, parts, **axis)
        if bias is not None and numbers is not None and layer.bias is not None:
            scales = np.multiply(numbers.scale, scale)
            parts = [parameters.bias(bias, scales), scales, np.zeros(scales.shape, np.int32)]
            axis = {} if layer.channels is None else {"axis": 0}
            layer.op.operands[2] = self.dequantized(layer.bias.weight_name.data, layer.op, parts, **axis)

    def blocks(self, layer: Layer, block: int) -> None:
        """int4 for the weights; those of a convolution as a matrix, so that blocks run over all that is summed."""
        assert layer.weight is not None
        array, name = layer.weight.blob.value, layer.weight.weight_name.data
        convolves = layer.op.operator in ("Conv", "ConvTranspose")
        matrix = array.reshape(len(array), -1) if convolves else array
        integers, scales = parameters.blocks(matrix, layer.reduction, block)
        restored = self.dequantized(name, layer.op, [integers, scales], axis=layer.reduction, block_size=block)
        if convolves:
            shape = self.constant(f"{name}_shape", np.array(array.shape, np.int64))
            restored = _insert(layer.op, "Reshape", name, [restored, shape], (f32, array.shape))
        layer.op.operands[1] = restored


def _unclipped(value: SSAValue, numbers: Parameters) -> SSAValue:
    """The value, or what it was before a clipping that the integers do as well."""
    ends = limits(value.owner) if isinstance(value.owner, OnnxOp) else None
    if ends is None or not numbers.saturates(*ends):
        return value
    assert isinstance(value.owner, OnnxOp)
    return value.owner.operands[0]


def _insert(
    before: Operation,
    operator: str,
    name: str,
    operands: Sequence[SSAValue],
    result: tuple[Attribute, Sequence[int]],
    attributes: Mapping[str, int] | None = None,
) -> SSAValue:
    """An op before another, with a result of an element type and shape."""
    given: dict[str, Attribute] = {key: IntegerAttr(number, i64) for key, number in (attributes or {}).items()}
    op = op_classes()["", operator].from_positions(list(operands), [tensor_type(*result)], given)
    op.location = NameLoc(StringAttr(f"{operator} {name}_{operator}"), UnknownLoc())
    op.results[0].name_hint = identifier(f"{name}_{operator}")
    _put(op, before)
    return op.results[0]


def _put(op: Operation, before: Operation) -> None:
    block = before.parent_block()
    assert block is not None
    block.insert_op_before(op, before)
