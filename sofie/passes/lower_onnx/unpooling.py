"""Operators that put windows back into the tensor they were taken from."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import IndexType, i1, i64
from xdsl.ir import BlockArgument, SSAValue

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.passes.lower_onnx.sequential import INDEX, Walk, kernel

_INDEX = IndexType()


@lowers("Col2Im", limits="image_shape and block_shape known when compiling")
def col2im(op: OnnxOp, build: Lowering) -> SSAValue:
    """An image whose elements are the sums of all that lies over them in the blocks (Col2Im 18).

    Every element looks through the places that it can have in a block, so that none waits for another.
    """
    x, result, kind = build.operand(0), build.result_shape(), element_of(build.operand(0))
    batch, channels, *image = result
    block, rank = build.known_ints(2) or [], len(image)
    strides, dilations = (op.ints(name, [1] * rank) or (1,) * rank for name in ("strides", "dilations"))
    pads = op.ints("pads", [0] * 2 * rank) or (0,) * 2 * rank
    reach = [
        e + front + back - (b - 1) * d - 1
        for e, front, back, b, d in zip(image, pads[:rank], pads[rank:], block, dilations, strict=True)
    ]
    counts = [r // s + 1 for r, s in zip(reach, strides, strict=True)]
    if math.prod(counts) != shape_of(x)[2]:
        raise SofieError(f"{shape_of(x)[2]} blocks do not fill an image of {list(image)}, which has {counts} of them")
    if 0 in shape_of(x) or 0 in result:
        return build.fill(0, result, kind)
    columns = build.reshape(x, [batch, channels, *block, *counts])

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        where = [s.loop(d) for d in (0, 1, *range(2 + rank, 2 + 2 * rank))]
        conditions = []
        for a in range(rank):
            place = s.add(s.place(2 + a), s.constant(pads[a], i64))
            offset = s.sub(place, s.mul(s.place(2 + rank + a), s.constant(dilations[a], i64)))
            count, inside = _block_at(s, offset, strides[a], counts[a])
            where.append(s.insert(arith.IndexCastOp(count, _INDEX)))
            conditions.append(inside)
        here = functools.reduce(lambda a, b: s.insert(arith.AndIOp(a, b)), conditions)
        element = s.select(here, s.insert(tensor.ExtractOp(columns, where, kind)), s.constant(0, kind))
        return [s.binary("or", args[1], element) if kind == i1 else s.add(args[1], element)]

    loops, window = 2 + 2 * rank, build.empty(block, kind)
    maps = [structured.dims_map(loops, list(range(2 + rank, loops))), structured.dims_map(loops, list(range(2 + rank)))]
    start = build.fill(0, result, kind)
    return build.generic([window], [start], maps, fn, range(2 + rank, loops), unsigned=False)[0]


def _block_at(s: Scalars, offset: SSAValue, stride: int, count: int) -> tuple[SSAValue, SSAValue]:
    """Which of `count` blocks begins at `offset`, or some other one, and whether one does."""
    zero, step = s.constant(0, i64), s.constant(stride, i64)
    block = s.div(offset, step)
    begins = s.insert(arith.AndIOp(s.compare("ge", offset, zero), s.compare("eq", s.mul(block, step), offset)))
    inside = s.insert(arith.AndIOp(begins, s.compare("lt", block, s.constant(count, i64))))
    return s.select(inside, block, zero), inside


@lowers("MaxUnpool", limits="output_shape known when compiling")
def max_unpool(op: OnnxOp, build: Lowering) -> SSAValue:
    """Zeros, but for the elements of x where their indices say (MaxUnpool 22).

    Indices count in the shape that strides, pads and kernel lead to; in a larger `output_shape` that is the corner
    where all indices are least, the rest is zero. The last of several elements for one place stays.
    """
    x, indices, result = build.operand(0), build.operand(1), build.result_shape()
    batch, channels, *inputs = shape_of(x)
    window, rank = op.ints("kernel_shape") or (), len(inputs)
    strides, pads = op.ints("strides", [1] * rank) or (1,) * rank, op.ints("pads", [0] * 2 * rank) or (0,) * 2 * rank
    spatial = [
        (i - 1) * s - front - back + k
        for i, s, front, back, k in zip(inputs, strides, pads[:rank], pads[rank:], window, strict=True)
    ]
    inner = [batch, channels, *spatial]
    if 0 in shape_of(x):
        return build.fill(0, result, element_of(x))
    room, count = math.prod(inner), math.prod(shape_of(x))
    elements, places = build.reshape(x, [count]), build.reshape(indices, [count])

    def fn(walk: Walk, flat: SSAValue) -> Sequence[SSAValue]:
        def put(i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            place = walk.number(walk.load(places, i), INDEX)
            inside = walk.both(walk.compare("ge", place, walk.index(0)), walk.compare("lt", place, walk.index(room)))
            return walk.choose(inside, lambda: [walk.store(walk.load(elements, i), carried[0], place)], carried)

        return walk.for_(0, count, [flat], put)

    (filled,) = kernel(build, [build.fill(0, [room], element_of(x))], fn)
    unpooled = build.reshape(filled, inner)
    behind = [r - i for r, i in zip(result, inner, strict=True)]
    return build.pad(unpooled, [0] * len(result), behind, 0)
