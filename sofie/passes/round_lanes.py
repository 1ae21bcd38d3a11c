"""round-lanes: sums become bytes by float32's numbers alone, two vectors of them at a time (level 4).

    %s = vector.load %scale[%l, 0, 0]                  %steps = memref.alloca() : memref<96xf32>
    %o = vector.load %offset[%l, 0, 0]           ->    scf.for %l = 0 to 96 step 8 { scale times 2048, as f32 }
    %a = sofie.requantize %sum0a, %s, %o               ..
    vector.store %a, %y[%i, %l]                        %t = vector.load %steps[%l]
    %b = sofie.requantize %sum0b, ..                   %ab = sofie.requantize_lanes %sum0a, %sum0b, %t, ..,
    vector.store %b, %y[%i, %l + 8]                            %scale[%l, 0, 0], %offset[%l, 0, 0] : vector<16xi8>
                                                       vector.store %ab, %y[%i, %l]

Scales and offsets in float64 would be made float32 at every tile, and stand in registers that a tile's sums need, for
the few numbers next to a half. So a kernel makes those of float32 once, on the stack, and reads the others where they
are needed. Neighbours share the comparison with a half, and what packs them. On one core MobileNetV2 in int8 takes
7.45 ms for 7.9, its layers of 16 and 24 channels 1.2 times less (Zen 3, November 2026), and on 16 lanes 1.81 for 1.92
(Sapphire Rapids, December 2026).

Declines on CPUs that are not x86, and where scales and offsets are neither numbers nor constants in memory, one for
each lane.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, vector
from xdsl.dialects.builtin import FloatAttr, MemRefType, ModuleOp, NoneAttr, VectorType, f32, f64
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.body import Body, Numbers
from sofie.dialects.scalars import STEPS, CastLanesOp, Place, RequantizeLanesOp, RequantizeOp
from sofie.dialects.types import shape_of
from sofie.memory import is_written
from sofie.rewrite import ancestor_in, erase, replace
from sofie.target import cpu

MOST = 4096
"""Channels of a layer whose numbers find room on the stack."""


@dataclass(frozen=True)
class RoundLanes(ModulePass):
    """Rewrites all kernels for `cpu`."""

    name: ClassVar[str] = "round-lanes"

    cpu: str = "portable"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = cpu(self.cpu)
        if not target.level:
            return
        for function in [f for f in op.body.block.ops if isinstance(f, func.FuncOp)]:
            kernel = _Kernel(function, target.lanes)
            made = [kernel.rewrite(o) for o in list(function.walk()) if isinstance(o, RequantizeOp)]
            for block in dict.fromkeys(new.parent_block() for new in made if new is not None):
                assert block is not None
                _pair(block)


@dataclass
class _Kernel:
    """A kernel, and the numbers in float32 that it has on its stack."""

    function: func.FuncOp
    lanes: int
    made: dict[tuple[SSAValue, float], SSAValue] = field(default_factory=dict)
    """By the memory that they are read from, and what is added to each."""
    loaded: dict[tuple[SSAValue, SSAValue, int, Block], SSAValue] = field(default_factory=dict)
    """By where they are, the lane of the first one, how many, and the block that they are needed in."""
    numbers: Numbers = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = Numbers(self.function.body.block)

    def rewrite(self, op: RequantizeOp) -> RequantizeLanesOp | None:
        """The same of float32's numbers, if there are such."""
        scale, offset = _constant_place(op.scale), _constant_place(op.offset)
        if not isinstance(op.res.type, VectorType) or scale is None or offset is None:
            return None
        zero = op.numbers[0]
        ops: list[Operation] = []
        width = op.res.type.get_shape()[0]
        steps, first = (
            self._single(op, place, width, added, ops) for place, added in ((scale, 0.0), (offset, zero + 0.5))
        )
        new = RequantizeLanesOp([op.sum], [steps], [first], scale, offset, op.numbers)
        loads = [v.owner for v in (op.scale, op.offset)]
        replace(op, [*ops, new], [new.res])
        for load in loads:
            if isinstance(load, vector.LoadOp | vector.BroadcastOp) and not load.results[0].uses:
                erase(load)
        return new

    def _single(self, op: Operation, place: Place, width: int, added: float, ops: list[Operation]) -> SSAValue:
        """The float32 of a number, or of each in memory: times `STEPS`, after something was added."""
        value, at = place
        if not at:
            number = value.owner
            assert isinstance(number, arith.ConstantOp) and isinstance(number.value, FloatAttr)
            ops.append(arith.ConstantOp(FloatAttr((number.value.value.data + added) * STEPS, f32)))
            return ops[-1].results[0]
        if (value, added) not in self.made:
            self.made[value, added] = self._fill(op, value, added)
        room, block = self.made[value, added], op.parent_block()
        assert block is not None
        key = room, at[_axis(value)], width, block
        if key not in self.loaded:
            ops.append(vector.LoadOp(room, [at[_axis(value)]], VectorType(f32, [width])))
            self.loaded[key] = ops[-1].results[0]
        return self.loaded[key]

    def _fill(self, user: Operation, numbers: SSAValue, added: float) -> SSAValue:
        """Makes the float32 of all numbers of a memref before the kernel's loops around a user."""
        block = self.function.body.block
        top = block.first_op
        assert top is not None
        before, length = ancestor_in(top, user), max(shape_of(numbers))
        room = memref.AllocaOp.get(f32, 64, [length])
        room.memref.name_hint = "steps" if added == 0 else "first"
        body = Body(block, before, user, self.numbers)
        body.put(room)
        whole = length - length % self.lanes
        for width, low, high in ((self.lanes, 0, whole), (1, whole, length)):

            def convert(here: Body, lane: SSAValue, carried: list[SSAValue], width: int = width) -> list[SSAValue]:
                _convert(here, numbers, room.memref, lane, width, added)
                return carried

            if low < high:
                body.loop(low, high, width, convert, (), "lane")
        return room.memref


def _convert(body: Body, numbers: SSAValue, room: SSAValue, lane: SSAValue, width: int, added: float) -> None:
    """Makes `width` of them, from a lane on."""
    at = [lane if axis == _axis(numbers) else body.number(0) for axis in range(len(shape_of(numbers)))]
    wide = VectorType(f64, [width])

    def all_lanes(number: float) -> SSAValue:
        value = body.add(arith.ConstantOp(FloatAttr(number, f64)))
        return body.add(vector.BroadcastOp(value, wide)) if width > 1 else value

    result = body.add(vector.LoadOp(numbers, at, wide) if width > 1 else memref.LoadOp.get(numbers, at))
    if added:
        result = body.add(arith.AddfOp(result, all_lanes(added)))
    result = body.add(arith.MulfOp(result, all_lanes(STEPS)))
    if width > 1:
        single = body.add(CastLanesOp("arith.truncf", result, VectorType(f32, [width])))
        body.put(vector.StoreOp(single, room, [lane]))
    else:
        body.put(memref.StoreOp.get(body.add(arith.TruncFOp(result, f32)), room, [lane]))


def _constant_place(value: SSAValue) -> Place | None:
    """A number that is one for all lanes, or where in memory that nobody writes those of the lanes lie."""
    owner = value.owner
    if isinstance(owner, vector.BroadcastOp):
        return _constant_place(owner.source)
    if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, FloatAttr):
        return value, []
    if not isinstance(owner, vector.LoadOp) or not isinstance(owner.base, BlockArgument) or is_written(owner.base):
        return None
    kind, shape = owner.base.type, shape_of(owner.base)
    assert isinstance(kind, MemRefType)
    in_line = isinstance(kind.layout, NoneAttr) and 0 < math.prod(shape) == max(shape) <= MOST
    return (owner.base, list(owner.indices)) if in_line else None


def _axis(numbers: SSAValue) -> int:
    """The axis of a memref along which its elements lie."""
    shape = shape_of(numbers)
    return shape.index(max(shape))


def _pair(block: Block) -> None:
    """Makes one operation of two whose bytes are stored side by side, one after the other."""
    stores = [o for o in block.ops if isinstance(o, vector.StoreOp)]
    paired: set[Operation] = set()
    for a, b in itertools.pairwise(stores):
        low, high = a.vector.owner, b.vector.owner
        if a in paired or not isinstance(low, RequantizeLanesOp) or not isinstance(high, RequantizeLanesOp):
            continue
        if a.base is not b.base or not _are_neighbours(low, high, a.indices, b.indices) or not _follows(a, b):
            continue
        both = RequantizeLanesOp(
            [*low.sums, *high.sums],
            [*low.steps, *high.steps],
            [*low.first, *high.first],
            (low.scale, list(low.scale_at)),
            (low.offset, list(low.offset_at)),
            low.numbers,
        )
        both.location = low.location
        store = vector.StoreOp(both.res, a.base, list(a.indices))
        block.insert_ops_before([both, store], b)
        paired |= {b}
        for op in (a, b, low, high):
            erase(op)


def _follows(store: Operation, other: Operation) -> bool:
    """Whether between two stores of a block indices are computed, and nothing else."""
    current = store.next_op
    while isinstance(current, arith.AddiOp | arith.MuliOp | arith.ConstantOp):
        current = current.next_op
    return current is other


def _are_neighbours(
    low: RequantizeLanesOp, high: RequantizeLanesOp, at: Sequence[SSAValue], then: Sequence[SSAValue]
) -> bool:
    """Whether two vectors of equal lanes have equal numbers and lie side by side, as their scales and offsets do."""
    if low.res.type != high.res.type or low.numbers != high.numbers:
        return False
    if any(len(list(op.res.uses)) != 1 for op in (low, high)):
        return False
    if [v.type for v in (*low.steps, *low.first)] != [v.type for v in (*high.steps, *high.first)]:
        return False
    if low.scale is not high.scale or low.offset is not high.offset:
        return False
    (lanes,) = shape_of(low.res)
    sides = [(at, then, None), (low.scale_at, high.scale_at, low.scale), (low.offset_at, high.offset_at, low.offset)]
    return all(_apart(a, b, lanes, numbers) for a, b, numbers in sides)


def _apart(a: Sequence[SSAValue], b: Sequence[SSAValue], lanes: int, numbers: SSAValue | None) -> bool:
    """Whether indices lie so many elements apart: along the last axis, or along the only one that numbers have."""
    if not a:
        return not b
    axis = len(a) - 1 if numbers is None else _axis(numbers)
    return [affine.distance(x, y) for x, y in zip(a, b, strict=True)] == [lanes * (k == axis) for k in range(len(a))]
