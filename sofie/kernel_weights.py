"""The weights that kernels are given, and how they come to lie another way (level 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from xdsl.dialects import func
from xdsl.dialects.builtin import FunctionType, MemRefType, ModuleOp
from xdsl.ir import BlockArgument
from xdsl.rewriter import Rewriter

from sofie.dialects.sofie import WeightOp
from sofie.rewrite import replace
from sofie.weights import Array, Blob


def calls_of(module: ModuleOp) -> Mapping[str, Sequence[func.CallOp]]:
    """The calls of each kernel, by its name."""
    calls: dict[str, list[func.CallOp]] = {}
    for call in [o for o in module.walk() if isinstance(o, func.CallOp)]:
        calls.setdefault(call.callee.string_value(), []).append(call)
    return calls


def given_weights(argument: BlockArgument, calls: Sequence[func.CallOp]) -> list[WeightOp]:
    """The weights that the calls of a kernel give it for an argument, each once; none where not all are weights."""
    owners = list(dict.fromkeys(call.operands[argument.index].owner for call in calls))
    found = [owner for owner in owners if isinstance(owner, WeightOp)]
    return found if len(found) == len(owners) else []


def own_weights(argument: BlockArgument, calls: Sequence[func.CallOp]) -> list[WeightOp]:
    """The same; none where anybody else reads them, or another argument is one of them."""
    found = given_weights(argument, calls)
    uses = [use for weight in found for use in weight.result.uses]
    alone = all(use.operation in calls and use.index == argument.index for use in uses)
    return found if alone else []


def lay_out(
    kernel: func.FuncOp, argument: BlockArgument, weights: Sequence[WeightOp], change: Callable[[Array], Array]
) -> None:
    """Changes weights, and the type of the argument that they are given for; how that is read is the caller's."""
    kind = argument.type
    assert isinstance(kind, MemRefType)
    for weight in weights:
        array = np.ascontiguousarray(change(weight.blob.value))
        turned = MemRefType(kind.element_type, array.shape)
        new = WeightOp(weight.weight_name.data, Blob.of(array), turned)
        replace(weight, [new], [new.result])
        if argument.type != turned:
            Rewriter.replace_value_with_new_type(argument, turned)
            argument = kernel.body.block.args[argument.index]
    kernel.properties["function_type"] = FunctionType.from_lists([a.type for a in kernel.body.block.args], [])
