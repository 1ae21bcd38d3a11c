"""Quantised operators: integers exactly, at every granularity, against onnx.reference and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests import models
from tests.numerics import rows
from tests.numerics.rows import Row, row

SMALL = ("int8", "uint8", "int16", "uint16")
BYTES = ("int8", "uint8")


def integers(kind: str, *shape: int, seed: int = 0) -> np.ndarray:
    return models.random(kind, shape, seed)


def scales(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.abs(models.normal(*shape, seed=seed)) / 50 + np.float32(0.01)).astype(np.float32)


EDGES = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 300, -300, 1e9, -1e9, np.inf, -np.inf, 0, -0.0, 7e4, -7e4], np.float32)

QUANTIZE: dict[str, Row] = {}
for kind in SMALL:
    x = models.normal(3, 5, 4) * 3
    QUANTIZE |= {
        f"{kind}: a tensor": row("QuantizeLinear", {"x": x}, {"s": np.float32(0.03), "z": integers(kind)}),
        f"{kind}: an axis": row("QuantizeLinear", {"x": x, "s": scales(5), "z": integers(kind, 5, seed=1)}, axis=-2),
        f"{kind}: blocks": row(
            "QuantizeLinear", {"x": x, "s": scales(3, 3, 4), "z": integers(kind, 3, 3, 4)}, axis=1, block_size=2
        ),
        f"{kind}: back": row("DequantizeLinear", {"x": integers(kind, 3, 5), "s": scales(5), "z": integers(kind, 5)}),
        f"{kind}: back from blocks": row(
            "DequantizeLinear",
            {"x": integers(kind, 7, 3), "s": scales(2, 3), "z": integers(kind, 2, 3)},
            axis=0,
            block_size=4,
        ),
        f"{kind}: edges": row(
            "QuantizeLinear",
            {"x": EDGES},
            {"s": np.float32(1), "z": np.array(3, kind)},
            answer=lambda x, s, z: np.clip(np.rint(x) + int(z), *_bounds(z)).astype(z.dtype),
        ),
        f"{kind}: not a number": row(
            "QuantizeLinear",
            {"x": np.array([np.nan, 1], np.float32)},
            {"s": np.float32(1), "z": np.array(0, kind)},
            answer=lambda x, s, z: np.array([_bounds(z)[0], 1], z.dtype),
        ),
    }
QUANTIZE |= {
    "integers": row("QuantizeLinear", {"x": np.arange(-9, 9, dtype=np.int32), "s": np.float32(0.7)}),
    "a type by name": row("QuantizeLinear", {"x": x, "s": scales(5)}, output_dtype=TensorProto.INT16),
    "in double precision": row(
        "QuantizeLinear", {"x": x, "s": np.array(0.013, np.float32)}, precision=TensorProto.DOUBLE
    ),
    "a scalar": row("QuantizeLinear", {"x": np.array(1.7, np.float32), "s": np.float32(0.1)}),
    "a vector in blocks": row("QuantizeLinear", {"x": models.normal(7), "s": scales(3)}, axis=0, block_size=3),
    "back from int32": row("DequantizeLinear", {"x": integers("int32", 4, 3), "s": np.float32(0.3)}),
    "by its range": row("DynamicQuantizeLinear", {"x": x}, outputs=("y", "s", "z")),
    "by a range above zero": row("DynamicQuantizeLinear", {"x": np.abs(x) + 1}, outputs=("y", "s", "z")),
}


def _bounds(zero: np.ndarray) -> tuple[int, int]:
    return np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max


def product(kind: str, other: str, a: tuple[int, ...], b: tuple[int, ...], za: tuple = (), zb: tuple = ()) -> Row:
    def answer(a: np.ndarray, b: np.ndarray, za: np.ndarray, zb: np.ndarray) -> np.ndarray:
        za = za[:, None] if za.ndim == 1 and za.size > 1 else za
        return np.matmul(a.astype(np.int64) - za, b.astype(np.int64) - zb).astype(np.int32)

    values = {"a": integers(kind, *a), "b": integers(other, *b), "za": integers(kind, *za), "zb": integers(other, *zb)}
    return row("MatMulInteger", values, answer=answer)


PRODUCTS = {
    **{f"{k} by {o}": product(k, o, (3, 7), (7, 5)) for k in BYTES for o in BYTES},
    "batches": product("uint8", "int8", (2, 1, 3, 7), (4, 7, 5)),
    "a row": product("uint8", "int8", (7,), (2, 7, 5)),
    "a column": product("uint8", "int8", (2, 3, 7), (7,)),
    "a zero point a row and a column": product("uint8", "int8", (3, 7), (7, 5), (3,), (5,)),
    "a zero point a row of each matrix": product("int8", "uint8", (2, 3, 7), (2, 7, 5), (2, 3, 1), (2, 1, 5)),
    "no zero points": row(
        "MatMulInteger",
        {"a": integers("uint8", 3, 7), "b": integers("int8", 7, 5)},
        answer=lambda a, b: a.astype(np.int32) @ b.astype(np.int32),
    ),
}


def requantized(kind: str, other: str, result: str, a: tuple[int, ...], b: tuple[int, ...], columns: tuple = ()) -> Row:
    values = {
        "a": integers(kind, *a),
        "as": np.float32(0.02),
        "az": integers(kind),
        "b": integers(other, *b),
        "bs": scales(*columns),
        "bz": np.zeros(columns, other) + integers(other),
        "ys": np.float32(0.9),
        "yz": np.array(5, result),
    }
    return row("QLinearMatMul", values)


def convolution(kind: str, other: str, x: tuple[int, ...], w: tuple[int, ...], quantised: bool, **how: object) -> Row:
    channels = w[:1]
    values = {"x": integers(kind, *x), "w": integers(other, *w)}
    zeros = {"xz": integers(kind), "wz": np.zeros(channels, other) + integers(other)}
    if not quantised:
        return row("ConvInteger", values, zeros, **how)
    more = {"xs": np.float32(0.05), "ws": scales(*channels), "ys": np.float32(1.5), "yz": np.array(100, kind)}
    bias = {"b": integers("int16", *channels).astype(np.int32)}
    return row("QLinearConv", values, {**zeros, **more, **bias}, inputs="x xs xz w ws wz ys yz b", **how)


CONVOLUTIONS = {
    "one axis": ((2, 3, 9), (4, 3, 3), {"pads": [2, 1], "strides": [2]}),
    "two axes": ((1, 2, 6, 7), (3, 2, 3, 2), {"pads": [1, 0, 2, 1], "dilations": [2, 1]}),
    "three axes": ((1, 2, 4, 3, 5), (2, 2, 2, 2, 2), {}),
    "groups": ((1, 4, 5, 5), (6, 2, 3, 3), {"group": 2, "auto_pad": "SAME_LOWER"}),
    "each channel alone": ((2, 3, 6), (3, 1, 3), {"group": 3, "pads": [1, 1]}),
}
QUANTISED = {
    f"{name}, {k} by {o}": convolution(k, o, x, w, True, **how)
    for name, (x, w, how) in CONVOLUTIONS.items()
    for k, o in (("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8"))
}
QUANTISED |= {
    f"{k} by {o}{' by columns' * bool(columns)}, {len(a)} axes": requantized(k, o, k, a, b, columns)
    for k, o in (("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8"))
    for a, b in (((4, 7), (7, 5)), ((2, 3, 7), (7, 5)))
    for columns in ((), (5,))
}


def exact(one: Row) -> np.ndarray:
    """The sums of products, by int64 or, of so few bytes, by ONNX Runtime's float32."""
    values = {
        n: a.astype(np.int64) for n, a in (one.feeds | one.weights).items() if n in ("x", "w", "xz", "wz", "a", "b")
    }
    zeros = {n: np.asarray(a).astype(np.int64) for n, a in (one.feeds | one.weights).items() if n.endswith("z")}
    if "a" in values:
        return (values["a"] - zeros["az"]) @ (values["b"] - zeros["bz"])
    x = values["x"] - zeros["xz"]
    w = values["w"] - zeros["wz"].reshape(-1, *[1] * (values["w"].ndim - 1))
    how = {a.name: helper.get_attribute_value(a) for a in one.nodes[0].attribute}
    conv = row("Conv", {"x": x.astype(np.float32), "w": w.astype(np.float32)}, **how)
    return rows.by_runtime(conv)[0].astype(np.int64)


def quantised(one: Row) -> np.ndarray:
    """The exact sums, scaled in float32, rounded and saturated."""
    values, total = one.feeds | one.weights, exact(one)
    first, second = ("a", "b") if "a" in values else ("x", "w")
    scale = values[f"{first}s"] * values[f"{second}s"] / values["ys"]
    if first == "x":
        along = (-1, *[1] * (total.ndim - 2))
        total, scale = total + values["b"].reshape(along), scale.reshape(along)
    real = np.rint(total.astype(np.float32) * scale.astype(np.float32)) + values["yz"].astype(np.float32)
    return np.clip(real, *_bounds(values["yz"])).astype(values["yz"].dtype)


EXACT = {
    f"{name}, {k} by {o}": convolution(k, o, x, w, False, **how)
    for name, (x, w, how) in CONVOLUTIONS.items()
    for k, o in (("uint8", "int8"), ("int8", "uint8"))
}
ALL = {**QUANTIZE, **{f"{n} ": r for n, r in PRODUCTS.items()}, **{f"Conv {n}": r for n, r in EXACT.items()}}
ALL |= {f"Q {n}": r for n, r in QUANTISED.items()}


@pytest.fixture(scope="module")
def expected() -> rows.Results:
    found = {}
    for name, one in ALL.items():
        if name.startswith("Conv "):
            found[name] = [exact(one).astype(np.int32)]
        else:
            found[name] = [quantised(one)] if name.startswith("Q ") else rows.by_reference(one)
    return found


def test_the_judge_agrees_with_onnx_runtime() -> None:
    """uint8 by uint8: its kernels for int8 may saturate sums of two products."""
    for name, one in QUANTISED.items():
        if "uint8 by uint8" in name:
            np.testing.assert_array_equal(quantised(one), rows.by_runtime(one)[0], err_msg=name)


def check(got: rows.Results, expected: rows.Results) -> None:
    for name, wanted in expected.items():
        for value, want in zip(got[name], wanted, strict=True):
            assert value.dtype == want.dtype, name
            if want.dtype.kind == "f":
                np.testing.assert_allclose(value, want, rtol=2e-7, err_msg=name)
            else:
                np.testing.assert_array_equal(value, want, err_msg=name)


@pytest.mark.usefixtures("needs_compiler")
def test_compiled(expected: rows.Results) -> None:
    """A zero point of another row, a sign lost when widening, a rounding after the zero point, a wrapped sum."""
    check(rows.by_compiler(ALL), expected)


@pytest.mark.parametrize("spec", rows.LEVELS)
def test_every_level(spec: str, expected: rows.Results) -> None:
    """A pass that changes an integer."""
    check(rows.by_level(ALL, spec), expected)
