"""The options that commands share, and how the words of the command line become values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import onnx

    from sofie.compiler import Options

Command = TypeVar("Command", bound=Callable[..., Any])

DEBUG = "sofie.debug"
CPUS = (
    *("multi", "native", "x86-64-v2", "x86-64-v3", "x86-64-v3-vnni", "x86-64-v4", "x86-64-v4-vnni"),
    *("aarch64", "portable", "scalar"),
)
DEFAULT_PIPELINE = "fuse,lower"


def dims(pairs: Iterable[str]) -> dict[str, int | tuple[int, int]]:
    """Sizes from `batch=1` and `input:0=1`, bounds from `batch=1..64`; raises ValueError, in one sentence.

    >>> dims(["batch=1", "x:0=1..64"])
    {'batch': 1, 'x:0': (1, 64)}
    """
    sizes: dict[str, int | tuple[int, int]] = {}
    for key, text in _pairs(pairs, "--dim", "batch=1"):
        low, dots, high = text.partition("..")
        try:
            sizes[key] = (int(low), int(high)) if dots else int(text)
        except ValueError:
            raise ValueError(
                f"--dim {key}={text}: a size is a whole number, as in --dim {key}=1, or bounds, as in --dim {key}=1..64"
            ) from None
    return sizes


def values(pairs: Iterable[str]) -> dict[str, object]:
    """Values from `sr=16000`, `axes=1,2` and `train=false`; raises ValueError, in one sentence.

    >>> values(["sr=16000", "scales=1,2.5", "train=false"])
    {'sr': 16000, 'scales': [1, 2.5], 'train': False}
    """
    return {
        key: [_value(key, part) for part in text.split(",")] if "," in text else _value(key, text)
        for key, text in _pairs(pairs, "--set", "sr=16000")
    }


def _pairs(pairs: Iterable[str], option: str, example: str) -> Iterable[tuple[str, str]]:
    seen: set[str] = set()
    for pair in pairs:
        key, equals, text = pair.rpartition("=")  # a name from a model may hold "=", a value never does
        if not key or not equals:
            raise ValueError(f"{option} {pair}: write a name and a value, as in {option} {example}")
        if key in seen:
            raise ValueError(f"{option} {key} is given twice")
        seen.add(key)
        yield key, text.strip()


def _value(key: str, text: str) -> object:
    words: dict[str, object] = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise ValueError(f"--set {key}: {text!r} is no number, true or false")


def _parsed(parse: Callable[[Iterable[str]], Any]) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], Any]:
    def callback(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> Any:
        try:
            return parse(given)
        except ValueError as error:
            raise click.UsageError(str(error), ctx) from error

    return callback


def _remember_debug(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    ctx.meta[DEBUG] = ctx.meta.get(DEBUG, False) or given


MODEL = click.argument("model", type=click.Path(path_type=Path))
DIM = click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=N",
    callback=_parsed(dims),
    help="Size of a free dimension, by its name or as INPUT:AXIS; 1..64 leaves it to the run; repeatable.",
)
SET = click.option(
    "--set",
    "values",
    multiple=True,
    metavar="INPUT=VALUE",
    callback=_parsed(values),
    help="Turn an input into a constant: a number, a comma-separated list, true or false; repeatable.",
)
BLAS = click.option(
    "--blas",
    type=click.Choice(["none", "cblas"]),
    default="none",
    show_default=True,
    help="Library for matrix products.",
)
REPRODUCIBLE = click.option(
    "--reproducible", is_flag=True, help="The same bits on every CPU, by every compiler and optimisation level."
)
THREADS = click.option("--threads", type=int, default=1, show_default=True, help="Threads that run a large kernel.")
PIPELINE = click.option(
    "--pipeline",
    "passes",
    default=DEFAULT_PIPELINE,
    show_default=True,
    metavar="SPEC",
    help="Groups and passes, comma-separated, options in braces; see `sofie passes`.",
)
WITHOUT = click.option("--without", multiple=True, metavar="PASS", help="Leave an optional pass out; repeatable.")
DEBUG_FLAG = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)


def _cpu(default: str) -> Callable[[Command], Command]:
    return click.option(
        "--cpu",
        type=click.Choice(CPUS),
        default=default,
        show_default=True,
        help="Instruction set to write for; multi: x86-64 v2, v3 and v4 in one header, and VNNI for bytes.",
    )


TARGET = click.option(
    "--target",
    type=click.Choice(["cpu", "cuda", "hip"]),
    default="cpu",
    show_default=True,
    help="Write C++ for CPUs or, for GPUs, CUDA as a .cuh or HIP as a .hip.hxx.",
)
ARCH = click.option(
    "--arch",
    default="",
    metavar="ARCH",
    help="The GPU to compile for, as in sm_90 or gfx90a.  [default: the machine's]",
)

PRECISION = click.option(
    "--precision",
    type=click.Choice(["float32", "tf32x3", "tf32", "bf16", "fp16"]),
    default="float32",
    show_default=True,
    help="What large products on a GPU are computed in, all but float32 by tensor cores; tf32x3 is as accurate.",
)


def _variables(ctx: click.Context, parameter: click.Parameter, given: str | None) -> object:
    from sofie.frontends.variables import read_variables

    return {} if given is None else read_variables(given)


VARIABLES = click.option(
    "--variables",
    metavar="FILE",
    callback=_variables,
    help="JSON with the names of the inputs' variables, their offset, scale and default for NaN, as lwtnn has it.",
)


def _shapes(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[tuple[str, list[int]]]:
    """Types and extents from `1x7` and `int64:2x60`."""
    shapes = []
    for text in given:
        kind, _, extents = text.rpartition(":")
        if not re.fullmatch(r"[0-9]+(x[0-9]+)*", extents) or kind not in ("", *TYPES):
            raise click.UsageError(f"--input {text}: write a shape, as in --input 1x7 or --input int64:2x60", ctx)
        shapes.append((kind or "float32", [int(extent) for extent in extents.split("x")]))
    return shapes


TYPES = ("float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool")
INPUT = click.option(
    "--input",
    "shapes",
    multiple=True,
    metavar="SHAPE",
    callback=_shapes,
    help="For TorchScript (.pt), the shape of each input in turn, as in 1x7 or int64:2x60; repeatable.",
)


def shaped(model: Path, shapes: list[tuple[str, list[int]]]) -> Path | onnx.ModelProto:
    """The model of a file for which the shapes of inputs were given, read; any other file as it is."""
    if not shapes:
        return model
    if model.suffix.lower() != ".pt":
        raise click.UsageError(f"--input is for TorchScript, and {model.name} is none: leave it out")
    from sofie.frontends.torch import read_script

    return read_script(model, shapes)


def compiling(command: Command, cpu: str = "native") -> Command:
    """The options of every command that compiles a model; they arrive as `dims`, `values`, `cpu`, ..."""
    for option in reversed((DIM, SET, _cpu(cpu), BLAS, REPRODUCIBLE, THREADS, PIPELINE, WITHOUT, DEBUG_FLAG)):
        command = option(command)
    return command


def compiling_for_others(command: Command) -> Command:
    """The same, for a command that writes code for other machines."""
    return INPUT(VARIABLES(compiling(command, "multi")))


def generating(command: Command) -> Command:
    """The same, for code that may be for GPUs."""
    return TARGET(ARCH(PRECISION(compiling_for_others(command))))


def gathered(given: dict[str, Any]) -> Options:
    """The compiler's Options from what `compiling` brought."""
    from sofie.compiler import Options

    return Options(**given)
