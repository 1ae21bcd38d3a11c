"""The definition of fixed-point numbers, against AMD's examples and properties that say the same in other words."""

from __future__ import annotations

import importlib.util
import random
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofie import jit
from sofie.errors import SofieError
from sofie.fixed import OVERFLOWS, ROUNDINGS, Fixed, covering, difference, product, spanning, sum_of, total

WHOLE = {
    # 1.25, 1.5, 1.75, -1.25, -1.5, -1.75 to whole numbers
    "AP_TRN": [1, 1, 1, -2, -2, -2],
    "AP_TRN_ZERO": [1, 1, 1, -1, -1, -1],
    "AP_RND": [1, 2, 2, -1, -1, -2],
    "AP_RND_ZERO": [1, 1, 2, -1, -1, -2],
    "AP_RND_INF": [1, 2, 2, -1, -2, -2],
    "AP_RND_MIN_INF": [1, 1, 2, -1, -2, -2],
    "AP_RND_CONV": [1, 2, 2, -1, -2, -2],
    "CEIL": [2, 2, 2, -1, -1, -1],
    "UP": [2, 2, 2, -2, -2, -2],
}
"""By hand, from UG1399's tables of quantisation modes; the last two from QONNX's documentation."""

types = st.builds(
    Fixed,
    st.integers(1, 80),
    st.integers(-40, 60),
    st.booleans(),
    st.sampled_from(ROUNDINGS),
    st.sampled_from(OVERFLOWS),
)
reals = st.builds(lambda n, k: Fraction(n) * Fraction(2) ** k, st.integers(-(2**40), 2**40), st.integers(-60, 30))


@pytest.mark.parametrize("mode", ROUNDINGS)
def test_halves_and_quarters_go_where_the_mode_says(mode: str) -> None:
    """A mode that is another's, on either side of zero."""
    kind = Fixed(8, 8, True, mode, "AP_SAT")
    assert [kind.raw(x) for x in (1.25, 1.5, 1.75, -1.25, -1.5, -1.75)] == WHOLE[mode]
    assert Fixed(8, 8, True, "AP_RND_CONV").raw(2.5) == 2  # 1.5 and 2.5 meet


def test_numbers_beyond_the_range() -> None:
    """An overflow mode that is another's: 19 and -19 in 4 bits, as in UG1399."""
    ends = {mode: [Fixed(4, 4, True, "AP_TRN", mode).raw(x) for x in (19, -19)] for mode in OVERFLOWS}
    assert ends == {"AP_WRAP": [3, -3], "AP_SAT": [7, -8], "AP_SAT_ZERO": [0, 0], "AP_SAT_SYM": [7, -7]}
    unsigned = {mode: [Fixed(4, 4, False, "AP_TRN", mode).raw(x) for x in (19, -19)] for mode in OVERFLOWS}
    assert unsigned == {"AP_WRAP": [3, 13], "AP_SAT": [15, 0], "AP_SAT_ZERO": [0, 0], "AP_SAT_SYM": [15, 0]}
    assert Fixed(4, 4, True, "AP_TRN", "AP_SAT_SYM").raw(-8) == -7
    assert [Fixed(w, w, True, "AP_TRN", "AP_SAT_SYM").raw(-9) for w in (1, 2, 3)] == [-1, -1, -3]


@given(types, reals)
def test_a_conversion_is_near_and_in_range(kind: Fixed, x: Fraction) -> None:
    """A result that is no number of the type, or a step or more away from one that the type reaches."""
    raw = kind.raw(x)
    assert kind.lowest <= raw <= kind.highest
    if kind.value(kind.bounds[0]) <= x <= kind.value(kind.bounds[1]):
        away = abs(kind.value(raw) - x) * Fraction(2) ** kind.fraction
        assert away < 1
        assert away <= Fraction(1, 2) or not kind.rounding.startswith("AP_RND")


@given(types, st.data())
def test_numbers_of_the_type_stay(kind: Fixed, data: st.DataObject) -> None:
    """A value that its own type changes."""
    raw = data.draw(st.integers(*kind.bounds))
    assert kind.raw(kind.value(raw)) == raw


@given(types, types, st.data())
def test_result_types_hold_all_results(a: Fixed, b: Fixed, data: st.DataObject) -> None:
    """A bit that a sum, a difference or a product loses."""
    x, y = (
        t.value(data.draw(st.sampled_from([t.lowest, t.highest, 0]) | st.integers(t.lowest, t.highest))) for t in (a, b)
    )
    for made, value in ((total(a, b), x + y), (difference(a, b), x - y), (product(a, b), x * y)):
        assert made.value(made.raw(value)) == value, made
    count = data.draw(st.integers(1, 100))
    many = sum_of(a, count)
    assert many.value(many.raw(x * count)) == x * count


@given(st.lists(st.builds(lambda n, k: Fraction(n) * Fraction(2) ** k, st.integers(-999, 999), st.integers(-9, 9))))
def test_the_covering_type_is_the_narrowest(values: list[Fraction]) -> None:
    """A constant that changes, or a bit too many."""
    kind = covering(values)
    assert kind is not None
    assert all(kind.value(kind.raw(v)) == v for v in values)
    if kind.width > 1:
        for width, integer in ((kind.width - 1, kind.integer - 1), (kind.width - 1, kind.integer)):
            less = Fixed(width, integer, kind.signed)
            assert any(less.value(less.raw(v)) != v for v in values), less
    assert covering([Fraction(1, 3)]) is None


@given(st.integers(-999, 999), st.integers(0, 999))
def test_the_spanning_type_holds_both_ends(low: int, more: int) -> None:
    """An end that wraps, or a bit too many."""
    kind = spanning(low, low + more, 3)
    assert kind.lowest <= low and low + more <= kind.highest and kind.fraction == 3
    assert kind.width == 1 or not (kind.lowest // 2 <= low and low + more <= kind.highest // 2)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("fixed<16,6>", Fixed(16, 6)),
        (" ap_ufixed< 8 , -2, AP_RND >", Fixed(8, -2, False, "AP_RND")),
        ("ap_fixed<8,12,AP_TRN_ZERO,AP_SAT_SYM>", Fixed(8, 12, True, "AP_TRN_ZERO", "AP_SAT_SYM")),
    ],
)
def test_types_are_read_and_written(text: str, kind: Fixed) -> None:
    """A mode that is dropped, a sign that is lost."""
    assert Fixed.parse(text) == kind == Fixed.parse(str(kind))


@pytest.mark.parametrize("text", ["fixed<16>", "fixed<0,1>", "fixed<8,3,ROUND>", "float", "fixed<8,3,AP_RND,AP_RND>"])
def test_what_is_no_type_is_one_sentence(text: str) -> None:
    """A type that is guessed."""
    with pytest.raises(SofieError, match="is no fixed-point type|at least 1 bit|is not one of"):
        Fixed.parse(text)


VENDOR = importlib.util.find_spec("hls4ml")


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.hls4ml
def test_the_headers_of_ap_fixed_say_the_same(tmp_path: Path) -> None:
    """A mode that is AMD's by name only: raw numbers of one type as another, and doubles."""
    assert VENDOR is not None and VENDOR.origin is not None
    rng = random.Random(5)

    def draw(widths: list[int], plain: bool) -> Fixed:
        modes = ("AP_TRN", "AP_WRAP") if plain else (rng.choice(ROUNDINGS[:7]), rng.choice(OVERFLOWS))
        return Fixed(rng.choice(widths), rng.randint(-5, 12), rng.random() < 0.7, *modes)

    def raw_of(name: str, kind: Fixed) -> str:
        sign = str(kind.signed).lower()
        return f'ap_int_base<{kind.width}, {sign}> w; w.V = {name}.V; std::printf("%lld\\n", w.to_int64());'

    lines, want = ["#include <cstdio>", '#include "ap_fixed.h"'], []
    for k in range(60):
        source, target = draw([1, 2, 3, 5, 8, 9, 16, 17, 24, 33], True), draw([1, 2, 3, 7, 8, 16, 20], False)
        raw = [source.lowest, source.highest, 0, *(rng.randint(source.lowest, source.highest) for _ in range(40))]
        want += [target.raw(source.value(r)) for r in raw]
        given = (
            f"ap_int_base<{source.width}, {str(source.signed).lower()}> v = x; {source} s; s.V = v.V; {target} t = s;"
        )
        lines.append(f"void f{k}() {{ for (long long x : {{{', '.join(f'{r}LL' for r in raw)}}}) {{")
        lines.append(f"{given} {raw_of('t', target)} }} }}")
        doubles = [
            rng.choice([1, -1]) * rng.randint(0, 2 ** rng.randint(1, 24)) * 2.0 ** rng.randint(-30, 8) for _ in raw
        ]
        want += [target.raw(x) for x in doubles]
        lines.append(f"void g{k}() {{ for (double x : {{{', '.join(x.hex() for x in doubles)}}}) {{")
        lines.append(f"{target} t = x; {raw_of('t', target)} }} }}")
    lines.append(f"int main() {{ {' '.join(f'f{k}(); g{k}();' for k in range(60))} }}\n")
    (tmp_path / "types.cpp").write_text("\n".join(lines))
    folder = Path(VENDOR.origin).parent / "templates" / "vivado" / "ap_types"
    flags = ["-w", "-DNDEBUG", f"-I{folder}"]  # the headers assert on shifts they allow for
    subprocess.run([*jit.compiler(), *flags, "types.cpp", "-o", "types"], cwd=tmp_path, check=True)
    printed = subprocess.run(["./types"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert [int(v) for v in printed.split()] == want
