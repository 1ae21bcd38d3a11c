"""SOFIE as an ONNX backend (`onnx.backend.base`), for ONNX's own test suite and for tools that take any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from sofie.compiler import Model, Options, compile_model


class SofieRep(BackendRep):
    """A prepared model: `run` takes the inputs in model order, or a dictionary by name."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in model order."""
        arrays = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
        result = self.model(*arrays)
        return result if isinstance(result, tuple) else (result,)


class SofieBackend(Backend):
    """Prepares models for the CPU."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> SofieRep:
        """A model ready to run. Raises sofie.SofieError."""
        return SofieRep(compile_model(model, Options(**kwargs)))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepares and runs in one call."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Runs one node on numpy arrays, given in the order of its non-empty inputs."""
        names = [name for name in node.input if name]
        arrays = [np.asarray(a) for a in (inputs.values() if isinstance(inputs, dict) else inputs)]
        values = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names, arrays, strict=True)
        ]
        results = [onnx.helper.make_empty_tensor_value_info(n) for n in node.output if n]
        graph = onnx.helper.make_graph([node], "node", values, results)
        opsets = [onnx.helper.make_opsetid(node.domain, kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))]
        return cls.run_model(onnx.helper.make_model(graph, opset_imports=opsets), arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only the CPU."""
        return device.split(":")[0] == "CPU"


prepare = SofieBackend.prepare
run_model = SofieBackend.run_model
run_node = SofieBackend.run_node
supports_device = SofieBackend.supports_device
