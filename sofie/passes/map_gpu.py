"""map-gpu: every kernel becomes functions for a GPU, an iteration a thread (level 4 -> level 4').

    func.func private @add(%x, %y) {              gpu.module @kernels { gpu.func @add(%x, %y) kernel {
      scf.parallel (%i, %j) = .. to (%m, %n) {      %t = gpu.global_id x
        memref.store .., %y[%i, %j]         ->      scf.if %t < m n { %i = %t / n ; %j = %t mod n
      }                                               memref.store .., %y[%i, %j] } } }
    }
    func.call @add(%a, %b)                        gpu.launch_func @kernels::@add blocks in (ceil(m n / 256), 1, 1) ..

Threads that follow one another have the innermost loop's iterations, so that they read and write side by side. Each
nest of a kernel is a launch of its own: the next one sees all that it has written. What stands in no nest is one
thread's work, and so is a kernel whose nests share local memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, gpu, memref, scf
from xdsl.dialects.builtin import ArrayAttr, IndexType, IntegerAttr, ModuleOp, StringAttr, SymbolRefAttr, UnitAttr
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass

from sofie import affine
from sofie.extents import ARGUMENTS, symbols_by_argument
from sofie.naming import Namer
from sofie.rewrite import erase

BLOCK = 256
"""Threads of a block."""
MODULE = "kernels"
"""The name of the `gpu.module` that holds them."""

VIEWS = (memref.SubviewOp, memref.CastOp, memref.CollapseShapeOp, memref.ExpandShapeOp, memref.ReinterpretCastOp)


@dataclass(frozen=True)
class MapGpu(ModulePass):
    """Maps all kernels; `block` threads stand in a block."""

    name: ClassVar[str] = "map-gpu"

    block: int = BLOCK

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        kernels = [f for f in op.body.block.ops if isinstance(f, func.FuncOp) and f.sym_name.data != "infer"]
        names = Namer(frozenset())
        made = Block()
        parts = {k.sym_name.data: [_mapped(stage, names, made) for stage in _stages(k)] for k in kernels}
        for call in [o for o in op.walk() if isinstance(o, func.CallOp)]:
            for part in parts[call.callee.string_value()]:
                part.launch(call, self.block)
            erase(call)
        for kernel in kernels:
            erase(kernel)
        if kernels:
            # upstream's annotation asks for a symbol reference, its verifier for a name
            holder = gpu.ModuleOp(StringAttr(MODULE), Region(made))  # type: ignore[arg-type]
            first = op.body.block.first_op
            assert first is not None
            op.body.block.insert_op_before(holder, first)
            op.attributes["gpu.container_module"] = UnitAttr()


@dataclass(frozen=True)
class Stage:
    """What one launch does: a parallel nest, or some ops that one thread runs, of a kernel."""

    kernel: func.FuncOp
    ops: Sequence[Operation]

    @property
    def nest(self) -> scf.ParallelOp | None:
        """The nest whose iterations are threads; None where one thread does all."""
        op = self.ops[0]
        return op if len(self.ops) == 1 and isinstance(op, scf.ParallelOp) else None


@dataclass(frozen=True)
class Part:
    """A function for the GPU: which of the kernel's arguments it takes, and the extents of its nest."""

    stage: Stage
    function: gpu.FuncOp
    takes: Sequence[int]
    bounds: Sequence[SSAValue] = field(default=())
    """Values in the kernel."""

    def launch(self, call: func.CallOp, block: int) -> None:
        """Launches it in the place of a call of the kernel; one block at least, since CUDA refuses none."""
        place = call.parent_block()
        assert place is not None
        arguments = self.stage.kernel.body.block.args
        known: dict[SSAValue, SSAValue] = dict(zip(arguments, call.operands, strict=True))

        def add(op: Operation) -> SSAValue:
            op.location = call.location
            place.insert_op_before(op, call)
            return op.results[0]

        def constant(value: int) -> SSAValue:
            return add(arith.ConstantOp(IntegerAttr(value, IndexType())))

        extents = [affine.constant(bound) for bound in self.bounds]
        numbers = [extent for extent in extents if extent is not None]
        threads = 1 if self.stage.nest is None else block
        if len(numbers) == len(extents):
            blocks = constant(max(-(-math.prod(numbers) // threads), 1))
        else:
            for op in _slice(self.bounds):
                add(clone := op.clone(known))
                known.update(zip(op.results, clone.results, strict=True))
            total = constant(1)
            for bound in self.bounds:
                total = add(arith.MuliOp(total, known[bound]))
            filled = add(arith.DivUIOp(add(arith.AddiOp(total, constant(threads - 1))), constant(threads)))
            blocks = add(arith.MaxSIOp(filled, constant(1)))
        one = constant(1)
        launch = gpu.LaunchFuncOp(
            SymbolRefAttr(MODULE, [self.function.sym_name]),
            [blocks, one, one],
            [constant(threads), one, one],
            kernelOperands=[call.operands[k] for k in self.takes],
        )
        launch.location = call.location
        place.insert_op_before(launch, call)


def _pure(op: Operation) -> bool:
    """Whether an op only computes a value or another view: every function may do that for itself."""
    return not op.regions and (op.name.split(".")[0] in ("arith", "math") or isinstance(op, VIEWS))


def _stages(kernel: func.FuncOp) -> list[Stage]:
    """The launches of a kernel, in order; one thread runs all of it where they would share more than arguments."""
    acting: list[Operation] = []
    made: set[SSAValue] = set()
    for op in kernel.body.block.ops:
        if not isinstance(op, func.ReturnOp) and (not _pure(op) or made.intersection(op.operands)):
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
            return [Stage(kernel, acting)]
    return [Stage(kernel, stage) for stage in stages]


def _mappable(op: Operation) -> bool:
    """Whether an op is a nest from zero in steps of one."""
    if not isinstance(op, scf.ParallelOp):
        return False
    return all(affine.constant(low) == 0 for low in op.lowerBound) and all(affine.constant(s) == 1 for s in op.step)


def _top(op: Operation, kernel: func.FuncOp) -> Operation:
    """The op of the kernel's own block that an op stands in."""
    while op.parent_op() is not kernel:
        parent = op.parent_op()
        assert parent is not None
        op = parent
    return op


def _slice(values: Iterable[SSAValue]) -> list[Operation]:
    """The pure ops that values are made by, those that others need first."""
    found: dict[Operation, None] = {}

    def visit(value: SSAValue) -> None:
        if isinstance(value.owner, Operation) and value.owner not in found and _pure(value.owner):
            for operand in value.owner.operands:
                visit(operand)
            found[value.owner] = None

    for value in values:
        visit(value)
    return list(found)


def _outside(ops: Sequence[Operation]) -> list[SSAValue]:
    """The values that ops use and do not make."""
    inside = {r for op in ops for o in op.walk() for r in o.results}
    inside |= {a for op in ops for o in op.walk() for region in o.regions for b in region.blocks for a in b.args}
    return list(dict.fromkeys(v for op in ops for o in op.walk() for v in o.operands if v not in inside))


def _mapped(stage: Stage, names: Namer, holder: Block) -> Part:
    """The function of a stage, at the end of `holder`."""
    outside = _outside(stage.ops)
    needed = _slice(outside)
    arguments = list(stage.kernel.body.block.args)
    used = {v for op in needed for v in op.operands} | set(outside)
    sizes = symbols_by_argument(stage.kernel)  # layouts are made of them
    takes = [k for k, argument in enumerate(arguments) if argument in used or argument in sizes]
    body = Block(arg_types=[arguments[k].type for k in takes])
    values: dict[SSAValue, SSAValue] = {}
    for k, argument in zip(takes, body.args, strict=True):
        argument.name_hint = arguments[k].name_hint
        values[arguments[k]] = argument
    for op in needed:
        body.add_op(clone := op.clone(values))
        values.update(zip(op.results, clone.results, strict=True))
    nest = stage.nest
    if nest is None:
        for op in stage.ops:
            body.add_op(clone := op.clone(values))
            values.update(zip(op.results, clone.results, strict=True))
    else:
        _threads(nest, body, values)
    body.add_op(gpu.ReturnOp([]))
    for inner in [o for o in body.walk() if isinstance(o, scf.ParallelOp)]:
        _in_order(inner)
    name = names(stage.kernel.sym_name.data, "kernel")
    function = gpu.FuncOp(name, ([a.type for a in body.args], []), Region(body), True)
    function.location = stage.kernel.location
    if sizes:
        given = stage.kernel.arg_attrs
        assert given is not None
        function.attributes[ARGUMENTS] = ArrayAttr([given.data[k] for k in takes])
    holder.add_op(function)
    return Part(stage, function, takes, () if nest is None else tuple(nest.upperBound))


def _threads(nest: scf.ParallelOp, body: Block, values: dict[SSAValue, SSAValue]) -> None:
    """The body of a nest for the iteration that is this thread's, if there is one."""

    def add(op: Operation, to: Block) -> SSAValue:
        to.add_op(op)
        return op.results[0]

    thread = add(gpu.GlobalIdOp(gpu.DimensionAttr(gpu.DimensionEnum.X)), body)
    thread.name_hint = "thread"
    bounds = [values[bound] for bound in nest.upperBound]
    total = bounds[0]
    for bound in bounds[1:]:
        total = add(arith.MuliOp(total, bound), body)
    inside, rest = Block(), thread
    for argument, bound in reversed(list(zip(nest.body.block.args[1:], bounds[1:], strict=True))):
        values[argument] = add(arith.RemUIOp(rest, bound), inside)
        values[argument].name_hint = argument.name_hint
        rest = add(arith.DivUIOp(rest, bound), inside)
    values[nest.body.block.args[0]] = rest
    if len(bounds) > 1:
        rest.name_hint = nest.body.block.args[0].name_hint
    for op in nest.body.block.ops:
        if not isinstance(op, scf.ReduceOp):
            inside.add_op(clone := op.clone(values))
            values.update(zip(op.results, clone.results, strict=True))
    inside.add_op(scf.YieldOp())
    body.add_op(scf.IfOp(add(arith.CmpiOp(thread, total, "slt"), body), [], [inside]))


def _in_order(nest: scf.ParallelOp) -> None:
    """A nest that one thread runs: loops, one in the other."""
    block = nest.parent_block()
    assert block is not None
    variables: list[SSAValue] = []
    outer: scf.ForOp | None = None
    for argument, low, high, step in zip(
        nest.body.block.args, nest.lowerBound, nest.upperBound, nest.step, strict=True
    ):
        body = Block(arg_types=[IndexType()])
        body.args[0].name_hint = argument.name_hint
        loop = scf.ForOp(low, high, step, [], body)
        if outer is None:
            block.insert_op_before(loop, nest)
        else:
            outer.body.block.add_ops([loop, scf.YieldOp()])
        variables.append(body.args[0])
        outer = loop
    assert outer is not None
    for argument, variable in zip(nest.body.block.args, variables, strict=True):
        argument.replace_all_uses_with(variable)
    for op in list(nest.body.block.ops):
        op.detach()
        if not isinstance(op, scf.ReduceOp):
            outer.body.block.add_op(op)
        else:
            op.erase()
    outer.body.block.add_op(scf.YieldOp())
    erase(nest)
