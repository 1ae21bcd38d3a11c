"""Writes a level 4' module as CUDA: kernels, and the entry that launches them one after the other on a stream.

The text is the same for nvcc and for the host emulation of the tests: what differs is whose `cudaMemcpyAsync` and which
`SOFIE_LAUNCH` it finds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from xdsl.dialects import arith, gpu, memref, scf
from xdsl.dialects.builtin import IndexType, IntegerAttr, MemRefType, ModuleOp, i8
from xdsl.ir import Block, Operation, SSAValue

from sofie.body import ROLLED, UNROLL
from sofie.dialects.scalars import WORD, JoinOp
from sofie.dialects.sofie import MmaOp, NarrowOp
from sofie.dialects.types import shape_of_type
from sofie.dialects.upstream import SubgroupReduceOp
from sofie.emit.cpp import Program
from sofie.emit.device_session import device_session
from sofie.emit.printer import KernelPrinter
from sofie.emit.sources import source
from sofie.emit.spelling import ATOM, Expression, comment, listed, scalar_type, string, type_name
from sofie.emit.variant import EntryPrinter, Variant
from sofie.emit.vectors import has_codes
from sofie.launches import (
    ALIASED,
    MODULE,
    PARTIALS_BYTES,
    SHARED_BYTES,
    TOGETHER,
    WARP,
    is_shared,
    shared_arrays,
    shared_bytes,
)
from sofie.rewrite import node_names
from sofie.sizes import most
from sofie.target import CPUS

PLACES = {
    gpu.GlobalIdOp: "static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x",
    gpu.ThreadIdOp: "threadIdx.x",
    gpu.BlockIdOp: "blockIdx.x",
    gpu.LaneIdOp: f"threadIdx.x % {WARP}",
}
"""What a thread knows of its own place; all of it lies along x."""
WORDS = ("load_word(", "join(", "dot(", "quantized<", "requantized<")
"""How calls of the functions of words.cuh begin."""
RESERVED = frozenset(
    {
        "stream",
        "on",
        "arguments",
        "launch",
        "launches",
        "prepare",
        "weights_",
        "arena_",
        "room_",
        "graphs_",
        "graph_of_",
        "random_state_",
    }
)
"""Names in a session that no tensor may have."""


@dataclass
class DevicePrinter(KernelPrinter):
    """Prints the body of a kernel. places: where each of the block's arrays starts."""

    places: Mapping[SSAValue, int] = field(default_factory=dict)

    def statement(self, op: Operation) -> None:
        """The statement of an op; the return of a kernel is its end."""
        if type(op) in PLACES:
            if not op.results[0].uses:
                return  # there is one block, or one warp
            name = self.names(op.results[0].name_hint or "place")
            self.line(f"const index {name} = {PLACES[type(op)]};")
            self.spelled[op.results[0]] = Expression(name, ATOM)
        elif isinstance(op, gpu.BarrierOp):
            self.line("__syncwarp();" if "sofie.scope" in op.attributes else "__syncthreads();")
        elif isinstance(op, gpu.AllReduceOp | SubgroupReduceOp):
            self._reduce(op)
        elif isinstance(op, memref.AllocaOp):
            self._array(op)
        elif isinstance(op, MmaOp):
            self._mma(op)
        elif not isinstance(op, gpu.ReturnOp):
            super().statement(op)

    def _reduce(self, op: gpu.AllReduceOp | SubgroupReduceOp) -> None:
        """One value of all threads of a block or a warp, as a named constant of each."""
        assert op.op is not None
        combine = f"detail::{op.op.data.value.capitalize()}"
        kind, name = type_name(op.result.type), self.names(op.result.name_hint or "total")
        if isinstance(op, gpu.AllReduceOp):
            call = f"detail::block_reduce<{combine}>({self.text(op.operand)}, partials)"
        else:
            call = f"detail::warp_reduce<{combine}>({self.text(op.operand)})"
        self.line(f"const {kind} {name} = {call};")
        self.spelled[op.result] = Expression(name, ATOM)

    def _mma(self, op: MmaOp) -> None:
        """A product of a warp by its tensor cores: places of register arrays."""
        zero = arith.ConstantOp(IntegerAttr(0, IndexType())).result
        places = [self.address(op.sums, [op.row, op.column, zero])]
        places += [self.address(array, [at, zero]) for array, at in ((op.a, op.row), (op.b, op.column))]
        self.line(f"detail::product_{op.precision.data}({', '.join(places)});")

    def expression(self, op: Operation) -> Expression:
        """The expression of a pure op or a load."""
        if isinstance(op, NarrowOp):
            terms = ", ".join(self.text(term) for term in op.terms)
            return Expression(f"detail::narrow_{op.precision.data}({terms})", ATOM)
        if isinstance(op, JoinOp):
            zeros = ["0"] * (WORD - len(op.parts)) if op.parts[0].type == i8 else []
            return Expression(f"detail::join({', '.join([*map(self.text, op.parts), *zeros])})", ATOM)
        return super().expression(op)

    def _array(self, op: memref.AllocaOp) -> None:
        """An array of the block's memory, or of the thread's registers."""
        name = self.names(op.memref.name_hint or "tile")
        kind, count = op.memref.type, math.prod(op.memref.type.get_shape())
        element = scalar_type(kind.get_element_type())
        if is_shared(op.memref):
            self.line(f"SOFIE_SHARED({element}, {name}, {self.places[op.memref]}, {count});")
        else:
            self.line(f"{element} {name}[{count}];")
        self.pointers[op.memref] = (name, 0)

    def block(self, block: Block) -> None:
        """The statements of a block; before those of a kernel, the memory that a reduction over the block needs."""
        function = block.parent_op()
        if isinstance(function, gpu.FuncOp) and any(isinstance(op, gpu.AllReduceOp) for op in function.walk()):
            self.line(f"SOFIE_SHARED(unsigned char, {self.names('partials')}, 0, {PARTIALS_BYTES});")
        super().block(block)

    def unrolls(self, loop: scf.ForOp) -> bool:
        """Whether a loop is asked to be unrolled, or not to be, so that its arrays are registers."""
        return UNROLL in loop.attributes or ROLLED in loop.attributes or super().unrolls(loop)

    def unroll(self, loop: scf.ForOp | scf.ParallelOp) -> None:
        """Asks for a loop to be unrolled."""
        self.lines.append("#pragma unroll 1" if ROLLED in loop.attributes else "#pragma unroll")


@dataclass
class LaunchPrinter(EntryPrinter):
    """Prints the launches of kernels, and the loops and conditions around them. nodes: ONNX nodes by kernel."""

    nodes: Mapping[str, str] = field(default_factory=dict)

    def statement(self, op: Operation) -> None:
        """The statement of one op of @infer."""
        if not isinstance(op, gpu.LaunchFuncOp):
            super().statement(op)
            return
        kernel = op.kernel.nested_references.data[0].data
        arguments = [self.pointer(v) if isinstance(v.type, MemRefType) else self.text(v) for v in op.kernelOperands]
        what = f"kernel {kernel}" + (f" of {self.nodes[kernel]}" if self.nodes[kernel] else "")
        shared = "0" if op.dynamicSharedMemorySize is None else self.text(op.dynamicSharedMemorySize)
        sizes = [self.text(op.gridSizeX), self.text(op.blockSizeX), shared, "stream"]
        self.line(f"SOFIE_LAUNCH(kernels::{kernel}, {', '.join([*sizes, *arguments])});")
        self.line(f"detail::check(cudaGetLastError(), {string(what)});")

    def expression(self, op: Operation) -> Expression:
        """The expression of a pure op, or of a number that the device has computed."""
        if isinstance(op, memref.LoadOp):
            return Expression(f"detail::fetch({self.address(op.memref, op.indices)}, stream)", ATOM)
        return super().expression(op)


def kernels_of(module: ModuleOp) -> dict[str, tuple[str, str]]:
    """Text and ONNX nodes of every kernel by its name."""
    found: dict[str, tuple[str, str]] = {}
    for holder in [op for op in module.body.block.ops if isinstance(op, gpu.ModuleOp)]:
        assert holder.sym_name.data == MODULE
        for op in holder.body.block.ops:
            assert isinstance(op, gpu.FuncOp)
            nodes = comment(", ".join(node_names(op.location)))
            says = [f"// {nodes}"] if nodes else []
            printer = DevicePrinter(places=shared_arrays(op), restrict=ALIASED not in op.attributes)
            assert op.known_block_size is not None
            bounds = str(op.known_block_size.get_values()[0])
            if isinstance(together := op.attributes.get(TOGETHER), IntegerAttr):
                bounds += f", {together.value.data}"
            text = printer.kernel(op, f"static __global__ __launch_bounds__({bounds}) ", "")
            if _is_narrow(op):  # nothing of a model is called `index`
                text = [re.sub(r"\bindex\b", "int", line) for line in text]
            found[op.sym_name.data] = "\n".join([*says, *text]), nodes
    return found


NARROW = 2**26
"""As many elements have a warp each, and no place of any of their threads is beyond an `int`."""


def _is_narrow(function: gpu.FuncOp) -> bool:
    """Whether all that a kernel counts is below 2^31: places in its arrays, and loops whose ends are no data."""
    arrays = [v.type for v in function.body.block.args if isinstance(v.type, MemRefType)]
    arrays += [op.memref.type for op in function.walk() if isinstance(op, memref.AllocaOp)]
    ends = [op.ub.owner for op in function.walk() if isinstance(op, scf.ForOp)]
    if any(isinstance(end, arith.IndexCastOp) for end in ends) or any(
        isinstance(o, scf.WhileOp) for o in function.walk()
    ):
        return False
    return all(math.prod(map(most, shape_of_type(kind))) <= NARROW for kind in arrays)


def as_variant(module: ModuleOp) -> Variant:
    """A module at the gpu level in the place of what a program has for each CPU: none has a say in it."""
    return Variant(module, CPUS["scalar"])


@dataclass
class CudaProgram(Program):
    """A module at the gpu level, with what its text is made of: prints itself as a .cuh.

    Its one variant is `as_variant` of the module. arch: the card that its comment tells to compile for.
    """

    suffix: ClassVar[str] = ".cuh"
    target: ClassVar[str] = "cuda"
    command: ClassVar[str] = "nvcc -std=c++17 -O3 -arch={arch}"
    """What compiles a program that includes the file."""
    call: ClassVar[type[Operation]] = gpu.LaunchFuncOp
    reserved: ClassVar[frozenset[str]] = Program.reserved | RESERVED
    includes: ClassVar[tuple[str, ...]] = tuple(
        "array cmath cstddef cstdint cstdlib cstring limits memory stdexcept string tuple".split()
        + "type_traits utility vector".split()
    )
    """The standard headers that the text needs."""
    runtime: ClassVar[tuple[str, ...]] = ("#ifndef SOFIE_LAUNCH", "#include <cuda_runtime.h>", "#endif")
    """What brings CUDA's own names, where nobody else has."""

    arch: str = ""

    @property
    def compiles(self) -> str:
        """What compiles a program that includes the file, for the card that was asked for, else the machine's own."""
        return self.command.format(arch=self.arch or "native")

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file's first comment says besides."""
        return (*self.asked, f"Compile with {self.compiles}")

    @cached_property
    def large(self) -> dict[str, int]:
        """The bytes of a block's memory, of kernels that want more than any has unasked."""
        functions = [op for op in self.module.walk() if isinstance(op, gpu.FuncOp)]
        sizes = {function.sym_name.data: shared_bytes(function) for function in functions}
        return {name: size for name, size in sizes.items() if size > SHARED_BYTES}

    @property
    def prepares(self) -> bool:
        """Whether the text has a function `prepare()`, to be called before the first launch."""
        return bool(self.large)

    @cached_property
    def printed(self) -> dict[str, tuple[str, str]]:
        """Text and ONNX nodes of every kernel by its name."""
        return kernels_of(self.module)

    @cached_property
    def kernels(self) -> list[str]:
        """The text of every kernel."""
        return [text for text, _ in self.printed.values()]

    @property
    def reads_back(self) -> bool:
        """Whether the host waits for numbers of the device, for conditions, trip counts or shapes."""
        return bool(self.late) or any(isinstance(op, memref.LoadOp) for op in self.infer.walk())

    @property
    def graphs(self) -> bool:
        """Whether the launches of a call can become one act: several of them, known before the first has run."""
        several = len(self.calls) + self.draws > 1 or any(call.parent_op() is not self.infer for call in self.calls)
        return several and not self.reads_back

    @staticmethod
    def operands_of(call: Operation) -> Sequence[SSAValue]:
        """What a kernel is launched with."""
        assert isinstance(call, gpu.LaunchFuncOp)
        return list(call.kernelOperands)

    def core(self, profile: bool = False) -> str:
        """Prelude, kernels and entry: all that runs."""
        kernels, texts = self.printed, "\n\n".join(self.kernels)
        parts = [source("device.cuh"), *([source("graphs.cuh")] if self.graphs else [])]
        parts += [source("random_state.cuh")] if self.draws else []
        cores = "detail::product_" in texts
        parts += [source("codes.hxx").replace("SOFIE_INLINE", "SOFIE_DEVICE")] if cores or has_codes(texts) else []
        parts += [source("words.cuh")] if any(f"detail::{name}" in texts for name in WORDS) else []
        parts += [source("tensor_cores.cuh")] if cores else []
        parts += [f"namespace kernels {{\n\n{texts}\n\n}} // namespace kernels" if kernels else ""]
        parts += [_prepare(self.large)] if self.large else []
        parts += [_entry(self, {name: nodes for name, (_, nodes) in kernels.items()}), "#undef SOFIE_DEVICE"]
        return "\n\n".join(part for part in parts if part)

    def header(self, embed: bool = False, profile: bool = False) -> str:
        """The .cuh: tables, weights, kernels and the class `Session`, in a namespace of its own."""
        session = device_session(self, whole=True)
        return self.framed("CUH", ", for CUDA", self.includes, self.runtime, [self.core(), session], embed)


def _prepare(large: Mapping[str, int]) -> str:
    """The function that asks for the memory of blocks."""
    lines = [
        listed(
            f"   detail::check(cudaFuncSetAttribute(kernels::{name}, ",
            ["cudaFuncAttributeMaxDynamicSharedMemorySize", str(size)],
            f"), {string(f'{size} bytes of shared memory for kernel {name}')});",
        )
        for name, size in large.items()
    ]
    return "\n".join(["inline void prepare()", "{", *lines, "}"])


def _entry(program: CudaProgram, nodes: Mapping[str, str]) -> str:
    """The function that launches everything, on pointers of the device."""
    printer = LaunchPrinter(offsets=program.offsets, nodes=nodes)
    printer.names("stream")
    parameters = ["const unsigned char *weights", "unsigned char *arena", "cudaStream_t stream"]
    return printer.function(program, program.infer, "inline void launch(", parameters, {"weights", "arena", "stream"})
