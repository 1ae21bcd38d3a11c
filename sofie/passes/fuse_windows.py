"""fuse-windows: a convolution and the window operator behind it go together, a panel of channels at a time (level 2).

    %t = fused { convolution(%x, %w), clip } : 56x56x144       for %p = 0 to 9 iter_args(%y, %b) {
    %b = insert %t into zeros[58x58x144]                         %t = fused { convolution(%x, %w[%p]), clip }
    %y = fused { depthwise convolution(%b, ..), clip }     ->    %b' = insert %t : 56x56x16 into %b
                                                                 %z = fused { depthwise convolution(%b', ..), clip }
                                                                 %y' = insert %z into %y[%p, ..]
                                                               }

Depthwise convolution and pooling need of their input just the channels that they produce. So what is between the two
never leaves the second cache, and its zeros around are written once. Constants are re-laid panel by panel, and so is
the result where only a contraction reads it: panel after panel in memory, the sum over channels in two loops. Sums see
the same terms in the same order. mobilenetv2: 6.39 -> 6.23 ms (Zen 4).

Declines where all channels together are smaller than `min_bytes` (they stay in the cache anyway), where one panel is
larger than `max_panel_bytes`, where there is no whole number of panels, and where anyone else reads what is between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import IndexType, ModuleOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr
from xdsl.passes import ModulePass

from sofie import extents, structured
from sofie.dialects.sofie import FusedOp, WeightOp
from sofie.dialects.types import bytes_of, element_of, shape_of
from sofie.grouping import fuse, shared_loops
from sofie.passes.pack_words import terms_of
from sofie.rewrite import erase, fused_location, replace_results, users
from sofie.site import Offset, Site
from sofie.sizes import is_static


@dataclass(frozen=True)
class FuseWindows(ModulePass):
    """Joins them by panels of `channels`; bytes are of what is between the two."""

    name: ClassVar[str] = "fuse-windows"

    channels: int = 16
    min_bytes: int = 524288
    max_panel_bytes: int = 1048576

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for group in [o for o in op.walk() if isinstance(o, FusedOp | GenericOp)]:
            if group.parent is not None and not isinstance(group.parent_op(), FusedOp | GenericOp):
                pair = _pair(group)
                if pair is not None and self._pays(pair):
                    _rewrite(pair, self.channels)

    def _pays(self, pair: Pair) -> bool:
        """Whether what is between is too large for the cache and a panel of it is not."""
        between = pair.between
        shape = shape_of(between)
        if not is_static(shape) or pair.channels % self.channels or pair.channels < 2 * self.channels:
            return False
        whole = math.prod(shape) * bytes_of(element_of(between))
        return whole > self.min_bytes and whole // pair.channels * self.channels <= self.max_panel_bytes


@dataclass(frozen=True)
class Part:
    """An op or a group that yields one value, and the loop of each member that runs over that value's channels."""

    op: FusedOp | GenericOp
    members: Sequence[GenericOp]
    loops: Sequence[int]

    @property
    def result(self) -> SSAValue:
        return self.op.results[0]


@dataclass(frozen=True)
class Pair:
    """A producer, the padding behind it (None: none), and the window operator that reads `between`."""

    producer: Part
    padding: tensor.InsertSliceOp | None
    window: Part
    between: SSAValue
    axis: int
    """The channels of `between` and, if padded, of what is put into it."""

    @property
    def channels(self) -> int:
        return shape_of(self.between)[self.axis]


def _pair(op: FusedOp | GenericOp) -> Pair | None:
    """The pair whose second part `op` is."""
    members = _members(op)
    reducing = [m for m in members if structured.reductions(m)]
    if len(op.results) != 1 or len(reducing) != 1:
        return None
    (window,) = reducing
    for value, map in zip(window.inputs, structured.maps_of(window), strict=False):
        padding = value.owner if isinstance(value.owner, tensor.InsertSliceOp) else None
        made = value if padding is None else padding.source
        producer = made.owner
        if not isinstance(producer, FusedOp | GenericOp) or not _only_read_by(value, op):
            continue
        if padding is not None and (users(made) != [padding] or not _pads(padding)):
            continue
        if not map.results:
            continue
        axis = len(map.results) - 1  # channels are last, or there are no panels of memory
        expr = map.results[axis]
        if not isinstance(expr, AffineDimExpr) or expr.position in structured.reductions(window):
            continue
        second, first = _part(op, window, expr.position), _part(producer, *_maker(producer, axis))
        if first is None or second is None or not _contracts(first) or not _slides(map.results, window):
            continue
        if any(terms_of(m) for m in first.members):
            continue
        whole = padding is None or shape_of(made)[axis] == shape_of(value)[axis]
        if whole and producer.parent_block() is op.parent_block():
            return Pair(first, padding, second, value, axis)
    return None


def _members(op: FusedOp | GenericOp) -> list[GenericOp]:
    return [op] if isinstance(op, GenericOp) else [m for m in op.members() if isinstance(m, GenericOp)]


def _only_read_by(value: SSAValue, op: FusedOp | GenericOp) -> bool:
    """Whether all that reads a value is `op` or stands in it."""
    return all(user is op or user.parent_op() is op for user in users(value))


def _pads(insert: tensor.InsertSliceOp) -> bool:
    """Whether it puts a value into a constant, at a place known now."""
    offsets = extents.entries(insert.static_offsets.get_values(), insert.offsets)
    still = all(isinstance(offset, int) for offset in offsets) and set(insert.static_strides.get_values()) == {1}
    return still and structured.fill_of(insert.dest) is not None and users(insert.dest) == [insert]


def _slides(read: Sequence[AffineExpr], window: GenericOp) -> bool:
    """Whether the window walks over the value: some axis moves with a loop that reduces."""
    reduce = set(structured.reductions(window))
    return any(expr.used_dims() & reduce for expr in read)


def _contracts(part: Part) -> bool:
    """Whether a part is a sum of products, for which reading its input once a panel is cheap."""
    sums = [m for m in part.members if structured.reductions(m)]
    return len(sums) == 1 and sum(bool(a.uses) for a in sums[0].body.block.args[: len(sums[0].inputs)]) == 2


def _made(op: FusedOp | GenericOp) -> SSAValue:
    """The one result of `op` where its member yields it."""
    return op.results[0] if isinstance(op, GenericOp) else op.yielded()[0]


def _maker(op: FusedOp | GenericOp, axis: int) -> tuple[GenericOp | None, int]:
    """The member that yields the one result of `op`, and its loop over an axis of that."""
    if len(op.results) != 1:
        return None, 0
    value = _made(op)
    member = value.owner
    if not isinstance(member, GenericOp):
        return None, 0
    expr = structured.output_maps(member)[member.results.index(value)].results[axis]
    return (member, expr.position) if isinstance(expr, AffineDimExpr) else (None, 0)


def _part(op: FusedOp | GenericOp, member: GenericOp | None, loop: int) -> Part | None:
    """`op` with the loops that run together with that of a member; None where that loop is not one of each.

    All operands have to be walked plainly along it, and the result has to have it as an axis.
    """
    members = _members(op)
    if member is None or any(len(m.results) != 1 for m in members):
        return None
    at = members.index(member)
    loops = next((s.loops for s in shared_loops(members) if s.loops[at] == loop), None)
    if loops is None:
        return None
    for one, own in zip(members, loops, strict=True):
        exprs = [expr for map in structured.maps_of(one) for expr in map.results]
        if any(own in expr.used_dims() and expr != AffineDimExpr(own) for expr in exprs):
            return None
        if any(isinstance(inner, linalg.IndexOp) or inner.regions for inner in structured.body_ops(one)):
            return None
        if not any(AffineDimExpr(own) in map.results for map in structured.output_maps(one)):
            return None
    return Part(op, members, loops)


def _rewrite(pair: Pair, width: int) -> None:
    """The loop over panels in the place of both."""
    op = pair.window.op
    site = Site(fused_location([pair.producer.op.location, op.location]), op)
    result, axis = pair.window.result, _axis(pair.window)
    reader = _reader(result, axis)
    shape = list(shape_of(result))
    whole = [pair.channels // width, *_narrow(shape, [axis], width)] if reader else shape
    carried = [site.empty(whole, element_of(result))]
    carried[0].name_hint = result.name_hint
    if pair.padding is not None:
        constant = structured.fill_of(pair.padding.dest)
        assert constant is not None
        padded = _narrow(shape_of(pair.between), [pair.axis], width)
        carried.append(site.fill(constant.clone(), padded, element_of(pair.between)))
        carried[1].name_hint = pair.between.name_hint
    body = Block(arg_types=[IndexType(), *(value.type for value in carried)])
    for argument, name in zip(body.args, ("panel", *(value.name_hint for value in carried)), strict=True):
        argument.name_hint = name
    inner = site.inside(body)
    panel = body.args[0]
    first = inner.insert(arith.MuliOp(panel, inner.insert(extents.constant(width))))
    one = _Restricted(site, inner, width, panel, first, {})
    made = one.run(pair.producer)
    if pair.padding is not None:
        made = inner.put(made, body.args[2], list(pair.padding.static_offsets.get_values()))
    two = _Restricted(site, inner, width, panel, first, {pair.between: made})
    part = two.run(pair.window)
    offsets: list[Offset] = [first if a == axis else 0 for a in range(len(shape))]
    if reader:
        part, offsets = inner.reshape(part, [1, *shape_of(part)]), [panel, *([0] * len(shape))]
    inner.add(scf.YieldOp(inner.put(part, body.args[1], offsets), *([made] if pair.padding else [])))
    one.group()
    two.group()
    low, high, step = (site.insert(extents.constant(k)) for k in (0, pair.channels // width, 1))
    loop = site.insert(scf.ForOp(low, high, step, carried, body))
    if reader:
        _read_panels(reader, result, axis, loop)
        erase(op)
    else:
        replace_results(op, [loop])
    block = pair.producer.op.parent_block()
    assert block is not None
    for dead in (pair.padding, pair.producer.op):
        if dead is not None:
            erase(dead)
    structured.erase_unread(block)


def _axis(part: Part) -> int:
    """The axis of the result that runs over channels."""
    member = _made(part.op).owner
    assert isinstance(member, GenericOp)
    loop = part.loops[list(part.members).index(member)]
    return structured.output_maps(member)[0].results.index(AffineDimExpr(loop))


def _reader(value: SSAValue, axis: int) -> GenericOp | None:
    """The one op that reads a value, if it is a contraction over `axis` whose other operands over it are constants."""
    readers = users(value)
    reader = readers[0] if len(readers) == 1 else None
    if not isinstance(reader, GenericOp):
        return None
    maps = dict(zip([*reader.inputs, *reader.outputs], structured.maps_of(reader), strict=True))
    loop = maps[value].results[axis]
    if not isinstance(loop, AffineDimExpr) or loop.position not in structured.reductions(reader):
        return None
    if any(isinstance(inner, linalg.IndexOp) or inner.regions for inner in structured.body_ops(reader)):
        return None
    for operand, map in maps.items():
        using = [expr for expr in map.results if loop.position in expr.used_dims()]
        if using and (using != [loop] or (operand is not value and not isinstance(operand.owner, WeightOp))):
            return None
    return reader


def _read_panels(reader: GenericOp, value: SSAValue, axis: int, panels: SSAValue) -> None:
    """Lets a contraction read `panels` (panels, ..) for a value with channels along `axis`: its loop becomes two."""
    maps = structured.maps_of(reader)
    operands = [*reader.inputs, *reader.outputs]
    width = shape_of(panels)[axis + 1]
    loop = maps[operands.index(value)].results[axis]
    assert isinstance(loop, AffineDimExpr)
    rank, at = maps[0].num_dims + 1, loop.position
    outer, inner = AffineExpr.dimension(at), AffineExpr.dimension(at + 1)
    moved = [AffineExpr.dimension(d if d < at else d + 1) for d in range(rank - 1)]
    group = reader.parent_op()
    outside = Site(reader.location, group if isinstance(group, FusedOp) else reader)
    for k, (operand, map) in enumerate(zip(operands, maps, strict=True)):
        exprs = list(map.replace_dims_and_symbols(moved, [], rank, 0).results)
        if loop in map.results:
            a = map.results.index(loop)
            if operand is value:
                operands[k], exprs = panels, [outer, *exprs[:a], inner, *exprs[a + 1 :]]
            else:
                assert isinstance(operand.owner, WeightOp)
                operands[k] = outside.insert(_split(operand.owner, a, width))
                exprs = [*exprs[:a], outer, inner, *exprs[a + 1 :]]
        maps[k] = structured.dims_map(rank, exprs)
    reduce = [d if d < at else d + 1 for d in structured.reductions(reader)]
    count = len(reader.inputs)
    copy = structured.generic(operands[:count], operands[count:], maps, lambda b, _: [], [*reduce, at])
    copy.body.detach_block(copy.body.block)
    copy.body.add_block(reader.body.detach_block(0))
    Site(reader.location, reader).add(copy)
    replace_results(reader, copy.results)


def _split(weight: WeightOp, axis: int, width: int) -> WeightOp:
    """A constant with one axis as two, the second `width` long."""
    array = weight.blob.value
    shape = [*array.shape[:axis], array.shape[axis] // width, width, *array.shape[axis + 1 :]]
    new = WeightOp.of(weight.weight_name.data, array.reshape(shape), element_of(weight.result))
    new.result.name_hint = weight.result.name_hint
    return new


def _narrow(shape: Sequence[int], axes: Sequence[int], width: int) -> list[int]:
    return [width if axis in axes else extent for axis, extent in enumerate(shape)]


@dataclass
class _Restricted:
    """Copies a part for one panel of channels into the body of the loop."""

    outside: Site
    inside: Site
    width: int
    panel: SSAValue
    first: SSAValue
    """The first channel of the panel."""
    known: dict[SSAValue, SSAValue]
    """What stands for a value in the panel."""
    members: list[GenericOp] = field(default_factory=list)

    def run(self, part: Part) -> SSAValue:
        """The part's result for the panel."""
        for member, loop in zip(part.members, part.loops, strict=True):
            operands, maps = [], []
            for value, map in zip([*member.inputs, *member.outputs], structured.maps_of(member), strict=True):
                axes = [a for a, expr in enumerate(map.results) if expr == AffineDimExpr(loop)]
                operand, order = self._operand(value, axes, [e.used_dims() for e in map.results])
                operands.append(operand)
                exprs = [None if a is None else map.results[a] for a in order]
                maps.append(structured.dims_map(map.num_dims, exprs))
            inputs = len(member.inputs)
            copy = structured.generic(
                operands[:inputs], operands[inputs:], maps, lambda b, _: [], structured.reductions(member)
            )
            copy.body.detach_block(copy.body.block)
            copy.body.add_block(member.body.clone().detach_block(0))
            self.inside.add(copy)
            copy.location = member.location
            copy.results[0].name_hint = member.results[0].name_hint
            self.known[member.results[0]] = copy.results[0]
            self.members.append(copy)
        return self.known[part.members[-1].results[0]]

    def group(self) -> None:
        """Makes the copies one group again, once all that reads them is there."""
        if len(self.members) > 1:
            fuse(self.members)

    def _operand(
        self, value: SSAValue, axes: Sequence[int], loops: Sequence[set[int]]
    ) -> tuple[SSAValue, list[int | None]]:
        """The panel's part of an operand with channels along `axes`, and its axes in terms of the operand's."""
        plain: list[int | None] = list(range(len(shape_of(value))))
        if value in self.known:
            return self.known[value], plain
        if not axes:
            return value, plain
        shape = _narrow(shape_of(value), axes, self.width)
        if isinstance(value.owner, tensor.EmptyOp):
            return self.inside.empty(shape, element_of(value)), plain
        if isinstance(value.owner, WeightOp) and len(shape) > 1 and len(axes) == 1:
            return self._packed(value.owner, axes[0], loops)
        offsets: list[Offset] = [self.first if axis in axes else 0 for axis in range(len(shape))]
        return self.inside.slice(value, offsets, shape), plain

    def _packed(self, weight: WeightOp, axis: int, loops: Sequence[set[int]]) -> tuple[SSAValue, list[int | None]]:
        """A constant as (panels, other axes in the order of their loops, channels of a panel), sliced."""
        others = sorted((a for a in range(len(loops)) if a != axis), key=lambda a: max(loops[a], default=-1))
        moved = weight.blob.value.transpose([*others, axis])
        apart = moved.reshape(*moved.shape[:-1], -1, self.width)
        array = np.ascontiguousarray(np.moveaxis(apart, -2, 0))
        packed = self.outside.insert(WeightOp.of(weight.weight_name.data, array, element_of(weight.result)))
        packed.name_hint = weight.result.name_hint
        offsets: list[Offset] = [self.panel, *([0] * (array.ndim - 1))]
        return self.inside.slice(packed, offsets, [1, *array.shape[1:]]), [None, *others, axis]
