"""Floats of 16 bits and fewer, integers of 4 and 2: every code, and roundings from everywhere, against ml_dtypes."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import sofie
from sofie import interpreter, pipeline
from sofie.dialects.onnx import OnnxOp
from sofie.dialects.types import element_of, element_to_onnx
from sofie.frontends.onnx import load
from tests.numerics.levels import LEVELS

FLOATS = {
    "FLOAT16": np.float16,
    "BFLOAT16": ml_dtypes.bfloat16,
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "FLOAT8E8M0": ml_dtypes.float8_e8m0fnu,
    "FLOAT4E2M1": ml_dtypes.float4_e2m1fn,
}
INTEGERS = {"INT4": ml_dtypes.int4, "UINT4": ml_dtypes.uint4, "INT2": ml_dtypes.int2, "UINT2": ml_dtypes.uint2}

pytestmark = pytest.mark.usefixtures("needs_compiler")


def cast(source: str, target: str, count: int, **attributes: object) -> onnx.ModelProto:
    """A model that casts [count] elements."""
    kinds = {name: getattr(TensorProto, name) for name in (source, target)}
    node = helper.make_node("Cast", ["x"], ["y"], to=kinds[target], **attributes)
    x = helper.make_tensor_value_info("x", kinds[source], [count])
    y = helper.make_tensor_value_info("y", kinds[target], [count])
    graph = helper.make_graph([node], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=12)


def codes(name: str) -> np.ndarray:
    """Every code of a format."""
    dtype = np.dtype((FLOATS | INTEGERS)[name])
    bits = {"FLOAT4E2M1": 4, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}.get(name, 8 * dtype.itemsize)
    return np.arange(1 << bits).astype(f"u{dtype.itemsize}").view(dtype)


def numbers(kind: type) -> np.ndarray:
    """Floats of every magnitude, ties and the ends of formats among them."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << (32 if kind is np.float32 else 64), 200_000, np.uint64)
    drawn = bits.astype(np.uint32).view(np.float32) if kind is np.float32 else bits.view(np.float64)
    near = [codes(name).astype(kind) for name in FLOATS]
    exact = np.concatenate(near)
    with np.errstate(invalid="ignore", over="ignore"):
        between = ((exact[1:].astype(np.float64) + exact[:-1].astype(np.float64)) / 2).astype(kind)
        aside = np.concatenate([np.nextafter(between, kind(np.inf)), np.nextafter(between, kind(-np.inf))])
    return np.concatenate([drawn, exact, between, aside, np.array([0, -0.0, np.inf, -np.inf, np.nan], kind)])


def nearest(x: np.ndarray, name: str) -> np.ndarray:
    """The nearest number of a format for each float64, ties to the even code; beyond the largest as it has it."""
    dtype = np.dtype(FLOATS[name])
    integer = np.dtype(f"u{dtype.itemsize}")
    every = codes(name)
    values = every.astype(np.float64)
    positive = np.flatnonzero(np.isfinite(values) & ~np.signbit(values))
    steps, size = values[positive], np.abs(x)
    low = np.clip(np.searchsorted(steps, size, "right") - 1, 0, len(steps) - 1)
    high = np.minimum(low + 1, len(steps) - 1)
    below, above = size - steps[low], steps[high] - size
    code = np.where((above < below) | ((above == below) & (high % 2 == 0)), high, low).astype(integer)
    result = code.view(dtype)
    largest = steps[-1] + (steps[-1] - steps[-2]) / 2
    over = (size > largest) | ((size == largest) & (len(steps) % 2 == 0))
    with np.errstate(invalid="ignore", over="ignore"):
        beyond = np.array([np.inf], np.float32).astype(dtype)[0]
        result[over] = beyond
        result[np.isnan(x)] = np.array([np.nan], np.float32).astype(dtype)[0]
    negative = np.signbit(x) & ~np.isnan(x)
    signed = (-result.astype(np.float64)).astype(np.float32).astype(dtype)
    return np.where(negative, signed.view(integer), result.view(integer)).astype(integer).view(dtype)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_exponents_are_rounded_as_asked(mode: str) -> None:
    """A mode that is another's, or zero and infinity that are no exponents."""
    x = np.float32(2.0) ** np.random.default_rng(0).uniform(-120, 120, 1000).astype(np.float32)
    got = sofie.compile(cast("FLOAT", "FLOAT8E8M0", x.size, round_mode=mode))(x).astype(np.float64)
    low = 2.0 ** np.floor(np.log2(x.astype(np.float64)))
    if mode == "nearest":
        want = np.where(x - low > low / 2, 2 * low, low)
    else:
        want = np.where((x == low) | (mode == "down"), low, 2 * low)
    np.testing.assert_array_equal(got, want)


def same(got: np.ndarray, want: np.ndarray) -> None:
    """The same numbers and signs; NaN where NaN is."""
    assert got.dtype == want.dtype
    a, b = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    np.testing.assert_array_equal(np.where(np.isnan(a), 0, a), np.where(np.isnan(b), 0, b))
    np.testing.assert_array_equal(np.signbit(a) & ~np.isnan(a), np.signbit(b) & ~np.isnan(b))


@pytest.mark.parametrize("target", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("source", FLOATS)
def test_every_code_is_read(source: str, target: str) -> None:
    """A code that stands for another number."""
    x = codes(source)
    kind = {"FLOAT": np.float32, "DOUBLE": np.float64}[target]
    same(sofie.compile(cast(source, target, x.size))(x), x.astype(kind))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("target", [name for name in FLOATS if name != "FLOAT8E8M0"])
def test_numbers_are_rounded_to_the_nearest(target: str, kind: type) -> None:
    """A tie that goes to the wrong side, a number that is rounded twice, a bound that is off by one."""
    x = numbers(kind)
    x = x[~np.isnan(x)] if target == "FLOAT4E2M1" else x  # which has no NaN
    source = "FLOAT" if kind is np.float32 else "DOUBLE"
    got = sofie.compile(cast(source, target, x.size, saturate=0))(x)
    same(got, nearest(x.astype(np.float64), target))
    if kind is np.float32 or target == "FLOAT16":  # ml_dtypes rounds float64 twice
        with np.errstate(invalid="ignore", over="ignore"):
            same(got, x.astype(FLOATS[target]))


@pytest.mark.parametrize("target", [name for name in FLOATS if name.startswith("FLOAT8") and name != "FLOAT8E8M0"])
def test_saturation_ends_at_the_largest_number(target: str) -> None:
    """An infinity, or NaN, where the largest number is asked for."""
    x = numbers(np.float32)
    largest = np.float32(ml_dtypes.finfo(FLOATS[target]).max)
    with np.errstate(invalid="ignore", over="ignore"):
        want = np.clip(x, -largest, largest).astype(FLOATS[target])
    same(sofie.compile(cast("FLOAT", target, x.size))(x), want)


@pytest.mark.parametrize("wide", ["INT8", "UINT8", "INT32", "INT64", "FLOAT", "FLOAT16"])
@pytest.mark.parametrize("name", INTEGERS)
def test_short_integers_there_and_back(name: str, wide: str) -> None:
    """A sign that is lost, or bits beside the number that are read."""
    kind = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, wide))
    x = codes(name)
    got = sofie.compile(cast(name, wide, x.size))(x)
    np.testing.assert_array_equal(got, x.astype(np.int32).astype(kind))
    back = sofie.compile(cast(wide, name, x.size))(got)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back.astype(np.int32), x.astype(np.int32))


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
def test_operators_compute_in_float32_and_round(kind: str) -> None:
    """A sum in 16 bits, a result that is not rounded, or one that is rounded twice."""
    code, dtype = getattr(TensorProto, kind), FLOATS[kind]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((300, 20)).astype(dtype), rng.standard_normal(20).astype(dtype)
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in (("w", w), ("b", b))]
    x = helper.make_tensor_value_info("x", code, ["batch", 300])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("y", code, ["batch", 20])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    data = rng.standard_normal((5, 300)).astype(dtype)
    product = (data.astype(np.float32) @ w.astype(np.float32)).astype(dtype)
    total = (product.astype(np.float32) + b.astype(np.float32)).astype(dtype).astype(np.float64)
    exponential = np.exp(total - total.max(1, keepdims=True))
    want = exponential / exponential.sum(1, keepdims=True)
    got = sofie.compile(model, dims={"batch": (1, 8)})(data)
    assert got.dtype == dtype
    step = {"FLOAT16": 2.0**-10, "BFLOAT16": 2.0**-7}[kind]
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=1.01 * step, atol=2.0**-24)


@pytest.mark.parametrize("passes", LEVELS)
@pytest.mark.parametrize("target", ["FLOAT16", "FLOAT8E4M3FN", "INT4"])
def test_every_level_gives_the_same(target: str, passes: str) -> None:
    """A level that reads bits as numbers."""
    x = np.random.default_rng(0).standard_normal(37).astype(np.float32) * 3
    module = load(cast("FLOAT", target, x.size))
    pipeline.run(module, pipeline.parse(passes, ()) if passes else [])
    (got,) = interpreter.run(module, [x])
    want = sofie.compile(cast("FLOAT", target, x.size))(x)
    np.testing.assert_array_equal(np.asarray(got).view(np.uint8), want.view(np.uint8))


def test_constants_of_narrow_types_are_bits() -> None:
    """A fill, or a padding, that takes a number for bits."""
    code = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Shape", ["x"], ["n"]),
        helper.make_node("ConstantOfShape", ["n"], ["c"], value=helper.make_tensor("v", code, [1], [1.5])),
        helper.make_node("Pad", ["c", "pads", "pad"], ["p"]),
        helper.make_node("Concat", ["x", "p"], ["y"], axis=0),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array([1, 2]), "pads"),
        onnx.numpy_helper.from_array(np.array(-2.5, np.float16), "pad"),
    ]
    x = helper.make_tensor_value_info("x", code, ["n"])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("y", code, None)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    data = np.array([3, -4, 0.1], np.float16)
    want = np.concatenate([data, [-2.5], [1.5] * 3, [-2.5] * 2]).astype(np.float16)
    np.testing.assert_array_equal(sofie.compile(model, dims={"n": (1, 300)})(data), want)


def test_eight_bits_are_computed_on_only_where_onnx_says_so() -> None:
    """A quantised product of floats of 8 bits that is taken for one of integers."""
    kind = TensorProto.FLOAT8E4M3FN
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"]
    shapes: list[list[int]] = [[2, 3], [], [], [3, 2], [], [], [], []]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT if "scale" in name else kind, shape)
        for name, shape in zip(names, shapes, strict=True)
    ]
    node = helper.make_node("QLinearMatMul", names, ["y"], name="product")
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", kind, [2, 2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(sofie.UnsupportedError, match="node 'product' .*dequantise its operands"):
        sofie.compile(model)


def test_a_header_has_bits_for_what_cpp_lacks(tmp_path: Path) -> None:
    """A pointer of a type that the caller cannot make, or a column of numbers that is taken for bits."""
    made = sofie.generate(cast("FLOAT16", "FLOAT", 4), tmp_path, name="net")
    text = made.header.read_text()
    assert "void infer(const std::uint16_t *x, float *y) noexcept" in text and "SofieFunctor" not in text


def test_an_attribute_that_names_the_type_is_widened_too() -> None:
    """An operator that is asked for 16 bits where its result became float32."""
    node = helper.make_node("EyeLike", ["x"], ["y"], dtype=TensorProto.FLOAT16, k=1)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 40])
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 22)], ir_version=10
    )
    module = load(model, {"n": 3})
    pipeline.run(module, pipeline.parse("widen-floats", ()))
    (op,) = (o for o in module.walk() if isinstance(o, OnnxOp) and o.operator == "EyeLike")
    assert op.integer("dtype") == element_to_onnx(element_of(op.results[0])) == TensorProto.FLOAT
    got = sofie.compile(model, dims={"n": (1, 50)})(np.zeros((30, 40), np.float32))
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, np.eye(30, 40, 1))
