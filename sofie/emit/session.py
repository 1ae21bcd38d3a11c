"""Writes the class `Session` of a program: what users of the header see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sofie.emit.ports import Port
from sofie.emit.printer import KernelPrinter
from sofie.emit.profile import PROFILE_METHODS
from sofie.emit.spelling import listed, string
from sofie.sizes import most

if TYPE_CHECKING:
    from sofie.emit.cpp import Program

_SEED = """
   // Random numbers follow from the seed, which is 0 at first, and the number of calls since it was set.
   void seed(std::uint64_t seed) noexcept
   {
      random_state_[0] = static_cast<std::int64_t>(seed);
      random_state_[1] = 0;
   }
"""


def session(program: Program, embed: bool, profile: bool = False) -> str:
    """The class that users see: weights, scratch memory, inference into buffers or vectors, maybe its times."""
    sized = [f"const std::size_t {name}" for name in program.sizes.values()]
    takes = [*sized, *(f"const {p.cpp} *{p.parameter}" for p in program.inputs)]
    gives = [part for p in program.outputs for part in _gives(p)]
    vectors = [part for p in program.outputs for part in _returns(p)]
    result = vectors[0] if len(vectors) == 1 else f"std::tuple<{', '.join(vectors)}>"
    arguments = ["weights_.data()", "arena_.get()", *(["profile_"] if profile else [])]
    arguments += [f"static_cast<std::ptrdiff_t>({name})" for name in program.sizes.values()]
    arguments += [_pass(p, const=True) for p in program.inputs] + ["random_state_"] * program.draws
    arguments += [_pass(p, const=False) for p in program.outputs]
    arguments += [f"reinterpret_cast<std::ptrdiff_t *>({p.found})" for p in program.late]
    spell = KernelPrinter(sizes=dict(program.sizes))
    check = f"      check({', '.join(program.sizes.values())});\n" if sized else ""
    makes = [line for p in program.outputs for line in _makes(p, spell)]
    call = ", ".join(
        [*program.sizes.values()]
        + [p.parameter for p in program.inputs]
        + [f"{name}.data()" for p in program.outputs for name in (p.parameter, p.found) if name]
    )
    cuts = [_cut(p) for p in program.late]
    names = [name for p in program.outputs for name in (p.parameter, p.found) if name]
    back = names[0] if len(names) == 1 else f"{{{', '.join(f'std::move({n})' for n in names)}}}"
    step = member = seed = ""
    if program.draws:
        step = "\n      ++random_state_[1];"
        member = "\n   std::int64_t random_state_[2] = {0, 0};"
        seed = _SEED
    measured, timer = (PROFILE_METHODS, "\n   detail::Profile profile_;") if profile else ("", "")
    default = "   Session() : Session(Weights()) {}\n" if embed else ""
    default_file = "" if embed else f" = {string(program.name + '.dat')}"
    return f"""// One thread's scratch memory; the weights are shared. Inference allocates only what it returns.
class Session {{
public:
{default}   explicit Session(const std::string &file{default_file}) : Session(Weights(file)) {{}}
   explicit Session(const Weights &weights)
       : weights_(weights), arena_(static_cast<unsigned char *>(::operator new(arena_bytes, std::align_val_t{{64}})))
   {{
{_cpu_check(program)}   }}

{_says(program)}
{listed("   void infer(", takes + gives, ")" if sized else ") noexcept")}
   {{
{check}{listed("      detail::infer(", arguments, ");")}{step}
   }}
{seed}{measured}
{listed(f"   {result} infer(", takes, ")")}
   {{
{check}{chr(10).join(makes)}
      infer({call});
{"".join(f"      {cut}{chr(10)}" for cut in cuts)}      return {back};
   }}

private:
   static constexpr std::size_t arena_bytes = {max(program.arena_bytes, 64)};
{_size_checks(program, sized)}
   struct Free {{
      void operator()(unsigned char *memory) const noexcept {{ ::operator delete(memory, std::align_val_t{{64}}); }}
   }};

   Weights weights_;
   std::unique_ptr<unsigned char, Free> arena_;{member}{timer}
}};"""


def _says(program: Program) -> str:
    """The comment above `infer`."""
    sizes = "Sizes, inputs, outputs last" if program.sizes else "Inputs first, outputs last"
    throws = " Throws std::out_of_range on a size out of bounds." if program.sizes else ""
    lines = [f"   // {sizes}; the pointers may not overlap.{throws}"]
    for port in program.late:
        room = math.prod(map(most, port.shape))
        lines.append(f"   // {port.parameter} has room for {room} elements; {port.found} gets its extents.")
    return "\n".join(lines)


def _size_checks(program: Program, parameters: Sequence[str]) -> str:
    """The function that refuses sizes out of bounds, before anything is touched."""
    if not parameters:
        return ""
    lines = ["", listed("   static void check(", parameters, ")"), "   {"]
    for symbol, name in program.sizes.items():
        sentence = f"{program.name}: {name} must be from {symbol.low} to {symbol.high}"
        low = f"{name} < {symbol.low} || " if symbol.low > 0 else ""
        lines.append(f"      if ({low}{name} > {symbol.high})")
        lines.append(f"         throw std::out_of_range({string(sentence)});")
    return "\n".join([*lines, "   }", ""])


def _cpu_check(program: Program) -> str:
    """The constructor refuses a machine that cannot run the kernels, before it would crash in one."""
    if not program.cpu.level:
        return ""
    sentence = (
        f"{program.name} was compiled for {program.cpu.name}, which this CPU does not run; "
        "compile it with --cpu portable"
    )
    refuse = f"throw std::runtime_error(\n             {string(sentence)});"
    return f"      if (detail::x86_level() < {program.cpu.level})\n         {refuse}\n"


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
