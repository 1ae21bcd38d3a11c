"""Floating-point types that MLIR's core spells and xDSL lacks: `!sofie.float<"f8E4M3FN">` (level 1 only)."""

from __future__ import annotations

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition


@irdl_attr_definition
class NarrowFloat(ParametrizedAttribute, TypeAttribute):
    """A float of 8 or 4 bits, by its name in MLIR."""

    name = "sofie.float"

    format: StringAttr
