"""ONNX's own suite through CUDA's emulation: a third, another one whenever the compiler changes; all with --full."""

from __future__ import annotations

import hashlib
import warnings
from functools import cache
from pathlib import Path

import pytest

import sofie
from tests.conformance import suite
from tests.cuda_host.emulation import emulated

pytestmark = pytest.mark.usefixtures("needs_compiler")

FAILING = Path(__file__).with_name("failing.txt")
"""What passes on a CPU and not here, each with the reason."""
PARTS = 3


@cache
def cases() -> dict[str, object]:
    return suite.tests()


@cache
def failing() -> dict[str, str]:
    """Reasons by name."""
    return {name: reason for name, _, reason in (line.partition(": ") for line in suite.listed(FAILING))}


@cache
def source_digest() -> str:
    """Stands for the commit, also where there is no repository."""
    digest = hashlib.sha256()
    for path in sorted(Path(sofie.__file__).parent.rglob("*.*")):
        if path.suffix in (".py", ".cuh"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def chosen(name: str) -> bool:
    """Whether a test is in this commit's third."""
    return int(hashlib.sha256((source_digest() + name).encode()).hexdigest(), 16) % PARTS == 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of this run."""
    if "name" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        names = [name for name in suite.listed(suite.PASSING) if name not in failing() and (full or chosen(name))]
        metafunc.parametrize("name", names)


def test_conformance(name: str) -> None:
    """An operator whose kernel is wrong where iterations, rows or tiles are those of threads in any order."""
    with warnings.catch_warnings(), emulated():
        warnings.simplefilter("ignore")
        assert suite.run(cases()[name], target="cuda") > 0


def test_what_fails_is_listed_with_a_reason() -> None:
    """An exception that is none, without a reason, or one too many: 95 of 100 that pass on a CPU pass here."""
    passing = set(suite.listed(suite.PASSING))
    assert all(reason and name in passing for name, reason in failing().items())
    assert len(failing()) <= len(passing) // 20
