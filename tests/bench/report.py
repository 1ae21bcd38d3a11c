"""docs/performance.md, with its numbers as JSON and a plot beside it."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sofie import jit
from sofie.bench.ceilings import Ceilings
from tests.bench.measuring import Measured, Plan
from tests.bench.peers import ENVIRONMENTS
from tests.bench.plot import plot
from tests.bench.systems import CERN, OURS, SYSTEMS
from tests.bench.table import mean, us

ERROR_FACTOR = 4
LEVELS = (("L1", 16 << 10), ("L2", 256 << 10), ("L3", 4 << 20), ("memory", 48 << 20))
"""Sets of bytes whose bandwidth stands on the page."""

Ablation = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Results:
    """All that a page is written from.

    ablation: by pass and model, the time without it over the time with it. load: the machine's load average over the
    minutes before the last measurement; the bench itself is 1 of it.
    """

    measured: Sequence[Measured]
    ceilings: Ceilings
    plan: Plan
    ablation: Ablation
    load: float | None = None


def write(results: Results, folder: Path) -> None:
    """Writes performance.md, .json and .svg; what other commands measured stays as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    text, numbers = folder / "performance.md", folder / "performance.json"
    sections = _sections(text)[1:] if text.exists() else []
    kept = [(title, s) for title in ELSEWHERE.values() for s in sections if s.startswith(title)]
    earlier = json.loads(numbers.read_text()) if numbers.exists() else {}
    text.write_text(page(results))
    for title, section in kept:
        put_section(title, section, text)
    (folder / "performance.svg").write_text(plot(results.measured))
    content = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "load": results.load,
        "ceilings": asdict(results.ceilings),
        "models": [asdict(m) for m in results.measured],
        "ablation": results.ablation,
    }
    content |= {key: earlier[key] for key in ELSEWHERE if key in earlier}
    _write_json(content, numbers)


def write_ablation(ablation: Ablation, folder: Path) -> None:
    """Puts the table of passes left out into the page and the JSON that are there, in the place of an earlier one."""
    table = "\n\n".join([WITHOUT, _ABLATION, markdown(*_without(ablation))])
    put("ablation", ablation, WITHOUT, table, folder)


def put(key: str, numbers: object, title: str, section: str, folder: Path) -> None:
    """Puts numbers under a key of the JSON that is there, and a section into the page, in the place of earlier ones."""
    path = folder / "performance.json"
    _write_json({**json.loads(path.read_text()), key: numbers}, path)
    put_section(title, section, folder / "performance.md")


def put_section(title: str, section: str, text: Path) -> None:
    """Puts a section, which starts with its title, into a page: behind all but what did not run."""
    start, *sections = _sections(text)
    others = [other for other in sections if not other.startswith((title, WHAT_DID_NOT_RUN))]
    last = [other for other in sections if other.startswith(WHAT_DID_NOT_RUN)]
    text.write_text("\n\n## ".join([start, *others, section, *last]) + "\n")


def _sections(text: Path) -> list[str]:
    return text.read_text().rstrip("\n").split("\n\n## ")


def _write_json(content: object, path: Path) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


WITHOUT, WHAT_DID_NOT_RUN = "Without a pass", "What did not run"
ON_A_GPU, IN_RDATAFRAME = "On a GPU", "In RDataFrame"
ELSEWHERE = {"gpu": ON_A_GPU, "rdataframe": IN_RDATAFRAME}
"""Sections that other commands write, by their key in the JSON."""


def page(results: Results) -> str:
    """The text of docs/performance.md."""
    measured, plan = results.measured, results.plan
    busy = "" if results.load is None else f" (load average of the machine: {results.load:.1f})"
    rates = ", ".join(f"{name} {results.ceilings.gigabytes_per_second(size):.0f}" for name, size in LEVELS)
    parts = [
        "# Performance",
        f"`python -m tests.bench` wrote this page on {date.today().isoformat()}. {machine()}, one "
        f"of them used{busy}; "
        f"{'; '.join(versions())}.",
        f"Times are medians of {plan.rounds} rounds in which the systems take turns on that core, each after a warm-up "
        "and on inputs that it has not just seen; ratios are medians of the rounds' ratios. Below 1, SOFIE is faster. "
        "The best peer is the fastest of those listed. The floor is the larger of two times: the model's "
        f"floating-point operations, convolutions taken directly, at {results.ceilings.peak:.0f} GFLOP/s; and its "
        "weights, inputs and outputs once at the read bandwidth of the level of memory that holds them (GB/s: "
        f"{rates}), all measured in this run.",
        markdown(("geometric mean over the suite", "", "models", "worst"), _means(measured)),
        "![time over ONNX Runtime's](performance.svg)",
        "## Ratios",
        markdown(*_ratios(measured)),
        "`error` is the largest difference from float64 (onnx.reference) over the largest element, in units of ONNX "
        f"Runtime's; at most {ERROR_FACTOR}, or a few ULP, is the rule. `-O2` is the time of the header compiled with "
        "plain -O2 over the time with -O3 -march=native.",
        "## Times in microseconds",
        markdown(*_times(measured)),
        "## Sizes and compile times",
        markdown(*_sizes(measured)),
    ]
    if results.ablation:
        parts += [f"## {WITHOUT}", _ABLATION, markdown(*_without(results.ablation))]
    if failed := [(m.model, SYSTEMS[s].label, why) for m in measured for s, why in m.failed.items()]:
        parts += [f"## {WHAT_DID_NOT_RUN}", markdown(("model", "system", "reason"), failed)]
    return "\n\n".join(parts) + "\n"


_ABLATION = "Time of the suite with one optional pass left out, over the time with all of them."


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; numbers stand to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


# -- tables ------------------------------------------------------------------------------------------------------------


def best_peer(m: Measured) -> tuple[str, float] | None:
    """The system that is hardest to beat, and the ratio of ours to it."""
    peers = {system: ratio for system, ratio in m.ours_to.items() if system not in OURS}
    return max(peers.items(), key=lambda item: item[1]) if peers else None


def to_best(m: Measured) -> float | None:
    """Ours over the best peer."""
    best = best_peer(m)
    return None if best is None else best[1]


def to_cern(m: Measured) -> float | None:
    """Ours over the faster of CERN's SOFIE's flags."""
    return max((m.ours_to[system] for system in CERN if system in m.ours_to), default=None)


def to_floor(m: Measured) -> float | None:
    """Ours over the floor."""
    return m.us["ours"] / m.floor.us if "ours" in m.us and m.floor.us else None


def plain(m: Measured) -> float | None:
    """The header compiled with plain -O2 over that with -O3 -march=native."""
    return 1 / m.ours_to["ours-O2"] if "ours-O2" in m.ours_to else None


def error(m: Measured) -> float | None:
    """Our error in units of ONNX Runtime's."""
    theirs = m.error.get("ort")
    return m.error["ours"] / theirs if theirs and "ours" in m.error else None


MEANS: Mapping[str, Callable[[Measured], float | None]] = {
    "ours / best peer": to_best,
    "ours / ONNX Runtime": lambda m: m.ours_to.get("ort"),
    "ours / OpenVINO": lambda m: m.ours_to.get("openvino"),
    "ours / faster CERN SOFIE": to_cern,
    "ours / emx": lambda m: m.ours_to.get("emx"),
    "ours / floor": to_floor,
    "plain -O2 / -O3 -march=native": plain,
}


def _means(measured: Sequence[Measured]) -> Iterable[Sequence[str]]:
    for title, ratio in MEANS.items():
        found = {m.model: value for m in measured if (value := ratio(m)) is not None}
        if found:
            worst = max(found, key=lambda name: found[name])
            yield title, f"**{mean(found.values()):.2f}**", str(len(found)), f"{found[worst]:.2f} ({worst})"


def _ratios(measured: Sequence[Measured]) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    header = ("model", "best peer", "", "ONNX Runtime", "faster CERN", "floor", "-O2", "error")
    rows = []
    for m in measured:
        best = best_peer(m)
        numbers = (m.ours_to.get("ort"), to_cern(m), to_floor(m), plain(m), error(m))
        name, ratio = ("-", "-") if best is None else (SYSTEMS[best[0]].label, f"{best[1]:.2f}")
        rows.append((m.model, ratio, name, *("-" if n is None else f"{n:.2f}" for n in numbers)))
    return header, rows


def _times(measured: Sequence[Measured]) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    shown = [system for system in SYSTEMS if any(system in m.us for m in measured)]
    header = ("model", *(SYSTEMS[s].label for s in shown), "floor", "bound by")
    return header, [(m.model, *(us(m.us.get(s)) for s in shown), us(m.floor.us), m.floor.bound) for m in measured]


def _sizes(measured: Sequence[Measured]) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    header = ("model", "MFLOP", ".hxx kB", "kernels", ".onnx to .hxx s", "g++ -O3 s", "arena kB", "arena / most alive")
    rows = []
    for m in measured:
        size = m.size
        compiling = "-" if size.compiling is None else f"{size.compiling:.1f}"
        over = f"{size.arena / size.arena_bound:.3f}" if size.arena_bound else "-"
        numbers = (f"{size.flops / 1e6:.3g}", f"{size.header / 1e3:.0f}", str(size.kernels), f"{size.lowering:.1f}")
        rows.append((m.model, *numbers, compiling, f"{size.arena / 1e3:.1f}", over))
    return header, rows


def _without(ablation: Ablation) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    rows = []
    for left_out, ratios in ablation.items():
        if ratios:
            most = max(ratios, key=lambda name: ratios[name])
            changed = sum(ratio != 1.0 for ratio in ratios.values())
            rows.append((left_out, f"{mean(ratios.values()):.2f}", str(changed), f"{ratios[most]:.2f} ({most})"))
    rows.sort(key=lambda row: -float(row[1]))
    return ("without", "geometric mean", "models it changes", "most"), rows


# -- machine -----------------------------------------------------------------------------------------------------------


def machine() -> str:
    """The CPU as the system names it, with the number of its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    about = dict(part.split("\t: ", 1) for part in (line.replace("\t\t", "\t") for line in lines) if "\t: " in part)
    name = about.get("model name", platform.machine())
    where = f"family {about['cpu family']}, model {about['model']}" if "cpu family" in about else platform.machine()
    return f"{name} ({where}), {sum(line.startswith('processor') for line in lines)} cores"


def versions() -> list[str]:
    """The compiler and the peers."""
    done = subprocess.run([*jit.compiler(), "--version"], capture_output=True, text=True, check=True)
    found = [done.stdout.splitlines()[0]]
    for package in ("onnxruntime", "openvino"):
        try:
            found.append(f"{package} {version(package).split('-')[0]}")
        except PackageNotFoundError:
            continue
    names = {"sofie": "CERN's SOFIE"}
    for packages in ENVIRONMENTS.values():
        for name, _, number in (package.partition("==") for package in packages):
            found.append(f"{names.get(name, name)} {number}")
    return found
