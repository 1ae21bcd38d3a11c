"""split-launches: a kernel of several nests becomes a kernel a nest (level 4).

    func.func private @gemm(%x, %y, %z) {          func.func private @gemm(%x, %y) { scf.parallel .. %y }
      scf.parallel (%i) .. { .. %y[%i] }     ->    func.func private @gemm_1(%y, %z) { scf.parallel .. %z }
      scf.parallel (%i) .. { .. %z[%i] }
    }
    func.call @gemm(%a, %b, %c)                    func.call @gemm(%a, %b) ; func.call @gemm_1(%b, %c)

Iterations of one launch on a GPU wait for nobody; those of the next see all that it has written. What stands in no
nest is one thread's work, as is a kernel whose nests share local memory. What writes nothing, since nobody reads its
result, is launched no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import func, scf
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from sofie.extents import symbols_by_argument
from sofie.launches import is_pure, kernels_of, names_in, slice_of, starts_at_zero
from sofie.memory import is_written
from sofie.rewrite import erase


@dataclass(frozen=True)
class SplitLaunches(ModulePass):
    """Splits every kernel."""

    name: ClassVar[str] = "split-launches"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        names = names_in(op)
        for kernel in kernels_of(op):
            stages = _stages(kernel)
            if len(stages) < 2:
                continue
            parts = [_part(kernel, stage, kernel.sym_name.data if k == 0 else "") for k, stage in enumerate(stages)]
            for part, _ in parts[1:]:
                part.properties["sym_name"] = StringAttr(names(kernel.sym_name.data, "kernel"))
            op.body.block.insert_ops_before([part for part, _ in parts], kernel)
            for call in [o for o in op.walk() if isinstance(o, func.CallOp)]:
                if call.callee.string_value() == kernel.sym_name.data:
                    _call(call, parts)
            erase(kernel)
        for kernel in kernels_of(op):
            if not any(is_written(argument) for argument in kernel.body.block.args):
                _drop(op, kernel)


def _drop(module: ModuleOp, kernel: func.FuncOp) -> None:
    """Erases a kernel and its calls."""
    for call in [o for o in module.walk() if isinstance(o, func.CallOp)]:
        if call.callee.string_value() == kernel.sym_name.data:
            erase(call)
    erase(kernel)


def _stages(kernel: func.FuncOp) -> list[list[Operation]]:
    """What acts, launch by launch; all of it together where parts would share more than arguments."""
    acting: list[Operation] = []
    made: set[SSAValue] = set()
    for op in kernel.body.block.ops:
        if not isinstance(op, func.ReturnOp) and (not is_pure(op) or made.intersection(op.operands)):
            acting.append(op)
            made.update(op.results)
    stages: list[list[Operation]] = []
    for op in acting:
        if _mappable(op) or not stages or _mappable(stages[-1][-1]):
            stages.append([op])
        else:
            stages[-1].append(op)
    where = {op: k for k, stage in enumerate(stages) for op in stage}
    for op, k in where.items():
        users = [_top(use.operation, kernel) for result in op.results for use in result.uses]
        if any(where.get(user, -1) != k for user in users):
            return [acting]
    return stages


def _mappable(op: Operation) -> bool:
    return isinstance(op, scf.ParallelOp) and starts_at_zero(op)


def _top(op: Operation, kernel: func.FuncOp) -> Operation:
    """The op of the kernel's own block that an op stands in."""
    while op.parent_op() is not kernel:
        parent = op.parent_op()
        assert parent is not None
        op = parent
    return op


def _outside(ops: Sequence[Operation]) -> list[SSAValue]:
    """The values that ops use and do not make."""
    inside = {r for op in ops for o in op.walk() for r in o.results}
    inside |= {a for op in ops for o in op.walk() for region in o.regions for b in region.blocks for a in b.args}
    return list(dict.fromkeys(v for op in ops for o in op.walk() for v in o.operands if v not in inside))


def _part(kernel: func.FuncOp, stage: Sequence[Operation], name: str) -> tuple[func.FuncOp, list[int]]:
    """The function of a stage, and which of the kernel's arguments it takes."""
    outside = _outside(stage)
    needed = slice_of(outside)
    arguments = list(kernel.body.block.args)
    used = {v for op in needed for v in op.operands} | set(outside)
    sizes = symbols_by_argument(kernel)  # layouts are made of them
    takes = [k for k, argument in enumerate(arguments) if argument in used or argument in sizes]
    body = Block(arg_types=[arguments[k].type for k in takes])
    values: dict[SSAValue, SSAValue] = {}
    for k, argument in zip(takes, body.args, strict=True):
        argument.name_hint = arguments[k].name_hint
        values[arguments[k]] = argument
    for op in (*needed, *stage):
        body.add_op(clone := op.clone(values))
        clone.location = op.location
        for old, new in zip(op.results, clone.results, strict=True):
            new.name_hint, values[old] = old.name_hint, new
    body.add_op(func.ReturnOp())
    part = func.FuncOp(name, ([a.type for a in body.args], []), Region(body), kernel.sym_visibility)
    part.location = kernel.location
    if kernel.arg_attrs is not None:
        part.arg_attrs = ArrayAttr([kernel.arg_attrs.data[k] for k in takes])
    return part, takes


def _call(call: func.CallOp, parts: Sequence[tuple[func.FuncOp, list[int]]]) -> None:
    place = call.parent_block()
    assert place is not None
    for part, takes in parts:
        made = func.CallOp(part.sym_name.data, [call.operands[k] for k in takes], [])
        made.location = call.location
        place.insert_op_before(made, call)
    erase(call)
