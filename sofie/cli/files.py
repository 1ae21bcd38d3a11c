"""Arrays into files, and sizes of files as people read them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sofie.errors import SofieError
from sofie.files import write
from sofie.weights import Array


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes a `.npz`, or a `.npy` where the path says so and there is one array. Raises SofieError."""
    content = io.BytesIO()
    if path.suffix == ".npy":
        if len(arrays) != 1:
            raise SofieError(f"a .npy holds one array and the model has {len(arrays)} outputs: name a .npz")
        np.save(content, next(iter(arrays.values())))
    else:
        np.savez(content, **arrays)  # type: ignore[arg-type]  # numpy types only its flag by name
    write(path, content.getvalue())


def size(path: Path) -> str:
    """The size of a file as people read it.

    >>> from sofie.cli.files import readable
    >>> readable(999), readable(651_641), readable(12_000_000)
    ('999 B', '652 kB', '12.0 MB')
    """
    return readable(path.stat().st_size)


def readable(count: int) -> str:
    """A number of bytes in B, kB, MB or GB."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000 or unit == "GB":
            break
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
