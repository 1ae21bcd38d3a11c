"""Runs programs for CUDA on the CPU: the text that nvcc gets, compiled by a C++ compiler against `cuda_host.hxx`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sofie import cuda_jit, jit
from sofie.emit.cuda import CudaProgram

HOST = Path(__file__).with_name("cuda_host.hxx")
EVENTS = Path(__file__).with_name("cuda_events.hxx")


def build(program: CudaProgram, _arch: str = "") -> Path:
    """The shared library of a program in which memory of the device is memory."""
    return jit.build("\n".join([HOST.read_text(), EVENTS.read_text(), cuda_jit.source_of(program)]))


@contextmanager
def emulated() -> Iterator[None]:
    """While it lasts, models that are compiled with target="cuda" run here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_jit, "build", build)
        yield
