"""A compiled model as a function on numpy arrays, by the library beside this file. Written by SOFIE.

>>> session = Session()  # for one thread at a time; all share the weights
>>> y = session(x)
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import numpy as np

_size, _text, _pointer = ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p
_PREFIX = f"SOFIE_{__name__}"
_TYPES: dict[str, tuple[Any, list[Any]]] = {
    "new": (_pointer, [_text]),
    "copy": (_pointer, [_pointer]),
    "delete": (None, [_pointer]),
    "run": (ctypes.c_int, [_pointer] * 5),
    "error": (_text, []),
    "sizes": (_size, []),
    "size": (_text, [_size, _pointer, _pointer]),
    "inputs": (_size, []),
    "outputs": (_size, []),
    "tensor": (_text, [_size, _pointer, _pointer]),
    "shape": (None, [_size, _pointer, _pointer]),
    "late": (ctypes.c_int, [_size]),
}


class _Library:
    """The functions of the library, without their prefix."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _TYPES.items():
            function = getattr(library, f"{_PREFIX}_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def extents(self, k: int, rank: int, sizes: list[int]) -> tuple[int, ...]:
        """The shape of tensor k."""
        shape = (_size * max(rank, 1))()
        self.shape(k, (_size * max(len(sizes), 1))(*sizes), shape)
        return tuple(shape[:rank])


def _dtype(name: str) -> np.dtype[Any]:
    """A type by name; of one that numpy lacks, the bits."""
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(np.uint16 if name == "bfloat16" else np.uint8)


class Tensor:
    """An input or output: name, numpy dtype, rank."""

    def __init__(self, library: _Library, k: int) -> None:
        kind, rank = _text(), _size()
        self.name: str = library.tensor(k, ctypes.byref(kind), ctypes.byref(rank)).decode()
        self.dtype = _dtype((kind.value or b"").decode())
        self.rank = rank.value

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.dtype}, rank {self.rank})"


_library = _Library(next(p for p in sorted(Path(__file__).parent.glob(f"lib{__name__}.*"))))
inputs = [Tensor(_library, k) for k in range(_library.inputs())]
outputs = [Tensor(_library, len(inputs) + k) for k in range(_library.outputs())]


def _bounds(k: int) -> tuple[str, int, int]:
    low, high = _size(), _size()
    return _library.size(k, ctypes.byref(low), ctypes.byref(high)).decode(), low.value, high.value


sizes = [_bounds(k) for k in range(_library.sizes())]
"""The sizes that the inputs of a call tell: name, least, most."""


class Session:
    """Scratch memory for one thread at a time; all sessions share the weights.

    weights: the path of a file of retrained weights; None for those in the library. Raises RuntimeError on a file that
    is not this model's.
    """

    def __init__(self, weights: str | None = None) -> None:
        self._session = _library.new(None if weights is None else str(weights).encode())
        if not self._session:
            raise RuntimeError(_library.error().decode())

    def __del__(self) -> None:
        if getattr(self, "_session", None):
            _library.delete(self._session)

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """The output, or a tuple of them, from arrays in the order of the model or by the names of its inputs.

        Raises ValueError on a wrong number of inputs, a wrong shape, or values that the model's types cannot hold.
        """
        given = dict(zip((t.name for t in inputs), arrays, strict=False)) | named
        wanted = [t.name for t in inputs]
        if sorted(given) != sorted(wanted) or len(arrays) + len(named) != len(wanted):
            raise ValueError(f"the model takes {', '.join(wanted) or 'no inputs'}")
        taken = [_as(given[tensor.name], tensor) for tensor in inputs]
        told = self._told(taken)
        made, found = [], []
        for k, tensor in enumerate(outputs):
            shape, late = _library.extents(len(inputs) + k, tensor.rank, told), _library.late(k)
            made.append(np.empty(math.prod(shape) if late else shape, tensor.dtype))
            found.append((_size * max(tensor.rank, 1))() if late else None)
        places = (_pointer * max(len(outputs), 1))(*(None if f is None else ctypes.addressof(f) for f in found))
        done = _library.run(
            self._session,
            (_size * max(len(told), 1))(*told),
            (_pointer * max(len(taken), 1))(*(a.ctypes.data for a in taken)),
            (_pointer * max(len(made), 1))(*(a.ctypes.data for a in made)),
            places,
        )
        if done != 0:
            raise ValueError(_library.error().decode())
        results = tuple(
            a if f is None else a[: math.prod(f[: t.rank])].reshape(f[: t.rank])
            for a, f, t in zip(made, found, outputs, strict=True)
        )
        return results[0] if len(results) == 1 else results

    @staticmethod
    def _told(taken: list[Any]) -> list[int]:
        """The sizes that the shapes of the inputs tell. Raises ValueError where they contradict each other."""
        least = [low for _, low, _ in sizes]
        told = list(least)
        for s in range(len(sizes)):
            more = [low + (k == s) for k, low in enumerate(least)]
            for k, (tensor, array) in enumerate(zip(inputs, taken, strict=True)):
                at, after = (_library.extents(k, tensor.rank, numbers) for numbers in (least, more))
                told[s] = next(
                    (least[s] + n - a for n, a, b in zip(array.shape, at, after, strict=True) if a != b), told[s]
                )
        for k, (tensor, array) in enumerate(zip(inputs, taken, strict=True)):
            shape = _library.extents(k, tensor.rank, told)
            if array.shape != shape:
                raise ValueError(f"input {tensor.name} has shape {array.shape}, not {shape}")
        for (name, low, high), size in zip(sizes, told, strict=True):
            if not low <= size <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {size}")
        return told


def _as(value: Any, tensor: Tensor) -> Any:
    """An array of a tensor's type and rank. Raises ValueError where values would change kind."""
    array = np.asarray(value)
    if array.ndim != tensor.rank:
        raise ValueError(f"input {tensor.name} has {array.ndim} dimensions, not {tensor.rank}")
    if not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
        raise ValueError(f"input {tensor.name} is {array.dtype}, not {tensor.dtype}")
    return np.ascontiguousarray(array, tensor.dtype)
