"""Writes the class `Session` of a program: what users of the header see."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sofie.emit.functor import DECLARATION, takes_columns
from sofie.emit.named import by_name, inputs_struct
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

_FUNCTOR = """   template <std::size_t N, class Column>
   using Functor = ColumnFunctor<std::make_index_sequence<N>, Column>;

"""
_COPIES = """   // A copy shares the weights and has scratch memory of its own.
   Session(const Session &other) : Session({again}){state}
   Session(Session &&) = default;
   Session &operator=(const Session &other) {{ return *this = Session(other); }}
   Session &operator=(Session &&) = default;
"""
_COPY_STATE = """
   {
      random_state_[0] = other.random_state_[0];
      random_state_[1] = other.random_state_[1];
   }"""
_LEVEL = """   // The level of x86-64 whose kernels run; 0 on other machines.
   int level() const noexcept { return level_; }

"""
_LEVEL_MEMBERS = """
   int level_;
   detail::Entry infer_;"""


def session(program: Program, embed: bool, profile: bool = False) -> str:
    """The class that users see: weights, scratch memory, inference into buffers or vectors, maybe its times."""
    takes, gives = parameters(program)
    arguments = ["weights_.data()", "arena_.get()", *(["profile_"] if profile else [])]
    arguments += ["*threads_"] if program.threads > 1 else []
    arguments += [f"static_cast<std::ptrdiff_t>({name})" for name in program.sizes.values()]
    arguments += [passed(p, const=True) for p in program.inputs] + ["random_state_"] * program.draws
    arguments += [passed(p, const=False) for p in program.outputs]
    arguments += [f"reinterpret_cast<std::ptrdiff_t *>({p.found})" for p in program.late]
    several = len(program.variants) > 1
    call_entry = "infer_" if several else f"{program.variants[0].cpu.namespace}::infer"
    step = member = seed = ""
    if program.draws:
        step = "\n      ++random_state_[1];"
        member = "\n   std::int64_t random_state_[2] = {0, 0};"
        seed = _SEED
    measured = PROFILE_METHODS if profile else ""
    times = "detail::kernel_times(level_)" if several else f"{program.variants[0].cpu.namespace}::kernel_times()"
    timer = f"\n   detail::Profile profile_{{{times}}};" if profile else ""
    pool = f"std::unique_ptr<detail::Threads> threads_{{new detail::Threads({program.threads})}};"
    crew = f"\n   {pool}" if program.threads > 1 else ""
    columns = takes_columns(program)
    return f"""{DECLARATION * columns}{inputs_struct(program)}
// One thread's scratch memory; the weights are shared. Inference allocates only what it returns.
class Session {{
public:
{_FUNCTOR * columns}   Session() : Session(Weights()) {{}}
   explicit Session(const std::string &file) : Session(Weights(file)) {{}}
{_constructor(program)}
{_LEVEL if several else ""}{_says(program)}
{listed("   void infer(", takes + gives, ")" if program.sizes else ") noexcept")}
   {{
{checked(program)}{listed(f"      {call_entry}(", arguments, ");")}{step}
   }}
{seed}{measured}
{returning(program)}
private:
   static constexpr std::size_t arena_bytes = {max(program.arena_bytes, 64)};
{size_checks(program)}
   struct Free {{
      void operator()(unsigned char *memory) const noexcept {{ ::operator delete(memory, std::align_val_t{{64}}); }}
   }};

   Weights weights_;
   std::unique_ptr<unsigned char, Free> arena_;{member}{_LEVEL_MEMBERS if several else ""}{timer}{crew}
}};"""


def parameters(program: Program) -> tuple[list[str], list[str]]:
    """The parameters of `infer`: sizes and inputs, and outputs."""
    takes = [f"const std::size_t {name}" for name in program.sizes.values()]
    takes += [f"const {p.cpp} *{p.parameter}" for p in program.inputs]
    return takes, [part for p in program.outputs for part in _gives(p)]


def checked(program: Program) -> str:
    """The statement that refuses sizes out of bounds, if there are sizes."""
    return f"      check({', '.join(program.sizes.values())});\n" if program.sizes else ""


def returning(program: Program) -> str:
    """The `infer`s that return vectors."""
    vectors = [part for p in program.outputs for part in _returns(p)]
    result = vectors[0] if len(vectors) == 1 else f"std::tuple<{', '.join(vectors)}>"
    spell = KernelPrinter(sizes=dict(program.sizes))
    makes = [line for p in program.outputs for line in _makes(p, spell)]
    names = [name for p in program.outputs for name in (p.parameter, p.found) if name]
    call = [*program.sizes.values(), *(p.parameter for p in program.inputs), *(f"{name}.data()" for name in names)]
    cuts = [_cut(p) for p in program.late]
    back = names[0] if len(names) == 1 else f"{{{', '.join(f'std::move({n})' for n in names)}}}"
    return f"""{listed(f"   {result} infer(", parameters(program)[0], ")")}
   {{
{checked(program)}{chr(10).join(makes)}
      infer({", ".join(call)});
{"".join(f"      {cut}{chr(10)}" for cut in cuts)}      return {back};
   }}
{by_name(program, result)}"""


def _says(program: Program) -> str:
    """The comment above `infer`."""
    sizes = "Sizes, inputs, outputs last" if program.sizes else "Inputs first, outputs last"
    throws = " Throws std::out_of_range on a size out of bounds." if program.sizes else ""
    lines = [f"   // {sizes}; the pointers may not overlap.{throws}"]
    for port in program.late:
        room = math.prod(map(most, port.shape))
        lines.append(f"   // {port.parameter} has room for {room} elements; {port.found} gets its extents.")
    return "\n".join(lines)


def size_checks(program: Program) -> str:
    """The function that refuses sizes out of bounds, before anything is touched."""
    if not program.sizes:
        return ""
    lines = [
        "",
        listed("   static void check(", [f"const std::size_t {n}" for n in program.sizes.values()], ")"),
        "   {",
    ]
    for symbol, name in program.sizes.items():
        sentence = f"{program.name}: {name} must be from {symbol.low} to {symbol.high}"
        low = f"{name} < {symbol.low} || " if symbol.low > 0 else ""
        lines.append(f"      if ({low}{name} > {symbol.high})")
        lines.append(f"         throw std::out_of_range({string(sentence)});")
    return "\n".join([*lines, "   }", ""])


def _constructor(program: Program) -> str:
    """The constructor from weights; it refuses a machine that cannot run the kernels, before it would crash in one."""
    several, cpu = len(program.variants) > 1, program.variants[0].cpu
    takes = ", int level = 4" if several else ""
    head = f"   explicit Session(const Weights &weights{takes})"
    members = [
        "weights_(weights)",
        "arena_(static_cast<unsigned char *>(::operator new(arena_bytes, std::align_val_t{64})))",
        *(["level_(detail::usable_level(level))", "infer_(detail::entry_of(level_))"] if several else []),
    ]
    body = ""
    if cpu.level and not several:
        sentence = (
            f"{program.name} was compiled for {cpu.name}, which this CPU does not run; compile it with --cpu portable"
        )
        refuse = f"throw std::runtime_error(\n             {string(sentence)});"
        test = f"!detail::x86_vnni({cpu.level})" if cpu.vnni else f"detail::x86_level() < {cpu.level}"
        body = f"      if ({test})\n         {refuse}\n"
    says = "   // level: the highest level of x86-64 to use, of those that this machine runs.\n" if several else ""
    listing = ",\n         ".join(members) if several else ", ".join(members)
    again = "other.weights_, other.level_" if several else "other.weights_"
    copies = _COPIES.format(again=again, state=_COPY_STATE if program.draws else " {}")
    return f"{says}{head}\n       : {listing}\n   {{\n{body}   }}\n{copies}"


def choice(program: Program, profile: bool = False) -> str:
    """The functions that choose between the variants of a program for several levels of x86-64."""
    least = program.variants[0]
    sentence = f"{program.name} was compiled for {least.cpu.name} and above, which this CPU does not run; "
    sentence += "compile it with --cpu portable"
    chosen = [_chosen("Entry entry_of", "infer", program)]
    chosen += [_chosen("std::vector<KernelTime> kernel_times", "kernel_times()", program)] if profile else []
    by_level, least_only = zip(*chosen, strict=True)
    return f"""namespace detail {{

using Entry = decltype(&{least.cpu.namespace}::infer);

#if defined(__x86_64__)
// The best level that this machine runs, up to `most`.
inline int usable_level(int most)
{{
   static const int best = x86_level();
   if (best < {least.cpu.level})
      throw std::runtime_error(
          {string(sentence)});
   return most < best ? most : best;
}}

{chr(10).join(by_level)}
#else
inline int usable_level(int) {{ return 0; }}

{chr(10).join(least_only)}
#endif

}} // namespace detail"""


def _chosen(function: str, what: str, program: Program) -> tuple[str, str]:
    """A function of the level that gives what its variant has, and the one for machines that only run the first."""
    least, *others = (variant.cpu for variant in program.variants)
    tests = [f"level >= {c.level}{f' && x86_vnni({c.level})' if c.vnni else ''}" for c in others]
    rows = "".join(
        f"   if ({test})\n      return {cpu.namespace}::{what};\n"
        for test, cpu in reversed(list(zip(tests, others, strict=True)))
    )
    last = f"return {least.namespace}::{what};"
    return f"inline {function}(int level)\n{{\n{rows}   {last}\n}}\n", f"inline {function}(int) {{ {last} }}\n"


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


def passed(port: Port, const: bool) -> str:
    """The caller's pointer as the kernels want it."""
    if port.inner == port.cpp:
        return port.parameter
    return f"reinterpret_cast<{'const ' if const else ''}{port.inner} *>({port.parameter})"
