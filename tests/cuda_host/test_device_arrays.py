"""Arrays on a device, by objects that lend the host's memory as if it were one's: nothing is copied, all is checked."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import sofie
from sofie import cuda_jit, device_array
from sofie.compiler import Model
from sofie.device_array import DeviceArray
from tests import models
from tests.cuda_host.emulation import emulated

pytestmark = pytest.mark.usefixtures("needs_compiler")

_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def moved(capsule: object, kind: int, device: int = 0) -> object:
    """A capsule whose tensor says that it is on that device."""
    address = _pointer(capsule, b"dltensor")
    assert address is not None
    ctypes.c_int32.from_address(address + 8).value = kind
    ctypes.c_int32.from_address(address + 12).value = device
    return capsule


class Interface:
    """What has only CUDA's array interface."""

    def __init__(self, array: np.ndarray, **changes: object) -> None:
        self.array, self.changes = array, changes

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        array, pointer = self.array, self.array.ctypes.data
        said = {"shape": array.shape, "typestr": array.dtype.str, "data": (pointer, True), "version": 3}
        return {**said, "strides": array.strides, "stream": None, **self.changes}


class Packed:
    """What has DLPack: an array of a `kind` of device. streams: those that the consumer named."""

    def __init__(self, array: np.ndarray, kind: int = 2, device: int = 0) -> None:
        self.array, self.kind, self.device = array, kind, device
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, self.device

    def __dlpack__(self, *, stream: int | None = None) -> object:
        self.streams.append(stream)
        return moved(self.array.__dlpack__(), self.kind, self.device)


class OnHost:
    """An output of ours, lent to numpy."""

    def __init__(self, array: DeviceArray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: object) -> object:
        return moved(self.array.__dlpack__(), 1)


Calls = list[tuple[Any, ...]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What is called of the unit."""
    made: Calls = []
    inner = cuda_jit.Unit.__call__

    def logged(self: cuda_jit.Unit, name: str, *arguments: object) -> None:
        made.append((name, *arguments))
        inner(self, name, *arguments)

    monkeypatch.setattr(cuda_jit.Unit, "__call__", logged)
    return made


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with emulated():
        yield sofie.compile(models.mlp("n"), dims={"n": (0, 4)}, target="cuda")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return models.normal(3, 7)


@pytest.fixture(scope="module")
def want(x: np.ndarray) -> np.ndarray:
    result = sofie.compile(models.mlp(3))(x)
    assert isinstance(result, np.ndarray)
    return result


def names(calls: Calls) -> list[str]:
    return [name for name, *_ in calls]


@pytest.mark.parametrize("lend", [Interface, Packed, lambda a: Packed(a, kind=13)])
def test_nothing_is_copied(model: Model, x: np.ndarray, want: np.ndarray, calls: Calls, lend: Callable) -> None:
    """An array of the device that goes by way of the host; another size's or another array's results."""
    for rows in (3, 1):
        given = x[:rows].copy()
        y: Any = model(lend(given))
        (into,) = [call[4] for call in calls if call[0] == "infer_device"]
        assert list(into) == [given.ctypes.data]
        assert "copy" not in names(calls) and "infer" not in names(calls)
        assert isinstance(y, DeviceArray) and y.shape == (rows, 5) and y.dtype == np.float32
        np.testing.assert_allclose(np.asarray(y), want[:rows], rtol=1e-6)
        calls.clear()


def test_a_part_of_an_array_begins_where_it_begins(model: Model, x: np.ndarray, want: np.ndarray) -> None:
    """The start of the memory in the place of the array's, where a byte offset says so."""
    packed = Packed(x)

    class Offset(Packed):
        def __dlpack__(self, *, stream: int | None = None) -> object:
            capsule = super().__dlpack__(stream=stream)
            address = _pointer(capsule, b"dltensor")
            assert address is not None
            ctypes.c_void_p.from_address(address).value = self.array.ctypes.data - 28
            ctypes.c_uint64.from_address(address + 40).value = 28
            return capsule

    np.testing.assert_array_equal(np.asarray(model(Offset(packed.array))), np.asarray(model(packed)))
    np.testing.assert_allclose(np.asarray(model(Offset(x))), want, rtol=1e-6)


def test_arrays_of_numpy_go_there_and_come_back(model: Model, x: np.ndarray, want: np.ndarray, calls: Calls) -> None:
    """Outputs that numpy's users cannot use; weights that are sent at each call."""
    for _ in range(2):
        y = model.run({"x": x})["y"]
        assert type(y) is np.ndarray
        np.testing.assert_allclose(y, want, rtol=1e-6)
    assert names(calls) == ["infer", "infer"]


def test_weights_go_there_once(x: np.ndarray, calls: Calls) -> None:
    """A model that sends its weights again, or never lets go of them."""
    with emulated():
        model = sofie.compile(models.mlp(3), target="cuda")
    for value in (x, Packed(x), Interface(x)):
        model(value)
    assert names(calls).count("create") == 1 and "free" not in names(calls)
    del model
    gc.collect()
    assert names(calls).count("free") == 1


def test_the_owner_of_a_capsule_is_told_our_stream(model: Model, x: np.ndarray) -> None:
    """A kernel that begins before its input is there: DLPack's owner waits for the stream that it is told."""
    packed = Packed(x)
    model(packed)
    assert packed.streams == [device_array.LEGACY]


@pytest.mark.parametrize(("stream", "waits"), [(None, False), (1, False), (2, True), (0x7F00, True)])
def test_the_stream_of_the_interface_is_waited_for(
    model: Model, x: np.ndarray, calls: Calls, stream: int | None, waits: bool
) -> None:
    """A kernel that begins before its input is there; a wait where the owner has said that there is none."""
    model(Interface(x, stream=stream))
    assert [call for call in calls if call[0] == "order"] == [("order", 0, stream, None)] * waits
    assert not waits or names(calls).index("order") < names(calls).index("infer_device")


def test_inputs_live_as_long_as_the_device_reads_them(
    model: Model, monkeypatch: pytest.MonkeyPatch, x: np.ndarray
) -> None:
    """Memory that its owner gives to others while a kernel reads it; memory that is held for ever."""
    passed = cuda_jit._passed
    monkeypatch.setattr(cuda_jit, "_passed", lambda *_: False)
    given = x.copy()
    alive = weakref.ref(given)
    model(Packed(given))
    del given
    model(Packed(x))
    gc.collect()
    assert alive() is not None
    monkeypatch.setattr(cuda_jit, "_passed", passed)
    model(Packed(x))
    gc.collect()
    assert alive() is None


class Refusing(Packed):
    """As PyTorch with a tensor whose gradient is wanted."""

    def __dlpack__(self, *, stream: int | None = None) -> object:
        raise BufferError("Can't export tensors\nthat require gradient, use tensor.detach()")


class Narrow(Packed):
    """An array of bfloat16."""

    def __dlpack__(self, *, stream: int | None = None) -> object:
        capsule = super().__dlpack__(stream=stream)
        address = _pointer(capsule, b"dltensor")
        assert address is not None
        ctypes.c_uint8.from_address(address + 20).value = 4
        return capsule


ROWS = np.ones((3, 7), np.float32)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (Packed(ROWS.astype(np.float64)), "input 'x' is float64, the model takes float32; convert it on the device"),
        (Interface(ROWS.astype(np.int32)), "input 'x' is int32, the model takes float32; convert it on the device"),
        (Packed(np.ones((3, 6), np.float32)), r"input 'x' has shape \(3, 6\), the model takes \(n, 7\)"),
        (Interface(np.ones((9, 7), np.float32)), "n is 9, the model was compiled for 0 to 4"),
        (Packed(np.ones((3, 14), np.float32)[:, ::2]), "input 'x' is not contiguous; pass a contiguous copy of it"),
        (Interface(np.ones((7, 3), np.float32).T), "input 'x' is not contiguous; pass a contiguous copy of it"),
        (Interface(ROWS, mask=Interface(ROWS)), "input 'x' has a mask"),
        (Interface(ROWS, stream=0), "input 'x' names stream 0"),
        (Packed(ROWS, device=1), "input 'x' is on device 1 and the model on device 0; copy it there"),
        (Packed(ROWS, kind=10), "input 'x' is on a device that is no GPU of CUDA; pass a copy on the host"),
        (Refusing(ROWS), "input 'x' does not lend its memory: Can't export tensors that require gradient, use"),
        (Narrow(ROWS), "input 'x' has a type that numpy does not have; convert it on the device"),
    ],
)
def test_what_cannot_be_used_is_said(model: Model, value: object, sentence: str, calls: Calls) -> None:
    """Numbers of another type, of another place or in another order, read as if they were the model's."""
    with pytest.raises(sofie.SofieError, match=sentence) as raised:
        model(value)
    assert "\n" not in str(raised.value)
    assert "infer_device" not in names(calls)


def test_strides_of_single_rows_say_nothing(model: Model, want: np.ndarray, x: np.ndarray) -> None:
    """An array that is contiguous and refused."""
    row = x[:1].copy()
    lent = Interface(row, strides=(4000, 4))
    np.testing.assert_allclose(np.asarray(model(lent)), want[:1], rtol=1e-6)


def test_an_array_of_nothing(model: Model) -> None:
    """A pointer to nothing that a consumer follows, or a launch that is refused."""
    y: Any = model(Interface(np.ones((0, 7), np.float32), data=(0, False)))
    assert y.shape == (0, 5) and np.asarray(y).shape == (0, 5)
    assert y.__cuda_array_interface__["data"][0] == 0


def test_outputs_are_lent(model: Model, x: np.ndarray, want: np.ndarray, calls: Calls) -> None:
    """A consumer that gets other numbers, or memory that is freed before it has done or never."""
    y: Any = model(Packed(x))
    said = y.__cuda_array_interface__
    assert (said["shape"], said["typestr"], said["version"], said["stream"]) == ((3, 5), "<f4", 3, 1)
    assert said["strides"] is None and said["data"] == (y.pointer, False)
    assert y.__dlpack_device__() == (2, 0)
    lent = np.from_dlpack(OnHost(y))
    assert lent.ctypes.data == y.pointer and lent.shape == (3, 5)
    del y
    gc.collect()
    assert "release" not in names(calls)
    np.testing.assert_allclose(lent, want, rtol=1e-6)
    del lent
    gc.collect()
    assert names(calls).count("release") == 1 and not device_array._lent


def test_outputs_of_one_model_are_inputs_of_the_next(model: Model, x: np.ndarray) -> None:
    """A chain of models that passes through the host, or whose middle is freed too early."""
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    double = models.build([node], {"x": [3, 5]}, ["y"], {"two": np.full(1, 2, np.float32)})
    with emulated():
        second = sofie.compile(double, target="cuda")
    once = np.asarray(model(Packed(x)))
    np.testing.assert_array_equal(np.asarray(second(model(Packed(x)))), 2 * once)


def test_a_capsule_that_nobody_takes_gives_back(model: Model, x: np.ndarray, calls: Calls) -> None:
    """Memory that a consumer which changes its mind leaves behind."""
    y: Any = model(Packed(x))
    capsule = y.__dlpack__()
    del y
    gc.collect()
    assert "release" not in names(calls)
    del capsule
    gc.collect()
    assert names(calls).count("release") == 1 and not device_array._lent


def test_a_consumer_waits_for_outputs(model: Model, x: np.ndarray, calls: Calls) -> None:
    """An output that is read before it is computed; a wait for a consumer that wants none."""
    y: Any = model(Packed(x))
    for stream in (None, 1, -1, 5):
        y.__dlpack__(stream=stream, max_version=(1, 0), dl_device=(2, 0), copy=None)
    assert [call for call in calls if call[0] == "order"] == [("order", 0, 0, 5)]
    with pytest.raises(ValueError, match="stream 0 is ambiguous"):
        y.__dlpack__(stream=0)
    for asked in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match="an output is lent where it is"):
            y.__dlpack__(**asked)
    assert not device_array._lent


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.uint8, np.float64])
def test_types_of_outputs(dtype: type, calls: Calls) -> None:
    """A type whose code is another's."""
    node = helper.make_node("Gather", ["x", "k"], ["y"], axis=0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    kinds = {"x": kind, "k": onnx.TensorProto.INT64}
    with emulated():
        model = sofie.compile(models.build([node], {"x": [4], "k": [3]}, ["y"], {}, kinds), target="cuda")
    x, k = np.array([0, 1, 1, 0], dtype), np.array([2, 0, 1])
    y: Any = model(Packed(x), k)
    assert names(calls).count("copy") == 1, "the indices are of the host"
    lent = np.from_dlpack(OnHost(y))
    assert lent.dtype == dtype
    np.testing.assert_array_equal(lent, x[k])


def test_shapes_that_the_run_finds(x: np.ndarray) -> None:
    """All the room of an output in the place of what the run has filled."""
    node = helper.make_node("NonZero", ["x"], ["y"])
    made = models.build([node], {"x": [2, 3]}, [], {})
    made.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.INT64, None))
    with emulated():
        model = sofie.compile(made, target="cuda")
    x = np.array([[0, 1, 0], [2, 0, 3]], np.float32)
    for value in (x, Packed(x)):
        y = np.asarray(model(value))
        np.testing.assert_array_equal(y, np.nonzero(x))


def test_what_tells_shapes_is_of_the_host() -> None:
    """Numbers that the compiler needs, read from a pointer of the device."""
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    made = models.build([node], {"x": [6], "shape": [2]}, ["y"], {}, {"shape": onnx.TensorProto.INT64})
    x, shape = np.arange(6, dtype=np.float32), np.array([2, 3])
    with emulated():
        model = sofie.compile(made, target="cuda")
        np.testing.assert_array_equal(np.asarray(model(Packed(x), shape)), x.reshape(2, 3))
        with pytest.raises(
            sofie.SofieError, match="input 'shape' tells shapes or axes: pass it as an array of the host"
        ):
            model(Packed(x), Packed(shape))


def test_a_model_on_a_cpu_takes_no_array_of_a_gpu(x: np.ndarray) -> None:
    """A pointer of a device that the CPU follows."""
    model = sofie.compile(models.mlp(3))
    for value in (Packed(x), Interface(x)):
        with pytest.raises(sofie.SofieError, match="input 'x' is on a GPU and the model on a CPU"):
            model(value)


def test_an_exception_becomes_a_sentence(model: Model) -> None:
    """An exception of C++ that ends the process."""
    compiled = model.compiled
    assert isinstance(compiled, cuda_jit.Compiled)
    with pytest.raises(sofie.SofieError, match="memory of the device: "):
        DeviceArray(compiled.unit, 0, (2**60,), np.dtype(np.uint8))
    one = (ctypes.c_int64 * 1)(99)
    nothing = (ctypes.c_void_p * 1)()
    with pytest.raises(sofie.SofieError, match="n must be from 0 to 4"):
        compiled.unit("infer", 0, compiled._session, one, nothing, nothing)
