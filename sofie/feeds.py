"""Inputs by ONNX name: read from numpy files, drawn at random, and asked what sizes they give to free dimensions."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sofie.errors import SofieError, printable
from sofie.sizes import NO_SIZES, Symbol, at
from sofie.weights import Array

if TYPE_CHECKING:
    import onnx

    from sofie.compiler import Options
    from sofie.emit.ports import Port

SMALL_INTEGERS = 4
"""Random integers are below this: valid as tokens and indices of almost any model."""


def names_of_inputs(graph: onnx.GraphProto, values: Mapping[str, object]) -> list[str]:
    """The inputs that a caller gives: neither initialised nor turned into constants by `values`."""
    initialised = {tensor.name for tensor in graph.initializer}
    return [v.name for v in graph.input if v.name not in initialised and v.name not in values]


def read(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """The arrays of a `.npz` by name, or that of a `.npy` as the only one of `names`. Raises SofieError."""
    shown = repr(printable(str(path)))
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(names) != 1:
                listed = ", ".join(map(printable, names))
                raise SofieError(f"{shown} holds one array and the model takes {len(names)}: give a .npz with {listed}")
            return {names[0]: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError as error:
        raise SofieError(f"there is no file {shown}") from error
    except OSError as error:
        raise SofieError(f"{shown} cannot be read: {error.strerror or printable(str(error))}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SofieError(f"{shown} is no .npz or .npy file that numpy reads: {printable(str(error))}") from error


def bind(options: Options, graph: onnx.GraphProto, feeds: Mapping[str, Array]) -> Options:
    """`options` with what `feeds` tell: sizes of the graph's free dimensions, and the values that shapes follow from.

    Raises SofieError where an input is unknown or missing, or two of them, or one and `--dim`, disagree about a size.
    """
    from sofie.frontends.dimensions import free_dimensions
    from sofie.frontends.operands import operand_inputs

    check_names(feeds, names_of_inputs(graph, options.values))
    dims = dict(options.dims)
    origin = {key: f"--dim {printable(key)}={size}" for key, size in dims.items()}
    for name, axis, parameter in free_dimensions(graph):
        if name not in feeds:
            continue
        if axis >= feeds[name].ndim:
            raise SofieError(f"input {printable(name)!r} has {feeds[name].ndim} dimension(s), the model takes more")
        size = int(feeds[name].shape[axis])
        here = f"{name}:{axis}"
        key = here if here in dims or not parameter else parameter
        known_size = dims.setdefault(key, size)
        if not isinstance(known_size, int):  # the run tells it, so long as it is in bounds
            continue
        if known_size != size:
            known = f"{origin[key]} makes that dimension {dims[key]}"
            raise SofieError(f"input {printable(name)!r} has {size} along axis {axis}, but {known}")
        origin.setdefault(key, f"input {printable(name)!r}")
    operands = {name: feeds[name] for name in operand_inputs(graph, options.values)}
    return replace(options, dims=dims, operands=operands)


def check_names(feeds: Mapping[str, object], names: Sequence[str]) -> None:
    """Raises SofieError unless `feeds` holds exactly the inputs `names`."""
    listed = ", ".join(map(printable, names)) or "none"
    if unknown := [name for name in feeds if name not in names]:
        raise SofieError(f"the model has no input {printable(unknown[0])!r}; its inputs are {listed}")
    if missing := [name for name in names if name not in feeds]:
        raise SofieError(f"input {printable(missing[0])!r} is missing; the model's inputs are {listed}")


def draw(ports: Sequence[Port], rng: np.random.Generator, sizes: Mapping[str, int] = NO_SIZES) -> dict[str, Array]:
    """Random inputs for the given run-time sizes: standard normal for floats, small integers and coin flips else."""
    return {port.name: _draw(port, at(port.shape, sizes), rng) for port in ports}


def _draw(port: Port, shape: Sequence[int], rng: np.random.Generator) -> Array:
    dtype = np.dtype(port.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else SMALL_INTEGERS, shape).astype(dtype)


def draw_sizes(symbols: Iterable[Symbol], rng: np.random.Generator) -> list[dict[str, int]]:
    """Run-time sizes worth a test: the largest, the smallest, and some in between; one empty choice without any."""
    listed = list(symbols)
    if not listed:
        return [{}]
    between = {s.name: int(rng.integers(s.low, s.high, endpoint=True)) for s in listed}
    choices = [{s.name: s.high for s in listed}, {s.name: s.low for s in listed}, between]
    return [choice for k, choice in enumerate(choices) if choice not in choices[:k]]
