"""map-gpu: every kernel that has no schedule yet becomes a function for a GPU, an iteration a thread (4 -> 4').

    func.func private @add(%x, %y) {              gpu.module @kernels { gpu.func @add(%x, %y) kernel {
      scf.parallel (%i, %j) = .. to (%m, %n) {      %t = gpu.global_id x
        memref.store .., %y[%i, %j]         ->      scf.if %t < m n { %i = %t / n ; %j = %t mod n
      }                                               memref.store .., %y[%i, %j] } } }
    }
    func.call @add(%a, %b)                        gpu.launch_func @kernels::@add blocks in (ceil(m n / 256), 1, 1) ..

Threads that follow one another have the innermost loop's iterations, so that they read and write side by side. What is
no nest is one thread's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import func, gpu, scf
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from sofie.launches import BLOCK, Frame, kernels_of, nest_of


@dataclass(frozen=True)
class MapGpu(ModulePass):
    """Maps all kernels that are left; `block` threads stand in a block."""

    name: ClassVar[str] = "map-gpu"

    block: int = BLOCK

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for kernel in kernels_of(op):
            nest = nest_of(kernel)
            if nest is None:
                _alone(kernel)
            else:
                _spread(kernel, nest, self.block)


def _alone(kernel: func.FuncOp) -> None:
    """One thread does all."""
    frame = Frame(kernel)
    ops = kernel.body.block.ops
    frame.body.clone([o for o in ops if o not in frame.done and not isinstance(o, func.ReturnOp)], frame.values)
    frame.launch(lambda here, _: here.number(1), 1, [])


def _spread(kernel: func.FuncOp, nest: scf.ParallelOp, block: int) -> None:
    """A thread an iteration."""
    frame = Frame(kernel)
    body, extents = frame.body, frame.extents(nest)
    thread = body.add(gpu.GlobalIdOp(gpu.DimensionAttr(gpu.DimensionEnum.X)), "thread")
    inside = body.when(body.less(thread, body.product(extents)))
    variables = nest.body.block.args
    indices = inside.apart(thread, extents, [v.name_hint for v in variables])
    frame.values.update(zip(variables, indices, strict=True))
    inside.clone([op for op in nest.body.block.ops if not isinstance(op, scf.ReduceOp)], frame.values)
    frame.launch(lambda here, bounds: here.filled(here.product(bounds), block), block, list(nest.upperBound))
