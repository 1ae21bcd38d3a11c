"""What runs a model beside SOFIE: `onnx.reference`, ONNX Runtime, and both on a copy in double precision."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, TensorProto, numpy_helper

from sofie.errors import SofieError, printable
from sofie.weights import Array

Results = list[Array]


class Executor(ABC):
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


class Reference(Executor):
    library = "onnx.reference"
    version = onnx.__version__

    def start(self) -> Any:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(self.proto)


class Runtime(Executor):
    library = "onnxruntime"

    def start(self) -> Any:
        import onnxruntime

        self.version = onnxruntime.__version__
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        return onnxruntime.InferenceSession(self.proto.SerializeToString(), quiet, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Testimony:
    """What the others say to one sample: the outputs in model order, None from those that did not run.

    double: whether `truth` was computed in double precision.
    """

    truth: Results
    native: Results | None
    runtime: Results | None
    double: bool


class Witnesses:
    """All that can run a model beside SOFIE; what cannot stand for the truth makes place for the next best."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.native = Reference(proto)
        self.runtime = Runtime(proto)
        self._truths = self._candidates(proto)

    def _candidates(self, proto: onnx.ModelProto) -> list[Executor]:
        """What may stand for the truth, best first."""
        try:
            double = in_double(proto)
        except Exception:  # a model the conversion does not understand still has its own precision
            return [self.native, self.runtime]
        return [Reference(double, double=True), Runtime(double, double=True), self.native, self.runtime]

    @property
    def truth(self) -> Executor:
        """What stands for the truth, once something has run."""
        return self._truths[0]

    def hear(self, feeds: Mapping[str, Array]) -> Testimony:
        """What they say to one sample. Raises SofieError where none of them can run the model.

        Whose shapes are not those of ONNX Runtime does not know an operator: it has no say.
        """
        native, runtime = self.native.run(feeds), self.runtime.run(feeds)
        while self._truths:
            truth = self._truths[0].run(feeds)
            if truth is not None and (runtime is None or list(map(np.shape, truth)) == list(map(np.shape, runtime))):
                return Testimony(truth, native, runtime, self.truth.double)
            self._truths.pop(0)
        raise SofieError(f"nothing here can run the model to compare with: {self.native.reason}")


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
