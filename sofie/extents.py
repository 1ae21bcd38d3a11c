"""From the sizes that types name to SSA values of type `index`: a symbol is an argument of the function, a size is
arithmetic on symbols.

An argument with the attribute `sofie.size` is the value of the symbol it names; where the size is found in the run
(NonZero), the result of a `sofie.size` op is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from xdsl.dialects import arith, func, gpu
from xdsl.dialects.builtin import DYNAMIC_INDEX, ArrayAttr, DictionaryAttr, IndexType, IntegerAttr
from xdsl.ir import Block, Operation, SSAValue

from sofie.dialects.sizes import SizesAttr
from sofie.dialects.sofie import SizeOp
from sofie.errors import SofieError
from sofie.rewrite import blame
from sofie.sizes import Size, Symbol, symbols_of

SIZE = "sofie.size"
"""The attribute of the argument that is a symbol's value."""


ARGUMENTS = "sofie.arguments"
"""On a `gpu.func`, which has no attributes of its arguments: an array of dictionaries."""


def size_attribute(symbol: Symbol) -> SizesAttr:
    """What the attribute `sofie.size` of the argument says that is this symbol's value."""
    return SizesAttr((cast(int, Size({(symbol,): 1})),))


def function_of(op: Operation) -> func.FuncOp:
    """The function that an op stands in."""
    current: Operation | None = op
    while current is not None and not isinstance(current, func.FuncOp):
        current = current.parent_op()
    if current is None:
        raise SofieError(f"{blame(op)}: {op.name} stands outside a function")
    return current


def symbols_by_argument(function: func.FuncOp | gpu.FuncOp) -> dict[SSAValue, Symbol]:
    """The arguments that are the values of symbols, in order, and which symbols."""
    found: dict[SSAValue, Symbol] = {}
    given = function.arg_attrs if isinstance(function, func.FuncOp) else function.attributes.get(ARGUMENTS)
    listed = cast(Iterable[DictionaryAttr], given if isinstance(given, ArrayAttr) else ())
    for argument, attributes in zip(function.body.block.args, listed, strict=False):
        size = attributes.data.get(SIZE)
        if isinstance(size, SizesAttr) and isinstance(size.data[0], Size):
            found[argument] = size.data[0].symbols[0]
    return found


def symbol_arguments(function: func.FuncOp) -> dict[Symbol, SSAValue]:
    """The values of symbols in a function, each an argument."""
    return {symbol: argument for argument, symbol in symbols_by_argument(function).items()}


def found_sizes(function: func.FuncOp) -> dict[Symbol, SSAValue]:
    """The values of symbols that the run finds, each the result of an op."""
    return {op.symbol: op.result for op in function.walk() if isinstance(op, SizeOp)}


def symbol_values(function: func.FuncOp, wanted: Iterable[Symbol]) -> dict[Symbol, SSAValue]:
    """The values of symbols in a function: its arguments and, where one of `wanted` is none, what it finds."""
    values = symbol_arguments(function)
    return values if all(symbol in values for symbol in wanted) else values | found_sizes(function)


def value(extent: int, before: Operation) -> SSAValue:
    """An extent as an `index`, computed just before an op. Raises SofieError where a symbol has no value there."""
    block = before.parent_block()
    assert block is not None

    def add(op: Operation) -> SSAValue:
        op.location = before.location
        block.insert_op_before(op, before)
        return op.results[0]

    return compute(extent, symbol_values(function_of(before), symbols_of([extent])), add)


def compute(extent: int, symbols: dict[Symbol, SSAValue], add: Callable[[Operation], SSAValue]) -> SSAValue:
    """The arithmetic of an extent, each op handed to `add`."""
    if not isinstance(extent, Size):
        return add(constant(extent))
    total: SSAValue | None = None
    for monomial, factor in extent.terms.items():
        term: SSAValue | None = None
        for symbol in monomial:
            if symbol not in symbols:
                raise SofieError(f"the size {symbol.name} has no value in this function; report this model")
            term = symbols[symbol] if term is None else add(arith.MuliOp(term, symbols[symbol]))
        if term is None:
            term = add(constant(factor))
        elif factor != 1:
            term = add(arith.MuliOp(term, add(constant(factor))))
        total = term if total is None else add(arith.AddiOp(total, term))
    assert total is not None
    return total


def read(ssa: SSAValue) -> int | None:
    """The number or Size that an `index` value is, read back from its arithmetic; None where it is anything else."""
    owner = ssa.owner
    if isinstance(owner, Block):
        function = owner.parent_op()
        if not isinstance(function, func.FuncOp):
            return None
        symbol = symbols_by_argument(function).get(ssa)
        return None if symbol is None else cast(int, Size({(symbol,): 1}))
    if isinstance(owner, SizeOp):
        return cast(int, Size({(owner.symbol,): 1}))
    if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr):
        return int(owner.value.value.data)
    if isinstance(owner, arith.AddiOp | arith.MuliOp):
        a, b = read(owner.lhs), read(owner.rhs)
        return None if a is None or b is None else a + b if isinstance(owner, arith.AddiOp) else a * b
    return None


def entries(static: Sequence[int], dynamic: Sequence[SSAValue]) -> list[int | SSAValue]:
    """Offsets, sizes or strides of a slice: numbers, Sizes where they can be read back, else the values."""
    found: list[int | SSAValue] = []
    rest = iter(dynamic)
    for number in static:
        if number != DYNAMIC_INDEX:
            found.append(number)
            continue
        ssa = next(rest)
        known = read(ssa)
        found.append(ssa if known is None else known)
    return found


def again(ssa: SSAValue, before: Operation) -> SSAValue:
    """The same `index`, available before an op: computed again where it is made of sizes."""
    known = read(ssa)
    return ssa if known is None else value(known, before)


def constant(number: int) -> arith.ConstantOp:
    """`arith.constant` of type index."""
    return arith.ConstantOp(IntegerAttr(number, IndexType()))


def values(shape: Sequence[int], before: Operation) -> list[SSAValue]:
    """The run-time extents of a shape, in order: what upstream's ops take beside a type with `?`."""
    return [value(e, before) for e in shape if isinstance(e, Size)]


def mixed(extents: Sequence[int | SSAValue], before: Operation) -> list[SSAValue | int]:
    """Numbers as they are and run-time sizes as values, as upstream's slices take them."""
    return [value(cast(int, e), before) if isinstance(e, Size) else e for e in extents]
