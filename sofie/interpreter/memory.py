"""memref and blas: buffers are numpy views of the bytes they lie in, so that what shares memory shares values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.dialects import memref, tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType
from xdsl.interpreter import Interpreter, PythonValues, impl, register_impls
from xdsl.ir import Operation, SSAValue

from sofie.dialects.blas import GemmOp
from sofie.dialects.sofie import TileOp
from sofie.dialects.types import element_of, numpy_dtype, shape_of, shape_of_type, strides_and_offset
from sofie.dialects.upstream import PrefetchOp
from sofie.interpreter.lifetimes import is_written
from sofie.interpreter.machine import Functions, numbers, poison, refusal, room_for, within
from sofie.weights import Array

_Box = memref.SubviewOp | tensor.ExtractSliceOp | tensor.InsertSliceOp


def inside(op: Operation, array: Array, indices: Sequence[Any]) -> tuple[Any, ...]:
    """`indices`, scalars or arrays, if all of them lie inside `array`; raises SofieError (numpy would wrap below 0)."""
    for axis, (index, extent) in enumerate(zip(indices, array.shape, strict=True)):
        low, high = (index, index) if index.ndim == 0 else (index.min(), index.max())
        if low < 0 or high >= extent:
            raise refusal(op, f"reaches index {low if low < 0 else high} of axis {axis}, which has {extent} elements")
    return tuple(indices)


def geometry_of(op: _Box, dynamic: Sequence[Any]) -> list[list[int]]:
    """Offsets, sizes and strides of a slice; `dynamic` are its run-time operands, in that order."""
    rest = iter(dynamic)
    static = (op.static_offsets, op.static_sizes, op.static_strides)
    return [[int(next(rest)) if v == DYNAMIC_INDEX else v for v in part.get_values()] for part in static]


def box_of(op: _Box, shape: Sequence[int], dynamic: Sequence[Any]) -> tuple[Any, ...]:
    """The part of a value of `shape` that a slice names; raises SofieError where it reaches outside."""
    box = []
    for axis, (offset, size, stride, extent) in enumerate(zip(*geometry_of(op, dynamic), shape, strict=True)):
        end = offset + (size - 1) * stride + 1 if size else offset
        if offset < 0 or stride < 1 or end > extent:
            raise refusal(op, f"takes {offset}:{end}:{stride} of axis {axis}, which has {extent} elements")
        box.append(slice(offset, end, stride))
    return (*box, ...)


def _typed(interpreter: Interpreter, op: Operation, array: Array, offset: int | None) -> Array:
    """`array` if it lies as its type says, which is all that the emitted code sees; raises SofieError if not."""
    kind = op.results[0].type
    assert isinstance(kind, MemRefType)
    steps, start = strides_and_offset(kind)
    shape, strides = numbers(interpreter, shape_of_type(kind)), numbers(interpreter, steps)
    if array.shape != shape:
        raise refusal(op, f"makes a buffer of shape {list(array.shape)} and declares {kind}")
    lies = [step // array.itemsize for step in array.strides]
    wrong = any(s != lie for s, lie, n in zip(strides, lies, shape, strict=True) if n > 1)
    declared = None if start is None else numbers(interpreter, [start])[0]
    if array.size and (wrong or declared not in (None, offset)):
        raise refusal(op, f"makes a buffer of strides {lies} at offset {offset} and declares {kind}")
    return array


def _offset(interpreter: Interpreter, value: SSAValue) -> int | None:
    assert isinstance(value.type, MemRefType)
    offset = strides_and_offset(value.type)[1]
    return None if offset is None else numbers(interpreter, [offset])[0]


@register_impls
class MemoryFunctions(Functions):
    """Allocations, views, loads, stores, copies and matrix products."""

    @impl(memref.AllocOp)
    def alloc(self, interpreter: Interpreter, op: memref.AllocOp, values: PythonValues) -> PythonValues:
        """Poisoned memory."""
        return (room_for(interpreter, op.memref),)

    @impl(memref.AllocaOp)
    def alloca(self, interpreter: Interpreter, op: memref.AllocaOp, values: PythonValues) -> PythonValues:
        """Poisoned memory, each time anew."""
        return (room_for(interpreter, op.memref),)

    @impl(TileOp)
    def tile(self, interpreter: Interpreter, op: TileOp, values: PythonValues) -> PythonValues:
        """Poisoned memory of the whole value's size."""
        return (room_for(interpreter, op.result),)

    @impl(memref.DeallocOp)
    def dealloc(self, interpreter: Interpreter, op: memref.DeallocOp, values: PythonValues) -> PythonValues:
        """The memory's life ends."""
        poison(values[0])
        return ()

    @impl(PrefetchOp)
    def prefetch(self, interpreter: Interpreter, op: PrefetchOp, values: PythonValues) -> PythonValues:
        """Nothing: the element may even lie behind the buffer's end."""
        return ()

    @impl(memref.ViewOp)
    def view(self, interpreter: Interpreter, op: memref.ViewOp, values: PythonValues) -> PythonValues:
        """Bytes of the arena as a buffer; one that nobody writes owns no bytes."""
        source, shift, *sizes = values
        if sizes:
            raise refusal(op, "has sizes that are not static")
        if not is_written(op.result):
            return (room_for(interpreter, op.result),)
        dtype, shape = numpy_dtype(element_of(op.result)), shape_of(op.result)
        end = shift + math.prod(shape) * dtype.itemsize
        if shift < 0 or end > source.size:
            raise refusal(op, f"takes bytes {shift}:{end} of {source.size}")
        return (_typed(interpreter, op, source[shift:end].view(dtype).reshape(shape), 0),)

    @impl(memref.ReinterpretCastOp)
    def reinterpret_cast(
        self, interpreter: Interpreter, op: memref.ReinterpretCastOp, values: PythonValues
    ) -> PythonValues:
        """The first elements of a buffer, in the extents of the run."""
        shape = numbers(interpreter, shape_of(op.result))
        if math.prod(shape) > values[0].size:
            raise refusal(op, f"takes {math.prod(shape)} of {values[0].size} elements")
        return (_typed(interpreter, op, within(values[0], shape), 0),)

    @impl(memref.SubviewOp)
    def subview(self, interpreter: Interpreter, op: memref.SubviewOp, values: PythonValues) -> PythonValues:
        """A box of a buffer, in place."""
        array = values[0]
        part = array[box_of(op, array.shape, values[1:])]
        base = _offset(interpreter, op.source)
        starts = zip(geometry_of(op, values[1:])[0], array.strides, strict=True)
        offset = None if base is None else base + sum(o * s for o, s in starts) // array.itemsize
        return (_typed(interpreter, op, _reshaped(interpreter, op, part), offset),)

    @impl(memref.CastOp)
    def cast(self, interpreter: Interpreter, op: memref.CastOp, values: PythonValues) -> PythonValues:
        """The same buffer under a type that says less or more of its layout."""
        return (_typed(interpreter, op, values[0], _offset(interpreter, op.source)),)

    @impl(memref.CollapseShapeOp)
    def collapse(self, interpreter: Interpreter, op: memref.CollapseShapeOp, values: PythonValues) -> PythonValues:
        """The same memory under fewer axes."""
        return (_typed(interpreter, op, _reshaped(interpreter, op, values[0]), _offset(interpreter, op.src)),)

    @impl(memref.ExpandShapeOp)
    def expand(self, interpreter: Interpreter, op: memref.ExpandShapeOp, values: PythonValues) -> PythonValues:
        """The same memory under more axes."""
        return (_typed(interpreter, op, _reshaped(interpreter, op, values[0]), _offset(interpreter, op.src)),)

    @impl(memref.LoadOp)
    def load(self, interpreter: Interpreter, op: memref.LoadOp, values: PythonValues) -> PythonValues:
        """One element, or one a point where the indices are arrays."""
        return (values[0][inside(op, values[0], values[1:])],)

    @impl(memref.StoreOp)
    def store(self, interpreter: Interpreter, op: memref.StoreOp, values: PythonValues) -> PythonValues:
        """Writes one element."""
        element, array, *indices = values
        array[inside(op, array, indices)] = element
        return ()

    @impl(memref.CopyOp)
    def copy(self, interpreter: Interpreter, op: memref.CopyOp, values: PythonValues) -> PythonValues:
        """Writes all elements of one buffer into another."""
        source, destination = values
        destination[...] = source
        return ()

    @impl(GemmOp)
    def gemm(self, interpreter: Interpreter, op: GemmOp, values: PythonValues) -> PythonValues:
        """c += a' @ b', in the order that numpy's library takes."""
        a, b, c = values
        c += (a.T if op.transpose_a.value.data else a) @ (b.T if op.transpose_b.value.data else b)
        return ()


def _reshaped(interpreter: Interpreter, op: Operation, array: Array) -> Array:
    """The same memory under the shape of the op's result; raises SofieError where that would need a copy."""
    result = array.reshape(numbers(interpreter, shape_of(op.results[0])))
    if array.size and not np.may_share_memory(result, array):
        raise refusal(op, "reshapes a buffer whose elements do not lie one after the other")
    return result
