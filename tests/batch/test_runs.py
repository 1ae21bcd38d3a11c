"""Runs that are stopped, resumed, disturbed or refused, and models of every shape of batch."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import Result
from onnx import TensorProto, helper

from sofie.batch.scorer import Scorer
from tests import models
from tests.batch.conftest import NAMES, events, expected
from tests.batch.files import READERS, streamed, written

Apply = Callable[..., Result]
Fails = Callable[..., str]
COLUMNS = ",".join(NAMES)


def command(*words: object) -> list[str]:
    return [sys.executable, "-c", "from sofie.cli import main; main()", "apply", *map(str, words)]


def parts(folder: str = "out.npz.parts") -> list[Path]:
    return sorted(Path(folder).glob("part-*.npz"))


def scores(path: str, count: int = 5) -> np.ndarray:
    with np.load(path) as found:
        return np.stack([found[f"y_{k}"] for k in range(count)], axis=1)


# -- stopped -----------------------------------------------------------------------------------------------------------


def hear() -> None:
    """A shell starts what runs in the background deaf to SIGINT, and so are its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on(apply: Apply, mlp: Path, number: signal.Signals) -> None:
    """Chunks that are done again, are lost or are half written; an output that is there before it is complete."""
    columns = events(400_000)
    words = (mlp, written("Parquet", columns), "-o", "out.npz", "--columns", COLUMNS, "--chunk", 500, "--jobs", 2)
    for _ in range(10):  # until one is stopped before its end
        running = subprocess.Popen(
            command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear
        )
        while len(parts()) < 20 and running.poll() is None:
            time.sleep(0.002)
        running.send_signal(number)
        output, errors = running.communicate(timeout=60)
        if running.returncode != 0:
            break
        Path("out.npz").unlink()
    assert running.returncode != 0 and output == "" and not Path("out.npz").exists(), errors
    kept = len(parts())
    assert 20 <= kept < 800
    if number == signal.SIGINT:
        kept_in = f"{kept} of 800 chunks are kept in 'out.npz.parts'"
        assert errors == f"sofie: interrupted: {kept_in}, and the same command goes on from there\n"
    done = apply(*words)
    assert done.exit_code == 0, done.stderr
    assert f", {kept} of 800 chunks were there" in done.stdout
    np.testing.assert_allclose(scores("out.npz"), expected(columns, mlp), rtol=2e-5, atol=1e-6)
    assert not Path("out.npz.parts").exists()


def test_only_what_is_missing_is_done(apply: Apply, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run that gives the scores of one chunk to another: holes at the start, in the middle and at the end."""
    columns = events(1000)
    words = (mlp, written("TTree", columns), "-o", "out.npz", "--columns", COLUMNS, "--chunk", 70)
    done: list[int] = []
    score = Scorer.score

    def failing(self: Scorer, feeds: Any, heard: Any = None, seed: int = 0) -> Any:
        if seed in (0, 1, 4, 14):
            raise OSError(28, "No space left on device")
        done.append(seed)
        return score(self, feeds, heard, seed)

    for _ in range(5):  # threads stop wherever they are, and what one has done by then need not be kept
        monkeypatch.setattr(Scorer, "score", failing)
        there = {int(part.stem.removeprefix("part-")) for part in parts()}
        done.clear()
        assert apply(*words).exit_code == 1
        assert not there & set(done), "a chunk was done twice"
    monkeypatch.setattr(Scorer, "score", score)
    kept = len(parts())
    result = apply(*words)
    assert result.exit_code == 0 and (not kept or f"{kept} of 15 chunks were there" in result.stdout)
    np.testing.assert_allclose(scores("out.npz"), expected(columns, mlp), rtol=2e-5, atol=1e-6)


def leave_parts(words: Sequence[object]) -> None:
    """Has a run end after some parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sofie.batch.files.merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        from click.testing import CliRunner

        from sofie.cli import main

        assert CliRunner().invoke(main, ["apply", *map(str, words)]).exit_code == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (["--columns", "g,b,c,d,e,f,a"], "columns"),
        (["--chunk", "7"], "chunk"),
        (["--missing", "1"], "rules"),
        (["--keep", "event"], "keep"),
        (["--reproducible"], "options"),
    ],
)
def test_parts_of_another_run_are_not_taken(
    apply: Apply, fails: Fails, mlp: Path, change: list[str], what: str
) -> None:
    """Scores of other columns or other options under this run's name."""
    words = [mlp, written("npz", events(50)), "-o", "out.npz", "--columns", COLUMNS, "--chunk", 20]
    leave_parts(words)
    before = {path: path.stat().st_mtime_ns for path in parts()}
    assert len(before) == 3
    sentence = fails(*words, *change) if change[0] not in ("--columns",) else fails(*words[:4], *change, *words[6:])
    assert f"'out.npz.parts' has parts of another run ({what} differ)" in sentence and "--force" in sentence
    assert before == {path: path.stat().st_mtime_ns for path in parts()}
    forced = apply(*(words if change[0] != "--columns" else [*words[:4], *words[6:]]), *change, "--force")
    assert forced.exit_code == 0 and "were there" not in forced.stdout, forced.stderr


def test_another_model_or_input_is_another_run(fails: Fails, mlp: Path) -> None:
    source = written("npz", events(50))
    words = [mlp, source, "-o", "out.npz", "--columns", COLUMNS]
    leave_parts(words)
    onnx.save(models.mlp("batch", seed=9), mlp)
    assert "(model differ)" in fails(*words)
    onnx.save(models.mlp("batch"), mlp)
    written("npz", events(51))
    assert "(inputs differ)" in fails(*words)


def test_outputs_are_not_overwritten_unasked(apply: Apply, fails: Fails, mlp: Path) -> None:
    words = [mlp, written("npz", events(50)), "-o", "out.npz", "--columns", COLUMNS]
    Path("out.npz").write_text("precious")
    assert "'out.npz' exists: give --force" in fails(*words)
    assert Path("out.npz").read_text() == "precious"
    assert apply(*words, "--force").exit_code == 0
    assert scores("out.npz").shape == (50, 5)


def test_a_folder_of_others_is_left_alone(fails: Fails, mlp: Path) -> None:
    words = [mlp, written("npz", events(50)), "-o", "out.npz", "--columns", COLUMNS]
    Path("out.npz.parts").mkdir()
    Path("out.npz.parts/thesis.tex").write_text("precious")
    assert "has 'thesis.tex' and no manifest" in fails(*words, "--force")
    assert Path("out.npz.parts/thesis.tex").read_text() == "precious"


def test_what_a_killed_run_has_hidden_is_removed(apply: Apply, mlp: Path) -> None:
    """Gigabytes that nobody sees, beside the output."""
    Path(".out.npz.unfinished.npz").write_text("half")
    Path(".out.npz.unfinished.npz.x1").mkdir()
    Path(".out.npz.unfinished.npz.x1/0").write_text("half")
    assert apply(mlp, written("npz", events(50)), "-o", "out.npz", "--columns", COLUMNS).exit_code == 0
    assert not list(Path().glob(".*")) and scores("out.npz").shape == (50, 5)


def test_two_runs_at_once(fails: Fails, mlp: Path) -> None:
    import fcntl

    words = [mlp, written("npz", events(50)), "-o", "out.npz", "--columns", COLUMNS]
    leave_parts(words)
    handle = os.open("out.npz.parts", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "another sofie apply writes there" in fails(*words)
    os.close(handle)


def test_a_part_that_is_damaged_is_done_again_or_named(apply: Apply, fails: Fails, mlp: Path) -> None:
    """After a power cut a file may be there without its content."""
    columns = events(60)
    words = [mlp, written("npz", columns), "-o", "out.npz", "--columns", COLUMNS, "--chunk", 20]
    leave_parts(words)
    parts()[1].write_bytes(b"")
    np.savez(parts()[2], **{f"{k}v": np.zeros(3, np.float32) for k in range(5)})
    assert "part-000002.npz' has not the rows of its chunk: remove it" in fails(*words)
    parts()[2].unlink()
    assert apply(*words).exit_code == 0
    np.testing.assert_allclose(scores("out.npz"), expected(columns, mlp), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", [suffix for suffix in READERS if suffix])
def test_a_full_disk_leaves_no_half_output(apply: Apply, mlp: Path, suffix: str) -> None:
    """Half a file under the final name, or under a hidden one; parts that are thrown away."""
    words = (mlp, written("npz", events(30_000)), "-o", f"out{suffix}", "--columns", COLUMNS, "--chunk", 1000)
    limit = (100_000, resource.RLIM_INFINITY)  # no file may grow beyond; parts are smaller
    run = subprocess.run(
        command(*words, "--pipeline", "fuse,lower"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        check=False,
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr, run.stderr
    assert run.stderr.startswith(f"sofie: 'out{suffix}' cannot be written:") and run.stderr.count("\n") == 1, run.stderr
    assert sorted(p.name for p in Path().iterdir()) == ["events.npz", "mlp.onnx", f"out{suffix}.parts"]
    assert len(parts(f"out{suffix}.parts")) == 30
    assert "30 of 30 chunks were there" in apply(*words).stdout


def test_an_error_in_a_late_row_keeps_what_was_done(fails: Fails, mlp: Path) -> None:
    columns = {**events(500), "g": np.zeros(500, np.int64)}
    columns["g"][321] = 2**24 + 1
    sentence = fails(
        mlp, written("Parquet", columns), "-o", "out.npz", "--columns", COLUMNS, "--chunk", 100, "--jobs", 1
    )
    assert "column 'g' has 16777217 in row 321 of 'events.parquet', which the float32" in sentence
    assert {"part-000000.npz", "part-000001.npz", "part-000002.npz"} <= {path.name for path in parts()}
    assert not Path("out.npz.parts/part-000003.npz").exists()


def test_an_error_stops_the_other_threads(fails: Fails, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C that waits for hours until each thread is at the end of its chunk."""
    begun = threading.Event()

    def score(self: Scorer, feeds: Any, heard: Any, seed: int) -> Any:
        if seed == 1:
            begun.wait(20)
            raise OSError(28, "No space left on device")
        begun.set()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            heard(1)
            time.sleep(0.01)
        stopped.append(False)
        return {}

    stopped: list[bool] = []
    monkeypatch.setattr(Scorer, "score", score)
    words = ("--columns", COLUMNS, "--chunk", 10, "--jobs", 2)
    assert "No space left" in fails(mlp, written("npz", events(20)), "-o", "out.npz", *words)
    assert not stopped


@pytest.mark.parametrize("kind", ["TTree", "Parquet", "HDF5", "npz"])
def test_there_may_be_more_files_than_can_be_open(mlp: Path, kind: str) -> None:
    """A reader that keeps its file open after its last row."""
    columns = events(3)
    source = written(kind, columns, "events-000")
    path = Path(source.partition(":")[0])
    for k in range(1, 60):
        Path(f"events-{k:03d}{path.suffix}").write_bytes(path.read_bytes())
    words = (mlp, source.replace("-000", "-*"), "-o", "out.npz", "--columns", COLUMNS, "--keep", "event")
    run = subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert np.load("out.npz")["event"].tolist() == [0, 1, 2] * 60


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["batch", "N", 1, 3, 64])
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_batch_of_any_name_or_size(apply: Apply, tmp_path: Path, batch: int | str, jobs: int) -> None:
    """Rows that are lost where the last call is not full, or where threads share memory."""
    onnx.save(models.mlp(batch), tmp_path / "m.onnx")
    onnx.save(models.mlp("batch"), tmp_path / "free.onnx")
    columns = events(1100)
    done = apply(
        "m.onnx", written("npz", columns), "-o", "out.npz", "--columns", COLUMNS, "--chunk", 97, "--jobs", jobs
    )
    assert done.exit_code == 0, done.stderr
    np.testing.assert_allclose(scores("out.npz"), expected(columns, tmp_path / "free.onnx"), rtol=2e-5, atol=1e-6)


def saved(nodes: list[onnx.NodeProto], inputs: dict[str, Any], outputs: list[str], **kinds: int) -> str:
    onnx.save(models.build(nodes, inputs, outputs, {}, kinds), "m.onnx")
    return "m.onnx"


def test_several_inputs_and_outputs(apply: Apply, fails: Fails) -> None:
    """Columns that go to another input; outputs of another shape than [batch, n]."""
    nodes = [
        helper.make_node("Add", ["x", "m"], ["sum/all:0"]),
        helper.make_node("Unsqueeze", ["x", "axes"], ["cube"]),
    ]
    onnx.save(
        models.build(nodes, {"x": ["N", 2], "m": ["N", 1]}, ["sum/all:0", "cube"], {"axes": np.array([2])}), "m.onnx"
    )
    columns = events(40)
    source = written("npz", columns)
    words = ("m.onnx", source, "-o", "out.npz", "--columns", "x=a,b")
    done = apply(*words, "--columns", "m=c", "--chunk", 7)
    assert done.exit_code == 0, done.stderr
    with np.load("out.npz") as found:
        assert found.files == ["sum_all_0_0", "sum_all_0_1", "cube_0_0", "cube_1_0"]
        np.testing.assert_array_equal(found["sum_all_0_1"], columns["b"] + columns["c"])
        np.testing.assert_array_equal(found["cube_1_0"], columns["b"])
    assert "no column 'm'" in fails(*words, "--force")
    assert "has 2 inputs (x, m): give the columns of each" in fails(*words[:-1], "a,b,c", "--force")
    assert "no input 'z'; its inputs are x, m" in fails(*words[:-1], "z=a,b,c", "--force")


def test_inputs_without_a_batch_are_events(apply: Apply) -> None:
    """A graph of 3 particles with 2 features each, exported for one event: its leading extent is no batch."""
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    onnx.save(models.build(nodes, {"x": [3, 2]}, ["y"], {"axes": np.array([0])}), "m.onnx")
    pt, eta = [[1.0, 2.0, 3.0, 4.0], [], [5.0]], [[0.5] * 4, [], [0.25]]
    pa.parquet.write_table(pa.table({"pt": pt, "eta": eta}), "in.parquet")
    done = apply("m.onnx", "in.parquet", "-o", "out.npz", "--columns", "pt,eta")
    assert done.exit_code == 0, done.stderr
    assert scores("out.npz", 2).tolist() == [[6, 1.5], [0, 0], [5, 0.25]]


def test_a_vector_is_one_event(apply: Apply) -> None:
    saved([helper.make_node("Neg", ["x"], ["y"])], {"x": [2]}, ["y"])
    done = apply("m.onnx", written("npz", events(5)), "-o", "out.npz", "--columns", "a,b")
    assert done.exit_code == 0, done.stderr
    np.testing.assert_array_equal(scores("out.npz", 2), -np.stack([events(5)["a"], events(5)["b"]], axis=1))


def test_lists_are_padded_on_the_way(apply: Apply) -> None:
    saved([helper.make_node("Neg", ["x"], ["y"])], {"x": ["N", "k"]}, ["y"])
    pa.parquet.write_table(pa.table({"pt": [[1.0, 2.0, 3.0], [], [4.0]]}), "in.parquet")
    done = apply("m.onnx", "in.parquet", "-o", "out.npz", "--columns", "pt", "--dim", "k=2", "--pad", "-5")
    assert done.exit_code == 0, done.stderr
    assert scores("out.npz", 2).tolist() == [[-1, -2], [5, 5], [-4, 5]]


def test_integers_and_booleans(apply: Apply) -> None:
    nodes = [helper.make_node("Where", ["c", "i", "j"], ["y"])]
    saved(
        nodes, {"c": ["N"], "i": ["N"], "j": ["N"]}, ["y"], c=TensorProto.BOOL, i=TensorProto.INT64, j=TensorProto.INT64
    )
    i = np.array([2**60, 7, -1])
    np.savez("in.npz", c=np.array([1.0, 0.0, 1.0]), i=i, j=np.array([1, 2, 3], np.uint16))
    done = apply("m.onnx", "in.npz", "-o", "out.npz")
    assert done.exit_code == 0, done.stderr
    assert np.load("out.npz")["y"].tolist() == [2**60, 2, -1]


@pytest.mark.parametrize(
    ("operator", "inputs", "words", "sentence"),
    [
        ("Neg", {"x": ["N", "k"]}, [], "not bound: k; give them with --dim k=N"),
        ("Neg", {"x": ["N", "k"]}, ["--dim", "k=1..4"], "give each dimension but the batch one size"),
        ("Add", {"x": ["N", 2], "m": [2]}, [], "no batch in common"),
        ("ReduceSum", {"x": ["N", 2]}, [], "has no row for each event"),
        ("NonZero", {"x": ["N", 2]}, [], "follows from the data"),
    ],
)
def test_models_that_have_no_row_for_an_event(
    fails: Fails, operator: str, inputs: dict[str, Any], words: list[str], sentence: str
) -> None:
    kinds = {"y": TensorProto.INT64} if operator == "NonZero" else {}
    saved([helper.make_node(operator, list(inputs), ["y"])], inputs, ["y"], **kinds)
    assert sentence in fails("m.onnx", written("npz", events(5)), "-o", "out.npz", "--columns", "x=a,b", *words)


def test_large_outputs_are_refused(fails: Fails) -> None:
    onnx.save(
        models.build([helper.make_node("Expand", ["x", "s"], ["y"])], {"x": [1, 1]}, ["y"], {"s": np.array([1, 1001])}),
        "m.onnx",
    )
    assert "has 1,001 numbers for each event" in fails(
        "m.onnx", written("npz", events(5)), "-o", "o.npz", "--columns", "a"
    )


def test_names_that_collide(fails: Fails, apply: Apply) -> None:
    """A column that silently replaces another one."""
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Abs", ["x"], ["p/q"]),
        helper.make_node("Abs", ["a"], ["p:q"]),
    ]
    saved(nodes, {"x": ["N"]}, ["a", "p/q", "p:q"])
    source = written("npz", events(5))
    assert "gives a column 'a', and so does --keep" in fails(
        "m.onnx", source, "-o", "o.npz", "--columns", "b", "--keep", "a"
    )
    assert apply("m.onnx", source, "-o", "o.npz", "--columns", "b").exit_code == 0
    assert np.load("o.npz").files == ["a", "p_q", "p_q_"]


def test_random_numbers_follow_from_the_row_not_from_the_thread(apply: Apply) -> None:
    saved(
        [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
        {"x": ["N"]},
        ["y"],
    )
    source = written("npz", events(2000))
    for name, jobs in (("one.npz", 1), ("four.npz", 4)):
        done = apply("m.onnx", source, "-o", name, "--columns", "a", "--chunk", 100, "--jobs", jobs)
        assert done.exit_code == 0, done.stderr
    np.testing.assert_array_equal(np.load("one.npz")["y"], np.load("four.npz")["y"])
    assert len(np.unique(np.load("one.npz")["y"] - events(2000)["a"])) > 1900


def test_scratch_memory_is_bounded(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large network of which 512 rows at a time would take gigabytes in each thread."""
    from sofie.batch import scorer
    from sofie.compiler import Options

    whole, _ = scorer.prepare(mlp, Options(), "m")
    monkeypatch.setattr(scorer, "ARENA", whole.arena // 4)
    part, _ = scorer.prepare(mlp, Options(), "m")
    assert whole.most == scorer.ROWS and part.most == scorer.ROWS // 4 and part.arena <= whole.arena // 4 + 64


# -- memory ------------------------------------------------------------------------------------------------------------

PEAK = """
import resource, subprocess, sys
run = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
assert run.returncode == 0
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.parametrize("kind", ["Parquet", "TTree"])
def test_memory_does_not_grow_with_rows(mlp: Path, kind: str) -> None:
    """A reader or a writer that keeps what it has seen: 1.5 million rows are 42 MB of features and 30 MB of scores."""
    peaks = []
    for rows in (500_000, 2_000_000):
        source = streamed(kind, rows)
        suffix = ".root" if kind == "TTree" else ".parquet"
        words = command(mlp, source, "-o", f"out-{rows}{suffix}", "--columns", COLUMNS, "--chunk", 20_000, "--jobs", 2)
        run = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout) / 1024)
    assert peaks[1] < peaks[0] + 30, f"peaks of {peaks} MiB"
    assert peaks[1] < 400
