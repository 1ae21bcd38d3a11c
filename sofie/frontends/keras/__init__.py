"""The Keras front end: configuration and weights of a saved model become an onnx.ModelProto, without Keras.

Three dialects of configuration (Keras 2, tf.keras 2, Keras 3) in two containers (.h5, .keras) are read by h5py and
json alone; nothing of a file is executed. A layer is one function in `layers`, found through `@layer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from sofie.errors import SofieError
from sofie.frontends.keras.errors import Untranslatable
from sofie.frontends.keras.reading import opened
from sofie.frontends.keras.saving import exported, saved
from sofie.frontends.keras.translate import translate

__all__ = ["from_keras", "read"]


def read(path: Path) -> onnx.ModelProto:
    """The model of a .keras or .h5 file. Raises SofieError, in one sentence that names the file and the layer."""
    with opened(path) as document:
        return translate(document)


def from_keras(model: Any) -> onnx.ModelProto:
    """The model of a path or of a keras.Model of any back end. Raises SofieError.

    A model object with layers that have no translation is exported by Keras itself where its back end is PyTorch.
    """
    if isinstance(model, str | Path):
        return read(Path(model))
    if not hasattr(model, "get_config") or not hasattr(model, "save"):
        raise SofieError(f"from_keras takes the path of a .keras or .h5 file or a keras.Model, not {type(model)}")
    try:
        with saved(model) as path:
            return read(path)
    except Untranslatable as error:
        proto = exported(model)
        if proto is None:
            raise error
        return proto
