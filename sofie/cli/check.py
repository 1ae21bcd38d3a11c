"""`sofie check`: is the compiled code right?"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sofie.cli.failure import FAILED
from sofie.cli.options import MODEL, compiling, gathered
from sofie.cli.progress import progress

if TYPE_CHECKING:
    from rich.table import Table

    from sofie.check import OutputReport, Report

NO_TERMINAL_WIDTH = 160


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
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@compiling
def check(model: Path, source: Path | None, seed: int, samples: int, as_json: bool, **given: Any) -> None:
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
        report = compare(model, options, feeds=arrays, seed=seed, samples=samples, progress=tell)
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
    console.print(_table(report))
    console.print(
        f"on {drawn}; truth: {report.truth}; ORT: onnxruntime {report.runtime}", markup=False, highlight=False
    )
    wrong = [o.name for o in report.outputs if not o.agrees]
    verdict = "every output agrees" if not wrong else f"{len(wrong)} of {len(report.outputs)} outputs disagree"
    console.print(verdict, style="bold red" if wrong else "bold green", highlight=False)


def _table(report: Report) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    table.add_column("output", overflow="fold")
    for title in ("error", "relative", "ULP", "allowed", "ORT's", "reference's"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict")
    for output in report.outputs:
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
