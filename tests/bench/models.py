#!/usr/bin/env python3
"""Deterministic ONNX benchmark suite (float32, opset 17, IR 8, static shapes).

    python models.py OUTDIR [NAME ...]      # writes OUTDIR/NAME.onnx
    python models.py --list

Every model is built from a seed derived from its name, so each file is
reproducible independently of the others.  Structures of the SOFIE models follow
the ones used in CERN's rootbench (branch tmva_sofie_benchmark of lmoneta/rootbench);
only weights differ.  `inputs(path)` gives deterministic inputs for a model.
"""

import os
import sys
import zlib

import numpy as np
import onnx
from onnx import TensorProto as TP
from onnx import helper, numpy_helper

OPSET, IR = 17, 8


class G:
    """Small graph builder."""

    def __init__(self, name):
        self.name = name
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.nodes, self.inits, self.ins, self.outs = [], [], [], []
        self.k = 0

    # -- plumbing
    def inp(self, name, shape, dt=TP.FLOAT):
        self.ins.append(helper.make_tensor_value_info(name, dt, list(shape)))
        return name

    def out(self, x, shape, dt=TP.FLOAT):
        self.outs.append(helper.make_tensor_value_info(x, dt, list(shape)))

    def const(self, arr, tag="c"):
        self.k += 1
        n = f"{tag}_{self.k}"
        self.inits.append(numpy_helper.from_array(np.array(arr, order="C"), n))
        return n

    def i64(self, *v):
        return self.const(np.array(v, np.int64), "shape")

    def f(self, v):
        return self.const(np.array(v, np.float32), "s")

    def w(self, *shape, fan=None, tag="w"):
        fan = fan or shape[0]
        a = self.rng.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2.0 / fan))
        return self.const(a, tag)

    def b(self, n, tag="b"):
        return self.const((self.rng.standard_normal(n) * 0.05).astype(np.float32), tag)

    def op(self, typ, *xs, n_out=1, **attrs):
        self.k += 1
        outs = [f"{typ.lower()}_{self.k}" + (f"_{i}" if n_out > 1 else "") for i in range(n_out)]
        self.nodes.append(helper.make_node(typ, list(xs), outs, name=f"n{self.k}_{typ}", **attrs))
        return outs[0] if n_out == 1 else outs

    # -- layers
    def relu(self, x):
        return self.op("Relu", x)

    def gemm(self, x, i, o, transB=1):
        w = self.w(o, i, fan=i) if transB else self.w(i, o, fan=i)
        return self.op("Gemm", x, w, self.b(o), transB=transB)

    def linear(self, x, i, o):  # N-d: MatMul + Add, as exporters write it
        return self.op("Add", self.op("MatMul", x, self.w(i, o, fan=i)), self.b(o))

    def conv(self, x, ci, co, k, s=1, p=0, group=1, bias=True):
        k = [k] * 2 if isinstance(k, int) else list(k)
        nd = len(k)
        s = [s] * nd if isinstance(s, int) else list(s)
        p = [p] * (2 * nd) if isinstance(p, int) else list(p)
        a = [x, self.w(co, ci // group, *k, fan=ci // group * int(np.prod(k)))]
        if bias:
            a.append(self.b(co))
        return self.op("Conv", *a, kernel_shape=k, strides=s, pads=p, group=group, dilations=[1] * nd)

    def bn(self, x, c):
        r = self.rng
        g = self.const((1 + 0.1 * r.standard_normal(c)).astype(np.float32), "bn_g")
        b = self.const((0.1 * r.standard_normal(c)).astype(np.float32), "bn_b")
        m = self.const((0.1 * r.standard_normal(c)).astype(np.float32), "bn_m")
        v = self.const((1 + 0.2 * r.random(c)).astype(np.float32), "bn_v")
        return self.op("BatchNormalization", x, g, b, m, v, epsilon=1e-5)

    def layernorm(self, x, c):
        g = self.const((1 + 0.1 * self.rng.standard_normal(c)).astype(np.float32), "ln_g")
        return self.op("LayerNormalization", x, g, self.b(c), axis=-1, epsilon=1e-5)

    def gelu_erf(self, x):
        t = self.op("Erf", self.op("Div", x, self.f(np.sqrt(2.0))))
        return self.op("Mul", self.op("Mul", x, self.op("Add", t, self.f(1.0))), self.f(0.5))

    def gelu_tanh(self, x):
        p = self.op("Pow", x, self.f(3.0))
        u = self.op("Add", x, self.op("Mul", p, self.f(0.044715)))
        t = self.op("Tanh", self.op("Mul", u, self.f(np.sqrt(2 / np.pi))))
        return self.op("Mul", self.op("Mul", x, self.f(0.5)), self.op("Add", t, self.f(1.0)))

    def mha(self, x, n, d, h, mask=None):
        """Self attention on [1, n, d], separate q, k, v projections (exporter style)."""
        dh = d // h
        heads = []
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            t = self.op("Reshape", self.linear(x, d, d), self.i64(1, n, h, dh))
            heads.append(self.op("Transpose", t, perm=perm))
        q, k, v = heads
        s = self.op("Div", self.op("MatMul", q, k), self.f(np.sqrt(dh)))
        if mask is not None:
            s = self.op("Add", s, mask)
        a = self.op("Softmax", s, axis=-1)
        y = self.op("Transpose", self.op("MatMul", a, v), perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", y, self.i64(1, n, d)), d, d)

    def model(self):
        g = helper.make_graph(self.nodes, self.name, self.ins, self.outs, self.inits)
        m = helper.make_model(g, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="bench")
        m.ir_version = IR
        onnx.checker.check_model(m)
        return onnx.shape_inference.infer_shapes(m, strict_mode=True)


# ------------------------------------------------------------------ MLPs
def mlp(g, x, dims, last=None, transB=1):
    for i, (a, b) in enumerate(zip(dims, dims[1:])):
        x = g.gemm(x, a, b, transB)
        if i < len(dims) - 2:
            x = g.relu(x)
    return g.op(last, x) if last else x


def higgs_dense(name, batch):
    g = G(name)
    y = mlp(g, g.inp("input", [batch, 7]), [7] + [200] * 5 + [1], "Sigmoid", transB=0)
    g.out(y, [batch, 1])
    return g


def linear(name, batch):
    g = G(name)
    y = mlp(g, g.inp("input", [batch, 100]), [100] + [50] * 9 + [10])
    g.out(y, [batch, 10])
    return g


def alice_nn(name):
    g = G(name)
    x = g.inp("input", [1, 16])
    for a, b in ((16, 100), (100, 50)):
        x = g.op("LeakyRelu", g.linear(x, a, b), alpha=0.01)
    g.out(g.linear(x, 50, 1), [1, 1])
    return g


def generator_mlp(name, batch):
    """Geant4 Par04-style VAE decoder: 14 -> 20 -> 50 -> 100 -> 50*45*18, BN between."""
    g = G(name)
    x = g.inp("input", [batch, 14])
    d = 14
    for o in (20, 50, 100):
        x = g.bn(g.op("LeakyRelu", g.gemm(x, d, o), alpha=0.2), o)
        d = o
    g.out(g.op("Sigmoid", g.gemm(x, d, 40500)), [batch, 40500])
    return g


def ad_autoencoder(name):
    g = G(name)
    x = g.inp("input", [1, 640])
    dims = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    for i, (a, b) in enumerate(zip(dims, dims[1:])):
        x = g.gemm(x, a, b)
        if i < len(dims) - 2:
            x = g.relu(g.bn(x, b))
    g.out(x, [1, 640])
    return g


# ------------------------------------------------------------------ conv
def conv2d(name, ch):
    g = G(name)
    x = g.inp("input", [1, 1, 100, 100])
    for a, b in zip([1] + ch, ch):
        x = g.relu(g.conv(x, a, b, 5, p=2))
    g.out(x, [1, ch[-1], 100, 100])
    return g


def conv3d(name):
    g = G(name)
    x = g.inp("input", [1, 1, 32, 32, 32])
    for a, b in ((1, 32), (32, 8), (8, 8), (8, 8)):
        x = g.relu(g.conv(x, a, b, [5, 5, 5], p=1))
    x = g.relu(g.conv(x, 8, 4, [6, 6, 6], s=6))
    g.out(g.gemm(g.op("Flatten", x, axis=1), 256, 8), [1, 8])
    return g


def calo_convt(name):
    """Calorimeter shower generator (rootbench ConvTModel_G4)."""
    g = G(name)
    x = g.relu(g.gemm(g.inp("input", [1, 15]), 15, 5940))
    x = g.op("Transpose", g.op("Reshape", x, g.i64(1, 3, 11, 180)), perm=[0, 3, 1, 2])
    for ci, co, k, s in ((180, 180, 3, 2), (180, 90, 3, 2), (90, 45, 4, 1)):
        fan = ci * k * k / (s * s)
        x = g.op(
            "ConvTranspose",
            x,
            g.w(ci, co, k, k, fan=fan),
            g.b(co),
            kernel_shape=[k, k],
            strides=[s, s],
            pads=[0] * 4,
            dilations=[1, 1],
            group=1,
        )
        x = g.relu(x) if co != 45 else g.op("Sigmoid", x)
    g.out(g.op("Transpose", x, perm=[0, 3, 1, 2]), [1, 50, 45, 18])
    return g


def resnet18(name):
    g = G(name)
    x = g.inp("input", [1, 3, 224, 224])
    x = g.relu(g.bn(g.conv(x, 3, 64, 7, 2, 3, bias=False), 64))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    c = 64
    for stage, o in enumerate((64, 128, 256, 512)):
        for blk in range(2):
            s = 2 if stage and not blk else 1
            y = g.relu(g.bn(g.conv(x, c, o, 3, s, 1, bias=False), o))
            y = g.bn(g.conv(y, o, o, 3, 1, 1, bias=False), o)
            if s != 1 or c != o:
                x = g.bn(g.conv(x, c, o, 1, s, 0, bias=False), o)
            # residual branches scaled so activations stay O(1) with random weights
            x = g.relu(g.op("Add", y, x))
            c = o
    x = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    g.out(g.gemm(x, 512, 1000), [1, 1000])
    return g


def resnet8(name):
    g = G(name)
    x = g.relu(g.conv(g.inp("input", [1, 3, 32, 32]), 3, 16, 3, 1, 1))
    c = 16
    for o in (16, 32, 64):
        s = 1 if o == 16 else 2
        y = g.conv(g.relu(g.conv(x, c, o, 3, s, 1)), o, o, 3, 1, 1)
        if s != 1:
            x = g.conv(x, c, o, 1, s, 0)
        x = g.relu(g.op("Add", y, x))
        c = o
    x = g.op("AveragePool", x, kernel_shape=[8, 8], strides=[8, 8])
    x = g.op("Flatten", x, axis=1)
    g.out(g.op("Softmax", g.gemm(x, 64, 10), axis=-1), [1, 10])
    return g


def dscnn_kws(name):
    g = G(name)
    x = g.relu(g.conv(g.inp("input", [1, 1, 49, 10]), 1, 64, [10, 4], 2, [4, 1, 5, 1]))
    for _ in range(4):
        x = g.relu(g.conv(x, 64, 64, 3, 1, 1, group=64))
        x = g.relu(g.conv(x, 64, 64, 1))
    x = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    g.out(g.op("Softmax", g.gemm(x, 64, 12), axis=-1), [1, 12])
    return g


def mobilenetv1_025(name):
    g = G(name)
    x = g.relu(g.bn(g.conv(g.inp("input", [1, 3, 96, 96]), 3, 8, 3, 2, 1, bias=False), 8))
    c = 8
    for o, s in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)):
        x = g.relu(g.bn(g.conv(x, c, c, 3, s, 1, group=c, bias=False), c))
        x = g.relu(g.bn(g.conv(x, c, o, 1, bias=False), o))
        c = o
    x = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    g.out(g.op("Softmax", g.gemm(x, 256, 2), axis=-1), [1, 2])
    return g


def mobilenetv2(name):
    g = G(name)
    lo, hi = g.f(0.0), g.f(6.0)
    r6 = lambda x: g.op("Clip", x, lo, hi)
    x = r6(g.conv(g.inp("input", [1, 3, 224, 224]), 3, 32, 3, 2, 1))
    c = 32
    for t, o, n, s in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(n):
            st = s if i == 0 else 1
            y, e = x, c * t
            if t != 1:
                y = r6(g.conv(y, c, e, 1))
            y = r6(g.conv(y, e, e, 3, st, 1, group=e))
            y = g.conv(y, e, o, 1)
            x = g.op("Add", x, y) if st == 1 and c == o else y
            c = o
    x = r6(g.conv(x, 320, 1280, 1))
    x = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    g.out(g.gemm(x, 1280, 1000), [1, 1000])
    return g


# ------------------------------------------------------------------ recurrent
def recurrent(name, kind):
    """rootbench RNN/GRU/LSTM_d10_L20_h8: sequence 20, features 10, hidden 8."""
    g = G(name)
    n = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    x = g.op("Transpose", g.inp("input", [1, 20, 10]), perm=[1, 0, 2])
    h0 = g.const(np.zeros((1, 1, 8), np.float32))
    a = [
        x,
        g.w(1, n * 8, 10, fan=20),
        g.w(1, n * 8, 8, fan=16),
        g.const((g.rng.standard_normal((1, 2 * n * 8)) * 0.05).astype(np.float32)),
        "",
        h0,
    ]
    if kind == "LSTM":
        a.append(g.const(np.zeros((1, 1, 8), np.float32)))
    kw = {"linear_before_reset": 1} if kind == "GRU" else {}
    g.k += 1
    y = f"{kind.lower()}_y"
    g.nodes.append(helper.make_node(kind, a, [y], hidden_size=8, **kw))
    y = g.op("Squeeze", y, g.i64(1))
    y = g.op("Transpose", y, perm=[1, 0, 2])
    y = g.op("Slice", y, g.i64(-1), g.i64(2**63 - 1), g.i64(1))
    y = g.op("Squeeze", y, g.i64(1))
    g.out(g.gemm(y, 8, 2), [1, 2])
    return g


def deep_double_b(name):
    """CMS DeepDoubleB (rootbench DDB_B1): 3 inputs, BN + Conv1D(k=1) x2 + GRU + dense."""
    g = G(name)
    x1, x2, x3 = g.inp("input_1", [1, 1, 27]), g.inp("input_2", [1, 60, 8]), g.inp("input_3", [1, 5, 2])

    def bn_t(x, c):
        return g.op("Transpose", g.bn(g.op("Transpose", x, perm=[0, 2, 1]), c), perm=[0, 2, 1])

    branches = [g.op("Reshape", bn_t(x1, 27), g.i64(1, 27))]
    for x, c in ((x2, 8), (x3, 2)):
        x = bn_t(x, c)
        for i in (c, 32):
            x = g.op("Transpose", x, perm=[0, 2, 1])
            x = g.conv(x, i, 32, [1])
            x = g.relu(g.op("Transpose", x, perm=[0, 2, 1]))
        x = g.op("Transpose", x, perm=[1, 0, 2])
        h0 = g.const(np.zeros((1, 1, 50), np.float32))
        a = [
            x,
            g.w(1, 150, 32, fan=64),
            g.w(1, 150, 50, fan=100),
            g.const((g.rng.standard_normal((1, 300)) * 0.05).astype(np.float32)),
            "",
            h0,
        ]
        g.k += 1
        yh = f"gru_h_{g.k}"
        g.nodes.append(helper.make_node("GRU", a, ["", yh], hidden_size=50, linear_before_reset=1))
        branches.append(g.op("Reshape", g.op("Transpose", yh, perm=[1, 0, 2]), g.i64(1, 50)))
    x = g.op("Concat", *branches, axis=1)
    x = g.relu(g.linear(x, 127, 100))
    g.out(g.op("Softmax", g.linear(x, 100, 2), axis=-1), [1, 2])
    return g


# ------------------------------------------------------------------ sets, graphs, transformers
def pfn(name, n=64, f=13):
    """Particle flow network: per-particle 100-100-256, sum, 100-100-100, softmax."""
    g = G(name)
    x = g.inp("input", [1, n, f])
    for a, b in ((f, 100), (100, 100), (100, 256)):
        x = g.relu(g.linear(x, a, b))
    x = g.op("ReduceSum", x, g.i64(1), keepdims=0)
    x = g.op("Mul", x, g.f(1.0 / n))
    x = mlp(g, x, [256, 100, 100, 100, 2])
    g.out(g.op("Softmax", x, axis=-1), [1, 2])
    return g


def edgeconv(g, x, idx, n, k, ci, co):
    nb = g.op("Gather", x, idx, axis=0)  # [n, k, ci]
    ctr = g.op("Expand", g.op("Unsqueeze", x, g.i64(1)), g.i64(n, k, ci))
    e = g.op("Concat", ctr, g.op("Sub", nb, ctr), axis=2)  # [n, k, 2ci]
    for a in (2 * ci, co, co):
        e = g.relu(g.linear(e, a, co))
    m = g.op("ReduceMean", e, axes=[1], keepdims=0)
    return g.relu(g.op("Add", m, g.linear(x, ci, co)))


def particlenet(name, n=64, k=7, f=7, knn=False):
    """ParticleNet-Lite: EdgeConv (32x3), EdgeConv (64x3), mean pool, dense. kNN indices are an
    input, or (knn=True) found in the graph from pairwise distances with TopK."""
    g = G(name)
    x = g.inp("input", [n, f])
    if knn:
        xy = g.op("Slice", x, g.i64(0), g.i64(2), g.i64(1))
        sq = g.op("ReduceSum", g.op("Mul", xy, xy), g.i64(1), keepdims=1)
        d = g.op("MatMul", xy, g.op("Transpose", xy, perm=[1, 0]))
        d = g.op("Add", g.op("Mul", d, g.f(-2.0)), g.op("Add", sq, g.op("Transpose", sq, perm=[1, 0])))
        _, idx = g.op("TopK", d, g.i64(k + 1), n_out=2, axis=1, largest=0, sorted=1)
        idx = g.op("Slice", idx, g.i64(1), g.i64(k + 1), g.i64(1))
    else:
        idx = g.inp("knn", [n, k], TP.INT64)
    x = g.bn(x, f)
    c = f
    for o in (32, 64):
        x = edgeconv(g, x, idx, n, k, c, o)
        c = o
    x = g.op("ReduceMean", x, axes=[0], keepdims=1)
    x = mlp(g, x, [64, 128, 2])
    g.out(g.op("Softmax", x, axis=-1), [1, 2])
    return g


def encoder(g, x, n, d, h, ff, layers, pre_ln, gelu, mask=None):
    for _ in range(layers):
        if pre_ln:
            x = g.op("Add", x, g.mha(g.layernorm(x, d), n, d, h, mask))
            y = g.linear(gelu(g.linear(g.layernorm(x, d), d, ff)), ff, d)
            x = g.op("Add", x, y)
        else:
            x = g.layernorm(g.op("Add", x, g.mha(x, n, d, h, mask)), d)
            y = g.linear(gelu(g.linear(x, d, ff)), ff, d)
            x = g.layernorm(g.op("Add", x, y), d)
    return x


def particle_transformer(name, n=64, f=17, d=128, h=8, layers=4):
    g = G(name)
    x = g.linear(g.inp("input", [1, n, f]), f, d)
    x = encoder(g, x, n, d, h, 4 * d, layers, True, g.gelu_erf)
    x = g.op("ReduceMean", g.layernorm(x, d), axes=[1], keepdims=0)
    g.out(g.op("Softmax", mlp(g, x, [d, 64, 10]), axis=-1), [1, 10])
    return g


def tiny_bert(name, n=64, d=128, vocab=30522):
    g = G(name)
    ids = g.inp("input_ids", [1, n], TP.INT64)
    e = g.op("Gather", g.const((g.rng.standard_normal((vocab, d)) * 0.5).astype(np.float32), "emb"), ids, axis=0)
    e = g.op("Add", e, g.const((g.rng.standard_normal((1, n, d)) * 0.5).astype(np.float32), "pos"))
    x = encoder(g, g.layernorm(e, d), n, d, 2, 512, 2, False, g.gelu_erf)
    p = g.op("Gather", x, g.const(np.array(0, np.int64)), axis=1)
    g.out(g.op("Tanh", g.gemm(p, d, d)), [1, d])
    return g


def gpt2_block(name, n=64, d=768):
    g = G(name)
    x = g.inp("input", [1, n, d])
    mask = g.const(np.triu(np.full((1, 1, n, n), -1e9, np.float32), 1), "mask")
    x = encoder(g, x, n, d, 12, 4 * d, 1, True, g.gelu_tanh, mask)
    g.out(x, [1, n, d])
    return g


CH14 = [2, 4, 8, 16, 32, 64, 128, 64, 32, 16, 8, 4, 2, 1]
MODELS = {
    "alice_nn": alice_nn,
    "higgs_dense_b1": lambda n: higgs_dense(n, 1),
    "higgs_dense_b32": lambda n: higgs_dense(n, 32),
    "linear_1": lambda n: linear(n, 1),
    "linear_16": lambda n: linear(n, 16),
    "linear_32": lambda n: linear(n, 32),
    "linear_64": lambda n: linear(n, 64),
    "generator_mlp": lambda n: generator_mlp(n, 1),
    "conv2d_L1": lambda n: conv2d(n, [2]),
    "conv2d_L14": lambda n: conv2d(n, CH14),
    "conv3d_L4": conv3d,
    "calo_convt": calo_convt,
    "rnn_d10_L20_h8": lambda n: recurrent(n, "RNN"),
    "gru_d10_L20_h8": lambda n: recurrent(n, "GRU"),
    "lstm_d10_L20_h8": lambda n: recurrent(n, "LSTM"),
    "deep_double_b": deep_double_b,
    "pfn": pfn,
    "particlenet": particlenet,
    "particlenet_knn": lambda n: particlenet(n, knn=True),
    "particle_transformer": particle_transformer,
    "ad_autoencoder": ad_autoencoder,
    "dscnn_kws": dscnn_kws,
    "resnet8": resnet8,
    "mobilenetv1_025": mobilenetv1_025,
    "tiny_bert": tiny_bert,
    "gpt2_block": gpt2_block,
    "mobilenetv2": mobilenetv2,
    "resnet18": resnet18,
}


def inputs(model_path):
    """Deterministic inputs {name: array} for a model file."""
    m = onnx.load(model_path)
    r = np.random.default_rng(zlib.crc32(m.graph.name.encode()) + 1)
    init = {i.name for i in m.graph.initializer}
    res = {}
    for v in m.graph.input:
        if v.name in init:
            continue
        shp = [d.dim_value for d in v.type.tensor_type.shape.dim]
        if v.type.tensor_type.elem_type == TP.INT64:
            res[v.name] = r.integers(0, 64, shp, dtype=np.int64)  # kNN index / token id, valid for both
        else:
            res[v.name] = r.standard_normal(shp).astype(np.float32)
    return res


def main():
    a = sys.argv[1:]
    if not a or a[0] == "--list":
        print("\n".join(MODELS))
        return
    out = a[0]
    os.makedirs(out, exist_ok=True)
    for n in a[1:] or MODELS:
        p = os.path.join(out, n + ".onnx")
        onnx.save(MODELS[n](n).model(), p)
        print(f"{n:24s} {os.path.getsize(p) / 1e6:9.3f} MB")


if __name__ == "__main__":
    main()
