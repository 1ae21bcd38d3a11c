"""What rules of inference are written with: what is known of a node's operands, and its attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from sofie.weights import Array

Shape = Sequence[int]


@dataclass(frozen=True)
class Operand:
    """What is known of an operand: its shape, and its value where that is constant or (sized) made of sizes."""

    shape: Shape
    value: Array | None
    sized: bool = False

    @property
    def late(self) -> bool:
        """Whether only the run knows its value."""
        return self.value is None and not self.sized

    def numbers(self) -> list[int] | None:
        """The value as a list of integers."""
        return None if self.value is None else [int(v) for v in self.value.reshape(-1)]


Rule = Callable[[onnx.NodeProto, Sequence[Operand | None]], Shape | None]
"""From a node and its operands (None: absent) to the shape of one of its results; None where that is not known."""


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute of the node, or `default`."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def shape(operands: Sequence[Operand | None], k: int) -> Shape:
    """The shape of an operand that is there."""
    operand = operands[k]
    assert operand is not None
    return operand.shape


def as_first(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape | None:
    """The shape of the first operand."""
    return operands[0].shape if operands[0] else None
