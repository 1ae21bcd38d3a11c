"""Where operators have edges: NaN and infinities, wrapping integers, casts that overflow, nothing at all, rank 0 to 8.

Many rows make one model, compiled once; the interpreter runs the same rows at every level. The judge is onnx.reference
(`by_reference`) unless a row brings an answer, which then says why.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from onnx import helper

from tests.numerics import rows
from tests.numerics.rows import Row, row

NAN, INF = np.nan, np.inf
X, Z = (
    np.array([[float(n) for n in line.split()] for line in text.splitlines() if line.strip()], np.float32)
    for text in (
        """1 nan -2 inf
        -inf 0 -0.0 3
        nan nan nan nan
        -inf -inf -inf -inf
        5 -7 4 2""",
        """nan 2 -3 1
        inf -0.0 0 nan
        1 inf -inf nan
        -inf inf 5 -5
        2 4 -4 0.5""",
    )
)
AXIS = {"a": np.array([1])}


def code(kind: str) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(kind))


def softmax(x: np.ndarray) -> np.ndarray:
    """NaN in every element of a row with a NaN or an infinity that is the largest."""
    with np.errstate(all="ignore"):
        powers = np.exp(x - x.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)


def top_two(x: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """NaN is the largest, of equal elements the first comes first: onnx.reference leaves both open."""
    missing = np.isnan(x)
    order = np.lexsort((np.where(missing, 0, -x), ~missing))[:, : k[0]]
    return np.take_along_axis(x, order, 1), order


def largest(x: np.ndarray) -> np.ndarray:
    """NaN loses against numbers, as in ONNX Runtime; numpy and onnx.reference take the first NaN, ONNX says nothing."""
    return np.where(np.isnan(x), -INF, x).argmax(1, keepdims=True)


def clipped(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """min(max(x, low), high); NaN stays."""
    return np.minimum(np.maximum(x, low), high)


SPECIAL: dict[str, Row] = {
    **{name: row(name, {"x": X, "z": Z}) for name in ("Max", "Min", "Add", "Sub", "Mul", "Div")},
    **{name: row(name, {"x": X, "z": Z}) for name in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")},
    **{f"{name} of itself": row(name, {"x": X}, inputs="x x") for name in ("Equal", "LessOrEqual", "Less")},
    **{name: row(name, {"x": X}) for name in ("Relu", "Neg", "Abs", "Sign", "IsNaN", "IsInf", "Floor", "Round")},
    "Clip": row("Clip", {"x": X}, {"low": np.float32(-1), "high": np.float32(2)}, answer=clipped),
    "Clip to infinities": row("Clip", {"x": X}, {"low": np.float32(-INF), "high": np.float32(INF)}, answer=clipped),
    "Clip with low above high": row("Clip", {"x": X}, {"low": np.float32(2), "high": np.float32(1)}, answer=clipped),
    "Softmax": row("Softmax", {"x": X}, answer=softmax),
    "ReduceMax": row("ReduceMax", {"x": X}, AXIS),
    "ReduceMin": row("ReduceMin", {"x": X}, AXIS),
    "ReduceSum": row("ReduceSum", {"x": X}, AXIS),
    "ReduceMean": row("ReduceMean", {"x": X}, AXIS),
    "ArgMax": row("ArgMax", {"x": X}, axis=1, answer=largest),
    "ArgMin": row("ArgMin", {"x": X}, axis=1, answer=lambda x: largest(-x)),
    "TopK": row("TopK", {"x": X}, {"k": np.array([3])}, ("y", "i"), top_two),
    "MaxPool": row("MaxPool", {"x": X[None, :2, 2:]}, kernel_shape=[2]),
    "Where": row("Where", {"c": np.isnan(X), "x": X, "z": Z}),
    "CumSum": row("CumSum", {"x": X}, {"a": np.array(1)}),
}

ANY = [helper.make_node("Greater", ["x", "z"], ["b"]), helper.make_node("ReduceMax", ["b"], ["y"])]
SPECIAL["whether any is greater"] = Row(
    ANY, {"x": X}, {"z": np.float32(0.25)}
)  # a tile of one bool, read by a body that ignores it

LEAST = {kind: np.iinfo(kind).min for kind in ("int8", "int16", "int32", "int64")}
DIVIDENDS = [7, -7, 7, -7, 8, -8, 0, 1, -1]
DIVISORS = [3, 3, -3, -3, 4, -4, -5, 9, 9]


def signs(operator: str, kind: str, **how: int) -> Row:
    return row(operator, {"x": np.array(DIVIDENDS, kind), "z": np.array(DIVISORS, kind)}, **how)


def quotient(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Towards zero, as C++ and ONNX Runtime divide; numpy's floor division rounds down."""
    return np.fix(x.astype(np.float64) / z).astype(x.dtype)


WHOLE: dict[str, Row] = {}
for kind, least in LEAST.items():
    ends = {"x": np.array([least, least, -(least + 1), least], kind)}
    WHOLE |= {
        f"Div {kind}": row("Div", {"x": np.array(DIVIDENDS, kind), "z": np.array(DIVISORS, kind)}, answer=quotient),
        f"Mod {kind}": signs("Mod", kind),
        f"Mod {kind} with the sign of the dividend": signs("Mod", kind, fmod=1),
        f"Div {kind} by -1": row("Div", {**ends, "z": np.full(4, -1, kind)}, answer=lambda x, z: np.negative(x)),
        f"Div {kind} by a known -1": row("Div", ends, {"z": np.array(-1, kind)}, answer=lambda x, z: np.negative(x)),
        f"Mod {kind} by -1": row("Mod", {**ends, "z": np.full(4, -1, kind)}, answer=lambda x, z: np.zeros_like(x)),
        f"Neg {kind}": row("Neg", ends),
        f"Abs {kind}": row("Abs", ends),
        f"Add {kind}": row("Add", {**ends, "z": np.array([-1, 1, 1, least], kind)}),
        f"Mul {kind}": row("Mul", {**ends, "z": np.array([-1, 2, 3, least], kind)}),
    }
for kind in ("uint8", "uint16", "uint32", "uint64"):
    most = np.iinfo(kind).max
    pair = {"x": np.array([0, most, 1, most], kind), "z": np.array([1, 1, 3, most], kind)}
    WHOLE |= {f"{name} {kind}": row(name, pair) for name in ("Add", "Sub", "Mul", "Mod")}
    WHOLE[f"Div {kind}"] = row("Div", pair, answer=lambda x, z: x // z)

NUMBERS = np.array([0.0, -0.0, 0.5, -0.5, 1.9, -1.9, 100.0, -100.0, 3e38, -3e38, 1e-40])


def cast(source: np.ndarray, kind: str) -> Row:
    return row("Cast", {"x": source}, to=code(kind))


INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
CASTS: dict[str, Row] = {
    **{
        f"{kind} to {other}": cast(_ends, other)
        for kind in INTEGERS
        for other in (*INTEGERS, "bool", "float32", "float64")
        for _ends in [np.array([np.iinfo(kind).min, 0, 1, np.iinfo(kind).max, np.iinfo(kind).max // 2 + 1], kind)]
    },
    "float64 to float32": cast(np.array([1e39, -1e39, 1e-50, NAN, INF, 0.1, 3.4028235677973366e38]), "float32"),
    **{f"{kind} to bool": cast(np.array([*NUMBERS, NAN, INF], kind), "bool") for kind in ("float32", "float64")},
    **{f"bool to {kind}": cast(np.array([True, False]), kind) for kind in (*INTEGERS, "float32", "float64")},
    **{
        f"{kind} to {other}": cast(
            np.array([v for v in NUMBERS if abs(v) < 101 and (v > -1 or other[0] != "u")], kind), other
        )
        for kind in ("float32", "float64")
        for other in INTEGERS
    },
}


def empty(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


NOTHING: dict[str, Row] = {
    "Relu": row("Relu", {"x": empty(0, 3)}),
    "Add": row("Add", {"x": empty(0, 3), "z": np.ones(3, np.float32)}),
    "Add, broadcast to nothing": row("Add", {"x": empty(0, 1), "z": np.ones((1, 3), np.float32)}),
    "MatMul of no rows": row("MatMul", {"x": empty(0, 3), "z": np.ones((3, 2), np.float32)}),
    "MatMul over nothing": row("MatMul", {"x": empty(2, 0), "z": empty(0, 3)}),
    "Gemm over nothing": row("Gemm", {"x": empty(2, 0), "z": empty(0, 3), "c": np.ones(3, np.float32)}),
    "Concat": row("Concat", {"x": empty(0, 3), "z": np.ones((2, 3), np.float32)}, axis=0),
    "Concat of nothing": row("Concat", {"x": empty(0, 3), "z": empty(0, 3)}, axis=0),
    "ReduceSum": row("ReduceSum", {"x": empty(2, 0)}, AXIS),
    "ReduceProd": row("ReduceProd", {"x": empty(2, 0)}, AXIS),
    "ReduceMax": row("ReduceMax", {"x": empty(2, 0)}, AXIS),
    "ReduceMin": row("ReduceMin", {"x": empty(2, 0)}, AXIS),
    "ReduceMax of integers": row("ReduceMax", {"x": empty(2, 0).astype(np.int32)}, AXIS),
    "ReduceSum to nothing": row("ReduceSum", {"x": empty(0, 3)}, AXIS),
    "Softmax": row("Softmax", {"x": empty(0, 3)}, answer=lambda x: x),
    "Softmax over nothing": row("Softmax", {"x": empty(2, 0)}, answer=lambda x: x),
    "Conv": row(
        "Conv", {"x": empty(0, 2, 5)}, {"w": np.ones((3, 2, 2), np.float32)}, answer=lambda x, w: empty(0, 3, 4)
    ),
    "MaxPool": row("MaxPool", {"x": empty(0, 2, 5)}, kernel_shape=[2], answer=lambda x: empty(0, 2, 4)),
    "Gather of nothing": row("Gather", {"x": np.ones((2, 3), np.float32), "i": np.zeros((0,), np.int64)}),
    "Gather from no columns": row("Gather", {"x": empty(3, 0), "i": np.array([2, 0])}),
    "Slice": row("Slice", {"x": np.ones((4, 2), np.float32)}, {"s": np.array([3]), "e": np.array([1])}),
    "Where": row("Where", {"c": np.zeros((0, 1), bool), "x": empty(0, 3), "z": np.ones(3, np.float32)}),
    "Transpose": row("Transpose", {"x": empty(0, 3, 2)}, perm=[2, 0, 1]),
    "Reshape": row("Reshape", {"x": empty(0, 3)}, {"s": np.array([3, 0])}, allowzero=1),
    "Expand": row("Expand", {"x": empty(0, 1)}, {"s": np.array([2, 0, 4])}),
    "Pad": row("Pad", {"x": empty(0, 2)}, {"p": np.array([1, 0, 2, 0])}),
    "Tile": row("Tile", {"x": empty(2, 0)}, {"r": np.array([2, 3])}),
    "Cast": row("Cast", {"x": empty(0)}, to=code("int64")),
    "Split": row("Split", {"x": empty(3)}, {"l": np.array([0, 3])}, ("y", "z")),
    "NonZero": row("NonZero", {"x": empty(0, 2)}),
    "TopK": row("TopK", {"x": empty(0, 2)}, {"k": np.array([1])}, ("y", "i")),
    "CumSum": row("CumSum", {"x": empty(0, 2)}, {"a": np.array(1)}),
    "Not": row("Not", {"x": np.zeros((2, 0), bool)}),
}


def ranks() -> dict[str, Row]:
    """Every rank from 0 to 8, extents from 1 to 3."""
    found: dict[str, Row] = {}
    for rank in range(9):
        shape = [(2, 1, 3, 2, 1, 2, 1, 2)[a] for a in range(rank)]
        x = np.random.default_rng(rank).standard_normal(shape).astype(np.float32)
        found |= {
            f"Relu {rank}": row("Relu", {"x": x}),
            f"Add {rank}": row("Add", {"x": x, "z": np.asarray(x[..., :1] if rank else x)}),
            f"Max {rank}": row("Max", {"x": x, "z": np.float32(0.5)}),
            f"Transpose {rank}": row("Transpose", {"x": x}),
            f"ReduceSum {rank}": row("ReduceSum", {"x": x}, keepdims=0),
            f"ReduceMax {rank}": row("ReduceMax", {"x": x}, keepdims=1),
            f"Flatten {rank}": row("Flatten", {"x": x}, axis=rank // 2),
            f"Unsqueeze {rank}": row("Unsqueeze", {"x": x}, {"a": np.array([0, -1])}),
            f"Expand {rank}": row("Expand", {"x": x}, {"s": np.array([2, *shape])}),
        }
        if rank:
            found |= {
                f"ReduceMean of one axis {rank}": row("ReduceMean", {"x": x}, {"a": np.array([rank // 2])}, keepdims=0),
                f"Concat {rank}": row("Concat", {"x": x, "z": x + 1}, axis=rank // 2),
                f"Gather {rank}": row("Gather", {"x": x, "i": np.array([[0, -1]])}, axis=rank // 2),
                f"Gather one {rank}": row("Gather", {"x": x, "i": np.array(0)}, axis=rank - 1),
                f"Slice {rank}": row(
                    "Slice",
                    {"x": x},
                    {"s": np.array([-1]), "e": np.array([-9]), "a": np.array([0]), "t": np.array([-1])},
                ),
                f"Softmax {rank}": row("Softmax", {"x": x}, axis=rank // 2),
            }
    return found


TABLES: dict[str, Mapping[str, Row]] = {
    "special values": SPECIAL,
    "integers": WHOLE,
    "casts": CASTS,
    "nothing": NOTHING,
    "ranks": ranks(),
}


def judged(table: Mapping[str, Row]) -> rows.Results:
    with np.errstate(all="ignore"):
        return {name: rows.by_reference(one) for name, one in table.items()}


def check(got: rows.Results, expected: rows.Results) -> None:
    wrong = []
    for name, wanted in expected.items():
        for value, want in zip(got[name], wanted, strict=True):
            same = (value.dtype, value.shape) == (want.dtype, want.shape)
            tolerance = 4e-7 if want.dtype == np.float32 else 0
            if not same or not np.allclose(
                value, want, rtol=tolerance, atol=tolerance, equal_nan=want.dtype.kind == "f"
            ):
                wrong.append(f"{name}: {value.dtype}{value.tolist()} where {want.dtype}{want.tolist()} is right")
    assert not wrong, "\n".join(wrong)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("table", TABLES)
def test_compiled(table: str) -> None:
    """A comparison that NaN passes, a trap, a wrapped number, a loop that runs once over nothing, an axis too many."""
    check(rows.by_compiler(TABLES[table]), judged(TABLES[table]))


@pytest.mark.parametrize(("table", "spec"), itertools.product(TABLES, rows.LEVELS))
def test_every_level(table: str, spec: str) -> None:
    """A pass that is right for the middle of the range only."""
    check(rows.by_level(TABLES[table], spec), judged(TABLES[table]))


@pytest.mark.usefixtures("needs_compiler")
def test_casts_of_what_the_type_does_not_hold_do_not_end_the_process() -> None:
    """A trap. ONNX leaves the numbers open, and they differ between machines, numpy and ONNX Runtime: none is asked."""
    beyond = {kind: np.array([NAN, INF, -INF, 1e30, -1e30, 300, -1], kind) for kind in ("float32", "float64")}
    table = {f"{kind} to {other}": cast(x, other) for kind, x in beyond.items() for other in INTEGERS}
    for name, (value,) in rows.by_compiler(table).items():
        assert (str(value.dtype), value.shape) == (name.split()[-1], (7,)), name
