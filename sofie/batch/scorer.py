"""A model on any number of rows: in calls of the size it was compiled for, by any number of threads.

A call costs some 20 microseconds whatever it computes, so that a model with a free batch is called with many rows.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sofie import jit
from sofie.batch.columns import Input, Numbers
from sofie.errors import SofieError, printable
from sofie.sizes import Size, is_static, most

if TYPE_CHECKING:
    import onnx

    from sofie.compiler import Model, Options, Progress, Source
    from sofie.emit.cpp import Program
    from sofie.emit.ports import Port

ROWS = 512
"""Rows of a call. Of the demonstration's network, microseconds an event: 27 by single rows, 6.7 by 16, 3.1 by 256,
2.9 by 512 and by 1024, 3.1 by 4096, where the activations no longer fit into a core's second cache."""
ARENA = 64 * 2**20
"""Bytes of scratch memory that a thread may take; where ROWS rows need more, a call has fewer."""

Heard = Callable[[int], None]
"""Hears how many rows are done, call by call; what it raises ends the work."""


@dataclass(frozen=True)
class Output:
    """What a model gives for one event: ONNX name, numpy type, and the shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def read(source: Source, options: Options) -> tuple[onnx.ModelProto, Options]:
    """The model, and the options with bounds for each batch that is free and has no size. Raises SofieError.

    A batch is the leading dimension of an input.
    """
    from sofie.frontends.dimensions import with_batches
    from sofie.frontends.onnx import read_model

    proto = read_model(source, options.dims, options.values)
    return proto, replace(options, dims=with_batches(proto.graph, options.dims, options.values, (1, ROWS)))


def prepare(source: Source, options: Options, name: str, progress: Progress | None = None) -> tuple[Scorer, Options]:
    """A model compiled for batches, and the options for that. Raises SofieError, also where its outputs have no row
    for each event."""
    from sofie.compiler import compile_model

    proto, bounded = read(source, options)
    scorer = Scorer(compile_model(proto, bounded, name, progress))
    left = [key for key in bounded.dims if key not in options.dims]
    if left and scorer.arena > ARENA:
        fewer = max(1, ROWS * ARENA // scorer.arena)
        bounded = replace(bounded, dims={**bounded.dims, **dict.fromkeys(left, (1, fewer))})
        scorer = Scorer(compile_model(proto, bounded, name, progress))
    return scorer, bounded


def digest(proto: onnx.ModelProto) -> str:
    """What tells a model from another, with weights that lie beside its file; of any size."""
    key = hashlib.sha256()
    for opset in proto.opset_import:
        key.update(opset.SerializeToString(deterministic=True))
    graph = proto.graph
    for messages in (
        proto.functions,
        graph.node,
        graph.initializer,
        graph.sparse_initializer,
        graph.input,
        graph.output,
    ):
        for message in messages:
            key.update(message.SerializeToString(deterministic=True))
        key.update(b"\0")
    return key.hexdigest()


class Scorer:
    """A compiled model and how it takes events; threads share its code and its weights.

    alone: each call takes one event, and the leading extents are no batch. Raises SofieError on a model whose events
    have no inputs or outputs of fixed shapes.
    """

    def __init__(self, model: Model, alone: bool = False) -> None:
        from sofie.compiler import LateModel

        if isinstance(model, LateModel):
            listed = ", ".join(map(printable, model.telling))
            raise SofieError(
                f"shapes follow from the values of {listed}: fix them with --set {listed.split(', ')[0]}=VALUE"
            )
        self._model = model
        self._own = threading.local()
        self._lock = threading.Lock()
        ports = model.inputs
        if not ports:
            raise SofieError("the model takes no input: there is nothing to apply it to")
        self.least, self.most, self.batched = (1, 1, False) if alone else _batch(ports)
        try:
            self.outputs = [Output(p.name, p.dtype, self._row(p)) for p in model.outputs]
        except SofieError:
            if alone or not self.least == self.most > 1:
                raise
            self.least, self.most, self.batched = 1, 1, False
            self.outputs = [Output(p.name, p.dtype, self._row(p)) for p in model.outputs]
        self.inputs = [Input(p.name, p.dtype, _event(p, self.batched)) for p in ports]

    def _row(self, port: Port) -> tuple[int, ...]:
        """The shape of an output for one event. Raises SofieError where it has no row for each."""
        name = printable(port.name)
        if port.found:
            raise SofieError(f"the shape of output {name!r} follows from the data: it has no fixed number of columns")
        shape, leading = port.shape, self._model.inputs[0].shape[:1]
        if self.batched and shape[:1] == leading:
            shape = shape[1:]
        elif self.batched and leading != (1,):
            listed = ", ".join(map(str, shape))
            raise SofieError(f"output {name!r} is [{listed}] and has no row for each event of a batch")
        if not is_static(shape):
            raise SofieError(
                f"output {name!r} is [{', '.join(map(str, port.shape))}]: its columns are not of one number"
            )
        return shape

    @property
    def program(self) -> Program:
        """The lowered program behind it."""
        return self._model.program

    @property
    def arena(self) -> int:
        """Bytes of scratch memory that a thread takes."""
        return int(self.program.arena_bytes)

    @property
    def library(self) -> Path:
        """The shared library."""
        return self._model.library

    def eventwise(self) -> Scorer | None:
        """The same model with its leading extent, which is fixed above 1, as a part of an event; None without one."""
        fixed = self.batched and self.least == self.most > 1
        return Scorer(self._model, alone=True) if fixed else None

    def score(self, feeds: Mapping[str, Numbers], heard: Heard | None = None, seed: int = 0) -> dict[str, Numbers]:
        """The outputs [rows, *shape] by name, from inputs [rows, *shape] by name.

        Random numbers of a model begin with those of `seed`. A batch that is not full is filled up with its last row.
        """
        rows = len(next(iter(feeds.values())))
        results = {o.name: np.empty((rows, *o.shape), o.dtype) for o in self.outputs}
        with self._mine() as model:
            model.seed(seed)
            for start in range(0, rows, self.most):
                stop = min(start + self.most, rows)
                found = model.run({name: self._call(array[start:stop]) for name, array in feeds.items()})
                for output in self.outputs:
                    array = found[output.name]
                    results[output.name][start:stop] = array.reshape(-1, *output.shape)[: stop - start]
                if heard is not None:
                    heard(stop - start)
        return results

    def _call(self, rows: Numbers) -> Numbers:
        """Some rows as the model takes them."""
        if not self.batched:
            return np.asarray(rows[0])
        if len(rows) < self.least:
            return np.concatenate((rows, np.repeat(rows[-1:], self.least - len(rows), axis=0)))
        return rows

    def _mine(self) -> _Held:
        """The model of this thread; on a GPU there is one, which threads take in turn."""
        from sofie.compiler import Model

        compiled = self._model.compiled
        if not isinstance(compiled, jit.Compiled):
            return _Held(self._model, self._lock)
        if not hasattr(self._own, "model"):
            self._own.model = Model(compiled.beside())
        return _Held(self._own.model)


class _Held:
    def __init__(self, model: Model, lock: threading.Lock | None = None) -> None:
        self._model, self._lock = model, lock

    def __enter__(self) -> Model:
        if self._lock is not None:
            self._lock.acquire()
        return self._model

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()


def _batch(ports: Sequence[Port]) -> tuple[int, int, bool]:
    """The fewest and the most rows of a call, and whether inputs have an axis for them. Raises SofieError.

    They have one where the leading extent is the same in all inputs, and free or, in all of them, not the only one.
    """
    leading = {p.shape[:1] for p in ports}
    free = [p for p in ports if not is_static(p.shape)]
    for port in free:
        if not is_static(port.shape[1:]):
            listed = ", ".join(map(str, port.shape))
            raise SofieError(
                f"input {printable(port.name)!r} is [{listed}]: give each dimension but the batch one size"
            )
    if len(leading) != 1 or () in leading:
        if free:
            listed = ", ".join(f"{printable(p.name)} [{', '.join(map(str, p.shape))}]" for p in ports)
            raise SofieError(f"the inputs have no batch in common ({listed}): give their sizes with --dim")
        return 1, 1, False
    (extent,) = leading.pop()
    if isinstance(extent, Size):
        return max(extent.low, 1), most(extent), True
    if any(len(p.shape) < 2 for p in ports) and extent != 1:
        return 1, 1, False
    return extent, extent, True


def _event(port: Port, batched: bool) -> tuple[int, ...]:
    return port.shape[1:] if batched else port.shape
