"""`sofie compile`: a model becomes a header and a weight file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sofie.cli.options import gathered, generating
from sofie.cli.progress import progress

if TYPE_CHECKING:
    from sofie.compiler import Generated
    from sofie.emit.cpp import Program
    from sofie.emit.ports import Port


@click.command("compile")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder to write to.",
)
@click.option(
    "--name", help="Name of the header, and of a single model.  [default: that of the model's file, or models]"
)
@click.option(
    "--weights",
    type=click.Choice(["file", "embed"]),
    default="file",
    show_default=True,
    help="Put the weights beside the header or into it.",
)
@click.option("--cmake", is_flag=True, help="Write a CMake target beside the header.")
@click.option("--profile", is_flag=True, help="Let a session count the time of each kernel: see session.profile().")
@generating
def compile_(
    models: tuple[Path, ...],
    output: Path,
    name: str | None,
    weights: str,
    cmake: bool,
    profile: bool,
    **given: Any,
) -> None:
    """Write MODEL as a C++ header and its weights; several models share one header, a namespace each."""
    from sofie.compiler import generate, generate_together

    options, embed = gathered(given), weights == "embed"
    with progress(f"compile {', '.join(m.name for m in models)}") as tell:
        if len(models) == 1:
            made = [generate(models[0], output, options, name, embed, tell, cmake, profile)]
        else:
            made = generate_together(models, output, options, name or "models", embed, tell, cmake, profile)
    for line in summary(made):
        click.echo(line)


def summary(made: Sequence[Generated]) -> list[str]:
    """What was written, what it computes and how C++ calls it."""
    from sofie.cli.files import size

    files = [made[0].header, *(g.data for g in made), made[0].cmake]
    return [
        *_column("wrote", [f"{p}  {size(p)}" for p in files if p is not None]),
        *(line for g in made for line in [*([f"\n{g.program.name}"] if len(made) > 1 else []), *_computes(g.program)]),
        "",
        f'    #include "{made[0].header.name}"',
        *(f"    {line}" for g in made for line in usage(g)),
    ]


def _computes(program: Program) -> list[str]:
    from sofie.cli.files import readable

    calls = program.kernel_calls
    kernels = f"{calls} kernel{'s' * (calls != 1)}"
    return [
        *_column("inputs" if len(program.inputs) != 1 else "input", map(describe, program.inputs)),
        *_column("outputs" if len(program.outputs) != 1 else "output", map(describe, program.outputs)),
        *_column("runs", [f"{kernels} with {readable(program.arena_bytes)} of scratch memory"]),
    ]


def _column(title: str, rows: Iterable[str]) -> list[str]:
    return [f"{title if k == 0 else '':8}{row}" for k, row in enumerate(rows)]


def describe(port: Port) -> str:
    """A port as `float32[1, 7] features`."""
    from sofie.errors import printable

    return f"{port.dtype}[{', '.join(map(str, port.shape))}] {printable(port.name)}"


def usage(generated: Generated) -> list[str]:
    """The two lines of C++ that use a model."""
    program = generated.program
    weights = f'("{generated.data.name}")' if generated.data is not None else ""
    names = [name for p in program.outputs for name in (p.parameter, p.found) if name]
    results = f"[{', '.join(names)}]" if len(names) > 1 else names[0]
    arguments = [*program.sizes.values(), *(p.parameter for p in program.inputs)]
    return [
        f"SOFIE_{program.name}::Session session{weights};",
        f"auto {results} = session.infer({', '.join(arguments)});",
    ]
