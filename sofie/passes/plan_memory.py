"""plan-memory: all buffers of a function become views of one arena (level 3).

    %a = memref.alloc() : memref<64xf32>     ->     %a = memref.view %arena[%c256][] : memref<1024xi8> to memref<64xf32>

A buffer of run-time extents gets room for their bounds, and is a `memref.reinterpret_cast` of that. Buffers whose live
ranges do not meet share bytes. One that is made inside a loop lives in one iteration; one from outside that a loop or
an `scf.if` touches lives as long as all of it. Largest first, each goes to the lowest offset that is free in its life
(greedy by size: Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020); where that needs
more than is alive at once, other orders are tried. The arena becomes the function's last argument; `sofie.lower_bound`
beside it is the largest set of bytes alive at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import func, memref
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    UnitAttr,
    i8,
    i64,
)
from xdsl.dialects.utils.dynamic_index_list import split_dynamic_index_list
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie.dialects.types import bytes_of, shape_of, strides_and_offset
from sofie.dialects.types import memref as memref_type
from sofie.extents import mixed
from sofie.memory import VIEWS, writes_operand
from sofie.rewrite import ancestor_in, erase, positions
from sofie.sizes import is_static, most

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""


REPAIRS = 10000
"""How often an order is changed that needs more than the least, times the number of buffers."""


@dataclass(frozen=True)
class PlanMemory(ModulePass):
    """Places every `memref.alloc` in the arena."""

    name: ClassVar[str] = "plan-memory"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in [f for f in op.walk() if isinstance(f, func.FuncOp)]:
            _plan(function)


@dataclass
class Buffer:
    """One allocation: its size in bytes, the first and last op, in the order of the text, of its life, and its place.

    What touches it inside a loop or branch counts as all of that, unless the allocation stands in there too.
    """

    alloc: memref.AllocOp
    size: int
    first: int
    last: int
    offset: int = 0

    def meets(self, other: Buffer) -> bool:
        """Whether both live at some moment."""
        return self.first <= other.last and other.first <= self.last


def _plan(function: func.FuncOp) -> None:
    block = function.body.block
    buffers = live_ranges(function)
    if not buffers:
        return
    arena_bytes = place(buffers)
    arena = block.insert_arg(MemRefType(i8, [arena_bytes]), len(block.args))
    arena.name_hint = "arena"
    attributes = list(function.arg_attrs or ArrayAttr([DictionaryAttr({}) for _ in block.args[:-1]]))
    bound = IntegerAttr(lower_bound(buffers), i64)
    attributes.append(DictionaryAttr({"sofie.arena": UnitAttr(), "sofie.lower_bound": bound}))
    function.arg_attrs = ArrayAttr(attributes)
    function.properties["function_type"] = FunctionType.from_lists([a.type for a in block.args], [])
    for buffer in buffers:
        alloc = buffer.alloc
        shift = ConstantOp(IntegerAttr(buffer.offset, IndexType()))
        kind, shape = alloc.memref.type, shape_of(alloc.memref)
        view = memref.ViewOp(arena, shift.result, [], memref_type(kind.element_type, list(map(most, shape))))
        home = alloc.parent_block()
        assert home is not None
        home.insert_ops_before([shift, view], alloc)
        room = view.result if is_static(shape) else _part(view.result, alloc)
        room.name_hint = alloc.memref.name_hint
        alloc.memref.replace_all_uses_with(room)
        erase(alloc)


def _part(room: SSAValue, alloc: memref.AllocOp) -> SSAValue:
    """The buffer of a run-time extent inside the room for its bound; its elements stay one after the other."""
    strides, _ = strides_and_offset(alloc.memref.type)
    sizes, steps = (split_dynamic_index_list(mixed(e, alloc), DYNAMIC_INDEX) for e in (shape_of(alloc.memref), strides))
    part = memref.ReinterpretCastOp(room, [], sizes[1], steps[1], [0], sizes[0], steps[0], alloc.memref.type)
    block = alloc.parent_block()
    assert block is not None
    block.insert_op_before(part, alloc)
    return part.result


def live_ranges(function: func.FuncOp) -> list[Buffer]:
    """Every allocation with its live range; one that nobody writes (a shape operand) has size 0."""
    order = positions(function.walk())
    buffers: list[Buffer] = []
    for alloc in [op for op in function.walk() if isinstance(op, memref.AllocOp)]:
        users = _touching(alloc.memref)
        places = list(dict.fromkeys(ancestor_in(alloc, user) for user, _ in users))
        written = any(writes for _, writes in users)
        kind = alloc.memref.type
        size = math.prod(map(most, shape_of(alloc.memref))) * bytes_of(kind.element_type) if written else 0
        first = min((order[p] for p in places), default=0)
        last = max((max(order[o] for o in p.walk()) for p in places), default=0)
        buffers.append(Buffer(alloc, size, first, last))
    return buffers


def _touching(value: SSAValue[Attribute]) -> list[tuple[Operation, bool]]:
    """The ops that read or write a buffer, through any view, and whether they may write it."""
    found: list[tuple[Operation, bool]] = []
    for use in value.uses:
        user = use.operation
        if isinstance(user, VIEWS):
            found += _touching(user.results[0])
        else:
            found.append((user, writes_operand(user, use.index)))
    return found


def place(buffers: list[Buffer]) -> int:
    """Gives each buffer its offset; returns the bytes of the arena.

    Several orders are tried until one needs no more than is alive at once: by size, by size and length of life, by the
    time of making; then, again and again, the best one with the buffer at the arena's end moved to the front.
    """
    real = [b for b in buffers if b.size]
    orders: list[list[Buffer]] = [
        sorted(real, key=lambda b: (-b.size, b.first)),
        sorted(real, key=lambda b: (-b.size * (b.last - b.first + 1), b.first)),
        sorted(real, key=lambda b: (b.first, -b.size)),
        sorted(real, key=lambda b: (-b.last, -b.size)),
    ]
    bound = lower_bound(real) if real else 0
    needs, best = min(((_place_in_order(order), order) for order in orders), key=lambda found: found[0])
    order = best
    for _ in range(REPAIRS // max(len(real), 1)):
        if needs <= bound:
            break
        now = _place_in_order(order)
        if now < needs:
            needs, best = now, order
        highest = max(order, key=lambda b: b.offset + b.size)
        order = [highest, *(b for b in order if b is not highest)]
    return _place_in_order(best)


def _place_in_order(buffers: list[Buffer]) -> int:
    """Each buffer at the lowest offset that is free while it lives; returns the bytes of the arena."""
    placed: list[Buffer] = []
    for buffer in buffers:
        offset = 0
        for other in sorted((o for o in placed if o.meets(buffer)), key=lambda o: o.offset):
            if offset + buffer.size <= other.offset:
                break
            offset = max(offset, _aligned(other.offset + other.size))
        buffer.offset = offset
        placed.append(buffer)
    return max((_aligned(b.offset + b.size) for b in placed), default=0)


def lower_bound(buffers: list[Buffer]) -> int:
    """The largest number of bytes alive at one moment: no plan can do with less."""
    moments = {b.first for b in buffers}
    return max(sum(_aligned(b.size) for b in buffers if b.first <= m <= b.last) for m in moments)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
