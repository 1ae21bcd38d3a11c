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
from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.interpreter.lifetimes import is_written
from sofie.interpreter.machine import Functions, poison, poisoned, refusal
from sofie.weights import Array

_Box = memref.SubviewOp | tensor.ExtractSliceOp | tensor.InsertSliceOp


def inside(op: Operation, array: Array, indices: Sequence[Any]) -> tuple[Any, ...]:
    """`indices`, scalars or arrays, if all of them lie inside `array`; raises SofieError (numpy would wrap below 0)."""
    for axis, (index, extent) in enumerate(zip(indices, array.shape, strict=True)):
        low, high = (index, index) if index.ndim == 0 else (index.min(), index.max())
        if low < 0 or high >= extent:
            raise refusal(op, f"reaches index {low if low < 0 else high} of axis {axis}, which has {extent} elements")
    return tuple(indices)


def box_of(op: _Box, shape: Sequence[int], offsets: Sequence[Any]) -> tuple[Any, ...]:
    """The part of a value of `shape` that a slice names, its run-time `offsets` given.

    Raises SofieError where sizes or strides are dynamic or it reaches outside.
    """
    if op.sizes or op.strides:
        raise refusal(op, "has sizes or strides that are not static")
    geometry = (starts_of(op, offsets), op.static_sizes.get_values(), op.static_strides.get_values())
    box = []
    for axis, (offset, size, stride, extent) in enumerate(zip(*geometry, shape, strict=True)):
        end = offset + (size - 1) * stride + 1 if size else offset
        if offset < 0 or stride < 1 or end > extent:
            raise refusal(op, f"takes {offset}:{end}:{stride} of axis {axis}, which has {extent} elements")
        box.append(slice(offset, end, stride))
    return (*box, ...)


def starts_of(op: _Box, offsets: Sequence[Any]) -> list[int]:
    """Where a slice begins on each axis, its run-time `offsets` given."""
    values = iter(offsets)
    return [int(next(values)) if o == DYNAMIC_INDEX else o for o in op.static_offsets.get_values()]


def _typed(op: Operation, array: Array, offset: int | None) -> Array:
    """`array` if it lies as its type says, which is all that the emitted code sees; raises SofieError if not."""
    kind = op.results[0].type
    assert isinstance(kind, MemRefType)
    shape, strides = tuple(kind.get_shape()), kind.get_strides()
    if array.shape != shape or strides is None:
        raise refusal(op, f"makes a buffer of shape {list(array.shape)} and declares {kind}")
    lies = [step // array.itemsize for step in array.strides]
    wrong = any(s is not None and s != lie for s, lie, n in zip(strides, lies, shape, strict=True) if n > 1)
    if array.size and (wrong or kind.get_offset() not in (None, offset)):
        raise refusal(op, f"makes a buffer of strides {lies} at offset {offset} and declares {kind}")
    return array


def _offset(value: SSAValue) -> int | None:
    assert isinstance(value.type, MemRefType)
    return value.type.get_offset()


@register_impls
class MemoryFunctions(Functions):
    """Allocations, views, loads, stores, copies and matrix products."""

    @impl(memref.AllocOp)
    def alloc(self, interpreter: Interpreter, op: memref.AllocOp, values: PythonValues) -> PythonValues:
        """Poisoned memory."""
        return (poisoned(op.memref),)

    @impl(memref.AllocaOp)
    def alloca(self, interpreter: Interpreter, op: memref.AllocaOp, values: PythonValues) -> PythonValues:
        """Poisoned memory, each time anew."""
        return (poisoned(op.memref),)

    @impl(TileOp)
    def tile(self, interpreter: Interpreter, op: TileOp, values: PythonValues) -> PythonValues:
        """Poisoned memory of the whole value's size."""
        return (poisoned(op.result),)

    @impl(memref.DeallocOp)
    def dealloc(self, interpreter: Interpreter, op: memref.DeallocOp, values: PythonValues) -> PythonValues:
        """The memory's life ends."""
        poison(values[0])
        return ()

    @impl(memref.ViewOp)
    def view(self, interpreter: Interpreter, op: memref.ViewOp, values: PythonValues) -> PythonValues:
        """Bytes of the arena as a buffer; one that nobody writes owns no bytes."""
        source, shift, *sizes = values
        if sizes:
            raise refusal(op, "has sizes that are not static")
        if not is_written(op.result):
            return (poisoned(op.result),)
        dtype, shape = numpy_dtype(element_of(op.result)), shape_of(op.result)
        end = shift + math.prod(shape) * dtype.itemsize
        if shift < 0 or end > source.size:
            raise refusal(op, f"takes bytes {shift}:{end} of {source.size}")
        return (_typed(op, source[shift:end].view(dtype).reshape(shape), 0),)

    @impl(memref.SubviewOp)
    def subview(self, interpreter: Interpreter, op: memref.SubviewOp, values: PythonValues) -> PythonValues:
        """A box of a buffer, in place."""
        array = values[0]
        part = array[box_of(op, array.shape, values[1:])]
        base = None if op.offsets else _offset(op.source)
        starts = zip(starts_of(op, values[1:]), array.strides, strict=True)
        offset = None if base is None else base + sum(o * s for o, s in starts) // array.itemsize
        return (_typed(op, _reshaped(op, part), offset),)

    @impl(memref.CastOp)
    def cast(self, interpreter: Interpreter, op: memref.CastOp, values: PythonValues) -> PythonValues:
        """The same buffer under a type that says less or more of its layout."""
        return (_typed(op, values[0], _offset(op.source)),)

    @impl(memref.CollapseShapeOp)
    def collapse(self, interpreter: Interpreter, op: memref.CollapseShapeOp, values: PythonValues) -> PythonValues:
        """The same memory under fewer axes."""
        return (_typed(op, _reshaped(op, values[0]), _offset(op.src)),)

    @impl(memref.ExpandShapeOp)
    def expand(self, interpreter: Interpreter, op: memref.ExpandShapeOp, values: PythonValues) -> PythonValues:
        """The same memory under more axes."""
        return (_typed(op, _reshaped(op, values[0]), _offset(op.src)),)

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


def _reshaped(op: Operation, array: Array) -> Array:
    """The same memory under the shape of the op's result; raises SofieError where that would need a copy."""
    result = array.reshape(shape_of(op.results[0]))
    if array.size and not np.may_share_memory(result, array):
        raise refusal(op, "reshapes a buffer whose elements do not lie one after the other")
    return result
