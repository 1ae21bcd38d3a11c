"""Rewriting that keeps what a reader needs: locations (which ONNX node an op came from) and name hints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from xdsl.dialects.builtin import ArrayAttr, FusedLoc, LocationAttr, NameLoc, NoneAttr, StringAttr, UnknownLoc
from xdsl.ir import Attribute, Operation, SSAValue


def node_names(location: Attribute) -> list[str]:
    """The ONNX nodes ("Conv stem") that a location names, each once, in order."""
    if isinstance(location, NameLoc):
        return [location.desc.data]
    if isinstance(location, FusedLoc):
        names = [name for part in cast(ArrayAttr[Attribute], location.locations) for name in node_names(part)]
        return list(dict.fromkeys(names))
    return []


def fused_location(locations: Iterable[LocationAttr]) -> LocationAttr:
    """The location of an op that stands for several: all their nodes, in order."""
    names = list(dict.fromkeys(name for location in locations for name in node_names(location)))
    parts: list[LocationAttr] = [NameLoc(StringAttr(name), UnknownLoc()) for name in names]
    if not parts:
        return UnknownLoc()
    return parts[0] if len(parts) == 1 else FusedLoc(ArrayAttr(parts), NoneAttr())


def blame(op: Operation) -> str:
    """How an error names an op: its ONNX node where that is known, else the op's own name."""
    names = node_names(op.location)
    return f"node {names[0].split(' ', 1)[-1]!r} ({names[0].split(' ', 1)[0]})" if names else f"operation {op.name}"


def replace(op: Operation, new_ops: Sequence[Operation], values: Sequence[SSAValue]) -> None:
    """Puts `new_ops` in the place of `op` and `values` in that of its results; keeps location and name hints."""
    block = op.parent_block()
    assert block is not None
    for new in new_ops:
        if isinstance(new.location, UnknownLoc):
            new.location = op.location
    block.insert_ops_before(new_ops, op)
    replace_results(op, values)


def replace_results(op: Operation, values: Sequence[SSAValue]) -> None:
    """Redirects the uses of `op` to `values`, hands over its name hints, and erases it."""
    for old, new in zip(op.results, values, strict=True):
        if old.name_hint and (not new.name_hint or new.owner is not op.parent_block()):
            if isinstance(new.owner, Operation):
                new.name_hint = old.name_hint
        old.replace_all_uses_with(new)
    erase(op)


def erase(op: Operation) -> None:
    """Takes an op whose results nobody uses out of its block, for good."""
    op.detach()
    op.erase()


def users(value: SSAValue) -> list[Operation]:
    """The ops that use `value`, each once, in no particular order."""
    return list(dict.fromkeys(use.operation for use in value.uses))


def ancestor_in(block_op: Operation, op: Operation) -> Operation:
    """The op of `block_op`'s block that is `op` or contains it."""
    current = op
    while current.parent_block() is not block_op.parent_block():
        parent = current.parent_op()
        assert parent is not None
        current = parent
    return current


def positions(ops: Iterable[Operation]) -> dict[Operation, int]:
    """Each op's place in the given order."""
    return {op: index for index, op in enumerate(ops)}


def defining(value: SSAValue) -> Operation | None:
    """The op that makes `value`; None for a block argument."""
    return value.owner if isinstance(value.owner, Operation) else None
