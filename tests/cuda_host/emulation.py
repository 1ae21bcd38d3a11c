"""Runs programs for CUDA on the CPU: the emitted text, compiled by a C++ compiler against `cuda_host.hxx`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sofie import jit
from sofie.emit.cpp import Program
from sofie.emit.cuda import CudaProgram

HOST = Path(__file__).with_name("cuda_host.hxx")


def source_of(program: CudaProgram) -> str:
    """A translation unit with the function that `jit.Compiled` calls: memory of the device is memory."""
    arguments = ["weights", "arena", "nullptr"]
    arguments += [f"static_cast<model::index>(sizes[{k}])" for k in range(len(program.sizes))]
    arguments += [f"static_cast<const {p.inner} *>(in[{k}])" for k, p in enumerate(program.inputs)]
    arguments += [f"static_cast<{p.inner} *>(out[{k}])" for k, p in enumerate(program.outputs)]
    arguments += [f"static_cast<model::index *>(out[{len(program.outputs) + k}])" for k in range(len(program.late))]
    return f"""#include <memory>
{HOST.read_text()}
namespace model {{
{program.core()}
}}
extern "C" void sofie_infer(
    const unsigned char *weights, unsigned char *arena, const std::int64_t *sizes, const void *const *in,
    void *const *out)
{{
   static_cast<void>(sizes);
   static_cast<void>(in);
   static_cast<void>(out);
   model::launch({", ".join(arguments)});
}}
"""


@contextmanager
def emulated() -> Iterator[None]:
    """While it lasts, models that are compiled with target="cuda" run here."""

    def compile_program(program: Program, *_: object) -> jit.Compiled:
        assert isinstance(program, CudaProgram)
        return jit.Compiled(program, jit.build(source_of(program)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "compile_program", compile_program)
        yield
