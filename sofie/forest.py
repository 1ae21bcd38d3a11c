"""Decision trees as flat tables: what the tree operators of ai.onnx.ml mean, without their modes and their node ids.

Every decision becomes `x <= threshold`: the other modes swap children, take the next smaller number as threshold, or
become several decisions (equality and membership). The two children of a node stand side by side, the one for a
decision that holds behind the other, and a leaf leads to itself by a threshold that nothing reaches, so a walk is

    node = base[node] + (x[feature[node]] <= threshold[node])

as many times as the tree is deep. A comparison with NaN fails; nodes that send NaN the other way read the feature from
a second copy, in which NaN is -infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sofie.errors import SofieError, UnsupportedError, printable

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Reals = NDArray[np.float32 | np.float64]

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
"""In the order of the numbers that TreeEnsemble 5 gives them."""

LEAF = len(MODES)

_LEQ, _LT, _GTE, _GT, _EQ, _NEQ, _MEMBER = range(len(MODES))

MOST_NODES = 1 << 30


@dataclass
class Nodes:
    """Nodes of all trees as the model gives them: arrays of one element a node.

    mode: a number of MODES, or LEAF. true, false: the children. missing: whether NaN takes the true child too.
    members: what a node of mode BRANCH_MEMBER looks for. roots: the first node of each tree.
    """

    mode: Ints
    feature: Ints
    threshold: Reals
    true: Ints
    false: Ints
    missing: Flags
    roots: Ints
    members: dict[int, list[float]]

    @staticmethod
    def of_lists(
        modes: Sequence[str],
        trees: Sequence[int],
        ids: Sequence[int],
        features: Sequence[int],
        thresholds: Reals,
        true: Sequence[int],
        false: Sequence[int],
        missing: Sequence[int] | None,
    ) -> tuple[Nodes, Keys]:
        """The nodes that TreeEnsembleClassifier and TreeEnsembleRegressor list, children by their ids in a tree."""
        numbers = {name: k for k, name in enumerate(MODES)} | {"LEAF": LEAF}
        if unknown := sorted(set(modes) - set(numbers)):
            raise UnsupportedError(f"the mode {printable(unknown[0])!r} of a node is not one of {', '.join(numbers)}")
        mode = np.array([numbers[m] for m in modes], np.int64)
        keys = Keys.of(np.array(trees, np.int64), np.array(ids, np.int64))
        inner = mode != LEAF
        tree = np.array(trees, np.int64)
        children = np.zeros((2, len(mode)), np.int64)
        for child, given in zip(children, (true, false), strict=True):
            child[inner] = keys.find(tree[inner], np.array(given, np.int64)[inner])
        is_root = np.ones(len(mode), np.bool_)
        is_root[children[:, inner]] = False
        candidates = np.flatnonzero(is_root)
        _, first = np.unique(tree[candidates], return_index=True)
        if len(first) != len(np.unique(tree)):
            raise SofieError("a tree has no root: all of its nodes are children of others")
        tracks = np.array(missing or [0] * len(mode), np.bool_)
        roots = candidates[np.sort(first)]
        made = Nodes(mode, np.array(features, np.int64), thresholds, children[0], children[1], tracks, roots, {})
        return made, keys


@dataclass(frozen=True)
class Keys:
    """Where a node stands in the lists, by its tree and its id."""

    stride: int
    least: int
    order: Ints
    keys: Ints

    @staticmethod
    def of(trees: Ints, ids: Ints) -> Keys:
        """Of nodes given by two lists."""
        least, stride = int(ids.min(initial=0)), int(ids.max(initial=0)) - int(ids.min(initial=0)) + 1
        keys = trees * stride + ids - least
        order = np.argsort(keys, kind="stable")
        return Keys(stride, least, order, keys[order])

    def find(self, trees: Ints, ids: Ints) -> Ints:
        """The places of nodes; raises SofieError where one is not there."""
        wanted = trees * self.stride + ids - self.least
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        if not np.array_equal(self.keys[at], wanted):
            raise SofieError("a tree refers to a node that is not among its nodes")
        return np.asarray(self.order[at])


@dataclass(frozen=True)
class Forest:
    """The tables of a walk, one element a slot; the slots of a tree stand together, its root first.

    source: which of the nodes given stands in a slot (leaves: their number there). depth: decisions on the longest way
    through each tree.
    """

    feature: NDArray[np.int32]
    threshold: Reals
    base: NDArray[np.int32]
    source: Ints
    roots: NDArray[np.int32]
    depth: Ints
    features: int
    """How many features the copy for NaN lies behind the first; 0 where there is no copy."""


def flatten(nodes: Nodes, features: int, dtype: type[np.floating]) -> Forest:
    """The tables for inputs of `features` numbers that are compared as `dtype`; raises SofieError on odd trees."""
    nodes = _decisions(nodes, dtype)
    if np.any((nodes.feature < 0) | (nodes.feature >= features)):
        raise SofieError(f"a tree reads a feature that inputs of {features} features do not have")
    copied = bool(nodes.missing.any())
    slots, trees = [nodes.roots], [np.arange(len(nodes.roots))]
    bases: list[Ints] = []
    depth = np.zeros(len(nodes.roots), np.int64)
    count, total = len(nodes.roots), len(nodes.roots)
    for level in range(len(nodes.mode) + 1):
        now, tree = slots[-1], trees[-1]
        inner = nodes.mode[now] != LEAF
        pairs = int(inner.sum())
        base = np.arange(total - count, total)
        base[inner] = total + 2 * np.arange(pairs)
        bases.append(base)
        if not pairs:
            break
        depth[tree[inner]] = level + 1
        slots.append(np.stack([nodes.false[now[inner]], nodes.true[now[inner]]], 1).reshape(-1))
        trees.append(np.repeat(tree[inner], 2))
        count, total = 2 * pairs, total + 2 * pairs
        if total > MOST_NODES:
            raise SofieError("a tree has no end: nodes are children of their own children")
    else:
        raise SofieError("a tree has no end: nodes are children of their own children")
    source, tree = np.concatenate(slots), np.concatenate(trees)
    order = np.argsort(tree, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    source = source[order]
    leaf = nodes.mode[source] == LEAF
    feature = np.where(leaf, 0, nodes.feature[source] + features * (nodes.missing[source] if copied else 0))
    return Forest(
        feature.astype(np.int32),
        np.where(leaf, np.nan, nodes.threshold[source]).astype(dtype),
        place[np.concatenate(bases)][order].astype(np.int32),
        source,
        place[: len(nodes.roots)].astype(np.int32),
        depth,
        features if copied else 0,
    )


def _decisions(nodes: Nodes, dtype: type[np.floating]) -> Nodes:
    """The same trees by `x <= threshold` alone; leaves keep their places."""
    nodes = _without_sets(nodes, dtype)
    mode = nodes.mode
    threshold = nodes.threshold.astype(dtype)
    smaller = (mode == _LT) | (mode == _GTE)
    threshold[smaller] = _below(threshold[smaller])
    swapped = (mode == _GTE) | (mode == _GT)
    true, false = np.where(swapped, nodes.false, nodes.true), np.where(swapped, nodes.true, nodes.false)
    missing = np.where(swapped, ~nodes.missing, nodes.missing) & (mode != LEAF)
    only_nan = missing & np.isnan(threshold)  # what holds for NaN alone: all but it lie below infinity
    true, false = np.where(only_nan, false, true), np.where(only_nan, true, false)
    threshold[only_nan], missing[only_nan] = np.inf, False
    return Nodes(mode, nodes.feature, threshold, true, false, missing, nodes.roots, {})


def _below(x: Reals) -> Reals:
    """The next smaller number; NaN, to which nothing compares, below -infinity."""
    with np.errstate(all="ignore"):
        smaller = np.nextafter(x, np.asarray(-np.inf, x.dtype))
    return np.where(np.isneginf(x), np.asarray(np.nan, x.dtype), smaller)


class Sides(NamedTuple):
    """The nodes for members and others, and the interval that NaN counts to."""

    inside: int
    outside: int
    of_nan: int


def _without_sets(nodes: Nodes, dtype: type[np.floating]) -> Nodes:
    """Equality and membership as searches among the ends of the intervals that the members are."""
    sets = np.flatnonzero((nodes.mode == _EQ) | (nodes.mode == _NEQ) | (nodes.mode == _MEMBER))
    if not len(sets):
        return nodes
    columns = [list(c) for c in (nodes.mode, nodes.feature, nodes.threshold, nodes.true, nodes.false, nodes.missing)]

    def put(at: int | None, node: Sequence[object]) -> int:
        if at is None:
            at = len(columns[0])
            for column in columns:
                column.append(None)
        for column, value in zip(columns, node, strict=True):
            column[at] = value
        return at

    def search(node: int | None, feature: int, ends: Reals, low: int, high: int, sides: Sides) -> int:
        """A node over the intervals low .. high, of which the odd ones are members."""
        if low == high:
            return sides.inside if low % 2 else sides.outside
        middle = (low + high) // 2
        at = put(node, (_LEQ, feature, ends[middle], 0, 0, sides.of_nan <= middle))
        columns[3][at] = search(None, feature, ends, low, middle, sides)
        columns[4][at] = search(None, feature, ends, middle + 1, high, sides)
        return at

    for k in map(int, sets):
        members = nodes.members[k] if nodes.mode[k] == _MEMBER else [float(nodes.threshold[k])]
        values = np.unique(np.array([v for v in members if not np.isnan(v)], dtype))
        ends = np.stack([_below(values), values], 1).reshape(-1)
        inside, outside = int(nodes.true[k]), int(nodes.false[k])
        nan_inside = bool(nodes.missing[k])
        if nodes.mode[k] == _NEQ:
            inside, outside, nan_inside = outside, inside, False  # x != t holds for NaN whatever it tracks
        if not len(values):
            outcome = inside if nan_inside else outside
            put(k, (_LEQ, nodes.feature[k], np.nan, inside, outcome, False))
            continue
        sides = Sides(inside, outside, 1 if nan_inside else len(ends))
        search(k, nodes.feature[k], ends, 0, len(ends), sides)
    mode, feature, true, false = (np.array(columns[k], np.int64) for k in (0, 1, 3, 4))
    threshold, missing = np.array(columns[2], np.float64), np.array(columns[5], np.bool_)
    return Nodes(mode, feature, threshold, true, false, missing, nodes.roots, {})
