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
INTEGERS = (*SIGNED, *UNSIGNED)
EXTREMA = (*FLOATS, "int8", "uint8", "int32", "int64", "uint32", "uint64", "bool")
AXES = {"axes": np.array([1])}
PAIR = {"x": (3, 9), "z": (9,)}
ABOVE_3 = [N("Mul", ["x", "x"], ["s"]), N("Add", ["s", "one"], ["u"])]
"""u = x^2 + 3: where logarithms and powers are defined."""
BELOW_1 = [N("Div", ["x", "one"], ["s"]), N("Div", ["s", "one"], ["u"])]
"""u = x / 9: where the inverse functions are defined and well-conditioned."""
SMALL = [N("Mod", ["x", "one"], ["u"])]
"""u = x modulo 3: integers whose squares and exponentials are."""

UNARY_FLOATS = (
    *("Ceil", "Cos", "Cosh", "Erf", "Floor", "Reciprocal", "Round", "Sin", "Sinh", "Softplus", "Softsign", "Tan"),
    *("Atan", "Asinh", "Elu", "Selu", "Celu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "ThresholdedRelu"),
    *("LogSoftmax", "Hardmax"),
)
FLOAT_REFERENCE = ("Erf", "Gelu", "Gelu by tanh", "HardSwish")
"""The reference computes these in float32, or with constants rounded to it."""
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")

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
    **{name: (FLOATS, [N(name, ["x"], ["y"])], {"x": (3, 9)}, {}) for name in UNARY_FLOATS},
    **{name: (FLOATS, [*BELOW_1, N(name, ["u"], ["y"])], {"x": (3, 9)}, {}) for name in ("Acos", "Asin", "Atanh")},
    **{name: (FLOATS, [*ABOVE_3, N(name, ["u"], ["y"])], {"x": (3, 9)}, {}) for name in ("Acosh", "Log")},
    "Abs": (NUMBERS, [N("Abs", ["x"], ["y"])], {"x": (3, 9)}, {}),
    "Neg": ((*FLOATS, *SIGNED), [N("Neg", ["x"], ["y"])], {"x": (3, 9)}, {}),
    "Sign": (NUMBERS, [N("Sign", ["x"], ["y"])], {"x": (3, 9)}, {}),
    "Gelu by tanh": (FLOATS, [N("Gelu", ["x"], ["y"], approximate="tanh")], {"x": (3, 9)}, {}),
    "Celu of a large alpha": (FLOATS, [N("Celu", ["x"], ["y"], alpha=2.5)], {"x": (3, 9)}, {}),
    "Elu of a large alpha": (FLOATS, [N("Elu", ["x"], ["y"], alpha=2.5)], {"x": (3, 9)}, {}),
    "Shrink": (NUMBERS, [N("Shrink", ["x"], ["y"], lambd=0.5)], {"x": (3, 9)}, {}),
    "Shrink by a bias": (FLOATS, [N("Shrink", ["x"], ["y"], lambd=0.5, bias=0.25)], {"x": (3, 9)}, {}),
    "PRelu": (WIDE, [N("PRelu", ["x", "z"], ["y"])], PAIR, {}),
    "LayerNormalization": (
        FLOATS,
        [N("LayerNormalization", ["x", "s", "b"], ["y"], axis=1, stash_type=1)],
        {"x": (3, 9), "s": (9,), "b": (9,)},
        {},
    ),
    "InstanceNormalization": (
        FLOATS,
        [N("InstanceNormalization", ["x", "s", "b"], ["y"])],
        {"x": (2, 3, 5), "s": (3,), "b": (3,)},
        {},
    ),
    "BitwiseNot": (INTEGERS, [N("BitwiseNot", ["x"], ["y"])], {"x": (3, 9)}, {}),
    **{name: (INTEGERS, [N(name, ["x", "z"], ["y"])], PAIR, {}) for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    "Not": (("bool",), [N("Not", ["x"], ["y"])], {"x": (3, 9)}, {}),
    **{name: (("bool",), [N(name, ["x", "z"], ["y"])], PAIR, {}) for name in ("And", "Or", "Xor")},
    **{
        f"BitShift {way}": (UNSIGNED, [*SMALL, N("BitShift", ["z", "u"], ["y"], direction=way)], PAIR, {})
        for way in ("LEFT", "RIGHT")
    },
    "BitShift of every bit": (UNSIGNED, [N("BitShift", ["x", "z"], ["y"], direction="LEFT")], PAIR, {}),
    **{
        name: (
            ALL if name == "Equal" else NUMBERS,
            [N(name, ["x", "z"], ["c"]), N("Where", ["c", "x", "w"], ["y"])],
            {**PAIR, "w": (3, 1)},
            {},
        )
        for name in COMPARISONS
    },
    "IsNaN": (
        FLOATS,
        [N("Sqrt", ["x"], ["s"]), N("IsNaN", ["s"], ["c"]), N("Where", ["c", "z", "x"], ["y"])],
        PAIR,
        {},
    ),
    "IsInf": (
        FLOATS,
        [N("Floor", ["x"], ["s"]), N("Reciprocal", ["s"], ["r"]), N("IsInf", ["r"], ["c"])]
        + [N("Where", ["c", "z", "x"], ["y"])],
        PAIR,
        {},
    ),
    "Where": (ALL, [N("Cast", ["w"], ["c"], to=9), N("Where", ["c", "x", "z"], ["y"])], {**PAIR, "w": (3, 1)}, {}),
    **{name: (NUMBERS, [N(name, ["x", "z", "w"], ["y"])], {**PAIR, "w": (3, 1)}, {}) for name in ("Max", "Min")},
    **{name: (FLOATS, [N(name, ["x", "z", "w"], ["y"])], {**PAIR, "w": (3, 1)}, {}) for name in ("Sum", "Mean")},
    "Mod": (INTEGERS, [N("Mod", ["x", "z"], ["y"])], PAIR, {}),
    "Mod with the sign of the dividend": (NUMBERS, [N("Mod", ["x", "z"], ["y"], fmod=1)], PAIR, {}),
    "Pow": (FLOATS, [*ABOVE_3, N("Pow", ["u", "z"], ["y"])], PAIR, {}),
    "Pow of a known exponent": ((*FLOATS, "int32", "int64"), [N("Pow", ["x", "one"], ["y"])], PAIR, {}),
    "Pow of integers": (
        ("int32", "int64"),
        [*SMALL, N("Mul", ["u", "u"], ["v"]), N("Mul", ["v", "one"], ["e"]), N("Pow", ["z", "e"], ["y"])],
        PAIR,
        {},
    ),
    "CastLike": (ALL, [N("Cast", ["x"], ["s"], to=7), N("CastLike", ["s", "z"], ["y"])], PAIR, {}),
    "Dropout": (FLOATS, [N("Dropout", ["x"], ["s", "m"]), N("Where", ["m", "s", "z"], ["y"])], PAIR, {}),
    "ReduceMin": (EXTREMA, [N("ReduceMin", ["x", "axes"], ["y"])], {"x": (3, 9)}, AXES),
    "ReduceProd": (WIDE, [N("ReduceProd", ["x", "axes"], ["y"])], {"x": (3, 9)}, AXES),
    "ReduceL1": (WIDE, [N("ReduceL1", ["x", "axes"], ["y"])], {"x": (3, 9)}, AXES),
    "ReduceL2": (FLOATS, [N("ReduceL2", ["x", "axes"], ["y"])], {"x": (3, 9)}, AXES),
    "ReduceSumSquare": (
        (*FLOATS, "int64", "uint64"),  # the reference widens the others
        [N("ReduceSumSquare", ["x", "axes"], ["y"])],
        {"x": (3, 9)},
        AXES,
    ),
    "ReduceSumSquare over no axes": (
        (*FLOATS, "int64", "uint64"),
        [N("ReduceSumSquare", ["x"], ["y"], noop_with_empty_axes=1)],
        {"x": (3, 9)},
        {},
    ),
    "ReduceLogSum": (FLOATS, [*ABOVE_3, N("ReduceLogSum", ["u", "axes"], ["y"])], {"x": (3, 9)}, AXES),
    "ReduceLogSumExp": (FLOATS, [N("ReduceLogSumExp", ["x", "axes"], ["y"], keepdims=0)], {"x": (3, 9)}, AXES),
    "ReduceL2 of integers": (WIDE[2:], [*SMALL, N("ReduceL2", ["u", "axes"], ["y"])], {"x": (3, 9)}, AXES),
    **{
        f"{name} of the {'last' if last else 'first'}": (
            NUMBERS,
            [N("Clip", ["x", "", "one"], ["s"])]
            + [N(name, ["s"], ["p"], axis=1, keepdims=0, select_last_index=last), N("CastLike", ["p", "x"], ["y"])],
            {"x": (3, 9)},
            {},
        )
        for name in ("ArgMax", "ArgMin")
        for last in (0, 1)
    },
    "Identity": (ALL, [N("Identity", ["x"], ["y"])], {"x": (3, 4)}, {}),
}


@pytest.mark.parametrize(("row", "kind"), [(row, kind) for row, (kinds, *_) in ROWS.items() for kind in kinds])
def test_operator_is_right_on_this_type(row: str, kind: str) -> None:
    """Signedness, width or precision lost on the way."""
    _, nodes, inputs, weights = ROWS[row]
    used = {name for node in nodes for name in node.input}
    weights = {**weights, **({"one": np.array(3, kind)} if "one" in used else {})}
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    model = models.build(nodes, inputs, ["y"], weights, {**dict.fromkeys(inputs, code), "y": code}, opset=22)
    feeds = {name: models.random(kind, shape, k) for k, (name, shape) in enumerate(inputs.items())}
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
        narrow = kind == "float32" or row in FLOAT_REFERENCE
        np.testing.assert_allclose(got, want, rtol=2e-6 if narrow else 1e-14, atol=1e-6 if narrow else 1e-14)
    else:
        np.testing.assert_array_equal(got, want)


SPECIAL = np.array([-np.inf, -200.0, -2.5, -1.5, -0.5, -1e-6, -0.0, 0.0, 1e-6, 0.5, 1.5, 2.5, 200.0, np.inf, np.nan])
SPECIAL_OPERATORS = (
    *("Abs", "Asinh", "Atan", "Ceil", "Celu", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "Log", "Reciprocal", "Relu"),
    *("Round", "Selu", "Sigmoid", "Sign", "Softplus", "Sqrt", "Tanh", "ThresholdedRelu"),
)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("operator", SPECIAL_OPERATORS)
def test_special_values(operator: str, kind: str) -> None:
    """Infinities, NaN, halves and tiny arguments: as near the truth in float64 as the type allows."""
    truth = models.build([N(operator, ["x"], ["y"])], {"x": (15,)}, ["y"], {}, {"x": 11, "y": 11}, opset=22)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    model = models.build([N(operator, ["x"], ["y"])], {"x": (15,)}, ["y"], {}, {"x": code, "y": code}, opset=22)
    x = SPECIAL.astype(kind)
    with np.errstate(all="ignore"):
        want = ReferenceEvaluator(truth).run(None, {"x": x.astype("float64")})[0].astype(kind)
    narrow = kind == "float32" or operator in FLOAT_REFERENCE
    np.testing.assert_allclose(sofie.compile(model).run({"x": x})["y"], want, rtol=5e-7 if narrow else 1e-9)


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("kind", INTEGERS)
def test_integer_division_never_traps(operator: str, kind: str) -> None:
    """A zero divisor, or the least integer by -1, ending the process."""
    code = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    nodes = [N(operator, ["x", "z"], ["y"])]
    model = models.build(nodes, {"x": (3,), "z": (3,)}, ["y"], {}, dict.fromkeys("xyz", code), opset=22)
    least = np.iinfo(kind).min
    feeds = {"x": np.array([7, least, 9], kind), "z": np.array([0, -1 if least else 1, 4]).astype(kind)}
    want = [0, least, 2] if operator == "Div" else [0, 0, 1]
    np.testing.assert_array_equal(sofie.compile(model).run(feeds)["y"], np.array(want, kind))


@pytest.mark.parametrize("exponents", ["int32", "uint8", "float32", "float64"])
@pytest.mark.parametrize("bases", ["int32", "int64", "float32", "float64"])
def test_pow_mixes_types(bases: str, exponents: str) -> None:
    """The exponent's type read as that of the base, or its sign lost."""
    b, e = (helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in (bases, exponents))
    model = models.build([N("Pow", ["x", "z"], ["y"])], {"x": (4,), "z": (4,)}, ["y"], {}, {"x": b, "z": e, "y": b})
    x, z = np.array([2, 3, -2, 1], bases), np.array([5, 0, 3, 200], exponents)
    np.testing.assert_allclose(sofie.compile(model).run({"x": x, "z": z})["y"], np.array([32, 1, -8, 1], bases))


def test_logsumexp_of_infinities() -> None:
    """inf - inf in the shifted exponent."""
    model = models.build([N("ReduceLogSumExp", ["x", "axes"], ["y"], keepdims=0)], {"x": (3, 2)}, ["y"], AXES)
    x = np.array([[-np.inf, -np.inf], [np.inf, 1.0], [1000.0, 1000.0]], np.float32)
    want = np.array([-np.inf, np.inf, 1000.0 + np.log(2.0)], np.float32)
    np.testing.assert_allclose(sofie.compile(model).run({"x": x})["y"], want, rtol=1e-6)


def test_nan_is_true_as_a_bool() -> None:
    """A comparison printed as another: `une` once was `uno`."""
    x = np.array([0, 1, -2, np.nan, -0.0], np.float32)
    node = N("Cast", ["x"], ["y"], to=onnx.TensorProto.BOOL)
    model = models.build([node], {"x": x.shape}, ["y"], {}, {"y": onnx.TensorProto.BOOL})
    np.testing.assert_array_equal(sofie.compile(model)(x), [False, True, True, True, False])
