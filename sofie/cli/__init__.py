"""The command `sofie`: each command is a file here, and every failure is one sentence on stderr."""

from __future__ import annotations

import sys
from importlib import resources
from typing import Any

import click

import sofie
from sofie.cli.apply import apply
from sofie.cli.bench import bench
from sofie.cli.check import check
from sofie.cli.compile import compile_
from sofie.cli.demo import demo
from sofie.cli.failure import FAILED, MISUSED, report
from sofie.cli.info import info
from sofie.cli.options import DEBUG, DEBUG_FLAG
from sofie.cli.package import package
from sofie.cli.passes import passes
from sofie.cli.quantize import quantize
from sofie.cli.run import run
from sofie.cli.weights import weights


class Sofie(click.Group):
    """A group whose commands fail in one sentence: status 1, and 2 for a command line that is not understood."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; raises only click's own exceptions."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.UsageError, click.Abort, SystemExit, BrokenPipeError):
            raise
        except BaseException as error:  # xDSL's on a malformed pipeline is no Exception
            raise click.exceptions.Exit(report("sofie", error, ctx.meta.get(DEBUG, False))) from error

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's, with usage errors in one line."""
        try:
            status = super().main(*args, **(extra | {"standalone_mode": False}))
        except click.UsageError as error:
            sys.exit(_misused(error))
        except click.Abort:
            sys.exit(FAILED)
        sys.exit(status if isinstance(status, int) else 0)


def _misused(error: click.UsageError) -> int:
    command = error.ctx.command_path if error.ctx is not None else "sofie"
    message = " ".join(error.format_message().split()).rstrip(".")
    print(f"{command}: {message}; see {command} --help", file=sys.stderr)
    return MISUSED


def _tell_cmake(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    """Prints where sofieConfig.cmake is, and exits."""
    if given:
        click.echo(resources.files("sofie").joinpath("share", "cmake", "sofie"))
        ctx.exit()


@click.group("sofie", cls=Sofie, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(sofie.__version__, message="sofie %(version)s")
@click.option(
    "--cmakedir",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_tell_cmake,
    help="Print the folder for CMake's sofie_DIR.",
)
@DEBUG_FLAG
@click.pass_context
def main(ctx: click.Context) -> None:
    """Lower an ONNX model, level by level and in the open, to plain C++ that runs as fast as the machine allows."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for command in (compile_, package, weights, quantize, run, apply, check, bench, info, demo, passes):
    main.add_command(command)
