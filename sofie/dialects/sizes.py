"""How run-time extents stand in types: `tensor<?x7xf32, #sofie.sizes<"batch, 7", "batch=1..64">>`.

The `?` of upstream says that an extent is not static, the attribute says which it is and what bounds it. A tensor
carries it as its encoding, a memref as its layout together with strides and offset.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import MemRefLayoutAttr
from xdsl.ir import Data
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from sofie import sizes

Extents = tuple[int, ...]


def _print(printer: Printer, *lists: Sequence[int]) -> None:
    bounds = ", ".join(map(str, sizes.symbols_of(e for extents in lists for e in extents)))
    with printer.in_angle_brackets():
        for extents in lists:
            printer.print_string_literal(sizes.write(extents)[0])
            printer.print_string(", ")
        printer.print_string_literal(bounds)


def _parse(parser: AttrParser, count: int) -> list[Extents]:
    with parser.in_angle_brackets():
        texts = [parser.parse_str_literal()]
        for _ in range(count):
            parser.parse_punctuation(",")
            texts.append(parser.parse_str_literal())
    try:
        return [sizes.read(text, texts[-1]) for text in texts[:-1]]
    except (ValueError, SyntaxError) as error:
        parser.raise_error(str(error))


@irdl_attr_definition
class SizesAttr(Data[Extents]):
    """The extents of a tensor: `#sofie.sizes<"batch, 7", "batch=1..64">`."""

    name = "sofie.sizes"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Extents:
        return _parse(parser, 1)[0]

    def print_parameter(self, printer: Printer) -> None:
        _print(printer, self.data)


Layout = tuple[Extents, Extents, Extents]
"""Extents, strides, and the offset as a list of one; an offset that only the caller knows is an empty list."""


@irdl_attr_definition
class LayoutAttr(MemRefLayoutAttr, Data[Layout]):
    """Extents, strides and offset of a memref: `#sofie.layout<"batch, 7", "7, 1", "0", "batch=1..64">`."""

    name = "sofie.layout"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Layout:
        extents, strides, offset = _parse(parser, 3)
        return extents, strides, offset

    def print_parameter(self, printer: Printer) -> None:
        _print(printer, *self.data)

    def get_affine_map(self) -> AffineMap:
        """Indices to the element's place; a stride or offset that is no number is a symbol, as upstream has it."""
        _, strides, offset = self.data
        unknown = 0
        place: AffineExpr = AffineExpr.constant(0)
        for dim, factor in [(None, o) for o in (offset or (None,))] + list(enumerate(strides)):
            if isinstance(factor, int):
                term: AffineExpr = AffineExpr.constant(factor)
            else:
                term, unknown = AffineExpr.symbol(unknown), unknown + 1
            place = place + (term if dim is None else AffineExpr.dimension(dim) * term)
        return AffineMap(len(strides), unknown, (place,))

    def get_strides(self) -> list[int | None]:
        """The strides, None where one is not static."""
        return [None if isinstance(s, sizes.Size) else s for s in self.data[1]]

    def get_offset(self) -> int | None:
        """The offset where it is static."""
        return self.data[2][0] if self.data[2] and sizes.is_static(self.data[2]) else None
