"""`python -m tests.bench [MODEL ...]`: the suite, timed in turn with its peers on one core."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sofie.bench import ceilings
from sofie.bench.workers import last_core
from tests.bench import peers, report, table
from tests.bench.ablation import ablate
from tests.bench.measuring import Measured, Plan, build_all, measure
from tests.bench.models import MODELS
from tests.bench.systems import QUICK, SYSTEMS

CACHE = Path(".pytest_cache/bench")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models of the suite [default: all]")
    parser.add_argument("--rounds", type=int, help="turns of each system [default: 9, or 5 with --quick]")
    parser.add_argument("--seconds", type=float, help="length of a turn [default: 0.3, or 0.08 with --quick]")
    parser.add_argument("--systems", help=f"comma-separated, of {','.join(SYSTEMS)}")
    parser.add_argument("--quick", action="store_true", help="ours and ONNX Runtime, few rounds, a table here")
    parser.add_argument("--without", default="", help="passes to leave out, comma-separated")
    parser.add_argument("--ablate", action="store_true", help="time the suite without each optional pass")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write performance.md, .json and .svg, as in docs")
    parser.add_argument("--install", action="store_true", help="install the peers that need environments, and end")
    parser.add_argument("--core", type=int, default=last_core(), help="the core to time on [default: the last]")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"folder of what is kept [default: {CACHE}]")
    given = parser.parse_args(words)
    if unknown := [name for name in given.models if name not in MODELS]:
        parser.error(f"there is no model {unknown[0]}; the suite has {', '.join(MODELS)}")
    if unknown := [name for name in (given.systems or "").split(",") if name and name not in SYSTEMS]:
        parser.error(f"there is no system {unknown[0]}; there are {', '.join(SYSTEMS)}")
    return given


def plan_of(given: argparse.Namespace) -> Plan:
    """How to measure, from the command line."""
    cache = given.cache.resolve()
    wanted = given.systems.split(",") if given.systems else list(QUICK if given.quick else SYSTEMS)
    missing = {system: why for system in wanted if (why := SYSTEMS[system].absent(cache))}
    for system, why in missing.items():
        print(f"{SYSTEMS[system].label} is left out: {why}", file=sys.stderr)
    systems = [system for system in wanted if system not in missing]
    rounds = given.rounds or (5 if given.quick else 9)
    seconds = given.seconds or (0.08 if given.quick else 0.3)
    without = tuple(filter(None, given.without.split(",")))
    return Plan(systems, rounds, seconds, given.core, cache, without, given.write is not None)


def main(words: Sequence[str]) -> None:
    """Measures and prints; `--write docs` makes the page docs/performance.md."""
    given = parse(words)
    plan = plan_of(given)
    if given.install:
        peers.install(plan.cache)
        return
    os.environ.setdefault("SOFIE_CACHE", str(plan.cache / "compiled"))
    names = given.models or list(MODELS)
    kept = plan.cache / "ablation.json"
    if given.ablate:
        ratios, failures = ablate(names, plan)
        if not given.models:
            kept.write_text(json.dumps(ratios))
            if given.write:
                report.write_ablation(ratios, given.write)
        print("\n".join([table.ablation(ratios), *failures]))
        return
    limits = ceilings.measure(plan.core)
    print(f"core {plan.core}: {limits.peak:.0f} GFLOP/s", file=sys.stderr)
    measured: list[Measured] = []
    for built in build_all(names, plan):
        measured.append(measure(built, plan, limits))
        times = ", ".join(f"{system} {table.us(us)} us" for system, us in measured[-1].us.items())
        print(f"{built.case.name}: {times}", file=sys.stderr)
    print(table.quick(measured))
    for line in table.failures(measured):
        print(line)
    if given.write:
        ratios = json.loads(kept.read_text()) if kept.exists() else {}
        report.write(report.Results(measured, limits, plan, ratios, os.getloadavg()[1]), given.write)


if __name__ == "__main__":
    main(sys.argv[1:])
