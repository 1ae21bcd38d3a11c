"""Questions about `linalg.generic`, the one structured op of levels 2 and 3: its loops, maps and scalar body."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.builder import Builder
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import AffineMapAttr, TensorType
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.attrs import IteratorType, IteratorTypeAttr
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue
from xdsl.ir.affine import AffineConstantExpr, AffineDimExpr, AffineExpr, AffineMap
from xdsl.rewriter import InsertPoint

from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_of, shape_of
from sofie.rewrite import erase

Body = Callable[[Builder, tuple[BlockArgument, ...]], Sequence[SSAValue]]


def maps_of(op: GenericOp) -> list[AffineMap]:
    """One map an operand: inputs first, then outputs."""
    return [attr.data for attr in op.indexing_maps]


def output_maps(op: GenericOp) -> list[AffineMap]:
    """The maps of the outputs."""
    return maps_of(op)[len(op.inputs) :]


def reductions(op: GenericOp) -> list[int]:
    """The loops that reduce, in order."""
    return [d for d, kind in enumerate(op.iterator_types) if kind.data != IteratorType.PARALLEL]


def is_parallel(op: Operation) -> bool:
    """Whether `op` is a `linalg.generic` none of whose loops reduces."""
    return isinstance(op, GenericOp) and not reductions(op)


def extents(op: GenericOp) -> list[int]:
    """The trip count of each loop, read off an operand that it indexes directly."""
    found: list[int | None] = [None] * len(op.iterator_types)
    for value, map in zip([*op.inputs, *op.outputs], maps_of(op), strict=True):
        for axis, expr in enumerate(map.results):
            if isinstance(expr, AffineDimExpr) and found[expr.position] is None:
                found[expr.position] = shape_of(value)[axis]
    assert None not in found, f"a loop of {op} has no extent"
    return [extent for extent in found if extent is not None]


def covers_all_loops(maps: Sequence[AffineMap]) -> bool:
    """Whether every loop has an axis that is just that loop, and so tells its extent."""
    dims = {e.position for m in maps for e in m.results if isinstance(e, AffineDimExpr)}
    return len(dims) == maps[0].num_dims


def extents_agree(values: Sequence[SSAValue], maps: Sequence[AffineMap]) -> bool:
    """Whether every axis that is just a loop has that loop's extent, as upstream demands (a part needs a slice)."""
    found: dict[int, int] = {}
    axes = [(e, shape_of(v)[a]) for v, m in zip(values, maps, strict=True) for a, e in enumerate(m.results)]
    return all(found.setdefault(e.position, extent) == extent for e, extent in axes if isinstance(e, AffineDimExpr))


def dims_of(map: AffineMap) -> list[int | None] | None:
    """The loop behind each axis of a map (None for the constant 0), or None where the map is anything else."""
    dims: list[int | None] = []
    for expr in map.results:
        if isinstance(expr, AffineDimExpr):
            dims.append(expr.position)
        elif isinstance(expr, AffineConstantExpr) and expr.value == 0:
            dims.append(None)
        else:
            return None
    named = [d for d in dims if d is not None]
    return dims if len(set(named)) == len(named) else None


def is_permutation(map: AffineMap) -> bool:
    """Whether the map's axes are all the loops, each once."""
    dims = dims_of(map)
    return dims is not None and None not in dims and len(dims) == map.num_dims


def body_ops(op: GenericOp) -> list[Operation]:
    """The scalar ops of the body, without the terminator."""
    return [o for o in op.body.block.ops if not isinstance(o, linalg.YieldOp)]


def yielded(op: GenericOp) -> tuple[SSAValue, ...]:
    """The scalars the body yields, one an output."""
    last = op.body.block.last_op
    assert isinstance(last, linalg.YieldOp)
    return tuple(last.arguments)


def inlined(op: GenericOp, given: Sequence[SSAValue], add: Callable[[Operation], object]) -> SSAValue:
    """The one scalar that the body makes of its first arguments; each op of it is handed to `add`."""
    values: dict[SSAValue, SSAValue] = dict(zip(op.body.block.args, given, strict=False))
    for inner in body_ops(op):
        clone = inner.clone(values)
        add(clone)
        values.update(zip(inner.results, clone.results, strict=True))
    (result,) = yielded(op)
    return values.get(result, result)


def fill_of(value: SSAValue) -> arith.ConstantOp | None:
    """The constant that a fill puts everywhere; None where `value` is made by anything else."""
    op = value.owner
    if not isinstance(op, GenericOp) or op.inputs or len(op.results) != 1:
        return None
    constant = yielded(op)[0].owner
    return constant if isinstance(constant, arith.ConstantOp) else None


def identity(rank: int) -> AffineMap:
    """(d0, ..., dn) -> (d0, ..., dn)."""
    return AffineMap.identity(rank)


def dims_map(rank: int, dims: Sequence[int | AffineExpr | None]) -> AffineMap:
    """A map of `rank` loops whose axes are loops (int), expressions, or the constant 0 (None)."""
    return AffineMap(
        rank,
        0,
        tuple(
            AffineExpr.constant(0) if d is None else AffineExpr.dimension(d) if isinstance(d, int) else d for d in dims
        ),
    )


def generic(
    inputs: Sequence[SSAValue],
    outputs: Sequence[SSAValue],
    maps: Sequence[AffineMap],
    body: Body,
    reduce: Sequence[int] = (),
) -> GenericOp:
    """A `linalg.generic` over tensors or memrefs; `body` gets one scalar an operand and returns one an output.

    `reduce` lists the loops that reduce; the others are parallel.
    """
    operands = [*inputs, *outputs]
    block = Block(arg_types=[element_of(v) for v in operands])
    scalars = body(Builder(InsertPoint.at_end(block)), block.args)
    block.add_op(linalg.YieldOp(*scalars))
    kinds = [
        IteratorTypeAttr.reduction() if d in reduce else IteratorTypeAttr.parallel() for d in range(maps[0].num_dims)
    ]
    results: list[Attribute] = [v.type for v in outputs] if is_tensor(outputs[0]) else []
    return GenericOp(inputs, outputs, Region(block), [AffineMapAttr(m) for m in maps], kinds, results)


def is_tensor(value: SSAValue) -> bool:
    """Whether `value` is a tensor (levels 1 and 2) rather than a memref."""
    return isinstance(value.type, TensorType)


def copy_op(source: SSAValue, destination: SSAValue) -> GenericOp:
    """A copy of equal shapes, as a generic."""
    rank = len(shape_of(source))
    return generic([source], [destination], [identity(rank)] * 2, lambda _, args: [args[0]])


def erase_unread(block: Block) -> None:
    """Erases the structured ops, views and constants on tensors whose results nobody uses."""
    views = (tensor.InsertSliceOp, tensor.ExtractSliceOp, tensor.CollapseShapeOp, tensor.ExpandShapeOp)
    for op in reversed(list(block.ops)):
        if isinstance(op, (GenericOp, tensor.EmptyOp, WeightOp, *views)) and op.results:
            if not any(result.uses for result in op.results):
                erase(op)
