"""`sofie compile --profile`: times that are missing, go to the wrong kernel, or change the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from sofie.compiler import Options, generate
from sofie.emit.profile import kernel_calls
from tests import models
from tests.emit.programs import compile_and_run

pytestmark = pytest.mark.usefixtures("needs_compiler")

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
    calls = kernel_calls(made.program)
    expected = [f"{c.kernel}|{c.nodes}|{c.work.flops}|{c.work.bytes}|3|1" for c in calls]
    assert lines[: len(calls)] == expected
    assert lines[len(calls)].split() == ["calls", "us", "share", "GFLOP/s", "GB/s", "kernel"]
    assert len(lines) == 2 * len(calls) + 2 and lines[-1] == "0"


@pytest.mark.parametrize("name", sorted(models.ALL))
def test_a_profiled_header_compiles_without_warnings(tmp_path: Path, name: str) -> None:
    """Random state, sizes of the run, several outputs, a model that computes nothing."""
    generate(models.ALL[name](), tmp_path, Options(), "net", profile=True)
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
