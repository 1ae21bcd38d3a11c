"""`sofie passes`: what the groups do, step by step."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

import click

from sofie.cli.options import DEBUG_FLAG

if TYPE_CHECKING:
    from xdsl.passes import ModulePass


@click.command()
@DEBUG_FLAG
def passes() -> None:
    """List the groups and passes that --pipeline and --without take."""
    from sofie.pipeline import GROUPS
    from sofie.registry import all_passes, own_passes

    known = all_passes()
    rows = [
        (group, [(s.name, first_line(known[s.name]()) or s.reason, "" if s.optional else "  (always)") for s in steps])
        for group, steps in GROUPS.items()
    ]
    grouped = {step.name for steps in GROUPS.values() for step in steps}
    if others := [(name, first_line(known[name]()), "") for name in own_passes() if name not in grouped]:
        rows.append(("in no group", others))
    width = max(len(name) for _, steps in rows for name, _, _ in steps) + 2
    for group, steps in rows:
        click.echo(click.style(group, bold=True))
        for name, text, remark in steps:
            click.echo(f"  {name:{width}}{text}{remark}")


def first_line(kind: type[ModulePass]) -> str:
    """What a pass does: the first line of its file's docstring without "name:", else of its own, else nothing."""
    module = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "")
    text = module if module.startswith(f"{kind.name}:") else inspect.cleandoc(kind.__doc__ or "")
    line = text.split("\n", 1)[0].removeprefix(f"{kind.name}:").strip().rstrip(".")
    return "" if line.startswith(f"{kind.__name__}(") else line  # what a dataclass writes for itself
