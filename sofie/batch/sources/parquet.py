"""Parquet files by pyarrow, and columns out of Arrow arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sofie.batch.columns import Block, Column
from sofie.batch.sources.base import Place, Source, library, no_number
from sofie.errors import SofieError, printable


class Parquet(Source):
    """A Parquet file, by pyarrow."""

    what = "a Parquet file"

    @cached_property
    def _file(self) -> Any:
        # pages are decompressed as rows are asked for; buffered ahead, whole row groups would be in memory
        parquet = library("pyarrow.parquet", self.what)
        return self._opened(parquet.ParquetFile(self.place.path, pre_buffer=False, buffer_size=2**20))

    @cached_property
    def _fields(self) -> dict[str, tuple[str, str]]:
        """Each column, and the field of it; those of records, and of lists of records, are columns each: `jets.pt`."""
        pa = library("pyarrow", self.what)
        found: dict[str, tuple[str, str]] = {}
        for field in self._file.schema_arrow:
            kind = (
                field.type.value_type
                if pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
                else field.type
            )
            if pa.types.is_struct(kind):
                found |= {f"{field.name}.{part.name}": (field.name, part.name) for part in kind}
            else:
                found[field.name] = (field.name, "")
        return found

    @cached_property
    def names(self) -> list[str]:
        return list(self._fields)

    @cached_property
    def _groups(self) -> list[int]:
        """The first row of each row group, and the end."""
        meta = self._file.metadata
        sizes = [meta.row_group(k).num_rows for k in range(meta.num_row_groups)]
        return [0, *np.cumsum(np.array(sizes, np.int64)).tolist()]

    def rows(self, names: Sequence[str]) -> int:
        return int(self._file.metadata.num_rows)

    def blocks(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[Block]:
        if start == stop:
            yield self._block(self._file.schema_arrow.empty_table(), names)
            return
        bounds = self._groups
        groups = [k for k in range(len(bounds) - 1) if bounds[k] < stop and bounds[k + 1] > start]
        row = bounds[groups[0]]
        columns = list(dict.fromkeys(self._fields[name][0] for name in names))
        for batch in self._file.iter_batches(step, row_groups=groups, columns=columns):
            first, last = max(start - row, 0), min(stop - row, batch.num_rows)
            row += batch.num_rows
            if first < last:
                yield self._block(batch.slice(first, last - first), names)

    def _block(self, table: Any, names: Sequence[str]) -> Block:
        found = {}
        for name in names:
            column, field = self._fields[name]
            found[name] = from_arrow(table.column(column), name, self.place, field)
        return found


def from_arrow(array: Any, name: str, place: Place, field: str = "") -> Column:
    """A column from an Arrow array of numbers, arrays of them or lists of either. Raises SofieError on others.

    field: what is taken of records.
    """
    pa = library("pyarrow", "Arrow tables")
    kind = array.type
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = array.chunk(0) if array.num_chunks else pa.array([], kind)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    lengths = None
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        array = array.flatten()
    if field:
        array = library("pyarrow.compute", "Arrow tables").struct_field(array, field)
    shape: list[int] = []
    while pa.types.is_fixed_size_list(array.type):
        if array.null_count:
            raise SofieError(
                f"column {printable(name)!r} of {place.shown} has arrays that are missing: fill them first"
            )
        shape.append(array.type.list_size)
        array = array.flatten()
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    if pa.types.is_null(array.type):
        array = array.cast(pa.float64())
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    if not any(test(array.type) for test in tests):
        raise no_number(place, name, kind)
    missing = None
    if array.null_count:
        missing = array.is_null().to_numpy(zero_copy_only=False)
        array = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
    values = array.to_numpy(zero_copy_only=False)
    return Column(values.reshape(-1, *shape), lengths, None if missing is None else missing.reshape(-1, *shape))
