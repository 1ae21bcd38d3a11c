"""Reads an ONNX model of any opset up to 28 into a level 1 module with static shapes.

The skeleton of the model (large weights set aside) is inlined, bound to the given sizes and converted to one opset;
then one pass in topological order binds, folds and infers: a node whose inputs are small known values is evaluated by
`onnx.reference`, the others get their types from the operator's own inference, fed with the known values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.inliner
import onnx.version_converter
from google.protobuf.message import DecodeError
from onnx import numpy_helper, shape_inference
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, NameLoc, StringAttr, TensorType, UnknownLoc
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Region, SSAValue

from sofie.dialects.onnx import DOMAINS, OPSET, OnnxOp, attribute_from_proto, op_classes
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_from_numpy, element_from_onnx, numpy_dtype
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.naming import identifier
from sofie.reference import NONDETERMINISTIC, evaluate_node
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
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, object] | None = None,
) -> ModuleOp:
    """The level 1 module of a model.

    `dims` binds free dimensions, by the name of the dimension ("batch") or by "input:axis"; `values` turns inputs
    into constants. External data files are read from the model's folder. Raises SofieError, in one sentence, on files
    that are no model, opsets out of range, free dimensions and operators that are not known.
    """
    model = read_model(source)
    _check_opset(model)
    return import_graph(model, dims, values)


def import_graph(
    model: onnx.ModelProto,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, object] | None = None,
    faults: list[Fault] | None = None,
) -> ModuleOp:
    """The level 1 module of a ModelProto, which is consumed; raises as `load` does.

    With `faults`, the nodes and inputs that cannot be read are noted there and left out of the module, and so is all
    that depends on them.
    """
    model = inline_functions(model)
    _constants_to_initialisers(model.graph)
    _set_inputs(model.graph, dict(values or {}))
    bind_dimensions(model.graph, dict(dims or {}))
    if faults is not None:
        _leave_out_unknown(model.graph, faults)
    for index, node in enumerate(model.graph.node):
        _check_operator(node, index)
    aside = _set_aside_large_initialisers(model.graph)
    model = _convert(model)
    return _Importer(model, aside, faults).run()


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


def free_dimensions(graph: onnx.GraphProto) -> list[tuple[str, int, str]]:
    """The dimensions of the inputs that have no size: (input, axis, name of the dimension or "")."""
    initialised = {i.name for i in graph.initializer}
    return [
        (value.name, axis, dim.dim_param)
        for value in graph.input
        if value.name not in initialised and value.type.HasField("tensor_type")
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value")
    ]


def bind_dimensions(graph: onnx.GraphProto, dims: dict[str, int]) -> None:
    """Writes the sizes of `dims` into the graph's inputs; raises SofieError where one is missing or unknown."""
    used: set[str] = set()
    missing: list[str] = []
    tensors = {v.name: v.type.tensor_type for v in graph.input}
    for value in graph.input:
        kind = value.type.tensor_type
        if value.name not in {i.name for i in graph.initializer} and not kind.HasField("shape"):
            raise SofieError(
                f"input {printable(value.name)!r} has no shape, not even a rank: export the model with one"
            )
    for name, axis, param in free_dimensions(graph):
        dim = tensors[name].shape.dim[axis]
        key = f"{name}:{axis}" if f"{name}:{axis}" in dims else param
        if key and key in dims:
            used.add(key)
            dim.dim_value = dims[key]
        else:
            missing.append(param or f"{name}:{axis}")
    if missing:
        names = ", ".join(dict.fromkeys(printable(m) for m in missing))
        flags = " ".join(f"--dim {m}=N" for m in dict.fromkeys(printable(m) for m in missing))
        raise SofieError(f"the sizes of these dimensions are not bound: {names}; give them with {flags}")
    _check_dims(dims, used, tensors)
    for output in graph.output:  # the old sizes of results would only contradict the inferred ones
        output.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


def _check_dims(dims: dict[str, int], used: set[str], tensors: dict[str, onnx.TypeProto.Tensor]) -> None:
    for key, size in dims.items():
        if size < 0:
            raise SofieError(f"--dim {printable(key)}={size}: a size cannot be negative")
        if key in used:
            continue
        name, _, axis = key.rpartition(":")
        if name in tensors and axis.isdigit() and int(axis) < len(tensors[name].shape.dim):
            fixed = tensors[name].shape.dim[int(axis)].dim_value
            if fixed == size:
                continue
            raise SofieError(f"--dim {printable(key)}={size}: the model fixes this dimension at {fixed}")
        raise SofieError(f"--dim {printable(key)}: the model has no free dimension of that name")


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


@dataclass
class _Importer:
    """One walk over the nodes of a bound skeleton, in order."""

    model: onnx.ModelProto
    aside: dict[str, onnx.TensorProto]
    faults: list[Fault] | None = None
    block: Block = field(default_factory=Block)
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    known: dict[str, Array] = field(default_factory=dict)
    values: dict[str, SSAValue] = field(default_factory=dict)

    def run(self) -> ModuleOp:
        graph = self.model.graph
        self._weights(graph)
        inputs = []
        for value in [v for v in graph.input if v.name not in self.aside]:
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
        for index, node in enumerate(graph.node):
            if self.faults is None:
                self._node(node, index)
            else:
                self._node_or_fault(node, index, self.faults)
        outputs = [v.name for v in graph.output if self.faults is None or self._is_read(v.name)]
        return self._module(inputs, outputs)

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

    def _value(self, name: str) -> SSAValue:
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
        if not kind.tensor_type.HasField("shape") or any(not d.HasField("dim_value") for d in dims):
            raise UnsupportedError(
                f"the shape of {printable(name)!r} depends on data: bind the inputs it comes from with --set NAME=VALUE"
            )
        return TensorType(element_from_onnx(kind.tensor_type.elem_type), [d.dim_value for d in dims])

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
        return name in self.known or name in self.values

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Evaluates a node whose inputs are small and known, or that asks only for a static shape."""
        if node.op_type in NONDETERMINISTIC or any(a.type == a.GRAPH for a in node.attribute):
            return False
        arrays: list[Array | None] = []
        for name in node.input:
            if node.op_type in ("Shape", "Size") and name not in self.known:
                try:
                    shape = self._tensor_type(name).get_shape()
                except UnsupportedError:
                    return False
                arrays.append(np.broadcast_to(np.zeros((), np.bool_), shape))
            elif name and name not in self.known:
                return False
            else:
                arrays.append(self.known[name] if name else None)
        if node.op_type not in ("Shape", "Size") and sum(a.size for a in arrays if a is not None) > FOLD_ELEMENTS:
            return False
        if not arrays and node.op_type != "Constant":
            return False
        try:
            results = evaluate_node(node, arrays, DOMAINS)
        except SofieError:
            return False
        if any(r.dtype.kind not in "fiub" or r.size > FOLD_ELEMENTS for r in results):
            return False
        for name, result in zip(node.output, results, strict=False):
            if name:
                self._know(name, result)
        return True

    def _emit(self, node: onnx.NodeProto, op_class: type[OnnxOp], label: str) -> None:
        for name, kind in self._infer(node, op_class).items():
            self.types[name] = kind
        outputs = list(node.output)
        while outputs and not outputs[-1]:
            outputs.pop()
        result_types = [self._tensor_type(name) for name in outputs if name]
        if len(result_types) != len(outputs):
            raise UnsupportedError("an output in the middle is left out; name it")
        attributes = {a.name: attribute_from_proto(a) for a in node.attribute}
        op = op_class.from_positions(
            [self._value(name) if name else None for name in node.input], result_types, attributes
        )
        op.location = NameLoc(StringAttr(f"{node.op_type} {label}"), UnknownLoc())
        self.block.add_op(op)
        for name, result in zip(outputs, op.results, strict=True):
            result.name_hint = identifier(name, node.op_type.lower())
            self.values[name] = result

    def _infer(self, node: onnx.NodeProto, op_class: type[OnnxOp]) -> dict[str, onnx.TypeProto]:
        names = [n for n in node.input if n]
        data = {n: self.known[n] for n in names if n in self.known and self.known[n].size <= FOLD_ELEMENTS}
        try:
            inferred = shape_inference.infer_node_outputs(
                op_class.SCHEMA,
                node,
                {n: self.types[n] for n in names},
                {n: numpy_helper.from_array(np.asarray(a), n) for n, a in data.items() if a.ndim <= 1},
                opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in DOMAINS.items()],
            )
        except Exception as error:
            raise SofieError(f"its shapes do not fit: {printable(str(error), 300)}") from error
        missing = [n for n in node.output if n and n not in inferred]
        if missing:
            raise UnsupportedError(f"the type of its output {printable(missing[0])!r} cannot be inferred")
        return inferred

    def _module(self, inputs: list[str], outputs: list[str]) -> ModuleOp:
        for name in outputs:
            if name not in self.types:
                raise SofieError(f"output {printable(name)!r} is made by no node")
        results = [self._value(name) for name in outputs]
        self.block.add_op(ReturnOp(*results))
        function = FuncOp("infer", ([a.type for a in self.block.args], [r.type for r in results]), Region(self.block))
        function.arg_attrs = ArrayAttr(
            [_io(n, a) for n, a in zip(inputs, self.block.args, strict=True)],
        )
        function.res_attrs = ArrayAttr([_io(n, r) for n, r in zip(outputs, results, strict=True)])
        return ModuleOp([function])


def _io(name: str, value: SSAValue) -> DictionaryAttr:
    """What the caller sees of an input or output: its ONNX name and numpy type, which lower levels no longer show."""
    assert isinstance(value.type, TensorType)
    dtype = numpy_dtype(value.type.get_element_type())
    return DictionaryAttr({"sofie.name": StringAttr(name), "sofie.dtype": StringAttr(str(dtype))})
