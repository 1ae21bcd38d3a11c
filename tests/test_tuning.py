"""`--tune`: a choice that is kept by luck, a search that outlives its time, a build that cannot be repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import pytest

from sofie import jit, pipeline, tuning
from sofie.compiler import Options, lower
from sofie.errors import SofieError
from sofie.tuning import CHOICES, DEFAULT, LEFT_OUT, Setting, Tuned, is_faster, search, tune
from tests import models
from tests.cli.conftest import Fails, Invoke, fails, invoke

__all__ = ["fails", "invoke"]
TILE = next(choice for choice in CHOICES if choice.option == "tile")
PANEL = next(choice for choice in CHOICES if choice.option == "panel")


@dataclass
class FakeBench:
    """Times that a function tells, each comparison with some noise; a clock that a comparison moves by `cost`."""

    time: Callable[[Setting], float]
    noise: float = 0.0
    cost: float = 1.0
    now: float = 0.0
    asked: list[Setting] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def code(self, setting: Setting) -> str:
        if ("lower", "panel", 8) in setting.options:
            raise SofieError("no model has such panels")
        return f"{self.time(setting)}"

    def ratios(self, candidate: Setting, best: Setting) -> Sequence[float]:
        self.now += self.cost
        self.asked.append(candidate)
        ratio = self.time(candidate) / self.time(best)
        return [ratio * (1 + self.noise * wave) for wave in (0, 1, -1, 2, -2, 1, -1)]


def hilly(setting: Setting) -> float:
    """Two options that help, a pass that is better left out, one option that only harms."""
    time = 100.0
    for _, option, value in setting.options:
        time *= {("tile", 2): 0.9, ("tile", 4): 0.8, ("panel", 32): 0.95, ("max", "off"): 1.5}.get((option, value), 1)
    return time * (0.9 if "collapse-loops" in setting.without else 1)


def test_every_choice_that_helps_is_found() -> None:
    bench = FakeBench(hilly)
    found = search(bench, DEFAULT, 1e9, bench.clock)
    assert found.finished and found.setting.without == ("collapse-loops",)
    assert {("lower", "tile", 4), ("lower", "panel", 32)} <= set(found.setting.options)
    assert ("fuse", "max", "off") not in found.setting.options
    assert found.ratio == pytest.approx(0.8 * 0.95 * 0.9)


def test_equal_code_is_timed_once() -> None:
    bench = FakeBench(hilly)
    search(bench, DEFAULT, 1e9, bench.clock)
    codes = [hilly(setting) for setting in bench.asked[:-1]]
    assert all(codes.count(code) <= 2 for code in codes)  # what seems faster is measured again


def test_a_gain_within_the_noise_is_not_kept() -> None:
    bench = FakeBench(hilly, noise=0.3)
    assert search(bench, DEFAULT, 1e9, bench.clock).setting == DEFAULT
    bench = FakeBench(lambda setting: 100.0 if setting == DEFAULT else 99.9 - len(setting.options) / 100)
    assert search(bench, DEFAULT, 1e9, bench.clock).setting == DEFAULT


@pytest.mark.parametrize("seconds", [0.0, 3.0, 10.0])
def test_it_ends_when_its_time_is_up(seconds: float) -> None:
    bench = FakeBench(hilly)
    found = search(bench, DEFAULT, seconds, bench.clock)
    assert not found.finished
    assert bench.now <= seconds + 3  # the second look at a candidate, and the comparison with the default


def test_what_is_worse_than_the_default_in_the_end_is_given_up() -> None:
    start = DEFAULT.chosen(TILE, 3)
    bench = FakeBench(lambda setting: 100.0 if setting == DEFAULT else 120.0 + len(setting.options))
    assert search(bench, start, 1e9, bench.clock).setting == DEFAULT


def test_faster_means_more_than_the_rounds_differ() -> None:
    assert is_faster([0.90, 0.92, 0.91, 0.89])
    assert not is_faster([0.80, 1.10, 0.95, 1.05])
    assert not is_faster([0.995, 0.995, 0.995])


def test_every_choice_is_one_of_some_pass_and_its_words_say_it() -> None:
    """An option that was renamed: the search would skip it in silence."""
    for choice in CHOICES:
        for value in choice.values:
            setting = DEFAULT.chosen(choice, value)
            stages = pipeline.parse(setting.passes)
            having = [s.instance for s in stages if hasattr(s.instance, choice.option.replace("-", "_"))]
            assert [getattr(p, choice.option.replace("-", "_")) for p in having] == [value]
            assert setting.words == f"--pipeline '{setting.passes}'"
    for name in LEFT_OUT:
        pipeline.parse(DEFAULT.passes, (name,))
    assert DEFAULT.passes == pipeline.DEFAULT and DEFAULT.words == ""


@pytest.mark.usefixtures("needs_compiler")
def test_a_real_model_is_tuned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFIE_CACHE", str(tmp_path))
    options = Options()
    found = tune(models.convnet(), options, 2.0)
    (kept,) = jit.cache_folder().glob("tuning/*.json")
    assert json.loads(kept.read_text())["ratio"] == found.ratio

    def never(*_: object, **__: object) -> Tuned:
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr(tuning, "search", never)
        assert tune(models.convnet(), options, 2.0) == found
        kept.write_text("{")
        with pytest.raises(AssertionError, match="measured again"):
            tune(models.convnet(), options, 2.0)


def test_the_words_write_the_same_header(tmp_path: Path) -> None:
    """A build that needs the machine it was tuned on."""
    setting = DEFAULT.chosen(TILE, 2).chosen(PANEL, 8).toggled("collapse-loops")
    text = lower(models.convnet(), "net", tuning.applied(Options(), setting)).header()
    passes, without = text.splitlines()[1:3]
    assert passes == f"// --pipeline '{setting.passes}'" and without == "// --without collapse-loops"
    asked = Options(passes=passes.split("'")[1], without=(without.split()[-1],))
    assert lower(models.convnet(), "net", asked).header() == text
    assert "--pipeline" not in lower(models.convnet(), "net", Options()).header()


@pytest.mark.usefixtures("needs_compiler")
def test_the_command_says_what_it_chose(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(models.mlp(), "mlp.onnx")
    chosen = DEFAULT.chosen(TILE, 1)
    monkeypatch.setattr(tuning, "search", lambda *_, **__: Tuned(chosen, 0.5, 1, True))
    monkeypatch.setenv("SOFIE_CACHE", str(tmp_path / "cache"))
    result = invoke("compile", "mlp.onnx", "-o", "out", "--tune", "1m")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"tuned   0.50 of the default's time: {chosen.words}"
    assert f"// {chosen.words}" in Path("out/mlp.hxx").read_text().splitlines()


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("--tune", "soon"), 2, "as in --tune 30s"),
        (("--tune", "-3s"), 2, "as in --tune 30s"),
        (("--tune", "1s", "--pipeline", "fuse{max-ops=3},lower"), 1, "leave out --pipeline, or --tune"),
        (("b.onnx", "--tune", "1s"), 1, "--tune takes one model"),
    ],
)
def test_what_cannot_be_tuned(
    fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], status: int, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(models.mlp(), "a.onnx")
    assert sentence in fails("compile", "a.onnx", "-o", "out", *words, status=status)
