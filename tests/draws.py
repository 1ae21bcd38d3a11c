"""What hypothesis draws: the same in each run, so that a change alone turns a test red, and others for each word.

`SOFIE_DRAWS=tuesday pytest tests/numerics` draws other models than `SOFIE_DRAWS=monday`; what it finds is found again
by the same word.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import seed

WORD = os.environ.get("SOFIE_DRAWS", "")


def drawn_for(what: str) -> Callable[[Any], Any]:
    """A test whose draws are its own, by what it is for: else all tests of one function begin with the same."""
    return seed(zlib.crc32(f"{WORD} {what}".encode()))
