"""Arrays on a GPU without a library for them: those of others, used where they are, and outputs, which are lent.

Two protocols say where an array lies: DLPack (`__dlpack__`, https://dmlc.github.io/dlpack) and CUDA's array interface
(`__cuda_array_interface__`, version 3, of Numba). PyTorch, CuPy and JAX speak them, so none is needed here. All work is
on the legacy default stream of the device.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sofie.errors import SofieError, printable
from sofie.weights import Array

LEGACY, PER_THREAD = 1, 2
"""The default streams as both protocols number them."""
_CUDA, _MANAGED, _HOSTS = 2, 13, (1, 3, 11)
"""Kinds of devices of DLPack; those of the host are main memory and what is pinned there."""
_KINDS = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
"""DLPack's codes of numpy's kinds of types."""


class Library(Protocol):
    """What calls a function of a compiled unit by its name, and raises SofieError where it fails."""

    def __call__(self, name: str, *arguments: object) -> None: ...


@dataclass(frozen=True)
class Borrowed:
    """An array of somebody on a device. device: its number, where it is told. stream: what must be waited for."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    contiguous: bool
    owner: object
    device: int | None = None
    stream: int | None = None


def borrowed(value: object, name: str) -> Borrowed | None:
    """An array on a device where it is; None where `value` is none. Raises SofieError on what cannot be used.

    Work that the owner has put on another stream is waited for: DLPack's owner sees to that, and the caller does for a
    `stream` that is told.
    """
    if type(value) is np.ndarray:
        return None
    kind = getattr(value, "__dlpack_device__", None)
    device = kind() if callable(kind) else None
    if device is not None and int(device[0]) in (_CUDA, _MANAGED):
        return _from_capsule(value, name, int(device[1]))
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(value, interface, name)
    if device is not None and int(device[0]) not in _HOSTS:
        raise SofieError(f"input {printable(name)!r} is on a device that is no GPU of CUDA; pass a copy on the host")
    return None


def _from_interface(value: object, interface: dict[str, Any], name: str) -> Borrowed:
    if interface.get("mask") is not None:
        raise SofieError(f"input {printable(name)!r} has a mask, which no model takes")
    stream = interface.get("stream")
    if stream == 0:
        raise SofieError(f"input {printable(name)!r} names stream 0, which CUDA's array interface does not allow")
    shape, dtype = tuple(map(int, interface["shape"])), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    contiguous = strides is None or _contiguous(shape, strides, dtype.itemsize)
    return Borrowed(int(interface["data"][0] or 0), shape, dtype, contiguous, value, None, stream)


def _contiguous(shape: Sequence[int], strides: Sequence[int], step: int) -> bool:
    """Whether elements lie as in C: `step` is the stride of the last axis."""
    if 0 in shape:
        return True
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent != 1 and stride != step:
            return False
        step *= extent
    return True


# -- DLPack ------------------------------------------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    """`DLManagedTensor` of dlpack.h."""

    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]


_NAME = b"dltensor"  # capsules keep a pointer to it
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_api = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(("PyCapsule_New", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
# a capsule that is being destroyed must not be counted again, so it is an address to these two
_is_named = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

_lent: dict[int, tuple[_Managed, object, object]] = {}
"""What others still use, by the address of its `DLManagedTensor`."""


def _give_back(address: int) -> None:
    _lent.pop(address, None)


def _drop(capsule: int) -> None:
    """A capsule that nobody has taken; whoever takes one renames it."""
    if _is_named(capsule, _NAME):
        _give_back(_address(capsule, _NAME))


_returned, _dropped = _Deleter(_give_back), _Destructor(_drop)


def _capsule(array: DeviceArray) -> object:
    """A new capsule that keeps the array until it is returned."""
    rank = len(array.shape)
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(rank)]
    numbers = (ctypes.c_int64 * max(2 * rank, 1))(*array.shape, *strides)
    start = ctypes.addressof(numbers)
    shape, steps = (ctypes.cast(start + 8 * rank * k, ctypes.POINTER(ctypes.c_int64)) for k in (0, 1))
    code, bits = _KINDS[array.dtype.kind], 8 * array.dtype.itemsize
    tensor = _Tensor(array.pointer, _CUDA, array.device, rank, code, bits, 1, shape, steps, 0)
    managed = _Managed(tensor, None, _returned)
    address = ctypes.addressof(managed)
    _lent[address] = managed, numbers, array
    return _new(address, _NAME, _dropped)


def _from_capsule(value: Any, name: str, device: int) -> Borrowed:
    """The capsule is not taken: it gives the array back when it goes."""
    try:
        capsule = value.__dlpack__(stream=LEGACY)
        address = _pointer(capsule, _NAME)
    except Exception as error:  # each library has its own reasons
        reason = " ".join(str(error).split())
        raise SofieError(f"input {printable(name)!r} does not lend its memory: {printable(reason)}") from error
    assert address is not None
    tensor = _Managed.from_address(address).tensor
    shape = tuple(tensor.shape[: tensor.ndim])
    kinds = {code: kind for kind, code in _KINDS.items()}
    if tensor.code not in kinds or tensor.lanes != 1 or tensor.bits % 8:
        raise SofieError(f"input {printable(name)!r} has a type that numpy does not have; convert it on the device")
    dtype = np.dtype(f"{kinds[tensor.code]}{tensor.bits // 8}")
    contiguous = not tensor.strides or _contiguous(shape, tensor.strides[: tensor.ndim], 1)
    return Borrowed((tensor.data or 0) + tensor.byte_offset, shape, dtype, contiguous, capsule, device)


# -- ours --------------------------------------------------------------------------------------------------------------


class DeviceArray:
    """An array of ours on a device: `torch.from_dlpack` and `cupy.asarray` take it, `numpy.asarray` copies it.

    Its memory lives as long as it does, and as long as those who took it need it.
    """

    def __init__(self, library: Library, device: int, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        """New memory for `shape`. Raises SofieError where there is none."""
        self.shape, self.dtype, self.device = tuple(shape), dtype, device
        self._library = library
        memory = ctypes.c_void_p()
        library("allocate", device, max(self.nbytes, 1), ctypes.byref(memory))
        self.pointer = memory.value or 0
        weakref.finalize(self, library, "release", device, self.pointer)

    @classmethod
    def of(cls, library: Library, device: int, array: Array) -> DeviceArray:
        """A copy of an array of the host."""
        made = cls(library, device, array.shape, array.dtype)
        library("copy", device, made.pointer, array.ctypes.data, array.nbytes, 0)
        return made

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def cut(self, shape: Sequence[int]) -> None:
        """Keeps the first elements, as an array of that shape."""
        self.shape = tuple(map(int, shape))

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """A copy on the host."""
        if copy is False:
            raise ValueError("an array on a device can only be copied to the host")
        array = np.empty(self.shape, self.dtype)
        self._library("copy", self.device, array.ctypes.data, self.pointer, self.nbytes, 1)
        return array if dtype is None else array.astype(dtype, copy=False)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """CUDA's array interface, version 3."""
        pointer = self.pointer if self.nbytes else 0
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (pointer, False),
            "strides": None,
            "version": 3,
            "stream": LEGACY,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """That it is a GPU of CUDA, and which."""
        return _CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule with a `DLManagedTensor`. What comes to `stream` waits for what is computed; -1 waits for nothing.

        Raises BufferError on another device and where a copy is asked for.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("an output is lent where it is; copy it with numpy.asarray or by your own library")
        if stream == 0:
            raise ValueError("stream 0 is ambiguous: 1 is the legacy default stream, 2 that of each thread")
        if stream not in (None, -1, LEGACY):
            self._library("order", self.device, 0, stream)
        return _capsule(self)
