"""What a node means, in a chosen precision: onnx.reference, and numpy where that lacks the operator or is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sofie.dialects.onnx import DOMAINS
from sofie.errors import SofieError
from sofie.reference import evaluate_node

Arrays = Mapping[str, np.ndarray]
CODES = {"single": TensorProto.FLOAT, "double": TensorProto.DOUBLE}
TYPES = ("to", "dtype", "output_datatype", "output_dtype", "precision", "softmax_precision")
"""Attributes that name an element type."""


def in_precision(node: onnx.NodeProto, width: str) -> onnx.NodeProto:
    """The node with every float type it names as float32 ("single") or float64 ("double")."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.name in TYPES and attribute.i in CODES.values():
            attribute.i = CODES[width]
        elif attribute.type == onnx.AttributeProto.TENSOR:
            _convert(attribute.t, width)
        elif attribute.type == onnx.AttributeProto.GRAPH:
            _convert_graph(attribute.g, width)
    return copy


def _convert(tensor: onnx.TensorProto, width: str) -> None:
    if tensor.data_type in CODES.values():
        array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(CODES[width]))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _convert_graph(graph: onnx.GraphProto, width: str) -> None:
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in CODES.values():
            value.type.tensor_type.elem_type = CODES[width]
    for tensor in graph.initializer:
        _convert(tensor, width)
    nodes = [in_precision(node, width) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def evaluate(node: onnx.NodeProto, values: Arrays) -> list[np.ndarray]:
    """The results of a node; `values` may hold what only graphs inside it read. Raises SofieError where it fails."""
    own = OWN.get((node.domain, node.op_type))
    if own is not None:
        operands = [values[n] if n else None for n in node.input]
        how = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        made = own(*operands, **how)
        return [np.asarray(a) for a in (made if isinstance(made, tuple) else (made,))]
    inside = any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
    if not inside:
        return evaluate_node(node, [values[n] if n else None for n in node.input], dict(DOMAINS))
    takes = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in values.items()
    ]
    graph = helper.make_graph([node], "node", takes, [onnx.ValueInfoProto(name=n) for n in node.output])
    versions = [helper.make_opsetid(*domain) for domain in DOMAINS.items()]
    try:
        made = ReferenceEvaluator(helper.make_model(graph, opset_imports=versions)).run(None, dict(values))
    except Exception as error:
        raise SofieError(f"onnx.reference fails on {node.op_type}: {error}") from error
    return _stacked(node, made) if node.op_type == "Loop" else [np.asarray(r) for r in made]


def _stacked(loop: onnx.NodeProto, results: list[np.ndarray]) -> list[np.ndarray]:
    """What iterations add along an axis of their own: the reference joins them along the first of each."""
    carried, (body,) = len(loop.input) - 2, (a.g for a in loop.attribute if a.name == "body")
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in body.output[1 + carried :]]
    added = [np.reshape(r, (-1, *shape)) for r, shape in zip(results[carried:], shapes, strict=True)]
    return [*(np.asarray(r) for r in results[:carried]), *added]


def lrn(x: np.ndarray, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> np.ndarray:
    """The reference sums as many channels as the batch has images, and takes no other rank than 4."""
    squares = np.zeros_like(x)
    for c in range(x.shape[1]):
        squares[:, c] = (x[:, max(c - (size - 1) // 2, 0) : c + size // 2 + 1] ** 2).sum(1)
    return x / (np.asarray(bias, x.dtype) + np.asarray(alpha / size, x.dtype) * squares) ** np.asarray(beta, x.dtype)


def mean_variance_normalization(x: np.ndarray, axes: Sequence[int] = (0, 2, 3)) -> np.ndarray:
    """In any precision: the official body adds a float32."""
    axes = tuple(axes)
    mean = x.mean(axes, keepdims=True)
    deviation = np.sqrt((x**2).mean(axes, keepdims=True) - mean**2)
    return (x - mean) / (deviation + np.asarray(1e-9, x.dtype))


def global_lp_pool(x: np.ndarray, p: int = 2) -> np.ndarray:
    axes = tuple(range(2, x.ndim))
    return (np.abs(x) ** p).sum(axes, keepdims=True) ** np.asarray(1 / p, x.dtype)


def max_roi_pool(x: np.ndarray, rois: np.ndarray, pooled_shape: list[int], spatial_scale: float = 1.0) -> np.ndarray:
    """Bins of whole pixels: edges are rounded half away from zero, empty bins are 0."""
    made = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
    for k, (image, *edges) in enumerate(rois):
        left, top, right, bottom = (int(np.floor(e * spatial_scale + 0.5)) for e in edges)
        extents = max(bottom - top + 1, 1), max(right - left + 1, 1)
        for place in np.ndindex(*pooled_shape):
            span = []
            for start, extent, most, bins, i in zip(
                (top, left), extents, x.shape[2:], pooled_shape, place, strict=True
            ):
                low, high = i * extent // bins + start, -(-(i + 1) * extent // bins) + start
                span.append(slice(min(max(low, 0), most), min(max(high, 0), most)))
            part = x[int(image), :, span[0], span[1]]
            made[k, :, place[0], place[1]] = part.max((1, 2)) if part.size else 0
    return made


def multinomial(x: np.ndarray, sample_size: int = 1, dtype: int = TensorProto.INT32, seed: float = 0) -> np.ndarray:
    """Of classes of which one alone is possible."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    return np.repeat(x.argmax(1)[:, None], sample_size, axis=1).astype(kind)


def q_linear_conv(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero: np.ndarray,
    w: np.ndarray,
    w_scale: np.ndarray,
    w_zero: np.ndarray,
    y_scale: np.ndarray,
    y_zero: np.ndarray,
    **how: object,
) -> np.ndarray:
    """Rounded before the zero point is added; the reference rounds after it, which parts them halfway."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], **how)
    operands = [np.asarray(a.astype(np.float64) - zero) for a, zero in ((x, x_zero), (w, w_zero))]
    (total,) = evaluate_node(conv, operands, dict(DOMAINS))
    return _requantized(total, float(x_scale) * float(w_scale) / float(y_scale), y_zero)


def q_linear_matmul(
    a: np.ndarray,
    a_scale: np.ndarray,
    a_zero: np.ndarray,
    b: np.ndarray,
    b_scale: np.ndarray,
    b_zero: np.ndarray,
    y_scale: np.ndarray,
    y_zero: np.ndarray,
) -> np.ndarray:
    """As the convolution."""
    total = (a.astype(np.int64) - a_zero) @ (b.astype(np.int64) - b_zero)
    return _requantized(total, float(a_scale) * float(b_scale) / float(y_scale), y_zero)


def _requantized(total: np.ndarray, scale: float, zero: np.ndarray) -> np.ndarray:
    rounded = np.rint(total * scale) + int(zero)
    return rounded.clip(np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max).astype(zero.dtype)


def _product(a: np.ndarray, a_zero: np.ndarray, b: np.ndarray, b_zero: np.ndarray) -> np.ndarray:
    return np.asarray((a.astype(np.int64) - a_zero) @ (b.astype(np.int64) - b_zero))


def matmul_integer_to_float(
    a: np.ndarray,
    b: np.ndarray,
    a_scale: np.ndarray,
    b_scale: np.ndarray,
    a_zero: np.ndarray,
    b_zero: np.ndarray,
    bias: np.ndarray,
) -> np.ndarray:
    return np.asarray(_product(a, a_zero, b, b_zero) * (a_scale * b_scale) + bias, bias.dtype)


def q_gemm(
    a: np.ndarray,
    a_scale: np.ndarray,
    a_zero: np.ndarray,
    b: np.ndarray,
    b_scale: np.ndarray,
    b_zero: np.ndarray,
    c: np.ndarray,
    y_scale: np.ndarray,
    y_zero: np.ndarray,
) -> np.ndarray:
    """The bias is in units of both scales."""
    total = _product(a, a_zero, b, b_zero) + c
    return _requantized(total, float(a_scale) * float(b_scale) / float(y_scale), y_zero)


def _q_linear(join: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
    def judge(*operands: np.ndarray) -> np.ndarray:
        """Each operand and the result is followed by its scale and zero point."""
        a, a_scale, a_zero, b, b_scale, b_zero, c_scale, c_zero = operands
        one, two = ((x.astype(np.float64) - z) * float(s) for x, s, z in ((a, a_scale, a_zero), (b, b_scale, b_zero)))
        return _requantized(join(one, two), 1 / float(c_scale), c_zero)

    return judge


def _q_unary(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def judge(*operands: np.ndarray, **how: Any) -> np.ndarray:
        """The operand and the result are followed by their scale and zero point."""
        x, x_scale, x_zero, y_scale, y_zero = operands
        real = (x.astype(np.float64) - x_zero) * float(x_scale)
        return _requantized(function(real, **how), 1 / float(y_scale), y_zero)

    return judge


def _softmax(x: np.ndarray, axis: int, opset: int) -> np.ndarray:
    grown = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(grown / grown.sum(axis=axis, keepdims=True))


def _average_pool(x: np.ndarray, kernel_shape: list[int]) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel_shape, axis=(2, 3))
    return np.asarray(windows.mean(axis=(-2, -1)))


def matmul_n_bits(
    a: np.ndarray, packed: np.ndarray, scales: np.ndarray, *, K: int, N: int, bits: int, block_size: int
) -> np.ndarray:
    """The weights are (N, K) with zero points in the middle of the range; the lower half of a byte comes first."""
    halves = [packed] if bits == 8 else [packed & 15, packed >> 4]
    numbers = np.stack(halves, -1).reshape(N, -1, block_size).astype(a.dtype) - 2 ** (bits - 1)
    real = (numbers * scales.reshape(N, -1, 1)).reshape(N, -1)[:, :K]
    return np.asarray(a @ real.T)


def dynamic_quantize_matmul(
    a: np.ndarray, b: np.ndarray, b_scale: np.ndarray, b_zero: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Of an operand that its own range quantises without error."""
    return np.asarray(a @ ((b.astype(a.dtype) - b_zero.astype(a.dtype)) * b_scale) + bias)


def dynamic_quantize_lstm(*operands: np.ndarray | None, **how: object) -> tuple[np.ndarray, ...]:
    """The LSTM whose weights are those of the integers."""
    x, w, r, bias, *_, w_scale, w_zero, r_scale, r_zero = operands
    assert x is not None

    def weights(q: np.ndarray | None, scale: np.ndarray | None, zero: np.ndarray | None) -> np.ndarray:
        assert q is not None and scale is not None and zero is not None
        real = (q.astype(x.dtype) - zero.astype(x.dtype)[:, None, None]) * scale.astype(x.dtype)[:, None, None]
        return np.ascontiguousarray(real.transpose(0, 2, 1))

    lstm = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y", "h", "c"], **how)
    given = [x, weights(w, w_scale, w_zero), weights(r, r_scale, r_zero), bias]
    return tuple(evaluate_node(lstm, given, dict(DOMAINS)))


def embed_layer_normalization(
    ids: np.ndarray,
    segments: np.ndarray,
    words: np.ndarray,
    positions: np.ndarray,
    kinds: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    epsilon: float = 1e-12,
) -> tuple[np.ndarray, np.ndarray]:
    """Also how many tokens each text has, which is 0 without a mask."""
    total = words[ids] + positions[: ids.shape[1]] + kinds[segments]
    centred = total - total.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + np.asarray(epsilon, total.dtype))
    return centred / deviation * gamma + beta, np.zeros(len(ids), np.int32)


def _rows_of(values: Sequence[float], x: np.ndarray, columns: int) -> np.ndarray:
    return np.array(values, x.dtype).reshape(-1, columns)


def linear_classifier(
    x: np.ndarray, coefficients: list[float], intercepts: list[float], classlabels_ints: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    scores = x @ _rows_of(coefficients, x, x.shape[1]).T + np.array(intercepts, x.dtype)
    return np.array(classlabels_ints, np.int64)[scores.argmax(1)], scores


def svm_classifier(
    x: np.ndarray, coefficients: list[float], rho: list[float], classlabels_ints: list[int], kernel_type: bytes
) -> tuple[np.ndarray, np.ndarray]:
    """A linear machine for each class."""
    scores = x @ _rows_of(coefficients, x, x.shape[1]).T + np.asarray(rho[0], x.dtype)
    return np.array(classlabels_ints, np.int64)[scores.argmax(1)], scores


def svm_regressor(
    x: np.ndarray,
    coefficients: list[float],
    kernel_params: list[float],
    kernel_type: bytes,
    n_supports: int,
    rho: list[float],
    support_vectors: list[float],
) -> np.ndarray:
    """With radial kernels."""
    apart = x[:, None] - _rows_of(support_vectors, x, x.shape[1])[None]
    kernels = np.exp(np.asarray(-kernel_params[0], x.dtype) * (apart**2).sum(-1))
    return np.asarray(kernels @ _rows_of(coefficients, x, n_supports).T + np.asarray(rho[0], x.dtype))


def _stumps(x: np.ndarray, prefix: str, count: int, how: dict[str, list[float]]) -> np.ndarray:
    """Trees of one node and two leaves, each with a weight for one result."""
    total = np.zeros((len(x), count), x.dtype)
    for tree in range(len(how["nodes_treeids"]) // 3):
        holds = x[:, int(how["nodes_featureids"][3 * tree])] <= how["nodes_values"][3 * tree]
        for leaf, reached in enumerate((holds, ~holds)):
            at = 2 * tree + leaf
            total[:, int(how[f"{prefix}_ids"][at])] += np.where(reached, how[f"{prefix}_weights"][at], 0).astype(
                x.dtype
            )
    return total


def tree_ensemble_regressor(x: np.ndarray, n_targets: int, **how: list[float]) -> np.ndarray:
    return _stumps(x, "target", n_targets, how)


def tree_ensemble_classifier(
    x: np.ndarray, classlabels_int64s: list[int], **how: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    scores = _stumps(x, "class", len(classlabels_int64s), how)
    return np.array(classlabels_int64s, np.int64)[scores.argmax(1)], scores


OWN: dict[tuple[str, str], Callable[..., np.ndarray | tuple[np.ndarray, ...]]] = {
    ("ai.onnx.ml", "LinearClassifier"): linear_classifier,
    ("ai.onnx.ml", "SVMClassifier"): svm_classifier,
    ("ai.onnx.ml", "SVMRegressor"): svm_regressor,
    ("ai.onnx.ml", "TreeEnsembleClassifier"): tree_ensemble_classifier,
    ("ai.onnx.ml", "TreeEnsembleRegressor"): tree_ensemble_regressor,
    ("com.microsoft", "DynamicQuantizeLSTM"): dynamic_quantize_lstm,
    ("com.microsoft", "DynamicQuantizeMatMul"): dynamic_quantize_matmul,
    ("com.microsoft", "EmbedLayerNormalization"): embed_layer_normalization,
    ("com.microsoft", "MatMulIntegerToFloat"): matmul_integer_to_float,
    ("com.microsoft", "QGemm"): q_gemm,
    ("com.microsoft", "QLinearAdd"): _q_linear(np.add),
    ("com.microsoft", "MatMulNBits"): matmul_n_bits,
    ("com.microsoft", "QLinearAveragePool"): _q_unary(_average_pool),
    ("com.microsoft", "QLinearGlobalAveragePool"): _q_unary(lambda x: x.mean(axis=(2, 3), keepdims=True)),
    ("com.microsoft", "QLinearLeakyRelu"): _q_unary(lambda x, alpha: np.where(x < 0, alpha * x, x)),
    ("com.microsoft", "QLinearMul"): _q_linear(np.multiply),
    ("com.microsoft", "QLinearSigmoid"): _q_unary(lambda x: 1 / (1 + np.exp(-x))),
    ("com.microsoft", "QLinearSoftmax"): _q_unary(_softmax),
    ("", "GlobalLpPool"): global_lp_pool,
    ("", "LRN"): lrn,
    ("", "MaxRoiPool"): max_roi_pool,
    ("", "MeanVarianceNormalization"): mean_variance_normalization,
    ("", "Multinomial"): multinomial,
    ("", "QLinearConv"): q_linear_conv,
    ("", "QLinearMatMul"): q_linear_matmul,
}
"""Operators that onnx.reference lacks, has wrong, or knows in one precision only, by domain and name."""
