"""Many nodes side by side in one model, since compiling is what costs: each a case with operands of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

import sofie
from sofie.reference import evaluate_node
from tests import models

OPSET = 28


@dataclass(frozen=True)
class Case:
    """A node; `constants` are the operands, by position, that are known when compiling and keep their type."""

    name: str
    operator: str
    operands: Sequence[np.ndarray | None]
    constants: Sequence[int] = ()
    attributes: Mapping[str, object] = field(default_factory=dict)

    def inputs(self) -> list[str]:
        return ["" if a is None else f"{self.name}__{k}" for k, a in enumerate(self.operands)]

    def node(self) -> onnx.NodeProto:
        return helper.make_node(self.operator, self.inputs(), [self.name], name=self.name, **self.attributes)

    def arrays(self, kind: str) -> list[np.ndarray | None]:
        """The operands, floats that are not constant as `kind`."""
        return [
            a.astype(kind) if a is not None and a.dtype.kind == "f" and k not in self.constants else a
            for k, a in enumerate(self.operands)
        ]

    def expected(self, kind: str) -> np.ndarray:
        """What onnx.reference computes in double precision on the operands rounded to `kind`."""
        exact = [
            a.astype("float64") if a is not None and a.dtype.kind == "f" and k not in self.constants else a
            for k, a in enumerate(self.arrays(kind))
        ]
        return evaluate_node(self.node(), exact, {"": OPSET})[0]


def side_by_side(cases: Sequence[Case], kind: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of all cases, and what to feed it."""
    weights: dict[str, np.ndarray] = {}
    feeds: dict[str, np.ndarray] = {}
    kinds: dict[str, int] = {}
    for case in cases:
        for k, (name, array) in enumerate(zip(case.inputs(), case.arrays(kind), strict=True)):
            if array is not None:
                (weights if k in case.constants else feeds)[name] = array
        first = case.arrays(kind)[0]
        assert first is not None
        kinds[case.name] = helper.np_dtype_to_tensor_dtype(first.dtype)
    kinds |= {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in feeds.items()}
    nodes = [case.node() for case in cases]
    shapes = {name: a.shape for name, a in feeds.items()}
    return models.build(nodes, shapes, [case.name for case in cases], weights, kinds, OPSET), feeds


def run(cases: Sequence[Case], kind: str) -> dict[str, np.ndarray]:
    """The results of all cases by name, compiled as one model."""
    model, feeds = side_by_side(cases, kind)
    return sofie.compile(model).run(feeds)


def check(got: np.ndarray, want: np.ndarray, kind: str, ulps: float = 8.0, narrow: bool = False) -> None:
    """Integers are exact; floats lie within some ULP of the largest value: of `kind`, or of float32 if `narrow`."""
    assert got.dtype == np.dtype(kind)
    assert got.shape == want.shape
    if np.dtype(kind).kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    finite = np.abs(want[np.isfinite(want)])
    tolerance = ulps * float(np.finfo("float32" if narrow else kind).eps) * float(finite.max(initial=1.0))
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
