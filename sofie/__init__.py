"""SOFIE lowers an ONNX model, level by level and in the open, to plain C++ that runs as fast as the machine allows.

>>> import sofie
>>> model = sofie.compile("model.onnx", dims={"batch": 1})
>>> y = model(x)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sofie.errors import SofieError, UnsupportedError

if TYPE_CHECKING:
    import onnx

    from sofie.compiler import Generated, Model
    from sofie.frontends.variables import Variable
    from sofie.quantization.process import Quantized

__version__ = "0.1.0"
__all__ = [
    "SofieError", "UnsupportedError", "apply", "compile", "from_keras", "from_sklearn", "from_torch", "generate",
    "quantize",
]  # fmt: skip


def compile(  # the field's own word, always written sofie.compile
    model: str | Path | bytes | onnx.ModelProto,
    *,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    set: Mapping[str, object] | None = None,  # named like the command line's --set
    cpu: str = "native",
    blas: str = "none",
    passes: str = "fuse,lower",
    without: Sequence[str] = (),
    reproducible: bool = False,
    threads: int = 1,
    target: str = "cpu",
    arch: str = "",
    precision: str = "float32",
    variables: str | Path | None = None,
) -> Model:
    """A model (path, bytes or ModelProto) as machine code in this process; a path may be that of a Keras model.

    dims: sizes of free dimensions by name ("batch") or "input:axis"; a pair (1, 64) leaves one to the run, and the
    model takes any size in between without being compiled again. set: inputs that become constants. cpu: "native",
    "x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64", "portable" or "scalar". blas: "none" or "cblas". passes: groups
    and passes of `sofie.pipeline`. without: optional passes to leave out. reproducible: the same bits on every CPU, by
    every compiler and optimisation level. threads: how many run a large kernel. Needs a C++ compiler; its
    work is cached on disk.

    target: "cpu", or "cuda" for a GPU of NVIDIA, which needs nvcc. arch: what nvcc compiles for, as "sm_90"; that of
    this machine's own card where it is not given. precision: what large products are computed in: "float32", or by
    tensor cores "tf32x3" (as accurate), "tf32", "bf16" or "fp16". Arrays of numpy are copied there and back. Arrays on
    the device, of PyTorch, CuPy, JAX or anybody whose objects have `__dlpack__` or `__cuda_array_interface__`, are used
    where they are, and the outputs are `sofie.device_array.DeviceArray`s, which have both.

    variables: a JSON file, or JSON, with names of the inputs' variables, their offset, scale and default for NaN, as
    lwtnn writes them (`sofie.frontends.variables`): they become part of the model.

    Where shapes or axes follow from the values of inputs, the model is compiled when it is called, and again when other
    values come; `set` fixes them.

    Raises SofieError with one sentence on anything wrong with the model, the options or the compiler, UnsupportedError
    where the model is valid and this version cannot lower it.
    """
    from sofie.compiler import Options, compile_model

    options = Options(dims or {}, set or {}, cpu, blas, passes, without)
    options = replace(options, reproducible=reproducible, threads=threads, variables=_variables(variables))
    return compile_model(model, replace(options, target=target, arch=arch, precision=precision))


def generate(
    model: str | Path | bytes | onnx.ModelProto,
    folder: str | Path,
    *,
    name: str | None = None,
    weights: str = "file",
    cmake: bool = False,
    profile: bool = False,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    set: Mapping[str, object] | None = None,  # named like the command line's --set
    cpu: str = "multi",
    blas: str = "none",
    passes: str = "fuse,lower",
    without: Sequence[str] = (),
    reproducible: bool = False,
    threads: int = 1,
    target: str = "cpu",
    arch: str = "",
    precision: str = "float32",
    variables: str | Path | None = None,
) -> Generated:
    """Writes a model as `<name>.hxx` and, with weights="file", `<name>.dat` ("embed" puts them into the header).

    With target="cuda" the header is `<name>.cuh`, with "hip" `<name>.hip.hxx`. arch: the card that its comment tells to
    compile for, as "sm_90".
    With `cmake`, `<name>.cmake` as well: a library target to include and link. With `profile` a session counts the time
    of its kernels. With cpu="multi", the header holds kernels for x86-64 v2, v3 and v4, for sums of
    bytes with VNNI as well, and a Session chooses; on other
    machines it runs portable ones. All else, and errors, are those of `sofie.compile`.
    """
    from sofie.compiler import Options, generate

    if weights not in ("file", "embed"):
        raise SofieError(f"weights={weights!r}: choose 'file' or 'embed'")
    options = Options(dims or {}, set or {}, cpu, blas, passes, without)
    options = replace(options, reproducible=reproducible, threads=threads, variables=_variables(variables))
    options = replace(options, target=target, arch=arch, precision=precision)
    return generate(model, folder, options, name, weights == "embed", cmake=cmake, profile=profile)


def quantize(
    model: str | Path | bytes | onnx.ModelProto,
    data: Mapping[str, Any] | str | Path | None = None,
    *,
    weights: str = "int8",
    activations: str = "uint8",
    calibrate: str = "percentile",
    percentile: float = 99.99,
    block: int = 64,
    equalize: bool = False,
    leave: Sequence[str] = (),
    snr: float = 0.0,
    test: Mapping[str, Any] | str | Path | None = None,
    metric: str = "",
    labels: str = "labels",
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    set: Mapping[str, object] | None = None,  # named like the command line's --set
) -> Quantized:
    """A model of floats with integers, as QDQ ONNX that ONNX Runtime runs, and what they cost.

    data: arrays by the names of the inputs, or a .npz of them, to calibrate on, with rows along axis 0 where the model
    takes batches. weights: "int8", a scale for each output channel, "int7", the same with integers up to 64, whose
    products x86 without VNNI adds faster, or "int4", a scale for each `block` of weights that are summed. activations:
    "uint8", "int8", or "none", which leaves them in float, as "int4" asks for, and needs no data.
    calibrate: "minmax", "percentile" (of `percentile` percent), "entropy" or "mse". equalize: scale channels across
    layers first. leave: names of nodes that stay in float. snr: the signal-to-noise ratio in dB that outputs keep, for
    which the layers that cost most stay in float. test: data to measure on, `data` if not given. metric: "auc" or
    "accuracy" of the first output, for the array `labels` of the data. dims and set are those of `sofie.compile`; a
    free batch stays free.

    Returns an object with `model`, a ModelProto, and the report: `layers`, `outputs`, `before`, `after`, `metric`.
    Raises SofieError with one sentence on anything wrong with the model, the data or the options.
    """
    from sofie.quantization.process import Measuring, quantize_model
    from sofie.quantization.scheme import Scheme

    scheme = Scheme(weights, activations, calibrate, percentile, block, equalize, tuple(leave), snr)
    arrays, measured = _arrays(data), _arrays(test)
    return quantize_model(model, arrays, scheme, dims, set, Measuring(measured, metric, labels))


def _arrays(data: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any] | None:
    """Arrays by name, from a .npz where that is given."""
    if data is None or isinstance(data, Mapping):
        return data
    from sofie.feeds import read

    return read(Path(data), ["data"])


def _variables(given: str | Path | None) -> Mapping[str, Sequence[Variable]]:
    """What is done to the variables of inputs, by input."""
    from sofie.frontends.variables import read_variables

    return read_variables(str(given)) if given is not None else {}


def from_keras(model: Any) -> onnx.ModelProto:
    """A Keras model as ONNX, for `sofie.compile` and `sofie.generate`; what it takes is in docs/keras.md.

    model: the path of a .keras or .h5 file, which is read without Keras, or a keras.Model of any back end. The batch is
    the dimension "batch", other free sizes are "length", "height", "width", "depth". Needs h5py.

    Raises SofieError with one sentence that names file and layer, UnsupportedError where a layer has no translation.
    A model object with such layers is exported by Keras itself, where its back end is PyTorch.
    """
    from sofie.frontends.keras import from_keras

    return from_keras(model)


def from_torch(
    model: Any,
    example_inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """A model of PyTorch as ONNX, for `sofie.compile` and `sofie.generate`.

    model: a torch.nn.Module, a torch.export.ExportedProgram, a torch.jit.ScriptModule, or the path of a .pt2 or .pt
    file of the latter two. example_inputs: a tensor, or a tuple of them, for modules and scripts. dynamic_shapes: which
    dimensions are free, as torch.export takes it: ({0: torch.export.Dim("nodes")}, {1: torch.export.Dim("edges")}).
    Without it, the leading dimension "batch" is free where that of all inputs is the same; {} leaves none. Modules are
    exported as in evaluation. Needs PyTorch and onnxscript: pip install 'sofie-mlir[torch]'.

    Raises SofieError with one sentence where PyTorch cannot export the model.
    """
    from sofie.frontends.torch import from_torch

    return from_torch(
        model, example_inputs, dynamic_shapes=dynamic_shapes, input_names=input_names, output_names=output_names
    )


def from_sklearn(model: Any, features: int | None = None) -> onnx.ModelProto:
    """A model of scikit-learn, XGBoost or LightGBM as ONNX, for `sofie.compile` and `sofie.generate`.

    model: a fitted estimator or pipeline, a Booster, or the path of a booster's file (.json or .ubj of XGBoost, .txt of
    LightGBM). features: how many it takes, where it does not say so itself. The model takes `features` [batch, N] in
    float32; classifiers give labels and probabilities. Needs 'sofie-mlir[sklearn]', and the booster's library.

    Raises SofieError with one sentence where the converters do not know the model.
    """
    from sofie.frontends.sklearn import from_sklearn

    return from_sklearn(model, features)


def apply(
    model: str | Path | bytes | onnx.ModelProto | Model,
    data: Any,
    *,
    columns: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    pad: float = 0.0,
    missing: float | None = None,
    jobs: int = 0,
    dims: Mapping[str, int | tuple[int, int]] | None = None,
    set: Mapping[str, object] | None = None,  # named like the command line's --set
    cpu: str = "native",
    blas: str = "none",
    passes: str = "fuse,lower",
    without: Sequence[str] = (),
    reproducible: bool = False,
    threads: int = 1,
) -> Any:
    """The outputs of a model for every row of `data`, by all cores; those of Dask's collections are computed lazily.

    model: a path, bytes or ModelProto, or what `sofie.compile` returned. data: an array of numpy, plain or structured,
    a dictionary of arrays, an awkward array, a table of pyarrow, an array of Dask or of dask-awkward. columns: those
    that make the model's input, in order, or for each of several inputs by its name; without them, each input is the
    column of its name, and an array without columns is the only input. A field of an awkward record is "jets.pt". pad:
    what lists are filled up with to the size that the model takes; longer ones are cut. missing: what stands for NaN
    and for values that are not there; without it they are NaN. jobs: threads, 0 for one on each core. All else is that
    of `sofie.compile`; only a batch needs no size in `dims`. The last models stay compiled, so that piece after piece
    of data may be given.

    Returns arrays [rows, ...] without the batch of a call: one, or a dictionary (records of awkward) by name of output.
    For a table, a table with a column for each number: `score`, or `score_0`, `score_1`, ...

    Raises SofieError with one sentence on anything wrong with the model, the options or the data.
    """
    from sofie.batch.arrays import apply
    from sofie.batch.columns import Rules
    from sofie.compiler import Options

    options = Options(dims or {}, set or {}, cpu, blas, passes, without, reproducible=reproducible, threads=threads)
    return apply(model, data, columns, Rules(pad, missing), jobs, options)
