"""Writes what a header needs to count the time of its kernels: `sofie compile --profile`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdsl.dialects import func, scf

from sofie import affine
from sofie.emit.spelling import string
from sofie.kernel_work import kernel_work
from sofie.loops import THREADS
from sofie.rewrite import node_names
from sofie.work import Work

if TYPE_CHECKING:
    from sofie.emit.variant import Variant

PROFILE = """\
// A call of a kernel in an inference: its measured time, and the work that its code does each time: `flops` counts the
// floating-point operations of all lanes, `bytes` each element of weights and buffers that is touched, once.
struct KernelTime {
   const char *kernel;
   const char *nodes;
   double flops;
   double bytes;
   std::uint64_t calls;
   double microseconds;
};

namespace detail {
struct Profile {
   using Clock = std::chrono::steady_clock;

   std::vector<KernelTime> kernels;
   Clock::time_point last = Clock::now();

   void start() noexcept { last = Clock::now(); }

   void lap(std::size_t kernel) noexcept
   {
      const Clock::time_point now = Clock::now();
      kernels[kernel].microseconds += std::chrono::duration<double, std::micro>(now - last).count();
      ++kernels[kernel].calls;
      last = now;
   }
};
} // namespace detail"""

PROFILE_METHODS = """
   // The kernels in the order of their calls, with the time spent in each since the session began or was reset.
   const std::vector<KernelTime> &profile() const noexcept { return profile_.kernels; }

   void reset_profile() noexcept
   {
      for (auto &kernel : profile_.kernels) {
         kernel.calls = 0;
         kernel.microseconds = 0;
      }
   }

   // Prints a line a kernel: its calls and time, and how fast it computed and touched memory meanwhile.
   void print_profile(std::FILE *to = stdout) const
   {
      double total = 0;
      for (const auto &kernel : profile_.kernels)
         total += kernel.microseconds;
      std::fprintf(to, "%10s %12s %7s %9s %9s  %s\\n", "calls", "us", "share", "GFLOP/s", "GB/s", "kernel");
      for (const auto &kernel : profile_.kernels) {
         const double times = static_cast<double>(kernel.calls);
         const double us = kernel.microseconds > 0 ? kernel.microseconds : 1;
         std::fprintf(to, "%10.0f %12.1f %6.1f%% %9.2f %9.2f  %s: %s\\n", times, kernel.microseconds,
                      total > 0 ? 100 * kernel.microseconds / total : 0.0, kernel.flops * times / us * 1e-3,
                      kernel.bytes * times / us * 1e-3, kernel.kernel, kernel.nodes);
      }
   }
"""


@dataclass(frozen=True)
class KernelCall:
    """A call of a kernel in an inference, or those of all its parts. nodes: the ONNX nodes it comes from."""

    kernel: str
    nodes: str
    work: Work


def kernel_calls(variant: Variant) -> list[KernelCall]:
    """The calls of an inference in the order of the code, each with its work."""
    functions = {op.sym_name.data: op for op in variant.module.body.block.ops if isinstance(op, func.FuncOp)}
    found = []
    for call in [op for op in variant.infer.walk() if isinstance(op, func.CallOp)]:
        kernel = functions[call.callee.root_reference.data]
        nodes = ", ".join(node_names(call.location) or node_names(kernel.location))
        found.append(KernelCall(kernel.sym_name.data, nodes, kernel_work(kernel, _parts(call))))
    return found


def _parts(call: func.CallOp) -> int:
    """How many parts of a kernel threads run by this call."""
    loop = call.parent_op()
    if not isinstance(loop, scf.ParallelOp) or THREADS not in loop.attributes:
        return 1
    return affine.constant(loop.upperBound[0]) or 1


def kernel_times(variant: Variant) -> str:
    """The function that gives what a session counts with."""
    rows = [
        f"{{{string(c.kernel)}, {string(c.nodes)}, {c.work.flops}.0, {c.work.bytes}.0, 0, 0.0}}"
        for c in kernel_calls(variant)
    ]
    lines = ",\n      ".join(rows)
    return f"inline std::vector<KernelTime> kernel_times()\n{{\n   return {{{lines}}};\n}}"
