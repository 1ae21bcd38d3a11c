"""CSV files by pyarrow, read from the lines that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from sofie.batch.columns import Block, Column, Numbers
from sofie.batch.sources.base import Source, library
from sofie.batch.sources.parquet import from_arrow
from sofie.errors import SofieError, printable


class Csv(Source):
    """A CSV file whose first line has the names, by pyarrow; empty fields are missing values."""

    what = "a CSV file"
    STRIDE: ClassVar[int] = 10_000
    """Of so many rows, where one begins is kept."""
    BYTES: ClassVar[int] = 2**22

    @cached_property
    def names(self) -> list[str]:
        header, _ = self._header
        found = list(library("pyarrow.csv", self.what).read_csv(_stream(header)).schema.names) if header.strip() else []
        if twice := [name for name in found if found.count(name) > 1]:
            raise SofieError(f"{self.place.shown} has two columns {printable(twice[0])!r}")
        return found

    @cached_property
    def _header(self) -> tuple[bytes, int]:
        """The first line, and where the next begins."""
        with open(self.place.path, "rb") as file:
            line = file.readline()
            return line, file.tell()

    @cached_property
    def _index(self) -> tuple[int, list[int]]:
        """The rows, and where every STRIDE-th begins, then the end. Lines without text are no rows."""
        rows, offsets, place = 0, [], self._header[1]
        with open(self.place.path, "rb") as file:
            file.seek(place)
            left = b""
            while (more := file.read(self.BYTES)) or left:
                text = left + more
                cut = text.rfind(b"\n") + 1 if more else len(text)
                starts = _line_starts(text[:cut])
                first = -rows % self.STRIDE
                offsets += (starts[first :: self.STRIDE] + place).tolist()
                rows += len(starts)
                place, left = place + cut, text[cut:]
        return rows, [*offsets, place]

    def rows(self, names: Sequence[str]) -> int:
        return self._index[0]

    def blocks(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[Block]:
        rows, offsets = self._index
        with open(self.place.path, "rb") as file:
            # rows of the file's beginning tell the types where none are asked for
            wanted = range(start // self.STRIDE, max(-(-stop // self.STRIDE), 1) if rows else 0)
            for k in wanted:
                file.seek(offsets[k])
                block = self._parsed(file.read(offsets[k + 1] - offsets[k]), names)
                here = k * self.STRIDE
                expected = min(rows - here, self.STRIDE)
                if (found := next(iter(block.values())).rows) != expected:
                    raise SofieError(
                        f"{self.place.shown} has {found} rows in the {expected} lines from row {here:,} on: lines in "
                        f"quotes are not taken"
                    )
                first, last = max(start - here, 0), max(min(stop - here, expected), 0)
                yield {name: column.cut(first, last) for name, column in block.items()}
        if not rows:
            yield {name: Column(np.empty(0)) for name in names}

    def _parsed(self, text: bytes, names: Sequence[str]) -> Block:
        csv = library("pyarrow.csv", self.what)
        pa = library("pyarrow", self.what)
        options = {
            "read_options": csv.ReadOptions(column_names=self.names, use_threads=False, block_size=max(len(text), 1)),
            "convert_options": csv.ConvertOptions(include_columns=list(names)),
        }
        table = csv.read_csv(_stream(text), **options)
        result = {}
        for name in names:
            column = table[name]
            result[name] = from_arrow(
                column.cast(pa.float64()) if pa.types.is_null(column.type) else column, name, self.place
            )
        return result


def _stream(text: bytes) -> Any:
    return library("pyarrow", Csv.what).BufferReader(text)


def _line_starts(text: bytes) -> Numbers:
    """Where the lines of a text begin that are not empty."""
    bytes_ = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(bytes_ == ord("\n"))
    if text and not text.endswith(b"\n"):
        ends = np.append(ends, len(text))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    length = ends - starts
    empty = (length == 0) | ((length == 1) & (bytes_[np.minimum(starts, len(text) - 1)] == ord("\r")))
    return np.asarray(starts[~empty], np.int64)
