"""`sofie run`: a model on arrays from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sofie.cli.options import MODEL, compiling, gathered
from sofie.cli.progress import progress


@click.command()
@MODEL
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help=".npz with the inputs by name, or .npy for the only one.",
)
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help=".npz for the outputs by name, or .npy for the only one.",
)
@compiling
def run(model: Path, source: Path, target: Path, **given: Any) -> None:
    """Run MODEL on the arrays of a file; their shapes bind its free dimensions."""
    from sofie import feeds
    from sofie.cli.compile import describe
    from sofie.cli.files import write_arrays
    from sofie.compiler import compile_model, default_name
    from sofie.frontends.onnx import read_model

    options = gathered(given)
    with progress(f"run {model.name}") as tell:
        proto = read_model(model, options.dims, options.values)
        arrays = feeds.read(source, feeds.names_of_inputs(proto.graph, options.values))
        options = feeds.bind(options, proto.graph, arrays)
        compiled = compile_model(proto, options, default_name(model), tell)
        results = compiled.run(arrays)
    write_arrays(target, results)
    for port in compiled.outputs:
        click.echo(f"{target}  {describe(port)}")
