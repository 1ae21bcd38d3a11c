"""Recurrent layers: RNN, GRU and LSTM are a contraction for all steps at once and one loop over time a direction.

The loop carries the hidden state (and the cell of an LSTM), both updated in place, and the result Y, of which each
step writes one slice. A step is one contraction of the state with all its weights and one elementwise op for all gates.
The gates of a step lie side by side, (batch, gates hidden), and so one vector may hold parts of two.

Each step waits for the one before, so the tanh of float32 is the one with the least latency: that of `afn`.

Where sequences have lengths, a step beyond its sequence leaves the state alone and writes 0: the reverse direction
walks from the end, so that it begins at the last element of each sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import IntegerType, f32
from xdsl.ir import Attribute, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering, Offset
from sofie.passes.lower_onnx.control import repeat
from sofie.passes.lower_onnx.elementwise import UNARY, Unary, elu, leaky, ramp, thresholded
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.structured import dims_map


def _plain(name: str) -> tuple[tuple[float, ...], Callable[..., Unary]]:
    return (), lambda: UNARY[name]


def _tanh(s: Scalars, x: SSAValue) -> SSAValue:
    return s.quick_tanh(x) if x.type == f32 else s.unary("tanh", x)


def _affine(alpha: float, beta: float) -> Unary:
    return lambda s, x: s.add(s.mul(s.constant(alpha, x.type), x), s.constant(beta, x.type))


def _scaled_tanh(alpha: float, beta: float) -> Unary:
    return lambda s, x: s.mul(s.constant(alpha, x.type), _tanh(s, s.mul(s.constant(beta, x.type), x)))


ACTIVATIONS: dict[str, tuple[tuple[float, ...], Callable[..., Unary]]] = {
    "affine": ((1.0, 0.0), _affine),
    "elu": ((1.0,), lambda alpha: elu(alpha, 1.0)),
    "hardsigmoid": ((0.2, 0.5), ramp),
    "leakyrelu": ((0.01,), leaky),
    "relu": _plain("Relu"),
    "scaledtanh": ((1.0, 1.0), _scaled_tanh),
    "sigmoid": _plain("Sigmoid"),
    "softplus": _plain("Softplus"),
    "softsign": _plain("Softsign"),
    "tanh": ((), lambda: _tanh),
    "thresholdedrelu": ((1.0,), thresholded),
}
"""By name in lower case: the default of alpha, and of beta where there is one, and the function made of them."""


def activations(op: OnnxOp, defaults: Sequence[str], directions: int) -> list[list[Unary]]:
    """The functions of each direction; each takes the next alpha and beta of the lists if it has such a parameter."""
    given = op.strings("activations") or tuple(defaults) * directions
    if len(given) < len(defaults) * directions:
        raise SofieError(f"it names {len(given)} activations and needs {len(defaults) * directions}")
    alphas, betas = iter(op.reals("activation_alpha")), iter(op.reals("activation_beta"))
    functions: list[Unary] = []
    for name in given[: len(defaults) * directions]:
        if name.lower() not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            raise UnsupportedError(f"activation {printable(name)!r} is not known; use one of {known}")
        parameters, make = ACTIVATIONS[name.lower()]
        values = [next(source, default) for source, default in zip((alphas, betas), parameters, strict=False)]
        functions.append(make(*values))
    return [functions[k : k + len(defaults)] for k in range(0, len(functions), len(defaults))]


def at(*axes: int | None, rank: int, fixed: int = 0) -> AffineMap:
    """The map whose axes are loops; None is the constant `fixed`."""
    return dims_map(rank, [AffineExpr.constant(fixed) if a is None else a for a in axes])


Cell = Callable[["Layer", "Direction"], list[SSAValue]]


@dataclass
class Layer:
    """The operands of a recurrent operator, and what all of them share.

    Shapes: X (time, batch, inputs), W (directions, gates hidden, inputs), R (directions, gates hidden, hidden),
    B (directions, 2 gates hidden), states (directions, batch, hidden), Y (time, directions, batch, hidden); with
    layout 1 the batch is the first axis of X, Y and the states.
    """

    op: OnnxOp
    build: Lowering
    gates: int
    functions: list[list[Unary]]

    def __post_init__(self) -> None:
        build = self.build
        self.x = build.operand(0)
        self.batch_first = self.op.integer("layout") == 1
        time, batch = (1, 0) if self.batch_first else (0, 1)
        self.steps, self.batch = shape_of(self.x)[time], shape_of(self.x)[batch]
        self.directions, _, self.hidden = shape_of(build.operand(2))
        self.element: Attribute = element_of(self.x)
        limit = self.op.attribute("clip")
        self.clip = self.op.real("clip") if limit is not None else None
        kinds = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
        name = self.op.string("direction")
        if name not in kinds or len(kinds[name]) != self.directions:
            raise SofieError(f"direction {printable(name)!r} does not fit weights of {self.directions} directions")
        self.backwards = kinds[name]

    def uses(self, k: int) -> bool:
        """Whether anybody reads result `k`."""
        return len(self.op.results) > k and bool(self.op.results[k].uses)

    def clamp(self, s: Scalars, x: SSAValue) -> SSAValue:
        """x within [-clip, clip]."""
        if self.clip is None:
            return x
        return s.min(s.max(x, s.constant(-self.clip, x.type)), s.constant(self.clip, x.type))

    @cached_property
    def lengths(self) -> SSAValue | None:
        """The number of steps of each sequence, None where all have all of them."""
        value = self.build.optional(4)
        known = self.build.known(value) if value is not None else None
        return None if known is not None and bool(np.all(np.greater_equal(known, self.steps))) else value

    def part(self, k: int, d: int, shape: Sequence[int]) -> SSAValue | None:
        """Operand `k` of direction `d` in another shape: weights, biases, peepholes."""
        build, value = self.build, self.build.optional(k)
        if value is None:
            return None
        array = build.known(value)
        if array is not None:
            return build.weight(self.op.SCHEMA.inputs[k].name, np.ascontiguousarray(array[d]).reshape(shape))
        rest = shape_of(value)[1:]
        return build.reshape(build.slice(value, [d, *[0] * len(rest)], [1, *rest]), shape)

    def state(self, k: int, d: int) -> SSAValue:
        """The start of a state (batch, hidden), in memory of its own: operand `k`, or zeros."""
        build, value = self.build, self.build.optional(k)
        shape = (self.batch, self.hidden)
        if value is None:
            return build.fill(0, shape, self.element)
        axes = (0, None, 1) if self.batch_first else (None, 0, 1)
        maps = [at(*axes, rank=2, fixed=d), at(0, 1, rank=2)]
        return build.generic([value], [build.empty(shape, self.element)], maps, lambda _, args: [args[0]])[0]

    def states(self, ends: Sequence[SSAValue]) -> SSAValue:
        """The last states of all directions as one result."""
        axis = 1 if self.batch_first else 0
        shape = [self.batch, self.hidden]
        shape.insert(axis, 1)
        parts = [self.build.reshape(end, shape) for end in ends]
        return parts[0] if len(parts) == 1 else self.build.concat(parts, axis)

    def projected(self, d: int, together: bool) -> SSAValue:
        """X W + b for all steps: (time, batch, gates hidden); the bias of R is added too where `together`."""
        build, inputs = self.build, shape_of(self.x)[2]
        shape = (self.steps, self.batch, self.gates * self.hidden)
        w = self.part(1, d, (self.gates * self.hidden, inputs))
        assert w is not None
        start = self.spread(self.bias(d, together), shape)
        x = at(1, 0, 3, rank=4) if self.batch_first else at(0, 1, 3, rank=4)
        return build.contract(self.x, w, start, [x, at(2, 3, rank=4), at(0, 1, 2, rank=4)], [3])

    def bias(self, d: int, together: bool, recurrent: bool = False) -> SSAValue | None:
        """The bias (gates hidden) of W, of R, or the sum of both."""
        build, outputs = self.build, self.gates * self.hidden
        both = self.part(3, d, (2, outputs))
        if both is None:
            return None
        array = build.known(both)
        if array is not None:
            return build.weight("B", array[0] + array[1] if together else array[int(recurrent)])
        maps = [at(None, 0, rank=1, fixed=k) for k in ((0, 1) if together else (int(recurrent),))]
        empty = build.empty((outputs,), self.element)

        def fn(s: Scalars, args: Sequence[SSAValue]) -> list[SSAValue]:
            return [s.add(args[0], args[1]) if together else args[0]]

        return build.generic([both] * len(maps), [empty], [*maps, at(0, rank=1)], fn)[0]

    def spread(self, bias: SSAValue | None, shape: Sequence[int]) -> SSAValue:
        """The bias (gates hidden) under every step and sequence; zeros where there is none."""
        build, rank = self.build, len(shape)
        if bias is None:
            return build.fill(0, shape, self.element)
        maps = [at(rank - 1, rank=rank), at(*range(rank), rank=rank)]
        return build.generic([bias], [build.empty(shape, self.element)], maps, lambda _, args: [args[0]])[0]


@dataclass
class Direction:
    """One direction while its loop is written: the gates of a step, and the op that ends it."""

    layer: Layer
    number: int
    projected: SSAValue
    step: SSAValue
    """The time, of type `index`."""

    def start(self, first: int, count: int) -> SSAValue:
        """The projections of `count` gates from `first` on at this step: (batch, count hidden), to be summed into."""
        layer, build = self.layer, self.layer.build
        shape = (layer.batch, count * layer.hidden)
        part = build.slice(self.projected, [self.step, 0, first * layer.hidden], [1, *shape])
        maps = [at(None, 0, 1, rank=2), at(0, 1, rank=2)]
        return build.generic([part], [build.empty(shape, layer.element)], maps, lambda _, args: [args[0]])[0]

    def times(self, state: SSAValue, weights: SSAValue, start: SSAValue) -> SSAValue:
        """start + state R for the gates of `weights`, (g hidden, hidden), as (batch, g, hidden)."""
        maps = [at(0, 2, rank=3), at(1, 2, rank=3), at(0, 1, rank=3)]
        layer, build = self.layer, self.layer.build
        total = build.contract(state, weights, start, maps, [2])
        return build.reshape(total, (layer.batch, shape_of(weights)[0] // layer.hidden, layer.hidden))

    def finish(
        self,
        inputs: Sequence[tuple[SSAValue, AffineMap]],
        carried: Sequence[SSAValue],
        fn: Callable[[Scalars, Sequence[SSAValue], Sequence[SSAValue]], list[SSAValue]],
    ) -> list[SSAValue]:
        """The elementwise op over (batch, hidden) that ends a step.

        `fn(scalars, inputs, states)` gives the new states, the hidden one first. `carried` are the states, then Y if
        anybody reads it; returns their next values.
        """
        layer, build = self.layer, self.layer.build
        states = carried[: 1 + (layer.op.operator == "LSTM")]
        writes = len(carried) > len(states)
        lengths = [(layer.lengths, at(0, rank=2))] if layer.lengths is not None else []
        operands = [*inputs, *lengths]
        outputs = [(v, at(0, 1, rank=2)) for v in states]
        slot = [layer.batch, 1, 1, layer.hidden] if layer.batch_first else [1, 1, layer.batch, layer.hidden]
        if writes:
            axes = (0, None, None, 1) if layer.batch_first else (None, None, 0, 1)
            outputs.append((build.empty(slot, layer.element), at(*axes, rank=2)))

        def body(s: Scalars, args: Sequence[SSAValue]) -> list[SSAValue]:
            old = list(args[len(operands) : len(operands) + len(states)])
            new = fn(s, args[: len(inputs)], old)
            y = new[0]
            if lengths:
                kind = args[len(inputs)].type
                assert isinstance(kind, IntegerType)
                runs = s.compare("lt", s.insert(arith.IndexCastOp(self.step, kind)), args[len(inputs)])
                y = s.select(runs, y, s.constant(0, y.type))
                new = [s.select(runs, n, o) for n, o in zip(new, old, strict=True)]
            return [*new, *([y] if writes else [])]

        values, places = [v for v, _ in operands], [v for v, _ in outputs]
        made = build.generic(values, places, [m for _, m in [*operands, *outputs]], body, unsigned=False)
        if not writes:
            return made
        offsets: list[Offset] = [0, self.step, self.number, 0] if layer.batch_first else [self.step, self.number, 0, 0]
        return [*made[:-1], build.insert_slice(made[-1], carried[-1], offsets)]


Step = Callable[[Direction, Sequence[SSAValue]], list[SSAValue]]
"""The next values of what the loop carries."""


def _run(layer: Layer, states: int, together: bool, step_of: Callable[[int], Step]) -> list[SSAValue]:
    """All directions one after the other; the results in ONNX's order: Y, Y_h, Y_c."""
    build = layer.build
    writes = layer.uses(0)
    y: list[SSAValue] = [build.empty(build.result_shape(0), layer.element)] if layer.op.results else []
    ends: list[list[SSAValue]] = [[] for _ in range(states)]
    for d, backwards in enumerate(layer.backwards):
        projected, step = layer.projected(d, together), step_of(d)
        starts = [layer.state(5 + k, d) for k in range(states)]
        for start, name in zip(starts, ("hidden", "cell"), strict=False):
            start.name_hint = name
        last = build.index(layer.steps - 1) if backwards else None

        def body(
            t: SSAValue,
            carried: Sequence[SSAValue],
            d: int = d,
            projected: SSAValue = projected,
            step: Step = step,
            last: SSAValue | None = last,
        ) -> list[SSAValue]:
            time = t if last is None else build.insert(arith.SubiOp(last, t))
            return step(Direction(layer, d, projected, time), carried)

        done = repeat(build, layer.steps, [*starts, *(y if writes else [])], body)
        for k in range(states):
            ends[k].append(done[k])
        y = done[states:] if writes else y
    results = [*y]
    for k, end in enumerate(ends):
        if len(layer.op.results) > 1 + k:
            unread = not layer.uses(1 + k)
            results.append(build.empty(build.result_shape(1 + k), layer.element) if unread else layer.states(end))
    return results


def _gate(value: SSAValue, gate: int) -> tuple[SSAValue, AffineMap]:
    """One gate of a tensor (batch, gates, hidden) over (batch, hidden)."""
    return value, at(0, None, 1, rank=2, fixed=gate)


@lowers("RNN")
def rnn(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """H' = f(X W + H R + b) (RNN 22)."""
    layer = Layer(op, build, 1, activations(op, ["Tanh"], shape_of(build.operand(2))[0]))

    def step_of(d: int) -> Step:
        r, (f,) = layer.part(2, d, (layer.hidden, layer.hidden)), layer.functions[d]
        assert r is not None

        def step(now: Direction, carried: Sequence[SSAValue]) -> list[SSAValue]:
            total = now.times(carried[0], r, now.start(0, 1))
            return now.finish([_gate(total, 0)], carried, lambda s, x, _: [f(s, layer.clamp(s, x[0]))])

        return step

    return _run(layer, 1, True, step_of)


@lowers("GRU")
def gru(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """H' = (1 - z) g(X W + (r H) R + b) + z H with gates z and r; r may act behind R: linear_before_reset (GRU 22)."""
    layer = Layer(op, build, 3, activations(op, ["Sigmoid", "Tanh"], shape_of(build.operand(2))[0]))
    linear = op.integer("linear_before_reset") != 0
    return _run(layer, 1, not linear, lambda d: (_linear_gru if linear else _gru)(layer, d))


def _mix(s: Scalars, z: SSAValue, new: SSAValue, old: SSAValue) -> SSAValue:
    return s.add(s.mul(s.sub(s.constant(1, z.type), z), new), s.mul(z, old))


def _linear_gru(layer: Layer, d: int) -> Step:
    build, (f, g) = layer.build, layer.functions[d]
    r = layer.part(2, d, (3 * layer.hidden, layer.hidden))
    bias = layer.bias(d, together=False, recurrent=True)
    assert r is not None

    def step(now: Direction, carried: Sequence[SSAValue]) -> list[SSAValue]:
        shape = (layer.batch, 3 * layer.hidden)
        total = now.times(carried[0], r, layer.spread(bias, shape))
        part = build.slice(now.projected, [now.step, 0, 0], [1, *shape])
        x = build.reshape(part, (layer.batch, 3, layer.hidden))
        reads = [_gate(x, gate) for gate in range(3)]

        def fn(s: Scalars, v: Sequence[SSAValue], states: Sequence[SSAValue]) -> list[SSAValue]:
            z, reset = (f(s, layer.clamp(s, s.add(v[k], v[3 + k]))) for k in (0, 1))
            new = g(s, layer.clamp(s, s.add(v[2], s.mul(reset, v[5]))))
            return [_mix(s, z, new, states[0])]

        return now.finish([*reads, *(_gate(total, k) for k in range(3))], carried, fn)

    return step


def _gru(layer: Layer, d: int) -> Step:
    build, hidden, (f, g) = layer.build, layer.hidden, layer.functions[d]
    weights = layer.part(2, d, (3 * hidden, hidden))
    assert weights is not None
    array = build.known(weights)
    if array is not None:
        parts = [build.weight("R", np.ascontiguousarray(a)) for a in (array[: 2 * hidden], array[2 * hidden :])]
    else:
        parts = [build.slice(weights, [k * hidden, 0], [n * hidden, hidden]) for k, n in ((0, 2), (2, 1))]

    def step(now: Direction, carried: Sequence[SSAValue]) -> list[SSAValue]:
        total = now.times(carried[0], parts[0], now.start(0, 2))
        shape, rank = (layer.batch, hidden), 2

        def reset(s: Scalars, args: Sequence[SSAValue]) -> list[SSAValue]:
            return [s.mul(f(s, layer.clamp(s, args[0])), args[1])]

        value, gate = _gate(total, 1)
        maps = [gate, at(0, 1, rank=rank), at(0, 1, rank=rank)]
        kept = build.generic([value, carried[0]], [build.empty(shape, layer.element)], maps, reset)[0]
        new = now.times(kept, parts[1], now.start(2, 1))

        def fn(s: Scalars, v: Sequence[SSAValue], states: Sequence[SSAValue]) -> list[SSAValue]:
            return [_mix(s, f(s, layer.clamp(s, v[0])), g(s, layer.clamp(s, v[1])), states[0])]

        return now.finish([_gate(total, 0), _gate(new, 0)], carried, fn)

    return step


@lowers("LSTM")
def lstm(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """C' = f C + i g(..), H' = o h(C') with gates i, o, f of X W + H R + b and peepholes P into C (LSTM 22)."""
    layer = Layer(op, build, 4, activations(op, ["Sigmoid", "Tanh", "Tanh"], shape_of(build.operand(2))[0]))
    return _run(layer, 2, True, lambda d: _lstm(layer, d))


def _lstm(layer: Layer, d: int) -> Step:
    (f, g, h), coupled = layer.functions[d], layer.op.integer("input_forget") != 0
    r, peepholes = layer.part(2, d, (4 * layer.hidden, layer.hidden)), layer.part(7, d, (3, layer.hidden))
    assert r is not None

    def step(now: Direction, carried: Sequence[SSAValue]) -> list[SSAValue]:
        total = now.times(carried[0], r, now.start(0, 4))
        reads = [_gate(total, k) for k in range(4)]
        if peepholes is not None:
            reads += [(peepholes, dims_map(2, [AffineExpr.constant(k), 1])) for k in range(3)]

        def fn(s: Scalars, v: Sequence[SSAValue], states: Sequence[SSAValue]) -> list[SSAValue]:
            old = states[1]

            def gate(k: int, cell: SSAValue) -> SSAValue:
                x = v[k] if peepholes is None else s.add(v[k], s.mul(v[4 + k], cell))
                return f(s, layer.clamp(s, x))

            i = gate(0, old)
            forget = s.sub(s.constant(1, i.type), i) if coupled else gate(2, old)
            cell = s.add(s.mul(forget, old), s.mul(i, g(s, layer.clamp(s, v[3]))))
            return [s.mul(gate(1, cell), h(s, cell)), cell]

        return now.finish(reads, carried, fn)

    return step
