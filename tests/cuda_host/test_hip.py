"""HIP without a GPU: the text has none of CUDA's names, and under its own it computes the same."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

import sofie
from sofie.compiler import Options, lower
from sofie.emit.hip import in_hip
from tests import models
from tests.cuda_host.emulation import ADDRESS
from tests.emit.programs import FILES, assert_outputs, compile_and_run, session_code

HOST = Path(__file__).with_name("hip_host.hxx")


@pytest.mark.parametrize("name", list(models.ALL))
def test_no_name_of_cuda_is_left(name: str) -> None:
    """A function, a type or a macro that hipcc does not know."""
    text = lower(models.ALL[name](), name, Options(target="hip")).header()
    assert re.findall(r"(?:\bcuda|\bCUDA|\b__nv|\bnvcc|__CUDA|_sync\()\w*", text) == []
    assert "#include <hip/hip_runtime.h>" in text


@pytest.mark.usefixtures("needs_compiler")
def test_it_computes_the_same(tmp_path: Path) -> None:
    """A name that the table puts in the place of another."""
    made = {}
    for name in ("mlp", "choices"):
        path = tmp_path / f"{name}.onnx"
        onnx.save(models.ALL[name](), path)
        made[name] = sofie.generate(path, tmp_path, target="hip")
        assert made[name].header.name == f"{name}.hip.hxx"
    feeds = {name: models.feeds(models.ALL[name]()) for name in made}
    body = "\n".join(session_code(generated, feeds[name], name) for name, generated in made.items())
    includes = f'#include "{HOST}"\n' + "".join(f'#include "{name}.hip.hxx"\n' for name in made)
    flags = (*ADDRESS.flags, "-Wno-unknown-pragmas", str(ADDRESS.scheduler()))
    compile_and_run(tmp_path, f"{includes}{FILES}\nint main()\n{{\n{body}\n}}\n", flags)
    for name, generated in made.items():
        assert_outputs(generated, models.ALL[name](), feeds[name], name)


@pytest.mark.parametrize(
    ("cuda", "hip"),
    [
        ("x += __shfl_xor_sync(0xffffffffu, x, d);", "x += __shfl_xor(x, d, 32);"),
        ("__shfl_sync(mask(1, 2), f(a, b), 0)", "__shfl(f(a, b), 0, 32)"),
        ("__shfl_down_sync(0xffffffffu, x, 4, 32)", "__shfl_down(x, 4, 32)"),
        (
            "__shfl_xor_sync(~0u, __shfl_xor_sync(~0u, x, 1), 2) + __shfl_xor_sync(~0u, y, 1)",
            "__shfl_xor(__shfl_xor(x, 1, 32), 2, 32) + __shfl_xor(y, 1, 32)",
        ),
        ("extern __shared__ __align__(128) char b[];", "extern __shared__ __attribute__((aligned(128))) char b[];"),
        ('check(cudaFree(p), "cudaFree \\" cudaFree"); // CUDA', 'check(hipFree(p), "cudaFree \\" cudaFree"); // HIP'),
        ('names[] = {"cudaFree"};', 'names[] = {"cudaFree"};'),
    ],
)
def test_words(cuda: str, hip: str) -> None:
    """A sum over the 64 lanes of a wavefront; a model's own word for a tensor that is changed."""
    assert in_hip(cuda) == hip


def test_instructions_of_another_vendor_are_refused() -> None:
    """A header that no compiler for AMD's GPUs takes."""
    with pytest.raises(
        sofie.SofieError, match="hold PTX, instructions of NVIDIA's GPUs: compile it with --target cuda"
    ):
        in_hip('asm volatile("cp.async.commit_group;" ::: "memory");')


@pytest.mark.usefixtures("needs_compiler")
def test_a_sum_between_lanes_is_one_of_32(tmp_path: Path) -> None:
    """A shuffle without its width: where wavefronts have 64 lanes, it would sum two rows into one."""
    kernel = """
__global__ void sum(const float *x, float *y)
{
   float value = x[threadIdx.x];
   for (int lane = 16; lane > 0; lane /= 2)
      value += __shfl_xor_sync(0xffffffffu, value, lane);
   y[threadIdx.x] = value;
}
"""
    main = """
int main()
{
   float x[64], y[64];
   for (int i = 0; i < 64; ++i)
      x[i] = i < 32 ? 1 : 3;
   SOFIE_LAUNCH(sum, 1, 64, 0, nullptr, x, y);
   return y[0] == 32 && y[63] == 96 ? 0 : 1;
}
"""
    flags = (*ADDRESS.flags, str(ADDRESS.scheduler()))
    compile_and_run(tmp_path, f'#include "{HOST}"\n{in_hip(kernel)}{main}', flags)


def test_a_model_for_hip_is_not_run_from_python() -> None:
    """Machine code for another vendor's card."""
    with pytest.raises(sofie.SofieError, match=r"use sofie.generate, and compile with hipcc"):
        sofie.compile(models.mlp(), target="hip")
