"""The onnx dialect: one op class per live ONNX operator, built from the operator's own schema at opset 28.

Operands, attributes, type constraints and documentation come from `onnx.defs`; nothing is written by hand, so no
operator can be forgotten. The schemas of other domains come from tables (`dialects.vendors`).

Text: `%y = onnx.Gemm(%x, %w, none) {transB = 1 : i64} : (tensor<1x7xf32>, ...) -> ...`,
where `none` stands for an optional operand that is absent. A graph that is an attribute in ONNX is a region here, under
its name, that ends in `onnx.yield`: `%y = onnx.If(%c) then_branch { ... } else_branch { ... } : (tensor<i1>) -> ...`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Self, cast

import numpy as np
import onnx
from onnx.defs import OpSchema
from xdsl.dialects.builtin import (
    ArrayAttr,
    BytesAttr,
    DenseArrayBase,
    FloatAttr,
    IntegerAttr,
    NoneType,
    StringAttr,
    TensorType,
    f32,
    i64,
)
from xdsl.dialects.utils import AbstractYieldOperation
from xdsl.ir import Attribute, Dialect, Region, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    AttrSizedResultSegments,
    IRDLOperation,
    IRDLOption,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    opt_result_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import IsTerminator, Pure
from xdsl.utils.exceptions import VerifyException

from sofie.dialects import vendors
from sofie.dialects.fixed import FixedType
from sofie.dialects.sofie import BlobAttr
from sofie.dialects.types import element_to_onnx
from sofie.errors import SofieError, printable
from sofie.weights import Array, Blob

OPSET = 28
"""The one opset inside: every model is converted to it when it is read."""

ML_OPSET = 5
"""The version of the ai.onnx.ml domain that the dialect is built from."""

DOMAINS = {
    "": OPSET,
    "ai.onnx.ml": ML_OPSET,
    "ai.onnx.preview.training": 1,
    "ai.onnx.preview": 1,
    **dict.fromkeys(vendors.TABLES, 1),
}
"""The operator domains the dialect knows, and the version of each."""

_Option = OpSchema.FormalParameterOption


class OnnxOp(IRDLOperation):
    """Base of all ONNX ops: typed access to attributes (with the schema's defaults) and positional operands."""

    SCHEMA: ClassVar[OpSchema]

    @classmethod
    def from_positions(
        cls,
        operands: Sequence[SSAValue | None],
        result_types: Sequence[Attribute],
        attributes: dict[str, Attribute] | None = None,
        graphs: Mapping[str, Region] | None = None,
    ) -> Self:
        """Builds the op from operands in the schema's order; None stands for an absent optional one."""
        known = {f"onnx_{name}" for name in cls.SCHEMA.attributes}
        properties = {f"onnx_{k}": v for k, v in (attributes or {}).items()}
        if unknown := sorted(set(properties) - known):
            raise SofieError(f"operator {cls.SCHEMA.name} has no attribute {printable(unknown[0][5:])!r}")
        return cls.build(
            operands=_segments(cls.SCHEMA.inputs, operands),
            result_types=cast(Any, _segments(cls.SCHEMA.outputs, result_types)),
            properties=properties,
            regions=[(graphs or {})[name] for name in graph_names(cls.SCHEMA)],
        )

    @property
    def operator(self) -> str:
        """The operator's name as ONNX spells it."""
        return self.SCHEMA.name

    @property
    def inputs(self) -> list[SSAValue | None]:
        """The operands in the schema's order, None where an optional one is absent; a variadic one is spread."""
        values: list[SSAValue | None] = []
        for i, formal in enumerate(self.SCHEMA.inputs):
            found = getattr(self, f"operand_{i}")
            if formal.option == _Option.Variadic:
                values.extend(found)
            else:
                values.append(found)
        while values and values[-1] is None:
            values.pop()
        return values

    def graph(self, name: str) -> Region:
        """The region of an attribute that is a graph."""
        return self.regions[graph_names(self.SCHEMA).index(name)]

    def attribute(self, name: str) -> Attribute | None:
        """The attribute as it stands in the IR, without the schema's default."""
        return self.properties.get(f"onnx_{name}")

    def attributes_given(self) -> dict[str, Attribute]:
        """The attributes that stand in the IR, by the schema's names: what `from_positions` takes."""
        return {name.removeprefix("onnx_"): v for name, v in self.properties.items() if name.startswith("onnx_")}

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer attribute, the schema's default, or `default`."""
        value = self.attribute(name)
        return value.value.data if isinstance(value, IntegerAttr) else cast(int, self._default(name, default))

    def real(self, name: str, default: float | None = None) -> float:
        """A float attribute, the schema's default, or `default`; exactly the float32 of the file."""
        value = self.attribute(name)
        return value.value.data if isinstance(value, FloatAttr) else cast(float, self._default(name, default))

    def string(self, name: str, default: str | None = None) -> str:
        """A string attribute, the schema's default, or `default`."""
        value = self.attribute(name)
        return value.data if isinstance(value, StringAttr) else cast(str, self._default(name, default))

    def ints(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """A list of integers, the schema's default, or `default`; None where there is none of them."""
        value = self.attribute(name)
        if isinstance(value, DenseArrayBase):
            return tuple(value.get_values())
        found = self._default(name, default, required=False)
        return None if found is None else tuple(found)

    def reals(self, name: str) -> tuple[float, ...]:
        """A list of floats; empty where the attribute is absent."""
        value = self.attribute(name)
        return tuple(value.get_values()) if isinstance(value, DenseArrayBase) else ()

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty where the attribute is absent."""
        value = self.attribute(name)
        return tuple(v.data for v in value if isinstance(v, StringAttr)) if isinstance(value, ArrayAttr) else ()

    def tensor(self, name: str) -> Array | None:
        """A tensor attribute's value."""
        value = self.attribute(name)
        return value.data.value if isinstance(value, BlobAttr) else None

    def _default(self, name: str, default: Any, required: bool = True) -> Any:
        spec = self.SCHEMA.attributes.get(name)
        if spec is not None and spec.default_value.type:
            value = onnx.helper.get_attribute_value(spec.default_value)
            return value.decode() if isinstance(value, bytes) else value
        if default is None and required:
            raise SofieError(f"operator {self.operator} needs its attribute {name!r}")
        return default

    def node(self) -> onnx.NodeProto:
        """The op as a NodeProto with operand names i0, i1, ... and result names o0, o1, ..."""
        inputs = [f"i{k}" if v is not None else "" for k, v in enumerate(self.inputs)]
        node = onnx.helper.make_node(
            self.operator, inputs, [f"o{k}" for k in range(len(self.results))], domain=self.SCHEMA.domain
        )
        for name, value in self.properties.items():
            if name.startswith("onnx_"):
                node.attribute.append(_to_proto(name[5:], value))
        return node

    def print(self, printer: Printer) -> None:
        inputs = self.inputs
        with printer.in_parens():
            printer.print_list(
                inputs, lambda v: printer.print_string("none") if v is None else printer.print_ssa_value(v)
            )
        shown = {k[5:]: v for k, v in self.properties.items() if k.startswith("onnx_")} | self.attributes
        printer.print_op_attributes(shown)
        for name, region in zip(graph_names(self.SCHEMA), self.regions, strict=True):
            printer.print_string(f" {name} ")
            printer.print_region(region)
        printer.print_string(" : ")
        with printer.in_parens():
            printer.print_list([NoneType() if v is None else v.type for v in inputs], printer.print_attribute)
        printer.print_string(" -> ")
        if len(self.results) == 1:
            printer.print_attribute(self.results[0].type)
        else:
            with printer.in_parens():
                printer.print_list(self.results, lambda r: printer.print_attribute(r.type))

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        position = parser.pos
        unresolved = parser.parse_comma_separated_list(
            Parser.Delimiter.PAREN,
            lambda: None if parser.parse_optional_keyword("none") else parser.parse_unresolved_operand(),
        )
        attributes = parser.parse_optional_attr_dict()
        graphs: dict[str, Region] = {}
        for name in graph_names(cls.SCHEMA):
            parser.parse_keyword(name)
            graphs[name] = parser.parse_region()
        parser.parse_punctuation(":")
        types = parser.parse_comma_separated_list(Parser.Delimiter.PAREN, parser.parse_type)
        parser.parse_punctuation("->")
        results = parser.parse_optional_comma_separated_list(Parser.Delimiter.PAREN, parser.parse_type)
        if len(types) != len(unresolved):
            parser.raise_error(
                f"onnx.{cls.SCHEMA.name} has {len(unresolved)} operands and {len(types)} types", position
            )
        operands = [
            None if operand is None else parser.resolve_operand(operand, kind)
            for operand, kind in zip(unresolved, types, strict=True)
        ]
        own = {k: v for k, v in attributes.items() if k in cls.SCHEMA.attributes}
        op = cls.from_positions(operands, [parser.parse_type()] if results is None else results, own, graphs)
        op.attributes |= {k: v for k, v in attributes.items() if k not in own}
        return op

    def verify_(self) -> None:
        bound: dict[str, Attribute] = {}
        allowed = {c.type_param_str: c.allowed_type_strs for c in self.SCHEMA.type_constraints}
        for value, formal in _pair(self.inputs, self.SCHEMA.inputs):
            element = value.type.get_element_type() if isinstance(value.type, TensorType) else None
            if element is None:
                raise VerifyException(f"operand {formal.name} is no tensor")
            if isinstance(element, FixedType) and "tensor(float)" in allowed.get(formal.type_str, ()):
                continue  # stands where a float may; operands of several such types go together
            spelled = f"tensor({_onnx_name(element)})"
            if spelled not in allowed.get(formal.type_str, (formal.type_str,)):
                raise VerifyException(f"operand {formal.name} of {self.operator} cannot be {spelled}")
            same = formal.is_homogeneous and formal.type_str in allowed
            if same and bound.setdefault(formal.type_str, element) != element:
                raise VerifyException(f"operands of {self.operator} that share type {formal.type_str} differ")
        for name, region in zip(graph_names(self.SCHEMA), self.regions, strict=True):
            last = region.block.last_op
            if not isinstance(last, GraphYieldOp):
                raise VerifyException(f"{name} of {self.operator} does not end in onnx.yield")
            if self.operator == "If" and last.operand_types != self.result_types:
                raise VerifyException(f"{name} of If yields other types than its results have")


@irdl_op_definition
class GraphYieldOp(AbstractYieldOperation[Attribute]):
    """Ends a graph that is an attribute of an operator and names its results."""

    name = "onnx.yield"
    traits = traits_def(IsTerminator(), Pure())


@cache
def graph_names(schema: OpSchema) -> list[str]:
    """The graphs that every node has as attributes, in the order of the regions: then_branch before else_branch."""
    graphs = (n for n, a in schema.attributes.items() if a.type == OpSchema.AttrType.GRAPH and a.required)
    return sorted(graphs, reverse=True)


def _onnx_name(element: Attribute) -> str:
    return str(onnx.TensorProto.DataType.Name(element_to_onnx(element))).lower()


def _pair(
    values: Sequence[SSAValue | None], formals: Sequence[OpSchema.FormalParameter]
) -> list[tuple[SSAValue, OpSchema.FormalParameter]]:
    return [(v, formals[min(i, len(formals) - 1)]) for i, v in enumerate(values) if v is not None]


def _segments(formals: Sequence[OpSchema.FormalParameter], values: Sequence[Any]) -> list[Any]:
    """`values` by position as xDSL wants them: one entry a formal parameter, lists for optional and variadic ones."""
    segments: list[Any] = []
    for i, formal in enumerate(formals):
        if formal.option == _Option.Variadic:
            segments.append([v for v in values[i:] if v is not None])
            return segments
        value = values[i] if i < len(values) else None
        if formal.option == _Option.Optional:
            segments.append([] if value is None else [value])
        elif value is None:
            raise SofieError(f"operand or result {formal.name!r} is missing")
        else:
            segments.append(value)
    if len(values) > len(formals):
        raise SofieError(f"{len(values)} operands or results where the operator has {len(formals)}")
    return segments


def attribute_from_proto(proto: onnx.AttributeProto) -> Attribute:
    """The IR form of a node's attribute; raises SofieError on graphs, sparse tensors and text that is not UTF-8."""
    value = onnx.helper.get_attribute_value(proto)
    kind = proto.type
    try:
        if kind == proto.INT:
            return IntegerAttr(value, i64)
        if kind == proto.FLOAT:
            return FloatAttr(float(value), f32)
        if kind == proto.STRING:
            return StringAttr(value.decode())
        if kind == proto.INTS:
            return DenseArrayBase(
                i64, BytesAttr(i64.pack(value))
            )  # `from_list` checks each number: trees have millions
        if kind == proto.FLOATS:
            return DenseArrayBase.from_list(f32, list(value))
        if kind == proto.STRINGS:
            return ArrayAttr([StringAttr(v.decode()) for v in value])
        if kind == proto.TENSOR:
            return BlobAttr(Blob.of(onnx.numpy_helper.to_array(value)))
    except UnicodeDecodeError as error:
        raise SofieError(f"attribute {printable(proto.name)!r} holds text that is not UTF-8") from error
    raise SofieError(f"attribute {printable(proto.name)!r} of kind {proto.AttributeType.Name(kind)} is not supported")


def _to_proto(name: str, value: Attribute) -> onnx.AttributeProto:
    if isinstance(value, IntegerAttr):
        return onnx.helper.make_attribute(name, value.value.data)
    if isinstance(value, FloatAttr):
        return onnx.helper.make_attribute(name, float(value.value.data))
    if isinstance(value, StringAttr):
        return onnx.helper.make_attribute(name, value.data)
    if isinstance(value, BlobAttr):
        return onnx.helper.make_attribute(name, onnx.numpy_helper.from_array(np.asarray(value.data.value)))
    if isinstance(value, ArrayAttr):
        texts = [v.data for v in value if isinstance(v, StringAttr)]
        return onnx.helper.make_attribute(name, texts, attr_type=onnx.AttributeProto.STRINGS)
    assert isinstance(value, DenseArrayBase), value
    kind = onnx.AttributeProto.INTS if value.elt_type == i64 else onnx.AttributeProto.FLOATS
    return onnx.helper.make_attribute(name, list(value.get_values()), attr_type=kind)


_OPERAND: dict[_Option, Callable[[Any], Any]] = {
    _Option.Single: operand_def,
    _Option.Optional: opt_operand_def,
    _Option.Variadic: var_operand_def,
}
_RESULT: dict[_Option, Callable[[Any], Any]] = {
    _Option.Single: result_def,
    _Option.Optional: opt_result_def,
    _Option.Variadic: var_result_def,
}


def _op_class(schema: OpSchema, name: str) -> type[OnnxOp]:
    fields: dict[str, Any] = {
        "name": name,
        "__doc__": schema.doc,
        "__module__": __name__,
        "traits": traits_def(Pure()),
    }
    for i, formal in enumerate(schema.inputs):
        fields[f"operand_{i}"] = _OPERAND[formal.option](Attribute)
    for i, formal in enumerate(schema.outputs):
        fields[f"result_{i}"] = _RESULT[formal.option](Attribute)
    for graph in graph_names(schema):
        fields[f"graph_{graph}"] = region_def("single_block")
    for attribute in set(schema.attributes) - set(graph_names(schema)):
        fields[f"onnx_{attribute}"] = opt_prop_def(Attribute, prop_name=f"onnx_{attribute}")
    options: list[IRDLOption] = []
    if sum(p.option != _Option.Single for p in schema.inputs) > 1:
        options.append(AttrSizedOperandSegments(as_property=True))
    if sum(p.option != _Option.Single for p in schema.outputs) > 1:
        options.append(AttrSizedResultSegments(as_property=True))
    fields["irdl_options"] = tuple(options)
    op_class: type[OnnxOp] = irdl_op_definition(type(f"Onnx{schema.name}", (OnnxOp,), fields))
    op_class.SCHEMA = schema
    return op_class


@cache
def op_classes() -> dict[tuple[str, str], type[OnnxOp]]:
    """Every op class by (domain, operator), each at the version the dialect pins.

    Operators that ONNX's own domain has retired are left out: the version converter replaces them. Of other domains
    they are here at their last version, since files hold them.
    """
    classes: dict[tuple[str, str], type[OnnxOp]] = {}
    newest: dict[tuple[str, str], OpSchema] = {}
    for schema in [*onnx.defs.get_all_schemas_with_history(), *vendors.schemas()]:
        retired = schema.deprecated and schema.domain  # nothing converts them: the last version stays
        if schema.domain in DOMAINS and schema.since_version <= DOMAINS[schema.domain] and not retired:
            key = (schema.domain, schema.name)
            if key not in newest or newest[key].since_version < schema.since_version:
                newest[key] = schema
    for (domain, operator), schema in sorted(newest.items()):
        if not schema.deprecated:
            prefix = "onnx." if not domain else f"onnx.{domain.removeprefix('ai.onnx.')}."
            classes[domain, operator] = _op_class(schema, prefix + operator)
    return classes


def onnx_dialect() -> Dialect:
    """The dialect, built on first use (about 70 ms)."""
    return Dialect("onnx", [*op_classes().values(), GraphYieldOp], [])
