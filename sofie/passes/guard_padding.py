"""guard-padding: who reads a padded buffer asks whether a place is inside, and nobody fills it (level 4).

    func.call @fill(%p)                                        func.call @producer(.., %inside)
    %inside = memref.subview %p[1, 1] [8, 8] [1, 1]            func.call @consumer(%inside, ..)
    func.call @producer(.., %inside)                     ->      scf.if 0 <= %y - 1 < 8 & 0 <= %x - 1 < 8 {
    func.call @consumer(%p, ..)                                    memref.load %inside[%y - 1, %x - 1]
      memref.load %p[%y, %x]                                     } else { 0 }

A GPU saves a launch and a way through the memory of the whole buffer for a comparison that hides behind a load. Where
the producer only copies an argument of the model there, readers go to that instead, and the copy is gone too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import FunctionType, MemRefType, ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from sofie import affine
from sofie.body import Body, Numbers
from sofie.dialects.types import shape_of, with_any_offset
from sofie.launches import erase_uncalled, extents_of, infer_of, kernels_of, nest_of
from sofie.memory import VIEWS
from sofie.rewrite import erase
from sofie.sizes import is_static


@dataclass(frozen=True)
class GuardPadding(ModulePass):
    """Guards the readers of every buffer that is filled, written inside, and read."""

    name: ClassVar[str] = "guard-padding"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        kernels = {k.sym_name.data: k for k in kernels_of(op)}
        infer = infer_of(op)
        found = [p for v in infer.body.block.ops if isinstance(v, memref.ViewOp) and (p := _Padded.of(v, kernels))]
        calls = [o for o in op.walk() if isinstance(o, func.CallOp)]
        for padded in found:
            padded.resolve(kernels, calls, found)
        erase_uncalled(op)


@dataclass
class _Padded:
    """A buffer with a border. inside: what is written of it, as kernels get it. value: the constant around that."""

    view: memref.ViewOp
    fill: func.CallOp
    inside: SSAValue
    low: Sequence[int]
    value: arith.ConstantOp
    readers: Sequence[func.CallOp]
    copy: func.CallOp | None
    """What has brought an argument there, where that is all."""
    done: bool = False

    @staticmethod
    def of(view: memref.ViewOp, kernels: dict[str, func.FuncOp]) -> _Padded | None:
        """The padded buffer that a part of the arena is; None where it is anything else."""
        block = view.parent_block()
        uses = _uses(view.result)
        if uses is None or any(call.parent_block() is not block for call, _, _ in uses):
            return None
        fills = [(call, value) for call, k, _ in uses if (value := _filled(kernels, call, k, view.result)) is not None]
        written = [(call, k, chain) for call, k, chain in uses if any(isinstance(o, memref.SubviewOp) for o in chain)]
        read = [(call, k) for call, k, chain in uses if not chain and call not in [c for c, _ in fills]]
        if len(fills) != 1 or len(written) != 1 or len(fills) + len(written) + len(read) != len(uses) or not read:
            return None
        (writer, place, chain), (fill, value) = written[0], fills[0]
        part = chain[0]
        if not isinstance(part, memref.SubviewOp) or part.offsets or part.sizes or part.strides:
            return None
        if set(part.static_strides.get_values()) != {1} or not _writes_all(kernels, writer, place):
            return None
        order = {op: k for k, op in enumerate(block.ops)} if block is not None else {}
        if not order[fill] < order[writer] < min(order[call] for call, _ in read):
            return None
        low = list(part.static_offsets.get_values())
        source = _copied(kernels, writer, place)
        if not all(_reads(kernels, c, k) for c, k in read):
            return None
        if source is not None and len(shape_of(source)) != len(shape_of(view.result)):
            return None
        inside = source or _with_any_offset(part)
        return _Padded(view, fill, inside, low, value, [call for call, _ in read], None if source is None else writer)

    def resolve(self, kernels: dict[str, func.FuncOp], calls: Sequence[func.CallOp], others: Sequence[_Padded]) -> None:
        """Guards its readers, with all buffers that the same kernels read in that place."""
        if self.done:
            return
        together = [self]
        for reader in self.readers:
            for call in [c for c in calls if c.callee == reader.callee]:
                place = list(reader.operands).index(self.view.result)
                same = next((p for p in others if p.view.result is call.operands[place]), None)
                if same is None or same.done or not self._alike(same):
                    return
                if same not in together:
                    together.append(same)
        places: dict[str, int] = {}
        for padded in together:
            for reader in padded.readers:
                if list(reader.operands).count(padded.view.result) != 1:
                    return
                place = list(reader.operands).index(padded.view.result)
                name = reader.callee.string_value()
                mine = {c for c in calls if c.callee.string_value() == name}
                if places.setdefault(name, place) != place or not mine <= {r for p in together for r in p.readers}:
                    return
        for name, place in places.items():
            self._guard(kernels[name], place)
        for padded in together:
            for reader in padded.readers:
                reader.operands[places[reader.callee.string_value()]] = padded.inside
            erase(padded.fill)
            if padded.copy is not None:
                erase(padded.copy)
            padded.done = True

    def _alike(self, other: _Padded) -> bool:
        """Whether a kernel that reads both can be guarded once."""
        same = self.inside.type == other.inside.type and self.view.result.type == other.view.result.type
        return same and list(self.low) == list(other.low) and self.value.value == other.value.value

    def _guard(self, kernel: func.FuncOp, place: int) -> None:
        """Makes a kernel read the inside, and take the constant elsewhere."""
        argument = kernel.body.block.args[place]
        loads = [use.operation for use in argument.uses]
        whole, shape = shape_of(argument), shape_of(self.inside)
        narrowed = Rewriter.replace_value_with_new_type(argument, self.inside.type)
        kernel.properties["function_type"] = FunctionType.from_lists([a.type for a in kernel.body.block.args], [])
        numbers = Numbers(kernel.body.block)
        for load in loads:
            assert isinstance(load, memref.LoadOp)
            block = load.parent_block()
            assert block is not None
            here = Body(block, load, load, numbers)
            indices: list[SSAValue] = []
            asked: list[SSAValue | None] = []
            for index, low, extent, all_there in zip(load.indices, self.low, shape, whole, strict=True):
                moved = here.minus(index, low)
                indices.append(moved)
                if low > 0:
                    asked.append(here.add(arith.CmpiOp(moved, here.number(0), "sge")))
                if low + extent < all_there:
                    asked.append(here.less(moved, extent))

            def inner(there: Body, indices: list[SSAValue] = indices) -> list[SSAValue]:
                return [there.add(memref.LoadOp.get(narrowed, indices))]

            around = here.add(self.value.clone())
            (value,) = here.choose(here.both(*asked), inner, [around])
            value.name_hint = load.res.name_hint
            load.res.replace_all_uses_with(value)
            erase(load)
        numbers.tidy()


def _uses(value: SSAValue) -> list[tuple[func.CallOp, int, list[Operation]]] | None:
    """Calls that get a buffer, in which place, and through which views; None where anything else has it."""
    found: list[tuple[func.CallOp, int, list[Operation]]] = []
    for use in value.uses:
        op = use.operation
        if isinstance(op, func.CallOp):
            found.append((op, use.index, []))
        elif isinstance(op, VIEWS):
            inner = _uses(op.results[0])
            if inner is None:
                return None
            found += [(call, k, [op, *chain]) for call, k, chain in inner]
        else:
            return None
    return found


def _with_any_offset(part: memref.SubviewOp) -> SSAValue:
    """A part as kernels get one, so that those of other parts are the same."""
    kind, block = part.result.type, part.parent_block()
    assert isinstance(kind, MemRefType) and block is not None
    wanted = with_any_offset(kind)
    for use in part.result.uses:
        if isinstance(use.operation, memref.CastOp) and use.operation.results[0].type == wanted:
            return use.operation.results[0]
    cast: Operation = memref.CastOp.get(part.result, wanted)
    block.insert_op_after(cast, part)
    return cast.results[0]


def _argument(kernels: dict[str, func.FuncOp], call: func.CallOp, place: int) -> BlockArgument | None:
    kernel = kernels.get(call.callee.string_value())
    return None if kernel is None else kernel.body.block.args[place]


def _filled(kernels: dict[str, func.FuncOp], call: func.CallOp, place: int, whole: SSAValue) -> arith.ConstantOp | None:
    """The constant that a call writes all over a buffer; None where it does anything else."""
    argument = _argument(kernels, call, place)
    if argument is None or len(call.operands) != 1 or not _covers(kernels, call, argument):
        return None
    (store,) = [use.operation for use in argument.uses]
    assert isinstance(store, memref.StoreOp)
    value, size = store.value.owner, math.prod(shape_of(argument))
    return value if isinstance(value, arith.ConstantOp) and size == math.prod(shape_of(whole)) else None


def _writes_all(kernels: dict[str, func.FuncOp], call: func.CallOp, place: int) -> bool:
    argument = _argument(kernels, call, place)
    return argument is not None and _covers(kernels, call, argument)


def _copied(kernels: dict[str, func.FuncOp], call: func.CallOp, place: int) -> SSAValue | None:
    """The argument of the model that a call copies, element by element; None where it does anything else."""
    argument = _argument(kernels, call, place)
    assert argument is not None
    (store,) = [use.operation for use in argument.uses]
    assert isinstance(store, memref.StoreOp)
    load = store.value.owner
    if not isinstance(load, memref.LoadOp) or not isinstance(load.memref, BlockArgument):
        return None
    source = call.operands[load.memref.index]
    same = load.memref.block is argument.block and list(load.indices) == list(store.indices)
    return source if same and isinstance(source, BlockArgument) and shape_of(source) == shape_of(argument) else None


def _covers(kernels: dict[str, func.FuncOp], call: func.CallOp, argument: BlockArgument) -> bool:
    """Whether a kernel's nest stores each element of an argument, and reads none."""
    nest = nest_of(kernels[call.callee.string_value()])
    stores = [use.operation for use in argument.uses]
    if nest is None or len(stores) != 1 or stores[0].parent_op() is not nest or not is_static(shape_of(argument)):
        return False
    (store,) = stores
    if not isinstance(store, memref.StoreOp) or store.memref is not argument:
        return False
    variables: list[SSAValue] = list(nest.body.block.args)
    extents = extents_of(nest)
    for index, extent in zip(store.indices, shape_of(argument), strict=True):
        known = affine.constant(index) == 0 and extent == 1
        if not known and (index not in variables or extents[variables.index(index)] != extent):
            return False
    named = [v for v in store.indices if v in variables]
    return len(set(named)) == len(named)


def _reads(kernels: dict[str, func.FuncOp], call: func.CallOp, place: int) -> bool:
    """Whether a kernel only loads from an argument."""
    argument = _argument(kernels, call, place)
    kind = None if argument is None else argument.type
    loads = [] if argument is None else [use.operation for use in argument.uses]
    return isinstance(kind, MemRefType) and bool(loads) and all(isinstance(o, memref.LoadOp) for o in loads)
