"""Models of PyTorch against PyTorch: layers, graph networks, files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import sofie
from sofie.errors import SofieError

NEEDS = "needs pip install '.[test-torch]'"
torch = pytest.importorskip("torch", reason=NEEDS)
for library in ("onnxscript", "torch_geometric"):
    pytest.importorskip(library, reason=NEEDS)
graphs = pytest.importorskip("tests.frontends.torch.graphs", reason=NEEDS)
modules = pytest.importorskip("tests.frontends.torch.modules", reason=NEEDS)

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("needs_compiler")]


def results(module: Any, inputs: tuple[Any, ...]) -> list[np.ndarray]:
    """What PyTorch says."""
    with torch.no_grad():
        made = module.eval()(*inputs)
    return [t.numpy() for t in (made if isinstance(made, tuple) else (made,))]


def arrays(inputs: tuple[Any, ...]) -> list[np.ndarray]:
    return [t.numpy() for t in inputs]


def compare(model: Any, module: Any, inputs: tuple[Any, ...]) -> None:
    """A compiled model gives what the module gives: float32 in another order of additions."""
    got = model(*arrays(inputs))
    wanted = results(module, inputs)
    for one, want in zip(got if isinstance(got, tuple) else (got,), wanted, strict=True):
        assert one.shape == want.shape
        np.testing.assert_allclose(one, want, rtol=1e-5, atol=4e-6 * max(1e-30, float(np.abs(want).max())))


@pytest.mark.parametrize("name", modules.CASES)
def test_layers_at_any_batch(name: str) -> None:
    """A layer that is exported in another form than PyTorch's, or only for the batch of the example."""
    torch.manual_seed(0)
    module, inputs = modules.CASES[name]()
    module.train()  # what is exported is the module as it is used
    proto = sofie.from_torch(module, inputs)
    assert module.training
    model = sofie.compile(proto, dims={"batch": (1, 8)})
    for batch in (3, 1, 8):
        again = tuple(x[torch.arange(batch) % 3] for x in inputs)
        compare(model, module, again)


@pytest.mark.parametrize("name", graphs.CASES)
def test_graph_networks_of_any_size(name: str) -> None:
    """Nodes or edges that are fixed, messages that are added up in the wrong place, or read beyond what there is."""
    torch.manual_seed(0)
    module = graphs.CASES[name]()
    dim = torch.export.Dim
    example = torch.randn(20, graphs.FEATURES), torch.randint(0, 20, (2, 60))
    proto = sofie.from_torch(module, example, dynamic_shapes=({0: dim("nodes")}, {1: dim("edges")}))
    model = sofie.compile(proto, dims={"nodes": (1, 128), "edges": (1, 512)})
    for nodes, edges in ((20, 60), (1, 1), (128, 512), (33, 100), (50, 3)):
        compare(model, module, (torch.randn(nodes, graphs.FEATURES), torch.randint(0, nodes, (2, edges))))


def test_neighbours_are_found_in_the_graph() -> None:
    """Neighbours in another order than PyTorch's, or a k that only holds for one number of nodes."""
    torch.manual_seed(0)
    module = graphs.Neighbours()
    proto = sofie.from_torch(module, torch.randn(20, 5), dynamic_shapes=({0: torch.export.Dim("nodes", min=6)},))
    model = sofie.compile(proto, dims={"nodes": (6, 128)})
    for nodes in (20, 6, 128, 57):
        compare(model, module, (torch.randn(nodes, 5),))


def test_several_graphs_in_one_call() -> None:
    """A mean over the nodes of all graphs."""
    torch.manual_seed(0)
    module, dim = graphs.Pooled(), torch.export.Dim
    nodes = dim("nodes")
    example = torch.randn(20, 5), torch.randint(0, 20, (2, 60)), torch.arange(20) % 3
    proto = sofie.from_torch(module, example, dynamic_shapes=({0: nodes}, {1: dim("edges")}, {0: nodes}))
    model = sofie.compile(proto, dims={"nodes": (1, 64), "edges": (1, 256)})
    compare(model, module, example)
    compare(model, module, (torch.randn(64, 5), torch.randint(0, 64, (2, 9)), torch.arange(64) // 22))


def dense() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(7, 20), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(20, 2))


def test_exported_programs_and_scripts_are_read_from_files(tmp_path: Path) -> None:
    """A file that the command line does not take, or whose batch has a name that nobody can know."""
    module = dense().eval()
    inputs = (torch.randn(3, 7),)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=dynamic), tmp_path / "program.pt2")
    torch.jit.save(torch.jit.script(module), tmp_path / "script.pt")
    torch.jit.save(torch.jit.trace(module, inputs), tmp_path / "trace.pt")
    compare(sofie.compile(tmp_path / "program.pt2", dims={"batch": (1, 8)}), module, inputs)
    for name in ("script.pt", "trace.pt"):
        proto = sofie.from_torch(tmp_path / name, torch.ones(1, 7))
        compare(sofie.compile(proto, dims={"batch": (1, 8)}), module, inputs)
    command = [sys.executable, "-c", "from sofie.cli import main; main()", "compile", "-o", "out", "--dim", "batch=1"]
    for extra in (["program.pt2"], ["script.pt", "--input", "1x7"], ["trace.pt", "--input", "float32:1x7"]):
        subprocess.run([*command, *extra], cwd=tmp_path, check=True, capture_output=True)
    assert {p.name for p in (tmp_path / "out").glob("*.hxx")} == {"program.hxx", "script.hxx", "trace.hxx"}


def test_names_of_inputs_and_outputs_may_be_given() -> None:
    """Names that the header has are PyTorch's."""
    for module in (dense(), torch.jit.script(dense())):
        proto = sofie.from_torch(module, torch.ones(1, 7), input_names=["features"], output_names=["scores"])
        assert proto.graph.input[0].name == "features" and proto.graph.output[0].name == "scores"


def test_no_free_dimension_where_none_is_wanted() -> None:
    """A batch that is free though the caller said otherwise."""
    proto = sofie.from_torch(dense(), torch.ones(4, 7), dynamic_shapes={})
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [4, 7]


def test_what_cannot_be_exported_is_one_sentence(tmp_path: Path) -> None:
    """A page of advice, a pickle that is executed, or a file that is not there."""
    torch.save(dense(), tmp_path / "pickled.pt")
    torch.jit.save(torch.jit.script(dense()), tmp_path / "script.pt")

    class Branches(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return [x] * int(x.sum().item())

    cases: list[tuple[Any, Any, str]] = [
        (tmp_path / "pickled.pt", torch.ones(1, 7), "pickled modules and state dictionaries are not read"),
        (tmp_path / "none.pt2", None, "there is no file"),
        (dense(), None, "give example_inputs"),
        (3, None, "from_torch takes a module"),
        (Branches(), torch.ones(2, 2), "PyTorch cannot export the model"),
    ]
    for model, inputs, sentence in cases:
        with pytest.raises(SofieError, match=".") as raised:
            sofie.from_torch(model, inputs)
        assert sentence in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(SofieError, match="give them with --input 1x7"):
        sofie.compile(tmp_path / "script.pt")


def test_the_model_is_valid_onnx() -> None:
    """A model that only this compiler takes."""
    onnx.checker.check_model(sofie.from_torch(dense(), torch.ones(2, 7)), full_check=True)
