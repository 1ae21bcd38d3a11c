"""The program for the card, run on the CPU: what it calls right or wrong, and what the runner makes of it."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.bench.graph import Graph
from tests.cuda_host.emulation import EVENTS, HOST, PLAIN, compiled
from tests.gpu import prepare, run, truth
from tests.gpu.inputs import drawn
from tests.gpu.program import HARNESS
from tests.gpu.workloads import WORKLOADS, Workload, product, rounded

pytestmark = pytest.mark.usefixtures("needs_compiler")


def _neighbours(_rows: int) -> onnx.ModelProto:
    """What each of 64 points' neighbours come to."""
    g = Graph("neighbours")
    x, chosen = g.input("input", [64, 5]), g.input("chosen", [64, 3], onnx.TensorProto.INT64)
    g.output(g.op("Mul", g.op("Gather", x, chosen), g.op("Unsqueeze", x, g.integers(1))), [64, 3, 5])
    return g.model()


SMALL = {
    "alice_nn": WORKLOADS["alice_nn"],
    "higgs_dense_b1": WORKLOADS["higgs_dense_b1"],
    "neighbours": Workload(_neighbours),
    "rows": Workload(WORKLOADS["softmax_8192x1024"].make, 100),
    "pair": Workload(partial(product, width=40), 70),
    "tensor_cores": Workload(partial(product, width=256), 200, "tf32"),
}
"""One launch and a graph, indices among the inputs, rows of which some are checked, and an input whose rows are not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `prepare` makes it, for the emulation."""
    made = tmp_path_factory.mktemp("gpu")
    scratch = made / "build"
    scratch.mkdir()
    known = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "WORKLOADS", SMALL)
        for name in SMALL:
            known[name] = prepare.asdict(prepare.write(name, made)[1])
    units = [HARNESS, *(scratch / f"{name}.cu" for name in SMALL)]
    includes = "".join(f'#include "{path}"\n' for path in (HOST, EVENTS, *units))
    (scratch / "harness.hxx").symlink_to(HARNESS.with_name("harness.hxx"))
    compiled(scratch, includes, PLAIN).rename(made / "models")
    (made / "ceilings").write_text("#!/bin/sh\necho no card here >&2; exit 2\n")
    shutil.copy(HARNESS.with_name("peers.py"), made)
    prepare.finish(made, "sm_90", known)
    return made


def run_folder(folder: Path, into: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, dict]:
    """The exit status of the runner, and its gpu.json."""
    monkeypatch.setenv("OUT", str(into))
    status = run.main([str(folder), "--peers", "none", *words])
    return status, json.loads((into / "gpu.json").read_text())


def test_all_models_are_right(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Inputs that differ between the two machines, an output in the wrong place, a sample of the wrong rows."""
    status, content = run_folder(folder, tmp_path, monkeypatch)
    assert status == 0, capsys.readouterr()
    for name, about in content["models"].items():
        assert about["right"] and 0 <= about["error"] <= about["allowed"] < (1e-2 if name == "tensor_cores" else 1e-4)
        assert about["us"] > 0 and about["wait_us"] > 0 and about["calls"] >= 4
    assert content["models"]["higgs_dense_b1"]["graph"] and content["ceilings"]["failed"] == "no card here"


@pytest.mark.parametrize("name", SMALL)
def test_a_wrong_number_is_seen(folder: Path, tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    """A comparison that lets the last row, or the last element of it, pass."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folder, spoilt)
    path = spoilt / f"{name}.expected"
    content = path.read_bytes()
    allowed, last = struct.unpack("<d", content[:8])[0], np.frombuffer(content[-8:])[0]
    path.write_bytes(content[:-8] + struct.pack("<d", last + 1e6 * allowed))
    status, told = run_folder(
        spoilt, tmp_path, monkeypatch, "--models", f"{name},alice_nn" if name != "alice_nn" else name
    )
    assert status == 1
    assert told["models"][name]["right"] is False
    assert f"{name}  " in (line := next(x for x in capsys.readouterr().out.splitlines() if x.startswith(name)))
    assert "WRONG" in line


def test_no_number_is_wrong(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """An output with no number in it, which compares as small."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folder, spoilt)
    path = spoilt / "rows.expected"
    content = path.read_bytes()
    path.write_bytes(content[:-80] + struct.pack("<d", float("nan")) + content[-72:])
    status, told = run_folder(spoilt, tmp_path, monkeypatch, "--models", "rows")
    assert status == 1 and told["models"]["rows"]["error"] is None
    assert "no number" in capsys.readouterr().out


def test_a_broken_folder_is_named(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """A file that is cut, taken for an output of zeros; a failure that the exit status hides."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folder, spoilt)
    path = spoilt / "rows.expected"
    path.write_bytes(path.read_bytes()[:-8])
    status, told = run_folder(spoilt, tmp_path, monkeypatch, "--models", "rows,alice_nn")
    assert status == 1 and told["models"]["alice_nn"]["right"]
    assert told["models"]["rows"]["failed"] == (
        "rows: the file of what is expected is not whole: prepare the folder again"
    )
    assert "rows: the file" in capsys.readouterr().out


def test_a_model_that_hangs_is_left(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """A run that a single kernel keeps from its table."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folder, spoilt)
    (spoilt / "models").write_text("#!/bin/sh\nexec sleep 60\n")
    status, told = run_folder(spoilt, tmp_path, monkeypatch, "--models", "alice_nn", "--model-seconds", "0.5")
    assert status == 1 and told["models"]["alice_nn"]["failed"] == "took more than 0.5 s"


def test_a_run_ends_in_time(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Models or peers that go on when the machine is about to be taken away."""
    status, told = run_folder(
        folder, tmp_path, monkeypatch, "--models", "alice_nn", "--seconds", "0", "--peers", "torch"
    )
    assert status == 1 and told["models"]["alice_nn"]["failed"] == "no time was left"
    assert told["absent"]["torch"] == "no time was left"
    assert "alice_nn: no time was left" in capsys.readouterr().out


def test_what_a_peer_told_before_its_end_is_kept(tmp_path: Path) -> None:
    """A column that is empty because its last model took too long, or crashed."""
    (tmp_path / "peers.py").write_text(
        'import sys, time\nprint(\'{"model": "a", "us": 2.0}\', flush=True)\n'
        "print('noise')\ntime.sleep(60) if sys.argv[2] == 'slow' else sys.exit('no luck')\n"
    )
    assert run.times_of(tmp_path, "slow", ["a", "b"], 5) == ({"a": {"us": 2.0}}, "the time was over")
    assert run.times_of(tmp_path, "broken", ["a", "b"], 60) == ({"a": {"us": 2.0}}, "no luck")


def test_the_program_names_its_models(folder: Path) -> None:
    """A unit that the linker drops."""
    done = subprocess.run([folder / "models"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.split()[-len(SMALL) :] == sorted(SMALL)


def test_inputs_are_nearly_normal() -> None:
    """Sums that overflow, or places that share their numbers."""
    values = drawn(0, np.arange(100_000), np.dtype(np.float32))
    assert values.dtype == np.float32 and abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02
    assert len(np.unique(drawn(1, np.arange(1000), np.dtype(np.int64)))) == 64
    assert not np.array_equal(values[:10], drawn(1, np.arange(10), np.dtype(np.float32)))


def test_a_sample_reads_its_own_rows() -> None:
    """Rows of a sample that are drawn as if they were the first."""
    workload = SMALL["pair"]
    whole = truth.inputs(workload.model(), range(70), 70)
    some = truth.inputs(workload.model(3), [0, 7, 69], 70)
    assert np.array_equal(some["input"], whole["input"][[0, 7, 69]]) and np.array_equal(some["right"], whole["right"])


def test_only_large_weights_are_rounded() -> None:
    """A suite that is another than the bench's, or a folder that does not travel."""
    small, large = WORKLOADS["alice_nn"].make(0), WORKLOADS["generator_mlp"].make(0)
    assert rounded(small) == WORKLOADS["alice_nn"].make(0)
    found = [np.frombuffer(t.raw_data, np.uint32) for t in rounded(large).graph.initializer if len(t.dims) == 2]
    assert found and not any((bits & 0x1FFFFF).any() for bits in found)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_nvcc_builds_the_folder(tmp_path: Path) -> None:
    """A unit that only the emulation takes: it is the host's half too that nvcc must compile."""
    prepare.prepare(tmp_path / "gpu", "sm_90", ["higgs_dense_b1"])
    files = {path.name for path in (tmp_path / "gpu").iterdir()}
    assert files >= {"models", "ceilings", "run.py", "peers.py", "models.json", "higgs_dense_b1.expected"}
    done = subprocess.run([tmp_path / "gpu" / "models"], capture_output=True, text=True, check=False)
    assert done.stderr.endswith(" higgs_dense_b1\n")
