"""assign-layouts: each tensor gets the order of axes in which its readers walk through it (level 2).

    %p = insert %x into fill(0) : tensor<1x3x226x226xf32>             %t = transpose %x : tensor<1x224x224x3xf32>
    %y = conv(%p, %w)           : tensor<1x64x224x224xf32>     ->     %p = insert %t into fill(0)
    %z = relu(%y)                                                     %z = relu(conv(%p, %w)) : tensor<1x224x224x64xf32>

A convolution wants its channels last: they go on lanes, and what its sum runs over lies in one piece. A product of a
batch that fills vectors with weights whose outputs do not wants the batch last. What reads or writes such a tensor
follows it: elementwise ops, poolings, padding, slices, joins, reshapes that split or merge neighbours. Constants are
re-laid here. Everything else gets the order of the model back, by a copy at the border, at the first need; a copy into
padding is computed where it belongs. Declines for convolutions of few channels, whose rows go on lanes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects import func, tensor
from xdsl.dialects.builtin import DYNAMIC_INDEX, AffineMapAttr, ArrayAttr, DenseArrayBase, ModuleOp, i64
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.ir.affine import AffineBinaryOpExpr, AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from sofie import sizes, structured
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_of, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.reshapes import Step, reshape_op
from sofie.rewrite import erase, users
from sofie.site import Site

Order = tuple[int, ...]
"""The axis of the value at each place, outermost first."""

FEWEST_CHANNELS = 8
BATCH = 16
"""A batch that is a multiple of this fills vectors on every CPU."""
LARGEST_BATCH = 64

Reshape = tensor.CollapseShapeOp | tensor.ExpandShapeOp


@dataclass(frozen=True)
class AssignLayouts(ModulePass):
    """Chooses orders; `channels_last` and `batch_last` say for what."""

    name: ClassVar[str] = "assign-layouts"

    channels_last: bool = True
    batch_last: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in [f for f in op.walk() if isinstance(f, func.FuncOp)]:
            layouts = _Layouts(self.channels_last, self.batch_last)
            block = function.body.block
            for inner in list(block.ops):
                layouts.visit(inner)
            if layouts.changed:
                structured.erase_unread(block)


@dataclass(frozen=True)
class Choice:
    """The order of each operand of a generic, and of its loops."""

    operands: list[Order]
    loops: list[int]


class _Layouts:
    """The forms that each value of a function has; ops are visited in their order."""

    def __init__(self, channels_last: bool, batch_last: bool) -> None:
        self._channels_last, self._batch_last = channels_last, batch_last
        self._forms: dict[SSAValue, dict[Order, SSAValue]] = {}

    @property
    def changed(self) -> bool:
        """Whether anything got another order."""
        return bool(self._forms)

    def visit(self, op: Operation) -> None:
        """Rewrites an op that has a better order; gives any other the order it was written for."""
        if isinstance(op, GenericOp):
            choice = self._choice(op)
            if choice is not None:
                made = _reordered(
                    op, choice, [self.form(v, o) for v, o in zip(op.operands, choice.operands, strict=True)]
                )
                for result, place, new in zip(op.results, choice.operands[len(op.inputs) :], made.results, strict=True):
                    self._replace(result, place, new)
                return
        elif isinstance(op, tensor.InsertSliceOp):
            order = self._moved(op.source) or self._moved(op.dest)
            if order is not None and _means_the_same(order, op.source, op.dest):
                self._replace(op.result, order, self._insert(op, order))
                return
        elif isinstance(op, tensor.ExtractSliceOp):
            order = self._moved(op.source)
            if order is not None and _means_the_same(order, op.source, op.result):
                self._replace(op.result, order, self._extract(op, order))
                return
        elif isinstance(op, Reshape) and self._reshape(op):
            return
        self._settle(op)

    def form(self, value: SSAValue, order: Order) -> SSAValue:
        """The value with its axes in that order, made where it is first needed."""
        order = _canonical(order, shape_of(value))
        identity = tuple(range(len(order)))
        known = self._forms.setdefault(value, {identity: value})
        if order not in known:
            known[order] = self._make(value, order)
            known[order].name_hint = value.name_hint
        return known[order]

    def _moved(self, value: SSAValue) -> Order | None:
        """The order of a value that is not in the model's."""
        forms = self._forms.get(value)
        order = next(iter(forms)) if forms else None
        return order if order is not None and order != tuple(range(len(order))) else None

    def _replace(self, value: SSAValue, order: Order, new: SSAValue) -> None:
        new.name_hint = value.name_hint
        self._forms[value] = {_canonical(order, shape_of(value)): new}

    def _settle(self, op: Operation) -> None:
        """The op and what is inside it read the model's own order."""
        for user in op.walk():
            for k, value in enumerate(user.operands):
                if value in self._forms:
                    user.operands[k] = self.form(value, tuple(range(len(shape_of(value)))))

    # -- which order ----------------------------------------------------------------------------------------------

    def _choice(self, op: GenericOp) -> Choice | None:
        wanted = None
        if len(op.inputs) == 2 and len(op.outputs) == 1 and structured.reductions(op):
            if self._channels_last and (x := _windowed(op)) is not None:
                wanted = _channels_last(op, x)
            elif self._batch_last:
                wanted = self._batch_is_last(op)
        return wanted or self._following(op)

    def _batch_is_last(self, op: GenericOp) -> Choice | None:
        """The batch last for x (m, k) times constant weights, where it fills vectors and the outputs do not."""
        maps, extents = structured.maps_of(op), structured.extents(op)
        weights = [k for k, v in enumerate(op.inputs) if isinstance(v.owner, WeightOp)]
        if len(weights) != 1 or any(len(m.results) != 2 or structured.dims_of(m) is None for m in maps):
            return None
        x, (k, *more) = 1 - weights[0], structured.reductions(op)
        m, n = (e.used_dims() for e in maps[2].results)
        if more or [e.used_dims() for e in maps[x].results] != [m, {k}]:
            return None
        (batch,), (out,) = m, n
        fills = sizes.is_static([extents[batch]]) and extents[batch] % BATCH == 0 and extents[batch] <= LARGEST_BATCH
        if not fills or (extents[out] % BATCH == 0 and self._moved(op.inputs[x]) is None):
            return None
        orders: list[Order] = [(1, 0), (1, 0)]
        orders.insert(weights[0], (0, 1))
        return Choice(orders, [out, batch, k])

    def _following(self, op: GenericOp) -> Choice | None:
        """The order of the largest input that is not in the model's own, for all operands."""
        moved = [(k, order) for k, v in enumerate(op.inputs) if (order := self._moved(v)) is not None]
        if not moved:
            return None
        maps, reduce = structured.maps_of(op), structured.reductions(op)
        if any(structured.dims_of(m) is None for m in maps[len(op.inputs) :]):
            return None
        lead, order = max(moved, key=lambda m: sizes.most(math.prod(shape_of(op.inputs[m[0]]))))
        walked = [d for axis in order for d in sorted(maps[lead].results[axis].used_dims())]
        rest = [d for d in range(len(op.iterator_types)) if d not in walked]
        found = list(dict.fromkeys([*(d for d in rest if d not in reduce), *walked, *rest]))
        loops = [*(d for d in found if d not in reduce), *(d for d in found if d in reduce)]
        return Choice([_by_loops(m, loops) for m in maps], loops)

    # -- other forms ----------------------------------------------------------------------------------------------

    def _make(self, value: SSAValue, order: Order) -> SSAValue:
        owner = value.owner
        if isinstance(owner, WeightOp):
            array = np.ascontiguousarray(owner.blob.value.transpose(order))
            return _at(owner).insert(WeightOp.of(owner.weight_name.data, array, element_of(value)))
        if isinstance(owner, tensor.EmptyOp):
            return _behind(value).empty(_permuted(shape_of(value), order), element_of(value))
        if value in self._forms[value].values():  # nothing took its place
            if isinstance(owner, GenericOp) and _is_cheap(owner):
                loops = [d for a in order for d in structured.output_maps(owner)[0].results[a].used_dims()]
                operands = [*owner.inputs, self.form(owner.outputs[0], order)]
                kept = [tuple(range(len(shape_of(v)))) for v in owner.inputs]
                return _reordered(owner, Choice([*kept, order], loops), operands).results[0]
            if isinstance(owner, tensor.InsertSliceOp) and len(users(value)) == 1:
                if _means_the_same(order, owner.source, owner.dest):
                    return self._insert(owner, order)
        source_order, source = next(iter(self._forms[value].items()))
        return _copy(source, [source_order.index(axis) for axis in order])

    def _insert(self, op: tensor.InsertSliceOp, order: Order) -> SSAValue:
        source, dest = (self.form(v, order) for v in (op.source, op.dest))
        properties, operands = _slice_lists(op, order)
        new = tensor.InsertSliceOp.build(
            operands=[source, dest, *operands], result_types=[dest.type], properties=properties
        )
        return _at(op).insert(new)

    def _extract(self, op: tensor.ExtractSliceOp, order: Order) -> SSAValue:
        source = self.form(op.source, order)
        properties, operands = _slice_lists(op, order)
        kind = tensor_type(element_of(op.result), _permuted(shape_of(op.result), order))
        new = tensor.ExtractSliceOp.build(operands=[source, *operands], result_types=[kind], properties=properties)
        return _at(op).insert(new)

    def _reshape(self, op: Reshape) -> bool:
        """Whether the reshape could follow its operand: it splits axes, or merges such as are still neighbours."""
        order = self._moved(op.src)
        if order is None:
            return False
        groups = [[d.value.data for d in group] for group in op.reassociation]
        shape = shape_of(op.result)
        if isinstance(op, tensor.ExpandShapeOp):
            result: Order = tuple(a for axis in order for a in groups[axis])
            apart, kind = [groups[axis] for axis in order], "expand"
        else:
            places = [sorted(order.index(a) for a in group) for group in groups]
            if any([order[p] for p in place] != group for place, group in zip(places, groups, strict=True)):
                return False
            if any(place[-1] - place[0] != len(place) - 1 for place in places):
                return False
            result = tuple(sorted(range(len(groups)), key=lambda g: places[g]))
            apart, kind = [groups[g] for g in result], "collapse"
        if _canonical(result, shape) != result:
            return False
        numbered, start = [], 0
        for group in apart:
            numbered.append(list(range(start, start + len(group))))
            start += len(group)
        step: Step = (kind, _permuted(shape, result), numbered)
        self._replace(op.result, result, _at(op).insert(reshape_op(self.form(op.src, order), step, op)))
        return True


def _canonical(order: Order, shape: Sequence[int]) -> Order:
    """The model's own order where only axes of extent 1 would move."""
    long = [axis for axis in order if shape[axis] != 1]
    return tuple(range(len(order))) if long == sorted(long) else order


def _means_the_same(order: Order, *values: SSAValue) -> bool:
    """Whether the order moves axes of every value: of one that it leaves alone, a slice would need a reshape."""
    return all(len(shape_of(v)) == len(order) and _canonical(order, shape_of(v)) == order for v in values)


def _permuted(shape: Sequence[int], order: Order) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in order)


def _windowed(op: GenericOp) -> int | None:
    """The input of a convolution that windows slide over."""
    for k, map in enumerate(structured.maps_of(op)[:2]):
        if any(isinstance(e, AffineBinaryOpExpr) and len(e.used_dims()) == 2 for e in map.results):
            return k
    return None


def _channels_last(op: GenericOp, x: int) -> Choice | None:
    """Channels last for input `x` and the result of a convolution; its sum runs over window, then channels."""
    maps, reduce = structured.maps_of(op), set(structured.reductions(op))
    kernel, extents = structured.dims_of(maps[1 - x]), structured.extents(op)
    if kernel is None or structured.dims_of(maps[2]) is None:
        return None

    out, order = (_last(m, set(kernel)) for m in (maps[2], maps[x]))
    channels = [d for e in maps[2].results for d in e.used_dims() if d in kernel]
    if math.prod(extents[d] for d in channels) < FEWEST_CHANNELS:
        return None
    loops = [d for a in out for d in maps[2].results[a].used_dims()]
    loops += [d for a in order for d in sorted(maps[x].results[a].used_dims()) if d in reduce]
    if sorted(loops) != list(range(len(op.iterator_types))):
        return None
    orders = [order, out]
    orders.insert(1 - x, tuple(range(len(maps[1 - x].results))))
    return Choice(orders, loops)


def _last(map: AffineMap, dims: set[int | None]) -> Order:
    """The axes that are just one of these loops behind all others."""
    return tuple(
        sorted(
            range(len(map.results)), key=lambda a: isinstance(e := map.results[a], AffineDimExpr) and e.position in dims
        )
    )


def _by_loops(map: AffineMap, loops: Sequence[int]) -> Order:
    """The axes of an operand in the order of the loops that walk them."""

    def place(axis: int) -> int:
        dims = map.results[axis].used_dims()
        return min((loops.index(d) for d in dims), default=-1)

    return tuple(sorted(range(len(map.results)), key=place))


def _is_cheap(op: GenericOp) -> bool:
    """Whether computing the op again costs no more than copying its result: fills, and a bias that is spread."""
    (result,) = op.results if len(op.results) == 1 else (None,)
    if result is None or structured.reductions(op) or not structured.is_permutation(structured.output_maps(op)[0]):
        return False
    return all(len(shape_of(v)) < len(shape_of(result)) and isinstance(v.owner, WeightOp) for v in op.inputs)


def _reordered(op: GenericOp, choice: Choice, operands: Sequence[SSAValue]) -> GenericOp:
    """The op before itself with other operands and loops in another order."""
    rank = len(choice.loops)
    at: list[AffineExpr] = [AffineExpr.dimension(choice.loops.index(d)) for d in range(rank)]
    maps = []
    for value, map, order in zip(op.operands, structured.maps_of(op), choice.operands, strict=True):
        order = _canonical(order, shape_of(value))
        maps.append(AffineMap(rank, 0, tuple(map.results[a].replace_dims_and_symbols(at, []) for a in order)))
    body = op.body.clone()
    for index in [o for o in body.walk() if isinstance(o, linalg.IndexOp)]:
        moved = linalg.IndexOp(choice.loops.index(index.dim.value.data))
        block = index.parent_block()
        assert block is not None
        block.insert_op_before(moved, index)
        index.result.replace_all_uses_with(moved.result)
        erase(index)
    count = len(op.inputs)
    kinds = ArrayAttr([op.iterator_types.data[d] for d in choice.loops])
    new = GenericOp(
        operands[:count],
        operands[count:],
        body,
        [AffineMapAttr(m) for m in maps],
        kinds,
        [v.type for v in operands[count:]],
    )
    _at(op).add(new)
    return new


def _slice_lists(
    op: tensor.InsertSliceOp | tensor.ExtractSliceOp, order: Order
) -> tuple[dict[str, Attribute], list[list[SSAValue]]]:
    """Offsets, sizes and strides in another order of axes: the static lists, and the values of the run."""
    properties: dict[str, Attribute] = {}
    operands: list[list[SSAValue]] = []
    for name, static, values in (
        ("static_offsets", op.static_offsets, op.offsets),
        ("static_sizes", op.static_sizes, op.sizes),
        ("static_strides", op.static_strides, op.strides),
    ):
        numbers, rest = list(static.get_values()), iter(values)
        of_the_run = {axis: next(rest) for axis, number in enumerate(numbers) if number == DYNAMIC_INDEX}
        properties[name] = DenseArrayBase.from_list(i64, [numbers[axis] for axis in order])
        operands.append([of_the_run[axis] for axis in order if axis in of_the_run])
    return properties, operands


def _copy(source: SSAValue, axes: Sequence[int]) -> SSAValue:
    """A copy whose axes are the given ones of `source`."""
    site, rank = _behind(source), len(axes)
    empty = site.empty([shape_of(source)[a] for a in axes], element_of(source))
    maps = [structured.dims_map(rank, [axes.index(a) for a in range(rank)]), structured.identity(rank)]
    return site.generic([source], [empty], maps, lambda _, args: [args[0]])[0]


def _behind(value: SSAValue) -> Site:
    """Where what is made of a value goes: right behind it."""
    owner = value.owner
    anchor = owner.first_op if isinstance(owner, Block) else owner.next_op
    assert anchor is not None
    return Site(anchor.location if isinstance(owner, Block) else owner.location, anchor)


def _at(op: Operation) -> Site:
    """Where what takes an op's place goes: before it."""
    return Site(op.location, op)
