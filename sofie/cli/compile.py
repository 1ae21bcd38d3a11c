"""`sofie compile`: a model becomes a header and a weight file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sofie.cli.options import MODEL, compiling, gathered
from sofie.cli.progress import progress

if TYPE_CHECKING:
    from sofie.compiler import Generated
    from sofie.emit.cpp import Port


@click.command("compile")
@MODEL
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder to write to.",
)
@click.option("--name", help="Name of the files and the namespace.  [default: that of the model's file]")
@click.option(
    "--weights",
    type=click.Choice(["file", "embed"]),
    default="file",
    show_default=True,
    help="Put the weights beside the header or into it.",
)
@compiling
def compile_(model: Path, output: Path, name: str | None, weights: str, **given: Any) -> None:
    """Write MODEL as a C++ header and its weights."""
    from sofie.compiler import generate

    options = gathered(given)
    with progress(f"compile {model.name}") as tell:
        generated = generate(model, output, options, name, weights == "embed", tell)
    click.echo("\n".join(summary(generated)))


def summary(generated: Generated) -> list[str]:
    """What was written, what it computes and how C++ calls it."""
    from sofie.cli.files import readable, size

    program = generated.program
    calls = program.kernel_calls
    kernels = f"{calls} kernel{'s' * (calls != 1)}"
    return [
        *_column("wrote", [f"{p}  {size(p)}" for p in (generated.header, generated.data) if p is not None]),
        *_column("inputs" if len(program.inputs) != 1 else "input", map(describe, program.inputs)),
        *_column("outputs" if len(program.outputs) != 1 else "output", map(describe, program.outputs)),
        *_column("runs", [f"{kernels} with {readable(program.arena_bytes)} of scratch memory"]),
        "",
        *(f"    {line}" for line in usage(generated)),
    ]


def _column(title: str, rows: Iterable[str]) -> list[str]:
    return [f"{title if k == 0 else '':8}{row}" for k, row in enumerate(rows)]


def describe(port: Port) -> str:
    """A port as `float32[1, 7] features`."""
    from sofie.errors import printable

    return f"{port.dtype}[{', '.join(map(str, port.shape))}] {printable(port.name)}"


def usage(generated: Generated) -> list[str]:
    """The three lines of C++ that use what was generated."""
    program = generated.program
    weights = f'("{generated.data.name}")' if generated.data is not None else ""
    results = ", ".join(p.parameter for p in program.outputs)
    results = f"[{results}]" if len(program.outputs) > 1 else results
    arguments = [*program.sizes.values(), *(p.parameter for p in program.inputs)]
    return [
        f'#include "{generated.header.name}"',
        f"SOFIE_{program.name}::Session session{weights};",
        f"auto {results} = session.infer({', '.join(arguments)});",
    ]
