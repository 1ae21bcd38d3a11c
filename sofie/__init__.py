"""SOFIE lowers an ONNX model, level by level and in the open, to plain C++ that runs as fast as the machine allows.

>>> import sofie
>>> model = sofie.compile("model.onnx", dims={"batch": 1})
>>> y = model(x)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sofie.errors import SofieError, UnsupportedError

if TYPE_CHECKING:
    import onnx

    from sofie.compiler import Generated, Model

__version__ = "0.1.0"
__all__ = ["SofieError", "UnsupportedError", "compile", "generate"]


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
) -> Model:
    """A model (path, bytes or ModelProto) as machine code in this process.

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

    Where shapes or axes follow from the values of inputs, the model is compiled when it is called, and again when other
    values come; `set` fixes them.

    Raises SofieError with one sentence on anything wrong with the model, the options or the compiler, UnsupportedError
    where the model is valid and this version cannot lower it.
    """
    from sofie.compiler import Options, compile_model

    options = Options(dims or {}, set or {}, cpu, blas, passes, without)
    options = replace(options, reproducible=reproducible, threads=threads)
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
) -> Generated:
    """Writes a model as `<name>.hxx` and, with weights="file", `<name>.dat` ("embed" puts them into the header).

    With target="cuda" the header is `<name>.cuh`, with "hip" `<name>.hip.hxx`. arch: the card that its comment tells to
    compile for, as "sm_90".
    With `cmake`, `<name>.cmake` as well: a library target to include and link. With `profile` a session counts the time
    of its kernels. With cpu="multi", the header holds kernels for x86-64 v2, v3 and v4 and a Session chooses; on other
    machines it runs portable ones. All else, and errors, are those of `sofie.compile`.
    """
    from sofie.compiler import Options, generate

    if weights not in ("file", "embed"):
        raise SofieError(f"weights={weights!r}: choose 'file' or 'embed'")
    options = Options(dims or {}, set or {}, cpu, blas, passes, without)
    options = replace(options, reproducible=reproducible, threads=threads)
    options = replace(options, target=target, arch=arch, precision=precision)
    return generate(model, folder, options, name, weights == "embed", cmake=cmake, profile=profile)
