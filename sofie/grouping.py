"""Which loops the members of a group can share, so that values between them need no more memory than one tile.

Two accesses of the same value connect the loops that walk its axes. A set of connected loops can be shared when every
member has exactly one of them, none of them reduces, and all have the same extent: then an iteration of the shared
loop produces just what the same iteration consumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xdsl.dialects import tensor
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import Block, SSAValue
from xdsl.ir.affine import AffineMap

from sofie import structured
from sofie.dialects.sofie import FusedOp, YieldOp
from sofie.dialects.types import bytes_of, element_of, shape_of
from sofie.rewrite import ancestor_in, fused_location, positions, users
from sofie.sizes import most

Loop = tuple[int, int]
"""(member, its loop)."""


@dataclass(frozen=True)
class SharedLoop:
    """One loop that all members run together: its extent, and which loop of each member it is."""

    extent: int
    loops: tuple[int, ...]


def storage(value: SSAValue) -> SSAValue:
    """What identifies the storage of a value inside a group: the destination at the end of its chain of ops."""
    while isinstance(value.owner, GenericOp) and structured.is_tensor(value):
        value = value.owner.outputs[value.owner.results.index(value)]
    return value


def anchor_of(members: Sequence[GenericOp]) -> int:
    """The member that a group is tiled by: its first reduction with the most loops, else the widest member."""
    return max(
        range(len(members)),
        key=lambda m: (bool(structured.reductions(members[m])), len(members[m].iterator_types), -m),
    )


def shared_loops(members: Sequence[GenericOp]) -> list[SharedLoop]:
    """The loops the members can share, in the order of the anchor's loops; of a single member, its parallel loops."""
    parent: dict[Loop, Loop] = {}
    broken: set[Loop] = set()

    def find(loop: Loop) -> Loop:
        while parent.setdefault(loop, loop) != loop:
            loop = parent[loop]
        return loop

    accesses: dict[SSAValue, list[Access]] = {}
    for m, member in enumerate(members):
        values = [*member.inputs, *member.outputs]
        for k, (value, map) in enumerate(zip(values, structured.maps_of(member), strict=True)):
            entry = (m, _walks(map), shape_of(value), k >= len(member.inputs))
            accesses.setdefault(storage(value), []).append(entry)
    for entries in accesses.values():
        if len({m for m, *_ in entries}) < 2 or not any(writes for *_, writes in entries):
            continue
        _connect(entries, parent, broken, find)
    extents = [structured.extents(member) for member in members]
    reduce = [set(structured.reductions(member)) for member in members]
    classes: dict[Loop, list[Loop]] = {}
    for m, member in enumerate(members):
        for d in range(len(member.iterator_types)):
            classes.setdefault(find((m, d)), []).append((m, d))
    torn = {find(loop) for loop in broken}
    anchor = anchor_of(members)
    shared = []
    for top, loops in classes.items():
        one_each = sorted(m for m, _ in loops) == list(range(len(members)))
        parallel = all(d not in reduce[m] for m, d in loops)
        same = len({extents[m][d] for m, d in loops}) == 1
        if one_each and parallel and same and top not in torn:
            by_member = dict(loops)
            dims = tuple(by_member[m] for m in range(len(members)))
            shared.append(SharedLoop(extents[anchor][dims[anchor]], dims))
    return sorted(shared, key=lambda s: s.loops[anchor])


Access = tuple[int, list[int | None], tuple[int, ...], bool]
"""(member, loop behind each axis, shape of the value, whether it writes)."""

OTHERWISE = -1
"""An axis that is walked by anything but one loop of its own."""


def _walks(map: AffineMap) -> list[int | None]:
    """The loop behind each axis of a map, None for the constant 0."""
    axes = [structured.dims_of(AffineMap(map.num_dims, 0, (expr,))) for expr in map.results]
    found = [OTHERWISE if dims is None else dims[0] for dims in axes]
    return [OTHERWISE if dim is not None and found.count(dim) > 1 else dim for dim in found]


def _connect(entries: list[Access], parent: dict[Loop, Loop], broken: set[Loop], find: Callable[[Loop], Loop]) -> None:
    """Unites the loops that walk the same axis of one value; marks those whose axis someone walks differently."""
    rank = len(entries[0][2])
    for axis in range(rank):
        loops: list[Loop] = []
        clean = True
        for m, dims, shape, _ in entries:
            dim = dims[axis] if len(dims) == rank else OTHERWISE
            if dim is not None and dim != OTHERWISE:
                loops.append((m, dim))
            elif dim == OTHERWISE or shape[axis] != 1:
                clean = False
        for loop in loops[1:]:
            parent[find(loop)] = find(loops[0])
        if not clean:
            broken.update(find(loop) for loop in loops)


def tile_bytes(members: Sequence[GenericOp], yielded: Sequence[SSAValue] = ()) -> int:
    """Bytes of the values inside a group of level 2 that one iteration of its shared loops holds in memory."""
    shared = shared_loops(members)
    total = 0
    for m, member in enumerate(members):
        fixed = {s.loops[m] for s in shared}
        for result, map in zip(member.results, structured.output_maps(member), strict=True):
            dims = structured.dims_of(map) or []
            kept = [e for d, e in zip(dims, shape_of(result), strict=True) if d not in fixed]
            inside = all(user in members for user in users(result)) and result not in yielded
            elements = math.prod(most(e) for e in kept)
            if inside and elements > 1:
                total += elements * bytes_of(element_of(result))
    return total


def with_start(seed: GenericOp) -> list[GenericOp]:
    """The op and, before it, the fill or broadcast that starts its sums, where nobody else reads that."""
    starts = [
        v.owner
        for v in seed.outputs
        if isinstance(v.owner, GenericOp)
        and structured.is_parallel(v.owner)
        and users(v) == [seed]
        and v.owner.parent_block() is seed.parent_block()
    ]
    return [*starts, seed]


def next_reader(members: Sequence[GenericOp]) -> GenericOp | None:
    """The first op that reads a result of the group and could join it: all else it reads is made without the group.

    None where there is none, or where an op outside the group needs a result before that reader.
    """
    order = positions(members[-1].parent_block().ops)  # type: ignore[union-attr]
    readers = {ancestor_in(members[0], user) for m in members for r in m.results for user in users(r)}
    outside = sorted((r for r in readers if r not in members), key=lambda r: order[r])
    if not outside or not isinstance(outside[0], GenericOp):
        return None
    first = outside[0]
    if any(first.is_ancestor(user) and user is not first for m in members for r in m.results for user in users(r)):
        return None  # it gathers: any iteration may read any element
    made: set[SSAValue] = {r for m in members for r in m.results}
    between = [op for op in list(order) if order[members[-1]] < order[op] < order[first]]
    for op in between:  # whatever depends on the group would have to move behind it
        if any(v in made for v in op.operands):
            return None
    return first if not any(v in made for v in first.outputs) or _starts_there(first, made) else None


def _starts_there(op: GenericOp, made: set[SSAValue]) -> bool:
    return all(users(v) == [op] for v in op.outputs if v in made)


def fuse(members: Sequence[GenericOp]) -> FusedOp:
    """Puts the members, in order, into one `sofie.fused` where the last of them stands; outside readers get results."""
    last = members[-1]
    block = last.parent_block()
    assert block is not None
    escaping = [r for m in members for r in m.results if any(u not in members for u in users(r))]
    group = FusedOp(Block(), [r.type for r in escaping])
    block.insert_op_before(group, last)
    group.location = fused_location([m.location for m in members])
    body = group.body.block
    for member in members:
        for value in member.outputs:  # destinations that stay inside live inside
            empty = value.owner
            if isinstance(empty, tensor.EmptyOp) and not any(r in escaping for r in member.results):
                if users(value) == [member] and not _leads_out(member, members, escaping):
                    empty.detach()
                    body.add_op(empty)
        member.detach()
        body.add_op(member)
    body.add_op(YieldOp(*escaping))
    for inside, outside in zip(escaping, group.res, strict=True):
        outside.name_hint = inside.name_hint
        inside.replace_uses_with_if(outside, lambda use: use.operation.parent_block() is not body)
    return group


def _leads_out(member: GenericOp, members: Sequence[GenericOp], escaping: Sequence[SSAValue]) -> bool:
    """Whether the destination of `member` is, through later members that update it, the home of a yielded value."""
    for result in member.results:
        for user in users(result):
            if isinstance(user, GenericOp) and user in members and result in user.outputs:
                if any(r in escaping for r in user.results) or _leads_out(user, members, escaping):
                    return True
    return False
