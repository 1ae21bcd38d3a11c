"""Compiles the workers; they are kept in the cache of the just-in-time compiler, keyed by text, compiler and flags."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from sofie import jit


def executable(source: str, flags: Sequence[str]) -> Path:
    """The program of a C++ text, from the cache or freshly compiled. Raises SofieError on compiler errors."""
    return jit.build(source, flags, ".exe")


def source(name: str) -> str:
    """The text of a C++ file of this package."""
    return resources.files("sofie.bench").joinpath(name).read_text()
