"""`sofie.apply`: a model on arrays and tables, and lazily on collections of Dask; the result is of their kind.

What is in memory is cut into pieces for the cores as files are. Of a collection of Dask, each partition is a task that
makes the machine code once in its process.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sofie.batch import CHUNK
from sofie.batch.columns import Binding, Block, Column, Numbers, Rules, bindings, height, numeric
from sofie.batch.distributed import Recipe, made
from sofie.batch.local import cores
from sofie.batch.scorer import Scorer, digest, prepare
from sofie.batch.sinks import to_arrow
from sofie.batch.sources import Place, from_arrow, from_awkward, library
from sofie.batch.work import column_names, columns_of
from sofie.errors import SofieError, printable

if TYPE_CHECKING:
    import onnx

    from sofie.compiler import Model, Options, Source

DATA = Place(Path("the data"))
Results = dict[str, Numbers]


def apply(
    model: Source | Model,
    data: Any,
    columns: Mapping[str, Sequence[str]] | Sequence[str] | None,
    rules: Rules,
    jobs: int,
    options: Options,
) -> Any:
    """The outputs of a model for each row of `data`, as what `data` is. Raises SofieError."""
    from sofie.compiler import Model

    made = Made(Scorer(model)) if isinstance(model, Model) else _made(model, options)
    task = Task(made, tuple(bindings(made.scorer.inputs, columns)), rules, jobs)
    for module, kind, run in KINDS:
        if any(t.__module__.partition(".")[0] == module and t.__name__ == kind for t in type(data).__mro__):
            return run(task, data)
    raise SofieError(
        f"{type(data).__name__} is no data that a model can be applied to: give an array of numpy, awkward or Dask, or "
        f"a dictionary of arrays"
    )


@dataclass(frozen=True)
class Made:
    """A model for batches; where its source or its recipe is known, it can be sent to other processes."""

    scorer: Scorer
    source: tuple[onnx.ModelProto, Options, str] | None = None
    recipe: Recipe | None = None

    def shipped(self) -> Recipe:
        """What others make it of. Raises SofieError."""
        if self.recipe is not None:
            return self.recipe
        if self.source is None:
            raise SofieError("a compiled model stays in its process: give its path, or the ONNX model, instead")
        return Recipe.of(*self.source, self.scorer)


KEPT = 16
"""Models that stay compiled, for those who apply one to piece after piece."""
_KEPT: OrderedDict[str, Made] = OrderedDict()
_KEEPING = threading.Lock()


def _made(model: Source, options: Options) -> Made:
    """A model for batches, compiled if it is not one of the last. Raises SofieError."""
    from sofie.compiler import default_name
    from sofie.frontends.onnx import read_model

    proto, name = read_model(model, options.dims, options.values), default_name(model)
    key = f"{digest(proto)} {hashlib.sha256(pickle.dumps((options, name))).hexdigest()}"
    with _KEEPING:
        if key not in _KEPT:
            scorer, bounded = prepare(proto, options, name)
            _KEPT[key] = Made(scorer, (proto, bounded, name))
            if len(_KEPT) > KEPT:
                _KEPT.popitem(last=False)
        _KEPT.move_to_end(key)
        return _KEPT[key]


@dataclass(frozen=True)
class Task:
    """A model and the columns of its inputs. jobs: threads, 0 for one on each core."""

    made: Made
    bound: tuple[Binding, ...]
    rules: Rules
    jobs: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.made.shipped(), self.bound, self.rules)

    @property
    def scorer(self) -> Scorer:
        """The machine code."""
        return self.made.scorer

    @property
    def names(self) -> list[str]:
        """The columns that are needed."""
        return list(dict.fromkeys(name for b in self.bound for name in b.columns))

    @property
    def empty(self) -> Results:
        """Outputs without rows."""
        return {o.name: np.empty((0, *o.shape), o.dtype) for o in self.scorer.outputs}

    def results(self, block: Block) -> Results:
        """The outputs [rows, *shape] by name. Raises SofieError."""
        rows = height(block)
        if uneven := [name for name, column in block.items() if column.rows != rows]:
            first = next(iter(block))
            raise SofieError(
                f"column {printable(first)!r} has {rows:,} rows, and {printable(uneven[0])!r} {block[uneven[0]].rows:,}"
            )
        starts = range(0, rows, CHUNK)
        with ThreadPoolExecutor(min(self.jobs or cores(), max(len(starts), 1))) as pool:
            parts = list(pool.map(lambda start: self._part(block, start, min(start + CHUNK, rows)), starts))
        if not parts:
            self._part(block, 0, 0)
        return {name: np.concatenate([part[name] for part in parts]) if parts else a for name, a in self.empty.items()}

    def _part(self, block: Block, start: int, stop: int) -> Results:
        cut = {name: column.cut(start, stop) for name, column in block.items()}
        feeds = {b.input.name: b.gather(cut, self.rules) for b in self.bound}
        return self.scorer.score(feeds, seed=start // CHUNK)


def _arrived(recipe: Recipe, bound: tuple[Binding, ...], rules: Rules) -> Task:
    """A task in another process, whose other cores have tasks of their own."""
    return Task(Made(made(recipe), recipe=recipe), bound, rules)


# -- numpy -------------------------------------------------------------------------------------------------------------


def _array(task: Task, data: Any) -> Any:
    return _bare(task.results(_array_block(task, data)))


def _array_block(task: Task, data: Any) -> Block:
    if data.dtype.names:
        return _picked(task, {name: data[name] for name in data.dtype.names})
    return {_only(task): _column(_only(task), data)}


def _only(task: Task) -> str:
    """The column that an array without names is. Raises SofieError where there must be several."""
    if len(task.names) != 1:
        listed = ", ".join(map(printable, task.names))
        raise SofieError(f"an array has no columns {listed}: give a dictionary of arrays")
    return task.names[0]


def _mapping(task: Task, data: Any) -> Any:
    found = _sequence_of(data.values())
    if found is not None:
        return _dask_arrays(task, {name: data[name] for name in _checked(task, data)})
    return _bare(task.results(_picked(task, data)))


def _picked(task: Task, data: Mapping[str, Any]) -> Block:
    return {name: _column(name, data[name]) for name in _checked(task, data)}


def _checked(task: Task, data: Mapping[str, Any]) -> list[str]:
    """The columns that are needed. Raises SofieError where one is not there."""
    if absent := [name for name in task.names if name not in data]:
        listed = ", ".join(printable(str(name)) for name in data)
        raise SofieError(f"there is no column {printable(absent[0])!r}; there are {listed or 'none'}")
    return task.names


def _column(name: str, value: Any) -> Column:
    if type(value).__module__.partition(".")[0] == "awkward":
        return from_awkward(value, name, DATA)
    array = np.asarray(value)
    if array.ndim == 0 or not numeric(array.dtype):
        kind = array.dtype if array.ndim else "one value"
        raise SofieError(f"column {printable(name)!r} is {kind}: only arrays of numbers and lists of them are taken")
    missing = np.ma.getmaskarray(value) if isinstance(value, np.ma.MaskedArray) else None
    return Column(array, None, missing)


def _bare(results: Results) -> Any:
    """The only output, or all by name."""
    return next(iter(results.values())) if len(results) == 1 else results


# -- awkward -----------------------------------------------------------------------------------------------------------


def _awkward(task: Task, data: Any) -> Any:
    return _to_awkward(task.results(_awkward_block(task, data)))


def _awkward_block(task: Task, data: Any) -> Block:
    if not data.fields:
        return {_only(task): from_awkward(data, _only(task), DATA)}
    return {name: from_awkward(_field(data, name), name, DATA) for name in task.names}


def _field(data: Any, name: str) -> Any:
    """A field of records, or one of a field's records: `jets.pt`. Raises SofieError where there is none."""
    found = data
    for part in [name] if name in data.fields else name.split("."):
        if part not in found.fields:
            listed = ", ".join(map(printable, found.fields))
            raise SofieError(f"there is no column {printable(name)!r}; there are {listed or 'none'}")
        found = found[part]
    return found


def _to_awkward(results: Results) -> Any:
    ak = library("awkward", "awkward arrays")
    arrays = {name: ak.Array(array) for name, array in results.items()}
    return next(iter(arrays.values())) if len(arrays) == 1 else ak.zip(arrays, depth_limit=1)


# -- tables ------------------------------------------------------------------------------------------------------------


def _arrow(task: Task, data: Any) -> Any:
    there = {name: data.column(name) for name in data.column_names}
    block = {name: from_arrow(there[name], name, DATA) for name in _checked(task, there)}
    return to_arrow(columns_of(task.results(block), column_names(task.scorer.outputs)))


# -- Dask --------------------------------------------------------------------------------------------------------------


def _sequence_of(values: Any) -> Any:
    """The first of some values that is an array of Dask; None without one."""
    return next((v for v in values if type(v).__module__.startswith("dask.array")), None)


def _dask_array(task: Task, data: Any) -> Any:
    return _dask_arrays(task, {_only(task): data})


def _dask_arrays(task: Task, arrays: Mapping[str, Any]) -> Any:
    """Arrays of Dask, cut along their rows alike, as one array, or as a dictionary of several outputs."""
    da = library("dask.array", "an array of Dask", "dask")
    rows = _sequence_of(arrays.values()).chunks[0]
    whole = {n: da.asarray(a).rechunk({0: rows, **{k: -1 for k in range(1, a.ndim)}}) for n, a in arrays.items()}
    _fits(task, {name: np.empty((0, *a.shape[1:]), a.dtype) for name, a in whole.items()})
    kind = np.dtype([(o.name, o.dtype, o.shape) for o in task.scorer.outputs])
    given: list[Any] = []
    label = count(1)  # extents other than the rows' are whole in each block, and gone in the result
    for array in whole.values():
        given += [array, (0, *islice(label, array.ndim - 1))]
    name = f"sofie-apply-{uuid.uuid4().hex}"
    blocks = _Blocks(replace(task, jobs=1), tuple(whole))
    table = da.blockwise(blocks, (0,), *given, dtype=kind, meta=np.empty(0, kind), concatenate=True, name=name)
    outputs = {o.name: table[o.name] for o in task.scorer.outputs}
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _fits(task: Task, arrays: Mapping[str, Numbers]) -> None:
    """Raises SofieError where columns do not fit, before anything is computed."""
    block = {name: _column(name, array) for name, array in arrays.items()}
    for binding in task.bound:
        binding.gather(block, task.rules)


@dataclass(frozen=True)
class _Blocks:
    """What becomes of blocks of several arrays: a structured array of all outputs."""

    task: Task
    names: tuple[str, ...]

    def __call__(self, *arrays: Numbers) -> Numbers:
        results = self.task.results({n: _column(n, a) for n, a in zip(self.names, arrays, strict=True)})
        table = np.empty(len(arrays[0]), [(n, a.dtype, a.shape[1:]) for n, a in results.items()])
        for name, array in results.items():
            table[name] = array
        return table


def _dask_awkward(task: Task, data: Any) -> Any:
    dak = library("dask_awkward", "an array of dask-awkward", "dask")
    return dak.map_partitions(_Partition(replace(task, jobs=1)), data, meta=_traced(task), label="sofie-apply")


@dataclass(frozen=True)
class _Partition:
    """What becomes of a partition; of one without data, which tells what is read, its type."""

    task: Task

    def __call__(self, data: Any) -> Any:
        ak = library("awkward", "awkward arrays")
        if ak.backend(data) != "typetracer":
            return _awkward(self.task, data)
        for name in self.task.names:
            ak.typetracer.touch_data(_field(data, name) if data.fields else data)
        return _traced(self.task)


def _traced(task: Task) -> Any:
    ak = library("awkward", "awkward arrays")
    return ak.Array(_to_awkward(task.empty).layout.to_typetracer(forget_length=True))


KINDS: tuple[tuple[str, str, Callable[[Task, Any], Any]], ...] = (
    ("numpy", "ndarray", _array),
    ("builtins", "dict", _mapping),
    ("awkward", "Array", _awkward),
    ("dask_awkward", "Array", _dask_awkward),
    ("dask", "Array", _dask_array),
    ("pyarrow", "Table", _arrow),
)
"""What is done to data, by the package and the name of its class or of one that it is derived from."""
