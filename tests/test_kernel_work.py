"""Work of kernels that is counted too high or too low: a profile would then blame the wrong kernel."""

from __future__ import annotations

import pytest

from sofie.compiler import Options, lower
from sofie.emit.profile import kernel_calls
from sofie.info import info
from tests import models


def total(model, **options) -> tuple[int, int]:
    calls = kernel_calls(lower(model, "m", Options(**options)))
    return sum(c.work.flops for c in calls), sum(c.work.bytes for c in calls)


@pytest.mark.parametrize("cpu", ["scalar", "portable", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("without", [(), ("vectorize",), ("fuse-epilogue", "fuse-elementwise")])
def test_kernels_do_what_the_operators_need(cpu, without):
    """Tiles, lanes and tails split the work and do not add to it: counted at level 2 and at level 4 it is the same."""
    flops, moved = total(models.mlp(3), cpu=cpu, without=without)
    report = info(models.mlp(3))
    assert flops == report.flops
    assert moved >= report.bytes_moved


def test_a_size_that_the_run_tells_counts_at_its_largest():
    bounded, _ = total(models.mlp("batch"), dims={"batch": (1, 40)})
    fixed, _ = total(models.mlp(40))
    assert bounded == fixed


def test_a_table_of_which_few_rows_are_read_counts_those_rows():
    """Bytes of the whole table would make any kernel look as if it were slow because of them."""
    nodes = [models.onnx.helper.make_node("Gather", ["table", "ids"], ["y"])]
    table = models.normal(1000, 16)
    model = models.build(nodes, {"ids": [4]}, ["y"], {"table": table}, {"ids": models.onnx.TensorProto.INT64})
    _, moved = total(model)
    assert moved == 2 * 4 * 16 * 4 + 4 * 8  # rows read and written, and the ids


def test_each_call_names_its_nodes():
    calls = kernel_calls(lower(models.mlp(3), "m", Options()))
    assert all(call.nodes for call in calls)


def test_a_floor_is_set_by_what_is_read_of_the_weights():
    """An embedding's whole table would make a floor that is slower than the model."""
    nodes = [models.onnx.helper.make_node("Gather", ["table", "ids"], ["y"])]
    kinds = {"ids": models.onnx.TensorProto.INT64}
    report = info(models.build(nodes, {"ids": [4]}, ["y"], {"table": models.normal(1000, 16)}, kinds))
    assert report.bytes_moved == 2 * 4 * 16 * 4 + 4 * 8
