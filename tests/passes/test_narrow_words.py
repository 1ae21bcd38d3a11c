"""Products of bytes that are added in 16 bits: only where weights keep them there, and then the same sums."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sofie.compiler import Options, compile_model, lower
from tests import models
from tests.cpus import BYTE_CPUS

ENDS = ((64, 64, True), (127, 1, True), (-64, -64, True), (-128, 0, True), (127, -128, True))
WIDE = ((65, 64, False), (127, 2, False), (-128, -1, False), (-65, -64, False))
"""Two neighbouring weights, and whether their products with two bytes always have 16 bits together."""


def _model(pairs: list[tuple[int, int]], terms: int = 20, columns: list[int] | None = None) -> onnx.ModelProto:
    """A product of 5 rows for each pair, of so many columns; of its weights all neighbours are that pair."""
    counts = columns or [19] * len(pairs)
    kinds = {f"x{i}": TensorProto.UINT8 for i in range(len(pairs))}
    kinds |= {f"y{i}": TensorProto.INT32 for i in range(len(pairs))}
    nodes = [helper.make_node("MatMulInteger", [f"x{i}", f"w{i}"], [f"y{i}"]) for i in range(len(pairs))]
    weights = {f"w{i}": _weights(pair, terms, n) for i, (pair, n) in enumerate(zip(pairs, counts, strict=True))}
    inputs = {f"x{i}": [5, terms] for i in range(len(pairs))}
    return models.build(nodes, inputs, [f"y{i}" for i in range(len(pairs))], weights, kinds)


def _weights(pair: tuple[int, int], terms: int, columns: int) -> np.ndarray:
    return np.repeat(np.resize(np.array(pair, np.int8), terms)[:, None], columns, axis=1)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("byte_cpu", BYTE_CPUS, indirect=True)
def test_the_largest_sums_are_exact(byte_cpu: str) -> None:
    """A sum that saturates at 16 bits; terms or columns that fill no word or vector. No two products share a kernel."""
    rng = np.random.default_rng(1)
    pairs = [(a, b) for a, b, _ in (*ENDS, *WIDE)]
    for terms, least in ((20, 13), (64, 32), (4, 3)):
        columns = [least + i for i in range(len(pairs))]
        bytes_of_x = [np.full((5, terms), 255, np.uint8), np.zeros((5, terms), np.uint8)]
        bytes_of_x += [rng.integers(0, 256, (5, terms), np.uint8), rng.choice([0, 255], (5, terms)).astype(np.uint8)]
        compiled = compile_model(_model(pairs, terms, columns), Options(cpu=byte_cpu))
        for x in bytes_of_x:
            results = compiled.run({f"x{i}": x for i in range(len(pairs))})
            for pair, count, got in zip(pairs, columns, results.values(), strict=True):
                want = x.astype(np.int64) @ _weights(pair, terms, count)
                np.testing.assert_array_equal(got, want, err_msg=str((pair, terms, count)))


@pytest.mark.parametrize(("a", "b", "narrow"), [*ENDS, *WIDE])
def test_the_weights_tell(a: int, b: int, narrow: bool) -> None:
    header = lower(_model([(a, b)]), "m", Options(cpu="x86-64-v3")).header()
    kernels = header[header.index("namespace kernels") :]
    assert ("detail::narrow_dot(" in kernels) == narrow
    assert ("wide[" in kernels) != narrow


def test_layers_of_one_kernel_are_narrow_together() -> None:
    """A kernel that two calls share, one of them with weights that need 32 bits."""
    for second, narrow in (((3, 4), True), ((100, 100), False)):
        header = lower(_model([(1, 2), second]), "m", Options(cpu="x86-64-v3")).header()
        kernels = header[header.index("namespace kernels") :]
        assert kernels.count("SOFIE_KERNEL void") == 1
        assert ("detail::narrow_dot(" in kernels) == narrow
