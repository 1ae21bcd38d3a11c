"""Hypothesis draws the model, what is left out of its way to a GPU and where schedules begin: as for CPUs, by the
same judges and within the same bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofie import contraction, pipeline
from sofie.compiler import Options, compile_model
from sofie.passes import map_rows, merge_launches
from sofie.support import spelled
from tests.cuda_host.emulation import emulated
from tests.cuda_host.test_conformance import chosen
from tests.numerics.graphs import OPERATORS, Drawn, models
from tests.numerics.test_random_graphs import check, examples

pytestmark = pytest.mark.usefixtures("needs_compiler")

LEFT_OUT = st.lists(st.sampled_from([s.name for s in pipeline.CUDA if s.optional]), unique=True, max_size=4)
CYCLES = st.sampled_from([0, merge_launches.CYCLES])
SCHEDULES = st.fixed_dictionaries(
    {
        (contraction, "LEAST_TERMS"): st.just(1),
        (map_rows, "SHORTEST"): st.sampled_from([2, map_rows.SHORTEST]),
        (map_rows, "LONG"): st.sampled_from([map_rows.LONG, 4]),
        (map_rows, "TURNS"): st.sampled_from([map_rows.TURNS, 1]),
    }
)
"""Where a schedule begins, by module and constant: with the few elements of a drawn graph, or where it pays."""

GROUPS = {"-".join(spelled(*key) for key in OPERATORS[k::73]): OPERATORS[k::73] for k in range(73)}
"""Three operators in each graph, since compiling is what costs."""
FEW, MANY = 2, 10
"""How many graphs begin with each group."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A third of the groups, another one whenever the compiler changes; all, and more graphs of each, with --full."""
    if "group" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        rows = [(group, MANY if full else FEW) for group in GROUPS if full or chosen(group)]
        metafunc.parametrize(("group", "count"), rows, ids=[group for group, _ in rows])


@contextmanager
def beginning(schedules: Mapping[tuple[object, str], int]) -> Iterator[None]:
    """Schedules begin elsewhere while this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in schedules.items():
            patch.setattr(module, name, value)
        yield


def test_a_graph_on_a_gpu_agrees_with_the_reference(group: str, count: int) -> None:
    """A schedule, or a pass that others behind it rely on, that is wrong in some order of threads."""

    @examples(count, group, shrink=False)
    @given(models(first=GROUPS[group], most=4), LEFT_OUT, CYCLES, SCHEDULES, st.integers(1, 2**31))
    def agrees(
        drawn: Drawn,
        without: Sequence[str],
        cycles: int,
        schedules: Mapping[tuple[object, str], int],
        seed: int,
    ) -> None:
        passes = f"{pipeline.GPU}{{least=1 cycles={cycles}}}"
        with beginning(schedules), emulated(seed):
            made = compile_model(drawn.model, Options(target="cuda", without=without, passes=passes, verify_each=True))
            results = made.run(drawn.feeds)
        check(drawn, [results[name] for name in drawn.double], f"without {without}, in the order of {seed}")

    agrees()
