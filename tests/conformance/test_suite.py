"""Every test on the checked-in list passes, and nothing passes that is not on it."""

from __future__ import annotations

import warnings
from functools import cache

import pytest

from tests.conformance import suite

pytestmark = pytest.mark.usefixtures("needs_compiler")

PASSING = suite.listed(suite.PASSING)
LEAST = 1682
"""The size of the list may only grow."""


@cache
def cases() -> dict[str, object]:
    return suite.tests()


@pytest.mark.parametrize("name", PASSING)
def test_listed(name: str) -> None:
    """An operator of ONNX's own suite that used to work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert suite.run(cases()[name]) > 0


def test_the_list_did_not_shrink() -> None:
    """Somebody took a failing test off the list."""
    assert len(PASSING) >= LEAST
    assert PASSING == sorted(set(PASSING))


def test_the_list_of_operators_is_that_of_the_installed_onnx() -> None:
    """docs/operators.md counts tests that there are not: run python -m tests.conformance.suite."""
    assert suite.listed(suite.OPERATORS) == suite.operators()


def test_every_test_is_on_one_list() -> None:
    """A test that neither passes nor is excused: run python -m tests.conformance.suite."""
    failing = [line.partition(":")[0] for line in suite.listed(suite.FAILING)]
    listed = [*PASSING, *suite.listed(suite.FOLDED), *failing]
    assert sorted(listed) == sorted(cases())
