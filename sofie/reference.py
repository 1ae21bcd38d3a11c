"""ONNX's own meaning of an operator, from `onnx.reference`; used to fold constants and to check results."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import onnx

from sofie.errors import SofieError, printable
from sofie.weights import Array

NONDETERMINISTIC = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators whose value may not be fixed when compiling."""


def evaluate_node(node: onnx.NodeProto, inputs: Sequence[Array | None], opsets: dict[str, int]) -> list[Array]:
    """The results of one node on numpy arrays (None: an absent optional input).

    Raises SofieError, naming the operator, where the reference has no implementation or fails.
    """
    from onnx.reference import ReferenceEvaluator

    names = [name for name in node.input]
    feeds = {name: np.asarray(a) for name, a in zip(names, inputs, strict=True) if name and a is not None}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            values = ReferenceEvaluator(node, opsets=opsets).run(None, feeds)
    except Exception as error:
        raise SofieError(
            f"operator {printable(node.op_type)} cannot be evaluated by onnx.reference: {printable(str(error))}"
        ) from error
    return [np.asarray(value) for value in cast(list[Array], values)]
