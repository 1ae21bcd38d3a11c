"""Writes a level 4 module as a C++17 header and its weight file.

`Program` collects what the text needs to know: the caller's tensors, the weights and where each lies in the file, the
arena, and the kernels' text. `header` puts it between the class users see, `core` is the part without STL headers that
the just-in-time compiler builds in a fraction of the time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources

import numpy as np
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, MemRefType, ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue

from sofie import weight_file
from sofie.dialects.sofie import SizeOp, WeightOp
from sofie.dialects.types import element_of, shape_of
from sofie.emit.ports import Port
from sofie.emit.printer import KernelPrinter
from sofie.emit.profile import profile_class
from sofie.emit.session import session
from sofie.emit.spelling import ATOM, Expression, listed, scalar_type, string
from sofie.emit.vectors import vector_types
from sofie.errors import SofieError
from sofie.extents import symbols_by_argument
from sofie.memory import memory_of
from sofie.naming import Namer, identifier
from sofie.random_state import state_of
from sofie.rewrite import blame, node_names
from sofie.sizes import Symbol, most, symbols_of
from sofie.target import Cpu
from sofie.weights import Array

_FILE_INCLUDES = (
    "#if defined(__unix__) || defined(__APPLE__)",
    *(f"#include <{name}>" for name in ("fcntl.h", "sys/mman.h", "sys/stat.h", "unistd.h")),
    "#else",
    "#include <cstdio>",
    "#endif",
)

_MATH = ("exp", "log", "sqrt", "tanh", "erf")


@dataclass
class EntryPrinter(KernelPrinter):
    """Prints what stands between the kernels: pointers into weights and arena, calls, loops and conditions.

    offsets: byte offset of each weight in the file, by digest. timed: the calls whose time is taken, where it is.
    """

    offsets: dict[str, int] = field(default_factory=dict)
    timed: list[func.CallOp] | None = None

    def statement(self, op: Operation) -> None:
        """The statement of one op of @infer."""
        if isinstance(op, WeightOp):
            if op.result.uses:
                self._point(op.result, "const ", "weights", self.offsets[op.blob.digest])
        elif isinstance(op, memref.ViewOp):
            shift = op.byte_shift.owner
            assert isinstance(shift, arith.ConstantOp) and isinstance(shift.value, IntegerAttr)
            if op.result.uses:
                self._point(op.result, "", "arena", shift.value.value.data)
        elif isinstance(op, func.CallOp):
            arguments = [self.pointer(v) if isinstance(v.type, MemRefType) else self.text(v) for v in op.arguments]
            self.line(f"kernels::{op.callee.root_reference.data}({', '.join(arguments)});")
            if self.timed is not None:
                self.line(f"profile.lap({len(self.timed)});")
                self.timed.append(op)
        elif isinstance(op, SizeOp):
            name = self.names(op.symbol.name)
            self.line(f"const index {name} = {self.text(op.value)};")
            self.spelled[op.result] = Expression(name, ATOM)
            self.sizes[op.symbol] = name
        elif isinstance(op, memref.AllocOp):
            raise SofieError(f"{blame(op)}: a buffer has no place; run plan-memory")
        elif not isinstance(op, arith.ConstantOp):
            super().statement(op)

    def _point(self, value: SSAValue, const: str, base: str, offset: int) -> None:
        name = self.names(value.name_hint or ("weight" if const else "buffer"))
        kind = scalar_type(element_of(value))
        self.line(f"{const}{kind} *const {name} = detail::at<{const}{kind}>({base}, {offset});")
        self.pointers[value] = (name, 0)


@dataclass
class Program:
    """Everything about a lowered model that its text is made of."""

    module: ModuleOp
    name: str
    cpu: Cpu
    inputs: list[Port] = field(init=False)
    outputs: list[Port] = field(init=False)
    sizes: dict[Symbol, str] = field(init=False)
    """The sizes that the caller gives, and their C++ parameters."""
    arena_bytes: int = field(init=False)
    draws: bool = field(init=False)
    """Whether it draws random numbers, from a state of two 64-bit integers: the seed and the number of the call."""

    def __post_init__(self) -> None:
        self.name = identifier(self.name, "model")
        names = Namer(frozenset({"weights", "arena", "Session", "Weights", "infer", "detail"}))
        ports: dict[bool, list[Port]] = {False: [], True: []}
        self.arena_bytes, self.sizes = 0, {}
        function = self.infer
        state = state_of(function)
        self.draws = state is not None
        given = symbols_by_argument(function)
        attributes = function.arg_attrs.data if function.arg_attrs is not None else ()
        for argument, attrs in zip(function.body.block.args, attributes, strict=True):
            if "sofie.arena" in attrs.data:
                self.arena_bytes = shape_of(argument)[0]
                continue
            if argument is state:
                continue
            if argument in given:
                self.sizes[given[argument]] = names(given[argument].name, "size")
                continue
            name = _text(attrs, "sofie.name") or argument.name_hint or "x"
            output = "sofie.output" in attrs.data
            parameter = names(name, "output" if output else "input")
            shape = shape_of(argument)
            late = output and any(symbol not in self.sizes for symbol in symbols_of(shape))
            found = names(f"{parameter}_shape", "shape") if late else ""
            ports[output].append(Port(name, parameter, _text(attrs, "sofie.dtype") or "float32", shape, found))
        self.inputs, self.outputs = ports[False], ports[True]

    @property
    def infer(self) -> func.FuncOp:
        """The function the caller calls."""
        for op in self.module.body.block.ops:
            if isinstance(op, func.FuncOp) and op.sym_name.data == "infer":
                return op
        raise SofieError("the module has no function @infer")

    @cached_property
    def weights(self) -> list[tuple[str, Array]]:
        """The weights by unique name, in the order of their first use; equal contents once."""
        return [(name, array) for name, (_, array) in self._places.items()]

    @cached_property
    def _places(self) -> dict[str, tuple[str, Array]]:
        found: dict[str, tuple[str, Array]] = {}
        seen: dict[str, str] = {}
        for op in self.infer.walk():
            if isinstance(op, WeightOp) and op.blob.digest not in seen:
                base = op.weight_name.data or "weight"
                name, k = base, 1
                while name in found:
                    name, k = f"{base}.{k}", k + 1
                found[name] = (op.blob.digest, op.blob.value)
                seen[op.blob.digest] = name
        return found

    @cached_property
    def layout(self) -> str:
        """The digest of all that a weight file must agree with: names, shapes, types, and the code that reads them."""
        listing = [[n, str(a.dtype), list(a.shape)] for n, a in self.weights]
        text = json.dumps(listing) + "\n".join(self.kernels)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def file(self) -> weight_file.WeightFile:
        """The weight file without its tensors' bytes."""
        return weight_file.plan(self.weights, self.layout)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Byte offset of each weight in the file, by digest."""
        return {digest: self.file.offsets[name] for name, (digest, _) in self._places.items()}

    def weight_bytes(self) -> bytes:
        """The contents of the `.dat`."""
        return weight_file.encode(self.weights, self.layout)

    @cached_property
    def kernels(self) -> list[str]:
        """The text of every kernel, each under a comment that names its ONNX nodes."""
        texts = []
        for op in self.module.body.block.ops:
            if isinstance(op, func.FuncOp) and op is not self.infer:
                nodes = node_names(op.location)
                comment = [f"// {_comment(', '.join(nodes))}"] if nodes else []
                texts.append("\n".join([*comment, *KernelPrinter().kernel(op, "SOFIE_TARGET inline ")]))
        return texts

    @property
    def late(self) -> list[Port]:
        """The outputs whose extents the run finds: the entry writes them through pointers that follow the outputs."""
        return [port for port in self.outputs if port.found]

    @property
    def uses_blas(self) -> bool:
        """Whether the program must be linked with a CBLAS."""
        return any("cblas_" in kernel for kernel in self.kernels)

    @property
    def kernel_calls(self) -> int:
        """How many kernels one inference runs; 0 means that the result was known when compiling."""
        return len(self.calls)

    @property
    def computes(self) -> bool:
        """Whether it does more than copy weights to outputs; if not, the results were known when compiling."""
        written = set(self.infer.body.block.args[len(self.sizes) + len(self.inputs) + self.draws :])
        return any(isinstance(op, memref.LoadOp) for op in self.infer.walk()) or any(
            all(memory_of(v) in written for v in call.operands)
            or not all(memory_of(v) in written or isinstance(memory_of(v).owner, WeightOp) for v in call.operands)
            for call in self.calls
        )

    @property
    def calls(self) -> list[func.CallOp]:
        """The calls of kernels, in the order of the code."""
        return [op for op in self.infer.walk() if isinstance(op, func.CallOp)]

    def entry(self, profile: bool = False) -> str:
        """The function that runs the kernels one after the other on weights, arena, inputs and outputs."""
        printer = EntryPrinter(offsets=self.offsets, timed=[] if profile else None)
        parameters = [
            "const unsigned char *weights",
            "unsigned char *arena",
            *(["Profile &profile"] if profile else []),
        ]
        ports = iter([*self.inputs, *self.outputs])
        unused = {"weights", "arena"}
        given, state = symbols_by_argument(self.infer), state_of(self.infer)
        for argument in self.infer.body.block.args:
            if argument in given:
                name = printer.names(self.sizes[given[argument]])
                printer.sizes[given[argument]] = name
                printer.spelled[argument] = Expression(name, ATOM)
                parameters.append(f"const index {name}")
                unused.add(name)
                continue
            if (
                isinstance(argument.type, MemRefType)
                and shape_of(argument) == (self.arena_bytes,)
                and argument.name_hint == "arena"
            ):
                printer.pointers[argument] = ("arena", 0)
                continue
            if argument is state:
                name = printer.names("random_state")
                parameters.append(f"const std::int64_t *{name}")
                printer.pointers[argument] = (name, 0)
                unused.add(name)
                continue
            port = next(ports)
            output = port in self.outputs
            name = printer.names(port.parameter)
            kind = scalar_type(element_of(argument))
            parameters.append(f"{'' if output else 'const '}{kind} *{name}")
            printer.pointers[argument] = (name, 0)
            unused.add(name)
        if profile:
            printer.line("profile.start();")
        printer.block(self.infer.body.block)
        for port in self.late:
            parameters.append(f"index *{(name := printer.names(port.found))}")
            for axis, extent in enumerate(port.shape):
                printer.line(f"{name}[{axis}] = {printer.extent(extent)};")
        body = "\n".join(printer.lines)
        words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").replace(";", " ").split())
        silenced = "".join(f"   static_cast<void>({n});\n" for n in sorted(unused - words))
        function = f"{listed('SOFIE_TARGET inline void infer(', parameters, ') noexcept')}\n{{\n{silenced}{body}\n}}"
        return f"namespace detail {{\n{function}\n}} // namespace detail"

    # -- text ----------------------------------------------------------------------------------------------------

    def core(self, profile: bool = False) -> str:
        """Prelude, kernels and entry: all that runs, without STL headers and without a namespace.

        With `profile` it takes each kernel's time, and needs <chrono> and <vector>.
        """
        kernels = "\n\n".join(self.kernels)
        needs_math = any(f"{name}(" in kernels for name in _MATH)
        parts = [_source("prelude.hxx").rstrip()]
        parts += [vector_types(kernels)] if self.cpu.lanes > 1 else []
        parts += [_source("math.hxx").rstrip()] if needs_math else []
        parts += [f"namespace kernels {{\n\n{kernels}\n\n}} // namespace kernels"] if kernels else []
        parts += [profile_class(self)] if profile else []
        parts.append(self.entry(profile))
        return "\n\n".join(p for p in parts if p)

    def header(self, embed: bool = False, profile: bool = False) -> str:
        """The header: tables, weights, kernels and the class `Session`, in a namespace of its own.

        With `profile` a session counts the time of each kernel.
        """
        guard = f"SOFIE_{self.name}_HXX"
        includes = [*(["array"] if self.late else []), *(["chrono", "cstdio"] if profile else [])]
        includes += ["cstddef", "cstdint", "cstring", "memory", "new", "stdexcept", "string", "tuple", "vector"]
        lines = [
            f"// {_comment(self.name)}: {len(self.inputs)} input(s), {len(self.outputs)} output(s), "
            f"{sum(a.size for _, a in self.weights):,} weights, "
            f"{self.arena_bytes:,} bytes of scratch. Written by SOFIE.",
            "",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            *(f"#include <{name}>" for name in includes),
            *_FILE_INCLUDES,
            *(["#include <cblas.h>"] if self.uses_blas else []),
            "",
            f"#define SOFIE_TARGET {self.cpu.attribute}",
            f"#define SOFIE_LANES {self.cpu.lanes}",
            "",
            f"namespace SOFIE_{self.name} {{",
            "",
            self._tables(),
            "",
            self._weights_class(embed),
            "",
            self.core(profile),
            "",
            *([_source("cpu.hxx").rstrip(), ""] if self.cpu.level else []),
            session(self, embed, profile),
            "",
            f"}} // namespace SOFIE_{self.name}",
            "",
            f"namespace TMVA_SOFIE_{self.name} = SOFIE_{self.name};",
            "",
            "#undef SOFIE_TARGET",
            "#undef SOFIE_LANES",
            "#undef SOFIE_INLINE",
            "#undef SOFIE_MATH",
            "",
            f"#endif // {guard}",
            "",
        ]
        return "\n".join(lines)

    def _tables(self) -> str:
        bounds = " Extents that a call gives stand with their bounds." if self.sizes else ""
        rows = [f"// The tensors of the model, in its own order.{bounds}", "struct Tensor {", "   const char *name;"]
        rows += ["   const char *type;", "   std::size_t rank;", "   std::size_t shape[8];", "};", ""]
        for what, ports in (("inputs", self.inputs), ("outputs", self.outputs)):
            rows.append(f"inline constexpr std::size_t number_of_{what} = {len(ports)};")
            rows.append(f"inline constexpr Tensor {what}[] = {{")
            for port in ports:
                shape = ", ".join(str(most(e)) for e in port.shape)
                rows.append(f"    {{{string(port.name)}, {string(port.dtype)}, {len(port.shape)}, {{{shape}}}}},")
            if not ports:
                rows.append('   {"", "", 0, {}},')
            rows.append("};")
        return "\n".join(rows)

    def _weights_class(self, embed: bool) -> str:
        lines = [
            "namespace detail {",
            f"inline constexpr char model_name[] = {string(self.name)};",
            f"inline constexpr std::size_t weight_file_bytes = {self.file.size};",
            f"inline constexpr std::size_t weight_header_bytes = {len(self.file.header)};",
            f'inline constexpr char weight_layout[] = "{self.layout}";',
        ]
        if embed:
            array = np.frombuffer(self.weight_bytes(), np.uint8)
            text = ",".join(map(str, array.tolist()))
            lines.append(f"alignas(64) inline constexpr unsigned char embedded_weights[] = {{{text}}};")
        lines.append("} // namespace detail")
        lines += ["", *(["#define SOFIE_EMBEDDED_WEIGHTS"] if embed else []), _source("weights.hxx").rstrip()]
        return "\n".join([*lines, *(["#undef SOFIE_EMBEDDED_WEIGHTS"] if embed else [])])


def _source(name: str) -> str:
    return resources.files("sofie.emit").joinpath(name).read_text()


def _text(attrs: DictionaryAttr, key: str) -> str | None:
    value = attrs.data.get(key)
    return value.data if isinstance(value, StringAttr) else None


def _comment(text: str) -> str:
    """Text that can stand in a `//` comment: printable ASCII, no line ends, no trailing backslash."""
    safe = text.encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else " " for c in safe).rstrip("\\").replace("??/", "?? /")[:200]
