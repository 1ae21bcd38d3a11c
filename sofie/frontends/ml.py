"""Operators of ai.onnx.ml: their shapes, and what numbers leave of those that deal in strings and maps.

ZipMap(scores) -> Identity(scores)                      the columns are the classes, in the order of its class labels
classlabels_strings = ["no", "yes"] -> classlabels_int64s = [0, 1]             a label is the index of its class
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from sofie.frontends.shapes import Operand, Rule, Shape, as_first, attribute, shape

DOMAIN = "ai.onnx.ml"

LABELS = {"LinearClassifier": "ints", "SVMClassifier": "ints", "TreeEnsembleClassifier": "int64s"}
"""How an operator calls its labels that are numbers: classlabels_..."""


def without_strings(graph: onnx.GraphProto) -> None:
    """Rewrites the nodes of a graph in place."""
    for node in graph.node:
        if node.domain != DOMAIN:
            continue
        if node.op_type == "ZipMap":
            node.domain, node.op_type = "", "Identity"
            del node.attribute[:]
        elif node.op_type in LABELS:
            _number_labels(node, f"classlabels_{LABELS[node.op_type]}")


def _number_labels(node: onnx.NodeProto, name: str) -> None:
    strings = next((a for a in node.attribute if a.name == "classlabels_strings"), None)
    if strings is None or not strings.strings:
        return
    count = len(strings.strings)
    node.attribute.remove(strings)
    for given in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(given)
    node.attribute.append(onnx.helper.make_attribute(name, range(count)))


# -- shapes ------------------------------------------------------------------------------------------------------------


def _events(operands: Sequence[Operand | None]) -> int:
    """How many rows an operand has; one of rank 1 is a row."""
    given = shape(operands, 0)
    return given[0] if len(given) > 1 else 1


def _labels(node: onnx.NodeProto) -> int:
    return len(attribute(node, f"classlabels_{LABELS[node.op_type]}", ()))


def _label(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape:
    return [_events(operands)]


def _each_class(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape:
    return [_events(operands), max(_labels(node), 1)]


def _linear_scores(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape:
    count = len(attribute(node, "coefficients", ())) // shape(operands, 0)[-1]
    return [_events(operands), 2 if count == 1 and _labels(node) == 2 else count]


def _svm_scores(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape:
    """A score for each class; without probabilities, libsvm has one for each pair of classes but for two."""
    classes = max(_labels(node), 1)
    has_vectors, has_probabilities = (bool(attribute(node, n, ())) for n in ("vectors_per_class", "prob_a"))
    one_each = not has_vectors or has_probabilities or classes <= 2
    return [_events(operands), classes if one_each else classes * (classes - 1) // 2]


def _of_targets(name: str) -> Rule:
    return lambda node, operands: [_events(operands), attribute(node, name, 1)]


def _one_hot(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape:
    return [*shape(operands, 0), len(attribute(node, "cats_int64s", ()) or attribute(node, "cats_strings", ()))]


def _features(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape:
    return [_events(operands), sum(attribute(node, "inputdimensions", ()))]


def _picked(node: onnx.NodeProto, operands: Sequence[Operand | None]) -> Shape:
    count = 1
    for extent in shape(operands, 1):
        count *= extent
    return [*(shape(operands, 0)[:-1] or [1]), count]


RULES: dict[tuple[str, int], Rule] = {
    ("ArrayFeatureExtractor", 0): _picked,
    ("Binarizer", 0): as_first,
    ("FeatureVectorizer", 0): _features,
    ("Imputer", 0): as_first,
    ("LabelEncoder", 0): as_first,
    ("LinearClassifier", 0): _label,
    ("LinearClassifier", 1): _linear_scores,
    ("LinearRegressor", 0): _of_targets("targets"),
    ("Normalizer", 0): as_first,
    ("OneHotEncoder", 0): _one_hot,
    ("SVMClassifier", 0): _label,
    ("SVMClassifier", 1): _svm_scores,
    ("SVMRegressor", 0): lambda node, operands: [_events(operands), 1],
    ("Scaler", 0): as_first,
    ("TreeEnsemble", 0): _of_targets("n_targets"),
    ("TreeEnsembleClassifier", 0): _label,
    ("TreeEnsembleClassifier", 1): _each_class,
    ("TreeEnsembleRegressor", 0): _of_targets("n_targets"),
}
"""The shape of a result by its operator and place; see `inference`."""
