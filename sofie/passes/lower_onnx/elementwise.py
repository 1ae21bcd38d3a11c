"""Elementwise operators: each row is the scalar that one output element is."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

from xdsl.dialects.builtin import IntegerType, f64, i1
from xdsl.dialects.math import FmaOp
from xdsl.ir import Attribute, SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, is_float, is_unsigned, shape_of
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.narrow import convert
from sofie.passes.lower_onnx.scalars import Scalars

Unary = Callable[[Scalars, SSAValue], SSAValue]
Binary = Callable[[Scalars, SSAValue, SSAValue], SSAValue]


def _function(name: str) -> Unary:
    return lambda s, x: s.unary(name, x)


def _operation(name: str) -> Binary:
    return lambda s, a, b: s.binary(name, a, b)


def _predicate(name: str) -> Binary:
    return lambda s, a, b: s.compare(name, a, b)


UNARY: dict[str, Unary] = {
    "Abs": lambda s, x: s.abs(x),
    "Acos": _function("acos"),
    "Acosh": _function("acosh"),
    "Asin": _function("asin"),
    "Asinh": _function("asinh"),
    "Atan": _function("atan"),
    "Atanh": _function("atanh"),
    "BitwiseNot": lambda s, x: s.binary("xor", x, s.constant(-1, x.type)),
    "Ceil": _function("ceil"),
    "Cos": _function("cos"),
    "Cosh": _function("cosh"),
    "Erf": _function("erf"),
    "Exp": _function("exp"),
    "Floor": _function("floor"),
    "Identity": lambda _, x: x,
    "IsNaN": lambda s, x: s.compare("ne", x, x),
    "Log": _function("log"),
    "Mish": lambda s, x: s.mul(x, _tanh_of_softplus(s, x)),
    "Neg": lambda s, x: s.neg(x),
    "Not": lambda s, x: s.binary("xor", x, s.constant(True, x.type)),
    "Reciprocal": lambda s, x: s.div(s.constant(1, x.type), x),
    "Relu": lambda s, x: s.max(x, s.constant(0, x.type)),
    "Round": _function("round"),
    "Sigmoid": lambda s, x: s.sigmoid(x),
    "Sign": lambda s, x: _sign(s, x),
    "Sin": _function("sin"),
    "Sinh": _function("sinh"),
    "Softplus": lambda s, x: s.add(_above(s, x), s.unary("log1p", s.unary("exp", s.neg(s.abs(x))))),
    "Softsign": lambda s, x: s.div(x, s.add(s.constant(1, x.type), s.abs(x))),
    "Sqrt": _function("sqrt"),
    "Tan": _function("tan"),
    "Tanh": _function("tanh"),
}

PARAMETRIC: dict[str, Callable[[OnnxOp], Unary]] = {
    "Celu": lambda op: _celu(op.real("alpha")),
    "Elu": lambda op: elu(op.real("alpha"), 1.0),
    "Gelu": lambda op: _gelu_by_tanh if op.string("approximate") == "tanh" else _gelu,
    "HardSigmoid": lambda op: ramp(op.real("alpha"), op.real("beta")),
    "HardSwish": lambda _: lambda s, x: s.mul(x, ramp(1 / 6, 0.5)(s, x)),
    "IsInf": lambda op: _is_infinite(op.integer("detect_negative") != 0, op.integer("detect_positive") != 0),
    "Selu": lambda op: elu(op.real("alpha"), op.real("gamma")),
    "Shrink": lambda op: _shrink(op.real("lambd"), op.real("bias")),
    "Swish": lambda op: lambda s, x: s.mul(x, s.sigmoid(s.mul(s.constant(op.real("alpha"), x.type), x))),
    "ThresholdedRelu": lambda op: thresholded(op.real("alpha")),
}
"""The operators whose scalar depends on attributes."""

BINARY: dict[str, Binary] = {
    "Add": lambda s, a, b: s.add(a, b),
    "And": _operation("and"),
    "BitwiseAnd": _operation("and"),
    "BitwiseOr": _operation("or"),
    "BitwiseXor": _operation("xor"),
    "Div": lambda s, a, b: s.div(a, b),
    "Equal": _predicate("eq"),
    "Greater": _predicate("gt"),
    "GreaterOrEqual": _predicate("ge"),
    "Less": _predicate("lt"),
    "LessOrEqual": _predicate("le"),
    "Mul": lambda s, a, b: s.mul(a, b),
    "Or": _operation("or"),
    "Sub": lambda s, a, b: s.sub(a, b),
    "Xor": _operation("xor"),
}

VARIADIC: dict[str, Binary] = {
    "Max": lambda s, a, b: s.max(a, b),
    "Mean": lambda s, a, b: s.add(a, b),
    "Min": lambda s, a, b: s.min(a, b),
    "Sum": lambda s, a, b: s.add(a, b),
}


@lowers(*UNARY)
def unary(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = f(x), any shape."""
    if op.operator == "Identity":
        return build.operand(0)
    return build.elementwise(UNARY[op.operator], build.operand(0), element=build.result_element())


@lowers(*PARAMETRIC)
def parametric(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = f(x), where f depends on attributes."""
    return build.elementwise(PARAMETRIC[op.operator](op), build.operand(0), element=build.result_element())


@lowers(*BINARY)
def binary(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = f(a, b), broadcast as numpy does (ONNX 7 and later)."""
    return build.elementwise(BINARY[op.operator], build.operand(0), build.operand(1), element=build.result_element())


@lowers(*VARIADIC)
def variadic(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = f(.. f(f(a, b), c) ..), broadcast as numpy does (Max 13, Mean 13, Min 13, Sum 13); NaN stays."""
    step, operands = VARIADIC[op.operator], [v for v in op.inputs if v is not None]

    def fn(s: Scalars, *xs: SSAValue) -> SSAValue:
        total = reduce(lambda a, b: step(s, a, b), xs)
        return s.div(total, s.constant(len(xs), total.type)) if op.operator == "Mean" else total

    return operands[0] if len(operands) == 1 else build.elementwise(fn, *operands)


# -- what the rows are made of -----------------------------------------------------------------------------------------


def _above(s: Scalars, x: SSAValue) -> SSAValue:
    return s.max(x, s.constant(0, x.type))


def _below(s: Scalars, x: SSAValue) -> SSAValue:
    return s.min(x, s.constant(0, x.type))


def _expm1_below(s: Scalars, x: SSAValue) -> SSAValue:
    """e^x - 1 for x <= 0 without cancellation: 2 t / (1 - t) for t = tanh(x / 2)."""
    t = s.unary("tanh", s.mul(x, s.constant(0.5, x.type)))
    return s.div(s.add(t, t), s.sub(s.constant(1, x.type), t))


def elu(alpha: float, gamma: float) -> Unary:
    """gamma * (x > 0 ? x : alpha (e^x - 1)) (Elu 22, Selu 22)."""

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        curved = s.mul(s.constant(gamma * alpha, x.type), _expm1_below(s, _below(s, x)))
        return s.add(s.mul(s.constant(gamma, x.type), _above(s, x)), curved)

    return fn


def _celu(alpha: float) -> Unary:
    """max(0, x) + min(0, alpha (e^(x / alpha) - 1)) (Celu 12)."""

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        factor = s.constant(alpha, x.type)
        ratio = s.div(_below(s, x), factor)
        return s.add(_above(s, x), s.mul(factor, _expm1_below(s, ratio) if alpha > 0 else s.unary("expm1", ratio)))

    return fn


def _tanh_of_softplus(s: Scalars, x: SSAValue) -> SSAValue:
    """tanh(log(1 + e^x)) = n / (n + 2) for n = e^x (e^x + 2) (Mish 22); from x = 40 on that is 1 in both precisions."""
    power = s.unary("exp", s.min(x, s.constant(40, x.type)))
    two = s.constant(2, x.type)
    n = s.mul(power, s.add(power, two))
    return s.div(n, s.add(n, two))


def _gelu(s: Scalars, x: SSAValue) -> SSAValue:
    """x / 2 (1 + erf(x / sqrt 2)) (Gelu 20)."""
    erf = s.unary("erf", s.mul(x, s.constant(math.sqrt(0.5), x.type)))
    return s.mul(s.mul(s.constant(0.5, x.type), x), s.add(s.constant(1, x.type), erf))


def _gelu_by_tanh(s: Scalars, x: SSAValue) -> SSAValue:
    """x / 2 (1 + tanh u) for u = sqrt(2 / pi) (x + 0.044715 x^3) (Gelu 20), which is x sigmoid(2 u)."""
    root = 2 * math.sqrt(2 / math.pi)
    cubic = s.add(s.constant(root, x.type), s.mul(s.constant(root * 0.044715, x.type), s.mul(x, x)))
    return s.mul(x, s.sigmoid(s.mul(x, cubic)))


def ramp(alpha: float, beta: float) -> Unary:
    """max(0, min(1, alpha x + beta)) (HardSigmoid 22)."""

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        line = s.add(s.mul(s.constant(alpha, x.type), x), s.constant(beta, x.type))
        return _above(s, s.min(line, s.constant(1, x.type)))

    return fn


def leaky(alpha: float) -> Unary:
    """x < 0 ? alpha x : x (LeakyRelu 16)."""

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        scaled = s.mul(s.constant(alpha, x.type), x) if alpha else s.constant(0.0, x.type)
        return s.max(x, scaled) if alpha <= 1.0 else s.min(x, scaled)

    return fn


def thresholded(alpha: float) -> Unary:
    """x > alpha ? x : 0 (ThresholdedRelu 22)."""
    return lambda s, x: s.select(s.compare("gt", x, s.constant(alpha, x.type)), x, s.constant(0, x.type))


def _is_infinite(negative: bool, positive: bool) -> Unary:
    """Whether x is one of the infinities asked for (IsInf 20)."""

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        if negative and positive:
            return s.compare("eq", s.abs(x), s.constant(math.inf, x.type))
        if not negative and not positive:
            return s.constant(False, i1)
        return s.compare("eq", x, s.constant(-math.inf if negative else math.inf, x.type))

    return fn


def _sign(s: Scalars, x: SSAValue) -> SSAValue:
    """-1, 0 or 1 (Sign 13); NaN stays."""
    zero = s.constant(0, x.type)
    below = s.select(s.compare("lt", x, zero), s.constant(-1, x.type), x)
    return s.select(s.compare("gt", x, zero), s.constant(1, x.type), below)


def _shrink(lambd: float, bias: float) -> Unary:
    """x < -lambd ? x + bias : x > lambd ? x - bias : 0 (Shrink 9); integers by way of float64."""

    def of_float(s: Scalars, x: SSAValue) -> SSAValue:
        shift = s.constant(bias, x.type)
        middle = s.select(s.compare("gt", x, s.constant(lambd, x.type)), s.sub(x, shift), s.constant(0, x.type))
        return s.select(s.compare("lt", x, s.constant(-lambd, x.type)), s.add(x, shift), middle)

    return lambda s, x: s.cast(of_float(s, s.cast(x, x.type if is_float(x.type) else f64)), x.type, s.unsigned)


# -- operators with a form of their own --------------------------------------------------------------------------------


@lowers("LeakyRelu")
def leaky_relu(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = x < 0 ? alpha * x : x (LeakyRelu 16)."""
    return build.elementwise(leaky(op.real("alpha")), build.operand(0))


@lowers("PRelu")
def prelu(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = x < 0 ? slope * x : x; slopes broadcast as numpy does, or are one a channel of axis 1 (PRelu 6, 16)."""
    x, slope = build.operand(0), build.operand(1)
    shape, slopes = shape_of(x), shape_of(slope)
    if len(slopes) == 1 and len(shape) > 1 and slopes[0] not in (1, shape[-1]) and slopes[0] == shape[1]:
        slope = build.reshape(slope, [shape[1], *[1] * (len(shape) - 2)])

    def fn(s: Scalars, v: SSAValue, factor: SSAValue) -> SSAValue:
        return s.select(s.compare("lt", v, s.constant(0, v.type)), s.mul(factor, v), v)

    return build.elementwise(fn, x, slope)


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


@lowers("Cast", "CastLike")
def cast(op: OnnxOp, build: Lowering) -> SSAValue:
    """Another element type: floats truncate towards zero or round to narrower ones, integers wrap, bool is x != 0
    (Cast 25, CastLike 25)."""
    source, target = build.operand_elements[0], build.result_elements[0]
    assert source is not None
    saturate, mode = op.integer("saturate", 1) != 0, op.string("round_mode", "up")

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        return convert(s, x, source, target, saturate, mode)

    return build.elementwise(fn, build.operand(0), element=build.result_element())


@lowers("BitCast")
def bit_cast(op: OnnxOp, build: Lowering) -> SSAValue:
    """The same bits as an element type of the same width (BitCast 26); a byte that is not 0 is true."""
    kind, x = build.result_element(), build.operand(0)
    if i1 in (kind, element_of(x)):
        return build.elementwise(lambda s, v: s.cast(v, kind), x, element=kind)
    return build.elementwise(lambda s, v: s.bits(v, kind), x, element=kind)


@lowers("Where")
def where(op: OnnxOp, build: Lowering) -> SSAValue:
    """y = condition ? a : b, broadcast as numpy does (Where 16)."""
    operands = [build.operand(k) for k in range(3)]
    return build.elementwise(lambda s, c, a, b: s.select(c, a, b), *operands, element=build.result_element())


@lowers("BitShift")
def bit_shift(op: OnnxOp, build: Lowering) -> SSAValue:
    """x moved by y bits LEFT or RIGHT, 0 once all are out; unsigned integers (BitShift 11)."""
    name = "shl" if op.string("direction") == "LEFT" else "shr"
    return build.elementwise(_operation(name), build.operand(0), build.operand(1))


@lowers("Mod")
def mod(op: OnnxOp, build: Lowering) -> SSAValue:
    """The remainder of a / b, with the sign of a where fmod is 1, else of b; integers by 0 give 0 (Mod 28)."""
    truncates = op.integer("fmod") == 1

    def fn(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
        rest = _float_remainder(s, a, b) if is_float(a.type) else s.binary("rem", a, b)
        return rest if truncates else _with_sign_of_divisor(s, rest, b)

    return build.elementwise(fn, build.operand(0), build.operand(1))


def _with_sign_of_divisor(s: Scalars, rest: SSAValue, b: SSAValue) -> SSAValue:
    zero = s.constant(0, b.type)
    differ = s.compare("ne", s.compare("lt", rest, zero), s.compare("lt", b, zero))
    is_zero = s.compare("eq", rest, zero)
    nothing = s.binary("copysign", zero, b) if is_float(b.type) else rest
    return s.select(is_zero, nothing, s.select(differ, s.add(rest, b), rest))


def _float_remainder(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
    """C's fmod while the quotient is below 2^53: a - trunc(a / b) b, exact but for a quotient that was rounded up."""
    kind = a.type
    x, y = s.cast(a, f64), s.abs(s.cast(b, f64))
    size = s.abs(x)
    whole = s.unary("trunc", s.div(size, y))
    rest = s.insert(FmaOp(s.neg(whole), y, size))
    zero = s.constant(0, f64)
    rest = s.select(s.compare("lt", rest, zero), s.add(rest, y), rest)
    is_inside = s.compare("lt", size, y)
    return s.cast(s.binary("copysign", s.select(is_inside, size, rest), x), kind)


SHORT_POWERS = (1, 2, 3)
"""Exponents of floats that are products, as in ONNX Runtime."""


@lowers("Pow")
def pow(op: OnnxOp, build: Lowering) -> SSAValue:
    """a to the power of b in the type of a; integers exactly, modulo their width (Pow 15)."""
    base, exponent = build.operand(0), build.operand(1)
    known = build.known(exponent)
    fixed = known.reshape(-1)[0].item() if known is not None and known.size == 1 else None
    kind = build.operand_elements[1]
    assert kind is not None
    unsigned = is_unsigned(kind)

    def fn(s: Scalars, a: SSAValue, b: SSAValue) -> SSAValue:
        if fixed in SHORT_POWERS:
            return reduce(s.mul, [a] * int(fixed))
        if isinstance(a.type, IntegerType) and isinstance(b.type, IntegerType):
            return _integer_power(s, a, b, unsigned)
        wide: Attribute = f64 if f64 in (a.type, b.type) or isinstance(a.type, IntegerType) else a.type
        return s.cast(s.binary("pow", s.cast(a, wide), s.cast(b, wide, unsigned_source=unsigned)), a.type)

    return build.elementwise(fn, base, exponent)


def _integer_power(s: Scalars, a: SSAValue, b: SSAValue, unsigned: bool) -> SSAValue:
    """By squaring, one step a bit of b; a negative b gives 0, or a's own power where a is 1 or -1."""
    assert isinstance(a.type, IntegerType) and isinstance(b.type, IntegerType)
    zero, one, minus_one = (s.constant(k, a.type) for k in (0, 1, -1))
    is_odd = s.cast(s.binary("and", b, s.constant(1, b.type)), i1)
    result, square = s.select(is_odd, a, one), a
    for bit in range(1, b.type.width.data - (not unsigned)):
        square = s.mul(square, square)
        is_set = s.cast(s.binary("and", b, s.constant(1 << bit, b.type)), i1)
        result = s.mul(result, s.select(is_set, square, one))
    if unsigned:
        return result
    odd_power = s.select(is_odd, minus_one, one)
    inverse = s.select(s.compare("eq", a, one), one, s.select(s.compare("eq", a, minus_one), odd_power, zero))
    return s.select(s.compare("lt", b, s.constant(0, b.type)), inverse, result)
