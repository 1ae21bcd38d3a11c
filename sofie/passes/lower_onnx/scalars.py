"""Builds the scalar body of a structured op: one method an arithmetic act, float or integer by the operand's type."""

from __future__ import annotations

import math as pymath
from collections.abc import Callable, Sequence
from typing import cast

from xdsl.dialects import arith, math, scf
from xdsl.dialects.builtin import AnyFloat, FloatAttr, IndexType, IntegerAttr, IntegerType, UnitAttr, i1, i64
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.utils import FastMathFlag
from xdsl.ir import Attribute, Block, Operation, SSAValue

from sofie.dialects.scalars import ROUNDED
from sofie.dialects.types import bytes_of, is_float

Binary = Callable[[SSAValue, SSAValue], Operation]

_FLOAT: dict[str, Binary] = {
    "add": arith.AddfOp,
    "sub": arith.SubfOp,
    "mul": arith.MulfOp,
    "div": arith.DivfOp,
    "max": arith.MaximumfOp,
    "min": arith.MinimumfOp,
    "maxnum": arith.MaxnumfOp,
    "minnum": arith.MinnumfOp,
    "pow": math.PowFOp,
    "copysign": math.CopySignOp,
}
_SIGNED: dict[str, Binary] = {
    "add": arith.AddiOp,
    "sub": arith.SubiOp,
    "mul": arith.MuliOp,
    "div": arith.DivSIOp,
    "rem": arith.RemSIOp,
    "max": arith.MaxSIOp,
    "min": arith.MinSIOp,
    "and": arith.AndIOp,
    "or": arith.OrIOp,
    "xor": arith.XOrIOp,
    "shl": arith.ShLIOp,
    "shr": arith.ShRSIOp,
}
_UNSIGNED: dict[str, Binary] = _SIGNED | {
    "div": arith.DivUIOp,
    "rem": arith.RemUIOp,
    "max": arith.MaxUIOp,
    "min": arith.MinUIOp,
    "shr": arith.ShRUIOp,
}
_FLOAT_PREDICATE = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_SIGNED_PREDICATE = {"lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge", "eq": "eq", "ne": "ne"}
_UNSIGNED_PREDICATE = {"lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge", "eq": "eq", "ne": "ne"}
_UNARY: dict[str, Callable[[SSAValue], Operation]] = {
    "exp": math.ExpOp,
    "log": math.LogOp,
    "sqrt": math.SqrtOp,
    "tanh": math.TanhOp,
    "erf": math.ErfOp,
    "expm1": math.ExpM1Op,
    "log1p": math.Log1pOp,
    "abs": math.AbsFOp,
    "floor": math.FloorOp,
    "ceil": math.CeilOp,
    "trunc": math.TruncOp,
    "round": math.RoundEvenOp,
    "sin": math.SinOp,
    "cos": math.CosOp,
    "tan": math.TanOp,
    "asin": math.AsinOp,
    "acos": math.AcosOp,
    "atan": math.AtanOp,
    "sinh": math.SinhOp,
    "cosh": math.CoshOp,
    "asinh": math.AsinhOp,
    "acosh": math.AcoshOp,
    "atanh": math.AtanhOp,
}


Step = Callable[["Scalars", SSAValue, Sequence[SSAValue]], Sequence[SSAValue]]


class Scalars:
    """Inserts scalar ops; `unsigned` says how integers of the body are read."""

    def __init__(self, add: Callable[[Operation], object], unsigned: bool = False) -> None:
        """`add` puts an op where the next one belongs."""
        self._add = add
        self._unsigned = unsigned

    @property
    def unsigned(self) -> bool:
        """How the body reads its integers."""
        return self._unsigned

    def insert(self, op: Operation) -> SSAValue:
        """Inserts any op of one result."""
        return self.insert_all(op)[0]

    def insert_all(self, op: Operation) -> Sequence[SSAValue]:
        """Inserts any op."""
        self._add(op)
        return op.results

    def loop(self, dimension: int) -> SSAValue:
        """The variable of a loop around the body, of type index."""
        return self.insert(linalg.IndexOp(dimension))

    def place(self, dimension: int) -> SSAValue:
        """The variable of a loop around the body, as an int64."""
        return self.insert(arith.IndexCastOp(self.loop(dimension), i64))

    def _binary(self, name: str, a: SSAValue, b: SSAValue) -> SSAValue:
        table = _FLOAT if is_float(a.type) else _UNSIGNED if self._reads_unsigned(a) else _SIGNED
        return self.insert(table[name](a, b))

    def _reads_unsigned(self, x: SSAValue) -> bool:
        """How an integer is read: a bool as 0 or 1, a position with its sign."""
        return x.type == i1 or (self._unsigned and not isinstance(x.type, IndexType))

    def add(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a + b, integers wrap."""
        return self._binary("add", a, b)

    def sub(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a - b, integers wrap."""
        return self._binary("sub", a, b)

    def mul(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a * b, integers wrap."""
        return self._binary("mul", a, b)

    def rounded_product(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a * b of floats, rounded before anything is added to it, also where the CPU can do both at once."""
        product = arith.MulfOp(a, b)
        product.attributes[ROUNDED] = UnitAttr()
        return self.insert(product)

    def div(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """a / b, integers towards zero."""
        return self._binary("div", a, b)

    def max(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """The larger; NaN if either is NaN."""
        return self._binary("max", a, b)

    def min(self, a: SSAValue, b: SSAValue) -> SSAValue:
        """The smaller; NaN if either is NaN."""
        return self._binary("min", a, b)

    def binary(self, name: str, a: SSAValue, b: SSAValue) -> SSAValue:
        """`pow|copysign` of floats, `maxnum|minnum` of them: the other one where one is NaN.

        `rem|and|or|xor|shl|shr` of integers: rem has a's sign, shr knows the sign.
        """
        return self._binary(name, a, b)

    def unary(self, name: str, x: SSAValue) -> SSAValue:
        """An elementary function of the `math` dialect by its name."""
        return self.insert(_UNARY[name](x))

    def neg(self, x: SSAValue) -> SSAValue:
        """-x."""
        return self.insert(arith.NegfOp(x)) if is_float(x.type) else self.sub(self.constant(0, x.type), x)

    def abs(self, x: SSAValue) -> SSAValue:
        """|x|; the least integer stays itself."""
        if is_float(x.type):
            return self.unary("abs", x)
        return x if self._unsigned or x.type == i1 else self.max(x, self.neg(x))

    def compare(self, predicate: str, a: SSAValue, b: SSAValue) -> SSAValue:
        """a `lt|le|gt|ge|eq|ne` b as i1; false (but for `ne`) where a float is NaN."""
        if is_float(a.type):
            return self.insert(arith.CmpfOp(a, b, _FLOAT_PREDICATE[predicate]))
        table = _UNSIGNED_PREDICATE if self._reads_unsigned(a) else _SIGNED_PREDICATE
        return self.insert(arith.CmpiOp(a, b, table[predicate]))

    def select(self, condition: SSAValue, yes: SSAValue, no: SSAValue) -> SSAValue:
        """condition ? yes : no."""
        return self.insert(arith.SelectOp(condition, yes, no))

    def constant(self, value: float | int | bool, kind: Attribute) -> SSAValue:
        """A scalar of type `kind`."""
        return self.insert(constant_op(value, kind))

    def cast(
        self, x: SSAValue, kind: Attribute, unsigned_target: bool = False, unsigned_source: bool | None = None
    ) -> SSAValue:
        """x as another type, as C converts: floats truncate, integers wrap, bool is x != 0."""
        source = x.type
        unsigned = source == i1 or (self._unsigned if unsigned_source is None else unsigned_source)
        if source == kind:
            return x
        if kind == i1:
            return self.compare("ne", x, self.constant(0, source))
        if is_float(kind):
            if is_float(source):
                return self.insert(
                    (arith.ExtFOp if bytes_of(kind) > bytes_of(source) else arith.TruncFOp)(x, cast(AnyFloat, kind))
                )
            return self.insert((arith.UIToFPOp if unsigned else arith.SIToFPOp)(x, cast(AnyFloat, kind)))
        if is_float(source):
            return self.insert((arith.FPToUIOp if unsigned_target else arith.FPToSIOp)(x, cast(IntegerType, kind)))
        assert isinstance(kind, IntegerType) and isinstance(source, IntegerType)
        if kind.width.data < source.width.data:
            return self.insert(arith.TruncIOp(x, kind))
        return self.insert((arith.ExtUIOp if unsigned else arith.ExtSIOp)(x, kind))

    def rounded(self, x: SSAValue, kind: Attribute, unsigned: bool) -> SSAValue:
        """A float as the nearest number of an integer type, halves to even, what lies beyond it at its ends.

        For bool it is x != 0, as in `cast`.
        """
        if kind == i1:
            return self.cast(x, kind)
        low, high = (self.constant(end(kind, unsigned), x.type) for end in (lowest, highest))
        above = self.compare("ge", x, high)
        inside = self.select(above, low, self.max(self.unary("round", x), low))
        return self.select(
            above, self.constant(highest(kind, unsigned), kind), self.cast(inside, kind, unsigned_target=unsigned)
        )

    def repeat(self, count: SSAValue, carried: Sequence[SSAValue], step: Step) -> list[SSAValue]:
        """`carried = step(scalars, i, carried)` for i from 0 to `count` (both of type index); what is carried at last.

        Loop variables of the body (`loop`, `place`) are taken before it.
        """
        body = Block(arg_types=[IndexType(), *(v.type for v in carried)])
        inner = Scalars(body.add_op, self._unsigned)
        inner.insert_all(scf.YieldOp(*step(inner, body.args[0], body.args[1:])))
        zero, one = self.constant(0, IndexType()), self.constant(1, IndexType())
        return list(self.insert_all(scf.ForOp(zero, count, one, carried, body)))

    def bits(self, x: SSAValue, kind: Attribute) -> SSAValue:
        """The bits of x read as another type of the same width."""
        return x if x.type == kind else self.insert(arith.BitcastOp(x, kind))

    def quick_tanh(self, x: SSAValue) -> SSAValue:
        """tanh that may give up some ULP for latency."""
        return self.insert(math.TanhOp(x, arith.FastMathFlagsAttr([FastMathFlag.APPROX_FUNC])))

    def sigmoid(self, x: SSAValue) -> SSAValue:
        """1 / (1 + exp(-x)): exact at both ends, since exp overflows to infinity and 1 / inf is 0."""
        one = self.constant(1.0, x.type)
        return self.div(one, self.add(one, self.unary("exp", self.neg(x))))


def constant_op(value: float | int | bool, kind: Attribute) -> arith.ConstantOp:
    """`arith.constant` of any scalar type; integers wrap into their width."""
    if is_float(kind):
        return arith.ConstantOp(FloatAttr(float(value), cast(AnyFloat, kind)))
    if isinstance(kind, IndexType):
        return arith.ConstantOp(IntegerAttr(int(value), kind))
    assert isinstance(kind, IntegerType)
    width = kind.width.data
    wrapped = int(value) & ((1 << width) - 1)
    if width > 1 and wrapped >> (width - 1):
        wrapped -= 1 << width
    return arith.ConstantOp(IntegerAttr(wrapped, kind))


def lowest(kind: Attribute, unsigned: bool) -> float | int:
    """The smallest value of an element type: the neutral element of max."""
    if is_float(kind):
        return -pymath.inf
    bits = 8 * bytes_of(kind)
    return 0 if unsigned or kind == i1 else -(1 << (bits - 1))


def highest(kind: Attribute, unsigned: bool) -> float | int:
    """The largest value of an element type: the neutral element of min."""
    if is_float(kind):
        return pymath.inf
    bits = 8 * bytes_of(kind)
    return 1 if kind == i1 else (1 << bits) - 1 if unsigned else (1 << (bits - 1)) - 1
