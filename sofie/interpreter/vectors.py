"""vector: a vector is the array of its lanes, a value that later stores do not change."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects import vector
from xdsl.dialects.builtin import DYNAMIC_INDEX, VectorType
from xdsl.interpreter import Interpreter, PythonValues, impl, register_impls
from xdsl.ir import Operation

from sofie.dialects.scalars import (
    WORD,
    CastLanesOp,
    DotOp,
    DotPairsOp,
    JoinOp,
    LoadWordOp,
    QuantizeOp,
    RequantizeLanesOp,
    RequantizeOp,
    WidenBytesOp,
)
from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.interpreter.machine import Functions, poison, refusal
from sofie.interpreter.memory import inside
from sofie.interpreter.scalars import CASTS, COMBINE, fused_multiply_add
from sofie.weights import Array


@register_impls
class VectorFunctions(Functions):
    """Loads, stores and moves between lanes; arithmetic on lanes is `arith`'s."""

    @impl(vector.LoadOp)
    def load(self, interpreter: Interpreter, op: vector.LoadOp, values: PythonValues) -> PythonValues:
        """A copy of consecutive elements."""
        return (values[0][_lanes(op, values[0], values[1:], self.fact(op, _result_shape))].copy(),)

    @impl(LoadWordOp)
    def load_word(self, interpreter: Interpreter, op: LoadWordOp, values: PythonValues) -> PythonValues:
        """Four bytes a word, or two of 16 bits, in the machine's order."""
        shape, count = self.fact(op, _words), WORD // values[0].dtype.itemsize
        lanes = values[0][_lanes(op, values[0], values[1:], (count * math.prod(shape),))].copy().view(np.int32)
        return (lanes if shape else lanes[0],)

    @impl(JoinOp)
    def join(self, interpreter: Interpreter, op: JoinOp, values: PythonValues) -> PythonValues:
        """By lane; in the machine's order."""
        parts = np.stack(values, -1)
        whole = np.zeros((*parts.shape[:-1], WORD // parts.itemsize), parts.dtype)
        whole[..., : parts.shape[-1]] = parts
        return (whole.view(np.int32)[..., 0][()],)

    @impl(DotOp)
    def dot(self, interpreter: Interpreter, op: DotOp, values: PythonValues) -> PythonValues:
        """By lane; wraps."""
        return (_dot(values, np.uint8, np.int8),)

    @impl(DotPairsOp)
    def dot_pairs(self, interpreter: Interpreter, op: DotPairsOp, values: PythonValues) -> PythonValues:
        """By lane; wraps."""
        return (_dot(values, np.int16, np.int16),)

    @impl(WidenBytesOp)
    def widen_bytes(self, interpreter: Interpreter, op: WidenBytesOp, values: PythonValues) -> PythonValues:
        """By lane; the first byte is the lowest."""
        word = np.asarray(values[0], np.int32)
        kind = np.int8 if op.signed is not None else np.uint8
        bytes_of_word = word.reshape(*word.shape, 1).view(kind)[..., op.places.data == "odd" :: 2]
        return (np.ascontiguousarray(bytes_of_word.astype(np.int16)).view(np.int32)[..., 0][()],)

    @impl(RequantizeOp)
    def requantize(self, interpreter: Interpreter, op: RequantizeOp, values: PythonValues) -> PythonValues:
        """By lane, in float64."""
        return (_requantized(op, *values),)

    @impl(RequantizeLanesOp)
    def requantize_lanes(self, interpreter: Interpreter, op: RequantizeLanesOp, values: PythonValues) -> PythonValues:
        """By lane, in float64 alone."""
        count, (lanes,) = len(op.sums), self.fact(op, _result_shape)
        rest = iter(values[3 * count :])
        scale, *scale_at = (next(rest) for _ in range(1 + len(op.scale_at)))
        offset, *offset_at = rest
        scale, offset = (
            value[_lanes(op, value, at, (lanes,))] if at else value
            for value, at in ((scale, scale_at), (offset, offset_at))
        )
        return (_requantized(op, np.concatenate(values[:count]), scale, offset),)

    @impl(QuantizeOp)
    def quantize(self, interpreter: Interpreter, op: QuantizeOp, values: PythonValues) -> PythonValues:
        """By lane, in float32."""
        number, scale = (np.asarray(v, np.float32) for v in values)
        zero, least, most = op.numbers
        with np.errstate(all="ignore"):
            inside = np.fmin(np.fmax(number / scale, np.float32(least - zero)), np.float32(most - zero))
        return ((np.rint(inside).astype(np.int32) + zero).astype(np.int8)[()],)

    @impl(CastLanesOp)
    def convert(self, interpreter: Interpreter, op: CastLanesOp, values: PythonValues) -> PythonValues:
        """By lane, as arith does it."""
        return (CASTS[op.cast.data](values[0], self.fact(op, _result_dtype)),)

    @impl(vector.StoreOp)
    def store(self, interpreter: Interpreter, op: vector.StoreOp, values: PythonValues) -> PythonValues:
        """Writes consecutive elements."""
        lanes, array, *indices = values
        array[_lanes(op, array, indices, lanes.shape)] = lanes
        return ()

    @impl(vector.BroadcastOp)
    def broadcast(self, interpreter: Interpreter, op: vector.BroadcastOp, values: PythonValues) -> PythonValues:
        """Every lane has the scalar, every row the vector."""
        lanes = np.empty(self.fact(op, _result_shape), values[0].dtype)
        lanes[...] = values[0]
        return (lanes,)

    @impl(vector.ExtractOp)
    def extract(self, interpreter: Interpreter, op: vector.ExtractOp, values: PythonValues) -> PythonValues:
        """One lane, or one vector of a vector of vectors."""
        return (values[0][_position(op, self.fact(op, _static_position), values[1:], values[0])],)

    @impl(vector.InsertOp)
    def insert(self, interpreter: Interpreter, op: vector.InsertOp, values: PythonValues) -> PythonValues:
        """A copy of the destination with one lane replaced."""
        source, destination, *dynamic = values
        lanes = destination.copy()
        lanes[_position(op, self.fact(op, _static_position), dynamic, destination)] = source
        return (lanes,)

    @impl(vector.FMAOp)
    def fma(self, interpreter: Interpreter, op: vector.FMAOp, values: PythonValues) -> PythonValues:
        """lhs * rhs + acc, rounded once."""
        return (fused_multiply_add(*values),)

    @impl(vector.ShuffleOp)
    def shuffle(self, interpreter: Interpreter, op: vector.ShuffleOp, values: PythonValues) -> PythonValues:
        """Picks among the lanes of both; a lane of -1 is poison."""
        mask = self.fact(op, _mask)
        lanes = np.concatenate([np.atleast_1d(v) for v in values])[mask]
        unset = lanes[mask < 0]
        poison(unset)
        lanes[mask < 0] = unset
        return (lanes,)

    @impl(vector.ReductionOp)
    def reduction(self, interpreter: Interpreter, op: vector.ReductionOp, values: PythonValues) -> PythonValues:
        """The lanes combined from the first to the last, after the accumulator where there is one."""
        lanes, *start = values
        return (functools.reduce(self.fact(op, _combination), [*start, *lanes]),)


def _dot(values: PythonValues, of_x: type[np.integer[Any]], of_w: type[np.integer[Any]]) -> Any:
    """The first value with the products of what two words hold, of these types."""
    total, *words = (np.asarray(v, np.int32) for v in values)
    x, w = (v.reshape(*v.shape, 1).view(kind).astype(np.int32) for v, kind in zip(words, (of_x, of_w), strict=True))
    return np.add(total, (x * w).sum(-1, dtype=np.int32), dtype=np.int32)[()]


def _words(op: LoadWordOp) -> tuple[int, ...]:
    return shape_of(op.res) if isinstance(op.res.type, VectorType) else ()


def _result_dtype(op: Operation) -> np.dtype[Any]:
    return numpy_dtype(element_of(op.results[0]))


def _result_shape(op: Operation) -> tuple[int, ...]:
    return shape_of(op.results[0])


def _mask(op: vector.ShuffleOp) -> npt.NDArray[np.int64]:
    return np.array(op.mask.get_values(), np.int64)


def _combination(op: vector.ReductionOp) -> Callable[[Any, Any], Any]:
    return COMBINE[op.kind.data]


def _static_position(op: vector.ExtractOp | vector.InsertOp) -> list[int]:
    return list(op.static_position.get_values())


def _requantized(op: RequantizeOp | RequantizeLanesOp, *values: Any) -> Any:
    """The bytes of sums, by scales and offsets."""
    total, scale, offset = (np.asarray(v, np.float64) for v in values)
    zero, least, most = op.numbers
    return np.clip(np.rint(total * scale + offset) + zero, least, most).astype(np.int32).astype(np.int8)[()]


def _lanes(op: Operation, array: Array, indices: Sequence[Any], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Where the elements lie that a vector of `shape` covers from `indices` on; raises SofieError if not in `array`."""
    inside(op, array, indices)
    last = indices[-1] + shape[-1]
    if len(shape) == 1 and last <= array.shape[-1] and array.strides[-1] == array.itemsize:
        return (*indices[:-1], slice(indices[-1], last))
    if len(shape) != 1:
        raise refusal(op, f"has {len(shape)} axes; vectors in memory have one")
    return _following(op, array, indices, shape[0])


def _following(op: Operation, array: Array, indices: Sequence[Any], count: int) -> tuple[Any, ...]:
    """The next `count` elements across rows, where they follow one another in memory too."""
    first = int(np.ravel_multi_index(tuple(indices), array.shape))
    if first + count > array.size:
        raise refusal(op, f"reaches {count} elements from element {first} of {array.size}")
    found = np.unravel_index(np.arange(first, first + count), array.shape)
    addresses = sum(axis * step for axis, step in zip(found, array.strides, strict=True))
    if np.any(np.diff(addresses) != array.itemsize):
        raise refusal(op, f"reaches {count} elements that do not follow one another in memory")
    return tuple(found)


def _position(op: Operation, static: Sequence[int], dynamic: Sequence[Any], lanes: Array) -> tuple[Any, ...]:
    given = iter(dynamic)
    position = tuple(next(given) if p == DYNAMIC_INDEX else p for p in static)
    for index, extent in zip(position, lanes.shape, strict=False):
        if not 0 <= index < extent:
            raise refusal(op, f"names lane {index} of {extent}")
    return position
