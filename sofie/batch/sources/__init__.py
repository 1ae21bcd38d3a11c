"""Readers of events: ROOT, Parquet, CSV, HDF5 and npz files, each in blocks of rows from anywhere in the file.

`FORMATS` says which suffix is whose. A reader opens its file on use and holds no more than the rows that it hands out
and what its format decompresses together.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sofie.batch.sources.base import Place, Source, library
from sofie.batch.sources.csv import Csv
from sofie.batch.sources.hdf5 import Hdf5
from sofie.batch.sources.npz import Npz
from sofie.batch.sources.parquet import Parquet, from_arrow
from sofie.batch.sources.root import Root, from_awkward
from sofie.errors import SofieError, printable

__all__ = ["FORMATS", "Place", "Source", "from_arrow", "from_awkward", "library", "opened", "places"]

FORMATS: dict[str, type[Source]] = {
    ".root": Root,
    ".parquet": Parquet,
    ".pq": Parquet,
    ".csv": Csv,
    ".h5": Hdf5,
    ".hdf5": Hdf5,
    ".npz": Npz,
}
"""The readers by suffix."""


def places(words: Sequence[str]) -> list[Place]:
    """The files that words of the command line name, globs spread out in sorted order. Raises SofieError."""
    found: list[Place] = []
    for word in words:
        place = Place.of(word)
        path = str(place.path)
        if os.path.exists(path):
            paths = [path]
        elif not (paths := sorted(glob.glob(path, recursive=True))):
            which = "no file matches" if glob.has_magic(path) else "there is no file"
            raise SofieError(f"{which} {printable(path)!r}")
        found += [replace(place, path=Path(p)) for p in paths]
    return found


def opened(place: Place) -> Source:
    """The reader of a file. Raises SofieError on a suffix that nobody reads."""
    kind = FORMATS.get(place.path.suffix.lower())
    if kind is None:
        raise SofieError(f"{place.shown} has none of the suffixes that are read: {', '.join(FORMATS)}")
    return kind(place)
