"""Is the compiled code right? Its results against a float64 truth, with ONNX Runtime's own error as the yardstick.

A float result must be as near to the truth as ONNX Runtime's is: its worst error at most FACTOR times theirs plus SLACK
units in the last place of the output's largest value. Integers and booleans are exact. The truth is `onnx.reference` on
a copy of the model in double precision, or the next best thing, which the report names; without ONNX Runtime the error
of `onnx.reference` in the model's own precision takes its place.

    >>> report = check("model.onnx", Options(dims={"batch": 4}), samples=3)
    >>> report.agrees, report.outputs[0].error
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import AttributeProto, TensorProto, numpy_helper

from sofie import feeds as inputs
from sofie.compiler import Model, Options, Progress, Source, compile_model, conform, default_name
from sofie.emit.cpp import Port
from sofie.errors import SofieError, printable
from sofie.frontends.onnx import read_model, release
from sofie.weights import Array

FACTOR = 4.0
"""How many times ONNX Runtime's worst error a result may have."""

SLACK = 8.0
"""ULP of the output's largest value that are always allowed.

A single score can come out exact in ONNX Runtime by chance. In 525 runs of 21 models, one sample each, at most 0.9 was
needed beside FACTOR; sums that cancel were off by up to 35 in both.
"""

SLACK_AGAINST_SAME_PRECISION = 64.0
"""The same where the truth is itself rounded at every step, as the result is."""

Floats = npt.NDArray[np.float64]
Results = list[Array]


@dataclass(frozen=True)
class OutputReport:
    """One output, the worst over all samples.

    error: worst absolute distance to the truth. relative: `error` over the truth's largest magnitude. ulp: `error` in
    units in the last place of that magnitude. runtime, reference: the errors of ONNX Runtime and of onnx.reference in
    the model's own precision, None where they did not run. allowed: what `error` may be. note: what the
    numbers do not say.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    error: float
    relative: float
    ulp: float
    runtime: float | None
    reference: float | None
    allowed: float
    agrees: bool
    note: str = ""


@dataclass(frozen=True)
class Report:
    """The verdict on a model.

    truth: what stood for the truth. runtime: ONNX Runtime's version, or why it did not run. seed: that of the random
    inputs, None for given ones.
    """

    model: str
    truth: str
    runtime: str
    samples: int
    seed: int | None
    outputs: tuple[OutputReport, ...]

    @property
    def agrees(self) -> bool:
        """Whether every output does."""
        return all(output.agrees for output in self.outputs)


def check(
    source: Source,
    options: Options | None = None,
    *,
    feeds: Mapping[str, Array] | None = None,
    seed: int = 0,
    samples: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Compiles a model and compares it on `feeds` (inputs by ONNX name), or on `samples` random inputs.

    The shapes of `feeds` bind free dimensions. Raises SofieError where the model cannot be compiled, or nothing else
    here can run it.
    """
    if samples < 1:
        raise SofieError(f"--samples {samples}: at least one is needed")
    tell = progress or (lambda step: None)
    proto = read_model(source)
    options = options or Options()
    release(proto.graph, options.dims)
    if feeds is not None:
        options = inputs.bind(options, proto.graph, feeds)
    model = compile_model(proto, options, default_name(source), progress)
    rng = np.random.default_rng(seed)
    given = [feeds] if feeds is not None else _drawn(model, samples, rng)
    judge = _Judge(proto, model, options.values)
    for number, sample in enumerate(given, 1):
        tell(f"compare sample {number} of {len(given)}")
        judge.compare(sample)
    return judge.report(printable(default_name(source)), None if feeds is not None else seed)


def _drawn(model: Model, samples: int, rng: np.random.Generator) -> list[dict[str, Array]]:
    """Random inputs, each sample at several run-time sizes where the model has them."""
    sizes = [inputs.draw_sizes(model.program.sizes, rng) for _ in range(samples)]
    return [inputs.draw(model.inputs, rng, numbers) for choices in sizes for numbers in choices]


class _Judge:
    """Runs all there is on one sample after the other and keeps the worst of each output."""

    def __init__(self, proto: onnx.ModelProto, model: Model, values: Mapping[str, object]) -> None:
        self._model = model
        self._fixed = _constants(proto.graph, values)
        self._native = _Reference(proto)
        self._runtime = _Runtime(proto)
        self._truths = self._candidates(proto)
        self._samples = 0
        self._tallies = [_Tally(port) for port in model.outputs]

    def _candidates(self, proto: onnx.ModelProto) -> list[_Executor]:
        """What may stand for the truth, best first."""
        try:
            double = in_double(proto)
        except Exception:  # a model the conversion does not understand still has its own precision
            return [self._native, self._runtime]
        return [_Reference(double, double=True), _Runtime(double, double=True), self._native, self._runtime]

    def compare(self, sample: Mapping[str, Array]) -> None:
        """Adds one sample to the tallies."""
        sizes: dict[str, int] = {}
        feeds = {port.name: conform(sample[port.name], port, sizes) for port in self._model.inputs}
        results = self._model.run(feeds)
        everything = feeds | self._fixed
        native, runtime = self._native.run(everything), self._runtime.run(everything)
        while self._truths and (truth := self._truths[0].run(everything)) is None:
            self._truths.pop(0)
        if not self._truths:
            raise SofieError(f"nothing here can run the model to compare with: {self._native.reason}")
        assert truth is not None
        for k, tally in enumerate(self._tallies):
            theirs = [None if r is None else r[k] for r in (native, runtime)]
            tally.add(results[tally.port.name], truth[k], *theirs)
        self._samples += 1

    def report(self, name: str, seed: int | None) -> Report:
        """The verdict on all samples."""
        truth = self._truths[0]
        slack = SLACK if truth.double else SLACK_AGAINST_SAME_PRECISION
        outputs = tuple(tally.verdict(slack) for tally in self._tallies)
        return Report(name, truth.name, self._runtime.state, self._samples, seed, outputs)


@dataclass
class _Tally:
    """The worst of one output so far."""

    port: Port
    error: float = 0.0
    reference: float | None = None
    runtime: float | None = None
    largest: float = 0.0
    note: str = ""

    def add(self, result: Array, truth: Array, native: Array | None, runtime: Array | None) -> None:
        """Counts one sample; `truth` may be of another precision than the output."""
        if result.shape != truth.shape:
            self.note = self.note or f"its shape is {result.shape}, that of the truth {truth.shape}"
            self.error = np.inf
            return
        if np.dtype(self.port.dtype).kind != "f":
            truth = truth if native is None else native  # a value next to a step may fall to either side in float64
            self._add_exact(result, truth, runtime)
            return
        wide = np.asarray(truth, np.float64)
        usual = truth if native is None else native
        self.largest = max(self.largest, float(np.max(np.abs(wide), where=np.isfinite(wide), initial=0)))
        self.error = max(self.error, distance(result, wide, usual))
        if native is not None:
            self.reference = max(self.reference or 0.0, distance(native, wide, usual))
        if runtime is not None and runtime.shape == wide.shape:
            self.runtime = max(self.runtime or 0.0, distance(runtime, wide, usual))

    def _add_exact(self, result: Array, truth: Array, runtime: Array | None) -> None:
        accepted = [a for a in (truth, runtime) if a is not None and a.shape == result.shape]
        off = [_steps(result, a) for a in accepted]
        self.error = max(self.error, min(off))
        if off[0] > min(off):  # the reference has its own mistakes: MaxPool's indices
            self.note = "as ONNX Runtime has it, onnx.reference differs"
        self.reference = 0.0
        if runtime is not None:
            self.runtime = max(self.runtime or 0.0, _steps(runtime, truth))
        self.largest = max(self.largest, float(np.max(np.abs(truth.astype(np.float64)), initial=0)))

    def verdict(self, slack: float) -> OutputReport:
        """What this output comes to."""
        dtype = np.dtype(self.port.dtype)
        floating = dtype.kind == "f"
        unit = float(np.spacing(dtype.type(self.largest))) if floating else 1.0
        yardstick = next((e for e in (self.runtime, self.reference) if e is not None and np.isfinite(e)), 0.0)
        allowed = FACTOR * yardstick + slack * unit if floating else 0.0
        return OutputReport(
            name=self.port.name,
            dtype=self.port.dtype,
            shape=self.port.shape,
            error=self.error,
            relative=self.error / self.largest if self.largest else self.error,
            ulp=self.error / unit,
            runtime=self.runtime,
            reference=self.reference,
            allowed=allowed,
            agrees=self.error <= allowed,
            note=self.note,
        )


def distance(result: Array, truth: Floats, usual: Array | None = None) -> float:
    """The largest absolute difference; infinite where only one of the two is finite.

    What is not finite counts as 0 where it equals `truth` or `usual`, a result of the same precision: a float32
    exponential overflows where the truth does not.
    """
    with np.errstate(all="ignore"):
        rounded = truth.astype(result.dtype)
        expected = np.isfinite(result) & np.isfinite(rounded)
        off = np.where(expected, np.abs(result.astype(np.float64) - truth), np.inf)
        for same in (rounded, usual):
            if same is not None and same.shape == result.shape:
                off[~expected & ((result == same) | (np.isnan(result) & np.isnan(same)))] = 0
    return float(np.max(off, initial=0))


def _steps(result: Array, truth: Array) -> float:
    """How far integers are apart; 1 where booleans differ."""
    difference = np.abs(result.astype(np.float64) - truth.astype(np.float64))
    difference[(result != truth) & (difference == 0)] = 1  # 64 bits do not fit into a double
    return float(np.max(difference, initial=0))


def _constants(graph: onnx.GraphProto, values: Mapping[str, object]) -> dict[str, Array]:
    """The inputs that were set when compiling, as the arrays that the model's other executors take."""
    arrays = {}
    for value in graph.input:
        if value.name in values:
            kind = value.type.tensor_type
            array = np.asarray(values[value.name], onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
            arrays[value.name] = array.reshape(1) if array.ndim == 0 and len(kind.shape.dim) == 1 else array
    return arrays


# -- executors ---------------------------------------------------------------------------------------------------------


class _Executor(ABC):
    """Something that runs a model; after a failure it stays silent and `reason` says why."""

    library = ""
    version = ""

    def __init__(self, proto: onnx.ModelProto, double: bool = False) -> None:
        self.proto, self.double, self.reason = proto, double, ""
        self.name = f"{self.library} in " + ("float64" if double else "the model's own precision")
        self._session: Any = None

    @property
    def state(self) -> str:
        """The version, or why it does not run."""
        return f"not used: {self.reason}" if self.reason else self.version

    def run(self, feeds: Mapping[str, Array]) -> Results | None:
        """The outputs in model order, or None."""
        if self.reason:
            return None
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                self._session = self._session or self.start()
                results = [np.asarray(r) for r in self._session.run(None, self._widened(feeds))]
        except Exception as error:  # whatever a library raises: it has no say in this model then
            self.reason = printable(f"{type(error).__name__}: {error}".splitlines()[0], 200)
            return None
        if self.double and any(r.dtype.kind == "f" and r.dtype != np.float64 for r in results):
            self.reason = f"{self.library} left double precision"
            return None
        return results

    @abstractmethod
    def start(self) -> Any:
        """A session with a method `run(names, feeds)`."""

    def _widened(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if not self.double:
            return dict(feeds)
        return {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in feeds.items()}


class _Reference(_Executor):
    library = "onnx.reference"
    version = onnx.__version__

    def start(self) -> Any:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(self.proto)


class _Runtime(_Executor):
    library = "onnxruntime"

    def start(self) -> Any:
        import onnxruntime

        self.version = onnxruntime.__version__
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        return onnxruntime.InferenceSession(self.proto.SerializeToString(), quiet, providers=["CPUExecutionProvider"])


# -- the model in double precision -------------------------------------------------------------------------------------

_NARROW = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})
"""Attributes that hold an element type: of Cast, EyeLike, DequantizeLinear, the windows, ..."""


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model in which every float type and every float constant is double."""
    copy = onnx.inliner.inline_local_functions(model, convert_version=True) if model.functions else onnx.ModelProto()
    if not model.functions:
        copy.CopyFrom(model)
    _widen_graph(copy.graph)
    return copy


def _widen_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for value in [*graph.input, *graph.output]:
        _widen_type(value.type)
    for tensor in [*graph.initializer, *(s.values for s in graph.sparse_initializer)]:
        _widen_tensor(tensor)
    for node in graph.node:
        _widen_node(node)


def _widen_type(kind: onnx.TypeProto) -> None:
    match kind.WhichOneof("value"):
        case "tensor_type" if kind.tensor_type.elem_type in _NARROW:
            kind.tensor_type.elem_type = TensorProto.DOUBLE
        case "sequence_type":
            _widen_type(kind.sequence_type.elem_type)
        case "optional_type":
            _widen_type(kind.optional_type.elem_type)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _widen_node(node: onnx.NodeProto) -> None:
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            given = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            wide = numpy_helper.from_array(np.asarray(given, np.float64))
            attribute.CopyFrom(onnx.helper.make_attribute("value", wide))
        elif attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES and attribute.i in _NARROW:
            attribute.i = TensorProto.DOUBLE
        for tensor in _tensors(attribute):
            _widen_tensor(tensor)
        for graph in _graphs(attribute):
            _widen_graph(graph)


def _tensors(attribute: onnx.AttributeProto) -> Iterable[onnx.TensorProto]:
    return [attribute.t] if attribute.type == AttributeProto.TENSOR else attribute.tensors


def _graphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
