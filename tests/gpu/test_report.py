"""The section of a page and the table of a run: ratios the wrong way round, a wrong number that looks right."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sofie.bench.ceilings import Ceilings
from tests.bench import report as bench_report
from tests.bench.measuring import Plan
from tests.gpu import run
from tests.gpu.__main__ import main
from tests.gpu.report import section

LIMITS = {
    "card": "NVIDIA H200",
    "processors": 132,
    "gigaflops": 50_000.0,
    "gigabytes_per_second": [[1 << 20, 8000.0], [1 << 31, 4000.0]],
    "launch_us": 2.0,
    "graph_us": 3.0,
    "node_us": 1.0,
}
CONTENT: dict[str, Any] = {
    "arch": "sm_90",
    "date": "2026-12-01",
    "driver": "580.1",
    "ceilings": LIMITS,
    "models": {
        "a": {"right": True, "error": 1e-7, "allowed": 1e-6, "us": 6.0, "wait_us": 9.0, "spread": 0.1, "calls": 9},
        "b": {"right": False, "error": 1e-2, "allowed": 1e-6, "us": 200.0, "wait_us": 210.0, "spread": 0.1, "calls": 9},
        "c": {"failed": "took more than 30 s"},
    },
    "floor": {"a": {"us": 3.0, "bound": "launches"}, "b": {"us": 100.0, "bound": "flops"}, "c": {}},
    "peers": {"torch": {"a": {"us": 24.0}, "b": {"failed": "Unknown: no rule for TopK"}}, "onnxruntime": {}},
    "absent": {"onnxruntime": "onnxruntime is not installed"},
}


def known(flops: int, moved: int, launches: int, graph: bool) -> dict[str, object]:
    return {"flops": flops, "moved": moved, "launches": launches, "graph": graph}


@pytest.mark.parametrize(
    ("about", "us", "bound"),
    [
        (known(50_000_000, 1000, 1, False), 2.0, "launches"),
        (known(50_000_000, 1000, 3, False), 6.0, "launches"),
        (known(50_000_000, 1000, 3, True), 5.0, "launches"),
        (known(500_000_000, 1000, 1, False), 10.0, "flops"),
        (known(0, 80_000_000, 1, False), 20.0, "memory"),
        (known(0, 8 << 30, 1, False), (8 << 30) / 4e6, "memory"),
    ],
)
def test_the_floor_is_the_largest_of_three(about: dict[str, object], us: float, bound: str) -> None:
    """A launch that is counted twice, a rate of the wrong set, a model of no known floor."""
    assert run.floor(about, LIMITS) == {"us": pytest.approx(us), "bound": bound}
    assert run.floor(about, {"failed": "no card"}) == {}


def test_the_table_says_what_is_wrong() -> None:
    """A wrong model that reads as right; a ratio upside down, or in the column of another peer."""
    lines = [line.split() for line in run.table(CONTENT).splitlines()]
    assert lines[0] == ["model", "error", "us", "waited", "floor", "bound", "by", "/floor", "/torch"]
    assert lines[1] == ["a", "right", "1.0e-07", "6", "9", "3", "launches", "2.00", "0.25"]
    assert lines[2] == ["b", "WRONG", "1.0e-02", "200", "210", "100", "flops", "2.00", "-"]
    assert lines[3] == ["c", "FAILED", "-", "-", "-", "-", "-", "-", "-"]
    assert lines[4][-2:] == ["2.00", "0.25"]
    assert run.notes(CONTENT) == [
        "c: took more than 30 s",
        "onnxruntime: onnxruntime is not installed",
        "torch: b: Unknown: no rule for TopK",
    ]


def test_the_section_says_the_same() -> None:
    text = section(CONTENT)
    assert "| a | 6 | 9 | 3 | launches | 2.00 | 0.25 | 0.10 |" in text
    assert "| b | 200 | 210 | 100 | flops | 2.00 | - | **wrong**: 10000.00 |" in text
    assert "| ours / PyTorch | **0.25** | 1 | 0.25 (a) |" in text
    assert "NVIDIA H200, 132 multiprocessors, driver 580.1, compiled for sm_90" in text and "50.0 TFLOP/s" in text
    assert "| ONNX Runtime | onnxruntime is not installed |" in text and "| c | took more than 30 s |" in text


def test_the_section_replaces_an_earlier_one_and_outlives_the_bench(tmp_path: Path) -> None:
    """A page with two sections of GPUs; numbers of a card that the next bench of the CPU throws away."""
    results = bench_report.Results([], Ceilings(100.0, ((1000, 200.0),)), Plan([], 1, 0.1, 0, tmp_path), {})
    bench_report.write(results, tmp_path)
    bench_report.put_section("What did not run", "What did not run\n\nnothing", tmp_path / "performance.md")
    numbers = tmp_path / "gpu.json"
    for driver in ("570.1", "580.1"):
        numbers.write_text(json.dumps({**copy.deepcopy(CONTENT), "driver": driver}))
        assert main(["import", str(numbers), "--write", str(tmp_path)]) == 0
    for _ in range(2):
        page, content = ((tmp_path / f"performance.{end}").read_text() for end in ("md", "json"))
        assert page.count("## On a GPU\n") == 1 and "driver 580.1" in page and "driver 570.1" not in page
        assert json.loads(content)["gpu"]["driver"] == "580.1" and "## Ratios" in page
        if "## What did not run" in page:
            assert page.index("## On a GPU") < page.index("## What did not run")
        bench_report.write_ablation({"vectorize": {"a": 2.0}}, tmp_path)
        assert "| vectorize |" in (tmp_path / "performance.md").read_text()
        bench_report.write(results, tmp_path)
