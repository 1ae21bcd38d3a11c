"""The plan of a run: chunks of rows, the folder of parts that are done, and the manifest that says whose they are.

A part is written under another name and renamed, so that one which is there is complete; a run that was stopped goes on
with those that are not. The manifest has a digest of the model, the options and the inputs: another run does not take
them for its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sofie.batch.columns import Block, Column
from sofie.batch.sources import Place
from sofie.errors import SofieError, printable
from sofie.files import write

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Chunk:
    """Rows `start` to `stop` of a file; index: its place among all, first: the number of its first row among all."""

    index: int
    file: int
    start: int
    stop: int
    first: int


def chunks(rows: Sequence[int], size: int) -> list[Chunk]:
    """The chunks of files with so many rows each; none spans two files.

    >>> [(c.file, c.start, c.stop, c.first) for c in chunks([5, 0, 2], 3)]
    [(0, 0, 3, 0), (0, 3, 5, 3), (2, 0, 2, 5)]
    """
    found: list[Chunk] = []
    first = 0
    for file, count in enumerate(rows):
        for start in range(0, count, size):
            stop = min(start + size, count)
            found.append(Chunk(len(found), file, start, stop, first + start))
        first += count
    return found


def spans(wanted: Sequence[Chunk], rows: int | None = None) -> list[list[Chunk]]:
    """Chunks that one reader takes one after another: neighbours in a file, of at most `rows` rows together.

    >>> [[c.index for c in span] for span in spans(chunks([5, 2], 1), 2)]
    [[0, 1], [2, 3], [4], [5, 6]]
    """
    found: list[list[Chunk]] = []
    for chunk in wanted:
        span = found[-1] if found else []
        follows = span and (span[-1].file, span[-1].stop) == (chunk.file, chunk.start)
        if follows and (rows is None or chunk.stop - span[0].start <= rows):
            span.append(chunk)
        else:
            found.append([chunk])
    return found


def identity(places: Sequence[Place]) -> list[list[object]]:
    """What tells that input files are still the same: their paths, sizes and times of change."""
    stats = [place.path.stat() for place in places]
    return [[str(p.path.resolve()), p.inside, s.st_size, s.st_mtime_ns] for p, s in zip(places, stats, strict=True)]


# -- parts -------------------------------------------------------------------------------------------------------------


def packed(block: Block) -> bytes:
    """A part as the bytes of a .npz: for each column its values, and lengths and gaps where it has them."""
    arrays: dict[str, Any] = {}
    for k, column in enumerate(block.values()):
        arrays[f"{k}v"] = column.values
        if column.lengths is not None:
            arrays[f"{k}l"] = column.lengths
        if column.missing is not None:
            arrays[f"{k}m"] = column.missing
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def unpacked(path: Path, names: Sequence[str]) -> Block:
    """The part in a file. Raises SofieError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {}
            for k, name in enumerate(names):
                lengths, missing = (arrays[f"{k}{x}"] if f"{k}{x}" in arrays else None for x in "lm")
                found[name] = Column(arrays[f"{k}v"], lengths, missing)
            return found
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SofieError(f"the part {printable(str(path))!r} is damaged: remove it and run again") from error


class Parts:
    """The folder of parts. Raises SofieError where it is of another run, or in use by one."""

    def __init__(self, folder: Path, manifest: Mapping[str, object]) -> None:
        self.folder, self.manifest = folder, dict(manifest)

    @property
    def digest(self) -> str:
        """What tells this run from others."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def held(self, force: bool) -> Iterator[None]:
        """The folder, made, for this process alone, and removed where it is left without a part.

        force: throw away what another run left.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise SofieError(f"the folder {self._shown} cannot be made: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SofieError(f"{self._shown} is in use: another sofie apply writes there") from error
            except OSError:  # a file system without locks
                pass
            self._begin(force)
            try:
                yield
            finally:
                if not any(self.folder.glob("part-*.npz")):
                    self.remove()
        finally:
            os.close(handle)

    def _begin(self, force: bool) -> None:
        content = json.dumps(self.manifest | {"digest": self.digest}, indent=1, sort_keys=True).encode()
        found = self._found()
        if found is None and (others := [p.name for p in self.folder.iterdir()]):
            raise SofieError(
                f"the folder {self._shown} has {printable(others[0])!r} and no manifest: name another place"
            )
        if found is not None and found.get("digest") != self.digest:
            if not force:
                raise SofieError(
                    f"{self._shown} has parts of another run ({self._difference(found)} differ): finish that one, or "
                    f"give --force to throw them away"
                )
            for path in self.folder.glob("part-*.npz"):
                path.unlink()
            found = None
        if found is None:
            write(self.folder / MANIFEST, content)

    def _found(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise SofieError(f"the manifest in {self._shown} is damaged: remove the folder") from error
        return found if isinstance(found, dict) else {}

    def _difference(self, found: Mapping[str, Any]) -> str:
        keys = [key for key, value in self.manifest.items() if found.get(key) != json.loads(json.dumps(value))]
        return " and ".join(keys) or "versions"

    @property
    def _shown(self) -> str:
        return repr(printable(str(self.folder)))

    def path(self, index: int) -> Path:
        """Where the part of a chunk lies."""
        return self.folder / f"part-{index:06d}.npz"

    def missing(self, planned: Sequence[Chunk]) -> list[Chunk]:
        """The chunks without a part."""
        there = {p.name for p in self.folder.glob("part-*.npz") if zipfile.is_zipfile(p)}
        return [chunk for chunk in planned if self.path(chunk.index).name not in there]

    def remove(self) -> None:
        """Removes the parts, and the folder unless somebody put more there."""
        unfinished = self.folder.glob(".part-*.npz.*")  # of a process that was killed
        for path in [*self.folder.glob("part-*.npz"), *unfinished, self.folder / MANIFEST]:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
