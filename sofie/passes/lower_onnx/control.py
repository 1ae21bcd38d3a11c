"""Control flow on tensors: loops that carry values, and the choice between two branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.dialects import scf, tensor
from xdsl.dialects.builtin import IndexType, i1
from xdsl.ir import Block, Region, SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.extents import value as value_of
from sofie.passes.lower_onnx import lowers
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


@lowers("If")
def branch(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """The branch that the condition picks, as an `scf.if` (If 25); what stands in the branches is lowered after it."""
    condition = build.operand(0)
    flag = build.insert(tensor.ExtractOp(condition, [index(build, 0)] * len(shape_of(condition)), i1))
    kinds = [tensor_type(build.result_element(k), build.result_shape(k)) for k in range(len(op.results))]
    yes, no = (_ended_by_scf(op.graph(name)) for name in ("then_branch", "else_branch"))
    choice = scf.IfOp(flag, kinds, yes, no)
    build.add(choice)
    return list(choice.output)


def _ended_by_scf(graph: Region) -> Region:
    """The graph, taken from its op, with the terminator that the level below wants."""
    last = graph.block.last_op
    assert last is not None
    graph.block.add_op(scf.YieldOp(*last.operands))
    last.detach()
    last.erase()
    return Region(graph.detach_block(graph.block))
