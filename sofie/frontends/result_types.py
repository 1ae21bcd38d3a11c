"""The types of a node's results: ONNX's inference, asked at several values of each size, and rules of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from sofie.dialects.onnx import DOMAINS, OnnxOp
from sofie.dialects.types import shape_of_type
from sofie.dialects.vendors import TABLES
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.frontends import bodies, probing
from sofie.frontends.inference import FOUND, SCALARS, Found, complete
from sofie.frontends.shapes import Operand
from sofie.sizes import Size

if TYPE_CHECKING:
    from sofie.frontends.importer import Importer

FOLD_ELEMENTS = 4096
"""A node is evaluated while importing when neither its inputs nor its results have more elements than this."""


def infer(scope: Importer, node: onnx.NodeProto, op_class: type[OnnxOp]) -> dict[str, onnx.TypeProto]:
    """The types of the outputs: what inference says at every point, with sizes where the points differ."""
    symbols = scope.symbols(node)
    where = probing.points(symbols)
    if (found := _found(scope, node)) is not None:
        return _sized(scope, _infer_at(scope, node, op_class, where[0]), dict(zip(node.output, found, strict=False)))
    answers = [_infer_at(scope, node, op_class, point) for point in where]
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
                scope.sizes[str(extent)] = extent
    return answers[0]


def _found(scope: Importer, node: onnx.NodeProto) -> list[list[int]] | None:
    """The shapes of a node's results where the run finds them, with a symbol for each size that is found."""
    rule = None if node.domain else FOUND.get(node.op_type)
    if rule is None:
        return None
    shapes = rule(node, [_operand_of(scope, name) if name else None for name in node.input])
    if shapes is None:
        return None
    label = next(n for n in node.output if n)
    made: dict[str, int] = {}

    def extent(found: int | Found) -> int:
        if not isinstance(found, Found):
            return found
        return made.setdefault(found.what, found.size(scope.fresh(f"{found.what}_{label}")))

    return [[extent(e) for e in shape] for shape in shapes]


def _operand_of(scope: Importer, name: str) -> Operand:
    """What the rules of inference are told of a value."""
    sized = name in scope.lists
    return Operand(shape_of_type(scope.tensor_type(name)), None if sized else scope.value_at(name, {}), sized)


def _sized(
    scope: Importer, inferred: dict[str, onnx.TypeProto], shapes: Mapping[str, Sequence[int]]
) -> dict[str, onnx.TypeProto]:
    """The inferred types with these shapes, whose sizes become known by name."""
    for name, kind in inferred.items():
        kind.CopyFrom(scope.proto(kind.tensor_type.elem_type, shapes[name]))
    return inferred


def _infer_at(
    scope: Importer, node: onnx.NodeProto, op_class: type[OnnxOp], point: probing.Point
) -> dict[str, onnx.TypeProto]:
    """The types of the outputs with numbers for all sizes."""
    names = [n for n in node.input if n]
    known = {n: scope.value_at(n, point) for n in names}
    data = {n: a for n, a in known.items() if a is not None and a.size <= FOLD_ELEMENTS}
    types = {n: _type_at(scope, n, point) for n in names}
    if node.op_type in SCALARS:
        types = {n: onnx.helper.make_tensor_type_proto(t.tensor_type.elem_type, []) for n, t in types.items()}
        data = {n: a.reshape(()) for n, a in data.items() if a.size == 1}
    try:
        if node.domain in TABLES:
            return bodies.inferred(node, [types.get(n) for n in node.input])
        inferred = shape_inference.infer_node_outputs(
            op_class.SCHEMA,
            node,
            types,
            {n: numpy_helper.from_array(np.asarray(a), n) for n, a in data.items() if a.ndim <= 1},
            opset_imports=[onnx.helper.make_opsetid(d, v) for d, v in DOMAINS.items()],
        )
    except SofieError:
        raise
    except Exception as error:
        raise SofieError(f"its shapes do not fit: {printable(str(error), 300)}{_at(point)}") from error
    complete(node, inferred, types, data)
    missing = [n for n in node.output if n and n not in inferred]
    if missing:
        raise UnsupportedError(f"the type of its output {printable(missing[0])!r} cannot be inferred")
    return inferred


def _type_at(scope: Importer, name: str, point: probing.Point) -> onnx.TypeProto:
    kind = scope.types[name]
    if not point:
        return kind
    numbers = onnx.TypeProto()
    numbers.CopyFrom(kind)
    for dim in numbers.tensor_type.shape.dim:
        if dim.dim_param in scope.sizes:
            dim.dim_value = scope.sizes[dim.dim_param].at(point)
    return numbers


def _at(point: probing.Point) -> str:
    """At which sizes something happened, for the end of a sentence."""
    return f" at {', '.join(f'{name}={number}' for name, number in point.items())}" if point else ""
