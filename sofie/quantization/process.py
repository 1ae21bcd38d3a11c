"""A quantisation from beginning to end: of a module, for the pass, and of a model with a report, for everybody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from sofie.compiler import Source
from sofie.emit.onnx import model_proto, serialized
from sofie.errors import SofieError, printable
from sofie.feeds import names_of_inputs
from sofie.frontends.dimensions import Dim, with_batches
from sofie.frontends.onnx import load, read_model
from sofie.quantization.calibration import calibrate
from sofie.quantization.equalization import equalize
from sofie.quantization.layers import find_layers, labels, nodes_of, prepare
from sofie.quantization.qdq import plan, quantize
from sofie.quantization.quality import METRICS, Metric, Noise, Scores
from sofie.quantization.ranges import Range
from sofie.quantization.running import CHUNK, Data, cloned, observed
from sofie.quantization.scheme import Scheme
from sofie.quantization.sensitivity import sensitive
from sofie.weights import Array


@dataclass(frozen=True)
class LayerReport:
    """A layer of the model.

    weights: the type of its weights, "float32" where it was left. snr: the signal-to-noise ratio of its result in the
    quantised model, in dB; None without data.
    """

    name: str
    operator: str
    weights: str
    snr: float | None


@dataclass(frozen=True)
class Quantized:
    """A quantised model and what it costs.

    model: QDQ ONNX. layers: in order. outputs: the signal-to-noise ratio of each output of floats, in dB. before,
    after: bytes of the models. metric: None without labels.
    """

    model: onnx.ModelProto
    layers: tuple[LayerReport, ...]
    outputs: Mapping[str, float]
    before: int
    after: int
    metric: Metric | None

    def serialized(self) -> bytes:
        """The bytes of the model's file. Raises SofieError where they are too many for one."""
        return serialized(self.model)


@dataclass(frozen=True)
class Pair:
    """A module in float and, quantised, what became of it; of each layer, its result in both.

    layers: name, operator, and whether it is quantised.
    """

    reference: ModuleOp
    module: ModuleOp
    layers: list[tuple[str, str, bool]]
    before: list[SSAValue]
    after: list[SSAValue]


def quantize_module(module: ModuleOp, arrays: Mapping[str, Array] | None, scheme: Scheme) -> Pair:
    """Quantises a module at level 1 in place. `arrays`: calibration data by the names of the inputs.

    Raises SofieError where data are missing or do not fit, where nothing can be quantised, and on unknown names.
    """
    prepare(module)
    if scheme.equalize:
        equalize(module)
    _check(module, scheme)
    ranges: dict[SSAValue, Range] = {}
    left = list(scheme.leave)
    if arrays is not None:
        data = Data(module, arrays)
        if values := plan(module, scheme, left).values:
            ranges = calibrate(module, values, data, scheme)
        if scheme.snr:
            left += sensitive(module, data, ranges, scheme)
    elif scheme.snr or not scheme.only_weights:
        asked = f"snr={scheme.snr:g}" if scheme.only_weights else f"activations={scheme.activations}"
        raise SofieError(f"{asked} needs data: give arrays by the names of the inputs, or choose activations=none")
    reference, mapper = cloned(module)
    planned = plan(module, scheme, left)
    quantised = {layer.op for layer in planned.layers}
    layers = find_layers(module)
    results = [layer.result for layer in layers]
    described = [(layer.label, layer.op.operator, layer.op in quantised) for layer in layers]
    before = [mapper[value] for value in results]
    stands = quantize(module, planned, ranges, scheme)
    return Pair(reference, module, described, before, [stands.get(value, value) for value in results])


def _check(module: ModuleOp, scheme: Scheme) -> None:
    """Raises SofieError where names to leave are unknown, and where nothing is left to quantise."""
    known = {label for op in nodes_of(module) for label in labels(op)}
    if unknown := [name for name in scheme.leave if name not in known]:
        raise SofieError(f"leave={printable(unknown[0])}: the model has no node of that name")
    if not plan(module, scheme).layers:
        raise SofieError("nothing to quantise: no Conv, ConvTranspose, Gemm or MatMul has constant weights of float32")
    if not plan(module, scheme, scheme.leave).layers:
        raise SofieError("nothing to quantise: leave= names every layer")


@dataclass(frozen=True)
class Measuring:
    """What a quantised model is measured on, and by.

    data: arrays by the names of the inputs, those of calibration where there are none. metric: "auc" or "accuracy" of
    the first output, "" for none. labels: the name of the array with the right answers, a row each.
    """

    data: Mapping[str, Array] | None = None
    metric: str = ""
    labels: str = "labels"

    def __post_init__(self) -> None:
        """Raises SofieError on a metric that is not there."""
        if self.metric and self.metric not in METRICS:
            raise SofieError(f"metric={printable(self.metric)}: choose one of {', '.join(METRICS)}")

    def answers(self, arrays: Mapping[str, Array] | None) -> Array | None:
        """The right answers, where a metric is asked for. Raises SofieError where they are missing."""
        if not self.metric:
            return None
        if arrays is None or self.labels not in arrays:
            raise SofieError(f"metric={self.metric} needs the array {printable(self.labels)!r} in the data")
        return arrays[self.labels]


def quantize_model(
    source: Source,
    arrays: Mapping[str, Array] | None,
    scheme: Scheme,
    dims: Mapping[str, Dim] | None = None,
    values: Mapping[str, object] | None = None,
    measuring: Measuring | None = None,
) -> Quantized:
    """A model quantised, and what that costs.

    arrays: calibration data by the names of the inputs; None for weights alone, without signal-to-noise ratios. Free
    batches stay free; `dims` and `values` are as for `sofie.compile`. Raises SofieError.
    """
    measuring = measuring or Measuring()
    proto = read_model(source, dims, values)
    known = values or {}
    inputs = names_of_inputs(proto.graph, known)

    def fed(given: Mapping[str, Array]) -> Mapping[str, Array]:
        return {name: array for name, array in given.items() if name in inputs or name != measuring.labels}

    measured = arrays if measuring.data is None else measuring.data
    answers = measuring.answers(measured)
    size = proto.ByteSize()
    module = load(proto, with_batches(proto.graph, dims or {}, known, (1, CHUNK)), known)
    pair = quantize_module(module, None if arrays is None else fed(arrays), scheme)
    made = model_proto(pair.module)
    names = [v.name for v in made.graph.output]
    seen = None if measured is None else _compare(pair, Data(pair.reference, fed(measured)))
    layers = [
        LayerReport(name, operator, scheme.weights if done else "float32", None if seen is None else seen.layer(k))
        for k, (name, operator, done) in enumerate(pair.layers)
    ]
    outputs = {} if seen is None else {name: noise.decibels for name, noise in zip(names, seen.outputs, strict=True)}
    metric = None if answers is None or seen is None else seen.scores.metric(measuring.metric, answers)
    return Quantized(made, tuple(layers), outputs, size, made.ByteSize(), metric)


@dataclass(frozen=True)
class _Comparison:
    """The noise of each output and of each layer's result, and the rows of the first output."""

    outputs: list[Noise]
    layers: list[Noise]
    scores: Scores

    def layer(self, k: int) -> float:
        return self.layers[k].decibels


def _compare(pair: Pair, data: Data) -> _Comparison:
    """Runs both modules of a pair on all data."""
    exact, rounded = observed(pair.reference, pair.before), observed(pair.module, pair.after)
    count = len(pair.before)
    found = _Comparison([], [Noise() for _ in pair.before], Scores())
    for given in data.pieces():
        before, after = exact(given), rounded(given)
        if not found.outputs:
            found.outputs.extend(Noise() for _ in before[: len(before) - count])
        for noise, a, b in zip([*found.outputs, *found.layers], before, after, strict=True):
            noise.add(a, b)
        found.scores.before.append(before[0])
        found.scores.after.append(after[0])
    return found
