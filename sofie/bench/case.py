"""A model with the sets of inputs that it is timed on, as the files that workers read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from sofie import feeds
from sofie.emit.cpp import Program
from sofie.emit.ports import Port
from sofie.errors import SofieError, printable
from sofie.files import write
from sofie.sizes import at
from sofie.weights import Array

SETS_BYTES = 1 << 22
"""Sets of inputs are drawn until they fill so many bytes, or there are MOST_SETS."""
MOST_SETS = 16
FEWEST_SETS = 2


@dataclass(frozen=True)
class Tensor:
    """An input or output as every system sees it."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    @property
    def line(self) -> str:
        """What `worker.hxx` reads about it, behind the word input or output."""
        code = onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
        return " ".join(map(str, (code, self.dtype.itemsize, len(self.shape), *self.shape)))


@dataclass(frozen=True)
class Case:
    """A model to be timed. folder: holds the model and its inputs. sets: how many sets of inputs there are."""

    name: str
    folder: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    sets: int

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / "model.onnx"

    @property
    def digest(self) -> str:
        """What the model and its first set of inputs are, in hexadecimal digits."""
        found = hashlib.sha256(self.model.read_bytes())
        for name, array in self.first().items():
            found.update(name.encode() + array.tobytes())
        return found.hexdigest()

    def first(self) -> dict[str, Array]:
        """The first set of inputs, by name."""
        return {t.name: _read(self.folder / f"input_{k}", t) for k, t in enumerate(self.inputs)}

    def results(self, system: str) -> list[Array]:
        """What the worker of a system wrote for the first set of inputs."""
        return [_read(self.folder / f"{system}_{k}", t) for k, t in enumerate(self.outputs)]

    def output(self, system: str) -> Path:
        """What a worker is told as OUTPUT."""
        return self.folder / system


def _read(path: Path, tensor: Tensor) -> Array:
    return np.fromfile(path, tensor.dtype, math.prod(tensor.shape)).reshape(tensor.shape)


def tensors(ports: Sequence[Port], sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
    """The tensors behind a program's ports at these run-time sizes. Raises SofieError where the run finds a size."""
    for port in ports:
        if port.found:
            raise SofieError(
                f"output {printable(port.name)!r} has a size that only the run finds, which other systems cannot be "
                "given room for: time the model up to that output"
            )
    return tuple(Tensor(p.name, np.dtype(p.dtype), at(p.shape, sizes)) for p in ports)


def largest(program: Program) -> dict[str, int]:
    """The run-time sizes of a program, each at its upper bound."""
    return {symbol.name: symbol.high for symbol in program.sizes}


def prepare(
    name: str,
    model: onnx.ModelProto,
    folder: Path,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    sets: Sequence[Mapping[str, Array]],
) -> Case:
    """Writes the model, the tensors and the inputs into `folder`, where workers find them."""
    folder.mkdir(parents=True, exist_ok=True)
    case = Case(name, folder, tuple(inputs), tuple(outputs), len(sets))
    write(case.model, model.SerializeToString())
    lines = [f"{len(sets)}"]
    lines += [f"input {t.line}" for t in case.inputs] + [f"output {t.line}" for t in case.outputs]
    write(folder / "ports", ("\n".join(lines) + "\n").encode())
    for k, tensor in enumerate(case.inputs):
        drawn = [np.ascontiguousarray(one[tensor.name], tensor.dtype).tobytes() for one in sets]
        write(folder / f"input_{k}", b"".join(drawn))
    return case


def how_many(inputs: Sequence[Tensor]) -> int:
    """How many sets of inputs to draw: enough to be fresh, not so many that they fill the memory."""
    each = sum(math.prod(t.shape) * t.dtype.itemsize for t in inputs)
    return max(FEWEST_SETS, min(MOST_SETS, SETS_BYTES // max(each, 1)))


def draw(program: Program, seed: int) -> list[dict[str, Array]]:
    """Sets of random inputs for a program at its largest sizes."""
    rng = np.random.default_rng(seed)
    sizes = largest(program)
    return [feeds.draw(program.inputs, rng, sizes) for _ in range(how_many(tensors(program.inputs, sizes)))]
