"""What each optional pass is worth: the suite's time without it, in turn with the time of the whole pipeline."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sofie.bench.systems import NATIVE, Command, ours
from sofie.bench.workers import take_turns
from sofie.compiler import Options, lower
from sofie.errors import SofieError
from sofie.pipeline import optional_passes
from tests.bench.cases import case
from tests.bench.measuring import Plan

WHOLE = "ours"


@dataclass(frozen=True)
class Variants:
    """A model compiled whole and without each pass. same: passes that change nothing in it."""

    model: str
    commands: Mapping[str, Command]
    same: Sequence[str]
    failed: Mapping[str, str]


def build(name: str, plan: Plan) -> Variants:
    """Compiles a model as often as there are passes that change it."""
    suite_case = case(name, plan.cache)
    commands: dict[str, Command] = {}
    same: list[str] = []
    failed: dict[str, str] = {}
    whole: list[str] = []
    for left_out in ("", *optional_passes()):
        label = left_out or WHOLE
        try:
            program = lower(suite_case.model, "model", Options(without=[left_out] if left_out else []))
            code = _code(program.header())
            if left_out and code == whole:
                same.append(left_out)
                continue
            whole = whole or code
            commands[label] = ours(suite_case, program, NATIVE, label)
        except SofieError as problem:
            failed[label] = str(problem)
    return Variants(name, commands, same, failed)


def _code(header: str) -> list[str]:
    """The lines of a header, without those that say with which options it was made."""
    return [line for line in header.splitlines() if not line.startswith("// --")]


def ablate(names: Sequence[str], plan: Plan) -> tuple[dict[str, dict[str, float]], list[str]]:
    """By pass and model, the time without the pass over the time with it; and a line for each that did not run."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        built = pool.starmap(build, [(name, plan) for name in names], chunksize=1)
    ratios: dict[str, dict[str, float]] = {name: {} for name in optional_passes()}
    failures: list[str] = []
    for variants in built:
        timings = take_turns(variants.commands, plan.rounds, plan.seconds, plan.core)
        failed = {**variants.failed, **timings.failed}
        failures += [f"{variants.model} without {label}: {why}" for label, why in failed.items()]
        for left_out in optional_passes():
            if left_out in variants.same:
                ratios[left_out][variants.model] = 1.0
            elif left_out in timings.rounds and WHOLE in timings.rounds:
                ratios[left_out][variants.model] = timings.ratio(left_out, WHOLE)
    return ratios, failures
