"""map-tiles: a contraction's results become tiles, a tile a block, with both factors in the block's memory (4 -> 4').

    scf.parallel (%i, %j) .. {                        %a, %b = memory of the block, twice
      %sum = scf.for %k .. { %x[%i, %k] %w[%k, %j] }  scf.for %step = 0 to K / 16 + 1 {
      memref.store f(%sum), %y[%i, %j]          ->      registers = parts of x and w for this step
    }                                                   sums += what %a and %b hold, for 8 x 8 results a thread
                                                        %a, %b = registers ; gpu.barrier }
                                                      memref.store f(sums[..]), %y[..]

A factor is whatever the product multiplies: a matrix, the windows of a convolution of any rank, a gathered row. The
loops that only one factor depends on are the rows of the result, those that only the other depends on its columns, and
those of both a batch; the last loop of the nest is among the columns, so that threads write side by side. Rows, columns
and terms beyond the end are zeros, or are not stored. While a step is multiplied, the next is on its way. The tile is
the one that keeps most of the card at work, by the cost of `sofie.block_tiles.Tile`; `precision` says in which
arithmetic floats are multiplied: float32 by each thread, any other by tensor cores. Words of bytes (`join-bytes`) and
codes of 16 bits (`fuse-decode`) are multiplied by tensor cores as well, since their products are exact; with
`bytes=dot`, for cards that have none, by each thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import func, scf
from xdsl.dialects.builtin import ModuleOp, f32, i16
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from sofie.block_tiles import LARGE, TILES, Arithmetic, Dots, Scalar, TensorCores, best, check_precision
from sofie.body import Body
from sofie.contraction import Factor, Product, add_up
from sofie.errors import SofieError, printable
from sofie.launches import BLOCK, Frame, kernels_of, nest_of

LEAST_RESULTS = 32 * 1024
"""With fewer, tiles would leave most processors idle: a warp or a thread each is better."""

CODED = {"f16": "fp16", "bf16": "bf16"}
"""What tensor cores call a format of codes."""
MULTIPLIED = ("mma", "dot")
"""By what bytes are: tensor cores, or the dot products of threads."""


@dataclass(frozen=True)
class MapTiles(ModulePass):
    """Maps the contractions that are large enough."""

    name: ClassVar[str] = "map-tiles"

    precision: str = "float32"
    bytes: str = "mma"
    least: int = LEAST_RESULTS

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        check_precision(self.name, self.precision)
        if self.bytes not in MULTIPLIED:
            raise SofieError(f"{self.name}: bytes={printable(self.bytes)}: choose one of {', '.join(MULTIPLIED)}")
        for kernel in kernels_of(op):
            nest = nest_of(kernel)
            product = None if nest is None else Product.of(nest)
            if nest is not None and product is not None and product.results >= self.least:
                _Mapping(kernel, nest, product, self._arithmetic(product)).map()

    def _arithmetic(self, product: Product) -> Arithmetic:
        """How a product is multiplied, and in which tile."""
        sizes = [product.size(loops) for loops in (product.batch, product.rows, product.columns)]
        small, large = (best(tiles, sizes[0], sizes[1], sizes[2]) for tiles in (TILES, LARGE))
        if product.signs is not None:
            return Dots(small, signs=product.signs) if self.bytes == "dot" else TensorCores(large, product.signs)
        if product.codes is not None and self.bytes == "mma":
            return TensorCores(large, CODED[product.codes[2]], coded=True)
        if product.kind == f32 and self.precision != "float32":
            return TensorCores(large, self.precision)
        return Scalar(small, product.kind)


@dataclass
class _Mapping:
    """A contraction on its way to a function that works tile by tile."""

    kernel: func.FuncOp
    nest: scf.ParallelOp
    product: Product
    arithmetic: Arithmetic
    frame: Frame = field(init=False)

    def map(self) -> None:
        """Replaces the kernel."""
        self.frame = Frame(self.kernel)
        body, tile, product = self.frame.body, self.arithmetic.tile, self.product
        extents = self.frame.extents(self.nest)
        batch, rows, columns = ([extents[d] for d in loops] for loops in (product.batch, product.rows, product.columns))
        height, width = body.product(rows), body.product(columns)
        thread, block = body.thread(), body.block_id()
        down, across = body.filled(height, tile.rows), body.filled(width, tile.columns)
        first = body.times(body.modulo(body.over(block, across), down), tile.rows)
        start = body.times(body.modulo(block, across), tile.columns)
        first.name_hint, start.name_hint = "first_row", "first_column"
        at_batch = body.apart(body.over(block, body.times(down, across)), batch)
        product.enter(self.frame.values, product.batch, at_batch)
        how, values = self.arithmetic, self.frame.values
        factors = product.left, product.right
        if how.term == i16 and product.codes is not None:
            factors = product.codes[:2]
        left = Factor(product, how, values, factors[0], tile.rows, first, product.rows, rows, height, "a")
        right = Factor(product, how, values, factors[1], tile.columns, start, product.columns, columns, width, "b")
        left.prepare(body)
        right.prepare(body)
        sums = totals = self.arithmetic.start(body, "sums")
        if not product.parts:
            self._sum(body, thread, left, right, sums)
        else:
            gathers = self.arithmetic.is_exact
            totals = self.arithmetic.start(body, "totals") if gathers else sums
            around = product.loops[: product.parts]
            trips = [self.frame.values[loop.ub] for loop in around]

            def part(here: Body, number: SSAValue, _: list[SSAValue]) -> list[SSAValue]:
                for loop, place in zip(around, here.apart(number, trips), strict=True):
                    self.frame.values[loop.body.block.args[0]] = place
                self._sum(here, thread, left, right, sums)
                if gathers:
                    self.arithmetic.gather(here, sums, totals)
                return []

            body.loop(0, body.product(trips), 1, part, name="part", unroll=False)
        self._store(body, thread, left, right, totals)
        bounds = list(self.nest.upperBound)

        def blocks(here: Body, given: list[SSAValue]) -> SSAValue:
            groups = (product.batch, product.rows, product.columns)
            parts = [here.product([given[d] for d in loops]) for loops in groups]
            tiles = [here.filled(parts[1], tile.rows), here.filled(parts[2], tile.columns)]
            return here.product([parts[0], *tiles])

        self.frame.launch(blocks, BLOCK, bounds, 1 if totals is not sums else self.arithmetic.together)

    def _sum(self, body: Body, thread: SSAValue, left: Factor, right: Factor, sums: SSAValue) -> None:
        """Adds up the products of all terms, or of a part of them."""
        terms = [self.frame.values[loop.ub] for loop in self.product.inner]
        add_up(body, thread, (left, right), terms, lambda _, __, half: (left.reader(half), right.reader(half)), sums)

    def _store(self, body: Body, thread: SSAValue, left: Factor, right: Factor, sums: SSAValue) -> None:
        """What the nest does with each sum."""

        def one(here: Body, down: SSAValue, across: SSAValue, total: SSAValue) -> None:
            row, column = here.plus(left.first, down, "row"), here.plus(right.first, across, "column")
            inside = here.when(here.both(left.within(here, row), right.within(here, column)))
            values = dict(self.frame.values)
            self.product.enter(values, self.product.rows, inside.apart(row, left.extents))
            self.product.enter(values, self.product.columns, inside.apart(column, right.extents))
            for store, _ in self.product.finish(inside, values, total):
                inside.clone([store], values)

        self.arithmetic.each(body, thread, sums, one)
