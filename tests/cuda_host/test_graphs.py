"""The graphs of a session: made once for a set of arguments, left out where they cannot be, never silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import sofie
from sofie.compiler import Options, lower
from sofie.emit.cuda import CudaProgram
from tests import models
from tests.cuda_host.emulation import ADDRESS, HOST
from tests.emit.programs import compile_and_run

APART = ("merge-launches",)
"""Small models have several launches."""

pytestmark = pytest.mark.usefixtures("needs_compiler")

COUNTING = f"""#include "{HOST}"
#include <cstdio>
static int graphs_made, launched, asked, fails = -1;
inline cudaError_t failing() {{ return asked++ == fails ? cudaErrorInvalidConfiguration : cudaGetLastError(); }}
#define cudaGraphInstantiateWithFlags(...) (++graphs_made, cudaGraphInstantiateWithFlags(__VA_ARGS__))
#define cudaGraphLaunch(...) (++launched, cudaGraphLaunch(__VA_ARGS__))
#define cudaGetLastError() failing()
#include "m.cuh"
#define EXPECT(condition) if (!(condition)) return told(__LINE__, #condition)
using SOFIE_m::Session;
inline int told(int line, const char *condition)
{{
   std::printf("line %d: %s; %d made, %d launched\\n", line, condition, graphs_made, launched);
   return 1;
}}
"""

MLP = """
std::vector<float> input(std::size_t rows, float scale)
{
   std::vector<float> x(rows * 7);
   for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = scale * static_cast<float>(i % 11);
   return x;
}
"""


def run(folder: Path, model: onnx.ModelProto, body: str, **options: Any) -> None:
    """Runs the body of a `main` on a model of the name m; memory that is not freed ends in an error."""
    sofie.generate(model, folder, name="m", target="cuda", without=APART, **options)
    main = f"{COUNTING}{MLP}\nint main()\n{{\n{body}\n   return 0;\n}}\n"
    compile_and_run(folder, main, (*ADDRESS.flags, "-Wno-unknown-pragmas", str(ADDRESS.scheduler())))


def test_one_graph_serves_all_calls_with_its_arguments(tmp_path: Path) -> None:
    """A capture for each call; a graph that reads the first call's numbers; one of another size or pointer."""
    body = """
   Session session, plain("m.dat", false);
   std::vector<float> x = input(4, 1), y(20), want(20), other(20);
   for (int call = 1; call <= 3; ++call) {
      x[3] = static_cast<float>(call);
      session.infer_device(4, x.data(), y.data());
      plain.infer_device(4, x.data(), want.data());
      EXPECT(y == want && graphs_made == 1 && launched == call);
   }
   session.infer_device(4, x.data(), other.data());
   EXPECT(other == want && graphs_made == 2);
   std::fill(y.begin(), y.end(), 7.0f);
   session.infer_device(2, x.data(), y.data());
   EXPECT(std::equal(y.begin(), y.begin() + 10, want.begin()) && y[10] == 7.0f && graphs_made == 3);
   EXPECT(session.infer(4, x.data()) == want && session.infer(4, x.data()) == want && graphs_made == 4);
   Session moved = std::move(session);
   moved.infer_device(4, x.data(), y.data());
   EXPECT(y == want && graphs_made == 4);
"""
    run(tmp_path, models.mlp("n"), body, dims={"n": (1, 4)})


def test_the_oldest_graph_makes_room(tmp_path: Path) -> None:
    """Graphs without end for a caller whose pointers change; a graph that is called another's."""
    body = """
   Session session, plain("m.dat", false);
   std::vector<std::vector<float>> x, y(10, std::vector<float>(15)), want = y;
   for (int k = 0; k < 10; ++k) {
      x.push_back(input(3, static_cast<float>(k)));
      plain.infer_device(x[k].data(), want[k].data());
      session.infer_device(x[k].data(), y[k].data());
   }
   EXPECT(y == want && graphs_made == 10);
   for (int k : {9, 2, 5})
      session.infer_device(x[k].data(), y[k].data());
   EXPECT(graphs_made == 10);
   for (int k : {0, 1, 3})
      session.infer_device(x[k].data(), y[k].data());
   EXPECT(graphs_made == 12 + 1 && y == want);
"""
    run(tmp_path, models.mlp(), body)


def test_a_caller_who_captures_gets_the_kernels(tmp_path: Path) -> None:
    """A capture inside a capture, which CUDA refuses; a caller's graph in which nothing runs."""
    body = """
   Session session, plain("m.dat", false);
   std::vector<float> x = input(3, 1), y(15, 7.0f), want(15);
   plain.infer_device(x.data(), want.data());
   cudaStream_t stream = nullptr;
   cudaGraph_t graph = nullptr;
   cudaGraphExec_t exec = nullptr;
   cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
   cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
   session.infer_device(x.data(), y.data(), stream);
   cudaStreamEndCapture(stream, &graph);
   EXPECT(graphs_made == 0 && launched == 0 && y[0] == 7.0f);
   cudaGraphInstantiateWithFlags(&exec, graph, 0);
   cudaGraphLaunch(exec, stream);
   cudaStreamSynchronize(stream);
   EXPECT(y == want);
   cudaGraphExecDestroy(exec);
   cudaGraphDestroy(graph);
   cudaStreamDestroy(stream);
"""
    run(tmp_path, models.mlp(), body)


def test_a_launch_that_fails_in_a_capture_is_named(tmp_path: Path) -> None:
    """A graph without the kernel that CUDA refused, run as if it were whole; a stream left capturing."""
    body = """
   Session session;
   std::vector<float> x = input(3, 1), y(15), want(15);
   fails = 1;
   std::string said;
   try {
      session.infer_device(x.data(), y.data());
   } catch (const std::runtime_error &error) {
      said = error.what();
   }
   EXPECT(said == "kernel dense_2 of Gemm dense_2: invalid configuration argument");
   EXPECT(graphs_made == 0 && launched == 0);
   session.infer_device(x.data(), y.data());
   Session("m.dat", false).infer_device(x.data(), want.data());
   EXPECT(y == want && graphs_made == 1);
"""
    run(tmp_path, models.mlp(), body)


def test_what_the_host_reads_is_in_no_graph(tmp_path: Path) -> None:
    """The branch of the first call in all later ones."""
    body = """
   Session session("m.dat", true), plain("m.dat", false);
   std::vector<float> x(36, 0.5f), y(36), z(36), other(36), want(36);
   const std::uint8_t no[1] = {0}, yes[1] = {1};
   plain.infer_device(x.data(), no, no, other.data(), z.data());
   for (const std::uint8_t *c : {yes, no})
      session.infer_device(x.data(), c, no, y.data(), z.data());
   EXPECT(y == other && graphs_made == 0);
"""
    run(tmp_path, models.choices(), body)


@pytest.mark.parametrize(("make", "has"), [(models.mlp, True), (models.choices, False)])
def test_only_a_program_with_graphs_carries_their_text(make: Callable[[], onnx.ModelProto], has: bool) -> None:
    """A session that cannot use what it compiles."""
    program = lower(make(), "m", Options(target="cuda", without=APART))
    assert isinstance(program, CudaProgram)
    assert program.graphs == has
    assert ("class Graphs" in program.header()) == has


def test_a_session_prepares_its_kernels(tmp_path: Path) -> None:
    """Shared memory beyond 48 KB that nobody asked CUDA for."""
    program = lower(models.mlp(), "m", Options(target="cuda", without=APART))
    assert isinstance(program, CudaProgram) and "prepare();" not in program.header()

    class Preparing(CudaProgram):
        prepares = True

    text = Preparing(program.module, "m", program.variants).header()
    constructor = text[text.index("explicit Session(const DeviceWeights") :]
    assert constructor[: constructor.index("Session(Session &&)")].count("prepare();") == 1


def test_a_tensor_may_have_any_name(tmp_path: Path) -> None:
    """An input that hides a name of the session."""
    names = ["stream", "arguments", "launches", "on", "launch", "room_", "graph_of_", "check"]
    nodes = [onnx.helper.make_node("Sum", names, ["s"]), onnx.helper.make_node("Softmax", ["s"], ["y"])]
    body = f"""
   Session session;
   const float x[3] = {{1, 1, 1}};
   EXPECT(session.infer(1, {", ".join(["x"] * len(names))})[2] == 1.0f / 3);
"""
    model = models.build(nodes, {name: ["n", 3] for name in names}, ["y"], {})
    run(tmp_path, model, body, dims={"n": (1, 2)})
