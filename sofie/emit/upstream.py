"""Writes a level 2 module for upstream MLIR: builtin dialects only, the weights as arguments of @infer.

func.func @infer(%x: tensor<1x7xf32> {sofie.name = "x"}) -> ... {
  %w = sofie.weight "dense.weight" <"2c26b4..."> : tensor<7x5xf32>
  %y = sofie.fused { ... }
->
func.func @infer(%x: tensor<1x7xf32>, %w: tensor<7x5xf32>) -> ... { ... }
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO

from xdsl.dialects import arith, func, math
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatAttr,
    FunctionType,
    IntegerAttr,
    ModuleOp,
    TensorType,
    f32,
    f64,
    i8,
    i16,
    i32,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.printer import Printer
from xdsl.rewriter import Rewriter

from sofie import levels
from sofie.dialects.scalars import DecodeOp, EncodeOp, QuantizeOp, RequantizeOp
from sofie.dialects.sizes import SizesAttr
from sofie.dialects.sofie import FusedOp, SizeOp, WeightOp
from sofie.errors import SofieError, printable
from sofie.rewrite import erase
from sofie.weights import Blob

OWN = "sofie."


def text(module: ModuleOp) -> str:
    """The module as upstream's tools read it, under comments that name the weights; raises as `upstream_module`."""
    converted, weights = _convert(module)
    out = StringIO()
    if weights:
        out.write("// @infer takes these weights after the inputs (name, SHA-256 of type and contents):\n")
    for weight in weights:
        name = printable(weight.weight_name.data).encode("ascii", "backslashreplace").decode()
        out.write(f"//   {name} {weight.blob.digest}\n")
    Printer(stream=out).print_op(converted)
    return out.getvalue() + "\n"


def upstream_module(module: ModuleOp) -> tuple[ModuleOp, list[Blob]]:
    """A copy without anything of SOFIE, and the weights that @infer takes after the inputs, in order of first use.

    Raises SofieError where the module is not at the tensor level.
    """
    converted, weights = _convert(module)
    return converted, [weight.blob for weight in weights]


def _convert(module: ModuleOp) -> tuple[ModuleOp, list[WeightOp]]:
    try:
        levels.check(module, "tensor")
    except SofieError as error:
        raise SofieError(f"-t upstream-mlir prints the tensor level, made by --pipeline=fuse: {error}") from error
    copy = module.clone()
    for group in [op for op in copy.walk() if isinstance(op, FusedOp)]:
        _inline(group)
    weights = [w for op in copy.body.block.ops if isinstance(op, func.FuncOp) for w in _weights_to_arguments(op)]
    for op in copy.walk():
        for key in [key for key in op.attributes if key.startswith(OWN)]:
            del op.attributes[key]
    for size in [op for op in copy.walk() if isinstance(op, SizeOp)]:
        size.result.replace_all_uses_with(size.value)
        erase(size)
    for op in list(copy.walk()):
        if type(op) in _SPELLED:
            _spell_out(op)
    _forget_sizes(copy)
    return copy, weights


def _spell_out(op: Operation) -> None:
    """What one operation of SOFIE's does, by several of upstream's."""
    block = op.parent_block()
    assert block is not None

    def add(made: Operation) -> SSAValue:
        block.insert_op_before(made, op)
        return made.results[0]

    op.results[0].replace_all_uses_with(_SPELLED[type(op)](op, add))
    erase(op)


Add = Callable[[Operation], SSAValue]
_CODED = {"f16": Float16Type(), "bf16": BFloat16Type()}


def _decoded(op: Operation, add: Add) -> SSAValue:
    assert isinstance(op, DecodeOp)
    return add(arith.ExtFOp(add(arith.BitcastOp(op.code, _CODED[op.format.data])), f32))


def _encoded(op: Operation, add: Add) -> SSAValue:
    assert isinstance(op, EncodeOp)
    return add(arith.BitcastOp(add(arith.TruncFOp(op.number, _CODED[op.format.data])), i16))


def _quantized(op: Operation, add: Add) -> SSAValue:
    assert isinstance(op, QuantizeOp)
    return _byte(op, add(arith.DivfOp(op.number, op.scale)), add)


def _requantized(op: Operation, add: Add) -> SSAValue:
    assert isinstance(op, RequantizeOp)
    product = add(arith.MulfOp(add(arith.SIToFPOp(op.sum, f64)), op.scale))
    return _byte(op, add(arith.AddfOp(product, op.offset)), add)


def _byte(op: QuantizeOp | RequantizeOp, number: SSAValue, add: Add) -> SSAValue:
    """A float as the byte that is nearest."""
    zero, least, most = op.numbers
    kind = number.type
    assert isinstance(kind, Float32Type | Float64Type)
    low, high = (add(arith.ConstantOp(FloatAttr(float(end - zero), kind))) for end in (least, most))
    inside = add(arith.MinnumfOp(add(arith.MaxnumfOp(number, low)), high))
    whole = add(arith.FPToSIOp(add(math.RoundEvenOp(inside)), i32))
    moved = add(arith.AddiOp(whole, add(arith.ConstantOp(IntegerAttr(zero, i32)))))
    return add(arith.TruncIOp(moved, i8))


_SPELLED: dict[type[Operation], Callable[[Operation, Add], SSAValue]] = {
    DecodeOp: _decoded,
    EncodeOp: _encoded,
    QuantizeOp: _quantized,
    RequantizeOp: _requantized,
}


def _forget_sizes(module: ModuleOp) -> None:
    """Leaves of run-time extents what upstream says of them: `?` in the type, and the values beside it."""
    arguments = [a for op in module.walk() for r in op.regions for b in r.blocks for a in b.args]
    for value in [*arguments, *(r for op in module.walk() for r in op.results)]:
        kind = value.type
        if isinstance(kind, TensorType) and isinstance(kind.encoding, SizesAttr):
            Rewriter.replace_value_with_new_type(value, TensorType(kind.element_type, kind.shape))
    for function in [op for op in module.body.block.ops if isinstance(op, func.FuncOp)]:
        last = function.body.block.last_op
        assert last is not None
        inputs = [a.type for a in function.body.block.args]
        function.function_type = FunctionType.from_lists(inputs, [v.type for v in last.operands])


def _inline(group: FusedOp) -> None:
    """The members take the place of their group."""
    block = group.parent_block()
    assert block is not None
    for member in group.members():
        block.insert_op_before(group.body.block.detach_op(member), group)
    for result, value in zip(group.res, group.yielded(), strict=True):
        result.replace_all_uses_with(value)
    erase(group)


def _weights_to_arguments(function: func.FuncOp) -> list[WeightOp]:
    """Each weight that is used becomes one argument, equal ones the same; returns one op of each, detached."""
    block = function.body.block
    arguments: dict[tuple[str, Attribute], WeightOp] = {}
    for op in list(_in_order_of_use(function)):
        key = (op.blob.digest, op.result.type)
        if key not in arguments:
            argument = block.insert_arg(op.result.type, len(block.args))
            argument.name_hint = op.result.name_hint
            arguments[key] = op
        place = len(block.args) - len(arguments) + list(arguments).index(key)
        op.result.replace_all_uses_with(block.args[place])
    for weight in [op for op in function.walk() if isinstance(op, WeightOp)]:
        home = weight.parent_block()
        assert home is not None
        home.detach_op(weight)
    function.function_type = FunctionType.from_lists([a.type for a in block.args], list(function.function_type.outputs))
    function.arg_attrs = function.res_attrs = None
    return list(arguments.values())


def _in_order_of_use(function: func.FuncOp) -> Iterator[WeightOp]:
    seen: set[Operation] = set()
    for op in function.walk():
        for owner in (operand.owner for operand in op.operands):
            if isinstance(owner, WeightOp) and owner not in seen:
                seen.add(owner)
                yield owner
