"""fuse-fixed: between QONNX's quantisers a graph computes with fixed-point numbers, exactly (level 1).

    %q = onnx.qonnx.custom_op.general.Quant(%x, %s, %z, %b)     s = 2^-5, z = 0, b = 8
    %m = onnx.MatMul(%q, %w)                                    w: 16 numbers a column, multiples of 2^-3 of 4 bits
    %y = onnx.qonnx.custom_op.general.Quant(%m, ...)
    ->
    %q = sofie.convert %x : tensor<1x16x!sofie.fixed<8, 3, signed, AP_RND_CONV, AP_SAT>>
    %m = onnx.MatMul(%q, %w) : (..) -> tensor<1x8x!sofie.fixed<15, 7, signed, AP_TRN, AP_WRAP>>
    %p = sofie.convert %m : ... ; %y = sofie.convert %p : tensor<1x8xf32>

A Quant is a conversion where its scale is a power of two, its zero point 0 and its width a whole number; so are Trunc
and BipolarQuant. In between, sums and products have all bits that their operands ask for, so that every result is the
quantiser of an exact number. Constants are whole numbers, and weights may have a scale a channel. What leaves is
converted to a float, exactly up to 24 bits.

Declines, and leaves an operator on floats, where its numbers need more than 64 bits, where a constant needs more than
24, and where it knows no way; `strict` raises instead, so that no float is left in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, cast

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import Float32Type, Float64Type, ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.qonnx import DOMAIN
from sofie.dialects.sofie import contents
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError, printable
from sofie.fixed import Fixed, covering, product, spanning, sum_of
from sofie.passes.lower_onnx.fixed import EXACT, MOVES
from sofie.rewrite import blame
from sofie.sizes import broadcast, most
from sofie.twins import Declined, Exact, Twins, exact, kind_of, label, numbers, usable

MODES = {
    "ROUND": "AP_RND_CONV",
    "HALF_EVEN": "AP_RND_CONV",
    "HALF_UP": "AP_RND_INF",
    "HALF_DOWN": "AP_RND_ZERO",
    "FLOOR": "AP_TRN",
    "CEIL": "CEIL",
    "UP": "UP",
    "DOWN": "AP_TRN_ZERO",
    "ROUND_TO_ZERO": "AP_TRN_ZERO",
}
"""QONNX's rounding modes as those of `sofie.fixed`."""

CONSTANT_BITS = 24
"""A constant that needs more is not quantised, and its operator stays on floats: any one float32 needs no more."""


@dataclass(frozen=True)
class FuseFixed(ModulePass):
    """Puts what it can into fixed point; with `strict`, an operator that stays on floats is an error that names it."""

    name: ClassVar[str] = "fuse-fixed"

    strict: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        fuser, stays = _Fuser(), dict[OnnxOp, str]()
        for node in [o for o in op.walk() if isinstance(o, OnnxOp)]:
            if not any(isinstance(element_of(v), Float32Type | Float64Type) for v in node.results):
                continue
            try:
                fuser.fuse(node)
            except Declined as declined:
                stays[node] = str(declined)
        fuser.twins.finish()
        for node, reason in stays.items():
            if self.strict:
                raise SofieError(f"{blame(node)}: it stays on floats: {reason}")


class _Fuser:
    """Makes the twin of one operator after the other."""

    def __init__(self) -> None:
        self.twins = Twins()

    def fuse(self, op: OnnxOp) -> None:
        """Gives the results of an op twins. Raises Declined where that cannot be."""
        self.twins.here = op
        if all(contents(v) is not None for v in op.operands) and op.operator != "Quant":
            return
        quantiser = op.SCHEMA.domain == DOMAIN
        rule = _RULES.get(op.operator) if quantiser or not op.SCHEMA.domain else None
        if not quantiser and not any(v in self.twins.of for v in op.operands):
            if op.operator in MOVES:
                return
            raise Declined("none of its operands is quantised; put a Quant before it")
        if rule is None:
            raise Declined(f"it is none of {', '.join(sorted(_RULES))}; quantise its result in the model instead")
        made = rule(self, op)
        twins = [made] if isinstance(made, SSAValue) else made
        if any(shape_of(t) != shape_of(r) for t, r in zip(twins, op.results, strict=True)):
            raise Declined("its result has another shape than its operand; give its parameters fewer axes")
        self.twins.remember(op, twins)

    def operand(self, op: OnnxOp, index: int) -> SSAValue:
        """The twin of an operand: of a constant, a constant. Raises Declined where it has none."""
        value = op.inputs[index]
        assert value is not None
        if value in self.twins.of:
            return self.twins.of[value]
        array = contents(value)
        name = op.SCHEMA.inputs[index].name
        if array is None:
            raise Declined(f"its operand {name!r} is not quantised; put a Quant before it")
        return self.twins.of_constant(label(value), exact(array), CONSTANT_BITS)

    def kinds(self, op: OnnxOp) -> tuple[list[SSAValue], list[Fixed]]:
        """The twins of all operands, and their types."""
        values = [self.operand(op, k) for k in range(len(op.inputs))]
        return values, [cast(Fixed, kind_of(v)) for v in values]


def _parameter(op: OnnxOp, index: int) -> Exact:
    """A constant operand of a quantiser. Raises Declined where it is computed at run time."""
    value = op.inputs[index]
    array = contents(value)
    if array is None:
        raise Declined(f"its operand {op.SCHEMA.inputs[index].name!r} is no constant")
    return exact(array)


def _whole(op: OnnxOp, index: int) -> int:
    """A constant operand that is one whole number."""
    values = _parameter(op, index).reshape(-1)
    if len(values) != 1 or values[0].denominator != 1:
        raise Declined(f"its {op.SCHEMA.inputs[index].name} is not one whole number")
    return int(values[0])


def _exponents(op: OnnxOp, index: int) -> Exact:
    """The base-2 logarithms of a scale. Raises Declined where one is not whole, or the zero point is not 0."""
    scale = _parameter(op, index)
    if op.operator != "BipolarQuant" and any(_parameter(op, index + 1).reshape(-1)):
        raise Declined("its zero point is not 0")
    if any(v <= 0 or not _is_power(v) for v in scale.reshape(-1)):
        raise Declined("its scale is no power of two")
    return numbers(scale, lambda v: Fraction(v.numerator.bit_length() - v.denominator.bit_length()))


def _is_power(v: Fraction) -> bool:
    return v.numerator & (v.numerator - 1) == 0 and v.denominator & (v.denominator - 1) == 0


def _mode(op: OnnxOp) -> str:
    mode = op.string("rounding_mode").upper()
    if mode not in MODES:
        raise Declined(f"its rounding mode {printable(mode)!r} is not one of {', '.join(MODES)}")
    return MODES[mode]


def _quantised_to(op: OnnxOp, exponent: int) -> Fixed:
    """The type of a Quant's results, if its scale is 2^exponent."""
    bits, signed, narrow = _whole(op, 3), op.integer("signed") == 1, op.integer("narrow") == 1
    if bits < 1:
        raise Declined(f"its bitwidth is {bits}")
    if narrow and (not signed or bits == 1):
        raise Declined("its narrow range is not symmetric")
    return usable(Fixed(bits, bits + exponent, signed, _mode(op), "AP_SAT_SYM" if narrow else "AP_SAT"))


def _quant(fuser: _Fuser, op: OnnxOp) -> SSAValue:
    """A conversion; of a constant, a constant; with a scale a channel, of the quotient."""
    exponents, x = _exponents(op, 1), op.inputs[0]
    assert x is not None
    array = contents(x)
    if array is not None:
        pairs = np.broadcast_arrays(exact(array), exponents)
        quantised = [
            (kind := _quantised_to(op, int(e))).value(kind.raw(v))
            for v, e in zip(pairs[0].reshape(-1), pairs[1].reshape(-1), strict=True)
        ]
        values = np.array([*quantised, None], object)[:-1].reshape(pairs[0].shape)
        return fuser.twins.of_constant(label(x), values)
    twin = fuser.twins.of.get(x)
    if len(set(exponents.reshape(-1))) == 1:
        return fuser.twins.convert(x if twin is None else twin, _quantised_to(op, int(exponents.reshape(-1)[0])))
    if twin is None:
        raise Declined("its scale differs by channel and its operand is a float; put a Quant of one scale before it")
    quotient = _times(fuser, twin, numbers(exponents, lambda e: Fraction(2) ** -int(e)), op)
    whole = fuser.twins.convert(quotient, _quantised_to(op, 0))
    return _times(fuser, whole, numbers(exponents, lambda e: Fraction(2) ** int(e)), op)


def _times(fuser: _Fuser, x: SSAValue, factors: Exact, op: OnnxOp, operator: str = "Mul") -> SSAValue:
    """x times constants (or another elementwise operator), exactly."""
    constant = fuser.twins.of_constant("factor", factors)
    kinds = [cast(Fixed, kind_of(v)) for v in (x, constant)]
    shape = broadcast(shape_of(x), shape_of(constant))
    return fuser.twins.op(operator, [x, constant], EXACT[operator](*kinds), shape)


def _trunc(fuser: _Fuser, op: OnnxOp) -> SSAValue:
    """x / scale divided by a power of two and rounded."""
    exponents, bits = _exponents(op, 1).reshape(-1), _whole(op, 3) - _whole(op, 4)
    if len(exponents) != 1 or bits < 0:
        raise Declined("it has a scale a channel, or more bits after than before")
    exponent, x = int(exponents[0]), fuser.operand(op, 0)
    kind = cast(Fixed, kind_of(x))
    if kind.fraction > -exponent:
        integer = max(kind.integer, exponent) + 1
        x = fuser.twins.convert(x, Fixed(integer - exponent, integer, kind.signed, "AP_RND_CONV"))
    part = _times(fuser, x, np.array(Fraction(1, 2**bits), object), op)
    integer = max(cast(Fixed, kind_of(part)).integer, exponent + 1)
    return fuser.twins.convert(part, Fixed(integer - exponent, integer, kind.signed, _mode(op)))


def _bipolar_quant(fuser: _Fuser, op: OnnxOp) -> SSAValue:
    """2 s floor(x, no less than -1 and no more than 0) + s: s, or -s where x is negative."""
    scale, x = _parameter(op, 1), op.inputs[0]
    assert x is not None
    if any(v <= 0 for v in scale.reshape(-1)):
        raise Declined("its scale is not positive")
    negative = fuser.twins.convert(fuser.twins.of.get(x, x), Fixed(1, 1, True, "AP_TRN", "AP_SAT"))
    doubled = _times(fuser, negative, numbers(scale, lambda v: 2 * v), op)
    kind = covering([*scale.reshape(-1), *(-v for v in scale.reshape(-1))])
    assert kind is not None
    return fuser.twins.convert(_times(fuser, doubled, scale, op, "Add"), kind)


def _elementwise(fuser: _Fuser, op: OnnxOp) -> SSAValue:
    values, kinds = fuser.kinds(op)
    return fuser.twins.again(op, values, EXACT[op.operator](*kinds))[0]


def _relu(fuser: _Fuser, op: OnnxOp) -> SSAValue:
    values, (kind,) = fuser.kinds(op)
    return fuser.twins.again(op, values, kind)[0]


def _moved(fuser: _Fuser, op: OnnxOp) -> Sequence[SSAValue]:
    """The same elements; MaxPool's indices have no twin."""
    if op.operator == "MaxPool" and len(op.results) > 1:
        raise Declined("it gives indices")
    x = op.inputs[0]
    if x is None or x not in fuser.twins.of:
        raise Declined("its data are not quantised; put a Quant before it")
    twin = fuser.twins.of[x]
    return fuser.twins.again(op, [twin, *op.inputs[1:]], cast(Fixed, kind_of(twin)))


def _concat(fuser: _Fuser, op: OnnxOp) -> SSAValue:
    """All parts in the type that holds each."""
    values, kinds = fuser.kinds(op)
    signed, fraction = any(k.signed for k in kinds), max(k.fraction for k in kinds)
    integer = max(k.integer + (signed and not k.signed) for k in kinds)
    common = Fixed(max(integer + fraction, 1), integer, signed)
    return fuser.twins.again(op, [fuser.twins.convert(v, common) for v in values], common)[0]


def _average(fuser: _Fuser, op: OnnxOp) -> SSAValue:
    """A mean of 2^k elements has k bits more behind the binary point."""
    values, (kind,) = fuser.kinds(op)
    count = math.prod(op.ints("kernel_shape") or shape_of(values[0])[2:])
    if count & (count - 1):
        raise Declined(f"a mean of {count} numbers is no fixed-point number; use windows of 2, 4, 8, .. elements")
    padded = any(op.ints("pads") or ()) or op.string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if op.operator == "AveragePool" and (padded or op.integer("ceil_mode")):
        raise Declined("its windows at the edges may have fewer elements; pad before it")
    many = sum_of(kind, count)
    return fuser.twins.again(op, values, Fixed(many.width, many.integer - (count.bit_length() - 1), many.signed))[0]


def _sums(fuser: _Fuser, op: OnnxOp) -> SSAValue:
    """Products and their sums with all bits; constant weights tell how large a sum can be."""
    if op.operator == "Gemm" and (op.real("alpha") != 1.0 or (len(op.inputs) > 2 and op.real("beta") != 1.0)):
        raise Declined("its alpha and beta are not 1; multiply the weights and the bias by them")
    values, kinds = fuser.kinds(op)
    term = usable(product(kinds[0], kinds[1]))
    low, high = _reach(op, values, kinds, term)
    fraction = max([term.fraction, *(k.fraction for k in kinds[2:])])
    scale = Fraction(2) ** (fraction - term.fraction)
    low, high = low * scale, high * scale
    for k in kinds[2:]:
        low, high = (
            end + b * Fraction(2) ** (fraction - k.fraction) for end, b in ((low, k.lowest), (high, k.highest))
        )
    return fuser.twins.again(op, values, spanning(int(low), int(high), fraction))[0]


def _reach(op: OnnxOp, values: Sequence[SSAValue], kinds: Sequence[Fixed], term: Fixed) -> tuple[Fraction, Fraction]:
    """The least and the largest raw number that a sum of products can be, on its way as well."""
    weights, shape = contents(values[1]), shape_of(values[1])
    across = op.operator == "Conv" or (op.operator == "Gemm" and op.integer("transB") == 1)
    depth = math.prod(shape[1:]) if across else shape[-2] if len(shape) > 1 else shape[0]
    if weights is None:
        many = sum_of(term, most(depth))
        return Fraction(many.lowest), Fraction(many.highest)
    raw = weights.astype(object)
    columns = raw.reshape(shape[0], -1).T if across else raw.reshape(*shape[:-2], depth, -1)
    ends = [columns * kinds[0].lowest, columns * kinds[0].highest]
    low = np.minimum(*ends).clip(max=0).sum(axis=-2)
    high = np.maximum(*ends).clip(min=0).sum(axis=-2)
    return Fraction(int(np.min(low))), Fraction(int(np.max(high)))


def _batch_normalization(fuser: _Fuser, op: OnnxOp) -> SSAValue:
    """x factor + offset a channel, where both are fixed-point numbers."""
    if op.integer("training_mode") or len(op.results) > 1:
        raise Declined("it is in training mode")
    x = fuser.operand(op, 0)
    scale, bias, mean, variance = (_parameter(op, k).reshape(-1) for k in range(1, 5))
    spread = [_root(v + Fraction(op.real("epsilon"))) for v in variance]
    factor = np.array([*(g / r for g, r in zip(scale, spread, strict=True)), None], object)[:-1]
    offset = np.array([*(b - m * f for b, m, f in zip(bias, mean, factor, strict=True)), None], object)[:-1]
    channels = (-1, *[1] * (len(shape_of(x)) - 2))
    return _times(fuser, _times(fuser, x, factor.reshape(channels), op), offset.reshape(channels), op, "Add")


def _root(v: Fraction) -> Fraction:
    """A square root. Raises Declined where it is no fraction."""
    root = Fraction(math.isqrt(v.numerator), math.isqrt(v.denominator)) if v > 0 else Fraction(0)
    if not root or root * root != v:
        raise Declined("its deviation is no fixed-point number; fold it into the weights before they are quantised")
    return root


_RULES: dict[str, Callable[[_Fuser, OnnxOp], SSAValue | Sequence[SSAValue]]] = {
    "AveragePool": _average,
    "BatchNormalization": _batch_normalization,
    "BipolarQuant": _bipolar_quant,
    "Concat": _concat,
    "GlobalAveragePool": _average,
    "Quant": _quant,
    "Relu": _relu,
    "Trunc": _trunc,
    **dict.fromkeys(EXACT, _elementwise),
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), _sums),
}
