"""How kernels are laid over threads: tiles with and without edges, in every precision; rows; small kernels as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import sofie
from sofie import pipeline
from sofie.compiler import Model, Options, compile_model, lower
from sofie.emit.cuda import CudaProgram
from tests import models
from tests.cuda_host.emulation import emulated

pytestmark = pytest.mark.usefixtures("needs_compiler")

ERRORS = {"float32": 1e-6, "tf32x3": 2e-6, "tf32": 1e-3, "bf16": 8e-3, "fp16": 1e-3}
"""What a product may be off by, over its largest element."""


def product(rows: Sequence[int | str], terms: int, columns: int, batch: Sequence[int] = ()) -> onnx.ModelProto:
    """y = relu(x w + b)"""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    shapes = {"x": [*batch, *rows, terms], "w": [*batch, terms, columns], "b": [columns]}
    return models.build(nodes, shapes, {"y": [*batch, *rows, columns]}, {})


def drawn(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
    """Normal numbers for every input, weights so small that sums are as large as what is summed."""
    rng, found = np.random.default_rng(7), {}
    for value in model.graph.input:
        shape = [d.dim_value or (sizes or {})[d.dim_param] for d in value.type.tensor_type.shape.dim]
        scale = max(shape) ** -0.5 if value.name.startswith("w") else 1.0
        found[value.name] = (scale * rng.standard_normal(shape)).astype(np.float32)
    return found


def truth(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """The output in double precision."""
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return ReferenceEvaluator(wide).run(None, {name: array.astype(np.float64) for name, array in feeds.items()})[0]


def error(model: onnx.ModelProto, options: Options, sizes: Mapping[str, int] | None = None) -> float:
    """The largest difference from the truth over the largest element."""
    feeds = drawn(model, sizes)
    with emulated():
        (got,) = compile_model(model, options).run(feeds).values()
    want = truth(model, feeds)
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def text(model: onnx.ModelProto, options: Options) -> str:
    """The kernels."""
    program = lower(model, "m", options)
    assert isinstance(program, CudaProgram)
    return "\n".join(program.kernels)


def tiled(precision: str) -> Options:
    """Every product by tiles, however small."""
    return Options(target="cuda", passes=f"{pipeline.GPU}{{precision={precision} least=1 cycles=0}}")


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize("shape", [(128, 64, 128), (77, 45, 130), (33, 16, 300), (64, 1100, 40)])
def test_a_product_by_tiles(precision: str, shape: tuple[int, int, int]) -> None:
    """A row, a column or a term beyond the end; a lane that has another's result; a half that is written while read."""
    model = product([shape[0]], shape[1], shape[2])
    assert "__syncthreads" in text(model, tiled(precision))
    assert error(model, tiled(precision)) < ERRORS[precision]


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_batches_and_run_time_sizes(precision: str) -> None:
    """A tile of another batch; a number of blocks that is not that of the rows of this run."""
    assert error(product([40], 20, 50, [3]), tiled(precision)) < ERRORS[precision]
    options = Options({"n": (1, 300)}, target="cuda", passes=tiled(precision).passes)
    assert error(product(["n"], 24, 40), options, {"n": 70}) < ERRORS[precision]


@pytest.mark.parametrize(("kind", "instruction"), [("float16", "product_fp16"), ("bfloat16", "product_bf16")])
def test_codes_of_16_bits_go_to_tensor_cores_as_they_are(kind: str, instruction: str) -> None:
    """A code that is another's neighbour, or that is rounded a second time."""
    proto = np.dtype(kind) if kind == "float16" else np.dtype(ml_dtypes.bfloat16)
    element = helper.np_dtype_to_tensor_dtype(proto)
    nodes = [
        helper.make_node("Cast", ["x"], ["codes"], to=element),
        helper.make_node("Relu", ["codes"], ["active"]),
        helper.make_node("MatMul", ["active", "v"], ["p"]),
        helper.make_node("MatMul", ["active", "w"], ["q"]),
        helper.make_node("Cast", ["p"], ["y"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Cast", ["q"], ["z"], to=onnx.TensorProto.FLOAT),
    ]
    rng = np.random.default_rng(0)
    weights = {"v": (rng.standard_normal((45, 40)) / 7).astype(proto)}
    model = models.build(nodes, {"x": [70, 45], "w": [45, 35]}, ["y", "z"], weights, {"w": element})
    options = tiled("float32")
    kernels = text(model, options)
    assert kernels.count(f"{instruction}(") >= 2
    assert "detail::join(" in kernels and "narrow_" not in kernels
    x, w = rng.standard_normal((70, 45)).astype(np.float32), (rng.standard_normal((45, 35)) / 7).astype(proto)
    with emulated():
        got = compile_model(model, options).run({"x": x, "w": w})
    rows = np.maximum(x.astype(proto), 0).astype(np.float64)
    for found, factor in zip(got.values(), (weights["v"], w), strict=True):
        near = (rows @ factor.astype(np.float64)).astype(np.float32)
        step = float(ml_dtypes.finfo(proto).eps) * np.maximum(np.abs(near), 1e-3)
        assert (np.abs(found - near) <= 0.51 * step).all()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_by_tiles(rank: int) -> None:
    """Windows that are read at another place; strides, dilations and groups that are taken for each other."""
    shapes = {"x": [2, 16, *[9] * rank], "w": [6, 8, *[3] * rank], "b": [6]}
    steps = {"strides": [2] * rank, "dilations": [2] * rank, "pads": [1] * 2 * rank}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=2, **steps)
    out = [(9 + 2 - 5) // 2 + 1] * rank
    model = models.build([node], shapes, {"y": [2, 6, *out]}, {})
    assert "SOFIE_SHARED(float, a," in text(model, tiled("float32"))
    assert error(model, tiled("float32")) < ERRORS["float32"]


def test_what_is_infinite_spoils_its_own_row_alone() -> None:
    """A lane that reads another row's words; an infinite number that is lost."""
    model = product([40], 32, 40)
    feeds = {name: np.abs(array) for name, array in drawn(model).items()}
    feeds["x"][3, 5] = np.inf
    with emulated():
        got = compile_model(model, tiled("tf32x3")).run(feeds)["y"]
    assert not np.isfinite(got[3]).any()
    assert np.isfinite(np.delete(got, 3, axis=0)).all()


def softmax(shape: Sequence[int], axis: int) -> onnx.ModelProto:
    """A softmax alone."""
    return models.build([helper.make_node("Softmax", ["x"], ["y"], axis=axis)], {"x": shape}, {"y": shape}, {})


@pytest.mark.parametrize(("shape", "width"), [((5, 77), "warp"), ((3, 1024), "warp"), ((2, 3000), "block")])
def test_rows_are_shared(shape: tuple[int, int], width: str) -> None:
    """A row whose last turn is not full; lanes that do not wait for each other."""
    options = Options(target="cuda", passes=f"{pipeline.GPU}{{cycles=0}}")
    assert f"detail::{width}_reduce" in text(softmax(shape, 1), options)
    assert error(softmax(shape, 1), options) < 1e-6


def test_rows_whose_elements_lie_apart_are_threads() -> None:
    """A warp that reads a column where 4096 threads would read rows."""
    assert "warp_reduce" not in text(softmax((64, 5000), 0), Options(target="cuda"))


def launches(model: Model) -> int:
    """How many kernels a call launches."""
    return len(model.program.calls)


def test_small_kernels_are_one() -> None:
    """A launch each for what a barrier would do, or one barrier too few."""
    model = models.mlp()
    feeds = models.feeds(model)
    want = ReferenceEvaluator(model).run(None, feeds)
    for without, several in (((), False), (("merge-launches",), True)):
        with emulated():
            made = compile_model(model, Options(target="cuda", without=without))
            got = made.run(feeds)
        assert (launches(made) > 1) == several
        for array, expected in zip(got.values(), want, strict=True):
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("left_out", [("map-tiles",), ("map-rows",), ("merge-launches", "map-rows", "map-tiles")])
def test_every_schedule_may_be_left_out(left_out: tuple[str, ...]) -> None:
    """A pass that others rely on."""
    model = product([200], 40, 200)
    assert error(model, Options(target="cuda", without=left_out)) < ERRORS["float32"]


def test_an_unknown_precision_is_named() -> None:
    """A word that is taken for float32."""
    with pytest.raises(sofie.SofieError, match="'fp8' is no precision; choose float32, tf32x3"):
        lower(product([40], 32, 40), "m", tiled("fp8"))


def net(rows: int | str, widths: Sequence[int], also: Sequence[int] = ()) -> onnx.ModelProto:
    """Gemm and Tanh for each width after the first; the results of the layers in `also` are outputs too."""
    nodes, shapes, outputs, before = [], {"x": [rows, widths[0]]}, {}, "x"
    for k, (terms, columns) in enumerate(zip(widths, widths[1:], strict=False)):
        shapes |= {f"w{k}": [terms, columns] if k % 2 else [columns, terms], f"b{k}": [columns]}
        nodes.append(helper.make_node("Gemm", [before, f"w{k}", f"b{k}"], [f"g{k}"], transB=int(k % 2 == 0)))
        nodes.append(helper.make_node("Tanh", [f"g{k}"], [before := f"t{k}"]))
        if k in also or k == len(widths) - 2:
            outputs[before] = [rows, columns]
    return models.build(nodes, shapes, dict(reversed(outputs.items())), {})


def layered(precision: str, **options: Any) -> Options:
    """Layers together from 16 rows on."""
    return Options(target="cuda", passes=f"{pipeline.GPU}{{precision={precision} rows=16}}", **options)


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize("widths", [(7, 40, 33, 1), (20, 200, 17), (3, 16, 16, 16, 2), (65, 1, 30)])
def test_layers_are_one_kernel(precision: str, widths: tuple[int, ...]) -> None:
    """A row that another block works on; words behind the last neuron that are not zero; a layer of one neuron."""
    model = net(150, widths)
    assert len(lower(model, "m", layered(precision)).calls) == 1
    assert error(model, layered(precision)) < len(widths) * ERRORS[precision]


def test_layers_of_a_batch_of_run_time_size() -> None:
    """Blocks for another number of rows; an arena for what no longer exists."""
    options = layered("float32", dims={"n": (1, 5000)})
    model = net("n", (12, 50, 60, 4))
    program = lower(model, "m", options)
    assert (len(program.calls), program.arena_bytes) == (1, 0)
    for rows in (1, 64, 130):
        assert error(model, options, {"n": rows}) < ERRORS["float32"]


def test_layers_that_others_read_are_not_hidden() -> None:
    """A result that stays in a block's memory although somebody asked for it."""
    model = net(100, (10, 20, 30, 40, 50), also=[1])
    feeds = drawn(model)
    with emulated():
        got = compile_model(model, layered("float32")).run(feeds)
    for (name, array), want in zip(got.items(), ReferenceEvaluator(model).run(None, feeds), strict=True):
        np.testing.assert_allclose(array, want, rtol=1e-4, atol=1e-5, err_msg=name)


def test_wide_layers_stay_apart() -> None:
    """More memory or registers than a block has."""
    assert len(lower(net(2000, (20, 300, 300, 10)), "m", layered("float32")).calls) > 1
