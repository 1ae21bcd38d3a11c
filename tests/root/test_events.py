"""The benchmark of an event loop agrees with itself, whoever computes and in how many threads."""

from __future__ import annotations

import pytest

from tests.root.__main__ import ROWS, measure, ratio, section

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("needs_compiler")]


def test_all_rows_have_the_same_mean_and_a_time() -> None:
    """A row that computes something else, or nothing, and is fast."""
    times = measure(3000, 1)
    assert list(times) == list(ROWS) and all(0.1 < found[0] < 1e5 for found in times.values())
    assert ratio(times, ROWS[0], ROWS[0]) == 1
    assert "| RDataFrame | SOFIE | 2 |" in section(times, 3000, 1)
