"""The front end of scikit-learn, XGBoost and LightGBM: their own converters write ONNX, without maps of probabilities.

Estimators and pipelines of scikit-learn go through skl2onnx, boosters through onnxmltools; inside a pipeline either. A
file of XGBoost (.json, .ubj) or LightGBM (.txt) is a booster; pickles are not read, since reading one executes it.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

from sofie.errors import SofieError, printable, reason

OPSET = {"": 18, "ai.onnx.ml": 3}
INPUT = "features"


def from_sklearn(model: Any, features: int | None = None) -> onnx.ModelProto:
    """The model of an estimator or pipeline of scikit-learn, of an estimator or Booster of XGBoost or LightGBM, or of
    the file of a booster. Raises SofieError. The arguments are those of `sofie.from_sklearn`.
    """
    if isinstance(model, str | Path):
        return read_booster(Path(model))
    library = type(model).__module__.partition(".")[0]
    count = features or _features(model)
    if count is None:
        raise SofieError("the model does not say how many features it takes: fit it first, or give features=N")
    if library in ("xgboost", "lightgbm"):
        return _of_booster(library, model, count)
    if not hasattr(model, "get_params"):
        raise SofieError(
            f"from_sklearn takes an estimator, a booster or the path of a booster's file, not {type(model)}"
        )
    return _of_estimator(model, count)


def read_booster(path: Path) -> onnx.ModelProto:
    """The model of a file of XGBoost or LightGBM. Raises SofieError."""
    name = printable(str(path))
    if not path.is_file():
        raise SofieError(f"there is no file {name!r}")
    library = "lightgbm" if path.suffix.lower() == ".txt" else "xgboost"
    try:
        with _library(library, "sklearn"):
            module = importlib.import_module(library)
        booster = module.Booster(model_file=str(path))
    except SofieError:
        raise
    except Exception as error:  # the libraries raise what they like
        raise SofieError(f"{name!r} is no model of XGBoost or LightGBM: {reason(error)}") from error
    return from_sklearn(booster)


def _features(model: Any) -> int | None:
    """How many features a fitted model takes, where it says so."""
    for name in ("n_features_in_", "n_features_", "num_features", "num_feature"):
        with contextlib.suppress(AttributeError):
            found = getattr(model, name)
            return int(found() if callable(found) else found)
    return None


def _of_booster(library: str, model: Any, features: int) -> onnx.ModelProto:
    """A booster, or an estimator around one, by onnxmltools."""
    with _library("onnxmltools", "sklearn"):
        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType
    convert: Callable[..., Any] = getattr(onnxmltools, f"convert_{library}")
    options = {"zipmap": False} if library == "lightgbm" else {}
    with _converting(model):
        made = convert(model, initial_types=[(INPUT, FloatTensorType([None, features]))], target_opset=15, **options)
    return _batched(made)


def _of_estimator(model: Any, features: int) -> onnx.ModelProto:
    """An estimator or pipeline by skl2onnx, boosters in it by onnxmltools."""
    with _library("skl2onnx", "sklearn"):
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType
    _register()
    options: dict[int, Any] = {}
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    if hasattr(last, "predict_proba") or getattr(last, "_estimator_type", "") == "classifier":
        options = {id(model): {"zipmap": False}}
    with _converting(model), _integers():
        made = skl2onnx.to_onnx(
            model,
            initial_types=[(INPUT, FloatTensorType([None, features]))],
            target_opset=OPSET,
            options=options or None,
        )
    return _batched(made)


@contextlib.contextmanager
def _integers() -> Iterator[None]:
    """Around skl2onnx: it gives the leaves of histogram-based trees a False (1.20), which is no attribute of ONNX."""
    trees: Any = importlib.import_module("skl2onnx.common.tree_ensemble")
    add_node = trees.add_node
    flag = "nodes_missing_value_tracks_true"

    def add_node_of_integers(*arguments: Any, **named: Any) -> Any:
        return add_node(*arguments, **(named | ({flag: int(named[flag])} if flag in named else {})))

    trees.add_node = add_node_of_integers
    try:
        yield
    finally:
        trees.add_node = add_node


def _register() -> None:
    """Tells skl2onnx of the boosters that are installed, for pipelines that end in one."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes as classes
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes as values

    known: list[tuple[str, str, Any, dict[str, Any]]] = []
    zipmap = {"options": {"nocl": [True, False], "zipmap": [True, False, "columns"]}}
    for library, prefix in (("xgboost", "XGB"), ("lightgbm", "LGBM")):
        known += [(library, f"{prefix}Classifier", classes, zipmap), (library, f"{prefix}Regressor", values, {})]
    for library, name, shapes, options in known:
        with contextlib.suppress(ImportError):
            estimator = getattr(importlib.import_module(library), name)
            module = {"XGB": "XGBoost", "LGB": "LightGbm"}[name[:3]]
            converters = importlib.import_module(f"onnxmltools.convert.{library}.operator_converters.{module}")
            convert = getattr(converters, f"convert_{module.lower()}")
            update_registered_converter(estimator, name, shapes, convert, overwrite=True, **options)


@contextlib.contextmanager
def _library(name: str, extra: str) -> Iterator[None]:
    """Around imports: one sentence where the library is not installed."""
    try:
        yield
    except ImportError as error:
        raise SofieError(f"this model needs {name}: pip install {name} 'sofie-mlir[{extra}]'") from error


@contextlib.contextmanager
def _converting(model: Any) -> Iterator[None]:
    """Around a converter: what it raises becomes one sentence, and its warnings are not ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SofieError:
        raise
    except Exception as error:  # the converters raise what they like
        raise SofieError(f"{type(model).__name__} cannot be converted to ONNX: {reason(error)}") from error


def _batched(model: onnx.ModelProto) -> onnx.ModelProto:
    """A name for the free number of rows, and each domain once."""
    for value in model.graph.input:
        shape = value.type.tensor_type.shape.dim
        if shape and not shape[0].HasField("dim_value"):
            shape[0].dim_param = "batch"
    versions: dict[str, int] = {}
    for opset in model.opset_import:
        versions[opset.domain] = max(opset.version, versions.get(opset.domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in versions.items())
    return model
