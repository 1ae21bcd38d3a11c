"""bufferize: tensors become memrefs, mechanically (level 2 -> level 3).

    func @infer(%x: tensor<4xf32>, %y: tensor<4xf32> {sofie.output}) -> tensor<4xf32>
    ->
    func @infer(%x: memref<4xf32>, %y: memref<4xf32> {sofie.output})

An op's result is the buffer of its destination operand; `extract_slice` is a subview, `insert_slice` a copy unless
the value already lies there, `tensor.empty` an allocation that plan-memory will place. A loop carries no tensor any
more: what it yields lies where it began; nor does an `scf.if` yield one. `assign-destinations` has made this right;
nothing is decided here. Every structured op that stands alone becomes a fused group of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf, tensor
from xdsl.dialects.builtin import (
    FunctionType,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    i1,
    i8,
)
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from sofie import structured
from sofie.dialects.sofie import FusedOp, TileOp, WeightOp, YieldOp
from sofie.dialects.types import contiguous_strides, element_of, shape_of, shape_of_type, strides_and_offset
from sofie.dialects.types import memref as memref_type
from sofie.errors import SofieError
from sofie.extents import again, entries, values
from sofie.rewrite import blame, erase
from sofie.sharing import outside


@dataclass(frozen=True)
class Bufferize(ModulePass):
    """Rewrites each function in one walk."""

    name: ClassVar[str] = "bufferize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in [f for f in op.walk() if isinstance(f, func.FuncOp)]:
            _Bufferizer(function).run()


def stored(element: Attribute) -> Attribute:
    """The element type in memory: bool is a byte there."""
    return i8 if element == i1 else element


def buffer_type(value: SSAValue) -> MemRefType[Attribute]:
    """The memref type of a tensor value's own buffer."""
    return memref_type(stored(element_of(value)), shape_of(value))


@dataclass
class _Bufferizer:
    function: func.FuncOp
    buffers: dict[SSAValue, SSAValue] = field(default_factory=dict)

    def run(self) -> None:
        block = self.function.body.block
        for argument in list(block.args):
            if structured.is_tensor(argument):
                new = Rewriter.replace_value_with_new_type(argument, buffer_type(argument))
                new.name_hint = argument.name_hint
                self.buffers[new] = new
        for op in list(block.ops):
            self._visit(op, inside=False)
        self._erase_tensors(block)
        self.function.properties["function_type"] = FunctionType.from_lists([a.type for a in block.args], [])
        self.function.properties.pop("res_attrs", None)

    def _visit(self, op: Operation, inside: bool) -> None:
        rule = _RULES.get(type(op))
        if rule is not None:
            rule(self, op, inside)
        elif any(structured.is_tensor(v) for v in [*op.operands, *op.results]):
            raise SofieError(f"{blame(op)}: {op.name} cannot be bufferised; lower it to structured ops first")

    def buffer(self, value: SSAValue) -> SSAValue:
        """The memref that holds `value`."""
        return self.buffers.get(value, value)

    def insert(self, before: Operation, new: Operation) -> None:
        """Inserts an op where `before` stands."""
        new.location = before.location
        block = before.parent_block()
        assert block is not None
        block.insert_op_before(new, before)

    def emit(self, before: Operation, new: Operation, named: SSAValue | None = None) -> SSAValue:
        """Inserts an op that makes a buffer and hands over the name of the tensor it stands for."""
        self.insert(before, new)
        if named is not None:
            new.results[0].name_hint = named.name_hint
        return new.results[0]

    def _weight(self, op: WeightOp, inside: bool) -> None:
        new = WeightOp(op.weight_name.data, op.blob, buffer_type(op.result))
        self.buffers[op.result] = self.emit(op, new, op.result)

    def _empty(self, op: tensor.EmptyOp, inside: bool) -> None:
        kind = buffer_type(op.tensor)
        new = TileOp(kind) if inside else memref.AllocOp(list(op.dynamic_sizes), [], kind)
        self.buffers[op.tensor] = self.emit(op, new, op.tensor)

    def _generic(self, op: GenericOp, inside: bool) -> None:
        outputs = [self.buffer(v) for v in op.outputs]
        for result, target in zip(op.results, outputs, strict=True):
            self.buffers[result] = target
            if (
                result.name_hint
                and not isinstance(target.owner, Block)
                and isinstance(target.owner, memref.AllocOp | TileOp)
            ):
                target.name_hint = result.name_hint
        new = GenericOp(
            [self.buffer(v) for v in op.inputs],
            outputs,
            op.detach_region(op.body),
            op.indexing_maps,
            op.iterator_types,
        )
        _store_bool_as_byte(new.body.block)
        for inner in new.body.walk():  # gathers read their tensors inside the body
            if isinstance(inner, tensor.ExtractOp):
                load = memref.LoadOp.get(self.buffer(inner.tensor), list(inner.indices))
                Rewriter.replace_op(inner, [load, *_as_bool(load)] if inner.result.type == i1 else load)
        self.insert(op, new if inside else _group_of_one(new))

    def _fused(self, op: FusedOp, inside: bool) -> None:
        members = op.members()
        for member in members:
            self._visit(member, inside=True)
        for result, value in zip(op.results, op.yielded(), strict=True):
            self.buffers[result] = self.buffer(value)
        self._erase_tensors(op.body.block)
        block = op.body.block
        block.detach_op(block.last_op) if isinstance(block.last_op, YieldOp) else None
        new_block = Block()
        for inner in list(block.ops):
            inner.detach()
            new_block.add_op(inner)
        new_block.add_op(YieldOp())
        new = FusedOp(new_block)
        new.attributes = dict(op.attributes)
        self.insert(op, new)

    def _extract_slice(self, op: tensor.ExtractSliceOp, inside: bool) -> None:
        self.buffers[op.result] = self._subview(op, self.buffer(op.source), op, op.result)

    def _subview(
        self,
        before: Operation,
        base: SSAValue,
        box: tensor.ExtractSliceOp | tensor.InsertSliceOp,
        named: SSAValue | None,
    ) -> SSAValue:
        offsets, shape = entries(box.static_offsets.get_values(), box.offsets), part_shape(box)
        kind = view_type(base, offsets, shape, list(box.static_strides.get_values()))
        names = ("static_offsets", "static_sizes", "static_strides")
        view = memref.SubviewOp.build(
            operands=[base, *([again(v, before) for v in values] for values in (box.offsets, box.sizes, box.strides))],
            result_types=[kind],
            properties={name: box.properties[name] for name in names},
        )
        return self.emit(before, view, named)

    def _insert_slice(self, op: tensor.InsertSliceOp, inside: bool) -> None:
        source, base = self.buffer(op.source), self.buffer(op.dest)
        self.buffers[op.result] = base
        if not _lies_in(source, base, op):
            part = self._subview(op, base, op, None)
            copy = structured.copy_op(source, part)
            self.insert(op, copy if inside else _group_of_one(copy))

    def _reshape(self, op: tensor.CollapseShapeOp | tensor.ExpandShapeOp, inside: bool) -> None:
        source = self.buffer(op.src)
        assert isinstance(source.type, MemRefType)
        if not _is_run(source.type):  # a strided view has no other shape: make it contiguous first
            sizes = values(shape_of(op.src), op)
            room: Operation = TileOp(buffer_type(op.src)) if inside else memref.AllocOp(sizes, [], buffer_type(op.src))
            target = self.emit(op, room, op.src)
            copy = structured.copy_op(source, target)
            self.insert(op, copy if inside else _group_of_one(copy))
            source = target
        assert isinstance(source.type, MemRefType)
        _, offset = strides_and_offset(source.type)
        shape = shape_of(op.result)
        kind = memref_type(stored(element_of(op.result)), shape, None, offset)
        new: Operation
        if isinstance(op, tensor.CollapseShapeOp):
            new = memref.CollapseShapeOp.build(
                operands=[source], result_types=[kind], properties={"reassociation": op.reassociation}
            )
        else:
            new = memref.ExpandShapeOp.build(
                operands=[source, list(op.dynamic_output_shape)],
                result_types=[kind],
                properties={
                    "reassociation": op.reassociation,
                    "static_output_shape": op.static_output_shape,
                },
            )
        self.buffers[op.result] = self.emit(op, new, op.result)

    def _return(self, op: func.ReturnOp, inside: bool) -> None:
        self.insert(op, func.ReturnOp())

    def _extract(self, op: tensor.ExtractOp, inside: bool) -> None:
        """One element outside of a structured op: the condition of a branch."""
        load = memref.LoadOp.get(self.buffer(op.tensor), list(op.indices))
        made: list[Operation] = [load, *_as_bool(load)] if op.result.type == i1 else [load]
        for new in made:
            self.insert(op, new)
        op.result.replace_all_uses_with(made[-1].results[0])
        erase(op)

    def _insert(self, op: tensor.InsertOp, inside: bool) -> None:
        """One element, inside a group of scalar code."""
        base, value = self.buffer(op.dest), op.scalar
        if value.type == i1:
            value = self.emit(op, arith.ExtUIOp(value, i8))
        self.insert(op, memref.StoreOp.get(value, base, list(op.indices)))
        self.buffers[op.result] = base

    def _for(self, op: scf.ForOp, inside: bool) -> None:
        """The loop in place: its carried tensors are buffers from outside, other carried values stay carried."""
        block, last = op.body.block, op.body.block.last_op
        assert last is not None
        kept = [k for k, v in enumerate(op.res) if not structured.is_tensor(v)]
        for start, argument, result in zip(op.iter_args, block.args[1:], op.res, strict=True):
            if structured.is_tensor(result):
                self.buffers[argument] = self.buffers[result] = self.buffer(start)
        self._region(block, inside)
        body = Block(arg_types=[IndexType(), *(op.iter_args[k].type for k in kept)])
        for old, new in zip([block.args[0], *(block.args[k + 1] for k in kept)], body.args, strict=True):
            new.name_hint = old.name_hint
            old.replace_all_uses_with(new)
        yielded = [last.operands[k] for k in kept]
        _move(block, body)
        body.add_op(scf.YieldOp(*yielded))
        loop = scf.ForOp(op.lb, op.ub, op.step, [op.iter_args[k] for k in kept], body)
        self.insert(op, loop)
        for k, made in zip(kept, loop.res, strict=True):
            op.res[k].replace_all_uses_with(made)

    def _if(self, op: scf.IfOp, inside: bool) -> None:
        """The branches in place; each has put its results where the others find them."""
        blocks = [region.block for region in op.regions if region.blocks]
        kept = [k for k, v in enumerate(op.output) if not structured.is_tensor(v)]
        made = []
        for block in blocks:
            last = block.last_op
            assert isinstance(last, scf.YieldOp)
            homes = {k: outside(v, block) for k, v in enumerate(last.operands) if k not in kept}
            self._region(block, inside)
            for k, home in homes.items():
                assert home is not None, op
                self.buffers[op.output[k]] = self.buffer(home)
            yielded = [last.operands[k] for k in kept]
            new = Block()
            _move(block, new)
            new.add_op(scf.YieldOp(*yielded))
            made.append(Region(new))
        branching = scf.IfOp(op.cond, [op.output[k].type for k in kept], made[0], made[1] if len(made) > 1 else None)
        self.insert(op, branching)
        for k, value in zip(kept, branching.output, strict=True):
            op.output[k].replace_all_uses_with(value)

    def _region(self, block: Block, inside: bool) -> None:
        """Everything in the block of a loop or branch; its terminator goes."""
        for op in list(block.ops):
            if not isinstance(op, scf.YieldOp):
                self._visit(op, inside)

    @staticmethod
    def _erase_tensors(block: Block) -> None:
        """Erases the tensor ops, last first: whatever they made has a buffer now."""
        for op in reversed(list(block.ops)):
            tensors = any(structured.is_tensor(v) for v in [*op.operands, *op.results])
            moved_out = isinstance(op, scf.ForOp | scf.IfOp) and op.regions[0].block.is_empty
            if tensors or moved_out or (isinstance(op, func.ReturnOp) and op.operands):
                op.detach()
                op.erase(safe_erase=False)


def _move(source: Block, target: Block) -> None:
    """Hands over the ops that work on buffers; those on tensors, and the terminator, are erased."""
    last = source.last_op
    assert isinstance(last, scf.YieldOp)
    last.detach()
    last.erase()
    _Bufferizer._erase_tensors(source)
    for op in list(source.ops):
        op.detach()
        target.add_op(op)


def _store_bool_as_byte(body: Block) -> None:
    """Lets a scalar body read and yield bytes where it computed with i1."""
    for argument in body.args:
        if argument.type == i1:
            byte = Rewriter.replace_value_with_new_type(argument, i8)
            uses = list(byte.uses)
            if not uses:  # a test of what lies there would keep a tile alive that nothing fills
                continue
            zero = arith.ConstantOp(IntegerAttr(0, i8))
            test = arith.CmpiOp(byte, zero.result, "ne")
            first = body.first_op
            assert first is not None
            body.insert_ops_before([zero, test], first)
            for use in uses:
                use.operation.operands[use.index] = test.result
    last = body.last_op
    assert last is not None
    for k, value in enumerate(last.operands):
        if value.type == i1:
            widened = arith.ExtUIOp(value, i8)
            body.insert_op_before(widened, last)
            last.operands[k] = widened.result


def _as_bool(load: memref.LoadOp) -> list[Operation]:
    """The test that turns a loaded byte into a bool."""
    zero = arith.ConstantOp(IntegerAttr(0, i8))
    return [zero, arith.CmpiOp(load.res, zero.result, "ne")]


def _group_of_one(op: GenericOp) -> FusedOp:
    return FusedOp(Block([op, YieldOp()]))


def _lies_in(source: SSAValue, base: SSAValue, box: tensor.InsertSliceOp) -> bool:
    """Whether `source` already is that part of `base` (through reshapes): the producer wrote it in place."""
    current = source
    while isinstance(current.owner, memref.CollapseShapeOp | memref.ExpandShapeOp):
        current = current.owner.src
    view = current.owner
    return (
        isinstance(view, memref.SubviewOp)
        and view.source is base
        and part_shape(view) == part_shape(box)
        and list(view.static_strides.get_values()) == list(box.static_strides.get_values())
        and entries(view.static_offsets.get_values(), view.offsets)
        == entries(box.static_offsets.get_values(), box.offsets)
    )


Slice = tensor.ExtractSliceOp | tensor.InsertSliceOp | memref.SubviewOp


def part_shape(box: Slice) -> tuple[int, ...]:
    """The extents of the part that a slice names."""
    return shape_of(box.source if isinstance(box, tensor.InsertSliceOp) else box.result)


def view_type(
    base: SSAValue, offsets: Sequence[int | SSAValue], shape: Sequence[int], steps: Sequence[int]
) -> MemRefType[Attribute]:
    """The type of a part of a buffer; its offset is told where it is a number and the buffer's own is known."""
    assert isinstance(base.type, MemRefType)
    strides, start = strides_and_offset(base.type)
    for stride, offset in zip(strides, offsets, strict=True):
        start = None if start is None or isinstance(offset, SSAValue) else start + offset * stride
    own = [stride * step for stride, step in zip(strides, steps, strict=True)]
    return memref_type(base.type.element_type, shape, own, start)


def _is_run(kind: MemRefType[Attribute]) -> bool:
    """Whether the elements of the memref lie one after the other."""
    strides, _ = strides_and_offset(kind)
    shape = shape_of_type(kind)
    return all(s == c for s, c, e in zip(strides, contiguous_strides(shape), shape, strict=True) if e != 1)


_Rule = Callable[..., None]
"""Methods of a bufferizer that take an op of their own class, and whether it stands inside a group."""

_RULES: dict[type[Operation], _Rule] = {
    WeightOp: _Bufferizer._weight,
    tensor.EmptyOp: _Bufferizer._empty,
    GenericOp: _Bufferizer._generic,
    FusedOp: _Bufferizer._fused,
    tensor.ExtractSliceOp: _Bufferizer._extract_slice,
    tensor.InsertSliceOp: _Bufferizer._insert_slice,
    tensor.CollapseShapeOp: _Bufferizer._reshape,
    tensor.ExpandShapeOp: _Bufferizer._reshape,
    tensor.ExtractOp: _Bufferizer._extract,
    tensor.InsertOp: _Bufferizer._insert,
    scf.ForOp: _Bufferizer._for,
    scf.IfOp: _Bufferizer._if,
    func.ReturnOp: _Bufferizer._return,
}
