"""Reads If, Loop and Scan: their graphs become regions, and the types of their results follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import onnx
from onnx import numpy_helper
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, Block, Region

from sofie.dialects.onnx import GraphYieldOp
from sofie.dialects.types import shape_of_type
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.frontends.inference import Found
from sofie.naming import identifier
from sofie.sizes import most

if TYPE_CHECKING:
    from sofie.frontends.importer import Importer

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
        elif node.input[0] and (known := scope.value_at(node.input[0], {})) is not None:
            trips = max(int(known.reshape(-1)[0]), 0)
        return Iteration([number, flag, *carries], carries, 1, trips, Iteration.may_end(scope, node))

    @staticmethod
    def may_end(scope: Importer, node: onnx.NodeProto) -> bool:
        """Whether the condition of a Loop can be false before M iterations are done."""
        body = next(a.g for a in node.attribute if a.name == "body")
        start = scope.value_at(node.input[1], {}) if len(node.input) > 1 and node.input[1] else np.asarray(True)
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
            shape = list(shape_of_type(scope.tensor_type(name)))
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


def few_trips(scope: Importer, node: onnx.NodeProto) -> int | None:
    """How often a Loop runs, where that is known, sure and not often."""
    if (node.domain, node.op_type) != ("", "Loop") or Iteration.may_end(scope, node):
        return None
    trips = scope.value_at(node.input[0], {}) if node.input[0] and node.input[0] not in scope.lists else None
    return int(trips.reshape(-1)[0]) if trips is not None and 0 < trips.reshape(-1)[0] <= UNROLLED else None


def branches(scope: Importer, node: onnx.NodeProto, graphs: dict[str, onnx.GraphProto]) -> dict[str, Region]:
    """The branches of an If as regions; the types of its outputs are theirs, which must be the same."""
    regions: dict[str, Region] = {}
    found: list[list[TensorType[Attribute]]] = []
    for branch, graph in graphs.items():
        try:
            inside = scope.within(graph, Block())
        except SofieError as error:
            raise type(error)(
                f"its {branch}: {error}; if only the other branch is meant, fix the condition by --set of what it "
                "is made of"
            ) from error
        names = [output.name for output in graph.output][: len(node.output)]
        inside.block.add_op(GraphYieldOp(*(inside.value(name) for name in names)))
        found.append([inside.tensor_type(name) for name in names])
        regions[branch] = Region(inside.block)
        for name, output in zip(node.output, names, strict=True):
            scope.types[name] = inside.types[output]
    for name, *kinds in zip(node.output, *found, strict=True):
        if kinds[0] != kinds[1]:
            raise UnsupportedError(
                f"its branches give {printable(name)!r} as {kinds[0]} and as {kinds[1]}; let both give one shape "
                "and type, or fix the condition with --set NAME=VALUE"
            )
    return regions


def body(scope: Importer, node: onnx.NodeProto, graph: onnx.GraphProto, iteration: Iteration) -> Region:
    """The body of a Loop or Scan: its arguments have the types of one iteration, what it carries keeps its type."""
    inside = scope.scope(Block())
    for value, kind in zip(graph.input, iteration.takes, strict=True):
        inside.types[value.name] = kind
        argument = inside.block.insert_arg(scope.type_of(kind, value.name), len(inside.block.args))
        argument.name_hint = identifier(value.name, "carried")
        inside.values[value.name] = argument
    inside.add(graph)
    names = [output.name for output in graph.output]
    inside.block.add_op(GraphYieldOp(*(inside.value(name) for name in names)))
    given, made = names[iteration.conditions :], list(node.output)
    carried = len(iteration.carries)
    for name, output, start in zip(given, made, iteration.carries, strict=False):
        before, after = scope.type_of(start, output or name), inside.tensor_type(name)
        if before != after:
            raise UnsupportedError(
                f"it carries {printable(name)!r} in as {before} and out as {after}; let every iteration keep shape "
                "and type"
            )
        scope.types[output] = start
    grown = list(zip(given[carried:], made[carried:], strict=False))
    count = iteration.count(scope, node) if grown else 0
    for k, (name, output) in enumerate(grown):
        scope.types[output] = _stacked(scope, inside.types[name], iteration.stacks(k), count)
    return Region(inside.block)


def _stacked(scope: Importer, kind: onnx.TypeProto, axis: int, count: int) -> onnx.TypeProto:
    """The type of what `count` iterations give one after the other along a new axis."""
    shape = list(shape_of_type(scope.type_of(kind, "")))
    shape.insert(axis % (len(shape) + 1), count)
    return scope.proto(kind.tensor_type.elem_type, shape)


def unroll(scope: Importer, node: onnx.NodeProto, graph: onnx.GraphProto, trips: int) -> None:
    """Puts the nodes of a Loop's body in its place, once an iteration."""
    label = next(n for n in node.output if n)
    carried = list(node.input[2:])
    stacked: list[list[str]] = [[] for _ in graph.output[1 + len(carried) :]]
    for trip in range(trips):
        inside = scope.scope(scope.block)
        inside.know(graph.input[0].name, np.asarray(trip, np.int64))
        inside.know(graph.input[1].name, np.asarray(True))
        for value, name in zip(graph.input[2:], carried, strict=True):
            inside.alias(value.name, scope, name)
        inside.add(graph)
        outputs = [output.name for output in graph.output[1:]]
        names = [f"{label}#{trip}.{k}" for k in range(len(outputs))]
        for name, output in zip(names, outputs, strict=True):
            scope.alias(name, inside, output)
        carried = names[: len(carried)]
        for parts, name in zip(stacked, names[len(carried) :], strict=True):
            parts.append(name)
    for output, name in zip(node.output, carried, strict=False):
        scope.alias(output, scope, name)
    for k, (output, parts) in enumerate(zip(node.output[len(carried) :], stacked, strict=False)):
        scope.know(f"{label}#axis", np.zeros(1, np.int64))
        for part in parts:
            scope.node(onnx.helper.make_node("Unsqueeze", [part, f"{label}#axis"], [f"{part}#row"]), k)
        scope.node(onnx.helper.make_node("Concat", [f"{p}#row" for p in parts], [output], name=node.name, axis=0), k)
