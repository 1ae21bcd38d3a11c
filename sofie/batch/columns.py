"""Columns of events, and the rule by which they become a model's inputs.

A column has one number, one array of fixed shape or one list of any length for each row. Scalars fill an input element
by element; lists are cut or padded to the size that the model takes, which has no other way to take them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sofie.errors import SofieError, printable

Numbers = npt.NDArray[Any]

NUMERIC = "biuf"
"""numpy's kinds of types that a model can take."""


def numeric(dtype: np.dtype[Any]) -> bool:
    """Whether a model can take such values."""
    return dtype.kind in NUMERIC


@dataclass(frozen=True)
class Column:
    """The values of some rows.

    values: [rows, *inner], or [entries, *inner] where rows are lists. lengths: how many entries each row has, [rows];
    None where rows are no lists. missing: which of `values` are not there, of the shape of its leading axes; None where
    all are.
    """

    values: Numbers
    lengths: Numbers | None = None
    missing: Numbers | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.values if self.lengths is None else self.lengths)

    @property
    def inner(self) -> tuple[int, ...]:
        """The shape of a row, or of an entry where rows are lists."""
        return tuple(self.values.shape[1:])

    @property
    def text(self) -> str:
        """Its type, as messages show it.

        >>> Column(np.zeros((2, 3), np.float32)).text, Column(np.zeros(4), np.array([1, 3])).text
        ('float32[3]', 'list of float64')
        """
        inner = f"[{', '.join(map(str, self.inner))}]" if self.inner else ""
        return f"{'list of ' if self.lengths is not None else ''}{self.values.dtype}{inner}"

    @cached_property
    def _offsets(self) -> Numbers:
        """Where each list begins, and the end."""
        assert self.lengths is not None
        return np.concatenate(([0], np.cumsum(self.lengths)))

    def cut(self, start: int, stop: int) -> Column:
        """Its rows from `start` to `stop`."""
        first, last = start, stop
        if self.lengths is not None:
            first, last = map(int, self._offsets[[start, stop]])
        return Column(
            self.values[first:last],
            None if self.lengths is None else self.lengths[start:stop],
            None if self.missing is None else self.missing[first:last],
        )


Block = Mapping[str, Column]
"""Some rows of several columns by name."""


def joined(blocks: Sequence[Block]) -> Block:
    """Blocks one after another."""
    if len(blocks) == 1:
        return blocks[0]
    return {name: _joined([block[name] for block in blocks]) for name in blocks[0]}


def _joined(columns: Sequence[Column]) -> Column:
    missing = [np.zeros(len(c.values), bool) if c.missing is None else c.missing for c in columns]
    return Column(
        np.concatenate([c.values for c in columns]),
        None if columns[0].lengths is None else np.concatenate([c.lengths for c in columns if c.lengths is not None]),
        np.concatenate(missing) if any(c.missing is not None for c in columns) else None,
    )


def resized(blocks: Iterable[Block], rows: int) -> Iterable[Block]:
    """The same rows in blocks of `rows`, the last of what is left."""
    kept: list[Block] = []
    count = 0
    for block in blocks:
        size = height(block)
        if size == rows and not count:
            yield block
            continue
        start = 0
        while count + size - start >= rows:
            stop = start + rows - count
            kept.append({name: column.cut(start, stop) for name, column in block.items()})
            yield joined(kept)
            kept, count, start = [], 0, stop
        if start < size:
            kept.append({name: column.cut(start, size) for name, column in block.items()})
            count += size - start
    if kept:
        yield joined(kept)


def height(block: Block) -> int:
    """How many rows a block has."""
    return next(iter(block.values())).rows


@dataclass(frozen=True)
class Input:
    """What a model takes for one event: ONNX name, numpy type, and the shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Rules:
    """How values become a model's. pad: what lists are filled up with. missing: what stands for NaN and for values that
    are not there; None keeps NaN."""

    pad: float = 0.0
    missing: float | None = None


@dataclass(frozen=True)
class Origin:
    """Where rows come from, for messages: the number of the first one, and how their file is shown."""

    first: int = 0
    file: str = ""

    def row(self, offset: int) -> str:
        """What a row is called."""
        return f"row {self.first + offset:,}{' of ' * bool(self.file)}{self.file}"


ORIGIN = Origin()


@dataclass(frozen=True)
class Binding:
    """An input and the columns that it is made of, in order."""

    input: Input
    columns: tuple[str, ...]

    def gather(self, block: Block, rules: Rules, at: Origin = ORIGIN) -> Numbers:
        """The input's array [rows, *shape] for a block that begins `at`. Raises SofieError.

        Where each column has one number a row, they are the elements of the input in order. One column of the input's
        own shape is taken as it is. Of lists, an input [k] takes one and an input [k, n] takes n: the first k entries
        in their order, and `rules.pad` where there are fewer. An input [n, k] takes n lists where n is not k. Arrays
        of k numbers stand for lists.
        """
        given = [block[name] for name in self.columns]
        shape, count = self.input.shape, len(given)
        if count == 1 and given[0].lengths is None and given[0].inner == shape:
            return self._converted(given[0], 0, rules, at)
        if all(c.lengths is None and not c.inner for c in given) and count == math.prod(shape):
            table = np.empty((given[0].rows, count), self.input.dtype)
            for k, column in enumerate(given):
                table[:, k] = self._converted(column, k, rules, at)
            return table.reshape(-1, *shape)
        if count == 1 and given[0].lengths is not None and shape and shape[1:] == given[0].inner:
            return self._padded(given[0], 0, shape[0], rules, at)
        if len(shape) == 2 and count in shape:
            last = shape[1] == count
            lists = [as_lists(c, shape[0 if last else 1]) for c in given]
            if None not in lists:
                return self._stacked([c for c in lists if c is not None], last, rules, at)
        raise SofieError(self._misfit(given))

    def _stacked(self, lists: Sequence[Column], last: bool, rules: Rules, at: Origin) -> Numbers:
        """Lists of equal lengths side by side, along the last axis or the first."""
        size = self.input.shape[0 if last else 1]
        for k, column in enumerate(lists[1:], 1):
            if unequal := np.flatnonzero(column.lengths != lists[0].lengths).tolist():
                a, b = (f"column {printable(self.columns[j])!r}" for j in (0, k))
                numbers = [int(c.lengths[unequal[0]]) for c in (lists[0], column) if c.lengths is not None]
                raise SofieError(
                    f"{a} has {numbers[0]} entries in {at.row(unequal[0])} and {b} has {numbers[1]}: "
                    f"lists that make one input must be equally long"
                )
        parts = [self._padded(column, k, size, rules, at) for k, column in enumerate(lists)]
        return np.stack(parts, axis=2 if last else 1)

    def _padded(self, column: Column, k: int, size: int, rules: Rules, at: Origin) -> Numbers:
        """The first `size` entries of each list, then the pad value: [rows, size, *inner]."""
        assert column.lengths is not None
        values = self._converted(column, k, rules, at)
        pad = self.converted_number(rules.pad, "--pad")
        padded = np.full((column.rows, size, *column.inner), pad, self.input.dtype)
        kept = np.minimum(column.lengths, size)
        starts = np.cumsum(column.lengths) - column.lengths
        place = np.arange(int(kept.sum())) - np.repeat(np.cumsum(kept) - kept, kept)
        padded[np.repeat(np.arange(column.rows), kept), place] = values[np.repeat(starts, kept) + place]
        return padded

    def _converted(self, column: Column, k: int, rules: Rules, at: Origin) -> Numbers:
        """A column's values in the input's type. Raises SofieError where a whole number would become another one."""
        name, dtype = printable(self.columns[k]), np.dtype(self.input.dtype)
        values, missing = column.values, column.missing
        if values.dtype.kind == "f" and rules.missing is not None:
            absent = np.isnan(values)
            missing = absent if missing is None else absent | _spread(missing, values)
        if missing is not None and missing.any():
            if rules.missing is not None:
                instead: Any = self.converted_number(rules.missing, "--missing")
            elif dtype.kind == "f":
                instead = np.nan
            else:
                row = at.row(_row(column, missing))
                raise SofieError(
                    f"column {name!r} has no value in {row}, and {dtype} has no NaN: say what stands for it with "
                    f"--missing VALUE"
                )
            result = exactly(np.where(_spread(missing, values), values.dtype.type(0), values), dtype)
            if result is not None:
                result = result if result is not values else result.copy()
                result[missing] = instead
        else:
            result = exactly(values, dtype)
        if result is None:
            culprit = _first_inexact(values, dtype)
            row = at.row(_row(column, culprit))
            shown = values[culprit][0]
            raise SofieError(
                f"column {name!r} has {shown} in {row}, which the {dtype} of input {printable(self.input.name)!r} "
                f"cannot hold"
            )
        return result

    def converted_number(self, number: float, option: str) -> Any:
        """A number of the command line in the input's type. Raises SofieError where it is another one there."""
        result = exactly(np.array([number]), np.dtype(self.input.dtype))
        if result is None:
            raise SofieError(
                f"{option} {number:g}: input {printable(self.input.name)!r} is {self.input.dtype}, which cannot hold it"
            )
        return result[0]

    def _misfit(self, given: Sequence[Column]) -> str:
        columns = ", ".join(f"{printable(n)} ({c.text})" for n, c in zip(self.columns, given, strict=True))
        shape = ", ".join(map(str, self.input.shape))
        takes = f"[{shape}]" if self.input.shape else "one number"
        return (
            f"input {printable(self.input.name)!r} takes {takes} for each event and is given {columns}: it takes "
            f"{_remedy(self.input.shape)}"
        )


def _remedy(shape: tuple[int, ...]) -> str:
    if not shape:
        return "one column of numbers"
    numbers = f"{math.prod(shape)} column{'s' * (math.prod(shape) != 1)} of numbers"
    own = f"one of arrays [{', '.join(map(str, shape))}]"
    lists = {1: ", or one of lists", 2: f", or {shape[-1]} of lists"}.get(len(shape), "")
    return f"{numbers}, {own}{lists}"


def as_lists(column: Column, size: int) -> Column | None:
    """A column of lists of numbers, which arrays of `size` numbers are too; None for others."""
    if column.lengths is not None:
        return None if column.inner else column
    if column.inner != (size,):
        return None
    missing = None if column.missing is None else _spread(column.missing, column.values).reshape(-1)
    return Column(column.values.reshape(-1), np.full(column.rows, size, np.int64), missing)


def _spread(missing: Numbers, values: Numbers) -> Numbers:
    """A mask of the leading axes for all of `values`."""
    return np.broadcast_to(missing.reshape(*missing.shape, *[1] * (values.ndim - missing.ndim)), values.shape)


def _row(column: Column, chosen: Numbers) -> int:
    """The number of the row that holds the first of the chosen values."""
    entry = int(np.flatnonzero(chosen.reshape(len(chosen), -1).any(axis=1))[0])
    if column.lengths is None:
        return entry
    return int(np.searchsorted(np.cumsum(column.lengths), entry, side="right"))


def exactly(values: Numbers, dtype: np.dtype[Any]) -> Numbers | None:
    """`values` in another type; None where a whole number would change, or a fraction become whole.

    Rounding of one float type to another is none of that; NaN stays NaN.
    """
    if values.dtype == dtype:
        return values
    rounds = values.dtype.kind in "iu" and dtype.kind == "f"  # also from int64 to float64, which numpy calls safe
    if (np.can_cast(values.dtype, dtype) and not rounds) or values.dtype.kind == dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        result = values.astype(dtype)
    return None if _inexact(values, result).any() else result


def _first_inexact(values: Numbers, dtype: np.dtype[Any]) -> Numbers:
    with np.errstate(invalid="ignore", over="ignore"):
        return _inexact(values, values.astype(dtype))


def _inexact(values: Numbers, result: Numbers) -> Numbers:
    """Where a conversion changed a number.

    Of a whole number, and back, 2^63 would become the largest int64 again: what is rounded up beyond it is told apart.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        changed = result.astype(values.dtype) != values
        if values.dtype.kind in "iu" and result.dtype.kind == "f":
            changed |= result >= float(np.iinfo(values.dtype).max)
        if values.dtype.kind in "if" and result.dtype.kind == "u":
            changed |= values < 0
        if values.dtype.kind == "u" and result.dtype.kind == "i":
            changed |= result < 0
        if values.dtype.kind == "f" and result.dtype.kind in "iu":
            limits = np.iinfo(result.dtype)
            changed |= ~((values >= float(limits.min)) & (values < float(limits.max) + 1.0))
    return np.asarray(changed)


def bindings(inputs: Sequence[Input], columns: Mapping[str, Sequence[str]] | Sequence[str] | None) -> list[Binding]:
    """The columns of each input: those named for it, those of the only one, or the one of its own name.

    Raises SofieError on names that the model does not have.
    """
    names = [i.name for i in inputs]
    listed = ", ".join(map(printable, names))
    if columns is None:
        return [Binding(i, (i.name,)) for i in inputs]
    if not isinstance(columns, Mapping):
        if len(inputs) != 1:
            raise SofieError(
                f"the model has {len(inputs)} inputs ({listed}): give the columns of each, as in --columns "
                f"{printable(names[0] if names else 'x')}=a,b"
            )
        columns = {names[0]: columns}
    if unknown := [name for name in columns if name not in names]:
        raise SofieError(f"the model has no input {printable(unknown[0])!r}; its inputs are {listed}")
    for name, of in columns.items():
        if not of:
            raise SofieError(f"input {printable(name)!r} is given no column")
    return [Binding(i, tuple(columns.get(i.name, (i.name,)))) for i in inputs]
