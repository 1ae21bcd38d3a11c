"""The layers of a module that may be quantised, and what is done to it before: constants and norms folded into weights.

A layer is a Conv, ConvTranspose, Gemm or MatMul, with what belongs to it: constant weights and bias, and the activation
behind it, which is clipping and so part of the range of the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import Float32Type, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue

from sofie.dialects.onnx import OnnxOp, op_classes
from sofie.dialects.sofie import WeightOp, contents
from sofie.dialects.types import element_of, shape_of
from sofie.errors import SofieError
from sofie.layers import join_bias, limits
from sofie.passes.fold_batchnorm import FoldBatchnorm
from sofie.passes.fold_constants import FoldConstants
from sofie.rewrite import erase, node_names, replace_results, users
from sofie.weights import Array

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def infer_block(module: ModuleOp) -> Block:
    """The body of @infer. Raises SofieError where there is none."""
    for function in module.body.block.ops:
        if isinstance(function, FuncOp) and function.sym_name.data == "infer" and function.body.blocks:
            return function.body.block
    raise SofieError("the module has no function @infer to quantise")


def nodes_of(module: ModuleOp) -> list[OnnxOp]:
    """The ops of @infer in order, those of inner graphs left out."""
    return [op for op in infer_block(module).ops if isinstance(op, OnnxOp)]


def labels(op: OnnxOp) -> list[str]:
    """What the nodes are called that an op stands for."""
    return [name.split(" ", 1)[-1] for name in node_names(op.location)] or [op.results[0].name_hint or op.operator]


def is_float(value: SSAValue | None) -> bool:
    """Whether a value is a tensor of float32."""
    return value is not None and isinstance(value.type, TensorType) and isinstance(element_of(value), Float32Type)


def sole_reader(value: SSAValue) -> OnnxOp | None:
    """The one op that reads a value, in the same graph; None where there are others, or it is an output."""
    readers = users(value)
    if len(readers) != 1 or not isinstance(value.owner, Operation):
        return None
    reader = readers[0]
    return reader if isinstance(reader, OnnxOp) and reader.parent is value.owner.parent else None


@dataclass(frozen=True)
class Layer:
    """A layer, with constant weights or, for a product of two activations, with none.

    channels: the axis of the weights that is that of the outputs, None where scales cannot follow it.
    """

    op: OnnxOp
    weight: WeightOp | None
    bias: WeightOp | None
    channels: int | None

    @property
    def label(self) -> str:
        """The name of the layer's node."""
        return labels(self.op)[0]

    @property
    def activations(self) -> list[int]:
        """The positions of the operands that are no constants: what the layer multiplies."""
        return [0] if self.weight is not None else [0, 1]

    @property
    def reduction(self) -> int:
        """The axis of the weights along which products are summed; those of a Conv are a matrix then."""
        if self.op.operator == "Gemm":
            return self.op.integer("transB")
        if self.op.operator == "MatMul":
            return max(len(shape_of(self.op.operands[1])) - 2, 0)
        return 1 if self.op.operator == "Conv" else 0

    @property
    def result(self) -> SSAValue:
        """What the layer gives: behind a bias that is added to a MatMul, and behind clipping."""
        value: SSAValue = self.op.results[0]
        if self.op.operator == "MatMul" and (reader := sole_reader(value)) is not None and _adds_constant(reader):
            value = reader.results[0]
        reader = sole_reader(value)
        return reader.results[0] if reader is not None and limits(reader) is not None else value


def _adds_constant(op: OnnxOp) -> bool:
    return op.operator == "Add" and not op.SCHEMA.domain and any(contents(v) is not None for v in op.inputs)


def _is_row(value: SSAValue, add: OnnxOp) -> bool:
    """Whether a constant has one element a column of what it is added to."""
    array = contents(value)
    return array is not None and array.size == shape_of(add.results[0])[-1]


def find_layers(module: ModuleOp) -> list[Layer]:
    """The layers of a prepared module, in order."""
    found = (_layer(op) for op in nodes_of(module) if op.operator in LINEAR and not op.SCHEMA.domain)
    return [layer for layer in found if layer is not None]


def _layer(op: OnnxOp) -> Layer | None:
    """The op as a layer; None where it multiplies other things than floats, or nothing but constants."""
    x, w = op.inputs[:2]
    if not is_float(x) or not is_float(w) or contents(x) is not None:
        return None
    if contents(w) is None:
        return Layer(op, None, None, None) if op.operator == "MatMul" else None
    assert w is not None and isinstance(w.owner, WeightOp)
    if op.operator == "Gemm" and (op.integer("transA") or op.real("alpha") != 1 or op.real("beta") != 1):
        return None
    given = op.inputs[2] if len(op.inputs) > 2 else None
    added = given.owner if given is not None and isinstance(given.owner, WeightOp) else None
    vector = added is not None and len(shape_of(added.result)) == 1
    return Layer(op, w.owner, added if vector else None, _channels(op, len(shape_of(w))))


def _channels(op: OnnxOp, rank: int) -> int | None:
    if op.operator == "Conv":
        return 0
    if op.operator == "ConvTranspose":
        return 1 if op.integer("group") == 1 else None
    if op.operator == "Gemm":
        return 0 if op.integer("transB") else 1
    return 1 if rank == 2 else None


# -- before ------------------------------------------------------------------------------------------------------------


def prepare(module: ModuleOp) -> None:
    """Folds constants, batch normalisations, factors of Gemm, and biases that are added to a MatMul of matrices."""
    ctx = Context()
    FoldConstants().apply(ctx, module)
    FoldBatchnorm().apply(ctx, module)
    for op in nodes_of(module):
        if _adds_constant(op) and any(v is not None and _is_row(v, op) for v in op.inputs):
            join_bias(op)
    for op in nodes_of(module):
        if op.operator == "Gemm":
            _plain_gemm(op)
    drop_unused_weights(module)


def drop_unused_weights(module: ModuleOp) -> None:
    """Erases the weights that nothing reads."""
    for op in [o for o in module.walk() if isinstance(o, WeightOp)]:
        if not op.result.uses:
            erase(op)


def add_weight(before: Operation, name: str, array: Array, hint: str | None = None) -> SSAValue:
    """A new weight before an op."""
    op = WeightOp.of(name, array)
    op.result.name_hint = hint
    block = before.parent_block()
    assert block is not None
    block.insert_op_before(op, before)
    return op.result


def _plain_gemm(gemm: OnnxOp) -> None:
    """alpha x W + beta b  ->  x (alpha W) + (beta b), and b a vector of one element a column where it can be."""
    weight, given = contents(gemm.inputs[1]), gemm.inputs[2] if len(gemm.inputs) > 2 else None
    added, alpha, beta = contents(given), gemm.real("alpha"), gemm.real("beta")
    if weight is None or weight.dtype != np.float32 or (given is not None and added is None):
        return
    columns = shape_of(gemm.results[0])[1]
    vector = added is not None and added.size in (1, columns) and added.shape[-1:] in ((), (1,), (columns,))
    if alpha == 1 and (added is None or (beta == 1 and (added.shape == (columns,) or not vector))):
        return
    w = gemm.inputs[1]
    assert w is not None and isinstance(w.owner, WeightOp)
    operands = [
        gemm.operands[0],
        add_weight(gemm, w.owner.weight_name.data, np.multiply(weight, np.float32(alpha)), w.name_hint),
    ]
    if added is not None and given is not None and isinstance(given.owner, WeightOp):
        scaled = np.multiply(added, np.float32(beta))
        flat = np.broadcast_to(scaled.reshape(-1), (columns,)) if vector else scaled
        operands.append(add_weight(gemm, given.owner.weight_name.data, flat, given.name_hint))
    attributes = {name: v for name, v in gemm.attributes_given().items() if name in ("transA", "transB")}
    plain = op_classes()["", "Gemm"].from_positions(operands, [gemm.results[0].type], attributes)
    plain.location = gemm.location
    _put(plain, gemm)


def _put(new: OnnxOp, old: OnnxOp) -> None:
    block = old.parent_block()
    assert block is not None
    block.insert_op_before(new, old)
    replace_results(old, list(new.results))
