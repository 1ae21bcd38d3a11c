"""Every format in, every format out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import uproot
from click.testing import Result

from sofie.batch.sources import opened, places
from tests.batch.conftest import NAMES, ROWS, events, expected
from tests.batch.files import READERS, WRITERS, written

Apply = Callable[..., Result]
Fails = Callable[..., str]
COLUMNS = ",".join(NAMES)


def checked(result: dict[str, np.ndarray], columns: dict[str, np.ndarray], mlp: Path) -> None:
    """The scores are the reference's, row by row, and what is kept is what was there."""
    scores = np.stack([result[f"y_{k}"] for k in range(5)], axis=1)
    np.testing.assert_allclose(scores, expected(columns, mlp), rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(result["event"], columns["event"])
    assert set(result) == {"event", *(f"y_{k}" for k in range(5))}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("chunk", [100, 50_000])
def test_rows_of_every_format_are_read_once_and_in_order(apply: Apply, mlp: Path, kind: str, chunk: int) -> None:
    """A reader that loses, doubles or reorders rows where chunks and what the file stores together do not coincide."""
    columns = events()
    source = written(kind, columns)
    done = apply(mlp, source, "-o", "out.npz", "--columns", COLUMNS, "--keep", "event", "--chunk", chunk)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"out.npz  {ROWS:,} rows")
    checked(dict(np.load("out.npz")), columns, mlp)
    assert not list(Path().glob("*.parts")) and not list(Path().glob(".*"))


@pytest.mark.parametrize("suffix", READERS)
def test_results_of_every_format_are_complete(apply: Apply, mlp: Path, suffix: str) -> None:
    """A writer that loses a part or a type, or writes an RNTuple where a TTree is promised."""
    columns = events()
    done = apply(
        mlp, written("npz", columns), "-o", f"out{suffix}", "--columns", COLUMNS, "--keep", "event", "--chunk", 90
    )
    assert done.exit_code == 0, done.stderr
    result = READERS[suffix](Path(f"out{suffix}"))
    checked(result, columns, mlp)
    assert result["event"].dtype == np.int64 and (suffix == ".csv" or result["y_0"].dtype == np.float32)


@pytest.mark.parametrize("suffix", READERS)
def test_files_without_rows_give_files_without_rows(apply: Apply, mlp: Path, suffix: str) -> None:
    done = apply(mlp, written("npz", events(0)), "-o", f"out{suffix}", "--columns", COLUMNS, "--keep", "event")
    assert done.exit_code == 0, done.stderr
    result = READERS[suffix](Path(f"out{suffix}"))
    assert list(map(len, result.values())) == [0] * 6


@pytest.mark.parametrize("kind", WRITERS)
def test_readers_take_files_without_rows(apply: Apply, mlp: Path, kind: str) -> None:
    done = apply(mlp, written(kind, events(0)), "-o", "out.npz", "--columns", COLUMNS)
    assert done.exit_code == 0, done.stderr
    assert np.load("out.npz")["y_0"].shape == (0,)


def test_several_files_and_formats_are_one_table(apply: Apply, mlp: Path) -> None:
    """A glob out of order, a file that is left out, a column that has another type in another file."""
    first, second, third = events(70, 1), events(0, 2), events(150, 3)
    written("Parquet", {n: a.astype(np.float64 if n == "a" else a.dtype) for n, a in first.items()}, "part-1")
    written("Parquet", second, "part-2")
    written("CSV", {n: a.astype(np.int32) if n == "event" else a for n, a in third.items()}, "last")
    done = apply(
        mlp, "part-*.parquet", "last.csv", "-o", "out.npz", "--columns", COLUMNS, "--keep", "event", "--chunk", 40
    )
    assert done.exit_code == 0, done.stderr
    joined = {name: np.concatenate([first[name], third[name]]) for name in first}
    checked(dict(np.load("out.npz")), joined, mlp)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_and_endings_of_csv(apply: Apply, mlp: Path, end: str) -> None:
    """Rows that are counted where there are none, which would shift chunks; a last line without its end."""
    columns = events(30)
    text = Path(written("CSV", columns)).read_text().splitlines()
    Path("odd.csv").write_bytes(end.join([*text[:5], "", *text[5:9], "", "", *text[9:]]).encode())
    done = apply(mlp, "odd.csv", "-o", "out.npz", "--columns", COLUMNS, "--keep", "event", "--chunk", 4)
    assert done.exit_code == 0, done.stderr
    checked(dict(np.load("out.npz")), columns, mlp)


def test_csv_is_read_from_any_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index of lines that is wrong where a block of the file ends within one."""
    from sofie.batch.sources.csv import Csv

    monkeypatch.setattr(Csv, "BYTES", 100)
    monkeypatch.setattr(Csv, "STRIDE", 7)
    columns = events(100)
    source = opened(places([written("CSV", columns)])[0])
    assert source.count(["event"]) == 100
    for start, stop in ((0, 100), (6, 8), (7, 14), (13, 99), (99, 100)):
        rows = [block["event"].values for block in source.read(["event"], start, stop, 5)]
        np.testing.assert_array_equal(np.concatenate(rows), np.arange(start, stop))


@pytest.mark.parametrize("kind", ["TTree", "RNTuple", "Parquet", "HDF5"])
def test_lists_are_read(kind: str) -> None:
    """Entries of one row that end up in another."""
    lists = ak.Array([list(range(k % 4)) for k in range(50)])
    if kind == "TTree":
        with uproot.recreate("l.root") as file:
            file.mktree("t", {"l": "var * float32"}).extend({"l": lists})
    elif kind == "RNTuple":
        with uproot.recreate("l.root") as file:
            file["t"] = {"l": lists}
    elif kind == "Parquet":
        pa.parquet.write_table(pa.table({"l": lists.to_list()}), "l.parquet", row_group_size=13)
    else:
        with h5py.File("l.h5", "w") as file:
            stored = file.create_dataset("l", (50,), h5py.vlen_dtype(np.float32))
            for k, row in enumerate(lists.to_list()):
                stored[k] = row
    source = opened(places([f"l{ {'Parquet': '.parquet', 'HDF5': '.h5'}.get(kind, '.root') }"])[0])
    for start, stop in ((0, 50), (11, 40)):
        blocks = [block["l"] for block in source.read(["l"], start, stop, 7)]
        assert all(block.lengths is not None for block in blocks)
        rows = [ak.unflatten(b.values, b.lengths).to_list() for b in blocks]
        assert [row for part in rows for row in part] == lists.to_list()[start:stop]


def test_fields_of_records_in_parquet_are_columns() -> None:
    """Jets as awkward and Spark write them: lists of records."""
    jets = [[{"pt": 1.0, "eta": 2.0}, {"pt": 3.0, "eta": 4.0}], [], [{"pt": 5.0, "eta": 6.0}]]
    pa.parquet.write_table(pa.table({"jets": jets, "met": [{"pt": 1.5}, {"pt": 2.5}, {"pt": 3.5}]}), "jets.parquet")
    source = opened(places(["jets.parquet"])[0])
    assert sorted(source.names) == ["jets.eta", "jets.pt", "met.pt"]
    (block,) = source.read(["jets.eta", "met.pt"], 1, 3, 5)
    assert block["jets.eta"].values.tolist() == [6.0] and block["jets.eta"].lengths.tolist() == [0, 1]
    assert block["met.pt"].values.tolist() == [2.5, 3.5]


@pytest.mark.parametrize("suffix", [".parquet", ".root"])
def test_lists_are_kept(apply: Apply, mlp: Path, suffix: str) -> None:
    columns = {**events(40), "l": [[1.5] * (k % 3) for k in range(40)]}
    pa.parquet.write_table(pa.table(columns), "in.parquet")
    done = apply(mlp, "in.parquet", "-o", f"out{suffix}", "--columns", COLUMNS, "--keep", "l", "--chunk", 7)
    assert done.exit_code == 0, done.stderr
    if suffix == ".root":
        with uproot.open("out.root") as file:
            assert file["tree"]["l"].array().to_list() == columns["l"]
    else:
        assert pa.parquet.read_table("out.parquet")["l"].to_pylist() == columns["l"]


def test_a_column_that_is_called_as_the_counter_of_another(apply: Apply, mlp: Path) -> None:
    """A TTree that cannot be written, or whose lists have the lengths of others."""
    columns = {**events(4), "l": [[1.5]] * 4, "nl": [[2.5, 3.5]] * 4, "nnl": np.arange(4)}
    pa.parquet.write_table(pa.table(columns), "in.parquet")
    done = apply(mlp, "in.parquet", "-o", "out.root", "--columns", COLUMNS, "--keep", "l,nl,nnl")
    assert done.exit_code == 0, done.stderr
    with uproot.open("out.root") as file:
        arrays = {name: file["tree"][name].array().to_list() for name in ("l", "nl", "nnl")}
    assert arrays == {"l": columns["l"], "nl": columns["nl"], "nnl": [0, 1, 2, 3]}


def test_missing_values_are_kept_where_the_format_has_them(apply: Apply, fails: Fails, mlp: Path) -> None:
    columns = {**events(3), "n": pa.array([1, None, 3])}
    pa.parquet.write_table(pa.table(columns), "in.parquet")
    assert apply(mlp, "in.parquet", "-o", "out.parquet", "--columns", COLUMNS, "--keep", "n").exit_code == 0
    assert pa.parquet.read_table("out.parquet")["n"].to_pylist() == [1, None, 3]
    sentence = fails(mlp, "in.parquet", "-o", "out.root", "--columns", COLUMNS, "--keep", "n")
    assert "column 'n' is int64 with missing values" in sentence
    assert not Path("out.root").exists()


def test_trees_that_are_not_there_and_those_that_are(fails: Fails, apply: Apply, mlp: Path) -> None:
    """A user who does not know the names gets them; the only tree needs no name."""
    columns = events(20)
    written("TTree", columns)
    assert "its trees are events" in fails(mlp, "events.root:nope", "-o", "out.npz", "--columns", COLUMNS)
    assert apply(mlp, "events.root", "-o", "out.npz", "--columns", COLUMNS).exit_code == 0
    with uproot.update("events.root") as file:
        file.mktree("other", {"a": np.float32})
    assert "its trees are events, other" in fails(mlp, "events.root", "-o", "no.npz", "--columns", COLUMNS)


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_that_are_not_there(fails: Fails, mlp: Path, kind: str) -> None:
    source = written(kind, events(20))
    sentence = fails(mlp, source, "-o", "out.npz", "--columns", "a,b,c,d,e,f,pt\x1b[31m")
    assert "no column 'pt" in sentence and "\x1b" not in sentence, sentence
    assert sorted(sentence.strip().partition("it has ")[2].split(", ")) == sorted(events(0))


@pytest.mark.parametrize("kind", WRITERS)
def test_files_that_are_damaged(fails: Fails, mlp: Path, kind: str) -> None:
    """A traceback, or half an output, from a file that ends early."""
    source = written(kind, events())
    path = Path(source.partition(":")[0])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if kind != "CSV" else content[: len(content) // 2] + b"\n\x00,\xff\n")
    assert path.name in fails(mlp, source, "-o", "out.npz", "--columns", COLUMNS)
    assert not Path("out.npz").exists()
    path.write_bytes(b"nothing like it")
    assert path.name in fails(mlp, source, "-o", "out.npz", "--columns", COLUMNS)


def test_text_is_no_number(fails: Fails, mlp: Path) -> None:
    columns = {**events(3), "g": np.array(["x", "y", "z"])}
    for kind in ("Parquet", "CSV", "npz"):
        sentence = fails(mlp, written(kind, columns), "-o", "out.npz", "--columns", COLUMNS)
        assert "column 'g' of" in sentence and "only numbers" in sentence
    with h5py.File("events.h5", "w") as file:
        for name, array in columns.items():
            file[name] = array.astype("S1") if name == "g" else array
    assert "column 'g' of" in fails(mlp, "events.h5", "-o", "out.npz", "--columns", COLUMNS)
    with uproot.recreate("events.root") as file:
        file["t"] = {n: ak.Array(a.tolist()) for n, a in columns.items()}
    assert "column 'g' of" in fails(mlp, "events.root", "-o", "out.npz", "--columns", COLUMNS)


@pytest.mark.parametrize("kind", ["npz", "HDF5"])
def test_columns_of_different_heights(fails: Fails, mlp: Path, kind: str) -> None:
    columns = {**events(9), "c": np.zeros(8, np.float32)}
    assert "column 'a' of" in fails(mlp, written(kind, columns), "-o", "out.npz", "--columns", COLUMNS)


def test_lines_within_quotes_are_not_rows(fails: Fails, mlp: Path) -> None:
    """Chunks that begin within a quoted field, which would give scores to wrong rows."""
    text = Path(written("CSV", events(5))).read_text().splitlines()
    Path("quoted.csv").write_text("\n".join(["note," + text[0], *(f'"two\nlines",{line}' for line in text[1:])]) + "\n")
    assert "quotes" in fails(mlp, "quoted.csv", "-o", "out.npz", "--columns", COLUMNS)


def test_words_that_name_no_file(fails: Fails, mlp: Path) -> None:
    written("npz", events(5))
    assert "there is no file 'nope.npz'" in fails(mlp, "nope.npz", "-o", "out.npz")
    assert "no file matches 'nope-*.npz'" in fails(mlp, "nope-*.npz", "-o", "out.npz")
    assert "suffixes that are read" in fails(mlp, "mlp.onnx", "-o", "out.npz", "--columns", COLUMNS)
    assert "suffixes that are written" in fails(mlp, "events.npz", "-o", "out.xlsx", "--columns", COLUMNS)
    assert "no folder 'no' to write" in fails(mlp, "events.npz", "-o", "no/out.npz", "--columns", COLUMNS)
    assert "is an input as well" in fails(mlp, "events.npz", "-o", "events.npz", "--force", "--columns", COLUMNS)
    assert "no group or dataset 'x'" in fails(mlp, written("HDF5", events(2)).partition(":")[0] + ":x", "-o", "out.npz")


LIBRARIES = {"TTree": "uproot", "Parquet": "pyarrow", "CSV": "pyarrow", "HDF5": "h5py"}


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_library_that_is_not_installed_is_named(
    fails: Fails, mlp: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, package = written(kind, events(5)), LIBRARIES[kind]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    sentence = fails(mlp, source, "-o", "out.npz", "--columns", COLUMNS)
    assert f"needs {package}: pip install 'sofie-mlir[apply]'" in sentence
