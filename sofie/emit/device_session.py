"""Writes the class `Session` of a program for CUDA: what users of the .cuh see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sofie.emit.named import inputs_struct
from sofie.emit.ports import Port
from sofie.emit.printer import KernelPrinter
from sofie.emit.session import checked, parameters, passed, returning, size_checks
from sofie.emit.spelling import LINE, listed, string
from sofie.sizes import most

if TYPE_CHECKING:
    from sofie.emit.cuda import CudaProgram

ALIGNMENT = 256
"""Bytes: that of cudaMalloc, and of each input and output in their room."""


_FROM_FILES = """   Session() : Session(DeviceWeights(Weights())) {}
   explicit Session(const std::string &file, bool graphs = true)
       : Session(DeviceWeights(Weights(file)), graphs)
   {
   }
"""
_WEIGHTS = """// The weights on the device; copies share them.
class DeviceWeights {
public:
   // Throws std::runtime_error where the device has no room.
   explicit DeviceWeights(const Weights &weights) : memory_(detail::device_memory(detail::weight_file_bytes))
   {
      detail::check(
          cudaMemcpy(memory_.get(), weights.data(), detail::weight_file_bytes, cudaMemcpyHostToDevice), "the weights");
      detail::check(cudaStreamSynchronize(nullptr), "the weights"); // what is copied may still be on its way
   }

   const unsigned char *data() const noexcept { return memory_.get(); }

private:
   std::shared_ptr<unsigned char> memory_;
};"""


def device_session(program: CudaProgram, whole: bool) -> str:
    """The classes that users see: weights and scratch memory on the device, inference there and from the host.

    whole: with the constructors that read files, and the calls that return vectors.
    """
    takes, gives = parameters(program)
    arguments = ["weights_.data()", "arena_.get()", "on" if program.graphs else "stream"]
    arguments += [f"static_cast<index>({name})" for name in program.sizes.values()]
    arguments += [passed(p, const=True) for p in program.inputs] + ["random_state_.data()"] * program.draws
    arguments += [passed(p, const=False) for p in program.outputs]
    arguments += [f"reinterpret_cast<index *>({p.found})" for p in program.late]
    spell = KernelPrinter(sizes=dict(program.sizes))
    rooms, end = _rooms((*program.inputs, *program.outputs))
    there = {port: f"reinterpret_cast<{port.cpp} *>(room_.get() + {place})" for port, place in rooms.items()}
    call = [*program.sizes.values(), *(there[p] for p in program.inputs)]
    call += [part for p in program.outputs for part in ([there[p], p.found] if p.found else [there[p]])]
    copies = [_copy(p, rooms[p], spell, back=False) for p in program.inputs]
    copies += [listed("      infer_device(", [*call, "stream"], ");")]
    copies += [_copy(p, rooms[p], spell, back=True) for p in program.outputs]
    members = ["weights_(weights)", f"arena_(detail::device_memory({max(program.arena_bytes, 64)}))"]
    members += [f"room_(detail::device_memory({max(end, 64)}))", *(["graphs_(graphs)"] if program.graphs else [])]
    return f"""{inputs_struct(program) * whole}
{_WEIGHTS}

// Scratch memory on the device, for one stream at a time; the weights are shared. It can be moved, not copied, and
// lives on the device that is current when it is made. Throws std::runtime_error on what CUDA reports, with the kernel
// and its ONNX nodes.
class Session {{
public:
   // {_GRAPHS if program.graphs else _NO_GRAPHS}
{_FROM_FILES * whole}   explicit Session(const DeviceWeights &weights, bool{" graphs" * program.graphs} = true)
       : {", ".join(members)}
   {{
{f"      prepare();{chr(10)}" * program.prepares}   }}
   Session(Session &&) = default;
   Session &operator=(Session &&) = default;

   // Pointers of the device. Returns when all is on the stream, unless the model has conditions: those are waited for.
{listed("   void infer_device(", [*takes, *gives, "cudaStream_t stream = nullptr"], ")")}
   {{
{checked(program)}{_launches(program, arguments)}
   }}

   // Pointers of the host: copies inputs there and outputs back, and waits for them.
{listed("   void infer(", [*takes, *gives, "cudaStream_t stream = nullptr"], ")")}
   {{
{checked(program)}{chr(10).join(copies)}
      detail::check(cudaStreamSynchronize(stream), "the stream");
   }}
{_SEED * program.draws}{(chr(10) + returning(program)) * whole}
private:{size_checks(program)}
   DeviceWeights weights_;
   std::shared_ptr<unsigned char> arena_, room_;{_members(program)}
}};"""


def _rooms(ports: Sequence[Port]) -> tuple[dict[Port, int], int]:
    """Where each port's copy begins in the device's memory, in bytes, and where the last one ends."""
    rooms: dict[Port, int] = {}
    end = 0
    for port in ports:
        rooms[port] = end
        end += -(-math.prod(map(most, port.shape)) * np.dtype(port.dtype).itemsize // ALIGNMENT) * ALIGNMENT
    return rooms, end


_GRAPHS = """The launches of a call become a CUDA graph, kept with their pointers and sizes and run again for the same;
   // without `graphs`, or where the stream is being captured, kernels are launched one by one."""
_NO_GRAPHS = "There is nothing to make a CUDA graph of: the host reads numbers back, or there is one launch."
_SEED = """
   // Random numbers follow from the seed, which is 0 at first, and the number of calls since it was set: those that
   // come to the stream afterwards begin with `call`.
   void seed(std::uint64_t seed, cudaStream_t stream = nullptr, std::uint64_t call = 0)
   {
      random_state_.begin(seed, call, stream);
   }
"""


def _launches(program: CudaProgram, arguments: Sequence[str]) -> str:
    """The statements that put the kernels on the stream."""
    counts = "random_state_.advance({});"
    if not program.graphs:
        return listed("      launch(", arguments, ");") + f"\n      {counts.format('stream')}" * program.draws
    key = [f"static_cast<std::uintptr_t>({name})" for name in program.sizes.values()]
    key += [f"reinterpret_cast<std::uintptr_t>({p.parameter})" for p in (*program.inputs, *program.outputs)]
    body = listed("         launch(", arguments, ");") + f"\n         {counts.format('on')}" * program.draws
    launches = f"      const auto launches = [&](cudaStream_t on) {{ {body.strip()} }};"
    if len(launches) > LINE or "\n" in launches:
        launches = f"      const auto launches = [&](cudaStream_t on) {{\n{body}\n      }};"
    return f"""{launches}
{listed(f"      const {_graphs_of(program)}::Arguments arguments = {{", key, "};")}
      if (!graphs_ || detail::captures(stream))
         launches(stream);
      else
         graph_of_.run(arguments, stream, launches);"""


def _graphs_of(program: CudaProgram) -> str:
    """The type of the graphs that a session keeps."""
    return f"detail::Graphs<{len(program.sizes) + len(program.inputs) + len(program.outputs)}>"


def _members(program: CudaProgram) -> str:
    """What a session remembers of its graphs and of random numbers."""
    graphs = f"\n   bool graphs_;\n   {_graphs_of(program)} graph_of_;" if program.graphs else ""
    return "\n   detail::RandomState random_state_;" * program.draws + graphs


def _copy(port: Port, place: int, spell: KernelPrinter, back: bool) -> str:
    """The statement that copies an input to its room on the device, or an output back: all there may be where the run
    finds its extents.
    """
    elements = math.prod(map(most, port.shape)) if port.found else spell.extent(port.elements)
    there, here = f"room_.get() + {place}", port.parameter
    ends, kind = ((here, there), "cudaMemcpyDeviceToHost") if back else ((there, here), "cudaMemcpyHostToDevice")
    what = f"{'output' if back else 'input'} {port.name}"
    copy = listed("cudaMemcpyAsync(", [*ends, f"{elements} * sizeof *{here}", kind, "stream"], ")")
    return f"      detail::check({copy}, {string(what)});"
