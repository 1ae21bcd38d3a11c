"""The peers beside ONNX Runtime: how the worker of each is built, and where it is looked for.

OpenVINO is taken from this interpreter's packages. CERN's SOFIE, whose package has our import name, and emx-onnx-cgen
have an environment each, below the cache; `python -m tests.bench --install` makes them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sofie import jit
from sofie.bench.build import executable, source
from sofie.bench.case import Case
from sofie.bench.systems import Command, words
from sofie.errors import SofieError, printable

ENVIRONMENTS = {
    "cern": ("sofie==0.1.0", "scipy-openblas32==0.3.34.481.3"),
    "emx": ("emx-onnx-cgen==1.4.0",),
}
"""The environments and what is installed in each."""

PARSE = """
import sys
import sofie.onnx
model = sofie.onnx.parse(sys.argv[1])
model.generate()
model.output_generated(sys.argv[2])
"""
BLAS = "import scipy_openblas32 as b; print(b.get_lib_dir()); print(b.get_library())"
ROUTINES = ("sgemm_", "sgemv_", "saxpy_", "scopy_", "sger_")
"""The Fortran routines that CERN's SOFIE calls, which the package gives a prefix."""


def python(peer: str, cache: Path) -> Path:
    """The interpreter of a peer's environment."""
    return cache / "peers" / peer / "bin" / "python"


def install(cache: Path) -> None:
    """Makes the environments. Raises subprocess.CalledProcessError."""
    for peer, packages in ENVIRONMENTS.items():
        subprocess.run([sys.executable, "-m", "venv", str(python(peer, cache).parents[1])], check=True)
        subprocess.run([str(python(peer, cache)), "-m", "pip", "install", "-q", *packages], check=True)


def absent(peer: str, cache: Path) -> str:
    """Why a peer takes no part, or nothing."""
    if peer in ENVIRONMENTS:
        return "" if python(peer, cache).exists() else "not installed: python -m tests.bench --install"
    return "" if importlib.util.find_spec(peer) is not None else f"not installed: pip install {peer}"


def openvino(case: Case, cache: Path) -> Command:
    """The worker that runs the model by OpenVINO's C++ interface, out of the wheel."""
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        raise SofieError(absent("openvino", cache))
    package = Path(spec.origin).parent
    library = next((package / "libs").glob("libopenvino.so*"))
    flags = ["-std=c++17", "-O2", "-w", f"-I{package / 'include'}", f"-L{library.parent}", f"-l:{library.name}"]
    openvino_source = Path(__file__).with_name("openvino.cpp").read_text()
    worker = executable(source("worker.hxx") + openvino_source, [*flags, f"-Wl,-rpath,{library.parent}"])
    return (*words(worker, case, "openvino"), str(case.model))


def cern(case: Case, cache: Path, label: str, level: str) -> Command:
    """The worker that runs what CERN's SOFIE writes for the model, with OpenBLAS."""
    header = _generated(case, "cern", cache, "model.hxx", ["-c", PARSE, str(case.model), "model.hxx"])
    folder, library = _run([str(python("cern", cache)), "-c", BLAS], case.folder).split()
    blas = [*(f"-D{name}=scipy_{name}" for name in ROUTINES), f"-L{folder}", f"-l{library}", f"-Wl,-rpath,{folder}"]
    text = header.read_text().partition("\n")[2]  # the first line holds the time of day
    main = f"""
{source("worker.hxx")}
int main(int, char **words)
{{
   worker::Tensors tensors(words[1]);
   const double start = worker::now();
   SOFIE_model::Session session(words[3]);
   const double setup = worker::now() - start;
   return worker::serve(tensors, words[2], setup, [&] {{ doInfer(session, {_arguments(case)}); }});
}}
"""
    worker = executable(text + main, ["-std=c++17", level, "-march=native", "-w", *blas])
    return (*words(worker, case, label), str(header.with_suffix(".dat")))


def emx(case: Case, cache: Path) -> Command:
    """The worker that runs the C which emx-onnx-cgen writes for the model."""
    tool = python("emx", cache).with_name("emx-onnx-cgen")
    made = _generated(case, "emx", cache, "model.c", [str(tool), "compile", str(case.model), "model.c"])
    library = made.with_suffix(".so")
    if not library.exists():
        flags = ["-O3", "-march=native", "-ffast-math", "-w", "-fPIC", "-shared"]
        _run([*jit.compiler(), "-x", "c", *flags, "-o", "scratch.so", made.name, "-lm"], made.parent)
        library.with_name("scratch.so").rename(library)
    loads = "_Bool model_load(" in made.read_text()
    kinds = [f"{_type(t.dtype.name)} *" for t in (*case.inputs, *case.outputs)]
    load = (
        'if (!model_load("model.bin"))\n      worker::fail("emx-onnx-cgen\'s weights cannot be read");' if loads else ""
    )
    main = f"""{source("worker.hxx")}
#include <unistd.h>
extern "C" void model({", ".join(kinds)});
extern "C" bool model_load(const char *);
int main(int, char **words)
{{
   worker::Tensors tensors(words[1]);
   const double start = worker::now();
   if (chdir(words[3]) != 0)
      worker::fail("the folder of the weights cannot be entered");
   {load}
   const double setup = worker::now() - start;
   return worker::serve(tensors, words[2], setup, [&] {{ model({_arguments(case)}); }});
}}
"""
    worker = executable(main, ["-std=c++17", "-O2", "-w", str(library), f"-Wl,-rpath,{library.parent}"])
    return (*words(worker, case, "emx"), str(made.parent))


def _arguments(case: Case) -> str:
    """Pointers to the inputs and then the outputs."""
    sides = {"inputs": case.inputs, "outputs": case.outputs}
    return ", ".join(
        f"tensors.{side}[{k}].as<{_type(t.dtype.name)}>()" for side, ports in sides.items() for k, t in enumerate(ports)
    )


def _type(dtype: str) -> str:
    return {"float32": "float", "float64": "double", "bool": "bool"}.get(dtype, f"std::{dtype}_t")


def _generated(case: Case, peer: str, cache: Path, name: str, command: Sequence[str]) -> Path:
    """A file that a peer writes into a folder of its own, kept by the model's digest and the peer's version."""
    model = hashlib.sha256(case.model.read_bytes() + " ".join(ENVIRONMENTS[peer]).encode()).hexdigest()
    folder = cache / "generated" / f"{peer}-{model}"
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run([str(python(peer, cache)), *command], folder)
    return folder / name


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
        raise SofieError(printable(said[-1], 200))
    return done.stdout
