"""Spells values as C++ expressions: arithmetic, comparisons, casts, accesses of memory, and the sizes of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xdsl.dialects import arith, memref, vector
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    Float32Type,
    Float64Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    VectorType,
    f64,
)
from xdsl.dialects.utils import FastMathFlag
from xdsl.ir import Attribute, Operation, SSAValue

from sofie.dialects.scalars import (
    CODES,
    NEAREST,
    ROUNDED,
    CastLanesOp,
    DecodeOp,
    DotOp,
    DotPairsOp,
    EncodeOp,
    JoinOp,
    LoadWordOp,
    QuantizeOp,
    RequantizeLanesOp,
    RequantizeOp,
    WidenBytesOp,
    cast_of,
)
from sofie.dialects.types import strides_of
from sofie.emit.spelling import (
    ADDITIVE,
    ATOM,
    BINARY,
    CALLS,
    COMPARE_F,
    COMPARE_I,
    DIVISION,
    EQUALITY,
    EXTREMA,
    FIRST_UNSIGNED_PREDICATE,
    ORDERED,
    QUICK_CALLS,
    TERNARY,
    UNARY,
    UNORDERED,
    UNSIGNED_CALLS,
    UNSIGNED_LANES,
    WRAPPING,
    Expression,
    literal,
    scalar_type,
    type_name,
)
from sofie.errors import SofieError
from sofie.naming import EMITTED, Namer
from sofie.rewrite import blame
from sofie.sizes import Monomial, Size, Symbol


@dataclass
class ExpressionPrinter:
    """What the values of one function are called, and the text of those that are made of others.

    pointers: the name and the offset in elements behind each memref. sizes: how the run-time sizes are called here.
    exact: whether a product of floats is rounded before anything is added to it.
    """

    names: Namer = field(default_factory=lambda: Namer(EMITTED | {"weights", "arena"}))
    spelled: dict[SSAValue, Expression] = field(default_factory=dict)
    pointers: dict[SSAValue, tuple[str, int]] = field(default_factory=dict)
    sizes: dict[Symbol, str] = field(default_factory=dict)
    exact: bool = False

    # -- values ---------------------------------------------------------------------------------------------

    def text(self, value: SSAValue) -> str:
        """The text of a value wherever any expression may stand."""
        return self._spell(value).text

    def vector_text(self, value: SSAValue) -> str:
        """The text of a value where a vector must stand: a splat is spelled out."""
        if isinstance(value.owner, vector.BroadcastOp):
            scalar, zeros = self._spell(value.owner.source).inside(ADDITIVE), f"{type_name(value.type)}{{}}"
            return zeros if scalar in ("0.0f", "0.0") else f"{scalar} - {zeros}"
        return self.text(value)

    def _spell(self, value: SSAValue) -> Expression:
        if value not in self.spelled:
            owner = value.owner
            if isinstance(owner, arith.ConstantOp):
                return self._constant(owner)
            assert isinstance(owner, Operation), value
            raise SofieError(f"{blame(owner)}: {owner.name} is used before it is printed")
        return self.spelled[value]

    def _constant(self, op: arith.ConstantOp) -> Expression:
        kind, value = op.result.type, op.value
        if isinstance(value, DenseIntOrFPElementsAttr):
            assert isinstance(kind, VectorType)
            text = literal(next(iter(value.get_values())), kind.get_element_type())
        else:
            assert isinstance(value, IntegerAttr | FloatAttr)
            text = literal(value.value.data, kind)
        return Expression(text, UNARY if text.startswith("-") else ATOM)

    def expression(self, op: Operation) -> Expression:
        """The expression of a pure op or a load."""
        if self.exact and isinstance(op, arith.MulfOp):
            return Expression(f"detail::product({self.text(op.lhs)}, {self.text(op.rhs)})", ATOM)
        if (
            not self.exact
            and isinstance(op, arith.AddfOp | arith.SubfOp)
            and (product := fused_product(op)) is not None
        ):
            return self._multiply_add(op, product)
        if type(op) in BINARY:
            symbol, level = BINARY[type(op)]
            a, b = op.operands
            around = level if level >= ADDITIVE else UNARY  # compilers warn of bits mixed with comparisons
            left, right = self._side(a, b), self._side(b, a)
            first = left.text if left.symbol == symbol else left.inside(around)
            return Expression(f"{first} {symbol} {right.inside(around + 1)}", level, symbol=symbol)
        if type(op) in WRAPPING:
            return self._integer(op)
        if type(op) in EXTREMA:
            return self._extremum(op)
        if type(op) in CALLS:
            return self._call(QUICK_CALLS[type(op)] if _may_be_quick(op) else CALLS[type(op)], op)
        if type(op) in UNSIGNED_LANES and isinstance(op.results[0].type, VectorType):
            return self._call(UNSIGNED_LANES[type(op)], op)
        if type(op) in UNSIGNED_CALLS:
            return self._unsigned(op, f"{UNSIGNED_CALLS[type(op)]}({{}}, {{}})")
        rule = _EXPRESSIONS.get(type(op))
        if rule is None:
            raise SofieError(f"{blame(op)}: {op.name} cannot be printed as C++")
        return rule(self, op)

    def _multiply_add(self, op: arith.AddfOp | arith.SubfOp, product: arith.MulfOp) -> Expression:
        """A sum with a product that is not rounded on its own where the CPU can do so."""
        other = op.lhs if op.rhs is product.result else op.rhs
        values = [product.lhs, product.rhs, other]
        texts = [self.text(value) for value in values]
        pairs = isinstance(op.result.type, VectorType) and op.result.type.get_element_type() == f64  # or just vectors
        if pairs:  # which no number turns into
            texts = [self.vector_text(value) for value in values]
        elif isinstance(op.result.type, VectorType) and all(map(_is_splat, values)):
            texts[1] = self.vector_text(product.rhs)
        if isinstance(op, arith.SubfOp):  # x y - z or z - x y
            negated = 0 if other is op.lhs else 2
            plain = self._spell(values[negated]).inside(UNARY + 1)
            texts[negated] = f"-({texts[negated]})" if pairs else f"-{plain}"
        return Expression(f"detail::multiply_add({', '.join(texts)})", ATOM)

    def _side(self, value: SSAValue, other: SSAValue) -> Expression:
        """An operand of a binary operator: if both sides are splats, one of them must be spelled as a vector."""
        both = isinstance(value.owner, vector.BroadcastOp) and (
            isinstance(other.owner, vector.BroadcastOp) or _is_constant(other)
        )
        if isinstance(value.type, VectorType) and both:
            return Expression(f"({self.vector_text(value)})", ATOM)
        return self._spell(value)

    def _call(self, name: str, op: Operation) -> Expression:
        if isinstance(op.results[0].type, IntegerType | IndexType):  # a literal has a type of its own
            name = f"{name}<{scalar_type(op.results[0].type)}>"
        arguments = [self.vector_text(v) if isinstance(v.type, VectorType) else self.text(v) for v in op.operands]
        return Expression(f"{name}({', '.join(arguments)})", ATOM)

    def _extremum(self, op: Operation) -> Expression:
        """The larger or smaller of two; against a number, which is not NaN, a comparison says it all."""
        name, symbol, limited = EXTREMA[type(op)]
        a, b = op.operands
        bound = b.owner.source if isinstance(b.owner, vector.BroadcastOp) else b
        if _is_constant(bound) and isinstance(a.type, VectorType):
            return Expression(f"{limited}({self.vector_text(a)}, {self.text(bound)})", ATOM)
        if _is_constant(bound) and self._spell(a).level == ATOM and not self._spell(a).reads:
            limit = self.text(bound)
            return Expression(f"{self.text(a)} {symbol} {limit} ? {limit} : {self.text(a)}", TERNARY)
        return self._call(name, op)

    def _integer(self, op: Operation) -> Expression:
        name, symbol = WRAPPING[type(op)]
        a, b = op.operands
        if isinstance(a.type, VectorType):
            return self._call(f"detail::{name}", op)
        if isinstance(a.type, IndexType):
            level = 13 if symbol == "*" else 12
            return Expression(f"{self._spell(a).inside(level)} {symbol} {self._spell(b).inside(level + 1)}", level)
        kind = scalar_type(a.type)
        return Expression(f"detail::{name}<{kind}>({self.text(a)}, {self.text(b)})", ATOM)

    def _unsigned(self, op: Operation, form: str) -> Expression:
        """A signless op that reads its operands as unsigned."""
        kind = op.operands[0].type
        wide, plain = scalar_type(kind, unsigned=True), scalar_type(kind)
        if wide == plain:  # bool
            return Expression(form.format(*(self.text(v) for v in op.operands)), ATOM)
        inner = form.format(*(f"static_cast<{wide}>({self.text(v)})" for v in op.operands))
        return Expression(f"static_cast<{plain}>({inner})", ATOM)

    def _division(self, op: Operation) -> Expression:
        """By a number that cannot trap with C++'s own operator, else by the function that never does."""
        symbol, function = DIVISION[type(op)]
        a, b = op.operands
        plain = isinstance(a.type, IndexType)
        safe = plain or (_is_constant(b) and self.text(b) not in ("0", "-1"))
        if isinstance(op, arith.DivUIOp | arith.RemUIOp) and not plain:
            return self._unsigned(op, f"{{}} {symbol} {{}}" if safe else f"{function}({{}}, {{}})")
        if not safe:
            return self._call(function, op)
        text = f"{self._spell(a).inside(13)} {symbol} {self._spell(b).inside(14)}"
        return self._narrow(text, op.results[0].type, 13)

    def _narrow(self, text: str, kind: Attribute, level: int) -> Expression:
        """C++ widens small integers in arithmetic; this brings the result back."""
        if isinstance(kind, IntegerType) and kind.width.data < 32:
            return Expression(f"static_cast<{scalar_type(kind)}>({text})", ATOM)
        return Expression(text, level)

    def _negate(self, op: arith.NegfOp) -> Expression:
        return Expression(f"-{self._spell(op.operand).inside(UNARY + 1)}", UNARY)

    def _compare_floats(self, op: arith.CmpfOp) -> Expression:
        symbol = COMPARE_F[op.predicate.value.data]
        left, right = self._side(op.lhs, op.rhs), self._side(op.rhs, op.lhs)
        if symbol in ("false", "true"):
            return Expression(symbol, ATOM)
        if symbol in ORDERED:
            return Expression(f"{ORDERED[symbol]}({left.text}, {right.text})", ATOM)
        if symbol in UNORDERED:
            return Expression(f"!({UNORDERED[symbol].format(left.inside(11), right.inside(11))})", UNARY)
        return Expression(f"{left.inside(11)} {symbol} {right.inside(11)}", 10)

    def _compare_integers(self, op: arith.CmpiOp) -> Expression:
        predicate = op.predicate.value.data
        symbol = COMPARE_I[predicate]
        if predicate >= FIRST_UNSIGNED_PREDICATE and op.lhs.type != IntegerType(1):
            wide = scalar_type(op.lhs.type, unsigned=True)
            return Expression(
                f"static_cast<{wide}>({self.text(op.lhs)}) {symbol} static_cast<{wide}>({self.text(op.rhs)})", 10
            )
        return Expression(f"{self._spell(op.lhs).inside(11)} {symbol} {self._spell(op.rhs).inside(11)}", 10)

    def _select(self, op: arith.SelectOp) -> Expression:
        yes, no = self._spell(op.lhs), self._spell(op.rhs)
        if isinstance(op.lhs.type, VectorType) and all(
            isinstance(v.owner, vector.BroadcastOp) for v in (op.lhs, op.rhs)
        ):
            yes = Expression(f"({self.vector_text(op.lhs)})", ATOM)
        condition = self._spell(op.cond).inside(EQUALITY)  # compilers warn of bits before a question mark
        return Expression(f"{condition} ? {yes.inside(2)} : {no.inside(TERNARY)}", TERNARY)

    def _cast(self, op: Operation) -> Expression:
        source, target = op.operands[0], op.results[0].type
        inner = self.text(source)
        if isinstance(op, arith.ExtUIOp | arith.UIToFPOp) and source.type != IntegerType(1):
            inner = f"static_cast<{scalar_type(source.type, unsigned=True)}>({inner})"
        if isinstance(op, arith.FPToUIOp) and isinstance(target, IntegerType):  # a negative number wraps if it can
            inner = f"static_cast<std::{'uint64_t' if target.width.data == 64 else 'int64_t'}>({inner})"
        return Expression(f"static_cast<{scalar_type(target)}>({inner})", ATOM)

    def _bit_cast(self, op: arith.BitcastOp) -> Expression:
        return Expression(f"detail::bit_cast<{scalar_type(op.result.type)}>({self.text(op.input)})", ATOM)

    def _load(self, op: memref.LoadOp) -> Expression:
        return Expression(self.access(op.memref, op.indices), ATOM)

    def _vector_load(self, op: vector.LoadOp) -> Expression:
        return Expression(f"detail::load_{type_name(op.result.type)}({self.address(op.base, op.indices)})", ATOM)

    def _convert(self, op: CastLanesOp) -> Expression:
        if op.cast.data.endswith(tuple(CODES)):
            return Expression(f"detail::{op.cast.data}({self.vector_text(op.lanes)})", ATOM)
        element = op.res.type.get_element_type()
        assert isinstance(element, IntegerType | Float32Type | Float64Type)
        kind = f"i{element.width.data}" if isinstance(element, IntegerType) else f"f{element.bitwidth}"
        unsigned = dict.fromkeys((arith.ExtUIOp.name, arith.UIToFPOp.name), "unsigned_to")
        how = {**unsigned, NEAREST: "nearest"}.get(op.cast.data, "to")
        return Expression(f"detail::{how}_{kind}({self.vector_text(op.lanes)})", ATOM)

    def _coded(self, op: DecodeOp | EncodeOp) -> Expression:
        return Expression(f"detail::{cast_of(op)}({self.text(op.operands[0])})", ATOM)

    def _load_word(self, op: LoadWordOp) -> Expression:
        lanes = f"s_x{op.res.type.get_shape()[0]}" if isinstance(op.res.type, VectorType) else ""
        return Expression(f"detail::load_word{lanes}({self.address(op.memref, op.indices)})", ATOM)

    def _on_words(self, op: JoinOp | DotOp | DotPairsOp | WidenBytesOp) -> Expression:
        name = op.name.removeprefix("sofie.")
        if isinstance(op, WidenBytesOp):
            name = f"{op.places.data}_{'' if op.signed is not None else 'unsigned_'}bytes"
        elif isinstance(op, DotOp) and op.narrow is not None:
            name = "narrow_dot"
        text = self.vector_text if isinstance(op.res.type, VectorType) else self.text
        return Expression(f"detail::{name}({', '.join(map(text, op.operands))})", ATOM)

    def _quantize(self, op: QuantizeOp | RequantizeOp) -> Expression:
        what = "quantized" if isinstance(op, QuantizeOp) else "requantized"
        numbers = ", ".join(map(str, op.numbers))
        first = self.vector_text(op.operands[0]) if isinstance(op.res.type, VectorType) else self.text(op.operands[0])
        rest = map(self.text, op.operands[1:])
        return Expression(f"detail::{what}<{numbers}>({', '.join([first, *rest])})", ATOM)

    def _requantize_lanes(self, op: RequantizeLanesOp) -> Expression:
        kind = op.res.type
        assert isinstance(kind, VectorType)
        places = ((op.scale, op.scale_at), (op.offset, op.offset_at))
        exact = [self.address(v, at) if at else self.text(v) for v, at in places]
        given = [*map(self.vector_text, op.sums), *map(self.text, (*op.steps, *op.first)), *exact]
        name = f"detail::requantized_x{kind.get_shape()[0]}<{', '.join(map(str, op.numbers))}>"
        return Expression(f"{name}({', '.join(given)})", ATOM)

    def _broadcast(self, op: vector.BroadcastOp) -> Expression:
        return self._spell(op.source)

    def _extract(self, op: vector.ExtractOp) -> Expression:
        lane = self.text(op.dynamic_position[0]) if op.dynamic_position else op.static_position.get_values()[0]
        return Expression(f"{self._spell(op.vector).inside(ATOM)}[{lane}]", ATOM)

    # -- memory --------------------------------------------------------------------------------------------------

    def access(self, base: SSAValue, indices: Sequence[SSAValue]) -> str:
        """`name[index]`."""
        name, offset = self._pointer(base)
        return f"{name}[{self._linear(base, indices, offset)}]"

    def address(self, base: SSAValue, indices: Sequence[SSAValue]) -> str:
        """`name + index`."""
        name, offset = self._pointer(base)
        at = self._linear(base, indices, offset)
        return name if at == "0" else f"{name} + {at}"

    def pointer(self, base: SSAValue) -> str:
        """The pointer to the first element of a memref, as an argument of a call."""
        name, offset = self._pointer(base)
        return name if offset == 0 else f"{name} + {offset}"

    def _pointer(self, base: SSAValue) -> tuple[str, int]:
        return self.pointers[base]

    def _linear(self, base: SSAValue, indices: Sequence[SSAValue], offset: int) -> str:
        terms: dict[str, int] = {}
        constant = offset
        for index_value, stride in zip(indices, strides_of(base), strict=True):
            constant += self._collect(index_value, stride, terms)
        return self._sum(terms, constant)

    def _sum(self, terms: dict[str, int], constant: int) -> str:
        """Products of names with numbers, and a number or a run-time size."""
        if isinstance(constant, Size):
            constant = self._spread("", constant, terms)
        together: dict[int, list[str]] = {}
        for atom, factor in terms.items():
            if factor:
                together.setdefault(factor, []).append(atom)
        parts = [self._term(atoms, factor) for factor, atoms in together.items()]
        if constant or not parts:
            parts.append(str(constant))
        return " + ".join(parts).replace("+ -", "- ")

    @staticmethod
    def _term(atoms: list[str], factor: int) -> str:
        total = " + ".join(atoms)
        return total if factor == 1 else f"{total} * {factor}" if len(atoms) == 1 else f"({total}) * {factor}"

    def _collect(self, value: SSAValue, factor: int, terms: dict[str, int]) -> int:
        """Adds `value * factor` to a sum of products; returns its constant part."""
        owner = value.owner
        if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr):
            return owner.value.value.data * factor
        if isinstance(owner, arith.AddiOp):
            return self._collect(owner.lhs, factor, terms) + self._collect(owner.rhs, factor, terms)
        if isinstance(owner, arith.MuliOp):
            for a, b in ((owner.lhs, owner.rhs), (owner.rhs, owner.lhs)):
                if isinstance(b.owner, arith.ConstantOp) and isinstance(b.owner.value, IntegerAttr):
                    return self._collect(a, factor * b.owner.value.value.data, terms)
        self._spread(self._spell(value).inside(14), factor, terms)
        return 0

    def _spread(self, atom: str, factor: int, terms: dict[str, int]) -> int:
        """Adds `atom * factor` to a sum of products, a run-time factor by the names of its sizes.

        Without atom, the number in `factor` is not added but returned.
        """
        parts: dict[Monomial, int] = factor.terms if isinstance(factor, Size) else {(): factor}
        for monomial, number in parts.items():
            names = [self.sizes[symbol] for symbol in monomial]
            text = " * ".join([*names, atom] if atom else names)
            if text:
                terms[text] = terms.get(text, 0) + number
        return 0 if atom else parts.get((), 0)

    def extent(self, extent: int) -> str:
        """The text of a number or a run-time size."""
        terms: dict[str, int] = {}
        number = self._spread("", extent, terms)
        parts = [self._term([atom], factor) for atom, factor in terms.items()]
        return " + ".join([*parts, *([str(number)] if number or not parts else [])]).replace("+ -", "- ")


def _may_be_quick(op: Operation) -> bool:
    """Whether an approximation may stand for the function, and there is one."""
    flags = op.properties.get("fastmath")
    approximate = isinstance(flags, arith.FastMathFlagsAttr) and FastMathFlag.APPROX_FUNC in flags.data
    return approximate and type(op) in QUICK_CALLS


def fused_product(op: arith.AddfOp | arith.SubfOp) -> arith.MulfOp | None:
    """The product that is computed together with its sum, in one rounding where the CPU has the instruction.

    Which one it is follows from the arithmetic alone, not from the loops around it, so that a row has the same bits in
    whatever vectors and parts it is computed: the right one, else the left one, if sums of its block are all its uses.
    """
    chosen = _chosen_product(op)
    return chosen if chosen is not None and is_fused(chosen) else None


def is_fused(product: arith.MulfOp) -> bool:
    """Whether all users of a product compute it themselves, together with their sums."""
    return all(
        isinstance(use.operation, arith.AddfOp | arith.SubfOp) and _chosen_product(use.operation) is product
        for use in product.result.uses
    )


def _chosen_product(op: arith.AddfOp | arith.SubfOp) -> arith.MulfOp | None:
    for value in (op.rhs, op.lhs):
        product = value.owner
        if isinstance(product, arith.MulfOp) and op.lhs is not op.rhs and _feeds_sums(product):
            if ROUNDED in product.attributes:
                continue
            return product
    return None


def _feeds_sums(product: arith.MulfOp) -> bool:
    block = product.parent_block()
    users = [use.operation for use in product.result.uses]
    return all(isinstance(user, arith.AddfOp | arith.SubfOp) and user.parent_block() is block for user in users)


def _is_splat(value: SSAValue) -> bool:
    return isinstance(value.owner, vector.BroadcastOp) or _is_constant(value)


def _is_constant(value: SSAValue) -> bool:
    return isinstance(value.owner, arith.ConstantOp)


_Rule = Callable[..., Expression]
"""A method of the printer that takes an op of its own class."""

_EXPRESSIONS: dict[type[Operation], _Rule] = {
    arith.ConstantOp: ExpressionPrinter._constant,
    arith.NegfOp: ExpressionPrinter._negate,
    arith.CmpfOp: ExpressionPrinter._compare_floats,
    arith.CmpiOp: ExpressionPrinter._compare_integers,
    arith.SelectOp: ExpressionPrinter._select,
    arith.DivSIOp: ExpressionPrinter._division,
    arith.DivUIOp: ExpressionPrinter._division,
    arith.RemSIOp: ExpressionPrinter._division,
    arith.RemUIOp: ExpressionPrinter._division,
    arith.BitcastOp: ExpressionPrinter._bit_cast,
    memref.LoadOp: ExpressionPrinter._load,
    vector.LoadOp: ExpressionPrinter._vector_load,
    DecodeOp: ExpressionPrinter._coded,
    EncodeOp: ExpressionPrinter._coded,
    LoadWordOp: ExpressionPrinter._load_word,
    **dict.fromkeys((JoinOp, DotOp, DotPairsOp, WidenBytesOp), ExpressionPrinter._on_words),
    **dict.fromkeys((QuantizeOp, RequantizeOp), ExpressionPrinter._quantize),
    RequantizeLanesOp: ExpressionPrinter._requantize_lanes,
    CastLanesOp: ExpressionPrinter._convert,
    vector.BroadcastOp: ExpressionPrinter._broadcast,
    vector.ExtractOp: ExpressionPrinter._extract,
    **dict.fromkeys(
        (
            arith.IndexCastOp,
            arith.ExtSIOp,
            arith.ExtUIOp,
            arith.ExtFOp,
            arith.TruncIOp,
            arith.TruncFOp,
            arith.SIToFPOp,
            arith.UIToFPOp,
            arith.FPToSIOp,
            arith.FPToUIOp,
        ),
        ExpressionPrinter._cast,
    ),
}
