"""Writers of results, part after part: Parquet, ROOT, CSV, HDF5 and npz files that appear complete or not at all.

`FORMATS` says which suffix is whose. Each writes to a hidden file beside its place, which is renamed at the end.
"""

from __future__ import annotations

import glob
import io
import os
import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np

from sofie.batch.columns import Block, Column, Numbers, height, joined
from sofie.batch.sources import Place, library
from sofie.errors import SofieError, printable

if TYPE_CHECKING:
    from typing_extensions import Buffer

ROWS = 100_000
"""Rows that a Parquet row group, a TTree basket or an RNTuple cluster has, or a little more."""


class Sink(ABC):
    """A file that is being written. fields: its columns, without rows, in order."""

    what: ClassVar[str]
    takes_lists: ClassVar[bool] = False
    takes_arrays: ClassVar[bool] = True

    def __init__(self, scratch: Path, fields: Block, inside: str) -> None:
        self.scratch, self.fields, self.inside = scratch, fields, inside

    @classmethod
    def check(cls, fields: Block, place: Place) -> None:
        """Raises SofieError on a column that the format has no room for, and where its library is absent."""
        for name, column in fields.items():
            if (column.lengths is not None and not cls.takes_lists) or (column.inner and not cls.takes_arrays):
                raise SofieError(
                    f"column {printable(name)!r} is {column.text}, which {cls.what} does not hold: leave it out of "
                    f"--keep, or write .parquet"
                )
            if column.lengths is not None and column.inner:
                raise SofieError(f"column {printable(name)!r} is {column.text}: only lists of numbers can be kept")

    @abstractmethod
    def write(self, block: Block) -> None:
        """Appends rows."""

    @abstractmethod
    def close(self) -> None:
        """Writes what is left and ends the file."""


def without_gaps(name: str, column: Column) -> Column:
    """NaN for what is missing. Raises SofieError where a type has none."""
    if column.missing is None:
        return column
    if column.values.dtype.kind != "f":
        raise SofieError(
            f"column {printable(name)!r} is {column.values.dtype} with missing values, for which only .parquet and "
            f".csv have room: leave it out of --keep"
        )
    return Column(np.where(column.missing, column.values.dtype.type(np.nan), column.values), column.lengths)


class _Gathered(Sink):
    """Gathers parts until they have ROWS rows."""

    def __init__(self, scratch: Path, fields: Block, inside: str) -> None:
        super().__init__(scratch, fields, inside)
        self._kept: list[Block] = []

    def write(self, block: Block) -> None:
        self._kept.append(block)
        if sum(map(height, self._kept)) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Appends what was gathered."""
        if self._kept:
            self.append(joined(self._kept))
        self._kept = []

    @abstractmethod
    def append(self, block: Block) -> None:
        """Appends rows that are enough to be stored together."""


class Parquet(_Gathered):
    what = "a Parquet file"
    takes_lists = True

    def __init__(self, scratch: Path, fields: Block, inside: str) -> None:
        super().__init__(scratch, fields, inside)
        parquet = library("pyarrow.parquet", self.what)
        self._file = parquet.ParquetWriter(scratch, to_arrow(fields).schema)

    def append(self, block: Block) -> None:
        self._file.write_table(to_arrow(block))

    def close(self) -> None:
        self.flush()
        self._file.close()


def to_arrow(block: Block) -> Any:
    """An Arrow table of a block; missing values are null."""
    pa = library("pyarrow", "Arrow tables")
    return pa.table({name: _to_arrow(pa, column) for name, column in block.items()})


def _to_arrow(pa: Any, column: Column) -> Any:
    missing = None if column.missing is None else np.broadcast_to(column.missing.reshape(-1), column.values.size)
    array = pa.array(np.ascontiguousarray(column.values).reshape(-1), mask=missing)
    for size in reversed(column.inner):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    if column.lengths is not None:
        offsets = np.concatenate([[0], np.cumsum(column.lengths)])
        array = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), array)
    return array


class Csv(Sink):
    what = "a CSV file"
    takes_arrays = False

    def __init__(self, scratch: Path, fields: Block, inside: str) -> None:
        super().__init__(scratch, fields, inside)
        self._file = library("pyarrow.csv", self.what).CSVWriter(scratch, to_arrow(_widened(fields)).schema)

    def write(self, block: Block) -> None:
        self._file.write_table(to_arrow(_widened(block)))

    def close(self) -> None:
        self._file.close()


def _widened(block: Block) -> Block:
    """float32 for float16, which some formats do not have."""
    return {
        name: Column(c.values.astype(np.float32), c.lengths, c.missing) if c.values.dtype == np.float16 else c
        for name, c in block.items()
    }


class Root(_Gathered):
    """A TTree."""

    what = "a ROOT file"
    takes_lists = True

    def __init__(self, scratch: Path, fields: Block, inside: str) -> None:
        super().__init__(scratch, fields, inside)
        uproot = library("uproot", self.what)
        library("awkward", self.what)
        self._file = uproot.recreate(scratch)
        # an assignment to self._file[name] would write an RNTuple
        kinds = {name: self._kind(column) for name, column in _widened(fields).items()}
        self._tree = self._file.mktree(inside or "tree", kinds, counter_name=self._counters(fields).__getitem__)

    def _counters(self, fields: Block) -> dict[str, str]:
        """The branch that holds the lengths of each list: `nl` of `l`, unless a column is called so."""
        taken, found = set(fields), {}
        for name, column in fields.items():
            if column.lengths is not None:
                found[name] = f"n{name}"
                while found[name] in taken:
                    found[name] = f"n{found[name]}"
                taken.add(found[name])
        return found

    def _kind(self, column: Column) -> Any:
        dtype = column.values.dtype
        return f"var * {dtype}" if column.lengths is not None else np.dtype((dtype, column.inner))

    def append(self, block: Block) -> None:
        if height(block):
            self._tree.extend({n: self._array(without_gaps(n, c)) for n, c in _widened(block).items()})

    def _array(self, column: Column) -> Any:
        if column.lengths is None:
            return column.values
        return library("awkward", self.what).unflatten(column.values, column.lengths)

    def close(self) -> None:
        self.flush()
        self._file.close()


class Hdf5(Sink):
    what = "an HDF5 file"

    def __init__(self, scratch: Path, fields: Block, inside: str) -> None:
        super().__init__(scratch, fields, inside)
        self._stream = _Unfailing(scratch, "w+b")
        self._file = library("h5py", self.what).File(self._stream, "w")
        group = self._file.require_group(inside) if inside else self._file
        self._sets = {
            name: group.create_dataset(name, (0, *c.inner), c.values.dtype, maxshape=(None, *c.inner), chunks=True)
            for name, c in fields.items()
        }

    def write(self, block: Block) -> None:
        for name, dataset in self._sets.items():
            column = without_gaps(name, block[name])
            start = len(dataset)
            dataset.resize(start + column.rows, axis=0)
            dataset[start:] = column.values
        self._stream.check()

    def close(self) -> None:
        self._file.close()
        self._stream.close()
        self._stream.check()


class _Unfailing(io.FileIO):
    """A file that says what failed when it is asked, and else goes on as if nothing had.

    The HDF5 library ends the process with a fault where it cannot write what it has left.
    """

    error: OSError | None = None

    def check(self) -> None:
        """Raises the first OSError of writing."""
        if self.error is not None:
            raise self.error

    def write(self, content: Buffer) -> int:
        view = memoryview(content).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += super().write(view[done:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


class Npz(Sink):
    """An uncompressed archive of an array for each column; the arrays grow in a folder of their own until the end."""

    what = "a .npz file"

    def __init__(self, scratch: Path, fields: Block, inside: str) -> None:
        super().__init__(scratch, fields, inside)
        self._folder = tempfile.TemporaryDirectory(prefix=f"{scratch.name}.", dir=scratch.parent)
        self._files = [Path(self._folder.name, str(k)) for k in range(len(fields))]
        self._rows = 0
        for file in self._files:
            file.touch()

    def write(self, block: Block) -> None:
        self._rows += height(block)
        for file, (name, column) in zip(self._files, block.items(), strict=True):
            with file.open("ab") as stream:
                stream.write(np.ascontiguousarray(without_gaps(name, column).values).data)

    def close(self) -> None:
        with self._folder, zipfile.ZipFile(self.scratch, "w") as archive:
            for file, (name, column) in zip(self._files, self.fields.items(), strict=True):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member, file.open("rb") as stream:
                    self._head(member, column.values)
                    shutil.copyfileobj(stream, member, 2**20)

    def _head(self, member: BinaryIO | Any, values: Numbers) -> None:
        described = np.lib.format.dtype_to_descr(values.dtype)
        shape = (self._rows, *values.shape[1:])
        header = {"descr": described, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)


FORMATS: dict[str, type[Sink]] = {
    ".parquet": Parquet,
    ".pq": Parquet,
    ".root": Root,
    ".csv": Csv,
    ".h5": Hdf5,
    ".hdf5": Hdf5,
    ".npz": Npz,
}
"""The writers by suffix; without one, Parquet is written."""


def place(word: str) -> Place:
    """Where results go, as in out.root:tree. Raises SofieError on a suffix that nobody writes, or a missing folder."""
    found = Place.of(word)
    if found.path.suffix.lower() not in ("", *FORMATS):
        raise SofieError(f"{found.shown} has none of the suffixes that are written: {', '.join(FORMATS)}")
    if not found.path.parent.is_dir():
        raise SofieError(f"there is no folder {printable(str(found.path.parent))!r} to write {found.path.name!r} into")
    if found.path.is_dir():
        raise SofieError(f"{found.shown} is a folder: name a file")
    return found


def kind(target: Place) -> type[Sink]:
    """The writer of a place."""
    return FORMATS[target.path.suffix.lower() or ".parquet"]


@contextmanager
def writing(target: Place, fields: Mapping[str, Column]) -> Iterator[Sink]:
    """A sink whose file takes its place at the end; a failure leaves nothing. Raises SofieError."""
    path = target.path
    scratch = path.with_name(f".{path.name}.unfinished{path.suffix}")
    for stale in path.parent.glob(f"{glob.escape(scratch.name)}*"):  # of a run that was killed
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    try:
        sink = kind(target)(scratch, fields, target.inside)
        yield sink
        sink.close()
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        raise SofieError(f"{target.shown} cannot be written: {error.strerror or printable(str(error), 200)}") from error
    finally:
        scratch.unlink(missing_ok=True)
