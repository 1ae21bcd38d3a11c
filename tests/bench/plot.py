"""The suite as an SVG: a row a model, a dot a system, its time over ONNX Runtime's on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tests.bench.measuring import Measured
from tests.bench.systems import SYSTEMS

ROW, LEFT, WIDTH, TOP = 18, 170, 720, 60
LOW, HIGH = 0.03, 8.0
COLOURS = {
    "ours": "#c0182b",
    "ours-O2": "#e8909a",
    "ort": "#000000",
    "openvino": "#1f6fb4",
    "cern-O3": "#2f9e44",
    "cern-Ofast": "#8fd19e",
    "emx": "#b58900",
}


def plot(measured: Sequence[Measured]) -> str:
    """The SVG."""
    shown = [system for system in SYSTEMS if any(system in m.ratio for m in measured)]
    height = TOP + ROW * len(measured) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{LEFT + WIDTH + 20}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="14" font-weight="bold">time over that of ONNX Runtime (left is faster)</text>',
    ]
    for k, system in enumerate(shown):
        x = LEFT + k * WIDTH / len(shown)
        parts.append(f'<circle cx="{x:.1f}" cy="30" r="4" fill="{COLOURS[system]}"/>')
        parts.append(f'<text x="{x + 8:.1f}" y="34">{escape(SYSTEMS[system].label)}</text>')
    for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5):
        x = _x(tick)
        stroke = "#000" if tick == 1 else "#ddd"
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 14}" stroke="{stroke}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 2}" text-anchor="middle">{tick:g}</text>')
    for row, m in enumerate(measured):
        y = TOP + ROW * row + 4
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(m.model)}</text>')
        for system in reversed(shown):
            if system in m.ratio:
                radius = 5 if system == "ours" else 3.5
                dot = f'<circle cx="{_x(m.ratio[system]):.1f}" cy="{y}" r="{radius}" fill="{COLOURS[system]}"/>'
                parts.append(dot)
    return "\n".join([*parts, "</svg>", ""])


def _x(ratio: float) -> float:
    """The place of a ratio; what lies outside the axis stands at its end."""
    inside = min(max(ratio, LOW), HIGH)
    return LEFT + WIDTH * math.log(inside / LOW) / math.log(HIGH / LOW)
