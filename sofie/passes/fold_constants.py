"""fold-constants: an operator whose operands are all weights is computed when compiling (level 1).

    %s = sofie.weight ... ; %r = onnx.Sqrt(%s)     ->     %r = sofie.weight ...

The value is that of `onnx.reference`. Declines where the result would be much larger than what it is made from
(`max_growth` times, beyond 64 KiB: an Expand is cheaper to do than to store, a ConstantOfShape always), unless it is
weights that no pass before reads as the integers they are: floats can be laid out. Declines for random operators, and
for factors in float16 and bfloat16 (fuse-decode). An If whose condition is a weight becomes the nodes of its branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, ModuleOp
from xdsl.passes import ModulePass

from sofie.dialects.fixed import FixedType
from sofie.dialects.onnx import DOMAINS, OnnxOp
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_of
from sofie.errors import SofieError
from sofie.reference import NONDETERMINISTIC, evaluate_node
from sofie.rewrite import replace, replace_results

SMALL_BYTES = 65536


@dataclass(frozen=True)
class FoldConstants(ModulePass):
    """Folds in program order, so that chains fold in one walk."""

    name: ClassVar[str] = "fold-constants"

    max_growth: int = 2

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for node in [o for o in op.walk() if isinstance(o, OnnxOp)]:
            self._fold(node)

    def _fold(self, node: OnnxOp) -> None:
        operands = node.inputs
        if node.regions:
            _take_branch(node)
            return
        owners = [v.owner if v is not None else None for v in operands]
        if (
            not operands
            or node.operator in NONDETERMINISTIC | {"ConstantOfShape"}
            or any(o is not None and not isinstance(o, WeightOp) for o in owners)
            or any(isinstance(element_of(v), FixedType) for v in (*node.operands, *node.results))
            or _is_kept(node)
        ):
            return
        arrays = [o.blob.value if isinstance(o, WeightOp) else None for o in owners]
        try:
            results = evaluate_node(node.node(), arrays, DOMAINS)
        except SofieError:
            return  # the reference cannot: the operator is lowered like any other
        before = sum(a.nbytes for a in arrays if a is not None)
        large = sum(r.nbytes for r in results) > max(SMALL_BYTES, self.max_growth * before)
        if large and node.operator != "DequantizeLinear":
            return
        if any(r.shape != tuple(v.type.get_shape()) for r, v in zip(results, node.results, strict=True)):  # type: ignore[attr-defined]
            return
        new = [
            WeightOp.of(v.name_hint or "folded", np.asarray(r), element_of(v))
            for r, v in zip(results, node.results, strict=True)
        ]
        replace(node, new, [w.result for w in new])


def _is_kept(node: OnnxOp) -> bool:
    """Whether fuse-decode will make floats of 16 bits wider where they are multiplied."""
    if node.operator != "Cast" or element_of(node.results[0]) != Float32Type() or node.inputs[0] is None:
        return False
    readers = list(node.results[0].uses)
    multiply = [isinstance(u.operation, OnnxOp) and u.operation.operator in ("MatMul", "Gemm") for u in readers]
    halves = isinstance(element_of(node.inputs[0]), Float16Type | BFloat16Type)
    return halves and bool(readers) and all(multiply) and all(u.index == 1 for u in readers)


def _take_branch(node: OnnxOp) -> None:
    """Puts what the branch holds in the place of an If whose condition is known."""
    condition = node.inputs[0]
    if node.operator != "If" or condition is None or not isinstance(condition.owner, WeightOp):
        return
    picked = "then_branch" if np.all(condition.owner.blob.value) else "else_branch"
    branch, block = node.graph(picked).block, node.parent_block()
    last = branch.last_op
    assert block is not None and last is not None
    results = list(last.operands)
    for op in list(branch.ops):
        if op is not last:
            op.detach()
            block.insert_op_before(op, node)
    replace_results(node, results)
