"""Tables written in every format, without the package's own writers, and read by other means than its readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import uproot

Table = Mapping[str, np.ndarray]


def _ttree(path: Path, table: Table) -> str:
    with uproot.recreate(path) as file:
        tree = file.mktree("events", {name: a.dtype for name, a in table.items()})
        for start in range(0, len(next(iter(table.values()))), 300):  # baskets
            tree.extend({name: a[start : start + 300] for name, a in table.items()})
    return f"{path}:events"


def _rntuple(path: Path, table: Table) -> str:
    with uproot.recreate(path) as file:
        file["events"] = dict(table)
    return f"{path}:events"


def _parquet(path: Path, table: Table) -> str:
    pa.parquet.write_table(pa.table(dict(table)), path, row_group_size=300)
    return str(path)


def _csv(path: Path, table: Table) -> str:
    pa.csv.write_csv(pa.table(dict(table)), path)
    return str(path)


def _h5(path: Path, table: Table) -> str:
    with h5py.File(path, "w") as file:
        for name, array in table.items():
            file[f"run/events/{name}"] = array
    return f"{path}:run/events"


def _compound(path: Path, table: Table) -> str:
    with h5py.File(path, "w") as file:
        file["events"] = _structured(table)
    return f"{path}:events"


def _structured(table: Table) -> np.ndarray:
    rows = np.empty(len(next(iter(table.values()))), [(name, a.dtype) for name, a in table.items()])
    for name, array in table.items():
        rows[name] = array
    return rows


def _npz(path: Path, table: Table) -> str:
    np.savez(path, **dict(table))
    return str(path)


def _compressed(path: Path, table: Table) -> str:
    np.savez_compressed(path, events=_structured(table))
    return str(path)


WRITERS: dict[str, tuple[str, Callable[[Path, Table], str]]] = {
    "TTree": (".root", _ttree),
    "RNTuple": (".root", _rntuple),
    "Parquet": (".parquet", _parquet),
    "CSV": (".csv", _csv),
    "HDF5": (".h5", _h5),
    "HDF5 compound": (".hdf5", _compound),
    "npz": (".npz", _npz),
    "npz structured": (".npz", _compressed),
}


def written(kind: str, table: Table, stem: str = "events") -> str:
    """Writes a table; returns what `sofie apply` takes for it."""
    suffix, write = WRITERS[kind]
    return write(Path(stem + suffix), table)


def _read_root(path: Path) -> dict[str, np.ndarray]:
    with uproot.open(path) as file:
        assert file.classnames() == {"tree;1": "TTree"}, "an RNTuple was written"
        arrays = file["tree"].arrays(library="ak")
        return {name: ak.to_numpy(arrays[name]) for name in arrays.fields}


def _read_arrow(table: pa.Table) -> dict[str, np.ndarray]:
    return {name: table[name].to_numpy() for name in table.column_names}


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".parquet": lambda path: _read_arrow(pa.parquet.read_table(path)),
    "": lambda path: _read_arrow(pa.parquet.read_table(path)),
    ".root": _read_root,
    ".csv": lambda path: _read_arrow(pa.csv.read_csv(path)),
    ".h5": _read_h5,
    ".npz": lambda path: dict(np.load(path)),
}


def streamed(kind: str, rows: int, step: int = 100_000) -> str:
    """Seven columns of `rows` rows as a TTree or a Parquet file, written `step` rows at a time."""
    rng = np.random.default_rng(rows)
    tables = ({n: rng.standard_normal(step, np.float32) for n in "abcdefg"} for _ in range(rows // step))
    if kind == "TTree":
        with uproot.recreate("stream.root") as file:
            tree = file.mktree("events", dict.fromkeys("abcdefg", np.float32))
            for table in tables:
                tree.extend(table)
        return "stream.root:events"
    schema = pa.schema([(name, pa.float32()) for name in "abcdefg"])
    with pa.parquet.ParquetWriter("stream.parquet", schema) as writer:
        for table in tables:
            writer.write_table(pa.table(table))
    return "stream.parquet"
