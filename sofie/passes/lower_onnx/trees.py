"""Tree ensembles of ai.onnx.ml: a few trees at a time walk down together, event by event, without a branch.

The trees are tables (`sofie.forest`). Trees of one result and of like depth share a block; a block stays in the cache
while all events pass through it, and the walks of its trees do not wait for each other. Results are summed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from xdsl.dialects.builtin import IndexType, f32, f64, i32
from xdsl.ir import SSAValue

from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.forest import LEAF, Forest, Ints, Nodes, Reals, flatten
from sofie.passes.lower_onnx import lowers
from sofie.passes.lower_onnx.builder import Lowering
from sofie.passes.lower_onnx.scalars import Scalars
from sofie.passes.lower_onnx.scores import (
    POST_TRANSFORMS,
    best_label,
    class_labels,
    either_label,
    logistic,
    post_transform,
    rows,
    two_scores,
)
from sofie.passes.lower_onnx.sequential import Walk, kernel
from sofie.weights import Array

TOGETHER = 8
"""Trees that walk together: as many places as there are registers to hold them."""

_INDEX = IndexType()

AGGREGATES: dict[str, tuple[float, Callable[[Scalars, SSAValue, SSAValue], SSAValue]]] = {
    "AVERAGE": (0.0, Scalars.add),
    "SUM": (0.0, Scalars.add),
    "MIN": (math.inf, Scalars.min),
    "MAX": (-math.inf, Scalars.max),
}
"""Neutral element and fold, in the order of the numbers that TreeEnsemble 5 gives them."""


@dataclass(frozen=True)
class Leaves:
    """What leaves add: `weight[k]` to the result `target[k]` at the node `node[k]`; a node may have several."""

    node: Ints
    target: Ints
    weight: Reals


@dataclass(frozen=True)
class Ensemble:
    """Nodes, leaves and how they become `targets` numbers an event."""

    nodes: Nodes
    leaves: Leaves
    targets: int
    aggregate: str

    def raw(self, build: Lowering) -> SSAValue:
        """(events, targets) in float64, before base values and post transform."""
        if self.aggregate not in AGGREGATES:
            raise UnsupportedError(
                f"aggregate function {printable(self.aggregate)!r} is not one of {', '.join(AGGREGATES)}"
            )
        leaves = self.leaves
        if np.any((leaves.target < 0) | (leaves.target >= self.targets)):
            raise SofieError(f"a leaf adds to a result that is not among the {self.targets} of the ensemble")
        x = rows(build)
        kind = f64 if element_of(x) == f64 else f32
        forest = flatten(self.nodes, shape_of(x)[1], np.float64 if kind == f64 else np.float32)
        tables = self._blocks(forest)
        total = _walk(build, _features(build, x, forest), tables, self)
        if self.aggregate in ("MIN", "MAX"):
            start = AGGREGATES[self.aggregate][0]
            total = build.elementwise(
                lambda s, v: s.select(s.compare("eq", v, s.constant(start, v.type)), s.constant(0, v.type), v), total
            )
        if self.aggregate == "AVERAGE":
            count = len(self.nodes.roots)
            total = build.elementwise(lambda s, v: s.div(v, s.constant(count, v.type)), total)
        return total

    def _blocks(self, forest: Forest) -> Tables:
        """The trees in blocks: sorted by their result, where each has only one, and by depth."""
        neutral = AGGREGATES[self.aggregate][0]
        of_leaf = np.searchsorted(np.sort(self.leaves.node), forest.source, side="right") - np.searchsorted(
            np.sort(self.leaves.node), forest.source
        )
        starts = np.sort(forest.roots)
        tree = np.searchsorted(starts, np.arange(len(forest.source)), side="right") - 1
        tree = np.argsort(forest.roots)[tree]
        target = np.full(len(self.nodes.mode) if len(self.nodes.mode) else 1, -1, np.int64)
        target[self.leaves.node] = self.leaves.target
        has = np.flatnonzero(of_leaf > 0)
        lowest, highest = np.full(len(forest.roots), self.targets), np.full(len(forest.roots), -1)
        np.minimum.at(lowest, tree[has], target[forest.source[has]])
        np.maximum.at(highest, tree[has], target[forest.source[has]])
        single = bool(np.all(of_leaf <= 1) and np.all(lowest >= highest))
        values, row = self._single(forest, neutral) if single else self._dense(forest, neutral)
        result = np.maximum(highest, 0) if single else np.zeros(len(forest.roots), np.int64)
        groups = [np.flatnonzero(result == c) for c in np.unique(result)]
        most = max(len(g) for g in groups)
        width = math.ceil(most / math.ceil(most / TOGETHER))
        nothing, blocks, targets, depths = len(forest.source), [], [], []
        for group in groups:
            group = group[np.argsort(forest.depth[group], kind="stable")]
            for k in range(0, len(group), width):
                part = group[k : k + width]
                roots = np.full(width, nothing, np.int64)
                roots[: len(part)] = forest.roots[part]
                blocks.append(roots)
                targets.append(int(result[group[0]]))
                depths.append(int(forest.depth[part].max()))
        empty = replace(
            forest,
            feature=np.append(forest.feature, np.int32(0)),
            threshold=np.append(forest.threshold, np.asarray(np.nan, forest.threshold.dtype)),
            base=np.append(forest.base, np.int32(nothing)),
        )
        return Tables(empty, np.array(blocks, np.int32), targets, depths, values, row)

    def _single(self, forest: Forest, neutral: float) -> tuple[Array, None]:
        """The weight in each slot and, at last, in the slot of an absent tree."""
        by_node = np.full(len(self.nodes.mode), neutral, self.leaves.weight.dtype)
        by_node[self.leaves.node] = self.leaves.weight
        inner = forest.base != np.arange(len(forest.base))
        known = np.where(inner, 0, forest.source)
        return np.append(np.where(inner, 0, by_node[known]), neutral).astype(self.leaves.weight.dtype), None

    def _dense(self, forest: Forest, neutral: float) -> tuple[Array, Array]:
        """A row of weights for each leaf and at last for an absent tree; the row of each slot."""
        nodes, number = np.unique(self.leaves.node, return_inverse=True)
        table = np.full((len(nodes) + 1, self.targets), neutral, np.float64)
        fold = {"MIN": np.minimum, "MAX": np.maximum}.get(self.aggregate, np.add)
        fold.at(table, (number, self.leaves.target), self.leaves.weight)
        at = np.minimum(np.searchsorted(nodes, forest.source), len(nodes) - 1)
        row = np.where(nodes[at] == forest.source, at, len(nodes))
        return table.astype(self.leaves.weight.dtype), np.append(row, len(nodes)).astype(np.int32)


@dataclass(frozen=True)
class Tables:
    """A forest in blocks of roots, the result and the depth of each block, and weights by slot or by row."""

    forest: Forest
    roots: Array
    targets: list[int]
    depths: list[int]
    values: Array
    row: Array | None


def _features(build: Lowering, x: SSAValue, forest: Forest) -> SSAValue:
    """x, and behind each event's features a copy in which NaN is -infinity, if any node reads one."""
    if not forest.features:
        return x

    def fn(s: Scalars, v: SSAValue) -> SSAValue:
        return s.select(s.compare("ne", v, v), s.constant(-math.inf, v.type), v)

    return build.concat([x, build.elementwise(fn, x)], 1)


def _walk(build: Lowering, x: SSAValue, tables: Tables, ensemble: Ensemble) -> SSAValue:
    """All blocks over all events; what they reach is folded into (events, targets)."""
    forest, events = tables.forest, shape_of(x)[0]
    start, fold = AGGREGATES[ensemble.aggregate]
    feature, threshold, base, roots, values = (
        build.weight(f"tree {name}", array)
        for name, array in (
            ("feature", forest.feature),
            ("threshold", forest.threshold),
            ("base", forest.base),
            ("root", tables.roots),
            ("value", tables.values),
        )
    )
    row = None if tables.row is None else build.weight("tree row", tables.row)

    def listed(name: str, numbers: list[int]) -> int | SSAValue:
        known = len(set(numbers)) == 1
        return numbers[0] if known else build.weight(f"tree {name}", np.array(numbers, np.int64))

    targets, depths = listed("target", tables.targets), listed("depth", tables.depths)

    def fn(walk: Walk, into: SSAValue) -> Sequence[SSAValue]:
        def index(table: SSAValue, *places: SSAValue | int) -> SSAValue:
            return walk.number(walk.load(table, *places), _INDEX)

        def of_block(numbers: int | SSAValue, block: SSAValue) -> SSAValue:
            return walk.index(numbers) if isinstance(numbers, int) else index(numbers, block)

        def decide(event: SSAValue, node: SSAValue) -> SSAValue:
            holds = walk.compare("le", walk.load(x, event, index(feature, node)), walk.load(threshold, node))
            # as wide as the comparison: g++ 12 misreads a mask that it widens for a gather
            side = walk.select(holds, walk.constant(1, i32), walk.constant(0, i32))
            return walk.number(walk.add(walk.load(base, node), side), _INDEX)

        def block(b: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
            first = [index(roots, b, k) for k in range(tables.roots.shape[1])]
            deep, target = of_block(depths, b), of_block(targets, b)

            def event(n: SSAValue, carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
                ends = walk.for_(0, deep, first, lambda _, nodes: [decide(n, node) for node in nodes])

                def folded(column: SSAValue, into: SSAValue, places: Sequence[tuple[SSAValue, ...]]) -> SSAValue:
                    total = walk.load(into, n, column)
                    for place in places:
                        total = fold(walk, total, walk.cast(walk.load(values, *place), f64))
                    return walk.store(total, into, n, column)

                if row is None:
                    return [folded(target, carried[0], [(node,) for node in ends])]
                found = [index(row, node) for node in ends]
                return walk.for_(
                    0, ensemble.targets, carried, lambda c, into: [folded(c, into[0], [(r, c) for r in found])]
                )

            return walk.for_(0, events, carried, event)

        return walk.for_(0, len(tables.roots), [into], block)

    return kernel(build, [build.fill(start, [events, ensemble.targets], f64)], fn)[0]


# -- operators ---------------------------------------------------------------------------------------------------------


def _numbers(op: OnnxOp, name: str) -> Reals:
    """A list of numbers, which may be an attribute of floats or, in float64, a tensor."""
    given = op.tensor(f"{name}_as_tensor")
    return np.array(op.reals(name), np.float32) if given is None else np.asarray(given, np.float64).reshape(-1)


def _listed(op: OnnxOp, prefix: str, targets: int, aggregate: str) -> Ensemble:
    """The ensemble of the operators that list nodes by tree and id, and leaves apart from them."""
    lists = [op.ints(f"nodes_{n}") or () for n in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")]
    trees, ids, features, true, false = lists
    thresholds, modes = _numbers(op, "nodes_values"), op.strings("nodes_modes")
    if len({len(n) for n in (*lists, thresholds, modes)}) != 1 or not trees:
        raise SofieError("the lists nodes_* must have one element a node, and a node at least")
    missing = op.ints("nodes_missing_value_tracks_true")
    nodes, keys = Nodes.of_lists(modes, trees, ids, features, thresholds, true, false, missing)
    of_tree, of_node, of_result = (np.array(op.ints(f"{prefix}_{n}") or (), np.int64) for n in _LEAF_LISTS)
    at = keys.find(of_tree, of_node)
    leaves = Leaves(at, of_result, _numbers(op, f"{prefix}_weights"))
    kept = nodes.mode[at] == LEAF
    return Ensemble(nodes, Leaves(at[kept], of_result[kept], leaves.weight[kept]), targets, aggregate)


_LEAF_LISTS = ("treeids", "nodeids", "ids")


def _with_base(build: Lowering, total: SSAValue, base: Reals, targets: int) -> SSAValue:
    """Base values added, one for all results or one for each."""
    if not base.size:
        return total
    if base.size not in (1, targets):
        raise SofieError(f"there are {base.size} base values for {targets} results")
    values = build.weight("base values", base.astype(np.float64))
    return build.elementwise(lambda s, v, b: s.add(v, b), total, values)


@lowers("TreeEnsembleRegressor", domain="ai.onnx.ml")
def tree_ensemble_regressor(op: OnnxOp, build: Lowering) -> SSAValue:
    """Y (N, n_targets): weights of the leaves reached, folded, and base values (TreeEnsembleRegressor 3)."""
    targets = op.integer("n_targets", 1)
    ensemble = _listed(op, "target", targets, op.string("aggregate_function"))
    total = _with_base(build, ensemble.raw(build), _numbers(op, "base_values"), targets)
    scores = build.elementwise(lambda s, v: s.cast(v, f32), total, element=f32)
    return post_transform(build, scores, op.string("post_transform"))


@lowers("TreeEnsemble", domain="ai.onnx.ml")
def tree_ensemble(op: OnnxOp, build: Lowering) -> SSAValue:
    """Y (N, n_targets): inner nodes and leaves in tables of their own, modes as numbers (TreeEnsemble 5)."""
    lists = [op.ints(f"nodes_{n}") for n in ("featureids", "truenodeids", "falsenodeids", "trueleafs", "falseleafs")]
    feature, true, false, true_leaf, false_leaf = (np.array(n or (), np.int64) for n in lists)
    modes, splits, weights = (op.tensor(n) for n in ("nodes_modes", "nodes_splits", "leaf_weights"))
    if modes is None or splits is None or weights is None:
        raise SofieError("its attributes nodes_modes, nodes_splits and leaf_weights must be there")
    count, leaves, targets = len(feature), len(weights), op.integer("n_targets", 1)
    missing = np.array(op.ints("nodes_missing_value_tracks_true") or np.zeros(count), np.bool_)
    none = np.zeros(leaves, np.int64)
    nodes = Nodes(
        np.concatenate([np.asarray(modes, np.int64), np.full(leaves, LEAF)]),
        np.concatenate([feature, none]),
        np.concatenate([np.asarray(splits), none]),
        np.concatenate([np.where(true_leaf != 0, true + count, true), none]),
        np.concatenate([np.where(false_leaf != 0, false + count, false), none]),
        np.concatenate([missing, none != 0]),
        np.array(op.ints("tree_roots") or (), np.int64),
        _members(np.asarray(modes), op.tensor("membership_values")),
    )
    results = np.array(op.ints("leaf_targetids") or (), np.int64)
    names = list(AGGREGATES)
    aggregate = op.integer("aggregate_function")
    name = names[aggregate] if 0 <= aggregate < len(names) else str(aggregate)
    ensemble = Ensemble(nodes, Leaves(count + np.arange(leaves), results, np.asarray(weights)), targets, name)
    kind = build.result_element()
    scores = build.elementwise(lambda s, v: s.cast(v, kind), ensemble.raw(build), element=kind)
    number = op.integer("post_transform")
    return post_transform(build, scores, POST_TRANSFORMS[number] if 0 <= number < len(POST_TRANSFORMS) else str(number))


def _members(modes: Array, values: Array | None) -> dict[int, list[float]]:
    """The sets of the nodes of mode BRANCH_MEMBER, which NaN separates."""
    sets: list[list[float]] = [[]]
    for value in [] if values is None else values.reshape(-1).tolist():
        if math.isnan(value):
            sets.append([])
        else:
            sets[-1].append(value)
    wanted = np.flatnonzero(modes == 6).tolist()
    if len(wanted) > len(sets):
        raise SofieError(f"membership_values has {len(sets)} sets for {len(wanted)} nodes of mode BRANCH_MEMBER")
    return dict(zip(wanted, sets, strict=False))


@lowers("TreeEnsembleClassifier", domain="ai.onnx.ml", limits="labels that are strings become the index of the class")
def tree_ensemble_classifier(op: OnnxOp, build: Lowering) -> list[SSAValue]:
    """The label of the best class (N), and scores (N, classes) of summed leaf weights (TreeEnsembleClassifier 3).

    Two classes whose leaves all belong to one have one score z, which ONNX leaves open and ONNX Runtime reads so: where
    no weight is negative, z is the probability of the second class, which wins above 1/2, and the scores are
    (1 - z, z); else it wins above 0 and the scores are (-z, z) before the post transform.
    """
    labels = class_labels(op)
    ensemble = _listed(op, "class", max(len(labels), 1), "SUM")
    base, transform = _numbers(op, "base_values"), op.string("post_transform")
    distinct, is_probability = set(ensemble.leaves.target.tolist()), bool(np.all(ensemble.leaves.weight >= 0))
    if len(labels) == 2 and base.size == 1:
        base = np.append(base if 0 in distinct else 0, 0)  # it belongs to the first
    one = len(labels) == 1 or (len(labels) == 2 and distinct == {0} and not np.any(base[1:]))
    if one:
        ensemble, base = replace(ensemble, targets=1), base[:1]
    total = _with_base(build, ensemble.raw(build), base, ensemble.targets)
    scores = build.elementwise(lambda s, v: s.cast(v, f32), total, element=f32)
    limit = 0.5 if is_probability and len(labels) == 2 else 0.0
    if len(labels) == 2 and distinct == {1}:
        second = build.slice(scores, [0, 1], [shape_of(scores)[0], 1])
        return [either_label(build, second, limit, labels), post_transform(build, scores, transform)]
    if not one:
        return [best_label(build, scores, labels), post_transform(build, scores, transform)]
    label = either_label(build, scores, limit, labels if len(labels) == 2 else (0, 1))
    if len(labels) == 1:
        return [label, post_transform(build, scores, transform if transform == "PROBIT" else "NONE")]
    pair = two_scores(build, scores, (lambda s, v: s.sub(s.constant(1, v.type), v)) if is_probability else Scalars.neg)
    if transform == "LOGISTIC":
        pair = two_scores(build, scores, lambda s, v: logistic(s, s.neg(v)), logistic)
    return [label, post_transform(build, pair, "PROBIT") if transform == "PROBIT" else pair]
