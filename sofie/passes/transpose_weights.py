"""transpose-weights: a matrix of weights whose columns are rows' terms is stored the other way (level 4).

    %w = sofie.weight "w" : memref<200x50xf32>                %w = sofie.weight "w" : memref<50x200xf32>
    scf.parallel (%j) { scf.for %k { .. %w[%k, %j] } }   ->   scf.parallel (%j) { scf.for %k { .. %w[%j, %k] } }

Where threads share the terms of a row (`map-rows`), they read side by side what lies side by side. Matrices that all
their readers walk so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects import func, memref, scf
from xdsl.dialects.builtin import MemRefType, ModuleOp, NoneAttr
from xdsl.ir import BlockArgument
from xdsl.passes import ModulePass

from sofie import affine
from sofie.kernel_weights import calls_of, lay_out, own_weights
from sofie.launches import kernels_of, nest_of
from sofie.passes.map_rows import Rows, reads_side_by_side


@dataclass(frozen=True)
class TransposeWeights(ModulePass):
    """Transposes where all calls of a kernel give it such a matrix, and nobody else reads that."""

    name: ClassVar[str] = "transpose-weights"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        calls = calls_of(op)
        for kernel in kernels_of(op):
            for argument in _against_rows(kernel):
                weights = own_weights(argument, calls.get(kernel.sym_name.data, []))
                if weights:
                    place = argument.index
                    lay_out(kernel, argument, weights, np.transpose)
                    _read_turned(kernel.body.block.args[place])


def _against_rows(kernel: func.FuncOp) -> list[BlockArgument]:
    """The matrices that a kernel's shared loops walk down, column after column."""
    nest = nest_of(kernel)
    rows = None if nest is None else Rows.of(nest, any_order=True)
    if rows is None:
        return []
    found = []
    for argument in kernel.body.block.args:
        kind, users = argument.type, [use.operation for use in argument.uses]
        if not isinstance(kind, MemRefType) or len(kind.get_shape()) != 2 or not isinstance(kind.layout, NoneAttr):
            continue
        if users and all(isinstance(u, memref.LoadOp) and _walks_down(u, rows) for u in users):
            found.append(argument)
    near = all(reads_side_by_side(loop, but=found) for loop in rows.shared.values())
    return found if near else []


def _walks_down(load: memref.LoadOp, rows: Rows) -> bool:
    """Whether a shared loop is a load's first index, and not its second."""
    loop = load.parent_op()
    while isinstance(loop, scf.ForOp) and loop not in rows.shared.values():
        loop = loop.parent_op()
    if not isinstance(loop, scf.ForOp):
        return False
    variable = loop.body.block.args[0]
    return affine.coefficient(load.indices[0], variable) == 1 and affine.coefficient(load.indices[1], variable) == 0


def _read_turned(argument: BlockArgument) -> None:
    for load in [use.operation for use in argument.uses]:
        assert isinstance(load, memref.LoadOp)
        first, second = load.indices
        load.operands[1], load.operands[2] = second, first
