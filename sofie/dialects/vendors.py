"""The domains besides ONNX's own whose operators are known, each by its table."""

from __future__ import annotations

from functools import cache

from onnx.defs import OpSchema

from sofie.dialects import microsoft, qonnx
from sofie.dialects.rows import schemas_of

TABLES = {microsoft.DOMAIN: microsoft.OPERATORS, qonnx.DOMAIN: qonnx.OPERATORS}
ALIASES = dict.fromkeys(qonnx.ALIASES, qonnx.DOMAIN)
"""Other names of domains."""


@cache
def schemas() -> list[OpSchema]:
    """The schemas of all tables."""
    return [schema for domain, table in TABLES.items() for schema in schemas_of(domain, table)]
