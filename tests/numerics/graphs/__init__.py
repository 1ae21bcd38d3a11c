"""Random ONNX graphs for hypothesis: each row draws one node on values that are there, or makes them.

Shapes stay small, so that a graph is compiled and run in a fraction of a second; many second operands are weights, so
that the folding passes have something to fold. `draws.py` counts how often each operator is drawn.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.numerics.graphs.registry import ROWS, Key
from tests.numerics.graphs.strategy import EXCUSED, Drawn, models

for _family in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_family.name}")  # they register their rows

OPERATORS: tuple[Key, ...] = tuple(sorted(ROWS))
"""Every operator that has a row."""

__all__ = ["EXCUSED", "OPERATORS", "Drawn", "Key", "models"]
