"""Writes a level 4 module as a C++17 header and its weight file.

`Program` collects what the text needs to know: the caller's tensors, the weights and where each lies in the file, the
arena, and a variant for each CPU. `header` puts it between the class users see, `core` is the part without STL headers
that the just-in-time compiler builds in a fraction of the time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from xdsl.dialects import func, memref
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue

from sofie import weight_file
from sofie.dialects.sofie import BlobAttr, WeightOp
from sofie.dialects.types import shape_of
from sofie.emit.functor import functor, takes_columns
from sofie.emit.ports import Port
from sofie.emit.profile import PROFILE
from sofie.emit.session import choice, session
from sofie.emit.sources import source
from sofie.emit.spelling import comment, string
from sofie.emit.variant import Variant, arena_of, infer_of, kernels_of
from sofie.extents import symbols_by_argument
from sofie.loops import THREADS
from sofie.memory import memory_of
from sofie.naming import Namer, identifier
from sofie.random_state import state_of
from sofie.sizes import Symbol, most, symbols_of
from sofie.weights import Array, Blob

_FILE_INCLUDES = (
    "#if defined(__unix__) || defined(__APPLE__)",
    *(f"#include <{name}>" for name in ("fcntl.h", "sys/mman.h", "sys/stat.h", "unistd.h")),
    "#else",
    "#include <cstdio>",
    "#endif",
)
LONGEST_NOTE = 100_000
"""Characters of what a header says of the options it was written with; `sofie weights` reads them."""
_LINE = 64
"""Bytes of embedded weights on a line."""


@dataclass
class Program:
    """Everything about a lowered model that its text is made of.

    module: the model as it was before any pass looked at the CPU, which says what all variants share.
    """

    suffix: ClassVar[str] = ".hxx"
    """That of the file its text goes into."""
    call: ClassVar[type[Operation]] = func.CallOp
    """The op that runs a kernel."""
    reserved: ClassVar[frozenset[str]] = frozenset(
        {
            "weights",
            "arena",
            "Session",
            "Weights",
            "infer",
            "detail",
            "check",
            "by_name",
            "session",
            "variables",
            "Variables",
        }
    )
    """Names that no tensor may have in the text."""

    module: ModuleOp
    name: str
    variants: list[Variant]
    """The module as it was lowered for each CPU, least first."""
    asked: tuple[str, ...] = ()
    """The words of the command line that its passes follow from, where they are not the default."""
    inputs: list[Port] = field(init=False)
    outputs: list[Port] = field(init=False)
    sizes: dict[Symbol, str] = field(init=False)
    """The sizes that the caller gives, and their C++ parameters."""
    arena_bytes: int = field(init=False)
    draws: bool = field(init=False)
    """Whether it draws random numbers, from a state of two 64-bit integers: the seed and the number of the call."""

    def __post_init__(self) -> None:
        self.name = identifier(self.name, "model")
        names = Namer(self.reserved)
        ports: dict[bool, list[Port]] = {False: [], True: []}
        self.arena_bytes, self.sizes = max(arena_of(variant.infer) for variant in self.variants), {}
        function = self.infer
        state = state_of(function)
        self.draws = state is not None
        given = symbols_by_argument(function)
        attributes = function.arg_attrs.data if function.arg_attrs is not None else ()
        for argument, attrs in zip(function.body.block.args, attributes, strict=True):
            if "sofie.arena" in attrs.data or argument is state:
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
            columns = attrs.data.get("sofie.columns")
            named = (
                tuple(c.data for c in columns if isinstance(c, StringAttr)) if isinstance(columns, ArrayAttr) else ()
            )
            dtype = _text(attrs, "sofie.dtype") or "float32"
            ports[output].append(Port(name, parameter, dtype, shape, found, named))
        self.inputs, self.outputs = ports[False], ports[True]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file's first comment says besides."""
        return self.asked

    @property
    def infer(self) -> func.FuncOp:
        """The function the caller calls."""
        return infer_of(self.module)

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
        text = json.dumps(listing) + "\n".join((*self.kernels, self._wiring))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def _wiring(self) -> str:
        """The function @infer, which says what goes into which kernel, with places of weights for their values."""
        entry = self.infer.clone()
        places = {digest: str(k) for k, (digest, _) in enumerate(self._places.values())}
        for op in entry.walk():
            if isinstance(op, WeightOp):
                op.properties["value"] = BlobAttr(Blob(places[op.blob.digest], None))
        return str(entry)

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
        """The text of every kernel as it is before any CPU is looked at."""
        return list(kernels_of(self.module).values())

    @property
    def late(self) -> list[Port]:
        """The outputs whose extents the run finds: the entry writes them through pointers that follow the outputs."""
        return [port for port in self.outputs if port.found]

    @property
    def uses_blas(self) -> bool:
        """Whether the program must be linked with a CBLAS."""
        return any("cblas_" in kernel for kernel in self.kernels)

    @cached_property
    def threads(self) -> int:
        """How many threads run the large kernels; 1 where there are none."""
        loops = [op.attributes.get(THREADS) for op in self.infer.walk()]
        return max([loop.value.data for loop in loops if isinstance(loop, IntegerAttr)], default=1)

    @property
    def thread_headers(self) -> list[str]:
        """The standard headers that its threads need, where it has any."""
        return ["atomic", "condition_variable", "mutex", "thread"] if self.threads > 1 else []

    @property
    def kernel_calls(self) -> int:
        """How many kernels one inference runs; 0 means that the result was known when compiling."""
        return len(self.calls)

    @property
    def computes(self) -> bool:
        """Whether it does more than copy weights to outputs; if not, the results were known when compiling."""
        written = set(self.infer.body.block.args[len(self.sizes) + len(self.inputs) + self.draws :])
        return any(isinstance(op, memref.LoadOp) for op in self.infer.walk()) or any(
            all(memory_of(v) in written for v in operands)
            or not all(memory_of(v) in written or isinstance(memory_of(v).owner, WeightOp) for v in operands)
            for operands in map(self.operands_of, self.calls)
        )

    @property
    def calls(self) -> list[Operation]:
        """The calls of kernels, in the order of the code."""
        return [op for op in self.infer.walk() if isinstance(op, self.call)]

    @staticmethod
    def operands_of(call: Operation) -> Sequence[SSAValue]:
        """What a kernel is called with."""
        return call.operands

    # -- text ----------------------------------------------------------------------------------------------------

    def core(self, profile: bool = False) -> str:
        """Prelude, kernels and entries: all that runs, without STL headers and without a namespace.

        With `profile` it takes each kernel's time, and needs <chrono> and <vector>; with threads, `thread_headers`.
        """
        exact = self.variants[0].reproducible
        parts = [source("exact.hxx" if exact else "unfused.hxx"), source("prelude.hxx"), "namespace shared = detail;"]
        parts += [source("threads.hxx")] if self.threads > 1 else []
        parts += [PROFILE] if profile else []
        for k, variant in enumerate(self.variants):
            text = variant.text(self, profile)
            # other machines run the first variant, of 4 lanes, without its attribute
            parts.append(text if k == 0 else f"#if defined(__x86_64__)\n\n{text}\n\n#endif")
        undefined = ("SOFIE_EXACT", "SOFIE_EXACT_TARGET") if exact else ("SOFIE_UNFUSED",)
        parts.append("\n".join(f"#undef {name}" for name in undefined))
        return "\n\n".join(parts)

    def header(self, embed: bool = False, profile: bool = False) -> str:
        """The header: tables, weights, kernels and the class `Session`, in a namespace of its own.

        With `profile` a session counts the time of each kernel.
        """
        includes = [*(["array"] if self.late else []), *(["chrono", "cstdio"] if profile else [])]
        includes += self.thread_headers
        includes += ["limits"] if any(port.columns for port in self.inputs) else []
        includes += "cstddef cstdint cstdlib cstring memory new stdexcept string tuple utility vector".split()
        library = ["#include <cblas.h>"] if self.uses_blas else []
        parts = [self.core(profile)]
        parts += [source("cpu.hxx")] if self.variants[0].cpu.level else []
        parts += [choice(self, profile)] if len(self.variants) > 1 else []
        parts += [session(self, embed, profile)]
        columns = takes_columns(self)
        parts += [functor(self)] if columns else []
        return self.framed("HXX", "", includes, library, parts, embed, source("functor.hxx") if columns else "")

    def framed(
        self,
        kind: str,
        whose: str,
        includes: Sequence[str],
        more: Sequence[str],
        parts: Sequence[str],
        embed: bool,
        behind: str = "",
    ) -> str:
        """The file around `parts`, behind tables and weights: its first line, guard, includes and namespace.

        behind: what stands outside of the namespace, at the end.
        """
        guard = f"SOFIE_{self.name}_{kind}"
        lines = [
            f"// {comment(self.name)}: {len(self.inputs)} input(s), {len(self.outputs)} output(s), "
            f"{sum(a.size for _, a in self.weights):,} weights, "
            f"{self.arena_bytes:,} bytes of scratch. Written by SOFIE{whose}.",
            *(f"// {comment(words, LONGEST_NOTE)}" for words in self.notes),
            "",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            *(f"#include <{name}>" for name in includes),
            *_FILE_INCLUDES,
            *more,
            "",
            f"namespace SOFIE_{self.name} {{",
            "",
            *(line for part in (self._tables(), self._weights_class(embed), *parts) for line in (part, "")),
            f"}} // namespace SOFIE_{self.name}",
            "",
            f"namespace TMVA_SOFIE_{self.name} = SOFIE_{self.name};",
            "",
            *([behind, ""] if behind else []),
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
        setting = f"SOFIE_{self.name}_WEIGHTS"
        lines = [
            "namespace detail {",
            f"inline constexpr char model_name[] = {string(self.name)};",
            f"#if defined({setting})",
            f"inline constexpr char weight_file[] = {setting};",
            "#else",
            f"inline constexpr char weight_file[] = {string(self.name + '.dat')};",
            "#endif",
            f"inline constexpr std::size_t weight_file_bytes = {self.file.size};",
            f"inline constexpr std::size_t weight_header_bytes = {len(self.file.header)};",
            f'inline constexpr char weight_layout[] = "{self.layout}";',
        ]
        if embed:
            content = self.weight_bytes()
            text = "\n".join(f"    {string(content[k : k + _LINE])}" for k in range(0, len(content), _LINE))
            lines.append(f"alignas(64) inline constexpr unsigned char embedded_weights[{len(content) + 1}] =\n{text};")
        lines.append("} // namespace detail")
        lines += ["", *(["#define SOFIE_EMBEDDED_WEIGHTS"] if embed else []), source("weights.hxx")]
        lines += ["", source("lengths.hxx")] if self.inputs else []
        return "\n".join([*lines, *(["#undef SOFIE_EMBEDDED_WEIGHTS"] if embed else [])])


def _text(attrs: DictionaryAttr, key: str) -> str | None:
    value = attrs.data.get(key)
    return value.data if isinstance(value, StringAttr) else None
