"""Writes what one CPU runs: the kernels and the entry that calls them, in a namespace of its own.

A header for several CPUs has a variant for each. They are lowered from one module, so they read the same weights at the
same places and use the same arena; a scalar kernel that came out equal is printed once, with the least CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from xdsl.dialects import arith, func, memref, scf
from xdsl.dialects.builtin import IntegerAttr, MemRefType, ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from sofie.dialects.sofie import SizeOp, WeightOp
from sofie.dialects.types import element_of, shape_of
from sofie.emit.printer import KernelPrinter
from sofie.emit.profile import kernel_times
from sofie.emit.sources import source
from sofie.emit.spelling import ATOM, Expression, comment, listed, scalar_type
from sofie.emit.vectors import has_codes, is_mixed, vector_types
from sofie.errors import SofieError
from sofie.extents import symbols_by_argument
from sofie.memory import VIEWS
from sofie.random_state import state_of
from sofie.rewrite import blame, node_names
from sofie.target import Cpu

if TYPE_CHECKING:
    from sofie.emit.cpp import Program

_MATH = ("exp", "log", "sqrt", "tanh", "erf")
_FUSES = ("multiply_add(", *(f"{name}(" for name in _MATH))
_DOTS = ("dot(", "dot_pairs(")
_VECTORS = tuple(f"v{lanes}{letter}" for lanes in (2, 4, 8, 16) for letter in "fi")


@dataclass
class EntryPrinter(KernelPrinter):
    """Prints what stands between the kernels: pointers into weights and arena, calls, loops and conditions.

    offsets: byte offset of each weight in the file, by digest. homes: the namespace of a kernel, where it is another's.
    laps: how many calls had their time taken so far, where it is taken.
    """

    offsets: Mapping[str, int] = field(default_factory=dict)
    homes: Mapping[str, str] = field(default_factory=dict)
    laps: int | None = None

    def statement(self, op: Operation) -> None:
        """The statement of one op of @infer."""
        if isinstance(op, (memref.ViewOp, *VIEWS)) and not _is_used(op.results[0]):
            return
        if isinstance(op, WeightOp):
            if _is_used(op.result):
                self._point(op.result, "const ", "weights", self.offsets[op.blob.digest])
        elif isinstance(op, memref.ViewOp):
            shift = op.byte_shift.owner
            assert isinstance(shift, arith.ConstantOp) and isinstance(shift.value, IntegerAttr)
            self._point(op.result, "", "arena", shift.value.value.data)
        elif isinstance(op, func.CallOp):
            arguments = [self.pointer(v) if isinstance(v.type, MemRefType) else self.text(v) for v in op.arguments]
            callee = op.callee.root_reference.data
            home = f"{self.homes[callee]}::" if callee in self.homes else ""
            self.line(f"{home}kernels::{callee}({', '.join(arguments)});")
            self._lap()
        elif isinstance(op, scf.ParallelOp):
            self._by_threads(op)
        elif isinstance(op, SizeOp):
            name = self.names(op.symbol.name)
            self.line(f"const index {name} = {self.text(op.value)};")
            self.spelled[op.result] = Expression(name, ATOM)
            self.sizes[op.symbol] = name
        elif isinstance(op, memref.AllocOp):
            raise SofieError(f"{blame(op)}: a buffer has no place; run plan-memory")
        elif not isinstance(op, arith.ConstantOp):
            super().statement(op)

    def function(
        self,
        program: Program,
        infer: func.FuncOp,
        head: str,
        parameters: list[str],
        unused: set[str],
        behind: str = "",
    ) -> str:
        """The whole of @infer: `parameters` first, of which the names in `unused` may be, then sizes and tensors."""
        ports = iter([*program.inputs, *program.outputs])
        given, state = symbols_by_argument(infer), state_of(infer)
        for argument in infer.body.block.args:
            if argument in given:
                name = self.names(program.sizes[given[argument]])
                self.sizes[given[argument]] = name
                self.spelled[argument] = Expression(name, ATOM)
                parameters.append(f"const index {name}")
            elif is_arena(argument):
                self.pointers[argument] = ("arena", 0)
                continue
            elif argument is state:
                name = self.names("random_state")
                parameters.append(f"const std::int64_t *{name}")
                self.pointers[argument] = (name, 0)
            else:
                port = next(ports)
                name = self.names(port.parameter)
                const = "" if port in program.outputs else "const "
                parameters.append(f"{const}{scalar_type(element_of(argument))} *{name}")
                self.pointers[argument] = (name, 0)
            unused.add(name)
        self.block(infer.body.block)
        for port in program.late:
            parameters.append(f"index *{(name := self.names(port.found))}")
            for axis, extent in enumerate(port.shape):
                self.line(f"{name}[{axis}] = {self.extent(extent)};")
        body = "\n".join(self.lines)
        words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").replace(";", " ").split())
        silenced = "".join(f"   static_cast<void>({n});\n" for n in sorted(unused - words))
        return f"{listed(head, parameters, f'){behind}')}\n{{\n{silenced}{body}\n}}"

    def _by_threads(self, op: scf.ParallelOp) -> None:
        """A parallel loop over the parts of a kernel."""
        (part,) = op.body.block.args
        name = self.names(part.name_hint or "part")
        self.spelled[part] = Expression(name, ATOM)
        laps, self.laps = self.laps, None  # one clock for all the threads
        self.line(f"threads.run({self.text(op.upperBound[0])}, [&](index {name}) {{")
        self.depth += 1
        self.block(op.body.block)
        self.depth -= 1
        self.line("});")
        self.laps = laps
        self._lap()

    def _lap(self) -> None:
        if self.laps is not None:
            self.line(f"profile.lap({self.laps});")
            self.laps += 1

    def _point(self, value: SSAValue, const: str, base: str, offset: int) -> None:
        name = self.names(value.name_hint or ("weight" if const else "buffer"))
        kind = scalar_type(element_of(value))
        self.line(f"{const}{kind} *const {name} = detail::at<{const}{kind}>({base}, {offset});")
        self.pointers[value] = (name, 0)


def _is_used(value: SSAValue) -> bool:
    """Whether anything but views that nobody uses reads or writes a buffer."""
    return any(not isinstance(use.operation, VIEWS) or _is_used(use.operation.results[0]) for use in value.uses)


@dataclass(eq=False)
class Variant:
    """A module at the loop level and the CPU that it was vectorised for."""

    module: ModuleOp
    cpu: Cpu
    reproducible: bool = False

    @property
    def infer(self) -> func.FuncOp:
        """The function the caller calls."""
        return infer_of(self.module)

    @cached_property
    def kernels(self) -> dict[str, str]:
        """The text of every kernel by its name, each under a comment that names its ONNX nodes."""
        return kernels_of(self.module, self.reproducible)

    def homes(self, earlier: Sequence[Variant]) -> dict[str, str]:
        """The namespaces of the kernels that need not be printed again: equal, rounding alike, and as fast.

        Scalar ones without a multiply-add round alike on every CPU, all others on those that are as rich in FMA. Dot
        products are as fast where VNNI is in both.
        """
        found: dict[str, str] = {}
        for name, text in self.kernels.items():
            plain = not any(word in text for word in (*_VECTORS, *_FUSES))
            dots = any(word in text for word in _DOTS)
            for variant in earlier:
                rounds_alike = plain or variant.cpu.fma == self.cpu.fma
                as_fast = not dots or variant.cpu.vnni == self.cpu.vnni
                if variant.kernels[name] == text and rounds_alike and as_fast:
                    found[name] = variant.cpu.namespace
                    break
        return found

    def text(self, program: Program, profile: bool = False) -> str:
        """The namespace of this CPU, with the macros that it needs while it stands."""
        earlier = program.variants[: program.variants.index(self)]
        homes, told = self.homes(earlier), not earlier
        own = [text for name, text in self.kernels.items() if name not in homes]
        kernels = "\n\n".join(own)
        parts = [source("lanes.hxx", told)]
        parts += [] if self.reproducible else [source("fma.hxx", told)]
        mixed = (
            [f"SOFIE_LEVEL {self.cpu.level}", *(["SOFIE_VNNI"] if self.cpu.vnni else [])] if is_mixed(kernels) else []
        )
        codes = has_codes(kernels)
        parts += [source("codes.hxx", told)] if codes else []
        parts += [source("integers.hxx", told)] if mixed else []
        parts += [source("halves.hxx", told)] if mixed and codes else []
        parts += [vector_types(kernels, self.cpu.lanes)] if self.cpu.lanes > 1 else []
        parts += [source("math.hxx", told)] if any(f"{name}(" in kernels for name in _MATH) else []
        parts += [f"namespace kernels {{\n\n{kernels}\n\n}} // namespace kernels"] if kernels else []
        parts += [kernel_times(self)] if profile else []
        parts.append(self.entry(program, homes, profile))
        body = "\n\n".join(part for part in parts if part)
        name = self.cpu.namespace
        return "\n".join(
            [
                *self._target(portable=len(program.variants) > 1),
                f"#define SOFIE_LANES {self.cpu.lanes}",
                *(f"#define {line}" for line in mixed),
                *self._fma(),
                "",
                f"namespace {name} {{",
                "",
                body,
                "",
                f"}} // namespace {name}",
                "",
                "#undef SOFIE_TARGET",
                "#undef SOFIE_LANES",
                *(f"#undef {line.split()[0]}" for line in mixed),
                *(["#undef SOFIE_FMA"] if self._fma() else []),
                "#undef SOFIE_INLINE",
                "#undef SOFIE_KERNEL",
            ]
        )

    def _fma(self) -> list[str]:
        """Says whether multiply-adds are one instruction: where the attribute brings it, or the flags do."""
        if self.reproducible:
            return []
        if self.cpu.fma:
            return ["#define SOFIE_FMA"]
        return [] if self.cpu.level else ["#if defined(__FMA__) || defined(__aarch64__)", "#define SOFIE_FMA", "#endif"]

    def _target(self, portable: bool) -> list[str]:
        """The attribute of all functions; a `portable` variant of 4 lanes does without it on other machines."""
        bare = f"#define SOFIE_TARGET {'SOFIE_EXACT_TARGET' if self.reproducible else 'SOFIE_UNFUSED'}"
        define = f"{bare} {self.cpu.attribute}".rstrip()
        if not self.cpu.level or (portable and self.cpu.lanes > 4):
            return [define]
        sentence = f"these kernels are for {self.cpu.name}; compile the model with --cpu multi for other machines"
        other = bare if portable else f'#error "{sentence}"'
        return ["#if defined(__x86_64__)", define, "#else", other, "#endif"]

    def entry(self, program: Program, homes: Mapping[str, str], profile: bool = False) -> str:
        """The function that runs the kernels one after the other on weights, arena, inputs and outputs."""
        printer = EntryPrinter(offsets=program.offsets, homes=homes, laps=0 if profile else None)
        parameters = ["const unsigned char *weights", "unsigned char *arena"]
        if profile:
            parameters.append(f"shared::Profile &{printer.names('profile')}")
            printer.line("profile.start();")
        if program.threads > 1:
            parameters.append(f"shared::Threads &{printer.names('threads')}")
        head = "SOFIE_TARGET inline void infer("
        return printer.function(program, self.infer, head, parameters, {"weights", "arena"}, " noexcept")


def infer_of(module: ModuleOp) -> func.FuncOp:
    """The function @infer. Raises SofieError where there is none."""
    for op in module.body.block.ops:
        if isinstance(op, func.FuncOp) and op.sym_name.data == "infer":
            return op
    raise SofieError("the module has no function @infer")


def arena_of(function: func.FuncOp) -> int:
    """The bytes of the arena that @infer takes."""
    return next((shape_of(a)[0] for a in function.body.block.args if is_arena(a)), 0)


def is_arena(argument: BlockArgument) -> bool:
    """Whether an argument of @infer is its scratch memory."""
    function = argument.block.parent_op()
    assert isinstance(function, func.FuncOp)
    attributes = function.arg_attrs.data if function.arg_attrs is not None else ()
    return argument.index < len(attributes) and "sofie.arena" in attributes[argument.index].data


def kernels_of(module: ModuleOp, exact: bool = False) -> dict[str, str]:
    """The text of every kernel of a module by its name; `exact` as for the printer.

    One that a loop calls, as a step of a recurrent network, may be inlined there; the others stay functions.
    """
    texts = {}
    calls = [op for op in module.walk() if isinstance(op, func.CallOp)]
    inside = {op.callee.string_value() for op in calls if not isinstance(op.parent_op(), func.FuncOp)}
    for op in module.body.block.ops:
        if isinstance(op, func.FuncOp) and op.sym_name.data != "infer":
            nodes = node_names(op.location)
            says = [f"// {comment(', '.join(nodes))}"] if nodes else []
            prefix = "SOFIE_TARGET inline " if op.sym_name.data in inside else "SOFIE_KERNEL "
            texts[op.sym_name.data] = "\n".join([*says, *KernelPrinter(exact=exact).kernel(op, prefix)])
    return texts
