"""How results depend on run-time sizes, found by trying numbers: a polynomial through some points that holds at others.

Shape inference and folding know numbers only, and are exact there. So they are asked at several values of each size,
and the polynomial of least degree (at most 2) through the answers is taken, if it has integer coefficients and is
right at every point asked, the ends of the range among them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement

import numpy as np

from sofie.errors import UnsupportedError
from sofie.sizes import Monomial, Size, Symbol
from sofie.weights import Array

Point = dict[str, int]
"""A number for every symbol, by name."""

OFFSETS = (0, 1, 2, 4, 11, 28)
"""Where a range is asked, counted from its lower end; both ends and the last but one are asked as well."""


def points(symbols: Sequence[Symbol]) -> Sequence[Point]:
    """Where to ask about these symbols: one point without numbers where there are none."""
    return _points(tuple(symbols))


@cache
def _points(symbols: tuple[Symbol, ...]) -> Sequence[Point]:
    choices = {s.name: _choices(s) for s in symbols}
    if len(symbols) <= 1:
        return [{s.name: n} for s in symbols for n in choices[s.name]] or [{}]
    rng = random.Random(0)
    found = [{name: numbers[0] for name, numbers in choices.items()}]
    found += [{name: numbers[-1] for name, numbers in choices.items()}]
    wanted = 3 * len(list(_monomials(symbols)))
    for _ in range(20 * wanted):
        point = {name: rng.choice(numbers) for name, numbers in choices.items()}
        if point not in found and len(found) < wanted:
            found.append(point)
    return found


def _choices(symbol: Symbol) -> list[int]:
    low, high = max(symbol.low, 1), symbol.high  # an empty tensor tells nothing about its shape
    if symbol.low == 0:
        high = max(high, 3)  # and one point too little
    return sorted({n for n in (*(low + k for k in OFFSETS), high - 1, high) if low <= n <= high} or {high})


def fit(values: Sequence[int], symbols: Sequence[Symbol], where: Sequence[Point]) -> int | Size | None:
    """The extent that has these values at these points, or None where no such polynomial is found."""
    if len(set(values)) == 1:
        return int(values[0])
    for degree in (1, 2):
        basis = [m for m in _monomials(symbols) if len(m) <= degree]
        rows = [[_value(m, point) for m in basis] for point in where]
        coefficients = _solve(rows, values)
        if coefficients is not None and all(c.denominator == 1 for c in coefficients):
            return Size({m: int(c) for m, c in zip(basis, coefficients, strict=True)})
    return None


def fit_all(arrays: Sequence[Array], symbols: Sequence[Symbol], where: Sequence[Point]) -> Array | None:
    """Element by element, the array of ints and Sizes that is `arrays` at these points; None where there is none."""
    if len({a.shape for a in arrays}) != 1 or arrays[0].dtype.kind not in "iu":
        return None
    flat = np.stack([a.reshape(-1) for a in arrays])
    fitted = [fit([int(v) for v in column], symbols, where) for column in flat.T]
    if any(extent is None for extent in fitted):
        return None
    result = np.empty(len(fitted), object)
    result[:] = fitted
    return result.reshape(arrays[0].shape)


def unknown(what: str, symbols: Iterable[Symbol]) -> UnsupportedError:
    """The error that `what` depends on sizes in no way that is found."""
    names = ", ".join(s.name for s in symbols)
    flags = " ".join(f"--dim {s.name}=N" for s in symbols)
    return UnsupportedError(f"{what} is no polynomial of {names}; give numbers with {flags}")


def _monomials(symbols: Sequence[Symbol]) -> Iterator[Monomial]:
    for degree in range(3):
        yield from combinations_with_replacement(sorted(symbols), degree)


def _value(monomial: Monomial, point: Point) -> int:
    product = 1
    for symbol in monomial:
        product *= point[symbol.name]
    return product


def _solve(rows: Sequence[Sequence[int]], values: Sequence[int]) -> list[Fraction] | None:
    """The solution of a linear system by elimination, free unknowns 0; None where the rows contradict each other."""
    table = [[*map(Fraction, row), Fraction(value)] for row, value in zip(rows, values, strict=True)]
    width, pivots = len(rows[0]), list[int]()
    for column in range(width):
        done = len(pivots)
        pivot = next((r for r in range(done, len(table)) if table[r][column]), None)
        if pivot is None:
            continue
        table[done], table[pivot] = table[pivot], table[done]
        table[done] = [x / table[done][column] for x in table[done]]
        for r, row in enumerate(table):
            if r != done and row[column]:
                table[r] = [x - row[column] * y for x, y in zip(row, table[done], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in table[len(pivots) :]):
        return None
    solution = [Fraction(0)] * width
    for r, column in enumerate(pivots):
        solution[column] = table[r][-1]
    return solution
