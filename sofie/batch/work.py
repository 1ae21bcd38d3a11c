"""What is done to each chunk, here or on a cluster: columns into inputs, the model, outputs into columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from sofie.batch.chunks import Chunk
from sofie.batch.columns import Binding, Block, Column, Input, Numbers, Origin, Rules, bindings, exactly, height
from sofie.batch.scorer import Heard, Output, Scorer
from sofie.batch.sources import Place, Source, opened
from sofie.errors import SofieError, printable

MOST_COLUMNS = 1000
"""Columns that an output may become."""


@dataclass(frozen=True)
class Work:
    """The files, their columns and the model's inputs.

    places: the files. bound: the inputs and their columns. keep: the columns that are copied, with their types.
    outputs: the columns of each output. size: rows of a chunk.
    """

    places: tuple[Place, ...]
    bound: tuple[Binding, ...]
    rules: Rules
    keep: Mapping[str, Column]
    outputs: Mapping[str, tuple[str, ...]]
    size: int

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        return list(dict.fromkeys([*(name for b in self.bound for name in b.columns), *self.keep]))

    def blocks(self, span: Sequence[Chunk], source: Source) -> Iterator[tuple[Chunk, Block]]:
        """The rows of neighbouring chunks. Raises SofieError where the file has become shorter."""
        blocks = source.read(self.names, span[0].start, span[-1].stop, self.size)
        for chunk in span:
            block = next(blocks, None)
            if block is None or height(block) != chunk.stop - chunk.start:
                raise SofieError(f"{source.place.shown} ends before row {chunk.stop:,}: did it change meanwhile?")
            yield chunk, block

    def result(self, scorer: Scorer, chunk: Chunk, block: Block, heard: Heard | None = None) -> Block:
        """The columns of a part: those that are kept, then the outputs."""
        at = Origin(chunk.start, self.places[chunk.file].shown)
        feeds = {b.input.name: b.gather(block, self.rules, at) for b in self.bound}
        kept = {name: self._kept(name, block[name], at) for name in self.keep}
        scores = scorer.score(feeds, heard, seed=chunk.index)
        return {**kept, **columns_of(scores, self.outputs)}

    def _kept(self, name: str, column: Column, at: Origin) -> Column:
        dtype = self.keep[name].values.dtype
        values = exactly(column.values, dtype)
        if values is None:
            raise SofieError(
                f"column {printable(name)!r} of {at.file} has numbers that {dtype}, the type in all files, cannot hold"
            )
        return Column(values, column.lengths, column.missing)

    def fields(self, scorer: Scorer) -> Block:
        """The columns of the result, without rows."""
        empty = {o.name: np.empty((0, *o.shape), o.dtype) for o in scorer.outputs}
        return {**self.keep, **columns_of(empty, self.outputs)}


def columns_of(arrays: Mapping[str, Numbers], names: Mapping[str, Sequence[str]]) -> Block:
    """The columns of outputs [rows, *shape]: one for each element of a row."""
    found: dict[str, Column] = {}
    for output, of in names.items():
        table = arrays[output].reshape(len(arrays[output]), len(of))
        found |= {name: Column(np.ascontiguousarray(table[:, k])) for k, name in enumerate(of)}
    return found


def column_names(outputs: Sequence[Output], taken: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """What the columns of each output are called: `score`, or `score_0`, `score_1`, ... where there are several.

    Characters other than letters, digits and underscores, to which formats give a meaning, become underscores; a name
    that is taken gets another one at its end. Raises SofieError where an output is too large, or `taken` has its name.
    """
    found: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    for output in outputs:
        count = math.prod(output.shape)
        shown = f"output {printable(output.name)!r}"
        if count > MOST_COLUMNS:
            raise SofieError(f"{shown} has {count:,} numbers for each event: at most {MOST_COLUMNS:,} become columns")
        places = list(product(*map(range, output.shape))) if count != 1 else [()]
        base = re.sub(r"[^0-9A-Za-z_]+", "_", output.name) or "output"
        names = tuple("_".join([base, *map(str, place)]) for place in places)
        if both := [name for name in names if name in taken]:
            raise SofieError(f"{shown} gives a column {both[0]!r}, and so does --keep: leave it out there")
        while used & set(names):
            base += "_"
            names = tuple("_".join([base, *map(str, place)]) for place in places)
        used |= set(names)
        found[output.name] = names
    return found


def plan(
    places: Sequence[Place],
    scorer: Scorer,
    columns: Mapping[str, Sequence[str]] | Sequence[str] | None,
    keep: Sequence[str],
    rules: Rules,
    size: int,
) -> tuple[Work, Scorer, list[int]]:
    """The work, the scorer for it, and the rows of each file. Raises SofieError on whatever does not fit."""
    bound = bindings(scorer.inputs, columns)
    names = list(dict.fromkeys([*(name for b in bound for name in b.columns), *keep]))
    samples, rows = [], []
    for place in places:  # one after another: there may be more files than can be open at a time
        with opened(place) as source:
            samples.append(source.sample(names))
            rows.append(source.count(names))
    try:
        _fits(bound, samples, rules)
    except SofieError:
        other = scorer.eventwise()
        if other is None:
            raise
        again = bindings(other.inputs, columns)
        try:
            _fits(again, samples, rules)
        except SofieError:
            pass
        else:
            scorer, bound = other, again
        if scorer is not other:
            raise
    kept = {name: _common(name, [sample[name] for sample in samples]) for name in dict.fromkeys(keep)}
    outputs = column_names(scorer.outputs, list(kept))
    return Work(tuple(places), tuple(bound), rules, kept, outputs, size), scorer, rows


def _fits(bound: Sequence[Binding], samples: Sequence[Block], rules: Rules) -> None:
    for binding in bound:
        for value, option in ((rules.missing, "--missing"), (rules.pad if _pads(binding.input) else None, "--pad")):
            if value is not None:
                binding.converted_number(value, option)
        for sample in samples:
            binding.gather(sample, rules)


def _pads(taken: Input) -> bool:
    return bool(taken.shape)


def _common(name: str, samples: Sequence[Column]) -> Column:
    """A column, without rows, of the type that all files' have in common. Raises SofieError."""
    if len({(s.lengths is None, s.inner) for s in samples}) != 1:
        kinds = " and ".join(dict.fromkeys(s.text for s in samples))
        raise SofieError(f"column {printable(name)!r} is {kinds} in different files: leave it out of --keep")
    dtype = np.result_type(*(s.values.dtype for s in samples))
    return Column(samples[0].values[:0].astype(dtype), samples[0].lengths)
