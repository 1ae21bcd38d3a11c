"""decompose: a function operator without a lowering becomes the operators its schema is made of (level 1).

    %y = onnx.HardSwish(%x)     ->     %h = onnx.HardSigmoid(%x) ; %y = onnx.Mul(%x, %h)

The body is the official one (`onnx.defs`, opset 28), or for other domains ours (`frontends.bodies`). Operators that
have a lowering keep it: theirs is the better pattern. What the body needs to know of constant operands (axes, shapes)
it knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import onnx
from onnx import numpy_helper
from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass

from sofie.dialects.microsoft import DOMAIN as MICROSOFT
from sofie.dialects.onnx import DOMAINS, OnnxOp
from sofie.dialects.qonnx import DOMAIN as QONNX
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import element_of, element_to_onnx, shape_of
from sofie.dialects.vendors import TABLES
from sofie.errors import SofieError
from sofie.extents import function_of, symbol_arguments
from sofie.frontends import bodies
from sofie.frontends.importer import Sized
from sofie.frontends.onnx import import_graph
from sofie.passes.lower_onnx import rules
from sofie.rewrite import blame, erase, replace_results
from sofie.sizes import Size

DEEPEST = 8
"""Bodies hold function operators in turn; ONNX's nest three deep."""

LIMITS = {
    ("", "CenterCropPad"): "shape known when compiling",
    (MICROSOFT, "Attention"): "no past, no rotary embeddings",
    (MICROSOFT, "DynamicQuantizeLSTM"): "inputs and states are not rounded to 8 bits",
    (MICROSOFT, "FusedMatMul"): "no transBatchA, no transBatchB",
    (MICROSOFT, "MultiHeadAttention"): "query, key and value of rank 3, no past",
    (MICROSOFT, "QGemm"): "quantised results",
    (MICROSOFT, "QLinearAveragePool"): "no channels_last",
    (MICROSOFT, "QLinearGlobalAveragePool"): "no channels_last",
    (QONNX, "Trunc"): "of version 1, without out_scale",
}
"""What cannot be expanded, in a few words, by (domain, operator)."""


@dataclass(frozen=True)
class Decompose(ModulePass):
    """Expands until every op has a lowering or no body."""

    name: ClassVar[str] = "decompose"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for _ in range(DEEPEST):
            expanded = [_expand(o) for o in list(op.walk()) if isinstance(o, OnnxOp) and _wants(o)]
            if not any(expanded):
                return


def _wants(op: OnnxOp) -> bool:
    known = (op.SCHEMA.domain, op.operator) in rules()
    schema: Any = op.SCHEMA  # onnx's stubs miss these members
    of_vendor = schema.domain in TABLES
    return not known and (of_vendor or schema.has_function or schema.has_context_dependent_function)


def _expand(op: OnnxOp) -> bool:
    """Replaces `op` by its body; False where the schema offers none for these types."""
    node = op.node()
    body = _body(op, node)
    if body is None:
        return False
    try:
        module = import_graph(_model(op, node, body), sizes=_sizes(op), lists=_lists(op))
    except SofieError as error:
        raise type(error)(f"{blame(op)}: its official body: {error}") from error
    function = next(o for o in module.body.block.ops if isinstance(o, func.FuncOp))
    block = function.regions[0].block
    operands = [v for v in op.inputs if v is not None and not isinstance(v.owner, WeightOp | ExtentsOp)]
    known = symbol_arguments(function_of(op))
    symbols = symbol_arguments(function)
    for symbol, argument in symbols.items():
        if symbol in known:  # what the run finds has no value yet, and nothing at level 1 reads one
            argument.replace_all_uses_with(known[symbol])
    for argument, value in zip(block.args[len(symbols) :], operands, strict=True):
        argument.replace_all_uses_with(value)
    terminator = block.last_op
    assert terminator is not None
    results: list[SSAValue] = list(terminator.operands)
    target = op.parent_block()
    assert target is not None
    erase(terminator)
    for inner in list(block.ops):
        inner.detach()
        inner.location = op.location
        target.insert_op_before(inner, op)
    replace_results(op, results)
    return True


def _types(op: OnnxOp) -> list[onnx.TypeProto]:
    return [
        onnx.helper.make_tensor_type_proto(
            element_to_onnx(element_of(v)), [str(e) if isinstance(e, Size) else e for e in shape_of(v)]
        )
        if v is not None
        else onnx.TypeProto()
        for v in op.inputs
    ]


def _sizes(op: OnnxOp) -> dict[str, Size]:
    """The run-time extents of the operands, by the names that `_types` gives them."""
    found: dict[str, Size] = {}
    for value in op.inputs:
        for extent in shape_of(value) if value is not None else ():
            if isinstance(extent, Size):
                found[str(extent)] = extent
    return found


def _lists(op: OnnxOp) -> dict[str, Sized]:
    """The operands that are lists of sizes, by their names in the body."""
    owners = [(k, value.owner) for k, value in enumerate(op.inputs) if value is not None]
    return {f"i{k}": Sized.of(owner) for k, owner in owners if isinstance(owner, ExtentsOp)}


def _body(op: OnnxOp, node: onnx.NodeProto) -> onnx.FunctionProto | None:
    schema: Any = op.SCHEMA
    if schema.domain in TABLES:
        return bodies.body(node, _types(op))
    if not schema.has_context_dependent_function:
        return cast(onnx.FunctionProto, schema.function_body)
    types = [t.SerializeToString() for t in _types(op)]
    text = schema.get_context_dependent_function(node.SerializeToString(), types)
    return onnx.FunctionProto.FromString(text) if text else None


def _model(op: OnnxOp, node: onnx.NodeProto, body: onnx.FunctionProto) -> onnx.ModelProto:
    """The body as a model of its own: a call of the function, inlined; constant operands are initialisers."""
    function = onnx.FunctionProto()
    function.CopyFrom(body)
    function.domain, function.name = "sofie.body", op.operator
    call = onnx.NodeProto()
    call.CopyFrom(node)
    call.domain = "sofie.body"
    given = {a.name for a in call.attribute}
    for name in function.attribute:
        default = op.SCHEMA.attributes[name].default_value
        if name not in given and default.type:
            call.attribute.append(default)
    inputs, initialisers = [], []
    for k, (value, kind) in enumerate(zip(op.inputs, _types(op), strict=True)):
        if value is None:
            continue
        if isinstance(value.owner, WeightOp):
            initialisers.append(numpy_helper.from_array(value.owner.blob.value, f"i{k}"))
        else:
            inputs.append(onnx.helper.make_value_info(f"i{k}", kind))
    outputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in call.output]
    graph = onnx.helper.make_graph([call], "body", inputs, outputs, initialisers)
    opsets = {o.domain: o.version for o in function.opset_import}
    domains = [onnx.helper.make_opsetid(d, v) for d, v in {**DOMAINS, **opsets, "sofie.body": 1}.items()]
    model = onnx.helper.make_model(graph, opset_imports=domains, functions=[function])
    model.ir_version = 10
    return model
