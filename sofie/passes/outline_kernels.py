"""outline-kernels: every group becomes a function of its own, called by @infer; equal kernels are shared (level 4).

    sofie.fused { scf.parallel ... }     ->     func.func private @gemm(%x: memref<...>, ...) { ... }
                                                func.call @gemm(%x, ...)

One function a kernel keeps the C++ compiler fast (all nests in one function: 97 s for 200 layers, as functions
4.5 s) and lets a reader find a layer. What a group captures becomes a parameter: memory by its type, where the offset
of a view is left to the caller so that equal layers at other places are one kernel, as are the steps of a loop; the
loop's index as a number; constants are made inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, MemRefType, ModuleOp, NoneAttr, StringAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from sofie.dialects.sofie import FusedOp, SizeOp, WeightOp, YieldOp
from sofie.dialects.types import memref as memref_type
from sofie.dialects.types import shape_of, strides_and_offset, with_any_offset
from sofie.extents import SIZE, function_of, size_attribute, symbol_values
from sofie.memory import writes_operand
from sofie.naming import EMITTED, Namer
from sofie.rewrite import defining, erase, node_names
from sofie.sizes import Symbol, symbols_of


@dataclass(frozen=True)
class OutlineKernels(ModulePass):
    """Outlines every group; `share` lets equal kernels be one function."""

    name: ClassVar[str] = "outline-kernels"

    share: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        namer = Namer(EMITTED)
        known: dict[tuple[Attribute, ...], list[func.FuncOp]] = {}
        for group in [o for o in op.walk() if isinstance(o, FusedOp)]:
            kernel, operands = _outline(group)
            same = next((k for k in known.get(_signature(kernel), []) if self.share and _equal(k, kernel)), None)
            if same is None:
                kernel.properties["sym_name"] = StringAttr(namer(_kernel_name(group), "kernel"))
                known.setdefault(_signature(kernel), []).append(kernel)
                caller = next(f for f in op.body.block.ops if isinstance(f, func.FuncOp) and f.sym_name.data == "infer")
                op.body.block.insert_op_before(kernel, caller)
                same = kernel
            block = group.parent_block()
            assert block is not None
            call = func.CallOp(same.sym_name.data, operands, [])
            call.location = group.location
            block.insert_op_before(call, group)
            erase(group)


def _signature(kernel: func.FuncOp) -> tuple[Attribute, ...]:
    return tuple(kernel.function_type.inputs)


def _equal(a: func.FuncOp, b: func.FuncOp) -> bool:
    return a.body.is_structurally_equivalent(b.body)


def _kernel_name(group: FusedOp) -> str:
    names = node_names(group.location) or [n for o in group.walk() for n in node_names(o.location)]
    if not names:
        return "kernel"
    operator, _, node = names[0].partition(" ")
    return node if any(c.isalpha() for c in node) else f"{operator.lower()}_{node}"


def _outline(group: FusedOp) -> tuple[func.FuncOp, list[SSAValue]]:
    """The kernel of a group, still without name, and the operands of its call."""
    captured = _captured(group)
    sizes = {value: symbol for symbol, value in symbol_values(function_of(group), _symbols(captured)).items()}
    sizes |= {v: v.owner.symbol for v in captured if isinstance(v.owner, SizeOp)}
    captured = [v for v in sizes if v in captured or sizes[v] in _symbols(captured)] + [
        v for v in captured if v not in sizes
    ]
    operands: list[SSAValue] = []
    attributes: list[DictionaryAttr] = []
    block = Block()
    values: dict[SSAValue, SSAValue] = {}
    for value in captured:
        owner = defining(value)
        if isinstance(owner, arith.ConstantOp):
            clone = owner.clone()
            block.add_op(clone)
            values[value] = clone.result
            continue
        operand = _without_offset(value, group)
        argument = block.insert_arg(operand.type, len(block.args))
        argument.name_hint = value.name_hint
        values[value] = argument
        operands.append(operand)
        size = sizes.get(value)
        attributes.append(DictionaryAttr({} if size is None else {SIZE: size_attribute(size)}))
    for op in group.body.block.ops:
        if not isinstance(op, YieldOp):
            block.add_op(op.clone(values))
    block.add_op(func.ReturnOp())
    kernel = func.FuncOp("kernel", ([a.type for a in block.args], []), Region(block), "private")
    kernel.location = group.location
    if any(a.data for a in attributes):
        kernel.arg_attrs = ArrayAttr(attributes)
    return kernel, operands


def _symbols(values: Iterable[SSAValue]) -> set[Symbol]:
    """The sizes that the layouts of some buffers are made of."""
    found: set[Symbol] = set()
    for value in values:
        if isinstance(value.type, MemRefType):
            found |= set(symbols_of([*shape_of(value), *strides_and_offset(value.type)[0]]))
    return found


def _captured(group: FusedOp) -> list[SSAValue]:
    """The values from outside that the group uses: memory that it only reads first, by first use."""
    inside: set[SSAValue] = {result for op in group.walk() for result in op.results}
    inside |= {argument for region_op in group.walk() for region in region_op.regions for argument in region.block.args}
    found = dict.fromkeys(v for op in group.walk() for v in op.operands if v not in inside)
    weights = [v for v in found if isinstance(v.owner, WeightOp)]
    rest = [v for v in found if not isinstance(v.owner, WeightOp)]
    written = {use for use in rest if _stored_in(use, group)}
    return [v for v in rest if v not in written] + weights + [v for v in rest if v in written]


def _stored_in(value: SSAValue, group: FusedOp) -> bool:
    return any(writes_operand(use.operation, use.index) and _within(use.operation, group) for use in value.uses)


def _within(op: Operation, group: FusedOp) -> bool:
    current: Operation | None = op
    while current is not None:
        if current is group:
            return True
        current = current.parent_op()
    return False


def _without_offset(value: SSAValue, group: FusedOp) -> SSAValue:
    """`value` as the kernel sees it: the offset of a view is forgotten by a `memref.cast`, the caller adds it."""
    kind = value.type
    if not isinstance(kind, MemRefType) or isinstance(kind.layout, NoneAttr):
        return value
    _, offset = strides_and_offset(kind)
    if offset is None or (offset == 0 and kind == memref_type(kind.element_type, shape_of(value))):
        return value
    cast: Operation = memref.CastOp.get(value, with_any_offset(kind))
    cast.results[0].name_hint = value.name_hint
    block = group.parent_block()
    assert block is not None
    block.insert_op_before(cast, group)
    return cast.results[0]
