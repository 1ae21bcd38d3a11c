"""`sofie info`: what is in a model, and what will come of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sofie.cli.options import MODEL, compiling, gathered
from sofie.cli.progress import progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sofie.info import Report, Tensor, Unsupported

NO_TERMINAL_WIDTH = 160
NAMED = 3
"""How many nodes are named that fail for the same reason."""


@click.command()
@MODEL
@click.option(
    "--json", "as_json", is_flag=True, help="Print the report as JSON; the keys are those of sofie.info.Report."
)
@compiling
def info(model: Path, as_json: bool, **given: Any) -> None:
    """Tell what is in MODEL, what it costs to run, and what is not supported.

    The exit status is 0 where this could be told, also of a model that cannot be compiled.
    """
    from sofie.info import info as look

    options = gathered(given)
    with progress(f"info {model.name}") as tell:
        report = look(model, options, tell)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        _show(report)


def _show(report: Report) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console = Console(width=NO_TERMINAL_WIDTH, soft_wrap=True)
    _lines(console, head(report))
    console.print(_table(report))
    _lines(console, tail(report))


def _lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False)


def head(report: Report) -> Iterator[str]:
    """The model with its inputs and outputs."""
    from sofie.errors import printable

    opsets = ", ".join(f"{printable(domain)} {version}" for domain, version in report.opsets.items())
    yield f"{'model':12}{report.model} ({opsets})"
    for title, tensors in (("input", report.inputs), ("output", report.outputs)):
        for k, tensor in enumerate(tensors):
            yield f"{title + 's' * (len(tensors) > 1) if k == 0 else '':12}{describe(tensor)}"


def describe(tensor: Tensor) -> str:
    """A tensor as `float32[batch, 7] features`."""
    from sofie.errors import printable

    shape = "?" if tensor.shape is None else ", ".join(printable(str(extent), 40) for extent in tensor.shape)
    return f"{tensor.type}[{shape}] {printable(tensor.name)}"


def tail(report: Report) -> Iterator[str]:
    """What it costs, and what stands in the way."""
    from sofie.cli.files import readable

    yield f"{'parameters':12}{report.parameters:,} in {readable(report.parameter_bytes)}"
    if report.flops is not None:
        yield f"{'work':12}{count(report.flops)}FLOP an inference"
    if report.bytes_moved is not None:
        yield f"{'traffic':12}{readable(report.bytes_moved)} at least: inputs, outputs and weights once"
    if report.kernels is not None and report.arena_bytes is not None and report.weight_file_bytes is not None:
        kernels = f"{report.kernels} kernel{'s' * (report.kernels != 1)}"
        memory = f"{readable(report.arena_bytes)} of scratch memory"
        yield f"{'compiled':12}{kernels} with {memory} and a weight file of {readable(report.weight_file_bytes)}"
    if report.unsupported:
        yield f"{'unsupported':12}{len(report.unsupported)} place{'s' * (len(report.unsupported) != 1)} in the model"
        yield from (f"  {line}" for line in grouped(report.unsupported))
    elif report.error is not None:
        yield f"{'compiled':12}no: {report.error}"


def grouped(unsupported: Iterable[Unsupported]) -> Iterator[str]:
    """One line for all nodes of an operator that fail for the same reason."""

    def key(place: Unsupported) -> tuple[str, str]:
        return place.operator, place.reason

    for (operator, reason), places in groupby(sorted(unsupported, key=key), key):
        names = [place.node for place in places]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield f"{operator or 'input'} {', '.join(names[:NAMED])}{more}: {reason}"


def _table(report: Report) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from sofie.cli.files import readable

    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    table.add_column("operator", overflow="fold")
    for title in ("nodes", "FLOP", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("supported")
    table.add_column("limits")
    for row in report.operators:
        flops = "-" if row.flops is None else count(row.flops).strip()
        moved = "-" if row.bytes is None else readable(row.bytes)
        style = "bold red" if row.flops is None and row.support != "lowering" else ""
        table.add_row(
            Text(row.operator), str(row.nodes), flops, moved, Text(row.support, style), Text(row.limits, "dim")
        )
    return table


def count(number: int) -> str:
    """A large number with the prefix of its unit: `3.6 G`.

    >>> count(999), count(45_200), count(999_999), count(3_633_040_360)
    ('999 ', '45.2 k', '1 M', '3.63 G')
    """
    value, prefix = float(number), ""
    for larger in ("k", "M", "G", "T", "P"):
        if value < 999.5:
            break
        value, prefix = value / 1000, larger
    return f"{value:.3g} {prefix}"
