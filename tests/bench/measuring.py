"""Builds the workers of the suite's models, times them in turn, and gathers what there is to say about each model."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from sofie.bench.case import Case
from sofie.bench.ceilings import Ceilings, Floor
from sofie.bench.systems import Command
from sofie.bench.workers import take_turns
from sofie.compiler import Options, lower
from sofie.errors import SofieError
from sofie.info import info
from sofie.weights import Array
from tests.bench.cases import case, error, truth
from tests.bench.systems import SYSTEMS


@dataclass(frozen=True)
class Plan:
    """How to measure. systems: keys of SYSTEMS. seconds: of each system's turn in a round. without: passes left out."""

    systems: Sequence[str]
    rounds: int
    seconds: float
    core: int
    cache: Path
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Size:
    """What a model costs other than time. lowering: seconds from .onnx to .hxx."""

    flops: int
    moved: int
    arena: int
    header: int
    lowering: float
    kernels: int


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

    us: median microseconds of a call by system. ratio: to ONNX Runtime, or without it the floor. error: largest
    difference from float64 over the largest element. failed: why a system took no part.
    """

    model: str
    floor: Floor
    size: Size
    us: dict[str, float] = field(default_factory=dict)
    setup: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def build(name: str, plan: Plan) -> Built:
    """Writes a model of the suite and builds its workers; raises SofieError where it cannot be compiled."""
    suite_case = case(name, plan.cache)
    start = perf_counter()
    program = lower(suite_case.model, "model", Options(without=plan.without))
    header = program.header(False)
    lowering = perf_counter() - start
    flops, moved = _work(suite_case, plan.cache)
    size = Size(flops, moved, program.arena_bytes, len(header), lowering, program.kernel_calls)
    commands: dict[str, Command] = {}
    failed: dict[str, str] = {}
    for system in plan.systems:
        try:
            commands[system] = SYSTEMS[system].build(suite_case, program, plan.cache)
        except SofieError as problem:
            failed[system] = str(problem)
    return Built(suite_case, truth(suite_case, plan.cache), size, commands, failed)


def _work(suite_case: Case, cache: Path) -> tuple[int, int]:
    """Floating-point operations, and bytes of weights, inputs and outputs, kept by the model's digest."""
    kept = cache / "work" / f"{hashlib.sha256(suite_case.model.read_bytes()).hexdigest()}.json"
    if not kept.exists():
        report = info(suite_case.model)
        if report.flops is None or report.bytes_moved is None:
            raise SofieError(f"{suite_case.name}: {report.error}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([report.flops, report.bytes_moved]))
    flops, moved = json.loads(kept.read_text())
    return flops, moved


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
    return measured
