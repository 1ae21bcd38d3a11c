"""The suite's models with their inputs and what float64 says to them, kept in a folder by digest."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from sofie.bench.case import Case, Tensor, how_many, prepare
from sofie.executors import Witnesses
from sofie.weights import Array
from tests.bench.models import model

INDICES = 64
"""Random integers are below this: the suite's are tokens and neighbours of one of 64 particles."""


def case(name: str, cache: Path) -> Case:
    """A model of the suite, written with its inputs to the cache."""
    proto = model(name)
    inputs, outputs = (tuple(map(_tensor, values)) for values in (proto.graph.input, proto.graph.output))
    rng = np.random.default_rng(zlib.crc32(name.encode()) + 1)
    sets = [_draw(inputs, rng) for _ in range(how_many(inputs))]
    return prepare(name, proto, cache / "cases" / name, inputs, outputs, sets)


def truth(case: Case, cache: Path) -> list[Array]:
    """The outputs for the first set of inputs in float64, from onnx.reference."""
    kept = cache / "truth" / f"{case.digest}.npz"
    if not kept.exists():
        feeds, witnesses = case.first(), Witnesses(onnx.load(case.model))
        found = witnesses.truth.run(feeds) or witnesses.hear(feeds).truth
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = kept.with_suffix(".scratch.npz")
        np.savez(scratch, *found)
        scratch.replace(kept)
    with np.load(kept) as loaded:
        return [loaded[name] for name in loaded.files]


def error(results: list[Array], truth: list[Array]) -> float:
    """The largest difference of a result from the truth, over the largest element of that output."""
    return max(map(_error, results, truth))


def _error(result: Array, truth: Array) -> float:
    scale = np.abs(truth).max(initial=0.0)
    distance = np.abs(result.astype(np.float64) - truth.astype(np.float64))
    return float(np.where(np.isnan(distance), np.inf, distance).max(initial=0.0) / (scale or 1.0))


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return Tensor(value.name, dtype, tuple(d.dim_value for d in kind.shape.dim))


def _draw(inputs: tuple[Tensor, ...], rng: np.random.Generator) -> Mapping[str, Array]:
    return {
        t.name: rng.standard_normal(t.shape).astype(t.dtype)
        if t.dtype.kind == "f"
        else rng.integers(0, INDICES, t.shape, t.dtype)
        for t in inputs
    }
