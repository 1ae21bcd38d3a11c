"""The section `On a GPU` of docs/performance.md, from what `run.py` wrote on the card's machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.report import ON_A_GPU, markdown, put
from tests.bench.table import mean, us

NAMES = {
    "torch": "PyTorch",
    "torch-graph": "PyTorch, CUDA graph",
    "torch-compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "cublas": "cuBLAS",
}
SHOWN = (1 << 20, 1 << 24, 1 << 27, 1 << 31)
"""Sets of bytes whose rate of copying stands on the page."""

Content = Mapping[str, Any]


def write_section(numbers: Path, folder: Path) -> None:
    """Puts the numbers into performance.json and the section into performance.md, in the place of earlier ones."""
    content = json.loads(numbers.read_text())
    put("gpu", content, ON_A_GPU, section(content), folder)


def section(content: Content) -> str:
    """The text, which starts with its title."""
    peers = [peer for peer, times in content["peers"].items() if any("us" in found for found in times.values())]
    parts = [
        ON_A_GPU,
        f"`python -m tests.gpu` wrote this section; the numbers are of {content['date']}. {_machine(content)}",
        "Times are medians of rounds of calls one behind the other, on four sets of inputs that lie on the card, by "
        "CUDA events; `waited` is a call that the host waits for. Below 1, SOFIE is faster. The floor is the largest "
        "of three times: floating-point operations; weights, inputs and outputs once; and launches one behind the "
        "other; each at what the card was measured to do. Peers are in full float32, with weights of their own.",
        markdown(("geometric mean", "", "models", "worst"), list(_means(content, peers))),
        markdown(*_table(content, peers)),
        "`error` is the largest difference from float64 over the largest element, in units of what is allowed: 8 times "
        "ONNX Runtime's on a CPU, or 128 units of the last place.",
    ]
    if absent := [(NAMES.get(peer, peer), why) for peer, why in content["absent"].items()]:
        parts.append(markdown(("not compared, or not with all", "reason"), absent))
    if failed := [(name, about["failed"]) for name, about in content["models"].items() if "failed" in about]:
        parts.append(markdown(("did not run", "reason"), failed))
    return "\n\n".join(parts)


def _machine(content: Content) -> str:
    """The card, its driver, and what it was measured to do."""
    limits = content["ceilings"]
    if "failed" in limits:
        return f"Driver {content['driver'] or 'unknown'}; what the card can do was not measured."
    rates = [f"{size >> 20} MiB {rate:,.0f}" for size, rate in limits["gigabytes_per_second"] if size in SHOWN]
    driver = content["driver"] or "unknown"
    return (
        f"{limits['card']}, {limits['processors']} multiprocessors, driver {driver}, compiled for {content['arch']}. "
        f"Measured: {limits['gigaflops'] / 1e3:.1f} TFLOP/s of float32 multiply-adds; copies of sets in GB/s, read and "
        f"written: {', '.join(rates)}; a launch {limits['launch_us']:.2f} us, a graph of one kernel "
        f"{limits['graph_us']:.2f} us, each further kernel {limits['node_us']:.2f} us."
    )


def _ratios(content: Content, other: str) -> dict[str, float]:
    """Ours over the floor or over a peer, by model."""
    times = content["floor"] if other == "floor" else content["peers"][other]
    found = {}
    for name, about in content["models"].items():
        if about.get("us") and times.get(name, {}).get("us"):
            found[name] = about["us"] / times[name]["us"]
    return found


def _means(content: Content, peers: Sequence[str]) -> Iterator[Sequence[str]]:
    for other in ("floor", *peers):
        if ratios := _ratios(content, other):
            worst = max(ratios, key=lambda name: ratios[name])
            cells = (f"**{mean(ratios.values()):.2f}**", str(len(ratios)), f"{ratios[worst]:.2f} ({worst})")
            yield (f"ours / {NAMES.get(other, other)}", *cells)


def _table(content: Content, peers: Sequence[str]) -> tuple[Sequence[str], list[Sequence[str]]]:
    header = ("model", "us", "waited", "floor us", "bound by", "floor", *(NAMES.get(p, p) for p in peers), "error")
    ratios = {other: _ratios(content, other) for other in ("floor", *peers)}
    rows = []
    for name, about in content["models"].items():
        least = content["floor"].get(name, {})
        cells = [us(about.get("us")), us(about.get("wait_us")), us(least.get("us")), least.get("bound", "-")]
        cells += [f"{found[name]:.2f}" if name in found else "-" for found in ratios.values()]
        rows.append((name, *cells, _error(about)))
    return header, rows


def _error(about: Content) -> str:
    if "right" not in about:
        return "-"
    units = "no number" if about["error"] is None else f"{about['error'] / about['allowed']:.2f}"
    return units if about["right"] else f"**wrong**: {units}"
