"""Operators of ai.onnx.ml that deal in strings and maps, in the form that tensors of numbers leave of them.

ZipMap(scores) -> Identity(scores)                      the columns are the classes, in the order of its class labels
classlabels_strings = ["no", "yes"] -> classlabels_int64s = [0, 1]             a label is the index of its class
"""

from __future__ import annotations

import onnx

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
