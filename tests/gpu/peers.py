"""FOLDER PEER MODELS: times PyTorch or ONNX Runtime on the card, a line of JSON a model; runs alone, without SOFIE.

The graphs are `FOLDER/<model>.graph.json`. Weights and inputs are drawn here: only the time is taken. All use full
float32, several sets of inputs that lie on the card, and the median of several rounds.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

SETS, ROUNDS, SECONDS = 4, 9, 0.02
MOST_CALLS = 20000

Graph = dict[str, Any]
Node = Mapping[str, Any]
Act = Callable[[], object]


def drawn(random: Any, about: Mapping[str, Any]) -> Any:
    """A numpy array like a constant or an input of the graph."""
    if "values" in about:
        import numpy

        return numpy.array(about["values"], about["dtype"]).reshape(about["shape"])
    if not about["dtype"].startswith("float"):
        return random.integers(0, 64, about["shape"]).astype(about["dtype"])
    values = random.standard_normal(about["shape"]) * about.get("deviation", 1) + about.get("mean", 0)
    return (
        values.clip(about.get("low"), about.get("high")).astype(about["dtype"])
        if "low" in about
        else values.astype(about["dtype"])
    )


def us_of(acts: Sequence[Act], wait: Act) -> float:
    """Microseconds of a call of these, in turn, one behind the other; the clock is the host's, behind a wait."""
    for act in acts:
        act()
    wait()
    start = time.perf_counter()
    for act in acts:
        act()
    wait()
    calls = int(min(max(SECONDS / (time.perf_counter() - start) * len(acts), len(acts)), MOST_CALLS))
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for k in range(calls):
            acts[k % len(acts)]()
        wait()
        rounds.append((time.perf_counter() - start) / calls * 1e6)
    return median(rounds)


# -- PyTorch -----------------------------------------------------------------------------------------------------------


class Unknown(Exception):
    """An operator that has no rule here."""


def rules() -> dict[str, Callable[..., Any]]:
    """What an operator means in PyTorch: (inputs, attributes, constants of the inputs as lists) to the result."""
    import torch
    from torch.nn import functional

    def pads(attributes: Node, rank: int) -> list[int]:
        given = attributes.get("pads", [0] * 2 * rank)
        if given[:rank] != given[rank:]:
            raise Unknown("padding of two widths")
        return list(given[:rank])

    def gemm(x: Sequence[Any], a: Node, _: Any) -> Any:
        if a.get("transA") or a.get("alpha", 1) != 1 or a.get("beta", 1) != 1:
            raise Unknown("Gemm with factors")
        return functional.linear(x[0], x[1] if a.get("transB") else x[1].t(), x[2])

    def convolution(x: Sequence[Any], a: Node, _: Any) -> Any:
        rank = x[1].dim() - 2
        low, high = a.get("pads", [0] * 2 * rank)[:rank], a.get("pads", [0] * 2 * rank)[rank:]
        if low != high:
            ends = [end for pair in zip(reversed(low), reversed(high), strict=True) for end in pair]
            x, a = [functional.pad(x[0], ends), *x[1:]], {**a, "pads": [0] * 2 * rank}
        act = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
        strides, dilations = a.get("strides", [1] * rank), a.get("dilations", [1] * rank)
        return act(x[0], x[1], x[2] if len(x) > 2 else None, strides, pads(a, rank), dilations, a.get("group", 1))

    def transposed(x: Sequence[Any], a: Node, _: Any) -> Any:
        rank = x[1].dim() - 2
        act = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
        if "output_shape" in a or a.get("auto_pad", "NOTSET") != "NOTSET":
            raise Unknown("ConvTranspose to a shape")
        bias, more = x[2] if len(x) > 2 else None, a.get("output_padding", [0] * rank)
        strides, dilations = a.get("strides", [1] * rank), a.get("dilations", [1] * rank)
        return act(x[0], x[1], bias, strides, pads(a, rank), more, a.get("group", 1), dilations)

    def pool(name: str) -> Callable[..., Any]:
        def act(x: Sequence[Any], a: Node, _: Any) -> Any:
            rank = x[0].dim() - 2
            if a.get("ceil_mode") or set(a.get("dilations", [1])) != {1}:
                raise Unknown("a pooling with holes")
            more = {"count_include_pad": bool(a.get("count_include_pad"))} if name == "avg" else {}
            found = getattr(functional, f"{name}_pool{rank}d")
            return found(x[0], a["kernel_shape"], a.get("strides", [1] * rank), pads(a, rank), **more)

        return act

    def normalised(x: Sequence[Any], a: Node, _: Any) -> Any:
        return functional.batch_norm(x[0], x[3], x[4], x[1], x[2], False, 0, a.get("epsilon", 1e-5))

    def layer(x: Sequence[Any], a: Node, _: Any) -> Any:
        return functional.layer_norm(x[0], list(x[1].shape), x[1], x[2] if len(x) > 2 else None, a.get("epsilon", 1e-5))

    def reshaped(x: Sequence[Any], _: Node, known: Any) -> Any:
        return x[0].reshape([x[0].shape[k] if extent == 0 else extent for k, extent in enumerate(known[1])])

    def reduced(name: str) -> Callable[..., Any]:
        def act(x: Sequence[Any], a: Node, known: Any) -> Any:
            axes = known[1] if len(x) > 1 else a["axes"]
            return getattr(torch, name)(x[0], list(axes), keepdim=bool(a.get("keepdims", 1)))

        return act

    def gathered(x: Sequence[Any], a: Node, _: Any) -> Any:
        axis = a.get("axis", 0) % x[0].dim()
        shape = [*x[0].shape[:axis], *x[1].shape, *x[0].shape[axis + 1 :]]
        return torch.index_select(x[0], axis, x[1].reshape(-1)).reshape(shape)

    def unsqueezed(x: Sequence[Any], _: Node, known: Any) -> Any:
        for axis in sorted(known[1]):
            x = [x[0].unsqueeze(axis)]
        return x[0]

    def clipped(x: Sequence[Any], _: Node, known: Any) -> Any:
        low, high = (known[k][0] if k < len(x) and known[k] else None for k in (1, 2))
        return torch.clamp(x[0], low, high)

    def elementwise(act: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, a, known: act(*x)

    return {
        **{name: elementwise(getattr(torch, name.lower())) for name in ("Add", "Sub", "Mul", "Div", "Pow")},
        **{name: elementwise(getattr(torch, name.lower())) for name in ("Relu", "Sigmoid", "Tanh", "Erf", "MatMul")},
        "LeakyRelu": lambda x, a, _: functional.leaky_relu(x[0], a.get("alpha", 0.01)),
        "Clip": clipped,
        "Softmax": lambda x, a, _: torch.softmax(x[0], a.get("axis", -1)),
        "LayerNormalization": layer,
        "BatchNormalization": normalised,
        "Gemm": gemm,
        "Conv": convolution,
        "ConvTranspose": transposed,
        "MaxPool": pool("max"),
        "AveragePool": pool("avg"),
        "GlobalAveragePool": lambda x, a, _: x[0].mean(list(range(2, x[0].dim())), keepdim=True),
        "ReduceMean": reduced("mean"),
        "ReduceSum": reduced("sum"),
        "Flatten": lambda x, a, _: torch.flatten(x[0], a.get("axis", 1)),
        "Reshape": reshaped,
        "Transpose": lambda x, a, _: x[0].permute(a["perm"]),
        "Concat": lambda x, a, _: torch.cat(list(x), a["axis"]),
        "Expand": lambda x, a, known: x[0].expand(torch.broadcast_shapes(x[0].shape, tuple(known[1]))),
        "Unsqueeze": unsqueezed,
        "Gather": gathered,
    }


def as_function(graph: Graph, constants: Mapping[str, Any]) -> Callable[..., list[Any]]:
    """The graph as a function of its inputs; constants: tensors by name. Raises Unknown."""
    known_rules = rules()
    if missing := sorted({node["op"] for node in graph["nodes"]} - known_rules.keys()):
        raise Unknown(f"no rule for {', '.join(missing)}")
    known = {about["name"]: about["values"] for about in graph["constants"] if "values" in about}
    names = [about["name"] for about in graph["inputs"]]
    results = [about["name"] for about in graph["outputs"]]

    def run(*inputs: Any) -> list[Any]:
        values = {**constants, **dict(zip(names, inputs, strict=True))}
        for node in graph["nodes"]:
            given = [values.get(name) for name in node["inputs"]]
            told = [known.get(name) for name in node["inputs"]]
            values[node["outputs"][0]] = known_rules[node["op"]](given, node["attributes"], told)
        return [values[name] for name in results]

    return run


def torch_us(graph: Graph, peer: str) -> float:
    """PyTorch as it is, as a CUDA graph for each set of inputs, or compiled and then such graphs."""
    import numpy
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    random = numpy.random.default_rng(0)

    def there(about: Mapping[str, Any]) -> Any:
        return torch.from_numpy(numpy.ascontiguousarray(drawn(random, about))).cuda()

    function = as_function(graph, {about["name"]: there(about) for about in graph["constants"]})
    sets = [[there(about) for about in graph["inputs"]] for _ in range(SETS)]
    if peer == "torch-compile":
        torch._dynamo.reset()
        function = torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)
    with torch.inference_mode():
        if peer == "torch":
            return us_of([partial(function, *s) for s in sets], torch.cuda.synchronize)
        kept, graphs = [], []
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                function(*sets[0])
            stream.synchronize()
        for given in sets:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                kept.append(function(*given))
            graphs.append(captured)
        return us_of([captured.replay for captured in graphs], torch.cuda.synchronize)


# -- ONNX Runtime ------------------------------------------------------------------------------------------------------


def as_model(graph: Graph, constants: Mapping[str, Any]) -> bytes:
    """The graph as an ONNX file again."""
    from onnx import helper, numpy_helper

    def value(about: Mapping[str, Any]) -> Any:
        return helper.make_tensor_value_info(
            about["name"], helper.np_dtype_to_tensor_dtype(_dtype(about)), about["shape"]
        )

    nodes = [helper.make_node(n["op"], n["inputs"], n["outputs"], **n["attributes"]) for n in graph["nodes"]]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "peer", [*map(value, graph["inputs"])], [*map(value, graph["outputs"])], weights)
    opsets = [helper.make_opsetid("", graph["opset"])]
    content: bytes = helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()
    return content


def _dtype(about: Mapping[str, Any]) -> Any:
    import numpy

    return numpy.dtype(about["dtype"])


def onnxruntime_us(graph: Graph, provider: str = "CUDAExecutionProvider", device: str = "cuda") -> float:
    """ONNX Runtime with inputs and outputs on the card; a call waits for the card."""
    import numpy
    import onnxruntime

    random = numpy.random.default_rng(0)
    model = as_model(graph, {about["name"]: drawn(random, about) for about in graph["constants"]})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    told = [(provider, {"use_tf32": "0"})] if device == "cuda" else [provider]
    session = onnxruntime.InferenceSession(model, options, providers=told)
    if provider not in session.get_providers():
        raise Unknown(f"{provider} does not start")
    bindings = []
    for _ in range(SETS):
        binding = session.io_binding()
        for about in graph["inputs"]:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(drawn(random, about), device, 0)
            binding.bind_ortvalue_input(about["name"], value)
        for about in graph["outputs"]:
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(about["shape"], _dtype(about), device, 0)
            binding.bind_ortvalue_output(about["name"], value)
        bindings.append(binding)
    acts = [partial(session.run_with_iobinding, b) for b in bindings]
    return us_of(acts, bindings[0].synchronize_outputs)


# -- all ---------------------------------------------------------------------------------------------------------------


def absent(peer: str) -> str:
    """Why a peer cannot run here; empty where it can."""
    try:
        importlib.import_module("numpy")

        if peer == "onnxruntime":
            importlib.import_module("onnx")
            import onnxruntime

            there = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
            return "" if there else "this ONNX Runtime has no CUDAExecutionProvider"
        import torch

        return "" if torch.cuda.is_available() else "this PyTorch sees no card"
    except ImportError as error:
        return f"{error.name or 'a module'} is not installed"


def main(folder: Path, peer: str, models: Sequence[str]) -> None:
    """Times the models; one that does not run says why, and the others go on."""
    if why := absent(peer):
        print(json.dumps({"absent": why}))
        return
    graphs = {model: json.loads((folder / f"{model}.graph.json").read_text()) for model in models}
    for model, graph in sorted(graphs.items(), key=lambda item: len(item[1]["nodes"])):  # the time may not do for all
        try:
            us = onnxruntime_us(graph) if peer == "onnxruntime" else torch_us(graph, peer)
            print(json.dumps({"model": model, "us": us}), flush=True)
        except Exception as error:  # whatever a library raises: it has no time for this model then
            said = str(error).strip().split("\n")[0]
            print(json.dumps({"model": model, "failed": f"{type(error).__name__}: {said}"}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(","))
