"""The rule by which columns become inputs, and what it refuses."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from sofie.batch.columns import Binding, Column, Input, Rules, bindings, resized
from sofie.errors import SofieError


def column(value: object, missing: list[bool] | None = None) -> Column:
    """A column of a list of numbers, or of lists of them."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return Column(np.concatenate([np.array(v, np.float64) for v in value]), np.array([len(v) for v in value]))
    return Column(np.asarray(value), None, None if missing is None else np.array(missing))


def gathered(
    shape: tuple[int, ...], *columns: Column, dtype: str = "float32", rules: Rules | None = None
) -> np.ndarray:
    names = tuple(f"c{k}" for k in range(len(columns)))
    block = dict(zip(names, columns, strict=True))
    return Binding(Input("x", dtype, shape), names).gather(block, rules or Rules())


def test_numbers_fill_an_input_in_order() -> None:
    a, b = column([1, 2]), column([3.5, 4.5])
    assert gathered((2,), a, b).tolist() == [[1, 3.5], [2, 4.5]]
    assert gathered((), b).tolist() == [3.5, 4.5]
    assert gathered((2, 1), a, b).tolist() == [[[1], [3.5]], [[2], [4.5]]]
    assert gathered((2, 2), a, b, b, a).tolist() == [[[1, 3.5], [3.5, 1]], [[2, 4.5], [4.5, 2]]]


def test_arrays_of_the_shape_are_taken_as_they_are() -> None:
    images = np.arange(12.0).reshape(2, 2, 3)
    assert gathered((2, 3), column(images)).tolist() == images.tolist()


def test_lists_are_cut_and_padded_in_order() -> None:
    """Entries in another order, of another row, or a pad value between them."""
    lists = column([[1, 2, 3], [], [4], [5, 6]])
    assert gathered((2,), lists).tolist() == [[1, 2], [0, 0], [4, 0], [5, 6]]
    assert gathered((2,), lists, rules=Rules(pad=-1)).tolist() == [[1, 2], [-1, -1], [4, -1], [5, 6]]
    assert gathered((4,), lists).tolist() == [[1, 2, 3, 0], [0, 0, 0, 0], [4, 0, 0, 0], [5, 6, 0, 0]]


def test_padding_is_that_of_awkward() -> None:
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 7, 200)
    lists = ak.unflatten(rng.standard_normal(lengths.sum()), lengths)
    expected = ak.to_numpy(ak.fill_none(ak.pad_none(lists, 4, clip=True), 9.0)).astype(np.float32)
    given = Column(ak.to_numpy(ak.flatten(lists)), lengths)
    np.testing.assert_array_equal(gathered((4,), given, rules=Rules(pad=9)), expected)


def test_several_lists_are_features() -> None:
    """Features along the wrong axis: particles by features, or where the shape says so, features by particles."""
    pt, eta, phi = column([[1, 2], [3]]), column([[4, 5], [6]]), column([[7, 8], [9]])
    assert gathered((2, 3), pt, eta, phi).tolist() == [[[1, 4, 7], [2, 5, 8]], [[3, 6, 9], [0, 0, 0]]]
    assert gathered((3, 2), pt, eta, phi).tolist() == [[[1, 2], [4, 5], [7, 8]], [[3, 0], [6, 0], [9, 0]]]
    assert gathered((2, 2), pt, eta).tolist() == [[[1, 4], [2, 5]], [[3, 6], [0, 0]]]
    assert gathered((1, 3), pt).tolist() == [[[1, 2, 0]], [[3, 0, 0]]]
    assert gathered((3, 1), pt).tolist() == [[[1], [2], [0]], [[3], [0], [0]]]
    fixed = column(np.array([[1.0, 2], [3, 4]]))
    assert gathered((2, 3), fixed, fixed, fixed).tolist() == [[[1] * 3, [2] * 3], [[3] * 3, [4] * 3]]


def test_lists_of_vectors() -> None:
    vectors = Column(np.arange(6.0).reshape(3, 2), np.array([2, 1]))
    assert gathered((3, 2), vectors).tolist() == [[[0, 1], [2, 3], [0, 0]], [[4, 5], [0, 0], [0, 0]]]


@pytest.mark.parametrize(
    ("shape", "columns"),
    [
        ((3,), [[1, 2], [3, 4]]),
        ((), [[1, 2], [3, 4]]),
        ((), [[[1], [2]]]),
        ((2,), [[[1], [2]], [[1], [2]]]),
        ((2, 3), [[[1], [2]], [[1], [2]], [3, 4]]),
        ((2, 5), [[[1], [2]]]),
        ((3,), [np.zeros((2, 2))]),  # a table that lacks a column is no list
    ],
)
def test_columns_that_do_not_fit(shape: tuple[int, ...], columns: list[object]) -> None:
    with pytest.raises(SofieError, match="input 'x' takes .* for each event and is given c0"):
        gathered(shape, *map(column, columns))


def test_lists_of_one_event_must_be_equally_long() -> None:
    with pytest.raises(SofieError, match="'c0' has 1 entries in row 1 and column 'c1' has 2"):
        gathered((3, 2), column([[1], [2]]), column([[1], [2, 3]]))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([2**24 + 1]), "float32"),
        (np.array([2**53 + 1]), "float64"),
        (np.array([2**63 - 1]), "float64"),
        (np.array([2**64 - 1], np.uint64), "float32"),
        (np.array([2**63], np.uint64), "int64"),
        (np.array([-1]), "uint8"),
        (np.array([300]), "uint8"),
        (np.array([-1]), "uint64"),
        (np.array([1.5]), "int64"),
        (np.array([2.0**63]), "int64"),
        (np.array([np.nan]), "int32"),
        (np.array([np.inf]), "int64"),
        (np.array([2]), "bool"),
        (np.array([-1.0]), "uint64"),
    ],
)
def test_numbers_that_a_type_cannot_hold(values: np.ndarray, dtype: str) -> None:
    """A run number that silently becomes another one."""
    with pytest.raises(SofieError, match=f"column 'c0' has .* in row 1, which the {dtype} of input 'x' cannot hold"):
        gathered((), Column(np.concatenate([np.zeros(1, values.dtype), values])), dtype=dtype)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([2**24, -(2**24), 2**62]), "float32"),
        (np.array([-(2**63)]), "float64"),
        (np.array([2**63], np.uint64), "float32"),
        (np.array([255, 0]), "uint8"),
        (np.array([3.0, -(2.0**63)]), "int64"),
        (np.array([True, False]), "float32"),
        (np.array([1.0, 0.0]), "bool"),
        (np.array([0.1, np.nan, 1e300]), "float32"),
    ],
)
def test_numbers_that_a_type_holds(values: np.ndarray, dtype: str) -> None:
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(gathered((), Column(values), dtype=dtype), values.astype(dtype))


def test_what_is_missing_is_nan_or_what_was_asked_for() -> None:
    gaps = column([1.0, np.nan, 3.0], [False, False, True])
    np.testing.assert_array_equal(gathered((), gaps), np.array([1, np.nan, np.nan], np.float32))
    assert gathered((), gaps, rules=Rules(missing=-9)).tolist() == [1, -9, -9]
    assert np.isnan(gaps.values[1]), "the caller's array was written to"
    whole = column([1, 2], [False, True])
    assert gathered((), whole, dtype="int64", rules=Rules(missing=7)).tolist() == [1, 7]
    with pytest.raises(SofieError, match="no value in row 1, and int64 has no NaN"):
        gathered((), whole, dtype="int64")
    lists = Column(np.array([1.0, 0.0]), np.array([2, 0]), np.array([False, True]))
    assert gathered((3,), lists, rules=Rules(pad=5, missing=7)).tolist() == [[1, 7, 5], [5, 5, 5]]


def test_numbers_of_the_command_line_must_fit() -> None:
    with pytest.raises(SofieError, match="--pad 0.5: input 'x' is int64, which cannot hold it"):
        gathered((2,), column([[1], [2]]), dtype="int64", rules=Rules(pad=0.5))


def test_names_of_inputs() -> None:
    two = [Input("x", "float32", (2,)), Input("m", "bool", ())]
    assert [b.columns for b in bindings(two, {"x": ["a", "b"]})] == [("a", "b"), ("m",)]
    assert [b.columns for b in bindings(two, None)] == [("x",), ("m",)]
    with pytest.raises(SofieError, match="the model has 2 inputs"):
        bindings(two, ["a", "b"])
    with pytest.raises(SofieError, match="no input 'y'; its inputs are x, m"):
        bindings(two, {"y": ["a"]})
    with pytest.raises(SofieError, match="'x' is given no column"):
        bindings(two, {"x": []})


@pytest.mark.parametrize("size", [1, 3, 5, 50])
def test_blocks_are_resized_without_loss(size: int) -> None:
    """Rows at the border of two blocks that are lost, or lists that move."""
    lists = [[k] * (k % 3) for k in range(20)]
    lengths = np.array([len(row) for row in lists])
    whole = {"n": Column(np.arange(20)), "l": Column(np.array(sum(lists, [])), lengths)}
    blocks = [{name: c.cut(a, b) for name, c in whole.items()} for a, b in ((0, 7), (7, 7), (7, 8), (8, 20))]
    found = list(resized(blocks, size))
    assert [b["n"].rows for b in found] == [min(size, 20 - k) for k in range(0, 20, size)]
    assert np.concatenate([b["n"].values for b in found]).tolist() == list(range(20))
    rows = [ak.unflatten(b["l"].values, b["l"].lengths).to_list() for b in found]
    assert sum(rows, []) == lists
