"""Variables of inputs: default for NaN, offset, scale, and names in the header."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import sofie
from sofie.errors import SofieError
from sofie.frontends.variables import read_variables, spelled
from tests import models
from tests.emit.programs import compile_and_run

NAMES = ["pt", "eta", "phi mod 2pi", "class", "e", "pt_2", "pt 2"]
RULES = {
    "inputs": [
        {
            "name": "x",
            "variables": [{"name": name, "offset": k - 2.5, "scale": 0.5 + k} for k, name in enumerate(NAMES)],
            "defaults": {"eta": 0.25, "e": -3},
        }
    ]
}


def expected(x: np.ndarray) -> np.ndarray:
    """The model on prepared variables, by numpy and ONNX Runtime."""
    prepared = np.array(x)
    for k, default in ((1, 0.25), (4, -3)):
        prepared[np.isnan(x[:, k]), k] = default
    prepared = ((prepared + (np.arange(7, dtype=np.float32) - 2.5)) * (np.arange(7) + 0.5)).astype(np.float32)
    session = onnxruntime.InferenceSession(models.mlp("batch").SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": prepared})[0]


@pytest.mark.usefixtures("needs_compiler")
def test_variables_are_prepared_as_lwtnn_does() -> None:
    """A scale before the offset, a default after them, or one in the wrong place."""
    x = np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
    x[1, 1] = x[2, 4] = np.nan
    model = sofie.compile(models.mlp("batch"), dims={"batch": (1, 8)}, variables=json.dumps(RULES))
    np.testing.assert_allclose(model(x), expected(x), rtol=2e-5, atol=1e-7)
    x[3, 0] = np.nan  # no default
    assert np.isnan(model(x)[3]).all() and not np.isnan(model(x)[[0, 1, 2, 4, 5]]).any()


@pytest.mark.usefixtures("needs_compiler")
def test_an_inner_graph_reads_what_was_prepared() -> None:
    """A branch that reads the raw input of the graph around it."""
    branch = [
        helper.make_graph(
            [helper.make_node(operator, ["x"], [f"y{k}"])],
            f"branch{k}",
            [],
            [helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, [1, 2])],
        )
        for k, operator in enumerate(("Identity", "Neg"))
    ]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])
    inputs = [helper.make_tensor_value_info(n, k, s) for n, k, s in (("c", 9, []), ("x", 1, [1, 2]))]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 1, [1, 2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rules = {"inputs": [{"name": "x", "variables": [{"name": "a", "offset": 1}, {"name": "b", "scale": 3}]}]}
    compiled = sofie.compile(model, variables=json.dumps(rules))
    x = np.array([[1, 2]], np.float32)
    np.testing.assert_array_equal(compiled(np.array(True), x), [[2, 6]])
    np.testing.assert_array_equal(compiled(np.array(False), x), [[-2, -6]])


@pytest.mark.usefixtures("needs_compiler")
def test_the_header_has_a_struct_of_them(tmp_path: Path) -> None:
    """Members in another order than the variables, names that clash, or a member not set that is 0."""
    (tmp_path / "variables.json").write_text(json.dumps(RULES))
    sofie.generate(
        models.mlp("batch"), tmp_path, name="net", dims={"batch": (1, 4)}, variables=tmp_path / "variables.json"
    )
    main = """#include "net.hxx"
#include <cstdio>

int main()
{
   SOFIE_net::Session session;
   SOFIE_net::Variables event;
   event.pt = 1.f;
   event.phi_mod_2pi = 3.f;
   event.class_ = 4.f;
   event.pt_2 = 6.f;
   event.pt_2_1 = 7.f;
   for (const float y : session.infer(event))
      std::printf("%.9g\\n", static_cast<double>(y));
}
"""
    printed = compile_and_run(tmp_path, main)
    x = np.array([[1, np.nan, 3, 4, np.nan, 6, 7]], np.float32)
    np.testing.assert_allclose(np.array(printed.split(), float), expected(x)[0], rtol=2e-5, atol=1e-7)


def test_rules_survive_the_header() -> None:
    """A retrained model that is prepared in another way."""
    rules = read_variables(json.dumps(RULES))
    assert read_variables(spelled(rules)) == rules


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ("none.json", "cannot be read: No such file"),
        ("{", "the variables are no JSON"),
        ("{}", 'not written as {"inputs"'),
        ('{"inputs": [{"name": "x", "variables": [{"name": "a", "offset": "far"}]}]}', "could not convert"),
        ('{"inputs": [{"name": "x", "variables": [{"name": "a", "scale": 1e999}]}]}', "must be finite"),
        ('{"inputs": [{"name": "x", "variables": [{"name": "a"}, {"name": "a"}]}]}', "two variables 'a'"),
        ('{"inputs": [{"name": "x", "variables": [], "defaults": {"b": 1}}]}', "no variable of it"),
        ('{"inputs": [{"name": "z", "variables": []}]}', "the model's inputs are x"),
        ('{"inputs": [{"name": "x", "variables": [{"name": "a"}]}]}', "has 1 variables, and 7 places"),
    ],
)
def test_wrong_rules_are_one_sentence(rules: str, sentence: str) -> None:
    """A traceback, or a rule that is taken for another variable."""
    with pytest.raises(SofieError, match=".") as raised:
        sofie.compile(models.mlp(1), variables=rules)
    assert sentence in str(raised.value)


def test_integers_and_old_models_have_no_variables() -> None:
    """An offset that is added to an index, or nodes that the model's opset does not have."""
    rules = '{"inputs": [{"name": "x", "variables": [{"name": "a", "offset": 1}]}]}'
    inputs = helper.make_tensor_value_info("x", TensorProto.INT64, [1, 1])
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])], "g", [inputs], [helper.make_tensor_value_info("y", 7, [1, 1])]
    )
    integers = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(SofieError, match="not float or double"):
        sofie.compile(integers, variables=rules)
    old = onnx.ModelProto()
    old.CopyFrom(integers)
    old.opset_import[0].version = 8
    with pytest.raises(SofieError, match="opset 9 or later"):
        sofie.compile(old, variables=rules)
