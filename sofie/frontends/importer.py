"""The walk over the nodes of a prepared ONNX graph: each is folded, or inferred and emitted as a level 1 op."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import numpy as np
import onnx
from onnx import numpy_helper
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

from sofie.dialects.onnx import DOMAINS, OnnxOp, attribute_from_proto, op_classes
from sofie.dialects.sofie import ExtentsOp, WeightOp
from sofie.dialects.types import (
    element_from_numpy,
    element_from_onnx,
    element_of,
    numpy_dtype,
    shape_of,
    shape_of_type,
)
from sofie.dialects.types import tensor as tensor_type
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.extents import SIZE, size_attribute
from sofie.frontends import flex_attention, probing
from sofie.frontends.control_flow import Iteration, body, branches, few_trips, unroll
from sofie.frontends.operands import bindable
from sofie.frontends.result_types import FOLD_ELEMENTS, infer
from sofie.naming import EMITTED, Namer, identifier
from sofie.random_state import STREAM, stream_attribute
from sofie.reference import NONDETERMINISTIC, evaluate_node
from sofie.rewrite import erase
from sofie.sizes import Size, Symbol, at, symbols_of
from sofie.weights import Array

_Entry = TypeVar("_Entry")


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
        label = label_of(node, index)
        reason = "" if error is None else str(error).removeprefix(f"node {label!r}")
        reason = reason.removeprefix(f" ({node.op_type})").removeprefix(": ")
        return Fault(label, "" if node.domain == "ai.onnx" else node.domain, node.op_type, reason)


def label_of(node: onnx.NodeProto, index: int) -> str:
    """How a node is called: by its name, else by its first result, else by its place."""
    return printable(node.name or (node.output[0] if node.output else "") or f"#{index}")


@dataclass(frozen=True)
class Sized:
    """A value that is made of sizes: an object array of ints and Sizes, and the dtype it has in the run."""

    extents: Array
    dtype: np.dtype[np.generic]

    @staticmethod
    def of(op: ExtentsOp) -> Sized:
        """The value of an op that holds one."""
        extents = np.empty(len(op.values), object)
        extents[:] = op.values
        return Sized(extents.reshape(shape_of(op.result)), numpy_dtype(element_of(op.result)))


@dataclass
class Importer:
    """One walk over the nodes of a bound skeleton, in order; a graph inside it gets an importer that sees its names."""

    model: onnx.ModelProto
    aside: dict[str, onnx.TensorProto]
    faults: list[Fault] | None = None
    sizes: dict[str, Size] = field(default_factory=dict)
    """What stands behind the names of dimensions that the run tells."""
    lists: MutableMapping[str, Sized] = field(default_factory=dict)
    """Values that are lists of sizes."""
    assumed: MutableMapping[str, Array] = field(default_factory=dict)
    """What values of the run will be: inputs that tell shapes or axes, and what nodes make of them."""
    block: Block = field(default_factory=Block)
    types: MutableMapping[str, onnx.TypeProto] = field(default_factory=dict)
    known: MutableMapping[str, Array] = field(default_factory=dict)
    values: MutableMapping[str, SSAValue] = field(default_factory=dict)

    def run(self) -> ModuleOp:
        graph = self.model.graph
        self._weights(graph)
        for name, listed in self.lists.items():
            self.know_sizes(name, listed)
        symbols = symbols_of(self.sizes.values())
        for symbol in symbols:
            argument = self.block.insert_arg(IndexType(), len(self.block.args))
            argument.name_hint = symbol.name
        inputs = []
        for value in [v for v in graph.input if v.name not in self.aside and v.name not in self.lists]:
            self.types[value.name] = value.type
            try:
                kind = self.tensor_type(value.name)
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
        module = self._module(symbols, inputs, outputs)
        if self.assumed:
            _drop_unused(module)
        return module

    def _nodes(self, graph: onnx.GraphProto) -> None:
        for index, node in enumerate(graph.node):
            if self.faults is None:
                self.node(node, index)
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
            self.know(tensor.name, array)
        if graph.sparse_initializer:
            raise UnsupportedError("the model has sparse initialisers; store them dense")

    def know(self, name: str, array: Array) -> None:
        element_from_numpy(array.dtype)
        self.known[name] = array
        self.types[name] = onnx.helper.make_tensor_type_proto(
            onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )

    def know_sizes(self, name: str, listed: Sized) -> None:
        self.lists[name] = listed
        self.types[name] = onnx.helper.make_tensor_type_proto(
            onnx.helper.np_dtype_to_tensor_dtype(listed.dtype), listed.extents.shape
        )

    def value(self, name: str) -> SSAValue:
        if name not in self.values and name in self.lists:
            listed = self.lists[name]
            made = ExtentsOp(listed.extents.reshape(-1).tolist(), self.tensor_type(name))
            made.result.name_hint = identifier(name, "extents")
            self.block.add_op(made)
            self.values[name] = made.result
        if name not in self.values:
            op = WeightOp.of(name, self.known[name])
            op.result.name_hint = identifier(name, "weight")
            self.block.add_op(op)
            self.values[name] = op.result
        return self.values[name]

    def tensor_type(self, name: str) -> TensorType[Attribute]:
        return self.type_of(self.types[name], name)

    def type_of(self, kind: onnx.TypeProto, name: str) -> TensorType[Attribute]:
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

    def node(self, node: onnx.NodeProto, index: int) -> None:
        label = label_of(node, index)
        op_class = op_classes().get((node.domain, node.op_type))
        if op_class is None:
            raise UnsupportedError(f"node {label!r}: operator {printable(node.op_type)} is no longer part of ONNX")
        for name in node.input:
            if name and name not in self.types:
                raise SofieError(f"node {label!r}: its input {printable(name)!r} is made by no earlier node")
        if self._fold(node):
            return
        if (node.domain, node.op_type) == ("", "If") and self.value_at(node.input[0], {}) is not None:
            self._take_branch(node)
            return
        if flex_attention.is_modified(node):
            self._inline_modifiers(node, label)
            return
        try:
            self._emit(node, op_class, label)
        except SofieError as error:
            if isinstance(error, UnsupportedError) and (trips := few_trips(self, node)) is not None:
                unroll(self, node, next(a.g for a in node.attribute if a.name == "body"), trips)
                return
            raise type(error)(f"node {label!r} ({node.op_type}): {error}") from error

    def _node_or_fault(self, node: onnx.NodeProto, index: int, faults: list[Fault]) -> None:
        if not all(self._is_read(name) for name in node.input if name):
            faults.append(Fault.of(node, index))
            return
        try:
            self.node(node, index)
        except SofieError as error:
            faults.append(Fault.of(node, index, error))

    def _is_read(self, name: str) -> bool:
        return name in self.known or name in self.values or name in self.lists

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Evaluates a node whose inputs are small and known, or that asks only for a shape, at every point.

        Weights that are dequantised stay integers, for `fuse-qdq`.
        """
        kept = node.op_type in NONDETERMINISTIC or node.op_type == "DequantizeLinear"
        if kept or any(a.type == a.GRAPH for a in node.attribute):
            return False
        symbols = self.symbols(node)
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
        if any(name in self.assumed for name in node.input) and node.op_type not in ("Shape", "Size"):
            fixed = {name: a for name, a in zip(node.output, found, strict=False) if name and a.dtype != object}
            self.assumed.update(fixed)
            return False
        for name, result, first in zip(node.output, found, answers[0], strict=False):
            if name and result.dtype == object:
                self.know_sizes(name, Sized(result, first.dtype))
            elif name:
                self.know(name, result)
        return True

    def _evaluate(self, node: onnx.NodeProto, point: probing.Point) -> list[Array] | None:
        """The results of a node at one point, None where its inputs are not known or too large."""
        arrays: list[Array | None] = []
        for name in node.input:
            if node.op_type in ("Shape", "Size") and name not in self.known:
                try:
                    shape = at(shape_of_type(self.tensor_type(name)), point)
                except UnsupportedError:
                    return None
                arrays.append(np.broadcast_to(np.zeros((), np.bool_), shape))
            elif name and (known := self.value_at(name, point)) is None:
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

    def value_at(self, name: str, point: probing.Point) -> Array | None:
        """The value of a name at one point, None where it depends on the inputs' elements."""
        if name in self.lists:
            listed = self.lists[name]
            return np.array(at(listed.extents.reshape(-1), point), listed.dtype).reshape(listed.extents.shape)
        return self.known.get(name, self.assumed.get(name))

    def _operand(self, node: onnx.NodeProto, position: int) -> SSAValue | None:
        """The value that an op gets at a position: a constant where it has to be known and is assumed."""
        name = node.input[position]
        if name in self.assumed and bindable(node, position):
            op = WeightOp.of(name, self.assumed[name])
            self.block.add_op(op)
            return op.result
        return self.value(name) if name else None

    def symbols(self, node: onnx.NodeProto) -> list[Symbol]:
        """The run-time sizes that a node's inputs depend on."""
        names = [n for n in node.input if n]
        params = [d.dim_param for n in names for d in self.types[n].tensor_type.shape.dim if d.HasField("dim_param")]
        listed = [e for n in names if n in self.lists for e in self.lists[n].extents.reshape(-1)]
        return symbols_of([*(self.sizes.get(p) for p in params), *listed])

    def _emit(self, node: onnx.NodeProto, op_class: type[OnnxOp], label: str) -> None:
        node = _without_gaps(node)
        inner = self._graphs(node)
        for name, kind in ({} if inner else infer(self, node, op_class)).items():
            self.types[name] = kind
        outputs = list(node.output)
        result_types = [self.tensor_type(name) for name in outputs]
        attributes = {a.name: attribute_from_proto(a) for a in node.attribute if a.name not in inner}
        op = op_class.from_positions(
            [self._operand(node, k) for k in range(len(node.input))], result_types, attributes, inner
        )
        if node.op_type in NONDETERMINISTIC:
            op.attributes[STREAM] = stream_attribute(node.output[0])
        op.location = NameLoc(StringAttr(f"{node.op_type} {label}"), UnknownLoc())
        self.block.add_op(op)
        for name, result in zip(outputs, op.results, strict=True):
            result.name_hint = identifier(name, node.op_type.lower())
            self.values[name] = result

    def _graphs(self, node: onnx.NodeProto) -> dict[str, Region]:
        """The graphs of a node of control flow as regions; the types of its outputs follow from them."""
        graphs = {a.name: a.g for a in node.attribute if a.type == a.GRAPH}
        if node.domain or node.op_type not in ("If", "Loop", "Scan"):
            return {}
        if node.op_type == "If":
            return branches(self, node, graphs)
        iteration = Iteration.of_loop(self, node) if node.op_type == "Loop" else Iteration.of_scan(self, node)
        return {"body": body(self, node, graphs["body"], iteration)}

    def scope(self, block: Block) -> Importer:
        """An importer into `block` that sees all names from here."""
        scopes = [ChainMap({}, names) for names in (self.types, self.known, self.values)]
        told = (ChainMap({}, self.lists), ChainMap({}, self.assumed))
        return Importer(self.model, {}, None, self.sizes, *told, block, *scopes)

    def within(self, graph: onnx.GraphProto, block: Block) -> Importer:
        """What importing a graph inside this one into `block` comes to."""
        return self.scope(block).add(graph)

    def add(self, graph: onnx.GraphProto) -> Importer:
        self._weights(graph)
        self._nodes(graph)
        for output in graph.output:
            if output.name not in self.types:
                raise SofieError(
                    f"output {printable(output.name)!r} of graph {printable(graph.name)!r} is made by no node"
                )
        return self

    def _take_branch(self, node: onnx.NodeProto) -> None:
        """Puts the nodes of the branch that a known condition picks in the place of the If."""
        picked = "then_branch" if np.all(self.value_at(node.input[0], {})) else "else_branch"
        graph = next(a.g for a in node.attribute if a.name == picked)
        scope = self.within(graph, self.block)
        self._adopt(scope, {name: o.name for name, o in zip(node.output, graph.output, strict=False)})

    def _adopt(self, scope: Importer, names: Mapping[str, str]) -> None:
        """Takes what a graph in this block has made over, by the names it has here and there."""
        for name, inner in names.items():
            if inner in scope.known:
                self.know(name, scope.known[inner])
            elif inner in scope.lists:
                self.know_sizes(name, scope.lists[inner])
            else:
                self.types[name], self.values[name] = scope.types[inner], scope.values[inner]
                if inner in scope.assumed:
                    self.assumed[name] = scope.assumed[inner]

    def _inline_modifiers(self, node: onnx.NodeProto, label: str) -> None:
        """Puts the operators and the modifier graphs that a FlexAttention is made of in its place."""
        query, key, _ = (self.tensor_type(name) for name in node.input)
        try:
            parts = flex_attention.parts(node, label, query.get_element_type(), *map(shape_of_type, (query, key)))
        except SofieError as error:
            raise type(error)(f"node {label!r} (FlexAttention): {error}") from error
        for index, part in enumerate(parts):
            if isinstance(part, onnx.NodeProto):
                self.node(part, index)
                continue
            name, graph = part.graph.input[0].name, part.graph
            seen = replace(
                self,
                types=ChainMap({name: self.types[part.given]}, self.types),
                values=ChainMap({name: self.value(part.given)}, self.values),
            )
            self._adopt(seen.within(graph, self.block), {part.result: graph.output[0].name})
            if self.tensor_type(part.result) != self.tensor_type(part.given):
                raise SofieError(f"node {label!r} (FlexAttention): its graph {part.name!r} must keep shape and type")

    def proto(self, element: int, shape: Sequence[int]) -> onnx.TypeProto:
        """The type of a tensor whose sizes become known by name."""
        for extent in shape:
            if isinstance(extent, Size):
                self.sizes[str(extent)] = extent
        return onnx.helper.make_tensor_type_proto(element, [str(e) if isinstance(e, Size) else e for e in shape])

    def alias(self, name: str, scope: Importer, other: str) -> None:
        """Lets `name` be what `other` is in a scope."""
        self.types[name] = scope.types[other]
        _entered(self.known, name, scope.known, other)
        _entered(self.lists, name, scope.lists, other)
        _entered(self.assumed, name, scope.assumed, other)
        _entered(self.values, name, scope.values, other)

    def fresh(self, name: str) -> str:
        """A name for a size, like `name`, that no other size has."""
        return Namer(EMITTED | {s.name for s in symbols_of(self.sizes.values())})(name, "found")

    def _module(self, symbols: list[Symbol], inputs: list[str], outputs: list[str]) -> ModuleOp:
        for name in outputs:
            if name not in self.types:
                raise SofieError(f"output {printable(name)!r} is made by no node")
        results = [self.value(name) for name in outputs]
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


def _entered(table: MutableMapping[str, _Entry], name: str, other_table: Mapping[str, _Entry], other: str) -> None:
    """Enters under a name what stands in another table under another, if anything does."""
    if other in other_table:
        table[name] = other_table[other]


def _drop_unused(module: ModuleOp) -> None:
    """Erases the ops that nothing reads: they computed what is assumed."""
    for op in reversed([o for o in module.walk() if isinstance(o, OnnxOp | WeightOp | ExtentsOp)]):
        if not any(result.uses for result in op.results):
            erase(op)


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
