"""The bench that times the wrong thing, mixes up its columns, or reports a system that gave wrong numbers."""

from __future__ import annotations

import json

import pytest

from sofie.bench.ceilings import Ceilings, Floor
from sofie.bench.workers import Round, Timings, last_core, take_turns
from tests.bench import ablation, report, table
from tests.bench.__main__ import parse, plan_of
from tests.bench.measuring import Measured, Plan, Size, build, measure
from tests.bench.plot import plot

CEILINGS = Ceilings(100.0, ((1000, 200.0), (100_000, 50.0), (10_000_000, 10.0)))
SIZE = Size(2_000_000, 4000, 128, 128, 20_000, 3, 0.5, 1.5)


def timings(**us: list[float]) -> Timings:
    return Timings({system: [Round(t, t, 9) for t in times] for system, times in us.items()})


def measured(name: str, **us: float) -> Measured:
    made = Measured(name, Floor(1.0, "flops"), SIZE, us=us)
    for system, time in us.items():
        made.ratio[system], made.ours_to[system] = time / us["ort"], us["ours"] / time
        made.error[system] = 1e-6
    return made


def test_the_floor_is_the_larger_of_work_and_traffic():
    assert CEILINGS.floor(1_000_000, 500) == Floor(10.0, "flops")
    assert CEILINGS.floor(1000, 100_000) == Floor(2.0, "memory")
    assert CEILINGS.gigabytes_per_second(1001) == 50.0, "a set that L1 does not hold comes from L2"
    assert CEILINGS.gigabytes_per_second(1 << 40) == 10.0


def test_a_ratio_is_taken_within_each_round():
    """A machine that slows down between rounds must not move a ratio."""
    slowed = timings(ours=[1.0, 10.0, 1.0], ort=[2.0, 20.0, 2.0])
    assert slowed.ratio("ours", "ort") == 0.5
    assert slowed.us("ours") == 1.0


@pytest.mark.usefixtures("needs_compiler")
def test_ours_and_onnxruntime_take_turns_and_agree(tmp_path):
    plan = Plan(["ours", "ort"], 2, 0.005, last_core(), tmp_path)
    built = build("alice_nn", plan)
    assert not built.failed
    found = measure(built, plan, CEILINGS)
    assert found.us.keys() == {"ours", "ort"}
    assert all(0 < time < 1e5 for time in found.us.values())
    assert all(error < 1e-6 for error in found.error.values())
    assert found.ours_to["ort"] == pytest.approx(1 / found.ratio["ort"] * found.ratio["ours"], rel=1e-6)
    assert found.size.flops > 13_000
    assert found.size.arena_bound <= found.size.arena


def test_a_system_that_fails_says_why_and_the_others_go_on(tmp_path):
    found = take_turns({"broken": ["sh", "-c", "echo no luck >&2; exit 3"]}, 1, 0.01, last_core())
    assert found.failed == {"broken": "no luck"}
    assert found.rounds == {}


def test_columns_stand_under_their_titles():
    text = table.table(("model", "us"), [("a", "1"), ("longer", "1,000")])
    assert text == "model      us\na           1\nlonger  1,000"
    lines = table.quick([measured("m", ours=2.0, ort=4.0)]).splitlines()
    assert lines[1].split()[:5] == ["m", "0.50", "2.00", "2", "4"]
    assert lines[2].split()[-2:] == ["0.50", "2.00"]


def test_the_page_counts_the_best_peer(tmp_path):
    models = [
        measured("a", ours=1.0, ort=4.0, openvino=2.0, **{"cern-O3": 8.0, "cern-Ofast": 5.0}),
        measured("b", ours=3.0, ort=2.0, openvino=6.0, **{"cern-O3": 3.0, "cern-Ofast": 6.0}),
    ]
    assert report.best_peer(models[0]) == ("openvino", 0.5)
    assert report.to_cern(models[0]) == 0.2
    assert report.to_best(models[1]) == 1.5
    plan = Plan([], 3, 0.1, 0, tmp_path)
    report.write(report.Results(models, CEILINGS, plan, {"vectorize": {"a": 4.0, "b": 1.0}}), tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert "| ours / best peer | **0.87** | 2 | 1.50 (b) |" in page
    assert "| vectorize | 2.00 | 1 | 4.00 (a) |" in page
    assert json.loads((tmp_path / "performance.json").read_text())["models"][1]["us"]["ours"] == 3.0


def test_the_plot_keeps_what_is_off_its_axis():
    text = plot([measured("<m>", ours=1e-9, ort=1.0)])
    assert "&lt;m&gt;" in text and 'cx="170.0"' in text


def test_a_model_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit):
        parse(["no_such"])
    assert "there is no model no_such" in capsys.readouterr().err


def test_an_absent_peer_is_named_and_left_out(tmp_path, capsys):
    plan = plan_of(parse(["--cache", str(tmp_path), "--systems", "ours,cern-O3"]))
    assert plan.systems == ["ours"]
    assert "CERN -O3 is left out: not installed" in capsys.readouterr().err


@pytest.mark.usefixtures("needs_compiler")
def test_a_pass_left_out_is_timed_in_turn_with_the_whole_pipeline(tmp_path):
    """Every variant has its own weights; one that loads another's does not run."""
    plan = Plan([], 1, 0.005, last_core(), tmp_path)
    variants = ablation.build("alice_nn", plan)
    assert "vectorize" in variants.commands and "fuse-reduction" in variants.same
    timings = take_turns(variants.commands, 1, 0.005, plan.core)
    assert not timings.failed
    assert timings.rounds.keys() == variants.commands.keys()
