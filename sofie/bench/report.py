"""Times one model for its user: `sofie bench`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sofie.bench import ceilings, systems
from sofie.bench.case import Case, draw, largest, prepare, tensors
from sofie.bench.profile import KernelTime, profile
from sofie.bench.workers import last_core, take_turns
from sofie.compiler import Options, Progress, Source, default_name, lower
from sofie.emit.cpp import Program
from sofie.errors import SofieError
from sofie.frontends.onnx import read_model
from sofie.info import info

OURS, RUNTIME = "sofie", "onnxruntime"
ROUND_SECONDS = 0.2


@dataclass(frozen=True)
class Report:
    """What was measured; the fields are the keys of `sofie bench --json`.

    us: median microseconds of a call, by system, each in as many rounds as the other, in turn on one core. ratio: ours
    to onnxruntime, the median of the rounds' ratios; None without it. floor_us: the least time that the model's
    floating-point operations and bytes take on this core; bound: which of both. peak: GFLOP/s. sizes: the run-time
    sizes that were timed. kernels: with a profile, the time of each kernel.
    """

    model: str
    us: dict[str, float]
    ratio: float | None
    floor_us: float
    bound: str
    flops: int
    bytes: int
    peak: float
    sizes: dict[str, int]
    kernels: tuple[KernelTime, ...] = ()


def bench(
    source: Source,
    options: Options,
    versus: Sequence[str] = (),
    rounds: int = 7,
    profiled: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Times a model's header, compiled with -O3 -march=native, beside the systems of `versus` (onnxruntime).

    Inputs are random. Raises SofieError where the model cannot be compiled, or a system is not there.
    """
    tell = progress or (lambda step: None)
    proto = read_model(source, options.dims, options.values)
    program = lower(proto, default_name(source), options, progress)
    tell("count the work")
    counted = info(proto, options)
    if counted.flops is None or counted.bytes_moved is None:
        raise SofieError(counted.error or "the model's work cannot be counted")
    core = last_core()
    with tempfile.TemporaryDirectory() as folder:
        case = case_of(program, proto, options, Path(folder))
        tell("compile the C++")
        commands = {OURS: systems.ours(case, program, systems.NATIVE, OURS, options.blas)}
        if RUNTIME in versus:
            commands[RUNTIME] = systems.onnxruntime(case)
        tell("measure the machine")
        limits = ceilings.measure(core)
        tell("measure the model")
        timings = take_turns(commands, rounds, ROUND_SECONDS, core)
        for system, why in timings.failed.items():
            raise SofieError(f"{system} does not run this model: {why}")
        kernels: list[KernelTime] = []
        if profiled:
            kernels = profile(case, program, systems.NATIVE, ROUND_SECONDS * rounds, core, limits, options.blas)
    floor = limits.floor(counted.flops, counted.bytes_moved)
    return Report(
        model=program.name,
        us={system: timings.us(system) for system in commands},
        ratio=timings.ratio(OURS, RUNTIME) if RUNTIME in commands else None,
        floor_us=floor.us,
        bound=floor.bound,
        flops=counted.flops,
        bytes=counted.bytes_moved,
        peak=limits.peak,
        sizes=largest(program),
        kernels=tuple(kernels),
    )


def case_of(program: Program, proto: onnx.ModelProto, options: Options, folder: Path) -> Case:
    """The model with random inputs at its largest sizes, written into `folder`. Raises SofieError."""
    sizes = largest(program)
    inputs, outputs = tensors(program.inputs, sizes), tensors(program.outputs, sizes)
    return prepare(program.name, _with_values(proto, options), folder, inputs, outputs, draw(program, 0))


def _with_values(proto: onnx.ModelProto, options: Options) -> onnx.ModelProto:
    """The model with the inputs that were set when compiling as initialisers, for those who run it as it is."""
    for value in [v for v in proto.graph.input if v.name in options.values]:
        kind = value.type.tensor_type
        array = np.asarray(options.values[value.name], onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        shaped = array.reshape(1) if array.ndim == 0 and len(kind.shape.dim) == 1 else array
        proto.graph.initializer.append(numpy_helper.from_array(shaped, value.name))
        proto.graph.input.remove(value)
    return proto
