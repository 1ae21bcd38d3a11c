"""Control flow on tensors: loops that carry values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.dialects import scf
from xdsl.dialects.builtin import IndexType
from xdsl.ir import Block, SSAValue

from sofie.extents import value as value_of
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import constant_op
from sofie.sizes import Size

Step = Callable[[SSAValue, Sequence[SSAValue]], Sequence[SSAValue]]


def index(build: Lowering, value: int) -> SSAValue:
    """A number, or a run-time size, of type `index`."""
    return value_of(value, build.op) if isinstance(value, Size) else build.insert(constant_op(value, IndexType()))


def repeat(build: Lowering, count: SSAValue, carried: Sequence[SSAValue], step: Step) -> list[SSAValue]:
    """An `scf.for` that calls `count` times `carried = step(i, carried)`; returns what is carried at the end.

    What `step` inserts stands in the body. An op of the body whose destination is a carried value updates it in place.
    """
    body = Block(arg_types=[IndexType(), *(v.type for v in carried)])
    body.args[0].name_hint = "t"
    for argument, start in zip(body.args[1:], carried, strict=True):
        argument.name_hint = start.name_hint
    with build.inside(body):
        build.add(scf.YieldOp(*step(body.args[0], body.args[1:])))
    loop = scf.ForOp(index(build, 0), count, index(build, 1), carried, body)
    build.add(loop)
    return list(loop.res)
