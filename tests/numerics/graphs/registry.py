"""The registry of rows: one function an operator, which draws a node of it on values that are there or made for it."""

from __future__ import annotations

from collections.abc import Callable

from tests.numerics.graphs.graph import Graph

Row = Callable[[Graph], object]
Key = tuple[str, str]
"""Domain and operator."""

ROWS: dict[Key, Row] = {}


def draws(*operators: str, domain: str = "") -> Callable[[Row], Row]:
    """Registers the decorated function as the row of the operators named."""

    def register(row: Row) -> Row:
        for operator in operators:
            enter(operator, row, domain)
        return row

    return register


def enter(operator: str, row: Row, domain: str = "") -> None:
    """Registers a row; raises ValueError where the operator has one."""
    if (domain, operator) in ROWS:
        raise ValueError(f"{operator} has two rows")
    ROWS[domain, operator] = row
