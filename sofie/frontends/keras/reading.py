"""Opens .keras and .h5 files: the configuration as a dictionary, the weights as data sets that are read on demand.

Everything in a file may be hostile: archives that unpack to more than they may, links that leave the file, data sets
that are not there. Each is an error in one sentence.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sofie.errors import SofieError, printable
from sofie.frontends.keras.errors import wrong
from sofie.weights import Array

DAMAGED = (OSError, RuntimeError, KeyError, UnicodeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What h5py and zipfile raise on damaged files."""
MOST_CONFIG = 1 << 26
"""Bytes of a configuration."""
MOST_WEIGHTS = (1 << 31) - 1
"""Bytes of all weights: what ONNX's format holds."""
MOST_DEPTH = 100
"""Levels of lists and dictionaries in a configuration."""


@dataclass(frozen=True)
class Stored:
    """A weight in a file, not read yet."""

    name: str
    dataset: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.dataset.shape or ())

    def read(self) -> Array:
        """Its numbers as float32. Raises ValueError where they are none."""
        if self.dataset.dtype.kind not in "fiub":
            raise ValueError(f"the weight {printable(self.name)!r} is no array of numbers")
        return np.asarray(self.dataset[()], np.float32)


@dataclass(frozen=True)
class Document:
    """A saved model: its configuration and the root of its weights.

    file: its name, for errors. version: the major version of the Keras that wrote it. flat: weights are a list a
    layer, found by the layer's name (.h5); else they lie in a tree of objects (.keras).
    """

    file: str
    config: dict[str, Any]
    weights: Any
    version: int
    flat: bool


@contextmanager
def opened(path: Path) -> Iterator[Document]:
    """The document of a file; it is closed on exit. Raises SofieError."""
    try:
        import h5py
    except ImportError as error:
        raise SofieError(
            "reading a Keras model needs h5py: pip install 'sofie-mlir[keras]', or export the model to ONNX"
        ) from error
    file = str(path)
    try:
        with open(path, "rb") as stream:
            head = stream.read(8)
    except FileNotFoundError as error:
        raise SofieError(f"there is no file {printable(file)!r}") from error
    except OSError as error:
        raise SofieError(f"{printable(file)!r} cannot be read: {error.strerror}") from error
    try:
        if head.startswith(b"PK"):
            config, content = _unpacked(path)
            with h5py.File(io.BytesIO(content), "r") as weights:
                yield Document(file, config, weights, _major(config.get("keras_version"), 3), flat=False)
        elif head == b"\x89HDF\r\n\x1a\n":
            with h5py.File(path, "r") as root:
                yield _document(file, root)
        else:
            raise wrong(file, "", "it is neither a .keras archive nor an HDF5 file: save it again with model.save")
    except DAMAGED as error:
        raise wrong(file, "", f"it is damaged: {printable(str(error))}") from error


def _unpacked(path: Path) -> tuple[dict[str, Any], bytes]:
    """The configuration and the HDF5 file of a .keras archive."""
    file = str(path)
    with zipfile.ZipFile(path) as archive:
        config = _json(file, _member(file, archive, "config.json", MOST_CONFIG))
        if "keras_version" not in config and "metadata.json" in archive.namelist():
            config |= {
                "keras_version": _json(file, _member(file, archive, "metadata.json", 1 << 20)).get("keras_version")
            }
        return config, _member(file, archive, "model.weights.h5", MOST_WEIGHTS + MOST_CONFIG)


def _member(file: str, archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise wrong(file, "", f"the archive has no {name}: save the whole model with model.save('m.keras')") from None
    if info.flag_bits & 1:
        raise wrong(file, "", f"{name} in it is encrypted")
    if info.file_size > most or (info.file_size > 1 << 20 and info.file_size > 1000 * info.compress_size):
        raise wrong(file, "", f"{name} in it unpacks to {info.file_size} bytes, which is more than a model has")
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise wrong(file, "", f"{name} in it is not as long as the archive says")
    return content


def _document(file: str, root: Any) -> Document:
    config = _attribute(file, root, "model_config")
    if config is None:
        raise wrong(file, "", "it has no model_config, only weights perhaps: save the whole model with model.save")
    parsed = _json(file, config if isinstance(config, bytes) else str(config).encode())
    group = lookup(file, "", root, "model_weights") or root
    version = _attribute(file, root, "keras_version") or _attribute(file, group, "keras_version")
    version = version or parsed.get("keras_version")
    major = _major(version, 1)
    if major < 2:
        raise wrong(file, "", "it was written by Keras 1, which is not supported: load and save it with Keras 2")
    return Document(file, parsed, group, major, flat=True)


def _json(file: str, content: bytes) -> dict[str, Any]:
    if len(content) > MOST_CONFIG:
        raise wrong(file, "", f"its configuration has {len(content)} bytes, which is more than a model has")
    try:
        parsed = json.loads(content)
        depth = _depth(parsed)
    except (ValueError, RecursionError) as error:
        raise wrong(file, "", f"its configuration is no JSON: {printable(str(error))}") from error
    if not isinstance(parsed, dict):
        raise wrong(file, "", "its configuration is no dictionary")
    if depth > MOST_DEPTH:
        raise wrong(file, "", f"its configuration is nested {depth} levels deep; {MOST_DEPTH} are supported")
    return parsed


def _depth(value: Any) -> int:
    """Levels of nesting, counted level by level."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner for outer in level if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]  # fmt: skip
    return depth


def _major(version: Any, default: int) -> int:
    """The major number of a version as text or bytes."""
    text = version.decode("ascii", "replace") if isinstance(version, bytes) else str(version)
    number = text.partition(".")[0]
    return int(number) if number.isdigit() and len(number) < 4 else default


def _attribute(file: str, group: Any, name: str) -> Any:
    """An attribute of a group or file, or None. Raises SofieError where it is damaged."""
    try:
        return group.attrs.get(name)
    except (TypeError, ValueError, AttributeError) as error:
        raise wrong(file, "", f"its attribute {printable(name)} cannot be read: {printable(str(error))}") from error


def lookup(file: str, layer: str, root: Any, path: str) -> Any:
    """The object at a path below a group, or None. Raises SofieError where a link leads out of the file."""
    import h5py

    here = root
    for part in filter(None, path.split("/")):
        try:
            link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
            below = here[part] if isinstance(link, h5py.HardLink) else None
        except (RuntimeError, KeyError, ValueError) as error:  # names that HDF5 cannot have, objects that are damaged
            raise wrong(file, layer, f"its weights cannot be read: {printable(str(error))}") from error
        if link is None:
            return None
        if below is None:
            raise wrong(file, layer, f"its weights are a link to {_target(link)}, and links are not followed")
        here = below
    return here


def _target(link: Any) -> str:
    return printable(repr(getattr(link, "filename", getattr(link, "path", "?"))))


def stored(file: str, layer: str, root: Any, path: str) -> Stored:
    """The data set at a path. Raises SofieError where there is none, or where its numbers lie in other files."""
    import h5py

    found = lookup(file, layer, root, path)
    if found is None:
        raise wrong(file, layer, f"the file has no weight {printable(path)!r}")
    if not isinstance(found, h5py.Dataset):
        raise wrong(file, layer, f"the weight {printable(path)!r} is no array")
    if found.external or found.is_virtual:
        raise wrong(file, layer, f"the weight {printable(path)!r} lies in another file, and links are not followed")
    return Stored(path, found)


def names(file: str, layer: str, group: Any, attribute: str) -> list[str]:
    """A list of names in an attribute, or in several where it was too long for one."""
    found = _attribute(file, group, attribute)
    parts: list[Any] = [] if found is None else [found]
    while found is None and (part := _attribute(file, group, f"{attribute}{len(parts)}")) is not None:
        parts.append(part)
    if not parts:
        raise wrong(file, layer, f"its weights have no list {attribute}")
    values = [value for part in parts for value in np.atleast_1d(part)]
    if not all(isinstance(v, bytes | str) for v in values):
        raise wrong(file, layer, f"the list {attribute} of its weights holds something else than names")
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
