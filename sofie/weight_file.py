"""The weight file a compiled model is shipped with: safetensors that a generated header uses in place.

Every tensor starts at a multiple of 64 bytes from the start of the file, so that kernels read it with aligned loads.
The JSON begins with a fixed-form `__metadata__`, so that the C++ loader (emit/weights.hxx) needs no JSON parser: the
layout digest says which model the file belongs to, and the CRC-32 that its bytes arrived intact.

    8 bytes    length of the JSON, little-endian
    JSON       {"__metadata__":{"checksum":"8 hex","layout":"64 hex"},"name":{"dtype":"F32",...},...} and spaces
    tensors    in the order given, little-endian, gaps filled by tensors named __pad_0__, __pad_1__, ...

safetensors allows no holes between tensors, hence the padding tensors. The checksum covers what follows `__metadata__`.
"""

import contextlib
import json
import os
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = Mapping[str, Array] | Sequence[tuple[str, Array]]

ALIGNMENT = 64  # bytes: a cache line, and the widest vector load

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "I8": np.dtype("<i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("<u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    **{name.upper(): np.dtype(getattr(ml_dtypes, name)) for name in ("int4", "uint4", "int2", "uint2")},
}
_DTYPE_NAMES = {dtype.name: name for name, dtype in _DTYPES.items()} | {"uint8": "U8", "uint16": "U16"}

_METADATA = re.compile(rb'\{"__metadata__":\{"checksum":"([0-9a-f]{8})","layout":"([0-9a-f]{64})"\}')
_LAYOUT = re.compile(r"[0-9a-f]{64}")
_PADDING = re.compile(r"__pad_[0-9]+__")
_RESERVED = re.compile(r"_*(__metadata__|__pad_[0-9]+__)")


class WeightFileError(ValueError):
    """A weight file cannot be written from these tensors, or is not what it should be."""


@dataclass(frozen=True)
class WeightFile:
    """Everything about a weight file but its tensors' bytes.

    header: the length and the JSON, checksum included; a multiple of 64 bytes.
    offsets: the byte offset of each tensor from the start of the file, by the name it was given.
    size: the length of the file in bytes.
    """

    header: bytes
    offsets: dict[str, int]
    size: int


def plan(tensors: Tensors, layout: str) -> WeightFile:
    """Lay out a weight file; `layout` is 64 lower-case hex digits that identify the model's tensors and their order.

    Raises WeightFileError for a malformed layout, a name given twice or not valid Unicode, or an unsupported dtype.
    """
    return _lay_out(_normalised(tensors), layout)


def encode(tensors: Tensors, layout: str) -> bytes:
    """The bytes of the weight file, for embedding in a header. Raises as plan() does."""
    arrays = _normalised(tensors)
    file = _lay_out(arrays, layout)
    return file.header + b"".join(_data(arrays))


def write(path: str | os.PathLike[str], tensors: Tensors, layout: str) -> WeightFile:
    """Write the weight file, replacing an older one in a single step: a reader sees the old file or the new one.

    Raises WeightFileError as plan() does, OSError if the file cannot be written.
    """
    arrays = _normalised(tensors)
    file = _lay_out(arrays, layout)
    target = Path(path)
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(file.header)
            for piece in _data(arrays):
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return file


def read(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The tensors of a weight file by name, as read-only arrays on a copy of its bytes.

    Raises WeightFileError if the file cannot be read, is not a weight file, or was damaged.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise WeightFileError(f"weights file '{path}' cannot be read: {error.strerror or error}") from error
    try:
        return _decode(content)
    except WeightFileError as error:
        raise WeightFileError(f"weights file '{path}' {error}") from None


def _normalised(tensors: Tensors) -> list[tuple[str, Array]]:
    """The tensors as little-endian arrays in C order."""
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    arrays: list[tuple[str, Array]] = []
    for name, array in items:
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise WeightFileError(f"tensor name {name!r} is not valid Unicode") from error
        dtype_name = _DTYPE_NAMES.get(array.dtype.name)
        if dtype_name is None:
            raise WeightFileError(f"tensor {name!r} has dtype {array.dtype}, which a weight file cannot hold")
        arrays.append((name, array.astype(_DTYPES[dtype_name], order="C", copy=False)))
    if len({name for name, _ in arrays}) < len(arrays):
        names = [name for name, _ in arrays]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise WeightFileError(f"tensor {twice!r} is given twice")
    return arrays


def _padding(size: int) -> int:
    return -size % ALIGNMENT


def _stored_name(name: str) -> str:
    """The name in the file: a model's own `__pad_0__` gets one more underscore, and so does `___pad_0__`."""
    return "_" + name if _RESERVED.fullmatch(name) else name


def _model_name(stored: str) -> str:
    return stored[1:] if _RESERVED.fullmatch(stored) else stored


def _lay_out(arrays: list[tuple[str, Array]], layout: str) -> WeightFile:
    if not _LAYOUT.fullmatch(layout):
        raise WeightFileError(f"layout digest {layout!r} is not 64 lower-case hex digits")

    entries: list[str] = []
    starts: list[int] = []
    end = paddings = 0

    def add(name: str, dtype: str, shape: Sequence[int], size: int) -> None:
        nonlocal end
        value = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        entries.append(f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}")
        end += size

    for name, array in arrays:
        if gap := _padding(end):
            add(f"__pad_{paddings}__", "U8", [gap], gap)
            paddings += 1
        starts.append(end)
        add(_stored_name(name), _DTYPE_NAMES[array.dtype.name], array.shape, array.nbytes)

    rest = "".join("," + entry for entry in entries).encode() + b"}"
    metadata = '{{"__metadata__":{{"checksum":"{:08x}","layout":"{}"}}'
    before = 8 + len(metadata.format(0, layout))
    rest += b" " * _padding(before + len(rest))
    checksum = zlib.crc32(rest)
    for piece in _data(arrays):
        checksum = zlib.crc32(piece, checksum)
    text = metadata.format(checksum, layout).encode() + rest
    header = len(text).to_bytes(8, "little") + text
    offsets = {name: len(header) + start for (name, _), start in zip(arrays, starts, strict=True)}
    return WeightFile(header, offsets, len(header) + end)


def _data(arrays: list[tuple[str, Array]]) -> Iterator[bytes | memoryview]:
    """The data section piece by piece, the gaps between tensors included."""
    end = 0
    for _, array in arrays:
        if gap := _padding(end):
            yield bytes(gap)
        yield array.reshape(-1).view(np.uint8).data
        end += gap + array.nbytes


def _decode(content: bytes) -> dict[str, Array]:
    length = int.from_bytes(content[:8], "little")
    metadata = _METADATA.match(content, 8)
    if metadata is None or metadata.end() > 8 + length:
        raise WeightFileError("is not a SOFIE weights file")
    data = 8 + length
    if data > len(content):
        raise WeightFileError(f"is truncated: its header alone takes {data:,} bytes and it has {len(content):,}")
    try:
        header = json.loads(content[8:data])
    except (ValueError, RecursionError) as error:
        raise WeightFileError("has a damaged header") from error
    del header["__metadata__"]

    extents: dict[str, tuple[np.dtype[Any], list[int], int]] = {}
    end = 0
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype_name), "shape": [*shape], "data_offsets": [int(start), int(stop)]}:
                dtype = _DTYPES.get(dtype_name)
            case _:
                raise WeightFileError(f"has a damaged header: tensor {name!r} lacks a dtype, a shape or offsets")
        sound = dtype is not None and all(type(extent) is int and extent >= 0 for extent in shape) and start == end
        if dtype is None or not sound or stop - start != _product(shape) * dtype.itemsize:
            raise WeightFileError(f"has a damaged header: tensor {name!r} does not fit its place")
        if not _PADDING.fullmatch(name):
            extents[_model_name(name)] = (dtype, shape, start)
        end = stop

    if data + end != len(content):
        state = "truncated" if len(content) < data + end else "too long"
        raise WeightFileError(f"is {state}: {len(content):,} of {data + end:,} bytes")
    if zlib.crc32(memoryview(content)[metadata.end() :]) != int(metadata[1], 16):
        raise WeightFileError("is corrupt: its bytes do not match its checksum")
    return {
        name: np.frombuffer(content, dtype, _product(shape), data + start).reshape(shape)
        for name, (dtype, shape, start) in extents.items()
    }


def _product(shape: list[int]) -> int:
    product = 1
    for extent in shape:
        product *= extent
    return product
