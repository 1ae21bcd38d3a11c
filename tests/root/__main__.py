"""`python -m tests.root [--events N] [--rounds N] [--write docs]`: events through the network of SOFIE's talk.

A plain loop and RDataFrame, SOFIE and ONNX Runtime, one thread and two, in turns, compiled by g++ -O3.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import onnx

import sofie
from sofie.bench import systems
from sofie.bench.build import source
from tests.bench.report import IN_RDATAFRAME, machine, markdown, put
from tests.root.network import against_root, network

Row = tuple[str, str, int]
ROWS: tuple[Row, ...] = tuple((how, who, n) for n in (1, 2) for who in ("ours", "ort") for how in ("bare", "frame"))
LABELS = {"bare": "a plain loop", "frame": "RDataFrame", "ours": "SOFIE", "ort": "ONNX Runtime"}


def build(folder: Path) -> Path:
    """The program, beside the model."""
    onnx.save(network(), folder / "Model.onnx")
    sofie.generate(network(), folder, name="Model")
    (folder / "onnxruntime.hxx").write_text(source("onnxruntime.hxx"))
    shutil.copy(Path(__file__).with_name("events.cpp"), folder)
    subprocess.run([*against_root("events.cpp", "events", ("-O3",)), "-ldl", "-pthread"], cwd=folder, check=True)
    return folder / "events"


def time(program: Path, row: Row, events: int) -> tuple[float, float]:
    """Microseconds per event, and the mean of the results."""
    how, who, threads = row
    command = [program, how, who, str(events), str(threads), systems.onnxruntime_library()]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=True)
    microseconds, mean = map(float, done.stdout.split())
    return microseconds, mean


def measure(events: int, rounds: int) -> dict[Row, list[float]]:
    """The microseconds of every row in each round. Raises AssertionError where the results differ."""
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        times: dict[Row, list[float]] = {row: [] for row in ROWS}
        means = set()
        for _ in range(rounds):
            for row in ROWS:
                microseconds, mean = time(program, row, events)
                times[row].append(microseconds)
                means.add(round(mean, 6))
        assert max(means) - min(means) < 2e-6, means
    return times


def ratio(times: Mapping[Row, list[float]], over: Row, under: Row) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def section(times: Mapping[Row, list[float]], events: int, rounds: int) -> str:
    """The section of docs/performance.md."""
    rows = [
        (LABELS[how], LABELS[who], str(threads), f"{statistics.median(times[how, who, threads]):.2f}")
        for how, who, threads in ROWS
    ]
    lines = [
        f"frame / loop, one thread: {ratio(times, ('frame', 'ours', 1), ('bare', 'ours', 1)):.2f}",
        f"one thread / two: in the frame {ratio(times, ('frame', 'ours', 1), ('frame', 'ours', 2)):.2f}, "
        f"in plain threads {ratio(times, ('bare', 'ours', 1), ('bare', 'ours', 2)):.2f}",
        f"SOFIE / ONNX Runtime in the frame: {ratio(times, ('frame', 'ours', 1), ('frame', 'ort', 1)):.2f} "
        f"with one thread, {ratio(times, ('frame', 'ours', 2), ('frame', 'ort', 2)):.2f} with two",
    ]
    return "\n\n".join(
        [
            IN_RDATAFRAME,
            f"`python -m tests.root` on {date.today().isoformat()}, {machine()}: {events:,} events through the network "
            "of SOFIE's talk (7 inputs, five layers of 200), one event a call, g++ -O3 without -march. Microseconds "
            f"per event, medians of {rounds} rounds in turns; the first run of a process, which makes ROOT's "
            "dictionaries, is not counted. The loop computes the same columns.",
            markdown(("loop", "by", "threads", "us"), rows),
            "\n".join(f"- {line}" for line in lines),
        ]
    )


def main() -> None:
    """Measures and prints; `--write docs` puts the section into docs/performance.md."""
    parser = argparse.ArgumentParser("python -m tests.root", description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    times = measure(given.events, given.rounds)
    text = section(times, given.events, given.rounds)
    print(text)
    if given.write:
        numbers = {" ".join(map(str, row)): found for row, found in times.items()}
        put("rdataframe", {"events": given.events, "microseconds": numbers}, IN_RDATAFRAME, text, given.write)


if __name__ == "__main__":
    main()
