"""Elementwise operators: each row is the scalar that one output element is."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.ir import SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, is_unsigned
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars

UNARY: dict[str, Callable[[Scalars, SSAValue], SSAValue]] = {
    "Exp": lambda s, x: s.unary("exp", x),
    "Identity": lambda _, x: x,
    "Neg": lambda s, x: s.neg(x),
    "Relu": lambda s, x: s.max(x, s.constant(0, x.type)),
    "Sigmoid": lambda s, x: s.sigmoid(x),
    "Sqrt": lambda s, x: s.unary("sqrt", x),
    "Tanh": lambda s, x: s.unary("tanh", x),
}

BINARY: dict[str, Callable[[Scalars, SSAValue, SSAValue], SSAValue]] = {
    "Add": lambda s, a, b: s.add(a, b),
    "Div": lambda s, a, b: s.div(a, b),
    "Mul": lambda s, a, b: s.mul(a, b),
    "Sub": lambda s, a, b: s.sub(a, b),
}


@lowers(*UNARY)
def unary(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = f(x), any shape."""
    if op.operator == "Identity":
        return build.operand(0)
    return build.elementwise(UNARY[op.operator], build.operand(0))


@lowers(*BINARY)
def binary(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = f(a, b), broadcast as numpy does (ONNX 7 and later)."""
    return build.elementwise(BINARY[op.operator], build.operand(0), build.operand(1))


@lowers("LeakyRelu")
def leaky_relu(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = x < 0 ? alpha * x : x (LeakyRelu 16)."""
    alpha = op.real("alpha")

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        scaled = s.mul(s.constant(alpha, x.type), x) if alpha else s.constant(0.0, x.type)
        return s.max(x, scaled) if alpha <= 1.0 else s.min(x, scaled)

    return build.elementwise(fn, build.operand(0))


@lowers("Clip")
def clip(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = min(max(x, lowest), highest); either bound may be absent or a run-time scalar (Clip 13); NaN stays."""
    x, low, high = build.operand(0), build.optional(1), build.optional(2)
    bounds = [v for v in (low, high) if v is not None]
    if not bounds:
        return x

    def fn(s: Scalars, value: SSAValue, *limits: SSAValue) -> SSAValue:
        rest = list(limits)
        if low is not None:
            value = s.max(value, rest.pop(0))
        if high is not None:
            value = s.min(value, rest.pop(0))
        return value

    return build.elementwise(fn, x, *bounds, element=element_of(x))


@lowers("Cast")
def cast(op: OnnxOp, build: Lowering) -> SSAValue:
    """Another element type: floats truncate towards zero, integers wrap, bool is x != 0 (Cast 25)."""
    kind, unsigned = build.result_element(), is_unsigned(build.result_elements[0])
    return build.elementwise(lambda s, x: s.cast(x, kind, unsigned), build.operand(0), element=kind)
