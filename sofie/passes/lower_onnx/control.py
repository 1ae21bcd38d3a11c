"""Control flow on tensors: loops that carry values, and the choice between two branches."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import i1, i64
from xdsl.ir import Attribute, Block, Region, SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering, Offset
from sofie.passes.lower_onnx.scalars import constant_op
from sofie.passes.lower_onnx.sequential import Place, Step, Walk
from sofie.sizes import most
from sofie.structured import identity

NO_END = 2**62
"""Iterations of a Loop without M: more than will ever run."""


def repeat(build: Lowering, count: Place, carried: Sequence[SSAValue], step: Step) -> list[SSAValue]:
    """An `scf.for` that calls `count` times `carried = step(i, carried)`; returns what is carried at the end.

    What `step` inserts stands in the body. An op of the body whose destination is a carried value updates it in place.
    """
    return Walk(build).for_(0, count, carried, step, name="t")


@lowers("If")
def branch(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """The branch that the condition picks, as an `scf.if` (If 25); what stands in the branches is lowered after it."""
    flag = _flag(build, build.operand(0))
    kinds = [tensor_type(build.result_element(k), build.result_shape(k)) for k in range(len(op.results))]
    yes, no = (_ended_by_scf(op.graph(name)) for name in ("then_branch", "else_branch"))
    choice = scf.IfOp(flag, kinds, yes, no)
    build.add(choice)
    return list(choice.output)


@lowers("Loop", limits="what it carries keeps its shape; M is known where a result's size follows from it")
def loop(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """At most M times the body, while its condition holds; what it carries, and what each iteration adds (Loop 25)."""
    count, condition, *starts = (*build.operands, None, None)[: max(len(build.operands), 2)]
    body = op.graph("body").block
    stacked = [build.result_shape(k) for k in range(len(starts), len(op.results))]
    trips = _most_trips(build, count)
    found = bool(stacked) and stacked[0][0] != trips  # the run finds how many rows there are
    rooms = [[most(extent) if found else extent, *rest] for extent, *rest in stacked]
    begin = [v for v in starts if v is not None]
    begin += [build.empty(room, build.result_element(k)) for k, room in enumerate(rooms, len(starts))]
    sure = (condition is None or _is_true(condition)) and _always(body)

    def step(i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        takes = [_tensor(build, i, i64), _true(build), *carried[: len(starts)]]
        flag, *made = _inline(build, body, takes)
        kept, rows = made[: len(starts)], made[len(starts) :]
        grown = [_stack(build, row, into, 0, i) for row, into in zip(rows, carried[len(starts) :], strict=True)]
        return [*kept, *grown, flag]

    if sure and not found:
        return repeat(build, trips, begin, lambda i, carried: step(i, carried)[:-1])
    alive = _flag(build, condition) if condition is not None else build.insert(constant_op(True, i1))

    def guarded(i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        alive, done, *rest = carried
        yes, no = Block(), Block()
        with build.inside(yes):
            *made, flag = step(i, rest)
            kept = [build.copy(v) if v in rest and v is not into else v for v, into in zip(made, rest, strict=True)]
            pairs = enumerate(zip(kept, rest, strict=True))
            made = [_put(build, v, into) if k < len(starts) else v for k, (v, into) in pairs]
            build.add(scf.YieldOp(_flag(build, flag), build.insert(arith.AddiOp(done, build.index(1))), *made))
        with build.inside(no):
            build.add(scf.YieldOp(*carried))
        choice = scf.IfOp(alive, [v.type for v in carried], Region(yes), Region(no))
        build.add(choice)
        return list(choice.output)

    _, done, *results = repeat(build, trips, [alive, build.index(0), *begin], guarded)
    if found:
        build.found(stacked[0][0], done)
    return [
        build.slice(result, [0] * len(shape), shape)
        for result, shape in zip(results, [*map(shape_of, begin[: len(starts)]), *stacked], strict=True)
    ]


@lowers("Scan")
def scan(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """The body over slices along an axis of each scanned input, forwards or backwards (Scan 25)."""
    count = op.integer("num_scan_inputs")
    operands = [v for v in build.operands if v is not None]
    states, scanned = operands[:-count], operands[-count:]
    body = op.graph("body").block
    results = range(len(states), len(op.results))
    in_axes = op.ints("scan_input_axes", [0] * count) or (0,) * count
    out_axes = op.ints("scan_output_axes", [0] * len(results)) or (0,) * len(results)
    backwards = op.ints("scan_input_directions", [0] * count) or (0,) * count
    turned = op.ints("scan_output_directions", [0] * len(results)) or (0,) * len(results)
    axes = [axis % len(shape_of(x)) for axis, x in zip(in_axes, scanned, strict=True)]
    trips = shape_of(scanned[0])[axes[0]]
    begin = [*states, *(build.empty(build.result_shape(k), build.result_element(k)) for k in results)]

    def step(i: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        last = build.insert(arith.SubiOp(build.index(trips), build.insert(arith.AddiOp(i, build.index(1)))))
        slices = [
            _row(build, x, axis, last if back else i) for x, axis, back in zip(scanned, axes, backwards, strict=True)
        ]
        made = _inline(build, body, [*carried[: len(states)], *slices])
        grown = [
            _stack(build, row, into, axis % len(shape_of(into)), last if back else i)
            for row, into, axis, back in zip(made[len(states) :], carried[len(states) :], out_axes, turned, strict=True)
        ]
        return [*made[: len(states)], *grown]

    return repeat(build, trips, begin, step)


def _most_trips(build: Lowering, count: SSAValue | None) -> Place:
    """The most iterations of a Loop: a number, a size, or what the run computes."""
    if count is None:
        return NO_END
    known = build.known(count)
    if known is not None:
        return max(int(known.reshape(-1)[0]), 0)
    return count.owner.values[0] if isinstance(count.owner, ExtentsOp) else build.element(count)


def _inline(build: Lowering, body: Block, takes: Sequence[SSAValue]) -> list[SSAValue]:
    """Moves the ops of a body to where `build` inserts, for these arguments; they are lowered after it."""
    for argument, value in zip(body.args, takes, strict=True):
        argument.replace_all_uses_with(value)
    last = body.last_op
    assert last is not None
    results = list(last.operands)
    for inner in list(body.ops):
        inner.detach()
        if inner is not last:
            build.place(inner)
    last.erase()
    return results


def _flag(build: Lowering, condition: SSAValue) -> SSAValue:
    return build.insert(tensor.ExtractOp(condition, [build.index(0)] * len(shape_of(condition)), i1))


def _true(build: Lowering) -> SSAValue:
    return build.fill(True, (), i1)


def _tensor(build: Lowering, i: SSAValue, kind: Attribute) -> SSAValue:
    """The number of the iteration as a tensor of rank 0."""
    number = build.insert(arith.IndexCastOp(i, kind))
    return build.generic([], [build.empty((), kind)], [identity(0)], lambda s, args: [number])[0]


def _always(body: Block) -> bool:
    """Whether the condition that a body yields is true, or what it was given."""
    last = body.last_op
    assert last is not None
    value = last.operands[0]
    while isinstance(value.owner, OnnxOp) and value.owner.operator == "Identity":
        (value,) = value.owner.operands
    if value is body.args[1]:
        return True
    return _is_true(value)


def _is_true(condition: SSAValue) -> bool:
    return isinstance(condition.owner, WeightOp) and bool(condition.owner.blob.value.all())


def _put(build: Lowering, value: SSAValue, into: SSAValue) -> SSAValue:
    """`into` with all its elements replaced: what both branches of a choice hand on then lies in one place."""
    maps = [identity(len(shape_of(into)))] * 2
    return into if value is into else build.generic([value], [into], maps, lambda s, args: [args[0]])[0]


def _row(build: Lowering, x: SSAValue, axis: int, i: SSAValue) -> SSAValue:
    """The slice at `i` along an axis, without that axis."""
    shape = shape_of(x)
    offsets: list[Offset] = [i if a == axis else 0 for a in range(len(shape))]
    part = build.slice(x, offsets, [1 if a == axis else e for a, e in enumerate(shape)])
    return build.reshape(part, [e for a, e in enumerate(shape) if a != axis])


def _stack(build: Lowering, row: SSAValue, into: SSAValue, axis: int, i: SSAValue) -> SSAValue:
    """`into` with `row` at `i` along an axis that `row` does not have."""
    shape = shape_of(into)
    part = build.reshape(row, [1 if a == axis else e for a, e in enumerate(shape)])
    return build.insert_slice(part, into, [i if a == axis else 0 for a in range(len(shape))])


def _ended_by_scf(graph: Region) -> Region:
    """The graph, taken from its op, with the terminator that the level below wants."""
    last = graph.block.last_op
    assert last is not None
    graph.block.add_op(scf.YieldOp(*last.operands))
    last.detach()
    last.erase()
    return Region(graph.detach_block(graph.block))
