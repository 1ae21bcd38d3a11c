"""What upstream MLIR has and xDSL 0.74 lacks, under upstream's own spelling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

from xdsl.dialects.builtin import BoolAttr, IndexType, IntegerAttr, MemRefType, UnitAttr, i32
from xdsl.dialects.gpu import GPU, AllReduceOpAttr, AllReduceOpEnum
from xdsl.dialects.linalg import Linalg
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.dialects.memref import MemRef
from xdsl.ir import Attribute, Dialect, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    var_operand_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer


class _ParenthesisedResults:
    """A parser that also takes `-> (type, type)`, which xDSL prints and does not read."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def parse_comma_separated_list(self, delimiter: Parser.Delimiter, parse: Callable[[], Any]) -> list[Any]:
        """As xDSL's, but a list of types without delimiters may stand in parentheses."""
        types = delimiter == Parser.Delimiter.NONE and parse == self._parser.parse_attribute
        if types and self._parser.parse_optional_punctuation("("):
            found = self._parser.parse_comma_separated_list(Parser.Delimiter.NONE, self._parser.parse_type)
            self._parser.parse_punctuation(")")
            return found
        return self._parser.parse_comma_separated_list(delimiter, parse)


class SeveralResultsGeneric(GenericOp):
    """Parses `linalg.generic` with any number of results, into xDSL's own class."""

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        return cast(Self, GenericOp.parse(cast(Parser, _ParenthesisedResults(parser))))


def linalg_dialect() -> Dialect:
    """xDSL's dialect with the generic that reads what it prints."""
    operations = [SeveralResultsGeneric if op is GenericOp else op for op in Linalg.operations]
    return Dialect("linalg", operations, list(Linalg.attributes))


@irdl_op_definition
class PrefetchOp(IRDLOperation):
    """`memref.prefetch`: a hint that an element will soon be read (or written); nothing depends on it.

    localityHint: 0, used once, to 3, kept in the nearest cache.
    """

    name = "memref.prefetch"
    memref = operand_def(MemRefType)
    indices = var_operand_def(IndexType)
    isWrite = prop_def(BoolAttr)
    localityHint = prop_def(IntegerAttr)
    isDataCache = prop_def(BoolAttr)

    def __init__(self, memref: SSAValue, indices: Sequence[SSAValue], locality: int, write: bool = False) -> None:
        properties = {
            "isWrite": BoolAttr.from_bool(write),
            "localityHint": IntegerAttr(locality, i32),
            "isDataCache": BoolAttr.from_bool(True),
        }
        super().__init__(operands=[memref, indices], properties=properties)

    @property
    def locality(self) -> int:
        """How near the element should be kept, 0 to 3."""
        return self.localityHint.value.data

    def print(self, printer: Printer) -> None:
        """` %x[%i], read, locality<2>, data : memref<..>`."""
        printer.print_string(" ")
        printer.print_ssa_value(self.memref)
        printer.print_string("[")
        printer.print_list(self.indices, printer.print_ssa_value)
        mode, cache = ("write" if self.isWrite else "read"), ("data" if self.isDataCache else "instr")
        printer.print_string(f"], {mode}, locality<{self.locality}>, {cache} : ")
        printer.print_attribute(self.memref.type)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """What `print` writes."""
        memref = parser.parse_unresolved_operand()
        indices = parser.parse_comma_separated_list(Parser.Delimiter.SQUARE, parser.parse_unresolved_operand)
        parser.parse_punctuation(",")
        write = parser.parse_identifier("read or write") == "write"
        parser.parse_punctuation(",")
        parser.parse_keyword("locality")
        with parser.in_angle_brackets():
            locality = parser.parse_integer(allow_boolean=False, allow_negative=False)
        parser.parse_punctuation(",")
        data = parser.parse_identifier("data or instr") == "data"
        parser.parse_punctuation(":")
        kind = parser.parse_type()
        made = cls(
            parser.resolve_operand(memref, kind),
            [parser.resolve_operand(index, IndexType()) for index in indices],
            locality,
            write,
        )
        made.isDataCache = BoolAttr.from_bool(data)
        return made


@irdl_op_definition
class SubgroupReduceOp(IRDLOperation):
    """`gpu.subgroup_reduce`: what the values of all threads of a warp come to, for each of them."""

    name = "gpu.subgroup_reduce"

    op = prop_def(AllReduceOpAttr)
    uniform = opt_prop_def(UnitAttr)
    operand = operand_def(Attribute)
    result = result_def(Attribute)

    def __init__(self, op: AllReduceOpEnum, operand: SSAValue) -> None:
        properties = {"op": AllReduceOpAttr(op), "uniform": UnitAttr()}
        super().__init__(operands=[operand], result_types=[operand.type], properties=properties)


def gpu_dialect() -> Dialect:
    """xDSL's dialect with reductions over a warp."""
    return Dialect("gpu", [*GPU.operations, SubgroupReduceOp], list(GPU.attributes))


def memref_dialect() -> Dialect:
    """xDSL's dialect with prefetches."""
    return Dialect("memref", [*MemRef.operations, PrefetchOp], list(MemRef.attributes))
