"""The transforms of Winograd's convolution of tiles: matrices, scalar code for them, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from xdsl.builder import Builder
from xdsl.dialects import arith
from xdsl.dialects.builtin import FloatAttr, f32
from xdsl.ir import SSAValue

from sofie.weights import Array

OFF = "off"

Matrix = list[list[float]]


@dataclass(frozen=True)
class Transform:
    """F(tile x tile, taps x taps): matrices B' (size, size), G (size, taps) and A' (tile, size)."""

    tile: int
    taps: int
    b: Matrix
    g: Matrix
    a: Matrix

    @property
    def size(self) -> int:
        """The side of a tile of the input."""
        return self.tile + self.taps - 1

    def kernel(self, kernel: Array) -> Array:
        """G w G' of weights (outputs, channels, taps, taps), in double precision: (size^2, channels, outputs)."""
        g = np.array(self.g, np.float64)
        moved = np.einsum("ik,ockl,jl->ijco", g, kernel.astype(np.float64), g)
        return np.ascontiguousarray(moved.reshape(self.size**2, *moved.shape[2:]).astype(np.float32))

    def input(self, builder: Builder, pixels: Sequence[SSAValue]) -> list[SSAValue]:
        """B' d B of a tile given row by row."""
        return self._twice(builder, self.b, pixels, self.size, self.size)

    def output(self, builder: Builder, products: Sequence[SSAValue], high: int, wide: int) -> list[SSAValue]:
        """The first `high` rows and `wide` columns of A' m A, row by row."""
        return self._twice(builder, self.a, products, high, wide)

    def _twice(
        self, builder: Builder, matrix: Matrix, values: Sequence[SSAValue], high: int, wide: int
    ) -> list[SSAValue]:
        n = self.size
        columns = [_product(builder, matrix[:high], [values[r * n + c] for r in range(n)]) for c in range(n)]
        rows = [_product(builder, matrix[:wide], [column[r] for column in columns]) for r in range(high)]
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
            done.append(builder.insert(arith.AddfOp(even, odd)).result)
            done.append(builder.insert(arith.SubfOp(even, odd)).result)
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
            total = builder.insert(arith.AddfOp(values[k], values[k + 1])).result
            difference = builder.insert(arith.SubfOp(values[k], values[k + 1])).result
            values[k], values[k + 1] = total, difference
            for row in terms:
                row[k], row[k + 1] = (row[k], 0.0) if row[k] == row[k + 1] else (0.0, row[k])
    return terms, values


def _sum(builder: Builder, row: Sequence[float], values: Sequence[SSAValue]) -> SSAValue:
    """The weighted sum of values; weights of 1 and -1 cost no multiplication."""
    terms = sorted(((c, v) for c, v in zip(row, values, strict=True) if c), key=lambda term: abs(term[0]) != 1)
    total: SSAValue | None = None
    for weight, value in sorted(terms, key=lambda term: term[0] < 0):
        scaled = value
        if abs(weight) != 1:
            constant = builder.insert(arith.ConstantOp(FloatAttr(abs(weight), f32)))
            scaled = builder.insert(arith.MulfOp(constant.result, value)).result
        if total is None:
            total = scaled if weight > 0 else builder.insert(arith.NegfOp(scaled)).result
        else:
            kind = arith.AddfOp if weight > 0 else arith.SubfOp
            total = builder.insert(kind(total, scaled)).result
    assert total is not None
    return total


FLOPS = 32
"""Floating-point operations a cycle: two multiply-adds of 8 lanes."""
STREAM = 6
"""Bytes a cycle of weights, which a large model reads from memory."""
TRANSFORMS = {(2, 3): (0.6, 0.4), (4, 3): (2.2, 1.6), (2, 5): (2.2, 1.0)}
"""By tile and taps, the cycles a tile and channel for the transforms of input and output."""
FEWEST_CHANNELS = 16


def cheapest(height: int, width: int, channels: int, outputs: int, largest: int, taps: int = 3) -> int | None:
    """The tile that takes the fewest cycles; None where the direct sum does.

    It has no more points than one of `largest`, 2 or 4, has for 3 taps.
    """
    if min(channels, outputs) < FEWEST_CHANNELS:
        return None
    area = taps * taps
    direct = 2 * area * height * width * channels * outputs / FLOPS + 4 * area * channels * outputs / STREAM
    best: tuple[float, int | None] = direct, None
    for (tile, of), (into, back) in TRANSFORMS.items():
        tiles = -(-height // tile) * -(-width // tile)
        size = tile + taps - 1
        cost = 2 * size**2 * tiles * channels * outputs / FLOPS + 4 * size**2 * channels * outputs / STREAM
        cost += tiles * (channels * into + outputs * back)
        if of == taps and size <= largest + 2 and cost < best[0]:
            best = cost, tile
    return best[1]
