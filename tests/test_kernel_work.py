"""Work of kernels that is counted too high or too low: a profile would then blame the wrong kernel."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from sofie.compiler import Options, lower
from sofie.emit.profile import kernel_calls
from sofie.info import info
from tests import models


def total(model, **options) -> tuple[int, int]:
    calls = kernel_calls(lower(model, "m", Options(**options)).variants[0])
    return sum(c.work.flops for c in calls), sum(c.work.bytes for c in calls)


def even() -> onnx.ModelProto:
    """7 -> 32 relu -> 16 softmax."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="dense_1"),
        helper.make_node("Relu", ["h"], ["r"], name="relu_1"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["z"], name="dense_2"),
        helper.make_node("Softmax", ["z"], ["y"], name="probabilities"),
    ]
    weights = {
        "w1": models.normal(7, 32),
        "b1": models.normal(32),
        "w2": models.normal(32, 16),
        "b2": models.normal(16),
    }
    return models.build(nodes, {"x": [3, 7]}, ["y"], weights)


@pytest.mark.parametrize("cpu", ["scalar", "portable", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("without", [(), ("vectorize",), ("fuse-epilogue", "fuse-elementwise")])
def test_kernels_do_what_the_operators_need(cpu, without):
    """Where vectors divide the rows, level 4 does what is counted at level 2: tiles split the work, no more."""
    flops, moved = total(even(), cpu=cpu, without=(*without, "split-reductions"))  # partial results start elsewhere
    report = info(even())
    assert flops == report.flops
    assert moved >= report.bytes_moved


def test_columns_that_are_computed_twice_count_twice():
    """The last vector of a row lies across the one before."""
    flops, _ = total(models.mlp(3), cpu="portable")
    assert info(models.mlp(3)).flops < flops


def test_a_size_that_the_run_tells_counts_at_its_largest():
    bounded, _ = total(models.mlp("batch"), dims={"batch": (1, 40)})
    fixed, _ = total(models.mlp(40))
    assert bounded == fixed


def test_a_table_of_which_few_rows_are_read_counts_those_rows():
    """Bytes of the whole table would make any kernel look as if it were slow because of them."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    table = models.normal(1000, 16)
    model = models.build(nodes, {"ids": [4]}, ["y"], {"table": table}, {"ids": onnx.TensorProto.INT64})
    _, moved = total(model)
    assert moved == 2 * 4 * 16 * 4 + 4 * 8  # rows read and written, and the ids


def test_each_call_names_its_nodes():
    calls = kernel_calls(lower(models.mlp(3), "m", Options()).variants[0])
    assert all(call.nodes for call in calls)


def test_a_floor_is_set_by_what_is_read_of_the_weights():
    """An embedding's whole table would make a floor that is slower than the model."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    kinds = {"ids": onnx.TensorProto.INT64}
    report = info(models.build(nodes, {"ids": [4]}, ["y"], {"table": models.normal(1000, 16)}, kinds))
    assert report.bytes_moved == 2 * 4 * 16 * 4 + 4 * 8
