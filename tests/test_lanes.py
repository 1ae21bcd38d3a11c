"""How columns are cut into vectors: every column once, or twice where that is allowed."""

from __future__ import annotations

import itertools

import pytest

from sofie.lanes import Plan, segments


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("overlap", [False, True])
def test_segments_cover_every_column(lanes: int, overlap: bool) -> None:
    """A column that is left out or lies beyond the end; one that is computed twice where it may not be."""
    for vectors, extent in itertools.product(range(1, 14), range(1, 150)):
        visited = [
            first + offset + lane
            for segment in segments(Plan(0, None, lanes, vectors, overlap=overlap), extent, vectors)
            for first in range(segment.start, segment.end, segment.step)
            for offset in segment.offsets
            for lane in range(segment.lanes)
        ]
        assert set(visited) == set(range(extent)), (vectors, extent)
        assert overlap or len(visited) == extent, (vectors, extent)
