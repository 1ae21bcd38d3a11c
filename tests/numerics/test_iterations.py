"""Loop and Scan at every level and in C++: what is carried, what grows, what ends them, what they see from outside."""

from __future__ import annotations

import numpy as np
import pytest

import sofie
from sofie import interpreter, pipeline
from sofie.errors import UnsupportedError
from sofie.frontends.onnx import load
from tests.numerics.levels import SPARE
from tests.numerics.texts import Feeds, assert_same, expected, model


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CARRIED = """(float[3, 4] x) => (float[3, 4] y, float[3, 4] z) <int64 m = {5}, bool c = {1}, float[4, 4] w = {
  0.5, 0.1, 0, 0, 0, 0.5, 0.1, 0, 0, 0, 0.5, 0.1, 0.1, 0, 0, 0.5}> {
  y, z = Loop (m, c, x, x) <body = b (int64 i, bool ci, float[3, 4] a, float[3, 4] b)
    => (bool co, float[3, 4] p, float[3, 4] q) {
    co = Identity (ci) n = MatMul (a, w) p = Add (n, b) q = Identity (a) }> }"""
SWAPPED = """(float[3] x, float[3] u) => (float[3] y, float[3] z) <int64 m = {3}> {
  y, z = Loop (m, , x, u) <body = b (int64 i, bool ci, float[3] a, float[3] b)
    => (bool co, float[3] p, float[3] q) { co = Identity (ci) p = Identity (b) q = Identity (a) }> }"""
GROWN = """(float[4] x) => (float[4] y, float[6, 4] rows, int64[6] numbers) <int64 m = {6}, bool c = {1}> {
  y, rows, numbers = Loop (m, c, x) <body = b (int64 i, bool ci, float[4] a)
    => (bool co, float[4] p, float[4] r, int64 n) {
    co = Identity (ci) f = Cast <to = 1> (i) p = Add (a, f) r = Mul (p, x) n = Mul (i, i) }> }"""
WHILE = """(float[2] x, float limit) => (float[2] y, int64 n) <int64 zero = {0}, bool c = {1}> {
  y, n = Loop (, c, x, zero) <body = b (int64 i, bool ci, float[2] a, int64 k) => (bool co, float[2] p, int64 l)
    <int64 one = {1}> { p = Add (a, a) l = Add (k, one) s = ReduceMax <keepdims = 0> (p) co = Less (s, limit) }> }"""
ENDED = """(float[2] x, float limit, bool c) => (float[2] y, float[n, 2] rows, float[n] tops) <int64 m = {9}> {
  y, rows, tops = Loop (m, c, x) <body = b (int64 i, bool ci, float[2] a)
    => (bool co, float[2] p, float[2] r, float s) {
    p = Add (a, a) r = Neg (p) s = ReduceMax <keepdims = 0> (p) co = Less (s, limit) }> }"""
COUNTED = """(float[2] x, int64 m) => (float[2] y) <bool c = {1}> {
  y = Loop (m, c, x) <body = b (int64 i, bool ci, float[2] a) => (bool co, float[2] p) {
    co = Identity (ci) p = Add (a, x) }> }"""
NESTED = """(float[2] x) => (float[2] y) <int64 m = {3}, bool c = {1}> {
  y = Loop (m, c, x) <body = b (int64 i, bool ci, float[2] a) => (bool co, float[2] p) {
    co = Identity (ci)
    p = Loop (i, c, a) <body = d (int64 j, bool cj, float[2] e) => (bool ck, float[2] f) {
      ck = Identity (cj) g = Cast <to = 1> (j) h = Add (e, g) f = Add (h, a) }> }> }"""
BRANCHED = """(float[2] x) => (float[2] y) <int64 m = {5}, bool c = {1}, int64 two = {2}, int64 zero = {0}> {
  y = Loop (m, c, x) <body = b (int64 i, bool ci, float[2] a) => (bool co, float[2] p) {
    co = Identity (ci) r = Mod (i, two) even = Equal (r, zero)
    p = If (even) <then_branch = t () => (float[2] u) { u = Add (a, x) },
      else_branch = e () => (float[2] v) { v = Mul (a, x) }> }> }"""
CHANGING = """(float[1, 2] x) => (float[n, 2] y) <int64 m = {3}, bool c = {1}> {
  y = Loop (m, c, x) <body = b (int64 i, bool ci, float[k, 2] a) => (bool co, float[j, 2] p) {
    co = Identity (ci) p = Concat <axis = 0> (a, x) }> }"""
SUM = """(float[2] s, float[5, 2] x) => (float[2] t, float[5, 2] y) {
  t, y = Scan (s, x) <num_scan_inputs = 1, body = b (float[2] a, float[2] r) => (float[2] p, float[2] q) {
    p = Add (a, r) q = Tanh (p) }> }"""
TURNED = """(float[2] s, float[2, 5] x, float[5, 2] u) => (float[2] t, float[2, 5] y, float[5] z) {
  t, y, z = Scan (s, x, u) <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0],
    scan_output_axes = [1, 0], scan_output_directions = [0, 1],
    body = b (float[2] a, float[2] r, float[2] w) => (float[2] p, float[2] q, float o) {
      h = Mul (a, w) p = Add (h, r) q = Sub (p, w) o = ReduceSum <keepdims = 0> (q) }> }"""

CASES: dict[str, tuple[str, list[Feeds]]] = {
    "carried": (CARRIED, [{"x": normal(3, 4)}]),
    "swapped": (SWAPPED, [{"x": normal(3), "u": normal(3, seed=1)}]),
    "grown": (GROWN, [{"x": normal(4)}]),
    "while": (WHILE, [{"x": np.array([1, 2], np.float32), "limit": np.array(v, np.float32)} for v in (100, 1)]),
    "ended": (
        ENDED,
        [
            {"x": np.array([1, 2], np.float32), "limit": np.array(v, np.float32), "c": np.array(c)}
            for v, c in ((100, True), (1, True), (1e9, True), (100, False))
        ],
    ),
    "counted": (COUNTED, [{"x": normal(2), "m": np.array(m)} for m in (4, 0, -1)]),
    "nested": (NESTED, [{"x": normal(2)}]),
    "branched": (BRANCHED, [{"x": normal(2)}]),
    "changing": (CHANGING, [{"x": normal(1, 2)}]),
    "sum": (SUM, [{"s": normal(2), "x": normal(5, 2, seed=1)}]),
    "turned": (TURNED, [{"s": normal(2), "x": normal(2, 5, seed=1), "u": normal(5, 2, seed=2)}]),
}


@pytest.mark.parametrize("case", CASES)
def test_iterations_at_every_level(case: str) -> None:
    text, samples = CASES[case]
    proto = model(text)
    for spec in SPARE:
        for feeds in samples:
            values = {"c": feeds["c"]} if "c" in feeds else {}
            module = load(proto, operands=values)
            pipeline.run(module, pipeline.parse(spec) if spec else [], verify_each=True)
            assert_same(interpreter.run(module, list(feeds.values())), expected(proto, feeds), rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_compiled_iterations(case: str, needs_compiler: None) -> None:
    text, samples = CASES[case]
    proto = model(text)
    compiled = sofie.compile(proto)
    for feeds in samples:
        assert_same(list(compiled.run(feeds).values()), expected(proto, feeds), rtol=1e-5)


def test_as_many_iterations_as_a_size_of_the_run(needs_compiler: None) -> None:
    proto = model("""(float[batch, 2] x) => (float[2] y, float[batch, 2] rows) <bool c = {1}, float[2] start = {0, 0}> {
      s = Shape <end = 1> (x) m = Squeeze (s)
      y, rows = Loop (m, c, start) <body = b (int64 i, bool ci, float[2] a) => (bool co, float[2] p, float[2] r) {
        co = Identity (ci) f = Gather (x, i) p = Add (a, f) r = Identity (p) }> }""")
    compiled = sofie.compile(proto, dims={"batch": (1, 7)})
    for batch in (1, 4, 7):
        x = normal(batch, 2, seed=batch)
        assert_same(list(compiled(x)), [x.cumsum(0)[-1], x.cumsum(0)], rtol=1e-5)


def test_an_endless_loop_stops_where_its_condition_says(needs_compiler: None) -> None:
    """It would run 2^62 times."""
    compiled = sofie.compile(model(WHILE))
    (variant,) = compiled.program.variants
    assert "&&" in variant.entry(compiled.program, variant.homes([]))
    y, n = compiled(np.array([1, 2], np.float32), np.float32(100))
    assert n == 6 and y[1] == 128


def test_what_changes_its_shape_too_often_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="let every iteration keep shape and type"):
        sofie.compile(model(CHANGING.replace("m = {3}", "m = {300}")))


def test_a_size_that_follows_from_a_count_of_the_run_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="--set m=VALUE"):
        load(model(GROWN.replace("(float[4] x)", "(float[4] x, int64 m)").replace("int64 m = {6}, ", "")))
