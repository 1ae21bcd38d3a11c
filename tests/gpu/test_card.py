"""Models on a card, by `sofie.compile(target="cuda")`: what nvcc makes of them, where a GPU is there to say."""

from __future__ import annotations

import ctypes
import shutil
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import sofie
from tests import models

pytestmark = pytest.mark.gpu

REFERENCE_IS_WRONG = {"integers", "sequences"}
"""onnx.reference has the indices of poolings and sequences of several lengths wrong: there ONNX Runtime decides."""


@cache
def no_card() -> str:
    """Why nothing runs on a card here; empty where it does."""
    try:
        library, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    except OSError:
        return "there is no driver of a card (libcuda.so.1)"
    if library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the driver finds no card"
    return "" if shutil.which("nvcc") else "nvcc is not installed"


@pytest.fixture(autouse=True)
def card() -> None:
    """Skips where there is no card."""
    if why := no_card():
        pytest.skip(why)


def check(name: str, model: onnx.ModelProto, made: sofie.Model, feeds: dict[str, np.ndarray]) -> None:
    """Outputs of the types and shapes of the reference, close to it; integers are the same."""
    found = made.run(feeds)
    runtime = name in REFERENCE_IS_WRONG
    judge = onnxruntime.InferenceSession(model.SerializeToString()) if runtime else ReferenceEvaluator(model)
    expected = judge.run(None, feeds)
    for (output, value), want in zip(found.items(), expected, strict=True):
        assert (value.dtype, value.shape) == (want.dtype, want.shape), output
        if want.dtype.kind == "f":
            np.testing.assert_allclose(
                value, want, rtol=1e-4, atol=1e-5 * np.abs(want).max(initial=1.0), err_msg=output
            )
        else:
            np.testing.assert_array_equal(value, want, err_msg=output)


@pytest.mark.parametrize("name", models.ALL)
def test_a_small_model(name: str) -> None:
    """A kernel that only the emulation runs rightly; a graph whose second run is another."""
    model = models.ALL[name]()
    made = sofie.compile(model, target="cuda")
    for seed in (0, 1, 0):
        check(name, model, made, models.feeds(model, seed))


def test_a_batch_of_the_run() -> None:
    """A graph, or a count of threads, that is of the first batch."""
    model = models.mlp("n")
    made = sofie.compile(model, target="cuda", dims={"n": (1, 3000)})
    for batch in (1, 3000, 7, 3000):
        check("mlp", model, made, {"x": models.normal(batch, 7, seed=batch)})


class OnTheCard:
    """An array on the card that speaks CUDA's array interface, without a library for it."""

    def __init__(self, array: np.ndarray) -> None:
        self.runtime = ctypes.CDLL("libcuda.so.1")
        self.pointer = ctypes.c_uint64()
        assert not self.runtime.cuMemAlloc_v2(ctypes.byref(self.pointer), ctypes.c_size_t(array.nbytes))
        source = ctypes.c_void_p(array.ctypes.data)
        assert not self.runtime.cuMemcpyHtoD_v2(self.pointer, source, ctypes.c_size_t(array.nbytes))
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.pointer.value, False),
            "version": 3,
        }


def test_an_array_of_the_card_is_used_where_it_is() -> None:
    """A pointer of the card that is read by the host, or an output that never comes back."""
    model, x = models.mlp(), models.normal(3, 7)
    made = sofie.compile(model, target="cuda")
    want = made(x)  # the card's context is current from here on
    there = made(OnTheCard(x))
    assert not isinstance(there, np.ndarray)
    np.testing.assert_array_equal(np.asarray(there), want)
