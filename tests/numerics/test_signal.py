"""Fourier transforms of every length and form, and the windows and filters that go with them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import sofie
from sofie import interpreter, pipeline
from sofie.errors import UnsupportedError
from sofie.frontends.onnx import load
from tests import models
from tests.numerics.cases import Case, check, run, side_by_side
from tests.numerics.levels import LEVELS

RNG = np.random.default_rng(0)
LENGTHS = (1, 2, 7, 12, 16, 17, 30, 34, 64, 400)
"""Direct, prime, and of two, three and four stages."""


def dft(name: str, shape: tuple[int, ...], length: int | None = None, axis: int | None = None, **flags: int) -> Case:
    operands = [
        RNG.standard_normal(shape),
        None if length is None else np.array(length),
        None if axis is None else np.array(axis),
    ]
    while operands[-1] is None:
        operands.pop()
    return Case(name, "DFT", operands, (1, 2), flags)


TRANSFORMS = [
    *(dft(f"real_{n}", (2, n, 1)) for n in LENGTHS),
    *(dft(f"complex_{n}", (2, n, 2)) for n in LENGTHS),
    *(dft(f"inverse_{n}", (2, n, 2), inverse=1) for n in LENGTHS),
    *(dft(f"onesided_{n}", (2, n, 1), onesided=1) for n in LENGTHS),
    *(dft(f"real_again_{n}", (2, n // 2 + 1, 2), n, onesided=1, inverse=1) for n in LENGTHS),
    dft("half_again", (3, 9, 2), onesided=1, inverse=1),
    dft("cut", (2, 20, 2), 12),
    dft("padded", (2, 20, 1), 33),
    dft("padded_onesided", (2, 20, 1), 33, onesided=1),
    dft("padded_again", (2, 5, 2), 24, onesided=1, inverse=1),
    dft("cut_again", (2, 9, 2), 6, onesided=1, inverse=1),
    dft("first_axis", (20, 3, 4, 2), axis=0),
    dft("middle_axis", (3, 18, 4, 1), axis=-3, onesided=1),
    dft("real_inverse", (2, 12, 1), inverse=1),
]
FRAMES = [
    Case("frames", "STFT", [RNG.standard_normal((2, 90, 1)), np.array(10), RNG.uniform(0, 1, 32)], (1,)),
    Case("all", "STFT", [RNG.standard_normal((1, 40, 1)), np.array(7), None, np.array(12)], (1, 3), {"onesided": 0}),
    Case(
        "complex", "STFT", [RNG.standard_normal((1, 40, 2)), np.array(9), None, np.array(16)], (1, 3), {"onesided": 0}
    ),
    Case("whole", "STFT", [RNG.standard_normal((2, 24, 1)), np.array(9)], (1,), {"onesided": 1}),
]
CASES = [*TRANSFORMS, *FRAMES]


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_transforms_of_all_lengths_and_forms(kind: str) -> None:
    """A twiddle factor, a mirrored frequency or a stage in the wrong place; sums that are made in float32."""
    got = run(CASES, kind)
    for c in CASES:
        check(got[c.name], c.expected(kind), kind, 1 if kind == "float32" else 64)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 16])
def test_the_first_and_the_middle_frequency_of_a_real_signal_are_real(length: int) -> None:
    """sin(pi) in the table as 1.2e-16, times a large signal: noise that a maximum then takes for the result."""
    node, kind = helper.make_node("DFT", ["x"], ["y"]), onnx.TensorProto.DOUBLE
    model = models.build([node], {"x": (1, length, 1)}, ["y"], {}, {"x": kind, "y": kind}, opset=20)
    module = load(model)
    pipeline.run(module, pipeline.parse("lower"))
    (got,) = interpreter.run(module, [1e6 * RNG.standard_normal((1, length, 1))])
    assert not np.asarray(got)[0, [0, length // 2] if length % 2 == 0 else [0], 1].any()


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_means_the_same(level: str) -> None:
    """A pass mixes up the real and the imaginary part."""
    cases = CASES[::4]
    model, feeds = side_by_side(cases, "float32")
    module = load(model)
    pipeline.run(module, pipeline.parse(level))
    for c, got in zip(cases, interpreter.run(module, list(feeds.values())), strict=True):
        check(np.asarray(got), c.expected("float32"), "float32", 2)


@pytest.mark.usefixtures("needs_compiler")
def test_there_and_back_again() -> None:
    """An inverse that is not one."""
    nodes = [
        helper.make_node("DFT", ["x"], ["f"], onesided=1),
        helper.make_node("DFT", ["f", "n"], ["y"], onesided=1, inverse=1),
    ]
    model = models.build(nodes, {"x": (3, 45, 1)}, ["y"], {"n": np.array(45)}, opset=20)
    x = models.normal(3, 45, 1)
    check(sofie.compile(model).run({"x": x})["y"], x.astype("float64"), "float32", 2)


@pytest.mark.usefixtures("needs_compiler")
def test_batches_of_the_run() -> None:
    """Rows beyond the batch that was looked at when compiling."""
    model = models.build([helper.make_node("DFT", ["x"], ["y"])], {"x": ("n", 20, 2)}, ["y"], {}, opset=20)
    compiled = sofie.compile(model, dims={"n": (1, 5)})
    for n in (1, 2, 5):
        x = models.normal(n, 20, 2)
        want = np.fft.fft(x[..., 0].astype("float64") + 1j * x[..., 1])
        check(compiled.run({"x": x})["y"], np.stack([want.real, want.imag], -1), "float32", 1)


def test_a_transform_along_an_axis_of_the_run_is_refused() -> None:
    """Tables for another length."""
    model = models.build([helper.make_node("DFT", ["x"], ["y"])], {"x": (1, "t", 1)}, ["y"], {}, opset=20)
    with pytest.raises(UnsupportedError, match="--dim t"):
        sofie.compile(model, dims={"t": (1, 9)})


@pytest.mark.usefixtures("needs_compiler")
def test_nothing_to_transform() -> None:
    """A loop over an empty batch, or over no elements."""
    got = run([dft("batch", (0, 8, 1)), dft("padded", (2, 0, 2), 4)], "float32")
    assert got["batch"].shape == (0, 8, 2)
    np.testing.assert_array_equal(got["padded"], np.zeros((2, 4, 2), np.float32))


# -- windows -----------------------------------------------------------------------------------------------------

SIZE = 5000
"""Above what is evaluated when a model is read, so that the lowering is what runs."""


def window(operator: str, periodic: int, kind: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    """A window as long as the input, times it."""
    nodes = [
        helper.make_node("Size", ["x"], ["s"]),
        helper.make_node(operator, ["s"], ["w"], periodic=periodic, output_datatype=kind),
        helper.make_node("Mul", ["w", "x"], ["y"]),
    ]
    return models.build(nodes, {"x": ("n",)}, ["y"], {}, {"x": kind, "y": kind}, 21)


def shape_of_window(operator: str, size: int, periodic: int) -> np.ndarray:
    phase = np.arange(size) * np.pi / (size if periodic else size - 1)
    if operator == "HannWindow":
        return np.sin(phase) ** 2
    a, b, c = (25 / 46, 21 / 46, 0.0) if operator == "HammingWindow" else (0.42, 0.5, 0.08)
    return a - b * np.cos(2 * phase) + c * np.cos(4 * phase)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("operator", ["HannWindow", "HammingWindow", "BlackmanWindow"])
def test_windows_of_the_run(operator: str, periodic: int, kind: str) -> None:
    """A window made for another size, or in float32 where it should be rounded once."""
    model = window(operator, periodic, helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    compiled = sofie.compile(model, dims={"n": (2, SIZE)})
    for size in (2, 33, SIZE):
        got = compiled.run({"x": np.ones(size, kind)})["y"]
        check(got, shape_of_window(operator, size, periodic), kind, 1)


@pytest.mark.usefixtures("needs_compiler")
def test_large_windows_and_filters_that_are_constant() -> None:
    """What is too large to be evaluated when a model is read."""
    constants = {"n": np.array(SIZE), "a": np.array(80), "b": np.array(400), "c": np.array(16000)}
    constants |= {"d": np.float32(20), "e": np.float32(8000)}
    nodes = [helper.make_node("HannWindow", ["n"], ["w"]), helper.make_node("MelWeightMatrix", [*"abcde"], ["m"])]
    model = models.build(nodes, {}, ["w", "m"], constants, opset=21)
    got = sofie.compile(model).run({})
    want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})
    check(got["w"], shape_of_window("HannWindow", SIZE, 1), "float32", 4)
    check(got["m"], want[1], "float32", 4)
