"""lower-onnx: every ONNX op becomes structured ops on tensors (level 1 -> level 2).

    %y = onnx.Relu(%x) : (tensor<4xf32>) -> tensor<4xf32>
    ->
    %e = tensor.empty() : tensor<4xf32>
    %y = linalg.generic {... iterator_types = ["parallel"]} ins(%x) outs(%e) { max(x, 0) } -> tensor<4xf32>

One file a family of operators, one function an operator, found through `@lowers`. An operator without a lowering is
an error that names its node. Integers lose their signedness here: it moves into the ops (`divui`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects import arith, func, tensor
from xdsl.dialects.builtin import FunctionType, ModuleOp, TensorType
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Attribute, Block, BlockArgument, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from sofie import extents, structured
from sofie.dialects.fixed import ConvertOp, FixedType
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.sofie import BlobAttr, ExtentsOp, WeightOp
from sofie.dialects.types import element_of, numpy_dtype, shape_of, stored
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import SofieError, UnsupportedError
from sofie.passes.lower_onnx.builder import Lowering
from sofie.rewrite import blame, erase, replace, replace_results
from sofie.weights import Blob

Rule = Callable[[OnnxOp, Lowering], SSAValue | Sequence[SSAValue]]

_RULES: dict[tuple[str, str], Rule] = {}
_LIMITS: dict[tuple[str, str], str] = {}
_FIXED: dict[str, Rule] = {}


def lowers(*operators: str, domain: str = "", limits: str = "") -> Callable[[Rule], Rule]:
    """Registers the decorated function `(op, build) -> result(s)` as the lowering of the operators named.

    `limits` says in a few words what it declines beyond element types; `sofie info` and docs/operators.md show it.
    """

    def register(rule: Rule) -> Rule:
        for operator in operators:
            _RULES[domain, operator] = rule
            _LIMITS[domain, operator] = limits
        return rule

    return register


def lowers_fixed(*operators: str) -> Callable[[Rule], Rule]:
    """Registers the decorated function as the lowering of the operators named where they have fixed-point operands."""

    def register(rule: Rule) -> Rule:
        _FIXED.update(dict.fromkeys(operators, rule))
        return rule

    return register


@cache
def _families() -> None:
    for family in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{family.name}")


def rules() -> dict[tuple[str, str], Rule]:
    """All lowerings by (domain, operator), with every family imported."""
    _families()
    return _RULES


def limits() -> dict[tuple[str, str], str]:
    """What the lowerings decline, by (domain, operator); "" where nothing."""
    _families()
    return _LIMITS


def fixed_rules() -> dict[str, Rule]:
    """The lowerings of operators on fixed-point numbers, by operator."""
    _families()
    return _FIXED


@dataclass(frozen=True)
class LowerOnnx(ModulePass):
    """Lowers all onnx ops, in order; leaves other ops alone, so it may run again."""

    name: ClassVar[str] = "lower-onnx"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in [f for f in op.walk() if isinstance(f, func.FuncOp)]:
            _lower_function(function)


def _lower_function(function: func.FuncOp) -> None:
    ops = [op for op in function.walk() if isinstance(op, OnnxOp | ConvertOp)]
    types = {
        op: ([None if v is None else element_of(v) for v in _operands(op)], [element_of(r) for r in op.results])
        for op in ops
    }
    for value in [
        *(a for o in function.walk() for r in o.regions for b in r.blocks for a in b.args),
        *(r for o in function.walk() if not isinstance(o, OnnxOp | ConvertOp) for r in o.results),
    ]:
        _drop_sign(value)
    for op in ops:
        operand_types, result_types = types[op]
        try:
            lowered = _lowered(op, operand_types, result_types)
        except SofieError as error:
            raise type(error)(f"{blame(op)}: {error}") from error
        values = [lowered] if isinstance(lowered, SSAValue) else list(lowered)
        for result, value in zip(op.results, values[: len(op.results)], strict=True):
            expected = tensor_type(stored(element_of(result)), shape_of(result))
            if value.type != expected:
                raise SofieError(
                    f"{blame(op)}: lowered to {value.type} where {expected} was inferred; report this model"
                )
        replace_results(op, values[: len(op.results)])
    for listed in [op for op in function.walk() if isinstance(op, ExtentsOp)]:
        if listed.result.uses:
            _lower_extents(listed)
        else:
            erase(listed)
    _update_type(function)


def _operands(op: OnnxOp | ConvertOp) -> Sequence[SSAValue | None]:
    return [op.value] if isinstance(op, ConvertOp) else op.inputs


def _lowered(
    op: OnnxOp | ConvertOp, operands: Sequence[Attribute | None], results: Sequence[Attribute]
) -> SSAValue | Sequence[SSAValue]:
    """What the rule of an op makes of it."""
    if isinstance(op, ConvertOp):
        from sofie.passes.lower_onnx.fixed import lower_convert

        assert operands[0] is not None
        return lower_convert(op, operands[0], results[0])
    on_fixed = any(isinstance(element, FixedType) for element in (*operands, *results))
    rule = fixed_rules().get(op.operator) if on_fixed else rules().get((op.SCHEMA.domain, op.operator))
    if rule is None and on_fixed:
        known = ", ".join(sorted(fixed_rules()))
        raise UnsupportedError(f"it has no meaning on fixed-point numbers, which {known} have; convert around it")
    if rule is None:
        raise UnsupportedError("no lowering for this operator yet; `sofie info` lists what is missing")
    return rule(op, Lowering(op, operands, results))


def _lower_extents(op: ExtentsOp) -> None:
    """A list of sizes that is read as a tensor: each element selects its size by its place."""
    element, shape, block = element_of(op.result), shape_of(op.result), op.parent_block()
    assert block is not None
    numbers: list[SSAValue] = []
    for extent in op.values:
        cast = arith.IndexCastOp(extents.value(extent, op), element)
        block.insert_op_before(cast, op)
        numbers.append(cast.result)

    def body(builder: Builder, _args: tuple[BlockArgument, ...]) -> list[SSAValue]:
        chosen = numbers[0]
        for place, number in enumerate(numbers[1:], 1):
            here = builder.insert(linalg.IndexOp(0)).result
            hit = builder.insert(arith.CmpiOp(here, builder.insert(extents.constant(place)).result, "eq")).result
            chosen = builder.insert(arith.SelectOp(hit, number, chosen)).result
        return [chosen]

    empty = tensor.EmptyOp([], tensor_type(element, shape))
    generic = structured.generic([], [empty.tensor], [structured.identity(len(shape))], body)
    replace(op, [empty, generic], [generic.results[0]])


def _drop_sign(value: SSAValue) -> None:
    """Gives a value the element type that it has below level 1; a weight of narrow elements becomes its bits."""
    if isinstance(value.type, TensorType):
        if isinstance(value.owner, WeightOp) and stored(element_of(value)) != element_of(value):
            weight, array = value.owner, value.owner.blob.value
            if array.dtype.kind not in "iu":
                bits = Blob.of(array.view(numpy_dtype(stored(element_of(value)))))
                weight.properties["value"] = BlobAttr(bits)
        plain: TensorType[Attribute] = tensor_type(stored(element_of(value)), shape_of(value))
        if plain != value.type:
            Rewriter.replace_value_with_new_type(value, plain)


def _update_type(function: func.FuncOp) -> None:
    block: Block = function.body.block
    last = block.last_op
    assert last is not None
    function.properties["function_type"] = FunctionType.from_lists(
        [a.type for a in block.args], [v.type for v in last.operands]
    )
