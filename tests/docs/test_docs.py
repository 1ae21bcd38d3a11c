"""The examples in docs/ are the ones that run here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import sofie
from sofie.passes import lower_onnx
from tools import document

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.S)


def one_node(operator: str) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [3, 9]) for n in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], name="n")], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def test_page_of_passes_is_generated_from_the_docstrings() -> None:
    """A docstring changed and the page did not."""
    assert document.PAGE.read_text() == document.page(), "run python tools/document.py"


def test_page_of_operators_is_generated_from_the_registry() -> None:
    """A lowering, a limit or a list of conformance tests changed and the page did not."""
    assert document.OPERATORS_PAGE.read_text() == document.operators_page(), "run python tools/document.py"


def test_table_of_keras_layers_is_generated_from_the_registry() -> None:
    """A layer, an option or an activation of the Keras front end changed and the page did not."""
    assert document.KERAS_PAGE.read_text() == document.keras_page(), "run python tools/document.py"
    assert "| LSTM | one node;" in document.keras_page()


@pytest.mark.usefixtures("needs_compiler")
def test_operator_of_the_page_is_lowered_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody follows docs/adding-an-operator.md word by word and fails."""
    source = blocks("adding-an-operator.md", "python")[0]
    header = (
        "from xdsl.ir import SSAValue\nfrom sofie.dialects.onnx import OnnxOp\n"
        "from sofie.passes.lower_onnx import lowers\n"
        "from sofie.passes.lower_onnx.builder import Lowering\nfrom sofie.passes.lower_onnx.scalars import Scalars\n"
    )
    monkeypatch.setattr(lower_onnx, "_RULES", dict(lower_onnx.rules()))
    monkeypatch.delitem(lower_onnx._RULES, ("", "Softsign"), raising=False)
    exec(compile(header + source, "adding-an-operator.md", "exec"), {})
    assert ("", "Softsign") in lower_onnx._RULES
    x = np.random.default_rng(1).standard_normal((3, 9)).astype(np.float32)
    model = one_node("Softsign")
    np.testing.assert_allclose(sofie.compile(model)(x), ReferenceEvaluator(model).run(None, {"x": x})[0], rtol=2e-7)


def test_pass_of_the_page_is_found_in_a_package_of_its_own(tmp_path: Path) -> None:
    """Somebody follows docs/adding-a-pass.md, out of tree, and sofie-opt does not know the pass."""
    code, universe = blocks("adding-a-pass.md", "python")
    (toml,) = blocks("adding-a-pass.md", "toml")
    entry = re.search(r"my-passes = \"(.*)\"", toml)
    assert entry is not None
    package = tmp_path / "my_passes"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "drop_identity.py").write_text(code)
    (package / "universe.py").write_text(universe)
    info = tmp_path / "my_passes-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-passes\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[xdsl.universe]\nmy-passes = {entry[1]}\n")
    onnx.save(one_node("Identity"), tmp_path / "m.onnx")
    arguments = ["-p", "drop-identity{limit=1}", str(tmp_path / "m.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from sofie.opt import main; sys.exit(main(sys.argv[1:]))", *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "func.return %x" in done.stdout
    assert "onnx.Identity" not in done.stdout
