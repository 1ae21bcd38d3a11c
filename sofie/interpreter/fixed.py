"""Level 1 on fixed-point numbers: by `sofie.fixed`, in Python's integers, an element after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from xdsl.ir import SSAValue

from sofie.dialects.fixed import ConvertOp, fixed_of
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, numpy_dtype
from sofie.fixed import Fixed
from sofie.weights import Array

_EXACT: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Relu": lambda x: np.where(x > 0, x, 0 * x),
}


def converted(op: ConvertOp, array: Array) -> Array:
    """The elements in the result's type."""
    source, target = fixed_of(element_of(op.value)), fixed_of(element_of(op.result))
    dtype = numpy_dtype(element_of(op.result))
    if target is None:
        assert source is not None
        return cast(Array, array.astype(dtype) * dtype.type(2.0**-source.fraction))
    numbers = array.astype(object) if source is None else _each(source.value, array)
    return cast(Array, _each(target.raw, numbers).astype(dtype))


def meaning(op: OnnxOp, values: Mapping[SSAValue, Array]) -> Array | None:
    """The raw result of an operator, given those of its operands; None where it is not defined here."""
    kinds = [fixed_of(element_of(v)) for v in op.operands]
    target = fixed_of(element_of(op.results[0]))
    if op.SCHEMA.domain or target is None or None in kinds:
        return None
    exact = [_each(cast(Fixed, k).value, values[v]) for k, v in zip(kinds, op.operands, strict=True)]
    dtype = numpy_dtype(element_of(op.results[0]))
    if op.operator in _EXACT:
        raw = _each(target.raw, _EXACT[op.operator](*exact))
    elif op.operator == "MatMul" and all(x.ndim > 1 for x in exact):
        raw = _sums(exact[0], exact[1], 0, target)
    elif op.operator == "Gemm":
        a, b = (x.T if op.integer(f"trans{n}") else x for x, n in zip(exact, "AB", strict=False))
        raw = _sums(a, b, _each(target.raw, exact[2]) if len(exact) > 2 else 0, target)
    else:
        return None
    return cast(Array, raw.astype(dtype))


def _each(function: Callable[[Any], Any], array: Any) -> Any:
    """A Python function of each element, as an array of objects."""
    return np.asarray(np.frompyfunc(function, 1, 1)(np.asarray(array).astype(object)), object)


def _sums(a: Any, b: Any, start: Any, target: Fixed) -> Any:
    """start + a @ b, raw: each product is brought into the type, and each sum, from the first term to the last."""
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    sums = np.broadcast_to(np.asarray(start, object), shape)
    for k in range(a.shape[-1]):
        products = _each(target.raw, a[..., :, k, None] * b[..., k, None, :])
        sums = _each(target.wrapped, sums + products)
    return sums
