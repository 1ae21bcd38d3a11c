"""Reads an ONNX model of any opset up to 28 into a level 1 module.

The skeleton of the model (large weights set aside) is inlined, bound to the given sizes and converted to one opset;
then one pass in topological order binds, folds and infers: a node whose inputs are small known values is evaluated by
`onnx.reference`, the others get their types from the operator's own inference, fed with the known values. Where sizes
are left to the run, both are asked at several numbers, and what they say is a polynomial of the sizes (`probing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.inliner
import onnx.version_converter
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from xdsl.dialects.builtin import (
    ModuleOp,
)

from sofie.dialects import microsoft
from sofie.dialects.onnx import DOMAINS, OPSET, op_classes
from sofie.dialects.types import element_from_onnx, numpy_dtype
from sofie.dialects.vendors import ALIASES, TABLES
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.frontends.dimensions import Dim, bind_dimensions, forget_placeholders, forget_types, release
from sofie.frontends.formats import reader
from sofie.frontends.importer import Fault, Importer, Sized, label_of
from sofie.frontends.ml import without_strings
from sofie.frontends.operands import needed, operand_inputs
from sofie.sizes import Size
from sofie.weights import Array

OLDEST_OPSET = 1
"""What the version converter takes; 7 and later are tested on every operator, older ones where the suite has them."""

NEW_IR = 8
"""Before version 4 of the format, the converter wants every weight among the inputs."""

COORDINATES = 11
"""The opset that gave Resize its coordinate_transformation_mode; the converter overlooks what was meant before."""

SKELETON_BYTES = 1024
"""Larger initialisers do not pass through the version converter: it copies them several times."""


def load(
    source: str | Path | bytes | onnx.ModelProto,
    dims: Mapping[str, Dim] | None = None,
    values: Mapping[str, object] | None = None,
    operands: Mapping[str, Array] | None = None,
) -> ModuleOp:
    """The level 1 module of a model.

    `dims` binds free dimensions, by the name of the dimension ("batch") or by "input:axis", to a size or, as a pair
    (low, high), to any size in between that the run tells; `values` turns inputs into constants; `operands` are the
    values that inputs of `operand_inputs` will have in every run. External data files are read from the model's folder.
    Raises SofieError, in one sentence, on files that are no model, opsets out of
    range, free dimensions and operators that are not known.
    """
    model = read_model(source, dims, values)
    _check_opset(model)
    unbound = [n for n in operand_inputs(inline_functions(model).graph, values or ()) if n not in (operands or ())]
    try:
        return import_graph(model, dims, values, operands=operands)
    except UnsupportedError as error:
        raise needed(unbound) if unbound else error from error


def import_graph(
    model: onnx.ModelProto,
    dims: Mapping[str, Dim] | None = None,
    values: Mapping[str, object] | None = None,
    faults: list[Fault] | None = None,
    sizes: Mapping[str, Size] | None = None,
    lists: Mapping[str, Sized] | None = None,
    operands: Mapping[str, Array] | None = None,
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
        without_strings(graph)
    _constants_to_initialisers(model.graph)
    without_strings(model.graph)
    _set_inputs(model.graph, dict(values or {}))
    known_sizes = dict(sizes or {}) | bind_dimensions(model.graph, dict(dims or {}), set(sizes or {}))
    if faults is not None:
        _leave_out_unknown(model.graph, faults)
    for graph in [model.graph, *_inner_graphs(model.graph)]:
        for index, node in enumerate(graph.node):
            _check_operator(node, index)
            if node.domain in TABLES and node.domain not in {o.domain for o in model.opset_import}:
                model.opset_import.append(onnx.helper.make_opsetid(node.domain, 1))  # it had another name
    aside = _set_aside_large_initialisers(model.graph)
    model = _convert(model)
    return Importer(model, aside, faults, known_sizes, dict(lists or {}), dict(operands or {})).run()


def read_model(
    source: str | Path | bytes | onnx.ModelProto,
    dims: Mapping[str, Dim] | None = None,
    values: Mapping[str, object] | None = None,
) -> onnx.ModelProto:
    """The ModelProto of a path, of bytes, or a private copy of a ModelProto; raises SofieError.

    A path with an ending of `sofie.frontends.formats` is read by its own reader. The dimensions that `dims` leaves to
    the run are free in it, as `load` will find them; `values` are as there.
    """
    model = _parsed(source)
    forget_placeholders(model.graph)
    release(model.graph, dims or {}, set(values or {}))
    return model


def _parsed(source: str | Path | bytes | onnx.ModelProto) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return copy
    if not isinstance(source, bytes) and (read := reader(source)) is not None:
        return read(Path(source))
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


def _check_operator(node: onnx.NodeProto, index: int) -> None:
    """Raises UnsupportedError on operators that no version of ONNX has: the converter would only assert."""
    if node.domain == "ai.onnx":
        node.domain = ""
    node.domain = ALIASES.get(node.domain, node.domain)
    if node.domain == "" and not onnx.defs.has(node.op_type) and (microsoft.DOMAIN, node.op_type) in op_classes():
        node.domain = microsoft.DOMAIN  # ONNX Runtime has some of its own in ONNX's domain
    is_onnx = node.domain in DOMAINS and onnx.defs.has(node.op_type, domain=node.domain)
    if not is_onnx and (node.domain, node.op_type) not in op_classes():
        spelled = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise UnsupportedError(
            f"node {label_of(node, index)!r}: operator {printable(spelled)} is not known; replace it in the model"
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
        converted = onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:
        raise SofieError(
            f"the model cannot be converted from opset {version} to {OPSET}: {printable(str(error))}"
        ) from error
    if version < COORDINATES:
        _keep_old_coordinates(converted.graph)
    return converted


def _keep_old_coordinates(graph: onnx.GraphProto) -> None:
    """Resize and Upsample meant x / scale, rounded down, before they had attributes for it: not the later default."""
    nodes = [node for g in (graph, *_inner_graphs(graph)) for node in g.node if node.op_type == "Resize"]
    for node in nodes:
        for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")):
            node.attribute.append(onnx.helper.make_attribute(name, value))
