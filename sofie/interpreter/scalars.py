"""arith and math: one table row an op, for numpy scalars and arrays alike.

Results have the type of the operands: float32 arithmetic rounds to float32, integers wrap. Signless integers are held
as numpy's signed ones and bool for i1; an op that reads them as unsigned takes an unsigned view.
"""

from __future__ import annotations

import math as pymath
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, FloatAttr, IntegerAttr
from xdsl.dialects.vector import CombiningKindFlag
from xdsl.interpreter import Interpreter, PythonValues, impl, register_impls
from xdsl.ir import Operation

from sofie.dialects.scalars import CODES, NEAREST, DecodeOp, EncodeOp, cast_of
from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.interpreter.machine import Functions, refusal, tabulated

Function = Callable[..., Any]

_BOOL = np.dtype(np.bool_)
_ALL_BITS = (1 << 64) - 1
_UNSIGNED = {np.dtype(f"int{n}"): np.dtype(f"uint{n}") for n in (8, 16, 32, 64)} | {_BOOL: np.dtype(np.uint8)}


def _signed(x: Any) -> Any:
    """An integer read as signed: i1 is 0 or -1."""
    return -x.astype(np.int8) if x.dtype is _BOOL else x


def _unsigned(x: Any) -> Any:
    """An integer read as unsigned: i1 is 0 or 1."""
    return x.view(_UNSIGNED[x.dtype])


def _to(x: Any, dtype: np.dtype[Any]) -> Any:
    """An integer cut to the width of `dtype`."""
    return (x & x.dtype.type(1)).astype(np.bool_) if dtype is _BOOL else x.astype(dtype, copy=False)


def _as_signed(function: Function) -> Function:
    """`function` of integers read as signed, back in their own type."""
    return lambda *xs: _to(function(*map(_signed, xs)), xs[0].dtype)


def _as_unsigned(function: Function) -> Function:
    """`function` of integers read as unsigned, back in their own type."""
    return lambda *xs: _to(function(*map(_unsigned, xs)), xs[0].dtype)


def _bitwise(function: Function, on_bits: Function) -> Function:
    """`function` of integers; on i1 numpy's operator means something else, `on_bits` is arithmetic modulo 2."""
    return lambda a, b: on_bits(a, b) if a.dtype is _BOOL else function(a, b)


def _truncating_quotient(a: Any, b: Any) -> Any:
    """a / b towards zero."""
    return (a - np.fmod(a, b)) // b


def _ceiling_quotient(a: Any, b: Any) -> Any:
    """a / b towards plus infinity."""
    return a // b + (a % b != 0)


def _select(condition: Any, yes: Any, no: Any) -> Any:
    if condition.ndim == 0:
        return yes if condition else no
    return np.where(condition, yes, no)


def _erf(x: Any) -> Any:
    return np.vectorize(pymath.erf, otypes=[np.float64])(x).astype(x.dtype)[()]


def _round_half_away(x: Any) -> Any:
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.copysign(np.ones_like(x), x), whole).astype(x.dtype)[()]


def fused_multiply_add(a: Any, b: Any, c: Any) -> Any:
    """a * b + c rounded once: exact fractions for float64, float64 rounded to odd for the narrower types."""
    if a.dtype == np.float64:
        return np.vectorize(_exact_fma, otypes=[np.float64])(a, b, c)[()]
    product, addend = np.multiply(a, b, dtype=np.float64), c.astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = (np.asarray(total).view(np.int64) & 1) == 0
    odd = np.where((error != 0) & even, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
    return np.where(np.isfinite(total), odd, total).astype(a.dtype)[()]


def _exact_fma(a: float, b: float, c: float) -> float:
    rough = a * b + c
    if not (pymath.isfinite(a) and pymath.isfinite(b) and pymath.isfinite(c)):
        return rough
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        return float(exact) if exact else rough
    except OverflowError:
        return pymath.copysign(pymath.inf, exact)


_FLOATS: dict[type[Operation], Function] = {
    arith.AddfOp: operator.add,
    arith.SubfOp: operator.sub,
    arith.MulfOp: operator.mul,
    arith.DivfOp: operator.truediv,
    arith.NegfOp: operator.neg,
    arith.MaximumfOp: np.maximum,
    arith.MinimumfOp: np.minimum,
    arith.MaxnumfOp: np.fmax,
    arith.MinnumfOp: np.fmin,
    math.AbsFOp: np.abs,
    math.AcosOp: np.arccos,
    math.AcoshOp: np.arccosh,
    math.AsinOp: np.arcsin,
    math.AsinhOp: np.arcsinh,
    math.Atan2Op: np.arctan2,
    math.AtanOp: np.arctan,
    math.AtanhOp: np.arctanh,
    math.CbrtOp: np.cbrt,
    math.CeilOp: np.ceil,
    math.CopySignOp: np.copysign,
    math.CosOp: np.cos,
    math.CoshOp: np.cosh,
    math.ErfOp: _erf,
    math.Exp2Op: np.exp2,
    math.ExpM1Op: np.expm1,
    math.ExpOp: np.exp,
    math.FloorOp: np.floor,
    math.FmaOp: fused_multiply_add,
    math.Log10Op: np.log10,
    math.Log1pOp: np.log1p,
    math.Log2Op: np.log2,
    math.LogOp: np.log,
    math.PowFOp: np.power,
    math.RoundEvenOp: np.rint,
    math.RoundOp: _round_half_away,
    math.RsqrtOp: lambda x: np.reciprocal(np.sqrt(x)),
    math.SinOp: np.sin,
    math.SinhOp: np.sinh,
    math.SqrtOp: np.sqrt,
    math.TanOp: np.tan,
    math.TanhOp: np.tanh,
    math.TruncOp: np.trunc,
}
_INTEGERS: dict[type[Operation], Function] = {
    arith.AddiOp: _bitwise(operator.add, operator.xor),
    arith.SubiOp: _bitwise(operator.sub, operator.xor),
    arith.MuliOp: _bitwise(operator.mul, operator.and_),
    arith.AndIOp: operator.and_,
    arith.OrIOp: operator.or_,
    arith.XOrIOp: operator.xor,
    arith.DivSIOp: _as_signed(_truncating_quotient),
    arith.DivUIOp: _as_unsigned(operator.floordiv),
    arith.FloorDivSIOp: _as_signed(operator.floordiv),
    arith.CeilDivSIOp: _as_signed(_ceiling_quotient),
    arith.CeilDivUIOp: _as_unsigned(_ceiling_quotient),
    arith.RemSIOp: _as_signed(np.fmod),
    arith.RemUIOp: _as_unsigned(operator.mod),
    arith.MaxSIOp: _as_signed(np.maximum),
    arith.MaxUIOp: _as_unsigned(np.maximum),
    arith.MinSIOp: _as_signed(np.minimum),
    arith.MinUIOp: _as_unsigned(np.minimum),
    arith.ShLIOp: _as_unsigned(np.left_shift),
    arith.ShRSIOp: _as_signed(np.right_shift),
    arith.ShRUIOp: _as_unsigned(np.right_shift),
    math.AbsIOp: _as_signed(np.abs),
    arith.SelectOp: _select,
}
_SIGNED_ORDER = [operator.lt, operator.le, operator.gt, operator.ge]
_COMPARE_INTEGERS: list[Function] = [
    operator.eq,
    operator.ne,
    *(lambda a, b, f=f: f(_signed(a), _signed(b)) for f in _SIGNED_ORDER),
    *(lambda a, b, f=f: f(_unsigned(a), _unsigned(b)) for f in _SIGNED_ORDER),
]
"""By predicate: eq, ne, slt, sle, sgt, sge, ult, ule, ugt, uge."""

_COMPARE_FLOATS: list[Function] = [
    lambda a, b: (a == b) & False,
    operator.eq,
    operator.gt,
    operator.ge,
    operator.lt,
    operator.le,
    lambda a, b: (a < b) | (a > b),
    lambda a, b: (a == a) & (b == b),
    lambda a, b: ~((a < b) | (a > b)),
    lambda a, b: ~(a <= b),
    lambda a, b: ~(a < b),
    lambda a, b: ~(a >= b),
    lambda a, b: ~(a > b),
    operator.ne,
    lambda a, b: (a != a) | (b != b),
    lambda a, b: (a == b) | True,
]
"""By predicate: false, oeq, ogt, oge, olt, ole, one, ord, ueq, ugt, uge, ult, ule, une, uno, true."""

_CASTS: dict[type[Operation], Callable[[Any, np.dtype[Any]], Any]] = {
    arith.BitcastOp: lambda x, dtype: x.view(dtype),
    arith.ExtFOp: lambda x, dtype: x.astype(dtype),
    arith.ExtSIOp: lambda x, dtype: _signed(x).astype(dtype),
    arith.ExtUIOp: lambda x, dtype: _unsigned(x).astype(dtype),
    arith.FPToSIOp: lambda x, dtype: x.astype(np.int8 if dtype is _BOOL else dtype).astype(dtype),
    arith.FPToUIOp: lambda x, dtype: x.astype(_UNSIGNED[dtype]).view(dtype),
    arith.IndexCastOp: lambda x, dtype: _to(_signed(x), dtype),
    arith.SIToFPOp: lambda x, dtype: _signed(x).astype(dtype),
    arith.TruncFOp: lambda x, dtype: x.astype(dtype),
    arith.TruncIOp: _to,
    arith.UIToFPOp: lambda x, dtype: _unsigned(x).astype(dtype),
}


def _encoded(dtype: Any) -> Callable[[Any, np.dtype[Any]], Any]:
    def code(x: Any, bits: np.dtype[Any]) -> Any:
        with np.errstate(over="ignore"):
            return x.astype(dtype).view(bits)

    return code


_CODES = {f"encode_{name}": _encoded(dtype) for name, dtype in CODES.items()} | {
    f"decode_{name}": lambda x, dtype, own=own: x.view(own).astype(dtype) for name, own in CODES.items()
}

CASTS = {kind.name: function for kind, function in _CASTS.items()} | {
    NEAREST: lambda x, dtype: np.rint(x).astype(dtype),
    **_CODES,
}
"""The casts by their names, of a scalar or an array to a dtype."""

COMBINE: dict[CombiningKindFlag, Function] = {
    CombiningKindFlag.ADD: _bitwise(operator.add, operator.xor),
    CombiningKindFlag.MUL: _bitwise(operator.mul, operator.and_),
    CombiningKindFlag.MINUI: _INTEGERS[arith.MinUIOp],
    CombiningKindFlag.MINSI: _INTEGERS[arith.MinSIOp],
    CombiningKindFlag.MINNUMF: np.fmin,
    CombiningKindFlag.MAXUI: _INTEGERS[arith.MaxUIOp],
    CombiningKindFlag.MAXSI: _INTEGERS[arith.MaxSIOp],
    CombiningKindFlag.MAXNUMF: np.fmax,
    CombiningKindFlag.AND: operator.and_,
    CombiningKindFlag.OR: operator.or_,
    CombiningKindFlag.XOR: operator.xor,
    CombiningKindFlag.MAXIMUMF: np.maximum,
    CombiningKindFlag.MINIMUMF: np.minimum,
}
"""How `vector.reduction` combines two lanes."""


def _of_operands(function: Function) -> Callable[..., PythonValues]:
    return lambda self, interpreter, op, values: (function(*values),)


ElementwiseFunctions = tabulated({kind: _of_operands(function) for kind, function in (_FLOATS | _INTEGERS).items()})
"""The ops whose meaning is a function of their operands alone."""


@register_impls
class ComparisonFunctions(Functions):
    """Constants and comparisons: what depends on a property too."""

    @impl(arith.ConstantOp)
    def constant(self, interpreter: Interpreter, op: arith.ConstantOp, values: PythonValues) -> PythonValues:
        """A scalar, or the elements of a vector or tensor."""
        return (self.fact(op, _constant),)

    @impl(arith.CmpfOp)
    def compare_floats(self, interpreter: Interpreter, op: arith.CmpfOp, values: PythonValues) -> PythonValues:
        """i1, by lane."""
        return (self.fact(op, _float_comparison)(*values),)

    @impl(arith.CmpiOp)
    def compare_integers(self, interpreter: Interpreter, op: arith.CmpiOp, values: PythonValues) -> PythonValues:
        """i1, by lane."""
        return (self.fact(op, _integer_comparison)(*values),)


def _float_comparison(op: arith.CmpfOp) -> Function:
    return _COMPARE_FLOATS[op.predicate.value.data]


def _integer_comparison(op: arith.CmpiOp) -> Function:
    return _COMPARE_INTEGERS[op.predicate.value.data]


def _cast(function: Callable[[Any, np.dtype[Any]], Any]) -> Callable[..., PythonValues]:
    def meaning(self: Functions, interpreter: Interpreter, op: Operation, values: PythonValues) -> PythonValues:
        return (function(values[0], self.fact(op, _result_dtype)),)

    return meaning


def _result_dtype(op: Operation) -> np.dtype[Any]:
    return numpy_dtype(element_of(op.results[0]))


def _coded(self: Functions, interpreter: Interpreter, op: Operation, values: PythonValues) -> PythonValues:
    return (CASTS[self.fact(op, cast_of)](values[0], self.fact(op, _result_dtype)),)


CastFunctions = tabulated(
    {kind: _cast(function) for kind, function in _CASTS.items()} | dict.fromkeys((EncodeOp, DecodeOp), _coded)
)
"""Changes of type."""


def _constant(op: arith.ConstantOp) -> Any:
    value, dtype = op.value, numpy_dtype(element_of(op.result))
    if isinstance(value, IntegerAttr | FloatAttr):
        return _number(value.value.data, dtype)
    if not isinstance(value, DenseIntOrFPElementsAttr):
        raise refusal(op, f"holds {value}, which is neither a number nor a dense list of numbers")
    numbers = np.array([_number(v, dtype) for v in value.get_values()], dtype)
    shape = shape_of(op.result)
    return np.broadcast_to(numbers, shape) if numbers.size == 1 else numbers.reshape(shape)


def _number(value: float | int, dtype: np.dtype[Any]) -> Any:
    """A numpy scalar; integers wrap into their width."""
    if dtype.kind == "f":
        return dtype.type(value)
    bits = np.uint64(int(value) & _ALL_BITS)
    return _to(bits, dtype)
