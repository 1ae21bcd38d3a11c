"""Operators that read a tensor between its elements, at positions that another tensor tells.

Positions are computed first, once for all channels and in double precision: a whole number and a fraction an axis.
Then every element of the result is a sum over the neighbours, read with `tensor.extract` in the body.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import IndexType, f64, i64
from xdsl.ir import Attribute, BlockArgument, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, is_float, numpy_dtype, shape_of
from sofie.errors import UnsupportedError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.passes.lower_onnx.windows import windows_of

_INDEX = IndexType()

FARTHEST = 2.0**52
"""Positions are cut to this distance, where a double and an int64 hold every whole number; NaN counts as the lower."""

# -- neighbours --------------------------------------------------------------------------------------------------


def _linear(s: Scalars, fraction: SSAValue) -> list[SSAValue]:
    return [s.sub(s.constant(1.0, fraction.type), fraction), fraction]


def _cubic(s: Scalars, fraction: SSAValue) -> list[SSAValue]:
    """Keys' convolution kernel with a slope of -0.75 at distance 1."""

    def number(value: float) -> SSAValue:
        return s.constant(value, fraction.type)

    def near(d: SSAValue) -> SSAValue:  # 1.25 d^3 - 2.25 d^2 + 1
        return s.add(s.mul(s.mul(s.sub(s.mul(number(1.25), d), number(2.25)), d), d), number(1.0))

    def far(d: SSAValue) -> SSAValue:  # -0.75 (d^3 - 5 d^2 + 8 d - 4)
        inner = s.add(s.mul(s.sub(d, number(5.0)), d), number(8.0))
        return s.mul(number(-0.75), s.sub(s.mul(inner, d), number(4.0)))

    rest = s.sub(number(1.0), fraction)
    return [far(s.add(number(1.0), fraction)), near(fraction), near(rest), far(s.add(number(1.0), rest))]


@dataclass(frozen=True)
class Interpolation:
    """The neighbours of a position, counted from its whole number, and their weights by its fraction."""

    offsets: tuple[int, ...]
    weights: Callable[[Scalars, SSAValue], list[SSAValue]] | None


NEAREST, LINEAR = Interpolation((0,), None), Interpolation((0, 1), _linear)
INTERPOLATIONS = {"nearest": NEAREST, "linear": LINEAR, "cubic": Interpolation((-1, 0, 1, 2), _cubic)}

Outside = Callable[[Scalars, SSAValue, SSAValue], tuple[SSAValue, SSAValue | None]]
"""Where on an axis an element is read instead, given (place, extent), and whether it counts (None: it does)."""


def _clamped(s: Scalars, place: SSAValue, extent: SSAValue) -> SSAValue:
    zero, one = s.constant(0, i64), s.constant(1, i64)
    return s.max(s.min(place, s.sub(extent, one)), zero)


def _border(s: Scalars, place: SSAValue, extent: SSAValue) -> tuple[SSAValue, None]:
    return _clamped(s, place, extent), None


def _zeros(s: Scalars, place: SSAValue, extent: SSAValue) -> tuple[SSAValue, SSAValue]:
    behind = s.compare("ge", place, s.constant(0, i64))
    return _clamped(s, place, extent), s.insert(arith.AndIOp(behind, s.compare("lt", place, extent)))


def _reflected(s: Scalars, place: SSAValue, extent: SSAValue, twice: int) -> tuple[SSAValue, None]:
    """Back and forth over the axis, the elements at its ends `twice` (1) or once (0) in a turn."""
    one = s.constant(1, i64)
    period = s.max(s.add(s.mul(extent, s.constant(2, i64)), s.constant(2 * twice - 2, i64)), one)
    rest = s.binary("rem", place, period)
    forth = s.select(s.compare("lt", rest, s.constant(0, i64)), s.add(rest, period), rest)
    back = s.sub(s.sub(period, forth), s.constant(twice, i64))
    return s.select(s.compare("lt", forth, extent), forth, back), None


@dataclass(frozen=True)
class Sampler:
    """The last axes of a tensor as a function of positions; sums are made in `kind`."""

    build: Lowering
    x: SSAValue
    axes: int
    mode: Interpolation
    outside: Outside
    kind: Attribute

    def at(self, s: Scalars, lead: Sequence[SSAValue], place: Sequence[SSAValue]) -> SSAValue:
        """The value at the indices `lead` and at a position: its whole numbers, then its fractions, one an axis."""
        wholes, fractions = place[: self.axes], place[self.axes :]
        neighbours = []
        for whole, extent in zip(wholes, shape_of(self.x)[-self.axes :], strict=True):
            size = self.build.number(extent, i64)(s)
            shifted = [s.add(whole, s.constant(o, i64)) if o else whole for o in self.mode.offsets]
            neighbours.append([self.outside(s, at, size) for at in shifted])
        weigh = self.mode.weights
        return self._sum(s, list(lead), [], neighbours, [weigh(s, f) for f in fractions] if weigh else [])

    def _sum(
        self,
        s: Scalars,
        index: list[SSAValue],
        conditions: list[SSAValue],
        neighbours: Sequence[Sequence[tuple[SSAValue, SSAValue | None]]],
        weights: Sequence[Sequence[SSAValue]],
    ) -> SSAValue:
        """The weighted sum over the neighbours on the axes that are left, the others being fixed by `index`."""
        if not neighbours:
            return self._element(s, index, conditions)
        terms = []
        for place, inside in neighbours[0]:
            here = [*index, s.insert(arith.IndexCastOp(place, _INDEX))]
            counts = conditions if inside is None else [*conditions, inside]
            terms.append(self._sum(s, here, counts, neighbours[1:], weights[1:]))
        if not weights:
            return terms[0]
        return functools.reduce(s.add, [s.mul(t, w) for t, w in zip(terms, weights[0], strict=True)])

    def _element(self, s: Scalars, index: list[SSAValue], conditions: list[SSAValue]) -> SSAValue:
        element = s.insert(tensor.ExtractOp(self.x, index, element_of(self.x)))
        element = s.cast(element, self.kind, unsigned_source=self.build.unsigned)
        if not conditions:
            return element
        counts = functools.reduce(lambda a, b: s.insert(arith.AndIOp(a, b)), conditions)
        return s.select(counts, element, s.constant(0, self.kind))


Positions = Callable[[Scalars, tuple[BlockArgument, ...]], Sequence[SSAValue]]


def positions(
    build: Lowering,
    shape: Sequence[int],
    inputs: Sequence[tuple[SSAValue, AffineMap]],
    fn: Positions,
    mode: Interpolation,
    kind: Attribute,
) -> list[SSAValue]:
    """Tensors of `shape` with the places that a `Sampler` of `mode` and `kind` wants, from positions `fn` (f64)."""

    def body(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        far, low = s.constant(FARTHEST, f64), s.constant(-FARTHEST, f64)
        wholes, fractions = [], []
        for position in fn(s, args):
            above = s.select(s.compare("gt", position, low), position, low)
            near = s.select(s.compare("lt", above, far), above, far)
            whole = s.unary("floor" if mode.weights else "round", near)
            wholes.append(s.cast(whole, i64))
            fractions.append(s.cast(s.sub(near, whole), kind) if mode.weights else whole)
        return [*wholes, *fractions] if mode.weights else wholes

    axes = len(inputs)
    kinds = [i64] * axes + ([kind] * axes if mode.weights else [])
    outputs = [build.empty(shape, k) for k in kinds]
    maps = [*(m for _, m in inputs), *[structured.identity(len(shape))] * len(kinds)]
    return build.generic([v for v, _ in inputs], outputs, maps, body, unsigned=False)


# -- operators ---------------------------------------------------------------------------------------------------


@lowers("GridSample")
def grid_sample(op: OnnxOp, build: Lowering) -> SSAValue:
    """x at positions from -1 to 1 over its spatial axes, the last axis first (GridSample 22).

    Padding applies to the neighbours, so that cubics have no jump at the border (as in ONNX Runtime and PyTorch; the
    reference moves positions instead).
    """
    x, grid = build.operand(0), build.operand(1)
    kind, outputs, axes = element_of(x), build.result_shape(), len(shape_of(x)) - 2
    if 0 in outputs or 0 in shape_of(x):
        return build.fill(0, outputs, kind)
    mode = INTERPOLATIONS.get(op.string("mode").removeprefix("bi"))
    if mode is None:
        raise UnsupportedError(f"mode {op.string('mode')!r} is not one of {', '.join(INTERPOLATIONS)}")
    work = kind if mode.weights is None or is_float(kind) else f64
    sampler = Sampler(build, x, axes, mode, _padding(op), work)
    places = _denormalised(op, build, grid, shape_of(x)[2:], mode, work)

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        value = sampler.at(s, [s.loop(0), s.loop(1)], args[:-1])
        return [value if work == kind else s.rounded(value, kind, build.unsigned)]

    rank = 2 + axes
    read = structured.dims_map(rank, [0, *range(2, rank)])
    maps = [*[read] * len(places), structured.identity(rank)]
    return build.generic(places, [build.empty(outputs, kind)], maps, fn, unsigned=False)[0]


def _padding(op: OnnxOp) -> Outside:
    twice = 1 - op.integer("align_corners")
    table: dict[str, Outside] = {
        "zeros": _zeros,
        "border": _border,
        "reflection": functools.partial(_reflected, twice=twice),
    }
    padding = op.string("padding_mode")
    if padding not in table:
        raise UnsupportedError(f"padding_mode {padding!r} is not one of {', '.join(table)}")
    return table[padding]


def _denormalised(
    op: OnnxOp, build: Lowering, grid: SSAValue, extents: Sequence[int], mode: Interpolation, kind: Attribute
) -> list[SSAValue]:
    """The positions of a grid in elements."""
    *shape, axes = shape_of(grid)
    aligned = op.integer("align_corners") == 1

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        one, half = s.constant(1.0, f64), s.constant(0.5, f64)
        found = []
        for extent, coordinate in zip(extents, args, strict=False):
            length = build.number(extent, f64)(s)
            last, shifted = s.sub(length, one), s.add(s.cast(coordinate, f64), one)
            found.append(s.mul(s.mul(shifted, last) if aligned else s.sub(s.mul(shifted, length), one), half))
        return found

    lead = list(range(len(shape)))
    reads = [structured.dims_map(len(shape), [*lead, AffineExpr.constant(axes - 1 - a)]) for a in range(axes)]
    return positions(build, shape, [(grid, read) for read in reads], fn, mode, kind)


@lowers("AffineGrid", limits="size known when compiling")
def affine_grid(op: OnnxOp, build: Lowering) -> SSAValue:
    """theta times the positions of a grid from -1 to 1, as (x, y, 1) or (x, y, z, 1) (AffineGrid 20)."""
    theta = build.operand(0)
    kind, outputs = element_of(theta), build.result_shape()
    if 0 in outputs:
        return build.empty(outputs, kind)
    batch, *extents, axes = outputs
    aligned = op.integer("align_corners") == 1
    rank = len(outputs)
    tables = [
        build.weight("grid", (_steps(e, aligned)).astype(numpy_dtype(kind)))
        for e in reversed(extents)  # x runs along the last axis
    ]
    columns = [structured.dims_map(rank, [0, rank - 1, AffineExpr.constant(j)]) for j in range(axes + 1)]
    along = [structured.dims_map(rank, [axes - j]) for j in range(axes)]

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        factors, offset, at = args[:axes], args[axes], args[axes + 1 : 2 * axes + 1]
        return [functools.reduce(s.add, [s.mul(f, x) for f, x in zip(factors, at, strict=True)] + [offset])]

    maps = [*columns, *along, structured.identity(rank)]
    return build.generic([theta] * (axes + 1) + tables, [build.empty(outputs, kind)], maps, fn)[0]


def _steps(extent: int, aligned: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Positions of `extent` elements from -1 to 1: their centres at the ends, or their edges."""
    place = np.arange(extent, dtype=np.float64)
    return (2 * place + 1) / extent - 1 if not aligned else 2 * place / max(extent - 1, 1) - 1


@lowers("DeformConv")
def deform_conv(op: OnnxOp, build: Lowering) -> SSAValue:
    """A convolution each of whose taps is moved by an offset and scaled by a mask (DeformConv 22).

    The taps are gathered into columns, n x (channels * kernel) x outputs; the rest is a product of matrices.
    """
    x, w, offset, bias = build.operand(0), build.operand(1), build.operand(2), build.optional(3)
    kind, (batch, channels, *_) = element_of(x), shape_of(x)
    out_channels, _, *kernel = shape_of(w)
    groups, spots, result = op.integer("group"), math.prod(shape_of(offset)[2:]), build.result_shape()
    if 0 in result:
        return build.empty(result, kind)
    taps = channels // groups * math.prod(kernel)
    columns = build.reshape(_columns(op, build, kernel), [batch, groups, taps, spots])
    weights = build.reshape(w, [groups, out_channels // groups, taps])
    shape = [batch, groups, out_channels // groups, spots]
    if bias is None:
        start = build.fill(0, shape, kind)
    else:
        start = build.broadcast(build.reshape(bias, [groups, out_channels // groups, 1]), shape)
    maps = [structured.dims_map(5, dims) for dims in ([0, 1, 4, 3], [1, 2, 4], [0, 1, 2, 3])]
    return build.reshape(build.contract(columns, weights, start, maps, [4]), result)


def _columns(op: OnnxOp, build: Lowering, kernel: Sequence[int]) -> SSAValue:
    """x under every tap of every output, times the mask: (n, offset groups, channels, kernel.., outputs..)."""
    x, offset, mask = build.operand(0), build.operand(2), build.optional(4)
    kind, (batch, channels, *inputs) = element_of(x), shape_of(x)
    windows, axes, groups = windows_of(op, inputs, kernel), len(inputs), op.integer("offset_group")
    outputs = shape_of(offset)[2:]
    places = [batch, groups, *kernel, *outputs]
    offsets = build.reshape(offset, [batch, groups, *kernel, axes, *outputs])

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        found = []
        for a in range(axes):
            tap, window = s.place(2 + a), s.place(2 + axes + a)
            start = s.sub(s.mul(window, s.constant(windows.strides[a], i64)), s.constant(windows.before[a], i64))
            at = s.add(start, s.mul(tap, s.constant(windows.dilations[a], i64)))
            found.append(s.add(s.cast(at, f64), s.cast(args[a], f64)))
        return found

    front, back = list(range(2 + axes)), list(range(2 + axes, 2 + 2 * axes))
    reads = [structured.dims_map(len(places), [*front, AffineExpr.constant(a), *back]) for a in range(axes)]
    where = positions(build, places, [(offsets, read) for read in reads], fn, LINEAR, kind)
    inputs_ = [*where, *([] if mask is None else [build.reshape(mask, places)])]
    grouped = build.reshape(x, [batch, groups, channels // groups, *inputs])
    sampler = Sampler(build, grouped, axes, LINEAR, _zeros, kind)
    shape = [batch, groups, channels // groups, *kernel, *outputs]

    def gather(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        value = sampler.at(s, [s.loop(0), s.loop(1), s.loop(2)], args[: 2 * axes])
        return [value if mask is None else s.mul(value, args[2 * axes])]

    read = structured.dims_map(len(shape), [0, 1, *range(3, len(shape))])
    maps = [*[read] * len(inputs_), structured.identity(len(shape))]
    return build.generic(inputs_, [build.empty(shape, kind)], maps, gather)[0]
