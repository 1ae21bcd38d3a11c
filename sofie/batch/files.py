"""`sofie apply`: from files to a file, by parts that survive whatever stops the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sofie
from sofie.batch import CHUNK, local, scorer, sinks, sources, work
from sofie.batch.chunks import Chunk, Parts, chunks, identity, unpacked
from sofie.batch.columns import Block, Rules, height
from sofie.batch.scorer import Heard
from sofie.errors import SofieError, printable

if TYPE_CHECKING:
    from sofie.compiler import Options


@dataclass(frozen=True)
class Request:
    """What is asked for.

    model, inputs, output: as on the command line. columns: for each input by name, or for the only one. keep: columns
    to copy. chunk: rows of a part. jobs: threads, 0 for one on each core. force: overwrite the output, and throw away
    parts of another run. scheduler: of Dask. parts: a folder for the parts.
    """

    model: Path
    inputs: Sequence[str]
    output: str
    options: Options
    columns: Mapping[str, Sequence[str]] | Sequence[str] | None = None
    keep: Sequence[str] = ()
    rules: Rules = field(default_factory=Rules)
    chunk: int = CHUNK
    jobs: int = 0
    force: bool = False
    scheduler: str = ""
    parts: Path | None = None


@dataclass(frozen=True)
class Done:
    """What came out. resumed: how many chunks were there already."""

    output: str
    rows: int
    columns: tuple[str, ...]
    chunks: int
    resumed: int


Watch = Callable[[int, int], AbstractContextManager[Heard]]
"""Shows progress, given the rows there are and those that are done."""


def apply_files(request: Request, watch: Watch, tell: Callable[[str], None] | None = None) -> Done:
    """Applies a model to files. `tell` hears the steps of the compiler. Raises SofieError."""
    from sofie.compiler import default_name

    target = sinks.place(request.output)
    if target.path.exists() and not request.force:
        raise SofieError(f"{target.shown} exists: give --force to overwrite it, or name another file")
    if request.chunk < 1:
        raise SofieError(f"--chunk {request.chunk}: a chunk has at least one row")
    places = sources.places(request.inputs)
    if not places:
        raise SofieError("no input is given")
    if any(place.path.resolve() == target.path.resolve() for place in places):
        raise SofieError(f"{target.shown} is an input as well: name another file")
    proto, _ = scorer.read(request.model, request.options)
    model, options = scorer.prepare(proto, request.options, default_name(request.model), tell)
    job, model, rows = work.plan(places, model, request.columns, request.keep, request.rules, request.chunk)
    fields = job.fields(model)
    sinks.kind(target).check(fields, target)

    planned = chunks(rows, request.chunk)
    parts = Parts(request.parts or target.path.with_name(f"{target.path.name}.parts"), _manifest(request, job, proto))
    with parts.held(request.force):
        wanted = parts.missing(planned)
        there = sum(rows) - sum(c.stop - c.start for c in wanted)
        try:
            with watch(sum(rows), there) as heard:
                if request.scheduler:
                    from sofie.batch import distributed

                    recipe = distributed.Recipe.of(proto, options, default_name(request.model), model)
                    distributed.run(job, recipe, parts, wanted, request.scheduler, request.parts is not None, heard)
                else:
                    jobs = request.jobs or max(1, local.cores() // request.options.threads)
                    local.run(job, model, parts, wanted, jobs, heard)
            merge(parts, planned, fields, target)
        except KeyboardInterrupt as error:
            kept = len(planned) - len(parts.missing(planned))
            raise SofieError(
                f"interrupted: {kept:,} of {len(planned):,} chunks are kept in {printable(str(parts.folder))!r}, and "
                f"the same command goes on from there"
            ) from error
        parts.remove()
    return Done(request.output, sum(rows), tuple(fields), len(planned), len(planned) - len(wanted))


def merge(parts: Parts, planned: Sequence[Chunk], fields: Block, target: sources.Place) -> None:
    """Writes the parts, in order, into the output. Raises SofieError."""
    names = list(fields)
    with sinks.writing(target, fields) as sink:
        for chunk in planned:
            path = parts.path(chunk.index)
            block = unpacked(path, names)
            if height(block) != chunk.stop - chunk.start:
                raise SofieError(
                    f"the part {printable(str(path))!r} has not the rows of its chunk: remove it and run again"
                )
            sink.write(block)


def _manifest(request: Request, job: work.Work, proto: Any) -> dict[str, object]:
    options = asdict(request.options)
    return {
        "model": scorer.digest(proto),
        "options": {key: repr(value) for key, value in sorted(options.items())},
        "columns": [[b.input.name, *b.columns] for b in job.bound],
        "keep": list(job.keep),
        "rules": [repr(request.rules.pad), repr(request.rules.missing)],
        "chunk": request.chunk,
        "inputs": identity(job.places),
        "version": sofie.__version__,
    }
