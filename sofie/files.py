"""Files that are there complete or not at all: written beside their place under another name, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sofie.errors import SofieError, printable


def write(path: Path, content: bytes) -> None:
    """Writes a file in one step. Raises SofieError."""
    scratch = None
    try:
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except OSError as error:
        raise SofieError(f"{printable(str(path))!r} cannot be written: {error.strerror}") from error
    finally:
        if scratch is not None and os.path.exists(scratch):
            os.unlink(scratch)
