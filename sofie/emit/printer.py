"""Prints one level 4 function as C++: one statement an op that stores, one expression for what leads to it.

The printer decides nothing. Loops, vectors and their order are those of the IR; what it adds is spelling: index
arithmetic in the brackets of an access, single-use values inside the expression that uses them, a carried value as a
variable. How types, literals and operators are spelled is in `spelling`.
"""

from __future__ import annotations

import math as pymath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xdsl.dialects import arith, func, memref, scf, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    DenseIntOrFPElementsAttr,
    Float32Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    VectorType,
)
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue

from sofie.dialects.blas import GemmOp
from sofie.dialects.types import strides_and_offset
from sofie.emit.spelling import (
    ADDITIVE,
    ATOM,
    BINARY,
    CALLS,
    COMPARE_F,
    COMPARE_I,
    DIVISION,
    EXTREMA,
    FIRST_UNSIGNED_PREDICATE,
    ORDERED,
    TERNARY,
    UNARY,
    UNORDERED,
    UNSIGNED_CALLS,
    WIDTH,
    WRAPPING,
    Expression,
    literal,
    scalar_type,
    signature,
    type_name,
)
from sofie.errors import SofieError
from sofie.extents import symbol_arguments
from sofie.memory import is_written
from sofie.naming import EMITTED, Namer
from sofie.rewrite import blame
from sofie.sizes import Monomial, Size, Symbol


@dataclass
class KernelPrinter:
    """Prints the body of one function; `callee` maps a called kernel's symbol to its C++ name."""

    lines: list[str] = field(default_factory=list)
    names: Namer = field(default_factory=lambda: Namer(EMITTED | {"weights", "arena"}))
    spelled: dict[SSAValue, Expression] = field(default_factory=dict)
    pointers: dict[SSAValue, tuple[str, int]] = field(default_factory=dict)
    sizes: dict[Symbol, str] = field(default_factory=dict)
    """How the run-time sizes are called here."""
    depth: int = 1

    # -- statements ----------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """One line at the current depth."""
        self.lines.append("   " * self.depth + text)

    def kernel(self, function: func.FuncOp, attributes: str) -> list[str]:
        """The whole function."""
        parameters = []
        symbols = {argument: symbol for symbol, argument in symbol_arguments(function).items()}
        for argument in function.body.block.args:
            name = self.names(argument.name_hint or ("x" if not is_written(argument) else "y"))
            kind = argument.type
            if not isinstance(kind, MemRefType):
                self.spelled[argument] = Expression(name, ATOM)
                if argument in symbols:
                    self.sizes[symbols[argument]] = name
                unused = "" if argument.uses else "[[maybe_unused]] "
                parameters.append(f"{unused}const {scalar_type(kind)} {name}")
                continue
            element = scalar_type(kind.get_element_type())
            qualifier = "" if is_written(argument) else "const "
            parameters.append(f"{qualifier}{element} *{'__restrict ' if is_written(argument) else ''}{name}")
            self.pointers[argument] = (name, 0)
        head = f"{attributes}void {function.sym_name.data}("
        self.lines.append(signature(head, parameters))
        self.lines.append("{")
        self.block(function.body.block)
        self.lines.append("}")
        return self.lines

    def block(self, block: Block) -> None:
        """The statements of a block."""
        for op in block.ops:
            self.statement(op)

    def statement(self, op: Operation) -> None:
        """The statement of an op, or nothing where its value waits for its user."""
        rule = _STATEMENTS.get(type(op))
        if rule is not None:
            rule(self, op)
        elif op.results:
            self._value(op)
        else:
            raise SofieError(f"{blame(op)}: {op.name} cannot be printed as C++")

    def _value(self, op: Operation) -> None:
        """A pure op or a load: inside its one user if that can see it unchanged, else a named constant."""
        result = op.results[0]
        if not result.uses:
            return
        expression = self.expression(op)
        expression.reads = _reads_memory(op) or any(v in self.spelled and self.spelled[v].reads for v in op.operands)
        room = WIDTH - 3 * self.depth - 12
        waits = not _read_twice(op) and _can_wait(op, expression.reads)
        if _always_inline(op) or (waits and (len(expression.text) < room or _accumulates(op))):
            self.spelled[result] = expression
            return
        name = self.names(result.name_hint or _default_name(op))
        self.line(f"const {type_name(result.type)} {name} = {expression.text};")
        self.spelled[result] = Expression(name, ATOM)

    def _store(self, op: memref.StoreOp) -> None:
        self.line(f"{self.access(op.memref, op.indices)} = {self.text(op.value)};")

    def _vector_store(self, op: vector.StoreOp) -> None:
        self.line(f"detail::store({self.address(op.base, op.indices)}, {self.vector_text(op.vector)});")

    def _gemm(self, op: GemmOp) -> None:
        """C += A' B' by the library."""
        m, n, k = map(self.extent, op.sizes)
        letter = "s" if isinstance(op.c.type.get_element_type(), Float32Type) else "d"  # type: ignore[attr-defined]
        flags = ["CblasTrans" if f.value.data else "CblasNoTrans" for f in (op.transpose_a, op.transpose_b)]
        rows = [strides_and_offset(v.type)[0][0] for v in (op.a, op.b, op.c)]  # type: ignore[arg-type]
        parts = [f"{self.pointer(v)}, {self.extent(e)}" for v, e in zip((op.a, op.b, op.c), rows, strict=True)]
        one = "1.0f" if letter == "s" else "1.0"
        self.line(
            f"cblas_{letter}gemm(CblasRowMajor, {', '.join(flags)}, {m}, {n}, {k}, "
            f"{one}, {parts[0]}, {parts[1]}, {one}, {parts[2]});"
        )

    def _alloca(self, op: memref.AllocaOp) -> None:
        name = self.names(op.memref.name_hint or "tile")
        kind = op.memref.type
        count = pymath.prod(kind.get_shape())
        self.line(f"alignas(64) {scalar_type(kind.get_element_type())} {name}[{count}];")
        self.pointers[op.memref] = (name, 0)

    def _for(self, op: scf.ForOp) -> None:
        block = op.body.block
        variable, carried = block.args[0], block.args[1:]
        for init, argument, result in zip(op.iter_args, carried, op.res, strict=True):
            name = self._carried_name(init, argument)
            self.spelled[argument] = self.spelled[result] = Expression(name, ATOM)
        self._loop(variable, op.lb, op.ub, op.step)
        self.block(block)
        last = block.last_op
        assert isinstance(last, scf.YieldOp)
        self._assign(list(carried), list(last.arguments))
        self._close()

    def _carried_name(self, init: SSAValue, argument: BlockArgument) -> str:
        """The variable of a carried value: the enclosing loop's own where this loop just continues it."""
        known = self.spelled.get(init)
        continues = isinstance(init, BlockArgument) and isinstance(init.block.parent_op(), scf.ForOp) and init.index > 0
        if known is not None and continues and len(list(init.uses)) == 1:
            return known.text
        if known is not None and isinstance(init.owner, scf.ForOp) and len(list(init.uses)) == 1:
            return known.text
        name = self.names(argument.name_hint or "carried")
        start = self.vector_text(init) if isinstance(argument.type, VectorType) else self.text(init)
        self.line(f"{type_name(argument.type)} {name} = {start};")
        return name

    def _assign(self, targets: Sequence[SSAValue], values: Sequence[SSAValue]) -> None:
        """The carried variables take their next values, all at once as far as anyone can see."""
        pairs = [(t, v) for t, v in zip(targets, values, strict=True) if self.text(t) != self.text(v)]
        independent = all(not (_reads(v) & ({t for t, _ in pairs} - {t})) for t, v in pairs)
        if not independent:
            fresh = []
            for target, value in pairs:
                name = self.names(f"next_{self.text(target)}")
                self.line(f"const {type_name(target.type)} {name} = {self.text(value)};")
                fresh.append(name)
            for (target, _), name in zip(pairs, fresh, strict=True):
                self.line(f"{self.text(target)} = {name};")
            return
        for target, value in pairs:
            name = self.text(target)
            owner = value.owner
            if (
                isinstance(owner, arith.AddfOp)
                and owner.lhs is target
                and value in self.spelled
                and self.spelled[value].level != ATOM
            ):
                self.line(f"{name} += {self.text(owner.rhs)};")
            else:
                self.line(
                    f"{name} = {self.vector_text(value) if isinstance(target.type, VectorType) else self.text(value)};"
                )

    def _parallel(self, op: scf.ParallelOp) -> None:
        for variable, low, high, step in zip(op.body.block.args, op.lowerBound, op.upperBound, op.step, strict=True):
            self._loop(variable, low, high, step)
        self.block(op.body.block)
        for _ in op.body.block.args:
            self._close()

    def _if(self, op: scf.IfOp) -> None:
        if op.output:
            raise SofieError(f"{blame(op)}: {op.name} hands out a value, which cannot be printed as C++")
        self.line(f"if ({self.text(op.cond)}) {{")
        self.depth += 1
        self.block(op.true_region.block)
        if op.false_region.blocks and len(op.false_region.block.ops) > 1:
            self.depth -= 1
            self.line("} else {")
            self.depth += 1
            self.block(op.false_region.block)
        self._close()

    def _loop(self, variable: SSAValue, low: SSAValue, high: SSAValue, step: SSAValue) -> None:
        name = self.names(variable.name_hint or "i")
        self.spelled[variable] = Expression(name, ATOM)
        by = self.text(step)
        advance = f"++{name}" if by == "1" else f"{name} += {by}"
        self.line(f"for (index {name} = {self.text(low)}; {name} < {self.text(high)}; {advance}) {{")
        self.depth += 1

    def _close(self) -> None:
        self.depth -= 1
        self.line("}")

    def _subview(self, op: memref.SubviewOp) -> None:
        """The same pointer further on; one of its own where the offset is only known when running."""
        name, offset = self.pointers[op.source]
        assert isinstance(op.source.type, MemRefType)
        strides, _ = strides_and_offset(op.source.type)
        starts, values, terms = op.static_offsets.get_values(), iter(op.offsets), dict[str, int]()
        for start, stride in zip(starts, strides, strict=True):
            offset += self._collect(next(values), stride, terms) if start == DYNAMIC_INDEX else start * stride
        if isinstance(offset, Size):
            offset = self._spread("", offset, terms)
        if not terms or not op.result.uses:
            self.pointers[op.result] = (name, offset)
            return
        moved = self.names(op.result.name_hint or f"{name}_at")
        self.line(f"auto *const {moved} = {name} + {self._sum(terms, offset)};")
        self.pointers[op.result] = (moved, 0)

    def _same_memory(self, op: Operation) -> None:
        self.pointers[op.results[0]] = self.pointers[op.operands[0]]

    def _nothing(self, op: Operation) -> None:
        """Terminators print nothing: their loop or function has said it."""

    # -- expressions ---------------------------------------------------------------------------------------------

    def text(self, value: SSAValue) -> str:
        """The text of a value wherever any expression may stand."""
        return self._spell(value).text

    def vector_text(self, value: SSAValue) -> str:
        """The text of a value where a vector must stand: a splat is spelled out."""
        if isinstance(value.owner, vector.BroadcastOp):
            scalar = self._spell(value.owner.source).inside(13)
            return (
                f"{type_name(value.type)}{{}}"
                if scalar in ("0.0f", "0.0")
                else f"{type_name(value.type)}{{}} + {scalar}"
            )
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
            return self._call(CALLS[type(op)], op)
        if type(op) in UNSIGNED_CALLS:
            return self._unsigned(op, f"{UNSIGNED_CALLS[type(op)]}({{}}, {{}})")
        rule = _EXPRESSIONS.get(type(op))
        if rule is None:
            raise SofieError(f"{blame(op)}: {op.name} cannot be printed as C++")
        return rule(self, op)

    def _side(self, value: SSAValue, other: SSAValue) -> Expression:
        """An operand of a binary operator: if both sides are splats, one of them must be spelled as a vector."""
        both = isinstance(value.owner, vector.BroadcastOp) and (
            isinstance(other.owner, vector.BroadcastOp) or _is_constant(other)
        )
        if isinstance(value.type, VectorType) and both:
            return Expression(f"({self.vector_text(value)})", ATOM)
        return self._spell(value)

    def _call(self, name: str, op: Operation) -> Expression:
        if isinstance(op.results[0].type, IntegerType):  # a literal has a type of its own
            name = f"{name}<{scalar_type(op.results[0].type)}>"
        arguments = [self.vector_text(v) if isinstance(v.type, VectorType) else self.text(v) for v in op.operands]
        return Expression(f"{name}({', '.join(arguments)})", ATOM)

    def _extremum(self, op: Operation) -> Expression:
        """The larger or smaller of two; against a number, which is not NaN, a comparison says it all."""
        name, symbol = EXTREMA[type(op)]
        a, b = op.operands
        bound = b.owner.source if isinstance(b.owner, vector.BroadcastOp) else b
        if _is_constant(bound) and self._spell(a).level == ATOM and not self._spell(a).reads:
            limit = self.text(bound)
            return Expression(f"{self.text(a)} {symbol} {limit} ? {limit} : {self.text(a)}", TERNARY)
        return self._call(name, op)

    def _integer(self, op: Operation) -> Expression:
        name, symbol = WRAPPING[type(op)]
        a, b = op.operands
        if isinstance(a.type, IndexType | VectorType):
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
        return Expression(f"{self._spell(op.cond).inside(2)} ? {yes.inside(2)} : {no.inside(TERNARY)}", TERNARY)

    def _cast(self, op: Operation) -> Expression:
        source, target = op.operands[0], op.results[0].type
        inner = self.text(source)
        if isinstance(op, arith.ExtUIOp | arith.UIToFPOp) and source.type != IntegerType(1):
            inner = f"static_cast<{scalar_type(source.type, unsigned=True)}>({inner})"
        if isinstance(op, arith.FPToUIOp) and isinstance(target, IntegerType):  # a negative number wraps if it can
            inner = f"static_cast<std::{'uint64_t' if target.width.data == 64 else 'int64_t'}>({inner})"
        return Expression(f"static_cast<{scalar_type(target)}>({inner})", ATOM)

    def _load(self, op: memref.LoadOp) -> Expression:
        return Expression(self.access(op.memref, op.indices), ATOM)

    def _vector_load(self, op: vector.LoadOp) -> Expression:
        return Expression(f"detail::load_{type_name(op.result.type)}({self.address(op.base, op.indices)})", ATOM)

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
        kind = base.type
        assert isinstance(kind, MemRefType)
        strides, _ = strides_and_offset(kind)
        terms: dict[str, int] = {}
        constant = offset
        for index_value, stride in zip(indices, strides, strict=True):
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


def _is_constant(value: SSAValue) -> bool:
    return isinstance(value.owner, arith.ConstantOp)


def _always_inline(op: Operation) -> bool:
    """Values that cost nothing to repeat: constants and index arithmetic, which the compiler shares anyway."""
    return isinstance(op, arith.ConstantOp | vector.BroadcastOp) or (
        isinstance(op.results[0].type, IndexType) and isinstance(op, arith.AddiOp | arith.MuliOp | arith.SubiOp)
    )


def _accumulates(op: Operation) -> bool:
    """Whether the value is a carried variable's next one, `carried + something`: it prints as `+=`."""
    user = next(iter(op.results[0].uses)).operation
    return isinstance(op, arith.AddfOp) and isinstance(user, scf.YieldOp) and isinstance(op.lhs, BlockArgument)


def _read_twice(op: Operation) -> bool:
    """Whether the text of the value's user will name it twice: it needs a name."""
    uses = list(op.results[0].uses)
    return len(uses) == 1 and uses[0].index == 0 and type(uses[0].operation) in EXTREMA


def _can_wait(op: Operation, reads: bool) -> bool:
    """Whether the value's only use stands in the same block and, if memory is read, before anything writes it."""
    uses = list(op.results[0].uses)
    if len(uses) != 1 or uses[0].operation.parent_block() is not op.parent_block():
        return False
    if not reads:
        return True
    current = op.next_op
    while current is not None and current is not uses[0].operation:
        if current.regions or isinstance(current, memref.StoreOp | vector.StoreOp | func.CallOp):
            return False
        current = current.next_op
    return True  # a loop reads its start values before anything in it writes


def _reads_memory(op: Operation) -> bool:
    return isinstance(op, memref.LoadOp | vector.LoadOp)


def _reads(value: SSAValue) -> set[SSAValue]:
    """The block arguments that the expression of `value` reads in its own block."""
    if isinstance(value, BlockArgument):
        return {value}
    owner = value.owner
    assert isinstance(owner, Operation)
    return set().union(*(_reads(v) for v in owner.operands)) if not owner.regions else {value}


def _default_name(op: Operation) -> str:
    return "at" if isinstance(op.results[0].type, IndexType) else "x" if _reads_memory(op) else "t"


_Statement = Callable[[KernelPrinter, Operation], None]
_Rule = Callable[[KernelPrinter, Operation], Expression]

_STATEMENTS: dict[type[Operation], _Statement] = {
    memref.StoreOp: KernelPrinter._store,  # type: ignore[dict-item]
    vector.StoreOp: KernelPrinter._vector_store,  # type: ignore[dict-item]
    GemmOp: KernelPrinter._gemm,  # type: ignore[dict-item]
    memref.AllocaOp: KernelPrinter._alloca,  # type: ignore[dict-item]
    memref.SubviewOp: KernelPrinter._subview,  # type: ignore[dict-item]
    memref.CastOp: KernelPrinter._same_memory,
    memref.ReinterpretCastOp: KernelPrinter._same_memory,
    memref.CollapseShapeOp: KernelPrinter._same_memory,
    memref.ExpandShapeOp: KernelPrinter._same_memory,
    scf.ForOp: KernelPrinter._for,  # type: ignore[dict-item]
    scf.IfOp: KernelPrinter._if,  # type: ignore[dict-item]
    scf.ParallelOp: KernelPrinter._parallel,  # type: ignore[dict-item]
    scf.YieldOp: KernelPrinter._nothing,
    scf.ReduceOp: KernelPrinter._nothing,
    func.ReturnOp: KernelPrinter._nothing,
}

_EXPRESSIONS: dict[type[Operation], _Rule] = {
    arith.ConstantOp: KernelPrinter._constant,  # type: ignore[dict-item]
    arith.NegfOp: KernelPrinter._negate,  # type: ignore[dict-item]
    arith.CmpfOp: KernelPrinter._compare_floats,  # type: ignore[dict-item]
    arith.CmpiOp: KernelPrinter._compare_integers,  # type: ignore[dict-item]
    arith.SelectOp: KernelPrinter._select,  # type: ignore[dict-item]
    arith.DivSIOp: KernelPrinter._division,
    arith.DivUIOp: KernelPrinter._division,
    arith.RemSIOp: KernelPrinter._division,
    arith.RemUIOp: KernelPrinter._division,
    memref.LoadOp: KernelPrinter._load,  # type: ignore[dict-item]
    vector.LoadOp: KernelPrinter._vector_load,  # type: ignore[dict-item]
    vector.BroadcastOp: KernelPrinter._broadcast,  # type: ignore[dict-item]
    vector.ExtractOp: KernelPrinter._extract,  # type: ignore[dict-item]
    **{
        cast: KernelPrinter._cast
        for cast in (
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
        )
    },
}
