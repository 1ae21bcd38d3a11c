"""Reads an ONNX model of any opset up to 28 into a level 1 module.

The skeleton of the model (large weights set aside) is inlined, bound to the given sizes and converted to one opset;
then one pass in topological order binds, folds and infers: a node whose inputs are small known values is evaluated by
`onnx.reference`, the others get their types from the operator's own inference, fed with the known values. Where sizes
are left to the run, both are asked at several numbers, and what they say is a polynomial of the sizes (`probing`).
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.inliner
import onnx.version_converter
from google.protobuf.message import DecodeError
from onnx import numpy_helper, shape_inference
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    IndexType,
    ModuleOp,
    NameLoc,
    StringAttr,
    TensorType,
    UnknownLoc,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Region, SSAValue

from sofie.dialects.onnx import DOMAINS, OPSET, GraphYieldOp, OnnxOp, attribute_from_proto, op_classes
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import element_from_numpy, element_from_onnx, numpy_dtype, shape_of_type
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.extents import SIZE, size_attribute
from sofie.frontends import probing
from sofie.frontends.dimensions import Dim, bind_dimensions, forget_types, release
from sofie.frontends.inference import complete
from sofie.naming import identifier
from sofie.reference import NONDETERMINISTIC, evaluate_node
from sofie.sizes import Size, Symbol, at, symbols_of
from sofie.weights import Array

OLDEST_OPSET = 1
"""What the version converter takes; 7 and later are tested on every operator, older ones where the suite has them."""

NEW_IR = 8
"""Before version 4 of the format, the converter wants every weight among the inputs."""

SKELETON_BYTES = 1024
"""Larger initialisers do not pass through the version converter: it copies them several times."""

FOLD_ELEMENTS = 4096
"""A node is evaluated while importing when neither its inputs nor its results have more elements than this."""


@dataclass(frozen=True)
class Fault:
    """A node, or an input (no operator), that cannot be read; without a reason it only depends on one."""

    node: str
    domain: str
    operator: str
    reason: str

    @staticmethod
    def of(node: onnx.NodeProto, index: int, error: SofieError | None = None) -> Fault:
        """The fault of a node, whose name is not repeated in the reason."""
        label = _label(node, index)
        reason = "" if error is None else str(error).removeprefix(f"node {label!r}")
        reason = reason.removeprefix(f" ({node.op_type})").removeprefix(": ")
        return Fault(label, "" if node.domain == "ai.onnx" else node.domain, node.op_type, reason)


def load(
    source: str | Path | bytes | onnx.ModelProto,
    dims: Mapping[str, Dim] | None = None,
    values: Mapping[str, object] | None = None,
) -> ModuleOp:
    """The level 1 module of a model.

    `dims` binds free dimensions, by the name of the dimension ("batch") or by "input:axis", to a size or, as a pair
    (low, high), to any size in between that the run tells; `values` turns inputs into constants. External data files
    are read from the model's folder. Raises SofieError, in one sentence, on files that are no model, opsets out of
    range, free dimensions and operators that are not known.
    """
    model = read_model(source)
    _check_opset(model)
    return import_graph(model, dims, values)


def import_graph(
    model: onnx.ModelProto,
    dims: Mapping[str, Dim] | None = None,
    values: Mapping[str, object] | None = None,
    faults: list[Fault] | None = None,
    sizes: Mapping[str, Size] | None = None,
    lists: Mapping[str, Sized] | None = None,
) -> ModuleOp:
    """The level 1 module of a ModelProto, which is consumed; raises as `load` does.

    With `faults`, the nodes and inputs that cannot be read are noted there and left out of the module, and so is all
    that depends on them. `sizes` says which run-time sizes stand behind the names of dimensions; `lists` are inputs
    that are lists of sizes.
    """
    model = inline_functions(model)
    for graph in _inner_graphs(model.graph):
        _constants_to_initialisers(graph)
        forget_types(graph)
    _constants_to_initialisers(model.graph)
    _set_inputs(model.graph, dict(values or {}))
    release(model.graph, dims or {})
    known_sizes = dict(sizes or {}) | bind_dimensions(model.graph, dict(dims or {}), set(sizes or {}))
    if faults is not None:
        _leave_out_unknown(model.graph, faults)
    for graph in [model.graph, *_inner_graphs(model.graph)]:
        for index, node in enumerate(graph.node):
            _check_operator(node, index)
    aside = _set_aside_large_initialisers(model.graph)
    model = _convert(model)
    return _Importer(model, aside, faults, known_sizes, dict(lists or {})).run()


def read_model(source: str | Path | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """The ModelProto of a path, of bytes, or a private copy of a ModelProto; raises SofieError."""
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    try:
        model = onnx.load_model_from_string(source) if isinstance(source, bytes) else onnx.load(str(source))
    except FileNotFoundError as error:
        raise SofieError(f"there is no file {printable(str(error.filename or source))!r}") from error
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        what = "the bytes given" if isinstance(source, bytes) else repr(printable(str(source)))
        raise SofieError(f"{what} cannot be read as an ONNX model: {printable(str(error), 400)}") from error
    if not model.graph.node and not model.graph.output:
        raise SofieError(f"{printable(str(source))!r} is no ONNX model: it has neither nodes nor outputs")
    return model


def unread(graph: onnx.GraphProto) -> list[Fault]:
    """Every node of a graph that as a whole cannot be read; those of unknown operators with that reason."""
    return [Fault.of(node, index, _unknown(node, index)) for index, node in enumerate(graph.node)]


def _inner_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The graphs that are attributes of nodes (branches, bodies), innermost first."""
    own = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [g for inner in own for g in (*_inner_graphs(inner), inner)]


def _check_opset(model: onnx.ModelProto) -> None:
    for imported in model.opset_import:
        version = imported.version
        if imported.domain in ("", "ai.onnx") and not OLDEST_OPSET <= version <= OPSET:
            remedy = "export it again with a newer one" if version < OLDEST_OPSET else "update SOFIE or export older"
            raise SofieError(
                f"the model uses opset {version}; opsets {OLDEST_OPSET} to {OPSET} are supported: {remedy}"
            )


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the bodies of its own functions in the place of their calls; raises SofieError."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:
        raise SofieError(f"the model's local functions cannot be inlined: {printable(str(error))}") from error


def _constants_to_initialisers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        value = node.attribute[0] if node.op_type == "Constant" and node.domain in ("", "ai.onnx") else None
        if value is not None and value.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    if len(kept) != len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)
    named = {i.name for i in graph.initializer}
    inputs = [v for v in graph.input if v.name not in named]  # IR version 3 lists weights among the inputs
    if len(inputs) != len(graph.input):
        copies_in = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in inputs]
        del graph.input[:]
        graph.input.extend(copies_in)


def _set_inputs(graph: onnx.GraphProto, values: dict[str, object]) -> None:
    for name, given in values.items():
        index = next((k for k, v in enumerate(graph.input) if v.name == name), None)
        if index is None:
            raise SofieError(f"--set {printable(name)}: the model has no input of that name")
        kind = graph.input[index].type.tensor_type
        dtype = numpy_dtype(element_from_onnx(kind.elem_type))
        try:
            array = np.asarray(given, dtype)
        except (TypeError, ValueError) as error:
            raise SofieError(f"--set {printable(name)}: {printable(str(given))!r} is no {dtype}") from error
        rank = len(kind.shape.dim) if kind.HasField("shape") else array.ndim
        if array.ndim == 0 and rank == 1:
            array = array.reshape(1)
        if array.ndim != rank:
            raise SofieError(f"--set {printable(name)}: the value has rank {array.ndim}, the input has rank {rank}")
        graph.initializer.append(numpy_helper.from_array(array, name))
        del graph.input[index]


def _set_aside_large_initialisers(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    aside: dict[str, onnx.TensorProto] = {}
    small = []
    for tensor in graph.initializer:
        if tensor.ByteSize() > SKELETON_BYTES:
            aside[tensor.name] = onnx.TensorProto.FromString(tensor.SerializeToString())
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            small.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
    del graph.initializer[:]
    graph.initializer.extend(small)
    return aside


def _label(node: onnx.NodeProto, index: int) -> str:
    """How a node is called: by its name, else by its first result, else by its place."""
    return printable(node.name or (node.output[0] if node.output else "") or f"#{index}")


def _check_operator(node: onnx.NodeProto, index: int) -> None:
    """Raises UnsupportedError on operators that no version of ONNX has: the converter would only assert."""
    if node.domain == "ai.onnx":
        node.domain = ""
    if node.domain not in DOMAINS or not onnx.defs.has(node.op_type, domain=node.domain):
        spelled = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise UnsupportedError(
            f"node {_label(node, index)!r}: operator {printable(spelled)} is not known; replace it in the model"
        )


def _unknown(node: onnx.NodeProto, index: int) -> UnsupportedError | None:
    """What `_check_operator` says against a node."""
    try:
        _check_operator(node, index)
    except UnsupportedError as error:
        return error
    return None


def _leave_out_unknown(graph: onnx.GraphProto, faults: list[Fault]) -> None:
    """Takes the nodes of unknown operators out of the graph, and all that depends on them."""
    gone: set[str] = set()
    kept = []
    for index, node in enumerate(graph.node):
        error = _unknown(node, index)
        if error is None and gone.isdisjoint(node.input):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
        else:
            faults.append(Fault.of(node, index, error))
            gone.update(node.output)
    if gone:
        outputs = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.output if v.name not in gone]
        del graph.node[:], graph.output[:]
        graph.node.extend(kept)
        graph.output.extend(outputs)


def _convert(model: onnx.ModelProto) -> onnx.ModelProto:
    versions = {o.domain: o.version for o in model.opset_import}
    version = versions.get("", versions.get("ai.onnx", OPSET))
    if version == OPSET:
        return model
    model.ir_version = max(model.ir_version, NEW_IR)
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:
        raise SofieError(
            f"the model cannot be converted from opset {version} to {OPSET}: {printable(str(error))}"
        ) from error


@dataclass(frozen=True)
class Sized:
    """A value that is made of sizes: an object array of ints and Sizes, and the dtype it has in the run."""

    extents: Array
    dtype: np.dtype[np.generic]


@dataclass
class _Importer:
    """One walk over the nodes of a bound skeleton, in order; a graph inside it gets an importer that sees its names."""

    model: onnx.ModelProto
    aside: dict[str, onnx.TensorProto]
    faults: list[Fault] | None = None
    sizes: dict[str, Size] = field(default_factory=dict)
    """What stands behind the names of dimensions that the run tells."""
    lists: MutableMapping[str, Sized] = field(default_factory=dict)
    """Values that are lists of sizes."""
    block: Block = field(default_factory=Block)
    types: MutableMapping[str, onnx.TypeProto] = field(default_factory=dict)
    known: MutableMapping[str, Array] = field(default_factory=dict)
    values: MutableMapping[str, SSAValue] = field(default_factory=dict)

    def run(self) -> ModuleOp:
        graph = self.model.graph
        self._weights(graph)
        for name, listed in self.lists.items():
            self._know_sizes(name, listed)
        symbols = symbols_of(self.sizes.values())
        for symbol in symbols:
            argument = self.block.insert_arg(IndexType(), len(self.block.args))
            argument.name_hint = symbol.name
        inputs = []
        for value in [v for v in graph.input if v.name not in self.aside and v.name not in self.lists]:
            self.types[value.name] = value.type
            try:
                kind = self._tensor_type(value.name)
            except SofieError as error:
                if self.faults is None:
                    raise type(error)(f"input {printable(value.name)!r}: {error}") from error
                self.faults.append(Fault(printable(value.name), "", "", str(error)))
                continue
            inputs.append(value.name)
            argument = self.block.insert_arg(kind, len(self.block.args))
            argument.name_hint = identifier(value.name, "input")
            self.values[value.name] = argument
        self._nodes(graph)
        outputs = [v.name for v in graph.output if self.faults is None or self._is_read(v.name)]
        return self._module(symbols, inputs, outputs)

    def _nodes(self, graph: onnx.GraphProto) -> None:
        for index, node in enumerate(graph.node):
            if self.faults is None:
                self._node(node, index)
            else:
                self._node_or_fault(node, index, self.faults)

    def _weights(self, graph: onnx.GraphProto) -> None:
        for tensor in [*graph.initializer, *self.aside.values()]:
            try:
                array = numpy_helper.to_array(tensor)
            except Exception as error:
                raise SofieError(
                    f"the weights {printable(tensor.name)!r} cannot be read: {printable(str(error))}"
                ) from error
            self._know(tensor.name, array)
        if graph.sparse_initializer:
            raise UnsupportedError("the model has sparse initialisers; store them dense")

    def _know(self, name: str, array: Array) -> None:
        element_from_numpy(array.dtype)
        self.known[name] = array
        self.types[name] = onnx.helper.make_tensor_type_proto(
            onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )

    def _know_sizes(self, name: str, listed: Sized) -> None:
        self.lists[name] = listed
        self.types[name] = onnx.helper.make_tensor_type_proto(
            onnx.helper.np_dtype_to_tensor_dtype(listed.dtype), listed.extents.shape
        )

    def _value(self, name: str) -> SSAValue:
        if name not in self.values and name in self.lists:
            listed = self.lists[name]
            made = ExtentsOp(listed.extents.reshape(-1).tolist(), self._tensor_type(name))
            made.result.name_hint = identifier(name, "extents")
            self.block.add_op(made)
            self.values[name] = made.result
        if name not in self.values:
            op = WeightOp.of(name, self.known[name])
            op.result.name_hint = identifier(name, "weight")
            self.block.add_op(op)
            self.values[name] = op.result
        return self.values[name]

    def _tensor_type(self, name: str) -> TensorType[Attribute]:
        kind = self.types[name]
        if not kind.HasField("tensor_type"):
            what = kind.WhichOneof("value")
            raise UnsupportedError(f"value {printable(name)!r} is a {what}, not a tensor; only tensors are supported")
        dims = kind.tensor_type.shape.dim
        extents = [d.dim_value if d.HasField("dim_value") else self.sizes.get(d.dim_param) for d in dims]
        if not kind.tensor_type.HasField("shape") or None in extents:
            raise UnsupportedError(
                f"the shape of {printable(name)!r} depends on data: bind the inputs it comes from with --set NAME=VALUE"
            )
        return tensor_type(element_from_onnx(kind.tensor_type.elem_type), cast(list[int], extents))

    def _node(self, node: onnx.NodeProto, index: int) -> None:
        label = _label(node, index)
        op_class = op_classes().get((node.domain, node.op_type))
        if op_class is None:
            raise UnsupportedError(f"node {label!r}: operator {printable(node.op_type)} is no longer part of ONNX")
        for name in node.input:
            if name and name not in self.types:
                raise SofieError(f"node {label!r}: its input {printable(name)!r} is made by no earlier node")
        if self._fold(node):
            return
        if (node.domain, node.op_type) == ("", "If") and node.input[0] in self.known:
            self._take_branch(node)
            return
        try:
            self._emit(node, op_class, label)
        except SofieError as error:
            raise type(error)(f"node {label!r} ({node.op_type}): {error}") from error

    def _node_or_fault(self, node: onnx.NodeProto, index: int, faults: list[Fault]) -> None:
        if not all(self._is_read(name) for name in node.input if name):
            faults.append(Fault.of(node, index))
            return
        try:
            self._node(node, index)
        except SofieError as error:
            faults.append(Fault.of(node, index, error))

    def _is_read(self, name: str) -> bool:
        return name in self.known or name in self.values or name in self.lists

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Evaluates a node whose inputs are small and known, or that asks only for a shape, at every point."""
        if node.op_type in NONDETERMINISTIC or any(a.type == a.GRAPH for a in node.attribute):
            return False
        symbols = self._symbols(node)
        where = probing.points(symbols)
        answers: list[list[Array]] = []
        for point in where:
            results = self._evaluate(node, point)
            if results is None:
                return False
            answers.append(results)
        found: list[Array] = []
        for of_all in zip(*answers, strict=True):
            same = all(np.array_equal(a, of_all[0]) and a.dtype == of_all[0].dtype for a in of_all)
            fitted = of_all[0] if same else probing.fit_all(of_all, symbols, where)
            if fitted is None:
                return False
            found.append(fitted)
        for name, result, first in zip(node.output, found, answers[0], strict=False):
            if name and result.dtype == object:
                self._know_sizes(name, Sized(result, first.dtype))
            elif name:
                self._know(name, result)
        return True

    def _evaluate(self, node: onnx.NodeProto, point: probing.Point) -> list[Array] | None:
        """The results of a node at one point, None where its inputs are not known or too large."""
        arrays: list[Array | None] = []
        for name in node.input:
            if node.op_type in ("Shape", "Size") and name not in self.known:
                try:
                    shape = at(shape_of_type(self._tensor_type(name)), point)
                except UnsupportedError:
                    return None
                arrays.append(np.broadcast_to(np.zeros((), np.bool_), shape))
            elif name and (known := self._known_at(name, point)) is None:
                return None
            else:
                arrays.append(known if name else None)
        if node.op_type not in ("Shape", "Size") and sum(a.size for a in arrays if a is not None) > FOLD_ELEMENTS:
            return None
        if not arrays and node.op_type != "Constant":
            return None
        try:
            results = evaluate_node(node, arrays, DOMAINS)
        except SofieError:
            return None
        return None if any(r.dtype.kind not in "fiub" or r.size > FOLD_ELEMENTS for r in results) else results

    def _known_at(self, name: str, point: probing.Point) -> Array | None:
        """The value of a name at one point, None where it depends on the inputs' elements."""
        if name in self.lists:
            listed = self.lists[name]
            return np.array(at(listed.extents.reshape(-1), point), listed.dtype).reshape(listed.extents.shape)
        return self.known.get(name)

    def _symbols(self, node: onnx.NodeProto) -> list[Symbol]:
        """The run-time sizes that a node's inputs depend on."""
        names = [n for n in node.input if n]
        params = [d.dim_param for n in names for d in self.types[n].tensor_type.shape.dim if d.HasField("dim_param")]
        listed = [e for n in names if n in self.lists for e in self.lists[n].extents.reshape(-1)]
        return symbols_of([*(self.sizes.get(p) for p in params), *listed])

    def _emit(self, node: onnx.NodeProto, op_class: type[OnnxOp], label: str) -> None:
        node = _without_gaps(node)
        graphs = {a.name: a.g for a in node.attribute if a.type == a.GRAPH}
        inner = self._branches(node, graphs) if node.op_type == "If" else {}
        for name, kind in ({} if inner else self._infer(node, op_class)).items():
            self.types[name] = kind
        outputs = list(node.output)
        result_types = [self._tensor_type(name) for name in outputs]
        attributes = {a.name: attribute_from_proto(a) for a in node.attribute if a.name not in inner}
        op = op_class.from_positions(
            [self._value(name) if name else None for name in node.input], result_types, attributes, inner
        )
        op.location = NameLoc(StringAttr(f"{node.op_type} {label}"), UnknownLoc())
        self.block.add_op(op)
        for name, result in zip(outputs, op.results, strict=True):
            result.name_hint = identifier(name, node.op_type.lower())
            self.values[name] = result

    def _within(self, graph: onnx.GraphProto, block: Block) -> _Importer:
        """What importing a graph inside this one into `block` comes to: it sees all names from here."""
        scopes = [ChainMap({}, names) for names in (self.types, self.known, self.values)]
        scope = _Importer(self.model, {}, None, self.sizes, ChainMap({}, self.lists), block, *scopes)
        scope._weights(graph)
        scope._nodes(graph)
        for output in graph.output:
            if output.name not in scope.types:
                raise SofieError(
                    f"output {printable(output.name)!r} of graph {printable(graph.name)!r} is made by no node"
                )
        return scope

    def _take_branch(self, node: onnx.NodeProto) -> None:
        """Puts the nodes of the branch that a known condition picks in the place of the If."""
        picked = "then_branch" if np.all(self.known[node.input[0]]) else "else_branch"
        graph = next(a.g for a in node.attribute if a.name == picked)
        scope = self._within(graph, self.block)
        for name, output in zip(node.output, graph.output, strict=False):
            if output.name in scope.known:
                self._know(name, scope.known[output.name])
            elif output.name in scope.lists:
                self._know_sizes(name, scope.lists[output.name])
            else:
                self.types[name], self.values[name] = scope.types[output.name], scope.values[output.name]

    def _branches(self, node: onnx.NodeProto, graphs: dict[str, onnx.GraphProto]) -> dict[str, Region]:
        """The branches of an If as regions; the types of its outputs are theirs, which must be the same."""
        regions: dict[str, Region] = {}
        found: list[list[TensorType[Attribute]]] = []
        for branch, graph in graphs.items():
            scope = self._within(graph, Block())
            names = [output.name for output in graph.output][: len(node.output)]
            scope.block.add_op(GraphYieldOp(*(scope._value(name) for name in names)))
            found.append([scope._tensor_type(name) for name in names])
            regions[branch] = Region(scope.block)
            for name, output in zip(node.output, names, strict=True):
                self.types[name] = scope.types[output]
        for name, *kinds in zip(node.output, *found, strict=True):
            if kinds[0] != kinds[1]:
                raise UnsupportedError(
                    f"its branches give {printable(name)!r} as {kinds[0]} and as {kinds[1]}; let both give one shape "
                    "and type, or fix the condition with --set NAME=VALUE"
                )
        return regions

    def _infer(self, node: onnx.NodeProto, op_class: type[OnnxOp]) -> dict[str, onnx.TypeProto]:
        """The types of the outputs: what inference says at every point, with sizes where the points differ."""
        symbols = self._symbols(node)
        where = probing.points(symbols)
        answers = [self._infer_at(node, op_class, point) for point in where]
        if not symbols:
            return answers[0]
        for name, kind in answers[0].items():
            shapes = [[d.dim_value for d in a[name].tensor_type.shape.dim] for a in answers]
            if len({len(shape) for shape in shapes}) != 1:
                raise probing.unknown(f"the rank of {printable(name)!r}", symbols)
            for axis, numbers in enumerate(zip(*shapes, strict=True)):
                extent = probing.fit(numbers, symbols, where)
                if extent is None:
                    raise probing.unknown(f"the extent of {printable(name)!r} along axis {axis}", symbols)
                if isinstance(extent, Size):
                    kind.tensor_type.shape.dim[axis].dim_param = str(extent)
                    self.sizes[str(extent)] = extent
        return answers[0]

    def _infer_at(
        self, node: onnx.NodeProto, op_class: type[OnnxOp], point: probing.Point
    ) -> dict[str, onnx.TypeProto]:
        """The types of the outputs with numbers for all sizes."""
        names = [n for n in node.input if n]
        known = {n: self._known_at(n, point) for n in names}
        data = {n: a for n, a in known.items() if a is not None and a.size <= FOLD_ELEMENTS}
        try:
            inferred = shape_inference.infer_node_outputs(
                op_class.SCHEMA,
                node,
                {n: self._type_at(n, point) for n in names},
                {n: numpy_helper.from_array(np.asarray(a), n) for n, a in data.items() if a.ndim <= 1},
                opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in DOMAINS.items()],
            )
        except Exception as error:
            raise SofieError(f"its shapes do not fit: {printable(str(error), 300)}{_at(point)}") from error
        complete(node, inferred, {n: self._type_at(n, point) for n in names})
        missing = [n for n in node.output if n and n not in inferred]
        if missing:
            raise UnsupportedError(f"the type of its output {printable(missing[0])!r} cannot be inferred")
        return inferred

    def _type_at(self, name: str, point: probing.Point) -> onnx.TypeProto:
        kind = self.types[name]
        if not point:
            return kind
        numbers = onnx.TypeProto()
        numbers.CopyFrom(kind)
        for dim in numbers.tensor_type.shape.dim:
            if dim.dim_param in self.sizes:
                dim.dim_value = self.sizes[dim.dim_param].at(point)
        return numbers

    def _module(self, symbols: list[Symbol], inputs: list[str], outputs: list[str]) -> ModuleOp:
        for name in outputs:
            if name not in self.types:
                raise SofieError(f"output {printable(name)!r} is made by no node")
        results = [self._value(name) for name in outputs]
        self.block.add_op(ReturnOp(*results))
        function = FuncOp("infer", ([a.type for a in self.block.args], [r.type for r in results]), Region(self.block))
        tensors = self.block.args[len(symbols) :]
        function.arg_attrs = ArrayAttr(
            [
                *(DictionaryAttr({SIZE: size_attribute(s)}) for s in symbols),
                *(_io(n, a) for n, a in zip(inputs, tensors, strict=True)),
            ]
        )
        function.res_attrs = ArrayAttr([_io(n, r) for n, r in zip(outputs, results, strict=True)])
        return ModuleOp([function])


def _at(point: probing.Point) -> str:
    """At which sizes something happened, for the end of a sentence."""
    return f" at {', '.join(f'{name}={number}' for name, number in point.items())}" if point else ""


def _without_gaps(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node with names for outputs that are left out before others, and without those at the end."""
    names = list(node.output)
    while names and not names[-1]:
        names.pop()
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [name or f"{names[-1]}#{k}" for k, name in enumerate(names)]
    return copy


def _io(name: str, value: SSAValue) -> DictionaryAttr:
    """What the caller sees of an input or output: its ONNX name and numpy type, which lower levels no longer show."""
    assert isinstance(value.type, TensorType)
    dtype = numpy_dtype(value.type.get_element_type())
    return DictionaryAttr({"sofie.name": StringAttr(name), "sofie.dtype": StringAttr(str(dtype))})
