"""How much work ONNX ops are, counted in what they are lowered to rather than looked up per operator.

At level 2 an operator is `linalg.generic` with known loops, so the count is right for operators nobody thought of here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from xdsl.dialects import arith, scf, tensor
from xdsl.dialects import math as math_dialect
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IndexType, IntegerAttr, ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.ir.affine import AffineDimExpr

from sofie import pipeline
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import bytes_of, element_of, is_float, shape_of
from sofie.extents import SIZE, size_attribute
from sofie.sizes import most, symbols_of
from sofie.structured import body_ops, extents, maps_of, reductions

_LOWER = "decompose,lower-onnx,dce"

_ARITHMETIC = (
    *(arith.AddfOp, arith.SubfOp, arith.MulfOp, arith.DivfOp, arith.NegfOp),
    *(arith.MaximumfOp, arith.MinimumfOp),
)


@dataclass(frozen=True)
class Work:
    """flops: see `flops`. bytes: operands and results, each once; none for an op that only makes a view."""

    flops: int
    bytes: int


def work_of(op: OnnxOp) -> Work:
    """The work of a level 1 op, which stays as it is. Raises SofieError where it cannot be lowered."""
    module = alone(op)
    pipeline.run(module, pipeline.parse(_LOWER))
    copies = any(isinstance(o, GenericOp | tensor.InsertSliceOp) for o in module.walk())
    return Work(flops(module), sum(bytes_in(v) for v in (*op.operands, *op.results)) if copies else 0)


def flops(module: ModuleOp) -> int:
    """Floating-point operations of a level 2 module, where the run tells sizes at the largest.

    Every addition, subtraction, multiplication, division, negation, maximum, minimum and function of the math dialect
    in a scalar body is one, times the extents of the loops around it: a multiplication with its addition is two.
    Comparisons, selections, conversions and integer arithmetic do not count. The zeros of padding do, but along an axis
    never more outputs than the unpadded input has elements: those that a transposed convolution spreads do not.
    """
    return sum(
        most(math.prod(_trips(op))) * _repetitions(op) * sum(map(counts, body_ops(op)))
        for op in module.walk()
        if isinstance(op, GenericOp)
    )


def scalar_flops(loop: scf.ParallelOp | scf.ForOp) -> int:
    """Floating-point operations of a scalar nest at level 4, counted as in `flops`; unknown extents count as one."""
    if isinstance(loop, scf.ParallelOp):
        trips = [_constant(high) or 1 for high in loop.upperBound]
    else:
        trips = [_constant(loop.ub) or 1]
    return math.prod(trips) * sum(_flops_in(op) for op in loop.body.block.ops)


def _flops_in(op: Operation) -> int:
    if isinstance(op, scf.ParallelOp | scf.ForOp):
        return scalar_flops(op)
    return int(bool(op.results) and counts(op)) + sum(_flops_in(o) for r in op.regions for b in r.blocks for o in b.ops)


def bytes_in(value: SSAValue) -> int:
    """The bytes that all elements of a tensor take."""
    return most(math.prod(shape_of(value))) * bytes_of(element_of(value))


def counts(op: Operation) -> bool:
    """Whether an op is a floating-point operation on each element of its result."""
    return isinstance(op, _ARITHMETIC) or (
        op.dialect_name() == math_dialect.Math.name and is_float(element_of(op.results[0]))
    )


def _trips(op: GenericOp) -> list[int]:
    """The trip count of each loop, where it runs over a padded input at most that input's extent."""
    trips, reducing = extents(op), set(reductions(op))
    for value, map in zip(op.inputs, maps_of(op), strict=False):
        for axis, expr in enumerate(map.results):
            outputs = {e.position for e in expr.dfs() if isinstance(e, AffineDimExpr)} - reducing
            if isinstance(expr, AffineDimExpr) or len(outputs) != 1:
                continue
            loop = outputs.pop()
            trips[loop] = min(trips[loop], _unpadded(value, axis), key=most)
    return trips


def _unpadded(value: SSAValue, axis: int) -> int:
    """The extent of what lies inside the padding."""
    while isinstance(value.owner, tensor.InsertSliceOp):
        value = value.owner.source
    return shape_of(value)[axis]


def _repetitions(op: Operation) -> int:
    """How often the loops around an op run it, as far as their bounds are constants."""
    times, parent = 1, op.parent_op()
    while parent is not None:
        if isinstance(parent, scf.ForOp):
            start, end, step = (_constant(v) for v in (parent.lb, parent.ub, parent.step))
            if start is not None and end is not None and step:
                times *= len(range(start, end, step))
        parent = parent.parent_op()
    return times


def _constant(value: SSAValue) -> int | None:
    owner = value.owner
    known = owner.value if isinstance(owner, arith.ConstantOp) else None
    return known.value.data if isinstance(known, IntegerAttr) else None


def alone(op: OnnxOp) -> ModuleOp:
    """A module in which a copy of `op` stands alone: its constants with it, its other operands as arguments."""
    symbols = symbols_of(e for v in (*op.operands, *op.results) for e in _extents(v))
    block = Block(arg_types=[IndexType()] * len(symbols))
    copies: dict[SSAValue, SSAValue] = {}
    inside = {o for o in op.walk()}
    for value in [v for o in op.walk() for v in o.operands]:
        if value in copies or value.owner in inside or _encloses(op, value):
            continue
        if isinstance(value.owner, WeightOp | ExtentsOp):
            twin = value.owner.clone()
            block.add_op(twin)
            copies[value] = twin.result
        else:
            copies[value] = block.insert_arg(value.type, len(block.args))
    copy = op.clone(copies)
    used = [new for old, new in zip(op.results, copy.results, strict=True) if old.uses] or list(copy.results)
    block.add_ops([copy, ReturnOp(*used)])
    function = FuncOp("infer", ([a.type for a in block.args], [v.type for v in used]), Region(block))
    if symbols:
        sizes = [DictionaryAttr({SIZE: size_attribute(symbol)}) for symbol in symbols]
        function.arg_attrs = ArrayAttr([*sizes, *[DictionaryAttr({})] * (len(block.args) - len(symbols))])
    return ModuleOp([function])


def _extents(value: SSAValue) -> tuple[int, ...]:
    listed = value.owner.values if isinstance(value.owner, ExtentsOp) else ()
    return (*shape_of(value), *listed)


def _encloses(op: Operation, value: SSAValue) -> bool:
    """Whether `value` is the argument of a block inside `op`."""
    return isinstance(value.owner, Block) and any(
        b is value.owner for o in op.walk() for r in o.regions for b in r.blocks
    )
