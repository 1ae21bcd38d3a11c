"""ROOT files by uproot, and columns out of awkward arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sofie.batch.columns import Block, Column, numeric
from sofie.batch.sources.base import Place, Source, library, no_number
from sofie.errors import SofieError, printable


class Root(Source):
    """A TTree or an RNTuple, by uproot."""

    what = "a ROOT file"

    @cached_property
    def _tree(self) -> Any:
        uproot = library("uproot", self.what)
        library("awkward", self.what)
        file = self._opened(uproot.open(str(self.place.path)))
        trees = [k for k, kind in file.classnames(cycle=False).items() if kind in ("TTree", "TNtuple", "ROOT::RNTuple")]
        listed = ", ".join(map(printable, trees)) or "none"
        wanted = self.place.inside.partition(";")[0] or (trees[0] if len(trees) == 1 else "")
        if wanted not in trees:
            asked = f"no tree {printable(wanted)!r}" if wanted else "not one tree: say which, as in FILE.root:TREE"
            raise SofieError(f"{printable(str(self.place.path))!r} has {asked}; its trees are {listed}")
        return file[self.place.inside or wanted]

    @cached_property
    def names(self) -> list[str]:
        return list(self._tree.keys())

    def rows(self, names: Sequence[str]) -> int:
        return int(self._tree.num_entries)

    def blocks(self, names: Sequence[str], start: int, stop: int, step: int) -> Iterator[Block]:
        given: dict[str, Any] = {
            "filter_name": _exactly(names),
            "library": "ak",
            "entry_start": start,
            "entry_stop": stop,
        }
        if start == stop:
            yield self._block(self._tree.arrays(**given), names)
            return
        for arrays in self._tree.iterate(step_size=step, **given):
            yield self._block(arrays, names)

    def _block(self, arrays: Any, names: Sequence[str]) -> Block:
        return {name: from_awkward(arrays[name], name, self.place) for name in names}


def _exactly(names: Sequence[str]) -> Any:
    """A filter of uproot for names that may hold what its patterns give a meaning to."""
    wanted = frozenset(names)
    return lambda name: name in wanted


def from_awkward(array: Any, name: str, place: Place) -> Column:
    """A column from an awkward array of numbers, arrays of them or lists of either. Raises SofieError on others."""
    ak = library("awkward", "awkward arrays")
    kind = whole = _without_option(ak, array.type.content)
    lengths = None
    if isinstance(kind, ak.types.ListType) and "__array__" not in kind.parameters:
        lengths = ak.to_numpy(ak.fill_none(ak.num(array, axis=1), 0)).astype(np.int64)
        array = ak.flatten(array, axis=1)
        kind = _without_option(ak, kind.content)
    while isinstance(kind, ak.types.RegularType):
        kind = _without_option(ak, kind.content)
    if not isinstance(kind, ak.types.NumpyType | ak.types.UnknownType) or kind.parameters:
        raise no_number(place, name, whole)
    values = ak.to_numpy(array)
    if not numeric(values.dtype):
        raise no_number(place, name, whole)
    if not isinstance(values, np.ma.MaskedArray):
        return Column(values, lengths)
    missing = np.ma.getmaskarray(values)
    return Column(np.where(missing, values.dtype.type(0), values.data), lengths, missing if missing.any() else None)


def _without_option(ak: Any, kind: Any) -> Any:
    while isinstance(kind, ak.types.OptionType):
        kind = kind.content
    return kind
