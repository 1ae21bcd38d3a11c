"""Writes docs/passes.md from the docstrings of the passes; `--check` says whether it is up to date."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

from sofie import pipeline
from sofie.registry import own_passes

PAGE = Path(__file__).parents[1] / "docs" / "passes.md"


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


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == page() else "docs/passes.md is stale: run python tools/document.py")
    PAGE.write_text(page())
