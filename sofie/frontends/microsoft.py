"""What operators of com.microsoft are made of: a body of ONNX's own operators for each.

Meaning: docs/ContribOperators.md of ONNX Runtime, and itself where that is vague.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from sofie.errors import UnsupportedError, printable
from sofie.frontends.bodies import Node, spelled

# -- activations -------------------------------------------------------------------------------------------------------


def _gelu(n: Node) -> None:
    n("Gelu", "X", result="Y")


def _bias_gelu(n: Node) -> None:
    n("Gelu", n("Add", "A", "B"), result="C")


def _fast_gelu(n: Node) -> None:
    n("Gelu", n("Add", "X", "bias") if n.has("bias") else "X", result="Y", approximate="tanh")


def _quick_gelu(n: Node) -> None:
    scaled = n("Mul", "X", n.number(n.attributes["alpha"], "X"))
    n("Mul", "X", n("Sigmoid", scaled), result="Y")


def _activate(n: Node, x: str, parameters: Sequence[float]) -> None:
    """activation(x) as the result Y; `parameters` are its attributes in the order of their names."""
    name = n.attributes.get("activation", "")
    names = {"LeakyRelu": ["alpha"], "HardSigmoid": ["alpha", "beta"], "Relu": [], "Tanh": [], "Sigmoid": []}
    if not name:
        n("Identity", x, result="Y")
    elif name == "Clip" and len(parameters) == 2:
        n("Clip", x, *(n.number(p, x) for p in parameters), result="Y")
    elif name in names:
        n(name, x, result="Y", **dict(zip(names[name], parameters, strict=False)))
    else:
        raise UnsupportedError(f"activation {printable(name)!r} is not one of {', '.join([*names, 'Clip'])}")


# -- products ----------------------------------------------------------------------------------------------------------


def _fused_matmul(n: Node) -> None:
    if n.attributes["transBatchA"] or n.attributes["transBatchB"]:
        raise UnsupportedError("transBatchA and transBatchB are not supported; write a Transpose before it")
    sides = []
    for name in "AB":
        rank = len(n.shape(name))
        order = [*range(rank - 2), rank - 1, rank - 2]
        sides.append(n("Transpose", name, perm=order) if n.attributes[f"trans{name}"] and rank > 1 else name)
    product = n("MatMul", *sides)
    n("Mul", product, n.number(n.attributes["alpha"], "A"), result="Y")


def _fused_gemm(n: Node) -> None:
    gemm = {k: n.attributes[k] for k in ("alpha", "beta", "transA", "transB")}
    given = [n.attributes.get(f"activation_{k}") for k in ("alpha", "beta", "gamma")]
    made = n("Gemm", "A", "B", *(["C"] if n.has("C") else []), **gemm)
    _activate(n, made, [p for p in given if p is not None])


def _fused_conv(n: Node) -> None:
    attributes = {k: v for k, v in n.attributes.items() if not k.startswith("activation")}
    made = n("Conv", "X", "W", *(["B"] if n.has("B") else []), **attributes)
    made = n("Add", made, "Z") if n.has("Z") else made
    _activate(n, made, n.attributes.get("activation_params", []))


# -- normalisations ----------------------------------------------------------------------------------------------------


def _sum(n: Node, names: Sequence[str], result: str) -> str:
    made, *rest = [name for name in names if n.has(name)]
    for k, name in enumerate(rest):
        made = n("Add", made, name, result=result if k == len(rest) - 1 else "")
    return made


def _skip_layer_normalization(n: Node) -> None:
    total = _sum(n, ["input", "skip", "bias"], result="input_skip_bias_sum")
    beta = ["beta"] if n.has("beta") else []
    how = f"<axis = -1, epsilon = {spelled(n.attributes['epsilon'])}>"
    n.lines.append(f"output, mean, inv_std_var = LayerNormalization {how} ({', '.join([total, 'gamma', *beta])})")


def _inverse_deviation(n: Node, x: str, axis: int) -> None:
    """1 / sqrt(mean(x^2) + epsilon) as the result inv_std_var."""
    axes = n.constant(list(range(axis, 0)))
    square = n("ReduceMean", n("Mul", x, x), axes)
    deviation = n("Sqrt", n("Add", square, n.number(n.attributes["epsilon"], x)))
    n("Reciprocal", deviation, result="inv_std_var")
    if "mean" in n.wanted:
        n("ReduceMean", x, axes, result="mean")


def _skip_simplified(n: Node) -> None:
    total = _sum(n, ["input", "skip", "bias"], result="input_skip_bias_sum")
    n("RMSNormalization", total, "gamma", result="output", axis=-1, epsilon=n.attributes["epsilon"])
    _inverse_deviation(n, total, -1)


def _simplified(n: Node) -> None:
    n("RMSNormalization", "X", "scale", result="Y", axis=n.attributes["axis"], epsilon=n.attributes["epsilon"])
    axis, rank = n.attributes["axis"], len(n.shape("X"))
    _inverse_deviation(n, "X", axis - rank if axis >= 0 else axis)


def _embed_layer_normalization(n: Node) -> None:
    words = n("Gather", "word_embedding", "input_ids")
    if n.has("position_ids"):
        places = n("Gather", "position_embedding", "position_ids")
    else:
        known = n.shape("input_ids")[1]
        steps = n.constant([known]) if known else n("Shape", "input_ids", start=1, end=2)
        first, axes = n.constant([0]), n.constant([0])
        places = n("Slice", "position_embedding", first, steps, axes)
    total = n("Add", words, places)
    if n.has("segment_ids"):
        total = n("Add", total, n("Gather", "segment_embedding", "segment_ids"))
    total = n("Identity", total, result="embedding_sum")
    n("LayerNormalization", total, "gamma", "beta", result="output", axis=-1, epsilon=n.attributes["epsilon"])
    if n.has("mask"):
        n("ReduceSum", "mask", n.constant([1]), result="mask_index", keepdims=0)
    else:
        zeros = n("Mul", "input_ids", n.number(0, "input_ids"))
        n("ReduceSum", zeros, n.constant([1]), result="mask_index", keepdims=0)


# -- attention ---------------------------------------------------------------------------------------------------------


def _heads(n: Node, x: str, perm: list[int]) -> str:
    """(batch, steps, heads size) as (batch, heads, steps, size), or the last two the other way round."""
    apart = n("Reshape", x, n.constant([0, 0, n.attributes["num_heads"], -1]))
    return n("Transpose", apart, perm=perm)


def _attend(n: Node, q: str, k: str, v: str, size: int, mask: str) -> None:
    """softmax(q k' scale + mask + bias) v; `mask` names an operand of 0 and 1, or of lengths."""
    scale = n.attributes.get("scale", 0.0) or 1 / math.sqrt(size)
    scores = n("MatMul", _heads(n, q, [0, 2, 1, 3]), _heads(n, k, [0, 2, 3, 1]))
    scores = n("Mul", scores, n.number(scale, q))
    filtered = n.number(n.attributes["mask_filter_value"], q)
    if n.has(mask):
        scores = n("Add", scores, n("Mul", n("CastLike", _hidden(n, mask, scores), q), filtered))
    if n.attributes["unidirectional"]:
        square = n("Shape", scores, start=2, end=4)
        ones = n("CastLike", n("Expand", n.constant([1.0]), square), q)
        scores = n("Add", scores, n("Mul", n("Trilu", ones, n.constant(1), upper=1), filtered))
    if n.has("attention_bias"):
        scores = n("Add", scores, "attention_bias")
    made = n("MatMul", n("Softmax", scores, axis=-1), _heads(n, v, [0, 2, 1, 3]))
    n("Reshape", n("Transpose", made, perm=[0, 2, 1, 3]), n.constant([0, 0, -1]), result="output")


def _hidden(n: Node, mask: str, scores: str) -> str:
    """Where a mask hides a key, as booleans that broadcast to the scores (batch, heads, steps, keys)."""
    rank = len(n.shape(mask))
    if rank == 1:
        steps = n("Squeeze", n("Shape", scores, start=3, end=4))
        places = n("Range", n.constant(0), steps, n.constant(1))
        lengths = n("Cast", n("Unsqueeze", mask, n.constant([1, 2, 3])), to=7)
        return n("Not", n("Less", places, lengths))
    if rank not in (2, 3):
        raise UnsupportedError(f"its {mask} has rank {rank}; give lengths, or 0 and 1 for (batch, keys)")
    axes = n.constant([1, 2] if rank == 2 else [1])
    return n("Not", n("Cast", n("Unsqueeze", mask, axes), to=9))


def _attention(n: Node) -> None:
    n.refuse("past", "past_sequence_length")
    if n.attributes["do_rotary"]:
        raise UnsupportedError("do_rotary is not supported; export the model without fusion of rotary embeddings")
    width = n.shape("weights")[1]
    sizes = list(n.attributes.get("qkv_hidden_sizes") or [width // 3] * 3)
    batch, lengths = n.shape("input")[0], n.shape("mask_index") if n.has("mask_index") else []
    if len(lengths) == 1 and lengths[0] != batch:
        raise UnsupportedError("its mask_index holds starts and ends; give lengths, or 0 and 1 for (batch, keys)")
    product = n("MatMul", "input", "weights")
    product = n("Add", product, "bias") if n.has("bias") else product
    q, k, v = n.split(product, sizes)
    _attend(n, q, k, v, sizes[0] // n.attributes["num_heads"], "mask_index")


def _multi_head_attention(n: Node) -> None:
    n.refuse("past_key", "past_value", "past_sequence_length", "cache_indirection")
    if not (n.has("key") and n.has("value") and all(len(n.shape(x)) == 3 for x in ("query", "key", "value"))):
        raise UnsupportedError("packed queries, keys and values are not supported; give three of rank 3")
    q, k, v = names = ("query", "key", "value")
    sizes = [n.shape(name)[2] for name in names]
    if n.has("bias"):
        q, k, v = (n("Add", x, b) for x, b in zip(names, n.split("bias", sizes, axis=0), strict=True))
    _attend(n, q, k, v, sizes[0] // n.attributes["num_heads"], "key_padding_mask")


# -- quantised ---------------------------------------------------------------------------------------------------------


def _scaled(n: Node, product: str, a_scale: str, b_scale: str) -> None:
    """The int32 product times both scales, plus the bias, as the result Y."""
    made = n("Mul", n("Cast", product, to=1), n("Mul", a_scale, b_scale), result="" if n.has("bias") else "Y")
    if n.has("bias"):
        n("Add", made, "bias", result="Y")


def _dynamic_quantize_matmul(n: Node) -> None:
    n.lines.append("a_q, a_scale, a_zero = DynamicQuantizeLinear (A)")
    zero = ["b_zero_point"] if n.has("b_zero_point") else []
    _scaled(n, n("MatMulInteger", "a_q", "B", "a_zero", *zero), "a_scale", "b_scale")


def _matmul_integer_to_float(n: Node) -> None:
    zeros = [name if n.has(name) else "" for name in ("a_zero_point", "b_zero_point")]
    while zeros and not zeros[-1]:
        zeros.pop()
    _scaled(n, n("MatMulInteger", "A", "B", *zeros), "a_scale", "b_scale")


def _quantized(operator: str) -> Callable[[Node], None]:
    def write(n: Node) -> None:
        parts = [n("DequantizeLinear", s, f"{s}_scale", *_zero(n, s)) for s in "AB"]
        kind = {} if n.has("C_zero_point") else {"output_dtype": n.kind("A")}
        n("QuantizeLinear", n(operator, *parts), "C_scale", *_zero(n, "C"), result="C", **kind)

    return write


def _quantized_one(operator: str, *names: str) -> Callable[[Node], None]:
    """An operator of one quantised operand, with those attributes."""

    def write(n: Node) -> None:
        if n.attributes.get("channels_last"):
            raise UnsupportedError("channels_last is not supported; write Transposes around it")
        given = {name: n.attributes[name] for name in names if name in n.attributes}
        made = n(operator, n("DequantizeLinear", "X", "X_scale", *_zero(n, "X")), **given)
        kind = {} if n.has("Y_zero_point") else {"output_dtype": n.kind("X")}
        n("QuantizeLinear", made, "Y_scale", *_zero(n, "Y"), result="Y", **kind)

    return write


def _quantized_softmax(n: Node) -> None:
    """That of opset 13 along one axis, or that before it along all from there on."""
    axis, rank = int(n.attributes["axis"]), len(n.shape("X"))
    if int(n.attributes.get("opset", 13)) < 13 and axis % rank != rank - 1:
        raise UnsupportedError("Softmax of before opset 13 is supported along the last axis; export it anew")
    _quantized_one("Softmax", "axis")(n)


def _zero(n: Node, name: str) -> list[str]:
    return [f"{name}_zero_point"] if n.has(f"{name}_zero_point") else []


def _qgemm(n: Node) -> None:
    if not n.has("y_scale") or not n.has("y_zero_point"):
        raise UnsupportedError("a result that is not quantised is not supported; use MatMulIntegerToFloat")
    a, b = (n("Transpose", s, perm=[1, 0]) if n.attributes[f"trans{s}"] else s for s in "AB")
    total = n("MatMulInteger", a, b, "a_zero_point", "b_zero_point")
    total = n("Add", total, "C") if n.has("C") else total
    scale = n("Mul", n("Mul", "a_scale", "b_scale"), n.number(n.attributes["alpha"], "a_scale"))
    n("QuantizeLinear", n("Mul", n("Cast", total, to=1), scale), "y_scale", "y_zero_point", result="Y")


def _dynamic_quantize_lstm(n: Node) -> None:
    """Weights are dequantised once; products are of floats, without the rounding of inputs and states in the run."""
    weights = []
    for name in "WR":
        parts = [n("Cast", x, to=1) for x in (name, f"{name}_zero_point")]
        rank = len(n.shape(f"{name}_scale"))
        axes = n.constant([1, 2] if rank == 1 else [1])
        zero, scale = (n("Unsqueeze", x, axes) for x in (parts[1], f"{name}_scale"))
        weights.append(n("Transpose", n("Mul", n("Sub", parts[0], zero), scale), perm=[0, 2, 1]))
    rest = [x if n.has(x) else "" for x in ("B", "sequence_lens", "initial_h", "initial_c", "P")]
    names = [x for x in n.results if x in n.wanted]
    how = ", ".join(f"{k} = {spelled(_decoded(v))}" for k, v in n.attributes.items())
    n.lines.append(f"{', '.join(names)} = LSTM <{how}> ({', '.join(['X', *weights, *rest])})")


def _decoded(value: Any) -> Any:
    return [v.decode() if isinstance(v, bytes) else v for v in value] if isinstance(value, list) else value


def _matmul_n_bits(n: Node) -> None:
    """The weights as floats (N, K), which A is multiplied with."""
    n.refuse("g_idx")
    bits, columns, terms = (int(n.attributes[k]) for k in ("bits", "N", "K"))
    block, (outputs, blocks, size) = int(n.attributes["block_size"]), n.shape("B")
    if bits not in (4, 8) or outputs != columns or size * 8 != block * bits:
        raise UnsupportedError(f"weights of {bits} bits in blocks of {block} do not have the shape of its operand B")
    numbers = _nibbles(n, "B", [columns, blocks, block]) if bits == 4 else n("Cast", "B", to=1)
    if not n.has("zero_points"):
        zero = n.number(2.0 ** (bits - 1), "scales")
    elif n.kind("zero_points") != 2:
        zero = n("Reshape", "zero_points", n.constant([columns, blocks, 1]))
    elif bits == 8:
        zero = n("Cast", n("Reshape", "zero_points", n.constant([columns, blocks, 1])), to=1)
    else:  # two a byte, and half a byte too many where the number of blocks is odd
        packed = n("Reshape", "zero_points", n.constant([columns, -1]))
        every = _nibbles(n, packed, [columns, -1])
        zero = n("Unsqueeze", n("Slice", every, *(n.constant([k]) for k in (0, blocks, 1))), n.constant([2]))
    scale = n("Reshape", "scales", n.constant([columns, blocks, 1]))
    real = n("Reshape", n("Mul", n("Sub", numbers, zero), scale), n.constant([columns, blocks * block]))
    real = n("Slice", real, *(n.constant([k]) for k in (0, terms, 1)))
    product = n("MatMul", "A", n("Transpose", real, perm=[1, 0]), result="" if n.has("bias") else "Y")
    if n.has("bias"):
        n("Add", product, "bias", result="Y")


def _nibbles(n: Node, packed: str, shape: list[int]) -> str:
    """The halves of bytes as floats, the lower ones first."""
    low = n("BitwiseAnd", packed, n("Cast", n.constant(15), to=2))
    high = n("BitShift", packed, n("Cast", n.constant(4), to=2), direction="RIGHT")
    axis = n.constant([-1])
    both = n("Concat", *(n("Unsqueeze", half, axis) for half in (low, high)), axis=-1)
    return n("Cast", n("Reshape", both, n.constant(shape)), to=1)


BODIES: dict[str, Callable[[Node], None]] = {
    "Attention": _attention,
    "BiasGelu": _bias_gelu,
    "DynamicQuantizeLSTM": _dynamic_quantize_lstm,
    "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    "EmbedLayerNormalization": _embed_layer_normalization,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
    "MatMulNBits": _matmul_n_bits,
    "MultiHeadAttention": _multi_head_attention,
    "QGemm": _qgemm,
    "QLinearAdd": _quantized("Add"),
    "QLinearAveragePool": _quantized_one(
        "AveragePool", "auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"
    ),
    "QLinearGlobalAveragePool": _quantized_one("GlobalAveragePool"),
    "QLinearLeakyRelu": _quantized_one("LeakyRelu", "alpha"),
    "QLinearMul": _quantized("Mul"),
    "QLinearSigmoid": _quantized_one("Sigmoid"),
    "QLinearSoftmax": _quantized_softmax,
    "QuickGelu": _quick_gelu,
    "SimplifiedLayerNormalization": _simplified,
    "SkipLayerNormalization": _skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": _skip_simplified,
}
"""What writes the body of each operator; each raises SofieError on what it declines."""
