"""Generated headers in real programs: warnings as errors, sanitizers, threads, hostile names, several models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests import models
from tests.emit.programs import FILES, assert_outputs, compile_and_run, emit, session_code

pytestmark = pytest.mark.usefixtures("needs_compiler")

SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


def run_all(folder: Path, flags: tuple[str, ...], compiler: str = "g++", **options: object) -> None:
    """All small models in one program, each header included twice."""
    made = {name: (make(), emit(folder, make(), name, **options)) for name, make in models.ALL.items()}
    feeds = {name: models.feeds(model) for name, (model, _) in made.items()}
    includes = "".join(f'#include "{name}.hxx"\n' for name in made) * 2
    body = "\n".join(session_code(generated, feeds[name], name) for name, (_, generated) in made.items())
    compile_and_run(folder, f"{includes}{FILES}\nint main()\n{{\n{body}\n}}\n", flags, compiler)
    for name, (model, generated) in made.items():
        assert_outputs(generated, model, feeds[name], name)


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("flags", ["-O0", "-O3", "-Ofast"])
def test_all_models_in_one_program_are_right_at_every_level(tmp_path: Path, compiler: str, flags: str) -> None:
    """A warning, a clash between two models, a second inclusion, or numbers that depend on the optimiser."""
    run_all(tmp_path, (flags,), compiler)


@pytest.mark.parametrize("cpu", ["scalar", "portable", "native"])
def test_emitted_code_is_clean_under_address_and_undefined_sanitizers(tmp_path: Path, cpu: str) -> None:
    """A read or write outside a buffer, a misaligned access, or arithmetic that C++ leaves undefined."""
    run_all(tmp_path, SANITIZERS, cpu=cpu)


def test_without_any_optional_pass_the_code_is_right_too(tmp_path: Path) -> None:
    """A printer that only knows what the fusing passes leave."""
    from sofie.pipeline import optional_passes

    run_all(tmp_path, SANITIZERS, without=optional_passes())


def test_four_sessions_share_weights_without_a_race(tmp_path: Path) -> None:
    """A session that writes to what it shares."""
    emit(tmp_path, models.convnet(), "net")
    main = """#include "net.hxx"
#include <thread>

int main()
{
   const SOFIE_net::Weights weights("net.dat");
   std::vector<float> x(3 * 9 * 11, 0.5f), expected = std::get<0>(SOFIE_net::Session(weights).infer(x.data()));
   std::vector<std::thread> threads;
   int wrong[4] = {};
   for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
         SOFIE_net::Session session(weights);
         for (int i = 0; i < 20; ++i)
            wrong[t] += std::get<0>(session.infer(x.data())) != expected;
      });
   for (auto &thread : threads)
      thread.join();
   return wrong[0] + wrong[1] + wrong[2] + wrong[3];
}
"""
    compile_and_run(tmp_path, main, ("-O1", "-g", "-fsanitize=thread"))


def test_inference_into_buffers_allocates_nothing(tmp_path: Path) -> None:
    """An allocation on the hot path."""
    generated = emit(tmp_path, models.convnet(), "net")
    sizes = [p.elements for p in generated.program.outputs]
    main = f"""#include "net.hxx"
#include <cstdlib>

static long allocations = 0;

void *operator new(std::size_t size) {{ ++allocations; return std::malloc(size); }}
void *operator new(std::size_t size, std::align_val_t) {{ ++allocations; return std::malloc(size); }}
void operator delete(void *p) noexcept {{ std::free(p); }}
void operator delete(void *p, std::size_t) noexcept {{ std::free(p); }}
void operator delete(void *p, std::align_val_t) noexcept {{ std::free(p); }}
void operator delete(void *p, std::size_t, std::align_val_t) noexcept {{ std::free(p); }}

int main()
{{
   SOFIE_net::Session session;
   float x[3 * 9 * 11] = {{}}, a[{sizes[0]}], b[{sizes[1]}];
   static_assert(noexcept(session.infer(x, a, b)), "the hot path throws nothing");
   const long before = allocations;
   session.infer(x, a, b);
   if (allocations != before)
      return 1;
   session.infer(x); // the counter counts: vectors are allocated here
   return allocations > before ? 0 : 2;
}}
"""
    compile_and_run(tmp_path, main, ("-O1", "-Wno-mismatched-new-delete"))


HOSTILE = [
    'x"); system("id',
    "class",
    "*/ int main() { /*",
    "a/b:0",
    "a_b_0",
    "line\nbreak // \\",
    "\\u000a??/",
    "Session",
    "infer",
    "weights",
    "exp",
    "日本語",
    "",
]


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_names_from_the_model_cannot_break_or_inject_code(tmp_path: Path, compiler: str) -> None:
    """A node or tensor name that is printed as it came."""
    nodes, previous = [], "in\n*/"
    for k, name in enumerate(HOSTILE):
        value = f"{name}{'' if name and name not in ('in', previous) else k}"
        nodes.append(helper.make_node("Exp" if k % 2 else "Tanh", [previous], [value], name=name))
        previous = value
    nodes.append(helper.make_node("Mul", [previous, "weights of \"'*/"], ["class;"], name="*/"))
    weights = {"weights of \"'*/": models.normal(4)}
    model = models.build(nodes, {"in\n*/": [3, 4]}, ["class;", HOSTILE[0]], weights)
    feeds = models.feeds(model)
    generated = emit(tmp_path, model, 'm"; #include <x>', without=["fuse-elementwise"])
    assert generated.header.name == "m_include_x.hxx"
    main = f'#include "{generated.header.name}"\n{FILES}\nint main()\n{{\n{session_code(generated, feeds, "net")}\n}}\n'
    compile_and_run(tmp_path, main, ("-O0",), compiler)
    assert_outputs(generated, model, feeds, "net")
    code = [line for line in generated.header.read_text().splitlines() if not line.startswith("//")]
    assert 'system("' not in "\n".join(code)


def test_tables_describe_the_tensors(tmp_path: Path) -> None:
    """Name, type or shape of an input or output as the header tells it."""
    emit(tmp_path, models.integers(), "net")
    main = """#include "net.hxx"
#include <cstring>

int main()
{
   using namespace SOFIE_net;
   static_assert(number_of_inputs == 3 && number_of_outputs == 3, "");
   static_assert(inputs[0].rank == 2 && inputs[0].shape[1] == 5, "");
   const bool names = !std::strcmp(outputs[2].name, "where");
   return names && !std::strcmp(inputs[0].type, "uint8") && !std::strcmp(outputs[2].type, "int64") ? 0 : 1;
}
"""
    compile_and_run(tmp_path, main)


@pytest.mark.parametrize("flags", [("-O0",), SANITIZERS])
def test_embedded_weights_need_no_file(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """The single-file form, moved to where no .dat is."""
    model = models.mlp()
    generated = emit(tmp_path, model, "net", embed=True)
    assert generated.data is None
    assert not list(tmp_path.glob("*.dat"))
    feeds = models.feeds(model)
    main = f'#include "net.hxx"\n{FILES}\nint main()\n{{\n{session_code(generated, feeds, "net")}\n}}\n'
    compile_and_run(tmp_path, main, flags)
    assert_outputs(generated, model, feeds, "net")


def test_retrained_weights_load_and_another_models_weights_throw(tmp_path: Path) -> None:
    """A layout digest that depends on values, or does not depend on structure."""
    first, second, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    emit(first, models.mlp(seed=0), "net")
    retrained = emit(second, models.mlp(seed=50), "net")
    emit(other, models.mlp(batch=4), "net")
    model, feeds = models.mlp(seed=50), models.feeds(models.mlp())
    (first / "net.dat").write_bytes((second / "net.dat").read_bytes())
    (first / "other.dat").write_bytes((other / "net.dat").read_bytes())
    code = session_code(emit(first, models.mlp(seed=50), "net"), feeds, "net")
    main = f"""#include "net.hxx"
#include <cstdio>
{FILES}
int main()
{{
{code}
   try {{
      SOFIE_net::Session wrong("other.dat");
   }} catch (const std::runtime_error &error) {{
      std::puts(error.what());
      return 0;
   }}
   return 1;
}}
"""
    emit(first, models.mlp(seed=0), "fresh")
    (first / "net.hxx").write_text((first / "fresh.hxx").read_text().replace("fresh", "net"))
    said = compile_and_run(first, main)
    assert "another model" in said
    assert said.count("\n") == 1
    retrained_here = type(retrained)(first / "net.hxx", first / "net.dat", retrained.program)
    assert_outputs(retrained_here, model, feeds, "net")


def test_weight_file_is_read_by_the_stock_package(tmp_path: Path) -> None:
    """A .dat that only our own loader understands."""
    numpy_reader = pytest.importorskip("safetensors.numpy")
    generated = emit(tmp_path, models.mlp(), "net")
    assert generated.data is not None
    arrays = numpy_reader.load_file(generated.data)
    np.testing.assert_array_equal(arrays["w1"], models.normal(20, 7, seed=1).T)


def test_several_models_with_one_input_each_keep_their_own_lanes(tmp_path: Path) -> None:
    """Macros of one header that leak into the next."""
    model = models.reductions()
    feeds = models.feeds(model)
    made = {cpu: emit(tmp_path, model, f"net_{cpu}", cpu=cpu) for cpu in ("native", "scalar", "portable")}
    includes = "".join(f'#include "net_{cpu}.hxx"\n' for cpu in made)
    body = "\n".join(session_code(generated, feeds, cpu) for cpu, generated in made.items())
    compile_and_run(tmp_path, f"{includes}{FILES}\nint main()\n{{\n{body}\n}}\n")
    for cpu, generated in made.items():
        assert_outputs(generated, model, feeds, cpu)


def test_kernel_comments_name_their_nodes(tmp_path: Path) -> None:
    """A reader who cannot find a layer."""
    text = emit(tmp_path, models.convnet(), "net").header.read_text()
    assert "// Conv stem, BatchNormalization norm, Relu relu" in text


def test_model_proto_is_not_changed_by_compiling(tmp_path: Path) -> None:
    """An importer that works on the caller's object."""
    model = models.convnet()
    before = model.SerializeToString(deterministic=True)
    emit(tmp_path, model, "net")
    assert model.SerializeToString(deterministic=True) == before
    assert isinstance(model, onnx.ModelProto)


SIZES = """#include "net.hxx"
#include <cstdio>
#include <cstring>

int main()
{
   SOFIE_net::Session session("net.dat");
   std::vector<float> x(64 * 7);
   for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = 0.01f * static_cast<float>(i) - 2.0f;
   const std::vector<float> whole = session.infer(64, x.data());
   for (const std::size_t batch : {1, 2, 63, 64}) {
      const std::vector<float> part = session.infer(batch, std::vector<float>(x.begin(), x.begin() + batch * 7).data());
      std::printf("%zu %zu %d\\n", batch, part.size(), std::memcmp(part.data(), whole.data(), part.size() * 4));
   }
   for (const std::size_t batch : {0, 65}) {
      float y[5] = {42};
      try {
         session.infer(batch, x.data(), y);
      } catch (const std::out_of_range &error) {
         std::printf("%s, %g\\n", error.what(), y[0]);
      }
   }
}
"""


@pytest.mark.parametrize("cpu", ["native", "portable"])
def test_sizes_of_the_run(tmp_path: Path, cpu: str) -> None:
    """A batch within its bounds is computed row by row alike; one outside is refused before anything is touched."""
    model = models.mlp()
    emit(tmp_path, model, "net", dims={"batch": (1, 64)}, cpu=cpu)
    printed = compile_and_run(tmp_path, SIZES, ("-O1", "-fsanitize=address,undefined")).splitlines()
    assert printed[:4] == ["1 5 0", "2 10 0", "63 315 0", "64 320 0"]
    assert printed[4:] == ["net: batch must be from 1 to 64, 42"] * 2
