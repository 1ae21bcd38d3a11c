"""The walk over the nodes of a prepared ONNX graph: each is folded, or inferred and emitted as a level 1 op."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import numpy as np
import onnx
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

from sofie.dialects.microsoft import DOMAIN as MICROSOFT
from sofie.dialects.onnx import DOMAINS, GraphYieldOp, OnnxOp, attribute_from_proto, op_classes
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
from sofie.frontends import flex_attention, microsoft, probing
from sofie.frontends.inference import FOUND, SCALARS, Found, complete
from sofie.frontends.operands import bindable
from sofie.frontends.shapes import Operand
from sofie.naming import EMITTED, Namer, identifier
from sofie.random_state import STREAM, stream_attribute
from sofie.reference import NONDETERMINISTIC, evaluate_node
from sofie.rewrite import erase
from sofie.sizes import Size, Symbol, at, most, symbols_of
from sofie.weights import Array

_Entry = TypeVar("_Entry")

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


UNROLLED = 64
"""Iterations of a Loop that may stand one after the other, where shapes differ between them."""


@dataclass(frozen=True)
class Iteration:
    """What one iteration of a Loop or Scan takes and gives.

    takes: the types of the body's inputs. carries: those among them that the next iteration takes, which are the first
    outputs of the node. conditions: how many outputs of the body come before those. axes: where the results that each
    iteration adds to are stacked. trips: how many iterations there are at most, None where only the run knows; ends:
    whether a condition may end them before.
    """

    takes: Sequence[onnx.TypeProto]
    carries: Sequence[onnx.TypeProto]
    conditions: int
    trips: int | None
    ends: bool = False
    axes: Sequence[int] = ()

    @staticmethod
    def of_loop(scope: Importer, node: onnx.NodeProto) -> Iteration:
        """M and a condition bound it; each may be absent (Loop 25)."""
        carries = [scope.types[name] for name in node.input[2:]]
        number, flag = (
            onnx.helper.make_tensor_type_proto(k, []) for k in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)
        )
        trips: int | None = None
        if node.input[0] in scope.lists:
            trips = scope.lists[node.input[0]].extents.reshape(-1)[0]
        elif node.input[0] and (known := scope._value_at(node.input[0], {})) is not None:
            trips = max(int(known.reshape(-1)[0]), 0)
        return Iteration([number, flag, *carries], carries, 1, trips, Iteration.may_end(scope, node))

    @staticmethod
    def may_end(scope: Importer, node: onnx.NodeProto) -> bool:
        """Whether the condition of a Loop can be false before M iterations are done."""
        body = next(a.g for a in node.attribute if a.name == "body")
        start = scope._value_at(node.input[1], {}) if len(node.input) > 1 and node.input[1] else np.asarray(True)
        makers = {name: inner for inner in body.node for name in inner.output}
        name = body.output[0].name
        while name in makers and makers[name].op_type == "Identity":
            name = makers[name].input[0]
        stays = name == body.input[1].name or any(
            i.name == name and np.all(numpy_helper.to_array(i)) for i in body.initializer
        )
        return start is None or not np.all(start) or not stays

    @staticmethod
    def of_scan(scope: Importer, node: onnx.NodeProto) -> Iteration:
        """Slices along an axis of each of the last `num_scan_inputs` inputs (Scan 25)."""
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.type != a.GRAPH}
        count = attributes["num_scan_inputs"]
        states, scanned = list(node.input[:-count]), list(node.input[-count:])
        carries, slices, extents = [scope.types[name] for name in states], [], []
        for name, axis in zip(scanned, attributes.get("scan_input_axes", [0] * count), strict=True):
            shape = list(shape_of_type(scope._tensor_type(name)))
            extents.append(shape.pop(axis))
            slices.append(scope.proto(scope.types[name].tensor_type.elem_type, shape))
        if any(extent != extents[0] for extent in extents):
            raise SofieError(f"its inputs have {', '.join(map(str, extents))} slices; all need the same number")
        axes = attributes.get("scan_output_axes", ())
        return Iteration([*carries, *slices], carries, 0, extents[0], axes=axes)

    def stacks(self, k: int) -> int:
        """The axis along which result k is stacked."""
        return self.axes[k] if self.axes else 0

    def count(self, scope: Importer, node: onnx.NodeProto) -> int:
        """How many iterations there are: a number, or a size, which the run may find. Raises UnsupportedError."""
        if self.trips is None:
            raise UnsupportedError(
                "how often it runs is known only in the run, and with it the size of a result: "
                "give M as a constant or by --set"
            )
        if not self.ends:
            return self.trips
        return cast(int, Found("trips", 0, most(self.trips)).size(scope.fresh(f"trips_{node.output[-1]}")))


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
        module = self._module(symbols, inputs, outputs)
        if self.assumed:
            _drop_unused(module)
        return module

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
        return self._type_of(self.types[name], name)

    def _type_of(self, kind: onnx.TypeProto, name: str) -> TensorType[Attribute]:
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
        label = label_of(node, index)
        op_class = op_classes().get((node.domain, node.op_type))
        if op_class is None:
            raise UnsupportedError(f"node {label!r}: operator {printable(node.op_type)} is no longer part of ONNX")
        for name in node.input:
            if name and name not in self.types:
                raise SofieError(f"node {label!r}: its input {printable(name)!r} is made by no earlier node")
        if self._fold(node):
            return
        if (node.domain, node.op_type) == ("", "If") and self._value_at(node.input[0], {}) is not None:
            self._take_branch(node)
            return
        if flex_attention.is_modified(node):
            self._inline_modifiers(node, label)
            return
        try:
            self._emit(node, op_class, label)
        except SofieError as error:
            if isinstance(error, UnsupportedError) and (trips := self._few_trips(node)) is not None:
                self._unroll(node, next(a.g for a in node.attribute if a.name == "body"), trips)
                return
            raise type(error)(f"node {label!r} ({node.op_type}): {error}") from error

    def _few_trips(self, node: onnx.NodeProto) -> int | None:
        """How often a Loop runs, where that is known, sure and not often."""
        if (node.domain, node.op_type) != ("", "Loop") or Iteration.may_end(self, node):
            return None
        trips = self._value_at(node.input[0], {}) if node.input[0] and node.input[0] not in self.lists else None
        return int(trips.reshape(-1)[0]) if trips is not None and 0 < trips.reshape(-1)[0] <= UNROLLED else None

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
        if any(name in self.assumed for name in node.input) and node.op_type not in ("Shape", "Size"):
            fixed = {name: a for name, a in zip(node.output, found, strict=False) if name and a.dtype != object}
            self.assumed.update(fixed)
            return False
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
            elif name and (known := self._value_at(name, point)) is None:
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

    def _value_at(self, name: str, point: probing.Point) -> Array | None:
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
        return self._value(name) if name else None

    def _symbols(self, node: onnx.NodeProto) -> list[Symbol]:
        """The run-time sizes that a node's inputs depend on."""
        names = [n for n in node.input if n]
        params = [d.dim_param for n in names for d in self.types[n].tensor_type.shape.dim if d.HasField("dim_param")]
        listed = [e for n in names if n in self.lists for e in self.lists[n].extents.reshape(-1)]
        return symbols_of([*(self.sizes.get(p) for p in params), *listed])

    def _emit(self, node: onnx.NodeProto, op_class: type[OnnxOp], label: str) -> None:
        node = _without_gaps(node)
        inner = self._graphs(node)
        for name, kind in ({} if inner else self._infer(node, op_class)).items():
            self.types[name] = kind
        outputs = list(node.output)
        result_types = [self._tensor_type(name) for name in outputs]
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
            return self._branches(node, graphs)
        iteration = Iteration.of_loop(self, node) if node.op_type == "Loop" else Iteration.of_scan(self, node)
        return {"body": self._body(node, graphs["body"], iteration)}

    def _scope(self, block: Block) -> Importer:
        """An importer into `block` that sees all names from here."""
        scopes = [ChainMap({}, names) for names in (self.types, self.known, self.values)]
        told = (ChainMap({}, self.lists), ChainMap({}, self.assumed))
        return Importer(self.model, {}, None, self.sizes, *told, block, *scopes)

    def _within(self, graph: onnx.GraphProto, block: Block) -> Importer:
        """What importing a graph inside this one into `block` comes to."""
        return self._scope(block)._import(graph)

    def _import(self, graph: onnx.GraphProto) -> Importer:
        scope = self
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
        picked = "then_branch" if np.all(self._value_at(node.input[0], {})) else "else_branch"
        graph = next(a.g for a in node.attribute if a.name == picked)
        scope = self._within(graph, self.block)
        self._adopt(scope, {name: o.name for name, o in zip(node.output, graph.output, strict=False)})

    def _adopt(self, scope: Importer, names: Mapping[str, str]) -> None:
        """Takes what a graph in this block has made over, by the names it has here and there."""
        for name, inner in names.items():
            if inner in scope.known:
                self._know(name, scope.known[inner])
            elif inner in scope.lists:
                self._know_sizes(name, scope.lists[inner])
            else:
                self.types[name], self.values[name] = scope.types[inner], scope.values[inner]
                if inner in scope.assumed:
                    self.assumed[name] = scope.assumed[inner]

    def _inline_modifiers(self, node: onnx.NodeProto, label: str) -> None:
        """Puts the operators and the modifier graphs that a FlexAttention is made of in its place."""
        query, key, _ = (self._tensor_type(name) for name in node.input)
        try:
            parts = flex_attention.parts(node, label, query.get_element_type(), *map(shape_of_type, (query, key)))
        except SofieError as error:
            raise type(error)(f"node {label!r} (FlexAttention): {error}") from error
        for index, part in enumerate(parts):
            if isinstance(part, onnx.NodeProto):
                self._node(part, index)
                continue
            name, graph = part.graph.input[0].name, part.graph
            seen = replace(
                self,
                types=ChainMap({name: self.types[part.given]}, self.types),
                values=ChainMap({name: self._value(part.given)}, self.values),
            )
            self._adopt(seen._within(graph, self.block), {part.result: graph.output[0].name})
            if self._tensor_type(part.result) != self._tensor_type(part.given):
                raise SofieError(f"node {label!r} (FlexAttention): its graph {part.name!r} must keep shape and type")

    def _branches(self, node: onnx.NodeProto, graphs: dict[str, onnx.GraphProto]) -> dict[str, Region]:
        """The branches of an If as regions; the types of its outputs are theirs, which must be the same."""
        regions: dict[str, Region] = {}
        found: list[list[TensorType[Attribute]]] = []
        for branch, graph in graphs.items():
            try:
                scope = self._within(graph, Block())
            except SofieError as error:
                raise type(error)(
                    f"its {branch}: {error}; if only the other branch is meant, fix the condition by --set of what it "
                    "is made of"
                ) from error
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

    def _body(self, node: onnx.NodeProto, graph: onnx.GraphProto, iteration: Iteration) -> Region:
        """The body of a Loop or Scan: its arguments have the types of one iteration, what it carries keeps its type."""
        scope = self._scope(Block())
        for value, kind in zip(graph.input, iteration.takes, strict=True):
            scope.types[value.name] = kind
            argument = scope.block.insert_arg(self._type_of(kind, value.name), len(scope.block.args))
            argument.name_hint = identifier(value.name, "carried")
            scope.values[value.name] = argument
        scope._import(graph)
        names = [output.name for output in graph.output]
        scope.block.add_op(GraphYieldOp(*(scope._value(name) for name in names)))
        given, made = names[iteration.conditions :], list(node.output)
        carried = len(iteration.carries)
        for name, output, start in zip(given, made, iteration.carries, strict=False):
            before, after = self._type_of(start, output or name), scope._tensor_type(name)
            if before != after:
                raise UnsupportedError(
                    f"it carries {printable(name)!r} in as {before} and out as {after}; let every iteration keep shape "
                    "and type"
                )
            self.types[output] = start
        for k, (name, output) in enumerate(zip(given[carried:], made[carried:], strict=False)):
            self.types[output] = self._stacked(scope.types[name], iteration.stacks(k), iteration.count(self, node))
        return Region(scope.block)

    def _stacked(self, kind: onnx.TypeProto, axis: int, count: int) -> onnx.TypeProto:
        """The type of what `count` iterations give one after the other along a new axis."""
        shape = list(shape_of_type(self._type_of(kind, "")))
        shape.insert(axis % (len(shape) + 1), count)
        return self.proto(kind.tensor_type.elem_type, shape)

    def proto(self, element: int, shape: Sequence[int]) -> onnx.TypeProto:
        """The type of a tensor whose sizes become known by name."""
        for extent in shape:
            if isinstance(extent, Size):
                self.sizes[str(extent)] = extent
        return onnx.helper.make_tensor_type_proto(element, [str(e) if isinstance(e, Size) else e for e in shape])

    def _unroll(self, node: onnx.NodeProto, graph: onnx.GraphProto, trips: int) -> None:
        """Puts the nodes of a Loop's body in its place, once an iteration."""
        label = next(n for n in node.output if n)
        carried = list(node.input[2:])
        stacked: list[list[str]] = [[] for _ in graph.output[1 + len(carried) :]]
        for trip in range(trips):
            scope = self._scope(self.block)
            scope._know(graph.input[0].name, np.asarray(trip, np.int64))
            scope._know(graph.input[1].name, np.asarray(True))
            for value, name in zip(graph.input[2:], carried, strict=True):
                scope._alias(value.name, self, name)
            scope._import(graph)
            outputs = [output.name for output in graph.output[1:]]
            names = [f"{label}#{trip}.{k}" for k in range(len(outputs))]
            for name, output in zip(names, outputs, strict=True):
                self._alias(name, scope, output)
            carried = names[: len(carried)]
            for parts, name in zip(stacked, names[len(carried) :], strict=True):
                parts.append(name)
        for output, name in zip(node.output, carried, strict=False):
            self._alias(output, self, name)
        for k, (output, parts) in enumerate(zip(node.output[len(carried) :], stacked, strict=False)):
            self._know(f"{label}#axis", np.zeros(1, np.int64))
            for part in parts:
                self._node(onnx.helper.make_node("Unsqueeze", [part, f"{label}#axis"], [f"{part}#row"]), k)
            self._node(
                onnx.helper.make_node("Concat", [f"{p}#row" for p in parts], [output], name=node.name, axis=0), k
            )

    def _alias(self, name: str, scope: Importer, other: str) -> None:
        """Lets `name` be what `other` is in a scope."""
        self.types[name] = scope.types[other]
        _entered(self.known, name, scope.known, other)
        _entered(self.lists, name, scope.lists, other)
        _entered(self.assumed, name, scope.assumed, other)
        _entered(self.values, name, scope.values, other)

    def _infer(self, node: onnx.NodeProto, op_class: type[OnnxOp]) -> dict[str, onnx.TypeProto]:
        """The types of the outputs: what inference says at every point, with sizes where the points differ."""
        symbols = self._symbols(node)
        where = probing.points(symbols)
        if (found := self._found(node)) is not None:
            return self._sized(self._infer_at(node, op_class, where[0]), dict(zip(node.output, found, strict=False)))
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

    def _found(self, node: onnx.NodeProto) -> list[list[int]] | None:
        """The shapes of a node's results where the run finds them, with a symbol for each size that is found."""
        rule = None if node.domain else FOUND.get(node.op_type)
        if rule is None:
            return None
        shapes = rule(node, [self._operand_of(name) if name else None for name in node.input])
        if shapes is None:
            return None
        label = next(n for n in node.output if n)
        made: dict[str, int] = {}

        def extent(found: int | Found) -> int:
            if not isinstance(found, Found):
                return found
            return made.setdefault(found.what, found.size(self.fresh(f"{found.what}_{label}")))

        return [[extent(e) for e in shape] for shape in shapes]

    def _operand_of(self, name: str) -> Operand:
        """What the rules of inference are told of a value."""
        sized = name in self.lists
        return Operand(shape_of_type(self._tensor_type(name)), None if sized else self._value_at(name, {}), sized)

    def fresh(self, name: str) -> str:
        """A name for a size, like `name`, that no other size has."""
        return Namer(EMITTED | {s.name for s in symbols_of(self.sizes.values())})(name, "found")

    def _sized(
        self, inferred: dict[str, onnx.TypeProto], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, onnx.TypeProto]:
        """The inferred types with these shapes, whose sizes become known by name."""
        for name, kind in inferred.items():
            kind.CopyFrom(self.proto(kind.tensor_type.elem_type, shapes[name]))
        return inferred

    def _infer_at(
        self, node: onnx.NodeProto, op_class: type[OnnxOp], point: probing.Point
    ) -> dict[str, onnx.TypeProto]:
        """The types of the outputs with numbers for all sizes."""
        names = [n for n in node.input if n]
        known = {n: self._value_at(n, point) for n in names}
        data = {n: a for n, a in known.items() if a is not None and a.size <= FOLD_ELEMENTS}
        types = {n: self._type_at(n, point) for n in names}
        if node.op_type in SCALARS:
            types = {n: onnx.helper.make_tensor_type_proto(t.tensor_type.elem_type, []) for n, t in types.items()}
            data = {n: a.reshape(()) for n, a in data.items() if a.size == 1}
        if node.domain == MICROSOFT:
            return microsoft.inferred(node, [types.get(n) for n in node.input])
        try:
            inferred = shape_inference.infer_node_outputs(
                op_class.SCHEMA,
                node,
                types,
                {n: numpy_helper.from_array(np.asarray(a), n) for n, a in data.items() if a.ndim <= 1},
                opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in DOMAINS.items()],
            )
        except Exception as error:
            raise SofieError(f"its shapes do not fit: {printable(str(error), 300)}{_at(point)}") from error
        complete(node, inferred, types, data)
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
