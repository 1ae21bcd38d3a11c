"""What hypothesis draws: the same in each run, so that a change alone turns a test red, and others for each word.

`SOFIE_DRAWS=tuesday pytest tests/numerics` draws other models than `SOFIE_DRAWS=monday`; what it finds is found again
by the same word.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import seed
from hypothesis import strategies as st

from tests import models

WORD = os.environ.get("SOFIE_DRAWS", "")


def drawn_for(what: str) -> Callable[[Any], Any]:
    """A test whose draws are its own, by what it is for: else all tests of one function begin with the same."""
    return seed(zlib.crc32(f"{WORD} {what}".encode()))


@st.composite
def bytes_of_layer(draw: st.DrawFn, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """x, w and their zero points: any numbers, or the ends of their ranges, where sums are largest."""
    rng, ends = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.booleans())
    layer = {}
    for name, shape in shapes.items():
        kind = np.iinfo(draw(st.sampled_from(sorted(models.BYTES))) if name == "x" else "int8")
        few = rng.choice([kind.min, kind.max], shape, p=draw(st.sampled_from([(0, 1), (1, 0), (0.5, 0.5)])))
        layer[name] = (few if ends else rng.integers(kind.min, kind.max + 1, shape)).astype(kind.dtype)
        zeros = [0, kind.min, kind.max, 3] if name == "x" else [0]
        layer[f"{name}_zero"] = np.asarray(draw(st.sampled_from(zeros)), kind.dtype)
    return layer
