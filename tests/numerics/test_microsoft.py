"""Operators of com.microsoft against ONNX Runtime, which defines them: all rows in one model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sofie.errors import UnsupportedError
from tests import models
from tests.numerics import rows
from tests.numerics.rows import Arrays, Row, row

OPSET = 21
BATCH, STEPS, HEADS, SIZE = 2, 5, 3, 4
WIDTH = HEADS * SIZE


def real(*shape: int, seed: int = 0) -> np.ndarray:
    return models.normal(*shape, seed=seed)


def whole(kind: str, *shape: int, seed: int = 0) -> np.ndarray:
    limits = np.iinfo(kind)
    return models.rng(seed).integers(limits.min, limits.max, shape).astype(kind)


def ms(operator: str, feeds: Arrays, constants: Arrays | None = None, **how: Any) -> Row:
    return row(operator, feeds, constants, domain="com.microsoft", **how)


def activations() -> Iterator[tuple[str, Row]]:
    x = {"x": real(3, 40) * 3}
    yield "Gelu", ms("Gelu", x)
    yield "BiasGelu", ms("BiasGelu", x, {"b": real(40, seed=1)})
    yield "FastGelu", ms("FastGelu", x)
    yield "FastGelu with a bias", ms("FastGelu", x, {"b": real(40, seed=1)})
    yield "QuickGelu", ms("QuickGelu", x)
    yield "QuickGelu with alpha", ms("QuickGelu", x, alpha=0.7)


def products() -> Iterator[tuple[str, Row]]:
    a, b = real(2, 3, 4), real(2, 4, 5, seed=1)
    yield "FusedMatMul", ms("FusedMatMul", {"a": a, "b": b}, alpha=0.5)
    turned = {"a": np.ascontiguousarray(a.swapaxes(1, 2)), "b": np.ascontiguousarray(b.swapaxes(1, 2))}
    yield "FusedMatMul turned", ms("FusedMatMul", turned, alpha=2.0, transA=1, transB=1)
    gemm = {"a": real(3, 4)}, {"b": real(5, 4, seed=1), "c": real(5, seed=2)}
    yield "FusedGemm", ms("FusedGemm", *gemm, transB=1, activation="Relu")
    yield "FusedGemm leaky", ms("FusedGemm", *gemm, transB=1, activation="LeakyRelu", activation_alpha=0.2)
    image, kernel = {"x": real(2, 3, 7, 8)}, {"w": real(4, 3, 3, 3, seed=1), "b": real(4, seed=2)}
    for name, parameters in (("Relu", []), ("LeakyRelu", [0.3]), ("Clip", [-0.5, 1.5]), ("HardSigmoid", [0.2, 0.4])):
        how = {"activation_params": parameters} if parameters else {}
        yield f"FusedConv {name}", ms("FusedConv", image, kernel, activation=name, strides=[2, 1], **how)
    added = image | {"z": real(2, 4, 5, 6, seed=3)}
    yield "FusedConv with a sum", ms("FusedConv", added, kernel, activation="Relu", inputs="x w b z")


def few_bits() -> Iterator[tuple[str, Row]]:
    """Weights of 4 and 8 bits: whole blocks and not, an odd number of blocks, zero points packed and as floats."""
    for bits, terms, columns, block, zeros in (
        *((4, 64, 48, 32, ""), (4, 96, 17, 32, "bytes"), (4, 80, 33, 16, "bytes"), (4, 70, 4, 32, "floats")),
        *((8, 64, 20, 32, ""), (8, 64, 20, 32, "bytes"), (4, 16, 3, 16, "")),
    ):
        blocks = -(-terms // block)
        weights = {"b": whole("uint8", columns, blocks, block * bits // 8), "s": np.abs(real(columns * blocks)) / 50}
        if zeros == "bytes":
            weights["z"] = whole("uint8", columns * -(-blocks * bits // 8), seed=1)
        elif zeros:
            weights["z"] = real(columns, blocks, seed=2) * 4
        how = {"K": terms, "N": columns, "bits": bits, "block_size": block}
        name = f"{bits} bits, {terms} terms in blocks of {block}, zero points {zeros or 'none'}"
        yield name, ms("MatMulNBits", {"a": real(2, 3, terms)}, weights, **how)
        if not zeros:
            added = weights | {"bias": real(columns, seed=3)}
            yield f"{name}, a bias", ms("MatMulNBits", {"a": real(3, terms)}, added, inputs="a b s - - bias", **how)


def normalizations() -> Iterator[tuple[str, Row]]:
    x = {"x": real(2, 3, 8), "s": real(2, 3, 8, seed=1)}
    scale = {"g": real(8, seed=2), "b": real(8, seed=3), "c": real(8, seed=4)}
    yield "SkipLayerNormalization", ms("SkipLayerNormalization", x, scale)
    total = ("y", "", "", "t")
    yield "SkipLayerNormalization and its sum", ms("SkipLayerNormalization", x, scale, outputs=total, epsilon=1e-3)
    yield "SkipLayerNormalization without a bias", ms("SkipLayerNormalization", x, {"g": scale["g"]})
    yield (
        "SkipSimplifiedLayerNormalization",
        ms("SkipSimplifiedLayerNormalization", x, {"g": scale["g"], "c": scale["c"]}, outputs=total),
    )
    yield (
        "SimplifiedLayerNormalization",
        row("SimplifiedLayerNormalization", {"x": x["x"]}, {"g": scale["g"]}, axis=-1, epsilon=1e-4),
    )
    ids = {"i": np.array([[1, 0, 4], [2, 3, 3]], np.int32), "s": np.array([[0, 1, 1], [0, 0, 1]], np.int32)}
    tables = {"w": real(6, 8), "p": real(4, 8, seed=1), "t": real(2, 8, seed=2), "g": scale["g"], "b": scale["b"]}
    outputs = ("y", "m", "e")
    yield "EmbedLayerNormalization", ms("EmbedLayerNormalization", ids, tables, outputs=outputs)
    mask = ids | {"m": np.array([[1, 1, 0], [1, 1, 1]], np.int32), "q": np.array([[0, 1, 2], [3, 1, 0]], np.int32)}
    yield (
        "EmbedLayerNormalization with a mask",
        ms("EmbedLayerNormalization", mask, tables, outputs=("y", "n", "e"), inputs="i s w p t g b m q"),
    )
    yield (
        "EmbedLayerNormalization without segments",
        ms("EmbedLayerNormalization", {"i": ids["i"]}, tables, outputs=("y", "m"), inputs="i - w p - g b"),
    )


def attentions() -> Iterator[tuple[str, Row]]:
    x = {"x": real(BATCH, STEPS, 7)}
    w = {"w": real(7, 3 * WIDTH, seed=1), "b": real(3 * WIDTH, seed=2)}
    lengths = {"m": np.array([5, 3], np.int32)}
    mask = {"m": np.array([[1, 1, 1, 1, 0], [1, 1, 0, 1, 1]], np.int32)}
    square = {"m": models.rng().integers(0, 2, (BATCH, STEPS, STEPS)).astype(np.int32)}
    square["m"][:, :, 0] = 1
    yield "Attention", ms("Attention", x, w, num_heads=HEADS)
    yield "Attention that looks back", ms("Attention", x, w, num_heads=HEADS, unidirectional=1, scale=0.3)
    for name, given in (("lengths", lengths), ("a mask", mask), ("a square mask", square)):
        yield f"Attention with {name}", ms("Attention", x | given, w, num_heads=HEADS, inputs="x w b m")
    bias = {"a": real(BATCH, HEADS, STEPS, STEPS, seed=3)}
    yield "Attention with a bias", ms("Attention", x | bias, w, num_heads=HEADS, inputs="x w b - - a")
    values = {"w": real(7, 2 * WIDTH + 6, seed=1), "b": real(2 * WIDTH + 6, seed=2)}
    sizes = [WIDTH, WIDTH, 6]
    yield "Attention of other values", ms("Attention", x, values, num_heads=HEADS, qkv_hidden_sizes=sizes)
    qkv = {"q": real(BATCH, STEPS, WIDTH), "k": real(BATCH, 4, WIDTH, seed=1), "v": real(BATCH, 4, 6, seed=2)}
    yield "MultiHeadAttention", ms("MultiHeadAttention", qkv, num_heads=HEADS)
    short = {"m": np.array([[1, 1, 0, 1], [1, 1, 1, 0]], np.int32)}
    yield (
        "MultiHeadAttention with a mask",
        ms(
            "MultiHeadAttention",
            qkv | short,
            {"b": real(2 * WIDTH + 6, seed=4)},
            num_heads=HEADS,
            inputs="q k v b m",
        ),
    )


def quantized() -> Iterator[tuple[str, Row]]:
    scale = {"s": np.float32(0.02), "z": np.uint8(120), "t": np.float32(0.0317), "o": np.uint8(3)}
    for operator in ("QLinearAdd", "QLinearMul"):
        bytes_ = {"a": whole("uint8", 3, 8), "b": whole("uint8", 8, seed=1)}
        yield operator, ms(operator, bytes_, scale, inputs="a s z b t o s z")
    image = {"x": whole("uint8", 1, 3, 6, 7)}
    fine = scale | {"t": np.float32(1 / 256), "o": np.uint8(0)}
    average = {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "strides": [2, 1]}
    for operator, numbers, how in (
        ("QLinearAveragePool", scale, average | {"count_include_pad": 1}),
        ("QLinearAveragePool", scale, average),
        ("QLinearGlobalAveragePool", scale, {}),
        ("QLinearLeakyRelu", scale, {"alpha": 0.25}),
        ("QLinearSigmoid", fine, {}),
        ("QLinearSoftmax", fine, {"axis": -1, "opset": 13}),
    ):
        yield f"{operator} {how}", ms(operator, image, numbers, inputs="x s z t o", **how)
    # of 7 bits: without VNNI, ONNX Runtime's products of uint8 and int8 saturate in pairs
    weights = {"b": whole("int8", 6, 5) // 2, "c": np.float32(0.01) * np.arange(1, 6, dtype=np.float32), "d": real(5)}
    yield "DynamicQuantizeMatMul", ms("DynamicQuantizeMatMul", {"a": real(4, 6)}, weights, inputs="a b c - d")
    yield (
        "MatMulIntegerToFloat",
        ms("MatMulIntegerToFloat", {"a": whole("uint8", 4, 6)}, weights | scale, inputs="a b s c z - d"),
    )
    gemm = {"b": whole("uint8", 5, 6), "c": np.arange(5, dtype=np.int32) * 100, "r": np.float32(0.9)}
    yield (
        "QGemm",
        ms("QGemm", {"a": whole("uint8", 4, 6)}, gemm | scale, inputs="a s z b t o c r z", transB=1, alpha=0.5),
    )


FAMILIES = (activations, products, few_bits, normalizations, attentions, quantized)


@pytest.mark.usefixtures("needs_compiler")
def test_operators_mean_what_onnx_runtime_means() -> None:
    """A forgotten bias, a mask that hides the wrong keys, a scale of another tensor."""
    cases = {name: one for family in FAMILIES for name, one in family()}
    results = rows.by_compiler(cases, OPSET)
    for name, one in cases.items():
        for k, (got, want) in enumerate(zip(results[name], rows.by_runtime(one, OPSET), strict=True)):
            assert got.shape == want.shape and got.dtype == want.dtype, (name, k)
            tolerance = 16 * np.finfo(np.float32).eps * max(1.0, np.abs(want).max()) if want.dtype.kind == "f" else 0
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance, err_msg=f"{name}, result {k}")


def test_bodies_mean_the_same_at_every_level() -> None:
    """A level that the interpreter cannot run, a constant that is folded to another value."""
    cases = {name: one for family in FAMILIES for name, one in family()}
    whole = rows.by_level(cases, "", OPSET)
    lowered = rows.by_level(cases, "decompose,lower-onnx", OPSET)
    for name in cases:
        for got, want in zip(lowered[name], whole[name], strict=True):
            tolerance = 16 * np.finfo(np.float32).eps * max(1.0, np.abs(want).max()) if want.dtype.kind == "f" else 0
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance, err_msg=name)


def lstm(kind: str, directions: int, each: bool) -> Row:
    hidden, inputs = 4, 3
    scales = (directions, 4 * hidden) if each else (directions,)
    weights = {
        "w": whole(kind, directions, inputs, 4 * hidden),
        "r": whole(kind, directions, hidden, 4 * hidden, seed=1),
    }
    for name in "wr":
        weights[f"{name}s"] = np.full(scales, 0.004, np.float32)
        weights[f"{name}z"] = np.full(scales, 3 if kind == "uint8" else 0).astype(kind)
    weights["b"] = real(directions, 8 * hidden, seed=2)
    direction = "bidirectional" if directions == 2 else "forward"
    return ms(
        "DynamicQuantizeLSTM",
        {"x": real(5, 2, inputs)},
        weights,
        inputs="x w r b - - - - ws wz rs rz",
        outputs=("y", "h", "c"),
        hidden_size=hidden,
        direction=direction,
    )


def of_floats(one: Row) -> Row:
    """The LSTM whose weights are those of a quantised one."""
    weights = {"b": one.weights["b"]}
    for name in "wr":
        scale, zero = (one.weights[f"{name}{k}"].astype(np.float32) for k in "sz")
        spread = [n.reshape(len(n), 1, -1) for n in (scale, zero)]
        real_weights = (one.weights[name].astype(np.float32) - spread[1]) * spread[0]
        weights[name] = np.ascontiguousarray(real_weights.swapaxes(1, 2))
    how = {"hidden_size": 4, "direction": "bidirectional" if len(weights["w"]) == 2 else "forward"}
    return row("LSTM", one.feeds, weights, outputs=one.outputs, inputs="x w r b", **how)


@pytest.mark.usefixtures("needs_compiler")
def test_dynamically_quantised_lstms() -> None:
    """Weights of another gate or direction; ONNX Runtime rounds inputs and states to 8 bits, which is the distance."""
    cases = {f"{kind} {d} {each}": lstm(kind, d, each) for kind in ("int8", "uint8") for d in (1, 2) for each in (0, 1)}
    results = rows.by_compiler(cases, OPSET)
    for name, one in cases.items():
        for got, exact, rounded in zip(
            results[name], rows.by_runtime(of_floats(one), OPSET), rows.by_runtime(one, OPSET), strict=True
        ):
            np.testing.assert_allclose(got, exact, rtol=0, atol=16 * np.finfo(np.float32).eps, err_msg=name)
            np.testing.assert_allclose(got, rounded, rtol=0, atol=0.1 * np.abs(exact).max(), err_msg=name)


@pytest.mark.parametrize(
    ("one", "remedy"),
    [
        (ms("FusedMatMul", {"a": real(2, 3), "b": real(3, 2)}, transBatchA=1), "Transpose"),
        (ms("FusedGemm", {"a": real(2, 3), "b": real(3, 2)}, activation="Softmax"), "not one of"),
        (ms("MultiHeadAttention", {"q": real(1, 2, 3, 3, 4)}, num_heads=3), "packed"),
        (ms("Attention", {"x": real(1, 2, 3), "w": real(3, 9)}, num_heads=3, do_rotary=1), "rotary"),
    ],
)
def test_what_is_declined_names_the_remedy(one: Row, remedy: str) -> None:
    with pytest.raises(UnsupportedError, match=remedy):
        rows.by_level({"": one}, "decompose,lower-onnx", OPSET)
