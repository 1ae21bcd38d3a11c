"""Every level prints text that parses back to itself, and weights survive with their side file."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from sofie import pipeline
from sofie.dialects.onnx import op_classes
from sofie.dialects.sofie import WeightOp, active_weights
from sofie.errors import SofieError
from sofie.frontends.onnx import load
from sofie.weights import Blob, WeightStore
from tests import models
from tests.conformance import suite


def parsed(text: str) -> ModuleOp:
    return Parser(pipeline.context(), text).parse_module()


@pytest.mark.parametrize("name", models.ALL)
@pytest.mark.parametrize("spec", ["", "fuse", "fuse,lower"])
def test_text_round_trips_at_every_level(name: str, spec: str) -> None:
    module = load(models.ALL[name]())
    if spec:
        pipeline.run(module, pipeline.parse(spec))
    assert str(parsed(str(module))) == str(module)


def test_ops_of_the_whole_suite_round_trip() -> None:
    """An operator whose attributes or absent operands do not print or parse; the first test of each operator."""
    seen: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in suite.tests().values():
            model = suite._model(case)
            fresh = {n.op_type for n in model.graph.node} - seen
            if not fresh:
                continue
            try:
                module = load(model)
            except SofieError:
                continue
            seen |= fresh
            assert str(parsed(str(module))) == str(module), case.name
    assert len(seen) > 140


def test_dialect_has_every_live_operator() -> None:
    """An operator that somebody would have to add by hand."""
    main = [name for domain, name in op_classes() if not domain]
    assert len(main) >= 200
    assert {"Gemm", "Attention", "SwiGLU"} <= set(main)


def test_large_weights_come_back_from_the_side_file() -> None:
    array = models.normal(30, 40)
    text = str(ModuleOp([WeightOp.of("w", array)]))
    assert Blob.of(array).digest in text
    token = active_weights.set(WeightStore.of([Blob.of(array)]))
    try:
        (weight,) = parsed(text).body.block.ops
    finally:
        active_weights.reset(token)
    np.testing.assert_array_equal(weight.blob.value, array)


def test_missing_side_file_is_said_when_the_weights_are_needed() -> None:
    text = str(ModuleOp([WeightOp.of("w", models.normal(30, 40))]))
    (weight,) = parsed(text).body.block.ops
    with pytest.raises(SofieError, match="--weights FILE"):
        _ = weight.blob.value


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, 1e-45, 3.4028235e38, -0.0], np.float32),
        np.array([0.1, 5e-324, 1.7976931348623157e308]),
        np.array([np.nan, np.inf, -np.inf], np.float32),
        np.array([-128, 127], np.int8),
        np.array([0, 255], np.uint8),
        np.array([-(2**63), 2**63 - 1]),
        np.array([2**64 - 1], np.uint64),
        np.array([True, False]),
        np.array(3.0, np.float32),
        np.zeros((0, 3), np.float32),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_small_weights_print_exactly_or_by_digest(array: np.ndarray) -> None:
    """A value that loses bits on its way through text."""
    op = WeightOp.of("w", array)
    text = str(ModuleOp([op]))
    token = active_weights.set(WeightStore.of([op.blob]))
    try:
        (weight,) = parsed(text).body.block.ops
    finally:
        active_weights.reset(token)
    back = weight.blob.value
    assert back.tobytes() == array.tobytes()
    assert back.shape == array.shape
