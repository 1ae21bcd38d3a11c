"""Writes docs/passes.md from docstrings, and docs/operators.md and a table of docs/keras.md from registries.

`--check` says whether they are up to date.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections import Counter
from pathlib import Path

from sofie import pipeline
from sofie.dialects.onnx import OPSET, op_classes
from sofie.frontends.keras import registry as keras_registry
from sofie.frontends.keras.layers.activations import ACTIVATIONS
from sofie.registry import own_passes
from sofie.support import BODY, FOLDED, LOWERING, NO, spelled, support

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "passes.md"
OPERATORS_PAGE = ROOT / "docs" / "operators.md"
KERAS_PAGE = ROOT / "docs" / "keras.md"
TABLE, END = "<!-- table -->\n", "<!-- end -->\n"
"""Around what is generated of a page that is written by hand."""
CONFORMANCE = ROOT / "tests" / "conformance"

TYPES = {
    "float8": ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    "float4": ("float4_e2m1fn",),
    "int2-4": ("int2", "int4"),
    "uint2-4": ("uint2", "uint4"),
    "int8-64": ("int8", "int16", "int32", "int64"),
    "uint8-64": ("uint8", "uint16", "uint32", "uint64"),
}
"""Runs of element types that are written as one word."""

INTRODUCTION = f"""# The operators

Generated from the registry by `python tools/document.py`: every live operator of opset {OPSET} and of the other domains
that the dialect knows.

- *supported*: `{LOWERING}`: one function in `sofie/passes/lower_onnx`. `{BODY}`: `decompose` expands ONNX's own
  definition. `{FOLDED}`: nothing of it runs in C++, its results have to be known before; those of
  operators that ask for a shape always are.
- *types*: of the first operand (the first result, where there is none), as ONNX allows them and C++ code can hold them.
  Every other operand and result has to have such a type as well: no text, no sequences, no 16-bit floats.
- *limits*: what is declined beyond that. Sizes may be those of the run, within bounds.
- *tests*: those of `onnx.backend.test` that use this operator alone, passed and all; those whose result was known when
  compiling are apart.

`sofie info MODEL` says the same of the operators of a model.
"""


def page() -> str:
    """The page of passes: the groups in order, then each pass with its docstring and its options."""
    lines = ["# The passes", "", "Generated from the docstrings by `python tools/document.py`.", ""]
    for name, steps in pipeline.GROUPS.items():
        lines += [
            f"## `{name}`",
            "",
            "| pass | why it stands here | may be left out | completes |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| [{s.name}](#{s.name}) | {s.reason} | {'yes' if s.optional else ''} | {s.level or ''} |" for s in steps
        ]
        lines.append("")
    for name, factory in sorted(own_passes().items()):
        cls = factory()
        module = importlib.import_module(cls.__module__)
        title, _, rest = (module.__doc__ or "").strip().partition("\n")
        title = title.removeprefix(f"{name}: ")
        lines += [f"### {name}", "", title[:1].upper() + title[1:], rest.rstrip(), ""]
        options = [f"`{f.name.replace('_', '-')}={f.default}`" for f in dataclasses.fields(cls)]
        if options:
            lines += [f"Options: {', '.join(options)}. {(cls.__doc__ or '').strip()}", ""]
    return "\n".join(lines).rstrip() + "\n"


def operators_page() -> str:
    """The page of operators: a count of each kind, then a row each."""
    found = {key: support(*key) for key in op_classes()}
    counts = Counter(s.how for s in found.values())
    kinds = [f"{counts[how]} `{how}`" for how in (LOWERING, BODY, FOLDED, NO)]
    lines = [INTRODUCTION, f"{len(found)} operators: {', '.join(kinds)}.", ""]
    lines += ["| operator | since | supported | types | limits | tests |", "|---|---|---|---|---|---|"]
    tests = _tests()
    for (domain, name), how in found.items():
        operator = spelled(domain, name)
        since = op_classes()[domain, name].SCHEMA.since_version
        cells = [operator, str(since), how.how, _types(how.types), how.limits, tests.get(operator, "")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def keras_page() -> str:
    """The page of Keras models with the table of layers that its registry has."""
    before, _, rest = KERAS_PAGE.read_text().partition(TABLE)
    rows = ["Generated from the registry by `python tools/document.py`.", "", "| layer | takes |", "|---|---|"]
    rows += [f"| {kind} | {entry.options} |" for kind, entry in sorted(keras_registry.layers().items())]
    functions = ", ".join(sorted(keras_registry.operations()))
    rows += [
        "",
        f"Activations: {', '.join(ACTIVATIONS)}.",
        "",
        f"Functions of `keras.ops` between layers: {functions}.",
        "",
    ]
    return before + TABLE + "\n".join(rows) + END + rest.partition(END)[2]


def _types(names: tuple[str, ...]) -> str:
    words = list(names)
    for word, run in TYPES.items():
        if set(run) <= set(words):
            words[words.index(run[0])] = word
            words = [w for w in words if w not in run]
    return " ".join(words)


def _tests() -> dict[str, str]:
    """Tests passed and all, by operator, from the checked-in lists."""
    passing, folded = (set(_listed(name)) for name in ("passing.txt", "folded.txt"))
    passed, known, total = Counter[str](), Counter[str](), Counter[str]()
    for line in _listed("operators.txt"):
        test, operator = line.split()
        total[operator] += 1
        passed[operator] += test in passing
        known[operator] += test in folded
    return {o: f"{passed[o]}/{n}" + (f", {known[o]} known" if known[o] else "") for o, n in total.items()}


def _listed(name: str) -> list[str]:
    return [line for line in (CONFORMANCE / name).read_text().splitlines() if line and not line.startswith("#")]


PAGES = {PAGE: page, OPERATORS_PAGE: operators_page, KERAS_PAGE: keras_page}

if __name__ == "__main__":
    if "--check" in sys.argv:
        stale = [path.name for path, write in PAGES.items() if not path.exists() or path.read_text() != write()]
        sys.exit(f"{', '.join(stale)} in docs/ is stale: run python tools/document.py" if stale else 0)
    for path, write in PAGES.items():
        path.write_text(write())
