"""Resize: every axis is resampled on its own, by tables of places and weights that are made when compiling.

Where along an axis an element comes from does not depend on the other axes, so interpolation in several dimensions is
one after the other, the axes that shrink most first. The tables are computed in double precision. Nearest neighbours
need no arithmetic: whole factors repeat elements, anything else is one gather over all axes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import index

import numpy as np
import numpy.typing as npt
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import IndexType, f64
from xdsl.ir import BlockArgument, SSAValue

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, is_float, numpy_dtype, shape_of
from sofie.errors import SofieError, UnsupportedError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.gather import gather_at
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.sizes import Size

_INDEX = IndexType()

Reals = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Resampling:
    """How one axis is resized: from `extent` elements to as many as there are `positions` in the input.

    `width` is what the scale makes of the extent before it is rounded.
    """

    axis: int
    extent: int
    width: Fraction
    positions: Reals

    @property
    def outside(self) -> npt.NDArray[np.bool_]:
        """Which positions have no neighbours on both sides."""
        return (self.positions < 0) | (self.positions > self.extent - 1)


@lowers("Resize", limits="scales, sizes and roi known when compiling; run-time axes stay, or repeat their elements")
def resize(op: OnnxOp, build: Lowering) -> SSAValue:
    """Interpolation by nearest neighbours, lines or cubics, with or without a filter against aliasing (Resize 19)."""
    x, result = build.operand(0), build.result_shape()
    if 0 in result:
        return build.empty(result, element_of(x))
    axes = _resampled_axes(op, build)
    mode = op.string("mode")
    if mode == "nearest":
        y = _nearest(op, build, x, axes)
    elif mode in _REACH:
        y = _interpolate(op, build, x, axes)
    else:
        raise UnsupportedError(f"mode {mode!r} is not one of nearest, {', '.join(_REACH)}")
    return _extrapolate(op, build, y, axes)


# -- coordinates -------------------------------------------------------------------------------------------------


def _resampled_axes(op: OnnxOp, build: Lowering) -> list[Resampling]:
    """The axes whose elements do not stay where they are."""
    shape, result = shape_of(build.operand(0)), build.result_shape()
    rank = len(shape)
    axes = [a % rank for a in op.ints("axes") or range(rank)]
    crops = op.string("coordinate_transformation_mode") == "tf_crop_and_resize"
    roi = (build.known_reals(1) or []) if crops else []
    if crops and len(roi) != 2 * len(axes):
        raise SofieError(f"roi has {len(roi)} elements where tf_crop_and_resize needs {2 * len(axes)}")
    found = []
    for k, (axis, scale) in enumerate(zip(axes, _scales(op, build, axes), strict=True)):
        region = (roi[k], roi[len(axes) + k]) if crops else (0.0, 1.0)
        if scale == 1 and region == (0.0, 1.0):
            continue
        extent, outputs = shape[axis], result[axis]
        if isinstance(extent, Size):
            if not _treats_elements_alike(op, scale):
                raise _needs_number(axis, extent)
            extent, outputs = STAND_IN, STAND_IN * scale.numerator
        width = scale * extent
        found.append(Resampling(axis, extent, width, _positions(op, extent, outputs, float(width), region)))
    return found


STAND_IN = 4
"""The extent by which a run-time axis is judged, where elements repeat in the same way on an axis of any."""


def _treats_elements_alike(op: OnnxOp, scale: Fraction) -> bool:
    """Whether an axis of any extent repeats its elements in one pattern."""
    alike = op.string("coordinate_transformation_mode") in ("half_pixel", "pytorch_half_pixel", "asymmetric")
    return alike and op.string("mode") == "nearest" and scale.denominator == 1


def _needs_number(axis: int, extent: int) -> UnsupportedError:
    return UnsupportedError(f"resizing axis {axis} needs the size {extent} as a number; give it one with --dim")


def _scales(op: OnnxOp, build: Lowering, axes: Sequence[int]) -> list[Fraction]:
    """The factor of each of `axes`, exactly; 1 for an axis whose extent, known or not, is the size asked for."""
    shape = shape_of(build.operand(0))
    scales, sizes = build.known_reals(2), build.known_ints(3)
    if len(scales or sizes or []) != len(axes) or (scales and sizes):
        raise SofieError(f"either scales or sizes, with {len(axes)} elements, have to be given")
    if scales:
        return [Fraction(scale) for scale in scales]
    ratios = [_ratio(size, shape[a]) for a, size in zip(axes, sizes or [], strict=True)]
    policy = op.string("keep_aspect_ratio_policy")
    if policy == "stretch":
        return ratios
    if policy not in ("not_larger", "not_smaller"):
        raise UnsupportedError(f"keep_aspect_ratio_policy {policy!r} is not one of stretch, not_larger, not_smaller")
    return [min(ratios) if policy == "not_larger" else max(ratios)] * len(axes)


def _ratio(size: int, extent: int) -> Fraction:
    """size / extent; of run-time sizes only where it is whole."""
    whole = isinstance(size, Size) or isinstance(extent, Size)
    return Fraction(index(size // extent)) if whole else Fraction(size, extent)


def _positions(op: OnnxOp, extent: int, outputs: int, width: float, region: tuple[float, float]) -> Reals:
    """Where each output element lies in the input, in elements; divided once, so that whole numbers are whole."""
    y, last = np.arange(outputs, dtype=np.float64), extent - 1
    mode = op.string("coordinate_transformation_mode")
    if mode == "asymmetric":
        return y * extent / width
    if mode == "align_corners":
        return y * last / (width - 1) if outputs > 1 else y
    if mode == "tf_crop_and_resize":
        start, end = region
        return start * last + ((y / (width - 1) if outputs > 1 else y + 0.5) * (end - start) * last)
    centred = (y + 0.5) * extent / width - 0.5
    if mode == "half_pixel":
        return centred
    if mode == "half_pixel_symmetric":
        return centred + extent / 2 * (1 - outputs / width)
    if mode == "pytorch_half_pixel":
        return centred if outputs > 1 else y
    raise UnsupportedError(f"coordinate_transformation_mode {mode!r} is not one that ONNX defines")


# -- nearest neighbours ------------------------------------------------------------------------------------------

_ROUNDINGS: dict[str, Callable[[Reals], Reals]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": lambda at: np.floor(at),
    "ceil": lambda at: np.ceil(at),
}


def _nearest(op: OnnxOp, build: Lowering, x: SSAValue, axes: Sequence[Resampling]) -> SSAValue:
    mode = op.string("nearest_mode")
    if mode not in _ROUNDINGS:
        raise UnsupportedError(f"nearest_mode {mode!r} is not one of {', '.join(_ROUNDINGS)}")
    places = {r.axis: np.clip(_ROUNDINGS[mode](r.positions), 0, r.extent - 1).astype(np.int64) for r in axes}
    factors = {r.axis: len(places[r.axis]) // r.extent for r in axes}
    repeats = {r.axis for r in axes if _is_repetition(places[r.axis], r.extent, factors[r.axis])}
    for axis in sorted(places.keys() - repeats):
        if isinstance(shape_of(x)[axis], Size):
            raise _needs_number(axis, shape_of(x)[axis])
    x = _pick(build, x, {a: p for a, p in places.items() if a not in repeats})
    for axis in sorted(repeats, reverse=True):  # rows of repeated elements are then repeated as wholes
        x = _repeat(build, x, axis, factors[axis])
    return x


def _is_repetition(places: Ints, extent: int, factor: int) -> bool:
    return factor > 0 and np.array_equal(places, np.repeat(np.arange(extent), factor))


def _pick(build: Lowering, x: SSAValue, places: dict[int, Ints]) -> SSAValue:
    """y[.., o, ..] = x[.., places[o], ..] on the axes that have places."""
    if not places:
        return x
    rank, order = len(shape_of(x)), list(places)
    shape = [len(places[a]) if a in places else e for a, e in enumerate(shape_of(x))]
    inputs = [(build.weight("places", places[a]), structured.dims_map(rank, [a])) for a in order]

    def where(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        at = {a: s.insert(arith.IndexCastOp(args[k], _INDEX)) for k, a in enumerate(order)}
        return [at[a] if a in at else s.loop(a) for a in range(rank)]

    return gather_at(build, x, shape, inputs, where)


def _repeat(build: Lowering, x: SSAValue, axis: int, factor: int) -> SSAValue:
    """Every element of an axis `factor` times: the result as (.., d, factor, ..) reads x at (.., d, ..)."""
    shape = list(shape_of(x))
    apart = [*shape[: axis + 1], factor, *shape[axis + 1 :]]
    read = structured.dims_map(len(apart), [a for a in range(len(apart)) if a != axis + 1])
    maps = [read, structured.identity(len(apart))]
    spread = build.generic([x], [build.empty(apart, element_of(x))], maps, lambda _, args: [args[0]])[0]
    return build.reshape(spread, [*shape[:axis], shape[axis] * factor, *shape[axis + 1 :]])


# -- interpolation -----------------------------------------------------------------------------------------------

_REACH = {"linear": 1, "cubic": 2}
"""How far from a position the filter of each mode is not zero."""


def _interpolate(op: OnnxOp, build: Lowering, x: SSAValue, axes: Sequence[Resampling]) -> SSAValue:
    """Sums of neighbours along one axis after the other; integers and booleans in double precision, rounded at last."""
    kind = element_of(x)
    unsigned = build.unsigned
    y = x if is_float(kind) else build.elementwise(lambda s, v: s.cast(v, f64), x, element=f64)
    for r in sorted(axes, key=lambda r: (r.width / r.extent, -r.axis)):
        y = _weighted(build, y, r.axis, *_taps(op, r))
    return y if is_float(kind) else build.elementwise(lambda s, v: s.rounded(v, kind, unsigned), y, element=kind)


def _taps(op: OnnxOp, r: Resampling) -> tuple[Ints, Reals]:
    """The elements that make up each output and their weights, both of shape (outputs, taps)."""
    mode, excludes, smooth = op.string("mode"), op.integer("exclude_outside") == 1, op.integer("antialias") == 1
    shrink = min(1.0, float(r.width / r.extent)) if smooth else 1.0
    reach = math.ceil(_REACH[mode] / shrink)
    first = np.floor(r.positions)
    offsets = np.arange(1 - reach, reach + 1)
    distance = np.abs(offsets - (r.positions - first)[:, None]) * shrink
    weights = np.maximum(1 - distance, 0) if mode == "linear" else _cubic(distance, op.real("cubic_coeff_a"))
    places = first.astype(np.int64)[:, None] + offsets
    if excludes:
        weights = np.where((places < 0) | (places >= r.extent), 0.0, weights)
    if excludes or smooth:
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    return np.clip(places, 0, r.extent - 1), weights


def _cubic(distance: Reals, a: float) -> Reals:
    """Keys' convolution kernel with the slope `a` at distance 1."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


UNROLLED = 8
"""So many taps are written out in the body: rows of the last axis then go by in one loop, 3 to 8 times as fast."""


def _weighted(build: Lowering, x: SSAValue, axis: int, places: Ints, weights: Reals) -> SSAValue:
    """y[.., o, ..] = sum over t of weights[o, t] * x[.., places[o, t], ..]."""
    kind, rank, (outputs, taps) = element_of(x), len(shape_of(x)), places.shape
    shape = [outputs if a == axis else e for a, e in enumerate(shape_of(x))]
    table = weights.astype(numpy_dtype(kind))

    def term(s: Scalars, place: SSAValue, weight: SSAValue) -> SSAValue:
        at = s.insert(arith.IndexCastOp(place, _INDEX))
        element = s.insert(tensor.ExtractOp(x, [at if a == axis else s.loop(a) for a in range(rank)], kind))
        return s.mul(element, weight)

    def all_taps(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        terms = [term(s, place, weight) for place, weight in zip(args[:taps], args[taps:], strict=False)]
        return [functools.reduce(s.add, terms)]

    def one_tap(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        return [s.add(args[2], term(s, args[0], args[1]))]

    if taps <= UNROLLED:
        tables = [build.weight("taps", np.ascontiguousarray(c)) for c in (*places.T, *table.T)]
        maps = [*[structured.dims_map(rank, [axis])] * len(tables), structured.identity(rank)]
        return build.generic(tables, [build.empty(shape, kind)], maps, all_taps)[0]
    tables = [build.weight("taps", places), build.weight("taps", table)]
    maps = [*[structured.dims_map(rank + 1, [axis, rank])] * 2, structured.dims_map(rank + 1, list(range(rank)))]
    return build.generic(tables, [build.fill(0, shape, kind)], maps, one_tap, [rank])[0]


def _extrapolate(op: OnnxOp, build: Lowering, y: SSAValue, axes: Sequence[Resampling]) -> SSAValue:
    """y with `extrapolation_value` where tf_crop_and_resize looks outside of the input."""
    if op.string("coordinate_transformation_mode") != "tf_crop_and_resize":
        return y
    value, kind = op.real("extrapolation_value"), element_of(y)
    rank = len(shape_of(y))
    for r in axes:
        if r.outside.any():
            along = [-1 if a == r.axis else 1 for a in range(rank)]
            mask = build.weight("outside", r.outside.reshape(along))
            y = build.elementwise(lambda s, out, v: s.select(out, s.constant(value, kind), v), mask, y, element=kind)
    return y
