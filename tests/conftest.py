"""Shared fixtures: a private compile cache for the run, and a reason to skip where there is no C++ compiler."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from sofie import jit
from sofie.errors import SofieError
from tests import cpus
from tests.draws import WORD

settings.register_profile("same", derandomize=True)
if not WORD:
    settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full`: also what a commit's run takes a part of."""
    parser.addoption("--full", action="store_true", help="run all of the suites that a run else takes a part of")


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled objects of this run stay in its own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFIE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def needs_compiler() -> None:
    """Skips where no C++ compiler is installed."""
    try:
        jit.compiler()
    except SofieError as error:
        pytest.skip(str(error))


@pytest.fixture
def byte_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of BYTE_CPUS, made ready."""
    return cpus.prepare(request.param, monkeypatch)
