"""`--threads`: large kernels in parts, with the same bits whatever the number of threads."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import sofie
from sofie import interpreter, pipeline
from sofie.compiler import Options, generate, lower
from sofie.errors import SofieError
from sofie.frontends.onnx import load
from sofie.target import native
from tests import models
from tests.emit.programs import FILES, STRICT, assert_outputs, compile_and_run, session_code
from tests.emit.test_targets import attention

PASSES = "fuse,lower{min-flops=2000}"
"""Kernels of a few thousand operations are large enough."""


def layers() -> onnx.ModelProto:
    """A convolution of 10 channels, one whose extents are prime, a product, and a softmax over rows."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "b"], ["d"], name="odd"),
        helper.make_node("Flatten", ["d"], ["f"], axis=2, name="flatten"),
        helper.make_node("MatMul", ["f", "w"], ["m"], name="product"),
        helper.make_node("Softmax", ["m"], ["y"], axis=-1, name="softmax"),
    ]
    weights = {"a": models.normal(10, 3, 3, 3), "b": models.normal(7, 10, 2, 2) / 6, "w": models.normal(121, 32) / 11}
    return models.build(nodes, {"x": [2, 3, 12, 12]}, {"y": [14, 32]}, weights)


def test_parts_are_independent_and_make_up_the_whole() -> None:
    """The interpreter runs parts last to first: one that is missing, or needs another, leaves NaN."""
    model = layers()
    feeds = [*models.feeds(model).values()]
    results = []
    for threads in (1, 2, 3, 8):
        module = load(model)
        pipeline.run(module, Options(cpu="portable", threads=threads, passes=PASSES).stages())
        calls = sum(op.name == "scf.parallel" for op in module.body.block.last_op.walk())
        assert (calls > 0) == (threads > 1)
        (result,) = interpreter.run(module, feeds)
        results.append(result)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


THREADED = {"layers": layers, "convnet": models.convnet, "mlp": lambda: models.mlp(60), "attention": attention}


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("cpu", ["native", "x86-64-v2", "portable"])
@pytest.mark.parametrize("name", THREADED)
def test_the_bits_do_not_depend_on_the_number_of_threads(name: str, cpu: str) -> None:
    """A sum that is split, two threads that write to one place, a product that one loop fuses and another does not."""
    if cpu.startswith("x86") and native().level == 0:
        pytest.skip("this machine is no x86-64")
    model = THREADED[name]()
    feeds = models.feeds(model)
    alone = sofie.compile(model, passes=PASSES, cpu=cpu).run(feeds)
    for threads in (2, 3):
        several = sofie.compile(model, passes=PASSES, cpu=cpu, threads=threads)
        assert several.program.threaded
        for _ in range(20):
            results = several.run(feeds)
            for output, want in alone.items():
                np.testing.assert_array_equal(results[output], want, output)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("flags", [(), ("-fopenmp",), ("-fopenmp", "-fsanitize=address,undefined")])
def test_a_header_for_threads_is_right_with_and_without_openmp(tmp_path: Path, flags: tuple[str, ...]) -> None:
    model = layers()
    generated = generate(model, tmp_path, Options(cpu="multi", threads=2, passes=PASSES), "net", cmake=True)
    feeds = models.feeds(model)
    main = f'#include "net.hxx"\n{FILES}\nint main()\n{{\n{session_code(generated, feeds, "x")}\n}}\n'
    compile_and_run(tmp_path, main, ("-O1", *flags))
    assert_outputs(generated, model, feeds, "x")
    assert generated.cmake is not None and "OpenMP::OpenMP_CXX" in generated.cmake.read_text()


def test_clang_compiles_the_parallel_loops_without_a_warning(tmp_path: Path) -> None:
    """Only compiled: clang's OpenMP library may be missing."""
    if shutil.which("clang++") is None:
        pytest.skip("clang++ is not installed")
    generate(layers(), tmp_path, Options(cpu="multi", threads=2, passes=PASSES), "net")
    (tmp_path / "main.cpp").write_text('#include "net.hxx"\nint main() { SOFIE_net::Session session; }\n')
    for flags in ([], ["-fopenmp"]):
        command = ["clang++", *STRICT, *flags, "-O1", "-c", "main.cpp", "-o", "main.o"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:3000]


def test_small_kernels_stay_whole() -> None:
    """Threads that cost more than they bring."""
    assert not lower(layers(), "net", Options(threads=2)).threaded


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_a_number_of_threads_that_cannot_be(threads: int) -> None:
    with pytest.raises(SofieError, match=f"--threads {threads}: choose a number from 1 to 256"):
        lower(models.mlp(), "net", Options(threads=threads))
