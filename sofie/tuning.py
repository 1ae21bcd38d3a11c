"""Chooses options of passes by measuring: `sofie compile MODEL --tune 30s`.

One choice is changed at a time. The header of each candidate is compiled and takes turns with the best so far on one
core; it is kept when it is faster by more than the rounds differ, twice. What comes out is a pipeline: given with
`--pipeline` and `--without` it writes the same header on any machine, without a measurement.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import monotonic
from typing import Protocol

import onnx
from xdsl.utils.arg_spec import ArgSpec

from sofie import jit, pipeline
from sofie.bench import systems
from sofie.bench.case import Case
from sofie.bench.report import case_of
from sofie.bench.workers import last_core, take_turns
from sofie.compiler import Options, Progress, Source, default_name, lower
from sofie.emit.cpp import Program
from sofie.errors import SofieError
from sofie.files import write
from sofie.frontends.onnx import read_model

Value = str | int | bool

LEAST_GAIN = 0.01
"""The part of the time that a choice must save, on top of the noise."""
ROUNDS = 7
ROUND_SECONDS = 0.05


@dataclass(frozen=True)
class Choice:
    """An option of a pass in a group of the pipeline, and the values to try."""

    group: str
    option: str
    values: tuple[Value, ...]


CHOICES = (
    Choice("fuse", "max", ("off", "2", "4")),
    Choice("fuse", "channels-last", (False, True)),
    Choice("fuse", "vnni", (True, False)),
    Choice("lower", "tile", (0, 1, 2, 3, 4, 6)),
    Choice("lower", "panel", (16, 8, 32, 0)),
    Choice("fuse", "batch-last", (False, True)),
    Choice("fuse", "block-bytes", (393216, 131072, 1048576)),
    Choice("fuse", "shortest", (8, 32)),
    Choice("lower", "max-inner", (16, 4, 64)),
)
"""Options of winograd, assign-layouts, vectorize, pack-weights, split-reductions and collapse-loops; what tends to
matter most comes first."""

LEFT_OUT = ("fill-borders", "collapse-loops", "fuse-epilogue", "fuse-reduction", "fuse-elementwise")
"""Optional passes without which a model may be faster. Those whose options are choices have a value that does nothing,
the others only ever save work."""


@dataclass(frozen=True)
class Setting:
    """What differs from the default: (group, option, value) of each option that was chosen, and passes left out."""

    options: tuple[tuple[str, str, Value], ...] = ()
    without: tuple[str, ...] = ()

    @property
    def passes(self) -> str:
        """The pipeline that makes these choices."""
        groups = pipeline.DEFAULT.split(",")
        return ",".join(str(ArgSpec(g, {o: (v,) for of, o, v in self.options if of == g})) for g in groups)

    @property
    def words(self) -> str:
        """The words of the command line that make these choices, none for the default."""
        words = [f"--pipeline '{self.passes}'"] if self.options else []
        return " ".join([*words, *(f"--without {name}" for name in self.without)])

    def chosen(self, choice: Choice, value: Value) -> Setting:
        """The setting with another value of one option."""
        others = [o for o in self.options if o[:2] != (choice.group, choice.option)]
        return replace(self, options=tuple(sorted([*others, (choice.group, choice.option, value)])))

    def toggled(self, name: str) -> Setting:
        """The setting without a pass that it has, or with one that it leaves out."""
        without = {*self.without} ^ {name}
        return replace(self, without=tuple(sorted(without)))


DEFAULT = Setting()


class Bench(Protocol):
    """What settings are measured with."""

    def code(self, setting: Setting) -> str:
        """Names the code that a setting makes; equal names, equal code. Raises SofieError where it makes none."""

    def ratios(self, candidate: Setting, best: Setting) -> Sequence[float]:
        """The candidate's time divided by that of the best, in each of several rounds in turn. Raises SofieError."""


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    ratio: its time divided by that of the default, 1 where the default stands. measured: how many candidates were
    timed. finished: whether nothing was left to try when the time was up.
    """

    setting: Setting
    ratio: float = 1.0
    measured: int = 0
    finished: bool = False


def is_faster(ratios: Sequence[float]) -> bool:
    """Whether these ratios show a gain that is larger than they differ among each other.

    >>> is_faster([0.90, 0.92, 0.91, 0.89]), is_faster([0.80, 1.10, 0.95, 1.05])
    (True, False)
    """
    low, _, high = quantiles(ratios, n=4)
    return median(ratios) + (high - low) / 2 < 1 - LEAST_GAIN


def search(
    bench: Bench,
    start: Setting,
    seconds: float,
    clock: Callable[[], float] = monotonic,
    tell: Progress | None = None,
) -> Tuned:
    """Coordinate descent from `start` until no single choice is better, or a candidate more may take too long."""
    began, slowest, measured, best = clock(), 0.0, 0, start
    seen = {bench.code(DEFAULT), bench.code(start)}
    steps: list[Callable[[Setting], Setting]] = [
        *(partial(Setting.chosen, choice=choice, value=value) for choice in CHOICES for value in choice.values),
        *(partial(Setting.toggled, name=name) for name in LEFT_OUT),
    ]
    since = 0  # steps that changed nothing, in a row
    for step in itertools.cycle(steps):
        if since == len(steps):
            return _against_default(bench, best, Tuned(best, measured=measured, finished=True))
        before = clock()
        if before - began + slowest > seconds:
            return _against_default(bench, best, Tuned(best, measured=measured))
        candidate, since = step(best), since + 1
        try:
            code = bench.code(candidate)
            if code in seen:
                continue
            seen.add(code)
            measured += 1
            if is_faster(bench.ratios(candidate, best)) and is_faster(bench.ratios(candidate, best)):
                best, since = candidate, 0
                if tell is not None:
                    tell(f"faster: {best.words}")
        except SofieError:
            continue  # a choice that this model or this machine does not allow
        finally:
            slowest = max(slowest, clock() - before)
    raise AssertionError("there is always another step")


def _against_default(bench: Bench, best: Setting, found: Tuned) -> Tuned:
    """The best where it is faster than the default too, which it was reached from in steps, else the default."""
    if best != DEFAULT and is_faster(ratios := bench.ratios(best, DEFAULT)):
        return replace(found, ratio=median(ratios))
    return replace(found, setting=DEFAULT)


@dataclass
class _Workers:
    """Measures settings of a model by its own header, compiled with -O2, on one core."""

    proto: onnx.ModelProto
    name: str
    options: Options
    folder: Path

    def __post_init__(self) -> None:
        self._codes: dict[Setting, str] = {}
        self._commands: dict[Setting, systems.Command] = {}
        self._last: tuple[Setting, Program] | None = None
        self._case: Case | None = None

    def program(self, setting: Setting) -> Program:
        """The model lowered as a setting says."""
        if self._last is None or self._last[0] != setting:
            self._last = setting, lower(self.proto, self.name, applied(self.options, setting))
        return self._last[1]

    def code(self, setting: Setting) -> str:
        """The digest of the text."""
        if setting not in self._codes:
            self._codes[setting] = hashlib.sha256(self.program(setting).core().encode()).hexdigest()
        return self._codes[setting]

    def ratios(self, candidate: Setting, best: Setting) -> list[float]:
        """The ratio of each round; the workers of other settings are given up, but for the default's."""
        for other in [s for s in self._commands if s not in (candidate, best, DEFAULT)]:
            Path(self._commands.pop(other)[-1]).unlink()
        commands = {"candidate": self._command(candidate), "best": self._command(best)}
        timings = take_turns(commands, ROUNDS, ROUND_SECONDS, last_core(), self.options.threads)
        for problem in timings.failed.values():
            raise SofieError(problem)
        return [a.us / b.us for a, b in zip(timings.rounds["candidate"], timings.rounds["best"], strict=True)]

    def _command(self, setting: Setting) -> systems.Command:
        if setting not in self._commands:
            program = self.program(setting)
            if self._case is None:
                self._case = case_of(program, self.proto, self.options, self.folder)
            label = self.code(setting)
            self._commands[setting] = systems.ours(self._case, program, systems.PLAIN, label, self.options.blas)
        return self._commands[setting]


def applied(options: Options, setting: Setting) -> Options:
    """The compiler's options with the choices of a setting."""
    return replace(options, passes=setting.passes, without=(*options.without, *setting.without))


def tune(source: Source, options: Options, seconds: float, progress: Progress | None = None) -> Tuned:
    """The fastest setting of a model on this machine that was found within about so many seconds.

    What was found is kept beside the just-in-time compiler's objects, by the model, as it is lowered by default, and
    the CPU; a search that ended goes on from there only where it is given more time than the last. Raises SofieError
    where the model cannot be compiled or timed, and where `options` name a pipeline.
    """
    if options.passes != pipeline.DEFAULT:
        raise SofieError("--tune chooses the pipeline: leave out --pipeline, or --tune")
    here = replace(options, cpu="native" if options.cpu == "multi" else options.cpu)
    with tempfile.TemporaryDirectory() as folder:
        proto = read_model(source, options.dims, options.values)
        workers = _Workers(proto, default_name(source), here, Path(folder))
        place = jit.cache_folder() / "tuning" / f"{_key(workers.code(DEFAULT))}.json"
        kept = _kept(place)
        if kept is not None and (kept[0].finished or seconds <= kept[1]):
            return kept[0]
        found = search(workers, DEFAULT if kept is None else kept[0].setting, seconds, tell=progress)
    place.parent.mkdir(parents=True, exist_ok=True)
    write(place, json.dumps({**asdict(found), "seconds": seconds, "cpu": cpu_model()}, indent=1).encode())
    return found


def _key(code: str) -> str:
    parts = [code, cpu_model(), repr(CHOICES), repr(LEFT_OUT), " ".join(jit.compiler())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _kept(place: Path) -> tuple[Tuned, float] | None:
    """What an earlier search found in how many seconds; None where there is none, or none that can be read."""
    try:
        known = json.loads(place.read_text())
        options = tuple((str(g), str(o), _value(v)) for g, o, v in known["setting"]["options"])
        setting = Setting(options, tuple(map(str, known["setting"]["without"])))
        pipeline.parse(setting.passes, setting.without)
        finished = bool(known["finished"])
        return Tuned(setting, float(known["ratio"]), int(known["measured"]), finished), float(known["seconds"])
    except (OSError, ValueError, KeyError, TypeError, SofieError):
        return None


def _value(value: object) -> Value:
    if not isinstance(value, str | int):
        raise TypeError(value)
    return value


def cpu_model() -> str:
    """The CPU as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    about = {key.strip(): text.strip() for key, _, text in (line.partition(":") for line in lines)}
    known = [about[key] for key in ("vendor_id", "cpu family", "model", "model name", "stepping") if key in about]
    return " ".join(known) or platform.processor() or platform.machine()
