"""`--threads`: large kernels in parts, with the same bits whatever the number of threads."""

from __future__ import annotations

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
from tests.emit.programs import FILES, assert_outputs, compile_and_run, session_code
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
        assert several.program.threads == threads
        for _ in range(20):
            results = several.run(feeds)
            for output, want in alone.items():
                np.testing.assert_array_equal(results[output], want, output)


SANITIZERS = [("-fsanitize=address,undefined",), ("-fsanitize=thread",)]


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("flags", [(), *SANITIZERS])
def test_a_header_for_threads_is_right(tmp_path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    """A race, a session whose threads are lost when it is moved, a warning."""
    model = layers()
    generated = generate(model, tmp_path, Options(cpu="multi", threads=3, passes=PASSES), "net", cmake=True)
    feeds = models.feeds(model)
    main = f'#include "net.hxx"\n{FILES}\nint main()\n{{\n{session_code(generated, feeds, "x")}\n}}\n'
    compile_and_run(tmp_path, main, ("-O1", "-pthread", *flags), compiler)
    assert_outputs(generated, model, feeds, "x")
    assert generated.cmake is not None and "Threads::Threads" in generated.cmake.read_text()


POOL = """#include "net.hxx"
#include <cstdio>

int main()
{
   for (int crew = 1; crew <= 5; ++crew) {
      SOFIE_net::detail::Threads threads(crew);
      for (std::uint32_t run = 0; run < 300; ++run) {
         const std::uint32_t parts = run % 7;
         std::vector<int> times(parts);
         std::vector<std::thread::id> who(parts);
         threads.run(parts, [&](std::ptrdiff_t k) {
            ++times[static_cast<std::size_t>(k)];
            who[static_cast<std::size_t>(k)] = std::this_thread::get_id();
         });
         for (std::size_t k = 0; k < parts; ++k)
            if (times[k] != 1 || (crew == 1 && who[k] != std::this_thread::get_id()))
               std::printf("%d threads, part %zu of %u: %d times\\n", crew, k, parts, times[k]);
         if (run % 100 == 0)
            std::this_thread::sleep_for(std::chrono::milliseconds(3)); // they fall asleep
      }
   }
}
"""


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("flags", [(), *SANITIZERS])
def test_each_part_is_run_once(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A part of an earlier run, one that two threads take, a thread that sleeps through the call or at the end."""
    generate(layers(), tmp_path, Options(threads=2, passes=PASSES), "net")
    assert compile_and_run(tmp_path, POOL, ("-O1", "-pthread", *flags)) == ""


def test_only_a_header_for_threads_has_any(tmp_path: Path) -> None:
    """One thread should cost nothing: no lock, no standard header, no flag of the linker."""
    generated = generate(layers(), tmp_path, Options(passes=PASSES), "net", cmake=True)
    assert "thread" not in generated.header.read_text().lower().replace("one thread's scratch memory", "")
    assert generated.cmake is not None and "Threads" not in generated.cmake.read_text()


def test_small_kernels_stay_whole() -> None:
    """Threads that cost more than they bring."""
    assert lower(layers(), "net", Options(threads=2)).threads == 1


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_a_number_of_threads_that_cannot_be(threads: int) -> None:
    with pytest.raises(SofieError, match=f"--threads {threads}: choose a number from 1 to 256"):
        lower(models.mlp(), "net", Options(threads=threads))
