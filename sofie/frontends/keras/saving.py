"""A keras.Model object as a file of its own, and what Keras' own exporter makes of one that has no translation."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from sofie.errors import SofieError, printable


@contextmanager
def saved(model: Any) -> Iterator[Path]:
    """A temporary file with the model in it: .keras of Keras 3, .h5 of Keras 2. Raises SofieError."""
    module = sys.modules.get(type(model).__module__.partition(".")[0])
    keras = module if hasattr(module, "__version__") else sys.modules.get("keras")
    old = str(getattr(keras, "__version__", "3")).startswith("2.")
    with tempfile.TemporaryDirectory(prefix="sofie-keras-") as folder:
        path = Path(folder) / ("model.h5" if old else "model.keras")
        try:
            model.save(str(path))
        except Exception as error:  # whatever a custom layer of the model raises
            raise SofieError(f"Keras cannot save the model: {printable(str(error), 400)}") from error
        yield path


def exported(model: Any) -> onnx.ModelProto | None:
    """The ONNX that Keras writes by itself on the back end PyTorch; None where it cannot."""
    keras = sys.modules.get("keras")
    if keras is None or not hasattr(model, "export") or keras.backend.backend() != "torch":
        return None
    with tempfile.TemporaryDirectory(prefix="sofie-keras-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            inputs = [keras.ops.zeros([2 if s is None else s for s in t.shape], t.dtype) for t in model.inputs]
            model(inputs if len(inputs) > 1 else inputs[0])  # one that was never called is not exported
            model.export(str(path), format="onnx", verbose=False)
            return onnx.load(str(path))
        except Exception:  # of any kind; why the model was not translated is told instead
            return None
