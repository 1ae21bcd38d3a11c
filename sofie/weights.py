"""Weights live outside the IR: an immutable blob keyed by the digest of its contents.

Cloning an op shares the blob, CSE merges equal digests, and the IR's text stays small. A side file in safetensors
layout goes with the text (`model.mlir` and `model.mlir.weights`), so that a module can leave and re-enter the tools.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sofie.errors import SofieError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Blob:
    """An immutable array, equal to another when the digests are; `array` is None until a side file supplies it."""

    digest: str
    array: Array | None

    @staticmethod
    def of(array: npt.ArrayLike) -> Blob:
        """The blob of `array`, which is copied unless it is contiguous and read-only already."""
        data = np.asarray(array)
        if data.flags.writeable or not data.flags.c_contiguous:
            data = np.array(data, order="C")
            data.flags.writeable = False
        name = data.dtype.str if data.dtype.isbuiltin == 1 else data.dtype.name  # others have no letters of their own
        header = f"{name}{data.shape}".encode()
        digest = hashlib.sha256(header)
        digest.update(data.reshape(-1).view(np.uint8).data)
        return Blob(digest.hexdigest(), data)

    @property
    def value(self) -> Array:
        """The contents. Raises SofieError where the text came without its side file."""
        if self.array is None:
            raise SofieError(
                f"the weights {self.digest[:12]} are not in this text: give their side file with --weights FILE"
            )
        return self.array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def splat(self) -> float | int | bool | None:
        """The one value that all elements have, or None; looks at the data once."""
        data = self.value
        if data.size == 0 or data.dtype.isbuiltin != 1:
            return None
        first = data.reshape(-1)[0]
        same = np.all(data == first) if first == first else np.all(data != data)
        if same and first == 0 and np.issubdtype(data.dtype, np.floating):
            same = np.all(np.signbit(data) == np.signbit(first))
        return first.item() if same else None


class WeightStore(dict[str, Array]):
    """The arrays of a side file by digest; the parser of `#sofie.blob` looks here."""

    @staticmethod
    def of(blobs: Iterable[Blob]) -> WeightStore:
        """The store that holds every blob of `blobs` once."""
        return WeightStore({blob.digest: blob.value for blob in blobs})

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array]) -> WeightStore:
        """A store from arrays named by digest, each checked against its name; raises SofieError on a mismatch."""
        store = WeightStore()
        for digest, array in arrays.items():
            if Blob.of(array).digest != digest:
                raise SofieError(f"the weights {digest[:12]} in the side file are corrupt: write the pair again")
            store[digest] = array
        return store
