"""Chunks on the workers of a Dask scheduler: the model is shipped once to each worker and compiled there for its CPU.

A task takes neighbouring chunks of a file and either writes their parts into a folder that all see, or returns their
bytes. Nothing stays in a worker's memory, so that one that dies costs only the tasks it was at: the scheduler gives
them to others as often as its `allowed-failures` says.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sofie import jit
from sofie.batch.chunks import MANIFEST, Chunk, Parts, packed, spans
from sofie.batch.scorer import Heard, Scorer
from sofie.batch.sources import library, opened
from sofie.batch.work import Work
from sofie.errors import SofieError, printable
from sofie.files import write

if TYPE_CHECKING:
    import onnx

    from sofie.compiler import Options

AHEAD = 2
"""Tasks for each thread of a worker that are with the scheduler at a time."""
TASKS = 4
"""Tasks for each thread that there are at least, so that none works alone at the end."""
SPAN = 1_000_000
"""Rows of a task, at most: what is lost with a worker."""
SECONDS = 10
"""How long a scheduler may take to answer."""


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to make the machine code.

    model: the ModelProto's bytes. alone: each call takes one event. library: what the
    compiler made of the text with the digest `text`: for workers that have no compiler and the same CPU.
    """

    model: bytes
    options: Options
    name: str
    alone: bool
    text: str
    library: bytes

    @staticmethod
    def of(proto: onnx.ModelProto, options: Options, name: str, scorer: Scorer) -> Recipe:
        """The recipe of what is compiled here. Raises SofieError on a model that is too large to be shipped."""
        try:
            model = proto.SerializeToString(deterministic=True)
        except Exception as error:  # protobuf has several for 2 GiB
            raise SofieError("the model is larger than the 2 GB that can be shipped: leave out --scheduler") from error
        options = replace(options, cpu="native") if options.cpu == "multi" else options  # a machine runs one of them
        text = _digest(jit.source_of(scorer.program))
        return Recipe(model, options, name, not scorer.batched, text, scorer.library.read_bytes())

    @property
    def key(self) -> str:
        """What tells it from others."""
        return _digest(pickle.dumps((self.model, self.options, self.name, self.alone)))

    def scorer(self) -> Scorer:
        """The machine code for this computer. Raises SofieError."""
        from sofie.compiler import Model, compile_model, lower

        if jit.has_compiler():
            return Scorer(compile_model(self.model, self.options, self.name), self.alone)
        program = lower(self.model, self.name, self.options)
        if _digest(jit.source_of(program)) != self.text:
            raise SofieError("there is no C++ compiler, and the CPU is another than where the command was given")
        folder = jit.cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_digest(self.library)}.so"
        write(path, self.library)
        return Scorer(Model(jit.Compiled(program, path)), self.alone)


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


_MADE: dict[str, Scorer] = {}
_MAKING = threading.Lock()


def made(recipe: Recipe) -> Scorer:
    """The scorer of a recipe, made once in each process."""
    with _MAKING:
        if recipe.key not in _MADE:
            _MADE[recipe.key] = recipe.scorer()
        return _MADE[recipe.key]


# -- on a worker -------------------------------------------------------------------------------------------------------

_SHIPPED: dict[str, Recipe] = {}


class Shipment:
    """A plugin of Dask that puts a recipe on each worker, also on those that come later."""

    def __init__(self, name: str, recipe: Recipe) -> None:
        self.name, self.recipe, self.idempotent = name, recipe, True

    def setup(self, worker: object) -> None:
        """Keeps the recipe."""
        _SHIPPED[self.name] = self.recipe

    def teardown(self, worker: object) -> None:
        """Drops it."""
        _SHIPPED.pop(self.name, None)


def task(work: Work, name: str, span: Sequence[Chunk], folder: Path | None, digest: str) -> list[tuple[int, bytes]]:
    """Makes the parts of neighbouring chunks: into `folder`, or returned by index. Raises SofieError."""
    if folder is not None and not _same(folder, digest):
        raise SofieError(f"this worker does not see the folder {printable(str(folder))!r}: leave out --parts")
    scorer = made(_SHIPPED[name])
    found = []
    with opened(work.places[span[0].file]) as source:
        for chunk, block in work.blocks(span, source):
            content = packed(work.result(scorer, chunk, block))
            if folder is None:
                found.append((chunk.index, content))
            else:
                write(Parts(folder, {}).path(chunk.index), content)
    return found


def _same(folder: Path, digest: str) -> bool:
    try:
        return digest in (folder / MANIFEST).read_text()
    except OSError:
        return False


# -- at the command ----------------------------------------------------------------------------------------------------


def run(
    work: Work, recipe: Recipe, parts: Parts, wanted: Sequence[Chunk], address: str, shared: bool, heard: Heard
) -> None:
    """Makes the parts of the wanted chunks on a cluster; shared: workers write them. Raises SofieError."""
    name = f"sofie-apply-{uuid.uuid4().hex}"  # an answer of another run is none
    folder = parts.folder.resolve() if shared else None
    distributed = library("distributed", "--scheduler", "dask")
    with _client(distributed, address) as client:
        client.register_plugin(_plugin(distributed, name, recipe))
        threads = _threads(client)
        rows = sum(c.stop - c.start for c in wanted)
        rest = iter(spans(wanted, min(max(rows // (TASKS * threads), work.size), SPAN)))
        running: dict[Any, list[Chunk]] = {}

        def submit(count: int) -> list[Any]:
            futures = []
            for span in islice(rest, count):
                # pure=False: the key is of this run; a part of another one is no answer
                future = client.submit(
                    task, work, name, span, folder, parts.digest, pure=False, key=f"{name}-{span[0].index}"
                )
                running[future] = span
                futures.append(future)
            return futures

        try:
            completed = distributed.as_completed(submit(AHEAD * threads), loop=client.loop)
            for future in completed:
                span = running.pop(future)
                for index, content in _answer(distributed, future):
                    write(parts.path(index), content)
                if lost := [c for c in span if not parts.path(c.index).exists()]:
                    raise SofieError(f"a worker wrote {parts.path(lost[0].index).name!r} elsewhere: leave out --parts")
                heard(sum(c.stop - c.start for c in span))
                future.release()
                for more in submit(1):
                    completed.add(more)
        finally:
            client.cancel(list(running), force=True)
            client.unregister_worker_plugin(name)


@contextmanager
def _client(distributed: Any, address: str) -> Iterator[Any]:
    try:
        client = distributed.Client(address, timeout=SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = printable(" ".join(str(error).split()), 200)
        raise SofieError(f"the scheduler {printable(address)!r} does not answer: {reason}") from error
    with client:
        yield client


def _threads(client: Any) -> int:
    """The threads of all workers. Raises SofieError where there is no worker."""
    count = sum(client.nthreads().values())
    if not count:
        raise SofieError("the scheduler has no worker: start some with dask worker ADDRESS")
    return int(count)


def _plugin(distributed: Any, name: str, recipe: Recipe) -> Any:
    kind = type("Plugin", (Shipment, distributed.WorkerPlugin), {"__module__": __name__})
    return kind(name, recipe)


def _answer(distributed: Any, future: Any) -> list[tuple[int, bytes]]:
    """The result of a task. Raises SofieError."""
    try:
        return list(future.result())
    except distributed.KilledWorker as error:
        raise SofieError(
            "workers died again and again at the same rows: give them more memory, or a smaller --chunk; where others "
            "stop them, start the scheduler with DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=10"
        ) from error
