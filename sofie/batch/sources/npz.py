"""Archives of numpy arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from sofie.batch.columns import Block, Column, Numbers
from sofie.batch.sources.base import Place, Source, no_number, numbers, one_height
from sofie.errors import SofieError, printable


class Npz(Source):
    """The arrays of a .npz file, read row by row as they are decompressed; structured arrays are columns each."""

    what = "a .npz file"

    @cached_property
    def _arrays(self) -> dict[str, tuple[str, tuple[int, ...], np.dtype[Any]]]:
        """Each array's member of the archive, shape and type."""
        found = {}
        with zipfile.ZipFile(self.place.path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as stream:
                        found[member[:-4]] = (member, *_header_of(stream, member, self.place))
        return found

    @cached_property
    def _columns(self) -> dict[str, tuple[str, str]]:
        """Each column's array, and the field in it."""
        found: dict[str, tuple[str, str]] = {}
        for name, (_, shape, dtype) in self._arrays.items():
            if dtype.names and shape:
                prefix = "" if len(self._arrays) == 1 else f"{name}/"
                found |= {prefix + field: (name, field) for field in dtype.names}
            elif shape:
                found[name] = (name, "")
        return found

    @cached_property
    def names(self) -> list[str]:
        return list(self._columns)

    def rows(self, names: Sequence[str]) -> int:
        return one_height({name: self._arrays[self._columns[name][0]][1][0] for name in names}, self.place)

    def blocks(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[Block]:
        arrays = dict.fromkeys(self._columns[name][0] for name in names)
        with zipfile.ZipFile(self.place.path) as archive:
            streams = {array: archive.open(self._arrays[array][0]) for array in arrays}
            for array, stream in streams.items():
                _, shape, dtype = self._arrays[array]
                _header_of(stream, array, self.place)
                _skip(stream, start * dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64)))
            for first in range(start, max(stop, start + 1), step):
                count = min(first + step, stop) - first
                taken = {array: self._taken(stream, array, count) for array, stream in streams.items()}
                yield {name: self._column(name, taken) for name in names}

    def _taken(self, stream: Any, array: str, count: int) -> Numbers:
        _, shape, dtype = self._arrays[array]
        size = count * dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        content = stream.read(size)
        if len(content) != size:
            raise SofieError(f"{self.place.shown} ends before array {printable(array)!r} does")
        return np.frombuffer(content, dtype).reshape(count, *shape[1:])

    def _column(self, name: str, taken: dict[str, Numbers]) -> Column:
        array, field = self._columns[name]
        values = taken[array][field] if field else taken[array]
        return Column(numbers(values, name, self.place))


def _header_of(stream: Any, name: str, place: Place) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the .npy that begins here. Raises SofieError on one whose rows do not lie one after another."""
    major, minor = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise no_number(place, name, "object")
    if fortran and len(shape) > 1:
        raise SofieError(f"array {printable(name)!r} of {place.shown} is in Fortran's order: save it in C's")
    return shape, dtype


def _skip(stream: BinaryIO | Any, count: int) -> None:
    """Passes `count` bytes of a stream that may have to be decompressed."""
    while count > 0 and (read := len(stream.read(min(count, 2**20)))):
        count -= read
