"""The ways to call a session besides pointers, and the ways to find its weights."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import models
from tests.emit.programs import STRICT, compile_and_run, emit

pytestmark = pytest.mark.usefixtures("needs_compiler")

SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def test_inputs_go_by_name_and_vectors_are_measured(tmp_path: Path) -> None:
    """An input that was not set, or a vector too short, is read all the same."""
    emit(tmp_path, models.mlp(), "net")
    main = """#include "net.hxx"
#include <iostream>

template <class Call> void say(Call call)
{
   try {
      call();
      std::cout << "taken\\n";
   } catch (const std::invalid_argument &error) {
      std::cout << error.what() << "\\n";
   }
}

int main()
{
   SOFIE_net::Session session;
   std::vector<float> x(21, 0.5f);
   const auto expected = session.infer(x.data());
   SOFIE_net::Inputs inputs;
   say([&] { session.infer(inputs); });
   inputs.x = x.data();
   std::cout << (session.infer(inputs) == expected) << (session.infer(x) == expected) << "\\n";
   x.pop_back();
   say([&] { session.infer(x); });
}
"""
    said = compile_and_run(tmp_path, main, SANITIZERS)
    assert said.splitlines() == [
        "net: the input x is not set",
        "11",
        "net: the input x has 20 elements, not 21",
    ]


def test_designated_initialisers_name_the_inputs(tmp_path: Path) -> None:
    """A struct that C++20 cannot initialise by names."""
    emit(tmp_path, models.mlp(), "net")
    main = """#include "net.hxx"
int main()
{
   SOFIE_net::Session session;
   const float x[21] = {1.f};
   return session.infer({.x = x}) == session.infer(x) ? 0 : 1;
}
"""
    compile_and_run(tmp_path, main, ("-std=c++20", "-O1"))


def test_sizes_of_the_run_measure_vectors_too(tmp_path: Path) -> None:
    """A length that is checked against the largest batch, or not at all."""
    emit(tmp_path, models.mlp("batch"), "net", dims={"batch": (1, 8)})
    main = """#include "net.hxx"
#include <iostream>
int main()
{
   SOFIE_net::Session session;
   const std::vector<float> x(21, 0.5f);
   std::cout << (session.infer(3, x) == session.infer(3, x.data()));
   try {
      session.infer(2, x);
   } catch (const std::invalid_argument &error) {
      std::cout << error.what();
   }
}
"""
    assert compile_and_run(tmp_path, main, SANITIZERS) == "1net: the input x has 21 elements, not 14"


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("count", ["2u", "2"], ids=["unsigned", "int"])
def test_a_functor_beside_that_of_root_is_not_ambiguous(tmp_path: Path, before: bool, count: str) -> None:
    """A program that uses ROOT's namespace and this header does not compile, or a functor gives something else."""
    emit(tmp_path, models.mlp(1), "net")
    (tmp_path / "root.hxx").write_text("""#include <string>
#include <utility>
#include <vector>

namespace TMVA {
namespace Experimental {

template <class Indices, class Element, class Session> struct SofieFunctorHelper;
template <std::size_t... K, class Element, class Session>
struct SofieFunctorHelper<std::index_sequence<K...>, Element, Session> {
   template <std::size_t> using Of = Element;
   std::vector<Session> sessions;
   SofieFunctorHelper(unsigned slots)
   {
      for (unsigned k = 0; k < slots; ++k)
         sessions.emplace_back();
   }
   double operator()(unsigned slot, Of<K>... columns)
   {
      const Element row[] = {columns...};
      return static_cast<double>(sessions[slot].infer(row)[0]);
   }
};

template <std::size_t N, class Session>
auto SofieFunctor(unsigned int nslots, const std::string & = "")
   -> SofieFunctorHelper<std::make_index_sequence<N>, float, Session>
{
   return {nslots};
}

} // namespace Experimental
} // namespace TMVA
""")
    headers = ['#include "root.hxx"', '#include "net.hxx"']
    main = "\n".join(reversed(headers) if before else headers)
    main += f"""
using namespace TMVA::Experimental;

int main()
{{
   auto functor = SofieFunctor<7, TMVA_SOFIE_net::Session>({count});
   const float x[] = {{1.f, -2.f, 3.f, -4.f, 5.f, -6.f, 7.f}};
   const auto copy = functor;
   static_cast<void>(copy);
   const auto y = functor(1, x[0], x[1], x[2], x[3], x[4], x[5], x[6]);
   static_cast<void>(y);
   return 0;
}}
"""
    compile_and_run(tmp_path, main, SANITIZERS)


def test_a_functor_takes_columns_of_double_and_refuses_slots_it_has_not(tmp_path: Path) -> None:
    """Columns in the wrong order or of the wrong type, a copy that shares sessions, a slot out of bounds."""
    emit(tmp_path, models.mlp(1), "net")
    main = """#include "net.hxx"
int main()
{
   auto functor = SofieFunctor<7, SOFIE_net::Session, double>(2);
   auto copy = functor;
   const float x[] = {1.f, -2.f, 3.f, -4.f, 5.f, -6.f, 7.f};
   const auto expected = SOFIE_net::Session().infer(x);
   if (functor(0, 1., -2., 3., -4., 5., -6., 7.) != expected || copy(1, 1., -2., 3., -4., 5., -6., 7.) != expected)
      return 1;
   copy = functor;
   functor = std::move(copy);
   if (functor(1, 1., -2., 3., -4., 5., -6., 7.) != expected)
      return 2;
   try {
      functor(2, 1., -2., 3., -4., 5., -6., 7.);
   } catch (const std::out_of_range &) {
      return 0;
   }
   return 3;
}
"""
    compile_and_run(tmp_path, main, SANITIZERS)


WHERE = """#include "HEADER"
#include <cstdio>
int main()
{
   try {
      const float x[21] = {1.f};
      std::printf("%d", static_cast<int>(SOFIE_net::Session().infer(x).size()));
   } catch (const std::runtime_error &error) {
      std::printf("%s", error.what());
   }
}
"""


def test_weights_are_found_by_variable_beside_the_header_and_by_definition(tmp_path: Path) -> None:
    """A program that runs elsewhere than it was compiled does not find its weights."""
    made, here, moved = (tmp_path / name for name in ("made", "here", "moved"))
    here.mkdir()
    moved.mkdir()
    emit(made, models.mlp(), "net")

    def run(flags: tuple[str, ...] = (), **variables: str) -> str:
        (here / "main.cpp").write_text(WHERE.replace("HEADER", str(made / "net.hxx")))
        subprocess.run(["g++", *STRICT, *flags, "main.cpp", "-o", "main"], cwd=here, check=True)
        environment = os.environ | variables
        return subprocess.run(["./main"], cwd=here, env=environment, capture_output=True, text=True, check=True).stdout

    size = run()
    assert size.isdigit()  # beside the header
    (made / "net.dat").rename(moved / "net.dat")
    assert "does not exist, nor is it in a folder of SOFIE_WEIGHTS_PATH" in run()
    assert run(SOFIE_WEIGHTS_PATH=f"/nowhere::{moved}") == size
    assert run((f'-DSOFIE_net_WEIGHTS="{moved}/net.dat"',)) == size
    assert "other.dat' does not exist" in run((f'-DSOFIE_net_WEIGHTS="{moved}/other.dat"',))


def test_weights_come_from_memory(tmp_path: Path) -> None:
    """Bytes that are used in place though they are not aligned or soon gone, or taken without a check."""
    emit(tmp_path, models.mlp(), "net")
    main = """#include "net.hxx"
#include <fstream>
#include <iostream>
#include <iterator>
int main()
{
   std::ifstream file("net.dat", std::ios::binary);
   std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
   bytes.insert(0, 1, 'x');
   SOFIE_net::Session session(SOFIE_net::Weights(bytes.data() + 1, bytes.size() - 1));
   const std::vector<float> x(21, 0.5f);
   const bool same = SOFIE_net::Session("net.dat").infer(x) == session.infer(x);
   try {
      SOFIE_net::Weights(bytes.data() + 1, bytes.size() - 2);
   } catch (const std::runtime_error &error) {
      std::cout << same << error.what();
   }
}
"""
    assert compile_and_run(tmp_path, main, SANITIZERS).startswith("1weights file 'in memory' is truncated")


def test_a_session_more_costs_its_arena(tmp_path: Path) -> None:
    """Sessions that have the weights each, or buffers besides their arena."""
    generated = emit(tmp_path, models.convnet(), "net")
    main = """#include "net.hxx"
#include <cstdio>
#include <malloc.h>
int main()
{
   const SOFIE_net::Weights weights;
   std::vector<SOFIE_net::Session> sessions;
   sessions.reserve(101);
   sessions.emplace_back(weights);
   const auto before = mallinfo2();
   for (int k = 0; k < 100; ++k)
      sessions.emplace_back(weights);
   const auto after = mallinfo2();
   std::printf("%zu", (after.uordblks + after.hblkhd - before.uordblks - before.hblkhd) / 100);
}
"""
    arena = generated.program.arena_bytes
    assert arena <= int(compile_and_run(tmp_path, main)) <= arena + 256
