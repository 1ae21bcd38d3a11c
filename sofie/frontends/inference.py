"""Shapes that ONNX's own inference leaves open: those that follow from the operands, and those that the run finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from sofie.frontends import ml
from sofie.frontends.shapes import Operand, Rule, Shape, as_first, attribute
from sofie.frontends.shapes import shape as shape_of_operand
from sofie.sizes import Size, most
from sofie.weights import Array


def _gathered(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape | None:
    """One element, or slice, of the data for every row of the indices."""
    data, indices = operands[:2]
    assert data is not None and indices is not None
    return [*indices.shape[:-1], *data.shape[attribute(node, "batch_dims", 0) + indices.shape[-1] :]]


def _unpooled(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape | None:
    """The shape asked for."""
    wanted = operands[2] if len(operands) > 2 else None
    return None if wanted is None else wanted.numbers()


def _frames(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape | None:
    """A spectrum for every frame: as long as asked for, as the window, or as the signal."""
    signal, step, window, length = [*operands, None, None][:4]
    assert signal is not None and step is not None
    steps, given = step.numbers(), None if length is None else length.numbers()
    if steps is None or (length is not None and given is None):
        return None
    batch, extent = signal.shape[:2]
    size = given[0] if given else window.shape[0] if window else extent
    bins = size // 2 + 1 if attribute(node, "onesided", 1) else size
    return [batch, (extent - size) // steps[0] + 1, bins, 2]


def _apart(node: onnx.NodeProto, operands: Sequence[Operand | None], index: int, name: str) -> Shape:
    """(batch, heads, steps, size) of an operand of Attention, whose heads may be joined in its last axis."""
    shape = shape_of_operand(operands, index)
    if len(shape) == 4:
        return shape
    heads = attribute(node, name, 1)
    return [shape[0], heads, shape[1], shape[2] // heads]


def _present(index: int) -> Rule:
    """The cached keys or values and the new ones."""

    def rule(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape | None:
        batch, heads, steps, size = _apart(node, operands, index, "kv_num_heads")
        past = operands[index + 3] if len(operands) > index + 3 else None
        return [batch, heads, steps + (0 if past is None else past.shape[2]), size]

    return rule


def _scores(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape:
    """(batch, heads of the query, queries, cached keys and new ones)."""
    keys = _present(1)(node, operands)
    assert keys is not None
    return [*_apart(node, operands, 0, "q_num_heads")[:3], keys[2]]


def _steps(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape | None:
    """How many numbers there are from start to limit; ONNX infers no floats of 16 bits."""
    values = [None if operand is None or operand.value is None else float(operand.value) for operand in operands[:3]]
    if any(value is None for value in values):
        return None
    start, limit, delta = (value for value in values if value is not None)
    return [max(math.ceil((limit - start) / delta), 0)] if delta else None


RULES: dict[tuple[str, int], Rule] = {
    ("Attention", 1): _present(1),
    ("Attention", 2): _present(2),
    ("Attention", 3): _scores,
    ("GatherND", 0): _gathered,
    ("GroupNormalization", 0): as_first,
    ("MaxUnpool", 0): _unpooled,
    ("MeanVarianceNormalization", 0): as_first,
    ("Range", 0): _steps,
    ("STFT", 0): _frames,
}
"""The shape of a result by its operator and place, from the node and its operands (None: absent); None: not known."""

DOMAIN_RULES = {"": RULES, ml.DOMAIN: ml.RULES}
"""The rules of each domain."""

OVERRULED = frozenset({"STFT", "SVMClassifier"})
"""Operators whose rule stands above ONNX's inference.

STFT without `onesided` is inferred as if that were 0, and SVMClassifier as if it gave a score for each class.
"""


SCALARS = frozenset({"Range"})
"""Operators whose operands are scalars, which many models give as tensors of one element; inference is strict there."""


def complete(
    node: onnx.NodeProto,
    inferred: Mapping[str, onnx.TypeProto],
    known: Mapping[str, onnx.TypeProto],
    data: Mapping[str, Array],
) -> None:
    """Gives results their shapes where a rule here knows better, by the types and values of the operands."""
    operands = [
        Operand([d.dim_value for d in known[name].tensor_type.shape.dim], data.get(name)) if name else None
        for name in node.input
    ]
    for place, name in enumerate(node.output):
        rule, result = DOMAIN_RULES.get(node.domain, {}).get((node.op_type, place)), inferred.get(name)
        if rule is None or result is None:
            continue
        if _is_complete(result) and node.op_type not in OVERRULED:
            continue
        shape = rule(node, operands)
        if shape is not None:
            result.CopyFrom(onnx.helper.make_tensor_type_proto(result.tensor_type.elem_type, list(shape)))


def _is_complete(kind: onnx.TypeProto) -> bool:
    dims = kind.tensor_type.shape.dim
    return kind.tensor_type.HasField("shape") and all(d.WhichOneof("value") for d in dims)


# -- sizes that the run finds ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """An extent that depends on data: what it counts, and its bounds."""

    what: str
    low: int
    high: int

    def size(self, name: str) -> Any:
        """The size of a new symbol, or a number where the bounds leave only one."""
        return Size.named(name, self.low, self.high) if self.low < self.high else self.low


FoundRule = Callable[[onnx.NodeProto, Sequence[Operand | None]], Sequence[Sequence[int | Found]] | None]


def _nonzero(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> list[list[int | Found]]:
    """A column of coordinates for every element that is not zero (NonZero 13)."""
    shape = shape_of_operand(operands, 0)
    return [[len(shape), Found("found", 0, math.prod(map(most, shape)))]]


def _compress(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> list[list[int | Found]]:
    """The slices along an axis, or elements, whose condition holds (Compress 11)."""
    shape, (conditions,) = shape_of_operand(operands, 0), shape_of_operand(operands, 1)
    axis = attribute(node, "axis", None)
    whole = math.prod(map(most, shape)) if axis is None else most(shape[axis])
    kept = Found("kept", 0, min(whole, most(conditions)))
    return [[kept]] if axis is None else [[kept if a == axis % len(shape) else e for a, e in enumerate(shape)]]


def _unique(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> list[list[int | Found]]:
    """Elements, or slices along an axis, each once; where each was first and is now; how often (Unique 11)."""
    shape = shape_of_operand(operands, 0)
    axis = attribute(node, "axis", None)
    whole: int = math.prod(shape) if axis is None else shape[axis]
    unique = Found("unique", min(1, most(whole)), most(whole))
    values = [unique] if axis is None else [unique if a == axis % len(shape) else e for a, e in enumerate(shape)]
    return [list(values), [unique], [whole], [unique]]


def _boxes(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> list[list[int | Found]]:
    """A row (batch, class, box) for every box that is kept (NonMaxSuppression 11)."""
    batches, classes, boxes = map(most, shape_of_operand(operands, 1))
    limit = operands[2] if len(operands) > 2 else None
    numbers = [0] if limit is None else limit.numbers()
    each = boxes if numbers is None else min(boxes, max(numbers[0], 0))
    return [[Found("selected", 0, batches * classes * each), 3]]


def _sliced(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> list[list[int | Found]] | None:
    """What lies between starts and ends, at most all (Slice 13)."""
    data, starts, ends, axes, steps = [*operands, None, None][:5]
    assert data is not None and starts is not None and ends is not None
    if not (starts.late or ends.late) or (axes is not None and axes.value is None):
        return None
    count = starts.shape[0]
    numbers = list(range(count)) if axes is None else axes.numbers() or []
    by = [1] * count if steps is None else steps.numbers()
    shape: list[int | Found] = list(data.shape)
    for k, axis in enumerate(numbers):
        extent = most(data.shape[axis])
        step = abs(by[k]) if by else 1
        shape[axis] = Found(f"slice{axis % len(shape)}", 0, -(-extent // max(step, 1)))
    return [shape]


def _best(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> list[list[int | Found]] | None:
    """The k best of an axis, at most all (TopK 24)."""
    data, count = operands[:2]
    assert data is not None and count is not None
    if not count.late:
        return None
    shape: list[int | Found] = list(data.shape)
    axis = attribute(node, "axis", -1)
    shape[axis] = Found("best", 0, most(data.shape[axis]))
    return [shape, shape]


FOUND: dict[str, FoundRule] = {
    "Compress": _compress,
    "NonMaxSuppression": _boxes,
    "NonZero": _nonzero,
    "Slice": _sliced,
    "TopK": _best,
    "Unique": _unique,
}
"""The shapes of all results from the node and its operands, whose shapes may hold sizes of the run; None: not found."""
