"""`sofie check`: is the compiled code right?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sofie.cli.failure import FAILED
from sofie.cli.options import MODEL, compiling, gathered
from sofie.cli.progress import progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sofie.bisect import Finding
    from sofie.check import Report
    from sofie.verdict import OutputReport

NO_TERMINAL_WIDTH = 160
IR_LINES = 60
"""How much of a level's IR is shown; --json has all of it."""


@click.command()
@MODEL
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=".npz with the inputs by name, or .npy for the only one.  [default: random]",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random inputs.")
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="How many random inputs.")
@click.option("--bisect", is_flag=True, help="Where outputs disagree, find the first wrong node and show its IR.")
@click.option("--all", "intermediates", is_flag=True, help="Compare every intermediate value too; implies --bisect.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@compiling
def check(
    model: Path,
    source: Path | None,
    seed: int,
    samples: int,
    bisect: bool,
    intermediates: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Compare the compiled MODEL with onnx.reference and ONNX Runtime.

    The exit status is 1 where an output is farther from the float64 truth than it may be.
    """
    from sofie import feeds
    from sofie.check import check as compare
    from sofie.frontends.onnx import read_model

    options = gathered(given)
    with progress(f"check {model.name}") as tell:
        arrays = None
        if source is not None:
            arrays = feeds.read(source, feeds.names_of_inputs(read_model(model).graph, options.values))
        report = compare(
            model,
            options,
            feeds=arrays,
            seed=seed,
            samples=samples,
            progress=tell,
            bisect=bisect,
            intermediates=intermediates,
        )
    if as_json:
        click.echo(json.dumps(plain(asdict(report) | {"agrees": report.agrees}), indent=2))
    else:
        _show(report)
    if not report.agrees:
        raise click.exceptions.Exit(FAILED)


def plain(value: Any) -> Any:
    """`value` with what JSON cannot hold as text: "inf", "nan", run-time sizes."""
    from sofie.sizes import Size

    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    unspeakable = isinstance(value, Size) or (isinstance(value, float) and not math.isfinite(value))
    return str(value) if unspeakable else value


def _show(report: Report) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=NO_TERMINAL_WIDTH)
    plural = "s" * (report.samples != 1)
    drawn = "the given inputs" if report.seed is None else f"{report.samples} random sample{plural}, seed {report.seed}"
    if report.intermediates:
        rows = [(v.value, v.report, v.reason) for v in report.intermediates]
        console.print(_table("value, with all of them stored", rows))
    console.print(_table("output", [(o.name, o, "") for o in report.outputs]))
    console.print(
        f"on {drawn}; truth: {report.truth}; ORT: onnxruntime {report.runtime}", markup=False, highlight=False
    )
    if report.first is not None:
        _show_finding(console, report.first)
    for verdict, fine in _verdicts(report):
        console.print(verdict, style="bold green" if fine else "bold red", highlight=False)


def _verdicts(report: Report) -> Iterator[tuple[str, bool]]:
    """The last lines, and whether they are good news."""
    if report.intermediates:
        judged = [v for v in report.intermediates if v.report is not None]
        wrong = sum(not v.agrees for v in judged)
        unknown = len(report.intermediates) - len(judged)
        left = f"; nothing judges {unknown} more" if unknown else ""
        verdict = f"{wrong} of {len(judged)} values disagree" if wrong else f"all {len(judged)} values agree"
        yield verdict + left, not wrong
    wrong = sum(not o.agrees for o in report.outputs)
    yield (f"{wrong} of {len(report.outputs)} outputs disagree" if wrong else "every output agrees"), not wrong


def _show_finding(console: Console, first: Finding) -> None:
    from sofie.errors import printable

    def tell(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    tell(f"first node outside the rule: {first.node!r} ({first.operator})", "bold red")
    shown = f"  value {printable(first.value, 40)}: error {_number(first.error)}, allowed {_number(first.allowed)}"
    if first.index is not None:
        shown += f"; at {list(first.index)} ours {first.ours!r}, truth {first.truth!r}, ORT {first.runtime!r}"
    tell(shown)
    if first.note:
        tell(f"  {first.note}")
    for level in first.levels:
        joined = f", joined with {', '.join(level.joined)}" if level.joined else ""
        tell(f"-- {level.level} level{joined}", "bold")
        lines = level.text.splitlines() or ["nothing of it is left here"]
        for line in lines[:IR_LINES]:
            tell(line if len(line) <= NO_TERMINAL_WIDTH else f"{line[: NO_TERMINAL_WIDTH - 1]}…")
        if len(lines) > IR_LINES:
            tell(f"... and {len(lines) - IR_LINES} more lines")


def _table(title: str, rows: Iterable[tuple[str, OutputReport | None, str]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from sofie.errors import printable

    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    table.add_column(title, overflow="fold")
    for heading in ("error", "relative", "ULP", "allowed", "ORT's", "reference's"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for name, output, reason in rows:
        if output is None:
            table.add_row(Text(printable(name, 40)), *["-"] * 6, Text(f"not judged: {reason}", "yellow"))
            continue
        verdict = Text("agrees", "green") if output.agrees else Text("disagrees", "bold red")
        table.add_row(*map(Text, _row(output)), verdict + Text(f": {output.note}" if output.note else ""))
    return table


def _row(output: OutputReport) -> list[str]:
    from sofie.errors import printable

    shape = ", ".join(map(str, output.shape))
    others = (output.allowed, output.runtime, output.reference)
    return [
        f"{printable(output.name, 40)} {output.dtype}[{shape}]",
        _number(output.error),
        _number(output.relative),
        f"{output.ulp:.1f}",
        *("-" if e is None else _number(e) for e in others),
    ]


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"
