"""What the passes that map kernels onto a GPU share: a kernel's one nest, the function made of it, and the launch.

A kernel becomes a `gpu.func` in `gpu.module @kernels`, and each of its calls a `gpu.launch_func`. Memory of a block
(memory space 3, as in NVVM) is a `memref.alloca` in that function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from xdsl.dialects import arith, func, gpu, memref, scf
from xdsl.dialects.builtin import (
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    StringAttr,
    SymbolRefAttr,
    UnitAttr,
    i8,
    i32,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.rewriter import Rewriter
from xdsl.utils.type import get_element_type_or_self

from sofie import affine
from sofie.body import SHARED, Body, Numbers
from sofie.dialects.scalars import computes
from sofie.dialects.types import bytes_of
from sofie.extents import ARGUMENTS
from sofie.memory import VIEWS, memory_of
from sofie.naming import Namer
from sofie.rewrite import erase

MODULE = "kernels"
"""The name of the `gpu.module` that holds them."""
BLOCK = 256
"""Threads of a block."""
WARP = 32
"""Threads that run in step."""
SHARED_BYTES = 48 * 1024
"""How much of it any kernel may have unasked."""
SHARED_ALIGNMENT = 16
PARTIALS_BYTES = 256
"""What a reduction over a block takes of it: a number of 8 bytes for each of at most 32 warps."""
ALIASED = "sofie.aliased"
"""On a `gpu.func` whose arguments may be parts of the same memory."""

TOGETHER = "nvvm.minctasm"
"""On a `gpu.func`, as in MLIR: how many blocks a processor shall have registers for."""


def is_pure(op: Operation) -> bool:
    """Whether an op only computes a value or another view: every thread may do that for itself."""
    return computes(op) or isinstance(op, VIEWS)


def kernels_of(module: ModuleOp) -> list[func.FuncOp]:
    """The kernels that are not mapped yet."""
    return [f for f in module.body.block.ops if isinstance(f, func.FuncOp) and f.sym_name.data != "infer"]


def infer_of(module: ModuleOp) -> func.FuncOp:
    """The function that calls them."""
    return next(f for f in module.body.block.ops if isinstance(f, func.FuncOp) and f.sym_name.data == "infer")


def erase_uncalled(module: ModuleOp) -> None:
    """Erases the kernels that nobody calls any more."""
    called = {c.callee.string_value() for c in module.walk() if isinstance(c, func.CallOp)}
    for kernel in kernels_of(module):
        if kernel.sym_name.data not in called:
            erase(kernel)


def nest_of(kernel: func.FuncOp) -> scf.ParallelOp | None:
    """The nest that is all a kernel does, from zero in steps of one; None where it does anything else."""
    acting = [op for op in kernel.body.block.ops if not is_pure(op) and not isinstance(op, func.ReturnOp)]
    (nest,) = acting if len(acting) == 1 else (None,)
    return nest if isinstance(nest, scf.ParallelOp) and starts_at_zero(nest) else None


def starts_at_zero(nest: scf.ParallelOp) -> bool:
    """Whether all loops of a nest run from zero in steps of one."""
    return all(affine.constant(low) == 0 for low in nest.lowerBound) and all(affine.constant(s) == 1 for s in nest.step)


def extents_of(nest: scf.ParallelOp) -> list[int | None]:
    """The trips of the loops of a nest, None where the run decides."""
    return [affine.constant(bound) for bound in nest.upperBound]


def slice_of(values: Iterable[SSAValue]) -> list[Operation]:
    """The pure ops that values are made by, those that others need first."""
    found: dict[Operation, None] = {}

    def visit(value: SSAValue) -> None:
        if isinstance(value.owner, Operation) and value.owner not in found and is_pure(value.owner):
            for operand in value.owner.operands:
                visit(operand)
            found[value.owner] = None

    for value in values:
        visit(value)
    return list(found)


Blocks = Callable[[Body, list[SSAValue]], SSAValue]
"""Makes the number of blocks of a launch from the bounds that it depends on."""


def bytes_in(kind: MemRefType[Attribute]) -> int:
    """The bytes of an array."""
    return math.prod(kind.get_shape()) * bytes_of(get_element_type_or_self(kind.get_element_type()))


def shared_arrays(function: gpu.FuncOp) -> dict[SSAValue, int]:
    """Where each of a block's own arrays starts; a reduction over the block has the first bytes."""
    end = PARTIALS_BYTES if any(isinstance(op, gpu.AllReduceOp) for op in function.walk()) else 0
    places: dict[SSAValue, int] = {}
    for op in function.walk():
        if isinstance(op, memref.AllocaOp) and is_shared(op.memref):
            places[op.memref] = end
            end += -(-bytes_in(op.memref.type) // SHARED_ALIGNMENT) * SHARED_ALIGNMENT
    return places


def shared_bytes(function: gpu.FuncOp) -> int:
    """The bytes of a block's own memory."""
    places = shared_arrays(function)
    ends = [place + bytes_in(cast(MemRefType[Attribute], value.type)) for value, place in places.items()]
    return max([PARTIALS_BYTES if any(isinstance(op, gpu.AllReduceOp) for op in function.walk()) else 0, *ends])


def is_shared(value: SSAValue) -> bool:
    """Whether an array is the block's."""
    kind = value.type
    return (
        isinstance(kind, MemRefType)
        and isinstance(kind.memory_space, IntegerAttr)
        and (kind.memory_space.value.data == SHARED)
    )


@dataclass
class Frame:
    """A `gpu.func` that is being made of a kernel: it has the kernel's arguments, and what is computed once."""

    kernel: func.FuncOp
    body: Body = field(init=False)
    values: dict[SSAValue, SSAValue] = field(default_factory=dict)
    """By the kernel's values, the function's."""
    done: set[Operation] = field(default_factory=set)
    """What of the kernel's own block the function has."""

    def __post_init__(self) -> None:
        given = self.kernel.body.block.args
        block = Block(arg_types=[a.type for a in given])
        for old, new in zip(given, block.args, strict=True):
            new.name_hint = old.name_hint
            self.values[old] = new
        self.body = Body(block, None, self.kernel, Numbers(block))
        for op in self.kernel.body.block.ops:
            if is_pure(op) and all(operand in self.values for operand in op.operands):
                self.body.clone([op], self.values)
                self.done.add(op)

    def extents(self, nest: scf.ParallelOp) -> list[SSAValue]:
        """The trips of a nest, in the function."""
        return [self.values[bound] for bound in nest.upperBound]

    def launch(self, blocks: Blocks, threads: int, bounds: Sequence[SSAValue], together: int = 1) -> None:
        """Puts the function in the place of the kernel, and a launch in that of each call.

        blocks: makes their number from `bounds`, values of the kernel, as @infer has them. together: how many of them
        a processor shall have registers for.
        """
        module = self.kernel.parent_op()
        assert isinstance(module, ModuleOp)
        block = self.body.block
        block.add_op(gpu.ReturnOp([]))
        in_order(block)
        assert self.body.numbers is not None
        self.body.numbers.tidy()
        name = self.kernel.sym_name.data
        function = gpu.FuncOp(
            name, ([a.type for a in block.args], []), Region(block), True, known_block_size=[threads, 1, 1]
        )
        function.location = self.kernel.location
        if together > 1:
            function.attributes[TOGETHER] = IntegerAttr(together, i32)
        if self.kernel.arg_attrs is not None:
            function.attributes[ARGUMENTS] = self.kernel.arg_attrs
        holder_of(module).body.block.add_op(function)
        calls = [op for op in module.walk() if isinstance(op, func.CallOp) and op.callee.string_value() == name]
        for call in calls:
            self._launch(call, function, blocks, threads, bounds)
        erase(self.kernel)

    def _launch(
        self,
        call: func.CallOp,
        function: gpu.FuncOp,
        blocks: Blocks,
        threads: int,
        bounds: Sequence[SSAValue],
    ) -> None:
        place = call.parent_block()
        assert place is not None
        here = Body(place, call, call, Numbers(place, call))
        known: dict[SSAValue, SSAValue] = dict(zip(self.kernel.body.block.args, call.operands, strict=True))
        here.clone(slice_of(bounds), known)
        put_launch(here, function, blocks(here, [known[bound] for bound in bounds]), list(call.operands))
        erase(call)


def put_launch(here: Body, function: gpu.FuncOp, blocks: SSAValue, operands: Sequence[SSAValue]) -> None:
    """Launches a function with so many blocks, one at least, since CUDA refuses a launch of none."""
    assert function.known_block_size is not None
    number = affine.constant(blocks)
    if number is None:
        blocks = here.add(arith.MaxSIOp(blocks, here.number(1)))
    elif number == 0:
        blocks = here.number(1)
    one, amount = here.number(1), shared_bytes(function)
    shared = here.add(arith.ConstantOp(IntegerAttr(amount, i32))) if amount else None
    callee = SymbolRefAttr(MODULE, [function.sym_name])
    size = [here.number(function.known_block_size.get_values()[0]), one, one]
    here.put(launch := gpu.LaunchFuncOp(callee, [blocks, one, one], size, None, list(operands), False, [], shared))
    launch.location = function.location
    if here.numbers is not None:
        here.numbers.tidy()


def _view_of(value: SSAValue) -> memref.ViewOp | None:
    """The part of the arena that a buffer lies in; None where it is an argument or a weight."""
    owner = memory_of(value).owner
    return owner if isinstance(owner, memref.ViewOp) else None


def arena_range(value: SSAValue) -> tuple[int, int] | None:
    """The bytes of the arena that a buffer may touch; None where it is an argument or a weight."""
    view = _view_of(value)
    if view is None:
        return None
    start = affine.constant(view.byte_shift)
    kind = view.result.type
    assert start is not None and isinstance(kind, MemRefType)
    return start, start + bytes_in(kind)


def shrink_arena(infer: func.FuncOp) -> None:
    """Takes from the arena what lies behind the last buffer that is still used."""
    for op in reversed(list(infer.walk())):
        if isinstance(op, memref.ViewOp | memref.ReinterpretCastOp) and not op.results[0].uses:
            erase(op)
    views = [op for op in infer.walk() if isinstance(op, memref.ViewOp)]
    for argument, attributes in zip(infer.body.block.args, infer.arg_attrs or (), strict=False):
        if "sofie.arena" in attributes.data:
            ends = [found[1] for view in views if (found := arena_range(view.result))]
            Rewriter.replace_value_with_new_type(argument, MemRefType(i8, [max(ends, default=0)]))
    infer.update_function_type()


def holder_of(module: ModuleOp) -> gpu.ModuleOp:
    """The `gpu.module` of a module, made if it has none."""
    for op in module.body.block.ops:
        if isinstance(op, gpu.ModuleOp):
            return op
    # upstream's annotation asks for a symbol reference, its verifier for a name
    holder = gpu.ModuleOp(StringAttr(MODULE), Region(Block()))  # type: ignore[arg-type]
    first = module.body.block.first_op
    assert first is not None
    module.body.block.insert_op_before(holder, first)
    module.attributes["gpu.container_module"] = UnitAttr()
    return holder


def in_order(block: Block) -> None:
    """Makes loops, one in the other, of the nests that one thread runs."""
    for nest in [o for o in block.walk() if isinstance(o, scf.ParallelOp)]:
        _serial(nest)


def _serial(nest: scf.ParallelOp) -> None:
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


def names_in(module: ModuleOp) -> Namer:
    """A namer that gives no name of a function again."""
    return Namer(frozenset(f.sym_name.data for f in module.walk() if isinstance(f, func.FuncOp | gpu.FuncOp)))
