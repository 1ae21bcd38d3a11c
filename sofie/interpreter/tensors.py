"""Levels 1 and 2: weights, onnx ops by ONNX's own reference, and tensor ops on arrays that nobody changes in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from xdsl.context import Context
from xdsl.dialects import tensor
from xdsl.dialects.builtin import ModuleOp
from xdsl.interpreter import Interpreter, PythonValues, impl, register_impls
from xdsl.ir import Operation, SSAValue

from sofie.dialects.fixed import ConvertOp, FixedType
from sofie.dialects.onnx import DOMAINS, OnnxOp
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import element_of, numpy_dtype, shape_of, stored
from sofie.errors import SofieError
from sofie.interpreter import fixed
from sofie.interpreter.machine import Functions, Machine, numbers, refusal, room_for, tabulated
from sofie.interpreter.memory import box_of, inside
from sofie.passes.lower_onnx import LowerOnnx
from sofie.reference import NONDETERMINISTIC, evaluate_node
from sofie.sizes import bind
from sofie.weights import Array
from sofie.work import alone


@register_impls
class TensorFunctions(Functions):
    """Weights, at every level, and tensor."""

    @impl(WeightOp)
    def weight(self, interpreter: Interpreter, op: WeightOp, values: PythonValues) -> PythonValues:
        """The blob's own bytes, read-only, under the element type of this level."""
        return (op.blob.value.view(numpy_dtype(element_of(op.result))),)

    @impl(ConvertOp)
    def convert(self, interpreter: Interpreter, op: ConvertOp, values: PythonValues) -> PythonValues:
        """Each element by the definition of fixed-point numbers."""
        return (fixed.converted(op, values[0]),)

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

    @impl(tensor.InsertOp)
    def insert(self, interpreter: Interpreter, op: tensor.InsertOp, values: PythonValues) -> PythonValues:
        """A copy of the destination with one element replaced."""
        scalar, result = values[0], np.array(values[1])
        result[inside(op, result, values[2:])] = scalar
        return (result,)

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
    own: dict[str, Callable[..., PythonValues]] = {
        "If": _branch,
        "Loop": _loop,
        "Scan": _scan,
        **dict.fromkeys(NONDETERMINISTIC, _drawn),
    }
    meanings: dict[type[Operation], Callable[..., PythonValues]] = {
        kind: _reference if kind.SCHEMA.domain else own.get(kind.SCHEMA.name, _reference) for kind in kinds
    }
    return tabulated(meanings | {ExtentsOp: _extents})()


def _branch(self: Functions, interpreter: Interpreter, op: OnnxOp, values: PythonValues) -> PythonValues:
    """The graph that the condition picks."""
    return interpreter.run_ssacfg_region(op.graph("then_branch" if np.all(values[0]) else "else_branch"), ())


def _loop(self: Functions, interpreter: Interpreter, op: OnnxOp, values: PythonValues) -> PythonValues:
    """Iterations while the condition holds, at most M; what they add is stacked along a first axis."""
    present = iter(values)
    count, condition = (next(present) if operand is not None else None for operand in (*op.inputs, None, None)[:2])
    carried = list(present)
    body, alive, done = op.graph("body"), condition is None or bool(np.all(condition)), 0
    rows: list[list[Array]] = []
    while alive and (count is None or done < int(np.max(count))):
        flag, *made = interpreter.run_ssacfg_region(body, (np.array(done, np.int64), np.array(True), *carried))
        alive, done, carried = bool(np.all(flag)), done + 1, made[: len(carried)]
        rows.append(made[len(carried) :])
    stacked = list(zip(*rows, strict=True)) or [()] * (len(op.results) - len(carried))
    return _grown(interpreter, op, carried, [list(parts) for parts in stacked], [0] * len(stacked))


def _scan(self: Functions, interpreter: Interpreter, op: OnnxOp, values: PythonValues) -> PythonValues:
    """Iterations over slices of the last inputs."""
    count, body = op.integer("num_scan_inputs"), op.graph("body")
    carried, scanned = list(values[:-count]), values[-count:]
    outputs = len(op.results) - len(carried)
    axes, backwards = (op.ints(f"scan_input_{what}") or (0,) * count for what in ("axes", "directions"))
    out_axes, turned = (op.ints(f"scan_output_{what}") or (0,) * outputs for what in ("axes", "directions"))
    slices = [list(np.moveaxis(x, a, 0))[:: -1 if b else 1] for x, a, b in zip(scanned, axes, backwards, strict=True)]
    rows: list[list[Array]] = []
    for taken in zip(*slices, strict=True):
        made = interpreter.run_ssacfg_region(body, (*carried, *taken))
        carried = list(made[: len(carried)])
        rows.append(list(made[len(carried) :])[:outputs])
    stacked = [list(parts)[:: -1 if back else 1] for parts, back in zip(zip(*rows, strict=True), turned, strict=True)]
    return _grown(interpreter, op, carried, stacked or [[] for _ in turned], out_axes)


def _grown(
    interpreter: Interpreter,
    op: OnnxOp,
    carried: Sequence[Array],
    stacked: Sequence[Sequence[Array]],
    axes: Sequence[int],
) -> PythonValues:
    """The results of a Loop or Scan, whose sizes this run has found."""
    assert isinstance(interpreter, Machine)
    results = list(carried)
    for parts, axis, value in zip(stacked, axes, op.results[len(carried) :], strict=False):
        shape, dtype = shape_of(value), numpy_dtype(element_of(value))
        whole = np.stack(parts, axis) if parts else np.empty([e if isinstance(e, int) else 0 for e in shape], dtype)
        if not bind(shape, whole.shape, interpreter.sizes):
            raise refusal(op, f"gives shape {list(whole.shape)}, inference found {shape}")
        results.append(whole.astype(dtype, copy=False))
    return tuple(results)


def _drawn(self: Functions, interpreter: Interpreter, op: OnnxOp, values: PythonValues) -> PythonValues:
    """What the op's lowering draws: ONNX's reference has a generator of its own."""
    assert isinstance(interpreter, Machine)
    module = self.fact(op, _lowered_alone)
    given = dict(zip(op.operands, values, strict=True))
    operands = [v.view(numpy_dtype(stored(element_of(k)))) for k, v in given.items() if _is_computed(k)]
    made = iter(interpreter.random(module, operands))
    used = [result for result in op.results if result.uses] or list(op.results)
    return tuple(next(made).view(numpy_dtype(element_of(r))) if r in used else None for r in op.results)


def _lowered_alone(op: OnnxOp) -> ModuleOp:
    module = alone(op)
    LowerOnnx().apply(Context(), module)
    return module


def _is_computed(value: SSAValue) -> bool:
    return not isinstance(value.owner, WeightOp | ExtentsOp)


def _on_fixed(self: Functions, interpreter: Interpreter, op: OnnxOp, values: PythonValues) -> PythonValues:
    """By the definition of fixed-point numbers; what has none is what its lowering makes of it."""
    made = fixed.meaning(op, dict(zip(op.operands, values, strict=True)))
    if made is not None:
        return (made,)
    assert isinstance(interpreter, Machine)
    module = self.fact(op, _lowered_alone)
    given = {v: a for v, a in zip(op.operands, values, strict=True) if _is_computed(v)}
    raw = interpreter.random(module, [a.view(numpy_dtype(stored(element_of(v)))) for v, a in given.items()])
    used = [result for result in op.results if result.uses] or list(op.results)
    computed = {r: a.view(numpy_dtype(element_of(r))) for r, a in zip(used, raw, strict=True)}
    return tuple(computed.get(r) for r in op.results)


def _reference(self: Functions, interpreter: Interpreter, op: OnnxOp, values: PythonValues) -> PythonValues:
    """What ONNX's reference makes of the node, in the dtypes that inference found."""
    if any(isinstance(element_of(v), FixedType) for v in (*op.operands, *op.results)):
        return _on_fixed(self, interpreter, op, values)
    present = iter(values)
    arrays = [None if operand is None else next(present) for operand in op.inputs]
    try:
        results = evaluate_node(op.node(), arrays, DOMAINS)
    except SofieError as error:
        raise refusal(op, f"cannot be run: {error}") from error
    assert isinstance(interpreter, Machine)
    fits = [bind(shape_of(v), r.shape, interpreter.sizes) for r, v in zip(results, op.results, strict=True)]
    if not all(fits):
        shapes = [shape_of(result) for result in op.results]
        raise refusal(op, f"gives shapes {[list(r.shape) for r in results]}, inference found {shapes}")
    return tuple(r.astype(numpy_dtype(element_of(v)), copy=False) for r, v in zip(results, op.results, strict=True))
