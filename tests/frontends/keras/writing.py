"""Files as each Keras writes them, from configuration and arrays: h5py, json and zipfile, without Keras."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import onnxruntime

Arrays = Mapping[str, Sequence[tuple[str, np.ndarray]]]


def h5(path: Path, config: Any, weights: Arrays, version: str = "2.4.3", chunked: bool = False) -> Path:
    """A .h5: a group a layer with the list of its weights; `chunked` writes that list in two attributes."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config) if not isinstance(config, bytes | str) else config
        file.attrs["keras_version"] = version
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for layer, arrays in weights.items():
            inner = group.create_group(layer)
            names = [name.encode() for name, _ in arrays]
            if chunked:
                inner.attrs["weight_names0"], inner.attrs["weight_names1"] = names[:1], names[1:]
            else:
                inner.attrs["weight_names"] = names
            for name, array in arrays:
                inner.create_dataset(name, data=array)
    return path


def archive(path: Path, config: Any, weights: Mapping[str, np.ndarray], **more: bytes) -> Path:
    """A .keras: a zip of config.json, metadata.json and model.weights.h5 with arrays by their paths."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in weights.items():
            file.create_dataset(name, data=array)
    parts = {"config.json": json.dumps(config).encode(), "metadata.json": b'{"keras_version": "3.15.1"}'}
    parts |= {"model.weights.h5": content.getvalue()} | more
    with zipfile.ZipFile(path, "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)
    return path


def new(kind: str, name: str, calls: Sequence[Any] = (), **config: Any) -> dict[str, Any]:
    """A layer as Keras 3 describes it; `calls` are lists of arguments."""
    module = "keras.src.models.functional" if kind == "Functional" else "keras.layers"
    nodes = [{"args": list(args), "kwargs": {}} for args in calls]
    settings = {"name": name, "trainable": True, **config}
    return {"module": module, "class_name": kind, "config": settings, "name": name, "inbound_nodes": nodes}


def tensor(name: str, node: int = 0, index: int = 0) -> dict[str, Any]:
    """A tensor as Keras 3 describes it."""
    return {"class_name": "__keras_tensor__", "config": {"shape": [None], "keras_history": [name, node, index]}}


def functional(layers: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], name: str = "model") -> dict:
    """A graph of layers, of any Keras."""
    config = {"name": name, "layers": list(layers), "input_layers": list(inputs), "output_layers": list(outputs)}
    return {"class_name": "Functional", "config": config}


def old(kind: str, name: str, calls: Sequence[Any] = (), **config: Any) -> dict[str, Any]:
    """A layer as Keras 2 describes it; `calls` are lists of tensors [layer, node, index, arguments]."""
    return {"class_name": kind, "config": {"name": name, **config}, "name": name, "inbound_nodes": list(calls)}


def run(proto: onnx.ModelProto, *arrays: np.ndarray) -> list[np.ndarray]:
    """What ONNX Runtime makes of a model."""
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([i.name for i in session.get_inputs()], arrays, strict=True)))
