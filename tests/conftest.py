"""Shared fixtures: a private compile cache for the run, and a reason to skip where there is no C++ compiler."""

from __future__ import annotations

import pytest

from sofie import jit
from sofie.errors import SofieError


@pytest.fixture(scope="session")
def needs_compiler() -> None:
    """Skips where no C++ compiler is installed."""
    try:
        jit.compiler()
    except SofieError as error:
        pytest.skip(str(error))
