"""RNN, GRU and LSTM with everything their specification has, measured as `sofie check` measures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from sofie import interpreter, pipeline, verdict
from sofie.compiler import Options, compile_model
from sofie.errors import UnsupportedError
from sofie.frontends.onnx import load
from tests.numerics.levels import SPARE
from tests.numerics.recurrent import ACTIVATIONS, FUNCTIONS, Case, truth

OPERATORS = ("RNN", "GRU", "LSTM")
DIRECTIONS = ("forward", "reverse", "bidirectional")
STATES = {"RNN": ("initial_h",), "GRU": ("initial_h",), "LSTM": ("initial_h", "initial_c")}

compiled = pytest.mark.usefixtures("needs_compiler")


def by_runtime(case: Case, arrays: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """What ONNX Runtime computes; None for doubles, and where it takes 0 for a parameter that has another default.

    It has no layout 1: operands and results are turned around.
    """
    if case.dtype != "float32" or case.leans_on_defaults:
        return None
    if case.attributes.get("layout"):
        turned = {n: a.swapaxes(0, 1) if n in ("X", "initial_h", "initial_c") else a for n, a in arrays.items()}
        time_first = replace(case, attributes={k: v for k, v in case.attributes.items() if k != "layout"})
        results = by_runtime(time_first, turned)
        assert results is not None
        return [r.transpose(2, 0, 1, 3) if r.ndim == 4 else r.swapaxes(0, 1) for r in results]
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    model = case.model(arrays).SerializeToString()
    session = onnxruntime.InferenceSession(model, quiet, providers=["CPUExecutionProvider"])
    return session.run(None, {n: arrays[n] for n in arrays if n in ("X", *case.at_run_time)})


def assert_as_good_as_runtime(case: Case, arrays: dict[str, np.ndarray], results: list[np.ndarray]) -> None:
    """The rule of `sofie check`: FACTOR times ONNX Runtime's own error and SLACK units in the last place."""
    expected = [v for v, used in zip(truth(case, arrays), case.outputs, strict=False) if used]
    theirs = by_runtime(case, arrays)
    for k, (got, want) in enumerate(zip(results, expected, strict=True)):
        assert got.dtype == np.dtype(case.dtype)
        assert got.shape == want.shape
        yardstick, largest = 0.0 if theirs is None else verdict.distance(theirs[k], want), np.abs(want).max()
        assert yardstick <= 1e-5 * largest, f"ONNX Runtime computes something else: {yardstick}"
        unit = float(np.spacing(np.dtype(case.dtype).type(largest)))
        assert verdict.distance(got, want) <= verdict.FACTOR * yardstick + verdict.SLACK * unit


def run_compiled(case: Case, arrays: dict[str, np.ndarray], **options: object) -> list[np.ndarray]:
    model = compile_model(case.model(arrays), Options(**options))
    return list(model.run({n: arrays[n] for n in arrays if n in ("X", *case.at_run_time)}).values())


def sweep() -> dict[str, Case]:
    """One case a feature, and features together."""
    cases: dict[str, Case] = {}
    for operator in OPERATORS:
        extra = ("B", *STATES[operator], *(("P",) if operator == "LSTM" else ()))
        for direction in DIRECTIONS:
            own = {"direction": direction}
            base = Case(operator, attributes=own)
            cases[f"{operator} {direction}"] = base
            cases[f"{operator} {direction} with everything"] = replace(
                base, operands=extra, attributes={**own, "clip": 0.6}, lengths=(5, 2, 3)
            )
            cases[f"{operator} {direction} batch first"] = replace(
                base, operands=extra, attributes={**own, "layout": 1}
            )
            cases[f"{operator} {direction} all at run time"] = replace(
                base,
                operands=extra,
                at_run_time=("W", "R", *extra, "sequence_lens"),
                lengths=(1, 5, 4),
            )
        cases[f"{operator} without bias"] = Case(operator, operands=())
        cases[f"{operator} of one step and one sequence"] = Case(operator, steps=1, batch=1)
        cases[f"{operator} of one hidden unit"] = Case(operator, batch=1, hidden=1)
        cases[f"{operator} of many units"] = Case(operator, steps=4, batch=2, inputs=17, hidden=37)
        cases[f"{operator} in double precision"] = Case(operator, operands=extra, dtype="float64", lengths=(5, 2, 3))
        cases[f"{operator} with an empty sequence"] = Case(operator, lengths=(0, 5, 2))
        cases[f"{operator} with full lengths"] = Case(operator, lengths=(5, 5, 5))
        for outputs in ((True, False, False), (False, True, False), (False, False, True), (True, False, True)):
            if outputs[: 3 if operator == "LSTM" else 2] != (False, False):
                name = "".join("yn"[not used] for used in outputs)
                cases[f"{operator} with outputs {name}"] = Case(operator, outputs=outputs)
    for flag in (0, 1):
        for direction in DIRECTIONS:
            cases[f"GRU {direction} with linear_before_reset={flag}"] = Case(
                "GRU", attributes={"linear_before_reset": flag, "direction": direction, "clip": 0.8}
            )
    cases["GRU linear, no bias, batch first"] = Case(
        "GRU", operands=("initial_h",), attributes={"linear_before_reset": 1, "layout": 1}
    )
    cases["GRU linear, lengths at run time"] = Case(
        "GRU", attributes={"linear_before_reset": 1}, lengths=(3, 1, 5), at_run_time=("B", "sequence_lens")
    )
    cases["LSTM with coupled gates"] = Case("LSTM", attributes={"input_forget": 1}, operands=("B", "P"))
    for name, (count, _) in ACTIVATIONS.items():
        for operator in OPERATORS:
            names = [*FUNCTIONS[operator][:-1], name]  # gates that stay small: states do not grow
            cases[f"{operator} of {name}"] = Case(operator, attributes={"activations": names})
        own: dict[str, object] = {"activations": [name]}
        own |= {"activation_alpha": [0.3]} if count else {}
        own |= {"activation_beta": [0.7]} if count == 2 else {}
        cases[f"RNN of {name} with its parameters"] = Case("RNN", attributes=own)
    cases["LSTM, other functions and parameters in each direction"] = Case(
        "LSTM",
        attributes={
            "direction": "bidirectional",
            "activations": ["HardSigmoid", "Elu", "Tanh", "Sigmoid", "ScaledTanh", "Softsign"],
            "activation_alpha": [0.25, 0.5, 0.75],
            "activation_beta": [0.4, 0.9],
        },
    )
    return cases


CASES = sweep()


@compiled
@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str) -> None:
    """A gate, a state, a length, an activation or a layout that is not what the specification says."""
    arrays = CASES[name].arrays()
    assert_as_good_as_runtime(CASES[name], arrays, run_compiled(CASES[name], arrays))


SMALL = {"steps": 3, "batch": 2, "inputs": 2, "hidden": 4}
BOTH = {"direction": "bidirectional"}
SHAPES = {
    "RNN": Case("RNN", **SMALL, attributes=BOTH, lengths=(1, 3)),
    "GRU": Case("GRU", **SMALL, attributes=BOTH, lengths=(3, 2), at_run_time=("sequence_lens",)),
    "linear GRU": Case("GRU", **SMALL, attributes={**BOTH, "linear_before_reset": 1}),
    "LSTM": Case("LSTM", **SMALL, attributes=BOTH, operands=("B", "P", "initial_h", "initial_c"), lengths=(2, 3)),
    "LSTM batch first": Case("LSTM", **SMALL, attributes={**BOTH, "layout": 1}, at_run_time=("W", "R", "B")),
}


@pytest.mark.parametrize("spec", SPARE)
@pytest.mark.parametrize("name", SHAPES)
def test_every_level(name: str, spec: str) -> None:
    """A pass that breaks a loop: a carried buffer overwritten too early, a slice of the wrong step, a shared byte."""
    case = SHAPES[name]
    arrays = case.arrays()
    module = load(case.model(arrays))
    if not spec and (case.attributes.get("layout") or case.lengths):
        pytest.skip("onnx.reference, which level 1 is run by, has neither")
    if spec:
        pipeline.run(module, pipeline.parse(spec), verify_each=True)
    results = interpreter.run(module, [arrays[n] for n in arrays if n in ("X", *case.at_run_time)])
    for got, want in zip(results, truth(case, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_unknown_activation_names_the_node_and_what_there_is() -> None:
    """A misspelt activation that is silently taken for another."""
    case = Case("RNN", attributes={"activations": ["Gelu"]})
    with pytest.raises(UnsupportedError, match=r"'layer' \(RNN\).*'Gelu' is not known; use one of affine, elu"):
        pipeline.run(load(case.model(case.arrays())), pipeline.parse("fuse"))


def test_an_empty_sequence_hands_back_its_state() -> None:
    """A state that is lost where no step runs (ONNX Runtime gives 0 there)."""
    case = Case("GRU", lengths=(0, 5, 2), operands=("B", "initial_h"))
    arrays = case.arrays()
    module = load(case.model(arrays))
    pipeline.run(module, pipeline.parse("fuse"))
    y, last = interpreter.run(module, [arrays["X"]])
    np.testing.assert_array_equal(last[0, 0], arrays["initial_h"][0, 0])
    assert not y[:, :, 0].any()
