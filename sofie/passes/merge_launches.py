"""merge-launches: kernels that follow one another and are small become one, run by one block (level 4 -> level 4').

    func.call @matmul(%x, %w, %h)                  gpu.func @matmul_relu(%x, %w, %h, %y) {
    func.call @relu(%h, %y)                  ->      scf.for %t = %thread to 100 step 128 { .. %h[%t] } ; gpu.barrier
                                                     scf.for %t = %thread to 100 step 128 { .. %y[%t] } ; gpu.barrier }
                                                   gpu.launch_func @kernels::@matmul_relu blocks in (1, 1, 1) ..

A launch costs about a microsecond, even in a graph; a barrier of a block some tens of nanoseconds. A kernel is small if
one block does it in less time than that. Loops of @infer around small kernels, as the steps of a recurrent network,
become loops of the block. Rows that are worth sharing are shared by warps, as by `map-rows`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, gpu, memref, scf
from xdsl.dialects.builtin import MemRefType, ModuleOp, UnitAttr
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.body import Body, Numbers
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import shape_of
from sofie.launches import (
    ALIASED,
    WARP,
    bytes_in,
    erase_uncalled,
    extents_of,
    holder_of,
    in_order,
    infer_of,
    is_pure,
    kernels_of,
    names_in,
    nest_of,
    put_launch,
)
from sofie.loops import most_trips
from sofie.passes.map_rows import Rows, Sharing
from sofie.rewrite import erase, fused_location
from sofie.sizes import is_static

MOST_THREADS = 1024
CYCLES = 2500
"""What a launch costs, about."""
RATE = 100
"""Iterations of inner loops that a processor does in a cycle, about."""
BYTES = 64
"""What a processor reads of the second cache in a cycle."""


@dataclass(frozen=True)
class MergeLaunches(ModulePass):
    """Merges what one block does in at most so many cycles a kernel."""

    name: ClassVar[str] = "merge-launches"

    cycles: int = CYCLES

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        kernels = {k.sym_name.data: k for k in kernels_of(op)}
        small = {name for name, kernel in kernels.items() if _cycles(kernel) <= self.cycles}
        for run in _runs(infer_of(op).body.block, small):
            _Merging(op, kernels, run).merge()
        erase_uncalled(op)


def _cycles(kernel: func.FuncOp) -> float:
    """About how long one block takes; infinity where the run decides."""
    nest = nest_of(kernel)
    if any(isinstance(a.type, MemRefType) and not is_static(shape_of(a)) for a in kernel.body.block.args):
        return math.inf
    if nest is not None and None in extents_of(nest):
        return math.inf
    steps = 1 if nest is None else math.prod(e for e in extents_of(nest) if e is not None)
    work = steps * _work(kernel.body.block if nest is None else nest.body.block)
    alone = nest is None or steps < WARP
    data = sum(bytes_in(a.type) for a in kernel.body.block.args if isinstance(a.type, MemRefType))
    return work * (RATE / WARP if alone else 1) / RATE + data / BYTES


def _work(block: Block) -> float:
    """Iterations of the loops in a block, those of one in another multiplied."""
    total = 1.0
    for op in block.ops:
        if isinstance(op, scf.ForOp):
            times = most_trips(op.lb, op.ub, op.step)
            total += math.inf if times is None else times * _work(op.body.block)
        elif isinstance(op, scf.ParallelOp):
            found = [most_trips(*bounds) for bounds in zip(op.lowerBound, op.upperBound, op.step, strict=True)]
            total += math.inf if None in found else math.prod(t or 0 for t in found) * _work(op.body.block)
        elif op.regions:
            total += sum(_work(b) for region in op.regions for b in region.blocks)
    return total


def _runs(block: Block, small: set[str]) -> list[list[Operation]]:
    """What acts in a block, small kernels and loops of them, where at least two launches follow one another."""
    runs: list[list[Operation]] = [[]]
    for op in block.ops:
        if _is_small(op, small):
            runs[-1].append(op)
        elif not (is_pure(op) or isinstance(op, WeightOp | memref.ViewOp)):
            runs.append([])
            if isinstance(op, scf.ForOp | scf.IfOp):
                runs[-1:-1] = [r for region in op.regions for b in region.blocks for r in _runs(b, small)]
    return [run for run in runs if len(run) > 1 or (run and isinstance(run[0], scf.ForOp))]


def _is_small(op: Operation, small: set[str]) -> bool:
    if isinstance(op, func.CallOp):
        return op.callee.string_value() in small
    if isinstance(op, scf.ForOp) and not op.iter_args and _is_known(op):
        inside = [o for o in op.body.block.ops if not is_pure(o) and not isinstance(o, scf.YieldOp | memref.ViewOp)]
        return bool(inside) and all(_is_small(o, small) for o in inside)
    return False


def _is_known(loop: scf.ForOp) -> bool:
    return most_trips(loop.lb, loop.ub, loop.step) is not None


@dataclass
class _Merging:
    """Kernels on their way to one function."""

    module: ModuleOp
    kernels: dict[str, func.FuncOp]
    run: Sequence[Operation]
    given: dict[SSAValue, SSAValue] = field(default_factory=dict)
    """By values of @infer, the function's arguments."""

    def merge(self) -> None:
        """Puts a launch in the place of them all."""
        self._hoist()
        inside = {r for op in self.run for o in op.walk() for r in o.results}
        inside |= {a for op in self.run for o in op.walk() for g in o.regions for b in g.blocks for a in b.args}
        used = dict.fromkeys(v for op in self.run for o in op.walk() for v in o.operands if v not in inside)
        known = [v for v in used if isinstance(v.owner, arith.ConstantOp)]
        taken = [v for v in used if v not in known]
        block = Block(arg_types=[v.type for v in taken])
        for value, argument in zip(taken, block.args, strict=True):
            argument.name_hint = value.name_hint
            self.given[value] = argument
        threads = min(max(max(self._threads(op) for op in self.run), WARP), MOST_THREADS)
        body = Body(block, None, self.run[0], numbers := Numbers(block))
        body.clone([v.owner for v in known if isinstance(v.owner, Operation)], self.given)
        thread = body.thread()
        for op in self.run:
            self._item(body, op, thread, threads)
        block.add_op(gpu.ReturnOp([]))
        in_order(block)
        numbers.tidy()
        last = self.run[-1]
        place = last.parent_block()
        assert place is not None
        location = fused_location([o.location for op in self.run for o in op.walk() if isinstance(o, func.CallOp)])
        name = names_in(self.module)(self._name(), "kernel")
        function = gpu.FuncOp(
            name, ([v.type for v in taken], []), Region(block), True, known_block_size=[threads, 1, 1]
        )
        function.attributes[ALIASED] = UnitAttr()
        function.location = location
        holder_of(self.module).body.block.add_op(function)
        here = Body(place, last, last, Numbers(place, last))
        put_launch(here, function, here.number(1), taken)
        for op in self.run:
            erase(op)

    def _hoist(self) -> None:
        """Buffers and weights that a loop names go before all: where they are is known there."""
        first = self.run[0]
        place = first.parent_block()
        assert place is not None
        for op in [o for item in self.run for o in item.walk()]:
            if isinstance(op, memref.ViewOp | WeightOp) and op.parent_block() is not place:
                for needed in (*(v.owner for v in op.operands), op):
                    if isinstance(needed, Operation) and needed.parent_block() is not place:
                        needed.detach()
                        place.insert_op_before(needed, first)

    def _name(self) -> str:
        names = [c.callee.string_value() for op in self.run for c in op.walk() if isinstance(c, func.CallOp)]
        return names[0] if len(set(names)) == 1 else f"{names[0]}_to_{names[-1]}"

    def _threads(self, op: Operation) -> int:
        """How many threads have something to do, in whole warps."""
        most = 1
        for call in [o for o in op.walk() if isinstance(o, func.CallOp)]:
            nest = nest_of(self.kernels[call.callee.string_value()])
            if nest is not None:
                steps = math.prod(e for e in extents_of(nest) if e is not None)
                most = max(most, steps * (WARP if self._shared(nest) else 1))
        return -(-most // WARP) * WARP

    @staticmethod
    def _shared(nest: scf.ParallelOp) -> Rows | None:
        rows = Rows.of(nest)
        return rows if rows is not None and rows.width == WARP else None

    def _item(self, body: Body, op: Operation, thread: SSAValue, threads: int) -> None:
        """A call or a loop of them, run by the block."""
        if isinstance(op, func.CallOp):
            self._call(body, op, thread, threads)
            body.barrier()
        elif isinstance(op, scf.ForOp):
            variable = op.body.block.args[0]

            def step(here: Body, number: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
                self.given[variable] = number
                for inner in op.body.block.ops:
                    if not isinstance(inner, scf.YieldOp):
                        self._item(here, inner, thread, threads)
                return []

            bounds = [self.given[v] for v in (op.lb, op.ub, op.step)]
            body.loop(bounds[0], bounds[1], bounds[2], step, name=variable.name_hint or "step")
        else:
            body.clone([op], self.given)

    def _call(self, body: Body, call: func.CallOp, thread: SSAValue, threads: int) -> None:
        kernel = self.kernels[call.callee.string_value()]
        values: dict[SSAValue, SSAValue]
        values = {a: self.given[v] for a, v in zip(kernel.body.block.args, call.operands, strict=True)}
        nest = nest_of(kernel)
        body = Body(body.block, body.before, call, body.numbers)
        acting = [op for op in kernel.body.block.ops if op is not nest and not isinstance(op, func.ReturnOp)]
        if nest is None:
            alone = body.when(body.add(arith.CmpiOp(thread, body.number(0), "eq")))
            alone.clone(acting, values)
            return
        body.clone(acting, values)
        extents = [values[bound] for bound in nest.upperBound]
        rows = self._shared(nest)
        total = body.product(extents)
        if rows is not None:
            lane, warp = body.add(gpu.LaneIdOp(), "lane"), body.over(thread, WARP, "warp")

            def row(here: Body, number: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
                Sharing(nest, rows, values, lane).row(here, number)
                return []

            body.loop(warp, total, threads // WARP, row, name="row")
            return
        variables = nest.body.block.args

        def turn(here: Body, number: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            values.update(zip(variables, here.apart(number, extents, [v.name_hint for v in variables]), strict=True))
            here.clone([op for op in nest.body.block.ops if not isinstance(op, scf.ReduceOp)], values)
            return []

        if affine.constant(total) is not None and (affine.constant(total) or 0) <= threads:
            turn(body.when(body.less(thread, total)), thread, [])
        else:
            body.loop(thread, total, threads, turn, name="t")
