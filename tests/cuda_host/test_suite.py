"""The suite's models through CUDA's emulation: whole nets, whose kernels run beside and after each other."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from sofie.compiler import Options, compile_model
from sofie.executors import Runtime
from tests.bench.models import MODELS, model
from tests.cuda_host.emulation import emulated

pytestmark = pytest.mark.usefixtures("needs_compiler")

LARGE = {"conv2d_L14", "conv3d_L4", "resnet18", "mobilenetv2", "gpt2_block"}
"""A commit's run leaves them out: seconds to minutes each where one thread plays all."""
TOLERANCE = 5e-6
"""Of the largest element: both round, in other orders."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All models with --full."""
    if "name" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        metafunc.parametrize("name", [name for name in MODELS if full or name not in LARGE])


def test_the_suite(name: str) -> None:
    """A buffer that one kernel overwrites while another still reads it; a barrier too few between layers."""
    proto, rng = model(name), np.random.default_rng(zlib.crc32(name.encode()))
    feeds = {}
    for value in proto.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        integral = value.type.tensor_type.elem_type == 7
        drawn = rng.integers(0, 16, shape) if integral else rng.standard_normal(shape).astype(np.float32)
        feeds[value.name] = drawn
    with emulated():
        got = compile_model(proto, Options(target="cuda")).run(feeds)
    want = Runtime(proto).run(feeds)
    assert want is not None
    for array, expected in zip(got.values(), want, strict=True):
        assert np.abs(array - expected).max() <= TOLERANCE * np.abs(expected).max()
