"""Linear models and support vector machines of ai.onnx.ml: products with coefficients, kernels, votes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import f32, f64, i1, i64
from xdsl.ir import Attribute, SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.passes.lower_onnx.scores import (
    best_label,
    class_labels,
    either_label,
    logistic,
    post_transform,
    rows,
    two_scores,
)
from sofie.passes.lower_onnx.sequential import Walk, kernel
from sofie.sizes import Size
from sofie.structured import dims_map

ML = "ai.onnx.ml"

MOST_FACTORS = 64
"""The largest degree of a polynomial kernel."""

Matrix = NDArray[np.float64]


def _times(build: Lowering, x: SSAValue, matrix: Matrix, start: Sequence[float], name: str) -> SSAValue:
    """x (N, F) times the transposed matrix (M, F), plus `start`, one number or M of them: (N, M)."""
    kind = element_of(x)
    weights = build.weight(name, matrix.astype(numpy_dtype(kind)))
    shape = [shape_of(x)[0], len(matrix)]
    if any(start):
        row = np.broadcast_to(np.array(start), len(matrix)).astype(numpy_dtype(kind))
        begin = build.copy(build.broadcast(build.weight(f"{name} start", row), shape))
    else:
        begin = build.fill(0, shape, kind)
    return build.contract(x, weights, begin, [dims_map(3, [0, 2]), dims_map(3, [1, 2]), dims_map(3, [0, 1])], [2])


def _as(build: Lowering, x: SSAValue, kind: Attribute) -> SSAValue:
    return x if element_of(x) == kind else build.elementwise(lambda s, v: s.cast(v, kind), x, element=kind)


def _as_float(build: Lowering, x: SSAValue) -> SSAValue:
    return _as(build, x, f32)


def _matrix(values: Sequence[float], columns: int, name: str) -> Matrix:
    if isinstance(columns, Size):
        raise UnsupportedError(f"its {len(values)} {name} fit one number of features only; give it as --dim")
    if not values or len(values) % columns:
        raise SofieError(f"its {len(values)} {name} are no rows of {columns}")
    return np.array(values, np.float64).reshape(-1, columns)


def _of_one(build: Lowering, score: SSAValue, transform: str) -> SSAValue:
    """A score that stands alone: ONNX Runtime leaves it as it is, but for PROBIT."""
    return post_transform(build, score, transform if transform == "PROBIT" else "NONE")


def _one_minus(s: Scalars, v: SSAValue) -> SSAValue:
    return s.sub(s.constant(1, v.type), v)


# -- linear models -----------------------------------------------------------------------------------------------------


@lowers("LinearRegressor", domain=ML)
def linear_regressor(op: OnnxOp, build: Lowering) -> SSAValue:
    """x coefficients' + intercepts: (N, targets) (LinearRegressor 1)."""
    x, transform = rows(build), op.string("post_transform")
    matrix = _matrix(op.reals("coefficients"), shape_of(x)[1], "coefficients")
    y = _as_float(build, _times(build, x, matrix, op.reals("intercepts"), "coefficients"))
    return post_transform(build, y, transform) if len(matrix) > 1 else _of_one(build, y, transform)


@lowers("LinearClassifier", domain=ML, limits="labels that are strings become the index of the class")
def linear_classifier(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """The label (N) of the best of the scores x coefficients' + intercepts (N, classes) (LinearClassifier 1).

    One score z for two classes means the second above 0; the scores are (1 - z, z), under SOFTMAX too, and after
    LOGISTIC those of (-z, z): what ONNX leaves open is as in ONNX Runtime.
    """
    x, labels, transform = rows(build), class_labels(op), op.string("post_transform")
    matrix = _matrix(op.reals("coefficients"), shape_of(x)[1], "coefficients")
    scores = _as_float(build, _times(build, x, matrix, op.reals("intercepts"), "coefficients"))
    if len(matrix) > 1:
        labels = labels or list(range(len(matrix)))
        return [best_label(build, scores, labels), post_transform(build, scores, transform)]
    label = either_label(build, scores, 0.0, labels if len(labels) == 2 else (0, 1))
    if len(labels) != 2:
        return [label, _of_one(build, scores, transform)]
    if transform == "LOGISTIC":
        return [label, two_scores(build, scores, lambda s, v: logistic(s, s.neg(v)), logistic)]
    return [label, _of_one(build, two_scores(build, scores, _one_minus), transform)]


# -- support vector machines -------------------------------------------------------------------------------------------


def _kernel(op: OnnxOp, build: Lowering, x: SSAValue, vectors: Matrix) -> SSAValue:
    """The kernel of each row of x (N, F) with each support vector (M, F): (N, M), in float64 for sums that cancel."""
    return _as(build, _in_own_type(op, build, x, vectors), f64)


def _in_own_type(op: OnnxOp, build: Lowering, x: SSAValue, vectors: Matrix) -> SSAValue:
    name, (gamma, shift, degree) = op.string("kernel_type"), (*op.reals("kernel_params"), 0.0, 0.0, 0.0)[:3]
    kind = element_of(x)
    if name == "RBF":
        table = build.weight("support vectors", vectors.astype(numpy_dtype(kind)))

        def fn(s: Scalars, args: Sequence[SSAValue]) -> list[SSAValue]:
            apart = s.sub(args[0], args[1])
            return [s.add(args[2], s.mul(apart, apart))]

        maps = [dims_map(3, [0, 2]), dims_map(3, [1, 2]), dims_map(3, [0, 1])]
        start = build.fill(0, [shape_of(x)[0], len(vectors)], kind)
        distance = build.generic([x, table], [start], maps, fn, [2])[0]
        return build.elementwise(lambda s, d: s.unary("exp", s.mul(s.constant(-gamma, kind), d)), distance)
    product = _times(build, x, vectors, (), "support vectors")

    def affine(s: Scalars, v: SSAValue) -> SSAValue:
        return s.add(s.mul(s.constant(gamma, kind), v), s.constant(shift, kind))

    def power(s: Scalars, v: SSAValue) -> SSAValue:
        result, base = s.constant(1, kind), affine(s, v)
        for _ in range(int(degree)):
            result = s.mul(result, base)
        return result

    kernels: dict[str, Callable[[Scalars, SSAValue], SSAValue]] = {
        "LINEAR": lambda s, v: v,
        "POLY": power,
        "SIGMOID": lambda s, v: s.unary("tanh", affine(s, v)),
    }
    if name not in kernels:
        raise UnsupportedError(f"kernel {printable(name)!r} is not one of {', '.join([*kernels, 'RBF'])}")
    if name == "POLY" and not (degree == int(degree) and 0 <= degree <= MOST_FACTORS):
        raise UnsupportedError(f"the degree {degree:g} of its kernel must be a whole number up to {MOST_FACTORS}")
    return product if name == "LINEAR" else build.elementwise(kernels[name], product)


@lowers("SVMRegressor", domain=ML)
def svm_regressor(op: OnnxOp, build: Lowering) -> SSAValue:
    """Coefficients times kernels plus rho (N, 1); its sign as 1 and -1 for a model of one class (SVMRegressor 1)."""
    x, coefficients, count = rows(build), op.reals("coefficients"), op.integer("n_supports")
    if count:
        features = shape_of(x)[1]
        vectors = _matrix(op.reals("support_vectors"), features, "elements of support vectors")
        x = _kernel(op, build, x, vectors)
    matrix = _matrix(coefficients, shape_of(x)[1], "coefficients")
    y = _as_float(build, _times(build, x, matrix[:1], op.reals("rho")[:1], "coefficients"))
    if not op.integer("one_class"):
        return _of_one(build, y, op.string("post_transform"))

    def sign(s: Scalars, v: SSAValue) -> SSAValue:
        return s.select(s.compare("gt", v, s.constant(0, v.type)), s.constant(1, v.type), s.constant(-1, v.type))

    return build.elementwise(sign, y)


@lowers("SVMClassifier", domain=ML, limits="labels that are strings become the index of the class")
def svm_classifier(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """The label (N) of the class with most votes of the machines for pairs of classes, and scores (SVMClassifier 1).

    The scores (N, E) are probabilities where the model has them (E classes), else what each machine says (E pairs; two
    classes have one machine, whose z is (-z, z), after LOGISTIC too, and (1 - z, z) under SOFTMAX as in ONNX Runtime).
    Without support vectors there is a score for each class.
    """
    x, labels, transform = rows(build), class_labels(op), op.string("post_transform")
    if not op.ints("vectors_per_class"):
        return _one_for_each(op, build, x, labels)
    machines = _machines(op, build, x, len(labels))
    votes = _votes(build, machines, len(labels))
    label = best_label(build, votes, labels)
    if op.reals("prob_a"):
        probabilities = _as_float(build, _probabilities(op, build, machines, len(labels)))
        return [label, post_transform(build, probabilities, transform)]
    scores = _as_float(build, machines)
    if len(labels) != 2:
        return [label, post_transform(build, scores, transform)]
    if transform in ("NONE", "LOGISTIC"):
        return [label, post_transform(build, two_scores(build, scores, Scalars.neg), transform)]
    return [label, _of_one(build, two_scores(build, scores, _one_minus), transform)]


def _one_for_each(op: OnnxOp, build: Lowering, x: SSAValue, labels: list[int]) -> list[SSAValue]:
    """A linear score for each class; between two, a large one speaks for the second, as in ONNX Runtime."""
    coefficients = _matrix(op.reals("coefficients"), shape_of(x)[1], "coefficients")
    scores = _as_float(build, _times(build, x, coefficients, op.reals("rho")[:1], "coefficients"))
    label = best_label(build, scores, labels or [0])
    if len(labels) == 2 and len(op.reals("rho")) == 1:
        is_positive = bool(np.all(coefficients >= 0))
        largest = build.reduce(lambda s, v, acc: s.max(acc, v), -np.inf, scores, [1], keep=False)

        def fn(s: Scalars, best: SSAValue, v: SSAValue) -> SSAValue:
            bound = s.constant(0.5 if is_positive else 0.0, v.type)
            return s.select(s.compare("ge" if is_positive else "gt", v, bound), s.constant(labels[1], i64), best)

        label = build.elementwise(fn, label, largest)
    transform = op.string("post_transform")
    return [label, _of_one(build, scores, transform) if len(labels) < 2 else post_transform(build, scores, transform)]


def _machines(op: OnnxOp, build: Lowering, x: SSAValue, classes: int) -> SSAValue:
    """What each machine says, (N, pairs): the coefficients of both classes' vectors against the other, and rho."""
    counts = op.ints("vectors_per_class") or ()
    total = sum(counts)
    if len(counts) != classes or total == 0:
        raise SofieError(f"vectors_per_class has {len(counts)} numbers for {classes} classes")
    vectors = op.reals("support_vectors")
    kernels = _kernel(op, build, x, _matrix(vectors, shape_of(x)[1], "elements of support vectors"))
    coefficients = _matrix(op.reals("coefficients"), total, "coefficients")
    starts = np.concatenate([[0], np.cumsum(counts)])
    pairs = list(combinations(range(classes), 2))
    if len(op.reals("rho")) < len(pairs):
        raise SofieError(f"rho has {len(op.reals('rho'))} numbers for {len(pairs)} pairs of classes")
    table = np.zeros((len(pairs), total))
    for row, (i, j) in zip(table, pairs, strict=True):
        for own, other in ((i, j - 1), (j, i)):
            part = slice(starts[own], starts[own + 1])
            row[part] = coefficients[other, part]
    return _times(build, kernels, table, op.reals("rho")[: len(pairs)], "coefficients")


def _votes(build: Lowering, machines: SSAValue, classes: int) -> SSAValue:
    """How many machines speak for each class: (N, classes)."""
    pairs = list(combinations(range(classes), 2))
    when_above, when_not = (np.zeros((classes, len(pairs)), np.float32) for _ in range(2))
    for k, (i, j) in enumerate(pairs):
        when_above[i, k], when_not[j, k] = 1, 1
    tables = [build.weight("votes", when_above), build.weight("votes against", when_not)]

    def fn(s: Scalars, args: Sequence[SSAValue]) -> list[SSAValue]:
        vote = s.select(s.compare("gt", args[0], s.constant(0, args[0].type)), args[1], args[2])
        return [s.add(args[3], vote)]

    maps = [dims_map(3, [0, 2]), dims_map(3, [1, 2]), dims_map(3, [1, 2]), dims_map(3, [0, 1])]
    start = build.fill(0, [shape_of(machines)[0], classes], f32)
    return build.generic([machines, *tables], [start], maps, fn, [2])[0]


# -- probabilities -----------------------------------------------------------------------------------------------------

NEAREST = 1e-7
"""Pairwise probabilities stay this far from 0 and 1."""

ROUNDS = 100
"""Rounds of the coupling at the least; it ends before where it has converged to 0.005 / classes."""


def _probabilities(op: OnnxOp, build: Lowering, machines: SSAValue, classes: int) -> SSAValue:
    """Class probabilities (N, classes) in float64, coupled from those of the pairs.

    The coupling is the second method of Wu, Lin and Weng, JMLR 5 (2004), as in libsvm: rounds over the classes until
    the residual is small.
    """
    pairs = list(combinations(range(classes), 2))
    given, events = _pairwise(op, build, machines, len(pairs)), shape_of(machines)[0]

    def fn(walk: Walk, *rooms: SSAValue) -> Sequence[SSAValue]:
        return walk.for_(0, events, rooms, lambda n, carried: _Coupling(walk, given, classes, n).run(*carried))

    rooms = ([events, classes], [classes, classes], [classes])
    return kernel(build, [build.empty(room, f64) for room in rooms], fn)[0]


def _pairwise(op: OnnxOp, build: Lowering, machines: SSAValue, pairs: int) -> SSAValue:
    """How probable the first class of each pair is against the second: 1 / (1 + exp(a z + b)) for a score z."""
    slopes, offsets = op.reals("prob_a"), op.reals("prob_b")
    if min(len(slopes), len(offsets)) < pairs:
        raise SofieError(f"prob_a and prob_b have less than one number for each of {pairs} pairs of classes")
    a, b = (build.weight(n, np.array(v[:pairs])) for n, v in (("prob_a", slopes), ("prob_b", offsets)))

    def fn(s: Scalars, z: SSAValue, a: SSAValue, b: SSAValue) -> SSAValue:
        value = logistic(s, s.neg(s.add(s.mul(s.cast(z, f64), a), b)))
        return s.min(s.max(value, s.constant(NEAREST, f64)), s.constant(1 - NEAREST, f64))

    return build.elementwise(fn, machines, a, b, element=f64)


@dataclass(frozen=True)
class _Coupling:
    """The coupling of event n: p (N, classes) are its probabilities, q (classes, classes) the matrix whose form they
    make least, qp (classes) its product with them."""

    walk: Walk
    given: SSAValue
    classes: int
    n: SSAValue

    def run(self, p: SSAValue, q: SSAValue, qp: SSAValue) -> Sequence[SSAValue]:
        """All rounds."""
        p, q = self.start(p, q)
        rounds = max(ROUNDS, self.classes)
        begin = [self.walk.constant(True, i1), p, qp]
        _, p, qp = self.walk.for_(0, rounds, begin, lambda _, carried: self.round(q, *carried))
        return [p, q, qp]

    def number(self, value: float) -> SSAValue:
        """A constant."""
        return self.walk.constant(value, f64)

    def start(self, p: SSAValue, q: SSAValue) -> tuple[SSAValue, SSAValue]:
        """Equal probabilities, and the matrix."""
        walk, each = self.walk, range(self.classes)
        above = {pair: walk.load(self.given, self.n, k) for k, pair in enumerate(combinations(each, 2))}

        def r(i: int, j: int) -> SSAValue:
            """How probable i is against j."""
            return above[i, j] if i < j else walk.sub(self.number(1), above[j, i])

        for i in each:
            p = walk.store(self.number(1 / self.classes), p, self.n, i)
            total = self.number(0)
            for j in (j for j in each if j != i):
                total = walk.add(total, walk.mul(r(j, i), r(j, i)))
                q = walk.store(walk.neg(walk.mul(r(j, i), r(i, j))), q, i, j)
            q = walk.store(total, q, i, i)
        return p, q

    def round(self, q: SSAValue, runs: SSAValue, p: SSAValue, qp: SSAValue) -> Sequence[SSAValue]:
        """Every class once, unless the residual is small already."""
        walk = self.walk
        qp, total = walk.for_(0, self.classes, [qp, self.number(0)], lambda t, c: self.multiply(q, p, t, *c))

        def residual(t: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            return [walk.max(carried[0], walk.abs(walk.sub(walk.load(qp, t), total)))]

        (error,) = walk.for_(0, self.classes, [self.number(0)], residual)
        runs = walk.both(runs, walk.compare("ge", error, self.number(0.005 / self.classes)))
        p, qp, _ = walk.for_(0, self.classes, [p, qp, total], lambda t, c: self.improve(q, runs, t, *c))
        return [runs, p, qp]

    def multiply(self, q: SSAValue, p: SSAValue, t: SSAValue, qp: SSAValue, total: SSAValue) -> Sequence[SSAValue]:
        """Row t of the product, and what it adds to the form."""
        walk = self.walk

        def term(j: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            return [walk.add(carried[0], walk.mul(walk.load(q, t, j), walk.load(p, self.n, j)))]

        (value,) = walk.for_(0, self.classes, [self.number(0)], term)
        return [walk.store(value, qp, t), walk.add(total, walk.mul(walk.load(p, self.n, t), value))]

    def improve(
        self, q: SSAValue, runs: SSAValue, t: SSAValue, p: SSAValue, qp: SSAValue, total: SSAValue
    ) -> Sequence[SSAValue]:
        """The probability of class t moved to where the form is least; all of them scaled to their sum."""
        walk = self.walk
        diagonal, now = walk.load(q, t, t), walk.load(qp, t)
        change = walk.select(runs, walk.div(walk.sub(total, now), diagonal), self.number(0))
        whole = walk.add(self.number(1), change)
        slope = walk.add(walk.mul(change, diagonal), walk.mul(self.number(2), now))
        total = walk.div(walk.add(total, walk.mul(change, slope)), walk.mul(whole, whole))
        p = walk.store(walk.add(walk.load(p, self.n, t), change), p, self.n, t)

        def scale(j: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            p, qp = carried
            moved = walk.add(walk.load(qp, j), walk.mul(change, walk.load(q, t, j)))
            p = walk.store(walk.div(walk.load(p, self.n, j), whole), p, self.n, j)
            return [p, walk.store(walk.div(moved, whole), qp, j)]

        return [*walk.for_(0, self.classes, [p, qp], scale), total]
