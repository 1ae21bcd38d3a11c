"""Operators of small families, each in its odd cases: all of them in one model, at every level and compiled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from onnx import helper

from sofie.errors import SofieError
from tests import models
from tests.numerics import rows
from tests.numerics.rows import Row, row

FLOATS = ("float32", "float64")
TRAINING = "ai.onnx.preview.training"


def random(kind: str, *shape: int, seed: int = 0) -> np.ndarray:
    return models.random(kind, shape, seed)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def bit_casts() -> Iterator[tuple[str, Row]]:
    widths = (("int8", "uint8"), ("int16", "uint16"), ("float32", "int32", "uint32"), ("float64", "int64", "uint64"))
    for kinds in widths:
        for source in kinds:
            for target in kinds:
                to = helper.np_dtype_to_tensor_dtype(np.dtype(target))
                yield f"BitCast {source} to {target}", row("BitCast", {"x": random(source, 3, 9)}, to=to)
    yield (
        "BitCast of bool",
        row("BitCast", {"x": random("bool", 9)}, to=helper.np_dtype_to_tensor_dtype(np.dtype("int8"))),
    )
    bits = {"x": np.array([0x7F800001, 0xFFC12345, 0x80000000, 1], np.uint32)}
    yield "BitCast to NaN and zero", row("BitCast", bits, to=1)


def cache(kind: str, axis: int, mode: str, *starts: int) -> Row:
    shape, part = [2, 5, 4, 3], [2, 5, 4, 3]
    part[axis] -= 1
    feeds = {"c": random(kind, *shape), "u": random(kind, *part, seed=1)}
    return row("TensorScatter", feeds | ({"i": ints(*starts)} if starts else {}), axis=axis, mode=mode)


def ngrams(mode: str, shape: tuple[int, ...], kind: str = "int64", **how: object) -> Row:
    """Pool: 1, 2, 3 | 1 1, 2 3, 3 1 | 1 2 3; the result's columns are not in the pool's order, one stands empty."""
    settings = {
        "mode": mode,
        "pool_int64s": [1, 2, 3, 1, 1, 2, 3, 3, 1, 1, 2, 3],
        "ngram_counts": [0, 3, 9],
        "ngram_indexes": [2, 0, 1, 6, 3, 5, 7],
        "min_gram_length": 1,
        "max_gram_length": 3,
        "max_skip_count": 0,
    }
    tokens = np.random.default_rng(0).integers(0, 4, shape).astype(kind)
    return row("TfIdfVectorizer", {"x": tokens}, **(settings | how))


WEIGHTS = [0.5, 2.0, 3.0, 0.25, 7.0, 5.0, 6.0]
SHARED = [0, 0, 1, 2, 2, 2, 3]
NGRAMS = {
    "TF": ngrams("TF", (30,)),
    "TF in rows of int32": ngrams("TF", (4, 20), "int32", max_skip_count=3),
    "IDF": ngrams("IDF", (3, 9), weights=WEIGHTS, max_skip_count=1),
    "TFIDF": ngrams("TFIDF", (3, 9), weights=WEIGHTS, max_skip_count=2),
    "IDF without weights": ngrams("IDF", (2, 9)),
    "bigrams only": ngrams("TF", (2, 15), min_gram_length=2, max_gram_length=2, max_skip_count=5),
    "two n-grams for one column": ngrams("TF", (25,), ngram_indexes=SHARED),
    "two weighted n-grams for one column": ngrams("TFIDF", (25,), ngram_indexes=SHARED, weights=WEIGHTS),
    "two n-grams of which one is there": ngrams("IDF", (25,), ngram_indexes=SHARED),
    "rows shorter than an n-gram": ngrams("TF", (3, 2), min_gram_length=3),
}


def matrices(kind: str, *shape: int) -> Row:
    return row("Det", {"x": random(kind, *shape)}, answer=lambda x: np.linalg.det(x.astype(np.float64)).astype(x.dtype))


def normalised(x: np.ndarray, p: int, axis: int) -> np.ndarray:
    norm = np.linalg.norm(x.astype(np.float64), p, axis, keepdims=True)
    return np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(x.dtype)


def batch(kind: str, *shape: int) -> Row:
    feeds = {"x": random(kind, *shape) + 100, **{n: random(kind, shape[1], seed=k) for k, n in enumerate("sbm")}}
    feeds["v"] = np.abs(random(kind, shape[1], seed=9))
    return row("BatchNormalization", feeds, outputs=("y", "m2", "v2"), answer=trained, training_mode=1, momentum=0.75)


def trained(x: np.ndarray, s: np.ndarray, b: np.ndarray, m: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
    wide, axes = x.astype(np.float64), tuple(a for a in range(x.ndim) if a != 1)
    along = (-1, *[1] * (x.ndim - 2))
    mean, variance = wide.mean(axes), wide.var(axes)
    y = (wide - mean.reshape(along)) / np.sqrt(variance.reshape(along) + np.float64(np.float32(1e-5)))
    y = y * s.reshape(along) + b.reshape(along)
    return tuple(a.astype(x.dtype) for a in (y, 0.75 * m + 0.25 * mean, 0.75 * v + 0.25 * variance))


def mean_and_variance(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    wide = x.astype(np.float64)
    return ((wide - wide.mean(axes, keepdims=True)) / (wide.std(axes, keepdims=True) + 1e-9)).astype(x.dtype)


def optimiser(name: str, kind: str, count: int, step: int, groups: int, **how: object) -> Row:
    """`count` tensors of different shapes; states are positive, so that roots of them are defined."""
    shapes = [(3, 5), (7,), ()][:count]
    feeds = {"r": np.array(0.1, kind), "t": np.array(step, np.int64)}
    for g in range(groups):
        for k, shape in enumerate(shapes):
            value = random(kind, *shape, seed=10 * g + k)
            feeds[f"v{g}{k}"] = np.asarray(np.abs(value) if g > 1 else value, kind)
    outputs = [f"o{g}{k}" for g in range(groups - 1) for k in range(count)]
    return row(name, feeds, outputs=outputs, domain=TRAINING, **how)


MOMENTUM = {"alpha": 0.9, "beta": 0.5, "norm_coefficient": 0.01}
ADAM = {"alpha": 0.75, "beta": 0.9375, "norm_coefficient": 0.125, "norm_coefficient_post": 0.25, "epsilon": 2**-10}
"""Numbers that float32 holds exactly, since the reference computes with them in float32."""

ROWS: dict[str, Row] = dict(bit_casts()) | {f"TfIdfVectorizer, {n}": r for n, r in NGRAMS.items()}
for kind in ("float32", "float64", "int8", "uint16", "int64", "bool"):
    ROWS |= {
        f"TensorScatter {kind}": cache(kind, 2, "linear", 1, 0),
        f"TensorScatter {kind} round the end": cache(kind, 1, "circular", 3, 9),
        f"TensorScatter {kind} from the start": cache(kind, -1, "linear"),
    }
for kind in FLOATS:
    x, p = random(kind, 3, 4, 5), "LpNormalization"
    x[1, :, 2] = x[1, 2] = 0
    ROWS |= {
        f"Det {kind}": matrices(kind, 2, 3, 5, 5),
        f"Det {kind} of one": matrices(kind, 6, 6),
        f"Det {kind} of numbers": matrices(kind, 4, 1, 1),
        f"Det {kind}, singular": row("Det", {"x": np.array([[[0, 1], [0, 2]], [[0, 1], [2, 0]]], kind)}),
        **{
            f"{p} {kind} {k} along {a}": row(p, {"x": x}, p=k, axis=a, answer=lambda x, k=k, a=a: normalised(x, k, a))
            for k in (1, 2)
            for a in (-1, 1)
        },
        f"MeanVarianceNormalization {kind}": row(
            "MeanVarianceNormalization",
            {"x": random(kind, 2, 3, 5, 4) + 30},
            answer=lambda x: mean_and_variance(x, (0, 2, 3)),
        ),
        f"MeanVarianceNormalization {kind} over axes": row(
            "MeanVarianceNormalization",
            {"x": random(kind, 4, 3, 5)},
            axes=[-1, 0],
            answer=lambda x: mean_and_variance(x, (0, 2)),
        ),
        f"BatchNormalization {kind} in training": batch(kind, 2, 3, 5, 4),
        f"BatchNormalization {kind} in training, of rows": batch(kind, 7, 3),
        **{
            f"Momentum {kind} {mode} {step}": optimiser("Momentum", kind, 2, step, 3, mode=mode, **MOMENTUM)
            for mode in ("standard", "nesterov")
            for step in (0, 3)
        },
        f"Adagrad {kind}": optimiser("Adagrad", kind, 3, 4, 3, decay_factor=0.1, epsilon=1e-3, norm_coefficient=0.1),
        f"Adagrad {kind} by default": optimiser("Adagrad", kind, 1, 0, 3),
        f"Adam {kind} at first": optimiser("Adam", kind, 1, 0, 4, **ADAM),
        f"Adam {kind} later": optimiser("Adam", kind, 1, 5, 4, **ADAM),
    }
ROWS["Adam of several tensors"] = optimiser("Adam", "float32", 3, 5, 4, **ADAM)  # doubles the reference would round


@pytest.fixture(scope="module")
def expected() -> rows.Results:
    """The reference gives the weights of n-grams to columns, and fails where there are none; ONNX Runtime does not."""
    judge = {name: rows.by_runtime if name.startswith("TfIdf") else rows.by_reference for name in ROWS}
    return {name: judge[name](one) for name, one in ROWS.items()}


def check(got: rows.Results, expected: rows.Results) -> None:
    for name, wanted in expected.items():
        for value, want in zip(got[name], wanted, strict=True):
            if name.startswith("Adam"):
                want = want.astype(ROWS[name].feeds["v00"].dtype)  # the reference's type depends on how many there are
            assert (value.dtype, value.shape) == (want.dtype, want.shape), name
            if want.dtype.kind == "f":
                tolerance = 1e-5 if want.dtype == np.float32 else 1e-13
                np.testing.assert_allclose(value, want, rtol=tolerance, atol=tolerance, err_msg=name)
            else:
                np.testing.assert_array_equal(value, want, err_msg=name)


@pytest.mark.usefixtures("needs_compiler")
def test_compiled(expected: rows.Results) -> None:
    """A wrong neighbour, a lost update, a sign, a default that is not the schema's."""
    check(rows.by_compiler(ROWS), expected)


@pytest.mark.parametrize("spec", rows.LEVELS)
def test_every_level(spec: str, expected: rows.Results) -> None:
    """A pass that changes what one of them means."""
    check(rows.by_level(ROWS, spec), expected)


def test_determinants_are_as_near_as_those_of_onnx_runtime() -> None:
    """No pivoting: an element near zero divides the others."""
    for n in (2, 3, 4, 9, 24):
        x = random("float32", 40, n, n, seed=n)
        x[:, 0, 0] *= 1e-6
        truth = np.linalg.det(x.astype(np.float64))
        one = {"det": row("Det", {"x": x})}
        own = np.abs(rows.by_level(one, "lower-onnx")["det"][0] - truth)
        theirs = np.abs(rows.by_runtime(one["det"])[0] - truth)
        assert own.mean() <= 4 * theirs.mean() + 4 * np.finfo(np.float32).eps * np.abs(truth).max()


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (row("LpNormalization", {"x": random("float32", 3, 4)}, p=3), "p is 3; only the norms of p 1 and 2"),
        (
            ngrams("IDF", (9,), weights=WEIGHTS[1:]),
            "6 weights for 7 n-grams; give one for each",
        ),
        (ngrams("IDF", (9,), ngram_indexes=SHARED, weights=WEIGHTS), "share a column, .*; give each one of its own"),
        (ngrams("TF", (9,), pool_int64s=None, pool_strings=["a"]), "only pools of integers are supported"),
    ],
)
def test_a_refusal_names_the_node_and_the_remedy(one: Row, sentence: str) -> None:
    """A traceback, or a number nobody asked for."""
    with pytest.raises(SofieError, match=sentence) as caught:
        rows.by_level({"": one}, "lower-onnx")
    assert "node 'r0_y'" in str(caught.value)
