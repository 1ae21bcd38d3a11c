"""Writes level 1 as an ONNX model, which other tools read: what passes have made of it, weights included.

Inputs, outputs, weights and nodes keep their names, and so do the results of nodes without a name; other values keep
theirs as identifiers. An extent that the run tells is a `dim_param`; a list of such extents (`sofie.extents`) is
computed of shapes by nodes, as exporters do it. The regions of If, Loop and Scan are graphs again. The opset is the
oldest from `OLDEST` on in which every node means the same.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.defs import OpSchema
from xdsl.dialects.builtin import DictionaryAttr, IndexType, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from sofie import levels
from sofie.dialects.onnx import DOMAINS, OPSET, GraphYieldOp, OnnxOp, graph_names
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import element_of, element_to_onnx, numpy_dtype, shape_of
from sofie.errors import SofieError
from sofie.naming import identifier
from sofie.rewrite import node_names
from sofie.sizes import Size, Symbol
from sofie.weights import Array

OLDEST = 21
"""The oldest opset that is written: the first with integers of 4 bits and scales of blocks."""

LARGEST = 2**31 - 1
"""The bytes that a protocol buffer may have."""

PRODUCER = "SOFIE"


def model_proto(module: ModuleOp) -> onnx.ModelProto:
    """The model of a module at level 1. Raises SofieError at other levels."""
    try:
        levels.check(module, "onnx")
    except SofieError as error:
        raise SofieError(f"-t onnx prints the onnx level, which --stop-after onnx leaves: {error}") from error
    infer = next((f for f in module.body.block.ops if isinstance(f, FuncOp) and f.sym_name.data == "infer"), None)
    if infer is None or not infer.body.blocks:
        raise SofieError("-t onnx prints the function @infer, and the module has none")
    graph = _graph_of(infer)
    ops = [op for op in module.walk() if isinstance(op, OnnxOp)]
    made = [node for inner in (graph, *_inner(graph)) for node in inner.node]
    domains = sorted({node.domain for node in made} - {""})
    opsets = [helper.make_opsetid("", _opset(ops)), *(helper.make_opsetid(d, DOMAINS[d]) for d in domains)]
    version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    return helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name=PRODUCER)


def serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of a model. Raises SofieError where they are too many for one file."""
    if (size := model.ByteSize()) > LARGEST:
        raise SofieError(f"the model has {size:,} bytes, and an ONNX file at most {LARGEST:,}: quantise its weights")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


# -- the opset ---------------------------------------------------------------------------------------------------------


def _opset(ops: Sequence[OnnxOp]) -> int:
    """The oldest opset from `OLDEST` on in which every op of ONNX's own domain means what it means here."""
    own = [op for op in ops if not op.SCHEMA.domain]
    return next(v for v in range(OLDEST, OPSET + 1) if v == OPSET or all(_means_the_same(op, v) for op in own))


@cache
def _schema(operator: str, version: int) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(operator, version)
    except onnx.defs.SchemaError:
        return None


def _means_the_same(op: OnnxOp, version: int) -> bool:
    """Whether an older version of the operator takes this op: newer ones added types, operands and attributes."""
    new, old = op.SCHEMA, _schema(op.operator, version)
    if old is None or old.since_version == new.since_version:
        return old is not None
    if _schema(op.operator, OLDEST) is None:  # young operators were corrected under the same signature
        return False
    given = set(op.attributes_given()) | set(graph_names(new))
    if not given <= set(old.attributes):
        return False
    if any(old.attributes[n].default_value != new.attributes[n].default_value for n in old.attributes):
        return False
    return _takes(old.inputs, new.inputs, op.inputs, old) and _takes(old.outputs, new.outputs, op.results, old)


def _takes(
    old: Sequence[OpSchema.FormalParameter],
    new: Sequence[OpSchema.FormalParameter],
    values: Sequence[SSAValue | None],
    schema: OpSchema,
) -> bool:
    """Whether the formal parameters of an older schema take the values."""
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    if any(a.name != b.name for a, b in zip(old, new, strict=False)):
        return False
    for k, value in enumerate(values):
        if k >= len(old) and (not old or old[-1].option != OpSchema.FormalParameterOption.Variadic):
            return False
        kind = old[min(k, len(old) - 1)].type_str
        if value is not None and _spelled(value) not in allowed.get(kind, (kind,)):
            return False
    return True


def _spelled(value: SSAValue) -> str:
    return f"tensor({str(onnx.TensorProto.DataType.Name(element_to_onnx(element_of(value)))).lower()})"


# -- graphs ------------------------------------------------------------------------------------------------------------


def _graph_of(infer: FuncOp) -> onnx.GraphProto:
    """The graph of @infer, whose inputs and outputs have the names that the caller sees."""
    block = infer.body.block
    arguments = list(zip(block.args, infer.arg_attrs or [DictionaryAttr({})] * len(block.args), strict=True))
    given = [(value, attrs) for value, attrs in arguments if not isinstance(value.type, IndexType)]
    last = block.last_op
    assert isinstance(last, ReturnOp)
    results = list(zip(last.arguments, infer.res_attrs or [DictionaryAttr({})] * len(last.arguments), strict=True))
    inputs = [_name(attrs, value.name_hint or f"input_{k}") for k, (value, attrs) in enumerate(given)]
    outputs = [_name(attrs, f"output_{k}") for k, (_, attrs) in enumerate(results)]
    writer = _Writer(taken={*inputs, *outputs})
    for (value, _), name in zip(given, inputs, strict=True):
        writer.names[value] = name
        writer.sees(value)
    writer.block(block, list(zip((value for value, _ in results), outputs, strict=True)))
    takes = [_described(name, value) for (value, _), name in zip(given, inputs, strict=True)]
    gives = [_described(name, value) for (value, _), name in zip(results, outputs, strict=True)]
    return helper.make_graph(writer.nodes, "infer", takes, gives, writer.tensors)


def _name(attributes: DictionaryAttr, otherwise: str) -> str:
    name = attributes.data.get("sofie.name")
    return name.data if isinstance(name, StringAttr) else otherwise


def _described(name: str, value: SSAValue) -> onnx.ValueInfoProto:
    shape = [str(e) if isinstance(e, Size) else e for e in shape_of(value)]
    return helper.make_tensor_value_info(name, element_to_onnx(element_of(value)), shape)


def _inner(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
                yield from _inner(attribute.g)


def _without_number(name: str) -> str:
    """A name as xDSL keeps it: without numbers at its end."""
    return re.sub(r"(_\d+)+$", "", name)


def _unused(wish: str, taken: set[str]) -> str:
    """`wish`, with a number where it is taken; it is then."""
    name, k = wish, 0
    while name in taken:
        k += 1
        name = f"{wish}_{k}"
    taken.add(name)
    return name


@dataclass
class _Writer:
    """One graph as it grows; a graph inside it sees its values and shares `taken` and `labels`."""

    taken: set[str]
    """The names of values, of which no two are the same."""
    labels: set[str] = field(default_factory=set)
    """The names of nodes, of which no two are the same."""
    names: MutableMapping[SSAValue, str] = field(default_factory=dict)
    places: MutableMapping[Symbol, tuple[str, int]] = field(default_factory=dict)
    """Where the run can read a symbol off: the name of a value, and the axis that has just that extent."""
    measured: MutableMapping[Symbol, str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def fresh(self, wish: str) -> str:
        """A name for a value, like `wish`."""
        return _unused(wish, self.taken)

    def sees(self, value: SSAValue) -> None:
        """Notes which symbols a named value tells."""
        if isinstance(value.type, TensorType):
            for axis, extent in enumerate(shape_of(value)):
                if isinstance(extent, Size) and extent.terms == {(extent.symbols[0],): 1}:
                    self.places.setdefault(extent.symbols[0], (self.names[value], axis))

    def block(self, block: Block, outputs: Sequence[tuple[SSAValue, str]]) -> None:
        """Writes the ops of a block; `outputs` are the values that it gives, and what they are called."""
        here = [
            (value, name) for value, name in outputs if isinstance(op := value.owner, OnnxOp) and op.parent is block
        ]
        own = dict(reversed(here))
        for op in block.ops:
            if isinstance(op, WeightOp):
                self.names[op.result] = self.constant(op.weight_name.data, op.blob.value)
            elif isinstance(op, ExtentsOp):
                self.names[op.result] = self.extents(op)
            elif isinstance(op, OnnxOp):
                self.node(op, own)
        for value, name in outputs:
            if self.names[value] != name:
                self.add("Identity", [self.names[value]], name)

    def node(self, op: OnnxOp, own: Mapping[SSAValue, str]) -> None:
        """Writes a node, with the graphs inside it."""
        node = op.node()
        inputs = ["" if value is None else self.names[value] for value in op.inputs]
        label = "+".join(name.split(" ", 1)[-1] for name in node_names(op.location))
        for k, result in enumerate(op.results):
            hint = result.name_hint or op.operator.lower()
            named = k == 0 and _without_number(identifier(label)) == _without_number(hint)
            self.names[result] = own.get(result) or self.fresh(label if named else hint)
        node.input[:], node.output[:] = inputs, [self.names[result] for result in op.results]
        node.name = label and _unused(label, self.labels)
        for name in graph_names(op.SCHEMA):
            node.attribute.append(helper.make_attribute(name, self.graph(name, op.graph(name).block)))
        self.nodes.append(node)
        for result in op.results:
            self.sees(result)

    def graph(self, name: str, block: Block) -> onnx.GraphProto:
        """The graph of a region."""
        scopes = (ChainMap({}, self.names), ChainMap({}, self.places), ChainMap({}, self.measured))
        inside = _Writer(self.taken, self.labels, *scopes)
        for argument in block.args:
            inside.names[argument] = self.fresh(argument.name_hint or "carried")
            inside.sees(argument)
        last = block.last_op
        assert isinstance(last, GraphYieldOp)
        results = [(value, self.fresh(value.name_hint or "result")) for value in last.arguments]
        inside.block(block, results)
        takes = [_described(inside.names[a], a) for a in block.args]
        return helper.make_graph(inside.nodes, name, takes, [_described(n, v) for v, n in results], inside.tensors)

    def constant(self, wish: str, array: Array) -> str:
        """An initializer; returns its name."""
        name = self.fresh(wish)
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node that no op stands for; returns the name of its result."""
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def extents(self, op: ExtentsOp) -> str:
        """A list of extents of the run, computed from shapes of values; returns its name."""
        wish = op.result.name_hint or "extents"
        parts = [self._extent(extent, op) for extent in op.values]
        name = self.add("Concat", parts, self.fresh(wish), axis=0)
        if not shape_of(op.result):
            name = self.add("Reshape", [name, self.constant(f"{wish}_shape", np.array([], np.int64))], self.fresh(wish))
        if numpy_dtype(element_of(op.result)) != np.int64:
            name = self.add("Cast", [name], self.fresh(wish), to=element_to_onnx(element_of(op.result)))
        return name

    def _extent(self, extent: int, op: Operation) -> str:
        """One extent, as a list of one: a sum of products of symbols."""
        if not isinstance(extent, Size):
            return self.constant(f"extent_{extent}", np.array([extent], np.int64))
        total = ""
        for monomial, factor in extent.terms.items():
            product = "" if monomial and factor == 1 else self._extent(factor, op)
            for symbol in monomial:
                size = self._measured(symbol)
                product = self.add("Mul", [product, size], self.fresh(f"{symbol.name}_times")) if product else size
            total = self.add("Add", [total, product], self.fresh("extent_sum")) if total else product
        return total

    def _measured(self, symbol: Symbol) -> str:
        """The number behind a symbol, as a list of one."""
        if symbol not in self.measured:
            if symbol not in self.places:
                raise SofieError(
                    f"-t onnx: no value has the size {symbol.name} as an extent of its own, so that no node can tell "
                    f"it; give it a number with --dim {symbol.name}=N"
                )
            value, axis = self.places[symbol]
            size = self.fresh(f"size_{symbol.name}")
            self.measured[symbol] = self.add("Shape", [value], size, start=axis, end=axis + 1)
        return self.measured[symbol]
