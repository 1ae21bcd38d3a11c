"""Model files that are not ONNX: a table from the ending of a file to what reads it, so that every command takes it.

A reader takes the path of a file and returns an onnx.ModelProto; it raises SofieError on a file that it cannot read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import onnx

Reader = Callable[[Path], onnx.ModelProto]

READERS = {
    ".h5": "sofie.frontends.keras:read",
    ".hdf5": "sofie.frontends.keras:read",
    ".json": "sofie.frontends.sklearn:read_booster",
    ".keras": "sofie.frontends.keras:read",
    ".pt": "sofie.frontends.torch:read_script",
    ".pt2": "sofie.frontends.torch:read_program",
    ".txt": "sofie.frontends.sklearn:read_booster",
    ".ubj": "sofie.frontends.sklearn:read_booster",
}
"""By ending in lower case: the module and the function of the reader; a module is imported when it is needed."""


def reader(source: object) -> Reader | None:
    """What reads a file of this name; None where it is no path, or one that is read as ONNX."""
    named = READERS.get(Path(source).suffix.lower()) if isinstance(source, str | Path) else None
    if named is None:
        return None
    module, _, function = named.partition(":")
    return cast(Reader, getattr(importlib.import_module(module), function))
