"""Extents that are known only at run time: polynomials over named sizes, each with its bounds.

An extent is an `int` or a `Size`. A `Size` takes part in an int's arithmetic and compares by form, so that shapes are
computed and matched as usual; where the number itself is needed it refuses, in a sentence that tells how to give one.
Annotations say `int` for both.

    >>> batch = Size.named("batch", 1, 64)
    >>> str(2 * batch * 7 + 1), (batch * 12) // 4 == batch * 3, batch.high, batch > 0
    ('14*batch + 1', True, 64, True)
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any

from sofie.errors import SofieError, UnsupportedError


@dataclass(frozen=True, order=True)
class Symbol:
    """A named size, from `low` to `high` inclusive."""

    name: str
    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.name}={self.low}..{self.high}"


Monomial = tuple[Symbol, ...]


class Size:
    """An integer polynomial over symbols that is not constant; arithmetic with ints and Sizes gives ints and Sizes."""

    __slots__ = ("_terms",)

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self._terms = tuple(sorted((m, c) for m, c in terms.items() if c))

    @staticmethod
    def named(name: str, low: int, high: int) -> Any:
        """The size of one symbol."""
        return Size({(Symbol(name, low, high),): 1})

    @property
    def terms(self) -> dict[Monomial, int]:
        """The coefficient of every monomial; the constant's is ()."""
        return dict(self._terms)

    @property
    def symbols(self) -> list[Symbol]:
        """The symbols it is made of, sorted."""
        return sorted({symbol for monomial, _ in self._terms for symbol in monomial})

    @property
    def low(self) -> int:
        """A lower bound."""
        return sum(c * math.prod(s.low if c > 0 else s.high for s in m) for m, c in self._terms)

    @property
    def high(self) -> int:
        """An upper bound."""
        return sum(c * math.prod(s.high if c > 0 else s.low for s in m) for m, c in self._terms)

    def at(self, values: Mapping[str, int]) -> int:
        """The number, given those of the symbols."""
        return sum(c * math.prod(values[s.name] for s in m) for m, c in self._terms)

    # -- arithmetic ----------------------------------------------------------------------------------------------

    def __add__(self, other: object) -> Any:
        if (terms := _terms_of(other)) is None:
            return NotImplemented
        return _simplest({m: self.terms.get(m, 0) + terms.get(m, 0) for m in {*self.terms, *terms}})

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: object) -> Any:
        return NotImplemented if (terms := _terms_of(other)) is None else self + _simplest(_scaled(terms, -1))

    def __rsub__(self, other: object) -> Any:
        return -self + other

    def __mul__(self, other: object) -> Any:
        if (terms := _terms_of(other)) is None:
            return NotImplemented
        result: dict[Monomial, int] = {}
        for (a, x), (b, y) in product(self._terms, terms.items()):
            monomial = tuple(sorted(a + b))
            result[monomial] = result.get(monomial, 0) + x * y
        return _simplest(result)

    def __floordiv__(self, other: object) -> Any:
        quotient = self._divided(other)
        if quotient is None:
            raise UnsupportedError(f"the size {self} is not always a multiple of {other}; {self.remedy()}")
        return quotient

    def __rfloordiv__(self, other: int) -> Any:
        if other == 0 and self.low > 0:
            return 0
        raise UnsupportedError(f"{other} is not always a multiple of the size {self}; {self.remedy()}")

    def __mod__(self, other: object) -> Any:
        if self._divided(other) is None:
            raise UnsupportedError(f"the size {self} is not always a multiple of {other}; {self.remedy()}")
        return 0

    __radd__ = __add__
    __rmul__ = __mul__

    def _divided(self, other: object) -> Any:
        """The exact quotient by a number or by one monomial, or None."""
        terms = _terms_of(other)
        if terms is None or len(terms) != 1:
            return None
        ((monomial, factor),) = terms.items()
        result: dict[Monomial, int] = {}
        for m, c in self._terms:
            rest = Counter(m)
            rest.subtract(monomial)
            if c % factor or min(rest.values(), default=0) < 0:
                return None
            result[tuple(sorted(rest.elements()))] = c // factor
        return _simplest(result)

    # -- comparison ----------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self._terms == other._terms

    def __hash__(self) -> int:
        return hash(self._terms)

    def __lt__(self, other: object) -> bool:
        return self._decided(self - other, below=True)

    def __le__(self, other: object) -> bool:
        return not self > other

    def __gt__(self, other: object) -> bool:
        return self._decided(self - other, below=False)

    def __ge__(self, other: object) -> bool:
        return not self < other

    def _decided(self, difference: Any, below: bool) -> bool:
        """Whether a difference is below (or above) 0, where its bounds tell."""
        low, high = (difference, difference) if isinstance(difference, int) else (difference.low, difference.high)
        if (high < 0) if below else (low > 0):
            return True
        if (low >= 0) if below else (high <= 0):
            return False
        raise UnsupportedError(f"what to do depends on the size {self}; {self.remedy()}")

    def __bool__(self) -> bool:
        return self > 0 or self < 0

    def remedy(self) -> str:
        return f"give it a number with {' '.join(f'--dim {s.name}=N' for s in self.symbols)}"

    def __index__(self) -> int:
        raise UnsupportedError(f"the number behind the size {self} is needed when compiling; {self.remedy()}")

    __int__ = __index__
    __float__ = __index__

    def __truediv__(self, other: object) -> Any:
        return self.__index__()

    __rtruediv__ = __truediv__

    # -- text ----------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        parts = []
        for monomial, c in sorted(self._terms, key=lambda term: (-len(term[0]), term[0])):
            names = "*".join(s.name for s in monomial)
            parts.append(names if c == 1 and names else f"{c}*{names}" if names else str(c))
        return " + ".join(parts).replace("+ -", "- ")

    def __repr__(self) -> str:
        return f"Size({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def _terms_of(value: object) -> dict[Monomial, int] | None:
    if isinstance(value, Size):
        return value.terms
    return {(): int(value)} if isinstance(value, int) else None


def _scaled(terms: Mapping[Monomial, int], factor: int) -> dict[Monomial, int]:
    return {m: c * factor for m, c in terms.items()}


def _simplest(terms: Mapping[Monomial, int]) -> Any:
    """An int where nothing but the constant is left."""
    kept = {m: c for m, c in terms.items() if c}
    return kept.get((), 0) if set(kept) <= {()} else Size(kept)


NO_SIZES: Mapping[str, int] = MappingProxyType({})
"""The values of no symbols."""


# -- questions about extents -------------------------------------------------------------------------------------------


def most(extent: int) -> int:
    """The largest number that an extent can be."""
    return extent.high if isinstance(extent, Size) else extent


def least(extent: int) -> int:
    """The smallest number that an extent can be."""
    return extent.low if isinstance(extent, Size) else extent


def at(shape: Iterable[int], values: Mapping[str, int]) -> tuple[int, ...]:
    """A shape in numbers, given those of its symbols."""
    return tuple(e.at(values) if isinstance(e, Size) else e for e in shape)


def is_static(shape: Iterable[int]) -> bool:
    """Whether every extent is a number."""
    return not any(isinstance(e, Size) for e in shape)


def symbols_of(extents: Iterable[object]) -> list[Symbol]:
    """The symbols behind some extents, sorted."""
    return sorted({s for e in extents if isinstance(e, Size) for s in e.symbols})


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """numpy's broadcast of shapes; raises SofieError where they do not fit."""
    rank = max(map(len, shapes), default=0)
    result: list[int] = [1] * rank
    for shape in shapes:
        for a, extent in enumerate(shape, rank - len(shape)):
            if result[a] == 1:
                result[a] = extent
            elif extent != 1 and extent != result[a]:
                listed = " and ".join(f"({', '.join(map(str, s))})" for s in shapes)
                raise SofieError(f"shapes {listed} do not broadcast")
    return tuple(result)


def bind(shape: Sequence[int], numbers: Sequence[int], values: dict[str, int]) -> bool:
    """Enters into `values` what `numbers` say about the symbols of `shape`; False where they contradict it.

    A symbol is read off an axis that is just that symbol.
    """
    if len(shape) != len(numbers):
        return False
    for extent, number in zip(shape, numbers, strict=True):
        if isinstance(extent, Size) and extent == Size({(s := extent.symbols[0],): 1}):
            if values.setdefault(s.name, number) != number:
                return False
    known = {s.name for s in symbols_of(shape)} <= set(values)
    return known and at(shape, values) == tuple(numbers)


# -- text --------------------------------------------------------------------------------------------------------------


def write(extents: Sequence[int]) -> tuple[str, str]:
    """Extents as text, and the bounds of their symbols."""
    return ", ".join(map(str, extents)), ", ".join(map(str, symbols_of(extents)))


def read(text: str, bounds: str) -> tuple[int, ...]:
    """What `write` wrote; raises ValueError."""
    sizes: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in bounds.split(","))):
        match = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)\.\.(\d+)", part)
        if match is None:
            raise ValueError(f"{part!r} is no bound; write it as name=1..64")
        sizes[match[1]] = Size.named(match[1], int(match[2]), int(match[3]))
    return tuple(_evaluated(ast.parse(part.strip(), mode="eval").body, sizes) for part in text.split(",") if part)


def _evaluated(node: ast.expr, sizes: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.Name(id=name) if name in sizes:
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand, sizes)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() as op, right=right):
            a, b = _evaluated(left, sizes), _evaluated(right, sizes)
            return a + b if isinstance(op, ast.Add) else a - b if isinstance(op, ast.Sub) else a * b
    raise ValueError("an extent is made of numbers, bounded names, +, - and *")
