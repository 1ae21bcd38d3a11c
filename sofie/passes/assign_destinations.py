"""assign-destinations: every op learns where its result goes, before there are buffers (level 2).

    %e = tensor.empty() ; %a = linalg.generic ... outs(%e)                %s = tensor.extract_slice %d[0, 4] ...
    %r = tensor.insert_slice %a into %d[0, 4]                      ->     %a = linalg.generic ... outs(%s)
                                                                          %r = tensor.insert_slice %a into %d[0, 4]

In turn: each op gets a `tensor.empty` of its own; returned values are computed in the destinations that the function
now takes as arguments; a value that is inserted into a larger one (Concat, Pad) is computed in its slice; an
elementwise op overwrites an operand that dies there and is read through the identical map (`in-place`). Where a
choice could let a write overtake a read it is not taken; where a destination is not free to be written, a copy is
inserted. After this pass bufferisation is mechanical.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects import arith, func, tensor
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FunctionType, ModuleOp, StringAttr, UnitAttr
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import BlockArgument, Operation, OpResult, SSAValue
from xdsl.passes import ModulePass

from sofie import structured
from sofie.dialects.sofie import FusedOp, WeightOp, YieldOp
from sofie.dialects.types import element_of, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import UnsupportedError
from sofie.extents import again, entries, values
from sofie.passes.lower_onnx.builder import reshape_op, reshape_steps
from sofie.rewrite import ancestor_in, erase, positions

RESHAPES = (tensor.CollapseShapeOp, tensor.ExpandShapeOp)
VIEWS = (*RESHAPES, tensor.ExtractSliceOp)
INDEX_ARITHMETIC = (arith.AddiOp, arith.MuliOp)
DESTINATION = "sofie.destination"
"""Marks the slices this pass made: their contents are written once, by the op that got them as destination."""


@dataclass(frozen=True)
class AssignDestinations(ModulePass):
    """Chooses destinations; `in_place` lets elementwise ops overwrite a dying operand."""

    name: ClassVar[str] = "assign-destinations"

    in_place: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in [f for f in op.walk() if isinstance(f, func.FuncOp)]:
            _own_empties(function)
            _return_into_arguments(function)
            for insert in [o for o in function.walk() if isinstance(o, tensor.InsertSliceOp)]:
                _compute_in_slice(insert)
            if self.in_place:
                _overwrite_dying_operands(function)
            _copy_where_not_free(function)


def source_of(value: SSAValue) -> SSAValue | None:
    """The value whose buffer `value` will share: destination of an op, source of a view; None at a root."""
    owner = value.owner
    if isinstance(owner, GenericOp):
        assert isinstance(value, OpResult)
        return owner.outputs[value.index]
    if isinstance(owner, FusedOp):
        assert isinstance(value, OpResult)
        return owner.yielded()[value.index]
    if isinstance(owner, tensor.InsertSliceOp):
        return owner.dest
    if isinstance(owner, tensor.ExtractSliceOp):
        return owner.source
    return owner.src if isinstance(owner, RESHAPES) else None


def chain(value: SSAValue) -> Iterator[SSAValue]:
    """`value` and the values it shares a buffer with, down to the root."""
    current: SSAValue | None = value
    while current is not None:
        yield current
        current = source_of(current)


def root(value: SSAValue) -> SSAValue:
    """The `tensor.empty`, weight or argument at the end of `value`'s chain."""
    *_, last = chain(value)
    return last


def part(value: SSAValue) -> SSAValue:
    """The nearest slice on `value`'s chain that this pass made, else the root: what a write into `value` can touch."""
    links = list(chain(value))
    return next((v for v in links if _is_destination(v)), links[-1])


def _homes(value: SSAValue) -> list[SSAValue]:
    """The parts that hold `value`: the slices on its chain that this pass made, and the whole buffer."""
    links = list(chain(value))
    return [v for v in links[:-1] if _is_destination(v)] + [links[-1]]


def _is_destination(value: SSAValue) -> bool:
    return isinstance(value.owner, tensor.ExtractSliceOp) and DESTINATION in value.owner.attributes


def _own_empties(function: func.FuncOp) -> None:
    for empty in [op for op in function.walk() if isinstance(op, tensor.EmptyOp)]:
        for use in list(empty.tensor.uses)[1:]:
            clone = empty.clone()
            block = use.operation.parent_block()
            assert block is not None
            block.insert_op_before(clone, use.operation)
            use.operation.operands[use.index] = clone.tensor


def _return_into_arguments(function: func.FuncOp) -> None:
    """Adds one destination argument a result and makes the results live there."""
    block, last = function.body.block, function.body.block.last_op
    assert isinstance(last, func.ReturnOp)
    if any("sofie.output" in attrs.data for attrs in function.arg_attrs or ()):
        return
    results = function.res_attrs.data if function.res_attrs is not None else ()
    attributes = list(function.arg_attrs or ArrayAttr([DictionaryAttr({}) for _ in block.args]))
    for k, value in enumerate(list(last.operands)):
        destination = block.insert_arg(value.type, len(block.args))
        own: dict[str, object] = dict(results[k].data) if k < len(results) else {}
        attributes.append(DictionaryAttr({**own, "sofie.output": UnitAttr()}))  # type: ignore[dict-item]
        name = own.get("sofie.name")
        if isinstance(name, StringAttr) or name is None:
            destination.name_hint = value.name_hint or "output"
        if not _take_root(value, destination):
            copy = structured.copy_op(value, destination)
            block.insert_op_before(copy, last)
            last.operands[k] = copy.results[0]
    function.arg_attrs = ArrayAttr(attributes)
    function.properties["function_type"] = FunctionType.from_lists(
        [a.type for a in block.args], [v.type for v in last.operands]
    )


def _take_root(value: SSAValue, destination: BlockArgument) -> bool:
    """Lets the chain of `value` end in `destination` instead of its `tensor.empty`, where all of it is covered."""
    links = list(chain(value))
    end = links[-1]
    if not isinstance(end.owner, tensor.EmptyOp) or any(isinstance(v.owner, tensor.ExtractSliceOp) for v in links):
        return False
    empty = end.owner
    block = destination.block
    first = ancestor_in(block.first_op, empty) if block.first_op is not None else empty
    current: SSAValue = destination
    for step in reshape_steps(shape_of(destination), shape_of(end)):
        op = reshape_op(current, step, first)
        block.insert_op_before(op, first)
        current = op.results[0]
    end.replace_all_uses_with(current)
    erase(empty)
    return True


def _compute_in_slice(insert: tensor.InsertSliceOp) -> None:
    """Makes the inserted value's producer write into the slice, if its buffer is its own and the rest can wait."""
    links = list(chain(insert.source))
    end = links[-1]
    if not isinstance(end.owner, tensor.EmptyOp) or any(isinstance(v.owner, tensor.ExtractSliceOp) for v in links):
        return
    base = _before_inserts(insert)
    if base is None:
        return
    reshaped = shape_of(end) != shape_of(insert.source)
    if reshaped and not _contiguous(insert):
        return
    empty, block = end.owner, insert.parent_block()
    assert block is not None
    anchor = ancestor_in(insert, empty)
    if not _hoist(base, anchor):
        return
    slot = tensor.ExtractSliceOp.build(
        operands=[base, [again(v, anchor) for v in insert.offsets], [again(v, anchor) for v in insert.sizes], []],
        result_types=[tensor_type(element_of(base), shape_of(insert.source))],
        properties={name: insert.properties[name] for name in ("static_offsets", "static_sizes", "static_strides")},
    )
    slot.attributes[DESTINATION] = UnitAttr()
    block.insert_op_before(slot, anchor)
    current: SSAValue = slot.result
    for step in reshape_steps(shape_of(current), shape_of(end)):
        op = reshape_op(current, step, anchor)
        block.insert_op_before(op, anchor)
        current = op.results[0]
    end.replace_all_uses_with(current)
    erase(empty)


def _before_inserts(insert: tensor.InsertSliceOp) -> SSAValue | None:
    """The destination under a chain of insertions into disjoint parts; None where two parts overlap."""
    mine, base = _box(insert), insert.dest
    while isinstance(base.owner, tensor.InsertSliceOp):
        if not _disjoint(mine, _box(base.owner)) or not _only_inserted_into(base):
            return None
        base = base.owner.dest
    return base if _only_inserted_into(base) else None


def _disjoint(one: Box, other: Box) -> bool:
    """Whether two parts are known to have no element in common."""
    for (start, extent), (start_2, extent_2) in zip(one, other, strict=True):
        if isinstance(start, SSAValue) or isinstance(start_2, SSAValue):
            continue
        try:
            if start >= start_2 + extent_2 or start_2 >= start + extent:
                return True
        except UnsupportedError:
            continue  # it depends on a size
    return False


def _only_inserted_into(base: SSAValue) -> bool:
    """Whether nobody reads `base`: it is only the destination of insertions and of slices made here."""
    return all(
        (isinstance(use.operation, tensor.InsertSliceOp) and use.index == 1)
        or (isinstance(use.operation, tensor.ExtractSliceOp) and DESTINATION in use.operation.attributes)
        for use in base.uses
    )


Box = list[tuple[int | SSAValue, int]]
"""Start and extent along every axis."""


def _box(insert: tensor.InsertSliceOp) -> Box:
    offsets = entries(insert.static_offsets.get_values(), insert.offsets)
    return list(zip(offsets, shape_of(insert.source), strict=True))


def _contiguous(insert: tensor.InsertSliceOp) -> bool:
    """Whether the part is one run of memory: extents of 1, then anything, then whole axes."""
    sizes, whole = list(shape_of(insert.source)), list(shape_of(insert.dest))
    k = 0
    while k < len(sizes) and sizes[k] == 1:
        k += 1
    return sizes[k + 1 :] == whole[k + 1 :]


def _hoist(base: SSAValue, anchor: Operation) -> bool:
    """Moves the op that makes `base` (an empty, or a fill of one) above `anchor` where it is not there yet."""
    if isinstance(base, BlockArgument):
        return True
    op, block = base.owner, anchor.parent_block()
    assert isinstance(op, Operation) and block is not None
    if op.parent_block() is not block:
        return False
    order = positions(block.ops)
    if order[op] < order[anchor]:
        return True
    if not all(_hoist(operand, anchor) for operand in op.operands):
        return False
    if not isinstance(op, (tensor.EmptyOp, WeightOp, GenericOp, arith.ConstantOp, *INDEX_ARITHMETIC, *VIEWS)):
        return False
    if isinstance(op, GenericOp) and op.inputs:
        return False  # it reads values: only fills move
    block.detach_op(op)
    block.insert_op_before(op, anchor)
    return True


class _Sharing:
    """Which values share memory, and when each op runs: computed once, kept up to date by `merge`."""

    def __init__(self, function: func.FuncOp) -> None:
        self._order = positions(function.walk())
        inside = [v for op in function.walk() for v in op.results if structured.is_tensor(v)]
        self._families: dict[SSAValue, list[SSAValue]] = {}
        for value in [*function.body.block.args, *inside]:
            for home in _homes(value):
                self._families.setdefault(home, []).append(value)

    def merge(self, gone: SSAValue, into: SSAValue) -> None:
        """The values that lived in `gone` now live in `into`."""
        self._families.setdefault(into, []).extend(v for v in self._families.pop(gone, []) if v is not gone)

    def stale_readers(self, writer: Operation, target: SSAValue) -> list[Operation]:
        """The ops after `writer` that would read what it overwrites in the buffer of `target`."""
        readers: list[Operation] = []
        touched = part(target)
        for value in self._families.get(touched, []):
            if any(v.owner is writer for v in chain(value)):
                continue
            if isinstance(writer, tensor.InsertSliceOp) and part(value) is not touched:
                continue  # it writes its own slice; the other slices made here are disjoint from that
            readers += [
                use.operation
                for use in value.uses
                if use.operation is not writer
                and self._order[use.operation] > self._order[writer]
                and not isinstance(use.operation, (*VIEWS, YieldOp))
            ]
        return readers


def _overwrite_dying_operands(function: func.FuncOp) -> None:
    """An elementwise op writes over an operand of the same type that nobody reads afterwards."""
    sharing = _Sharing(function)
    for op in list(function.body.block.ops):
        if not structured.is_parallel(op) or len(op.results) != 1:
            continue
        assert isinstance(op, GenericOp)
        empty = op.outputs[0].owner
        dying = next(
            (v for k, v in enumerate(op.inputs) if _could_hold(op, k) and not sharing.stale_readers(op, v)), None
        )
        if isinstance(empty, tensor.EmptyOp) and dying is not None:
            op.operands[len(op.inputs)] = dying
            sharing.merge(empty.tensor, part(dying))
            erase(empty)


def _could_hold(op: GenericOp, k: int) -> bool:
    """Whether operand `k` is read just where the result is written, and its buffer is a plain one of the same type."""
    operand, maps = op.inputs[k], structured.maps_of(op)
    if maps[k] != maps[-1] or not structured.is_permutation(maps[k]) or operand.type != op.outputs[0].type:
        return False
    links = list(chain(operand))
    if not isinstance(links[-1].owner, tensor.EmptyOp) or any(
        isinstance(v.owner, tensor.ExtractSliceOp) for v in links
    ):
        return False
    alone = list(op.inputs).count(operand) == 1
    return alone and not any(v is not operand and part(v) is part(operand) for v in op.inputs)


def _copy_where_not_free(function: func.FuncOp) -> None:
    """Inserts a copy before a write into a buffer that is read later, that is a weight, or that is an input."""
    attributes = function.arg_attrs or ()
    outputs = [a for a, d in zip(function.body.block.args, attributes, strict=False) if "sofie.output" in d.data]
    sharing = _Sharing(function)
    for op in list(function.walk()):
        for index in _written(op):
            target = op.operands[index]
            end = root(target)
            mine = isinstance(end.owner, tensor.EmptyOp) or any(end is a for a in outputs)
            if mine and (_unshared(target) or not sharing.stale_readers(op, target)):
                continue
            block = op.parent_block()
            assert block is not None
            empty = tensor.EmptyOp(values(shape_of(target), op), tensor_type(element_of(target), shape_of(target)))
            copy = structured.copy_op(target, empty.tensor)
            block.insert_ops_before([empty, copy], op)
            op.operands[index] = copy.results[0]
            sharing = _Sharing(function)


def _written(op: Operation) -> range:
    """The operands that an op on tensors updates."""
    if isinstance(op, GenericOp) and op.results:
        return range(len(op.inputs), len(op.operands))
    return range(1, 2) if isinstance(op, tensor.InsertSliceOp) else range(0)


def _unshared(target: SSAValue) -> bool:
    """A quick yes: every value on the chain has one use, so nobody else can see the buffer."""
    return all(len(list(v.uses)) <= 1 for v in chain(target))
