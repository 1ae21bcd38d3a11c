"""Builds the workers of the suite's models, times them in turn, and gathers what there is to say about each model."""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from xdsl.dialects.builtin import IntegerAttr

from sofie import jit, kernel_work, work
from sofie.bench.case import Case
from sofie.bench.ceilings import Ceilings, Floor
from sofie.bench.systems import NATIVE, Command, source_of
from sofie.bench.workers import take_turns
from sofie.compiler import Options, lower
from sofie.emit.cpp import Program
from sofie.errors import SofieError
from sofie.info import info
from sofie.weights import Array
from tests.bench.cases import case, error, truth
from tests.bench.systems import SYSTEMS


@dataclass(frozen=True)
class Plan:
    """How to measure. systems: keys of SYSTEMS. seconds: of each system's turn in a round. without: passes left out.
    thorough: whether the C++ compiler's time is taken too.
    """

    systems: Sequence[str]
    rounds: int
    seconds: float
    core: int
    cache: Path
    without: tuple[str, ...] = ()
    thorough: bool = False


@dataclass(frozen=True)
class Size:
    """What a model costs other than time.

    moved: bytes of weights, inputs and outputs. arena, arena_bound: bytes of scratch memory, and the most that are
    alive at once. header: bytes of the .hxx. lowering: seconds from .onnx to .hxx. compiling: seconds of the C++
    compiler with -O3 -march=native; None where nobody asked.
    """

    flops: int
    moved: int
    arena: int
    arena_bound: int
    header: int
    kernels: int
    lowering: float
    compiling: float | None


@dataclass(frozen=True)
class Built:
    """A model that is ready to be timed: commands by system, and why a system has none."""

    case: Case
    truth: list[Array]
    size: Size
    commands: Mapping[str, Command]
    failed: dict[str, str]


@dataclass
class Measured:
    """All about one model.

    us: median microseconds of a call by system. ratio: of a system to ONNX Runtime. ours_to: of ours to a system; both
    are the median of the rounds' ratios. error: largest difference from float64 over the largest element. failed: why a
    system took no part.
    """

    model: str
    floor: Floor
    size: Size
    us: dict[str, float] = field(default_factory=dict)
    setup: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)
    ours_to: dict[str, float] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def build(name: str, plan: Plan) -> Built:
    """Writes a model of the suite and builds its workers; raises SofieError where it cannot be compiled."""
    suite_case = case(name, plan.cache)
    start = perf_counter()
    program = lower(suite_case.model, "model", Options(without=plan.without))
    header = program.header()
    lowering = perf_counter() - start
    flops, moved = _work(suite_case, plan.cache)
    compiling = _seconds_to_compile(program, plan.cache) if plan.thorough else None
    arena = program.arena_bytes, _arena_bound(program)
    size = Size(flops, moved, *arena, len(header), program.kernel_calls, lowering, compiling)
    commands: dict[str, Command] = {}
    failed: dict[str, str] = {}
    for system in plan.systems:
        try:
            commands[system] = SYSTEMS[system].build(suite_case, program, plan.cache)
        except SofieError as problem:
            failed[system] = str(problem)
    return Built(suite_case, truth(suite_case, plan.cache), size, commands, failed)


def _work(suite_case: Case, cache: Path) -> tuple[int, int]:
    """Floating-point operations, and bytes of weights, inputs and outputs; kept by model and by how they count."""
    counting = "".join(map(inspect.getsource, (work, kernel_work))).encode()
    kept = cache / "work" / f"{hashlib.sha256(suite_case.model.read_bytes() + counting).hexdigest()}.json"
    if not kept.exists():
        report = info(suite_case.model)
        if report.flops is None or report.bytes_moved is None:
            raise SofieError(f"{suite_case.name}: {report.error}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([report.flops, report.bytes_moved]))
    flops, moved = json.loads(kept.read_text())
    return flops, moved


def _arena_bound(program: Program) -> int:
    """The bytes of scratch memory that are alive at once, as plan-memory says beside the arena."""
    for attributes in program.infer.arg_attrs or ():
        if isinstance(bound := attributes.data.get("sofie.lower_bound"), IntegerAttr):
            return bound.value.data
    return 0


def _seconds_to_compile(program: Program, cache: Path) -> float:
    """The time that g++ -O3 takes for the header and a call of it, kept by the digest of the text."""
    text = source_of(program)
    kept = cache / "compiling" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.cpp")
            path.write_text(text)
            start = perf_counter()
            command = [*jit.compiler(), "-std=c++17", *NATIVE, "-w", "-c", str(path), "-o", str(path.with_suffix(".o"))]
            subprocess.run(command, check=True)
            kept.write_text(json.dumps(perf_counter() - start))
    return float(json.loads(kept.read_text()))


def build_all(names: Sequence[str], plan: Plan) -> Iterator[Built]:
    """The models in order, built by as many processes as there are cores; each timing waits for all of them."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        yield from pool.starmap(build, [(name, plan) for name in names], chunksize=1)


def measure(built: Built, plan: Plan, ceilings: Ceilings) -> Measured:
    """Times a model's workers in turn."""
    found = take_turns(built.commands, plan.rounds, plan.seconds, plan.core)
    floor = ceilings.floor(built.size.flops, built.size.moved)
    measured = Measured(built.case.name, floor, built.size, failed=built.failed | found.failed)
    for system in found.rounds:
        measured.us[system] = found.us(system)
        measured.setup[system] = found.setup[system]
        measured.error[system] = error(built.case.results(system), built.truth)
        if "ort" in found.rounds:
            measured.ratio[system] = found.ratio(system, "ort")
        if "ours" in found.rounds:
            measured.ours_to[system] = found.ratio("ours", system)
    return measured
