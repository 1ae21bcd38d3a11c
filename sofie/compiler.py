"""From a model to machine code or to files: what `sofie.compile`, `sofie.generate` and the command line do."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import onnx
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.arg_spec import ArgSpec

from sofie import cuda_jit, jit, pipeline, weight_file
from sofie.block_tiles import check_precision
from sofie.device_array import Borrowed, borrowed
from sofie.dialects.scalars import DotOp, DotPairsOp
from sofie.emit.cmake import cmake_target
from sofie.emit.cpp import Program
from sofie.emit.cuda import CudaProgram, as_variant
from sofie.emit.hip import HipProgram
from sofie.emit.ports import Port
from sofie.emit.variant import Variant
from sofie.errors import SofieError, printable
from sofie.feeds import check_names, names_of_inputs
from sofie.files import write
from sofie.frontends.dimensions import Dim
from sofie.frontends.onnx import inline_functions, load, read_model
from sofie.frontends.operands import needed, operand_inputs
from sofie.frontends.variables import Variables, name_columns, prepare, spelled
from sofie.naming import Namer, identifier
from sofie.sizes import bind
from sofie.target import CPUS, WITH_VNNI, Cpu, check_arch, cpus
from sofie.weights import Array

Source = str | Path | bytes | onnx.ModelProto
BLAS = ("none", "cblas")
DEVICES: dict[str, type[CudaProgram]] = {"cuda": CudaProgram, "hip": HipProgram}
"""What is written for GPUs, by target."""
MOST_THREADS = 256


@dataclass(frozen=True)
class Options:
    """How a model is compiled.

    dims: sizes of free dimensions, by name or "input:axis"; a pair (low, high) leaves one to the run. values: inputs
    that become constants. operands: what inputs will be that tell shapes or axes. cpu: a name of `sofie.target`, or
    "multi": x86-64 v2, v3 and v4 together, and VNNI for bytes. blas: "none" or "cblas". passes: the pipeline.
    without: optional passes to leave out. reproducible: the same bits on every CPU, by every compiler and optimisation
    level. threads: how many
    run a large kernel. target: "cpu", or "cuda" or "hip" for a GPU; for those the pipeline is `cuda`, and what is
    of CPUs may not be asked. arch: the GPU's architecture, as "sm_90", for its compiler. precision: of products on a
    GPU, one of `sofie.block_tiles.PRECISIONS`. variables: what is done to variables of inputs before the model.
    """

    dims: Mapping[str, Dim] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)
    cpu: str = "native"
    blas: str = "none"
    passes: str = pipeline.DEFAULT
    without: Sequence[str] = ()
    verify_each: bool = False
    operands: Mapping[str, Array] = field(default_factory=dict)
    reproducible: bool = False
    threads: int = 1
    target: str = "cpu"
    arch: str = ""
    precision: str = "float32"
    variables: Variables = field(default_factory=dict)

    @property
    def asked(self) -> tuple[str, ...]:
        """What the text of a program and the layout of its weights follow from, as words of the command line."""
        sizes = {k: f"{v[0]}..{v[1]}" if isinstance(v, tuple) else str(v) for k, v in self.dims.items()}
        words = [f"--dim {quote(f'{key}={size}')}" for key, size in sizes.items()]
        words += [f"--set {quote(f'{key}={_word(value)}')}" for key, value in self.values.items()]
        words += [f"--{name} {value}" for name, value, usual in self._named() if value != usual]
        words += [f"--variables {quote(spelled(self.variables))}"] if self.variables else []
        words += ["--reproducible"] * self.reproducible
        words += [f"--pipeline '{self.passes}'"] if self.passes not in (pipeline.DEFAULT, pipeline.GPU) else []
        return (*words, *(f"--without {name}" for name in self.without))

    def _named(self) -> list[tuple[str, object, object]]:
        """Options that are one word: name, value and default."""
        named = [("blas", self.blas, "none"), ("threads", self.threads, 1)]
        return [*named, ("target", self.target, "cpu"), ("precision", self.precision, "float32")]

    @property
    def targets(self) -> tuple[Cpu, ...]:
        """The CPUs that kernels are written for, least first. Raises SofieError on a name that does not exist."""
        return cpus(self.cpu)

    def device_stages(self) -> list[pipeline.Stage]:
        """The passes to run for a GPU. Raises SofieError on names that do not exist, and on what only a CPU has."""
        threads, blas = ("--threads", self.threads != 1), ("--blas", self.blas != "none")
        _only_for_cpus(self.target, blas, threads, ("--reproducible", self.reproducible))
        check_precision("--precision", self.precision)
        in_precision: dict[str, tuple[str]] = {} if self.precision == "float32" else {"precision": (self.precision,)}
        of_bytes: dict[str, tuple[str]] = {"bytes": ("dot",)} if self.target == "hip" else {}
        options = {
            "fuse-layers": ArgSpec("fuse-layers", {**in_precision}),
            "map-tiles": ArgSpec("map-tiles", {**in_precision, **of_bytes}),
        }
        passes = pipeline.GPU if self.passes == pipeline.DEFAULT else self.passes
        return pipeline.parse(passes, self.without, options)

    def stages(self, target: Cpu | None = None) -> list[pipeline.Stage]:
        """The passes to run for a CPU, the least one if none is given. Raises SofieError on names that do not exist."""
        if not 1 <= self.threads <= MOST_THREADS:
            raise SofieError(f"--threads {self.threads}: choose a number from 1 to {MOST_THREADS}")
        target = target or self.targets[0]
        if self.precision != "float32":
            raise SofieError(f"--precision {printable(self.precision)} is for GPUs; leave it out with --target cpu")
        if self.blas not in BLAS:
            raise SofieError(f"--blas {printable(self.blas)}: choose one of {', '.join(BLAS)}")
        options = {
            **{name: ArgSpec(name, {"cpu": (target.name,)}) for name in ("vectorize", "widen-words", "round-lanes")},
            "split-threads": ArgSpec("split-threads", {"threads": (self.threads,)}),
            "lower-to-blas": ArgSpec("lower-to-blas", {"library": (self.blas,)}),
            "pack-weights": ArgSpec("pack-weights", {} if self.blas == "none" else {"panel": (0,)}),
        }
        return pipeline.parse(self.passes, self.without, options)


def _word(value: object) -> str:
    """The value of an input that became a constant, as the command line writes it."""
    return ",".join(str(element).lower() for element in np.asarray(value).reshape(-1).tolist())


def _only_for_cpus(target: str, *asked: tuple[str, bool]) -> None:
    """Raises SofieError on an option that a GPU does not have, where it was asked for."""
    for words, given in asked:
        if given:
            raise SofieError(f"{words} is for CPUs; leave it out with --target {target}")


Progress = Callable[[str], None]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for garbage, which walks a growing IR again and again: a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def lower(source: Source | ModuleOp, name: str, options: Options, progress: Progress | None = None) -> Program:
    """The program of a model: read, lowered to level 4, ready to be printed. `progress` is told each step's name.

    The passes run once up to the first that looks at the CPU, and from there once for each CPU.
    """
    if options.target != "cpu" and options.target not in DEVICES:
        raise SofieError(f"--target {printable(options.target)}: choose cpu, {' or '.join(DEVICES)}")
    check_arch(options.target, options.arch)
    if isinstance(source, ModuleOp):
        module = source
    else:
        if progress is not None:
            progress("read the model")
        if options.variables:
            source = read_model(source, options.dims, options.values)
            prepare(source, options.variables)
        module = load(source, options.dims, options.values, options.operands)
        if options.variables:
            name_columns(module, options.variables)

    def run(lowered: ModuleOp, steps: Sequence[pipeline.Stage]) -> None:
        pipeline.run(
            lowered,
            steps,
            verify_each=options.verify_each,
            observe=None if progress is None else lambda done, _module, _seconds: progress(done.name),
        )

    if options.target in DEVICES:
        steps = options.device_stages()
        with _uncollected():
            run(module, steps)
        return DEVICES[options.target](module, name, [as_variant(module)], options.asked, options.arch)
    targets = options.targets
    shared = _shared(options)
    variants = []
    with _uncollected():
        run(module, options.stages(targets[0])[:shared])
        if options.cpu == "multi" and any(isinstance(op, DotOp | DotPairsOp) for op in module.walk()):
            targets = tuple(CPUS[name] for name in WITH_VNNI)
        for target in targets:
            lowered = module.clone()  # the layout of the weight file is that of no CPU
            run(lowered, options.stages(target)[shared:])
            variants.append(Variant(lowered, target, options.reproducible))
    return Program(module, name, variants, options.asked)


def _shared(options: Options) -> int:
    """How many passes run before the first that looks at the CPU: those that are the same for every CPU there is."""
    each = [options.stages(target) for target in CPUS.values()]
    same = [all(stage == other for other in rest) for stage, *rest in zip(*each, strict=True)]
    return same.index(False) if False in same else len(same)


def default_name(source: Source) -> str:
    """The name a model gets when none is given: that of its file."""
    return identifier(Path(source).stem, "model") if isinstance(source, str | Path) else "model"


Compiled = jit.Compiled | cuda_jit.Compiled
LATE_MODELS = 64
"""How many sets of values a model keeps its machine code for."""


class Model:
    """A compiled model: call it with arrays in model order, or `run` it with a dictionary by ONNX name.

    One object serves one thread at a time: it owns its scratch memory.
    """

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled

    @property
    def compiled(self) -> Compiled:
        """The machine code."""
        return self._compiled

    @property
    def inputs(self) -> list[Port]:
        """Name, type and shape of each input."""
        return self.program.inputs

    @property
    def outputs(self) -> list[Port]:
        """Name, type and shape of each output."""
        return self.program.outputs

    @property
    def program(self) -> Program:
        """The lowered program behind it."""
        return self.compiled.program

    @property
    def library(self) -> Path:
        """The shared library in the cache."""
        return self.compiled.library

    def seed(self, seed: int) -> None:
        """Begins the random numbers of this seed; without it they begin with those of seed 0."""
        self.compiled.seed(seed)

    def __call__(self, *arrays: object) -> Array | tuple[Array, ...]:
        """The output, or a tuple of them. Raises SofieError on a wrong number, type or shape of inputs.

        Inputs on a device give outputs there: objects of `sofie.device_array.DeviceArray`.
        """
        names = self._names()
        if len(arrays) != len(names):
            listed = ", ".join(map(printable, names))
            raise SofieError(f"the model takes {len(names)} input(s) ({listed}), not {len(arrays)}")
        results = self._run(arrays)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, feeds: Mapping[str, object]) -> dict[str, Array]:
        """The outputs by name, from inputs by name. Raises SofieError on missing, unknown or ill-shaped inputs."""
        names = self._names()
        check_names(feeds, names)
        results = self._run([feeds[name] for name in names])
        return {p.name: r for p, r in zip(self.outputs, results, strict=True)}

    def _names(self) -> list[str]:
        return [p.name for p in self.inputs]

    def _run(self, arrays: Sequence[object]) -> list[Any]:
        sizes: dict[str, int] = {}
        given: list[Any] = [self._taken(a, p, sizes) for a, p in zip(arrays, self.inputs, strict=True)]
        for symbol in self.program.sizes:
            number = sizes[symbol.name]
            if not symbol.low <= number <= symbol.high:
                raise SofieError(f"{symbol.name} is {number}, the model was compiled for {symbol.low} to {symbol.high}")
        return list(self.compiled.run(given, sizes))

    def _taken(self, value: object, port: Port, sizes: dict[str, int]) -> Array | Borrowed:
        """An input as the compiled code takes it: a device's where it is, or a contiguous array of the port's type."""
        lent = borrowed(value, port.name)
        if lent is None:
            return conform(value, port, sizes)
        name = printable(port.name)
        if not isinstance(self.program, CudaProgram):
            raise SofieError(f"input {name!r} is on a GPU and the model on a CPU: compile it with target='cuda'")
        if lent.dtype != np.dtype(port.dtype):
            raise SofieError(f"input {name!r} is {lent.dtype}, the model takes {port.dtype}; convert it on the device")
        _bind(port, lent.shape, sizes)
        if not lent.contiguous:
            raise SofieError(f"input {name!r} is not contiguous; pass a contiguous copy of it")
        return lent


def conform(value: object, port: Port, sizes: dict[str, int] | None = None) -> Array:
    """`value` as the contiguous array that `port` takes; raises SofieError where it is another type or shape.

    Enters the run-time sizes that its shape tells into `sizes`.
    """
    array = np.asarray(value)
    dtype = np.dtype(port.dtype)
    if array.dtype != dtype:
        if array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise SofieError(f"input {printable(port.name)!r} is {array.dtype}, the model takes {dtype}")
        array = array.astype(dtype)
    _bind(port, array.shape, {} if sizes is None else sizes)
    return np.require(array, requirements=["C", "A"])


def _bind(port: Port, shape: tuple[int, ...], found: dict[str, int]) -> None:
    """Enters the run-time sizes that a shape tells. Raises SofieError where it is not the port's."""
    before = ", ".join(f"{name}={number}" for name, number in found.items())
    if not bind(port.shape, shape, found):
        given, taken = (f"({', '.join(map(str, extents))})" for extents in (shape, port.shape))
        where = f" where {before}" if before else ""
        raise SofieError(f"input {printable(port.name)!r} has shape {given}, the model takes {taken}{where}")


class LateModel(Model):
    """A model whose shapes or axes are told by some of its inputs: it is compiled for each set of their values.

    Before the first run, neither shapes nor program are known; afterwards they are those of the last run.
    """

    def __init__(self, proto: onnx.ModelProto, options: Options, name: str, telling: Sequence[str]) -> None:
        self._proto, self._options, self._name, self.telling = proto, options, name, telling
        self._made: OrderedDict[tuple[bytes, ...], Compiled] = OrderedDict()
        self._state = np.zeros(2, np.uint64)

    @property
    def compiled(self) -> Compiled:
        """What ran last. Raises SofieError before the first run."""
        if not self._made:
            raise needed(self.telling)
        return next(reversed(self._made.values()))

    def seed(self, seed: int) -> None:
        """As for any model; the numbers go on through all that is compiled."""
        self._state[:] = seed % 2**64, 0

    def _names(self) -> list[str]:
        return names_of_inputs(self._proto.graph, self._options.values)

    def _run(self, arrays: Sequence[object]) -> list[Any]:
        given = dict(zip(self._names(), arrays, strict=True))
        for name in self.telling:
            if borrowed(given[name], name) is not None:
                raise SofieError(f"input {printable(name)!r} tells shapes or axes: pass it as an array of the host")
        operands = {name: np.asarray(given[name]) for name in self.telling}
        key = tuple(str((a.dtype, a.shape)).encode() + a.tobytes() for a in operands.values())
        if key not in self._made:
            options = replace(self._options, operands=operands)
            self._made[key] = _compiled(self._proto, options, self._name, None)
            self._made[key].state = self._state
            if len(self._made) > LATE_MODELS:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return super()._run(arrays)


def compile_model(source: Source, options: Options, name: str | None = None, progress: Progress | None = None) -> Model:
    """A model as machine code in this process; the compiler's work is cached on disk.

    Where values of inputs tell shapes or axes, that happens when it is called.
    """
    proto = read_model(source, options.dims, options.values)
    telling = operand_inputs(inline_functions(proto).graph, {*options.values, *options.operands})
    called = name or default_name(source)
    if telling:
        return LateModel(proto, options, called, telling)
    return Model(_compiled(proto, options, called, progress))


def _compiled(source: Source, options: Options, name: str, progress: Progress | None) -> Compiled:
    if options.target == "hip":
        raise SofieError("a model for HIP is written to files: use sofie.generate, and compile with hipcc")
    if options.cpu == "multi":  # this machine runs one of them
        options = replace(options, cpu="native")
    program = lower(source, name, options, progress)
    if progress is not None:
        progress("compile the CUDA" if options.target == "cuda" else "compile the C++")
    if isinstance(program, CudaProgram):
        return cuda_jit.compile_program(program, options.arch)
    return jit.compile_program(program, jit.flags_for(options.blas, program.threads > 1))


@dataclass(frozen=True)
class Generated:
    """The files of a generated model; `data` is None where the weights are in the header, `cmake` where not asked."""

    header: Path
    data: Path | None
    program: Program
    cmake: Path | None = None


def generate(
    source: Source,
    folder: str | Path,
    options: Options,
    name: str | None = None,
    embed: bool = False,
    progress: Progress | None = None,
    cmake: bool = False,
    profile: bool = False,
) -> Generated:
    """Writes `<name>.hxx` (.cuh for CUDA) and `<name>.dat` into `folder`: nothing half-written stays behind.

    With `cmake`, `<name>.cmake` as well, a library target to include and link. With `profile` a session counts the time
    of its kernels.
    """
    program = lower(source, name or default_name(source), options, progress)
    return _write([program], Path(folder), program.name, embed, cmake, profile)[0]


def generate_together(
    sources: Sequence[Source],
    folder: str | Path,
    options: Options,
    name: str,
    embed: bool = False,
    progress: Progress | None = None,
    cmake: bool = False,
    profile: bool = False,
) -> list[Generated]:
    """Several models in one header `<name>.hxx`: a namespace and a weight file each, named after their files."""
    namer = Namer()
    programs = [lower(source, namer(default_name(source)), options, progress) for source in sources]
    return _write(programs, Path(folder), identifier(name, "models"), embed, cmake, profile)


def _write(
    programs: Sequence[Program], folder: Path, name: str, embed: bool, cmake: bool, profile: bool
) -> list[Generated]:
    if isinstance(programs[0], CudaProgram):
        _only_for_cpus(programs[0].target, ("--cmake", cmake), ("--profile", profile))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SofieError(f"the folder {printable(str(folder))!r} cannot be made: {error.strerror}") from error
    header = folder / f"{name}{programs[0].suffix}"
    text = "\n".join(program.header(embed, profile) for program in programs)
    data = [None if embed else folder / f"{program.name}.dat" for program in programs]
    for program, path in zip(programs, data, strict=True):
        if path is not None:
            try:
                weight_file.write(path, program.weights, program.layout)
            except OSError as error:
                raise SofieError(f"{printable(str(path))!r} cannot be written: {error.strerror}") from error
    write(header, text.encode())
    target = folder / f"{name}.cmake" if cmake else None
    if target is not None:
        write(target, cmake_target(name, programs, embed).encode())
    return [Generated(header, path, program, target) for program, path in zip(programs, data, strict=True)]
