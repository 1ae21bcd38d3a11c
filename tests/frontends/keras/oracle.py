"""Keras' own results, on PyTorch, and the two ways in which a translated model is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

os.environ.setdefault("KERAS_BACKEND", "torch")
FREE = {"length": 9, "height": 6, "width": 7, "depth": 5}
"""Sizes of dimensions that a model leaves open."""
NEAR = 4e-6
"""Of the largest number of an output: a few roundings of float32 along the depth of these small models."""


def randomise(model: Any, rng: np.random.Generator) -> None:
    """Numbers for all weights, so that none can be taken for another."""
    for weight in model.weights:
        name, shape = weight.path.rpartition("/")[2], tuple(weight.shape)
        if name == "count":
            continue
        low = rng.uniform(0.5, 2, shape) if "variance" in name else rng.standard_normal(shape) * 0.6
        weight.assign((low + (1.0 if name in ("gamma", "scale") else 0.0)).astype(np.float32))
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def inputs(model: Any) -> dict[str, Any]:
    """The inputs of a model by the names of their layers."""
    return {tensor._keras_history.operation.name: tensor for tensor in model.inputs}


def feeds(model: Any, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Arrays for the inputs: words for integers; steps that are all 0 where the name says so, one whole row of them."""
    arrays = {}
    for name, tensor in inputs(model).items():
        shape = [batch if k == 0 and s is None else 9 if s is None else s for k, s in enumerate(tensor.shape)]
        if len(shape) == 4 and tensor.shape[1] is None:
            shape[1:3] = [FREE["height"], FREE["width"]] if tensor.shape[2] is None else [FREE["height"], shape[2]]
        kind = str(tensor.dtype)
        if kind == "bool":
            array = rng.random(shape) < 0.6
            array[..., 0] = True
        elif kind.startswith("int") or name.startswith("index"):
            array = rng.integers(0, 9, shape).astype(kind)
            if name.startswith("words"):
                array *= rng.random(shape) < 0.6
        else:
            array = rng.standard_normal(shape).astype(np.float32)
        if name.startswith("steps"):
            array *= (rng.random(shape[:2]) < 0.6)[..., None]
            if batch > 2:
                array[1] = 0
        arrays[name] = array
    return arrays


def truth(model: Any, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What Keras makes of the arrays."""
    import keras

    several = arrays if isinstance(getattr(model, "_inputs_struct", None), dict) else list(arrays.values())
    results = model(several if len(arrays) > 1 else next(iter(arrays.values())))
    return [np.asarray(keras.ops.convert_to_numpy(r)) for r in keras.tree.flatten(results)]


def run(proto: onnx.ModelProto, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime makes of them."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: arrays[i.name] for i in session.get_inputs()})


def far(ours: np.ndarray, theirs: np.ndarray, near: float = NEAR) -> str:
    """How an output is wrong; "" where it is right."""
    if ours.shape != theirs.shape:
        return f"shape {ours.shape}, not {theirs.shape}"
    if ours.size == 0 or theirs.dtype == np.bool_:
        return "" if (ours == theirs).all() else "other booleans"
    if (np.isnan(ours) != np.isnan(theirs)).any():
        return "NaN in other places"
    ours, theirs = ours[~np.isnan(theirs)], theirs[~np.isnan(theirs)]
    error = np.abs(ours.astype(np.float64) - theirs).max()
    allowed = near * max(1.0, float(np.abs(theirs).max()))
    return "" if error <= allowed else f"error {error:.2g}, allowed {allowed:.2g}"


def saved(model: Any, folder: Path, name: str) -> list[Path]:
    """The model as .keras and, where Keras can write it, as .h5."""
    paths = [folder / f"{name}.keras"]
    model.save(paths[0])
    try:
        model.save(folder / f"{name}.h5")
        paths.append(folder / f"{name}.h5")
    except (TypeError, ValueError, NotImplementedError):  # two weights of one path, settings that are no JSON
        pass
    return paths


def together(protos: dict[str, onnx.ModelProto]) -> onnx.ModelProto:
    """Models side by side in one, their names before those of their values."""
    parts = [onnx.compose.add_prefix(proto, f"{name}.") for name, proto in protos.items()]
    graphs = [p.graph for p in parts]
    joined = helper.make_graph(
        [n for g in graphs for n in g.node],
        "together",
        [i for g in graphs for i in g.input],
        [o for g in graphs for o in g.output],
        [c for g in graphs for c in g.initializer],
    )
    return helper.make_model(joined, opset_imports=parts[0].opset_import, ir_version=parts[0].ir_version)
