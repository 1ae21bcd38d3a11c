"""One step of an optimiser of ai.onnx.preview.training, tensor by tensor; what depends on R and T alone is float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.dialects.builtin import f64
from xdsl.ir import SSAValue

from sofie import structured
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars

TRAINING = "ai.onnx.preview.training"

Number = Callable[[Scalars, SSAValue, SSAValue], SSAValue]
Update = Callable[[Scalars, SSAValue, Sequence[SSAValue]], list[SSAValue]]


@lowers("Momentum", domain=TRAINING)
def momentum(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """Gradient descent with momentum, "standard" or "nesterov" (Momentum 1)."""
    alpha, beta, mode = op.real("alpha"), op.real("beta"), op.string("mode")
    if mode not in ("standard", "nesterov"):
        raise SofieError(f"mode {mode!r} is neither standard nor nesterov")

    def weight(s: Scalars, rate: SSAValue, count: SSAValue) -> SSAValue:
        return s.select(_is_later(s, count), s.constant(beta, f64), s.constant(1, f64))

    weights = _of_step(build, weight)

    def update(s: Scalars, rate: SSAValue, values: Sequence[SSAValue]) -> list[SSAValue]:
        x, gradient, velocity, factor = values
        regular = _regularised(op, s, x, gradient)
        moved = s.add(_times(s, alpha, velocity), s.mul(s.cast(factor, x.type), regular))
        direction = s.add(regular, _times(s, alpha, moved)) if mode == "nesterov" else moved
        return [s.sub(x, s.mul(rate, direction)), moved]

    return _updated(build, _of_step(build, lambda s, rate, count: rate), 3, update, weights)


@lowers("Adagrad", domain=TRAINING)
def adagrad(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """Steps divided by the root of all squared gradients so far (Adagrad 1; Duchi, Hazan and Singer, 2011)."""
    decay, epsilon = op.real("decay_factor"), op.real("epsilon")

    def decayed(s: Scalars, rate: SSAValue, count: SSAValue) -> SSAValue:
        one = s.constant(1, f64)
        return s.div(rate, s.add(one, s.mul(s.cast(count, f64), s.constant(decay, f64))))

    def update(s: Scalars, rate: SSAValue, values: Sequence[SSAValue]) -> list[SSAValue]:
        x, gradient, squares = values
        regular = _regularised(op, s, x, gradient)
        total = s.add(squares, s.mul(regular, regular))
        root = s.add(s.unary("sqrt", total), s.constant(epsilon, x.type))
        return [s.sub(x, s.div(s.mul(rate, regular), root)), total]

    return _updated(build, _of_step(build, decayed), 3, update)


@lowers("Adam", domain=TRAINING)
def adam(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """Steps by running means of gradients and of their squares (Adam 1; Kingma and Ba, 2015)."""
    alpha, beta, epsilon, after = (op.real(n) for n in ("alpha", "beta", "epsilon", "norm_coefficient_post"))

    def adjusted(s: Scalars, rate: SSAValue, count: SSAValue) -> SSAValue:
        one, steps = s.constant(1, f64), s.cast(count, f64)
        first, second = (s.sub(one, s.binary("pow", s.constant(f, f64), steps)) for f in (alpha, beta))
        return s.select(_is_later(s, count), s.div(s.mul(rate, s.unary("sqrt", second)), first), rate)

    def update(s: Scalars, rate: SSAValue, values: Sequence[SSAValue]) -> list[SSAValue]:
        x, gradient, mean, square = values
        regular = _regularised(op, s, x, gradient)
        new_mean = s.add(_times(s, alpha, mean), _times(s, 1 - alpha, regular))
        new_square = s.add(_times(s, beta, square), s.mul(_times(s, 1 - beta, regular), regular))
        root = s.add(s.unary("sqrt", new_square), s.constant(epsilon, x.type))
        moved = s.sub(x, s.div(s.mul(rate, new_mean), root))
        return [_times(s, 1 - after, moved), new_mean, new_square]

    return _updated(build, _of_step(build, adjusted), 4, update)


def _is_later(s: Scalars, count: SSAValue) -> SSAValue:
    return s.compare("gt", count, s.constant(0, count.type))


def _times(s: Scalars, factor: float, x: SSAValue) -> SSAValue:
    return x if factor == 1.0 else s.mul(s.constant(factor, x.type), x)


def _regularised(op: OnnxOp, s: Scalars, x: SSAValue, gradient: SSAValue) -> SSAValue:
    """The gradient with that of norm_coefficient / 2 * |x|^2."""
    factor = op.real("norm_coefficient")
    return gradient if factor == 0.0 else s.add(_times(s, factor, x), gradient)


def _of_step(build: Lowering, fn: Number) -> SSAValue:
    """A float64 scalar computed from the learning rate R, a float64 by then, and the update count T."""
    rate, count = (build.reshape(build.operand(k), []) for k in (0, 1))
    return build.elementwise(lambda s, r, t: fn(s, s.cast(r, f64), t), rate, count, element=f64)


def _updated(build: Lowering, rate: SSAValue, kinds: int, update: Update, *numbers: SSAValue) -> list[SSAValue]:
    """`update(scalars, rate, [x, its gradient, its state.., numbers..])` gives the new x and state of each tensor.

    The operands behind R and T are all x, then all gradients, and so on: `kinds` groups. The results likewise.
    """
    operands = [build.operand(k) for k in range(2, len(build.operands))]
    if len(operands) % kinds:
        raise SofieError(f"{len(operands)} tensors are not {kinds} for each one that is optimised")
    count = len(operands) // kinds
    groups: list[list[SSAValue]] = []
    for k in range(count):
        inputs, shape = operands[k::count], shape_of(operands[k])
        if any(shape_of(v) != shape for v in inputs):
            raise SofieError("a tensor, its gradient and its state must have one shape")
        kind, rank = element_of(inputs[0]), len(shape)

        def fn(s: Scalars, args: Sequence[SSAValue], inner: int = 1 + kinds + len(numbers)) -> list[SSAValue]:
            return update(s, s.cast(args[0], args[1].type), args[1:inner])

        maps = [structured.dims_map(rank, []), *[structured.identity(rank)] * kinds]
        maps += [structured.dims_map(rank, [])] * len(numbers) + [structured.identity(rank)] * (kinds - 1)
        empty = [build.empty(shape, kind) for _ in range(kinds - 1)]
        groups.append(build.generic([rate, *inputs, *numbers], empty, maps, fn))
    return [value for group in zip(*groups, strict=True) for value in group]
