"""What all readers of events share: where the rows are, how they are asked for, and what is said when that fails."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

from sofie.batch.columns import Block, Numbers, numeric, resized
from sofie.errors import SofieError, printable

EXTRA = "apply"
"""The extra of this package that brings the libraries of all formats."""


def library(name: str, what: str, extra: str = EXTRA) -> ModuleType:
    """A library that an extra brings. Raises SofieError where it is absent."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise SofieError(f"{what} needs {package}: pip install 'sofie-mlir[{extra}]'") from error


_INSIDE = re.compile(r"(?s)(.+\.(?:root|h5|hdf5)):(.*)")


@dataclass(frozen=True)
class Place:
    """A file, and the tree, group or dataset in it that was asked for."""

    path: Path
    inside: str = ""

    @staticmethod
    def of(word: str) -> Place:
        """What a word of the command line names, as file.root:tree; only formats that have an inside are split."""
        match = _INSIDE.fullmatch(word)
        return Place(Path(match[1]), match[2]) if match else Place(Path(word))

    @property
    def shown(self) -> str:
        """What messages call it."""
        return repr(printable(f"{self.path}:{self.inside}" if self.inside else str(self.path)))


class Source(ABC):
    """The rows of a file. Raises SofieError on a file or a name in it that is not there, or is damaged."""

    what: ClassVar[str]

    def __init__(self, place: Place) -> None:
        self.place = place
        self._open: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files that were opened."""
        while self._open:
            self._open.pop().close()

    def _opened(self, file: Any) -> Any:
        """A file that is closed with this reader."""
        self._open.append(file)
        return file

    @cached_property
    @abstractmethod
    def names(self) -> list[str]:
        """The columns that there are."""

    @abstractmethod
    def rows(self, names: Sequence[str]) -> int:
        """How many rows these columns have."""

    @abstractmethod
    def blocks(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[Block]:
        """The rows from `start` to `stop` in blocks of any size, about `step`."""

    def read(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[Block]:
        """The rows from `start` to `stop` in blocks of `step`, the last of what is left."""
        self.check(names)
        with self._told():
            yield from resized(self.blocks(names, start, stop, step), step)

    def sample(self, names: Sequence[str]) -> Block:
        """The columns without rows, which tell their types."""
        self.check(names)
        with self._told():
            for block in self.blocks(names, 0, 0, 1):
                return block
        raise SofieError(f"{self.place.shown} has no columns")

    def count(self, names: Sequence[str]) -> int:
        """As `rows`. Raises SofieError on names that are not there."""
        self.check(names)
        with self._told():
            return self.rows(names)

    def check(self, names: Sequence[str]) -> None:
        """Raises SofieError on a column that is not there."""
        with self._told():
            there = self.names
        if absent := [name for name in names if name not in there]:
            listed = ", ".join(map(printable, there[:30])) + (", ..." if len(there) > 30 else "")
            raise SofieError(f"{self.place.shown} has no column {printable(absent[0])!r}; it has {listed or 'none'}")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Failures of a library as one sentence."""
        try:
            yield
        except (SofieError, MemoryError):
            raise
        except FileNotFoundError as error:
            raise SofieError(f"there is no file {printable(str(self.place.path))!r}") from error
        except OSError as error:
            reason = error.strerror or printable(str(error), 200)
            raise SofieError(f"{self.place.shown} cannot be read: {reason}") from error
        except Exception as error:  # whatever a library raises on a damaged file
            detail = printable(" ".join(str(error).split()), 200)
            raise SofieError(f"{self.place.shown} cannot be read as {self.what}: {detail}") from error


def no_number(place: Place, name: str, kind: object) -> SofieError:
    """The sentence on a column that no model takes."""
    shown = printable(" ".join(str(kind).split()), 60)
    return SofieError(
        f"column {printable(name)!r} of {place.shown} is {shown}: only numbers and lists of them are taken"
    )


def numbers(values: Numbers, name: str, place: Place) -> Numbers:
    """The values, where a model takes their type. Raises SofieError."""
    if not numeric(values.dtype):
        raise no_number(place, name, values.dtype)
    return values


def one_height(rows: dict[str, int], place: Place) -> int:
    """The number of rows that all columns have. Raises SofieError where they differ."""
    (name, height), *others = rows.items()
    for other, count in others:
        if count != height:
            raise SofieError(
                f"column {printable(name)!r} of {place.shown} has {height:,} rows, and {printable(other)!r} {count:,}"
            )
    return height
