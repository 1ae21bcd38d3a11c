"""Processes that time a model when they are asked to, and the rounds in which several of them take turns."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

from sofie.errors import SofieError, printable


def last_core() -> int:
    """The core to time on: the last that this process may use, as the first tends to serve interrupts."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


def _pin(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def pinned_output(command: Sequence[str], core: int) -> str:
    """What a command prints that runs on `core` alone. Raises SofieError where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=lambda: _pin(core))
    if done.returncode != 0:
        raise SofieError(f"{Path(command[0]).name} failed: {printable(done.stderr.strip(), 200)}")
    return done.stdout


@dataclass(frozen=True)
class Round:
    """us: median time of a call in one round; least: the least of its samples."""

    us: float
    least: float
    samples: int


class Worker:
    """A process that runs `worker.hxx`'s protocol, pinned to a core; a context manager that ends it."""

    def __init__(self, command: Sequence[str], cores: set[int]) -> None:
        def pin() -> None:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, cores)

        pipe, threads = subprocess.PIPE, dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(len(cores)))
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=pin, env=os.environ | threads
        )
        self.setup = float(self._answer()[1])
        """Seconds until the system was ready to run."""

    def round(self, seconds: float) -> Round:
        """Times calls for about so many seconds. Raises SofieError where the process has died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        middle, least, samples, _ = self._answer()
        return Round(float(middle) * 1e-3, float(least) * 1e-3, int(samples))

    def _answer(self) -> list[str]:
        assert self._process.stdout is not None and self._process.stderr is not None
        if line := self._process.stdout.readline():
            return line.split()
        said = self._process.stderr.read().strip().splitlines()
        status = self._process.wait()
        raise SofieError(printable(said[-1], 300) if said else f"it ended with status {status}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


@dataclass
class Timings:
    """rounds: by system, a Round for each turn. setup: seconds. failed: why a system takes no part."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    setup: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def us(self, system: str) -> float:
        """Median over the rounds of the time of a call."""
        return median(r.us for r in self.rounds[system])

    def ratio(self, system: str, other: str) -> float:
        """Median over the rounds of the ratio of both times, each taken within its round."""
        pairs = zip(self.rounds[system], self.rounds[other], strict=True)
        return median(a.us / b.us for a, b in pairs)


def take_turns(
    commands: Mapping[str, Sequence[str]], rounds: int, seconds: float, core: int, threads: int = 1
) -> Timings:
    """Times the workers started by `commands`, by the name of their system, in turn for so many rounds.

    With one thread all run on `core`; with more, wherever they like.
    """
    cores = {core} if threads == 1 else set(range(os.cpu_count() or 1))
    timings = Timings()
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for system, command in commands.items():
            try:
                workers[system] = stack.enter_context(Worker(command, cores))
                timings.setup[system] = workers[system].setup
            except SofieError as error:
                timings.failed[system] = str(error)
        for turn in range(rounds):
            order = list(workers) if turn % 2 == 0 else list(reversed(workers))
            for system in order:
                try:
                    timings.rounds.setdefault(system, []).append(workers[system].round(seconds))
                except SofieError as error:
                    timings.failed[system] = str(error)
                    del workers[system], timings.rounds[system]
    return timings
