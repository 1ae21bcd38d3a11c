"""Fixed-point numbers at level 1: `tensor<4x!sofie.fixed<16, 6, signed, AP_TRN, AP_WRAP>>`, and what makes them.

`sofie.fixed` says what `sofie.fixed.Fixed` means. An ONNX operator on fixed-point operands computes in the type of its
result, as `ap_fixed` accumulates: each product is brought into it, and each sum.
"""

from __future__ import annotations

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, Data, SSAValue, TypeAttribute
from xdsl.irdl import (
    BaseAttr,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    result_def,
    traits_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from sofie.errors import SofieError
from sofie.fixed import FRACTIONS, MOST_BITS, Fixed


@irdl_attr_definition
class FixedType(Data[Fixed], TypeAttribute):
    """The type of a fixed-point number: bits, integer bits, sign, rounding and overflow mode."""

    name = "sofie.fixed"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Fixed:
        with parser.in_angle_brackets():
            width = parser.parse_integer(allow_boolean=False, allow_negative=False)
            parser.parse_punctuation(",")
            integer = parser.parse_integer(allow_boolean=False)
            words = []
            for _ in range(3):
                parser.parse_punctuation(",")
                words.append(parser.parse_identifier())
            if words[0] not in ("signed", "unsigned"):
                parser.raise_error("a fixed-point type is signed or unsigned")
            try:
                return Fixed(width, integer, words[0] == "signed", words[1], words[2])
            except SofieError as error:
                parser.raise_error(str(error))

    def print_parameter(self, printer: Printer) -> None:
        kind = self.data
        sign = "signed" if kind.signed else "unsigned"
        with printer.in_angle_brackets():
            printer.print_string(f"{kind.width}, {kind.integer}, {sign}, {kind.rounding}, {kind.overflow}")

    @property
    def bytes(self) -> int:
        """What a raw number takes in memory: 1, 2, 4 or 8."""
        return next(n for n in (1, 2, 4, 8) if self.data.width <= 8 * n)

    def verify(self) -> None:
        low, high = FRACTIONS
        if not (self.data.width <= MOST_BITS and low <= self.data.fraction <= high):
            wanted = f"at most {MOST_BITS} bits and {low} to {high} of them behind the binary point"
            raise VerifyException(f"{self.data} cannot be computed with; a fixed-point type has {wanted}")


@irdl_op_definition
class ConvertOp(IRDLOperation):
    """A tensor of floats or fixed-point numbers as another such type, element by element (level 1).

    `%q = sofie.convert %x : tensor<4xf32> -> tensor<4x!sofie.fixed<8, 3, signed, AP_RND, AP_SAT>>`

    To a fixed-point type it rounds and overflows as that type says; to a float it rounds to the nearest, halves to
    even, so that up to 24 bits are exact in float32 and up to 53 in float64.
    """

    name = "sofie.convert"

    value = operand_def(BaseAttr(TensorType))
    result = result_def(BaseAttr(TensorType))

    traits = traits_def(Pure())
    assembly_format = "$value attr-dict `:` type($value) `->` type($result)"

    def __init__(self, value: SSAValue, result_type: Attribute) -> None:
        super().__init__(operands=[value], result_types=[result_type])

    def verify_(self) -> None:
        source, target = self.value.type, self.result.type
        assert isinstance(source, TensorType) and isinstance(target, TensorType)
        if not any(isinstance(kind.get_element_type(), FixedType) for kind in (source, target)):
            raise VerifyException("sofie.convert takes or makes fixed-point numbers; use onnx.Cast")
        if source.get_shape() != target.get_shape():
            raise VerifyException("sofie.convert keeps the shape")


def fixed_of(element: Attribute | None) -> Fixed | None:
    """The fixed-point type behind an element type; None where it is another."""
    return element.data if isinstance(element, FixedType) else None
