"""Writes a level 4 module as a C++17 header and its weight file.

`Program` collects what the text needs to know: the caller's tensors, the weights and where each lies in the file, the
arena, and the kernels' text. `header` puts it between the class users see, `core` is the part without STL headers that
the just-in-time compiler builds in a fraction of the time.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
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
from sofie.emit.printer import KernelPrinter
from sofie.emit.spelling import ATOM, Expression, listed, scalar_type
from sofie.emit.vectors import vector_types
from sofie.errors import SofieError
from sofie.extents import symbols_by_argument
from sofie.memory import VIEWS
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


@dataclass(frozen=True)
class Port:
    """An input or output as the caller sees it: ONNX name, C++ parameter, numpy dtype, shape."""

    name: str
    parameter: str
    dtype: str
    shape: tuple[int, ...]
    found: str = ""
    """The C++ parameter for the extents of an output, where the run finds them."""

    @property
    def elements(self) -> int:
        """The number of elements, a `Size` where only the run knows it."""
        return math.prod(self.shape)

    @property
    def cpp(self) -> str:
        """The C++ element type of the caller's pointer; bool is a byte."""
        return {"float32": "float", "float64": "double", "bool": "std::uint8_t"}.get(self.dtype, f"std::{self.dtype}_t")

    @property
    def inner(self) -> str:
        """The C++ element type inside the kernels, where integers are signless and spelled as signed."""
        return "std::int8_t" if self.dtype == "bool" else self.cpp.replace("std::u", "std::")


@dataclass
class EntryPrinter(KernelPrinter):
    """Prints what stands between the kernels: pointers into weights and arena, calls, loops and conditions.

    offsets: byte offset of each weight in the file, by digest.
    """

    offsets: dict[str, int] = field(default_factory=dict)

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
        return len(self._calls())

    @property
    def computes(self) -> bool:
        """Whether it does more than copy weights to outputs; if not, the results were known when compiling."""
        written = set(self.infer.body.block.args[len(self.sizes) + len(self.inputs) + self.draws :])
        return any(isinstance(op, memref.LoadOp) for op in self.infer.walk()) or any(
            all(_memory(v) in written for v in call.operands)
            or not all(_memory(v) in written or isinstance(_memory(v).owner, WeightOp) for v in call.operands)
            for call in self._calls()
        )

    def _calls(self) -> list[func.CallOp]:
        return [op for op in self.infer.walk() if isinstance(op, func.CallOp)]

    def entry(self) -> str:
        """The function that runs the kernels one after the other on weights, arena, inputs and outputs."""
        printer = EntryPrinter(offsets=self.offsets)
        parameters = ["const unsigned char *weights", "unsigned char *arena"]
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

    def core(self) -> str:
        """Prelude, kernels and entry: all that runs, without STL headers and without a namespace."""
        kernels = "\n\n".join(self.kernels)
        needs_math = any(f"{name}(" in kernels for name in _MATH)
        parts = [_source("prelude.hxx").rstrip()]
        parts += [vector_types(kernels)] if self.cpu.lanes > 1 else []
        parts += [_source("math.hxx").rstrip()] if needs_math else []
        parts += [f"namespace kernels {{\n\n{kernels}\n\n}} // namespace kernels"] if kernels else []
        parts.append(self.entry())
        return "\n\n".join(p for p in parts if p)

    def header(self, embed: bool = False) -> str:
        """The header: tables, weights, kernels and the class `Session`, in a namespace of its own."""
        guard = f"SOFIE_{self.name}_HXX"
        includes = ["array"] if self.late else []
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
            self.core(),
            "",
            *([_source("cpu.hxx").rstrip(), ""] if self.cpu.level else []),
            self._session(embed),
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
                rows.append(f"    {{{_string(port.name)}, {_string(port.dtype)}, {len(port.shape)}, {{{shape}}}}},")
            if not ports:
                rows.append('   {"", "", 0, {}},')
            rows.append("};")
        return "\n".join(rows)

    def _weights_class(self, embed: bool) -> str:
        lines = [
            "namespace detail {",
            f"inline constexpr char model_name[] = {_string(self.name)};",
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

    def _session(self, embed: bool) -> str:
        sized = [f"const std::size_t {name}" for name in self.sizes.values()]
        takes = [*sized, *(f"const {p.cpp} *{p.parameter}" for p in self.inputs)]
        gives = [part for p in self.outputs for part in _gives(p)]
        vectors = [part for p in self.outputs for part in _returns(p)]
        result = vectors[0] if len(vectors) == 1 else f"std::tuple<{', '.join(vectors)}>"
        arguments = ["weights_.data()", "arena_.get()"]
        arguments += [f"static_cast<std::ptrdiff_t>({name})" for name in self.sizes.values()]
        arguments += [_pass(p, const=True) for p in self.inputs] + ["random_state_"] * self.draws
        arguments += [_pass(p, const=False) for p in self.outputs]
        arguments += [f"reinterpret_cast<std::ptrdiff_t *>({p.found})" for p in self.late]
        spell = KernelPrinter(sizes=dict(self.sizes))
        check = f"      check({', '.join(self.sizes.values())});\n" if sized else ""
        makes = [line for p in self.outputs for line in _makes(p, spell)]
        call = ", ".join(
            [*self.sizes.values()]
            + [p.parameter for p in self.inputs]
            + [f"{name}.data()" for p in self.outputs for name in (p.parameter, p.found) if name]
        )
        cuts = [_cut(p) for p in self.late]
        names = [name for p in self.outputs for name in (p.parameter, p.found) if name]
        back = names[0] if len(names) == 1 else f"{{{', '.join(f'std::move({n})' for n in names)}}}"
        step = member = seed = ""
        if self.draws:
            step = "\n      ++random_state_[1];"
            member = "\n   std::int64_t random_state_[2] = {0, 0};"
            seed = _SEED
        default = "   Session() : Session(Weights()) {}\n" if embed else ""
        default_file = "" if embed else f" = {_string(self.name + '.dat')}"
        return f"""// One thread's scratch memory; the weights are shared. Inference allocates only what it returns.
class Session {{
public:
{default}   explicit Session(const std::string &file{default_file}) : Session(Weights(file)) {{}}
   explicit Session(const Weights &weights)
       : weights_(weights), arena_(static_cast<unsigned char *>(::operator new(arena_bytes, std::align_val_t{{64}})))
   {{
{self._cpu_check()}   }}

   // {"Sizes, " if sized else ""}inputs{"," if sized else " first,"} outputs last; the pointers may not overlap.{
            " Throws std::out_of_range on a size out of bounds." if sized else ""
        }{
            "".join(
                f"{chr(10)}   // {p.parameter} has room for {math.prod(map(most, p.shape))} elements; "
                f"{p.found} gets its {len(p.shape)} extents."
                for p in self.late
            )
        }
{listed("   void infer(", takes + gives, ")" if sized else ") noexcept")}
   {{
{check}{listed("      detail::infer(", arguments, ");")}{step}
   }}
{seed}
{listed(f"   {result} infer(", takes, ")")}
   {{
{check}{chr(10).join(makes)}
      infer({call});
{"".join(f"      {cut}{chr(10)}" for cut in cuts)}      return {back};
   }}

private:
   static constexpr std::size_t arena_bytes = {max(self.arena_bytes, 64)};
{self._size_checks(sized)}
   struct Free {{
      void operator()(unsigned char *memory) const noexcept {{ ::operator delete(memory, std::align_val_t{{64}}); }}
   }};

   Weights weights_;
   std::unique_ptr<unsigned char, Free> arena_;{member}
}};"""

    def _size_checks(self, parameters: Sequence[str]) -> str:
        """The function that refuses sizes out of bounds, before anything is touched."""
        if not parameters:
            return ""
        lines = ["", listed("   static void check(", parameters, ")"), "   {"]
        for symbol, name in self.sizes.items():
            sentence = f"{self.name}: {name} must be from {symbol.low} to {symbol.high}"
            low = f"{name} < {symbol.low} || " if symbol.low > 0 else ""
            lines.append(f"      if ({low}{name} > {symbol.high})")
            lines.append(f"         throw std::out_of_range({_string(sentence)});")
        return "\n".join([*lines, "   }", ""])

    def _cpu_check(self) -> str:
        """The constructor refuses a machine that cannot run the kernels, before it would crash in one."""
        if not self.cpu.level:
            return ""
        sentence = (
            f"{self.name} was compiled for {self.cpu.name}, which this CPU does not run; compile it with --cpu portable"
        )
        refuse = f"throw std::runtime_error(\n             {_string(sentence)});"
        return f"      if (detail::x86_level() < {self.cpu.level})\n         {refuse}\n"


def _gives(port: Port) -> list[str]:
    """The parameters of an output: a pointer and, where the run finds its extents, one to them."""
    return [f"{port.cpp} *{port.parameter}", *([f"std::size_t *{port.found}"] if port.found else [])]


def _returns(port: Port) -> list[str]:
    """The types that an output is returned as: its elements and, where the run finds them, its extents."""
    extents = [f"std::array<std::size_t, {len(port.shape)}>"] if port.found else []
    return [f"std::vector<{port.cpp}>", *extents]


def _makes(port: Port, spell: KernelPrinter) -> list[str]:
    """The variables that an output is returned in."""
    if not port.found:
        return [f"      std::vector<{port.cpp}> {port.parameter}({spell.extent(port.elements)});"]
    room = math.prod(map(most, port.shape))
    elements, extents = _returns(port)
    return [f"      {elements} {port.parameter}({room});", f"      {extents} {port.found}{{}};"]


def _cut(port: Port) -> str:
    """Shortens what is returned to the elements that were found."""
    extents = " * ".join(f"{port.found}[{axis}]" for axis in range(len(port.shape)))
    return f"{port.parameter}.resize({extents});"


def _pass(port: Port, const: bool) -> str:
    """The caller's pointer as the kernels want it."""
    if port.inner == port.cpp:
        return port.parameter
    return f"reinterpret_cast<{'const ' if const else ''}{port.inner} *>({port.parameter})"


def _memory(value: SSAValue) -> SSAValue:
    """The buffer behind a view."""
    while isinstance(value.owner, VIEWS):
        value = value.owner.operands[0]
    return value


_SEED = """
   // Random numbers follow from the seed, which is 0 at first, and the number of calls since it was set.
   void seed(std::uint64_t seed) noexcept
   {
      random_state_[0] = static_cast<std::int64_t>(seed);
      random_state_[1] = 0;
   }
"""


def _source(name: str) -> str:
    return resources.files("sofie.emit").joinpath(name).read_text()


def _text(attrs: DictionaryAttr, key: str) -> str | None:
    value = attrs.data.get(key)
    return value.data if isinstance(value, StringAttr) else None


def _comment(text: str) -> str:
    """Text that can stand in a `//` comment: printable ASCII, no line ends, no trailing backslash."""
    safe = text.encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else " " for c in safe).rstrip("\\").replace("??/", "?? /")[:200]


def _string(text: str) -> str:
    """A C++ string literal of any text, as UTF-8 in octal escapes where it is not plain."""
    plain = "".join(
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}"
        for b in text.encode("utf-8", "surrogatepass")
    )
    return f'"{plain}"'
