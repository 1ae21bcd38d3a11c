"""The dialect that joins the levels: weights as blobs, and groups of ops that become one kernel.

`sofie.weight` is a constant whose contents live outside the IR. `sofie.fused` holds level 2 or 3 ops that are lowered
into one loop nest; inlining its body changes nothing but speed. `sofie.tile` (level 3) is a buffer that lives only
inside a fused group.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Self

import numpy as np
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    Float32Type,
    IndexType,
    MemRefType,
    StringAttr,
    TensorType,
    i32,
)
from xdsl.dialects.utils import AbstractYieldOperation
from xdsl.ir import Attribute, Block, Data, Dialect, Operation, Region, SSAValue
from xdsl.irdl import (
    BaseAttr,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import HasParent, IsTerminator, NoMemoryEffect, Pure, RecursiveMemoryEffect
from xdsl.utils.exceptions import VerifyException

from sofie.dialects.fixed import ConvertOp, FixedType
from sofie.dialects.narrow import NarrowFloat
from sofie.dialects.scalars import (
    CastLanesOp,
    DecodeOp,
    DotOp,
    DotPairsOp,
    EncodeOp,
    JoinOp,
    LoadWordOp,
    QuantizeOp,
    RequantizeLanesOp,
    RequantizeOp,
    WidenBytesOp,
)
from sofie.dialects.sizes import LayoutAttr, SizesAttr
from sofie.dialects.types import element_from_numpy, numpy_dtype, stored
from sofie.sizes import Symbol, symbols_of
from sofie.weights import Array, Blob, WeightStore

INLINE_ELEMENTS = 16
"""Blobs of at most this many elements print their values; larger ones print their digest."""

active_weights: ContextVar[WeightStore | None] = ContextVar("active_weights", default=None)
"""The side file in force while a text is parsed."""


@irdl_attr_definition
class BlobAttr(Data[Blob]):
    """Contents of a weight: `#sofie.blob<"digest">`, or `#sofie.blob<dense<[1.0, 2.0]> : tensor<2xf32>>` when small."""

    name = "sofie.blob"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Blob:
        with parser.in_angle_brackets():
            digest = parser.parse_optional_str_literal()
            if digest is None:
                attribute = parser.parse_attribute()
                if not isinstance(attribute, DenseIntOrFPElementsAttr):
                    parser.raise_error("a blob is a digest or dense<...>")
                return Blob.of(_dense_to_array(attribute))
        store = active_weights.get()
        return Blob(digest, None if store is None else store.get(digest))

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            array = self.data.array
            if array is not None and 0 < array.size <= INLINE_ELEMENTS and _prints_exactly(array):
                printer.print_attribute(_array_to_dense(array))
            else:
                printer.print_string_literal(self.data.digest)


def _prints_exactly(array: Array) -> bool:
    return array.dtype.kind in "ib" or (array.dtype in (np.float32, np.float64) and bool(np.all(np.isfinite(array))))


def _array_to_dense(array: Array) -> DenseIntOrFPElementsAttr:
    element: Any = stored(element_from_numpy(array.dtype))
    values: list[Any] = [v.item() for v in array.reshape(-1)]
    return DenseIntOrFPElementsAttr.from_list(TensorType(element, list(array.shape)), values)


def _dense_to_array(attr: DenseIntOrFPElementsAttr) -> Array:
    shape = attr.type.get_shape()
    values = np.array(list(attr.get_values()), numpy_dtype(attr.get_element_type()))
    return np.resize(values, shape)  # xDSL expands some splats and not others


@irdl_op_definition
class WeightOp(IRDLOperation):
    """A constant tensor (levels 1 and 2) or its place in the weight file (levels 3 and 4).

    `%w = sofie.weight "dense_1.weight" #sofie.blob<"2c26b4..."> : tensor<200x7xf32>`
    """

    name = "sofie.weight"

    weight_name = prop_def(StringAttr)
    value = prop_def(BlobAttr)
    result = result_def(BaseAttr(TensorType) | BaseAttr(MemRefType))

    traits = traits_def(Pure())
    assembly_format = "$weight_name $value attr-dict `:` type($result)"

    def __init__(self, name: str, blob: Blob, result_type: Attribute) -> None:
        super().__init__(
            properties={"weight_name": StringAttr(name), "value": BlobAttr(blob)}, result_types=[result_type]
        )

    @staticmethod
    def of(name: str, array: Array, element: Attribute | None = None) -> WeightOp:
        """The weight op of a numpy array; `element` overrides the element type (below level 1: stored)."""
        blob = Blob.of(array)
        return WeightOp(name, blob, TensorType(element or element_from_numpy(array.dtype), list(array.shape)))

    @property
    def blob(self) -> Blob:
        """The contents."""
        return self.value.data

    def verify_(self) -> None:
        array, kind = self.blob.array, self.result.type
        assert isinstance(kind, TensorType | MemRefType)
        if array is not None and tuple(array.shape) != tuple(kind.get_shape()):
            raise VerifyException(f"weight of shape {array.shape} declared as {kind}")


def contents(value: SSAValue | None) -> Array | None:
    """The array of a weight; None for any other value, and for none."""
    return value.owner.blob.value if value is not None and isinstance(value.owner, WeightOp) else None


@irdl_op_definition
class ExtentsOp(IRDLOperation):
    """A list of sizes, or one size, as a tensor of the run (level 1): what a node computed from shapes.

    `%s = sofie.extents #sofie.sizes<"batch, 8", "batch=1..64"> : tensor<2xi64>`
    """

    name = "sofie.extents"

    extents = prop_def(SizesAttr)
    result = result_def(BaseAttr(TensorType))

    traits = traits_def(Pure())
    assembly_format = "$extents attr-dict `:` type($result)"

    def __init__(self, extents: Sequence[int], result_type: Attribute) -> None:
        super().__init__(properties={"extents": SizesAttr(tuple(extents))}, result_types=[result_type])

    @property
    def values(self) -> tuple[int, ...]:
        """The elements in order: ints and Sizes."""
        return self.extents.data


@irdl_op_definition
class SizeOp(IRDLOperation):
    """The run finds a size: from here on the symbol has this value, which is within its bounds (levels 2 to 4).

    `%n = sofie.size %count #sofie.sizes<"n_y", "n_y=0..6">`
    """

    name = "sofie.size"

    value = operand_def(IndexType)
    size = prop_def(SizesAttr)
    result = result_def(IndexType)

    assembly_format = "$value $size attr-dict"

    def __init__(self, value: SSAValue, size: SizesAttr) -> None:
        super().__init__(operands=[value], properties={"size": size}, result_types=[IndexType()])

    @property
    def symbol(self) -> Symbol:
        """The symbol that has its value here."""
        (symbol,) = symbols_of(self.size.data)
        return symbol


@irdl_op_definition
class YieldOp(AbstractYieldOperation[Attribute]):
    """Ends a fused group and names its results."""

    name = "sofie.yield"
    traits = traits_def(IsTerminator())


@irdl_op_definition
class FusedOp(IRDLOperation):
    """A group of structured ops that share one loop nest and become one kernel.

    The group means what its body means when inlined. A value that is not yielded never owns more memory than one
    tile: its producer and its consumers meet inside the shared loops.
    """

    name = "sofie.fused"

    body = region_def("single_block")
    res = var_result_def()

    traits = traits_def(RecursiveMemoryEffect())

    def __init__(self, body: Region | Block, result_types: Sequence[Attribute] = ()) -> None:
        region = Region(body) if isinstance(body, Block) else body
        super().__init__(result_types=[list(result_types)], regions=[region])

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_region(self.body, print_empty_block=False)
        if self.res:
            printer.print_string(" -> ")
            with printer.in_parens():
                printer.print_list(self.res.types, printer.print_attribute)
        printer.print_op_attributes(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        body = parser.parse_region()
        types: list[Attribute] = []
        if parser.parse_optional_punctuation("->"):
            types = parser.parse_comma_separated_list(Parser.Delimiter.PAREN, parser.parse_type)
        op = cls(body, types)
        op.attributes |= parser.parse_optional_attr_dict()
        return op

    def members(self) -> list[Operation]:
        """The ops of the group, terminator excluded, in order."""
        return [op for op in self.body.block.ops if not isinstance(op, YieldOp)]

    def yielded(self) -> Sequence[SSAValue]:
        """The values inside that the results stand for."""
        last = self.body.block.last_op
        return last.arguments if isinstance(last, YieldOp) else ()

    def verify_(self) -> None:
        if tuple(v.type for v in self.yielded()) != tuple(self.res.types):
            raise VerifyException("sofie.fused yields other types than its results have")


@irdl_op_definition
class TileOp(IRDLOperation):
    """A value that lives inside a fused group: `%t = sofie.tile : memref<64x128xf32>`.

    The type is that of the whole value, so that the ops keep their maps; only the part that one iteration of the
    shared loops touches ever exists.
    """

    name = "sofie.tile"
    result = result_def(MemRefType)
    traits = traits_def(NoMemoryEffect(), HasParent(FusedOp))
    assembly_format = "attr-dict `:` type($result)"

    def __init__(self, result_type: Attribute) -> None:
        super().__init__(result_types=[result_type])


NARROW_TERMS = {"tf32": 1, "bf16": 2, "fp16": 2}
"""The terms that tensor cores take in a word of 32 bits, by their precision."""
BYTES = ("u8s8", "s8u8")
"""Which factor's bytes have no sign, and which factor's have one."""


@irdl_op_definition
class NarrowOp(IRDLOperation):
    """One float rounded to tf32, or two to bf16 or fp16, as the word that tensor cores take (level 4')."""

    name = "sofie.narrow"
    precision = prop_def(StringAttr)
    terms = var_operand_def(Float32Type)
    word = result_def(i32)
    traits = traits_def(Pure())

    def __init__(self, precision: str, terms: Sequence[SSAValue]) -> None:
        super().__init__(operands=[terms], result_types=[i32], properties={"precision": StringAttr(precision)})

    def verify_(self) -> None:
        if NARROW_TERMS.get(self.precision.data) != len(self.terms):
            raise VerifyException(f"sofie.narrow cannot make {self.precision.data} of {len(self.terms)} terms")


@irdl_op_definition
class MmaOp(IRDLOperation):
    """`sums[row, column] += a[row] b[column]` by the tensor cores of a warp: PTX's mma.sync of 16 x 8 results, with 8
    words of terms each (level 4').

    precision: one of those of `sofie.narrow`, for sums in f32, or one of `BYTES`, for sums in i32, which wrap. sums:
    four results of a thread in a place, memref<..x..x4xf32>. a, b: a thread's words, memref<..x4xi32> and
    memref<..x2xi32>. Which rows, columns and terms are whose is PTX's.
    """

    name = "sofie.mma"
    precision = prop_def(StringAttr)
    sums = operand_def(MemRefType)
    a = operand_def(MemRefType)
    b = operand_def(MemRefType)
    row = operand_def(IndexType)
    column = operand_def(IndexType)

    def __init__(
        self, precision: str, sums: SSAValue, a: SSAValue, b: SSAValue, row: SSAValue, column: SSAValue
    ) -> None:
        super().__init__(operands=[sums, a, b, row, column], properties={"precision": StringAttr(precision)})


Sofie = Dialect(
    "sofie",
    [
        *(WeightOp, ExtentsOp, ConvertOp, SizeOp, YieldOp, FusedOp, TileOp, NarrowOp, MmaOp),
        *(DecodeOp, EncodeOp, LoadWordOp, JoinOp, DotOp, DotPairsOp, WidenBytesOp, CastLanesOp, QuantizeOp),
        *(RequantizeOp, RequantizeLanesOp),
    ],
    [BlobAttr, SizesAttr, LayoutAttr, NarrowFloat, FixedType],
)
