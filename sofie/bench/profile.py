"""The time of each kernel of a model, beside the floor that its own work sets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sofie.bench.build import executable, source
from sofie.bench.case import Case
from sofie.bench.ceilings import Ceilings, Floor
from sofie.bench.systems import linked, session_call, words
from sofie.bench.workers import pinned_output
from sofie.emit.cpp import Program
from sofie.emit.profile import KernelCall, kernel_calls
from sofie.files import write
from sofie.work import Work


@dataclass(frozen=True)
class KernelTime:
    """A call of a kernel. calls: how often an inference runs it. us: of all of them in an inference."""

    call: KernelCall
    calls: float
    us: float
    floor: Floor


def profile(
    case: Case, program: Program, flags: tuple[str, ...], seconds: float, core: int, limits: Ceilings, blas: str
) -> list[KernelTime]:
    """Runs a program that takes its kernels' times, for so many seconds on `core`. Raises SofieError."""
    weights = case.folder / "profile.dat"
    write(weights, program.weight_bytes())
    worker = executable(_source(program), ["-std=c++17", "-w", *flags, *linked(program, blas)])
    command = [*words(worker, case, "profile"), str(weights), f"{seconds}"]
    lines = [line.split() for line in pinned_output(command, core).splitlines()]
    found = []
    for known, (calls, us, flops, moved) in zip(kernel_calls(program.variants[0]), lines, strict=True):
        times, work = float(calls), Work(int(flops), int(moved))  # those of the variant that this machine ran
        floor = limits.floor(work.flops, work.bytes)
        found.append(KernelTime(replace(known, work=work), times, float(us), Floor(floor.us * times, floor.bound)))
    return found


def _source(program: Program) -> str:
    """The text of a program that prints, a line a kernel: calls of an inference, the us that takes, work of a call."""
    return f"""{program.header(profile=True)}
{source("worker.hxx")}
int main(int, char **words)
{{
   worker::Tensors tensors(words[1]);
   SOFIE_{program.name}::Session session(words[3]);
   const double seconds = std::atof(words[4]);
   const auto run = [&] {{ {session_call(program)} }};
   run();
   session.reset_profile();
   double calls = 0;
   for (const double start = worker::now(); calls < 3 || worker::now() - start < seconds; ++calls) {{
      tensors.feed();
      run();
   }}
   for (const auto &kernel : session.profile())
      std::printf("%.9g %.9g %.0f %.0f\\n", static_cast<double>(kernel.calls) / calls, kernel.microseconds / calls,
                  kernel.flops, kernel.bytes);
}}
"""
