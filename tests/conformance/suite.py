"""ONNX's own backend suite as data: every test with its model, inputs, expected outputs and tolerances.

`python -m tests.conformance.suite` rewrites `passing.txt`: the list may only grow, so it refuses to drop a name. Then
`python tools/document.py` counts the lists into docs/operators.md.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from sofie.backend import SofieBackend
from sofie.reference import NONDETERMINISTIC

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
"""All kinds; the networks of "real" come with the package, their weights drawn by nodes."""

PASSING = Path(__file__).with_name("passing.txt")
FOLDED = Path(__file__).with_name("folded.txt")
FAILING = Path(__file__).with_name("failing.txt")
OPERATORS = Path(__file__).with_name("operators.txt")


def tests() -> dict[str, onnx.backend.test.case.test_case.TestCase]:
    """All tests by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for kind in KINDS for case in load_model_tests(kind=kind)}


def listed(path: Path) -> list[str]:
    """The names in a list, comments left out."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def operators() -> list[str]:
    """Each test of a single operator with that operator: what docs/operators.md counts; Constants do not count."""
    lines = []
    for name, case in tests().items():
        keys = {(node.domain, node.op_type) for node in _model(case).graph.node} - {("", "Constant")}
        if len(keys) == 1:
            ((domain, operator),) = keys
            lines.append(f"{name} {domain}.{operator}" if domain else f"{name} {operator}")
    return sorted(lines)


def _model(case: Any) -> onnx.ModelProto:
    if case.model is not None:
        return case.model
    return onnx.load(_light(case) if case.model_dir is None else Path(case.model_dir) / "model.onnx")


def _light(case: Any) -> Path:
    """The file of a network that comes with the package."""
    return Path(onnx.__file__).parents[1] / case.url


def _data(case: Any) -> Iterator[tuple[list[object], list[object]]]:
    if case.data_sets is not None:
        for sides in case.data_sets:
            inputs, outputs = ([_array(value) for value in side] for side in sides)
            yield inputs, outputs
        return
    if case.model_dir is None:
        yield _light_data(_light(case))
        return
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield tuple(
            [
                numpy_helper.to_array(onnx.load_tensor(folder / f"{kind}_{k}.pb"))
                for k in range(len(list(folder.glob(f"{kind}_*.pb"))))
            ]
            for kind in ("input", "output")
        )


def _light_data(path: Path) -> tuple[list[object], list[object]]:
    """What ONNX's runner feeds such a network, 0, 1 / n, 2 / n, .., and the output stored beside it."""
    graph = onnx.load(path).graph
    weights = {i.name for i in graph.initializer}
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input if v.name not in weights]
    inputs: list[object] = [(np.arange(np.prod(s)).reshape(s) / np.prod(s)).astype(np.float32) for s in shapes]
    return inputs, [numpy_helper.to_array(onnx.load_tensor(f"{path.with_suffix('')}_output_0.pb"))]


def _array(value: object) -> object:
    """A stored tensor as an array; the suite keeps those of types that numpy lacks as TensorProto."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def run(case: Any, **options: Any) -> int:
    """Runs one test and compares as ONNX's runner does; returns the kernels it ran. Raises on any failure.

    Results that were known when compiling count as no kernel, but for models without inputs. options: the compiler's.
    """
    rep = SofieBackend.prepare(_model(case), **options)
    for inputs, expected in _data(case):
        for got, want in zip(rep.run(inputs), expected, strict=True):
            want = np.asarray(want)
            assert got.dtype == want.dtype, f"{got.dtype} where {want.dtype} is expected"
            assert got.shape == want.shape, f"{got.shape} where {want.shape} is expected"
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.atol)
    program = rep.model.program
    return program.kernel_calls if program.computes else 0 if program.inputs else 1


@dataclass(frozen=True)
class Outcome:
    """What a test did: kernels it ran, or the sentence it failed with."""

    name: str
    kernels: int
    failure: str = ""


def outcome(case: Any) -> Outcome:
    """Runs one test and never raises."""
    try:
        return Outcome(case.name, run(case))
    except Exception as error:
        return Outcome(case.name, 0, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


REASONS = (
    ({"ImageDecoder"}, "decodes image files"),
    ({"Gradient"}, "asks for a gradient"),
    ({"StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch"}, "strings"),
    (NONDETERMINISTIC, "random numbers of another generator"),
)


def reason(case: Any, failure: str) -> str:
    """Why a test does not pass, in a few words: what it holds that is out of scope, else how it failed."""
    model = _model(case)
    text = onnx.printer.to_text(model)
    kinds = {value.type.WhichOneof("value") for value in (*model.graph.input, *model.graph.output)}
    operators = {node.op_type for node in model.graph.node}
    for which, why in REASONS:
        if operators & which:
            return why
    if kinds & {"sequence_type", "optional_type"} or any(o.startswith(("Sequence", "Optional")) for o in operators):
        return "sequences and optionals"
    if "string" in text.replace("StringTo", ""):
        return "strings"
    if operators & {"Attention", "FlexAttention"} or "_attention_" in case.name:
        return "stored results are rounded to 16 bits after each step of the reference"
    return NOTES.get(case.name, failure)


NOTES = {
    "test_dft_inverse": "the stored 1.9e-7 is a rounding of float32 where the exact result is 0",
    "test_dft_inverse_opset19": "the stored 1.9e-7 is a rounding of float32 where the exact result is 0",
    "test_scan_sum": "Scan 8 has a batch axis, which the version converter drops",
}
"""What is known of single tests."""


def main() -> int:
    """Runs everything, reports, and extends the lists; returns 1 where a listed test no longer passes."""
    warnings.simplefilter("ignore")
    cases = tests()
    with multiprocessing.Pool() as pool:
        outcomes = pool.map(outcome, cases.values(), chunksize=16)
    passing = {o.name for o in outcomes if not o.failure and o.kernels}
    folded = {o.name for o in outcomes if not o.failure and not o.kernels}
    if "--failures" in sys.argv:
        print("\n".join(f"{o.name}\t{o.failure}" for o in outcomes if o.failure))
    lost = [n for n in listed(PASSING) if n not in passing] if PASSING.exists() else []
    print(
        f"{len(passing)} of {len(cases)} pass, {len(folded)} more were computed when compiling; lost: {lost or 'none'}"
    )
    if lost:
        return 1
    for path, names, what in (
        (PASSING, passing, "Tests of onnx.backend.test that pass. The list only grows."),
        (FOLDED, folded, "Tests whose result was known when compiling: no kernel ran, so they are counted apart."),
    ):
        path.write_text(f"# {what}\n" + "\n".join(sorted(names)) + "\n")
    rest = [f"{o.name}: {reason(cases[o.name], o.failure)}" for o in outcomes if o.failure]
    FAILING.write_text("# All other tests, each with the reason.\n" + "\n".join(sorted(rest)) + "\n")
    write_operators()
    return 0


def write_operators() -> None:
    """Rewrites `operators.txt` for the onnx that is installed."""
    OPERATORS.write_text("# The tests of a single operator, with it.\n" + "\n".join(operators()) + "\n")


if __name__ == "__main__":
    sys.exit(main())
