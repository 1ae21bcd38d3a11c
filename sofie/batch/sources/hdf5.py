"""HDF5 files by h5py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sofie.batch.columns import Block, Column
from sofie.batch.sources.base import Source, library, no_number, numbers, one_height
from sofie.errors import SofieError, printable


class Hdf5(Source):
    """The datasets of a group, or one dataset, of an HDF5 file, by h5py; compound types are columns each."""

    what = "an HDF5 file"

    @cached_property
    def _columns(self) -> dict[str, tuple[Any, str]]:
        """Each column's dataset, and the field in it."""
        h5py = library("h5py", self.what)
        file = self._opened(h5py.File(self.place.path, "r"))
        inside = self.place.inside.strip("/")
        if inside and inside not in file:
            listed = ", ".join(printable(name) for name in _below(file, h5py)) or "none"
            shown = printable(str(self.place.path))
            raise SofieError(f"{shown!r} has no group or dataset {printable(inside)!r}; its datasets are {listed}")
        chosen = file[inside] if inside else file
        datasets = _below(chosen, h5py) if isinstance(chosen, h5py.Group) else {inside.rpartition("/")[2]: chosen}
        found: dict[str, tuple[Any, str]] = {}
        for name, dataset in datasets.items():
            if not dataset.shape:
                continue
            if dataset.dtype.names and len(datasets) == 1:
                found |= {field: (dataset, field) for field in dataset.dtype.names}
            elif dataset.dtype.names:
                found |= {f"{name}/{field}": (dataset, field) for field in dataset.dtype.names}
            else:
                found[name] = (dataset, "")
        return found

    @cached_property
    def names(self) -> list[str]:
        return list(self._columns)

    def rows(self, names: Sequence[str]) -> int:
        return one_height({name: len(self._columns[name][0]) for name in names}, self.place)

    def blocks(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[Block]:
        for first in range(start, max(stop, start + 1), step):
            last = min(first + step, stop)
            yield {name: self._column(name, first, last) for name in names}

    def _column(self, name: str, start: int, stop: int) -> Column:
        dataset, field = self._columns[name]
        rows = dataset.fields(field)[start:stop] if field else dataset[start:stop]
        kind = dataset.dtype[field] if field else dataset.dtype
        if inner := library("h5py", self.what).check_vlen_dtype(kind):
            if not isinstance(inner, np.dtype):
                raise no_number(self.place, name, "text")
            lengths = np.array([len(row) for row in rows], np.int64)
            rows = np.concatenate([np.empty(0, inner), *rows])
            return Column(numbers(rows, name, self.place), lengths)
        return Column(numbers(rows, name, self.place))


def _below(group: Any, h5py: Any) -> dict[str, Any]:
    """The datasets of a group and of those in it, by path."""
    found: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[name] = node

    group.visititems(visit)
    return found
