"""How far each ONNX operator is supported: the one answer behind `sofie info` and docs/operators.md.

Nothing is listed by hand: lowerings come from `@lowers`, function bodies and element types from ONNX's schemas, and
what can be folded from `onnx.reference`. The limits in words stand beside the lowerings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
from onnx.defs import OpSchema
from xdsl.ir import Attribute

from sofie.dialects.onnx import DOMAINS, op_classes
from sofie.dialects.types import element_to_onnx, element_types, stored
from sofie.dialects.vendors import TABLES
from sofie.emit.spelling import scalar_type
from sofie.errors import SofieError
from sofie.passes import decompose, lower_onnx
from sofie.reference import NONDETERMINISTIC

LOWERING = "lowering"
BODY = "function body"
FOLDED = "folded when compiling only"
NO = "no"
REPLACED = "replaced when read"
"""Of operators that ONNX has retired: the version converter knows their successors."""

STATIC = frozenset({("", "Shape"), ("", "Size")})
"""Operators that ask for a shape only: known whenever shapes are."""

Key = tuple[str, str]
"""Domain and operator."""

_Option = OpSchema.FormalParameterOption
_Kind = OpSchema.AttrType


@dataclass(frozen=True)
class Support:
    """How an operator is supported.

    how: LOWERING, BODY, FOLDED, NO or REPLACED. limits: what is declined beyond element types, in a few words. types:
    numpy's names of the element types that the first operand may have (the first result, where there is no operand).
    """

    how: str
    limits: str
    types: tuple[str, ...]


def spelled(domain: str, operator: str) -> str:
    """The operator with its domain, which ONNX's own lacks."""
    return f"{domain}.{operator}" if domain else operator


@cache
def support(domain: str, operator: str) -> Support:
    """How an operator is supported; one that the dialect does not know is not."""
    op_class = op_classes().get((domain, operator))
    if op_class is None:
        retired = domain in DOMAINS and onnx.defs.has(operator, domain=domain)
        return Support(REPLACED if retired else NO, "", ())
    how = _how(op_class.SCHEMA)
    formals = [*op_class.SCHEMA.inputs, *op_class.SCHEMA.outputs]
    types = _types(op_class.SCHEMA, formals[0]) if formals and how != NO else ()
    return Support(how, _limits(domain, operator, how), types)


def _limits(domain: str, operator: str, how: str) -> str:
    if how == FOLDED:
        return "" if (domain, operator) in STATIC else "operands known when compiling"
    return {**decompose.LIMITS, **lower_onnx.limits()}.get((domain, operator), "") if how != NO else ""


def _how(schema: OpSchema) -> str:
    if (schema.domain, schema.name) in lower_onnx.rules():
        return LOWERING
    if _has_usable_body(schema):
        return BODY
    return FOLDED if _foldable(schema) else NO


def _has_usable_body(schema: Any) -> bool:
    """Whether the operator has a body of operators that can be lowered or ask for shapes only.

    A body that depends on more than operands of type float and required attributes is given the benefit of the doubt.
    """
    if schema.domain in TABLES:
        return True
    if schema.has_function:
        body = schema.function_body
    elif schema.has_context_dependent_function:
        node = _example(schema)
        types = [onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [1, 1, 1, 1])] * len(node.input)
        try:
            text = schema.get_context_dependent_function(
                node.SerializeToString(), [t.SerializeToString() for t in types]
            )
        except (RuntimeError, ValueError):
            return False
        body = onnx.FunctionProto.FromString(text) if text else onnx.FunctionProto()
    else:
        return False
    keys = {(node.domain, node.op_type) for node in body.node}
    return all(key in STATIC or support(*key).how in (LOWERING, BODY) for key in keys)


def _example(schema: OpSchema) -> onnx.NodeProto:
    """A node of the operator with every operand, and the required integers among its attributes."""
    inputs = [f"i{k}" for k in range(len(schema.inputs))]
    outputs = [f"o{k}" for k in range(len(schema.outputs))]
    node = onnx.helper.make_node(schema.name, inputs, outputs, domain=schema.domain)
    for name, attribute in schema.attributes.items():
        if attribute.required and attribute.type == _Kind.INT:
            node.attribute.append(onnx.helper.make_attribute(name, 1))
    return node


def _foldable(schema: OpSchema) -> bool:
    """Whether the importer can evaluate the operator where all its operands are known."""
    if schema.name in NONDETERMINISTIC or any(a.type == _Kind.GRAPH for a in schema.attributes.values()):
        return False
    needed = [f for f in (*schema.inputs, *schema.outputs) if f.option != _Option.Optional]
    return all(_types(schema, f) for f in needed) and _in_reference(schema)


def _in_reference(schema: OpSchema) -> bool:
    from onnx.reference import ReferenceEvaluator

    try:
        ReferenceEvaluator(_example(schema), opsets=DOMAINS)
    except NotImplementedError:
        return False
    except Exception:  # it is there and misses an attribute
        return True
    return True


def _types(schema: OpSchema, formal: OpSchema.FormalParameter) -> tuple[str, ...]:
    """The element types of an operand or result that ONNX allows and C++ code can hold."""
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    strings: Sequence[str] = allowed.get(formal.type_str, [formal.type_str])
    return tuple(name for name, kind in element_types().items() if _onnx_name(kind) in strings and holds(kind))


def _onnx_name(kind: Attribute) -> str:
    return f"tensor({onnx.TensorProto.DataType.Name(element_to_onnx(kind)).lower()})"


def holds(kind: Attribute) -> bool:
    """Whether generated code can hold values of a level 1 element type."""
    try:
        scalar_type(stored(kind))
    except SofieError:
        return False
    return True
