"""QONNX graphs in fixed point: bit for bit what exact arithmetic gives, at every level and in C++."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from xdsl.dialects.builtin import ModuleOp

import sofie
from sofie import levels, pipeline
from sofie.dialects.fixed import FixedType
from sofie.dialects.types import element_of
from sofie.errors import SofieError
from sofie.frontends.onnx import load
from sofie.interpreter import run
from tests.emit.programs import FILES, compile_and_run, emit, session_code
from tests.fixed.networks import DOMAIN, ROUND, Graph, quantised, swept, three_layers, three_layers_exact
from tests.numerics.levels import SPARE

STRICT = "fold-constants,fuse-fixed{strict=true}"
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def floats(values: Sequence[Fraction], shape: Sequence[int]) -> np.ndarray:
    """Exact numbers as float32, which hold them."""
    made = np.array([float(v) for v in values]).reshape(shape)
    assert np.array_equal(made, made.astype(np.float32))
    return made.astype(np.float32)


def fixed_module(proto: onnx.ModelProto, **options: object) -> ModuleOp:
    """The level 1 module behind a strict fuse-fixed: nothing computes on floats."""
    module = load(proto, **options)
    pipeline.run(module, pipeline.parse(STRICT), verify_each=True)
    levels.check(module, "onnx")
    return module


def check(proto: onnx.ModelProto, x: np.ndarray, want: np.ndarray, passes: Sequence[str] = ("", "fuse")) -> None:
    """The strict module at these levels, and C++, give `want`."""
    for steps in passes:
        module = fixed_module(proto)
        pipeline.run(module, pipeline.parse(steps) if steps else [], verify_each=True)
        np.testing.assert_array_equal(run(module, [x])[0], want, err_msg=f"level after {steps!r}")
    np.testing.assert_array_equal(sofie.compile(proto)(x), want)


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    x = swept()
    return floats(three_layers_exact(x), (len(x), 1))


@pytest.mark.parametrize("passes", SPARE)
def test_three_layers_over_all_values_of_a_feature_at_every_level(passes: str, exact: np.ndarray) -> None:
    """A bit of 16 -> 8 -> 8 -> 1 layers that quantise each in their own way."""
    x = swept()
    module = fixed_module(three_layers(len(x)))
    pipeline.run(module, pipeline.parse(passes) if passes else [], verify_each=True)
    np.testing.assert_array_equal(run(module, [x])[0], exact)
    assert len(np.unique(exact)) > 40


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("cpu", ["scalar", "portable", "native"])
def test_three_layers_over_all_values_of_a_feature_in_cpp(cpu: str, exact: np.ndarray) -> None:
    """The same in what is emitted for CPUs with and without vectors; and on floats, which are exact here."""
    x = swept()
    proto = three_layers(len(x))
    np.testing.assert_array_equal(sofie.compile(proto, cpu=cpu)(x), exact)
    np.testing.assert_array_equal(sofie.compile(proto, cpu=cpu, without=["fuse-fixed"])(x), exact)
    np.testing.assert_array_equal(sofie.compile(proto, cpu=cpu, without=["fold-constants"])(x), exact)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("cpu", ["scalar", "native"])
def test_three_layers_leave_nothing_undefined_and_need_no_floats(tmp_path: Path, cpu: str, exact: np.ndarray) -> None:
    """A signed sum that overflows, a shift beyond a word, a header of a vendor."""
    x = swept()
    generated = emit(tmp_path, three_layers(len(x)), "net", cpu=cpu)
    text = generated.header.read_text()
    assert "ap_fixed" not in text and "ap_int" not in text
    main = f'#include "net.hxx"\n{FILES}\nint main()\n{{\n{session_code(generated, {"x": x}, "net")}\n}}\n'
    compile_and_run(tmp_path, main, SANITIZERS)
    np.testing.assert_array_equal(np.frombuffer((tmp_path / "net_0.bin").read_bytes(), np.float32), exact[:, 0])


def whole(rng: np.random.Generator, shape: Sequence[int], step: float = 1 / 16, most: int = 60) -> np.ndarray:
    """Numbers between and on the steps of a quantiser."""
    return (rng.integers(-most, most + 1, shape) * step / 2).astype(np.float32)


def exactly(x: np.ndarray) -> np.ndarray:
    return np.array([Fraction(float(v)) for v in x.reshape(-1)] + [None], object)[:-1].reshape(x.shape)


def each(function: Callable[[Fraction], Fraction], x: np.ndarray) -> np.ndarray:
    return np.array([function(v) for v in x.reshape(-1)] + [None], object)[:-1].reshape(x.shape)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("mode", ROUND)
@pytest.mark.parametrize(("signed", "narrow"), [(1, 0), (1, 1), (0, 0)])
def test_every_rounding_of_quant(mode: str, signed: int, narrow: int) -> None:
    """A mode of QONNX that is taken for another of ap_fixed, or an end of the range."""
    x = whole(np.random.default_rng(1), (3, 80), 1 / 64, 400)
    graph = Graph()
    first = graph.quant("x", 1 / 64, 10)
    proto = graph.model([3, 80], graph.quant(first, 0.25, 4, mode, signed, narrow))
    low, high = (0, 15) if not signed else (-8 + narrow, 7)

    def quant(v: Fraction) -> Fraction:
        return ROUND[mode](
            min(max(quantised(v, Fraction(1, 64), 10, "ROUND") * 4, Fraction(low)), Fraction(high))
        ) / Fraction(4)

    check(proto, x, floats(list(each(quant, exactly(x)).reshape(-1)), x.shape))


@pytest.mark.usefixtures("needs_compiler")
def test_convolution_pooling_and_movement() -> None:
    """A padded border that is no zero, a window's mean that is rounded, a channel's scale that is another's."""
    rng = np.random.default_rng(2)
    x, w, b = (
        whole(rng, (2, 3, 8, 8)),
        rng.normal(0, 0.5, (4, 3, 3, 3)).astype(np.float32),
        rng.normal(size=4).astype(np.float32),
    )
    scales = np.array([0.25, 0.125, 0.5, 0.0625], np.float32).reshape(4, 1, 1, 1)
    graph = Graph()
    q = graph.quant("x", 1 / 16, 6)
    weights = graph.quant(graph.constant(w), scales, 4, narrow=1)
    c = graph.node("Conv", q, weights, graph.quant(graph.constant(b), 1 / 64, 8), pads=[1, 1, 1, 1])
    r = graph.quant(graph.node("Relu", c), 1 / 16, 6, "FLOOR", signed=0)
    p = graph.node("MaxPool", r, kernel_shape=[2, 2], strides=[2, 2])
    a = graph.node("AveragePool", p, kernel_shape=[2, 2], strides=[2, 2])
    t = graph.node("Flatten", graph.node("Transpose", a, perm=[0, 2, 3, 1]))
    proto = graph.model([2, 3, 8, 8], graph.quant(t, 1 / 32, 7, "UP", signed=0))

    xq = each(lambda v: quantised(v, Fraction(1, 16), 6, "ROUND"), exactly(x))
    wq = np.stack(
        [
            each(lambda v, s=s: quantised(v, Fraction(float(s)), 4, "ROUND", narrow=True), exactly(f))
            for f, s in zip(w, scales.reshape(-1), strict=True)
        ]
    )
    bq = each(lambda v: quantised(v, Fraction(1, 64), 8, "ROUND"), exactly(b))
    padded = np.full((2, 3, 10, 10), Fraction(0), object)
    padded[:, :, 1:-1, 1:-1] = xq
    y = np.array(
        [
            [
                [[(padded[n, :, i : i + 3, j : j + 3] * wq[o]).sum() + bq[o] for j in range(8)] for i in range(8)]
                for o in range(4)
            ]
            for n in range(2)
        ],
        object,
    )
    y = each(lambda v: min(max(ROUND["FLOOR"](v * 16), 0), 63) / Fraction(16), y)
    y = y.reshape(2, 4, 4, 2, 4, 2).max(axis=(3, 5))
    y = y.reshape(2, 4, 2, 2, 2, 2).sum(axis=(3, 5)) / 4
    y = y.transpose(0, 2, 3, 1).reshape(2, -1)
    y = each(lambda v: min(ROUND["UP"](v * 32), 127) / Fraction(32), y)
    check(proto, x, floats(list(y.reshape(-1)), y.shape), ("", "fuse", "fuse,lower{cpu=scalar}"))


@pytest.mark.usefixtures("needs_compiler")
def test_trunc_and_bipolar_quant() -> None:
    """Bits that are kept, a scale of the other sign, zero on the wrong side."""
    x = whole(np.random.default_rng(3), (4, 30), 1 / 16, 400)
    for mode, scale in (("FLOOR", 16), ("ROUND", 16), ("CEIL", 8), ("HALF_DOWN", 32), ("HALF_UP", Fraction(1, 16))):
        graph = Graph()
        first = graph.quant("x", 1 / 16, 8)
        parameters = [graph.constant(v) for v in (float(1 / Fraction(scale)), 0.0, 8.0, 5.0)]
        cut = graph.node("Trunc", first, *parameters, domain=DOMAIN, rounding_mode=mode)
        sign = graph.node("BipolarQuant", first, graph.constant(0.5), domain=DOMAIN)
        proto = graph.model([4, 30], graph.node("Mul", cut, sign))

        def exact_one(v: Fraction, mode: str = mode, scale: Fraction = Fraction(scale)) -> Fraction:
            q = quantised(v, Fraction(1, 16), 8, "ROUND")
            whole = Fraction(round(q * scale))
            return ROUND[mode](whole / 8) / scale * (Fraction(1, 2) if q >= 0 else Fraction(-1, 2))

        check(proto, x, floats(list(each(exact_one, exactly(x)).reshape(-1)), x.shape))


@pytest.mark.usefixtures("needs_compiler")
def test_scales_by_channel_of_activations_and_an_exact_normalisation() -> None:
    """A channel that is divided by another's scale; a normalisation whose factors are fixed-point numbers."""
    x = whole(np.random.default_rng(4), (5, 3), 1 / 16, 200)
    scales = [Fraction(1, 4), Fraction(1, 2), Fraction(1, 8)]
    scale, offset, mean, variance = [1.5, -0.5, 2.0], [0.25, 1.0, -1.0], [0.5, 0.0, 1.0], [4.0, 0.25, 16.0]
    graph = Graph()
    q = graph.quant("x", 1 / 16, 9)
    n = graph.node("BatchNormalization", q, *[graph.constant(v) for v in (scale, offset, mean, variance)], epsilon=0.0)
    proto = graph.model([5, 3], graph.quant(n, [float(s) for s in scales], 5, "HALF_UP"))
    want = []
    for row in exactly(x):
        for k, v in enumerate(row):
            value = quantised(v, Fraction(1, 16), 9, "ROUND")
            roots = [Fraction(2), Fraction(1, 2), Fraction(4)]
            value = (value - Fraction(mean[k])) / roots[k] * Fraction(scale[k]) + Fraction(offset[k])
            want.append(quantised(value, scales[k], 5, "HALF_UP"))
    check(proto, x, floats(want, x.shape))


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("weights", [[-7, -3, -5, -1], [7, 3, 5, 1], [-7, 6, -1, 7], [-8, -8, -8, -8]])
def test_sums_reach_both_ends_of_their_type(signed: int, weights: list[int]) -> None:
    """A type that is a bit too narrow for the largest or the least sum that constant weights allow."""
    w, (low, high) = np.array(weights), (-128, 127) if signed else (0, 255)
    x = np.array([[low] * 4, [high] * 4, np.where(w > 0, high, low), np.where(w > 0, low, high)])
    for bias in (None, [0.25], [-100.0]):
        graph = Graph()
        operands = [graph.quant("x", 1 / 16, 8, signed=signed), graph.constant(w[None, :] / 4)]
        operands += [] if bias is None else [graph.constant(bias)]
        total = graph.node("Gemm", *operands, transB=1)
        proto = graph.model([4, 4], graph.quant(total, 2**-7, 24))
        want = ((x / 16) @ w / 4 + (bias or [0.0])[0])[:, None].astype(np.float32)
        for steps in ("", "lower-onnx"):
            module = fixed_module(proto)
            pipeline.run(module, pipeline.parse(steps) if steps else [])
            np.testing.assert_array_equal(run(module, [(x / 16).astype(np.float32)])[0], want)


def test_parts_of_several_types_go_into_one_that_holds_all() -> None:
    """The largest number of an unsigned part beside a signed one."""
    graph = Graph()
    parts = [graph.quant("x", 1.0, 4, signed=0), graph.quant("x", 0.25, 4)]
    module = fixed_module(graph.model([1, 3], graph.quant(graph.node("Concat", *parts, axis=1), 0.25, 10)))
    x = np.array([[15, -2, 0.75]], np.float32)
    for steps in ("", "lower-onnx"):
        pipeline.run(module, pipeline.parse(steps) if steps else [])
        np.testing.assert_array_equal(run(module, [x])[0], [[15, 0, 1, 1.75, -2, 0.75]])


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize(
    ("shape", "weights"), [((4, 6), (6,)), ((2, 4, 6), (6, 3)), ((2, 4, 6), (2, 6, 3)), ((6,), (6, 3)), ((3, 6), None)]
)
def test_products_of_every_rank(shape: tuple[int, ...], weights: tuple[int, ...] | None) -> None:
    """A depth that is read off another axis; without weights, of a matrix with its own transpose."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-31, 31, shape) / 8, rng.integers(-7, 8, weights or (1,)) / 4
    graph = Graph()
    q = graph.quant("x", 1 / 8, 6)
    other = graph.node("Transpose", q, perm=[1, 0]) if weights is None else graph.constant(w)
    proto = graph.model(shape, graph.quant(graph.node("MatMul", q, other), 2**-6, 24))
    check(proto, x.astype(np.float32), np.asarray(x @ (x.T if weights is None else w), np.float32))


@pytest.mark.usefixtures("needs_compiler")
def test_groups_of_channels() -> None:
    """A channel that meets the weights of another group."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-31, 31, (1, 4, 9)) / 8, rng.integers(-7, 8, (8, 1, 3)) / 4
    graph = Graph()
    c = graph.node("Conv", graph.quant("x", 1 / 8, 6), graph.constant(w), group=4, pads=[1, 1])
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    want = np.stack([sum(padded[:, o // 2, k : k + 9] * w[o, 0, k] for k in range(3)) for o in range(8)], 1)
    check(graph.model([1, 4, 9], graph.quant(c, 2**-5, 20)), x.astype(np.float32), want.astype(np.float32))


@pytest.mark.usefixtures("needs_compiler")
def test_quantisers_in_branches() -> None:
    """A twin that is made in a branch and read outside, or made outside and read in one."""
    graph = Graph()
    q = graph.quant("x", 0.125, 6)

    def branch(scale: float, name: str) -> onnx.GraphProto:
        inner = Graph()
        inner.node("Relu", inner.quant("outside", scale, 6))
        for node in inner.nodes:
            node.input[:] = [q if i == "outside" else f"{name}{i}" for i in node.input]
            node.output[:] = [f"{name}{o}" for o in node.output]
        for weight in inner.weights:
            weight.name = f"{name}{weight.name}"
        made = helper.make_tensor_value_info(f"{name}v1", TensorProto.FLOAT, [2, 3])
        return helper.make_graph(inner.nodes, name, [], [made], inner.weights)

    picked = graph.node("If", "c", then_branch=branch(0.5, "a"), else_branch=branch(0.25, "b"))
    proto = graph.model([2, 3], graph.node("Mul", picked, q))
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    x = np.array([[0.3, -0.7, 1.1], [5, -9, 2.2]], np.float32)
    first = each(lambda v: quantised(v, Fraction(1, 8), 6, "ROUND"), exactly(x))
    for condition, scale in ((True, Fraction(1, 2)), (False, Fraction(1, 4))):
        want = [max(quantised(v, scale, 6, "ROUND"), Fraction(0)) * v for v in first.reshape(-1)]
        np.testing.assert_array_equal(sofie.compile(proto)(x, np.array(condition)), floats(want, x.shape))


def test_a_scale_of_higher_rank_stays_on_floats() -> None:
    """A result that has fewer axes than its quantiser gives it."""
    graph = Graph()
    proto = graph.model([2, 3], graph.quant("x", [[[[0.5]]]], 4))
    with pytest.raises(SofieError, match="'Quant_0'.*its result has another shape"):
        fixed_module(proto)
    assert sofie.compile(proto)(np.ones((2, 3), np.float32)).shape == (1, 1, 2, 3)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_expressions_are_exact(data: st.DataObject) -> None:
    """A sum or product that loses a bit: of two quantised values of any widths, up to 64 bits in between."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = (rng.normal(0, 4, (2, 6)) * np.exp2(rng.integers(-6, 3, (2, 6)))).astype(np.float32)
    graph = Graph()
    values: list[tuple[str, np.ndarray]] = []
    for _ in range(3):
        bits, exponent = data.draw(st.integers(1, 14)), data.draw(st.integers(-8, 2))
        mode = data.draw(st.sampled_from(sorted(ROUND)))
        scale = Fraction(2) ** exponent
        sign = data.draw(st.integers(0, 1))
        name = graph.quant("x", float(scale), bits, mode, sign)
        values.append((name, each(lambda v, a=(scale, bits, mode, False, sign): quantised(v, *a), exactly(x))))
    for operator in data.draw(
        st.lists(st.sampled_from(["Add", "Sub", "Mul", "Relu", "Concat"]), min_size=1, max_size=4)
    ):
        (a, left), (b, right) = data.draw(st.sampled_from(values)), data.draw(st.sampled_from(values))
        if operator == "Relu":
            values.append((graph.node("Relu", a), each(lambda v: max(v, Fraction(0)), left)))
        elif operator == "Concat":
            both = graph.node("Slice", graph.node("Concat", a, b, axis=1), *map(graph.whole, ([1], [7], [1])))
            values.append((both, np.concatenate([left, right], 1)[:, 1:7]))
        else:
            made = {"Add": left + right, "Sub": left - right, "Mul": left * right}[operator]
            values.append((graph.node(operator, a, b), made))
    name, want = values[-1]
    low, high = min(want.reshape(-1)), max(want.reshape(-1))
    exponent = max(abs(low), abs(high), Fraction(1, 2**30)).numerator.bit_length() - 12
    scale = Fraction(2) ** max(exponent, -12)
    proto = graph.model([2, 6], graph.quant(name, float(scale), 16, "HALF_DOWN"))
    want = each(lambda v: quantised(v, scale, 16, "HALF_DOWN"), want)
    try:
        module = fixed_module(proto)
    except SofieError as error:
        assert "64 is the most" in str(error) or "is possible" in str(error)
        return
    for steps in ("", "lower-onnx"):
        pipeline.run(module, pipeline.parse(steps) if steps else [])
        np.testing.assert_array_equal(run(module, [x])[0], floats(list(want.reshape(-1)), x.shape))


def refused(*nodes: Callable[[Graph, str], str]) -> onnx.ModelProto:
    graph = Graph()
    value = graph.quant("x", 1 / 16, 8)
    for node in nodes:
        value = node(graph, value)
    return graph.model([2, 6], value)


REFUSED = {
    "'Quant_1'.*scale is no power of two": lambda g, v: g.quant(v, 0.3, 8),
    "'Quant_1'.*bitwidth is not one whole number": lambda g, v: g.quant(v, 0.5, 2.5),
    "'Quant_1'.*narrow range is not symmetric": lambda g, v: g.quant(v, 0.5, 4, signed=0, narrow=1),
    "'Sigmoid_1'.*it is none of Add, ": lambda g, v: g.node("Sigmoid", v),
    "'MatMul_1'.*no fixed-point number of 24 bits or fewer; quantise it": lambda g, v: g.node(
        "MatMul", v, g.constant(np.random.default_rng(1).normal(size=(6, 2)))
    ),
    "'Mul_4'.*numbers need 128 bits, 64 is the most; quantise its operands to fewer": lambda g, v: squared(g, v, 4),
    "'Mul_1'.*'B' is not quantised; put a Quant before it": lambda g, v: g.node("Mul", v, "x"),
}


def squared(graph: Graph, value: str, times: int) -> str:
    for _ in range(times):
        value = graph.node("Mul", value, value)
    return value


@pytest.mark.parametrize("sentence", REFUSED)
def test_strict_names_the_node_and_the_way_out(sentence: str) -> None:
    """A float that is left in between without a word."""
    with pytest.raises(SofieError, match=sentence):
        fixed_module(refused(REFUSED[sentence]))


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("sentence", sorted(REFUSED)[:4])
def test_what_is_declined_is_right_on_floats(sentence: str) -> None:
    """A value that is lost where fixed point ends."""
    proto = refused(REFUSED[sentence])
    x = whole(np.random.default_rng(5), (2, 6))
    np.testing.assert_array_equal(sofie.compile(proto)(x), sofie.compile(proto, without=["fuse-fixed"])(x))


@pytest.mark.usefixtures("needs_compiler")
def test_batches_of_the_run() -> None:
    """A size that only the run knows."""
    x = swept()[::7]
    proto = three_layers("batch")
    model = sofie.compile(proto, dims={"batch": (1, 128)})
    np.testing.assert_array_equal(model(x), floats(three_layers_exact(x), (len(x), 1)))
    (converted,) = [o for o in fixed_module(three_layers(4)).walk() if o.name == "onnx.Relu"][:1]
    assert isinstance(element_of(converted.results[0]), FixedType)
