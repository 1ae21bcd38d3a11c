"""`sofie quantize`: a model of floats becomes one of integers, and what that costs, layer by layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sofie.cli.options import DEBUG_FLAG, DIM, MODEL, SET
from sofie.cli.progress import progress

if TYPE_CHECKING:
    from rich.console import Console

    from sofie.quantization.process import Quantized

NO_TERMINAL_WIDTH = 160
DATA = click.Path(path_type=Path, dir_okay=False)


def _names(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.strip() for words in given for name in words.split(",") if name.strip())


@click.command("quantize")
@MODEL
@click.option("--data", type=DATA, metavar="FILE", help=".npz with inputs by name, rows along axis 0, to calibrate on.")
@click.option("-o", "--output", type=DATA, required=True, metavar="FILE", help="The ONNX model to write.")
@click.option(
    "--weights", default="int8", show_default=True, metavar="TYPE", help="int8, int7 or, for weights alone, int4."
)
@click.option(
    "--activations", default="uint8", show_default=True, metavar="TYPE", help="uint8, int8, or none: only weights."
)
@click.option(
    "--calibrate",
    default="percentile",
    show_default=True,
    metavar="METHOD",
    help="How ranges follow from the data: minmax, percentile, entropy or mse.",
)
@click.option("--percentile", default=99.99, show_default=True, help="Of the values that a range covers, in percent.")
@click.option("--block", default=64, show_default=True, help="Weights of 4 bits that share a scale.")
@click.option("--equalize", is_flag=True, help="Scale channels across layers first, so that they spread alike.")
@click.option("--leave", multiple=True, callback=_names, metavar="A,B", help="Nodes that stay in float.")
@click.option("--snr", default=0.0, metavar="DB", help="Leave the layers in float that cost outputs more than this.")
@click.option("--test", type=DATA, metavar="FILE", help="Data to measure on.  [default: those of --data]")
@click.option("--metric", default="", metavar="NAME", help="Of the first output: auc or accuracy.")
@click.option("--labels", default="labels", show_default=True, metavar="NAME", help="The array of right answers.")
@DIM
@SET
@DEBUG_FLAG
def quantize(
    model: Path,
    data: Path | None,
    output: Path,
    test: Path | None,
    metric: str,
    labels: str,
    dims: dict[str, int | tuple[int, int]],
    values: dict[str, object],
    **asked: Any,
) -> None:
    """Write MODEL with integers of 8, 7 or 4 bits, as QDQ ONNX, and say what they cost.

    The table shows the signal-to-noise ratio of each layer's result in the quantised model.
    """
    from sofie.feeds import read
    from sofie.files import write
    from sofie.quantization.process import Measuring, quantize_model
    from sofie.quantization.scheme import Scheme

    scheme = Scheme(**asked)
    arrays, measured = (None if path is None else read(path, ["data"]) for path in (data, test))
    with progress(f"quantize {model.name}"):
        made = quantize_model(model, arrays, scheme, dims, values, Measuring(measured, metric, labels))
    write(output, made.serialized())
    _show(made, output)


def _show(made: Quantized, output: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sofie.cli.files import readable
    from sofie.errors import printable

    console = Console()
    if not console.is_terminal:
        console = Console(width=NO_TERMINAL_WIDTH)
    table = Table(box=SIMPLE_HEAD, collapse_padding=True)
    for title in ("layer", "operator", "weights"):
        table.add_column(title, overflow="fold")
    table.add_column("SNR", justify="right", no_wrap=True)
    for layer in made.layers:
        table.add_row(Text(printable(layer.name, 60)), layer.operator, layer.weights, decibels(layer.snr))
    console.print(table)
    _tell(console, f"{'size':10}{readable(made.before)} before, {readable(made.after)} after")
    if made.metric is not None:
        metric = made.metric
        lost = metric.before - metric.after
        _tell(console, f"{metric.name:10}{metric.before:.6f} before, {metric.after:.6f} after, {lost:+.6f} lost")
    for name, ratio in made.outputs.items():
        _tell(console, f"{'output':10}{printable(name)}: {decibels(ratio)}")
    _tell(console, str(output))


def _tell(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False)


def decibels(ratio: float | None) -> str:
    """A signal-to-noise ratio as people read it.

    >>> decibels(32.35), decibels(float("inf")), decibels(None)
    ('32.4 dB', 'exact', '-')
    """
    if ratio is None:
        return "-"
    return f"{ratio:.1f} dB" if math.isfinite(ratio) else "exact" if ratio > 0 else "nothing left"
