"""Schemas of operators that ONNX lacks, written as rows of a table; those of a domain make a table each.

A row names operands and results, each with the variable or the name of its type (`?` marks optional ones), the types
that variables stand for, and attributes with their defaults; an attribute that is a type has none, and one in
`REQUIRED` must be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx.defs import OpSchema

FLOATS = "float double"

Default = float | int | str | type

REQUIRED = frozenset({"num_heads", "hidden_size"})


@dataclass(frozen=True)
class Row:
    """One operator: `inputs` and `outputs` as "name:type name?:type"."""

    inputs: str
    outputs: str
    doc: str
    types: dict[str, str]
    attributes: dict[str, Default]


def row(inputs: str, outputs: str, doc: str, types: dict[str, str] | None = None, **attributes: Default) -> Row:
    return Row(inputs, outputs, doc, types or {"T": FLOATS}, attributes)


_KINDS = {
    float: OpSchema.AttrType.FLOAT,
    int: OpSchema.AttrType.INT,
    str: OpSchema.AttrType.STRING,
    tuple: OpSchema.AttrType.INTS,
    list: OpSchema.AttrType.FLOATS,
}
"""What a type in the table says of an attribute; `tuple` is a list of integers, `list` one of floats."""

_LISTS = {"activations": OpSchema.AttrType.STRINGS}


def schemas_of(domain: str, table: Mapping[str, Row]) -> list[OpSchema]:
    """The schemas of a domain."""
    return [_schema(domain, name, one) for name, one in table.items()]


def _schema(domain: str, name: str, one: Row) -> OpSchema:
    return OpSchema(
        name,
        domain,
        1,
        one.doc,
        inputs=[_formal(text, one) for text in one.inputs.split()],
        outputs=[_formal(text, one) for text in one.outputs.split()],
        type_constraints=[
            (variable, [f"tensor({t})" for t in types.split()], "") for variable, types in one.types.items()
        ],
        attributes=[_attribute(key, default) for key, default in one.attributes.items()],
    )


def _formal(text: str, one: Row) -> OpSchema.FormalParameter:
    name, kind = text.split(":")
    option = OpSchema.FormalParameterOption.Optional if name.endswith("?") else OpSchema.FormalParameterOption.Single
    spelled = kind if kind in one.types else f"tensor({kind})"
    return OpSchema.FormalParameter(name.rstrip("?"), spelled, param_option=option)


def _attribute(name: str, default: Default) -> OpSchema.Attribute:
    if isinstance(default, type):
        kind = _LISTS.get(name, _KINDS[default])
        return OpSchema.Attribute(name, kind, required=name in REQUIRED)
    return OpSchema.Attribute(name, onnx.helper.make_attribute(name, default))
