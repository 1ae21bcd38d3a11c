"""Rows of ai.onnx.ml and com.microsoft: features, linear models, trees, and fused operators."""

from __future__ import annotations

import numpy as np

from tests.numerics.graphs.graph import Graph
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


@draws("TreeEnsemble", domain=ML)
def trees(g: Graph) -> None:
    """One tree of one node and two leaves for each of two targets; thresholds lie between exact features."""
    from onnx import numpy_helper

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
