"""Which node is wrong? The values inside a model held to the rule of `sofie check`, and a search for the first bad one.

A value is seen by making it an output of a copy of the model. Storing it keeps its node from being fused with its
readers, and may so hide the error that is looked for; therefore few values are stored at a time. A *cut* after node k
stores the values that are made up to k and read after it, or are outputs; the rest of the program stays as it is
compiled without. With a bad value in the cut, a node up to k is at fault; where the cut is right and the outputs are
not, one after k. Where the cut is right and the outputs are too, storing the values has healed the program: what is at
fault is a fusion across them (or memory that values share), and the search ends there. Halving the nodes, that is
log2(n) compilations.

A search by single values would go astray: with two branches, a right value of the one says nothing about the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sofie.compiler import Model, Options, Progress, compile_model, lower
from sofie.errors import SofieError, printable
from sofie.excerpt import Excerpt, excerpts
from sofie.executors import Testimony, Witnesses
from sofie.frontends.onnx import inline_functions, read_model
from sofie.verdict import OutputReport, Tally, gaps
from sofie.weights import Array

Number = float | int | bool


@dataclass(frozen=True)
class Sample:
    """Inputs by name: those that the compiled model takes, and those that the other executors take."""

    feeds: Mapping[str, Array]
    everything: Mapping[str, Array]


@dataclass(frozen=True)
class Intermediate:
    """A value of the model in the program that stores all of them, and the node that makes it.

    report: the verdict over all samples, None where there is none, for the `reason`. worst: the sample of the worst
    error, by number.
    """

    node: str
    operator: str
    value: str
    report: OutputReport | None
    reason: str = ""
    worst: int = 0

    @property
    def agrees(self) -> bool:
        """Whether nothing speaks against it."""
        return self.report is None or self.report.agrees


@dataclass(frozen=True)
class Finding:
    """The first node that is wrong.

    value: where the error shows. error, allowed: as in OutputReport, on one sample. index: the element that is farthest
    off, and there `ours`, `truth` and `runtime`; None where the shapes differ or nobody says. note: how the error comes
    and goes. levels: the node's IR in the program as it is compiled.
    """

    node: str
    operator: str
    value: str
    error: float
    allowed: float
    index: tuple[int, ...] | None
    ours: Number | None
    truth: Number | None
    runtime: Number | None
    note: str
    levels: tuple[Excerpt, ...]


@dataclass(frozen=True)
class _Said:
    """What the others say about one value; `truth` is None where none of them knows it."""

    truth: Array | None = None
    native: Array | None = None
    runtime: Array | None = None
    double: bool = True


@dataclass(frozen=True)
class _Seen:
    """One run of a program on one sample: the verdicts and the arrays by value, outputs and stored ones."""

    reports: Mapping[str, OutputReport]
    results: Mapping[str, Array]

    def wrong(self) -> list[str]:
        """The values that disagree."""
        return [name for name, report in self.reports.items() if not report.agrees]


class Search:
    """Looks into a model; its free dimensions are as `read_model` leaves them."""

    def __init__(self, proto: onnx.ModelProto, options: Options, tell: Progress) -> None:
        self._proto = _prepared(proto)
        self._options, self._tell = options, tell
        self._outputs = [v.name for v in self._proto.graph.output]
        self._nodes = [n for n in self._proto.graph.node if n.op_type != "Constant" or n.output[0] in self._outputs]
        tensors = _tensors(self._proto)
        self._maker = {name: k for k, n in enumerate(self._nodes) for name in n.output if name}
        self._values = [name for name in self._maker if name in tensors]
        self._strange = {name: "it is not known to be a tensor" for name in self._maker if name not in tensors}
        self._others = _Others(self._proto, self._values)

    # -- every value ---------------------------------------------------------------------------------------------------

    def survey(self, samples: Sequence[Sample]) -> tuple[Intermediate, ...]:
        """The verdict on every value, all of them stored at once, in the order of the nodes."""
        model = self._compiled(self._values)
        tallies = {port.name: Tally(port) for port in model.outputs if port.name in self._maker}
        double = dict.fromkeys(tallies, True)
        for number, sample in enumerate(samples, 1):
            self._tell(f"compare every value of sample {number} of {len(samples)}")
            results = model.run(sample.feeds)
            for name, said in self._others.about(list(tallies), sample).items():
                if said.truth is None:
                    self._strange[name] = self._others.reason
                else:
                    tallies[name].add(results[name], said.truth, said.native, said.runtime)
                    double[name] &= said.double
        return tuple(self._intermediate(name, tallies.get(name), double.get(name, True)) for name in self._maker)

    def _intermediate(self, name: str, tally: Tally | None, double: bool) -> Intermediate:
        node = self._nodes[self._maker[name]]
        if tally is None or name in self._strange:
            return Intermediate(node.name, node.op_type, name, None, self._strange.get(name, ""))
        return Intermediate(node.name, node.op_type, name, tally.verdict(double), worst=tally.worst)

    def look_at(self, intermediate: Intermediate, sample: Sample) -> Finding:
        """A value that disagrees where all are stored, although the outputs agree."""
        seen = self._seen(self._values, sample)
        return self._finding(intermediate.value, intermediate.value, seen, sample, "the outputs agree all the same")

    # -- the first wrong one -------------------------------------------------------------------------------------------

    def first_wrong(self, sample: Sample) -> Finding:
        """The first wrong node on a sample on which outputs disagree; raises SofieError where no node makes them."""
        low, high = -1, len(self._nodes) - 1
        plain = at_high = self._seen([], sample)
        if not self._made(plain.wrong()):
            raise SofieError("outputs disagree that no node makes, or no longer when computed again")
        while high - low > 1:
            middle = (low + high) // 2
            cut = self._cut(middle)
            seen = self._seen(cut, sample)
            if set(cut) & set(seen.wrong()):
                high, at_high = middle, seen
            elif seen.wrong():
                low = middle
            else:
                return self._healed(cut, plain, sample)
        return self._broken(low, high, at_high, sample)

    def _cut(self, last: int) -> list[str]:
        """The values made by nodes up to `last` that later nodes read or that are outputs."""
        read = {name for node in self._nodes[last + 1 :] for name in _names_read(node)} | set(self._outputs)
        return [name for name in self._values if self._maker[name] <= last and name in read]

    def _healed(self, cut: list[str], plain: _Seen, sample: Sample) -> Finding:
        """Storing the cut made all right: the finding is the value of it that does so alone, or else its last."""
        alone = (name for name in cut if not self._seen([name], sample).wrong())
        healer = next(alone, None) if len(cut) > 1 else None
        stored = [healer] if healer is not None else cut
        note = (
            f"all outputs agree as soon as {_listed(stored)} is stored: "
            "how its node is fused with its readers, or shares memory, is at fault"
        )
        return self._finding(stored[-1], self._made(plain.wrong())[0], plain, sample, note)

    def _broken(self, low: int, high: int, seen: _Seen, sample: Sample) -> Finding:
        """The cut before node `high` is right, the one after it is not."""
        wrong = self._made(seen.wrong())
        own = [name for name in wrong if self._maker[name] == high]
        value = (own or wrong)[0]
        before = [name for name in self._cut(low) if name not in self._outputs]
        note = ""
        if before and value not in self._seen([*before, value], sample).wrong():
            note = f"it agrees as soon as {_listed(before)} is stored too: how the two are fused is at fault"
        return self._finding(value, value, seen, sample, note)

    def _made(self, names: Iterable[str]) -> list[str]:
        """Those that nodes make, first made first."""
        return sorted((name for name in names if name in self._maker), key=self._maker.__getitem__)

    # -- what a finding says -------------------------------------------------------------------------------------------

    def _finding(self, made: str, shown: str, seen: _Seen, sample: Sample, note: str) -> Finding:
        """The node that makes the value `made`, with the error of the value `shown`."""
        node = self._nodes[self._maker[made]]
        said = self._others.about([shown], sample)[shown]
        report, result = seen.reports[shown], seen.results[shown]
        index = _farthest(result, said)
        ours, truth, runtime = (_at(array, index) for array in (result, said.truth, said.runtime))
        self._tell("lower once more for the IR")
        levels = excerpts(self._proto, self._options, node.name)
        name, operator = printable(node.name), printable(node.op_type)
        return Finding(
            name, operator, shown, report.error, report.allowed, index, ours, truth, runtime, note, tuple(levels)
        )

    # -- programs ------------------------------------------------------------------------------------------------------

    def _seen(self, stored: Sequence[str], sample: Sample) -> _Seen:
        """What the program that stores these values comes to on a sample."""
        self._tell(f"compile with {_listed(stored)} stored" if stored else "compare the outputs")
        model = self._compiled(stored)
        results = model.run(sample.feeds)
        reports = {}
        said = self._others.about([port.name for port in model.outputs], sample)
        for port in model.outputs:
            about = said[port.name]
            if about.truth is not None:
                tally = Tally(port)
                tally.add(results[port.name], about.truth, about.native, about.runtime)
                reports[port.name] = tally.verdict(about.double)
        return _Seen(reports, results)

    def _compiled(self, stored: Sequence[str]) -> Model:
        """The model with these values among its outputs, except those that SOFIE cannot store."""
        stored = [name for name in stored if name not in self._strange]
        try:
            return compile_model(exposing(self._proto, stored), self._options)
        except SofieError:
            for name in stored:
                try:
                    lower(exposing(self._proto, [name]), "model", self._options)
                except SofieError as error:
                    self._strange[name] = str(error)
            return compile_model(exposing(self._proto, [n for n in stored if n not in self._strange]), self._options)


class _Others:
    """What the other executors say about values; they run the model once a sample, value by value if they must."""

    def __init__(self, proto: onnx.ModelProto, values: Sequence[str]) -> None:
        self._proto, self._values = proto, values
        self._outputs = [v.name for v in proto.graph.output]
        self._plain = Witnesses(proto)
        self._whole: Witnesses | None = Witnesses(exposing(proto, values))
        self._known: dict[str, _Said] = {}
        self._sample: Sample | None = None
        self.reason = ""

    def about(self, names: Sequence[str], sample: Sample) -> dict[str, _Said]:
        """What they say about these values on a sample; the last sample is remembered."""
        if sample is not self._sample:
            self._known, self._sample = self._hear(sample), sample
        for name in names:
            if name not in self._known:
                self._known[name] = self._single(name, sample)
        return {name: self._known[name] for name in names}

    def _hear(self, sample: Sample) -> dict[str, _Said]:
        """Outputs as the plain model has them; what is stored may change how ONNX Runtime fuses."""
        outputs = _sorted_out(self._outputs, self._plain.hear(sample.everything))
        if self._whole is None:
            return outputs
        stored = [*self._outputs, *(v for v in self._values if v not in self._outputs)]
        try:
            return _sorted_out(stored, self._whole.hear(sample.everything)) | outputs
        except SofieError:
            self._whole = None
            return outputs

    def _single(self, name: str, sample: Sample) -> _Said:
        try:
            return _sorted_out([name], Witnesses(_up_to(self._proto, name)).hear(sample.everything))[name]
        except SofieError as error:
            self.reason = str(error)
            return _Said()


def _sorted_out(names: Sequence[str], said: Testimony) -> dict[str, _Said]:
    """A testimony by value."""
    return {
        name: _Said(
            said.truth[k],
            None if said.native is None else said.native[k],
            None if said.runtime is None else said.runtime[k],
            said.double,
        )
        for k, name in enumerate(names)
    }


def _farthest(result: Array, said: _Said) -> tuple[int, ...] | None:
    """The index of the element that is farthest from the truth."""
    truth = said.truth
    if result.dtype.kind != "f" and said.native is not None:
        truth = said.native
    if truth is None or truth.shape != result.shape or not result.size:
        return None
    off = gaps(result, truth, said.truth if said.native is None else said.native)
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), result.shape))


def _at(array: Array | None, index: tuple[int, ...] | None) -> Number | None:
    """One element as a Python number."""
    if array is None or index is None or len(index) != array.ndim:
        return None
    element: Number = array[index].item()
    return element


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(printable(name, 40) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


# -- models ------------------------------------------------------------------------------------------------------------


def exposing(proto: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model in which the values `names` are outputs too, after its own."""
    copy = read_model(proto)
    outputs = {v.name for v in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    return copy


def _up_to(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy of the model with this one output and the nodes that it needs."""
    copy = exposing(proto, [name])
    needed, kept = {name}, []
    for node in reversed(proto.graph.node):
        if needed & set(node.output):
            needed |= set(_names_read(node))
            kept.append(node)
    outputs = [v for v in exposing(proto, [name]).graph.output if v.name == name]
    del copy.graph.node[:], copy.graph.output[:]
    copy.graph.node.extend(reversed(kept))
    copy.graph.output.extend(outputs)
    return copy


def _prepared(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model without functions of its own, in which every node has a name of its own."""
    copy = inline_functions(read_model(proto))
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        wanted = node.name or next(filter(None, node.output), f"#{index}")
        node.name = wanted if wanted not in taken else f"{wanted} #{index}"
        taken.add(node.name)
    return copy


def _tensors(proto: onnx.ModelProto) -> set[str]:
    """The values that are tensors, or of which nothing is known."""
    try:
        graph = onnx.shape_inference.infer_shapes(proto).graph
    except Exception:  # nothing is known then
        graph = proto.graph
    typed = {v.name: v.type.WhichOneof("value") for v in [*graph.value_info, *graph.output]}
    made = [name for node in proto.graph.node for name in node.output if name]
    return {name for name in made if typed.get(name, "tensor_type") in ("tensor_type", None)}


def _names_read(node: onnx.NodeProto) -> list[str]:
    """The values that a node reads, those that graphs inside it read among them."""
    graphs = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    inner = [name for graph in graphs for inside in graph.node for name in _names_read(inside)]
    results = [v.name for graph in graphs for v in graph.output]
    return [*(name for name in node.input if name), *inner, *results]
