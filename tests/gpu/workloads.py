"""What is timed on a card: the suite, and work that is large enough to fill one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tests.bench import dense
from tests.bench.graph import Graph
from tests.bench.models import MODELS, model

LARGE = 1 << 21
"""The weights of a model of more bytes are rounded, so that they compress: a folder travels to the card's machine."""
MANTISSA = 2
"""Bits of the mantissa that are left of them."""


@dataclass(frozen=True)
class Workload:
    """A model. make: at a number of rows, where it takes any. rows: the first extent of the outputs and of the inputs
    called `input`, whose rows are independent, so that some of them are checked; None where all is. precision: what
    products are computed in.
    """

    make: Callable[[int], onnx.ModelProto]
    rows: int | None = None
    precision: str = "float32"

    def model(self, rows: int | None = None) -> onnx.ModelProto:
        """The model, with rounded weights where they are large."""
        return rounded(self.make(rows or self.rows or 0))


def rounded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model; if it is large, its float weights have few bits."""
    if sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > LARGE:
        for tensor in proto.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
                bits = numpy_helper.to_array(tensor).view(np.uint32).astype(np.uint64)
                lost = 23 - MANTISSA
                kept = ((bits + (1 << (lost - 1))) >> lost << lost).astype(np.uint32)
                tensor.CopyFrom(numpy_helper.from_array(kept.view(np.float32), tensor.name))
    return proto


def product(rows: int, width: int) -> onnx.ModelProto:
    """A product of two inputs."""
    g = Graph("product")
    left, right = g.input("input", [rows, width]), g.input("right", [width, width])
    g.output(g.op("MatMul", left, right), [rows, width])
    return g.model()


def _rows_of(operator: str, rows: int, width: int) -> onnx.ModelProto:
    g = Graph(operator)
    x = g.input("input", [rows, width])
    g.output(g.layer_norm(x, width) if operator == "layernorm" else g.op("Softmax", x, axis=-1), [rows, width])
    return g.model()


def _higgs(rows: int) -> onnx.ModelProto:
    return dense.higgs_dense("higgs_dense", rows).model()


def _of_suite(name: str, _rows: int) -> onnx.ModelProto:
    return model(name)


WORKLOADS: Mapping[str, Workload] = {
    **{name: Workload(partial(_of_suite, name)) for name in MODELS},
    "higgs_dense_b1048576": Workload(_higgs, 1 << 20),
    **{f"higgs_dense_b1048576_{p}": Workload(_higgs, 1 << 20, p) for p in ("tf32x3", "tf32", "bf16")},
    "product_4096": Workload(partial(product, width=4096), 4096),
    **{f"product_4096_{p}": Workload(partial(product, width=4096), 4096, p) for p in ("tf32x3", "tf32", "bf16")},
    "softmax_8192x1024": Workload(partial(_rows_of, "softmax", width=1024), 8192),
    "layernorm_8192x1024": Workload(partial(_rows_of, "layernorm", width=1024), 8192),
}
