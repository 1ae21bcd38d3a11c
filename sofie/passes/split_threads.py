"""split-threads: a large kernel becomes one that does a part, called for all parts by several threads (level 4).

    func @conv(%x, %y) {                               func @conv(%x, %y, %part) {
      scf.parallel (%i, %j) = 0 to (64, 3136) {          scf.parallel (%i, %j) = 0 to (16, 3136) {
        ... %i ...                              ->         ... %part * 16 + %i ...
    }}                                                 }}
    call @conv(%x, %y)                                 scf.parallel (%part) = 0 to 4 { call @conv(%x, %y, %part) }

A parallel loop in @infer is what threads run. Iterations of the nest are independent and a sum is never split, so the
bits do not depend on the number of threads. The loop is the outermost that divides into equal parts, at least as many
as threads and nearly a multiple of them; parts of 16 iterations or a multiple are preferred, so that vectors and
register tiles stay whole. Declines kernels below `min_flops` (starting threads costs some microseconds), those that
are more than one nest, and loops whose extent only the run knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FunctionType, IndexType, IntegerAttr, ModuleOp
from xdsl.ir import Block, Operation, Region
from xdsl.passes import ModulePass

from sofie import affine
from sofie.loops import THREADS
from sofie.passes.lower_loops import Indices
from sofie.rewrite import erase
from sofie.work import scalar_flops

WHOLE = 16
"""Iterations that a part should be a multiple of: vectors and rows of a tile."""

BALANCED = 0.75
"""The part of the threads' time that must be used, where parts are not a multiple of threads."""


@dataclass(frozen=True)
class SplitThreads(ModulePass):
    """Splits kernels of at least `min_flops` operations for `threads` threads; 1 leaves all as it is."""

    name: ClassVar[str] = "split-threads"

    threads: int = 1
    min_flops: int = 1_000_000

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.threads < 2:
            return
        functions = [f for f in op.body.block.ops if isinstance(f, func.FuncOp)]
        for kernel in functions:
            nest = _only_nest(kernel)
            if nest is None or scalar_flops(nest) < self.min_flops:
                continue
            found = _part(nest, self.threads)
            if found is None:
                continue
            loop, size = found
            parts = (affine.constant(nest.upperBound[loop]) or 0) // size
            _take_part(kernel, nest, loop, size)
            for call in [c for f in functions for c in f.walk() if isinstance(c, func.CallOp)]:
                if call.callee.root_reference.data == kernel.sym_name.data:
                    _call_parts(call, parts, self.threads)


def _only_nest(kernel: func.FuncOp) -> scf.ParallelOp | None:
    """The nest of a kernel that does nothing else."""
    if kernel.sym_name.data == "infer":
        return None
    ops = list(kernel.body.block.ops)
    nests = [op for op in ops if isinstance(op, scf.ParallelOp)]
    quiet = (arith.ConstantOp, arith.AddiOp, arith.MuliOp, memref.AllocaOp, scf.ParallelOp, func.ReturnOp)
    return nests[0] if len(nests) == 1 and all(isinstance(op, quiet) for op in ops) else None


def _part(nest: scf.ParallelOp, threads: int) -> tuple[int, int] | None:
    """The loop to split, by its position, and how many of its iterations are a part."""
    best: tuple[tuple[bool, int, float], int, int] | None = None
    for loop, (low, high, step) in enumerate(zip(nest.lowerBound, nest.upperBound, nest.step, strict=True)):
        extent = affine.constant(high)
        if extent is None or affine.constant(low) != 0 or affine.constant(step) != 1:
            continue
        for size in range(1, extent // threads + 1):
            parts = extent // size
            used = parts / (math.ceil(parts / threads) * threads)
            if extent % size or used < BALANCED:
                continue
            score = (size % WHOLE == 0, -loop, used + size / extent)
            if best is None or score > best[0]:
                best = (score, loop, size)
    return None if best is None else best[1:]


def _take_part(kernel: func.FuncOp, nest: scf.ParallelOp, loop: int, size: int) -> None:
    """The kernel gets the number of a part, and its loop runs over that part only."""
    block = kernel.body.block
    part = block.insert_arg(IndexType(), len(block.args))
    part.name_hint = "part"
    kernel.function_type = FunctionType.from_lists([a.type for a in block.args], [])
    if kernel.arg_attrs is not None:
        kernel.arg_attrs = ArrayAttr([*kernel.arg_attrs.data, DictionaryAttr({})])
    indices = Indices(block)
    start = arith.MuliOp(part, indices.constant(size))
    block.insert_op_before(start, nest)
    nest.operands[len(nest.lowerBound) + loop] = indices.constant(size)
    body = nest.body.block
    variable = body.args[loop]
    moved = arith.AddiOp(start.result, variable)
    moved.result.name_hint = variable.name_hint
    variable.replace_uses_with_if(moved.result, lambda use: use.operation is not moved)
    first = body.first_op
    assert first is not None
    body.insert_op_before(moved, first)


def _call_parts(call: func.CallOp, parts: int, threads: int) -> None:
    """All parts take the place of the call."""
    block = call.parent_block()
    assert block is not None
    body = Block(arg_types=[IndexType()])
    part = body.args[0]
    part.name_hint = "part"
    each = func.CallOp(call.callee, [*call.arguments, part], [])
    each.location = call.location
    body.add_ops([each, scf.ReduceOp()])
    numbers: list[Operation] = [arith.ConstantOp.from_int_and_width(n, IndexType()) for n in (0, parts, 1)]
    low, high, step = (number.results[0] for number in numbers)
    loop = scf.ParallelOp([low], [high], [step], Region(body))
    loop.attributes[THREADS] = IntegerAttr(threads, IndexType())
    block.insert_ops_before([*numbers, loop], call)
    erase(call)
