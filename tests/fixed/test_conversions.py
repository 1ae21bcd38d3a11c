"""Conversions between floats and fixed-point types, at every level and in C++, against the definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from sofie import pipeline
from sofie.compiler import Generated, Options, lower
from sofie.fixed import OVERFLOWS, ROUNDINGS, Fixed
from sofie.interpreter import run
from tests.emit.programs import FILES, compile_and_run, session_code
from tests.numerics.levels import SPARE

Pair = tuple[Fixed, Fixed]


def spelled(kind: Fixed) -> str:
    sign = "signed" if kind.signed else "unsigned"
    return f"!sofie.fixed<{kind.width}, {kind.integer}, {sign}, {kind.rounding}, {kind.overflow}>"


def module(pairs: Sequence[Pair], count: int, element: str = "f32") -> ModuleOp:
    """x as a number of the first type of each pair, then of the second, then as a float again."""
    kind, dtype = f"tensor<{count}x{element}>", {"f32": "float32", "f64": "float64"}[element]
    lines = []
    for k, (first, second) in enumerate(pairs):
        one, two = (f"tensor<{count}x{spelled(t)}>" for t in (first, second))
        lines.append(f"%a{k} = sofie.convert %x : {kind} -> {one}")
        lines.append(f"%b{k} = sofie.convert %a{k} : {one} -> {two}")
        lines.append(f"%y{k} = sofie.convert %b{k} : {two} -> {kind}")
    results = ", ".join(f'{kind} {{sofie.name = "y{k}", sofie.dtype = "{dtype}"}}' for k in range(len(pairs)))
    body = "\n".join(lines)
    names, kinds = (", ".join(t) for t in ([f"%y{k}" for k in range(len(pairs))], [kind] * len(pairs)))
    text = f"""func.func @infer(%x: {kind} {{sofie.name = "x", sofie.dtype = "{dtype}"}}) -> ({results}) {{
{body}
func.return {names} : {kinds}
}}"""
    return Parser(pipeline.context(), text).parse_module()


def defined(pair: Pair, x: np.ndarray) -> np.ndarray:
    """What the definition says, as floats: numbers of up to 53 bits."""
    first, second = pair
    exact = [second.value(second.raw(first.value(first.raw(float(v))))) for v in x]
    return np.array([float(v) for v in exact]).astype(x.dtype)


def fixed(most: int) -> st.SearchStrategy[Fixed]:
    """Types of which every number is a float of `most` bits."""
    widths = st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, most - 1, most]) | st.integers(1, most)
    return widths.flatmap(
        lambda w: st.builds(
            Fixed,
            st.just(w),
            st.integers(max(-20, w - 100), min(w + 60, 60)),
            st.booleans(),
            st.sampled_from(ROUNDINGS),
            st.sampled_from(OVERFLOWS),
        )
    )


def draw_floats(seed: int, dtype: type[np.floating], near: Fixed) -> np.ndarray:
    """Floats of all sizes around a type's steps and ends: ties, zeros, subnormal and infinite ones."""
    rng = np.random.default_rng(seed)
    raw = np.concatenate(
        [rng.integers(-9, 10, 12) * 0.5, np.array([near.lowest, near.highest]) + [[-1], [-0.5], [0], [1]]], axis=None
    )
    steps = np.ldexp(raw, -near.fraction)
    sizes = rng.normal(size=16) * np.exp2(rng.integers(-40, 40, 16))
    bits = np.finfo(dtype)
    others = [0.0, -0.0, np.inf, -np.inf, bits.smallest_subnormal, -bits.smallest_subnormal, bits.max, -bits.max]
    with np.errstate(over="ignore"):
        return np.concatenate([steps, sizes, others]).astype(dtype)


@settings(max_examples=150, deadline=None)
@given(fixed(24), fixed(24), st.integers(0, 2**32), st.sampled_from(["", "lower-onnx"]))
def test_float32_to_a_type_to_another(first: Fixed, second: Fixed, seed: int, passes: str) -> None:
    """A bit, at level 1 and at level 2."""
    x = draw_floats(seed, np.float32, first)
    given_module = module([(first, second)], len(x))
    pipeline.verify(given_module, "as read")
    pipeline.run(given_module, pipeline.parse(passes) if passes else [])
    np.testing.assert_array_equal(run(given_module, [x])[0], defined((first, second), x))


@settings(max_examples=150, deadline=None)
@given(fixed(53), fixed(53), st.integers(0, 2**32))
def test_float64_to_a_type_to_another(first: Fixed, second: Fixed, seed: int) -> None:
    """A bit of types that need 64-bit integers."""
    x = draw_floats(seed, np.float64, first)
    given_module = module([(first, second)], len(x), "f64")
    pipeline.run(given_module, pipeline.parse("lower-onnx"))
    np.testing.assert_array_equal(run(given_module, [x])[0], defined((first, second), x))


WIDE = [
    (Fixed(64, 3), Fixed(20, -43, True, "AP_RND")),
    (Fixed(64, 3), Fixed(20, 80, True, "AP_RND_ZERO")),
    (Fixed(63, -20), Fixed(9, 20, True, "AP_RND_INF")),
    (Fixed(64, 2, False), Fixed(24, 80, False, "UP")),
    (Fixed(64, 60), Fixed(64, 20, False, "AP_TRN", "AP_SAT")),
    (Fixed(64, 20, False), Fixed(64, 60, True, "AP_RND_CONV", "AP_SAT_SYM")),
    (Fixed(64, 30, True, "AP_RND", "AP_SAT"), Fixed(33, 20, True, "AP_RND_CONV", "AP_SAT_ZERO")),
    (Fixed(64, 64, False, "AP_RND", "AP_SAT"), Fixed(24, 64, False)),
    (Fixed(31, 5), Fixed(8, 14, True, "AP_RND")),
    (Fixed(32, 5, False), Fixed(8, 20, False, "CEIL")),
]
"""Types of 31, 32, 63 and 64 bits, and shifts by more bits than there are."""


def test_the_widest_types() -> None:
    """A bit that a 64-bit integer has no place for; 24 bits of the result are looked at, at three places."""
    x = np.concatenate([draw_floats(k, np.float64, pair[0]) for k, pair in enumerate(WIDE)])
    for first, second in WIDE:
        for shift in (0, 20, 40):
            part = Fixed(24, second.integer - shift)
            chained = _chain([first, second, part], len(x))
            pipeline.run(chained, pipeline.parse("lower-onnx"))
            want = [part.value(part.raw(second.value(second.raw(first.value(first.raw(float(v))))))) for v in x]
            np.testing.assert_array_equal(
                run(chained, [x])[0], np.array([float(v) for v in want]), err_msg=f"{first} {part}"
            )


def _chain(kinds: Sequence[Fixed], count: int) -> ModuleOp:
    lines, last, before = [], "%x", f"tensor<{count}xf64>"
    for k, kind in enumerate([*map(spelled, kinds), "f64"]):
        lines.append(f"%v{k} = sofie.convert {last} : {before} -> tensor<{count}x{kind}>")
        last, before = f"%v{k}", f"tensor<{count}x{kind}>"
    text = f"""func.func @infer(%x: tensor<{count}xf64> {{sofie.name = "x", sofie.dtype = "float64"}})
  -> (tensor<{count}xf64> {{sofie.name = "y", sofie.dtype = "float64"}}) {{
{chr(10).join(lines)}
func.return {last} : tensor<{count}xf64>
}}"""
    return Parser(pipeline.context(), text).parse_module()


def every_mode() -> list[Pair]:
    """Every rounding with every overflow mode, to and from types of several sizes."""
    rng = np.random.default_rng(7)
    pairs = []
    for rounding in ROUNDINGS:
        for overflow in OVERFLOWS:
            for width in (3, 13):
                first = Fixed(
                    int(rng.integers(8, 25)), int(rng.integers(2, 9)), bool(rng.integers(2)), rounding, overflow
                )
                integer = int(rng.integers(-1, 7))
                pairs.append((first, Fixed(width, integer, bool(rng.integers(2)), rounding, overflow)))
    return pairs


EDGES = [
    (Fixed(64, 126), Fixed(64, 126)),
    (Fixed(8, -118, True, "AP_RND"), Fixed(8, -118)),
    (Fixed(8, -118, True, "AP_TRN"), Fixed(8, -118)),
    (Fixed(32, 32, False, "AP_RND", "AP_SAT"), Fixed(24, 32, False)),
    (Fixed(32, 30, True, "AP_RND_CONV", "AP_SAT"), Fixed(24, 30)),
    (Fixed(32, 20, True, "UP", "AP_SAT_SYM"), Fixed(24, 12)),
    (Fixed(33, 21, False, "AP_TRN", "AP_SAT"), Fixed(24, 21, False)),
    (Fixed(32, 94), Fixed(24, 86)),
]
"""The most and the fewest bits behind the binary point, and the widths around a word."""


def test_the_ends_of_float32() -> None:
    """A subnormal number that counts twice or not at all, a NaN that leaves its bits."""
    bits = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x007FFFFF, 0x807FFFFF, 1, 0x80000001], np.uint32)
    x = np.concatenate([bits.view(np.float32), draw_floats(1, np.float32, EDGES[0][0])])
    lowered = module(EDGES, len(x))
    for passes in ("", "lower-onnx"):
        pipeline.run(lowered, pipeline.parse(passes) if passes else [])
        for pair, got in zip(EDGES, run(lowered, [x]), strict=True):
            np.testing.assert_array_equal(got, defined(pair, x), err_msg=" ".join(map(str, pair)))


def every_float(pairs: Sequence[Pair], dtype: type[np.floating] = np.float32) -> np.ndarray:
    return np.concatenate([draw_floats(k, dtype, pair[0]) for k, pair in enumerate(pairs)])[: 64 * 8]


SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize(
    ("cpu", "flags", "element"),
    [
        ("scalar", ("-O0",), "f64"),
        ("portable", ("-O2",), "f32"),
        ("native", ("-Ofast",), "f32"),
        ("scalar", SANITIZERS, "f32"),
        ("native", SANITIZERS, "f64"),
    ],
)
def test_every_mode_in_cpp(tmp_path: Path, cpu: str, flags: tuple[str, ...], element: str) -> None:
    """A mode that a level or a compiler makes another of, a float's rounding that an optimiser has a say in.

    Under the sanitizers: a shift beyond a word, a signed sum that overflows.
    """
    dtype = np.float32 if element == "f32" else np.float64
    pairs = [*every_mode(), *(WIDE if element == "f64" else [])]
    x = every_float(pairs, dtype)
    program = lower(module(pairs, len(x), element), "modes", Options(cpu=cpu))
    (tmp_path / "modes.hxx").write_text(program.header(embed=True))
    body = session_code(Generated(tmp_path / "modes.hxx", None, program), {"x": x}, "modes")
    compile_and_run(tmp_path, f'#include "modes.hxx"\n{FILES}\nint main()\n{{\n{body}\n}}\n', flags)
    for k, pair in enumerate(pairs):
        if pair[1].width <= 53:
            got = np.frombuffer((tmp_path / f"modes_{k}.bin").read_bytes(), dtype)
            np.testing.assert_array_equal(got, defined(pair, x), err_msg=" ".join(map(str, pair)))


@pytest.mark.parametrize("passes", SPARE[1:])
def test_every_mode_at_every_level(passes: str) -> None:
    """A pass that changes a bit."""
    pairs = every_mode()[::3]
    x = every_float(pairs)[::3]
    lowered = module(pairs, len(x))
    pipeline.run(lowered, pipeline.parse(passes), verify_each=True)
    for pair, got in zip(pairs, run(lowered, [x]), strict=True):
        np.testing.assert_array_equal(got, defined(pair, x), err_msg=" ".join(map(str, pair)))
