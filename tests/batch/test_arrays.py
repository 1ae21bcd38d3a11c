"""`sofie.apply` on data in memory and on collections of Dask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import dask.array as da
import dask_awkward as dak
import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import helper

import sofie
from sofie.batch import arrays
from tests import models
from tests.batch.conftest import NAMES, ROWS, events, expected

COLUMNS = events()
X = np.stack([COLUMNS[name] for name in NAMES], axis=1)


def right(result: Any, mlp: Path) -> None:
    np.testing.assert_allclose(np.asarray(result), expected(COLUMNS, mlp), rtol=2e-5, atol=1e-6)


def structured() -> np.ndarray:
    rows = np.empty(ROWS, [(name, np.float32) for name in NAMES])
    for name in NAMES:
        rows[name] = COLUMNS[name]
    return rows


def lazily() -> Any:
    return {name: da.from_array(a, chunks=100 + 50 * k) for k, (name, a) in enumerate(COLUMNS.items())}


@pytest.mark.parametrize(
    ("data", "columns", "kind"),
    [
        (X, None, np.ndarray),
        ({"x": X}, None, np.ndarray),
        (COLUMNS, NAMES, np.ndarray),
        (structured(), NAMES, np.ndarray),
        (ak.Array(X), None, ak.Array),
        (ak.zip(COLUMNS), NAMES, ak.Array),
        (da.from_array(X, chunks=(101, 3)), None, da.Array),
        (lazily(), NAMES, da.Array),
        (dak.from_awkward(ak.zip(COLUMNS), 3), NAMES, dak.Array),
        (dak.from_awkward(ak.Array(X), 3), None, dak.Array),
    ],
)
def test_the_result_is_of_the_kind_of_the_data(data: Any, columns: Any, kind: type, mlp: Path) -> None:
    """Rows that are lost at the borders of pieces, partitions or calls; columns out of order."""
    result = sofie.apply(mlp, data, columns=columns)
    assert type(result) is kind
    right(result.compute() if kind in (da.Array, dak.Array) else result, mlp)


def test_tables_become_tables(mlp: Path) -> None:
    result = sofie.apply(mlp, pa.table(COLUMNS), columns=NAMES)
    assert isinstance(result, pa.Table) and result.column_names == [f"y_{k}" for k in range(5)]
    right(np.stack([result[name] for name in result.column_names], axis=1), mlp)


@pytest.mark.parametrize("dims", [{"batch": 1}, {"batch": 4}, {"batch": (1, 100)}, {"batch": (7, 64)}])
def test_compiled_models_are_taken_as_they_are(mlp: Path, dims: dict[str, Any]) -> None:
    right(sofie.apply(sofie.compile(mlp, dims=dims), X), mlp)


@pytest.mark.parametrize("jobs", [1, 4])
def test_pieces_are_put_together_in_order(mlp: Path, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHUNK", 90)
    right(sofie.apply(mlp, X, jobs=jobs), mlp)


def test_nothing_gives_nothing(mlp: Path) -> None:
    assert sofie.apply(mlp, X[:0]).shape == (0, 5)
    assert str(sofie.apply(mlp, ak.zip(COLUMNS)[:0], columns=NAMES).type) == "0 * 5 * float32"
    assert sofie.apply(mlp, da.from_array(X[:0], chunks=-1)).compute().shape == (0, 5)


def particles() -> onnx.ModelProto:
    """Sums of 3 particles' features, and of their squares."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
        helper.make_node("ReduceSumSquare", ["x", "axes"], ["squares"], keepdims=0),
    ]
    return models.build(nodes, {"x": ["N", 3, 2]}, ["sum", "squares"], {"axes": np.array([1])})


PT = ak.Array([[1.0, 2.0, 3.0, 4.0], [], [5.0]])
JETS = ak.zip({"pt": PT, "eta": PT / 4})
EVENTS = ak.zip({"Jet": JETS, "run": [1, 2, 3]}, depth_limit=1)
SUMS = [[6, 1.5], [0, 0], [5, 1.25]]


@pytest.mark.parametrize("partitions", [0, 2])
def test_fields_of_jets_are_padded(partitions: int) -> None:
    """Records of NanoAOD; entries of one event that are seen in another where partitions are cut."""
    data = dak.from_awkward(EVENTS, partitions) if partitions else EVENTS
    result = sofie.apply(particles(), data, columns=["Jet.pt", "Jet.eta"])
    result = result.compute() if partitions else result
    assert result.fields == ["sum", "squares"]
    assert result["sum"].to_list() == SUMS


def test_only_columns_that_are_needed_are_read() -> None:
    """A file of thousands of columns that dask-awkward would read as a whole."""
    result = sofie.apply(particles(), dak.from_awkward(EVENTS, 2), columns=["Jet.pt", "Jet.eta"])
    (columns,) = dak.necessary_columns(result).values()
    assert columns == {"Jet.pt", "Jet.eta"}


def test_several_outputs_of_dask() -> None:
    data = np.arange(30, dtype=np.float32).reshape(5, 3, 2)
    result = sofie.apply(particles(), da.from_array(data, chunks=(2, 3, 1)))
    assert list(result) == ["sum", "squares"] and result["sum"].shape == (5, 2)
    np.testing.assert_array_equal(result["sum"].compute(), data.sum(axis=1))
    np.testing.assert_array_equal(result["squares"].compute(), (data**2).sum(axis=1))


def test_several_inputs_of_dask() -> None:
    """Axes of two arrays that are taken for the same one."""
    nodes = [
        helper.make_node("ReduceSum", ["m", "axes"], ["s"], keepdims=1),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    model = models.build(nodes, {"x": ["N", 2], "m": ["N", 3]}, ["y"], {"axes": np.array([1])})
    x, m = models.normal(10, 2, seed=1), models.normal(10, 3, seed=2)
    result = sofie.apply(model, {"x": da.from_array(x, chunks=(4, 1)), "m": da.from_array(m, chunks=(3, 2))})
    np.testing.assert_allclose(result.compute(), x + m.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-6)


def test_jagged_arrays_in_a_dictionary() -> None:
    result = sofie.apply(particles(), {"pt": PT, "eta": PT / 4}, columns=["pt", "eta"])
    assert result["sum"].tolist() == SUMS


def test_masked_arrays_and_missing_values(mlp: Path) -> None:
    masked = np.ma.masked_array(X, np.zeros_like(X, bool))
    masked[3, 2] = np.ma.masked
    filled = sofie.apply(mlp, {"x": masked}, missing=-2)
    other = X.copy()
    other[3, 2] = -2
    np.testing.assert_array_equal(filled, sofie.apply(mlp, other))
    assert np.isnan(sofie.apply(mlp, {"x": masked})[3]).all()


@pytest.mark.parametrize(
    ("data", "columns", "sentence"),
    [
        ([1.0], None, "list is no data"),
        (np.float32(1), None, "float32 is no data"),
        (X.astype(str), None, "only arrays of numbers"),
        (X[:, :6], None, "input 'x' takes"),
        ({"a": X[:, 0]}, NAMES, "no column 'b'; there are a"),
        ({**COLUMNS, "b": X[:5, 0]}, NAMES, "'a' has 1,003 rows, and 'b' 5"),
        (ak.zip(COLUMNS), ["a.b"], "no column 'a.b'"),
        (X, NAMES, "an array has no columns a, b"),
        (da.from_array(X[:, :6], chunks=2), None, "input 'x' takes"),
        ({"x": 3}, None, "column 'x' is one value"),
    ],
)
def test_data_that_does_not_fit(data: Any, columns: Any, sentence: str, mlp: Path) -> None:
    with pytest.raises(sofie.SofieError, match=sentence):
        sofie.apply(mlp, data, columns=columns)
