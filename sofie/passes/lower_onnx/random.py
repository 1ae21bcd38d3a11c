"""Random operators: a counter-based generator, so that each element draws its numbers by itself and in any order.

Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011) turns a key, which
is the seed, and a counter of (element, call and steps of loops, node, call) into four words of 32 bits.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

from xdsl.dialects import arith, scf
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, f64, i1, i64
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.ir.affine import AffineExpr

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.extents import function_of
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.random_state import STREAM, ensure_state

Words = Sequence[SSAValue]
"""Four words of 32 random bits, each in an i64."""

Draw = Callable[..., SSAValue]
"""(scalars, words, elements of the operands ..) -> the element of the result."""

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
INCREMENTS = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF


@lowers("RandomUniform", "RandomUniformLike")
def random_uniform(op: OnnxOp, build: Lowering) -> SSAValue:
    """Numbers from [low, high), all alike likely (RandomUniform 22, RandomUniformLike 22)."""
    low, high, kind = op.real("low"), op.real("high"), build.result_element()

    def fn(s: Scalars, words: Words) -> SSAValue:
        span = s.mul(s.constant(high - low, f64), _unit(s, words[0], words[1]))
        value = s.cast(s.add(s.constant(low, f64), span), kind)
        least, end = s.constant(low, kind), s.constant(high, kind)
        return s.select(s.compare("lt", value, end), value, least)  # rounding may reach the end

    return _drawn(op, build, build.result_shape(), kind, fn)


@lowers("RandomNormal", "RandomNormalLike")
def random_normal(op: OnnxOp, build: Lowering) -> SSAValue:
    """Normally distributed numbers by Box and Muller's method, in float64 (RandomNormal 22, RandomNormalLike 22)."""
    mean, scale, kind = op.real("mean"), op.real("scale"), build.result_element()

    def fn(s: Scalars, words: Words) -> SSAValue:
        above_zero = s.sub(s.constant(1, f64), _unit(s, words[0], words[1]))
        radius = s.unary("sqrt", s.mul(s.constant(-2, f64), s.unary("log", above_zero)))
        angle = s.mul(s.constant(2 * math.pi, f64), _unit(s, words[2], words[3]))
        value = s.mul(radius, s.unary("cos", angle))
        return s.cast(s.add(s.constant(mean, f64), s.mul(s.constant(scale, f64), value)), kind)

    return _drawn(op, build, build.result_shape(), kind, fn)


@lowers("Bernoulli")
def bernoulli(op: OnnxOp, build: Lowering) -> SSAValue:
    """1 with the probability that the operand gives, else 0 (Bernoulli 22)."""
    kind, x = build.result_element(), build.operand(0)

    def fn(s: Scalars, words: Words, probability: SSAValue) -> SSAValue:
        hit = s.compare("lt", _unit(s, words[0], words[1]), s.cast(probability, f64))
        return s.select(hit, s.constant(1, kind), s.constant(0, kind))

    return _drawn(op, build, shape_of(x), kind, fn, x)


@lowers("Multinomial")
def multinomial(op: OnnxOp, build: Lowering) -> SSAValue:
    """Classes drawn by unnormalised log-probabilities (batch, classes): the first whose running sum is above a number
    between 0 and the total (Multinomial 22)."""
    x, shape = build.operand(0), build.result_shape()
    largest = build.reduce(lambda s, v, acc: s.max(acc, v), -math.inf, x, [1], keep=True)

    def weight(s: Scalars, v: SSAValue, top: SSAValue) -> SSAValue:
        return s.unary("exp", s.sub(s.cast(v, f64), s.cast(top, f64)))

    weights = build.elementwise(weight, x, largest, element=f64)
    total = build.reduce(lambda s, v, acc: s.add(acc, v), 0, weights, [1], keep=True)

    def fn(s: Scalars, words: Words, end: SSAValue) -> SSAValue:
        return s.mul(end, s.mul(s.cast(words[0], f64), s.constant(2.0**-32, f64)))

    marks = _drawn(op, build, shape, f64, fn, total)

    def count(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        part, mark, before, passed = args
        running = s.add(before, part)
        more = s.add(passed, s.constant(1, i64))
        return [running, s.select(s.compare("le", running, mark), more, passed)]

    maps = [structured.dims_map(3, dims) for dims in ([0, 2], [0, 1], [0, 1], [0, 1])]
    starts = [build.fill(0, shape, f64), build.fill(0, shape, i64)]
    chosen = build.generic([weights, marks], starts, maps, count, [2])[1]
    kind = build.result_element()
    return chosen if kind == i64 else build.elementwise(lambda s, v: s.cast(v, kind), chosen, element=kind)


@lowers("Dropout")
def dropout(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """x, in training with elements 0 with probability `ratio` and else over 1 - ratio, and a mask (Dropout 22)."""
    x, ratio, training = build.operand(0), build.optional(1), build.optional(2)
    shape, kind = shape_of(x), element_of(x)
    is_training = None if training is None else build.known(training)
    portion = None if ratio is None else build.known(ratio)
    if (
        training is None
        or (is_training is not None and not is_training.any())
        or (portion is not None and not portion.any())
    ):
        return [x, build.fill(True, shape, i1)]
    limit = build.fill(0.5, [], kind) if ratio is None else build.reshape(ratio, [])
    flag = build.reshape(training, [])

    def keep(s: Scalars, words: Words, share: SSAValue, active: SSAValue) -> SSAValue:
        kept = s.compare("ge", _unit(s, words[0], words[1]), s.cast(share, f64))
        return s.select(active, kept, s.constant(True, i1))

    mask = _drawn(op, build, shape, i1, keep, limit, flag)

    def fn(s: Scalars, v: SSAValue, kept: SSAValue, share: SSAValue, active: SSAValue) -> SSAValue:
        scaled = s.mul(v, s.div(s.constant(1, kind), s.sub(s.constant(1, kind), s.cast(share, kind))))
        return s.select(active, s.select(kept, scaled, s.constant(0, kind)), v)

    return [build.elementwise(fn, x, mask, limit, flag), mask]


def _drawn(
    op: OnnxOp, build: Lowering, shape: Sequence[int], kind: Attribute, fn: Draw, *operands: SSAValue
) -> SSAValue:
    """A tensor of `shape` that `fn` makes element by element of words of the node's stream."""
    state, rank = ensure_state(function_of(op)), len(shape)
    stream = op.attributes.get(STREAM)
    number = stream.value.data if isinstance(stream, IntegerAttr) else 0
    seed = _own_seed(op)
    extents, steps = [build.number(e, i64) for e in shape], _steps_around(op)

    def body(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        key = args[0] if seed is None else s.constant(seed, i64)
        place = s.constant(0, i64)
        for axis, extent in enumerate(extents):
            place = s.add(s.mul(place, extent(s)), s.place(axis))
        around = _high(s, args[1])
        for step in steps:
            around = s.add(s.mul(around, s.constant(INCREMENTS[0], i64)), s.insert(arith.IndexCastOp(step, i64)))
        counter = [_low(s, place), _low(s, around), s.constant(number if seed is None else 0, i64), _low(s, args[1])]
        return [fn(s, philox(s, counter, [_low(s, key), _high(s, key)]), *args[2:-1])]

    entries = [structured.dims_map(rank, [AffineExpr.constant(k)]) for k in (0, 1)]
    maps = [*entries, *(build.broadcast_map(shape_of(v), shape) for v in operands), structured.identity(rank)]
    return build.generic([state, state, *operands], [build.empty(shape, kind)], maps, body)[0]


def _own_seed(op: OnnxOp) -> int | None:
    """The node's attribute `seed`, the bits of the float32 where it is one; None where it has none."""
    seed = op.attribute("seed")
    if isinstance(seed, FloatAttr):
        return int(struct.unpack("<i", struct.pack("<f", seed.value.data))[0])
    return seed.value.data if isinstance(seed, IntegerAttr) else None


def _steps_around(op: OnnxOp) -> list[SSAValue]:
    """The numbers of the steps of all loops around an op: every step draws anew."""
    found: list[SSAValue] = []
    parent: Operation | None = op.parent_op()
    while parent is not None:
        if isinstance(parent, scf.ForOp):
            found.append(parent.body.block.args[0])
        parent = parent.parent_op()
    return found


def philox(s: Scalars, counter: Words, key: Words) -> Words:
    """Philox 4x32-10 on words held in i64."""
    a, b, c, d = counter
    first, second = key
    for round_ in range(ROUNDS):
        if round_:
            first, second = (
                _low(s, s.add(k, s.constant(w, i64))) for k, w in zip((first, second), INCREMENTS, strict=True)
            )
        left, right = (s.mul(x, s.constant(m, i64)) for x, m in zip((a, c), MULTIPLIERS, strict=True))
        a, c = (
            s.binary("xor", s.binary("xor", _high(s, product), old), word)
            for product, old, word in ((right, b, first), (left, d, second))
        )
        b, d = _low(s, right), _low(s, left)
    return [a, b, c, d]


def _low(s: Scalars, x: SSAValue) -> SSAValue:
    """The lower 32 bits."""
    return s.binary("and", x, s.constant(MASK, i64))


def _high(s: Scalars, x: SSAValue) -> SSAValue:
    """The upper 32 bits."""
    return s.insert(arith.ShRUIOp(x, s.constant(32, i64)))


def _unit(s: Scalars, high: SSAValue, low: SSAValue) -> SSAValue:
    """A float64 from [0, 1) with 53 random bits."""
    whole = s.add(s.mul(high, s.constant(1 << 21, i64)), s.insert(arith.ShRUIOp(low, s.constant(11, i64))))
    return s.mul(s.insert(arith.SIToFPOp(whole, f64)), s.constant(2.0**-53, f64))
