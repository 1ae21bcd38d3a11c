"""sofie.root.define: a model as columns of RDataFrame from Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.root.network import COLUMNS, network, python, two_headed

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("needs_compiler")]

EVENTS = 2000
BEGIN = f"""import numpy as np
import ROOT
import sofie.root

columns = {list(COLUMNS)}
df = ROOT.RDataFrame({EVENTS})
for k, column in enumerate(columns):
    df = df.Define(column, f"(double)((rdfentry_ * {{7 + k}} + {{k}}) % 101) / 25 - 2")
"""


def events() -> np.ndarray:
    entry, k = np.arange(EVENTS)[:, None], np.arange(len(COLUMNS))[None, :]
    return (((entry * (7 + k) + k) % 101) / 25 - 2).astype(np.float32)


def expected(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds or {"features": events()})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the models."""
    onnx.save(network(batch="batch"), tmp_path / "higgs.onnx")
    onnx.save(network(3, batch="batch"), tmp_path / "classes.onnx")
    onnx.save(two_headed(), tmp_path / "two.onnx")
    return tmp_path


@pytest.mark.parametrize("threads", [1, 2])
def test_columns_of_double_in_any_number_of_threads(folder: Path, threads: int) -> None:
    """Columns that are not float, or a session that threads share."""
    many = f"import ROOT\nROOT.EnableImplicitMT({threads})\n" if threads > 1 else ""
    script = (
        'np.savez("out.npz", **sofie.root.define(df, "score", "higgs.onnx", columns).AsNumpy(["rdfentry_", "score"]))'
    )
    python(folder, many + BEGIN + script)
    out = np.load(folder / "out.npz")
    assert out["score"].dtype == np.float32
    want = expected(network(batch="batch"))[0][out["rdfentry_"].astype(int), 0]
    np.testing.assert_allclose(out["score"], want, rtol=1e-5)


def test_several_models_and_a_vector_as_result(folder: Path) -> None:
    """Two models that clash in one process, or a result of several numbers."""
    script = """
df = sofie.root.define(df, "score", "higgs.onnx", columns)
df = sofie.root.define(df, "again", "higgs.onnx", columns)
df = sofie.root.define(df, "classes", "classes.onnx", columns).Define("second", "classes[1]")
np.savez("out.npz", **df.AsNumpy(["score", "again", "second"]))
"""
    python(folder, BEGIN + script)
    out = np.load(folder / "out.npz")
    np.testing.assert_allclose(out["score"], expected(network(batch="batch"))[0][:, 0], rtol=1e-5)
    np.testing.assert_array_equal(out["score"], out["again"])
    np.testing.assert_allclose(out["second"], expected(network(3, batch="batch"))[0][:, 1], rtol=1e-5)


@pytest.mark.parametrize("compiled", [True, False])
def test_models_of_one_name_are_told_apart(folder: Path, compiled: bool) -> None:
    """A second model that runs the first one's code or weights, since both are called the same."""
    onnx.save(network(seed=1, batch="batch"), folder / "other.onnx")
    without = "" if compiled else "jit.compiler = none"
    script = f"""
from sofie import jit

def none():
    raise sofie.SofieError("there is no compiler")

{without}
for k, name in enumerate(("higgs.onnx", "other.onnx")):
    df = sofie.root.define(df, f"score{{k}}", open(name, "rb").read(), columns)
np.savez("out.npz", **df.AsNumpy(["score0", "score1"]))
"""
    python(folder, BEGIN + script)
    out = np.load(folder / "out.npz")
    for k in range(2):
        want = expected(network(seed=k, batch="batch"))[0][:, 0]
        np.testing.assert_allclose(out[f"score{k}"], want, rtol=1e-5)


def test_inputs_of_several_types_as_numbers_and_as_collections(folder: Path) -> None:
    """Elements that reach the wrong input, or an integer that goes through a float."""
    script = """
df = ROOT.RDataFrame(5).Define("x", "rdfentry_ * 0.5").Define("n", "(Long64_t)9007199254740993 + (Long64_t)rdfentry_")
df = df.Define("xs", "ROOT::RVecD{x, x + 1, x + 2}").Define("ns", "std::vector<Long64_t>{n, 3}")
one = sofie.root.define(df, ["sum", "all"], "two.onnx", ["x", "x + 1", "x + 2", "n", "3"])
other = sofie.root.define(df, ["sum", "all"], "two.onnx", ["xs", "ns"])
padded = sofie.root.define(df.Define("short", "ROOT::RVecF{1.f}"), ["sum", "all"], "two.onnx", ["short", "xs"], pad=7)
for k, node in enumerate((one, other, padded)):
    node = node.Define("first", "all[0]").Define("second", "all[1]").Define("last", "all[4]")
    np.savez(f"out{k}.npz", **node.AsNumpy(["sum", "first", "second", "last"]))
"""
    python(folder, BEGIN + script)
    one, other, padded = (np.load(folder / f"out{k}.npz") for k in range(3))
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(one["first"], np.arange(5) / 2)
    np.testing.assert_array_equal(one["last"], 3)
    np.testing.assert_array_equal(padded["second"], 7)
    np.testing.assert_array_equal(padded["last"], (np.arange(5) / 2 + 1).astype(int))


def test_without_a_compiler_the_interpreter_does_it(folder: Path) -> None:
    """A fallback that does not compile in Cling, or threads that share what it makes."""
    script = """
from sofie import jit
from sofie.errors import SofieError

def none():
    raise SofieError("there is no compiler")

jit.compiler = none
np.savez("out.npz", **sofie.root.define(df, "score", "higgs.onnx", columns).AsNumpy(["rdfentry_", "score"]))
"""
    python(folder, "import ROOT\nROOT.EnableImplicitMT(2)\n" + BEGIN + script)
    out = np.load(folder / "out.npz")
    want = expected(network(batch="batch"))[0][out["rdfentry_"].astype(int), 0]
    np.testing.assert_allclose(out["score"], want, rtol=1e-5)


def test_wrong_calls_are_one_sentence(folder: Path) -> None:
    """A wrong number of columns or names that only shows in the event loop, or as a page of C++."""
    script = """
for names, columns, what in (
    ("score", columns[:3], "3 column(s) for inputs of 7 numbers (features 7)"),
    (["a", "b"], columns, "the model has 1 output(s) (score)"),
):
    try:
        sofie.root.define(df, names, "higgs.onnx", columns)
    except sofie.SofieError as error:
        assert what in str(error), error
    else:
        raise SystemExit(what)
short = df.Define("v", "ROOT::RVecF{1.f, 2.f}")
try:
    sofie.root.define(short, "score", "higgs.onnx", ["v"]).Sum("score").GetValue()
except Exception as error:
    assert "the input features takes 7 elements, not 2" in str(error), error
else:
    raise SystemExit("a short collection was taken")
"""
    python(folder, BEGIN + script)


def test_distributed_over_two_processes(folder: Path) -> None:
    """A library that does not reach the workers, or needs this process' files."""
    pytest.importorskip("distributed", reason="needs pip install distributed")
    script = f"""import numpy as np

def main():
    import ROOT
    import sofie.root
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            df = ROOT.RDataFrame({EVENTS}, executor=client, npartitions=4)
            columns = {list(COLUMNS)}
            for k, column in enumerate(columns):
                df = df.Define(column, f"(double)((rdfentry_ * {{7 + k}} + {{k}}) % 101) / 25 - 2")
            df = sofie.root.define(df, "score", "higgs.onnx", columns)
            np.save("sum.npy", df.Sum("score").GetValue())

if __name__ == "__main__":
    main()
"""
    python(folder, script)
    want = expected(network(batch="batch"))[0].astype(float).sum()
    np.testing.assert_allclose(np.load(folder / "sum.npy"), want, rtol=1e-6)
