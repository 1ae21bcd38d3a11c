"""Hypothesis draws the model AND the pipeline: the compiled C++ must agree with the reference whatever is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sofie import interpreter, jit, pipeline
from sofie.compiler import Options, compile_model
from sofie.frontends.onnx import load
from sofie.support import spelled
from sofie.target import native
from tests.draws import drawn_for
from tests.numerics.graphs import OPERATORS, Drawn, Key, models
from tests.numerics.graphs.judges import OWN
from tests.numerics.levels import LEVELS


def examples(count: int, what: str = "", shrink: bool = True) -> Callable[[Any], Any]:
    """Settings for slow examples, drawn for `what`; shrinking stops at the first bug.

    Graphs are not worth shrinking where each is compiled: hypothesis would spend minutes on the seed of their numbers.
    """
    phases = [phase for phase in Phase if shrink or phase not in (Phase.shrink, Phase.explain)]
    slow = settings(
        max_examples=count,
        phases=phases,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        report_multiple_bugs=False,
    )
    return lambda test: drawn_for(what)(slow(test))


def check(drawn: Drawn, results: Sequence[np.ndarray], what: str) -> None:
    """All outputs, in the model's order."""
    for (name, double), got in zip(drawn.double.items(), results, strict=True):
        assert_close(got, double, drawn.single[name], f"{name} {what}")


def assert_close(got: np.ndarray, double: np.ndarray, single: np.ndarray, what: str) -> None:
    """As near to the float64 truth as the float32 reference, within a factor of 4 and some ULP of the largest value.

    A float64 result may be as far off in its own ULP. Integers and booleans are exact.
    """
    assert got.shape == double.shape, f"{what}: shape {got.shape} where {double.shape} is right"
    if double.dtype.kind != "f":
        assert got.dtype == double.dtype, what
        np.testing.assert_array_equal(got, double, err_msg=what)
        return
    if not double.size:
        return
    scale = np.abs(double).max()
    ulps = 2.0**-29 if got.dtype == np.float64 else 1.0
    reference = np.abs(single - double).max()
    allowed = (4 * reference + 64 * np.spacing(np.float32(max(scale, 1e-30)))) * ulps
    worst = np.abs(got - double).max()
    assert worst <= allowed, f"{what}: error {worst} where {allowed} is allowed and the reference has {reference}"


LEFT_OUT = st.lists(st.sampled_from(pipeline.optional_passes()), unique=True, max_size=5)
CPUS = st.sampled_from(["scalar", "portable", native().name])
COMPILED, INTERPRETED = 2, 5
EXAMPLES = COMPILED + INTERPRETED
"""How many graphs are drawn that begin with an operator: compiled, at a level, and in all."""
PAIRS = [OPERATORS[k : k + 2] for k in range(0, len(OPERATORS), 2)]
"""Two operators in each compiled graph, since compiling is what costs."""


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("operators", PAIRS, ids=lambda pair: "-".join(spelled(*key) for key in pair))
def test_compiled_graph_agrees_with_the_reference(operators: Sequence[Key]) -> None:
    """A wrong lowering, fusion, destination, loop or printed expression."""

    @examples(COMPILED, f"{operators}", shrink=False)
    @given(models(first=operators, most=4), LEFT_OUT, CPUS, st.integers(0, 3))
    def agrees(drawn: Drawn, without: list[str], cpu: str, tile: int) -> None:
        passes = f"fuse,lower{{tile={tile}}}"
        compiled = compile_model(drawn.model, Options(without=without, cpu=cpu, passes=passes, verify_each=True))
        results = compiled.run(drawn.feeds)
        check(drawn, [results[name] for name in drawn.double], f"on {cpu} without {without}")

    agrees()


@pytest.mark.parametrize("operator", OPERATORS, ids=[spelled(*key) for key in OPERATORS])
def test_every_level_means_what_the_model_means(operator: Key) -> None:
    """A pass that is only right together with what comes behind it."""

    @examples(INTERPRETED, f"{operator}", shrink=False)
    @given(models(first=[operator], most=4), LEFT_OUT, st.sampled_from(LEVELS))
    def agrees(drawn: Drawn, without: list[str], spec: str) -> None:
        check(drawn, at_level(drawn, spec, without), f"after {spec!r} without {without}")

    agrees()


def at_level(drawn: Drawn, spec: str, without: Sequence[str] = ()) -> list[np.ndarray]:
    """What the interpreter makes of the model after these passes."""
    lacking = any(key in OWN for key in drawn.operators)
    module = load(drawn.model)
    if spec or lacking:
        pipeline.run(module, pipeline.parse(spec or "decompose,lower-onnx", without))
    return interpreter.run(module, list(drawn.feeds.values()))


@pytest.mark.usefixtures("needs_compiler")
def test_every_cpu_gives_the_bits_of_every_other_with_the_same_contraction() -> None:
    """An element whose value depends on the lane or the tile it was computed in."""

    @examples(25, shrink=False)
    @given(models(), st.integers(1, 6))
    def agrees(drawn: Drawn, tile: int) -> None:
        flags = (*jit.FLAGS, "-ffp-contract=off")
        results = []
        for cpu in ("scalar", "portable"):
            program = compile_model(drawn.model, Options(cpu=cpu, passes=f"fuse,lower{{tile={tile}}}")).program
            results.append(jit.compile_program(program, flags).run([drawn.feeds[p.name] for p in program.inputs]))
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)

    agrees()


ELEMENTWISE = ("Relu", "Tanh", "Add", "Sub", "Mul", "Concat", "Transpose", "Slice", "Reshape", "Identity", "Pad")


def test_no_write_overtakes_a_read() -> None:
    """An op that overwrites a value, or a slice, that another still reads."""

    @examples(400, shrink=False)
    @given(models([("", name) for name in ELEMENTWISE], most=10), LEFT_OUT)
    def agrees(drawn: Drawn, without: list[str]) -> None:
        spec = "fuse,assign-destinations,bufferize,plan-memory"
        check(drawn, at_level(drawn, spec, without), f"without {without}")

    agrees()
