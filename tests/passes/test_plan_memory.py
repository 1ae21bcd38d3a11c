"""Placement: buffers that live together never share a byte, and the arena stays near the lower bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sofie import pipeline
from sofie.frontends.onnx import load
from sofie.passes.plan_memory import ALIGNMENT, Buffer, lower_bound, place
from tests import models


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Buffer]:
    made = []
    for _ in range(draw(st.integers(1, 30))):
        first = draw(st.integers(0, 40))
        last = first + draw(st.integers(0, 10))
        made.append(Buffer(None, draw(st.integers(0, 4000)), first, last))
    return made


@given(lifetimes())
def test_buffers_alive_together_do_not_overlap(buffers: list[Buffer]) -> None:
    size = place(buffers)
    alive = [b for b in buffers if b.size]
    for k, a in enumerate(alive):
        assert a.offset % ALIGNMENT == 0
        assert a.offset + a.size <= size
        for b in alive[k + 1 :]:
            apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
            assert apart or not a.meets(b)
    assert size >= lower_bound(buffers)


def test_arena_of_a_network_is_its_lower_bound() -> None:
    """A plan that wastes memory on a chain of layers."""
    module = load(models.convnet())
    pipeline.run(module, pipeline.parse("fuse,lower"))
    text = str(module)
    arena = int(text.split("xi8> {sofie.arena")[0].rsplit("<", 1)[1])
    bound = int(text.split("sofie.lower_bound = ")[1].split(" ")[0])
    assert arena <= 1.05 * bound
