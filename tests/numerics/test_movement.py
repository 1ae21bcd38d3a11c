"""Operators that move, gather, scatter and order elements, on every element type they have and in their odd cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import sofie
from sofie import pipeline
from sofie.frontends.onnx import load
from sofie.interpreter import run
from tests import models

N = helper.make_node
FLOATS = ("float32", "float64")
NUMBERS = (*FLOATS, "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
ALL = (*NUMBERS, "bool")
WIDE = (*FLOATS, "int32", "int64", "uint32", "uint64")
LEVELS = {
    "tensor": "lower-onnx",
    "buffer": "lower-onnx,assign-destinations,bufferize,plan-memory",
    "fused buffer": "fuse,assign-destinations,bufferize,plan-memory",
    "vectors": "fuse,lower",
}


@dataclass(frozen=True)
class Row:
    """A graph; `inputs` have the type under test, `given` a type of their own, `weights` are constant.

    `answer` stands in for a reference that lacks the operator.
    """

    kinds: tuple[str, ...]
    nodes: list[onnx.NodeProto]
    inputs: dict[str, tuple[int, ...]]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    given: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opset: int = 22
    answer: Callable[..., np.ndarray] | None = None


def one(operator: str, inputs: str, outputs: str = "y", **attributes: object) -> list[onnx.NodeProto]:
    return [N(operator, inputs.split(), outputs.split(), **attributes)]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


ROWS = {
    "Expand": Row(ALL, one("Expand", "x s"), {"x": (3, 1)}, {"s": ints(2, 1, 5)}),
    "Expand of a scalar": Row(ALL, one("Expand", "x s"), {"x": ()}, {"s": ints(2, 3)}),
    "Split": Row(ALL, one("Split", "x l", "y z", axis=-1), {"x": (3, 7)}, {"l": ints(5, 2)}, outputs=("y", "z")),
    "Split unevenly": Row(ALL, one("Split", "x", "y z w", num_outputs=3), {"x": (7, 2)}, outputs=("y", "z", "w")),
    "Tile": Row(ALL, one("Tile", "x r"), {"x": (2, 3)}, {"r": ints(3, 2)}),
    "Tile to nothing": Row(("float32",), one("Tile", "x r"), {"x": (2, 3)}, {"r": ints(0, 2)}),
    "Gather": Row(ALL, one("Gather", "x i", axis=1), {"x": (3, 5, 2)}, given={"i": ints(4, -5, 0, -1).reshape(2, 2)}),
    "Gather one": Row(ALL, one("Gather", "x i"), {"x": (3, 5)}, given={"i": np.array(-1, np.int32)}),
    "Gather of constants": Row(
        ("float32",),
        [N("Gather", ["w", "i"], ["g"]), N("Add", ["g", "x"], ["y"])],
        {"x": (2, 3)},
        {"w": models.normal(5, 3)},
        {"i": ints(4, 1)},
    ),
    "GatherElements": Row(
        ALL, one("GatherElements", "x i", axis=0), {"x": (3, 4)}, given={"i": ints(2, -3, 1, 0, 0, -1).reshape(2, 3)}
    ),
    "GatherND": Row(ALL, one("GatherND", "x i"), {"x": (3, 4, 2)}, given={"i": ints(2, -4, 0, 3).reshape(2, 2)}),
    "GatherND in batches": Row(
        ALL, one("GatherND", "x i", batch_dims=1), {"x": (2, 4, 3)}, given={"i": ints(3, 0).reshape(2, 1)}
    ),
    "ReverseSequence": Row(
        ALL, one("ReverseSequence", "x l", time_axis=0, batch_axis=1), {"x": (4, 3, 2)}, given={"l": ints(1, 4, 3)}
    ),
    "ScatterElements": Row(
        ALL,
        one("ScatterElements", "x i u", axis=1),
        {"x": (3, 5), "u": (2, 2)},
        given={"i": ints(4, -5, 1, 0).reshape(2, 2)},
    ),
    "ScatterND": Row(
        ALL,
        one("ScatterND", "x i u"),
        {"x": (4, 5, 2), "u": (3, 2)},
        given={"i": ints(0, 4, -1, 0, 2, -2).reshape(3, 2)},
    ),
    "Trilu": Row(ALL, one("Trilu", "x k", upper=0), {"x": (2, 3, 5)}, {"k": np.array(1)}),
    "Trilu at run time": Row(ALL, one("Trilu", "x k"), {"x": (3, 5)}, given={"k": np.array(-1)}),
    "OneHot": Row(
        ALL,
        one("OneHot", "i d x", axis=0),
        {"x": (2,)},
        {"d": np.array(4)},
        {"i": ints(3, -1, 0, 9)},
        answer=lambda x, i: np.where(np.arange(4)[:, None] == np.where(i < 0, i + 4, i), x[1], x[0]),
    ),
    "OneHot of small integers": Row(
        ("float32",), one("OneHot", "i d x"), {"x": (2,)}, {"d": np.array(250)}, {"i": np.array([200, 3], np.uint8)}
    ),
    "EyeLike": Row(NUMBERS, one("EyeLike", "x", k=-1), {"x": (3, 4)}),
    "DepthToSpace": Row(ALL, one("DepthToSpace", "x", blocksize=2), {"x": (1, 8, 2, 3)}),
    "DepthToSpace by channel": Row(ALL, one("DepthToSpace", "x", blocksize=2, mode="CRD"), {"x": (2, 8, 2, 3)}),
    "SpaceToDepth": Row(ALL, one("SpaceToDepth", "x", blocksize=2), {"x": (1, 2, 4, 6)}),
    "CumSum": Row(WIDE, one("CumSum", "x a"), {"x": (3, 6)}, {"a": np.array(-1)}),
    "CumSum backwards": Row(WIDE, one("CumSum", "x a", exclusive=1, reverse=1), {"x": (3, 6)}, {"a": np.array(0)}),
    "CumSum at run time": Row(WIDE, one("CumSum", "x a", exclusive=1), {"x": (3, 4, 2)}, given={"a": np.array(-2)}),
    "TopK": Row(NUMBERS, one("TopK", "x k", "y i", axis=0), {"x": (6, 3)}, {"k": ints(4)}, outputs=("y", "i")),
    "TopK smallest": Row(
        NUMBERS, one("TopK", "x k", "y i", largest=0), {"x": (3, 6)}, {"k": ints(6)}, outputs=("y", "i")
    ),
    "GlobalMaxPool": Row(FLOATS, one("GlobalMaxPool", "x"), {"x": (2, 3, 5, 4)}),
    "GlobalLpPool": Row(
        FLOATS,
        one("GlobalLpPool", "x", p=1),
        {"x": (2, 3, 5)},
        answer=lambda x: np.abs(x).sum(axis=2, keepdims=True),
    ),
    "LpPool": Row(FLOATS, one("LpPool", "x", kernel_shape=[3, 2], pads=[1, 0, 1, 1], p=2), {"x": (1, 2, 5, 6)}),
    "LpPool of third powers": Row(FLOATS, one("LpPool", "x", kernel_shape=[2, 2], p=3), {"x": (1, 2, 5, 6)}),
    "Einsum diagonal": Row(WIDE, one("Einsum", "x", equation="iji->ij"), {"x": (4, 3, 4)}),
    "Einsum trace": Row(WIDE, one("Einsum", "x", equation="ii"), {"x": (4, 4)}),
    "Einsum ellipsis": Row(
        FLOATS, one("Einsum", "x z", equation="...ij,...jk"), {"x": (2, 1, 3, 4), "z": (1, 5, 4, 2)}
    ),
    "Einsum chain": Row(
        WIDE, one("Einsum", "x z w", equation="bi, ij, bj -> b"), {"x": (2, 3), "z": (3, 4), "w": (2, 4)}
    ),
    "Einsum transposed": Row(FLOATS, one("Einsum", "x z", equation="ba,cb->ca"), {"x": (3, 4), "z": (5, 3)}),
    "Einsum outer": Row(WIDE, one("Einsum", "x z", equation="i,j"), {"x": (3,), "z": (4,)}),
    "ConvTranspose": Row(
        FLOATS,
        one("ConvTranspose", "x w b", strides=[2, 3], pads=[1, 0, 2, 1], output_padding=[1, 2], dilations=[1, 2]),
        {"x": (2, 4, 3, 4), "w": (4, 3, 3, 2), "b": (3,)},
    ),
    "ConvTranspose in groups": Row(
        ("float32",), one("ConvTranspose", "x w", group=2, strides=[2]), {"x": (1, 4, 5), "w": (4, 3, 3)}
    ),
    "ConvTranspose that cuts": Row(
        FLOATS, one("ConvTranspose", "x w", pads=[2, 2, 3, 1]), {"x": (1, 2, 5, 6), "w": (2, 1, 2, 2)}
    ),
    "ConvTranspose to a shape": Row(
        FLOATS,
        one("ConvTranspose", "x w", output_shape=[7, 9, 5], strides=[2, 3, 2], auto_pad="SAME_UPPER"),
        {"x": (1, 2, 3, 3, 2), "w": (2, 2, 3, 3, 3)},
    ),
}
for reduction in ("add", "mul", "max", "min"):
    ROWS[f"ScatterElements {reduction}"] = Row(
        WIDE,
        one("ScatterElements", "x i u", axis=0, reduction=reduction),
        {"x": (4, 3), "u": (3, 3)},
        given={"i": ints(0, 1, 2, 0, -1, 2, 3, 1, 2).reshape(3, 3)},
    )
    ROWS[f"ScatterND {reduction}"] = Row(
        WIDE,
        one("ScatterND", "x i u", reduction=reduction),
        {"x": (4, 3), "u": (3, 3)},
        given={"i": ints(0, -1, 0).reshape(3, 1)},
    )
BY_ORT = ("GatherElements", "ScatterND", "ReverseSequence", "ConvTranspose", "LpPool", "OneHot")
"""Rows whose reference implementation refuses attributes or is itself at fault; ONNX Runtime answers, where it can."""


def case(row: Row, kind: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    feeds = {name: models.random(kind, shape, k) for k, (name, shape) in enumerate(row.inputs.items())} | row.given
    codes = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    kinds = {name: onnx.TensorProto.INT64 if name == "i" else code for name in row.outputs} | codes
    shapes = {name: value.shape for name, value in feeds.items()}
    return models.build(row.nodes, shapes, row.outputs, row.weights, kinds, row.opset), feeds


def expected(name: str, model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    answer = ROWS[name].answer
    if answer is not None:
        return [answer(**feeds)]
    if name.startswith(BY_ORT):
        try:
            return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
        except Exception:  # not every type has a kernel there
            pass
    return ReferenceEvaluator(model).run(None, feeds)


def check(got: np.ndarray, want: np.ndarray, kind: str) -> None:
    want = np.asarray(want)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if want.dtype.kind == "f":
        tolerance = 5e-6 if kind == "float32" else 1e-13
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, row in ROWS.items() for kind in row.kinds])
def test_operator_is_right_on_this_type(name: str, kind: str) -> None:
    """Elements land elsewhere, or lose width or sign on the way."""
    model, feeds = case(ROWS[name], kind)
    got = sofie.compile(model).run(feeds)
    for output, want in zip(ROWS[name].outputs, expected(name, model, feeds), strict=True):
        check(got[output], want, kind)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ROWS)
def test_every_level_means_the_same(name: str, level: str) -> None:
    """A pass changes what is gathered, scattered or summed."""
    model, feeds = case(ROWS[name], ROWS[name].kinds[0])
    module = load(model)
    pipeline.run(module, pipeline.parse(LEVELS[level]))
    got = run(module, list(feeds.values()))
    for result, want in zip(got, expected(name, model, feeds), strict=True):
        check(np.asarray(result), want, ROWS[name].kinds[0])


def neighbours() -> onnx.ModelProto:
    """A gather from a computed tensor that others read too, between elementwise ops, from which one scatters back."""
    nodes = [
        N("Relu", ["x"], ["r"]),
        N("Add", ["r", "x"], ["a"]),
        N("Gather", ["a", "i"], ["g"], axis=0),
        N("Sigmoid", ["g"], ["s"]),
        N("Mul", ["s", "g"], ["m"]),
        N("Unsqueeze", ["i", "one"], ["j"]),
        N("ScatterND", ["a", "j", "m"], ["t"], reduction="add"),
        N("Sub", ["t", "r"], ["y"]),
        N("TopK", ["y", "k"], ["v", "w"]),
        N("GatherElements", ["y", "w"], ["same"], axis=1),
    ]
    kinds = {"i": onnx.TensorProto.INT64, "w": onnx.TensorProto.INT64}
    weights = {"one": ints(1), "k": ints(3)}
    return models.build(nodes, {"x": (6, 8), "i": (4,)}, ["y", "v", "w", "same"], weights, kinds, 22)


@pytest.mark.usefixtures("needs_compiler")
def test_gathers_and_scatters_between_fused_ops() -> None:
    """The buffer that a body reads by itself is reused or never written."""
    model, feeds = neighbours(), {"x": models.normal(6, 8), "i": ints(5, 0, -2, 5)}
    got = sofie.compile(model).run(feeds)
    want = ReferenceEvaluator(model).run(None, feeds)
    for result, value in zip((got[n] for n in ("y", "v", "w", "same")), want, strict=True):
        check(result, value, "float32")
    check(got["same"], got["v"], "float32")


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("k", [1, 3, 6, 7])
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_orders_nan_and_ties(largest: int, kind: str, k: int) -> None:
    """Two elements claim the same place, whether all are sorted or a short list is kept."""
    row = Row(FLOATS, one("TopK", "x k", "y i", largest=largest), {"x": (9,)}, {"k": ints(k)}, outputs=("y", "i"))
    model, _ = case(row, kind)
    x = np.array([1, np.nan, 2, 1, -np.nan, -np.inf, 2, -0.0, 0.0], kind)
    got = sofie.compile(model).run({"x": x})
    order = ([1, 4, 2, 6, 0, 3, 7, 8, 5] if largest else [5, 7, 8, 0, 3, 2, 6, 1, 4])[:k]
    np.testing.assert_array_equal(got["i"], order)
    np.testing.assert_array_equal(got["y"], x[order])


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_top_k_of_integers_at_both_ends(kind: str, largest: int) -> None:
    """A key that overflows, or is read with the wrong sign."""
    row = Row([kind], one("TopK", "x k", "y i", largest=largest), {"x": (9,)}, {"k": ints(4)}, outputs=("y", "i"))
    model, _ = case(row, kind)
    ends = np.iinfo(kind)
    x = np.array([5, ends.max, ends.min, 5, ends.max - 1, ends.min, ends.min + 1, ends.max, 6], kind)
    got = sofie.compile(model).run({"x": x})
    order = [1, 7, 4, 8] if largest else [2, 5, 6, 0]
    np.testing.assert_array_equal(got["i"], order)
    np.testing.assert_array_equal(got["y"], x[order])
