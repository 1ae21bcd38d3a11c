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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

from xdsl.context import Context
from xdsl.dialects import arith, func, scf, tensor
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FunctionType, ModuleOp, StringAttr, UnitAttr
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie import structured
from sofie.destinations import give_room, settle, take_root
from sofie.dialects.sofie import FusedOp, WeightOp, YieldOp
from sofie.dialects.types import element_of, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import UnsupportedError
from sofie.extents import again, entries, found_sizes, function_of, read, values
from sofie.reshapes import reshaped
from sofie.rewrite import erase, positions, users
from sofie.sharing import (
    VIEWS,
    chain,
    exclude_each_other,
    is_carried,
    loop_around,
    made_from,
    place_in,
    root,
)
from sofie.sizes import symbols_of

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
            for branching in reversed([o for o in function.walk() if isinstance(o, scf.IfOp)]):
                give_room(branching)
            _return_into_arguments(function)
            for insert in [o for o in function.walk() if isinstance(o, tensor.InsertSliceOp)]:
                _compute_in_slice(insert)
            if self.in_place:
                _overwrite_dying_operands(function)
            _copy_where_not_free(function)
            settle(function)


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
        if not take_root(value, destination, block):
            copy = structured.copy_op(value, destination)
            block.insert_op_before(copy, last)
            last.operands[k] = copy.results[0]
    function.arg_attrs = ArrayAttr(attributes)
    function.properties["function_type"] = FunctionType.from_lists(
        [a.type for a in block.args], [v.type for v in last.operands]
    )


def _compute_in_slice(insert: tensor.InsertSliceOp) -> None:
    """Makes the inserted value's producer write into the slice, if its buffer is its own and the rest can wait."""
    links = list(chain(insert.source))
    end = links[-1]
    if not isinstance(end.owner, tensor.EmptyOp) or any(isinstance(v.owner, tensor.ExtractSliceOp) for v in links):
        return
    base = _before_inserts(insert)
    if base is None:
        return
    other_shape = shape_of(end) != shape_of(insert.source)
    if other_shape and not _contiguous(insert):
        return
    empty, block = end.owner, insert.parent_block()
    assert block is not None
    anchor = place_in(block, empty)
    if anchor is None or not _known_before(insert.offsets, anchor) or not _hoist(base, anchor):
        return
    slot = tensor.ExtractSliceOp.build(
        operands=[base, [again(v, anchor) for v in insert.offsets], [again(v, anchor) for v in insert.sizes], []],
        result_types=[tensor_type(element_of(base), shape_of(insert.source))],
        properties={name: insert.properties[name] for name in ("static_offsets", "static_sizes", "static_strides")},
    )
    slot.attributes[DESTINATION] = UnitAttr()
    block.insert_op_before(slot, anchor)
    end.replace_all_uses_with(reshaped(slot.result, shape_of(end), anchor))
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
    for (start, extent, step), (start_2, extent_2, step_2) in zip(one, other, strict=True):
        if isinstance(start, SSAValue) or isinstance(start_2, SSAValue):
            continue
        try:
            if step == step_2 > 1 and (start - start_2) % step:
                return True  # they interleave
            if start >= start_2 + extent_2 * step_2 or start_2 >= start + extent * step:
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


Box = list[tuple[int | SSAValue, int, int]]
"""Start, extent and step along every axis."""


def _box(insert: tensor.InsertSliceOp) -> Box:
    offsets = entries(insert.static_offsets.get_values(), insert.offsets)
    return list(zip(offsets, shape_of(insert.source), insert.static_strides.get_values(), strict=True))


def _known_before(values: Sequence[SSAValue], anchor: Operation) -> bool:
    """Whether all values are there when `anchor` runs, or can be computed again."""
    if not values:
        return True
    block = anchor.parent_block()
    assert block is not None
    order = positions(block.ops)
    late = [v for v in values if isinstance(v.owner, Operation) and v.owner in order and read(v) is None]
    found = found_sizes(function_of(anchor)) if symbols_of(read(v) for v in values) else {}
    late += [found[s] for s in symbols_of(read(v) for v in values) if s in found]
    return all(order[v.owner] < order[anchor] for v in late if isinstance(v.owner, Operation))


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
    if op.is_before_in_block(anchor):
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
        self._homes: dict[SSAValue, list[SSAValue]] = {}
        self._makers: dict[SSAValue, set[Operation | Block]] = {}
        ops = list(function.walk())
        inside = [v for op in ops for v in op.results if structured.is_tensor(v)]
        carried = [v for op in ops if isinstance(op, scf.ForOp) for v in op.body.block.args if structured.is_tensor(v)]
        self._families: dict[SSAValue, list[SSAValue]] = {}
        for value in [*function.body.block.args, *carried, *inside]:
            for home in self.homes(value):
                self._families.setdefault(home, []).append(value)

    def homes(self, value: SSAValue) -> list[SSAValue]:
        """`_homes` of a value, remembered while nothing changes."""
        if value not in self._homes:
            self._homes[value] = _homes(value)
        return self._homes[value]

    def part(self, value: SSAValue) -> SSAValue:
        """The nearest home of a value: what a write into it can touch."""
        return self.homes(value)[0]

    def _is_made_by(self, value: SSAValue, op: Operation) -> bool:
        if value not in self._makers:
            self._makers[value] = {v.owner for v in made_from(value)}
        return op in self._makers[value]

    def merge(self, gone: SSAValue, into: SSAValue) -> None:
        """The values that lived in `gone` now live in `into`."""
        self._families.setdefault(into, []).extend(v for v in self._families.pop(gone, []) if v is not gone)
        self._homes.clear()
        self._makers.clear()

    def stale_readers(self, writer: Operation, target: SSAValue) -> list[Operation]:
        """The ops after `writer` that would read what it overwrites in the buffer of `target`."""
        readers: list[Operation] = []
        touched = self.part(target)
        for value in self._families.get(touched, []):
            if self._is_made_by(value, writer):
                continue
            if isinstance(writer, tensor.InsertSliceOp) and self.part(value) is not touched:
                continue  # it writes its own slice; the other slices made here are disjoint from that
            readers += [
                use.operation
                for use in value.uses
                if use.operation is not writer
                and self._order[use.operation] > self._order[writer]
                and not isinstance(use.operation, (*VIEWS, YieldOp))
                and not exclude_each_other(use.operation, writer)
            ]
        return readers

    def reads_elsewhere(self, op: Operation, index: int) -> bool:
        """Whether a structured op reads the buffer that it updates elsewhere than it writes at the same moment."""
        if not isinstance(op, GenericOp):
            return False
        target, maps = op.operands[index], structured.maps_of(op)
        gathered = [o.tensor for o in op.body.walk() if isinstance(o, tensor.ExtractOp)]
        others = [v for k, v in enumerate(op.operands) if k != index and not (v is target and maps[k] == maps[index])]
        if structured.reductions(op):
            others = [v for k, v in enumerate(op.operands) if k != index]
        mine, touched = self.homes(target), self.part(target)
        return any(self.part(v) in mine or touched in self.homes(v) for v in {*others, *gathered})


def _overwrite_dying_operands(function: func.FuncOp) -> None:
    """An elementwise op writes over an operand of the same type that nobody reads afterwards."""
    sharing = _Sharing(function)
    for op in list(function.walk()):
        if not structured.is_parallel(op) or len(op.results) != 1 or isinstance(op.parent_op(), FusedOp):
            continue
        assert isinstance(op, GenericOp)
        empty = op.outputs[0].owner
        dying = next(
            (v for k, v in enumerate(op.inputs) if _could_hold(op, k) and not sharing.stale_readers(op, v)), None
        )
        if isinstance(empty, tensor.EmptyOp) and users(empty.tensor) == [op] and dying is not None:
            op.operands[len(op.inputs)] = dying
            sharing.merge(empty.tensor, part(dying))
            erase(empty)


def _could_hold(op: GenericOp, k: int) -> bool:
    """Whether operand `k` is read just where the result is written, and its buffer is a plain one of the same type."""
    operand, maps = op.inputs[k], structured.maps_of(op)
    if maps[k] != maps[-1] or not structured.is_permutation(maps[k]) or operand.type != op.outputs[0].type:
        return False
    links = list(chain(operand))
    empty = links[-1].owner
    if not isinstance(empty, tensor.EmptyOp) or any(isinstance(v.owner, tensor.ExtractSliceOp) for v in links):
        return False
    if empty.parent_block() is not op.parent_block():
        return False
    alone = list(op.inputs).count(operand) == 1
    return alone and not any(v is not operand and part(v) is part(operand) for v in op.inputs)


def _copy_where_not_free(function: func.FuncOp) -> None:
    """Inserts a copy before a write into a buffer that is read later, that is a weight, or that is an input."""
    attributes = function.arg_attrs or ()
    outputs = [a for a, d in zip(function.body.block.args, attributes, strict=False) if "sofie.output" in d.data]
    sharing = _Sharing(function)
    for op in list(function.walk()):
        if _scalar_group(op) and _copy_starts(cast(FusedOp, op), outputs):
            sharing = _Sharing(function)
        if (around := op.parent_op()) is not None and _in_scalar_group(around):
            continue  # it is written so that every version of a tensor is used once
        for index in _written(op):
            target = op.operands[index]
            mine = _writable(root(target), op, outputs) and not sharing.reads_elsewhere(op, index)
            if mine and (_unshared(target) or (_alone(op, index) and not sharing.stale_readers(op, target))):
                continue
            block = op.parent_block()
            assert block is not None
            empty = tensor.EmptyOp(values(shape_of(target), op), tensor_type(element_of(target), shape_of(target)))
            copy = structured.copy_op(target, empty.tensor)
            block.insert_ops_before([empty, copy], op)
            op.operands[index] = copy.results[0]
            sharing = _Sharing(function)


def _scalar_group(op: Operation) -> bool:
    """Whether an op is a group of scalar code: it has loops and stores of its own."""
    return isinstance(op, FusedOp) and not any(isinstance(member, GenericOp) for member in op.walk())


def _in_scalar_group(op: Operation) -> bool:
    current: Operation | None = op
    while current is not None and not isinstance(current, FusedOp):
        current = current.parent_op()
    return current is not None and _scalar_group(current)


def _copy_starts(group: FusedOp, outputs: Sequence[SSAValue]) -> bool:
    """Scalar code updates its starts: one that others see too is copied before. Returns whether any is."""
    copied = False
    inside = set(group.walk())
    block = group.parent_block()
    assert block is not None
    written = dict.fromkeys(op.operands[k] for op in inside for k in _written(op))
    for target in written:
        if isinstance(target.owner, Block):
            outer = target.owner.parent_op()
            if outer in inside:
                continue
        elif target.owner in inside:
            continue
        alone = all(use.operation in inside for use in target.uses) and all(
            len(list(v.uses)) <= 1 for v in list(chain(target))[1:]
        )
        if alone and _writable(root(target), group, outputs):
            continue
        empty = tensor.EmptyOp(values(shape_of(target), group), tensor_type(element_of(target), shape_of(target)))
        copy = structured.copy_op(target, empty.tensor)
        block.insert_ops_before([empty, copy], group)
        target.replace_uses_with_if(copy.results[0], lambda use: use.operation in inside)
        copied = True
    return copied


def _writable(end: SSAValue, op: Operation, outputs: Sequence[SSAValue]) -> bool:
    """Whether `op` may write into the buffer of root `end`: room of the same iteration, or what the loop carries.

    What lies outside of a loop is seen by its next iteration too.
    """
    loop = loop_around(op)
    if isinstance(end.owner, tensor.EmptyOp):
        return loop_around(end.owner) is loop
    if is_carried(end):
        return loop is not None and end.owner is loop.body.block
    return loop is None and any(end is a for a in outputs)


def _written(op: Operation) -> Sequence[int]:
    """The operands that an op on tensors updates."""
    if isinstance(op, GenericOp) and op.results:
        return range(len(op.inputs), len(op.operands))
    if isinstance(op, scf.ForOp):
        return [k for k in range(3, len(op.operands)) if structured.is_tensor(op.operands[k])]
    return range(1, 2) if isinstance(op, tensor.InsertSliceOp | tensor.InsertOp) else range(0)


def _alone(op: Operation, index: int) -> bool:
    """Whether no other value that a loop carries starts in the buffer of operand `index`."""
    if not isinstance(op, scf.ForOp):
        return True
    mine = root(op.operands[index])
    return not any(root(v) is mine for k, v in enumerate(op.operands) if k != index and structured.is_tensor(v))


def _unshared(target: SSAValue) -> bool:
    """A quick yes: every value on the chain, down to a slice made here, has one use: nobody else sees the buffer."""
    links = list(chain(target))
    made = next((k for k, v in enumerate(links) if _is_destination(v)), len(links) - 1)
    return all(len(list(v.uses)) <= 1 for v in links[: made + 1])
