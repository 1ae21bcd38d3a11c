"""Which loops the members of a group can share, so that values between them need no more memory than one tile.

Two accesses of the same value connect the loops that walk its axes. A set of connected loops can be shared when every
member has exactly one of them, none of them reduces, and all have the same extent: then an iteration of the shared
loop produces just what the same iteration consumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects.linalg.ops import GenericOp
from xdsl.ir import SSAValue

from sofie import structured
from sofie.dialects.types import shape_of

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
        value = value.owner.outputs[value.owner.results.index(value)]  # type: ignore[arg-type]
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

    accesses: dict[SSAValue, list[tuple[int, list[int | None] | None, tuple[int, ...], bool]]] = {}
    for m, member in enumerate(members):
        values = [*member.inputs, *member.outputs]
        for k, (value, map) in enumerate(zip(values, structured.maps_of(member), strict=True)):
            entry = (m, structured.dims_of(map), shape_of(value), k >= len(member.inputs))
            accesses.setdefault(storage(value), []).append(entry)
            if entry[1] is None:
                for d in {d for expr in map.results for d in expr.used_dims()}:
                    find((m, d))
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


def _connect(entries, parent, broken, find) -> None:  # type: ignore[no-untyped-def]
    """Unites the loops that walk the same axis of one value; marks those whose axis someone walks differently."""
    rank = len(entries[0][2])
    for axis in range(rank):
        loops: list[Loop] = []
        clean = True
        for m, dims, shape, _ in entries:
            dim = dims[axis] if dims is not None and len(dims) == rank else None
            if dim is not None:
                loops.append((m, dim))
            elif dims is None or shape[axis] != 1:
                clean = False
        for loop in loops[1:]:
            parent[find(loop)] = find(loops[0])
        if not clean:
            broken.update(find(loop) for loop in loops)
