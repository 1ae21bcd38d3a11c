"""Tree ensembles that no exporter writes: every mode, missing values, aggregates, transforms, odd shapes of trees."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import sofie
from sofie.errors import SofieError
from sofie.forest import MODES
from tests.numerics import rows
from tests.numerics.rows import Row, row

FEATURES = 4
GRID = np.array([-np.inf, -1.5, -1, -0.0, 0.0, 0.5, 1, 1.5, np.inf, np.nan])
"""Values that meet thresholds exactly."""

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "BRANCH_LEQ": lambda x, t: x <= t,
    "BRANCH_LT": lambda x, t: x < t,
    "BRANCH_GTE": lambda x, t: x >= t,
    "BRANCH_GT": lambda x, t: x > t,
    "BRANCH_EQ": lambda x, t: x == t,
    "BRANCH_NEQ": lambda x, t: x != t,
}


@dataclass
class Node:
    """A node of a tree: a decision with two children, or a leaf of weights by target."""

    mode: str = "LEAF"
    feature: int = 0
    threshold: float = 0.0
    missing: bool = False
    members: tuple[float, ...] = ()
    children: tuple[Node, ...] = ()
    weights: tuple[tuple[int, float], ...] = ()

    def leaf(self, x: np.ndarray) -> Node:
        if not self.children:
            return self
        value = float(x[self.feature])
        holds = value in self.members if self.mode == "BRANCH_MEMBER" else COMPARE[self.mode](value, self.threshold)
        return self.children[not (holds or (self.missing and math.isnan(value)))].leaf(x)


def grown(
    rng: np.random.Generator, depth: int, modes: Sequence[str], missing: bool, weights: Callable[[], Any]
) -> Node:
    """A random tree of at most this depth, which grows to one side as well as to both."""
    if depth == 0 or rng.uniform() < 0.15:
        return Node(weights=weights())
    children = tuple(grown(rng, depth - 1, modes, missing, weights) for _ in range(2))
    threshold, mode = float(rng.choice(GRID[:-1])), str(rng.choice(modes))
    members = tuple(rng.choice(GRID[1:-2], rng.integers(1, 5))) if mode == "BRANCH_MEMBER" else ()
    is_missing = bool(missing and rng.uniform() < 0.5)
    return Node(mode, int(rng.integers(FEATURES)), threshold, is_missing, members, children)


def forest(
    seed: int, count: int, depth: int, modes: Sequence[str], missing: bool, targets: int, each: bool = True
) -> list[Node]:
    """`each`: a leaf has a weight for every target; otherwise one for a target of its own."""
    rng = np.random.default_rng(seed)

    def weights() -> tuple[tuple[int, float], ...]:
        chosen = range(targets) if each else [int(rng.integers(targets))]
        return tuple((t, float(np.float32(rng.standard_normal()))) for t in chosen)

    return [grown(rng, depth, modes, missing, weights) for _ in range(count)]


def numbered(tree: Node) -> list[Node]:
    """The nodes of a tree, parents first."""
    found = [tree]
    for node in found:
        found.extend(node.children)
    return found


def old(trees: Sequence[Node], prefix: str) -> dict[str, object]:
    """The attributes of TreeEnsembleClassifier and TreeEnsembleRegressor."""
    lists: dict[str, list[object]] = {}
    for t, tree in enumerate(trees):
        nodes = numbered(tree)
        at = {id(node): k for k, node in enumerate(nodes)}
        for k, node in enumerate(nodes):
            true, false = (at[id(c)] for c in node.children) if node.children else (0, 0)
            entries = {
                "treeids": t,
                "nodeids": k,
                "featureids": node.feature,
                "values": node.threshold,
                "modes": node.mode,
                "truenodeids": true,
                "falsenodeids": false,
                "missing_value_tracks_true": int(node.missing),
            }
            for name, value in entries.items():
                lists.setdefault(f"nodes_{name}", []).append(value)
            for target, weight in node.weights:
                for name, value in {"treeids": t, "nodeids": k, "ids": target, "weights": weight}.items():
                    lists.setdefault(f"{prefix}_{name}", []).append(value)
    return lists


def new(trees: Sequence[Node], kind: str, aggregate: int) -> dict[str, object]:
    """The attributes of TreeEnsemble; a tree that is a leaf is a decision between two equal ones."""
    inner: list[Node] = []
    leaves: list[Node] = []
    roots = []
    for tree in trees:
        root = tree if tree.children else Node("BRANCH_LEQ", children=(tree, tree))
        roots.append(len(inner))
        for node in numbered(root):
            (inner if node.children else leaves).append(node)
    place = {id(n): k for group in (inner, leaves) for k, n in enumerate(group)}
    sides = [[node.children[k] for node in inner] for k in (0, 1)]
    members = [v for n in inner if n.mode == "BRANCH_MEMBER" for v in (*n.members, math.nan)]
    how: dict[str, object] = {
        "nodes_featureids": [n.feature for n in inner],
        "nodes_modes": tensor(np.array([MODES.index(n.mode) for n in inner], np.uint8)),
        "nodes_splits": tensor(np.array([n.threshold for n in inner], kind)),
        "nodes_missing_value_tracks_true": [int(n.missing) for n in inner],
        "tree_roots": roots,
        "leaf_weights": tensor(np.array([n.weights[0][1] for n in leaves], kind)),
        "leaf_targetids": [n.weights[0][0] for n in leaves],
        "aggregate_function": aggregate,
        "membership_values": tensor(np.array(members, kind)),
    }
    for name, side in zip(("true", "false"), sides, strict=True):
        how[f"nodes_{name}nodeids"] = [place[id(n)] for n in side]
        how[f"nodes_{name}leafs"] = [int(not n.children) for n in side]
    return how


def tensor(array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array)


AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")


def exact(trees: Sequence[Node], x: np.ndarray, targets: int, aggregate: str, base: Sequence[float] = ()) -> np.ndarray:
    """The results in double precision; a target that no leaf adds to is 0."""
    found: list[list[list[float]]] = [[[] for _ in range(targets)] for _ in x]
    for event, columns in zip(x, found, strict=True):
        for tree in trees:
            for target, weight in tree.leaf(event).weights:
                columns[target].append(weight)
    folds: dict[str, Callable[[list[float]], float]] = {
        "SUM": math.fsum,
        "AVERAGE": lambda v: math.fsum(v) / len(trees),
        "MIN": lambda v: min(v, default=0.0),
        "MAX": lambda v: max(v, default=0.0),
    }
    result = np.array([[folds[aggregate](column) for column in columns] for columns in found])
    return result + np.array(base) if len(base) else result


def events(kind: str, count: int = 60) -> np.ndarray:
    drawn = np.random.default_rng(7).choice(GRID, (count, FEATURES))
    return np.nan_to_num(drawn, posinf=2, neginf=-2).astype(kind) if kind.startswith("int") else drawn.astype(kind)


ML: dict[str, Any] = {"domain": "ai.onnx.ml"}


def regressor(trees: Sequence[Node], targets: int, kind: str = "float32", aggregate: str = "SUM", **how: Any) -> Row:
    x = events(kind)
    base = how.get("base_values", ())
    answer = exact(trees, x, targets, aggregate, base).astype(np.float32)
    attributes = old(trees, "target") | {"n_targets": targets, "aggregate_function": aggregate} | how
    return row("TreeEnsembleRegressor", {"x": x}, answer=lambda x: answer, **ML, **attributes)


def regressors() -> Iterator[tuple[str, Row]]:
    for mode in COMPARE:
        for missing in (False, True):
            yield f"{mode} {missing}", regressor(forest(1, 5, 4, [mode], missing, 1), 1)
    mixed = list(COMPARE)
    for kind in ("float64", "int64", "int32"):
        yield f"mixed {kind}", regressor(forest(2, 9, 5, mixed, True, 1), 1, kind)
    for aggregate in AGGREGATES:
        yield f"all targets {aggregate}", regressor(forest(3, 7, 4, mixed, True, 3), 3, aggregate=aggregate)
        own = forest(4, 7, 4, mixed, True, 3, each=False)
        yield f"own targets {aggregate}", regressor(own, 3, aggregate=aggregate)
        one_tree_each = [t for k in range(3) for t in forest(5 + k, 3 - k, 3, mixed, False, 1)]
        for k, tree in enumerate(one_tree_each):
            for node in numbered(tree):
                node.weights = tuple(((k % 3), w) for _, w in node.weights)
        yield f"a target a tree {aggregate}", regressor(one_tree_each, 3, aggregate=aggregate)
    yield "base values", regressor(forest(6, 4, 3, mixed, False, 2), 2, base_values=[0.5, -2.0])
    yield "one tree", regressor(forest(8, 1, 6, mixed, False, 1), 1)
    yield "one decision", regressor([grown_to_one()], 1)
    yield "a leaf", regressor([Node(weights=((0, 1.25),))], 1)
    yield "many trees", regressor(forest(9, 43, 6, ["BRANCH_LEQ"], False, 1), 1)


def grown_to_one() -> Node:
    leaves = tuple(Node(weights=((0, w),)) for w in (-1.0, 2.0))
    return Node("BRANCH_LEQ", 2, 0.5, children=leaves)


def ensembles() -> Iterator[tuple[str, Row]]:
    for kind in ("float32", "float64"):
        for number, aggregate in enumerate(AGGREGATES):
            trees = forest(10, 6, 4, MODES, True, 2, each=False)
            x = events(kind)
            answer = exact(trees, x, 2, aggregate).astype(kind)
            yield (
                f"TreeEnsemble {kind} {aggregate}",
                row(
                    "TreeEnsemble",
                    {"x": x},
                    answer=lambda x, answer=answer: answer,
                    n_targets=2,
                    **ML,
                    **new(trees, kind, number),
                ),
            )


def same(got: np.ndarray, want: np.ndarray, ulps: float = 4.0) -> None:
    assert got.dtype == want.dtype and got.shape == want.shape
    finite = np.abs(want[np.isfinite(want)])
    tolerance = ulps * np.finfo(want.dtype).eps * finite.max(initial=1.0) if want.dtype.kind == "f" else 0
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("needs_compiler")
def test_every_mode_and_aggregate() -> None:
    """A comparison turned round, NaN on the wrong side, a neutral element that shows."""
    cases = dict([*regressors(), *ensembles()])
    results = rows.by_compiler(cases)
    for name, one in cases.items():
        try:
            same(results[name][0], rows.by_reference(one)[0])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


# -- classifiers -------------------------------------------------------------------------------------------------------


def by_runtime(one: Row) -> list[np.ndarray]:
    """What ONNX Runtime says; it knows the operators up to version 3 of their domain."""
    alone = rows.model({"": one}, 21)
    del alone.opset_import[:]
    alone.opset_import.extend([helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)])
    session = onnxruntime.InferenceSession(alone.SerializeToString())
    return [np.asarray(a) for a in session.run(None, rows.feeds({"": one}))]


def classifier(trees: Sequence[Node], labels: Sequence[int], ids: Sequence[int], **how: Any) -> Row:
    attributes = old(trees, "class") | {"classlabels_int64s": list(labels)} | how
    attributes["class_ids"] = [ids[k] for k in attributes["class_ids"]]
    x = {"x": events("float32")}
    return row("TreeEnsembleClassifier", x, outputs=("l", "p"), **ML, **attributes)


def positive(trees: list[Node]) -> list[Node]:
    for tree in trees:
        for node in numbered(tree):
            node.weights = tuple((t, abs(w) / 8) for t, w in node.weights)
    return trees


def classifiers() -> Iterator[tuple[str, Row]]:
    modes = list(COMPARE)
    for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"):
        how = {"post_transform": transform}
        for ids in ([0], [1]):
            yield f"{transform} one of two {ids}", classifier(forest(11, 5, 3, modes, False, 1), [10, 20], ids, **how)
            trees = positive(forest(12, 5, 3, modes, True, 1))
            yield f"{transform} positive {ids}", classifier(trees, [10, 20], ids, **how)
        based = classifier(forest(13, 5, 3, modes, False, 1), [0, 1], [0], base_values=[0.125], **how)
        yield f"{transform} base", based
        yield f"{transform} alone", classifier(forest(14, 5, 3, modes, False, 1), [3], [0], **how)
        many = forest(15, 5, 3, modes, True, 4)
        base = [0.5, -0.25, 0.125, 1.0]
        yield f"{transform} four", classifier(many, [4, 3, 8, 1], [0, 1, 2, 3], base_values=base, **how)
        some = positive(forest(16, 9, 3, modes, True, 3, each=False))
        yield f"{transform} three of four", classifier(some, [4, 3, 8, 1], [0, 2, 3], **how)
    yield (
        "PROBIT",
        classifier(positive(forest(17, 2, 3, modes, False, 3)), [1, 2, 3], [0, 1, 2], post_transform="PROBIT"),
    )


@pytest.mark.usefixtures("needs_compiler")
def test_classifiers_as_onnx_runtime_reads_them() -> None:
    """One score for two classes, base values of the wrong class, a transform too much."""
    cases = dict(classifiers())
    results = rows.by_compiler(cases)
    for name, one in cases.items():
        for got, want in zip(results[name], by_runtime(one), strict=True):
            try:
                same(got, want, 16)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error


@pytest.mark.usefixtures("needs_compiler")
def test_a_row_does_not_depend_on_its_batch() -> None:
    """A block of trees that ends at another event."""
    one = regressor(forest(18, 21, 5, ["BRANCH_LT"], True, 1), 1)
    model = rows.model({"": one})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    compiled = sofie.compile(model, dims={"n": (1, 60)})
    x = one.feeds["x"]
    (whole,) = compiled.run({"r0_x": x}).values()
    for n in (1, 7):
        np.testing.assert_array_equal(next(iter(compiled.run({"r0_x": x[:n]}).values())), whole[:n])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes_truenodeids": [9, 0, 0]}, "not among its nodes"),
        ({"nodes_modes": ["BRANCH_ODD", "LEAF", "LEAF"]}, "not one of"),
        ({"nodes_featureids": [7, 0, 0]}, "4 features"),
        (
            dict.fromkeys(("nodes_truenodeids", "nodes_falsenodeids"), [1, 2, 0]) | {"nodes_modes": ["BRANCH_LT"] * 3},
            "no root",
        ),
        ({"nodes_values": [0.5]}, "one element a node"),
        ({"target_ids": [0, 3]}, "not among the 1"),
        ({"post_transform": "CUBE"}, "not one of"),
    ],
)
def test_odd_trees_are_refused(change: dict[str, object], message: str) -> None:
    attributes = old([grown_to_one()], "target") | {"n_targets": 1} | change
    one = row("TreeEnsembleRegressor", {"x": events("float32")}, **ML, **attributes)
    with pytest.raises(SofieError, match=message):
        rows.by_level({"": one}, "decompose,lower-onnx")
