"""What several passes of level 1 ask of layers: between what an op clips, and a product with the bias behind it."""

from __future__ import annotations

import numpy as np
from xdsl.ir import Operation

from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.sofie import contents
from sofie.dialects.types import shape_of
from sofie.rewrite import erase, fused_location, replace_results, users


def limits(op: Operation) -> tuple[float, float] | None:
    """Between what an op clips, infinite where it has no bound; None where it does something else, or the run tells."""
    if not isinstance(op, OnnxOp) or op.SCHEMA.domain or op.operator not in ("Relu", "Clip"):
        return None
    if op.operator == "Relu":
        return 0.0, np.inf
    ends = [-np.inf, np.inf]
    for k, given in enumerate(op.inputs[1:]):
        if given is not None:
            array = contents(given)
            if array is None or array.size != 1 or np.isnan(array).any():
                return None
            ends[k] = float(array.reshape(-1)[0])
    return (ends[0], ends[1]) if ends[0] <= ends[1] else None


def join_bias(add: OnnxOp) -> None:
    """MatMul(x, w) + bias becomes Gemm(x, w, bias) where x is a matrix and both others are constant."""
    for matmul, bias in ((add.inputs[0], add.inputs[1]), (add.inputs[1], add.inputs[0])):
        op = None if matmul is None else matmul.owner
        if not isinstance(op, OnnxOp) or op.operator != "MatMul" or bias is None or contents(bias) is None:
            continue
        x, w = op.inputs
        fits = len(shape_of(op.results[0])) == 2 and shape_of(op.results[0]) == shape_of(add.results[0])
        if x is None or w is None or contents(w) is None or not fits or users(op.results[0]) != [add]:
            continue
        gemm = op_classes()["", "Gemm"].from_positions([x, w, bias], [add.results[0].type])
        gemm.location = fused_location([op.location, add.location])
        block = add.parent_block()
        assert block is not None
        block.insert_op_before(gemm, add)
        replace_results(add, list(gemm.results))
        erase(op)
        return
