"""Writes the class `ColumnFunctor` of a program: a session for each slot of ROOT's RDataFrame, called with columns.

RDataFrame looks at the call operator for the types of the columns, so it may not be a template: the number of columns
and their type are parameters of the class. ROOT itself is not needed; `SofieFunctor` finds the class by its session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sofie.emit.named import single
from sofie.emit.ports import Port
from sofie.emit.spelling import listed, string

if TYPE_CHECKING:
    from sofie.emit.cpp import Program

MOST_COLUMNS = 1024
"""How many columns a functor takes; a model with more inputs is no matter of columns."""

DECLARATION = """
template <class Columns, class Column> class ColumnFunctor;
"""

_SAYS = """// What SofieFunctor makes: a session for each slot of an RDataFrame, called with the elements of the inputs.
// Copies share the weights, and nothing else."""
_HEAD = "template <std::size_t... K, class Column> class ColumnFunctor<std::index_sequence<K...>, Column>"


def takes_columns(program: Program) -> bool:
    """Whether one event of the model is a row of columns: every size may be 1, results have a known number, and C++ has
    their types."""
    if program.late or not program.inputs or not program.outputs:
        return False
    if any(not symbol.low <= 1 <= symbol.high for symbol in program.sizes):
        return False
    if any(port.is_bits for port in (*program.inputs, *program.outputs)):
        return False
    return 0 < sum(single(program, port) for port in program.inputs) <= MOST_COLUMNS


def functor(program: Program) -> str:
    """The class, for a program that `takes_columns`."""
    counts = [single(program, port) for port in (*program.inputs, *program.outputs)]
    columns, results = sum(counts[: len(program.inputs)]), sum(counts[len(program.inputs) :])
    gives = "float" if all(port.dtype == "float32" for port in program.outputs) else "double"
    result = "double" if results == 1 else f"std::vector<{gives}>"
    rooms = [f"{p.cpp} {p.parameter}[{max(n, 1)}];" for p, n in zip(_ports(program), counts, strict=True)]
    fills, start = [], 0
    for port, count in zip(program.inputs, counts, strict=False):
        first = f"row[{start} + i]" if start else "row[i]"
        fills += [f"for (std::size_t i = 0; i < {count}; ++i)"]
        fills += [f"   at.{port.parameter}[i] = static_cast<{port.cpp}>({first});"]
        start += count
    arguments = ["1"] * len(program.sizes) + [f"at.{port.parameter}" for port in _ports(program)]
    sentence = f"{program.name} takes {columns} column{'s' * (columns != 1)}: SofieFunctor<{columns}, ...>"
    outside = f"{program.name}: this SofieFunctor has fewer slots than the RDataFrame; make it with df.GetNSlots()"
    line = "\n      "
    return f"""{_SAYS}
{_HEAD} {{
{listed("   static_assert(", [f"sizeof...(K) == {columns}", string(sentence)], ");")}
   template <std::size_t> using Of = Column;

public:
   // The weights are those of `file`, else the model's own.
   ColumnFunctor(unsigned slots, const std::string &file)
       : slots_(slots, Slot{{Session(file.empty() ? Weights() : Weights(file)){", {}" * len(rooms)}}})
   {{
   }}

   {result} operator()(unsigned slot, Of<K>... columns)
   {{
      if (slot >= slots_.size())
{listed("         throw std::out_of_range(", [string(outside)], ");")}
      Slot &at = slots_[slot];
      const Column row[] = {{columns...}};
      {line.join(fills)}
{listed("      at.session.infer(", arguments, ");")}
{_result(program, counts[len(program.inputs) :], result)}
   }}

private:
   struct alignas(64) Slot {{
      Session session;
      {line.join(rooms)}
   }};

   std::vector<Slot> slots_;
}};"""


def _ports(program: Program) -> tuple[Port, ...]:
    return (*program.inputs, *program.outputs)


def _result(program: Program, counts: list[int], result: str) -> str:
    """The statements that return what was inferred: a number, or all of them in the order of the outputs."""
    if result == "double":
        (port,) = (p for p, n in zip(program.outputs, counts, strict=True) if n)
        return f"      return static_cast<double>(at.{port.parameter}[0]);"
    lines = [f"{result} all;", f"all.reserve({sum(counts)});"]
    for port, count in zip(program.outputs, counts, strict=True):
        lines.append(f"all.insert(all.end(), at.{port.parameter}, at.{port.parameter} + {count});")
    return "\n".join(f"      {line}" for line in [*lines, "return all;"])
