"""`sofie compile`: a model becomes a header and a weight file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sofie.cli.options import gathered, generating, shaped
from sofie.cli.progress import progress

if TYPE_CHECKING:
    from sofie.compiler import Generated, Options
    from sofie.emit.cpp import Program
    from sofie.emit.ports import Port


def _seconds(ctx: click.Context, parameter: click.Parameter, given: str | None) -> float | None:
    """Seconds from `30s`, `1.5m` or `45`."""
    if given is None:
        return None
    number, unit = (given[:-1], given[-1]) if given[-1:] in ("s", "m") else (given, "s")
    try:
        seconds = float(number) * (60 if unit == "m" else 1)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise click.UsageError(f"--tune {given}: a time is a number of seconds or minutes, as in --tune 30s", ctx)
    return seconds


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
@click.option(
    "--tune",
    metavar="TIME",
    callback=_seconds,
    help="Measure choices of passes on this machine for so long, as in 30s or 5m, and compile with the fastest.",
)
@generating
def compile_(
    models: tuple[Path, ...],
    output: Path,
    name: str | None,
    weights: str,
    cmake: bool,
    profile: bool,
    tune: float | None,
    shapes: list[tuple[str, list[int]]],
    **given: Any,
) -> None:
    """Write MODEL as a C++ header and its weights; several models share one header, a namespace each."""
    from sofie.compiler import default_name, generate, generate_together

    options, embed = gathered(given), weights == "embed"
    if shapes and len(models) > 1:
        raise click.UsageError("--input takes one model: compile each alone")
    if tune is not None:
        options = _tuned(models, options, tune)
    with progress(f"compile {', '.join(m.name for m in models)}") as tell:
        if len(models) == 1:
            source, called = shaped(models[0], shapes), name or default_name(models[0])
            made = [generate(source, output, options, called, embed, tell, cmake, profile)]
        else:
            made = generate_together(models, output, options, name or "models", embed, tell, cmake, profile)
    for line in summary(made):
        click.echo(line)


def _tuned(models: Sequence[Path], options: Options, seconds: float) -> Options:
    """The options with the choices that were fastest; says what they are."""
    from sofie.errors import SofieError
    from sofie.tuning import applied, tune

    if options.target != "cpu":
        raise SofieError(f"--tune is for CPUs; leave it out with --target {options.target}")
    if len(models) > 1:
        raise SofieError("--tune takes one model: tune each alone, and give its --pipeline where they are compiled")
    with progress(f"tune {models[0].name}") as tell:
        found = tune(models[0], options, seconds, tell)
    words = f"{found.ratio:.2f} of the default's time: {found.setting.words}"
    click.echo(f"{'tuned':8}{words if found.setting.words else 'nothing was faster than the default'}")
    return applied(options, found.setting)


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
        *_compiles(made[0].program),
    ]


def _compiles(program: Program) -> list[str]:
    """The compiler of a GPU, which is not everybody's."""
    from sofie.emit.cuda import CudaProgram

    if not isinstance(program, CudaProgram):
        return []
    ending = {"cuda": "cu", "hip": "hip"}[program.target]
    return ["", f"    {program.compiles} main.{ending}"]


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
