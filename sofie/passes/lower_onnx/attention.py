"""Attention: two batched products with a softmax between them; what is masked is -inf before it and 0 behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from xdsl.dialects import arith
from xdsl.dialects.builtin import IndexType, f32, i1
from xdsl.ir import Attribute, BlockArgument, SSAValue

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import bytes_of, element_from_onnx, element_of, shape_of
from sofie.errors import SofieError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering, Offset
from sofie.passes.lower_onnx.contraction import product
from sofie.passes.lower_onnx.control import repeat
from sofie.passes.lower_onnx.scalars import Scalars

_INDEX = IndexType()

RAW, CAPPED, MASKED, PROBABILITIES = range(4)
"""What the fourth result of Attention holds, by `qk_matmul_output_mode`."""


@lowers("Attention")
def attention(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """softmax(cap(scale Q K') + mask) V, with cached keys and values in front of the new ones (Attention 25).

    Q is (batch, heads, queries, size) or (batch, queries, heads * size), likewise K and V, whose heads may each serve
    several of Q. Rows without a key that counts are 0.
    """
    q, k, v = (_heads_apart(op, build, build.operand(n), name) for n, name in enumerate(("q", "kv", "kv")))
    past_key, past_value = build.optional(4), build.optional(5)
    if (past_key is None) != (past_value is None):
        raise SofieError("past_key and past_value come together; give both or none")
    if past_key is not None and past_value is not None:
        k, v = build.concat([past_key, k], 2), build.concat([past_value, v], 2)
    batch, heads, queries, size = shape_of(q)
    groups, keys, kind = shape_of(k)[1], shape_of(k)[2], element_of(q)
    if heads % groups:
        raise SofieError(f"{heads} heads of Q cannot share {groups} of K; their number must be a multiple")
    scale = op.real("scale", 1 / math.sqrt(size))
    scaled = build.elementwise(lambda s, x: s.mul(x, s.constant(scale, kind)), q)
    together = [batch, groups, heads // groups * queries]
    raw = product(build, build.reshape(scaled, [*together, size]), build.transpose(k, [0, 1, 3, 2]))
    scores = {RAW: build.reshape(raw, [batch, heads, queries, keys])}
    scores[CAPPED] = _capped(build, scores[RAW], op.real("softcap"))
    scores[MASKED] = _masked(op, build, scores[CAPPED], 0 if past_key is None else shape_of(past_key)[2])
    named = op.integer("softmax_precision", 0)
    probabilities = _softmax(build, _cast(build, scores[MASKED], element_from_onnx(named) if named else kind))
    scores[PROBABILITIES] = _cast(build, probabilities, kind)
    y = product(build, build.reshape(scores[PROBABILITIES], [*together, keys]), _cast(build, v, kind))
    y = build.reshape(y, [batch, heads, queries, shape_of(v)[3]])
    if len(shape_of(build.operand(0))) == 3:
        y = build.reshape(build.transpose(y, [0, 2, 1, 3]), build.result_shape())
    return [y, k, v, scores[op.integer("qk_matmul_output_mode")]]


def _heads_apart(op: OnnxOp, build: Lowering, x: SSAValue, whose: str) -> SSAValue:
    """(batch, steps, heads * size) as (batch, heads, steps, size)."""
    if len(shape_of(x)) == 4:
        return x
    batch, steps, hidden = shape_of(x)
    heads = op.integer(f"{whose}_num_heads")
    return build.transpose(build.reshape(x, [batch, steps, heads, hidden // heads]), [0, 2, 1, 3])


def _cast(build: Lowering, x: SSAValue, kind: Attribute) -> SSAValue:
    return x if element_of(x) == kind else build.elementwise(lambda s, v: s.cast(v, kind), x, element=kind)


def _capped(build: Lowering, scores: SSAValue, cap: float) -> SSAValue:
    """cap * tanh(scores / cap); 0 is no cap."""
    if cap == 0.0:
        return scores

    def fn(s: Scalars, x: SSAValue) -> SSAValue:
        limit = s.constant(cap, x.type)
        return s.mul(limit, s.unary("tanh", s.div(x, limit)))

    return build.elementwise(fn, scores)


def _masked(op: OnnxOp, build: Lowering, scores: SSAValue, past: int) -> SSAValue:
    """The scores plus a mask of floats, and -inf where a mask, the order, a window or padding hides the key."""
    shape, kind = shape_of(scores), element_of(scores)
    mask, lengths = build.optional(3), build.optional(6)
    left, right = op.integer("left_window_size"), op.integer("right_window_size")
    if op.integer("is_causal"):
        right = 0
    inputs, maps = [scores], [structured.identity(4)]
    if mask is not None:
        missing = shape[3] - shape_of(mask)[-1]
        hidden = False if element_of(mask) == i1 else -math.inf
        before, after = [0] * len(shape_of(mask)), [*[0] * (len(shape_of(mask)) - 1), missing]
        mask = build.pad(mask, before, after, hidden)
        inputs, maps = [*inputs, mask], [*maps, build.broadcast_map(shape_of(mask), shape)]
    if lengths is not None:
        inputs, maps = [*inputs, lengths], [*maps, structured.dims_map(4, [0])]
    if len(inputs) == 1 and left < 0 and right < 0:
        return scores
    in_front, queries = build.number(past, _INDEX), build.number(shape[2], _INDEX)

    def fn(s: Scalars, args: tuple[BlockArgument, ...]) -> Sequence[SSAValue]:
        value: SSAValue = args[0]
        rest, shown = list(args[1:-1]), list[SSAValue]()
        if mask is not None:
            given = rest.pop(0)
            if given.type == i1:
                shown.append(given)
            else:
                shown.append(s.compare("ne", given, s.constant(-math.inf, given.type)))
                value = s.add(value, given)
        key, offset = s.loop(3), in_front(s)
        if lengths is not None:
            length = s.insert(arith.IndexCastOp(rest.pop(0), _INDEX))
            shown.append(s.insert(arith.CmpiOp(key, length, "slt")))
            if build.optional(4) is None:
                offset = s.insert(arith.SubiOp(length, queries(s)))
        place = s.insert(arith.AddiOp(s.loop(2), offset))
        if left >= 0:
            edge = s.insert(arith.SubiOp(place, s.constant(left, _INDEX)))
            shown.append(s.insert(arith.CmpiOp(key, edge, "sge")))
        if right >= 0:
            edge = s.insert(arith.AddiOp(place, s.constant(right, _INDEX)))
            shown.append(s.insert(arith.CmpiOp(key, edge, "sle")))
        for one in shown:
            value = s.select(one, value, s.constant(-math.inf, kind))
        return [value]

    return build.generic(inputs, [build.empty(shape, kind)], [*maps, structured.identity(4)], fn)[0]


def _softmax(build: Lowering, scores: SSAValue) -> SSAValue:
    """The softmax along the last axis; a row of nothing but -inf is 0."""
    largest = build.reduce(lambda s, v, acc: s.max(acc, v), -math.inf, scores, [3], keep=True)

    def power(s: Scalars, v: SSAValue, top: SSAValue) -> SSAValue:
        nothing, zero = s.constant(-math.inf, v.type), s.constant(0, v.type)
        return s.unary("exp", s.sub(v, s.select(s.compare("eq", top, nothing), zero, top)))

    def share(s: Scalars, v: SSAValue, total: SSAValue) -> SSAValue:
        zero, one = s.constant(0, v.type), s.constant(1, v.type)
        return s.div(v, s.select(s.compare("eq", total, zero), one, total))

    powers = build.elementwise(power, scores, largest)
    total = build.reduce(lambda s, v, acc: s.add(acc, v), 0, powers, [3], keep=True)
    return build.elementwise(share, powers, total)


# -- a state instead of keys --------------------------------------------------------------------------------------


@lowers("LinearAttention")
def linear_attention(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """A state S of (size of k, size of v) a head, read by q at every step (LinearAttention 27).

    S' = g S + k u, y = scale S' q with g = exp(decay) and u = v in the rules "linear" (g = 1) and "gated", and
    u = beta (v - (g S) k) in "delta" (g = 1) and "gated_delta".
    """
    rule = op.string("update_rule")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        raise SofieError(f"update_rule {rule!r} is not one of linear, gated, delta and gated_delta")
    query, key, value = (build.operand(n) for n in range(3))
    (batch, steps, hidden), heads, groups = shape_of(query), op.integer("q_num_heads"), op.integer("kv_num_heads")
    if heads % groups:
        raise SofieError(f"{heads} heads of the query cannot share {groups}; their number must be a multiple")
    size, width = hidden // heads, shape_of(value)[2] // groups
    kind, state_kind = build.result_element(0), build.result_element(1)
    wide = max(f32, kind, state_kind, key=bytes_of)
    parts = [_cast(build, x, wide) for x in (query, key, value)]
    q = build.reshape(parts[0], [batch, steps, groups, heads // groups, size])
    k, v = (build.reshape(x, [batch, steps, groups, e]) for x, e in zip(parts[1:], (size, width), strict=True))
    gate = _along(op, build, 4, groups, wide, lambda s, x: s.unary("exp", x)) if "gated" in rule else None
    rate = _along(op, build, 5, groups, wide, lambda s, x: x) if "delta" in rule else None
    scale = op.real("scale") or 1 / math.sqrt(size)
    past = build.optional(3)
    start = build.fill(0, [batch, groups, size, width], wide) if past is None else _cast(build, past, wide)
    results = build.empty([batch, steps, groups, heads // groups, width], wide)

    def step(t: SSAValue, carried: Sequence[SSAValue]) -> list[SSAValue]:
        def now(x: SSAValue) -> SSAValue:
            shape = shape_of(x)
            at: list[Offset] = [0, t, *[0] * (len(shape) - 2)]
            return build.slice(x, at, [e if a != 1 else 1 for a, e in enumerate(shape)])

        state, seen = carried
        kept = state if gate is None else _decayed(build, state, now(gate))
        new = _written(build, kept, now(k), now(v), None if rate is None else now(rate))
        return [new, build.insert_slice(_read(build, new, now(q), scale), seen, [0, t, 0, 0, 0])]

    end, seen = repeat(build, steps, [start, results], step)
    y = build.reshape(_cast(build, seen, kind), build.result_shape())
    return [y, _cast(build, end, state_kind)]


def _along(
    op: OnnxOp, build: Lowering, operand: int, groups: int, kind: Attribute, fn: Callable[..., SSAValue]
) -> SSAValue:
    """fn(decay or beta) of (batch, steps, heads * numbers) as (batch, steps, heads or 1, numbers)."""
    x = build.optional(operand)
    if x is None:
        raise SofieError(f"its rule needs the operand {op.SCHEMA.inputs[operand].name!r}")
    batch, steps, last = shape_of(x)
    apart = build.reshape(x, [batch, steps, groups, last // groups] if last != 1 else [batch, steps, 1, 1])
    return build.elementwise(lambda s, v: fn(s, s.cast(v, kind)), apart, element=kind)


def _decayed(build: Lowering, state: SSAValue, gate: SSAValue) -> SSAValue:
    """The state with each of its rows, or all of them, multiplied by the gate."""
    shape = shape_of(state)
    batch, _, groups, numbers = shape_of(gate)
    factors = build.reshape(gate, [batch, groups, numbers, 1])
    return build.generic(
        [state, factors],
        [build.empty(shape, element_of(state))],
        [structured.identity(4), build.broadcast_map(shape_of(factors), shape), structured.identity(4)],
        lambda s, args: [s.mul(args[0], args[1])],
    )[0]


def _written(build: Lowering, state: SSAValue, k: SSAValue, v: SSAValue, rate: SSAValue | None) -> SSAValue:
    """The state plus the outer product of k with v, or with rate * (v - what the state holds for k)."""
    batch, groups, size, width = shape_of(state)
    kind, key = element_of(state), build.reshape(k, [batch, groups, size])
    value = build.reshape(v, [batch, groups, width])
    if rate is not None:
        start = build.fill(0, [batch, groups, width], kind)
        maps = [structured.dims_map(4, dims) for dims in ([0, 1, 3, 2], [0, 1, 3], [0, 1, 2])]
        found = build.contract(state, key, start, maps, [3])
        factor = build.reshape(rate, [batch, shape_of(rate)[2], 1])
        value = build.elementwise(lambda s, x, old, f: s.mul(f, s.sub(x, old)), value, found, factor)
    maps = [
        structured.identity(4),
        *(structured.dims_map(4, d) for d in ([0, 1, 2], [0, 1, 3])),
        structured.identity(4),
    ]
    room = build.empty([batch, groups, size, width], kind)
    return build.generic([state, key, value], [room], maps, lambda s, args: [s.add(args[0], s.mul(args[1], args[2]))])[
        0
    ]


def _read(build: Lowering, state: SSAValue, q: SSAValue, scale: float) -> SSAValue:
    """scale * S q for all heads of the query that share a state: (batch, 1, groups, heads, width)."""
    batch, groups, _, width = shape_of(state)
    shape = [batch, 1, groups, shape_of(q)[3], width]
    maps = [structured.dims_map(6, dims) for dims in ([0, 1, 2, 3, 5], [0, 2, 5, 4], [0, 1, 2, 3, 4])]
    total = build.contract(q, state, build.fill(0, shape, element_of(state)), maps, [5])
    return build.elementwise(lambda s, x: s.mul(x, s.constant(scale, x.type)), total)
