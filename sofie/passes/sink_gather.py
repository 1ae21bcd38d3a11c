"""sink-gather: rows are multiplied by constant weights before they are repeated, not after (level 1).

    %j = Gather(%f, %edges) ; %i = Expand(%f)            64 nodes with 7 edges each
    %y = MatMul(Concat(%i, %j - %i), [%v; %w])           448 rows
    ->
    %y = MatMul(%f, %v - %w) + Gather(MatMul(%f, %w), %edges)          twice 64 rows

A product is linear in its rows: it splits along a Concat of columns, passes into sums and differences, and what repeats
rows (a Gather of whole rows, an Expand) may come after it. This is the first layer of a graph network, computed per
node instead of per edge. The weights are added in float64.

Declines where that is no less work; for 16-bit floats, whose products would be rounded in between; and where a
difference could lose more digits than before: what it is taken of has to reach the result directly as well, with
weights that are on average at least `1 / max_growth` of those that it has afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects.builtin import Float32Type, Float64Type, ModuleOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass

from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.sofie import WeightOp
from sofie.dialects.types import element_of, numpy_dtype, shape_of, tensor
from sofie.rewrite import replace
from sofie.sizes import Size, broadcast, most

Floats = npt.NDArray[np.float64]

DEEPEST = 4
"""How many joins, sums and differences are looked through."""

PASS = 8
"""Operations that reading an element of one more summand takes the time of."""


@dataclass(frozen=True)
class SinkGather(ModulePass):
    """Splits products where it pays; `max_growth` is how much larger the weights may become."""

    name: ClassVar[str] = "sink-gather"

    max_growth: int = 4

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for product in [o for o in op.walk() if isinstance(o, OnnxOp) and o.operator == "MatMul"]:
            terms = _terms_of(product)
            if terms is not None and _pays(product, terms) and _is_as_exact(terms, self.max_growth):
                _rewrite(product, terms)


@dataclass(frozen=True)
class Term:
    """Rows times weights (columns, outputs); `direct` if no sum or difference stood in between."""

    rows: SSAValue
    weights: Floats
    direct: bool

    @property
    def source(self) -> SSAValue:
        """The rows before they are repeated; the rows themselves where they are not."""
        repeat = _repeat(self.rows)
        source = None if repeat is None else repeat.inputs[0]
        return self.rows if source is None else source


def _operator(value: SSAValue) -> OnnxOp | None:
    return value.owner if isinstance(value.owner, OnnxOp) else None


def _repeat(value: SSAValue) -> OnnxOp | None:
    """The op that makes `value` of whole rows of another tensor."""
    op = _operator(value)
    if op is None or op.operator not in ("Gather", "Expand"):
        return None
    source = op.inputs[0]
    if source is None or not shape_of(source) or shape_of(source)[-1] != shape_of(value)[-1]:
        return None
    rank = len(shape_of(source))
    if op.operator == "Gather" and op.integer("axis") % rank == rank - 1:
        return None
    return op


def _terms_of(product: OnnxOp) -> list[Term] | None:
    """The summands of a product, those of equal rows merged within each kind; None where it is none of ours."""
    rows, stored = product.inputs
    if rows is None or stored is None or not isinstance(stored.owner, WeightOp):
        return None
    if not isinstance(element_of(rows), Float32Type | Float64Type) or len(shape_of(stored)) != 2:
        return None
    if len(shape_of(rows)) < 2 or any(e == 0 for e in shape_of(rows)):
        return None
    return _terms(rows, stored.owner.blob.value.astype(np.float64), True, DEEPEST)


def _terms(value: SSAValue, weights: Floats, direct: bool, depth: int) -> list[Term]:
    op, width = _operator(value), weights.shape[0]
    if op is None or depth == 0:
        return [Term(value, weights, direct)]
    parts = [v for v in op.inputs if v is not None]
    if op.operator == "Concat" and op.integer("axis") % len(shape_of(value)) == len(shape_of(value)) - 1:
        ends = np.cumsum([shape_of(v)[-1] for v in parts])
        pieces = np.split(weights, ends[:-1])
        return [t for v, w in zip(parts, pieces, strict=True) for t in _terms(v, w, direct, depth - 1)]
    whole = all(shape_of(v) and shape_of(v)[-1] == width for v in parts)
    if op.operator in ("Add", "Sub") and whole:
        second = weights if op.operator == "Add" else -weights
        return [t for v, w in zip(parts, (weights, second), strict=True) for t in _terms(v, w, False, depth - 1)]
    return [Term(value, weights, direct)]


def _merged(terms: Sequence[Term]) -> list[Term]:
    """Terms of the same rows become one."""
    found: dict[SSAValue, Term] = {}
    for term in terms:
        known = found.get(term.rows)
        total = term.weights if known is None else known.weights + term.weights
        found[term.rows] = Term(term.rows, total, term.direct)
    return list(found.values())


def _rows(value: SSAValue) -> int:
    return math.prod(most(e) for e in shape_of(value)[:-1])


def _pays(product: OnnxOp, terms: Sequence[Term]) -> bool:
    """Whether the products of the rows before they are repeated, and a pass over their sum, are less work."""
    merged = _merged(terms)
    if all(_repeat(t.rows) is None for t in merged):
        return False
    shape = shape_of(product.results[0])
    if any(isinstance(e, Size) for e in shape) and all(_is_smaller(t, shape) for t in merged):
        return False  # the sum would have to be expanded to extents that only the run knows
    rows, outputs = product.inputs[0], shape[-1]
    assert rows is not None
    before = 2 * _rows(rows) * shape_of(rows)[-1] * outputs
    after = sum(2 * _rows(t.source) * t.weights.size for t in merged) + PASS * len(merged) * _rows(rows) * outputs
    return after < before


def _is_smaller(term: Term, shape: Sequence[int]) -> bool:
    """Whether the product of a term, as it is added, has fewer elements than the result."""
    repeat = _repeat(term.rows)
    return (repeat is not None and repeat.operator == "Expand") or shape_of(term.rows)[:-1] != shape[:-1]


def _is_as_exact(terms: Sequence[Term], growth: int) -> bool:
    """Whether the tensors of which differences are taken have comparable weights without them."""
    origins = {_origin(t.rows) for t in terms if not t.direct}
    for origin in origins:
        mine = [t for t in terms if _origin(t.rows) is origin]
        direct = sum(np.abs(t.weights).sum() for t in mine if t.direct)
        after = sum(np.abs(t.weights).sum() for t in _merged(mine))
        if after > growth * direct:
            return False
    return True


def _origin(value: SSAValue) -> SSAValue:
    """The tensor whose elements `value` repeats or arranges."""
    op = _operator(value)
    while op is not None and op.operator in ("Gather", "Expand", "Unsqueeze", "Identity") and op.inputs[0] is not None:
        value = op.inputs[0]
        op = _operator(value)
    return value


@dataclass
class _Builder:
    """Collects the new ops."""

    element: Attribute
    name: str
    ops: list[Operation]

    def weight(self, array: npt.NDArray[np.generic], hint: str) -> SSAValue:
        op = WeightOp.of(f"{self.name} {hint}", array)
        self.ops.append(op)
        return op.result

    def onnx(self, operator: str, operands: Sequence[SSAValue], shape: Sequence[int], like: OnnxOp | None) -> SSAValue:
        """An op with the attributes of `like`."""
        given = {} if like is None else like.attributes_given()
        op = op_classes()["", operator].from_positions(operands, [tensor(self.element, shape)], given)
        self.ops.append(op)
        return op.results[0]

    def term(self, term: Term) -> SSAValue:
        """The product of the rows before they are repeated; an Expand is left to what adds it."""
        source, outputs = term.source, term.weights.shape[1]
        weights = self.weight(term.weights.astype(numpy_dtype(self.element)), "part")
        product = self.onnx("MatMul", [source, weights], [*shape_of(source)[:-1], outputs], None)
        repeat = _repeat(term.rows)
        if repeat is None or repeat.operator == "Expand":
            return product
        indices = repeat.inputs[1]
        assert indices is not None
        return self.onnx("Gather", [product, indices], [*shape_of(term.rows)[:-1], outputs], repeat)

    def add(self, a: SSAValue, b: SSAValue) -> SSAValue:
        return self.onnx("Add", [a, b], broadcast(shape_of(a), shape_of(b)), None)


def _rewrite(product: OnnxOp, terms: Sequence[Term]) -> None:
    shape = shape_of(product.results[0])
    stored = product.inputs[1]
    assert stored is not None and isinstance(stored.owner, WeightOp)
    build = _Builder(element_of(product.results[0]), stored.owner.weight_name.data, [])
    total: SSAValue | None = None
    for term in _merged(terms):
        value = build.term(term)
        total = value if total is None else build.add(total, value)
    assert total is not None
    if shape_of(total) != shape:
        extents = build.weight(np.array(shape, np.int64), "shape")
        total = build.onnx("Expand", [total, extents], shape, None)
    replace(product, build.ops, [total])
