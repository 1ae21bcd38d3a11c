"""Small models that several tests share, each made of the shapes that once could go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
BYTES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: dict[str, np.ndarray],
    kinds: dict[str, int] | None = None,
    opset: int = 21,
) -> onnx.ModelProto:
    """A model; every input and output is float unless `kinds` says otherwise."""
    kinds = kinds or {}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).standard_normal(shape).astype(np.float32)


def mlp(batch: int | str = 3, seed: int = 0) -> onnx.ModelProto:
    """7 -> 20 relu -> 5 softmax, weights as PyTorch exports them."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="dense_1", transB=1),
        helper.make_node("Relu", ["h"], ["r"], name="relu_1"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["z"], name="dense_2", transB=1),
        helper.make_node("Softmax", ["z"], ["y"], name="probabilities", axis=-1),
    ]
    weights = {
        "w1": normal(20, 7, seed=seed + 1),
        "b1": normal(20, seed=seed + 2),
        "w2": normal(5, 20, seed=seed + 3),
        "b2": normal(5, seed=seed + 4),
    }
    return build(nodes, {"x": [batch, 7]}, ["y"], weights)


def convnet() -> onnx.ModelProto:
    """Conv, BatchNormalization, pooling, residual and two outputs."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], name="norm"),
        helper.make_node("Relu", ["n1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="body", pads=[1, 1, 1, 1], group=2),
        helper.make_node("Add", ["c2", "r1"], ["s"], name="residual"),
        helper.make_node("MaxPool", ["s"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["a"], name="average"),
        helper.make_node("Flatten", ["a"], ["f"], name="flatten"),
    ]
    weights = {
        "w1": normal(10, 3, 3, 3, seed=1),
        "b1": normal(10, seed=2),
        "g": normal(10, seed=3),
        "b": normal(10, seed=4),
        "m": normal(10, seed=5),
        "v": np.abs(normal(10, seed=6)) + np.float32(0.5),
        "w2": normal(10, 5, 3, 3, seed=7),
    }
    return build(nodes, {"x": [1, 3, 9, 11]}, ["f", "p"], weights)


def movement() -> onnx.ModelProto:
    """Concat of padded, transposed, sliced and reversed pieces, and an output that is an input."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Slice", ["t", "starts", "ends", "axes", "steps"], ["s"]),
        helper.make_node("Pad", ["s", "pads"], ["p"], mode="reflect"),
        helper.make_node("Relu", ["t"], ["r"]),
        helper.make_node("Concat", ["p", "r", "t"], ["y"], axis=1),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    weights = {
        "starts": np.array([-1]),
        "ends": np.array([-100]),
        "axes": np.array([1]),
        "steps": np.array([-2]),
        "pads": np.array([0, 1, 0, 1]),
    }
    return build(nodes, {"x": [6, 4]}, ["y", "same"], weights)


def integers() -> onnx.ModelProto:
    """uint8 in and out, and int64 indices from a pooling."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("MaxPool", ["x"], ["pooled", "where"], kernel_shape=[2, 2]),
    ]
    kinds = {"a": TensorProto.UINT8, "b": TensorProto.UINT8, "sum": TensorProto.UINT8, "where": TensorProto.INT64}
    inputs = {"a": [3, 5], "b": [5], "x": [1, 2, 5, 5]}
    return build(nodes, inputs, ["sum", "pooled", "where"], {}, kinds)


def reductions() -> onnx.ModelProto:
    """A softmax over the middle axis and a normalisation made of reductions."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], axis=1),
        helper.make_node("ReduceMean", ["p", "axes"], ["mean"]),
        helper.make_node("Sub", ["p", "mean"], ["d"]),
        helper.make_node("Mul", ["d", "d"], ["q"]),
        helper.make_node("ReduceMean", ["q", "axes"], ["variance"]),
        helper.make_node("Add", ["variance", "epsilon"], ["shifted"]),
        helper.make_node("Sqrt", ["shifted"], ["deviation"]),
        helper.make_node("Div", ["d", "deviation"], ["y"]),
    ]
    weights = {"axes": np.array([2]), "epsilon": np.float32(1e-5)}
    return build(nodes, {"x": [3, 4, 13]}, ["y"], weights)


def sequences() -> onnx.ModelProto:
    """LSTM in both directions over sequences of different lengths, then a GRU of which only the end is read."""
    nodes = [
        helper.make_node(
            "LSTM", ["x", "w1", "r1", "b1", "lengths"], ["h", "", "c"], hidden_size=5, direction="bidirectional"
        ),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "flat"], ["f"]),
        helper.make_node("GRU", ["f", "w2", "r2"], ["", "y"], hidden_size=8, direction="reverse"),
    ]
    weights = {
        "w1": normal(2, 20, 3, seed=1),
        "r1": normal(2, 20, 5, seed=2) / 4,
        "b1": normal(2, 40, seed=3),
        "lengths": np.array([6, 1, 4], np.int32),
        "flat": np.array([6, 3, 10]),
        "w2": normal(1, 24, 10, seed=4),
        "r2": normal(1, 24, 8, seed=5) / 4,
    }
    return build(nodes, {"x": [6, 3, 3]}, ["y", "c"], weights)


def choices() -> onnx.ModelProto:
    """A condition inside a branch, values from outside both, and one result that is a weight."""

    def branch(nodes: Sequence[onnx.NodeProto], output: str, **weights: np.ndarray) -> onnx.GraphProto:
        tensors = [numpy_helper.from_array(a, n) for n, a in weights.items()]
        return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(output, FLOAT, None)], tensors)

    inner = helper.make_node(
        "If",
        ["d"],
        ["i"],
        then_branch=branch([helper.make_node("MatMul", ["t", "w"], ["p"])], "p", w=normal(9, 9)),
        else_branch=branch([], "k", k=normal(4, 9, seed=1)),
    )
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=branch([inner, helper.make_node("Add", ["i", "x"], ["a"])], "a"),
            else_branch=branch([helper.make_node("Softmax", ["t"], ["s"])], "s"),
        ),
        helper.make_node("Add", ["y", "t"], ["z"]),
    ]
    boolean = TensorProto.BOOL
    return build(nodes, {"x": [4, 9], "c": [], "d": [1]}, ["y", "z"], {}, {"c": boolean, "d": boolean})


def samples() -> onnx.ModelProto:
    """What reads between elements, where other values say, and for as long as they say; and a spectrum."""
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["r"], name="larger", mode="linear"),
        helper.make_node("GridSample", ["r", "grid"], ["s"], name="sampled", padding_mode="border"),
        helper.make_node(
            "RoiAlign", ["s", "rois", "images"], ["a"], name="aligned", output_height=2, spatial_scale=3.0
        ),
        helper.make_node("MaxPool", ["r"], ["p", "i"], name="pooled", kernel_shape=[3, 2], strides=[3, 2]),
        helper.make_node("MaxUnpool", ["p", "i"], ["u"], name="unpooled", kernel_shape=[3, 2], strides=[3, 2]),
        helper.make_node("Reshape", ["x", "columns"], ["c"], name="columns"),
        helper.make_node("Col2Im", ["c", "image", "block"], ["f"], name="folded"),
        helper.make_node("Reshape", ["f", "signal"], ["t"], name="signal"),
        helper.make_node("DFT", ["t"], ["d"], name="spectrum", onesided=1),
    ]
    weights = {
        "scales": np.array([1, 1, 1.5, 2], np.float32),
        "images": np.zeros(3, np.int64),
        "columns": np.array([1, 4, 15]),
        "image": np.array([4, 6]),
        "block": np.array([2, 2]),
        "signal": np.array([1, 24, 1]),
    }
    return build(nodes, {"x": [1, 2, 6, 5], "grid": [1, 4, 3, 2], "rois": [3, 4]}, ["a", "u", "d"], weights)


def quantized() -> onnx.ModelProto:
    """Layers between dequantising and quantising, as quantisers write them, and a product with weights of 4 bits."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {"zero": np.array(0, np.uint8), "middle": np.array(128, np.uint8)}

    def pair(x: str, scale: float, zero: str) -> str:
        """x rounded to 8 bits and back."""
        weights[f"{x}_scale"] = np.float32(scale)
        numbers = [f"{x}_scale", zero]
        nodes.append(helper.make_node("QuantizeLinear", [x, *numbers], [f"{x}_q"], name=f"q_{x}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{x}_q", *numbers], [f"{x}_dq"], name=f"dq_{x}"))
        return f"{x}_dq"

    def layer(operator: str, x: str, y: str, shape: tuple[int, ...], **attributes: object) -> None:
        """y of x and weights of 8 bits, with a scale for each output."""
        seed = len(nodes)
        weights[f"{y}_w"] = rng(seed).integers(-127, 128, shape).astype(np.int8)
        weights[f"{y}_ws"] = (np.abs(normal(shape[0], seed=seed)) / 400 + 0.002).astype(np.float32)
        weights[f"{y}_b"] = normal(shape[0], seed=seed + 1)
        scaled = [f"{y}_w", f"{y}_ws"]
        nodes.append(helper.make_node("DequantizeLinear", scaled, [f"{y}_wf"], name=f"dq_{y}_w", axis=0))
        nodes.append(helper.make_node(operator, [x, f"{y}_wf", f"{y}_b"], [y], name=y, **attributes))

    layer("Conv", pair("x", 0.0317, "middle"), "stem", (24, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 1])
    nodes.append(helper.make_node("Relu", ["stem"], ["active"], name="active"))
    nodes.append(
        helper.make_node("MaxPool", [pair("active", 0.0213, "zero")], ["most"], name="most", kernel_shape=[2, 2])
    )
    layer("Conv", pair("most", 0.0191, "zero"), "each", (24, 1, 3, 3), group=24, pads=[1, 1, 1, 1])
    layer("Conv", pair("each", 0.0437, "middle"), "mixed", (24, 24, 1, 1))
    nodes.append(helper.make_node("Add", [pair("mixed", 0.0537, "middle"), "most_dq"], ["sum"], name="sum"))
    nodes.append(helper.make_node("GlobalAveragePool", [pair("sum", 0.0611, "middle")], ["mean"], name="mean"))
    nodes.append(helper.make_node("Flatten", [pair("mean", 0.0233, "middle")], ["flat"], name="flat"))
    layer("Gemm", "flat", "dense", (32, 24), transB=1)
    few = rng(7).integers(-8, 8, (32, 5)).astype(ml_dtypes.int4)
    weights |= {"few_w": few, "few_s": (np.abs(normal(2, 5, seed=8)) / 10).astype(np.float32)}
    nodes.append(helper.make_node("DequantizeLinear", ["few_w", "few_s"], ["few_wf"], axis=0, block_size=16))
    nodes.append(helper.make_node("MatMul", ["dense", "few_wf"], ["y"], name="few"))
    return build(nodes, {"x": [1, 3, 9, 10]}, ["y", "sum_q"], weights, {"sum_q": TensorProto.UINT8})


def tiles() -> onnx.ModelProto:
    """A convolution of bytes, so large that its products are those of transformed tiles, narrower ones at an edge.

    Weights have 7 bits: without VNNI, ONNX Runtime's sums of two products saturate at 16 bits.
    """
    weights = {
        "w": rng(1).integers(-63, 64, (48, 32, 3, 3)).astype(np.int8),
        "zero": np.array(128, np.uint8),
        "scale": np.float32(0.02),
        "w_scale": (np.abs(normal(48, seed=2)) / 100 + 0.005).astype(np.float32),
        "w_zero": np.zeros(48, np.int8),
        "y_scale": np.float32(0.7),
        "bias": rng(3).integers(-20000, 20000, 48).astype(np.int32),
    }
    numbers = ["x", "scale", "zero", "w", "w_scale", "w_zero", "y_scale", "zero", "bias"]
    node = helper.make_node("QLinearConv", numbers, ["y"], name="y", pads=[1, 1, 1, 1])
    return build([node], {"x": [1, 32, 16, 14]}, ["y"], weights, {"x": TensorProto.UINT8, "y": TensorProto.UINT8})


def halves() -> onnx.ModelProto:
    """Floats of 16 bits: read, rounded, written, and a layer of such, whose sums they hold exactly."""
    half, brain = TensorProto.FLOAT16, TensorProto.BFLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["x_half"], name="to_half", to=half),
        helper.make_node("Cast", ["x_half"], ["rounded"], name="from_half", to=FLOAT),
        helper.make_node("Cast", ["x"], ["x_brain"], name="to_brain", to=brain),
        helper.make_node("Cast", ["x_brain"], ["cut"], name="from_brain", to=FLOAT),
        helper.make_node("Cast", ["z"], ["wide"], name="from_z", to=FLOAT),
        helper.make_node("Mul", ["x", "two"], ["doubled"], name="doubled"),
        helper.make_node("Round", ["doubled"], ["whole"], name="whole"),
        helper.make_node("Cast", ["whole"], ["events"], name="events", to=half),
        helper.make_node("Gemm", ["events", "w", "b"], ["layer"], name="layer"),
        helper.make_node("Relu", ["layer"], ["active"], name="active"),
        helper.make_node("Cast", ["active"], ["y"], name="from_layer", to=FLOAT),
    ]
    weights = {
        "two": np.float32(2),
        "w": (np.clip(np.round(4 * normal(23, 35)), -8, 8) / 4).astype(np.float16),
        "b": (np.round(4 * normal(35)) / 4).astype(np.float16),
    }
    outputs = ["rounded", "cut", "wide", "active", "y"]
    return build(nodes, {"x": [7, 23], "z": [7, 23]}, outputs, weights, {"z": half, "active": half})


ALL: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": mlp,
    "convnet": convnet,
    "movement": movement,
    "integers": integers,
    "reductions": reductions,
    "sequences": sequences,
    "choices": choices,
    "samples": samples,
    "quantized": quantized,
    "tiles": tiles,
    "halves": halves,
}


def feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of the model's types and shapes."""
    values = {}
    for k, value in enumerate(model.graph.input):
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        generator = rng(seed + k)
        floats = np.issubdtype(dtype, np.floating)
        values[value.name] = (generator.standard_normal(shape) if floats else generator.integers(0, 255, shape)).astype(
            dtype
        )
    return values


def random(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Values of a type by numpy's name: standard normal, coin flips, or any integer there is."""
    generator = np.random.default_rng(seed)
    if kind.startswith("float"):
        return generator.standard_normal(shape).astype(kind)
    if kind == "bool":
        return generator.random(shape) < 0.5
    information = np.iinfo(kind)
    return generator.integers(information.min, information.max, shape, dtype=kind, endpoint=True)
