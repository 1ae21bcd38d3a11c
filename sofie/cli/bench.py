"""`sofie bench`: how fast a model runs on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sofie.cli.options import MODEL, compiling, gathered
from sofie.cli.progress import progress

if TYPE_CHECKING:
    from rich.table import Table

    from sofie.bench.profile import KernelTime
    from sofie.bench.report import Report

NO_TERMINAL_WIDTH = 160


@click.command()
@MODEL
@click.option("--vs", "versus", type=click.Choice(["onnxruntime"]), help="Time ONNX Runtime's C API beside it.")
@click.option("--profile", "profiled", is_flag=True, help="Show the time of each kernel beside its floor.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="How many turns each system gets."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the report as JSON; the keys are those of sofie.bench.report.Report."
)
@compiling
def bench(model: Path, versus: str | None, profiled: bool, rounds: int, as_json: bool, **given: Any) -> None:
    """Time MODEL on random inputs, on one core, beside the floor that the core's own speed sets.

    Its header is compiled with -O3 -march=native; sizes that are left to the run are the largest.
    """
    from sofie.bench.report import bench as measure

    options = gathered(given)
    with progress(f"bench {model.name}") as tell:
        report = measure(model, options, [versus] if versus else [], rounds, profiled, tell)
    if as_json:
        click.echo(json.dumps(asdict(report), indent=2))
        return
    for line in lines(report):
        click.echo(line)
    if report.kernels:
        _show(report.kernels)


def lines(report: Report) -> Iterator[str]:
    """Times, ratio and floor."""
    from sofie.cli.files import readable
    from sofie.cli.info import count

    sizes = "".join(f", {name}={size}" for name, size in report.sizes.items())
    yield f"{'model':12}{report.model}{sizes}"
    for system, us in report.us.items():
        yield f"{system:12}{microseconds(us)} a call"
    if report.ratio is not None:
        yield f"{'ratio':12}{report.ratio:.2f} of onnxruntime's time"
    what = f"{count(report.flops)}FLOP at {report.peak:.0f} GFLOP/s" if report.bound == "flops" else ""
    what = what or f"{readable(report.bytes)} of inputs, outputs and weights, read once"
    yield f"{'floor':12}{microseconds(report.floor_us)}: {what}"
    yield f"{'distance':12}{report.us['sofie'] / report.floor_us:.2f} times the floor"


def microseconds(us: float) -> str:
    """A time as people read it.

    >>> microseconds(0.3364), microseconds(42.19), microseconds(12345.6)
    ('0.336 us', '42.2 us', '12,346 us')
    """
    return f"{us:,.0f} us" if us >= 1000 else f"{us:.3g} us"


def _show(kernels: tuple[KernelTime, ...]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console = Console(width=NO_TERMINAL_WIDTH, soft_wrap=True)
    console.print(_table(kernels))


def _table(kernels: tuple[KernelTime, ...]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from sofie.cli.files import readable
    from sofie.cli.info import count
    from sofie.errors import printable

    total = sum(kernel.us for kernel in kernels) or 1.0
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for title in ("us", "share", "floor us", "x floor", "calls", "FLOP", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    table.add_column("nodes", overflow="fold")
    for kernel in kernels:
        floor = kernel.floor.us
        table.add_row(
            f"{kernel.us:.3g}" if kernel.us < 1000 else f"{kernel.us:.0f}",
            f"{kernel.us / total:.1%}",
            f"{floor:.3g}",
            f"{kernel.us / floor:.1f}" if floor > 0 else "-",
            f"{kernel.calls:g}",
            count(kernel.call.work.flops).strip(),
            readable(kernel.call.work.bytes),
            Text(kernel.call.kernel),
            Text(printable(kernel.call.nodes, 120), "dim"),
        )
    return table
