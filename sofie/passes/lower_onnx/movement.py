"""Operators that only move elements: views where a view can say it, copies with another map where not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from xdsl.ir import SSAValue

from sofie import sizes, structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError, UnsupportedError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering, Offset
from sofie.passes.lower_onnx.sequential import Walk
from sofie.reference import evaluate_node
from sofie.weights import Array


@lowers("Flatten")
@lowers("Reshape", "Squeeze", "Unsqueeze", limits="shape and axes known when compiling")
def reshape(op: OnnxOp, build: Lowering) -> SSAValue:
    """The same elements under the shape that inference found."""
    return build.reshape(build.operand(0), build.result_shape())


@lowers("Constant")
def constant(op: OnnxOp, build: Lowering) -> SSAValue:
    """A Constant node of any kind, as a weight."""
    value = evaluate_node(op.node(), [], {"": 28})[0]
    return build.weight(op.results[0].name_hint or "constant", value)


@lowers("Transpose")
def transpose(op: OnnxOp, build: Lowering) -> SSAValue:
    """Axes permuted, reversed by default (Transpose 25)."""
    x = build.operand(0)
    rank = len(shape_of(x))
    permutation = op.ints("perm", range(rank)[::-1]) or tuple(range(rank)[::-1])
    if sorted(p % rank if rank else 0 for p in permutation) != list(range(rank)):
        raise SofieError(f"perm {list(permutation)} does not fit rank {rank}")
    return build.transpose(x, [p % rank for p in permutation])


@lowers("Concat")
def concat(op: OnnxOp, build: Lowering) -> SSAValue:
    """Tensors one after the other along an axis (Concat 13)."""
    parts = [v for v in build.operands if v is not None]
    return parts[0] if len(parts) == 1 else build.concat(parts, build.axis("axis", len(shape_of(parts[0]))))


@lowers("Slice", limits="axes and steps known when compiling; starts and ends of the run walk forwards")
def slice_(op: OnnxOp, build: Lowering) -> SSAValue:
    """x[start : end : step] on the axes given, with Python's clamping (Slice 13)."""
    x = build.operand(0)
    shape = shape_of(x)
    if not all(isinstance(build.operand(k).owner, WeightOp | ExtentsOp) for k in (1, 2)):
        return _found_slice(build, x)
    starts, ends = build.known_ints(1) or [], build.known_ints(2) or []
    axes = build.known_ints(3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = build.known_ints(4) or [1] * len(starts)
    offsets, extents, strides = [0] * len(shape), list(shape), [1] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise SofieError("a step of 0 is not allowed")
        if sizes.is_static((shape[axis], start, end)):
            picked = range(shape[axis])[slice(start, _backward_end(end, shape[axis], step), step)]
            offsets[axis], extents[axis], strides[axis] = picked.start, len(picked), step
        else:
            offsets[axis] = _offset(start, shape[axis], step)
            extents[axis], strides[axis] = build.result_shape()[axis], step
    return build.slice(x, offsets, extents, strides)


def _found_slice(build: Lowering, x: SSAValue) -> SSAValue:
    """A slice whose start or end the run tells, and with them how long it is."""
    shape, result, walk = shape_of(x), build.result_shape(), Walk(build)
    (count,) = shape_of(build.operand(1))
    axes = build.known_ints(3)
    steps = build.known_ints(4) or [1] * count
    offsets: list[Offset] = [0] * len(shape)
    strides = [1] * len(shape)
    for k, axis in enumerate(range(count) if axes is None else axes):
        if steps[k] <= 0:
            raise UnsupportedError(f"a step of {steps[k]} needs starts and ends that are known; give them with --set")
        extent, zero = walk.index(shape[axis]), walk.index(0)

        def inside(operand: int, k: int = k, extent: SSAValue = extent, zero: SSAValue = zero) -> SSAValue:
            known = build.known(build.operand(operand))
            place = build.element(build.operand(operand), k) if known is None else walk.index(int(known.reshape(-1)[k]))
            behind = walk.select(walk.compare("lt", place, zero), walk.add(place, extent), place)
            return walk.max(walk.min(behind, extent), zero)

        start, end = inside(1), inside(2)
        length = walk.max(walk.plus(walk.sub(end, start), steps[k] - 1), zero)
        build.found(result[axis], walk.div(length, walk.index(steps[k])))
        offsets[axis], strides[axis] = start, steps[k]
    return build.slice(x, offsets, result, strides)


def _offset(start: int, extent: int, step: int) -> int:
    """Where a slice starts that moves along an axis of a run-time extent."""
    if step < 0:
        raise UnsupportedError(f"a backward slice needs the size {extent} as a number; give it one with --dim")
    first = start + extent if start < 0 else start
    return max(min(first, extent), 0)


def _backward_end(end: int, extent: int, step: int) -> int | None:
    """Python's end of a slice: walking backwards, an end before the first element means "through the first"."""
    return None if step < 0 and end < -extent else end


@lowers("Expand", limits="shape known when compiling")
def expand(op: OnnxOp, build: Lowering) -> SSAValue:
    """Broadcast with a shape, in both directions (Expand 13)."""
    return build.broadcast(build.operand(0), build.result_shape())


@lowers("Split", limits="split known when compiling")
def split(op: OnnxOp, build: Lowering) -> Sequence[SSAValue]:
    """Slices along an axis, of the lengths given or of equal ones and a shorter last (Split 18)."""
    x = build.operand(0)
    axis, offset, parts = build.axis("axis", len(shape_of(x))), 0, []
    for k in range(len(op.results)):
        sizes = build.result_shape(k)
        parts.append(build.slice(x, [offset if a == axis else 0 for a in range(len(sizes))], sizes))
        offset += sizes[axis]
    return parts


@lowers("Tile", limits="repeats known when compiling")
def tile(op: OnnxOp, build: Lowering) -> SSAValue:
    """`numpy.tile`, one factor an axis: the result as (r0, d0, r1, d1, ..) reads x at (d0, d1, ..) (Tile 13)."""
    x = build.operand(0)
    shape, result = shape_of(x), build.result_shape()
    if math.prod(result) == 0 or shape == result:
        return build.broadcast(x, result) if shape == result else build.empty(result, element_of(x))
    pairs = [e for d, r in zip(shape, result, strict=True) for e in (r // d, d)]
    maps = [structured.dims_map(len(pairs), list(range(1, len(pairs), 2))), structured.identity(len(pairs))]
    repeated = build.generic([x], [build.empty(pairs, element_of(x))], maps, lambda _, args: [args[0]])[0]
    return build.reshape(repeated, result)


@lowers("DepthToSpace")
def depth_to_space(op: OnnxOp, build: Lowering) -> SSAValue:
    """Channels become blocks of pixels, block first (DCR) or channel first (CRD) (DepthToSpace 13)."""
    x, block = build.operand(0), op.integer("blocksize")
    n, c, h, w = shape_of(x)
    left = c // block**2
    if op.string("mode") == "CRD":
        x, order = build.reshape(x, [n, left, block, block, h, w]), [0, 1, 4, 2, 5, 3]
    else:
        x, order = build.reshape(x, [n, block, block, left, h, w]), [0, 3, 4, 1, 5, 2]
    return build.reshape(build.transpose(x, order), [n, left, h * block, w * block])


@lowers("SpaceToDepth")
def space_to_depth(op: OnnxOp, build: Lowering) -> SSAValue:
    """Blocks of pixels become channels, block first (DCR) or channel first (CRD) (SpaceToDepth 13)."""
    x, block = build.operand(0), op.integer("blocksize")
    n, c, h, w = shape_of(x)
    blocks = build.reshape(x, [n, c, h // block, block, w // block, block])
    order = [0, 1, 3, 5, 2, 4] if op.string("mode", "DCR") == "CRD" else [0, 3, 5, 1, 2, 4]
    moved = build.transpose(blocks, order)
    return build.reshape(moved, [n, c * block**2, h // block, w // block])


@lowers("Pad", limits="pads and axes known when compiling")
def pad(op: OnnxOp, build: Lowering) -> SSAValue:
    """Padding by a constant, the edge, reflection or wrapping; negative amounts cut (Pad 25)."""
    x = build.operand(0)
    rank = len(shape_of(x))
    pads = build.known_ints(1) or []
    axes = build.known_ints(3)
    axes = list(range(rank)) if axes is None else [a % rank for a in axes]
    before, after = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = pads[k], pads[len(axes) + k]
    mode = op.string("mode")
    if mode == "constant":
        return _pad_constant(build, x, before, after)
    for axis in range(rank):
        x = _pad_axis(build, x, axis, before[axis], after[axis], mode)
    return x


def _pad_constant(build: Lowering, x: SSAValue, before: Sequence[int], after: Sequence[int]) -> SSAValue:
    given = build.optional(2)
    if given is None:
        return build.pad(x, before, after, 0)
    array = build.known(given)
    if array is not None:
        return build.pad(x, before, after, np.asarray(array).reshape(-1)[0].item())
    cut = build.pad(x, [min(p, 0) for p in before], [min(p, 0) for p in after], 0)
    front = [max(p, 0) for p in before]
    target = [e + f + max(b, 0) for e, f, b in zip(shape_of(cut), front, after, strict=True)]
    return build.insert_slice(cut, build.broadcast(build.reshape(given, ()), target), front)


def _pad_axis(build: Lowering, x: SSAValue, axis: int, before: int, after: int, mode: str) -> SSAValue:
    """One axis padded by pieces of itself: slices, walked backwards for reflection, repeated where it is short."""
    extent = shape_of(x)[axis]
    if extent == 0 and (before > 0 or after > 0):
        raise SofieError(f"an empty axis cannot be padded by {mode!r}")
    if mode not in ("edge", "reflect", "wrap"):
        raise UnsupportedError(f"mode {mode!r} is not one of constant, edge, reflect, wrap")
    source = np.pad(
        np.arange(extent), (max(before, 0), max(after, 0)), mode=cast(Literal["edge", "reflect", "wrap"], mode)
    )
    source = source[max(-before, 0) : len(source) - max(-after, 0)]
    parts = [_run(build, x, axis, start, count, step) for start, count, step in _runs(source)]
    return parts[0] if len(parts) == 1 else build.concat(parts, axis)


def _runs(indices: Array) -> list[tuple[int, int, int]]:
    """An index list as runs (start, count, step) with step 1, -1 or 0."""
    runs: list[tuple[int, int, int]] = []
    k = 0
    while k < len(indices):
        step = int(indices[k + 1] - indices[k]) if k + 1 < len(indices) else 1
        if step not in (1, -1, 0):
            step = 1
        end = k + 1
        while end < len(indices) and indices[end] - indices[end - 1] == step:
            end += 1
        runs.append((int(indices[k]), end - k, step))
        k = end
    return runs


def _run(build: Lowering, x: SSAValue, axis: int, start: int, count: int, step: int) -> SSAValue:
    shape = list(shape_of(x))
    offsets = [start if a == axis else 0 for a in range(len(shape))]
    if step == 0:
        one = build.slice(x, offsets, [1 if a == axis else e for a, e in enumerate(shape)])
        return build.broadcast(one, [count if a == axis else e for a, e in enumerate(shape)])
    sizes = [count if a == axis else e for a, e in enumerate(shape)]
    if math.prod(sizes) == 0:
        return build.empty(sizes, element_of(x))
    return build.slice(x, offsets, sizes, [step if a == axis else 1 for a in range(len(shape))])
