"""The PyTorch front end: modules, exported programs and TorchScript become an onnx.ModelProto by torch.onnx itself.

torch.export is tried first. TorchScript, and modules that torch.export does not follow (sizes that depend on data),
go through the older exporter. Dimensions get names that `dims` can use: "batch" where the leading one of every input is
free, else those that the caller gives.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from sofie.errors import SofieError, printable, reason

OPSET = 18
"""What the older exporter writes: the first with reductions in ScatterElements, which graph networks need."""

Shape = tuple[str, Sequence[int]]
"""An input of TorchScript: the numpy name of its type, and its extents."""

_NAMELESS = re.compile(r"\bs[0-9]+\b")
"""What torch.export calls a dimension that nobody named."""


def from_torch(
    model: Any,
    example_inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """The model of a torch.nn.Module, torch.export.ExportedProgram, torch.jit.ScriptModule, or the path of either's
    file. Raises SofieError. The arguments are those of `sofie.from_torch`.
    """
    torch = _torch()
    if isinstance(model, str | Path):
        model = _loaded(torch, Path(model))
    names = {"input_names": input_names, "output_names": output_names}
    if isinstance(model, torch.export.ExportedProgram):
        return _by_export(torch, model, None, None, names)
    if not isinstance(model, torch.nn.Module):
        raise SofieError(f"from_torch takes a module, an exported program or the path of a file, not {type(model)}")
    if example_inputs is None:
        raise SofieError(
            "a module has no shapes of its own: give example_inputs, as from_torch(module, torch.ones(1, 7))"
        )
    examples = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    with _evaluating(model):
        if isinstance(model, torch.jit.ScriptModule):
            return _by_script(torch, model, examples, dynamic_shapes, names)
        shapes, doubled = dynamic_shapes, examples
        if dynamic_shapes is None:
            shapes, doubled = _batched(torch, examples)
        try:
            return _by_export(torch, model, doubled, shapes, names)
        except SofieError as error:
            with contextlib.suppress(SofieError):
                return _by_script(torch, model, doubled, shapes, names)
            raise error


def read_program(path: Path) -> onnx.ModelProto:
    """The model of a .pt2 file. Raises SofieError."""
    return from_torch(path)


def read_script(path: Path, shapes: Sequence[Shape] = ()) -> onnx.ModelProto:
    """The model of a .pt file of TorchScript, whose inputs are of these types and shapes. Raises SofieError."""
    if not shapes:
        raise SofieError(
            f"{printable(str(path))!r}: TorchScript does not keep the shapes of inputs: give them with --input 1x7, "
            "one for each input, or save the model by torch.export (.pt2)"
        )
    torch = _torch()
    examples = [torch.ones(tuple(extents), dtype=getattr(torch, kind)) for kind, extents in shapes]
    return from_torch(path, tuple(examples))


def _torch() -> Any:
    """The module torch, with its exporter. Raises SofieError where it is not installed."""
    missing = "PyTorch's models need PyTorch and onnxscript: pip install 'sofie-mlir[torch]'"
    if importlib.util.find_spec("onnxscript") is None:  # torch.onnx needs it and does not bring it
        raise SofieError(missing)
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise SofieError(missing) from error


def _loaded(torch: Any, path: Path) -> Any:
    """The exported program or the TorchScript of a file; no pickle is executed. Raises SofieError."""
    name = printable(str(path))
    if not path.is_file():
        raise SofieError(f"there is no file {name!r}")
    try:
        if path.suffix.lower() == ".pt2":
            with _quiet():
                return torch.export.load(str(path))
        with _quiet():
            return torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # torch raises what it likes
        raise SofieError(
            f"{name!r} is neither an exported program nor TorchScript; save the model with torch.export.save or "
            f"torch.jit.save (pickled modules and state dictionaries are not read): {reason(error)}"
        ) from error


def _batched(torch: Any, examples: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """A free batch where every input is a tensor with the same leading extent, and examples that have more than one.

    (torch.export takes an extent of 1 for a constant.)
    """
    tensors = [x for x in examples if isinstance(x, torch.Tensor) and x.ndim > 0]
    if len(tensors) < len(examples) or len({x.shape[0] for x in tensors}) != 1:
        return None, examples
    few = tensors[0].shape[0] < 2
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in examples), tuple(torch.cat([x, x]) for x in tensors) if few else examples


def _by_export(
    torch: Any, model: Any, examples: tuple[Any, ...] | None, shapes: Any, names: Mapping[str, Any]
) -> onnx.ModelProto:
    """The model by torch.export. Raises SofieError."""
    arguments = (model,) if examples is None else (model, examples)
    try:
        with _quiet():
            program = torch.onnx.export(*arguments, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    except Exception as error:  # torch raises what it likes
        raise SofieError(
            f"PyTorch cannot export the model: {reason(error)}; where sizes depend on data, as in layers of "
            "torch_geometric that add self-loops, do that outside of the model (add_self_loops=False)"
        ) from error
    proto: onnx.ModelProto = program.model_proto
    return _named(proto)


def _by_script(
    torch: Any, model: Any, examples: tuple[Any, ...], shapes: Any, names: Mapping[str, Any]
) -> onnx.ModelProto:
    """The model by the older exporter, which follows TorchScript. Raises SofieError."""
    if shapes is None:
        shapes, examples = _batched(torch, examples)
    parameters = _parameters(torch, model)[: len(examples)]
    listed = [shapes.get(name) for name in parameters] if isinstance(shapes, Mapping) else list(shapes or ())
    inputs = list(names["input_names"] or parameters)
    axes = {
        name: {axis: getattr(dim, "__name__", str(dim)) for axis, dim in one.items()}
        for name, one in zip(inputs, listed, strict=False)
        if isinstance(one, Mapping)
    }
    stream = io.BytesIO()
    try:
        with _quiet():
            # a choice by data would become a constant, but for those of torch_geometric, which ask whether there is any
            warnings.simplefilter("error", torch.jit.TracerWarning)
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module="torch_geometric")
            torch.onnx.export(
                model,
                examples,
                stream,
                dynamo=False,
                opset_version=OPSET,
                dynamic_axes=axes,
                input_names=inputs,
                output_names=names["output_names"],
            )
    except Exception as error:  # torch raises what it likes
        raise SofieError(f"PyTorch cannot export the TorchScript: {reason(error)}") from error
    return onnx.load_model_from_string(stream.getvalue())


def _parameters(torch: Any, model: Any) -> list[str]:
    """What a module calls its inputs."""
    if isinstance(model, torch.jit.ScriptModule):
        return [argument.name for argument in model.forward.schema.arguments[1:]]
    return list(inspect.signature(model.forward).parameters)


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Names for dimensions that torch.export numbers: "batch" where each input begins with one, else input_axis."""
    tensors = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    leading = {shape[0].dim_param for shape in tensors.values() if shape}
    found: dict[str, str] = {}
    for name, shape in tensors.items():
        for axis, dim in enumerate(shape):
            if _NAMELESS.fullmatch(dim.dim_param):
                batch = leading == {dim.dim_param}
                found.setdefault(dim.dim_param, "batch" if batch else f"{name}_{axis}")
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = _NAMELESS.sub(lambda match: found.get(match[0], match[0]), dim.dim_param)
    return model


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """A module as it is when it is used: no dropout, batch norms by their own statistics; put back afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters print, log and warn of; what goes wrong is raised."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
