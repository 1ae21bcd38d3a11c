"""The demonstration: the shipped network becomes a C++ program whose scores of simulated events are judged."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx

from sofie import jit
from sofie.compiler import Options, lower
from sofie.demo.events import generate, roc_auc
from sofie.emit.cpp import Program
from sofie.errors import SofieError, printable
from sofie.files import write
from sofie.frontends.onnx import load
from sofie.pipeline import GROUPS

NAME = "higgs"
SEED = 2024
FLAGS = ("-std=c++17", "-O2")

Scores = npt.NDArray[np.float32]
Tell = Callable[[str, float, str], None]
"""Hears of a step, the seconds it took, and why it is there."""


@dataclass(frozen=True)
class Result:
    """What the demonstration shows.

    worst: the largest difference of a score from onnx.reference. auc, reference_auc: area under the ROC curve of the
    compiled and the reference scores. microseconds: per event, the median of several passes over all events, measured
    inside the C++ program. files: all that was written.
    """

    worst: float
    auc: float
    reference_auc: float
    microseconds: float
    files: tuple[Path, ...]


def run(events: int, folder: Path, tell: Tell) -> Result:
    """Generates, compiles and runs the program in `folder`; `tell` hears of each step.

    Raises SofieError where there is no C++ compiler, or the folder cannot be written.
    """
    compiler = jit.compiler()
    if shutil.which(compiler[0]) is None:
        raise SofieError(f"the C++ compiler {compiler[0]!r} that CXX names is not there: install it or unset CXX")
    _make(folder)
    header, weights, source = folder / f"{NAME}.hxx", folder / f"{NAME}.dat", folder / "main.cpp"
    data, scored = folder / "events.bin", folder / "scores.bin"
    done = _Stopwatch(tell)

    model = onnx.load_model_from_string(resources.files("sofie.demo").joinpath(f"{NAME}.onnx").read_bytes())
    module = load(model, {"batch": 1})
    done("read the model")
    reasons = iter([step.reason for steps in GROUPS.values() for step in steps])
    program = lower(module, NAME, Options(), lambda name: done(name, next(reasons)))
    write(weights, program.weight_bytes())
    write(header, program.header().encode())
    write(source, main_cpp(program, header, weights).encode())
    done("write the C++")
    executable = _build(compiler, source)
    done("compile the C++")
    features, labels = generate(events, SEED)
    write(data, features.tobytes())
    done("simulate events")
    microseconds = _execute(executable, data, scored)
    scores = np.fromfile(scored, np.float32)
    done("score them")
    expected = reference_scores(model, features)
    done("run onnx.reference")
    return Result(
        worst=float(np.max(np.abs(scores - expected))),
        auc=roc_auc(scores, labels),
        reference_auc=roc_auc(expected, labels),
        microseconds=microseconds,
        files=(header, weights, source, executable, data, scored),
    )


class _Stopwatch:
    """Tells how long it took since the last call."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._start = tell, perf_counter()

    def __call__(self, step: str, reason: str = "") -> None:
        now = perf_counter()
        self._tell(step, now - self._start, reason)
        self._start = now


def reference_scores(model: onnx.ModelProto, features: Scores) -> Scores:
    """What onnx.reference makes of the events, [n]."""
    from onnx.reference import ReferenceEvaluator

    feeds = {model.graph.input[0].name: features}
    results = cast("list[Scores]", ReferenceEvaluator(model).run(None, feeds))
    return results[0].reshape(-1)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SofieError(f"the folder {printable(str(folder))!r} cannot be made: {error.strerror}") from error


def _build(compiler: list[str], source: Path) -> Path:
    """The program, compiled beside its source under another name first."""
    program, scratch = source.with_name(NAME), source.with_name(f".{NAME}.tmp")
    command = [*compiler, *FLAGS, "-o", str(scratch), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        scratch.unlink(missing_ok=True)
        line = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
        raise SofieError(f"the C++ compiler cannot build {str(source)!r}: {printable(line.strip(), 300)}")
    return scratch.replace(program)


def _execute(program: Path, data: Path, scores: Path) -> float:
    """Runs the program from the folder its weights lie in; returns the microseconds per event it prints."""
    command = [str(program.resolve()), str(data.resolve()), str(scores.resolve())]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = printable(done.stderr.strip(), 300) or f"status {done.returncode}"
        raise SofieError(f"{str(program)!r} failed: {reason}")
    return float(done.stdout.split()[0])


def main_cpp(program: Program, header: Path, weights: Path) -> str:
    """The program: reads events, scores them through a Session, writes the scores and prints the time per event."""
    return _MAIN.format(
        header=header.name,
        weights=weights.name,
        name=program.name,
        features=program.inputs[0].elements,
        scores=program.outputs[0].elements,
    )


_MAIN = """\
// Scores events: {name} [events.bin [scores.bin]]: native floats, {features} an event in and {scores} out.
// Build with: c++ -std=c++17 -O2 -o {name} main.cpp

#include "{header}"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

namespace {{

constexpr std::size_t features = {features};
constexpr std::size_t scores_per_event = {scores};
constexpr int passes = 7;

std::vector<float> read(const std::string &file)
{{
   std::ifstream stream(file, std::ios::binary | std::ios::ate);
   if (!stream)
      throw std::runtime_error("cannot read " + file);
   std::vector<float> values(static_cast<std::size_t>(stream.tellg()) / sizeof(float));
   stream.seekg(0);
   stream.read(reinterpret_cast<char *>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
   return values;
}}

void write(const std::string &file, const std::vector<float> &values)
{{
   std::ofstream stream(file, std::ios::binary);
   const auto bytes = static_cast<std::streamsize>(values.size() * sizeof(float));
   stream.write(reinterpret_cast<const char *>(values.data()), bytes);
   if (!stream.flush())
      throw std::runtime_error("cannot write " + file);
}}

}} // namespace

int main(int argc, char **argv)
{{
   try {{
      const std::vector<float> events = read(argc > 1 ? argv[1] : "events.bin");
      const std::size_t count = events.size() / features;
      std::vector<float> scores(count * scores_per_event);
      SOFIE_{name}::Session session("{weights}");

      std::vector<double> microseconds;
      for (int pass = 0; pass < passes; ++pass) {{
         const auto start = std::chrono::steady_clock::now();
         for (std::size_t event = 0; event < count; ++event)
            session.infer(events.data() + event * features, scores.data() + event * scores_per_event);
         const std::chrono::duration<double, std::micro> elapsed = std::chrono::steady_clock::now() - start;
         microseconds.push_back(elapsed.count() / static_cast<double>(std::max<std::size_t>(count, 1)));
      }}
      std::nth_element(microseconds.begin(), microseconds.begin() + passes / 2, microseconds.end());

      write(argc > 2 ? argv[2] : "scores.bin", scores);
      const double median = microseconds[passes / 2];
      std::printf("%.3f us per event, the median of %d passes over %zu events\\n", median, passes, count);
   }} catch (const std::exception &error) {{
      std::fprintf(stderr, "%s\\n", error.what());
      return 1;
   }}
}}
"""
