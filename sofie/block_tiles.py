"""How a block multiplies two factors that lie in its memory: tiles, what each thread has of one, and the arithmetic.

A factor's part for a step is an array of words, [word of terms][row], in the block's memory. `Scalar` gives each thread
a small matrix of results, in the type of the sums; `TensorCores` gives each warp one of 16 x 8 products of PTX's
mma.sync. A word of bytes is a term: `Dots` is `Scalar` for these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects import arith
from xdsl.dialects.builtin import Float32Type, FloatAttr, IntegerAttr, IntegerType, f32, i16, i32
from xdsl.ir import Attribute, SSAValue

from sofie.body import Body
from sofie.dialects.scalars import DotOp, JoinOp
from sofie.dialects.sofie import BYTES, NARROW_TERMS, MmaOp, NarrowOp
from sofie.errors import SofieError, printable
from sofie.launches import BLOCK, WARP

PROCESSORS = 132
"""Those of an H100 or H200; a card with fewer is as well served by as many tiles."""
PRECISIONS = ("float32", "tf32x3", "tf32", "bf16", "fp16")
"""What products can be computed in; sums are float32 in all of them. tf32x3 is three products in tf32, for float32's
accuracy; infinite numbers come out of it as NaN.
"""


def check_precision(whose: str, precision: str) -> None:
    """Raises SofieError, for who was given it, where a precision is none of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise SofieError(f"{whose}: {printable(precision)!r} is no precision; choose {', '.join(PRECISIONS)}")


Reader = Callable[[Body, SSAValue, SSAValue], SSAValue]
"""Reads a factor's word of a row, or column, of the tile."""
Make = Callable[[Body, SSAValue, SSAValue, SSAValue], None]
"""Writes what is done with a result, from its row and column in the tile."""


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a block, and of one of its 256 threads."""

    rows: int
    columns: int
    thread_rows: int
    thread_columns: int

    def cost(self, batch: int, rows: int, columns: int) -> float:
        """About how long a result of so many takes, in products of a thread: waves of blocks, each as long as its
        multiply-adds, the loads of shared memory for them, and the loads of memory for those.
        """
        blocks = batch * -(-rows // self.rows) * -(-columns // self.columns)
        waves = math.ceil(blocks / PROCESSORS) if blocks < 4 * PROCESSORS else blocks / PROCESSORS
        shared = self.thread_rows + self.thread_columns
        memory = (self.rows + self.columns) / BLOCK
        return waves * (self.thread_rows * self.thread_columns + shared + 8 * memory)


TILES = (
    Tile(128, 128, 8, 8),
    Tile(128, 64, 8, 4),
    Tile(64, 128, 4, 8),
    Tile(64, 64, 4, 4),
    Tile(32, 128, 4, 4),
    Tile(128, 32, 4, 4),
    Tile(64, 32, 4, 2),
    Tile(32, 64, 2, 4),
    Tile(32, 32, 2, 2),
    Tile(16, 128, 2, 4),
    Tile(128, 16, 4, 2),
    Tile(16, 64, 1, 4),
    Tile(64, 16, 4, 1),
)


@dataclass(frozen=True)
class Arithmetic(ABC):
    """How the threads of a block share a tile."""

    tile: Tile

    padding: ClassVar[int] = 4
    """Words between the rows of an array in the block's memory, so that threads meet in no bank."""
    together: ClassVar[int] = 2
    """Blocks that a processor shall have registers for."""

    @property
    def is_exact(self) -> bool:
        """Whether long sums are worth being made of partial ones: where factors are not rounded more than sums are."""
        return True

    @property
    def depth(self) -> int:
        """Words of a step."""
        return 16

    @property
    def terms(self) -> int:
        """What a word holds."""
        return 1

    @property
    def sum(self) -> Float32Type | IntegerType:
        """The type of a sum."""
        return f32

    @property
    def term(self) -> Attribute:
        """The type of a term, as the factors have it."""
        return self.sum

    @property
    def word(self) -> Attribute:
        """The type of a word."""
        return self.term

    def add(self, body: Body, a: SSAValue, b: SSAValue) -> SSAValue:
        """Two sums as one."""
        return body.add((arith.AddfOp if self.sum == f32 else arith.AddiOp)(a, b))

    def pack(self, body: Body, values: Sequence[SSAValue]) -> SSAValue:
        """The word of some terms."""
        return values[0]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """That of the sums of a thread."""

    def start(self, body: Body, name: str) -> SSAValue:
        """Sums of a thread, all zero."""
        sums, zero = body.room(self.shape, self.sum, name), zero_of(body, self.sum)
        self._every(body, lambda here, *place: here.store(zero, sums, *place))
        return sums

    def gather(self, body: Body, sums: SSAValue, totals: SSAValue) -> None:
        """Adds sums to totals, and starts them afresh."""
        zero = zero_of(body, self.sum)

        def add(here: Body, *place: SSAValue) -> None:
            total = self.add(here, here.load(totals, *place), here.load(sums, *place))
            here.store(total, totals, *place)
            here.store(zero, sums, *place)

        self._every(body, add)

    def _every(self, body: Body, make: Callable[..., None]) -> None:
        """For each place of an array of sums."""

        def place(here: Body, i: SSAValue, j: SSAValue) -> None:
            for rest in [()] if len(self.shape) == 2 else [(here.number(k),) for k in range(self.shape[2])]:
                make(here, i, j, *rest)

        nested(body, self.shape[0], self.shape[1], place)

    @abstractmethod
    def multiply(self, body: Body, thread: SSAValue, left: Reader, right: Reader, sums: SSAValue) -> None:
        """Adds the products of a step."""

    @abstractmethod
    def each(self, body: Body, thread: SSAValue, sums: SSAValue, make: Make) -> None:
        """Does something with each sum of a thread; those of a word's columns follow one another."""


def zero_of(body: Body, kind: Attribute) -> SSAValue:
    """Nothing, of a type of terms or sums."""
    zero = IntegerAttr(0, kind) if isinstance(kind, IntegerType) else FloatAttr(0.0, f32)
    return body.add(arith.ConstantOp(zero))


def nested(
    body: Body, rows: int, columns: int, make: Callable[[Body, SSAValue, SSAValue], None], names: str = "ij"
) -> None:
    """Two loops, written out."""

    def row(here: Body, i: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
        def column(there: Body, j: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            make(there, i, j)
            return []

        return here.loop(0, columns, 1, column, name=names[1], unroll=True)

    body.loop(0, rows, 1, row, name=names[0], unroll=True)


@dataclass(frozen=True)
class Scalar(Arithmetic):
    """Each thread has a small matrix of results: for each term a column of one factor times a row of the other."""

    kind: Float32Type | IntegerType = f32

    @property
    def sum(self) -> Float32Type | IntegerType:
        """The one that it is made for."""
        return self.kind

    def multiplied(self, body: Body, total: SSAValue, left: SSAValue, right: SSAValue) -> SSAValue:
        """A sum with one more product."""
        product = body.add((arith.MulfOp if self.sum == f32 else arith.MuliOp)(left, right))
        return self.add(body, total, product)

    @property
    def depth(self) -> int:
        """Fewer where a thread has few registers left for what is on its way."""
        return 8 if self.tile.thread_rows * self.tile.thread_columns >= 64 else 16

    @property
    def shape(self) -> tuple[int, ...]:
        """A matrix."""
        return self.tile.thread_rows, self.tile.thread_columns

    def multiply(self, body: Body, thread: SSAValue, left: Reader, right: Reader, sums: SSAValue) -> None:
        """A term after the other."""

        def term(here: Body, k: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            x, w = self._part(here, thread, left, k, True), self._part(here, thread, right, k, False)

            def add(there: Body, i: SSAValue, j: SSAValue) -> None:
                total = self.multiplied(there, there.load(sums, i, j), there.load(x, i), there.load(w, j))
                there.store(total, sums, i, j)

            nested(here, self.tile.thread_rows, self.tile.thread_columns, add)
            return []

        body.loop(0, self.depth, 1, term, name="k")

    def _part(self, body: Body, thread: SSAValue, read: Reader, k: SSAValue, row: bool) -> SSAValue:
        """What a thread needs of a term of one factor, in registers."""
        count = self.tile.thread_rows if row else self.tile.thread_columns
        part = body.room([count], self.word, "x" if row else "w")

        def load(here: Body, n: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            here.store(read(here, k, self._place(here, thread, row, n)), part, n)
            return []

        body.loop(0, count, 1, load, name="n", unroll=True)
        return part

    def _place(self, body: Body, thread: SSAValue, row: bool, k: SSAValue) -> SSAValue:
        """Which row or column of the tile the k-th of a thread is: four by four, threads side by side; one by one where
        they are no fours.
        """
        tile = self.tile
        across = tile.columns // tile.thread_columns
        own = body.over(thread, across) if row else body.modulo(thread, across)
        count, size = (tile.thread_rows, tile.rows) if row else (tile.thread_columns, tile.columns)
        if count <= 4:
            return body.plus(body.times(own, count), k)
        if count % 4:
            return body.plus(own, body.times(k, size // count))
        group = body.times(body.over(k, 4), size // (count // 4))
        return body.plus(body.plus(group, body.times(own, 4)), body.modulo(k, 4))

    def each(self, body: Body, thread: SSAValue, sums: SSAValue, make: Make) -> None:
        """Row by row of a thread's matrix."""

        def one(here: Body, i: SSAValue, j: SSAValue) -> None:
            places = [self._place(here, thread, True, i), self._place(here, thread, False, j)]
            make(here, places[0], places[1], here.load(sums, i, j))

        nested(body, self.tile.thread_rows, self.tile.thread_columns, one)


@dataclass(frozen=True)
class Dots(Scalar):
    """The same with a dot product of four bytes for each multiply-add. signs: one of `BYTES`."""

    kind: Float32Type | IntegerType = i32
    signs: str = BYTES[0]

    def multiplied(self, body: Body, total: SSAValue, left: SSAValue, right: SSAValue) -> SSAValue:
        """A sum with four more products."""
        x, w = (left, right) if self.signs == BYTES[0] else (right, left)
        return body.add(DotOp(total, x, w))


@dataclass(frozen=True)
class TensorCores(Arithmetic):
    """Eight warps, each with products of 16 x 8 by mma.sync: registers as PTX gives them to lanes. precision: one of
    `PRECISIONS`, or of `BYTES` for words of four. down, across: how many warps are below each other, and side by side.
    coded: whether terms come as codes of the precision.
    """

    precision: str
    down: int = 2
    across: int = 4
    coded: bool = False

    padding: ClassVar[int] = 8
    together: ClassVar[int] = 1

    @property
    def is_exact(self) -> bool:
        """Of three products."""
        return self._thrice

    @property
    def sum(self) -> Float32Type | IntegerType:
        """Of bytes, integers."""
        return i32 if self.precision in BYTES else f32

    @property
    def term(self) -> Attribute:
        """Codes, or what is rounded to the precision."""
        return i16 if self.coded else self.sum

    @property
    def terms(self) -> int:
        """Two of 16 bits fill a word; bytes come as words."""
        return NARROW_TERMS.get(self._narrow, 1)

    @property
    def word(self) -> Attribute:
        """Floats, where each is read as two numbers; else what the tensor cores take."""
        return f32 if self._thrice else i32

    @property
    def _thrice(self) -> bool:
        return self.precision == "tf32x3"

    @property
    def _narrow(self) -> str:
        return "tf32" if self._thrice else self.precision

    @property
    def _rows(self) -> int:
        """Products below each other in a warp."""
        return self.tile.rows // self.down // 16

    @property
    def _columns(self) -> int:
        """Products side by side in a warp."""
        return self.tile.columns // self.across // 8

    def pack(self, body: Body, values: Sequence[SSAValue]) -> SSAValue:
        """Rounded to the precision."""
        if self.coded:
            return body.add(JoinOp(values))
        return values[0] if self._thrice or self.precision in BYTES else body.add(NarrowOp(self._narrow, values))

    @property
    def shape(self) -> tuple[int, ...]:
        """Four results of each product."""
        return self._rows, self._columns, 4

    def _corner(self, body: Body, thread: SSAValue) -> tuple[SSAValue, SSAValue, SSAValue, SSAValue]:
        """First row and column of this warp; the group of four lanes that this thread is in, and its place there."""
        warp, lane = body.over(thread, WARP), body.modulo(thread, WARP)
        first = body.times(body.over(warp, self.across), self.tile.rows // self.down)
        column = body.times(body.modulo(warp, self.across), self.tile.columns // self.across)
        return first, column, body.over(lane, 4, "group"), body.modulo(lane, 4, "place")

    def multiply(self, body: Body, thread: SSAValue, left: Reader, right: Reader, sums: SSAValue) -> None:
        """Eight words at a time."""
        first, column, group, place = self._corner(body, thread)

        def words(here: Body, k: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            near = here.plus(k, place)

            def load(there: Body, read: Reader, row: SSAValue, far: bool) -> SSAValue:
                return read(there, there.plus(near, 4 if far else 0), there.plus(row, group))

            def row(there: Body, i: SSAValue) -> list[SSAValue]:
                above = there.plus(first, there.times(i, 16))
                rows = [above, there.plus(above, 8)]
                return [load(there, left, rows[r % 2], r >= 2) for r in range(4)]

            def col(there: Body, j: SSAValue) -> list[SSAValue]:
                return [load(there, right, there.plus(column, there.times(j, 8)), far) for far in (False, True)]

            xs = self._fragments(here, self._rows, 4, "x", row)
            ws = self._fragments(here, self._columns, 2, "w", col)

            def add(there: Body, i: SSAValue, j: SSAValue) -> None:
                for x, w in ((xs[1:], ws[:1]), (xs[:1], ws[1:]), (xs[:1], ws[:1])):  # the small products first
                    if x and w:
                        there.put(MmaOp(self._narrow, sums, x[0], w[0], i, j))

            nested(here, self._rows, self._columns, add)
            return []

        body.loop(0, self.depth, 8, words, name="k", unroll=True)

    def _fragments(
        self, body: Body, count: int, size: int, name: str, load: Callable[[Body, SSAValue], list[SSAValue]]
    ) -> list[SSAValue]:
        """The words of a factor in registers; for tf32x3 those of what rounding leaves as well."""
        arrays = [body.room([count, size], i32, name)]
        if self._thrice:
            arrays.append(body.room([count, size], i32, f"{name}_rest"))

        def one(here: Body, i: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
            for k, value in enumerate(load(here, i)):
                parts = self._two(here, value) if self._thrice else [value]
                for array, part in zip(arrays, parts, strict=True):
                    here.store(part, array, i, here.number(k))
            return []

        body.loop(0, count, 1, one, name="n", unroll=True)
        return arrays

    @staticmethod
    def _two(body: Body, value: SSAValue) -> list[SSAValue]:
        """A float as a number in tf32 and what that leaves, in tf32; of what is infinite that is NaN."""
        word = body.add(NarrowOp("tf32", [value]))
        rest = body.add(arith.SubfOp(value, body.add(arith.BitcastOp(word, f32))))
        return [word, body.add(NarrowOp("tf32", [rest]))]

    def each(self, body: Body, thread: SSAValue, sums: SSAValue, make: Make) -> None:
        """The four results of each product: two neighbours, and the two eight rows below."""
        first, column, group, place = self._corner(body, thread)

        def four(here: Body, i: SSAValue, j: SSAValue) -> None:
            above = here.plus(here.plus(first, here.times(i, 16)), group)
            near = here.plus(here.plus(column, here.times(j, 8)), here.times(place, 2))
            for k in range(4):
                value = here.load(sums, i, j, here.number(k))
                make(here, here.plus(above, k // 2 * 8), here.plus(near, k % 2), value)

        nested(body, self._rows, self._columns, four)


LARGE = tuple(tile for tile in TILES if tile.rows >= 32 and tile.columns >= 32)
"""Those that eight warps of tensor cores share."""


def best(tiles: Sequence[Tile], batch: int, rows: int, columns: int) -> Tile:
    """The best tile of some for a result of so many rows and columns."""
    return min(tiles, key=lambda tile: tile.cost(batch, rows, columns))
