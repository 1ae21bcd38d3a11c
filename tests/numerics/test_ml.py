"""Linear models, support vector machines and feature operators of ai.onnx.ml in their odd cases: one model of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import sofie
from sofie.errors import UnsupportedError
from sofie.frontends.onnx import load
from tests import models
from tests.numerics import rows
from tests.numerics.rows import Row, row

X = np.array([[-3, 1, 2], [0, 0, 0], [-1, -2, -0.5], [0.25, 4, -1.5]], np.float32)
LINE = np.array([[-1], [0.2], [0.7], [2]], np.float32)
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")
KERNELS = ("LINEAR", "RBF", "POLY", "SIGMOID")
TWO = ("l", "p")


def ml(operator: str, outputs: tuple[str, ...] = ("y",), x: np.ndarray = X, **how: Any) -> Row:
    return row(operator, {"x": x}, outputs=outputs, domain="ai.onnx.ml", **how)


def linear() -> Iterator[tuple[str, Row]]:
    for transform in TRANSFORMS:
        how = {"post_transform": transform}
        if transform != "PROBIT":  # of one score, which ONNX Runtime leaves half unwritten
            one = {"coefficients": [1.0], "intercepts": [0.125], **how}
            yield f"one score {transform}", ml("LinearClassifier", TWO, LINE, classlabels_ints=[10, 20], **one)
        yield f"alone {transform}", ml("LinearClassifier", TWO, LINE, coefficients=[1.0], intercepts=[0.0], **how)
        three = {"coefficients": [1.0, -1, 0.3], "intercepts": [0.1, 0.2, -0.3], "classlabels_ints": [10, 20, 5]}
        yield f"three {transform}", ml("LinearClassifier", TWO, LINE, **three, **how)
        for targets in (1, 2):
            values = {"coefficients": [0.25, 0.5][:targets], "targets": targets, "intercepts": [0.5, -1][:targets]}
            yield f"{targets} targets {transform}", ml("LinearRegressor", x=LINE, **values, **how)
    for kind in ("int64", "int32", "float64"):
        weights = {"coefficients": [1.0, 2, 3], "intercepts": [0.5]}
        yield kind, ml("LinearClassifier", TWO, X.astype(kind), **weights, classlabels_ints=[0, 1])
    yield "a row", ml("LinearRegressor", x=X[0], coefficients=[1.0, 2, 3], intercepts=[0.5])


def machines() -> Iterator[tuple[str, Row]]:
    for labels, has_vectors, has_probabilities in (
        ([10, 20], True, False),
        ([10, 20], True, True),
        ([10, 20], False, False),
        ([7], False, False),
        ([3, 2, 1], True, False),
        ([3, 2, 1], True, True),
        ([3, 2, 1], False, False),
    ):
        classes = len(labels)
        pairs = classes * (classes - 1) // 2
        for sign in (1.0, -1.0):
            how: dict[str, object] = {"coefficients": [1.0, sign * 0.5, 0.3][:classes], "rho": [0.1]}
            if has_vectors:
                table = [0.5, sign * 0.25] if classes == 2 else [0.5, sign * 0.25, 0.3, 0.4, 0.6, sign * 0.7]
                vectors = [1.0, -0.5, 0.3][:classes]
                how = {"vectors_per_class": [1] * classes, "support_vectors": vectors, "coefficients": table}
                how["rho"] = [0.1, 0.2, -0.3][:pairs]
            if has_probabilities:
                how |= {"prob_a": [-1.0, -0.5, -2.0][:pairs], "prob_b": [0.1, 0.0, 0.2][:pairs]}
            for transform in TRANSFORMS[:4]:
                for kernel in KERNELS if has_vectors and transform == "NONE" else KERNELS[:1]:
                    named = {"kernel_type": kernel, "kernel_params": [0.5, 0.1, 2.0], "post_transform": transform}
                    yield (
                        f"{labels} {has_vectors} {has_probabilities} {sign} {transform} {kernel}",
                        ml("SVMClassifier", TWO, LINE, classlabels_ints=labels, **how, **named),
                    )
    for kernel in KERNELS:
        vectors = {"support_vectors": [0.5, 0.2], "coefficients": [0.3, -0.7], "rho": [0.1], "n_supports": 2}
        how = {"kernel_type": kernel, "kernel_params": [0.5, 0.1, 3.0], **vectors}
        yield f"SVMRegressor {kernel}", ml("SVMRegressor", x=LINE, **how)
        yield f"one class {kernel}", ml("SVMRegressor", x=LINE, one_class=1, **how)


def features() -> Iterator[tuple[str, Row]]:
    for name, x in (("", X), ("row", X[0]), ("int64", X.astype("int64")), ("float64", X.astype("float64"))):
        for norm in ("MAX", "L1", "L2"):
            yield f"Normalizer {norm} {name}", ml("Normalizer", x=x, norm=norm)
        for count in (1, 3):
            scale = {"offset": [1.0, 2.0, 3.0][:count], "scale": [2.0, 10.0, 100.0][:count]}
            yield f"Scaler {count} {name}", ml("Scaler", x=x, **scale)
        yield f"OneHotEncoder {name}", ml("OneHotEncoder", x=x, cats_int64s=[2, 1, 0, -1])
        yield (
            f"FeatureVectorizer {name}",
            row("FeatureVectorizer", {"a": x, "b": x}, domain="ai.onnx.ml", inputdimensions=[2, 4]),
        )
        yield (
            f"ArrayFeatureExtractor {name}",
            row("ArrayFeatureExtractor", {"x": x}, {"i": np.array([[2, 0]])}, domain="ai.onnx.ml"),
        )
    yield "Binarizer", ml("Binarizer", threshold=-0.5)
    holes = np.array([[np.nan, 1], [2, np.nan]], np.float32)
    for values in ([7.0, 8.0], [7.0]):
        for replaced in (float("nan"), 2.0):
            how = {"imputed_value_floats": values, "replaced_value_float": replaced}
            yield f"Imputer {values} {replaced}", ml("Imputer", x=holes, **how)
    whole = np.array([[3, 1], [3, 3]])
    yield "Imputer of integers", ml("Imputer", x=whole, imputed_value_int64s=[7, 8], replaced_value_int64=3)


KEYS = {"int64s": [5, 1, 9, 5, 3, -7, 2], "floats": [5.0, 1.5, -9.0, 5.0, 3.0, np.inf, 0.0]}


def encoders() -> Iterator[tuple[str, Row]]:
    asked = np.tile(np.array([5, 1, -9, 4, 1.5, 9, 100, -100, 0, 3, -7, 2, np.inf, -np.inf, -0.0]), 20)
    for key, kind in (("int64s", "int64"), ("floats", "float32")):
        x = (np.nan_to_num(asked, posinf=50, neginf=-50) if kind == "int64" else asked).astype(kind)
        for value in KEYS:
            if (key, value) != ("floats", "floats"):  # ONNX Runtime lacks that pair
                how = {f"keys_{key}": KEYS[key], f"values_{value}": KEYS[value][::-1]}
                yield f"LabelEncoder {key} to {value}", ml("LabelEncoder", x=x, **how)
    for kind, value in (("int64", "int64"), ("float32", "float32"), ("float64", "float64"), ("float64", "int64")):
        tensors = {"keys": [5, 1, -9], "values": [1, 2, 3]}
        how = {
            f"{n}_tensor": numpy_helper.from_array(np.array(v, kind if n == "keys" else value))
            for n, v in tensors.items()
        }
        how["default_tensor"] = numpy_helper.from_array(np.array([8], value))
        yield f"LabelEncoder {kind} to {value}", ml("LabelEncoder", x=np.array([5, 1, -9, 4, 8], kind), **how)
    nan = np.array([1, np.nan, 2], np.float32)
    yield "LabelEncoder of NaN", ml("LabelEncoder", x=nan, keys_floats=[1.0, np.nan], values_int64s=[4, 5])


def by_runtime(one: Row) -> list[np.ndarray]:
    """What ONNX Runtime says; it knows these operators up to version 4 of their domain."""
    alone = rows.model({"": one}, 21)
    del alone.opset_import[:]
    alone.opset_import.extend([helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 4)])
    session = onnxruntime.InferenceSession(alone.SerializeToString())
    return [np.asarray(a) for a in session.run(None, rows.feeds({"": one}))]


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("family", [linear, machines, features, encoders])
def test_operators_mean_what_onnx_runtime_means(family: Callable[[], Any]) -> None:
    """A coefficient of another class, a vote for the loser, a norm without its sign, a key that is not found."""
    cases = dict(family())
    results = rows.by_compiler(cases)
    for name, one in cases.items():
        for k, (got, want) in enumerate(zip(results[name], by_runtime(one), strict=True)):
            assert got.shape == want.shape and got.dtype == want.dtype, (name, k)
            largest = np.abs(want[np.isfinite(want)]).max(initial=1.0)
            tolerance = 16 * np.finfo(np.float32).eps * largest if want.dtype.kind == "f" else 0
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance, err_msg=f"{name}, result {k}")


def test_strings_become_numbers_or_are_refused() -> None:
    """A label that is another class's; a string that is silently a number."""
    named = ml(
        "LinearClassifier", TWO, coefficients=[1.0] * 6, intercepts=[0.0, 1.0], classlabels_strings=["no", "yes"]
    )
    assert rows.by_level({"": named}, "decompose,lower-onnx")[""][0].tolist() == [1, 1, 1, 1]
    keys = ml("LabelEncoder", keys_floats=[1.0], values_strings=["a"])
    with pytest.raises(UnsupportedError, match="STRING"):
        rows.by_level({"": keys}, "decompose,lower-onnx")
    with pytest.raises(UnsupportedError, match="STRING"):
        load(models.build([], {"x": (2,)}, ["x"], {}, {"x": onnx.TensorProto.STRING}))


@pytest.mark.usefixtures("needs_compiler")
def test_maps_become_the_table_of_their_values() -> None:
    """ZipMap that hides the probabilities."""
    scores = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    one = Row([scores], {"x": X})
    np.testing.assert_array_equal(next(iter(sofie.compile(rows.model({"": one})).run({"r0_x": X}).values())), X)
