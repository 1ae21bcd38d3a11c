"""Random numbers on a GPU: those of a CPU for the same seed and call, and new ones whenever a graph is run again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import sofie
from sofie import interpreter
from sofie.compiler import Options, lower
from sofie.frontends.onnx import load
from tests import models
from tests.cuda_host.emulation import ADDRESS, HOST, emulated
from tests.cuda_host.test_device_arrays import Interface
from tests.cuda_host.test_graphs import run
from tests.emit.programs import FILES, compile_and_run
from tests.numerics import rows
from tests.numerics.test_random import SMALL, pair, same

pytestmark = pytest.mark.usefixtures("needs_compiler")


@pytest.mark.parametrize("without", [(), ("merge-launches",)])
def test_the_numbers_are_those_of_a_cpu(without: tuple[str, ...]) -> None:
    """A thread that counts places of its own, a call that is not counted, a seed cut to 32 bits."""
    module = load(rows.model(SMALL))
    feeds = rows.feeds(SMALL)
    with emulated():
        model = sofie.compile(rows.model(SMALL), target="cuda", without=without)
        for seed, call in ((0, 0), (0, 1), (2**63 + 12345, 0), (2**63 + 12345, 1)):
            if seed and not call:
                model.seed(seed)
            want = interpreter.run(module, list(feeds.values()), seed, call)
            same(rows.named(SMALL, list(model.run(feeds).values())), rows.named(SMALL, want))


def test_calls_are_counted_on_either_side() -> None:
    """A call with arrays of the device that draws the numbers of the one before; a seed that such a call passes by."""
    node = helper.make_node("RandomUniformLike", ["x"], ["y"])
    x = np.ones(5, np.float32)
    with emulated():
        model = sofie.compile(models.build([node], {"x": [5]}, ["y"], {}), target="cuda")
        assert not isinstance(model(x), tuple)
        host = [np.asarray(model(x)) for _ in range(3)]
        assert len(np.unique(host)) == 3 * 5
        model.seed(0)
        model(x)
        turns = [np.asarray(model(value)) for value in (Interface(x), x, Interface(x))]
        np.testing.assert_array_equal(turns, host)
        model.seed(0)
        model(Interface(x))
        np.testing.assert_array_equal(np.asarray(model(Interface(x))), host[0])


def test_numbers_go_on_through_all_that_is_compiled() -> None:
    """A shape that comes back and draws what it drew before."""
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["z"]), helper.make_node("RandomUniformLike", ["z"], ["y"])]
    proto = models.build(nodes, {"n": [1]}, ["y"], {}, {"n": TensorProto.INT64})
    with emulated():
        made = {target: sofie.compile(proto, target=target) for target in ("cpu", "cuda")}
        for seed in (None, 7):
            for count in (3, 4, 3):
                if seed is not None and count == 4:
                    for model in made.values():
                        model.seed(seed)
                on_cpu, on_gpu = (model(np.array([count])) for model in made.values())
                np.testing.assert_array_equal(on_gpu, on_cpu)


def test_a_graph_draws_anew(tmp_path: Path) -> None:
    """The numbers of the capture in every run; a seed or a place that a graph has kept; a state that a move leaves."""
    body = """
   Session session, plain("m.dat", false);
   std::vector<float> got[3], want[3];
   for (int k = 0; k < 3; ++k) {
      got[k].resize(9);
      want[k].resize(9);
   }
   const auto agree = [&](Session &one) {
      one.infer_device(got[0].data(), got[1].data(), got[2].data());
      plain.infer_device(want[0].data(), want[1].data(), want[2].data());
      return got[0] == want[0] && got[1] == want[1] && got[2] == want[2];
   };
   std::vector<float> first;
   for (int call = 0; call < 3; ++call) {
      EXPECT(agree(session) && got[0] != first && graphs_made == 1);
      first = got[0];
   }
   session.seed(0xfedcba9876543210u);
   plain.seed(0xfedcba9876543210u);
   EXPECT(agree(session) && agree(session));
   session.seed(0xfedcba9876543210u, nullptr, 1);
   first = got[0];
   session.infer_device(got[0].data(), got[1].data(), got[2].data());
   EXPECT(got[0] == first);
   Session moved = std::move(session);
   EXPECT(agree(moved) && graphs_made == 1);
"""
    run(tmp_path, pair(), body)


def test_the_graph_of_a_caller_draws_anew(tmp_path: Path) -> None:
    """A call that is counted when it is captured, not when it runs."""
    body = """
   Session session, plain("m.dat", false);
   std::vector<float> a(9), b(9), c(9), want(9), other(9), first;
   cudaStream_t stream = nullptr;
   cudaGraph_t graph = nullptr;
   cudaGraphExec_t exec = nullptr;
   cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
   cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
   session.infer_device(a.data(), b.data(), c.data(), stream);
   cudaStreamEndCapture(stream, &graph);
   cudaGraphInstantiateWithFlags(&exec, graph, 0);
   for (int call = 0; call < 3; ++call) {
      cudaGraphLaunch(exec, stream);
      plain.infer_device(want.data(), other.data(), other.data());
      EXPECT(a == want && a != first && graphs_made == 1);
      first = a;
   }
   session.infer_device(a.data(), b.data(), c.data());
   plain.infer_device(want.data(), other.data(), other.data());
   EXPECT(a == want);
   cudaGraphExecDestroy(exec);
   cudaGraphDestroy(graph);
   cudaStreamDestroy(stream);
"""
    run(tmp_path, pair(), body)


def test_hip_draws_the_same(tmp_path: Path) -> None:
    """A name of CUDA's in what only random numbers need."""
    made = sofie.generate(pair(), tmp_path, name="m", target="hip")
    assert "cuda" not in made.header.read_text().lower()
    main = f"""#include "{HOST.with_name("hip_host.hxx")}"
#include "m.hip.hxx"
{FILES}
int main()
{{
   SOFIE_m::Session session;
   session.seed(0xfedcba9876543210u);
   session.infer();
   write("a.bin", std::get<0>(session.infer()));
}}
"""
    flags = (*ADDRESS.flags, "-Wno-unknown-pragmas", str(ADDRESS.scheduler()))
    compile_and_run(tmp_path, main, flags)
    want = interpreter.run(load(pair()), [], 0xFEDCBA9876543210, 1)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "a.bin", np.float32), want[0])


def test_only_a_program_that_draws_has_a_state() -> None:
    """A launch more in every call of every model."""
    for proto, has in ((pair(), True), (models.mlp(), False)):
        text = lower(proto, "m", Options(target="cuda")).header()
        assert ("class RandomState" in text) == ("void seed(" in text) == has
