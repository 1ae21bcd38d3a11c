"""`sofie compile --profile`: times that are missing, go to the wrong kernel, or change the result."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import helper

from sofie.compiler import Options, generate, lower
from sofie.emit.profile import kernel_calls
from sofie.target import native
from tests import models
from tests.emit.programs import compile_and_run

pytestmark = pytest.mark.usefixtures("needs_compiler")

SMALL = "fuse,lower{min-flops=2000}"
"""Kernels of a few thousand operations are large enough for threads."""

MAIN = """#include "net.hxx"
#include <utility>

int main()
{
   SOFIE_net::Session first("net.dat");
   std::vector<float> x(3 * 9 * 11, 0.5f);
   for (int k = 0; k < 3; ++k)
      first.infer(x.data());
   SOFIE_net::Session session = std::move(first);
   for (const auto &kernel : session.profile())
      std::printf("%s|%s|%.0f|%.0f|%d|%d\\n", kernel.kernel, kernel.nodes, kernel.flops, kernel.bytes,
                  static_cast<int>(kernel.calls), kernel.microseconds > 0);
   session.print_profile();
   session.reset_profile();
   std::printf("%d\\n", static_cast<int>(session.profile().front().calls));
}
"""


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_every_kernel_is_counted_each_time(tmp_path: Path, compiler: str) -> None:
    made = generate(models.convnet(), tmp_path, Options(), "net", profile=True)
    lines = compile_and_run(tmp_path, MAIN, compiler=compiler).splitlines()
    calls = kernel_calls(made.program.variants[0])
    expected = [f"{c.kernel}|{c.nodes}|{c.work.flops}|{c.work.bytes}|3|1" for c in calls]
    assert lines[: len(calls)] == expected
    assert lines[len(calls)].split() == ["calls", "us", "share", "GFLOP/s", "GB/s", "kernel"]
    assert len(lines) == 2 * len(calls) + 2 and lines[-1] == "0"


def test_the_times_are_those_of_the_level_that_runs(tmp_path: Path) -> None:
    """Work of another level's kernels beside the times of this one's, or a level that counts nothing."""
    made = generate(models.convnet(), tmp_path, Options(cpu="multi"), "net", profile=True)
    main = """#include "net.hxx"

int main()
{
   const SOFIE_net::Weights weights("net.dat");
   std::vector<float> x(3 * 9 * 11, 0.5f);
   for (int level = 2; level <= 4; ++level) {
      SOFIE_net::Session session(weights, level);
      session.infer(x.data());
      for (const auto &kernel : session.profile())
         std::printf("%d %s %.0f %d\\n", session.level(), kernel.kernel, kernel.flops, static_cast<int>(kernel.calls));
   }
}
"""
    levels = [variant for variant in made.program.variants if variant.cpu.level <= native().level]
    levels += levels[-1:] * (len(made.program.variants) - len(levels))
    expected = [f"{v.cpu.level} {c.kernel} {c.work.flops} 1" for v in levels for c in kernel_calls(v)]
    assert compile_and_run(tmp_path, main).splitlines() == expected


def test_parts_that_threads_run_are_one_entry(tmp_path: Path) -> None:
    """A clock that threads fight for, or work of a part beside the time of all."""
    one = lower(models.convnet(), "net", Options(passes=SMALL))
    options = Options(passes=SMALL, threads=2)
    made = generate(models.convnet(), tmp_path, options, "net", profile=True)
    calls = kernel_calls(made.program.variants[0])
    assert made.program.threads == 2
    for whole, parts in zip(kernel_calls(one.variants[0]), calls, strict=True):
        assert (whole.kernel, whole.nodes) == (parts.kernel, parts.nodes)
        assert whole.work.flops <= parts.work.flops <= 1.5 * whole.work.flops
        assert whole.work.bytes == parts.work.bytes
    lines = compile_and_run(tmp_path, MAIN, ("-O1", "-pthread")).splitlines()
    assert lines[: len(calls)] == [f"{c.kernel}|{c.nodes}|{c.work.flops}|{c.work.bytes}|3|1" for c in calls]


@pytest.mark.parametrize("name", ["profile", "profile_", "kernel_times", "level_", "infer_"])
def test_a_profiled_model_may_call_its_input_anything(tmp_path: Path, name: str) -> None:
    model = models.build([helper.make_node("Relu", [name], ["y"])], {name: [4]}, {"y": [4]}, {})
    generate(model, tmp_path, Options(cpu="multi"), "net", profile=True)
    compile_and_run(tmp_path, '#include "net.hxx"\nint main() { SOFIE_net::Session session; }\n')


@pytest.mark.parametrize("cpu", ["native", "multi"])
@pytest.mark.parametrize("name", sorted(models.ALL))
def test_a_profiled_header_compiles_without_warnings(tmp_path: Path, name: str, cpu: str) -> None:
    """Random state, sizes of the run, several outputs, a model that computes nothing."""
    generate(models.ALL[name](), tmp_path, Options(cpu=cpu), "net", profile=True)
    compile_and_run(tmp_path, '#include "net.hxx"\nint main() { SOFIE_net::Session session; }\n')


def test_without_it_nothing_is_timed(tmp_path: Path) -> None:
    """A clock in the plain header would cost each kernel its read."""
    text = generate(models.convnet(), tmp_path, Options(), "net").header.read_text()
    assert "chrono" not in text and "profile" not in text


def test_names_of_nodes_stay_text(tmp_path: Path) -> None:
    model = models.mlp(3)
    for node in model.graph.node:
        node.name = '"); evil(); // \\ %s%n\n'
    generate(model, tmp_path, Options(), "net", profile=True)
    compile_and_run(tmp_path, '#include "net.hxx"\nint main() { SOFIE_net::Session s; s.print_profile(); }\n', ("-O0",))
