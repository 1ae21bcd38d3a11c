"""Is the compiled code right? Its results against a float64 truth, with ONNX Runtime's own error as the yardstick.

A float result must be as near to the truth as ONNX Runtime's is: its worst error at most FACTOR times theirs plus SLACK
units in the last place of the output's largest value. Integers and booleans are exact. The truth is `onnx.reference` on
a copy of the model in double precision, or the next best thing, which the report names; without ONNX Runtime the error
of `onnx.reference` in the model's own precision takes its place. The rule itself is in `sofie/verdict.py`, the search
for the node at fault in `sofie/bisect.py`.

    >>> report = check("model.onnx", Options(dims={"batch": 4}), samples=3)
    >>> report.agrees, report.outputs[0].error
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from sofie import feeds as inputs
from sofie.bisect import Finding, Intermediate, Sample, Search
from sofie.compiler import LateModel, Model, Options, Progress, Source, compile_model, conform, default_name
from sofie.errors import SofieError, printable
from sofie.executors import Witnesses
from sofie.frontends.onnx import read_model
from sofie.frontends.operands import needed
from sofie.verdict import OutputReport, Tally
from sofie.weights import Array


@dataclass(frozen=True)
class Report:
    """The verdict on a model.

    truth: what stood for the truth. runtime: ONNX Runtime's version, or why it did not run. seed: that of the random
    inputs, None for given ones. intermediates: every value of the model in topological order, where asked for. first:
    the first node that is wrong, where asked for and there is one.
    """

    model: str
    truth: str
    runtime: str
    samples: int
    seed: int | None
    outputs: tuple[OutputReport, ...]
    intermediates: tuple[Intermediate, ...] = ()
    first: Finding | None = None

    @property
    def agrees(self) -> bool:
        """Whether every output does; an intermediate value may leave the rule by rounding that later nodes shrink."""
        return all(output.agrees for output in self.outputs)


def check(
    source: Source,
    options: Options | None = None,
    *,
    feeds: Mapping[str, Array] | None = None,
    seed: int = 0,
    samples: int = 1,
    progress: Progress | None = None,
    bisect: bool = False,
    intermediates: bool = False,
) -> Report:
    """Compiles a model and compares it on `feeds` (inputs by ONNX name), or on `samples` random inputs.

    The shapes of `feeds` bind free dimensions. With `bisect`, the first wrong node is found where outputs disagree;
    with `intermediates`, every value of the model is compared too. Raises SofieError where the model cannot be
    compiled, or nothing else here can run it.
    """
    if samples < 1:
        raise SofieError(f"--samples {samples}: at least one is needed")
    tell = progress or (lambda step: None)
    options = options or Options()
    proto = read_model(source, options.dims, options.values)
    if feeds is not None:
        options = inputs.bind(options, proto.graph, feeds)
    model = compile_model(proto, options, default_name(source), progress)
    if isinstance(model, LateModel):
        raise needed(model.telling)
    drawn = [feeds] if feeds is not None else _drawn(model, samples, np.random.default_rng(seed))
    given = [_sample(arrays, model, proto.graph, options.values) for arrays in drawn]
    judge = _Judge(proto, model)
    for number, sample in enumerate(given, 1):
        tell(f"compare sample {number} of {len(given)}")
        judge.compare(sample)
    report = judge.report(printable(default_name(source)), None if feeds is not None else seed)
    if not bisect and not intermediates:
        return report
    return _looked_into(report, Search(proto, options, tell), given, judge.worst(), intermediates)


def _looked_into(report: Report, search: Search, samples: Sequence[Sample], worst: int, everything: bool) -> Report:
    """The report with what `search` finds."""
    outputs_agree = report.agrees
    if everything:
        report = replace(report, intermediates=search.survey(samples))
    if not outputs_agree:
        return replace(report, first=search.first_wrong(samples[worst]))
    if wrong := next((value for value in report.intermediates if not value.agrees), None):
        return replace(report, first=search.look_at(wrong, samples[wrong.worst]))
    return report


def _sample(arrays: Mapping[str, Array], model: Model, graph: onnx.GraphProto, values: Mapping[str, object]) -> Sample:
    sizes: dict[str, int] = {}
    feeds = {port.name: conform(arrays[port.name], port, sizes) for port in model.inputs}
    return Sample(feeds, feeds | _constants(graph, values))


def _drawn(model: Model, samples: int, rng: np.random.Generator) -> list[dict[str, Array]]:
    """Random inputs, each sample at several run-time sizes where the model has them."""
    sizes = [inputs.draw_sizes(model.program.sizes, rng) for _ in range(samples)]
    return [inputs.draw(model.inputs, rng, numbers) for choices in sizes for numbers in choices]


class _Judge:
    """Runs all there is on one sample after the other and keeps the worst of each output."""

    def __init__(self, proto: onnx.ModelProto, model: Model) -> None:
        self._model = model
        self._witnesses = Witnesses(proto)
        self._tallies = [Tally(port) for port in model.outputs]
        self._samples = 0

    def compare(self, sample: Sample) -> None:
        """Adds one sample to the tallies."""
        results = self._model.run(sample.feeds)
        said = self._witnesses.hear(sample.everything)
        for k, tally in enumerate(self._tallies):
            theirs = [None if r is None else r[k] for r in (said.native, said.runtime)]
            tally.add(results[tally.port.name], said.truth[k], *theirs)
        self._samples += 1

    def report(self, name: str, seed: int | None) -> Report:
        """The verdict on all samples."""
        truth = self._witnesses.truth
        outputs = tuple(tally.verdict(truth.double) for tally in self._tallies)
        return Report(name, truth.name, self._witnesses.runtime.state, self._samples, seed, outputs)

    def worst(self) -> int:
        """The sample in which the first output that disagrees is farthest from the truth."""
        double = self._witnesses.truth.double
        return next((t.worst for t in self._tallies if not t.verdict(double).agrees), 0)


def _constants(graph: onnx.GraphProto, values: Mapping[str, object]) -> dict[str, Array]:
    """The inputs that were set when compiling, as the arrays that the model's other executors take."""
    arrays = {}
    for value in graph.input:
        if value.name in values:
            kind = value.type.tensor_type
            array = np.asarray(values[value.name], onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
            arrays[value.name] = array.reshape(1) if array.ndim == 0 and len(kind.shape.dim) == 1 else array
    return arrays
