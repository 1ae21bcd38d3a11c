"""Lanes of one type in the registers of another."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from sofie.compiler import Options, compile_model, lower
from sofie.target import runs_here
from tests import models

pytestmark = pytest.mark.usefixtures("needs_compiler")


@pytest.mark.parametrize("cpu", [cpu for cpu in runs_here() if cpu != "scalar"])
def test_doubles_that_lie_apart_are_stored_one_by_one(cpu: str) -> None:
    """A pair of vectors that has no lanes of its own: hypothesis found it in the sums of a spectrum."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["wide", "wide"], ["square"]),
        helper.make_node("Transpose", ["square"], ["y"], perm=[1, 0]),
    ]
    model = models.build(nodes, {"x": [3, 40]}, ["y"], {}, {"y": TensorProto.DOUBLE})
    assert "[lane]" in lower(model, "m", Options(cpu=cpu)).header()
    x = models.normal(3, 40)
    (got,) = compile_model(model, Options(cpu=cpu)).run({"x": x}).values()
    np.testing.assert_array_equal(got, (x.astype(np.float64) ** 2).T)
