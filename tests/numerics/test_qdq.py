"""Contractions between dequantising and quantising: the integers of exact arithmetic, on every CPU.

The reference computes with fractions, so that ties are ties; scales that are powers of two make many.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sofie import interpreter, pipeline
from sofie.compiler import Options, compile_model, lower
from sofie.dialects.onnx import OnnxOp
from sofie.frontends.onnx import load
from tests import models
from tests.cpus import BYTE_CPUS
from tests.numerics.levels import LEVELS

KINDS = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
PASSES = (
    "fuse-quantize",
    "pack-words",
    "pack-weights",
    "dot-words",
    "vectorize",
    "round-lanes",
    "assign-layouts",
    "fuse-epilogue",
    "collapse-loops",
)
SETTINGS = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    report_multiple_bugs=False,
)


@dataclass(frozen=True)
class Layer:
    """One contraction: its integers, and what stands around it.

    x: (1, channels, height, width) for Conv, else (rows, terms). w: as the operator wants it, its zero points and
    scales of one number or one an output. activation: "", "Relu", or the bounds of a Clip. y: the scale, the zero point
    and the type of the result; None where it stays a float.
    """

    operator: str
    x: np.ndarray
    x_scale: np.float32
    x_zero: np.ndarray
    w: np.ndarray
    w_scale: np.ndarray
    w_zero: np.ndarray
    bias: np.ndarray | None
    activation: Any
    y: tuple[np.float32, np.ndarray] | None
    attributes: dict[str, Any]

    @property
    def outputs(self) -> int:
        """The axis of w along which outputs lie."""
        return 0 if self.operator == "Conv" or self.attributes.get("transB") else self.w.ndim - 1

    def totals(self) -> np.ndarray:
        """The sums of products without zero points."""
        x = self.x.astype(np.int64) - int(self.x_zero)
        shape = [-1 if axis == self.outputs else 1 for axis in range(self.w.ndim)]
        w = self.w.astype(np.int64) - self.w_zero.astype(np.int64).reshape(shape if self.w_zero.ndim else ())
        if self.operator != "Conv":
            return x @ (w.T if self.attributes.get("transB") else w)
        pads, stride, groups = self.attributes["pads"], self.attributes["strides"][0], self.attributes["group"]
        x = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
        k = w.shape[2]
        height, width = ((extent - k) // stride + 1 for extent in x.shape[2:])
        y = np.zeros((1, len(w), height, width), np.int64)
        per = len(w) // groups
        for o in range(len(w)):
            part = x[0, o // per * w.shape[1] : (o // per + 1) * w.shape[1]]
            for i in range(height):
                for j in range(width):
                    window = part[:, i * stride : i * stride + k, j * stride : j * stride + k]
                    y[0, o, i, j] = (window * w[o]).sum()
        return y

    def exactly(self) -> np.ndarray:
        """The results: integers, or floats rounded from fractions."""
        totals = self.totals()
        done = np.empty(totals.shape, np.float64 if self.y is None else self.y[1].dtype)
        for place in np.ndindex(*totals.shape):
            scale = self.w_scale if self.w_scale.ndim == 0 else self.w_scale[place[1]]
            real = int(totals[place]) * Fraction(float(self.x_scale)) * Fraction(float(scale))
            if self.bias is not None:
                unit = Fraction(float(self.bias_scale[place[1]])) if self.bias.dtype == np.int32 else 1
                real += Fraction(float(self.bias[place[1]])) * unit
            if self.activation:
                low, high = (0.0, None) if self.activation == "Relu" else self.activation
                real = max(real, Fraction(low))
                real = real if high is None else min(real, Fraction(high))
            if self.y is None:
                done[place] = float(real)
            else:
                ends = np.iinfo(done.dtype)
                whole = round(real / Fraction(float(self.y[0]))) + int(self.y[1])  # of two the even one
                done[place] = min(max(whole, ends.min), ends.max)
        return done

    @property
    def bias_scale(self) -> np.ndarray:
        """That of an int32 bias, one an output."""
        count = self.w.shape[self.outputs]
        return np.broadcast_to(np.float32(self.x_scale) * self.w_scale, (count,)).astype(np.float32)

    def graph(self, name: str) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
        """The nodes and weights that quantisers write for it, from input `name` to output `name`_y."""
        weights = {"x_scale": self.x_scale, "x_zero": self.x_zero, "w": self.w, "w_scale": self.w_scale}
        weights |= {"w_zero": self.w_zero}
        steps: list[tuple[str, list[str], dict[str, Any]]] = [
            ("DequantizeLinear", ["", "x_scale", "x_zero"], {}),
            ("DequantizeLinear", ["w", "w_scale", "w_zero"], {"axis": self.outputs}),
        ]
        operands = ["0", "1"]
        if self.bias is not None:
            weights["bias"] = self.bias
            operands.append("bias")
            if self.bias.dtype == np.int32:
                weights["bias_scale"] = self.bias_scale
                steps.append(("DequantizeLinear", ["bias", "bias_scale"], {"axis": 0}))
                operands[-1] = "2"
        steps.append((self.operator, operands, self.attributes))
        if self.activation == "Relu":
            steps.append(("Relu", [str(len(steps) - 1)], {}))
        elif self.activation:
            weights |= {"low": np.float32(self.activation[0]), "high": np.float32(self.activation[1])}
            steps.append(("Clip", [str(len(steps) - 1), "low", "high"], {}))
        if self.y is not None:
            weights |= {"y_scale": self.y[0], "y_zero": self.y[1]}
            steps.append(("QuantizeLinear", [str(len(steps) - 1), "y_scale", "y_zero"], {}))

        def spelled(value: str) -> str:
            return f"{name}_{value}" if value else name

        results = [*map(str, range(len(steps) - 1)), "y"]
        nodes = [
            helper.make_node(operator, [spelled(v) for v in values], [spelled(result)], **attributes)
            for (operator, values, attributes), result in zip(steps, results, strict=True)
        ]
        return nodes, {spelled(key): value for key, value in weights.items()}

    @property
    def kind(self) -> int:
        """The type of the result."""
        return TensorProto.FLOAT if self.y is None else KINDS[str(self.y[1].dtype)]


def model(side_by_side: Sequence[Layer]) -> onnx.ModelProto:
    """Layers with inputs of their own."""
    graphs = [layer.graph(f"x{k}") for k, layer in enumerate(side_by_side)]
    inputs = [(f"x{k}", KINDS[str(layer.x.dtype)], layer.x.shape) for k, layer in enumerate(side_by_side)]
    graph = helper.make_graph(
        [node for nodes, _ in graphs for node in nodes],
        "test",
        [helper.make_tensor_value_info(*row) for row in inputs],
        [helper.make_tensor_value_info(f"x{k}_y", layer.kind, None) for k, layer in enumerate(side_by_side)],
        [numpy_helper.from_array(np.asarray(a), n) for _, weights in graphs for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    powers = draw(st.booleans())  # of two: ties

    def scale(*shape: int) -> np.ndarray:
        found = 2.0 ** rng.integers(-6, -1, shape) if powers else np.exp(rng.uniform(-6, -1, shape))
        return np.asarray(found, np.float32)

    def integers(kind: str, *shape: int) -> np.ndarray:
        ends = np.iinfo(kind)
        return np.asarray(rng.integers(ends.min, ends.max + 1, shape), kind)

    operator = draw(st.sampled_from(["Conv", "Conv", "Gemm", "MatMul"]))
    kind, kind_w = draw(st.sampled_from(sorted(KINDS))), draw(st.sampled_from(["int8", "int8", "uint8"]))
    outputs, inputs = draw(st.integers(1, 40)), draw(st.sampled_from([4, 3, 1, 2, 8, 12, 17, 64]))
    attributes: dict[str, Any] = {}
    if operator == "Conv":
        groups = draw(st.sampled_from([1, 1, 2, inputs]))
        groups = groups if inputs % groups == 0 else 1
        outputs = -(-outputs // groups) * groups
        k, side = draw(st.sampled_from([1, 3])), draw(st.integers(3, 12))
        x, w = integers(kind, 1, inputs, side, side + 1), integers(kind_w, outputs, inputs // groups, k, k)
        pads = [draw(st.integers(0, 1)) for _ in range(4)]
        attributes = {"group": groups, "pads": pads, "strides": [draw(st.integers(1, 2))] * 2}
    else:
        across = operator == "Gemm" and draw(st.booleans())
        x = integers(kind, draw(st.sampled_from([1, 2, 7, 16])), inputs)
        w = integers(kind_w, *((outputs, inputs) if across else (inputs, outputs)))
        attributes = {"transB": int(across)} if operator == "Gemm" else {}
    w = np.clip(w, -64, 64).astype(kind_w) if draw(st.booleans()) else w  # of 7 bits
    each = (outputs,) if draw(st.booleans()) else ()
    biases = [None] if operator == "MatMul" else [None, "int32", "float32"]
    chosen = draw(st.sampled_from(biases))
    bias = None if chosen is None else (rng.standard_normal(outputs) * 300).astype(chosen)
    zero = integers(kind_w, *each) if kind_w == "uint8" or draw(st.booleans()) else np.zeros(each, "int8")
    kind_y = draw(st.sampled_from(["", *sorted(KINDS)]))
    activation = draw(st.sampled_from(["", "Relu", (0.0, 6.0), (-1.5, 0.75)]))
    y = (np.float32(scale() * 16), integers(kind_y)) if kind_y else None
    return Layer(
        operator, x, np.float32(scale()), integers(kind), w, scale(*each), zero, bias, activation, y, attributes
    )


def check(side_by_side: Sequence[Layer], results: Sequence[Any], what: str) -> None:
    """Integers exactly; floats as the float32 that is nearest, which float64 on the way misses once in 2^28."""
    for layer, got in zip(side_by_side, results, strict=True):
        want = layer.exactly()
        want = want.astype(np.float32) if layer.y is None else want
        np.testing.assert_array_equal(np.asarray(got).view(want.dtype), want, err_msg=f"{layer} {what}")


SEVERAL = st.lists(layers(), min_size=4, max_size=4)
WITHOUT = st.lists(st.sampled_from(PASSES), unique=True, max_size=2)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("byte_cpu", BYTE_CPUS, indirect=True)
def test_compiled_layers_give_the_integers_of_exact_arithmetic(byte_cpu: str) -> None:
    """A sum that saturates, a zero point in the padding, a factor or bias that is rounded to float32, a wrong lane."""

    @SETTINGS
    @given(SEVERAL, WITHOUT)
    def agrees(drawn: list[Layer], without: list[str]) -> None:
        compiled = compile_model(model(drawn), Options(without=without, cpu=byte_cpu, verify_each=True))
        results = compiled.run({f"x{k}": layer.x for k, layer in enumerate(drawn)})
        check(drawn, list(results.values()), f"on {byte_cpu} without {without}")

    agrees()


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("byte_cpu", BYTE_CPUS, indirect=True)
def test_a_number_next_to_a_half_goes_where_it_goes_in_float64(byte_cpu: str) -> None:
    """A number that float32 takes for the other side of a half: 160,000 of them, a third within 2^-10 of one."""
    rng = np.random.default_rng(5)
    x, w = rng.integers(0, 256, (4000, 4), np.uint8), rng.integers(-128, 128, (4, 40), np.int8)
    scale = (2.0**-10 * (1 + np.repeat([0, 2.0**-16, 1 / 3, 0.7], 10))).astype(np.float32)
    bias = (rng.standard_normal(40) * 20).astype(np.float32) + np.float32(0.25)
    zero, third = np.array(3, np.uint8), np.array(77, np.uint8)
    layer = Layer(
        "Gemm", x, np.float32(0.25), zero, w, scale, np.zeros(40, np.int8), bias, "", (np.float32(0.125), third), {}
    )
    proto = model([layer])
    fast, by_loads, exact = (
        compile_model(proto, Options(without=without, cpu=byte_cpu)).run({"x0": x})["x0_y"]
        for without in ([], ["round-lanes"], ["fuse-quantize"])
    )
    np.testing.assert_array_equal(fast, exact)
    np.testing.assert_array_equal(by_loads, exact)
    assert len(np.unique(fast)) > 100
    assert re.search(r"detail::requantized(_x\d+)?<77, 0, 255>\(", lower(proto, "m", Options(cpu=byte_cpu)).header())


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("byte_cpu", BYTE_CPUS, indirect=True)
def test_a_float_next_to_a_half_goes_where_its_quotient_goes(byte_cpu: str) -> None:
    """A product with a reciprocal on the other side of a half than the quotient, NaN that is no longer the least."""
    scales = np.array([0.0386410691, 2.0**-7, 1 / 3, 3e-5, 1e30], np.float32)
    zeros = np.array([3, 0, 255, 128, 7], np.uint8)
    special = np.array([np.nan, np.inf, -np.inf, 0, -0.0], np.float32)
    weights, nodes, feeds = {}, [], {}
    for k, (scale, zero) in enumerate(zip(scales, zeros, strict=True)):
        halves = np.float32(np.arange(-300, 300) + 0.5) * scale
        near = [(halves.view(np.int32) + step).view(np.float32) for step in range(-3, 4)]
        feeds[f"x{k}"] = np.concatenate([*near, special])
        weights |= {f"s{k}": scale, f"z{k}": zero}
        nodes.append(helper.make_node("QuantizeLinear", [f"x{k}", f"s{k}", f"z{k}"], [f"y{k}"]))
    kinds = {f"y{k}": TensorProto.UINT8 for k in range(5)}
    proto = models.build(nodes, {name: x.shape for name, x in feeds.items()}, list(kinds), weights, kinds)
    assert lower(proto, "m", Options(cpu=byte_cpu)).header().count("detail::quantized<") >= 5
    for k, got in enumerate(compile_model(proto, Options(cpu=byte_cpu)).run(feeds).values()):
        with np.errstate(all="ignore"):
            quotient = (feeds[f"x{k}"] / scales[k]).astype(np.float64)
        want = np.fmin(np.fmax(np.rint(quotient) + float(zeros[k]), 0), 255).astype(np.uint8)
        np.testing.assert_array_equal(got, want)


def test_every_level_gives_them_too() -> None:
    """A pass that is only right together with what comes behind it."""

    @SETTINGS
    @given(SEVERAL, st.sampled_from(LEVELS[1:]), WITHOUT)
    def agrees(drawn: list[Layer], level: str, without: list[str]) -> None:
        module = load(model(drawn))
        pipeline.run(module, pipeline.parse(level, without))
        check(drawn, interpreter.run(module, [layer.x for layer in drawn]), f"after {level} without {without}")

    agrees()


def test_sums_that_no_integer_of_32_bits_holds_in_units_of_the_result_saturate() -> None:
    """A float that is made an integer before it is held within bounds."""
    x, w = np.array([[255, 0], [0, 255], [255, 255]], np.uint8), np.array([[127, -128], [-128, 127]], np.int8)
    zero, one, least = np.array(0, np.uint8), np.float32(1), np.float32(2.0**-20)
    layer = Layer("MatMul", x, one, zero, w, np.asarray(one), np.array(0, np.int8), None, "", (least, zero), {})
    assert layer.exactly().tolist() == [[255, 0], [0, 255], [0, 0]]
    for level in LEVELS[1:]:
        module = load(model([layer]))
        pipeline.run(module, pipeline.parse(level))
        check([layer], interpreter.run(module, [x]), f"after {level}")


@SETTINGS
@given(SEVERAL)
def test_no_layer_is_computed_on_floats(drawn: list[Layer]) -> None:
    """A form of layer that the pass does not see, so that it is slow and rounds elsewhere."""
    module = load(model(drawn))
    pipeline.run(module, pipeline.parse("fuse-qdq"))
    left = {op.operator for op in module.walk() if isinstance(op, OnnxOp)}
    assert not left & {"Conv", "Gemm", "MatMul", "DequantizeLinear", "QuantizeLinear"}
