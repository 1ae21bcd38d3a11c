"""Chunks on the cores of this machine: one thread reads, others run the model, each with scratch memory of its own.

Threads, not processes: the compiled code runs without Python's lock, weights are there once, and nothing is copied
between processes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from sofie.batch.chunks import Chunk, Parts, packed, spans
from sofie.batch.columns import Block
from sofie.batch.scorer import Heard, Scorer
from sofie.batch.sources import opened
from sofie.batch.work import Work
from sofie.files import write

AHEAD = 2
"""Chunks that wait beside those that are worked on."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Stopped(Exception):
    """Ends a chunk whose result nobody wants any more."""


def run(work: Work, scorer: Scorer, parts: Parts, wanted: Sequence[Chunk], jobs: int, heard: Heard) -> None:
    """Makes the parts of the wanted chunks. `heard` is told, by any thread, how many rows are done.

    Raises what reading, the model or writing raises, once no thread works any more.
    """
    stop = threading.Event()

    def going_on(rows: int) -> None:
        if stop.is_set():
            raise _Stopped
        heard(rows)

    def part(chunk: Chunk, block: Block) -> None:
        write(parts.path(chunk.index), packed(work.result(scorer, chunk, block, going_on)))

    pool = ThreadPoolExecutor(jobs, "sofie-apply")
    pending: set[Future[None]] = set()
    try:
        for span in spans(wanted):
            with opened(work.places[span[0].file]) as source:
                for chunk, block in work.blocks(span, source):
                    pending.add(pool.submit(part, chunk, block))
                    if len(pending) >= jobs + AHEAD:
                        pending = _settled(pending)
        while pending:
            pending = _settled(pending)
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _settled(pending: set[Future[None]]) -> set[Future[None]]:
    """Those that are not done, once one is. Raises what a done one raised."""
    done, rest = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return rest
