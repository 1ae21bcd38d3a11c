"""Measurements as text: a row a model, ratios first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean

from tests.bench.measuring import Measured


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns in the width of their longest cell, the first to the left and the others to the right."""
    listed = [list(header), *map(list, rows)]
    widths = [max(len(row[k]) for row in listed) for k in range(len(header))]
    lines = [
        "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in listed
    ]
    return "\n".join(line.rstrip() for line in lines)


def mean(values: Iterable[float]) -> float:
    """The geometric mean; nan of nothing."""
    listed = list(values)
    return geometric_mean(listed) if listed else float("nan")


def us(value: float | None) -> str:
    """Microseconds with three digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def quick(all_measured: Sequence[Measured]) -> str:
    """The table that a developer reads: ours and ONNX Runtime."""
    header = ("model", "ours/ORT", "ours/floor", "ours us", "ORT us", "floor us", "error/ORT's", "kernels")
    rows = []
    for m in all_measured:
        ours, ort = m.us.get("ours"), m.us.get("ort")
        rows.append(
            (
                m.model,
                f"{m.ratio['ours']:.2f}" if "ours" in m.ratio else "-",
                f"{ours / m.floor.us:.2f}" if ours else "-",
                us(ours),
                us(ort),
                f"{us(m.floor.us)} {m.floor.bound}",
                f"{m.error['ours'] / m.error['ort']:.1f}" if m.error.get("ort") and ours else "-",
                str(m.size.kernels),
            )
        )
    ratios = mean(m.ratio["ours"] for m in all_measured if "ours" in m.ratio)
    floors = mean(m.us["ours"] / m.floor.us for m in all_measured if "ours" in m.us)
    rows.append((f"geometric mean of {len(all_measured)}", f"{ratios:.2f}", f"{floors:.2f}", "", "", "", "", ""))
    return table(header, rows)


def ablation(ratios: Mapping[str, Mapping[str, float]]) -> str:
    """Without each pass, the suite's time over that of the whole pipeline, the most valuable pass first."""
    rows = sorted(((mean(found.values()), name, found) for name, found in ratios.items() if found), reverse=True)
    cells = [(name, f"{value:.2f}", f"{max(found.values()):.2f}") for value, name, found in rows]
    return table(("without", "geometric mean", "most"), cells)


def failures(all_measured: Iterable[Measured]) -> list[str]:
    """A line for each system that took no part, with the reason."""
    return [f"{m.model}: {system}: {why}" for m in all_measured for system, why in m.failed.items()]
