"""Reshapes as views: the collapses and expansions that turn one shape into another (level 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xdsl.dialects import tensor
from xdsl.dialects.builtin import ArrayAttr, IntegerAttr, i64
from xdsl.ir import Operation, SSAValue

from sofie import extents, sizes
from sofie.dialects.types import element_of, shape_of
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import UnsupportedError

Step = tuple[str, tuple[int, ...], list[list[int]]]
"""("collapse" or "expand", resulting shape, reassociation)."""


def reshape_steps(old: Sequence[int], new: Sequence[int]) -> list[Step]:
    """The views that turn shape `old` into `new`: collapse, then expand, as needed.

    Both have rank 1 at least and equal, nonzero element counts. Raises UnsupportedError where run-time sizes hide how
    their axes correspond.
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = ([i], [j]) if i < len(old) and j < len(new) else ([], [])
        if not a:  # trailing extents of 1 join the last group
            groups[-1][0].extend(range(i, len(old)))
            groups[-1][1].extend(range(j, len(new)))
            break
        size_a, size_b = old[i], new[j]
        i, j = i + 1, j + 1
        while size_a != size_b:
            shorter_old = sizes.most(size_a) < sizes.most(size_b)
            if (i if shorter_old else j) == len(old if shorter_old else new):
                raise UnsupportedError(f"a reshape of {listed(old)} to {listed(new)} needs sizes that are numbers")
            if shorter_old:
                size_a *= old[i]
                a.append(i)
                i += 1
            else:
                size_b *= new[j]
                b.append(j)
                j += 1
        groups.append((a, b))
    middle = tuple(math.prod(old[k] for k in a) for a, _ in groups)
    steps: list[Step] = []
    if middle != tuple(old):
        steps.append(("collapse", middle, [a for a, _ in groups]))
    if middle != tuple(new):
        steps.append(("expand", tuple(new), [b for _, b in groups]))
    return steps


def listed(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def reshaped(value: SSAValue, shape: Sequence[int], before: Operation) -> SSAValue:
    """The same elements under another shape, as views that stand just before an op."""
    block = before.parent_block()
    assert block is not None
    for step in reshape_steps(shape_of(value), shape):
        op = reshape_op(value, step, before)
        block.insert_op_before(op, before)
        value = op.results[0]
    return value


def reassociation(groups: Sequence[Sequence[int]]) -> ArrayAttr[ArrayAttr[IntegerAttr]]:
    """The attribute of `collapse_shape` and `expand_shape`."""
    return ArrayAttr([ArrayAttr([IntegerAttr(d, i64) for d in group]) for group in groups])


def reshape_op(x: SSAValue, step: Step, before: Operation) -> Operation:
    """One `tensor.collapse_shape` or `tensor.expand_shape`; what it needs of sizes is computed just before an op."""
    kind, shape, groups = step
    result = tensor_type(element_of(x), shape)
    if kind == "expand":
        dynamic = extents.values(shape, before)
        return tensor.ExpandShapeOp(x, dynamic, reassociation(groups), list(result.get_shape()), result)
    return tensor.CollapseShapeOp.build(
        operands=[x], result_types=[result], properties={"reassociation": reassociation(groups)}
    )
