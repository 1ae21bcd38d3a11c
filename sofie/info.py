"""What is in a model and what will come of it: operators, parameters, work, memory, and all that is not supported.

A model that cannot be compiled is read as far as it can be, and every node that stands in the way is named with its
reason.

    >>> report = info("model.onnx", Options(dims={"batch": 1}))
    >>> report.flops, report.arena_bytes, report.unsupported
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
import onnx
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue

from sofie import pipeline
from sofie.compiler import Options, Progress, Source, default_name, lower
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_from_onnx, element_of, numpy_dtype, shape_of
from sofie.emit.cpp import Program
from sofie.errors import SofieError, printable
from sofie.feeds import names_of_inputs
from sofie.frontends.importer import Fault
from sofie.frontends.onnx import import_graph, inline_functions, read_model, unread
from sofie.kernel_work import weights_read
from sofie.rewrite import blame, node_names
from sofie.sizes import most
from sofie.support import FOLDED, NO, Key, holds, spelled, support
from sofie.work import Work, work_of

NOT_SUPPORTED = {
    NO: "there is no lowering for this operator yet",
    FOLDED: "there is no lowering for this operator yet; it works only where its operands are known when compiling",
}
"""Why a node fails whose operator cannot be lowered."""

NO_OPERATOR = ("", "")

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    type: numpy's name of the element type, else ONNX's ("string", "sequence"). shape: a free extent has its name, or
    "?"; None where not even the rank is known.
    """

    name: str
    type: str
    shape: Shape | None


@dataclass(frozen=True)
class Operator:
    """All nodes of one operator.

    nodes: how many the file has, subgraphs and the bodies of its own functions included; 0 where an older operator was
    converted to this one. support, limits: as in
    docs/operators.md. flops, bytes: of all of them together, as in `sofie.work`; None where one cannot be lowered.
    """

    operator: str
    nodes: int
    support: str
    limits: str
    flops: int | None
    bytes: int | None


@dataclass(frozen=True)
class Unsupported:
    """A node, or an input (no operator), that stands in the way, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What there is to know about a model; the fields are the keys of `sofie info --json`.

    opsets: version by domain. operators: those with most nodes first. parameters, parameter_bytes: elements and bytes
    of the initialisers and Constant tensors in the file. flops: floating-point operations of one inference, a
    multiplication with its addition being two (`sofie.work.flops` says what counts); batch norms that were folded away
    cost nothing. bytes_moved: inputs, outputs and weights that the compiled program reads, each once: the least
    traffic if nothing else leaves the caches. kernels: how many one inference runs. arena_bytes: its scratch memory.
    Where the run tells sizes, all of these are those of the largest.

    unsupported: the nodes that stand in the way, as far as they can be told. error: the sentence with which
    `sofie compile` fails, None where it works. flops is None where a node cannot be lowered; bytes_moved, kernels,
    arena_bytes and weight_file_bytes are None where the model cannot be compiled.
    """

    model: str
    opsets: dict[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    parameters: int
    parameter_bytes: int
    flops: int | None
    bytes_moved: int | None
    kernels: int | None
    arena_bytes: int | None
    weight_file_bytes: int | None
    unsupported: tuple[Unsupported, ...]
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self)


def info(source: Source, options: Options | None = None, progress: Progress | None = None) -> Report:
    """The report on a model. Raises SofieError on a file that is no model and on options that do not fit it."""
    options = options or Options()
    options.stages()
    original = read_model(source, options.dims, options.values)
    _check_options(original.graph, options)
    model = _flat(original)
    module, faults = _read(original, options)
    findings = _findings(module, faults, options)
    shapes = {} if module is None else _shapes(module)
    program, error = _compile(source if module is None or faults else module, default_name(source), options, progress)
    given = names_of_inputs(model.graph, options.values)
    parameters, parameter_bytes = _parameters(model.graph)
    return Report(
        model=printable(default_name(source)),
        opsets={o.domain or "ai.onnx": o.version for o in model.opset_import},
        inputs=tuple(_tensor(v, shapes) for v in model.graph.input if v.name in given),
        outputs=tuple(_tensor(v, shapes) for v in model.graph.output),
        operators=tuple(_operators(model.graph, findings)),
        parameters=parameters,
        parameter_bytes=parameter_bytes,
        flops=None if module is None or findings.failed else sum(w.flops for w in findings.work.values()),
        bytes_moved=None if program is None else _traffic(program),
        kernels=None if program is None else program.kernel_calls,
        arena_bytes=None if program is None else program.arena_bytes,
        weight_file_bytes=None if program is None else program.file.size,
        unsupported=tuple(findings.unsupported),
        error=error,
    )


def _check_options(graph: onnx.GraphProto, options: Options) -> None:
    """Raises SofieError on sizes and values of what the model does not have: a slip of the caller, not a trait."""
    tensors = {v.name: v.type.tensor_type.shape.dim for v in graph.input}
    sizes = {d.dim_param for dims in tensors.values() for d in dims}
    sizes |= {f"{name}:{axis}" for name, dims in tensors.items() for axis in range(len(dims))}
    for key in options.dims:
        if key not in sizes:
            raise SofieError(f"--dim {printable(key)}: the model has no free dimension of that name")
    for name in options.values:
        if name not in tensors:
            raise SofieError(f"--set {printable(name)}: the model has no input of that name")


def _flat(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own, where their bodies can be put in the place of the calls."""
    try:
        return inline_functions(model)
    except SofieError:
        return model


def _read(model: onnx.ModelProto, options: Options) -> tuple[ModuleOp | None, list[Fault]]:
    """The level 1 module of what can be read, or None, and the nodes that cannot."""
    faults: list[Fault] = []
    try:
        return import_graph(read_model(model), options.dims, options.values, faults), faults
    except SofieError:
        return None, unread(_flat(model).graph)


def _compile(
    source: Source | ModuleOp, name: str, options: Options, progress: Progress | None
) -> tuple[Program | None, str | None]:
    """The program, or the sentence that says why there is none."""
    try:
        program = lower(source, name, options, progress)
        _ = program.file  # the layout digests the kernels' text: what cannot be printed fails here
    except SofieError as error:
        return None, str(error)
    return program, None


def _traffic(program: Program) -> int:
    ports = sum(most(p.elements) * np.dtype(p.dtype).itemsize for p in (*program.inputs, *program.outputs))
    return ports + weights_read(program.module)


# -- work and what stands in its way -----------------------------------------------------------------------------------


@dataclass
class _Findings:
    """work: by operator. failed: the operators with a node that cannot be lowered."""

    work: dict[Key, Work] = field(default_factory=dict)
    failed: set[Key] = field(default_factory=set)
    unsupported: list[Unsupported] = field(default_factory=list)

    def add(self, operator: Key, work: Work) -> None:
        """Adds the work of a node."""
        before = self.work.get(operator, Work(0, 0))
        self.work[operator] = Work(before.flops + work.flops, before.bytes + work.bytes)

    def reject(self, node: str, operator: Key, reason: str) -> None:
        """Notes a node that cannot be lowered, or with no operator an input; without a reason it is not to blame."""
        if operator != NO_OPERATOR:
            self.failed.add(operator)
        if reason:
            self.unsupported.append(Unsupported(node, printable(spelled(*operator)), reason))


def _findings(module: ModuleOp | None, faults: list[Fault], options: Options) -> _Findings:
    findings = _Findings()
    for fault in faults:
        how = support(fault.domain, fault.operator).how
        certain = module is not None or how == NO
        reason = fault.reason or (NOT_SUPPORTED.get(how, "") if certain else "")
        findings.reject(fault.node, (fault.domain, fault.operator), reason)
    if module is not None:
        _study(module.clone(), options, findings)
    return findings


def _study(module: ModuleOp, options: Options, findings: _Findings) -> None:
    """Lowers every op by itself, behind the passes that fold: their results need no lowering."""
    early = takewhile(lambda s: s.instance.name not in ("decompose", "lower-onnx"), options.stages())
    try:
        pipeline.run(module, list(early))
    except SofieError:
        return  # compiling fails with the same sentence
    dead = _dead(module) if not findings.failed else set()  # what reads a value may be what could not be read
    for op in [o for o in _infer(module).body.block.ops if isinstance(o, OnnxOp)]:
        operator = (op.SCHEMA.domain, op.operator)
        try:
            work = _work(op)
        except SofieError as error:
            label = node_names(op.location)[0].partition(" ")[2] if node_names(op.location) else op.operator
            findings.reject(label, operator, str(error).removeprefix(f"{blame(op)}: "))
            continue
        findings.add(operator, Work(0, 0) if op in dead else work)


def _work(op: OnnxOp) -> Work:
    """The work of an op; raises SofieError where it cannot be lowered or its values have no type in C++."""
    how = support(op.SCHEMA.domain, op.operator).how
    if how in NOT_SUPPORTED:
        raise SofieError(NOT_SUPPORTED[how])
    for value in (*op.operands, *op.results):
        if not holds(element_of(value)):
            raise SofieError(f"values of type {numpy_dtype(element_of(value))} are not supported; use float32")
    return work_of(op)


def _dead(module: ModuleOp) -> set[OnnxOp]:
    """The ops on which no result depends."""
    needed: set[SSAValue] = set()
    dead = set()
    for op in reversed(list(_infer(module).body.block.ops)):
        if isinstance(op, OnnxOp) and needed.isdisjoint(op.results):
            dead.add(op)
        else:
            needed.update(v for o in op.walk() for v in o.operands)
    return dead


def _infer(module: ModuleOp) -> FuncOp:
    function = module.body.block.first_op
    assert isinstance(function, FuncOp)
    return function


# -- what the file says ------------------------------------------------------------------------------------------------


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from _graphs(inner)


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def _operators(graph: onnx.GraphProto, findings: _Findings) -> Iterator[Operator]:
    """A row an operator: those of the file, then those that older ones were converted to."""
    nodes = Counter(
        ("" if n.domain == "ai.onnx" else n.domain, n.op_type) for part in _graphs(graph) for n in part.node
    )
    rows = sorted(nodes, key=lambda key: (-nodes[key], key))
    for key in [*rows, *sorted((findings.work.keys() | findings.failed) - nodes.keys())]:
        found = support(*key)
        work = None if key in findings.failed else findings.work.get(key, Work(0, 0))
        flops, moved = (None, None) if work is None else (work.flops, work.bytes)
        yield Operator(printable(spelled(*key)), nodes[key], found.how, found.limits, flops, moved)


def _parameters(graph: onnx.GraphProto) -> tuple[int, int]:
    """Elements and bytes of the initialisers and Constant tensors."""
    tensors = [t for part in _graphs(graph) for t in part.initializer]
    constants = [n for part in _graphs(graph) for n in part.node if n.op_type == "Constant"]
    tensors += [a.t for n in constants for a in n.attribute if a.name == "value"]
    return sum(math.prod(t.dims) for t in tensors), sum(math.prod(t.dims) * _item_bytes(t.data_type) for t in tensors)


def _item_bytes(code: int) -> int:
    """Bytes of an element, 0 for text."""
    if code in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING) or code not in onnx.TensorProto.DataType.values():
        return 0
    return onnx.helper.tensor_dtype_to_np_dtype(code).itemsize


def _shapes(module: ModuleOp) -> dict[str, Shape]:
    """The shapes of inputs and outputs by name, as far as they were read."""
    function = _infer(module)
    terminator = function.body.block.last_op
    assert terminator is not None
    sides = ((function.arg_attrs, function.body.block.args), (function.res_attrs, terminator.operands))
    return {
        name.data: tuple(e if isinstance(e, int) else str(e) for e in shape_of(value))
        for attributes, values in sides
        if isinstance(attributes, ArrayAttr)
        for attrs, value in zip(attributes, values, strict=True)
        if isinstance(attrs, DictionaryAttr) and isinstance(name := attrs.data.get("sofie.name"), StringAttr)
    }


def _tensor(value: onnx.ValueInfoProto, shapes: Mapping[str, Shape]) -> Tensor:
    kind = value.type.WhichOneof("value") or "unknown"
    if kind != "tensor_type":
        return Tensor(value.name, kind.removesuffix("_type"), None)
    declared = value.type.tensor_type
    shape = shapes.get(value.name)
    if shape is None and declared.HasField("shape"):
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in declared.shape.dim)
    return Tensor(value.name, _type_name(declared.elem_type), shape)


def _type_name(code: int) -> str:
    try:
        return str(numpy_dtype(element_from_onnx(code)))
    except SofieError:
        known = code in onnx.TensorProto.DataType.values()
        return onnx.TensorProto.DataType.Name(code).lower() if known else "unknown"
