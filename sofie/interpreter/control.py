"""func and scf: calls of kernels and loops. Parallel loops run from the last iteration to the first."""

from __future__ import annotations

import itertools

import numpy as np
from xdsl.dialects import func, scf
from xdsl.dialects.linalg import ops as linalg
from xdsl.interpreter import Interpreter, PythonValues, ReturnedValues, impl, impl_terminator, register_impls
from xdsl.ir import Operation, Region
from xdsl.traits import SymbolTable

from sofie.dialects.onnx import GraphYieldOp
from sofie.dialects.sofie import FusedOp, SizeOp, YieldOp
from sofie.interpreter.machine import Functions, Machine, refusal
from sofie.loops import guard


def _hand_out(
    functions: Functions, interpreter: Interpreter, op: Operation, values: PythonValues
) -> tuple[ReturnedValues, PythonValues]:
    return ReturnedValues(values), values


@register_impls
class ControlFunctions(Functions):
    """Calls, loops, branches, groups, and the terminators of their regions."""

    func_return = impl_terminator(func.ReturnOp)(_hand_out)
    scf_yield = impl_terminator(scf.YieldOp)(_hand_out)
    linalg_yield = impl_terminator(linalg.YieldOp)(_hand_out)
    graph_yield = impl_terminator(GraphYieldOp)(_hand_out)
    sofie_yield = impl_terminator(YieldOp)(_hand_out)

    @impl_terminator(scf.ReduceOp)
    def reduce(
        self, interpreter: Interpreter, op: scf.ReduceOp, values: PythonValues
    ) -> tuple[ReturnedValues, PythonValues]:
        """Ends an iteration; a reduction over a parallel loop has no fixed order and is refused."""
        if values:
            raise refusal(op, "would reduce over a parallel loop, in no fixed order")
        return ReturnedValues(()), ()

    @impl(func.CallOp)
    def call(self, interpreter: Interpreter, op: func.CallOp, values: PythonValues) -> PythonValues:
        """Runs the kernel on the caller's buffers."""
        return interpreter.run_ssacfg_region(self.fact(op, _callee), values)

    @impl(FusedOp)
    def fused(self, interpreter: Interpreter, op: FusedOp, values: PythonValues) -> PythonValues:
        """A group means what its members mean one after the other."""
        return interpreter.run_ssacfg_region(op.body, ())

    @impl(SizeOp)
    def size(self, interpreter: Interpreter, op: SizeOp, values: PythonValues) -> PythonValues:
        """A size of this run becomes known."""
        assert isinstance(interpreter, Machine)
        interpreter.found(op.symbol, int(values[0]))
        return (values[0],)

    @impl(scf.ForOp)
    def for_(self, interpreter: Interpreter, op: scf.ForOp, values: PythonValues) -> PythonValues:
        """Iterations in order, each handing its values to the next."""
        start, end, step, *carried = values
        if step <= 0:
            raise refusal(op, f"has the step {step}")
        if np.ndim(start) or np.ndim(end):
            return _for_lanes(interpreter, op.regions[0], (start, end, step), tuple(carried))
        kind, body = type(start), op.regions[0]
        flag = self.fact(op, guard)
        place = None if flag is None else op.body.block.args.index(flag) - 1
        for i in range(start, end, step):
            if place is not None and not carried[place]:
                break
            carried = list(interpreter.run_ssacfg_region(body, (kind(i), *carried)))
        return tuple(carried)

    @impl(scf.ParallelOp)
    def parallel(self, interpreter: Interpreter, op: scf.ParallelOp, values: PythonValues) -> PythonValues:
        """Independent iterations, last to first: one that needs an earlier one finds nothing there."""
        if op.res:
            raise refusal(op, "would reduce over a parallel loop, in no fixed order")
        rank, body, kind = len(values) // 3, op.regions[0], type(values[0])
        bounds = zip(values[:rank], values[rank : 2 * rank], values[2 * rank :], strict=True)
        for point in itertools.product(*(range(*bound)[::-1] for bound in bounds)):
            interpreter.run_ssacfg_region(body, tuple(map(kind, point)))
        return ()

    @impl(scf.IfOp)
    def if_(self, interpreter: Interpreter, op: scf.IfOp, values: PythonValues) -> PythonValues:
        """The region that the condition picks."""
        region = op.regions[0 if values[0] else 1]
        return interpreter.run_ssacfg_region(region, ()) if region.blocks else ()


def _for_lanes(interpreter: Interpreter, body: Region, bounds: PythonValues, carried: PythonValues) -> PythonValues:
    """A loop that many elements are in at once, each with its own bounds.

    An element that is done takes part in the step of another one, and keeps what it had.
    """
    start, end, step = np.broadcast_arrays(*bounds)
    i = start
    while (runs := i < end).any():
        made = interpreter.run_ssacfg_region(body, (np.where(runs, i, i[runs][0]), *carried))
        carried = tuple(np.where(runs, new, old) for new, old in zip(made, carried, strict=True))
        i = i + step
    return tuple(carried)


def _callee(op: func.CallOp) -> Region:
    kernel = SymbolTable.lookup_symbol(op, op.callee)
    if not isinstance(kernel, func.FuncOp) or not kernel.body.blocks:
        raise refusal(op, f"calls {op.callee.string_value()}, which is not in the module")
    if list(kernel.function_type.inputs) != [v.type for v in op.operands]:
        raise refusal(op, f"calls {op.callee.string_value()} with operands of other types than its parameters")
    return kernel.body
