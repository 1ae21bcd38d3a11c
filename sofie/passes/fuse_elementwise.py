"""fuse-elementwise: an elementwise op moves into the body of its only reader (level 2).

    %a = linalg.generic ins(%x) { exp } ; %b = linalg.generic ins(%a, %y) { add }
    ->
    %b = linalg.generic ins(%x, %y) { add(exp(x), y) }

The reader is elementwise too, or a reduction that reads each element once (a sum of squares). Declines where the
producer would be computed more than once, and beyond `max_ops` scalar ops in one body.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import tensor
from xdsl.dialects.builtin import AffineMapAttr, ModuleOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, Region, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.types import element_of
from sofie.rewrite import erase, fused_location, replace_results, users


@dataclass(frozen=True)
class FuseElementwise(ModulePass):
    """Fuses in program order, each reader with all its producers in turn."""

    name: ClassVar[str] = "fuse-elementwise"

    max_ops: int = 64

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for consumer in [o for o in op.walk() if isinstance(o, GenericOp)]:
            current: GenericOp | None = consumer
            while current is not None:
                current = self._absorb_one(current)

    def _absorb_one(self, consumer: GenericOp) -> GenericOp | None:
        """`consumer` with one producer inside, or None where no producer fits."""
        for k, value in enumerate(consumer.inputs):
            producer = value.owner
            if (
                isinstance(producer, GenericOp)
                and structured.is_parallel(producer)
                and len(producer.results) == 1
                and users(value) == [consumer]
                and value not in consumer.outputs
                and not producer.body.block.args[-1].uses
                and producer.parent_block() is consumer.parent_block()
                and len(structured.body_ops(producer)) + len(structured.body_ops(consumer)) <= self.max_ops
            ):
                loops = _producer_loops(producer, structured.maps_of(consumer)[k])
                once = math.prod(structured.extents(producer)) == math.prod(structured.extents(consumer))
                if loops is not None and (once or not producer.inputs):
                    merged = _merge(producer, consumer, value, loops)
                    if merged is not None:
                        return merged
        return None


def _producer_loops(producer: GenericOp, read: AffineMap) -> list[AffineExpr] | None:
    """Each loop of the producer as an expression over the consumer's loops, or None where they do not match."""
    written = structured.output_maps(producer)[0]
    dims = structured.dims_of(written)
    if dims is None or not structured.is_permutation(written):
        return None
    uses_index = any(isinstance(op, linalg.IndexOp) for op in producer.body.walk())
    if uses_index and structured.dims_of(read) is None:
        return None
    loops: list[AffineExpr] = [AffineExpr.constant(0)] * len(dims)
    for axis, dim in enumerate(dims):
        assert dim is not None
        loops[dim] = read.results[axis]
    if uses_index and None in (structured.dims_of(read) or []):
        return None
    return loops


def _merge(producer: GenericOp, consumer: GenericOp, value: SSAValue, loops: list[AffineExpr]) -> GenericOp | None:
    """One op that computes the producer's scalar where the consumer read it; None where its maps would not be legal."""
    maps = structured.maps_of(consumer)
    rank = maps[0].num_dims
    readings = [k for k, v in enumerate(consumer.inputs) if v is value]
    operands: list[tuple[SSAValue, AffineMap]] = []

    def slot(operand: SSAValue, map: AffineMap) -> int:
        """The position of an input, added if it is not there yet."""
        if (operand, map) not in operands:
            operands.append((operand, map))
        return operands.index((operand, map))

    kept = {k: slot(v, maps[k]) for k, v in enumerate(consumer.inputs) if k not in readings}
    taken: dict[int, dict[int, int]] = {}
    for reading in readings:
        through = _producer_loops(producer, maps[reading]) or loops
        taken[reading] = {
            j: slot(v, AffineMap(rank, 0, tuple(e.replace_dims_and_symbols(through, []) for e in m.results)))
            for j, (v, m) in enumerate(zip(producer.inputs, structured.maps_of(producer), strict=False))
        }
    merged = [*(m for _, m in operands), *structured.output_maps(consumer)]
    read = [*(v for v, _ in operands), *consumer.outputs]
    if not structured.covers_all_loops(merged) or not structured.extents_agree(read, merged):
        return None
    block = Block(arg_types=[*(element_of(v) for v, _ in operands), *(element_of(v) for v in consumer.outputs)])
    values: dict[SSAValue, SSAValue] = {}
    for k, position in kept.items():
        values[consumer.body.block.args[k]] = block.args[position]
    for k in range(len(consumer.outputs)):
        values[consumer.body.block.args[len(consumer.inputs) + k]] = block.args[len(operands) + k]
    for reading, positions in taken.items():
        inner: dict[SSAValue, SSAValue] = {producer.body.block.args[j]: block.args[p] for j, p in positions.items()}
        scalar = _inline(producer, block, inner, _producer_loops(producer, maps[reading]) or loops)
        values[consumer.body.block.args[reading]] = scalar
    for inner_op in consumer.body.block.ops:
        block.add_op(inner_op.clone(values))
    new = GenericOp(
        [v for v, _ in operands],
        list(consumer.outputs),
        Region(block),
        [AffineMapAttr(m) for m in merged],
        consumer.iterator_types,
        [r.type for r in consumer.results],
    )
    new.location = fused_location([producer.location, consumer.location])
    parent = consumer.parent_block()
    assert parent is not None
    parent.insert_op_before(new, consumer)
    replace_results(consumer, list(new.results))
    unused = [v.owner for v in producer.outputs if isinstance(v.owner, tensor.EmptyOp) and users(v) == [producer]]
    for op in [producer, *unused]:
        erase(op)
    return new


def _inline(producer: GenericOp, block: Block, values: dict[SSAValue, SSAValue], loops: list[AffineExpr]) -> SSAValue:
    """The producer's body at the end of `block`; returns its scalar."""
    for op in structured.body_ops(producer):
        if isinstance(op, linalg.IndexOp):
            loop = loops[op.dim.value.data]
            assert isinstance(loop, AffineDimExpr)
            clone = linalg.IndexOp(loop.position)
            block.add_op(clone)
            values[op.result] = clone.result
            continue
        block.add_op(op.clone(values))
    result = structured.yielded(producer)[0]
    return values.get(result, result)
