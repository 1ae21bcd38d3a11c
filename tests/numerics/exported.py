"""Models that other libraries train and export, side by side in one graph, since compiling is what costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import compose, helper, version_converter

import sofie

OPSET = 21


@dataclass(frozen=True)
class Exported:
    """A model with one input, what is fed to it, and what the library itself predicts (nothing: not exactly known)."""

    model: onnx.ModelProto
    x: np.ndarray
    exact: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def input(self) -> str:
        return self.model.graph.input[0].name

    def by_runtime(self) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(self.model.SerializeToString(), options)
        return [_plain(value) for value in session.run(None, {self.input: self.x})]


def _plain(value: object) -> np.ndarray:
    """A result as an array; a list of maps, which ZipMap makes, as the table of their values."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([list(row.values()) for row in value], np.float32)
    return np.asarray(value)


def by_compiler(exported: Mapping[str, Exported]) -> dict[str, list[np.ndarray]]:
    """The results of all models, compiled as one."""
    nodes, inputs, outputs, weights, feeds = [], [], [], [], {}
    for name, one in exported.items():
        graph = compose.add_prefix(_converted(one.model), f"{name}__").graph
        nodes += graph.node
        weights += graph.initializer
        outputs += [onnx.ValueInfoProto(name=v.name) for v in graph.output]
        kind = graph.input[0].type.tensor_type.elem_type
        inputs.append(helper.make_tensor_value_info(graph.input[0].name, kind, one.x.shape))
        feeds[graph.input[0].name] = one.x
    graph = helper.make_graph(nodes, "exported", inputs, outputs, weights)
    versions = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 3)]
    merged = helper.make_model(graph, opset_imports=versions, ir_version=10)
    results = sofie.compile(merged).run(feeds)
    return {name: [v for n, v in results.items() if n.startswith(f"{name}__")] for name in exported}


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    versions = {o.domain: o.version for o in model.opset_import} | {"": OPSET}
    if all(o.version == OPSET for o in model.opset_import if not o.domain):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {o.domain: o.version for o in model.opset_import}
    del copy.opset_import[:]
    copy.opset_import.extend(helper.make_opsetid(d, v) for d, v in given.items())
    copy.ir_version = 10
    converted = version_converter.convert_version(copy, OPSET) if "" in given else copy
    assert {o.domain: o.version for o in converted.opset_import}.get("", OPSET) == versions[""]
    return converted


def check(got: np.ndarray, runtime: np.ndarray, exact: np.ndarray | None, ulps: float = 4.0) -> None:
    """As near to the exact result as ONNX Runtime is, within a factor of 4 and some ULP of the largest value."""
    assert got.dtype == runtime.dtype
    runtime = runtime.reshape(got.shape)
    truth = runtime if exact is None else np.asarray(exact, np.float64).reshape(got.shape)
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, runtime)
        return
    of_runtime = np.abs(runtime - truth).max()
    allowed = 4 * of_runtime + ulps * np.finfo(got.dtype).eps * np.abs(truth).max()
    assert np.abs(got - truth).max() <= allowed, (np.abs(got - truth).max(), of_runtime)


def fitted(model: Any, x: np.ndarray, y: np.ndarray | None) -> object:
    """The model after training, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x, y)
