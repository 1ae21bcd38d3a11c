"""The network of SOFIE's own talk, seven inputs and five layers of 200, and the programs around it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLUMNS = ("m_jj", "m_jjj", "m_lv", "m_jlv", "m_bb", "m_wbb", "m_wwbb")


def network(outputs: int = 1, seed: int = 0, batch: int | str = 1) -> onnx.ModelProto:
    """Seven inputs, five layers of 200 with Relu, `outputs` results by Sigmoid."""
    rng = np.random.default_rng(seed)
    nodes, weights, value, width = [], [], "features", len(COLUMNS)
    for layer, size in enumerate([200] * 5 + [outputs]):
        draw = rng.standard_normal((size, width)) * np.sqrt(2 / width)
        weights += [numpy_helper.from_array(draw.astype(np.float32), f"weight{layer}")]
        weights += [numpy_helper.from_array(rng.standard_normal(size).astype(np.float32) / 10, f"bias{layer}")]
        last = layer == 5
        nodes += [helper.make_node("Gemm", [value, f"weight{layer}", f"bias{layer}"], [f"sum{layer}"], transB=1)]
        value, width = "score" if last else f"hidden{layer}", size
        nodes += [helper.make_node("Sigmoid" if last else "Relu", [f"sum{layer}"], [value])]
    takes = helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, len(COLUMNS)])
    gives = helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch, outputs])
    graph = helper.make_graph(nodes, "higgs", [takes], [gives], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def two_headed() -> onnx.ModelProto:
    """Inputs of three and two numbers, of which one is an integer's; a result of one number and one of five."""
    values = [("a", TensorProto.FLOAT, 3), ("k", TensorProto.INT64, 2)]
    inputs = [helper.make_tensor_value_info(name, kind, ["batch", size]) for name, kind, size in values]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("sum", 1), ("all", 5))]
    nodes = [
        helper.make_node("Cast", ["k"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["a", "f"], ["all"], axis=1),
        helper.make_node("ReduceSum", ["all", "axis"], ["sum"]),
    ]
    axis = numpy_helper.from_array(np.array([1]), "axis")
    graph = helper.make_graph(nodes, "two", inputs, outputs, [axis])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def python(folder: Path, script: str, timeout: int = 240) -> str:
    """What a script prints, run in `folder` by a Python of its own: ROOT's state is the process'."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-W", "ignore", "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=timeout)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def against_root(source: str, program: str, flags: Sequence[str] = ("-O2",)) -> list[str]:
    """The command that compiles `source` to `program` with the ROOT of this Python.

    The libraries that ROOT itself needs lie in a folder beside it, which only the linker must be told.
    """
    import ROOT

    root = Path(ROOT.__file__).parent
    libraries = "ROOTDataFrame Core Hist RIO Tree TreePlayer MathCore ROOTVecOps Imt".split()
    return [
        *("g++", "-std=c++17", *flags, source, "-o", program, f"-I{root / 'include'}", f"-L{root / 'lib'}"),
        f"-Wl,-rpath,{root / 'lib'}",
        f"-Wl,-rpath-link,{root.parent / 'root.libs'}",
        *(f"-l{library}" for library in libraries),
    ]
