"""What kernels compute beyond arith and math, on numbers and by lane: codes of 16 bits, words of bytes, bytes of sums.

They are ops of the dialect of `sofie.dialects.sofie`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import ml_dtypes
import numpy as np
from xdsl.dialects.builtin import (
    Float32Type,
    IndexType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    StringAttr,
    UnitAttr,
    VectorType,
    f32,
    f64,
    i8,
    i16,
    i32,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.traits import MemoryReadEffect, Pure
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.type import get_element_type_or_self

ROUNDED = "sofie.rounded"
"""On an `arith.mulf`: it is no part of a multiply-add."""

WORD = 4
"""The bytes of a word."""

CODES: dict[str, np.dtype[np.generic]] = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
"""The floats of 16 bits that stand as codes below level 1, by their names in MLIR."""


@irdl_op_definition
class DecodeOp(IRDLOperation):
    """The float32 that a code of 16 bits stands for, exactly (levels 2 to 4').

    format: one of `CODES`.
    """

    name = "sofie.decode"
    format = prop_def(StringAttr)
    code = operand_def(i16)
    number = result_def(Float32Type)
    traits = traits_def(Pure())

    def __init__(self, format: str, code: SSAValue) -> None:
        super().__init__(operands=[code], result_types=[f32], properties={"format": StringAttr(format)})


@irdl_op_definition
class EncodeOp(IRDLOperation):
    """The code of 16 bits of a float32: that of the nearest number, of two the even one (levels 2 to 4').

    Beyond the largest number that is the infinite one's; of NaN it is a NaN's. format: one of `CODES`.
    """

    name = "sofie.encode"
    format = prop_def(StringAttr)
    number = operand_def(Float32Type)
    code = result_def(i16)
    traits = traits_def(Pure())

    def __init__(self, format: str, number: SSAValue) -> None:
        super().__init__(operands=[number], result_types=[i16], properties={"format": StringAttr(format)})


def cast_of(op: Operation) -> str:
    """What a change of type is called on lanes: by its op, and by its format where it has one; printed so, too."""
    if isinstance(op, DecodeOp | EncodeOp):
        return f"{op.name.removeprefix('sofie.')}_{op.format.data}"
    return op.name


@irdl_op_definition
class LoadWordOp(IRDLOperation):
    """Four neighbouring bytes as one i32, or two i16, or so many words side by side as a vector (level 4).

    indices: of the first element in memref<..xi8> or memref<..xi16>, whose elements follow one another there.
    """

    name = "sofie.load_word"
    memref = operand_def(MemRefType)
    indices = var_operand_def(IndexType)
    res = result_def()
    traits = traits_def(MemoryReadEffect())

    def __init__(self, memref: SSAValue, indices: Sequence[SSAValue], result_type: Attribute = i32) -> None:
        super().__init__(operands=[memref, list(indices)], result_types=[result_type])


@irdl_op_definition
class JoinOp(IRDLOperation):
    """Up to four bytes, or two codes of 16 bits, as the i32 that they would be loaded as, side by side (level 4).

    Behind the last byte are zeros. Of scalars, or of vectors by lane.
    """

    name = "sofie.join"
    parts = var_operand_def()
    res = result_def()
    traits = traits_def(Pure())

    def __init__(self, parts: Sequence[SSAValue]) -> None:
        super().__init__(operands=[parts], result_types=[i32])

    def verify_(self) -> None:
        kinds = [get_element_type_or_self(v.type) for v in self.parts]
        if kinds != [i16] * (WORD // 2) and not (0 < len(kinds) <= WORD and set(kinds) == {i8}):
            raise VerifyException("sofie.join makes a word of one to four i8 or two i16")


class _Dot(IRDLOperation, ABC):
    """The sum with the products of what is in two words: of i32, or of vectors of them by lane. It wraps."""

    sum = operand_def()
    x = operand_def()
    w = operand_def()
    res = result_def()
    traits = traits_def(Pure())

    def __init__(self, sum: SSAValue, x: SSAValue, w: SSAValue) -> None:
        super().__init__(operands=[sum, x, w], result_types=[sum.type])

    def verify_(self) -> None:
        if not self.sum.type == self.x.type == self.w.type == self.res.type:
            raise VerifyException(f"{self.name} is of operands and a result of one type")


@irdl_op_definition
class DotOp(_Dot):
    """sum + x[0] w[0] + .. + x[3] w[3], bytes of words: those of x have no sign, those of w have one (level 4).

    narrow: whether w's bytes are such that whatever x is, the first two products together have 16 bits, and the others.
    """

    name = "sofie.dot"
    narrow = opt_prop_def(UnitAttr)


@irdl_op_definition
class DotPairsOp(_Dot):
    """sum + x[0] w[0] + x[1] w[1], the halves of words, which have a sign (level 4)."""

    name = "sofie.dot_pairs"


@irdl_op_definition
class WidenBytesOp(IRDLOperation):
    """Two bytes of a word as its halves: those in even places, the first and the third, or those in odd ones (level 4).

    places: "even" or "odd". signed: whether the bytes have a sign. Of an i32, or of a vector of them by lane.
    """

    name = "sofie.widen_bytes"
    places = prop_def(StringAttr)
    signed = opt_prop_def(UnitAttr)
    word = operand_def()
    res = result_def()
    traits = traits_def(Pure())

    def __init__(self, word: SSAValue, places: str, signed: bool) -> None:
        properties = {"places": StringAttr(places), "signed": UnitAttr() if signed else None}
        super().__init__(operands=[word], result_types=[word.type], properties=properties)

    def verify_(self) -> None:
        if self.places.data not in ("even", "odd") or self.word.type != self.res.type:
            raise VerifyException("sofie.widen_bytes is of even or of odd places, and keeps the type")


class _ToByte(IRDLOperation, ABC):
    """What is rounded to a byte, moved by zero, and held between least and most."""

    zero = prop_def(IntegerAttr[IntegerType])
    least = prop_def(IntegerAttr[IntegerType])
    most = prop_def(IntegerAttr[IntegerType])
    res = result_def()

    def __init__(
        self,
        operands: Sequence[SSAValue | Sequence[SSAValue]],
        zero: int,
        least: int,
        most: int,
        result_type: Attribute = i8,
    ) -> None:
        numbers = {"zero": zero, "least": least, "most": most}
        properties = {name: IntegerAttr(number, i32) for name, number in numbers.items()}
        super().__init__(operands=list(operands), result_types=[result_type], properties=properties)

    @property
    def numbers(self) -> tuple[int, int, int]:
        """zero, least and most."""
        return self.zero.value.data, self.least.value.data, self.most.value.data

    def verify_(self) -> None:
        if get_element_type_or_self(self.res.type) != i8 or not fit_a_byte(*self.numbers):
            raise VerifyException(f"{self.name} makes i8, between bounds that a byte has")


def fit_a_byte(zero: int, least: int, most: int) -> bool:
    """Whether a byte, with or without a sign, can have these zero point and bounds."""
    return -128 <= least <= most <= 255 and -128 <= zero <= 255


@irdl_op_definition
class RequantizeOp(_ToByte):
    """min(max(round(sum * scale + offset) + zero, least), most) as a byte (levels 2 to 4').

    sum: i32. scale, offset: f64, no offset larger than `LARGEST_OFFSET`. Rounded once, to the nearest, of two the even
    one; nothing wraps. Of scalars, or of vectors by lane.
    """

    name = "sofie.requantize"
    sum = operand_def()
    scale = operand_def()
    offset = operand_def()
    traits = traits_def(Pure())

    def verify_(self) -> None:
        super().verify_()
        if [get_element_type_or_self(v.type) for v in self.operands] != [i32, f64, f64]:
            raise VerifyException("sofie.requantize is of i32 and two f64")


STEPS = 2048.0
"""Those of one, in which a float32 is rounded where a byte is looked for; integers.hxx counts in them, too."""
LARGEST_OFFSET = 700.0
"""Up to here, float32 tells nearly always on which side of a half a number of at most 256 lies: to within 2^-12."""


Place = tuple[SSAValue, Sequence[SSAValue]]
"""A number, or a memref and the indices of one there."""


@irdl_op_definition
class RequantizeLanesOp(_ToByte):
    """What `RequantizeOp` makes of one vector of sums, or of two whose lanes stand side by side (level 4).

    steps, first: f32 for each of them, by lane or one for all: scale, and offset + zero + 1/2, times `STEPS`. They
    tell nearly always; else scale and offset do, of f64: one for all, or where in memory that of the first lane is.
    """

    name = "sofie.requantize_lanes"
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    sums = var_operand_def(VectorType)
    steps = var_operand_def()
    first = var_operand_def()
    scale = operand_def()
    scale_at = var_operand_def(IndexType)
    offset = operand_def()
    offset_at = var_operand_def(IndexType)
    traits = traits_def(MemoryReadEffect())

    def __init__(
        self,
        sums: Sequence[SSAValue],
        steps: Sequence[SSAValue],
        first: Sequence[SSAValue],
        scale: Place,
        offset: Place,
        numbers: tuple[int, int, int],
    ) -> None:
        kind = sums[0].type
        assert isinstance(kind, VectorType)
        groups = [sums, steps, first, [scale[0]], scale[1], [offset[0]], offset[1]]
        super().__init__(groups, *numbers, VectorType(i8, [kind.get_shape()[0] * len(sums)]))

    def verify_(self) -> None:
        super().verify_()
        if not 1 <= len(self.sums) <= 2 or not len(self.sums) == len(self.steps) == len(self.first):
            raise VerifyException("sofie.requantize_lanes is of one vector of sums or two, each with its steps")
        if any(get_element_type_or_self(v.type) != f32 for v in (*self.steps, *self.first)):
            raise VerifyException("sofie.requantize_lanes has steps of f32")
        if any(get_element_type_or_self(v.type) != f64 for v in (self.scale, self.offset)):
            raise VerifyException("sofie.requantize_lanes has a scale and an offset of f64")


@irdl_op_definition
class QuantizeOp(_ToByte):
    """min(max(round(number / scale) + zero, least), most) as a byte (levels 2 to 4'); of NaN, least.

    number, scale: f32, and so is the quotient, which is rounded to the nearest, of two the even one; the reciprocal of
    no scale is subnormal. Of scalars, or of vectors by lane.
    """

    name = "sofie.quantize"
    number = operand_def()
    scale = operand_def()
    traits = traits_def(Pure())

    def verify_(self) -> None:
        super().verify_()
        if [get_element_type_or_self(v.type) for v in self.operands] != [f32, f32]:
            raise VerifyException("sofie.quantize is of two f32")


NEAREST = "nearest"
"""The conversion of floats to the nearest integer, of two the even one."""


@irdl_op_definition
class CastLanesOp(IRDLOperation):
    """The lanes of a vector as another type (level 4).

    cast: `cast_of` the op that does so to a scalar (xDSL's take no vectors), or `nearest`.
    """

    name = "sofie.cast_lanes"
    cast = prop_def(StringAttr)
    lanes = operand_def(VectorType)
    res = result_def(VectorType)
    traits = traits_def(Pure())

    def __init__(self, cast: str, lanes: SSAValue, result_type: Attribute) -> None:
        super().__init__(operands=[lanes], result_types=[result_type], properties={"cast": StringAttr(cast)})


def computes(op: Operation) -> bool:
    """Whether an op makes values of its operands, and does nothing else."""
    own = isinstance(op, DecodeOp | EncodeOp | JoinOp | DotOp | DotPairsOp | WidenBytesOp | QuantizeOp | RequantizeOp)
    return not op.regions and (own or op.name.split(".")[0] in ("arith", "math"))
