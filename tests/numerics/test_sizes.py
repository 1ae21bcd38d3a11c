"""Sizes of the run: whatever size a batch has, the numbers are those of the reference, and a row keeps its bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from onnx import TensorProto as T
from onnx import helper as h

import sofie
from sofie import interpreter, pipeline
from sofie.check import check
from sofie.compiler import Options, compile_model
from sofie.frontends.onnx import load
from sofie.sizes import Size
from tests.numerics.graphs import Drawn, models
from tests.numerics.test_random_graphs import LEFT_OUT, examples
from tests.numerics.test_random_graphs import check as check_drawn

pytestmark = pytest.mark.usefixtures("needs_compiler")

F, N = T.FLOAT, h.make_node


def w(*shape: int) -> np.ndarray:
    """A weight."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def model(nodes, inputs, weights, outputs=("y",)) -> onnx.ModelProto:
    """A model of nodes; axes with names are free."""
    takes = [h.make_tensor_value_info(*value) for value in inputs]
    gives = [h.make_empty_tensor_value_info(name) for name in outputs]
    stored = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = h.make_graph(nodes, "sizes", takes, gives, stored)
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 22)], ir_version=10)


CASES = {
    "lstm": model(
        [N("LSTM", ["x", "W", "R", "B"], ["Y", "h", "c"], hidden_size=5, direction="bidirectional")],
        [("x", F, [7, "batch", 4])],
        {"W": w(2, 20, 4), "R": w(2, 20, 5), "B": w(2, 40)},
        ("Y", "h", "c"),
    ),
    "gru_seq": model(
        [N("GRU", ["x", "W", "R"], ["Y", "h"], hidden_size=5, layout=0)],
        [("x", F, ["seq", "batch", 4])],
        {"W": w(1, 15, 4), "R": w(1, 15, 5)},
        ("Y", "h"),
    ),
    "rnn_T": model(
        [
            N("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            N("RNN", ["t", "W", "R"], ["Y", "h"], hidden_size=5),
            N("Squeeze", ["h", "ax"], ["s"]),
            N("Gemm", ["s", "o"], ["y"]),
        ],
        [("x", F, ["batch", 7, 4])],
        {"W": w(1, 5, 4), "R": w(1, 5, 5), "ax": np.array([0]), "o": w(5, 3)},
    ),
    "attn": model(
        [
            N("MatMul", ["x", "wq"], ["q"]),
            N("MatMul", ["x", "wk"], ["k"]),
            N("Shape", ["x"], ["s"], end=2),
            N("Concat", ["s", "hd"], ["s4"], axis=0),
            N("Reshape", ["q", "s4"], ["q4"]),
            N("Reshape", ["k", "s4"], ["k4"]),
            N("Transpose", ["q4"], ["qt"], perm=[0, 2, 1, 3]),
            N("Transpose", ["k4"], ["kt"], perm=[0, 2, 3, 1]),
            N("MatMul", ["qt", "kt"], ["a"]),
            N("Softmax", ["a"], ["p"]),
            N("MatMul", ["p", "qt"], ["o"]),
            N("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
            N("Reshape", ["ot", "m"], ["y"]),
        ],
        [("x", F, ["batch", "seq", 8])],
        {"wq": w(8, 8), "wk": w(8, 8), "hd": np.array([2, 4]), "m": np.array([0, 0, 8])},
    ),
    "conv": model(
        [
            N("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            N("Relu", ["c"], ["r"]),
            N("GlobalAveragePool", ["r"], ["g"]),
            N("Flatten", ["g"], ["y"]),
        ],
        [("x", F, ["batch", 3, "H", "W"])],
        {"w": w(4, 3, 3, 3)},
    ),
    "conv_stride": model(
        [N("Conv", ["x", "w"], ["y"], strides=[2, 2])], [("x", F, ["batch", 3, 9, 9])], {"w": w(4, 3, 3, 3)}
    ),
    "reduce0": model([N("ReduceMean", ["x", "a"], ["y"], keepdims=0)], [("x", F, ["batch", 5])], {"a": np.array([0])}),
    "softmax0": model([N("Softmax", ["x"], ["y"], axis=0)], [("x", F, ["batch", 5])], {}),
    "concat0": model(
        [N("Concat", ["x", "x", "k"], ["c"], axis=0), N("Relu", ["c"], ["y"])], [("x", F, ["batch", 5])], {"k": w(2, 5)}
    ),
    "slice": model(
        [N("Slice", ["x", "s", "e", "a"], ["y"])],
        [("x", F, ["batch", 5])],
        {"s": np.array([-1]), "e": np.array([2**31]), "a": np.array([0])},
    ),
    "slice_most": model(
        [N("Slice", ["x", "s", "e", "a"], ["y"])],
        [("x", F, ["batch", 5])],
        {"s": np.array([0]), "e": np.array([-1]), "a": np.array([0])},
    ),
    "pad0": model([N("Pad", ["x", "p"], ["y"])], [("x", F, ["batch", 5])], {"p": np.array([1, 0, 2, 1])}),
    "expand": model(
        [
            N("Shape", ["x"], ["s"], end=1),
            N("Concat", ["s", "five"], ["t"], axis=0),
            N("Expand", ["z", "t"], ["e"]),
            N("Add", ["e", "x"], ["y"]),
        ],
        [("x", F, ["batch", 5])],
        {"five": np.array([5]), "z": w(1, 5)},
    ),
    "castshape": model(
        [N("Shape", ["x"], ["s"], end=1), N("Cast", ["s"], ["f"], to=F), N("Div", ["x", "f"], ["y"])],
        [("x", F, ["batch", 5])],
        {},
    ),
    "shape_out": model([N("Shape", ["x"], ["y"])], [("x", F, ["batch", 5])], {}),
    "argmax": model([N("ArgMax", ["x"], ["y"], axis=0)], [("x", F, ["batch", 5])], {}),
    "gather": model([N("Gather", ["x", "i"], ["y"], axis=1)], [("x", F, ["batch", 5])], {"i": np.array([0, -1, 2])}),
    "gather0": model([N("Gather", ["x", "i"], ["y"], axis=0)], [("x", F, ["batch", 5])], {"i": np.array([0, -1])}),
    "topk": model(
        [N("TopK", ["x", "k"], ["y", "i"], axis=1)], [("x", F, ["batch", 5])], {"k": np.array([2])}, ("y", "i")
    ),
    "layernorm": model(
        [N("LayerNormalization", ["x", "g", "b"], ["y"])], [("x", F, ["batch", "seq", 6])], {"g": w(6), "b": w(6)}
    ),
    "tile": model([N("Tile", ["x", "r"], ["y"])], [("x", F, ["batch", 5])], {"r": np.array([1, 3])}),
    "tile0": model([N("Tile", ["x", "r"], ["y"])], [("x", F, ["batch", 5])], {"r": np.array([2, 1])}),
    "split": model(
        [N("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), N("Mul", ["a", "b"], ["y"])],
        [("x", F, ["batch", 6])],
        {},
    ),
    "cumsum": model([N("CumSum", ["x", "a"], ["y"])], [("x", F, ["batch", 5])], {"a": np.array(0)}),
    "convt": model(
        [N("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], [("x", F, ["batch", 2, 3, 3])], {"w": w(2, 3, 3, 3)}
    ),
    "maxpool": model(
        [N("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], [("x", F, ["batch", 2, 6, 6])], {}
    ),
    "flattenall": model(
        [N("Reshape", ["x", "m"], ["f"]), N("ReduceSum", ["f"], ["y"])], [("x", F, ["batch", 5])], {"m": np.array([-1])}
    ),
    "range": model(
        [
            N("Shape", ["x"], ["s"], start=0, end=1),
            N("Squeeze", ["s"], ["n"]),
            N("Range", ["z", "n", "one"], ["r"]),
            N("Cast", ["r"], ["f"], to=F),
            N("Unsqueeze", ["f", "ax"], ["u"]),
            N("Add", ["x", "u"], ["y"]),
        ],
        [("x", F, ["batch", 5])],
        {"z": np.array(0), "one": np.array(1), "ax": np.array([1])},
    ),
    "cos": model(
        [
            N("ConstantOfShape", ["s0"], ["y"], value=onnx.numpy_helper.from_array(np.array([2], np.float32))),
        ],
        [("x", F, ["batch", 5])],
        {"s0": np.array([3, 4])},
    ),
    "cosd": model(
        [
            N("Shape", ["x"], ["s"]),
            N("ConstantOfShape", ["s"], ["c"], value=onnx.numpy_helper.from_array(np.array([2], np.float32))),
            N("Add", ["c", "x"], ["y"]),
        ],
        [("x", F, ["batch", 5])],
        {},
    ),
    "where": model(
        [N("Greater", ["x", "z"], ["g"]), N("Where", ["g", "x", "z"], ["y"])],
        [("x", F, ["batch", 5])],
        {"z": np.float32(0)},
    ),
    "einsum": model([N("Einsum", ["x", "w"], ["y"], equation="bi,ij->bj")], [("x", F, ["batch", 5])], {"w": w(5, 3)}),
    "onehot": model(
        [N("OneHot", ["x", "d", "v"], ["y"], axis=-1)],
        [("x", T.INT64, ["batch"])],
        {"d": np.array(4), "v": np.array([0, 1], np.float32)},
    ),
    "insnorm": model(
        [N("InstanceNormalization", ["x", "g", "b"], ["y"])], [("x", F, ["batch", 3, "H"])], {"g": w(3), "b": w(3)}
    ),
    "reverse": model(
        [N("Slice", ["x", "s", "e", "a", "st"], ["y"])],
        [("x", F, ["batch", 5])],
        {"s": np.array([-1]), "e": np.array([-100]), "a": np.array([1]), "st": np.array([-1])},
    ),
    "d2s": model([N("DepthToSpace", ["x"], ["y"], blocksize=2)], [("x", F, ["batch", 8, 2, 2])], {}),
    "gathernd": model(
        [N("GatherND", ["x", "i"], ["y"], batch_dims=1)], [("x", F, ["batch", 5]), ("i", T.INT64, ["batch", 1])], {}
    ),
    "scatter": model(
        [N("ScatterElements", ["x", "i", "u"], ["y"], axis=1)],
        [("x", F, ["batch", 5]), ("i", T.INT64, ["batch", 2]), ("u", F, ["batch", 2])],
        {},
    ),
    "gelu": model([N("Gelu", ["x"], ["y"])], [("x", F, ["batch", 5])], {}),
    "hardmax": model([N("Hardmax", ["x"], ["y"], axis=0)], [("x", F, ["batch", 5])], {}),
    "groupnorm": model(
        [N("GroupNormalization", ["x", "g", "b"], ["y"], num_groups=2)],
        [("x", F, ["batch", 4, 3])],
        {"g": w(4), "b": w(4)},
    ),
    "trilu": model([N("Trilu", ["x"], ["y"])], [("x", F, ["batch", "seq"])], {}),
    "matmul2": model([N("MatMul", ["x", "z"], ["y"])], [("x", F, ["batch", 3, "n"]), ("z", F, ["batch", "n", 2])], {}),
    "gemmT": model([N("Gemm", ["x", "z"], ["y"], transA=1)], [("x", F, ["batch", 3]), ("z", F, ["batch", 2])], {}),
}


def bounds(proto: onnx.ModelProto, batch: tuple[int, int] = (1, 9)) -> dict[str, tuple[int, int]]:
    """Bounds for every named dimension; images are large enough for their windows."""
    shapes = [v.type.tensor_type.shape for v in proto.graph.input]
    names = {d.dim_param for shape in shapes for d in shape.dim if d.dim_param}
    return {name: (4, 8) if name in "HW" else batch for name in sorted(names)}


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_right_at_every_size(name: str) -> None:
    """An extent, stride, count or offset that was taken for that of another size."""
    report = check(CASES[name], Options(dims=bounds(CASES[name]), verify_each=True), samples=2)
    assert report.agrees, report


ROWS = ["attn", "conv_stride", "convt", "einsum", "gelu", "layernorm", "lstm", "maxpool", "rnn_T", "split", "topk"]


@pytest.mark.parametrize("cpu", ["native", "portable", "scalar"])
@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_same_bits_in_every_batch(name: str, cpu: str) -> None:
    """A row that is computed otherwise in a whole tile than in what is left over."""
    proto = CASES[name]
    compiled = sofie.compile(proto, dims={"batch": (1, 64), **{k: 3 for k in bounds(proto) if k != "batch"}}, cpu=cpu)
    (port,) = compiled.inputs
    axis = next(a for a, e in enumerate(port.shape) if isinstance(e, Size))
    x = np.random.default_rng(0).standard_normal([64 if a == axis else e for a, e in enumerate(port.shape)])
    x = x.astype(np.float32)
    whole = compiled.run({port.name: x})
    for batch in (1, 2, 63, 64):
        part = compiled.run({port.name: np.ascontiguousarray(x.take(range(batch), axis))})
        for out in compiled.outputs:
            along = next(a for a, e in enumerate(out.shape) if isinstance(e, Size))
            np.testing.assert_array_equal(part[out.name], whole[out.name].take(range(batch), along))


def test_a_size_out_of_bounds_is_refused() -> None:
    compiled = sofie.compile(CASES["gelu"], dims={"batch": (2, 64)})
    for batch in (1, 65):
        with pytest.raises(sofie.SofieError, match=f"batch is {batch}, the model was compiled for 2 to 64"):
            compiled(np.zeros((batch, 5), np.float32))


@pytest.mark.parametrize("bounds", [(3, 3), (0, 1), (0, 2), (1, 2), (0, 5)])
def test_narrow_bounds(bounds: tuple[int, int]) -> None:
    """A size that has been taken for a number, or a number for a size; an empty batch."""
    compiled = sofie.compile(CASES["attn"], dims={"batch": bounds, "seq": 4})
    for batch in range(bounds[0], bounds[1] + 1):
        assert compiled(np.ones((batch, 4, 8), np.float32)).shape == (batch, 4, 8)


def test_inputs_that_share_a_size_must_agree() -> None:
    compiled = sofie.compile(CASES["scatter"], dims={"batch": (1, 8)})
    with pytest.raises(sofie.SofieError, match=r"the model takes \(batch, 2\) where batch=3"):
        compiled(np.zeros((3, 5), np.float32), np.zeros((4, 2), np.int64), np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("stop", [None, "tensor", "buffer", "loop"])
@pytest.mark.parametrize("name", ["attn", "castshape", "concat0", "lstm", "pad0", "reduce0", "tile0"])
def test_every_level_means_the_same(name: str, stop: str | None) -> None:
    """A pass that loses a size."""
    module = load(CASES[name], {k: (1, 9) for k in bounds(CASES[name])})
    if stop is not None:
        pipeline.run(module, pipeline.parse("fuse,lower"), verify_each=True, stop_after=stop)
    reference = onnx.reference.ReferenceEvaluator(CASES[name])
    for batch in (1, 4):
        port = CASES[name].graph.input[0]
        shape = [d.dim_value or batch for d in port.type.tensor_type.shape.dim]
        x = np.random.default_rng(batch).standard_normal(shape).astype(np.float32)
        for got, expected in zip(interpreter.run(module, [x]), reference.run(None, {port.name: x}), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "sentence"), [("Expand", "broadcast to 2 where it is 1.*--dim n="), ("Add", "do not broadcast")]
)
def test_a_size_that_may_be_1_is_not_taken_for_it(operator: str, sentence: str) -> None:
    """Rows of a batch of 2 that are all the first one, since a batch of 1 would be broadcast."""
    other = np.array([2, 3]) if operator == "Expand" else np.zeros((2, 3), np.float32)
    x = h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])
    y = h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = h.make_node(operator, ["x", "w"], ["y"], name="wider")
    graph = h.make_graph([node], "g", [x], [y], [onnx.numpy_helper.from_array(other, "w")])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 22)], ir_version=10)
    with pytest.raises(sofie.SofieError, match=f"'wider'.*{sentence}"):
        sofie.compile(model, dims={"n": (1, 2)})
    for rows in (1, 2):
        data = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
        np.testing.assert_array_equal(sofie.compile(model, dims={"n": rows})(data), np.broadcast_to(data, (2, 3)))


def test_a_graph_compiled_for_bounds_agrees_with_the_reference() -> None:
    """A pass that takes a run-time size for a number, in a graph and a pipeline that hypothesis draws."""

    @examples(100, shrink=False)
    @given(models(), LEFT_OUT, st.integers(0, 3))
    def agrees(drawn: Drawn, without: list[str], slack: int) -> None:
        sizes = {}
        free = onnx.ModelProto()
        free.CopyFrom(drawn.model)
        for value in free.graph.input[:2]:  # the others are operands, sized as the node needs them
            if value.type.tensor_type.shape.dim:
                dim = value.type.tensor_type.shape.dim[0]
                sizes[f"{value.name}:0"] = (1, dim.dim_value + slack)
                dim.ClearField("dim_value")
        try:
            compiled = compile_model(free, Options(dims=sizes, without=without, verify_each=True))
        except sofie.SofieError:
            reject()  # the graph needs the number
        results = compiled.run(drawn.feeds)
        check_drawn(drawn, [results[name] for name in drawn.double], f"without {without}")

    agrees()
