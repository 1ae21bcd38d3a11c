"""Hypothesis draws the model AND the pipeline: the compiled C++ must agree with the reference whatever is left out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, note, reject, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from sofie import interpreter, jit, pipeline
from sofie.compiler import Options, compile_model
from sofie.frontends.onnx import load
from sofie.target import native
from tests.numerics.graphs import models
from tests.numerics.levels import LEVELS

pytestmark = pytest.mark.usefixtures("needs_compiler")


def examples(count: int) -> settings:
    """Settings for slow examples; shrinking stops at the first bug."""
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        report_multiple_bugs=False,
    )


def random_inputs(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def truth(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The reference in float64 and in float32: how far apart they are says how well conditioned the graph is."""
    try:
        single = ReferenceEvaluator(model).run(None, feeds)
    except (
        IndexError,
        ValueError,
        TypeError,
    ):  # the reference fails on some valid poolings, and on Softsign of a scalar
        reject()
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for value in wide.graph.input:
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for weight in wide.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            weight.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float64), weight.name)
            )
    double = ReferenceEvaluator(wide).run(None, {k: v.astype(np.float64) for k, v in feeds.items()})
    return [np.asarray(d) for d in double], [np.asarray(s) for s in single]


def assert_close(got: np.ndarray, double: np.ndarray, single: np.ndarray, what: str) -> None:
    """As near to the float64 truth as the float32 reference, within a factor of 4 and some ULP of the largest value."""
    assert got.shape == double.shape, what
    if not double.size:
        return
    scale = np.abs(double).max()
    allowed = 4 * np.abs(single - double).max() + 64 * np.spacing(np.float32(max(scale, 1e-30)))
    worst = np.abs(got - double).max()
    assert worst <= allowed, f"{what}: error {worst} where the reference has {np.abs(single - double).max()}"


LEFT_OUT = st.lists(st.sampled_from(pipeline.optional_passes()), unique=True, max_size=5)
CPUS = st.sampled_from(["scalar", "portable", native().name])


@pytest.mark.parametrize("part", range(4))
def test_compiled_graph_agrees_with_the_reference(part: int) -> None:
    """A wrong lowering, fusion, destination, loop or printed expression."""

    @examples(120)
    @given(models(), LEFT_OUT, CPUS, st.integers(0, 3))
    def agrees(model: onnx.ModelProto, without: list[str], cpu: str, tile: int) -> None:
        note(onnx.printer.to_text(model))
        feeds = random_inputs(model)
        double, single = truth(model, feeds)
        passes = f"fuse,lower{{tile={tile}}}"
        compiled = compile_model(model, Options(without=without, cpu=cpu, passes=passes, verify_each=True))
        for name, got in compiled.run(feeds).items():
            index = [o.name for o in model.graph.output].index(name)
            assert_close(got, double[index], single[index], f"{name} on {cpu} without {without}")

    agrees()


def test_every_cpu_gives_the_bits_of_every_other_with_the_same_contraction() -> None:
    """An element whose value depends on the lane or the tile it was computed in."""

    @examples(25)
    @given(models(), st.integers(1, 6))
    def agrees(model: onnx.ModelProto, tile: int) -> None:
        feeds = random_inputs(model)
        flags = (*jit.FLAGS, "-ffp-contract=off")
        results = []
        for cpu in ("scalar", "portable"):
            program = compile_model(model, Options(cpu=cpu, passes=f"fuse,lower{{tile={tile}}}")).program
            results.append(jit.compile_program(program, flags).run([feeds[p.name] for p in program.inputs]))
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)

    agrees()


ELEMENTWISE = ("Relu", "Tanh", "Add", "Sub", "Mul", "Concat", "Transpose", "Slice", "Reshape", "Identity", "Pad")


def test_no_write_overtakes_a_read() -> None:
    """An op that overwrites a value, or a slice, that another still reads."""

    @examples(500)
    @given(models(ELEMENTWISE, most=10), LEFT_OUT)
    def agrees(model: onnx.ModelProto, without: list[str]) -> None:
        feeds = random_inputs(model)
        double, single = truth(model, feeds)
        module = load(model)
        pipeline.run(module, pipeline.parse("fuse,assign-destinations,bufferize,plan-memory", without))
        results = interpreter.run(module, list(feeds.values()))
        for got, wide, narrow in zip(results, double, single, strict=True):
            assert_close(got, wide, narrow, f"without {without}")

    agrees()


def test_every_level_means_what_the_model_means() -> None:
    """A pass that is only right together with what comes behind it."""

    @examples(500)
    @given(models(), LEFT_OUT, st.sampled_from(LEVELS))
    def agrees(model: onnx.ModelProto, without: list[str], spec: str) -> None:
        note(onnx.printer.to_text(model))
        feeds = random_inputs(model)
        double, single = truth(model, feeds)
        module = load(model)
        if spec:
            pipeline.run(module, pipeline.parse(spec, without))
        results = interpreter.run(module, list(feeds.values()))
        for name, got, wide, narrow in zip([o.name for o in model.graph.output], results, double, single, strict=True):
            assert_close(got, wide, narrow, f"{name} after {spec!r} without {without}")

    agrees()
