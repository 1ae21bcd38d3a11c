"""Every operator on every element type it has: integers and booleans exact, doubles as doubles."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import sofie
from tests import models

pytestmark = pytest.mark.usefixtures("needs_compiler")

N = helper.make_node
FLOATS = ("float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
NUMBERS = (*FLOATS, *SIGNED, *UNSIGNED)
ALL = (*NUMBERS, "bool")
WIDE = (*FLOATS, "int32", "int64", "uint32", "uint64")
AXES = {"axes": np.array([1])}

ROWS: dict[str, tuple[tuple[str, ...], list[onnx.NodeProto], dict[str, tuple[int, ...]], dict[str, np.ndarray]]] = {
    "Add": (NUMBERS, [N("Add", ["x", "z"], ["y"])], {"x": (3, 9), "z": (9,)}, {}),
    "Sub": (NUMBERS, [N("Sub", ["x", "z"], ["y"])], {"x": (3, 9), "z": (3, 1)}, {}),
    "Mul": (NUMBERS, [N("Mul", ["x", "z"], ["y"])], {"x": (3, 9), "z": (9,)}, {}),
    "Div": (NUMBERS, [N("Div", ["x", "one"], ["y"])], {"x": (3, 9)}, {}),
    "Relu": ((*FLOATS, *SIGNED), [N("Relu", ["x"], ["y"])], {"x": (3, 9)}, {}),
    "LeakyRelu": (FLOATS, [N("LeakyRelu", ["x"], ["y"], alpha=0.2)], {"x": (3, 9)}, {}),
    "Sigmoid": (FLOATS, [N("Sigmoid", ["x"], ["y"])], {"x": (3, 9)}, {}),
    "Tanh": (FLOATS, [N("Tanh", ["x"], ["y"])], {"x": (3, 9)}, {}),
    "Exp": (FLOATS, [N("Exp", ["x"], ["y"])], {"x": (3, 9)}, {}),
    "Sqrt": (FLOATS, [N("Mul", ["x", "x"], ["s"]), N("Sqrt", ["s"], ["y"])], {"x": (3, 9)}, {}),
    "Softmax": (FLOATS, [N("Softmax", ["x"], ["y"], axis=1)], {"x": (3, 9)}, {}),
    "Clip": (NUMBERS, [N("Clip", ["x", "one"], ["y"])], {"x": (3, 9)}, {}),
    "Clip at run time": (NUMBERS, [N("Clip", ["x", "low", "high"], ["y"])], {"x": (3, 9), "low": (), "high": ()}, {}),
    "Gemm": (WIDE, [N("Gemm", ["x", "z", "c"], ["y"], transB=1)], {"x": (3, 7), "z": (5, 7), "c": (5,)}, {}),
    "MatMul": (WIDE, [N("MatMul", ["x", "z"], ["y"])], {"x": (2, 3, 7), "z": (7, 9)}, {}),
    "Conv": (FLOATS, [N("Conv", ["x", "z"], ["y"], pads=[1] * 4)], {"x": (1, 2, 5, 6), "z": (5, 2, 3, 3)}, {}),
    "BatchNormalization": (
        FLOATS,
        [N("Mul", ["v", "v"], ["w"]), N("BatchNormalization", ["x", "s", "b", "m", "w"], ["y"])],
        {"x": (2, 3, 5), "s": (3,), "b": (3,), "m": (3,), "v": (3,)},
        {},
    ),
    "MaxPool": (FLOATS, [N("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[1] * 4)], {"x": (1, 2, 5, 6)}, {}),
    "MaxPool of integers": (
        ("int8", "uint8"),
        [N("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[1] * 4)],
        {"x": (1, 2, 5, 6)},
        {},
    ),
    "AveragePool": (FLOATS, [N("AveragePool", ["x"], ["y"], kernel_shape=[2, 2])], {"x": (1, 2, 5, 6)}, {}),
    "GlobalAveragePool": (FLOATS, [N("GlobalAveragePool", ["x"], ["y"])], {"x": (1, 2, 5, 6)}, {}),
    "ReduceSum": (WIDE, [N("ReduceSum", ["x", "axes"], ["y"])], {"x": (3, 9)}, AXES),
    "ReduceMean": (FLOATS, [N("ReduceMean", ["x", "axes"], ["y"], keepdims=0)], {"x": (3, 9)}, AXES),
    "ReduceMax": (
        (*FLOATS, "int8", "uint8", "int32", "int64", "uint32", "uint64", "bool"),
        [N("ReduceMax", ["x", "axes"], ["y"])],
        {"x": (3, 9)},
        AXES,
    ),
    "Reshape": (ALL, [N("Reshape", ["x", "shape"], ["y"])], {"x": (3, 8)}, {"shape": np.array([4, 6])}),
    "Flatten": (ALL, [N("Flatten", ["x"], ["y"])], {"x": (3, 2, 4)}, {}),
    "Transpose": (ALL, [N("Transpose", ["x"], ["y"], perm=[2, 0, 1])], {"x": (3, 2, 4)}, {}),
    "Squeeze": (ALL, [N("Squeeze", ["x"], ["y"])], {"x": (3, 1, 4)}, {}),
    "Unsqueeze": (ALL, [N("Unsqueeze", ["x", "axes"], ["y"])], {"x": (3, 4)}, AXES),
    "Concat": (ALL, [N("Concat", ["x", "z"], ["y"], axis=1)], {"x": (3, 4), "z": (3, 2)}, {}),
    "Slice": (
        ALL,
        [N("Slice", ["x", "from", "to", "axes", "by"], ["y"])],
        {"x": (3, 9)},
        {"from": np.array([7]), "to": np.array([1]), "by": np.array([-2]), **AXES},
    ),
    "Pad": (ALL, [N("Pad", ["x", "pads", "fill"], ["y"])], {"x": (3, 4), "fill": ()}, {"pads": np.array([1, 0, 2, 3])}),
    "Pad by its edge": (
        ALL,
        [N("Pad", ["x", "pads"], ["y"], mode="edge")],
        {"x": (3, 4)},
        {"pads": np.array([1, 0, 2, 3])},
    ),
    "Identity": (ALL, [N("Identity", ["x"], ["y"])], {"x": (3, 4)}, {}),
}


def random(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if kind in FLOATS:
        return generator.standard_normal(shape).astype(kind)
    if kind == "bool":
        return generator.random(shape) < 0.5
    information = np.iinfo(kind)
    return generator.integers(information.min, information.max, shape, dtype=kind, endpoint=True)


@pytest.mark.parametrize(("row", "kind"), [(row, kind) for row, (kinds, *_) in ROWS.items() for kind in kinds])
def test_operator_is_right_on_this_type(row: str, kind: str) -> None:
    """Signedness, width or precision lost on the way."""
    _, nodes, inputs, weights = ROWS[row]
    used = {name for node in nodes for name in node.input}
    weights = {**weights, **({"one": np.array(3, kind)} if "one" in used else {})}
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    model = models.build(nodes, inputs, ["y"], weights, {**dict.fromkeys(inputs, code), "y": code}, opset=22)
    feeds = {name: random(kind, shape, k) for k, (name, shape) in enumerate(inputs.items())}
    if row == "Gemm":  # the reference multiplies by alpha in float64
        feeds = {k: v if kind in FLOATS else v % 100 for k, v in feeds.items()}
    if "low" in feeds:
        feeds["low"], feeds["high"] = np.sort([feeds["low"], feeds["high"]]).reshape(2)
        feeds = {k: np.asarray(v, kind) for k, v in feeds.items()}
    if row == "MaxPool of integers":  # the reference pads with NaN
        want = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    else:
        want = ReferenceEvaluator(model).run(None, feeds)[0]
    compiled = sofie.compile(model)
    got = compiled.run(feeds)["y"]
    assert got.dtype == want.dtype == np.dtype(kind)
    assert compiled.program.kernel_calls > 0
    if kind in FLOATS:
        np.testing.assert_allclose(
            got, want, rtol=2e-6 if kind == "float32" else 1e-14, atol=1e-6 if kind == "float32" else 1e-14
        )
    else:
        np.testing.assert_array_equal(got, want)
