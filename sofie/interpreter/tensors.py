"""Levels 1 and 2: weights, onnx ops by ONNX's own reference, and tensor ops on arrays that nobody changes in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from xdsl.context import Context
from xdsl.dialects import tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.interpreter import Interpreter, PythonValues, impl, register_impls
from xdsl.ir import Operation, SSAValue

from sofie.dialects.onnx import DOMAINS, OnnxOp
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import element_of, numpy_dtype, shape_of, signless
from sofie.errors import SofieError
from sofie.interpreter.machine import Functions, Machine, numbers, refusal, room_for, tabulated
from sofie.interpreter.memory import box_of, inside
from sofie.passes.lower_onnx import LowerOnnx
from sofie.reference import NONDETERMINISTIC, evaluate_node
from sofie.work import alone


@register_impls
class TensorFunctions(Functions):
    """Weights, at every level, and tensor."""

    @impl(WeightOp)
    def weight(self, interpreter: Interpreter, op: WeightOp, values: PythonValues) -> PythonValues:
        """The blob's own bytes, read-only, under the element type of this level."""
        return (op.blob.value.view(numpy_dtype(element_of(op.result))),)

    @impl(tensor.EmptyOp)
    def empty(self, interpreter: Interpreter, op: tensor.EmptyOp, values: PythonValues) -> PythonValues:
        """Poison."""
        return (room_for(interpreter, op.tensor),)

    @impl(tensor.CastOp)
    def cast(self, interpreter: Interpreter, op: tensor.CastOp, values: PythonValues) -> PythonValues:
        """The same elements."""
        return (values[0],)

    @impl(tensor.ExtractOp)
    def extract(self, interpreter: Interpreter, op: tensor.ExtractOp, values: PythonValues) -> PythonValues:
        """One element, or one a point where the indices are arrays."""
        return (values[0][inside(op, values[0], values[1:])],)

    @impl(tensor.ExtractSliceOp)
    def extract_slice(self, interpreter: Interpreter, op: tensor.ExtractSliceOp, values: PythonValues) -> PythonValues:
        """A box of a tensor."""
        part = values[0][box_of(op, values[0].shape, values[1:])]
        return (part.reshape(numbers(interpreter, shape_of(op.result))),)

    @impl(tensor.InsertSliceOp)
    def insert_slice(self, interpreter: Interpreter, op: tensor.InsertSliceOp, values: PythonValues) -> PythonValues:
        """A copy of the destination with a box replaced."""
        source, result = values[0], np.array(values[1])
        box = box_of(op, result.shape, values[2:])
        result[box] = source.reshape(result[box].shape)
        return (result,)

    @impl(tensor.CollapseShapeOp)
    def collapse(self, interpreter: Interpreter, op: tensor.CollapseShapeOp, values: PythonValues) -> PythonValues:
        """The same elements under fewer axes."""
        return (values[0].reshape(numbers(interpreter, shape_of(op.result))),)

    @impl(tensor.ExpandShapeOp)
    def expand(self, interpreter: Interpreter, op: tensor.ExpandShapeOp, values: PythonValues) -> PythonValues:
        """The same elements under more axes."""
        return (values[0].reshape(numbers(interpreter, shape_of(op.result))),)


def _extents(self: Functions, interpreter: Interpreter, op: ExtentsOp, values: PythonValues) -> PythonValues:
    """The sizes of this run."""
    listed = np.array(numbers(interpreter, op.values), numpy_dtype(element_of(op.result)))
    return (listed.reshape(shape_of(op.result)),)


def onnx_functions(module: ModuleOp) -> Functions:
    """The meanings of the onnx ops of a module; not of all two hundred, whose classes take a while to build."""
    kinds = {type(op) for op in module.walk() if isinstance(op, OnnxOp)}
    own: dict[str, Callable[..., PythonValues]] = {"If": _branch, **dict.fromkeys(NONDETERMINISTIC, _drawn)}
    meanings: dict[type[Operation], Callable[..., PythonValues]] = {
        kind: own.get(kind.SCHEMA.name, _reference) for kind in kinds
    }
    return tabulated(meanings | {ExtentsOp: _extents})()


def _branch(self: Functions, interpreter: Interpreter, op: OnnxOp, values: PythonValues) -> PythonValues:
    """The graph that the condition picks."""
    return interpreter.run_ssacfg_region(op.graph("then_branch" if np.all(values[0]) else "else_branch"), ())


def _drawn(self: Functions, interpreter: Interpreter, op: OnnxOp, values: PythonValues) -> PythonValues:
    """What the op's lowering draws: ONNX's reference has a generator of its own."""
    assert isinstance(interpreter, Machine)
    module = self.fact(op, _lowered_alone)
    given = dict(zip(op.operands, values, strict=True))
    operands = [v.view(numpy_dtype(signless(element_of(k)))) for k, v in given.items() if _is_computed(k)]
    made = iter(interpreter.random(module, operands))
    used = [result for result in op.results if result.uses] or list(op.results)
    return tuple(next(made).view(numpy_dtype(element_of(r))) if r in used else None for r in op.results)


def _lowered_alone(op: OnnxOp) -> ModuleOp:
    module = alone(op)
    LowerOnnx().apply(Context(), module)
    return module


def _is_computed(value: SSAValue) -> bool:
    return not isinstance(value.owner, WeightOp | ExtentsOp)


def _reference(self: Functions, interpreter: Interpreter, op: OnnxOp, values: PythonValues) -> PythonValues:
    """What ONNX's reference makes of the node, in the dtypes that inference found."""
    present = iter(values)
    arrays = [None if operand is None else next(present) for operand in op.inputs]
    try:
        results = evaluate_node(op.node(), arrays, DOMAINS)
    except SofieError as error:
        raise refusal(op, f"cannot be run: {error}") from error
    shapes = [numbers(interpreter, shape_of(result)) for result in op.results]
    if [r.shape for r in results] != shapes:
        raise refusal(op, f"gives shapes {[list(r.shape) for r in results]}, inference found {shapes}")
    return tuple(r.astype(numpy_dtype(element_of(v)), copy=False) for r, v in zip(results, op.results, strict=True))
