"""Writes the other ways to call a session: inputs by their own names, and as vectors whose lengths are checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sofie.emit.ports import Port
from sofie.emit.printer import KernelPrinter
from sofie.emit.spelling import listed, string
from sofie.naming import Namer
from sofie.sizes import at

if TYPE_CHECKING:
    from sofie.emit.cpp import Program


def inputs_struct(program: Program) -> str:
    """The struct `Inputs`: a pointer to each input under its own name."""
    if not program.inputs:
        return ""
    members = "".join(f"   const {port.cpp} *{port.parameter} = nullptr;\n" for port in program.inputs)
    first = program.inputs[0].parameter
    return f"""// The inputs by their names; in C++20: session.infer({{.{first} = ...}}).
struct Inputs {{
{members}}};
{_variables_struct(program)}"""


def single(program: Program, port: Port) -> int:
    """The elements of an input or output of one event, every size being 1."""
    return math.prod(at(port.shape, {symbol.name: 1 for symbol in program.sizes}))


def _variables(program: Program) -> list[tuple[Port, list[tuple[str, str]]]]:
    """The variables of each input as member and own name; none where not all of one event go by a name."""
    namer = Namer()
    if any(not symbol.low <= 1 <= symbol.high for symbol in program.sizes):
        return []
    if any(len(port.columns) != single(program, port) for port in program.inputs):
        return []
    return [(port, [(namer(name, "variable"), name) for name in port.columns]) for port in program.inputs]


def _variables_struct(program: Program) -> str:
    """The struct `Variables`, where they have names: one event."""
    if not (ports := _variables(program)):
        return ""
    members = "".join(
        f"   {port.cpp} {member} = std::numeric_limits<{port.cpp}>::quiet_NaN();\n"
        for port, names in ports
        for member, _ in names
    )
    first = ports[0][1][0][0]
    return f"""
// The variables of one event by their names, NaN where not set; in C++20: session.infer(Variables{{.{first} = ...}}).
struct Variables {{
{members}}};
"""


def _by_variables(program: Program, result: str) -> str:
    """The `infer` of one event that takes `Variables`, where they have names."""
    if not (ports := _variables(program)):
        return ""
    arrays = "\n".join(
        listed(f"      const {port.cpp} {port.parameter}[] = {{", [f"variables.{member}" for member, _ in names], "};")
        for port, names in ports
    )
    arguments = ["1"] * len(program.sizes) + [port.parameter for port in program.inputs]
    return f"""
   // One event, its variables by name.
   {result} infer(const Variables &variables)
   {{
{arrays}
{listed("      return infer(", arguments, ");")}
   }}
"""


def by_name(program: Program, result: str) -> str:
    """The `infer` that takes `Inputs`, and the one that takes vectors; both return `result`, as that of pointers."""
    if not program.inputs:
        return ""
    sizes = list(program.sizes.values())
    takes = [f"const std::size_t {name}" for name in sizes]
    spell = KernelPrinter(sizes=dict(program.sizes))
    call = listed("      return infer(", [*sizes, *(f"by_name.{p.parameter}" for p in program.inputs)], ");")
    count = len(program.inputs)
    allocator = [f"Allocator{k}" for k in range(count)] if count > 1 else ["Allocator"]
    allocators = ", ".join(f"class {name}" for name in allocator)
    vectors = [
        f"const std::vector<{port.cpp}, {own}> &{port.parameter}"
        for port, own in zip(program.inputs, allocator, strict=True)
    ]
    data = listed("      return infer(", [*sizes, *(f"{p.parameter}.data()" for p in program.inputs)], ");")
    said = [(port, string(port.parameter)) for port in program.inputs]
    lengths = "\n".join(
        listed("      detail::check_length(", [name, f"{p.parameter}.size()", spell.extent(p.elements)], ");")
        for p, name in said
    )
    absent = "\n".join(f"      detail::check_set({name}, by_name.{port.parameter});" for port, name in said)
    return f"""
   // Inputs by name. Throws std::invalid_argument where one was not set.
{listed(f"   {result} infer(", [*takes, "const Inputs &by_name"], ")")}
   {{
{absent}
{call}
   }}

   // Throws std::invalid_argument where a vector is not as long as its input. (As templates they take no array of
   // Python's, which ROOT would make a vector of by its bits.)
   template <{allocators}>
{listed(f"   {result} infer(", [*takes, *vectors], ")")}
   {{
{lengths}
{data}
   }}
{_by_variables(program, result)}"""
