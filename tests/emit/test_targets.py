"""One header for several CPUs: right numbers at every level, one weight file, and equal bits where they are wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from sofie import interpreter, pipeline
from sofie.compiler import Generated, Options, lower
from sofie.frontends.onnx import load
from sofie.target import CPUS, native
from tests import models
from tests.emit.programs import FILES, assert_outputs, compile_and_run, emit, session_code

UINT8, INT32 = onnx.TensorProto.UINT8, onnx.TensorProto.INT32
LEVELS = [level for level in (2, 3, 4) if level <= native().level]
"""The levels that this machine runs."""

QEMU = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")


def attention() -> onnx.ModelProto:
    """Two heads over 11 tokens of 24 features, a normalisation, and a feed-forward layer of each activation."""
    split = models.normal(2, 24, 12, seed=2) / 5
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "offset"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "wq"], ["q"], name="queries"),
        helper.make_node("MatMul", ["n", "wk"], ["k"], name="keys"),
        helper.make_node("MatMul", ["n", "wv"], ["v"], name="values"),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1], name="keys_t"),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1, name="softmax"),
        helper.make_node("MatMul", ["p", "v"], ["heads"], name="heads"),
        helper.make_node("Gelu", ["heads"], ["gelu"], name="gelu"),
        helper.make_node("Tanh", ["heads"], ["tanh"], name="tanh"),
        helper.make_node("Sigmoid", ["heads"], ["sigmoid"], name="sigmoid"),
        helper.make_node("Add", ["gelu", "tanh"], ["sum"], name="sum"),
        helper.make_node("Mul", ["sum", "sigmoid"], ["y"], name="gate"),
        helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0, name="total"),
    ]
    weights = {"scale": models.normal(24), "offset": models.normal(24, seed=1), "wq": split}
    weights |= {"wk": models.normal(2, 24, 12, seed=3) / 5, "wv": models.normal(2, 24, 12, seed=4)}
    return models.build(nodes, {"x": [1, 11, 24]}, {"y": [2, 11, 12], "total": []}, weights)


EXACT: dict[str, Callable[[], onnx.ModelProto]] = {
    "attention": attention,
    "mlp": models.mlp,
    "convnet": models.convnet,
    "reductions": models.reductions,
    "sequences": models.sequences,
}


def program_of(made: dict[str, Generated], feeds: dict[str, dict[str, np.ndarray]], levels: list[str]) -> str:
    """A program that runs every model at every level."""
    includes = "".join(f'#include "{name}.hxx"\n' for name in made)
    body = "\n".join(
        session_code(generated, feeds[name], f"{name}_at_{level}" if level else name, level)
        for name, generated in made.items()
        for level in levels
    )
    return f"{includes}{FILES}\nint main()\n{{\n{body}\n}}\n"


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("flags", [("-O2",), ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")])
def test_every_level_of_one_header_is_right(tmp_path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    """A variant that reads other weights, a shared kernel that was called elsewhere, a warning at any level."""
    made = {name: emit(tmp_path, make(), name, cpu="multi") for name, make in models.ALL.items()}
    feeds = {name: models.feeds(make()) for name, make in models.ALL.items()}
    compile_and_run(tmp_path, program_of(made, feeds, [str(level) for level in LEVELS]), flags, compiler)
    for name, generated in made.items():
        for level in LEVELS:
            assert_outputs(generated, models.ALL[name](), feeds[name], f"{name}_at_{level}")


@pytest.mark.usefixtures("needs_compiler")
def test_the_level_is_that_of_the_machine_and_can_be_lowered(tmp_path: Path) -> None:
    emit(tmp_path, models.mlp(), "net", cpu="multi")
    main = """#include "net.hxx"
#include <cstdio>

int main()
{
   const SOFIE_net::Weights weights("net.dat");
   SOFIE_net::Session best(weights), lower(weights, 2), higher(weights, 9);
   std::printf("%d %d %d", best.level(), lower.level(), higher.level());
}
"""
    assert compile_and_run(tmp_path, main) == f"{native().level} 2 {native().level}"


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize(("machine", "level"), [("qemu64", "1"), ("Nehalem", "2"), ("Haswell", "3")])
def test_an_older_machine_gets_what_it_runs(tmp_path: Path, machine: str, level: str) -> None:
    """A header that looks at the wrong bits: it would crash on an instruction that the machine does not have."""
    generated = emit(tmp_path, models.mlp(), "net", cpu="multi")
    feeds = models.feeds(models.mlp())
    main = f"""#include "net.hxx"
#include <cstdio>
{FILES}
int main()
try {{
   std::printf("%d", SOFIE_net::Session().level());
{session_code(generated, feeds, "x")}
}} catch (const std::exception &problem) {{
   std::printf("%s", problem.what());
}}
"""
    said = compile_and_run(tmp_path, main, ("-O1", "-static"), emulator=("qemu-x86_64", "-cpu", machine))
    if level == "1":
        assert (
            said
            == "net was compiled for x86-64-v2 and above, which this CPU does not run; compile it with --cpu portable"
        )
    else:
        assert said == level
        assert_outputs(generated, models.mlp(), feeds, "x")


BUILDS = [
    ("g++", ("-O2",)),
    ("g++", ("-O3", "-march=native")),
    ("g++", ("-Ofast",)),
    ("clang++", ("-O2",)),
    ("clang++", ("-Ofast",)),
    ("aarch64-linux-gnu-g++", ("-O2",)),
    ("aarch64-linux-gnu-g++", ("-Ofast",)),
]


@pytest.fixture(scope="module")
def exact_bits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """What the reproducible models give on one lane: no vectors, no fused multiply-add."""
    folder = tmp_path_factory.mktemp("scalar")
    made = {name: emit(folder, make(), name, cpu="scalar", reproducible=True) for name, make in EXACT.items()}
    feeds = {name: models.feeds(make()) for name, make in EXACT.items()}
    compile_and_run(folder, program_of(made, feeds, [""]), ("-O1",))
    return {name: bits(folder, name, generated) for name, generated in made.items()}


def bits(folder: Path, label: str, generated: Generated) -> list[bytes]:
    """What a session wrote."""
    return [(folder / f"{label}_{k}.bin").read_bytes() for k in range(len(generated.program.outputs))]


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize(("compiler", "flags"), BUILDS, ids=lambda part: "".join(part))
def test_reproducible_models_give_the_same_bits_everywhere(
    tmp_path: Path, exact_bits: dict[str, list[bytes]], compiler: str, flags: tuple[str, ...]
) -> None:
    """A product that is fused with its sum on some CPU, or a sum whose order follows the lanes or the optimiser."""
    arm = compiler.startswith("aarch64")
    for cpu in ("aarch64", "multi") if arm else ("multi",):
        made = {name: emit(tmp_path, make(), name, cpu=cpu, reproducible=True) for name, make in EXACT.items()}
        feeds = {name: models.feeds(make()) for name, make in EXACT.items()}
        levels = [""] if arm else [str(level) for level in LEVELS]
        compile_and_run(tmp_path, program_of(made, feeds, levels), flags, compiler, QEMU if arm else ())
        for name, generated in made.items():
            for level in levels:
                label = f"{name}_at_{level}" if level else name
                assert bits(tmp_path, label, generated) == exact_bits[name], (cpu, label)


@pytest.mark.usefixtures("needs_compiler")
def test_kernels_for_aarch64_run_on_it(tmp_path: Path) -> None:
    made = {name: emit(tmp_path, make(), name, cpu="aarch64") for name, make in models.ALL.items()}
    feeds = {name: models.feeds(make()) for name, make in models.ALL.items()}
    compile_and_run(tmp_path, program_of(made, feeds, [""]), ("-O2",), "aarch64-linux-gnu-g++", QEMU)
    for name, generated in made.items():
        assert_outputs(generated, models.ALL[name](), feeds[name], name)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("march", ["armv8.2-a+dotprod", "armv8.6-a"])
def test_dot_products_of_bytes_run_on_aarch64(tmp_path: Path, march: str) -> None:
    """Bytes without a sign that are multiplied as if they had one, where the CPU has but such products."""
    made = {"quantized": emit(tmp_path, models.quantized(), "quantized", cpu="aarch64")}
    feeds = {"quantized": models.feeds(models.quantized())}
    flags = ("-O2", f"-march={march}")
    compile_and_run(tmp_path, program_of(made, feeds, [""]), flags, "aarch64-linux-gnu-g++", QEMU)
    assert_outputs(made["quantized"], models.quantized(), feeds["quantized"], "quantized")


@pytest.mark.parametrize("name", models.ALL)
def test_one_weight_file_and_one_arena_serve_every_cpu(tmp_path: Path, name: str) -> None:
    """A pass that lays weights or buffers out for one CPU: the variants of a header share both."""
    made = {cpu: emit(tmp_path / cpu, models.ALL[name](), name, cpu=cpu) for cpu in (*CPUS, "native", "multi")}
    assert len({g.data.read_bytes() for g in made.values() if g.data is not None}) == 1
    assert len({g.program.arena_bytes for g in made.values()}) == 1


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("cpu", [cpu for cpu in CPUS if cpu != "scalar"])
def test_the_loops_of_every_cpu_mean_the_same(name: str, cpu: str) -> None:
    """Level 4 of a CPU that this machine is not, by the interpreter."""
    model = EXACT[name]()
    feeds = [*models.feeds(model).values()]
    results = []
    for target in (cpu, "scalar"):
        module = load(model)
        pipeline.run(module, Options(cpu=target).stages())
        results.append(interpreter.run(module, feeds))
    for got, want in zip(*results, strict=True):
        np.testing.assert_array_equal(got, want)


def test_equal_scalar_kernels_are_printed_once() -> None:
    """A header that grows threefold where nothing could be vectorised."""
    program = lower(models.integers(), "net", Options(cpu="multi"))
    text = program.header()
    v2 = program.variants[0].kernels
    scalar = [name for name in v2 if all(variant.kernels[name] == v2[name] for variant in program.variants)]
    assert scalar
    for name in scalar:
        assert text.count(f"void {name}(") == 1 and text.count(f"v2::kernels::{name}(") == 2, name


def test_a_dot_product_is_not_that_of_a_cpu_without_vnni() -> None:
    """A CPU with VNNI that runs an equal text of another's, where the dot product is several instructions."""
    weights = {"w": models.rng().integers(-128, 128, (64, 32)).astype(np.int8)}
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    model = models.build(nodes, {"x": [1, 64]}, ["y"], weights, {"x": UINT8, "y": INT32})
    *earlier, last = lower(model, "net", Options(cpu="multi")).variants
    (name,) = [name for name, text in last.kernels.items() if "dot(" in text]
    assert any(last.kernels[name] == variant.kernels[name] for variant in earlier)
    assert last.cpu.vnni and name not in last.homes(earlier)
