"""Float models in one fixed-point type: bit for bit what hls4ml's layers give."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest

import sofie
from sofie import jit, pipeline
from sofie.errors import SofieError
from sofie.fixed import Fixed
from sofie.frontends.onnx import load
from sofie.interpreter import run
from tests.fixed.networks import Graph
from tests.numerics.levels import SPARE

SIZES = (16, 8, 8, 3)
ROWS = 40

TYPES = {
    "default": ("ap_fixed<16,6>", ""),
    "8 bits that wrap": ("ap_fixed<8,3>", ""),
    "sums that saturate": ("ap_fixed<10,4,AP_RND,AP_SAT>", ""),
    "symmetric": ("ap_fixed<12,5,AP_RND_CONV,AP_SAT_SYM>", "ap_fixed<14,5,AP_TRN_ZERO,AP_SAT>"),
    "wider sums": ("ap_fixed<18,8>", "ap_fixed<24,12,AP_RND>"),
    "to zero": ("ap_fixed<9,2,AP_RND_ZERO,AP_SAT_ZERO>", "ap_fixed<11,3,AP_RND_INF,AP_SAT_ZERO>"),
    "32 bits that saturate": ("ap_fixed<16,6>", "ap_fixed<32,4,AP_TRN,AP_SAT>"),
    "64-bit integers": ("ap_fixed<20,6>", "ap_fixed<33,12>"),
}
"""The type of a model, and of its accumulators where it is another."""


def passes(precision: str, accum: str = "") -> str:
    return f'fold-constants,fold-batchnorm,to-fixed{{precision="{precision}" accum="{accum}"}}'


def parameters(spread: float = 0.8) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(6)
    return [
        (rng.normal(0, spread, (i, o)).astype(np.float32), rng.normal(0, spread, o).astype(np.float32))
        for i, o in zip(SIZES, SIZES[1:], strict=False)
    ]


def inputs() -> np.ndarray:
    return np.random.default_rng(8).normal(0, 1.5, (ROWS, SIZES[0])).astype(np.float32)


def network() -> onnx.ModelProto:
    """Dense layers as MatMul and Add, with Relu in between."""
    graph, value = Graph(), "x"
    for k, (w, b) in enumerate(parameters()):
        value = graph.node("Add", graph.node("MatMul", value, graph.constant(w)), graph.constant(b))
        value = graph.node("Relu", value) if k < 2 else value
    return graph.model([ROWS, SIZES[0]], value)


def dense(x: Sequence[int], w: np.ndarray, b: np.ndarray, kind: Fixed, accum: Fixed) -> list[int]:
    """`nnet_dense_latency.h` on raw numbers."""
    results = []
    for column, start in zip(w.T, b, strict=True):
        total = accum.raw(kind.value(kind.raw(float(start))))
        for raw, weight in zip(x, column, strict=True):
            product = kind.value(raw) * kind.value(kind.raw(float(weight)))
            total = accum.raw(accum.value(total) + accum.value(accum.raw(product)))
        results.append(kind.raw(accum.value(total)))
    return results


def expected(precision: str, accum: str) -> np.ndarray:
    kind = Fixed.parse(precision)
    sums = Fixed.parse(accum) if accum else kind
    rows = []
    for row in inputs():
        raw = [kind.raw(float(v)) for v in row]
        for k, (w, b) in enumerate(parameters()):
            raw = dense(raw, w, b, kind, sums)
            raw = [max(v, 0) for v in raw] if k < 2 else raw
        rows.append([float(kind.value(v)) for v in raw])
    return np.array(rows, np.float32)


def test_the_default_type_in_plain_integers() -> None:
    """A definition that is wrong twice: ap_fixed<16,6> written out, without the type."""

    def wrap(v: int) -> int:
        return (v + 2**15) % 2**16 - 2**15

    def raw(v: float) -> int:
        return wrap(int(np.floor(np.float64(v) * 1024)))

    rows = []
    for row in inputs():
        values = [raw(v) for v in row]
        for k, (w, b) in enumerate(parameters()):
            sums = [raw(v) for v in b]
            for i, x in enumerate(values):
                sums = [wrap(s + wrap((x * raw(v)) >> 10)) for s, v in zip(sums, w[i], strict=True)]
            values = [max(s, 0) if k < 2 else s for s in sums]
        rows.append([v / 1024 for v in values])
    np.testing.assert_array_equal(expected("fixed<16,6>", ""), np.array(rows, np.float32))


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("name", TYPES)
def test_a_dense_network_in_a_type(name: str) -> None:
    """A product that is not cut, a sum that is cut too late, an order of terms that saturates elsewhere."""
    want = expected(*TYPES[name])
    assert len(np.unique(want)) > 30
    for cpu in ("scalar", "native"):
        got = sofie.compile(network(), passes=f"{passes(*TYPES[name])},fuse,lower", cpu=cpu)(inputs())
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("level", SPARE)
@pytest.mark.parametrize("name", ["default", "sums that saturate", "32 bits that saturate", "64-bit integers"])
def test_every_level(name: str, level: str) -> None:
    """A pass that reorders sums or changes a bit."""
    module = load(network())
    pipeline.run(module, pipeline.parse(f"{passes(*TYPES[name])}{',' * bool(level)}{level}"), verify_each=True)
    np.testing.assert_array_equal(run(module, [inputs()])[0], expected(*TYPES[name]))


def test_saturating_sums_keep_their_order() -> None:
    """4 + 4 + 4 - 8 is 4 where sums wrap, and -1 where they end at 7."""
    graph = Graph()
    weights = graph.constant([[1.0], [1.0], [1.0], [-1.0]])
    proto = graph.model([2, 4], graph.node("MatMul", "x", weights))
    x = np.array([[4, 4, 4, 8], [-8, 4, 4, 4]], np.float32)
    for mode, want in (("AP_WRAP", [4, -4]), ("AP_SAT", [-1, -4])):
        for level in ("", "fuse", "fuse,lower"):
            steps = passes("fixed<12,8,AP_TRN,AP_SAT>", f"fixed<4,4,AP_TRN,{mode}>")
            module = load(proto)
            pipeline.run(module, pipeline.parse(f"{steps}{',' * bool(level)}{level}"))
            np.testing.assert_array_equal(run(module, [x])[0][:, 0], want)


@pytest.mark.usefixtures("needs_compiler")
def test_convolution_normalisation_and_sums_of_layers() -> None:
    """A layer whose result is not cut to the type."""
    kind = Fixed.parse("fixed<10,4>")
    rng = np.random.default_rng(9)
    x, w, b = (rng.normal(0, 1, s).astype(np.float32) for s in ((1, 2, 5, 5), (3, 2, 3, 3), (3,)))
    scale, offset, mean, variance = ([0.7, -1.2, 0.3], [0.1, 0.2, -0.4], [0.2, -0.3, 0.1], [1.3, 0.6, 2.0])
    graph = Graph()
    c = graph.node("Conv", "x", graph.constant(w), graph.constant(b), pads=[1, 1, 1, 1])
    r = graph.node("Relu", c)
    n = graph.node("BatchNormalization", r, *[graph.constant(v) for v in (scale, offset, mean, variance)])
    s = graph.node("Sub", graph.node("Add", n, graph.node("Mul", r, n)), graph.constant([[[[0.3]]]]))
    proto = graph.model([1, 2, 5, 5], graph.node("MaxPool", s, kernel_shape=[2, 2]))

    def of(array: object) -> np.ndarray:
        return np.vectorize(lambda v: kind.value(kind.raw(float(v))), otypes=[object])(np.asarray(array, np.float32))

    def cut(array: np.ndarray) -> np.ndarray:
        return np.vectorize(lambda v: kind.value(kind.raw(v)), otypes=[object])(array)

    padded = np.full((2, 7, 7), Fraction(0), object)
    padded[:, 1:-1, 1:-1] = of(x)[0]
    y = np.broadcast_to(of(b)[:, None, None], (3, 5, 5))
    for index in np.ndindex(2, 3, 3):
        i, p, q = index
        y = cut(y + cut(padded[i, p : p + 5, q : q + 5] * of(w)[:, i, p, q][:, None, None]))
    y = np.vectorize(lambda v: max(v, Fraction(0)), otypes=[object])(y)
    factor = np.asarray(scale, np.float32).astype(float) / np.sqrt(
        np.asarray(variance, np.float32).astype(float) + np.float32(1e-5)
    )
    shift = np.asarray(offset, np.float32).astype(float) - np.asarray(mean, np.float32).astype(float) * factor
    fixed = [np.array([kind.value(kind.raw(v)) for v in a], object)[:, None, None] for a in (factor, shift)]
    z = cut(y * fixed[0] + fixed[1])
    z = cut(cut(z + cut(y * z)) - kind.value(kind.raw(float(np.float32(0.3)))))
    want = np.array(
        [[[max(z[o, i : i + 2, j : j + 2].reshape(-1)) for j in range(4)] for i in range(4)] for o in range(3)], object
    )
    got = sofie.compile(proto, passes=f"{passes('fixed<10,4>')},fuse,lower")(x)
    np.testing.assert_array_equal(got[0], want.astype(np.float64).astype(np.float32))


REFUSED = {
    "'Softmax_0'.*looks it up in a table": lambda g: g.node("Softmax", "x"),
    "'Tanh_0'.*end the model before it": lambda g: g.node("Tanh", "x"),
    "'ReduceMean_0'.*to-fixed has no definition of it": lambda g: g.node("ReduceMean", "x"),
    "'Quant_0'.*to-fixed has no definition of it": lambda g: g.quant("x", 0.5, 4),
    "'Gemm_0'.*alpha and beta are not 1": lambda g: g.node("Gemm", "x", g.constant(np.ones((4, 2))), alpha=0.5),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_has_no_definition_is_one_sentence(sentence: str) -> None:
    """A layer that is computed in floats in between."""
    graph = Graph()
    module = load(graph.model([2, 4], REFUSED[sentence](graph)))
    with pytest.raises(SofieError, match=sentence):
        pipeline.run(module, pipeline.parse(passes("fixed<16,6>")))


@pytest.mark.parametrize(
    ("precision", "accum", "sentence"),
    [
        ("fixed<16>", "", "no fixed-point type; write fixed<16,6>"),
        ("fixed<40,20>", "", "80 bits, 64 is the most"),
        ("fixed<70,20>", "", "need 70 bits, 64 is the most"),
        ("fixed<16,6,AP_TRN,AP_SAT>", "", "accumulator saturates.*use accum with AP_WRAP"),
    ],
)
def test_types_that_cannot_be_are_one_sentence(precision: str, accum: str, sentence: str) -> None:
    """A type that is computed in fewer bits than it has."""
    graph = Graph()
    module = load(graph.model([1, 2, 3], graph.node("Conv", "x", graph.constant(np.ones((1, 2, 2))))))
    with pytest.raises(SofieError, match=sentence):
        pipeline.run(module, pipeline.parse(f"{passes(precision, accum)},fuse"))


def _vendor() -> Path | None:
    """The C++ templates of hls4ml, with AMD's headers of ap_fixed, where the package is installed."""
    found = importlib.util.find_spec("hls4ml")
    return None if found is None or found.origin is None else Path(found.origin).parent / "templates" / "vivado"


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.hls4ml
@pytest.mark.parametrize("name", TYPES)
def test_hls4ml_itself_gives_the_same(name: str, tmp_path: Path) -> None:
    """A definition that is not hls4ml's."""
    folder, (precision, accum) = _vendor(), TYPES[name]
    lines = ["#include <cstdio>", '#include "ap_fixed.h"', '#include "nnet_utils/nnet_dense.h"']
    lines += ['#include "nnet_utils/nnet_activation.h"', f"typedef {precision} T; typedef {accum or precision} A;"]
    for k, (w, b) in enumerate(parameters()):
        for letter, array in (("w", w), ("b", b)):
            lines.append(f"T {letter}{k}[] = {{{', '.join(float(v).hex() for v in array.reshape(-1))}}};")
        sizes = f"static const unsigned n_in = {w.shape[0]}, n_out = {w.shape[1]}, reuse_factor = 1;"
        kinds = "typedef A accum_t; typedef T bias_t; typedef T weight_t;"
        product = "template <class X, class Y> using product = nnet::product::mult<X, Y>;"
        lines.append(f"struct dense{k} : nnet::dense_config {{ {sizes} {kinds} {product} }};")
        lines.append(f"struct relu{k} : nnet::activ_config {{ static const unsigned n_in = {w.shape[1]}; }};")
    lines.append(f"const float x[] = {{{', '.join(float(v).hex() + 'f' for v in inputs().reshape(-1))}}};")
    lines.append(f"int main() {{ for (int n = 0; n < {ROWS}; ++n) {{ T v0[16];")
    lines.append("for (int i = 0; i < 16; ++i) v0[i] = x[n * 16 + i];")
    for k, (w, _) in enumerate(parameters()):
        lines.append(f"T d{k}[{w.shape[1]}], v{k + 1}[{w.shape[1]}];")
        lines.append(f"nnet::dense_latency<T, T, dense{k}>(v{k}, d{k}, w{k}, b{k});")
        last = f'for (int i = 0; i < {w.shape[1]}; ++i) std::printf("%a\\n", d{k}[i].to_double());'
        lines.append(f"nnet::relu<T, T, relu{k}>(d{k}, v{k + 1});" if k < 2 else last)
    (tmp_path / "net.cpp").write_text("\n".join([*lines, "}}", ""]))
    flags = ["-w", "-DNDEBUG", f"-I{folder}", f"-I{folder}/ap_types"]  # the headers assert on shifts they allow for
    subprocess.run([*jit.compiler(), *flags, "net.cpp", "-o", "net"], cwd=tmp_path, check=True)
    printed = subprocess.run(["./net"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    got = np.array([float.fromhex(v) for v in printed], np.float32).reshape(ROWS, SIZES[-1])
    np.testing.assert_array_equal(got, expected(precision, accum))
