"""What upstream MLIR has and xDSL 0.74 lacks, under upstream's own spelling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

from xdsl.dialects.linalg import Linalg
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Dialect
from xdsl.parser import Parser


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
