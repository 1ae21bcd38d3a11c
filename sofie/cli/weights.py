"""`sofie weights`: the weight file of a retrained model for a header that is already compiled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sofie.cli.options import DEBUG_FLAG, INPUT, MODEL, gathered, generating, shaped
from sofie.cli.progress import progress

if TYPE_CHECKING:
    from sofie.compiler import Options


@click.command()
@MODEL
@click.option(
    "--for",
    "header",
    type=click.Path(path_type=Path),
    required=True,
    metavar="HEADER",
    help="The header, as in Model.hxx; it says with which options it was written.",
)
@click.option("--name", help="Which model of the header.  [default: the only one]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The weight file.  [default: NAME.dat beside the header, which is replaced]",
)
@INPUT
@DEBUG_FLAG
def weights(
    model: Path, header: Path, name: str | None, output: Path | None, shapes: list[tuple[str, list[int]]]
) -> None:
    """Write the weights of MODEL, a retrained one, for the code of a header: nothing is compiled again."""
    from sofie.cli.files import size
    from sofie.retrained import read_header, write_weights

    described = read_header(header, name)
    target = output or header.parent / f"{described.name}.dat"
    with progress(f"weights of {model.name}") as tell:
        count = write_weights(shaped(model, shapes), described, target, _options_of, tell)
    click.echo(f"{target}  {size(target)}  {count:,} weights for {header.name}")


@click.command()
@generating
def _options(shapes: list[tuple[str, list[int]]], **given: Any) -> Options:
    return gathered(given)


def _options_of(words: list[str]) -> Options:
    """The options that words of a command line mean."""
    options: Options = _options.main(words, standalone_mode=False)
    return options
