"""`sofie package`: a model as a shared library with a C interface, and as a wheel that needs numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sofie.cli.options import MODEL, compiling_for_others, gathered, shaped
from sofie.cli.progress import progress


@click.command()
@MODEL
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder to write to: include, lib, and the wheel.",
)
@click.option("--name", help="Name of the library, of its functions and of the Python module.  [default: the file's]")
@click.option("--version", default="1.0", show_default=True, help="Version of the package.")
@compiling_for_others
def package(
    model: Path, output: Path, name: str | None, version: str, shapes: list[tuple[str, list[int]]], **given: Any
) -> None:
    """Write MODEL as a shared library for C, C++, Julia, Fortran, Rust, ..., and as a wheel for Python."""
    from sofie.cli.files import size
    from sofie.compiler import default_name
    from sofie.package import package as make

    options = gathered(given)
    with progress(f"package {model.name}") as tell:
        made = make(shaped(model, shapes), output, options, name or default_name(model), version, tell)
    for path in made.files:
        click.echo(f"{path}  {size(path)}")
