"""What operators of other domains are made of: a body of ONNX's own operators for each.

A body is written for one node: attributes and absent operands are known, so that it is plain text. Types and shapes of
the results follow from it, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import shape_inference

from sofie.dialects import microsoft, qonnx
from sofie.dialects.vendors import TABLES
from sofie.errors import UnsupportedError

OPSET = 28


class Node:
    """A node while its body is written, a line at a time; operands have the names of the schema."""

    def __init__(self, node: onnx.NodeProto, types: Sequence[onnx.TypeProto | None]) -> None:
        row = TABLES[node.domain][node.op_type]
        self.operator = node.op_type
        self.formals = [text.split(":")[0].rstrip("?") for text in row.inputs.split()]
        self.results = [text.split(":")[0].rstrip("?") for text in row.outputs.split()]
        self.wanted = set(self.results[: len(node.output)])
        self.types = {
            n: t for n, t in zip(self.formals, types, strict=False) if t is not None and t.WhichOneof("value")
        }
        defaults = {k: v for k, v in row.attributes.items() if not isinstance(v, type)}
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.attributes: dict[str, Any] = defaults | {
            k: v.decode() if isinstance(v, bytes) else v for k, v in given.items()
        }
        self.lines: list[str] = []

    def has(self, name: str) -> bool:
        """Whether an operand is there."""
        return name in self.types

    def kind(self, name: str) -> int:
        """The element type of an operand."""
        return int(self.types[name].tensor_type.elem_type)

    def shape(self, name: str) -> list[int]:
        """The shape of an operand, 0 where an extent is no number."""
        return [d.dim_value for d in self.types[name].tensor_type.shape.dim]

    def refuse(self, *names: str) -> None:
        """Raises UnsupportedError where one of these operands is there."""
        for name in names:
            if self.has(name):
                raise UnsupportedError(f"its operand {name!r} is not supported; export the model without it")

    def __call__(self, operator: str, *operands: str, result: str = "", **attributes: Any) -> str:
        """One line; the name of its result, which is new where none is given."""
        result = result or f"t{len(self.lines)}"
        text = ", ".join(f"{k} = {spelled(v)}" for k, v in attributes.items())
        self.lines.append(f"{result} = {operator} {f'<{text}>' if text else ''} ({', '.join(operands)})")
        return result

    def constant(self, value: Any) -> str:
        """A number or a list of them."""
        kind = {(True, float): "value_floats", (True, int): "value_ints", (False, float): "value_float"}
        is_list = isinstance(value, list)
        first = value[0] if is_list else value
        return self("Constant", **{kind.get((is_list, type(first)), "value_int"): value})

    def number(self, value: float, like: str) -> str:
        """A number of the type of an operand."""
        return self("CastLike", self.constant(float(value)), like)

    def _made(self) -> set[str]:
        return {name.strip() for line in self.lines for name in line.split("=")[0].split(",")}

    def split(self, x: str, sizes: list[int], axis: int = 2) -> list[str]:
        """Parts of these sizes along an axis."""
        names = [f"part{len(self.lines)}_{k}" for k in range(len(sizes))]
        given = self.constant(sizes)
        self.lines.append(f"{', '.join(names)} = Split <axis = {axis}> ({x}, {given})")
        return names

    def function(self) -> onnx.FunctionProto:
        """The body."""
        unmade = [n for n in self.results if n in self.wanted and n not in self._made()]
        if unmade:
            raise UnsupportedError(f"its result {unmade[0]!r} is not supported; export the model without it")
        results = [n for n in self.results if n in self.wanted]
        head = f'<domain: "sofie.body", opset_import: ["" : {OPSET}]>'
        made = f"{head} {self.operator} ({', '.join(self.formals)}) => ({', '.join(results)}) {{ "
        return onnx.parser.parse_function(made + "\n".join(self.lines) + " }")


def spelled(value: Any) -> str:
    """A value of an attribute as ONNX's text has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(spelled, value))}]"
    if isinstance(value, float):
        return repr(value) if "e" in repr(value) or "." in repr(value) else f"{value}.0"
    return f'"{value}"' if isinstance(value, str) else str(value)


_MODULES = {microsoft.DOMAIN: "microsoft", qonnx.DOMAIN: "qonnx"}


def bodies(domain: str) -> Mapping[str, Callable[[Node], None]]:
    """What writes the body of each operator of a domain."""
    written: Mapping[str, Callable[[Node], None]] = importlib.import_module(
        f"sofie.frontends.{_MODULES[domain]}"
    ).BODIES
    return written


def body(node: onnx.NodeProto, types: Sequence[onnx.TypeProto | None]) -> onnx.FunctionProto:
    """The body of a node whose operands have these types (None, or empty: absent); raises SofieError."""
    written = Node(node, types)
    bodies(node.domain)[node.op_type](written)
    return written.function()


def inferred(node: onnx.NodeProto, types: Sequence[onnx.TypeProto | None]) -> dict[str, onnx.TypeProto]:
    """The types of the results of a node, by name."""
    function = body(node, types)
    given = [onnx.TypeProto() if t is None else t for t in types]
    given += [onnx.TypeProto()] * (len(function.input) - len(given))
    made = shape_inference.infer_function_output_types(function, given, [])
    return {name: kind for name, kind in zip(node.output, made, strict=False) if name}
