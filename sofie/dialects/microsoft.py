"""The operators of com.microsoft that ONNX Runtime's tools write into files, as schemas like those of `onnx.defs`.

Meaning: docs/ContribOperators.md of ONNX Runtime; `frontends.microsoft` has the bodies.
"""

from __future__ import annotations

from sofie.dialects.rows import Default, Row, row

DOMAIN = "com.microsoft"

BYTES = "int8 uint8"

_CONV: dict[str, Default] = {
    "auto_pad": "NOTSET",
    "dilations": tuple,
    "group": 1,
    "kernel_shape": tuple,
    "pads": tuple,
    "strides": tuple,
    "activation": str,
    "activation_params": list,
}
_QUANTIZED = {"T": BYTES}
_ONE_QUANTIZED = "X:T X_scale:float X_zero_point?:T Y_scale:float Y_zero_point?:T"
_TWO_QUANTIZED = "A:T A_scale:float A_zero_point?:T B:T B_scale:float B_zero_point?:T C_scale:float C_zero_point?:T"

OPERATORS: dict[str, Row] = {
    "Attention": row(
        "input:T weights:T bias?:T mask_index?:int32 past?:T attention_bias?:T past_sequence_length?:int32",
        "output:T present?:T",
        "Self-attention with one product for queries, keys and values.",
        num_heads=int,
        unidirectional=0,
        qkv_hidden_sizes=tuple,
        do_rotary=0,
        rotary_embedding_dim=int,
        past_present_share_buffer=int,
        mask_filter_value=-10000.0,
        scale=float,
    ),
    "BiasGelu": row("A:T B:T", "C:T", "Gelu(A + B)."),
    "DynamicQuantizeLSTM": row(
        "X:T W:T2 R:T2 B?:T sequence_lens?:int32 initial_h?:T initial_c?:T P?:T "
        "W_scale:T W_zero_point:T2 R_scale:T R_zero_point:T2",
        "Y?:T Y_h?:T Y_c?:T",
        "LSTM whose weights are integers: W (directions, inputs, 4 hidden), R (directions, hidden, 4 hidden).",
        {"T": "float", "T2": BYTES},
        activations=str,
        activation_alpha=list,
        activation_beta=list,
        clip=float,
        direction="forward",
        hidden_size=int,
        input_forget=0,
    ),
    "DynamicQuantizeMatMul": row(
        "A:T B:T2 b_scale:T b_zero_point?:T2 bias?:T",
        "Y:T",
        "A, quantised in the run to uint8, times B, plus a bias.",
        {"T": "float", "T2": BYTES},
    ),
    "EmbedLayerNormalization": row(
        "input_ids:int32 segment_ids?:int32 word_embedding:T position_embedding:T segment_embedding?:T gamma:T beta:T "
        "mask?:int32 position_ids?:int32",
        "output:T mask_index:int32 embedding_sum?:T",
        "The normalised sum of the embeddings of words, positions and segments.",
        epsilon=1e-12,
        mask_index_type=0,
    ),
    "FastGelu": row("X:T bias?:T", "Y:T", "Gelu by way of tanh of X + bias."),
    "FusedConv": row("X:T W:T B?:T Z?:T", "Y:T", "activation(Conv(X, W, B) + Z).", None, **_CONV),
    "FusedGemm": row(
        "A:T B:T C?:T",
        "Y:T",
        "activation(Gemm(A, B, C)).",
        None,
        alpha=1.0,
        beta=1.0,
        transA=0,
        transB=0,
        activation=str,
        activation_alpha=float,
        activation_beta=float,
        activation_gamma=float,
    ),
    "FusedMatMul": row(
        "A:T B:T",
        "Y:T",
        "alpha times the product of matrices that may be transposed.",
        None,
        alpha=1.0,
        transA=0,
        transB=0,
        transBatchA=0,
        transBatchB=0,
    ),
    "Gelu": row("X:T", "Y:T", "x / 2 (1 + erf(x / sqrt(2)))."),
    "MatMulIntegerToFloat": row(
        "A:T1 B:T2 a_scale:T3 b_scale:T3 a_zero_point?:T1 b_zero_point?:T2 bias?:T3",
        "Y:T3",
        "The product of integers without their zero points, times both scales, plus a bias.",
        {"T1": BYTES, "T2": BYTES, "T3": "float"},
    ),
    "MatMulNBits": row(
        "A:T1 B:uint8 scales:T1 zero_points?:T2 g_idx?:int32 bias?:T1",
        "Y:T1",
        "A (.., K) times weights (N, blocks, bytes of a block) of `bits` bits, low ones first; a scale a block.",
        {"T1": "float", "T2": "uint8 float"},
        K=int,
        N=int,
        bits=4,
        block_size=int,
        accuracy_level=0,
    ),
    "MultiHeadAttention": row(
        "query:T key?:T value?:T bias?:T key_padding_mask?:int32 attention_bias?:T past_key?:T past_value?:T "
        "past_sequence_length?:int32 cache_indirection?:int32",
        "output:T present_key?:T present_value?:T qk?:T",
        "Attention of projected queries, keys and values, to which a bias is added.",
        num_heads=int,
        mask_filter_value=-10000.0,
        scale=float,
        unidirectional=0,
    ),
    "QGemm": row(
        "A:TA a_scale:float a_zero_point:TA B:TB b_scale:float b_zero_point:TB C?:int32 "
        "y_scale?:float y_zero_point?:TY",
        "Y:TY",
        "A quantised Gemm.",
        {"TA": BYTES, "TB": BYTES, "TY": BYTES},
        alpha=1.0,
        transA=0,
        transB=0,
    ),
    "QLinearAdd": row(_TWO_QUANTIZED, "C:T", "The sum of quantised tensors, quantised.", _QUANTIZED),
    "QLinearAveragePool": row(
        _ONE_QUANTIZED,
        "Y:T",
        "AveragePool of a quantised tensor, quantised.",
        _QUANTIZED,
        auto_pad="NOTSET",
        ceil_mode=0,
        count_include_pad=0,
        kernel_shape=tuple,
        pads=tuple,
        strides=tuple,
        channels_last=0,
    ),
    "QLinearGlobalAveragePool": row(
        _ONE_QUANTIZED, "Y:T", "GlobalAveragePool of a quantised tensor, quantised.", _QUANTIZED, channels_last=0
    ),
    "QLinearLeakyRelu": row(_ONE_QUANTIZED, "Y:T", "LeakyRelu of a quantised tensor.", _QUANTIZED, alpha=0.01),
    "QLinearMul": row(_TWO_QUANTIZED, "C:T", "The product of quantised tensors, quantised.", _QUANTIZED),
    "QLinearSigmoid": row(_ONE_QUANTIZED, "Y:T", "Sigmoid of a quantised tensor, quantised.", _QUANTIZED),
    "QLinearSoftmax": row(_ONE_QUANTIZED, "Y:T", "Softmax of a quantised tensor.", _QUANTIZED, axis=-1, opset=int),
    "QuickGelu": row("X:T", "Y:T", "x sigmoid(alpha x).", alpha=1.702),
    "SimplifiedLayerNormalization": row(
        "X:T scale:T", "Y:T inv_std_var?:T", "LayerNormalization without a mean.", axis=-1, epsilon=1e-5, stash_type=1
    ),
    "SkipLayerNormalization": row(
        "input:T skip:T gamma:T beta?:T bias?:T",
        "output:T mean?:T inv_std_var?:T input_skip_bias_sum?:T",
        "LayerNormalization of input + skip + bias over the last axis.",
        epsilon=1e-12,
    ),
    "SkipSimplifiedLayerNormalization": row(
        "input:T skip:T gamma:T bias?:T",
        "output:T mean?:T inv_std_var?:T input_skip_bias_sum?:T",
        "SimplifiedLayerNormalization of input + skip + bias over the last axis.",
        epsilon=1e-12,
    ),
}
