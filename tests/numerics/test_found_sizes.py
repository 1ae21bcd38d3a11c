"""Results whose size the run finds, at every level and in C++: how many there are, where they lie, what follows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import sofie
from sofie import interpreter, pipeline
from sofie.frontends.onnx import load
from tests.emit.programs import FILES, compile_and_run, emit
from tests.numerics.levels import SPARE
from tests.numerics.texts import Feeds, assert_same, expected, model


def sparse(*shape: int, share: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < share, rng.standard_normal(shape), 0).astype(np.float32)


NONZERO = "(float[4, 5] x) => (int64[2, n] y) { y = NonZero (x) }"
FOLLOWED = """(float[4, 5] x) => (float[n] v, float[n, 2] w, float total)
{ i = NonZero (x) t = Transpose (i) v = GatherND (x, t) f = Cast <to = 1> (t) a = Add (f, f) w = Relu (a)
  s = ReduceSum <keepdims = 0> (v) total = Exp (s) }"""
SHAPE_OF_IT = """(float[4, 5] x) => (int64[2] y, float[n] z)
{ i = NonZero (x) y = Shape (i) c = Shape <start = 1> (i) z = ConstantOfShape <value = float[1] {2}> (c) }"""
COMPRESS = """(float[3, 4, 5] x, bool[3] c, bool[7] d) => (float[n, 4, 5] y, float[m] z)
{ y = Compress <axis = 0> (x, c) z = Compress (x, d) }"""
COMPRESS_COLUMNS = """(float[3, 4] x, bool[4] c, float[5, 3] w) => (float[5, n] y)
{ k = Compress <axis = -1> (x, c) y = MatMul (w, k) }"""
UNIQUE = "(float[9] x) => (float[n] y, int64[n] i, int64[9] r, int64[n] c) { y, i, r, c = Unique (x) }"
UNSORTED = "(int64[9] x) => (int64[n] y, int64[n] i, int64[9] r, int64[n] c) { y, i, r, c = Unique <sorted = 0> (x) }"
ROWS = """(float[6, 2, 2] x) => (float[n, 2, 2] y, int64[n] i, int64[6] r, int64[n] c)
{ y, i, r, c = Unique <axis = 0> (x) }"""
COLUMNS = "(float[2, 7] x) => (float[2, n] y, int64[7] r) { y, i, r, c = Unique <axis = 1, sorted = 0> (x) }"
BOXES = """(float[2, 9, 4] b, float[2, 3, 9] s, int64[1] k) => (int64[n, 3] y)
<float[1] u = {0.3}, float[1] t = {0.2}> { y = NonMaxSuppression (b, s, k, u, t) }"""
CENTRED = """(float[1, 9, 4] b, float[1, 2, 9] s) => (float[n, 4] y)
<int64[1] k = {4}, float[1] u = {0.1}, int64[1] two = {2}, int64[1] big = {9}, int64[1] one = {1}>
{ r = NonMaxSuppression <center_point_box = 1> (b, s, k, u) c = Slice (r, two, big, one) i = Squeeze (c, one)
  m = Squeeze (b, zero) y = Gather (m, i) }""".replace("int64[1] one", "int64[1] zero = {0}, int64[1] one")


SLICED = """(float[6, 5] x, int64[1] start, int64[1] end) => (float[n, 5] y, float[5] z)
<int64[1] axis = {0}> { s = Neg (start) t = Neg (s) y = Slice (x, t, end, axis)
  z = ReduceSum <keepdims = 0> (y, axis) }"""
BOTH_AXES = """(float[6, 5] x, int64[2] start, int64[2] end) => (float[n, m] y)
<int64[2] axes = {1, -2}, int64[2] steps = {2, 1}> { p = Slice (x, start, end, axes, steps) y = Relu (p) }"""
BEST = """(float[4, 5] x) => (float[k] v, int64[k] i, float total) <int64 most = {7}, int64[1] zero = {0}> {
  n = NonZero (x) s = Shape <start = 1> (n) c = Squeeze (s) k = Min (c, most) t = Transpose (n) g = GatherND (x, t)
  o = Unsqueeze (k, zero) v, i = TopK (g, o) total = ReduceSum <keepdims = 0> (v) }"""


def boxes(batches: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.random((batches, 9, 2)) * 3
    return np.concatenate([corner, corner + 0.2 + rng.random((batches, 9, 2)) * 2], -1).astype(np.float32)


def few(*shape: int, kind: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, shape).astype(kind)


CASES: dict[str, tuple[str, list[Feeds]]] = {
    "nonzero": (NONZERO, [{"x": sparse(4, 5, share=s)} for s in (0.4, 0.0, 1.0)]),
    "followed": (FOLLOWED, [{"x": sparse(4, 5, share=s)} for s in (0.4, 0.0, 1.0)]),
    "shape of it": (SHAPE_OF_IT, [{"x": sparse(4, 5, share=s)} for s in (0.4, 0.1)]),
    "compress": (
        COMPRESS,
        [
            {"x": sparse(3, 4, 5, share=1), "c": np.array(c, bool), "d": np.array(d, bool)}
            for c, d in (([1, 0, 1], [0, 1, 1, 0, 0, 1, 1]), ([0, 0, 0], [0] * 7), ([1, 1, 1], [1] * 7))
        ],
    ),
    "compress columns": (
        COMPRESS_COLUMNS,
        [{"x": sparse(3, 4, share=1), "c": np.array([1, 0, 1, 1], bool), "w": sparse(5, 3, share=1)}],
    ),
    "unique": (UNIQUE, [{"x": few(9)}, {"x": np.zeros(9, np.float32)}, {"x": sparse(9, share=1)}]),
    "unsorted": (UNSORTED, [{"x": few(9, kind=np.int64)}, {"x": np.arange(9)[::-1].copy()}]),
    "rows": (ROWS, [{"x": few(6, 2, 2)}, {"x": few(6, 2, 2) // 2}]),
    "columns": (COLUMNS, [{"x": few(2, 7)}]),
    "boxes": (
        BOXES,
        [
            {"b": boxes(2, seed), "s": np.abs(sparse(2, 3, 9, share=1, seed=seed)), "k": np.array([k])}
            for seed, k in ((0, 3), (1, 9), (2, 0))
        ],
    ),
    "sliced": (
        SLICED,
        [
            {"x": sparse(6, 5, share=1), "start": np.array([s]), "end": np.array([e])}
            for s, e in ((1, 4), (0, 6), (-3, 100), (4, 2), (-100, -1))
        ],
    ),
    "both axes": (
        BOTH_AXES,
        [
            {"x": sparse(6, 5, share=1), "start": np.array(s), "end": np.array(e)}
            for s, e in (([0, 1], [5, 3]), ([1, -2], [4, 9]), ([2, 0], [2, 6]))
        ],
    ),
    "best": (BEST, [{"x": sparse(4, 5, share=s)} for s in (0.6, 0.2, 1.0)]),
    "centred": (CENTRED, [{"b": boxes(1), "s": sparse(1, 2, 9, share=1)}]),
}


REFERENCE_ERRS = ("columns",)
"""onnx.reference fails on unsorted columns."""


@pytest.mark.parametrize("case", CASES)
def test_the_run_finds_the_size_at_every_level(case: str) -> None:
    text, samples = CASES[case]
    proto = model(text)
    for spec in SPARE:
        module = load(proto)
        pipeline.run(module, pipeline.parse(spec) if spec else [], verify_each=True)
        for feeds in samples:
            if spec or case not in REFERENCE_ERRS:
                assert_same(interpreter.run(module, list(feeds.values())), expected(proto, feeds))


@pytest.mark.parametrize("case", CASES)
def test_compiled_programs_find_it_too(case: str, needs_compiler: None) -> None:
    text, samples = CASES[case]
    proto = model(text)
    compiled = sofie.compile(proto)
    for feeds in samples:
        assert_same(list(compiled.run(feeds).values()), expected(proto, feeds))


def test_the_largest_number_of_elements_is_part_of_the_type() -> None:
    module = load(model(BOXES))
    assert "selected_y=0..54" in str(module)
    limited = load(
        model(BOXES.replace("int64[1] k) =>", "float q) =>").replace("<float[1] u", "<int64[1] k = {2}, float[1] u"))
    )
    assert "selected_y=0..12" in str(limited)


def test_nan_is_one_value_above_all_numbers(needs_compiler: None) -> None:
    x = np.array([np.nan, 1, -np.inf, np.nan, np.inf, 1, 0, -0.0, 2], np.float32)
    y, first, inverse, counts = sofie.compile(model(UNIQUE))(x)
    np.testing.assert_array_equal(y, np.array([-np.inf, 0, 1, 2, np.inf, np.nan], np.float32))
    np.testing.assert_array_equal(first, [2, 6, 1, 8, 4, 0])
    np.testing.assert_array_equal(counts, [1, 2, 2, 1, 1, 2])
    np.testing.assert_array_equal(inverse, [5, 2, 0, 5, 4, 2, 1, 1, 3])


def test_beside_sizes_of_the_caller(needs_compiler: None) -> None:
    """A batch that the caller tells, and in each run a number of hits within it."""
    proto = model(
        "(float[batch, 3] x) => (int64[2, n] y, float[n] z) { y = NonZero (x) t = Transpose (y) z = GatherND (x, t) }"
    )
    compiled = sofie.compile(proto, dims={"batch": (1, 8)})
    for batch in (1, 5, 8):
        x = sparse(batch, 3, share=0.5, seed=batch)
        assert_same(list(compiled(x)), ReferenceEvaluator(proto).run(None, {"x": x}))


def main(body: str) -> str:
    return f'#include "net.hxx"\n#include <cstdio>\n{FILES}\nint main()\n{{\n{body}\n}}\n'


def test_in_cpp_the_extents_stand_beside_the_pointer(tmp_path: Path, needs_compiler: None) -> None:
    """Under the sanitizers: nothing is written beyond the bound, and the extents are those of the run."""
    emit(tmp_path, model(COMPRESS), "net")
    body = """   SOFIE_net::Session session("net.dat");
   float x[60];
   for (int i = 0; i < 60; ++i)
      x[i] = static_cast<float>(i);
   const std::uint8_t c[3] = {0, 1, 1}, d[7] = {0, 0, 0, 0, 0, 1, 0};
   std::vector<float> y(60), z(7);
   std::size_t y_shape[3], z_shape[1];
   session.infer(x, c, d, y.data(), y_shape, z.data(), z_shape);
   std::printf("%zu %zu %zu %g %g\\n", y_shape[0], y_shape[1], y_shape[2], y[0], y[39]);
   const auto [v, v_shape, w, w_shape] = session.infer(x, c, d);
   std::printf("%zu %zu %zu %zu %g\\n", v.size(), v_shape[0], w.size(), w_shape[0], w[0]);"""
    printed = compile_and_run(tmp_path, main(body), ("-O1", "-fsanitize=address,undefined"))
    assert printed.splitlines() == ["2 4 5 20 59", "40 2 1 1 5"]


def test_emitted_code_is_clean_under_the_sanitizers(tmp_path: Path, needs_compiler: None) -> None:
    """Every case in one program, on buffers of just the bound."""
    bodies, includes = [], ""
    for k, (text, samples) in enumerate(CASES.values()):
        made = emit(tmp_path, model(text), f"case_{k}")
        includes += f'#include "case_{k}.hxx"\n'
        lines = [f'   SOFIE_case_{k}::Session session_{k}("case_{k}.dat");']
        for j, feeds in enumerate(samples):
            names = []
            for port in made.program.inputs:
                name = f"in_{k}_{j}_{port.parameter}"
                (tmp_path / f"{name}.bin").write_bytes(np.ascontiguousarray(feeds[port.name]).tobytes())
                lines.append(f'   const auto {name} = read<{port.cpp}>("{name}.bin");')
                names.append(f"{name}.data()")
            lines.append(f"   static_cast<void>(session_{k}.infer({', '.join(names)}));")
        bodies.append("\n".join(lines))
    newline = "\n"
    text = f"{includes}{FILES}\nint main()\n{{\n{newline.join(bodies)}\n}}\n"
    compile_and_run(tmp_path, text, ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
