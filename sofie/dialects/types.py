"""Element types in one table: ONNX's tensor types, numpy's, and those of the IR.

Level 1 keeps ONNX's types. Below it, integers are signless, as upstream MLIR demands, and the sign lives in the op
(`divui`); floats of 16 bits and fewer are their bits, as integers of that width or a byte, and lowerings compute with
float32; integers of 4 and 2 bits take a byte each, fixed-point numbers are their raw integers in 1, 2, 4 or 8 bytes.
bool is `i1` as a value and one byte in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AnyFloat,
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    IndexType,
    IntegerType,
    MemRefType,
    NoneAttr,
    Signedness,
    StridedLayoutAttr,
    StringAttr,
    TensorType,
    VectorType,
)
from xdsl.ir import Attribute, SSAValue

from sofie import sizes
from sofie.dialects.fixed import FixedType
from sofie.dialects.narrow import NarrowFloat
from sofie.dialects.sizes import LayoutAttr, SizesAttr
from sofie.errors import UnsupportedError

_ROWS: list[tuple[int, str, Attribute]] = [
    (onnx.TensorProto.FLOAT, "float32", Float32Type()),
    (onnx.TensorProto.DOUBLE, "float64", Float64Type()),
    (onnx.TensorProto.FLOAT16, "float16", Float16Type()),
    (onnx.TensorProto.BFLOAT16, "bfloat16", BFloat16Type()),
    (onnx.TensorProto.INT8, "int8", IntegerType(8)),
    (onnx.TensorProto.INT16, "int16", IntegerType(16)),
    (onnx.TensorProto.INT32, "int32", IntegerType(32)),
    (onnx.TensorProto.INT64, "int64", IntegerType(64)),
    (onnx.TensorProto.UINT8, "uint8", IntegerType(8, Signedness.UNSIGNED)),
    (onnx.TensorProto.UINT16, "uint16", IntegerType(16, Signedness.UNSIGNED)),
    (onnx.TensorProto.UINT32, "uint32", IntegerType(32, Signedness.UNSIGNED)),
    (onnx.TensorProto.UINT64, "uint64", IntegerType(64, Signedness.UNSIGNED)),
    (onnx.TensorProto.BOOL, "bool", IntegerType(1)),
    (onnx.TensorProto.FLOAT8E4M3FN, "float8_e4m3fn", NarrowFloat(StringAttr("f8E4M3FN"))),
    (onnx.TensorProto.FLOAT8E4M3FNUZ, "float8_e4m3fnuz", NarrowFloat(StringAttr("f8E4M3FNUZ"))),
    (onnx.TensorProto.FLOAT8E5M2, "float8_e5m2", NarrowFloat(StringAttr("f8E5M2"))),
    (onnx.TensorProto.FLOAT8E5M2FNUZ, "float8_e5m2fnuz", NarrowFloat(StringAttr("f8E5M2FNUZ"))),
    (onnx.TensorProto.FLOAT8E8M0, "float8_e8m0fnu", NarrowFloat(StringAttr("f8E8M0FNU"))),
    (onnx.TensorProto.FLOAT4E2M1, "float4_e2m1fn", NarrowFloat(StringAttr("f4E2M1FN"))),
    (onnx.TensorProto.INT4, "int4", IntegerType(4)),
    (onnx.TensorProto.UINT4, "uint4", IntegerType(4, Signedness.UNSIGNED)),
    (onnx.TensorProto.INT2, "int2", IntegerType(2)),
    (onnx.TensorProto.UINT2, "uint2", IntegerType(2, Signedness.UNSIGNED)),
]
_BY_ONNX = {code: element for code, _, element in _ROWS}
_TO_ONNX = {element: code for code, _, element in _ROWS}
_TO_NUMPY = {element: np.dtype(getattr(ml_dtypes, name, name)) for _, name, element in _ROWS}
_BY_NUMPY = {dtype: element for element, dtype in _TO_NUMPY.items()}


def element_from_onnx(code: int) -> Attribute:
    """The level 1 element type of ONNX's `TensorProto.DataType` value `code`; raises UnsupportedError."""
    element = _BY_ONNX.get(code)
    if element is None:
        name = onnx.TensorProto.DataType.Name(code) if code in onnx.TensorProto.DataType.values() else str(code)
        raise UnsupportedError(f"tensors of type {name} are not supported; use float, double, an integer type or bool")
    return element


def element_types() -> dict[str, Attribute]:
    """Every level 1 element type by numpy's name."""
    return {name: element for _, name, element in _ROWS}


def element_to_onnx(element: Attribute) -> int:
    """ONNX's data type of a level 1 element type."""
    return _TO_ONNX[element]


def element_from_numpy(dtype: npt.DTypeLike) -> Attribute:
    """The level 1 element type of a numpy dtype; raises UnsupportedError."""
    element = _BY_NUMPY.get(np.dtype(dtype))
    if element is None:
        raise UnsupportedError(f"arrays of type {np.dtype(dtype)} are not supported")
    return element


def numpy_dtype(element: Attribute) -> np.dtype[np.generic]:
    """The numpy dtype of an element type; signless integers read as signed, `index` as int64."""
    if isinstance(element, FixedType):
        return np.dtype(f"{'int' if element.data.signed else 'uint'}{8 * element.bytes}")
    return np.dtype(np.int64) if isinstance(element, IndexType) else _TO_NUMPY[element]


def is_unsigned(element: Attribute) -> bool:
    """Whether a level 1 element type is an unsigned integer, or held as one (bool is not)."""
    if isinstance(element, FixedType):
        return not element.data.signed
    return isinstance(element, IntegerType) and element.signedness.data == Signedness.UNSIGNED


def stored(element: Attribute) -> Attribute:
    """The element type as it stands below level 1: signless, and the bits of a narrow float."""
    if isinstance(element, FixedType):
        return IntegerType(8 * element.bytes)
    if is_narrow(element) or (isinstance(element, IntegerType) and 1 < element.width.data < 8):
        return IntegerType(8 * bytes_of(element))
    return IntegerType(element.width.data) if is_unsigned(element) and isinstance(element, IntegerType) else element


def is_float(element: Attribute) -> bool:
    """Whether the element type is a floating-point type."""
    return isinstance(element, AnyFloat | NarrowFloat)


def is_narrow(element: Attribute) -> bool:
    """Whether the element type is a float that lowerings do not compute with."""
    return isinstance(element, Float16Type | BFloat16Type | NarrowFloat)


def bytes_of(element: Attribute) -> int:
    """Bytes that one element takes in memory."""
    return numpy_dtype(element).itemsize


def tensor(element: Attribute, shape: Sequence[int]) -> TensorType[Attribute]:
    """The ranked tensor type; run-time extents go into its encoding."""
    if sizes.is_static(shape):
        return TensorType(element, list(shape))
    return TensorType(element, _dims(shape), SizesAttr(tuple(shape)))


def memref(
    element: Attribute, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int | None = 0
) -> MemRefType[Attribute]:
    """The memref type; row-major without `strides`, and an `offset` of None is known only to the caller.

    Where extents, strides or offset are run-time sizes, they go into a layout of our own.
    """
    own = contiguous_strides(shape) if strides is None else tuple(strides)
    if not sizes.is_static((*shape, *own, 0 if offset is None else offset)):
        layout = LayoutAttr((tuple(shape), own, () if offset is None else (offset,)))
        return MemRefType(element, _dims(shape), layout)
    if own == contiguous_strides(shape) and offset == 0:
        return MemRefType(element, list(shape))
    return MemRefType(element, list(shape), StridedLayoutAttr(own, offset))


def _dims(shape: Sequence[int]) -> list[int]:
    return [DYNAMIC_INDEX if isinstance(e, sizes.Size) else e for e in shape]


Shaped = TensorType[Attribute] | MemRefType[Attribute] | VectorType[Attribute]


def shaped(value: SSAValue) -> Shaped:
    """The type of `value`, which is known to be a tensor, memref or vector."""
    assert isinstance(value.type, TensorType | MemRefType | VectorType), value.type
    return cast(Shaped, value.type)


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """The extents of a tensor, memref or vector value: ints, or `sofie.sizes.Size` where known only at run time."""
    return shape_of_type(shaped(value))


def shape_of_type(kind: Shaped) -> tuple[int, ...]:
    """The extents of a tensor, memref or vector type."""
    if isinstance(kind, TensorType) and isinstance(kind.encoding, SizesAttr):
        return kind.encoding.data
    if isinstance(kind, MemRefType) and isinstance(kind.layout, LayoutAttr):
        return kind.layout.data[0]
    return tuple(kind.get_shape())


def element_of(value: SSAValue) -> Attribute:
    """The element type of a tensor, memref or vector value, or the scalar's own type."""
    return shaped(value).element_type if isinstance(value.type, TensorType | MemRefType | VectorType) else value.type


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides, in elements."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def strides_and_offset(kind: MemRefType[Attribute]) -> tuple[list[int], int | None]:
    """Strides (elements) and static offset of a memref; an offset of None is known only to the caller."""
    if isinstance(kind.layout, NoneAttr):
        return list(contiguous_strides(kind.get_shape())), 0
    if isinstance(kind.layout, LayoutAttr):
        _, own, offset = kind.layout.data
        return list(own), offset[0] if offset else None
    assert isinstance(kind.layout, StridedLayoutAttr)
    strides = [s for s in kind.layout.get_strides() if s is not None]
    return strides, kind.layout.get_offset()


def strides_of(value: SSAValue) -> list[int]:
    """Strides (elements) of a memref value."""
    assert isinstance(value.type, MemRefType), value.type
    return strides_and_offset(value.type)[0]


def with_any_offset(kind: MemRefType[Attribute]) -> MemRefType[Attribute]:
    """The type of a view for whoever is given it: the offset is known only to the caller."""
    strides, _ = strides_and_offset(kind)
    return memref(kind.element_type, shape_of_type(kind), strides, None)
