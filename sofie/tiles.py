"""The transforms of Winograd's convolution of tiles: matrices, scalar code for them, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from xdsl.builder import Builder
from xdsl.dialects import arith
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, f32, i32
from xdsl.ir import SSAValue

from sofie.weights import Array

OFF = "off"

Matrix = list[list[float]]


@dataclass(frozen=True)
class Transform:
    """F(tile x tile, taps x taps): matrices B' (size, size), G (size, taps) and A' (tile, size).

    divisor: 1 on floats. On integers of 32 bits, which wrap, the results of A' are so many times those of the
    convolution.
    """

    tile: int
    taps: int
    b: Matrix
    g: Matrix
    a: Matrix
    divisor: int = 1

    @property
    def size(self) -> int:
        """The side of a tile of the input."""
        return self.tile + self.taps - 1

    @property
    def whole(self) -> bool:
        """Whether all of it is on integers."""
        return self.divisor > 1

    @property
    def shift(self) -> int:
        """How often 2 divides the divisor."""
        return (self.divisor & -self.divisor).bit_length() - 1

    def kernel(self, kernel: Array) -> Array:
        """G w G' of weights (outputs, channels, taps, taps): (size^2, channels, outputs), exact or in double precision.

        Of bytes it has 16 bits.
        """
        kind, kept = (np.int64, np.int16) if self.whole else (np.float64, np.float32)
        g = np.array(self.g, kind)
        moved = np.einsum("ik,ockl,jl->ijco", g, kernel.astype(kind), g, optimize=True)
        return np.ascontiguousarray(moved.reshape(self.size**2, *moved.shape[2:]).astype(kept))

    def input(self, builder: Builder, pixels: Sequence[SSAValue]) -> list[SSAValue]:
        """B' d B of a tile given row by row."""
        return self._twice(builder, self.b, pixels, self.size, self.size)

    def output(self, builder: Builder, products: Sequence[SSAValue], high: int, wide: int) -> list[SSAValue]:
        """The first `high` rows and `wide` columns of A' m A, row by row, divided."""
        results = self._twice(builder, self.a, products, high, wide)
        return [self._divided(builder, result) for result in results] if self.whole else results

    def _divided(self, builder: Builder, result: SSAValue) -> SSAValue:
        """A multiple of the divisor modulo 2^32 over it: exact where the quotient times 2^shift has 32 bits."""
        odd = self.divisor >> self.shift
        if odd > 1:
            inverse = pow(odd, -1, 1 << 32)
            factor = _integer(builder, inverse - (inverse >> 31 << 32))
            result = builder.insert(arith.MuliOp(result, factor)).result
        return builder.insert(arith.ShRSIOp(result, _integer(builder, self.shift))).result

    def _twice(
        self, builder: Builder, matrix: Matrix, values: Sequence[SSAValue], high: int, wide: int
    ) -> list[SSAValue]:
        n = self.size
        read = [c for c in range(n) if any(row[c] for row in matrix[:wide])]
        columns = [_product(builder, matrix[:high], [values[r * n + c] for r in range(n)]) for c in read]
        across = [[row[c] for c in read] for row in matrix[:wide]]
        rows = [_product(builder, across, [column[r] for column in columns]) for r in range(high)]
        return [value for row in rows for value in row]


@cache
def transform(tile: int, taps: int = 3) -> Transform:
    """The transforms of a tile of 2 or 4 for 3 taps, and of 2 for 5."""
    if (tile, taps) == (2, 3):
        return Transform(
            2,
            3,
            [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
            [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
            [[1, 1, 1, 0], [0, 1, -1, -1]],
        )
    p, q = 0.75, 1.5
    p2, q2 = p * p, q * q
    points = [0.0, p, -p, q, -q]
    scales = [1 / (p2 * q2), *[1 / (2 * p2 * (p2 - q2))] * 2, *[1 / (2 * q2 * (q2 - p2))] * 2]
    return Transform(
        tile,
        taps,
        [
            [p2 * q2, 0, -(p2 + q2), 0, 1, 0],
            [0, -p * q2, -q2, p, 1, 0],
            [0, p * q2, -q2, -p, 1, 0],
            [0, -q * p2, -p2, q, 1, 0],
            [0, q * p2, -p2, -q, 1, 0],
            [0, p2 * q2, 0, -(p2 + q2), 0, 1],
        ],
        [
            *([scale * point**k for k in range(taps)] for scale, point in zip(scales, points, strict=True)),
            [*[0.0] * (taps - 1), 1],
        ],
        [[*(point**k for point in points), float(k == tile - 1)] for k in range(tile)],
    )


@cache
def integer_transform(tile: int) -> Transform:
    """The same on integers, for 3 taps; for a tile of 4 its points are 0, +-1, +-2 and infinity.

    Of bytes, those of d without a sign, B' d B and G w G' have no more than 16 bits. A row of G is as often that of
    the rational transform as its bits allow, so that A' needs the fewest multiplications.
    """
    if tile == 2:
        form = transform(2)
        return Transform(2, 3, form.b, [[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], form.a, 4)
    return Transform(
        4,
        3,
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 12]],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 2]],
        576,
    )


def _product(builder: Builder, matrix: Matrix, values: Sequence[SSAValue]) -> list[SSAValue]:
    """matrix times values; what points of opposite sign share is computed once."""
    terms, values = _paired_columns(builder, matrix, list(values))
    done: list[SSAValue] = []
    while len(done) < len(terms):
        row = terms[len(done)]
        following = terms[len(done) + 1] if len(done) + 1 < len(terms) else None
        if following is not None and _mirrors(row, following):
            same = [c if c == d else 0.0 for c, d in zip(row, following, strict=True)]
            other = [c if c != d else 0.0 for c, d in zip(row, following, strict=True)]
            even, odd = (_sum(builder, part, values) for part in (same, other))
            done += [_combined(builder, even, odd), _combined(builder, even, odd, -1)]
        else:
            done.append(_sum(builder, row, values))
    return done


def _mirrors(row: Sequence[float], following: Sequence[float]) -> bool:
    """Whether two rows differ in the sign of some of their terms, and share others."""
    same = [c for c, d in zip(row, following, strict=True) if c == d != 0]
    other = [c for c, d in zip(row, following, strict=True) if c != d]
    return bool(same and other) and all(abs(c) == abs(d) for c, d in zip(row, following, strict=True))


def _paired_columns(builder: Builder, matrix: Matrix, values: list[SSAValue]) -> tuple[Matrix, list[SSAValue]]:
    """Neighbouring columns that are equal up to sign in every row are replaced by the sum and difference of both."""
    terms = [list(row) for row in matrix]
    for k in range(len(values) - 1):
        pairs = [(row[k], row[k + 1]) for row in terms]
        equal, opposite = any(a == b != 0 for a, b in pairs), any(a == -b != 0 for a, b in pairs)
        if equal and opposite and all(abs(a) == abs(b) for a, b in pairs):
            total = _combined(builder, values[k], values[k + 1])
            values[k], values[k + 1] = total, _combined(builder, values[k], values[k + 1], -1)
            for row in terms:
                row[k], row[k + 1] = (row[k], 0.0) if row[k] == row[k + 1] else (0.0, row[k])
    return terms, values


def _sum(builder: Builder, row: Sequence[float], values: Sequence[SSAValue]) -> SSAValue:
    """The weighted sum of values; weights of 1 and -1 cost no multiplication."""
    terms = sorted(((c, v) for c, v in zip(row, values, strict=True) if c), key=lambda term: abs(term[0]) != 1)
    total: SSAValue | None = None
    for weight, value in sorted(terms, key=lambda term: term[0] < 0):
        scaled = value if abs(weight) == 1 else _scaled(builder, abs(weight), value)
        if total is not None:
            total = _combined(builder, total, scaled, weight)
        elif weight > 0:
            total = scaled
        else:
            total = _negated(builder, scaled)
    assert total is not None
    return total


def _integer(builder: Builder, number: int) -> SSAValue:
    return builder.insert(arith.ConstantOp(IntegerAttr(number, i32))).result


def _combined(builder: Builder, a: SSAValue, b: SSAValue, sign: float = 1) -> SSAValue:
    """a + b, or a - b where the sign is negative."""
    if a.type == i32:
        return builder.insert((arith.AddiOp if sign > 0 else arith.SubiOp)(a, b)).results[0]
    return builder.insert((arith.AddfOp if sign > 0 else arith.SubfOp)(a, b)).result


def _negated(builder: Builder, value: SSAValue) -> SSAValue:
    if value.type == i32:
        return _combined(builder, _integer(builder, 0), value, -1)
    return builder.insert(arith.NegfOp(value)).result


def _scaled(builder: Builder, weight: float, value: SSAValue) -> SSAValue:
    """The value times a positive weight; an integer by shifts, since these cost less."""
    if value.type != i32:
        constant = builder.insert(arith.ConstantOp(FloatAttr(weight, f32)))
        return builder.insert(arith.MulfOp(constant.result, value)).result
    bits = [k for k in range(int(weight).bit_length()) if int(weight) >> k & 1]
    parts = [builder.insert(arith.ShLIOp(value, _integer(builder, k))).result if k else value for k in bits]
    total = parts[0]
    for part in parts[1:]:
        total = _combined(builder, total, part)
    return total


@dataclass(frozen=True)
class Costs:
    """What a layer takes: products a cycle of the direct sum and of transformed tiles, bytes of a weight of each, and
    by tile and taps the cycles a tile and channel for the transforms of input and output.
    """

    direct: int
    transformed: int
    direct_bytes: int
    transformed_bytes: int
    transforms: dict[tuple[int, int], tuple[float, float]]


OF_FLOATS = Costs(16, 16, 4, 4, {(2, 3): (0.6, 0.4), (4, 3): (2.2, 1.6), (2, 5): (2.2, 1.0)})
"""Two multiply-adds a cycle, of 8 lanes."""
OF_BYTES = Costs(128, 64, 1, 2, {(2, 3): (4.0, 5.0), (4, 3): (12.0, 15.0)})
"""On a CPU with dot products of bytes, which are twice as many a cycle as those of 16 bits."""
OF_WIDENED_BYTES = replace(OF_BYTES, direct=32, transformed=22)
"""On a CPU without."""
STREAM = 6
"""Bytes a cycle of weights, which a large model reads from memory."""
FEWEST_CHANNELS = 16


def cheapest(
    height: int, width: int, channels: int, outputs: int, largest: int, taps: int = 3, costs: Costs = OF_FLOATS
) -> int | None:
    """The tile that takes the fewest cycles; None where the direct sum does.

    It has no more points than one of `largest`, 2 or 4, has for 3 taps.
    """
    if min(channels, outputs) < FEWEST_CHANNELS:
        return None
    area, weights = taps * taps, channels * outputs
    direct = area * height * width * weights / costs.direct + costs.direct_bytes * area * weights / STREAM
    best: tuple[float, int | None] = direct, None
    for (tile, of), (into, back) in costs.transforms.items():
        tiles = -(-height // tile) * -(-width // tile)
        size = tile + taps - 1
        cost = size**2 * (tiles * weights / costs.transformed + costs.transformed_bytes * weights / STREAM)
        cost += tiles * (channels * into + outputs * back)
        if of == taps and size <= largest + 2 and cost < best[0]:
            best = cost, tile
    return best[1]
