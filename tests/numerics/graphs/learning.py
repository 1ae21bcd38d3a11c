"""Rows of ai.onnx.ml and com.microsoft: features, linear models, trees, and fused operators."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from tests.numerics.graphs.graph import Graph
from tests.numerics.graphs.quantization import integers, scale, zero
from tests.numerics.graphs.registry import draws

ML, MICROSOFT = "ai.onnx.ml", "com.microsoft"


def reals(g: Graph, count: int) -> list[float]:
    """Attributes: multiples of a quarter, none 0."""
    return [float(v) / 4 for v in g.rng.integers(1, 9, count)]


def table(g: Graph, exact: bool = False) -> str:
    """Rows of features."""
    return g.value(rank=(2, 2), exact=exact)


@draws("Scaler", domain=ML)
def scaler(g: Graph) -> None:
    x = table(g)
    count = g.shape(x)[1] if g.flag() else 1
    g.node("Scaler", [x], domain=ML, offset=reals(g, count), scale=reals(g, count))


@draws("Binarizer", domain=ML)
def binarizer(g: Graph) -> None:
    g.node("Binarizer", [table(g, exact=True)], domain=ML, threshold=0.125)


@draws("Normalizer", domain=ML)
def normalizer(g: Graph) -> None:
    x = g.node("Add", [g.node("Abs", [table(g)]), g.constant(np.float32(0.5))])
    g.node("Normalizer", [x], domain=ML, norm=g.one_of("MAX", "L1", "L2"))


@draws("Imputer", domain=ML)
def imputer(g: Graph) -> None:
    x = table(g, exact=True)
    g.node("Imputer", [x], domain=ML, imputed_value_floats=reals(g, g.shape(x)[1]), replaced_value_float=0.25)


@draws("ArrayFeatureExtractor", domain=ML)
def extractor(g: Graph) -> None:
    x = table(g)
    columns = g.rng.integers(0, g.shape(x)[1], g.integer(1, 3))
    g.node("ArrayFeatureExtractor", [x, g.given(columns.astype(np.int64))], domain=ML)


@draws("FeatureVectorizer", domain=ML)
def vectorizer(g: Graph) -> None:
    x = table(g)
    y = g.operand(g.shape(x)[0], g.integer(1, 3))
    widths = [g.shape(v)[1] for v in (x, y)]
    g.node("FeatureVectorizer", [x, y], domain=ML, inputdimensions=widths)


@draws("LabelEncoder", domain=ML)
def encoder(g: Graph) -> None:
    x = g.value("int64", rank=(1, 3))
    keys = [0, 1, 2, 5]
    g.node("LabelEncoder", [x], domain=ML, keys_int64s=keys, values_floats=reals(g, len(keys)), default_float=-0.5)


@draws("OneHotEncoder", domain=ML)
def one_hot(g: Graph) -> None:
    x = g.value("int64", rank=(1, 2))
    g.node("OneHotEncoder", [x], domain=ML, cats_int64s=[0, 1, 3], zeros=1)


@draws("LinearRegressor", domain=ML)
def regressor(g: Graph) -> None:
    x, targets = table(g), g.integer(1, 3)
    g.node(
        "LinearRegressor",
        [x],
        domain=ML,
        coefficients=reals(g, targets * g.shape(x)[1]),
        intercepts=reals(g, targets),
        targets=targets,
    )


def distinct(g: Graph, count: int) -> list[float]:
    """Attributes that are all different, so that no two classes tie."""
    return [float(v) / 4 for v in g.rng.permutation(np.arange(1, 3 * count + 1))[:count]]


@draws("LinearClassifier", domain=ML)
def classifier(g: Graph) -> None:
    x = table(g, exact=True)
    labels = [7, 1, 4]
    g.nodes_of(
        "LinearClassifier",
        [x],
        2,
        domain=ML,
        coefficients=distinct(g, 3 * g.shape(x)[1]),
        intercepts=distinct(g, 3),
        classlabels_ints=labels,
    )


@draws("SVMClassifier", domain=ML)
def machine(g: Graph) -> None:
    """A linear machine for each class."""
    x = table(g, exact=True)
    coefficients = distinct(g, 3 * g.shape(x)[1])
    how = {"rho": [0.25], "classlabels_ints": [7, 1, 4], "kernel_type": "LINEAR"}
    g.nodes_of("SVMClassifier", [x], 2, domain=ML, coefficients=coefficients, **how)


@draws("SVMRegressor", domain=ML)
def radial(g: Graph) -> None:
    x, supports = g.bounded(table(g)), g.integer(1, 4)
    g.node(
        "SVMRegressor",
        [x],
        domain=ML,
        coefficients=reals(g, supports),
        kernel_params=[0.25, 0.0, 3.0],
        kernel_type="RBF",
        n_supports=supports,
        rho=reals(g, 1),
        support_vectors=reals(g, supports * g.shape(x)[1]),
    )


def stumps(g: Graph, x: str, prefix: str, results: int) -> dict[str, object]:
    """Attributes of trees of one node and two leaves; thresholds lie between exact features."""
    count = g.integer(1, 4)
    features = g.rng.integers(0, g.shape(x)[1], count)
    trees = [t for t in range(count) for _ in range(3)]
    leaves = [t for t in range(count) for _ in range(2)]
    return {
        "nodes_treeids": trees,
        "nodes_nodeids": [0, 1, 2] * count,
        "nodes_featureids": [int(f) if k == 0 else 0 for f in features for k in range(3)],
        "nodes_values": [0.125 if k == 0 else 0.0 for _ in features for k in range(3)],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * count,
        "nodes_truenodeids": [1, 0, 0] * count,
        "nodes_falsenodeids": [2, 0, 0] * count,
        f"{prefix}_treeids": leaves,
        f"{prefix}_nodeids": [1, 2] * count,
        f"{prefix}_ids": [k % results for k in range(2 * count)],
        f"{prefix}_weights": [2.0**k for k in range(2 * count)],
    }


@draws("TreeEnsembleRegressor", domain=ML)
def forest(g: Graph) -> None:
    x, targets = table(g, exact=True), g.integer(1, 2)
    g.node("TreeEnsembleRegressor", [x], domain=ML, n_targets=targets, **stumps(g, x, "target", targets))


@draws("TreeEnsembleClassifier", domain=ML)
def voters(g: Graph) -> None:
    """Weights are powers of two: no two classes tie."""
    x = table(g, exact=True)
    how = stumps(g, x, "class", 3)
    g.nodes_of("TreeEnsembleClassifier", [x], 2, domain=ML, classlabels_int64s=[7, 1, 4], **how)


@draws("TreeEnsemble", domain=ML)
def trees(g: Graph) -> None:
    """One tree of one node and two leaves for each of two targets; thresholds lie between exact features."""
    x = table(g, exact=True)
    features = g.rng.integers(0, g.shape(x)[1], 2)

    def tensor(*values: float, kind: type = np.float32) -> object:
        return numpy_helper.from_array(np.array(values, kind))

    g.node(
        "TreeEnsemble",
        [x],
        domain=ML,
        aggregate_function=1,
        leaf_targetids=[0, 1, 0, 1],
        leaf_weights=tensor(*reals(g, 4)),
        n_targets=2,
        nodes_falseleafs=[1, 1],
        nodes_falsenodeids=[0, 2],
        nodes_featureids=[int(f) for f in features],
        nodes_modes=tensor(*g.rng.integers(0, 4, 2), kind=np.uint8),
        nodes_splits=tensor(0.125, -0.375),
        nodes_trueleafs=[1, 1],
        nodes_truenodeids=[1, 3],
        post_transform=0,
        tree_roots=[0, 1],
    )


# -- com.microsoft -----------------------------------------------------------------------------------------------------


@draws("Gelu", domain=MICROSOFT)
def gelu(g: Graph) -> None:
    g.node("Gelu", [g.value(rank=(1, 4))], domain=MICROSOFT)


@draws("QuickGelu", domain=MICROSOFT)
def quick_gelu(g: Graph) -> None:
    g.node("QuickGelu", [g.value(rank=(1, 4))], domain=MICROSOFT)


@draws("BiasGelu", "FastGelu", domain=MICROSOFT)
def bias_gelu(g: Graph) -> None:
    x = g.value(rank=(1, 4))
    bias = g.operand(g.shape(x)[-1])
    g.node("BiasGelu", [x, bias], domain=MICROSOFT)
    g.node("FastGelu", [x, bias] if g.flag() else [x], domain=MICROSOFT)


@draws("FusedMatMul", domain=MICROSOFT)
def fused_matmul(g: Graph) -> None:
    a = g.value(rank=(2, 3))
    turned = g.flag()
    depth = g.shape(a)[-2 if turned else -1]
    b = g.operand(depth, g.integer(1, 5))
    g.node("FusedMatMul", [a, b], domain=MICROSOFT, alpha=g.one_of(1.0, 0.5), transA=int(turned))


@draws("FusedGemm", domain=MICROSOFT)
def fused_gemm(g: Graph) -> None:
    a = g.value(rank=(2, 2))
    width = g.integer(1, 5)
    operands = [a, g.operand(g.shape(a)[1], width), g.operand(width)]
    g.node("FusedGemm", operands, domain=MICROSOFT, activation=g.one_of("Relu", "Tanh", "Sigmoid"))


@draws("FusedConv", domain=MICROSOFT)
def fused_conv(g: Graph) -> None:
    x = g.value(rank=(4, 4), fits=lambda s: min(s[2:]) >= 2, shape=(1, 2, 4, 5))
    out = g.integer(1, 4)
    weights = [g.weight(out, g.shape(x)[1], 2, 2), g.weight(out)]
    g.node("FusedConv", [x, *weights], domain=MICROSOFT, activation=g.one_of("Relu", "Tanh"), pads=[1, 0, 0, 1])


@draws("SimplifiedLayerNormalization", domain=MICROSOFT)
def simplified(g: Graph) -> None:
    x = g.value(rank=(2, 3))
    g.node("SimplifiedLayerNormalization", [x, g.positive(g.shape(x)[-1])], domain=MICROSOFT, axis=-1, epsilon=0.1)


@draws("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip(g: Graph) -> None:
    x = g.value(rank=(3, 3))
    other, gamma, beta = g.operand(*g.shape(x)), g.positive(g.shape(x)[-1]), g.operand(g.shape(x)[-1])
    g.node("SkipLayerNormalization", [x, other, gamma, beta], domain=MICROSOFT, epsilon=0.1)
    g.node("SkipSimplifiedLayerNormalization", [x, other, gamma], domain=MICROSOFT, epsilon=0.1)


@draws("Attention", domain=MICROSOFT)
def attention(g: Graph) -> None:
    heads, size, batch, steps = 2, 2 * g.integer(1, 2), g.integer(1, 2), g.integer(1, 3)
    x = g.operand(batch, steps, size)
    g.node("Attention", [x, g.weight(size, 3 * size), g.weight(3 * size)], domain=MICROSOFT, num_heads=heads)


@draws("MultiHeadAttention", domain=MICROSOFT)
def multi_head(g: Graph) -> None:
    size, batch, steps = 4, g.integer(1, 2), g.integer(1, 3)
    operands = [g.operand(batch, steps, size) for _ in range(3)]
    g.node("MultiHeadAttention", operands, domain=MICROSOFT, num_heads=2)


@draws("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def q_linear(g: Graph) -> None:
    kind, extents = g.one_of("uint8", "int8"), (g.integer(1, 3), g.integer(1, 6))
    first = [integers(g, kind, *extents), scale(g), zero(g, kind)]
    second = [integers(g, kind, extents[1]), scale(g), zero(g, kind)]
    last = [g.constant(np.float32(8)), zero(g, kind)]
    for operator in ("QLinearAdd", "QLinearMul"):
        g.node(operator, [*first, *second, *last], domain=MICROSOFT)


@draws("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", domain=MICROSOFT)
def q_linear_activation(g: Graph) -> None:
    kind, extents = g.one_of("uint8", "int8"), (g.integer(1, 3), g.integer(1, 6))
    first = [integers(g, kind, *extents), scale(g), zero(g, kind)]
    last = [g.constant(np.float32(1 / 64)), zero(g, kind)]
    g.node("QLinearLeakyRelu", [*first, *last], domain=MICROSOFT, alpha=g.one_of(0.25, 0.5))
    g.node("QLinearSigmoid", [*first, *last], domain=MICROSOFT)
    g.node("QLinearSoftmax", [*first, *last], domain=MICROSOFT, axis=-1, opset=13)


@draws("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def q_linear_pool(g: Graph) -> None:
    kind, extents = g.one_of("uint8", "int8"), (1, g.integer(1, 3), g.integer(2, 5), g.integer(2, 5))
    operands = [integers(g, kind, *extents), scale(g), zero(g, kind), g.constant(np.float32(1 / 8)), zero(g, kind)]
    g.node("QLinearAveragePool", operands, domain=MICROSOFT, kernel_shape=[g.integer(1, 2), g.integer(1, 2)])
    g.node("QLinearGlobalAveragePool", operands, domain=MICROSOFT)


@draws("MatMulNBits", domain=MICROSOFT)
def matmul_n_bits(g: Graph) -> None:
    bits, terms, columns = g.one_of(4, 8), g.integer(1, 40), g.integer(1, 6)
    blocks = -(-terms // 16)
    operands = [g.operand(g.integer(1, 3), terms), integers(g, "uint8", columns, blocks, 2 * bits)]
    operands.append(g.given(g.rng.uniform(0.01, 0.1, columns * blocks).astype(np.float32)))
    g.node("MatMulNBits", operands, domain=MICROSOFT, K=terms, N=columns, bits=bits, block_size=16)


def integer_matrices(g: Graph) -> tuple[list[str], list[str], int]:
    """Two matrices that fit, each with its scale and zero point, and how wide their product is."""
    m, k, n = (g.integer(1, 6) for _ in range(3))
    return *([integers(g, "uint8", *s), scale(g), zero(g, "uint8")] for s in ((m, k), (k, n))), n


@draws("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_to_float(g: Graph) -> None:
    a, b, width = integer_matrices(g)
    operands = [a[0], b[0], a[1], b[1], a[2], b[2], g.operand(width)]
    g.node("MatMulIntegerToFloat", operands, domain=MICROSOFT)


@draws("QGemm", domain=MICROSOFT)
def q_gemm(g: Graph) -> None:
    a, b, width = integer_matrices(g)
    bias = g.given(g.rng.integers(-99, 99, width).astype(np.int32))
    g.node("QGemm", [*a, *b, bias, g.constant(np.float32(16)), zero(g, "uint8")], domain=MICROSOFT)


@draws("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_matmul(g: Graph) -> None:
    """A range of 255 steps of a power of two, which rounds nothing."""
    x = g.rng.integers(0, 256, (g.integer(1, 3), g.integer(2, 5)))
    x.flat[:2] = 0, 255
    a = g.feed(((x - g.integer(0, 255)) * 2.0 ** -g.integer(1, 5)).astype(np.float32))
    width = g.integer(1, 4)
    operands = [a, integers(g, "uint8", g.shape(a)[1], width), scale(g), zero(g, "uint8"), g.operand(width)]
    g.node("DynamicQuantizeMatMul", operands, domain=MICROSOFT)


@draws("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_lstm(g: Graph) -> None:
    steps, batch, inputs, hidden = (g.integer(1, n) for n in (4, 2, 3, 3))
    x, bias = g.operand(steps, batch, inputs), g.operand(1, 8 * hidden)
    weights = [integers(g, "uint8", 1, rows, 4 * hidden) for rows in (inputs, hidden)]
    ends = [[g.constant(np.array([2.0**-8], np.float32)), g.constant(np.array([128], np.uint8))] for _ in weights]
    operands = [x, *weights, bias, "", "", "", "", *ends[0], *ends[1]]
    g.nodes_of("DynamicQuantizeLSTM", operands, 3, domain=MICROSOFT, hidden_size=hidden)


@draws("EmbedLayerNormalization", domain=MICROSOFT)
def embeddings(g: Graph) -> None:
    batch, steps, width = g.integer(1, 2), g.integer(1, 4), g.integer(2, 5)
    ids, segments = (g.feed(g.rng.integers(0, n, (batch, steps)).astype(np.int32)) for n in (6, 2))
    tables = [g.weight(n, width) for n in (6, 5, 2)]
    operands = [ids, segments, *tables, g.positive(width), g.operand(width)]
    g.nodes_of("EmbedLayerNormalization", operands, 2, domain=MICROSOFT, epsilon=0.1)
