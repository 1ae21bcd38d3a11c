"""`sofie apply`: a model on the rows of files, in chunks, on all cores or on a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from sofie.batch import CHUNK
from sofie.cli.options import MODEL, compiling, gathered
from sofie.cli.progress import bar, progress


def _columns(
    ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, list[str]] | list[str] | None:
    """Columns from `pt,eta`, or by input from `x=pt,eta`."""
    if not given:
        return None
    plain = [words for words in given if "=" not in words]
    if plain and len(given) > 1:
        raise click.UsageError(f"--columns {plain[0]}: with several, each names its input, as in x={plain[0]}", ctx)
    if plain:
        return _names(plain[0])
    found: dict[str, list[str]] = {}
    for words in given:
        name, _, columns = words.rpartition("=")  # a name from a model may hold "="
        if name in found:
            raise click.UsageError(f"--columns {name}= is given twice", ctx)
        found[name] = _names(columns)
    return found


def _keep(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[str]:
    return [name for words in given for name in _names(words)]


def _names(words: str) -> list[str]:
    return [name.strip() for name in words.split(",") if name.strip()]


@click.command("apply")
@MODEL
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="What to write: .parquet (also without a suffix), .root, .csv, .h5 or .npz.",
)
@click.option(
    "--columns",
    multiple=True,
    callback=_columns,
    metavar="[INPUT=]A,B",
    help="Columns that make the model's input, in order; of several inputs, one option each.  [default: of its name]",
)
@click.option("--keep", multiple=True, callback=_keep, metavar="A,B", help="Columns to copy to the output.")
@click.option(
    "--pad",
    type=float,
    default=0.0,
    show_default=True,
    help="What a list that is shorter than the model's input is filled up with; one that is longer is cut.",
)
@click.option("--missing", type=float, help="What stands for missing values and for NaN.  [default: NaN]")
@click.option(
    "--chunk", type=click.IntRange(1), default=CHUNK, show_default=True, metavar="ROWS", help="Rows done at a time."
)
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Threads that run the model.  [default: all cores]")
@click.option("--force", is_flag=True, help="Overwrite the output, and parts that another run has left.")
@click.option(
    "--scheduler", default="", metavar="ADDRESS", help="Run on the workers of a Dask scheduler: tcp://HOST:PORT."
)
@click.option(
    "--parts",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the parts; with --scheduler, one that all workers see and write to.  [default: OUTPUT.parts]",
)
@compiling
def apply(
    model: Path,
    inputs: tuple[str, ...],
    output: str,
    columns: dict[str, list[str]] | list[str] | None,
    keep: list[str],
    pad: float,
    missing: float | None,
    chunk: int,
    jobs: int | None,
    force: bool,
    scheduler: str,
    parts: Path | None,
    **given: Any,
) -> None:
    """Run MODEL on the rows of files: events.root:tree, .parquet, .csv, .h5[:group] or .npz.

    Rows keep their order. A run that was stopped goes on when the same command is given again.
    """
    from sofie.batch.columns import Rules
    from sofie.batch.files import Request, apply_files

    rules = Rules(pad, missing)
    request = Request(
        model, inputs, output, gathered(given), columns, keep, rules, chunk, jobs or 0, force, scheduler, parts
    )
    start = time.perf_counter()
    with ExitStack() as compilation:
        tell = compilation.enter_context(progress(f"compile {model.name}"))

        @contextmanager
        def watch(total: int, there: int) -> Iterator[Callable[[int], None]]:
            compilation.close()  # one line at a time
            with bar(f"apply {model.name}", total, there) as heard:
                yield heard

        done = apply_files(request, watch, tell)
    seconds = time.perf_counter() - start
    names = ", ".join(done.columns[:8]) + (", ..." if len(done.columns) > 8 else "")
    resumed = f", {done.resumed:,} of {done.chunks:,} chunks were there" if done.resumed else ""
    click.echo(f"{done.output}  {done.rows:,} rows in {seconds:.1f} s{resumed}: {names}")
