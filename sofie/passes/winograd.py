"""winograd: a 3x3 or 5x5 convolution becomes products of transformed tiles, with fewer multiplications (level 2).

    %y = conv(%x, %w)            3x3 or 5x5, stride 1, channels last
    ->
    %v = insert B' x B of each tile of %x into (36, tiles, channels)
    %m = contraction of %v with G w G' (36, channels, outputs)
    %y = insert A' m A + epilogue of each tile into %y

F(m x m, 3 x 3) of Winograd ("Arithmetic complexity of computations", 1980; Lavin and Gray, "Fast algorithms for
convolutional neural networks", 2016): a tile of m x m results takes (m + 2)^2 multiplications a channel, not 9 m^2. The
points are 0, 1, -1 and infinity for m = 2; for m = 4 they are 0, +-3/4, +-3/2 and infinity, whose error is less than
twice that of the direct sum, where the textbook's 0, +-1, +-2 have 5 to 15 times it. With the same six points a tile
of 2 x 2 results of a 5 x 5 kernel takes 36 multiplications, not 100, with 2 to 3.5 times ONNX Runtime's error (a net of
14 such layers: 105 -> 84 ms, Zen 4). Weights are transformed here, in double precision. Tiles are walked in blocks
whose transforms stay in the second-level cache. Per layer, the cheapest by a model of flops and bytes is taken, direct
convolution included.

Sums of products of bytes by a 3 x 3 kernel are exact. Transforms with whole numbers (points 0, +-1, +-2 and infinity
for m = 4) leave 16 bits for each factor. Sums wrap at 32 bits; those of a result are 576 times it modulo 2^32. That
times the inverse of 9, shifted by 6, is the result, if it is within 2^25 by what the weights are; else m is 2, where
sums are 4 times a result. Weights take 8 times their bytes. ResNet-18 in int8: 43.9 -> 28.8 ms (Zen 3, November
2026), and with dot products of bytes, where few layers are better so, 5.88 -> 5.50 ms (Sapphire Rapids, December 2026).

Declines for other kernels, groups, few channels, run-time sizes and other element types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import (
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    f32,
    i16,
    i32,
)
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Attribute, Block, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.passes import ModulePass

from sofie import extents, structured
from sofie.convolution import Layer, layer_of
from sofie.dialects.scalars import WORD, computes
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import bytes_of, element_of, shape_of
from sofie.errors import SofieError
from sofie.rewrite import erase, fused_location, replace_results, users
from sofie.site import Site
from sofie.tiles import (
    OF_BYTES,
    OF_WIDENED_BYTES,
    OFF,
    Costs,
    Transform,
    cheapest,
    integer_transform,
    transform,
)

CHOICES = ("2", "4", OFF)


@dataclass(frozen=True)
class Winograd(ModulePass):
    """Rewrites where it pays, with at most the points of F(`max`, 3) (2, 4 or off).

    `block_bytes` are for the transforms of a block; `vnni` tells whether the CPU in view has dot products of bytes.
    """

    name: ClassVar[str] = "winograd"

    max: str = "4"
    block_bytes: int = 393216
    vnni: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.max not in CHOICES:
            raise SofieError(f"winograd: max is one of {', '.join(CHOICES)}, not {self.max!r}")
        if self.max == OFF:
            return
        of_bytes = OF_BYTES if self.vnni else OF_WIDENED_BYTES
        for generic in [o for o in op.walk() if isinstance(o, GenericOp)]:
            layer = layer_of(generic)
            form = _chosen(layer, int(self.max), of_bytes) if layer is not None else None
            if layer is not None and form is not None:
                _Rewrite(layer, form, self.block_bytes).run()


def _chosen(layer: Layer, largest: int, of_bytes: Costs) -> Transform | None:
    """The transform that a layer is cheapest with; None where the direct sum is, or no transform is exact on bytes."""
    sizes_of = layer.height, layer.width, layer.channels, layer.outputs
    if not layer.of_bytes:
        tile = cheapest(*sizes_of, largest, layer.taps)
        return None if tile is None else transform(tile, layer.taps)
    if layer.taps != 3 or layer.channels % (WORD // 2):
        return None
    for limit in range(largest, 0, -2):
        tile = cheapest(*sizes_of, limit, layer.taps, of_bytes)
        form = None if tile is None else integer_transform(tile)
        if form is None or layer.most < 1 << (31 - form.shift):
            return form
    return None


Pixel = tuple[int, int]


@dataclass
class _Rewrite:
    """One layer on its way."""

    layer: Layer
    form: Transform
    block_bytes: int

    @property
    def _moved(self) -> Attribute:
        """The type of transformed tiles."""
        return i16 if self.form.whole else f32

    @property
    def _sum(self) -> Attribute:
        """The type of their products, and of all that is between."""
        return i32 if self.form.whole else f32

    def run(self) -> None:
        layer, m = self.layer, self.form.tile
        op = layer.epilogue or layer.op
        location = fused_location([layer.op.location, *([layer.epilogue.location] if layer.epilogue else [])])
        site = Site(location, op)
        tiles = -(-layer.width // m)
        more = layer.taps - 1
        x = _widened(site, layer.x, [layer.batch, -(-layer.height // m) * m + more, tiles * m + more, layer.channels])
        u = site.insert(WeightOp.of(layer.name, self.form.kernel(layer.kernel)))
        y = site.empty(shape_of(layer.result), element_of(layer.result))
        y.name_hint = layer.result.name_hint
        rows = self._rows_at_once(tiles)
        whole = layer.height // (rows * m)
        for image in range(layer.batch):
            y = self._blocks(site, x, u, y, image, whole, rows)
            if rest := layer.height - whole * rows * m:
                y = self._block(site, x, u, y, image, whole * rows * m, rest)
        block = op.parent_block()
        assert block is not None
        replace_results(op, [y])
        if op is not layer.op:
            erase(layer.op)
        structured.erase_unread(block)

    def _rows_at_once(self, tiles: int) -> int:
        """Rows of tiles in a block: few keep its transforms in cache, but each block reads all weights."""
        layer, points, m = self.layer, self.form.size**2, self.form.tile
        of_x, of_sum = bytes_of(self._moved), bytes_of(self._sum)
        weights = of_x * points * layer.channels * layer.outputs
        row, rows = points * tiles * (of_x * layer.channels + of_sum * layer.outputs), -(-layer.height // m)

        def traffic(at_once: int) -> int:
            spilled = 2 * row * rows if at_once * row > self.block_bytes else 0
            return spilled + weights * -(-rows // at_once)

        return min(range(rows, 0, -1), key=traffic)

    def _blocks(self, site: Site, x: SSAValue, u: SSAValue, y: SSAValue, image: int, count: int, rows: int) -> SSAValue:
        """`count` blocks of `rows` rows of tiles, one after the other."""
        step = rows * self.form.tile
        if count < 2:
            return self._block(site, x, u, y, image, 0, step) if count else y
        body = Block(arg_types=[IndexType(), y.type])
        inner = site.inside(body)
        body.args[0].name_hint, body.args[1].name_hint = "block", y.name_hint
        first = inner.insert(arith.MuliOp(body.args[0], inner.insert(extents.constant(step))))
        inner.add(scf.YieldOp(self._block(inner, x, u, body.args[1], image, first, step)))
        low, high, one = (site.insert(extents.constant(k)) for k in (0, count, 1))
        return site.insert(scf.ForOp(low, high, one, [y], body))

    def _block(
        self, site: Site, x: SSAValue, u: SSAValue, y: SSAValue, image: int, first: int | SSAValue, height: int
    ) -> SSAValue:
        """`height` rows of the result from `first` on: y with them."""
        layer, m, n = self.layer, self.form.tile, self.form.size
        rows, tiles = -(-height // m), -(-layer.width // m)
        more = layer.taps - 1
        part = site.slice(x, [image, first, 0, 0], [1, rows * m + more, tiles * m + more, layer.channels])
        v = self._transformed(site, part, rows, tiles)
        start = site.fill(_zero(self._sum), [n * n, rows * tiles, layer.outputs], self._sum)
        maps = [structured.dims_map(4, dims) for dims in ([0, 1, 3], [0, 3, 2], [0, 1, 2])]
        (product,) = site.generic([v, u], [start], maps, _multiply_add, [3])
        product = site.put(product, site.empty([n * n, _apart(rows * tiles), layer.outputs], self._sum), [0, 0, 0])
        into = site.empty([1, height, layer.width, layer.outputs], element_of(layer.result))
        extra = _Extra(site, image, first, height, m)
        for down in _runs(height, m):
            for across in _runs(layer.width, m):
                into = self._results(site, product, into, extra, down, across)
        return site.put(into, y, [image, first, 0, 0])

    def _transformed(self, site: Site, x: SSAValue, rows: int, tiles: int) -> SSAValue:
        """B' d B of every tile d of x (1, rows m + .., tiles m + .., channels): (size^2, rows tiles, channels)."""
        m, n, channels = self.form.tile, self.form.size, self.layer.channels
        d = AffineExpr.dimension
        pixels = [(r, c) for r in range(n) for c in range(n)]
        maps = [structured.dims_map(3, [None, d(0) * m + r, d(1) * m + c, d(2)]) for r, c in pixels]
        outs = [site.empty([rows, tiles, channels], self._moved) for _ in pixels]

        def body(b: Builder, args: Sequence[SSAValue]) -> list[SSAValue]:
            if not self.form.whole:
                return self.form.input(b, list(args[: n * n]))
            numbers = self.form.input(b, [b.insert(arith.ExtUIOp(pixel, i32)).result for pixel in args[: n * n]])
            return [b.insert(arith.TruncIOp(number, i16)).result for number in numbers]

        made = site.generic([x] * len(pixels), outs, [*maps, *[structured.identity(3)] * len(outs)], body)
        v = site.empty([n * n, _apart(rows * tiles), channels], self._moved)
        for k, value in enumerate(made):
            v = site.put(site.reshape(value, [1, rows * tiles, channels]), v, [k, 0, 0])
        return site.slice(v, [0, 0, 0], [n * n, rows * tiles, channels])

    def _results(
        self, site: Site, product: SSAValue, into: SSAValue, extra: _Extra, down: Run, across: Run
    ) -> SSAValue:
        """A' m A with the epilogue of some rows and columns of tiles, put into `into` (1, rows, width, outputs)."""
        layer, m, n = self.layer, self.form.tile, self.form.size
        shape, tiles = [down.count, across.count, layer.outputs], -(-layer.width // m)
        pixels = [(i, j) for i in range(down.length) for j in range(across.length)]
        d = AffineExpr.dimension
        tile = d(0) * tiles + d(1) + (down.start * tiles + across.start)
        points = [structured.dims_map(3, [AffineExpr.constant(k), tile, 2]) for k in range(n * n)]
        reads: list[tuple[SSAValue, AffineMap]] = []

        def slot(value: SSAValue, map: AffineMap, pixel: Pixel) -> int:
            operand = extra.read(value, map, (down.start * m + pixel[0], across.start * m + pixel[1]))
            if operand not in reads:
                reads.append(operand)
            return reads.index(operand)

        finish = [self._finisher(slot, pixel) for pixel in pixels]

        def body(b: Builder, args: Sequence[SSAValue]) -> list[SSAValue]:
            results = self.form.output(b, list(args[: n * n]), down.length, across.length)
            given = args[n * n : n * n + len(reads)]
            return [f(b, value, given) for f, value in zip(finish, results, strict=True)]

        outs = [site.empty([1, *shape], element_of(layer.result)) for _ in pixels]
        made = site.generic(
            [*[product] * (n * n), *(v for v, _ in reads)],
            outs,
            [*points, *(m for _, m in reads), *[structured.dims_map(3, [None, 0, 1, 2])] * len(outs)],
            body,
        )
        for (i, j), value in zip(pixels, made, strict=True):
            into = site.put(value, into, [0, down.start * m + i, across.start * m + j, 0], [1, m, m, 1])
        return into

    def _finisher(
        self, slot: Callable[[SSAValue, AffineMap, Pixel], int], pixel: Pixel
    ) -> Callable[[Builder, SSAValue, Sequence[SSAValue]], SSAValue]:
        """What follows the sum at one pixel: what it started from is added, then the epilogue's body."""
        layer, start = self.layer, self.layer.op.outputs[0]
        owner = start.owner if _is_start(start) else None
        from_start = (
            [slot(v, m, pixel) for v, m in zip(owner.inputs, structured.maps_of(owner), strict=False)]
            if isinstance(owner, GenericOp)
            else [slot(start, structured.identity(4), pixel)]
        )
        epilogue = layer.epilogue
        places = (
            [
                None if v is layer.op.results[0] else slot(v, m, pixel)
                for v, m in zip(epilogue.inputs, structured.maps_of(epilogue), strict=False)
            ]
            if epilogue is not None
            else []
        )

        def finish(b: Builder, value: SSAValue, given: Sequence[SSAValue]) -> SSAValue:
            taken = [given[k] for k in from_start]
            begin = structured.inlined(owner, taken, b.insert) if isinstance(owner, GenericOp) else taken[0]
            value = b.insert((arith.AddiOp if self.form.whole else arith.AddfOp)(value, begin)).results[0]
            if epilogue is None:
                return value
            return structured.inlined(epilogue, [value if k is None else given[k] for k in places], b.insert)

        return finish


@dataclass(frozen=True)
class Run:
    """Rows or columns of tiles: the first, how many, and how much of each tile is written."""

    start: int
    count: int
    length: int


def _runs(extent: int, tile: int) -> list[Run]:
    """Whole tiles, then what is left."""
    whole, rest = divmod(extent, tile)
    return [run for run in (Run(0, whole, tile), Run(whole, 1, rest)) if run.count and run.length]


@dataclass(frozen=True)
class _Extra:
    """How the other operands of a block's results are read: `rows` rows from `first` on, by tiles."""

    site: Site
    image: int
    first: int | SSAValue
    rows: int
    tile: int

    def read(self, value: SSAValue, map: AffineMap, pixel: Pixel) -> tuple[SSAValue, AffineMap]:
        """The operand and its map over (row of tiles, column of tiles, channel), where `map` is over (n, y, x, c).

        `pixel` is the place in the block of the first tile's pixel.
        """
        d = AffineExpr.dimension
        dims = structured.dims_of(map)
        assert dims is not None
        if 0 in dims or 1 in dims:
            offsets = [self.image if a == 0 else self.first if a == 1 else 0 for a in dims]
            shape = [1 if a == 0 else self.rows if a == 1 else e for a, e in zip(dims, shape_of(value), strict=True)]
            value = self._part(value, offsets, shape)
        place: dict[int | None, AffineExpr] = {
            None: AffineExpr.constant(0),
            0: AffineExpr.constant(0),
            1: d(0) * self.tile + pixel[0],
            2: d(1) * self.tile + pixel[1],
            3: d(2),
        }
        return value, AffineMap(3, 0, tuple(place[a] for a in dims))

    def _part(self, value: SSAValue, offsets: Sequence[int | SSAValue], shape: Sequence[int]) -> SSAValue:
        """A slice of the operand, made once."""
        for use in value.uses:
            known = use.operation
            if isinstance(known, tensor.ExtractSliceOp) and known.parent_block() is self.site.home:
                if extents.entries(known.static_offsets.get_values(), known.offsets) == list(offsets):
                    if shape_of(known.result) == tuple(shape):
                        return known.result
        return self.site.slice(value, offsets, shape)


def _is_start(value: SSAValue) -> bool:
    """Whether a sum starts from a constant or a bias that is spread, which is as easily read where it is needed."""
    owner = value.owner
    return (
        isinstance(owner, GenericOp)
        and structured.is_parallel(owner)
        and structured.dims_of(structured.output_maps(owner)[0]) == [0, 1, 2, 3]
        and all(structured.dims_of(m) is not None for m in structured.maps_of(owner))
        and not owner.body.block.args[-1].uses
        and all(map(computes, structured.body_ops(owner)))
    )


def _apart(tiles: int) -> int:
    """Room for so many tiles at each place of the transform, odd so that the places do not meet in a cache's lines."""
    return tiles + 1 - tiles % 2


def _multiply_add(b: Builder, args: Sequence[SSAValue]) -> list[SSAValue]:
    x, w, total = args
    if total.type == i32:
        x, w = (b.insert(arith.ExtSIOp(side, i32)).result for side in (x, w))
        return [b.insert(arith.AddiOp(total, b.insert(arith.MuliOp(x, w)).result)).result]
    return [b.insert(arith.AddfOp(total, b.insert(arith.MulfOp(x, w)).result)).result]


def _zero(kind: Attribute) -> arith.ConstantOp:
    if isinstance(kind, IntegerType):
        return arith.ConstantOp(IntegerAttr(0, kind))
    return arith.ConstantOp(FloatAttr(0.0, f32))


def _widened(site: Site, x: SSAValue, shape: Sequence[int]) -> SSAValue:
    """x with zeros behind its rows and columns up to `shape`; a buffer that was padded is padded further.

    What lies there is of no result that is kept: of integers it can be anything.
    """
    if shape_of(x) == tuple(shape):
        return x
    owner, kind = x.owner, element_of(x)
    if isinstance(owner, tensor.InsertSliceOp) and len(users(x)) == 1:
        filling = structured.fill_of(owner.dest)
        if filling is not None and (kind != f32 or _is_zero(filling)):
            near = Site(owner.location, owner)
            into = near.fill(filling.clone(), shape, kind)
            offsets = extents.entries(owner.static_offsets.get_values(), owner.offsets)
            return near.put(owner.source, into, offsets, list(owner.static_strides.get_values()))
    return site.put(x, site.fill(_zero(kind), shape, kind), [0] * len(shape))


def _is_zero(constant: arith.ConstantOp) -> bool:
    number = constant.value
    return isinstance(number, FloatAttr) and number.value.data == 0.0 and math.copysign(1.0, number.value.data) > 0
