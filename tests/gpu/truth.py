"""What the outputs of a workload should be, in float64, and how far from it they may be."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import onnx

from sofie.executors import Witnesses
from sofie.weights import Array
from tests.bench.cases import error
from tests.gpu.inputs import drawn
from tests.gpu.workloads import Workload

SAMPLE = 64
"""So many rows of a workload that has rows are checked, the first and the last among them."""
FACTOR, LEAST = 8, {"float32": 128 * 2.0**-24, "tf32x3": 128 * 2.0**-24, "tf32": 4e-3, "fp16": 4e-3, "bf16": 3e-2}
"""An error may be so many times ONNX Runtime's, or some part of the largest element by the precision of products: other
orders of summation come to a third of it, and so does rounding to the precision through the six layers of a net."""


def expected(workload: Workload) -> bytes:
    """The file that `harness.cu` reads: the error that is allowed; of each output rows, with their numbers."""
    rows = _sampled(workload.rows)
    proto = workload.model(len(rows) if workload.rows else None)
    heard = Witnesses(proto).hear(inputs(proto, rows, workload.rows))
    if not heard.double:
        raise ValueError(f"{proto.graph.name}: nothing here runs it in float64")
    theirs = error(heard.runtime, heard.truth) if heard.runtime is not None else 0.0
    return _encoded(max(FACTOR * theirs, LEAST[workload.precision]), heard.truth, rows)


def _sampled(rows: int | None) -> Sequence[int]:
    """Numbers of rows in ascending order; only that of the whole where there are no rows."""
    if rows is None:
        return [0]
    return sorted({0, rows - 1, *np.random.default_rng(rows).integers(0, rows, SAMPLE - 2).tolist()})


def inputs(proto: onnx.ModelProto, rows: Sequence[int], total: int | None) -> dict[str, Array]:
    """The first set of inputs; of the one called `input` these rows, where there are some in all."""
    found = {}
    for number, value in enumerate(proto.graph.input):
        kind = value.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        places = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
        if total and value.name == "input":
            width = places[0].size
            places = (places % width) + (np.array(rows) * width).reshape(-1, *[1] * (len(shape) - 1))
        found[value.name] = drawn(number, places, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    return found


def _encoded(allowed: float, outputs: Sequence[Array], rows: Sequence[int]) -> bytes:
    parts = [struct.pack("<d", allowed)]
    for output in outputs:
        parts.append(struct.pack("<qq", len(rows), output.size // len(rows)))
        parts.append(np.array(rows, "<i8").tobytes() + output.astype("<f8").tobytes())
    return b"".join(parts)
