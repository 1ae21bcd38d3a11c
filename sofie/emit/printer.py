"""Prints one level 4 function as C++: one statement an op that stores, one expression for what leads to it.

The printer decides nothing. Loops, vectors and their order are those of the IR; what it adds is spelling: index
arithmetic in the brackets of an access, single-use values inside the expression that uses them, a carried value as a
variable. How types, literals and operators are spelled is in `spelling`.
"""

from __future__ import annotations

import math as pymath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xdsl.dialects import arith, func, gpu, memref, scf, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    Float32Type,
    IndexType,
    MemRefType,
    VectorType,
)
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from sofie.dialects.blas import GemmOp
from sofie.dialects.scalars import ROUNDED, DotPairsOp, RequantizeLanesOp
from sofie.dialects.types import element_of, strides_of
from sofie.dialects.upstream import PrefetchOp
from sofie.emit.expressions import ExpressionPrinter, fused_product, is_fused
from sofie.emit.spelling import (
    ATOM,
    EXTREMA,
    WIDTH,
    Expression,
    listed,
    scalar_type,
    type_name,
)
from sofie.emit.unrolling import steps, unrolled
from sofie.errors import SofieError
from sofie.extents import symbols_by_argument
from sofie.loops import guard
from sofie.memory import is_written
from sofie.rewrite import blame
from sofie.sizes import Size


@dataclass
class KernelPrinter(ExpressionPrinter):
    """Prints the body of one function, a line a statement. restrict: whether what is written is not read elsewhere."""

    restrict: bool = True
    lines: list[str] = field(default_factory=list)
    depth: int = 1

    # -- statements ----------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """One line at the current depth."""
        self.lines.append("   " * self.depth + text)

    def kernel(self, function: func.FuncOp | gpu.FuncOp, attributes: str, behind: str = " noexcept") -> list[str]:
        """The whole function; attributes, behind: what stands before and behind its type."""
        parameters = []
        symbols = symbols_by_argument(function)
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
            alone = "__restrict " if self.restrict and is_written(argument) else ""
            parameters.append(f"{qualifier}{element} *{alone}{name}")
            self.pointers[argument] = (name, 0)
        head = f"{attributes}void {function.sym_name.data}("
        self.lines.append(listed(head, parameters, f"){behind}"))
        self.lines.append("{")
        if self.exact:
            self.line("SOFIE_EXACT")
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
        if isinstance(op, arith.MulfOp) and not self.exact and is_fused(op):
            self._keep_factors(op)
            return
        expression = self.expression(op)
        expression.reads = _reads_memory(op) or any(v in self.spelled and self.spelled[v].reads for v in _inside(op))
        room = WIDTH - 3 * self.depth - 12
        waits = not _read_twice(op) and _can_wait(op, expression.reads)
        alone = ROUNDED in op.attributes  # a statement of its own is fused with no other
        alone = alone or isinstance(op, DotPairsOp)  # the order of the ops is one of few registers
        if _always_inline(op) or (waits and not alone and (len(expression.text) < room or _accumulates(op))):
            self.spelled[result] = expression
            return
        name = self.names(result.name_hint or _default_name(op))
        self.line(f"const {type_name(result.type)} {name} = {expression.text};")
        self.spelled[result] = Expression(name, ATOM)

    def _keep_factors(self, op: arith.MulfOp) -> None:
        """Names for the factors of a product that its sums compute, where they could not be read there."""
        for factor in op.operands:
            known = self.spelled.get(factor)
            if known is None:
                continue
            several = len(list(op.result.uses)) > 1
            if (known.reads and not _can_wait(op, True)) or (known.level != ATOM and several):
                name = self.names(factor.name_hint or "x")
                self.line(f"const {type_name(factor.type)} {name} = {self.vector_text(factor)};")
                self.spelled[factor] = Expression(name, ATOM)

    def _store(self, op: memref.StoreOp) -> None:
        self.line(f"{self.access(op.memref, op.indices)} = {self.text(op.value)};")

    def _vector_store(self, op: vector.StoreOp) -> None:
        self.line(f"detail::store({self.address(op.base, op.indices)}, {self.vector_text(op.vector)});")

    def _prefetch(self, op: PrefetchOp) -> None:
        self.line(f"__builtin_prefetch({self.address(op.memref, op.indices)}, {int(bool(op.isWrite))}, {op.locality});")

    def _gemm(self, op: GemmOp) -> None:
        """C += A' B' by the library."""
        m, n, k = map(self.extent, op.sizes)
        letter = "s" if isinstance(element_of(op.c), Float32Type) else "d"
        flags = ["CblasTrans" if f.value.data else "CblasNoTrans" for f in (op.transpose_a, op.transpose_b)]
        parts = [f"{self.pointer(v)}, {self.extent(strides_of(v)[0])}" for v in (op.a, op.b, op.c)]
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
        flag = guard(op)
        if flag is None and self.unrolls(op):
            self.unroll(op)
        self._loop(variable, op.lb, op.ub, op.step, "" if flag is None else f" && {self.text(flag)}")
        self.block(block)
        last = block.last_op
        assert isinstance(last, scf.YieldOp)
        self._assign(list(carried), list(last.arguments))
        self._close()

    def unrolls(self, loop: scf.ForOp) -> bool:
        """Whether a loop is asked to be unrolled."""
        return unrolled(loop) is not None

    def unroll(self, loop: scf.ForOp | scf.ParallelOp) -> None:
        """Asks for a loop to be unrolled."""
        self.lines.append(f"#pragma GCC unroll {steps(loop)}")

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
        variables = op.body.block.args
        for variable, low, high, step in zip(variables, op.lowerBound, op.upperBound, op.step, strict=True):
            if variable is variables[-1] and unrolled(op) is not None:
                self.unroll(op)
            self._loop(variable, low, high, step)
        self.block(op.body.block)
        for _ in op.body.block.args:
            self._close()

    def _if(self, op: scf.IfOp) -> None:
        condition = self.text(op.cond)
        chosen: list[SSAValue] = []
        for result in op.output:
            name = self.names(result.name_hint or "chosen")
            self.line(f"{type_name(result.type)} {name};")
            self.spelled[result] = Expression(name, ATOM)
            chosen.append(result)
        self.line(f"if ({condition}) {{")
        self._branch(op.true_region.block, chosen)
        if op.false_region.blocks and len(op.false_region.block.ops) > (0 if chosen else 1):
            self.line("} else {")
            self._branch(op.false_region.block, chosen)
        self.line("}")

    def _branch(self, block: Block, chosen: Sequence[SSAValue]) -> None:
        """The statements of a branch, and what it hands out."""
        self.depth += 1
        self.block(block)
        last = block.last_op
        assert isinstance(last, scf.YieldOp)
        self._assign(chosen, list(last.arguments))
        self.depth -= 1

    def _loop(self, variable: SSAValue, low: SSAValue, high: SSAValue, step: SSAValue, also: str = "") -> None:
        name = self.names(variable.name_hint or "i")
        self.spelled[variable] = Expression(name, ATOM)
        by = self.text(step)
        advance = f"++{name}" if by == "1" else f"{name} += {by}"
        self.line(f"for (index {name} = {self.text(low)}; {name} < {self.text(high)}{also}; {advance}) {{")
        self.depth += 1

    def _close(self) -> None:
        self.depth -= 1
        self.line("}")

    def _subview(self, op: memref.SubviewOp) -> None:
        """The same pointer further on; one of its own where the offset is only known when running."""
        name, offset = self.pointers[op.source]
        starts, values, terms = op.static_offsets.get_values(), iter(op.offsets), dict[str, int]()
        for start, stride in zip(starts, strides_of(op.source), strict=True):
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


def _inside(op: Operation) -> Sequence[SSAValue]:
    """The operands that the text of an op holds, those of a fused product among them."""
    if isinstance(op, arith.AddfOp | arith.SubfOp) and (product := fused_product(op)) is not None:
        return (*op.operands, *product.operands)
    return op.operands


def _reads_memory(op: Operation) -> bool:
    return isinstance(op, memref.LoadOp | vector.LoadOp | RequantizeLanesOp)


def _reads(value: SSAValue) -> set[SSAValue]:
    """The block arguments that the expression of `value` reads in its own block."""
    if isinstance(value, BlockArgument):
        return {value}
    owner = value.owner
    assert isinstance(owner, Operation)
    return set().union(*(_reads(v) for v in owner.operands)) if not owner.regions else {value}


def _default_name(op: Operation) -> str:
    return "at" if isinstance(op.results[0].type, IndexType) else "x" if _reads_memory(op) else "t"


_Statement = Callable[..., None]
"""A method of the printer that takes an op of its own class."""

_STATEMENTS: dict[type[Operation], _Statement] = {
    memref.StoreOp: KernelPrinter._store,
    vector.StoreOp: KernelPrinter._vector_store,
    PrefetchOp: KernelPrinter._prefetch,
    GemmOp: KernelPrinter._gemm,
    memref.AllocaOp: KernelPrinter._alloca,
    memref.SubviewOp: KernelPrinter._subview,
    memref.CastOp: KernelPrinter._same_memory,
    memref.ReinterpretCastOp: KernelPrinter._same_memory,
    memref.CollapseShapeOp: KernelPrinter._same_memory,
    memref.ExpandShapeOp: KernelPrinter._same_memory,
    scf.ForOp: KernelPrinter._for,
    scf.IfOp: KernelPrinter._if,
    scf.ParallelOp: KernelPrinter._parallel,
    scf.YieldOp: KernelPrinter._nothing,
    scf.ReduceOp: KernelPrinter._nothing,
    func.ReturnOp: KernelPrinter._nothing,
}
