"""A real scheduler with two workers, each a process of its own."""

from __future__ import annotations

import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import Result

import sofie
from sofie import demo, jit
from sofie.batch import distributed, scorer
from sofie.compiler import Options
from sofie.errors import SofieError
from tests import models
from tests.batch.conftest import NAMES, events, expected
from tests.batch.files import streamed, written
from tests.batch.test_runs import command, parts

Apply = Callable[..., Result]
Fails = Callable[..., str]
COLUMNS = ",".join(NAMES)
HIGGS = Path(demo.__file__).with_name("higgs.onnx")


@dataclass(frozen=True)
class Cluster:
    """The scheduler's address and the processes of the workers."""

    address: str
    workers: list[subprocess.Popen[bytes]]


@contextmanager
def started(log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes its log into a file, which never is full as a pipe may be."""
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", *words], stderr=stream)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(process: subprocess.Popen[bytes], log: Path, said: str) -> None:
    """Waits for a line of a process's log."""
    end = time.monotonic() + 60
    while said not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    logs = [tmp_path / f"{name}.log" for name in ("scheduler", "one", "two")]
    words = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    own = ("--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path / "workers"), "--no-dashboard")
    with ExitStack() as stack:
        scheduler = stack.enter_context(started(logs[0], "distributed.cli.dask_scheduler", *words))
        until(scheduler, logs[0], "Scheduler at")
        workers = [stack.enter_context(started(log, "distributed.cli.dask_worker", address, *own)) for log in logs[1:]]
        for worker, log in zip(workers, logs[1:], strict=True):
            until(worker, log, "Registered to")
        yield Cluster(address, workers)


def test_a_worker_that_is_killed_costs_nothing(apply: Apply, cluster: Cluster) -> None:
    """Chunks that die with a worker, are in the output twice, or come in another order."""
    source = streamed("Parquet", 600_000)
    words = (HIGGS, source, "--columns", COLUMNS, "--chunk", 2000)
    there = ("--scheduler", cluster.address)
    running = subprocess.Popen(
        command(*words, "-o", "out.npz", "--parts", "shared", *there), stderr=subprocess.PIPE, text=True
    )
    while len(parts("shared")) < 30:
        assert running.poll() is None, running.communicate()
        time.sleep(0.005)
    cluster.workers[0].send_signal(signal.SIGKILL)
    before = len(parts("shared"))
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert before < 250, "the work was done before the worker died"
    assert cluster.workers[0].wait() == -signal.SIGKILL and cluster.workers[1].poll() is None
    assert not Path("shared").exists()

    returned = apply(*words, "-o", "returned.npz", *there)  # by the one that is left, without a folder they share
    assert returned.exit_code == 0, returned.stderr
    alone = apply(*words, "-o", "alone.npz")
    assert alone.exit_code == 0, alone.stderr
    one, two, three = (np.load(name)["score"] for name in ("alone.npz", "out.npz", "returned.npz"))
    assert one.shape == (600_000,)
    np.testing.assert_array_equal(two, one)
    np.testing.assert_array_equal(three, one)


def test_what_a_worker_cannot_do_is_one_sentence(apply: Apply, fails: Fails, mlp: Path, cluster: Cluster) -> None:
    """An error on a worker, and a run that goes on with Dask after it began without."""
    columns = {**events(500), "g": np.zeros(500, np.int64)}
    columns["g"][321] = 2**24 + 1
    words = [mlp, written("Parquet", columns), "-o", "out.npz", "--columns", COLUMNS, "--chunk", 100]
    there = ("--scheduler", cluster.address)
    assert "column 'g' has 16777217 in row 321" in fails(*words, *there)
    Path("events.parquet").unlink()
    columns["g"][321] = 0
    written("Parquet", columns)
    done = apply(*words, *there, "--force")
    assert done.exit_code == 0, done.stderr
    with np.load("out.npz") as found:
        scores = np.stack([found[f"y_{k}"] for k in range(5)], axis=1)
    np.testing.assert_allclose(scores, expected(columns, mlp), rtol=2e-5, atol=1e-6)

    import dask.array
    from distributed import Client

    x = np.stack([columns[name] for name in NAMES], axis=1).astype(np.float32)
    with Client(cluster.address):
        lazily = sofie.apply(mlp, dask.array.from_array(x, chunks=(120, 7)))
        np.testing.assert_array_equal(lazily.compute(), sofie.apply(mlp, x))
        kept = sofie.apply(sofie.compile(mlp, dims={"batch": (1, 64)}), dask.array.from_array(x, chunks=(120, 7)))
        with pytest.raises(Exception, match="stays in its process|Could not serialize"):
            kept.compute()


def test_a_scheduler_that_is_not_there(fails: Fails, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "SECONDS", 0.3)
    words = [mlp, written("npz", events(5)), "-o", "out.npz", "--columns", COLUMNS, "--scheduler"]
    assert "the scheduler 'tcp://127.0.0.1:1' does not answer" in fails(*words, "tcp://127.0.0.1:1")
    assert "the scheduler 'nonsense://x' does not answer" in fails(*words, "nonsense://x")


def recipe(options: Options | None = None) -> distributed.Recipe:
    made, bounded = scorer.prepare(models.mlp("batch"), options or Options(), "model")
    return distributed.Recipe.of(models.mlp("batch"), bounded, "model", made)


def test_a_worker_without_compiler_takes_the_shipped_library(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = pickle.loads(pickle.dumps(recipe()))
    monkeypatch.setattr(jit, "has_compiler", lambda: False)
    monkeypatch.setattr(jit, "build", lambda *_: pytest.fail("it was compiled"))
    x = models.normal(700, 7)
    found = shipped.scorer().score({"x": x})["y"]
    np.testing.assert_allclose(found, expected(dict(zip(NAMES, x.T, strict=True)), save()), rtol=2e-5, atol=1e-6)


def save() -> Path:
    onnx.save(models.mlp("batch"), "saved.onnx")
    return Path("saved.onnx")


def test_a_library_for_another_cpu_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instructions that the worker's CPU does not have: its process would end with a fault."""
    monkeypatch.setattr(jit, "has_compiler", lambda: False)
    with pytest.raises(SofieError, match="no C\\+\\+ compiler, and the CPU is another"):
        replace(recipe(Options(cpu="scalar")), text=recipe().text).scorer()


def test_workers_that_always_die_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed as dask

    class Future:
        def result(self) -> None:
            raise dask.KilledWorker("key", None, 3)

    with pytest.raises(SofieError, match="ALLOWED_FAILURES"):
        distributed._answer(dask, Future())


def test_a_folder_that_workers_do_not_see() -> None:
    """Parts that a worker writes on its own disk, and nobody finds."""
    with pytest.raises(SofieError, match="does not see the folder"):
        distributed.task(None, "x", [], Path("elsewhere"), "digest")


def test_lists_go_to_workers_and_come_back(apply: Apply, mlp: Path, cluster: Cluster) -> None:
    columns = {**events(50), "l": [[1.5] * (k % 3) for k in range(50)]}
    pa.parquet.write_table(pa.table(columns), "in.parquet")
    words = ("--columns", COLUMNS, "--keep", "l", "--chunk", 9, "--scheduler", cluster.address)
    done = apply(mlp, "in.parquet", "-o", "out.parquet", *words)
    assert done.exit_code == 0, done.stderr
    assert pa.parquet.read_table("out.parquet")["l"].to_pylist() == columns["l"]
