"""to-fixed: a float model computes in one fixed-point type, as hls4ml's firmware does (level 1).

    %y = onnx.Gemm(%x, %w, %b) ; %z = onnx.Relu(%y)             precision="fixed<16,6>"
    ->
    %p = sofie.convert %x : tensor<1x16x!sofie.fixed<16, 6, signed, AP_TRN, AP_WRAP>>       weights and bias as well
    %y = onnx.Gemm(%p, %w, %b) : (..) -> tensor<1x8x!sofie.fixed<16, 6, ...>> ; %z = onnx.Relu(%y) : ...

The definition is that of hls4ml 1.3 with a `Precision` for the model (granularity "model"): inputs, weights, biases,
accumulators and results of all layers have that type. A dense layer is `nnet_dense_latency.h`: a sum starts with the
bias; each product, exact at first, is brought into the accumulator's type, and so is each sum, from the first input to
the last; then the sum is brought into the type of the result. `accum` is the type of accumulators where it is another.
A sum or product of two tensors is exact and then brought into the type; a batch normalisation is x * scale + bias, with
both in the type. MatMul and the Add of a constant behind it are one dense layer. Constants are converted from the
float32 of the file. Convolutions need an accumulator that wraps: their sums have no order of their own.

Run it behind fold-constants and fold-batchnorm, which make constants and put a normalisation into the weights before
it, as hls4ml does: `--pipeline 'fold-constants,fold-batchnorm,to-fixed{precision="fixed<16,6>"},fuse,lower'`.

Raises an error that names the node on operators that hls4ml computes by tables (Softmax, Sigmoid, Tanh, ..) and on
others without a definition here: no float is left in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import Float32Type, Float64Type, ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import contents
from sofie.dialects.types import element_of, shape_of
from sofie.errors import UnsupportedError
from sofie.fixed import Fixed, product, total
from sofie.layers import join_bias
from sofie.passes.lower_onnx.fixed import EXACT, MOVES
from sofie.passes.lower_onnx.normalization import scale_and_offset
from sofie.rewrite import blame
from sofie.twins import Declined, Twins, exact, kind_of, label

TABLES = frozenset(
    """Celu Elu Erf Exp Gelu HardSigmoid HardSwish Log LogSoftmax Mish Selu Sigmoid Softmax Softplus Softsign Swish
    Tanh""".split()
)
"""Operators that firmware looks up in tables."""


@dataclass(frozen=True)
class ToFixed(ModulePass):
    """Gives every layer the type `precision`, and sums on their way the type `accum` ("": the same)."""

    name: ClassVar[str] = "to-fixed"

    precision: str = "fixed<16,6>"
    accum: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        precision = Fixed.parse(self.precision)
        for node in [o for o in op.walk() if isinstance(o, OnnxOp) and o.operator == "Add"]:
            join_bias(node)
        layers = _Layers(precision, Fixed.parse(self.accum) if self.accum else precision)
        for node in [o for o in op.walk() if isinstance(o, OnnxOp)]:
            if any(isinstance(element_of(v), Float32Type | Float64Type) for v in node.results):
                try:
                    layers.convert(node)
                except Declined as declined:
                    raise UnsupportedError(f"{blame(node)}: {declined}") from declined
        layers.twins.finish()


class _Layers:
    """Makes the twin of one layer after the other."""

    def __init__(self, precision: Fixed, accum: Fixed) -> None:
        self.twins, self.precision, self.accum = Twins(), precision, accum

    def convert(self, op: OnnxOp) -> None:
        """Gives the results of a layer twins. Raises Declined where it has no definition."""
        self.twins.here = op
        if all(contents(v) is not None for v in op.operands):
            raise Declined("its operands are constants; run fold-constants before to-fixed")
        if op.operator in TABLES:
            raise Declined("firmware looks it up in a table, which to-fixed does not; end the model before it")
        rule = None if op.SCHEMA.domain else _RULES.get(op.operator)
        if rule is None:
            names = ", ".join(sorted(_RULES))
            raise Declined(f"to-fixed has no definition of it; end the model before it, or use only {names}")
        made = rule(self, op)
        self.twins.remember(op, [made] if isinstance(made, SSAValue) else made)

    def operand(self, op: OnnxOp, index: int) -> SSAValue:
        """An operand in the model's type: what the layer before gave, an input, or a constant."""
        value = op.inputs[index]
        if value is None or not isinstance(element_of(value), Float32Type | Float64Type):
            raise Declined(f"its operand {op.SCHEMA.inputs[index].name!r} is no float")
        if value in self.twins.of:
            return self.twins.of[value]
        array = contents(value)
        if array is None:
            return self.twins.convert(value, self.precision)
        return self.twins.constant(label(value), exact(array), self.precision)

    def operands(self, op: OnnxOp) -> list[SSAValue]:
        """All of them."""
        return [self.operand(op, k) for k in range(len(op.inputs))]


def _dense(layers: _Layers, op: OnnxOp) -> SSAValue:
    """A sum in the accumulator's type, then in the model's."""
    if op.operator == "Gemm" and (op.real("alpha") != 1.0 or (len(op.inputs) > 2 and op.real("beta") != 1.0)):
        raise Declined("its alpha and beta are not 1; multiply the weights and the bias by them")
    if op.operator == "Conv" and layers.accum.overflow != "AP_WRAP":
        raise Declined("its accumulator saturates, which depends on the order of its terms; use accum with AP_WRAP")
    sums = layers.twins.again(op, layers.operands(op), layers.accum)[0]
    return layers.twins.convert(sums, layers.precision)


def _alike(layers: _Layers, op: OnnxOp) -> SSAValue:
    """Exact, then in the model's type."""
    return layers.twins.again(op, layers.operands(op), layers.precision)[0]


def _moved(layers: _Layers, op: OnnxOp) -> Sequence[SSAValue]:
    """The same elements; MaxPool's indices have no twin."""
    if op.operator == "MaxPool" and len(op.results) > 1:
        raise Declined("it gives indices; take only its values")
    return layers.twins.again(op, [layers.operand(op, 0), *op.inputs[1:]], layers.precision)


def _batch_normalization(layers: _Layers, op: OnnxOp) -> SSAValue:
    """x * scale + bias, exact, then in the model's type; scale and bias of a channel are computed in float64."""
    if op.integer("training_mode") or len(op.results) > 1:
        raise Declined("it is in training mode; export the model for inference")
    parameters = [contents(v) for v in op.inputs[1:5]]
    if any(p is None for p in parameters):
        raise Declined("its parameters are computed at run time; make them constants")
    scale, bias, mean, variance = (np.asarray(p) for p in parameters)
    x, twins = layers.operand(op, 0), layers.twins
    shape = (-1, *[1] * (len(shape_of(x)) - 2))
    factors = [exact(a).reshape(shape) for a in scale_and_offset(scale, bias, mean, variance, op.real("epsilon"))]
    factor, offset = (twins.constant(n, a, layers.precision) for n, a in zip(("scale", "bias"), factors, strict=True))
    kind = product(cast(Fixed, kind_of(x)), layers.precision)
    scaled = twins.op("Mul", [x, factor], kind, shape_of(x))
    added = twins.op("Add", [scaled, offset], total(kind, layers.precision), shape_of(x))
    return twins.convert(added, layers.precision)


_RULES: dict[str, Callable[[_Layers, OnnxOp], SSAValue | Sequence[SSAValue]]] = {
    "BatchNormalization": _batch_normalization,
    "Concat": _alike,
    "Relu": _alike,
    **dict.fromkeys(EXACT, _alike),
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _dense),
}
