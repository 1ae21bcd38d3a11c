"""Fixed point on a GPU, emulated: the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import sofie
from tests.cuda_host.emulation import emulated
from tests.fixed.networks import swept, three_layers, three_layers_exact
from tests.fixed.test_to_fixed import TYPES, expected, inputs, network, passes

pytestmark = pytest.mark.usefixtures("needs_compiler")


def test_qonnx_on_a_gpu() -> None:
    """A shift that a device does otherwise, a sum that a schedule splits."""
    x = swept()[::3]
    want = [float(v) for v in three_layers_exact(x)]
    with emulated():
        got = sofie.compile(three_layers(len(x)), target="cuda")(x)
    np.testing.assert_array_equal(got[:, 0], np.array(want, np.float32))


@pytest.mark.parametrize("name", TYPES)
def test_a_dense_network_on_a_gpu(name: str) -> None:
    """Sums that saturate in another order."""
    with emulated():
        got = sofie.compile(network(), target="cuda", passes=f"{passes(*TYPES[name])},cuda")(inputs())
    np.testing.assert_array_equal(got, expected(*TYPES[name]))
