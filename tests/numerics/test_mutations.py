"""The random graphs find a wrong lowering: of operators chosen at random, each is broken on purpose and must be seen.

Rows and comparison are those of `test_random_graphs.py`, and as many examples as four runs draw of each operator. The
choice changes with the registry and the word of `SOFIE_DRAWS`; a test's name says which operator and which fault. All
of them: `SOFIE_MUTATIONS=all pytest tests/numerics/test_mutations.py`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from xdsl.dialects.builtin import IndexType, i1
from xdsl.ir import SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, is_float, shape_of
from sofie.errors import SofieError
from sofie.passes import lower_onnx
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.sizes import Size
from sofie.support import spelled
from tests.draws import WORD
from tests.numerics.graphs import OPERATORS, Drawn, Key, models
from tests.numerics.test_random_graphs import EXAMPLES, at_level, check

COUNT = 20
FAULTS = ("everywhere", "last")
"""Every element a little off, or only those at the end of the last axis."""


def chosen() -> list[tuple[Key, str]]:
    """Operators of the registry with a fault each."""
    candidates = [key for key in OPERATORS if key in lower_onnx.rules()]
    if os.environ.get("SOFIE_MUTATIONS") == "all":
        return [(key, fault) for key in candidates for fault in FAULTS]
    generator = random.Random(f"{candidates} {WORD}")
    return [(key, generator.choice(FAULTS)) for key in generator.sample(candidates, COUNT)]


def broken(rule: lower_onnx.Rule, fault: str) -> lower_onnx.Rule:
    """The lowering with its results a thousandth off, integers by one, booleans negated."""

    def wrong(op: OnnxOp, build: Lowering) -> Sequence[SSAValue]:
        lowered = rule(op, build)
        values = [lowered] if isinstance(lowered, SSAValue) else list(lowered)
        return [_off(build, value, fault) for value in values]

    return wrong


def _off(build: Lowering, value: SSAValue, fault: str) -> SSAValue:
    kind, shape = element_of(value), shape_of(value)

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        if kind == i1:
            changed = s.select(x, s.constant(False, i1), s.constant(True, i1))
        elif is_float(kind):
            changed = s.add(s.mul(x, s.constant(1 + 2**-10, kind)), s.constant(2**-10, kind))
        else:
            changed = s.add(x, s.constant(1, kind))
        if fault == "everywhere" or not shape or isinstance(shape[-1], Size):
            return changed
        last = s.compare("eq", s.loop(len(shape) - 1), s.constant(shape[-1] - 1, IndexType()))
        return s.select(last, changed, x)

    return build.elementwise(fn, value)


@pytest.mark.parametrize(("operator", "fault"), chosen(), ids=lambda p: p if isinstance(p, str) else spelled(*p))
def test_a_wrong_lowering_is_seen(operator: Key, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of the operator reach no output, or are compared too loosely."""
    table = lower_onnx.rules()
    monkeypatch.setitem(table, operator, broken(table[operator], fault))

    @settings(
        max_examples=4 * EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(models(first=[operator]))
    def agrees(drawn: Drawn) -> None:
        try:
            results = at_level(drawn, "decompose,lower-onnx")
        except SofieError:  # what reads a wrong value may fail on it: that proves nothing here
            return
        check(drawn, results, "")

    with pytest.raises(AssertionError):
        agrees()
