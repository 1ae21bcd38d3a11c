"""Every operator that works is drawn by the random graphs, often enough, or it is said why not."""

from __future__ import annotations

from sofie.support import spelled
from tests.numerics.draws import LEAST, covered, listed
from tests.numerics.graphs import EXCUSED, OPERATORS


def test_every_operator_that_works_has_a_row_or_a_reason() -> None:
    """A lowering that no random graph has: add a row for it under tests/numerics/graphs."""
    assert covered() - set(OPERATORS) == set(EXCUSED)
    assert not set(OPERATORS) - covered(), "rows of operators that do not work"


def test_every_operator_is_drawn_often_enough() -> None:
    """A row that declines most of the time; or docs/draws.md is stale: run python -m tests.numerics.draws."""
    assert set(listed()) == {spelled(*key) for key in covered() - set(EXCUSED)}
    assert {operator: draws for operator, draws in listed().items() if draws < LEAST} == {}
