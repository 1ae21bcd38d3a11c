"""Sizes: arithmetic that agrees with numbers at every point, comparisons that only say what is always true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sofie import sizes
from sofie.errors import SofieError, UnsupportedError
from sofie.frontends import probing
from sofie.sizes import Size, Symbol

B, S = Size.named("batch", 1, 64), Size.named("seq", 2, 9)


@st.composite
def extents(draw: st.DrawFn) -> object:
    """A polynomial of both sizes, sometimes a number."""
    total: object = draw(st.integers(-3, 9))
    for _ in range(draw(st.integers(0, 3))):
        factor: object = draw(st.integers(1, 4))
        for symbol in draw(st.lists(st.sampled_from([B, S]), min_size=1, max_size=2)):
            factor = factor * symbol
        total = total + factor if draw(st.booleans()) else total - factor
    return total


POINTS = st.fixed_dictionaries({"batch": st.integers(1, 64), "seq": st.integers(2, 9)})


@given(extents(), extents(), POINTS)
def test_arithmetic_commutes_with_numbers(a: object, b: object, point: dict[str, int]) -> None:
    (x, y, total, difference, product) = sizes.at([a, b, a + b, a - b, a * b], point)
    assert (total, difference, product) == (x + y, x - y, x * y)
    assert a - a == 0 and (a == b) == (a - b == 0)


@given(extents(), extents(), POINTS)
def test_what_a_comparison_says_holds_everywhere(a: object, b: object, point: dict[str, int]) -> None:
    x, y = sizes.at([a, b], point)
    for said, is_so in ((lambda: a < b, x < y), (lambda: a >= b, x >= y), (lambda: bool(a), bool(x))):
        try:
            assert said() == is_so
        except UnsupportedError:
            pass  # it depends on the point


@given(extents(), POINTS)
def test_bounds_hold(a: object, point: dict[str, int]) -> None:
    (x,) = sizes.at([a], point)
    assert sizes.least(a) <= x <= sizes.most(a)


@given(extents(), st.one_of(st.integers(1, 12), st.sampled_from([B, S, 2 * B])), POINTS)
def test_division_is_exact_or_refused(a: object, b: object, point: dict[str, int]) -> None:
    assert (a * b) // b == a
    try:
        quotient = a // b
    except UnsupportedError:
        return
    assert sizes.at([quotient], point)[0] == sizes.at([a], point)[0] // sizes.at([b], point)[0]


@given(st.lists(extents(), max_size=4))
def test_text_reads_back(listed: list[object]) -> None:
    assert sizes.read(*sizes.write(listed)) == tuple(listed)


@pytest.mark.parametrize("text", ["batch * other", "__import__('os')", "batch ** 2", "1.5", "batch("])
def test_text_is_arithmetic_and_nothing_else(text: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        sizes.read(text, "batch=1..64")


def test_a_number_that_is_not_known_is_asked_for() -> None:
    for use in (lambda: range(B), lambda: [0] * B, lambda: float(B), lambda: B / 2, lambda: [1, 2][B], lambda: 7 // B):
        with pytest.raises(UnsupportedError, match="--dim batch=N"):
            use()


def test_broadcasting() -> None:
    assert sizes.broadcast((B, 1, 3), (7, 3)) == (B, 7, 3)
    with pytest.raises(SofieError, match=r"shapes \(batch, 3\) and \(2, 3\) do not broadcast"):
        sizes.broadcast((B, 3), (2, 3))


def test_binding_reads_sizes_off_plain_axes() -> None:
    values: dict[str, int] = {}
    assert sizes.bind((B, 2 * B, 7), (3, 6, 7), values) and values == {"batch": 3}
    assert not sizes.bind((B, 7), (4, 7), values)
    assert not sizes.bind((2 * B,), (7,), {"batch": 3})


@given(extents(), st.sampled_from([(1, 64), (1, 2), (5, 5), (3, 9)]))
def test_probing_finds_the_polynomial(a: object, bounds: tuple[int, int]) -> None:
    symbols = [Symbol("batch", *bounds), Symbol("seq", 2, 9)]
    where = probing.points(symbols)
    found = probing.fit([sizes.at([a], point)[0] for point in where], symbols, where)
    assert found is not None
    for batch in range(bounds[0], bounds[1] + 1):
        point = {"batch": batch, "seq": 4}
        assert sizes.at([found], point) == sizes.at([a], point)


def test_probing_refuses_what_is_no_polynomial() -> None:
    symbols = [Symbol("n", 1, 64)]
    where = probing.points(symbols)
    for law in (lambda n: n // 2, lambda n: min(n, 30), lambda n: 2**n, lambda n: n * (n + 1) // 2 + (n == 64)):
        assert probing.fit([law(point["n"]) for point in where], symbols, where) is None
