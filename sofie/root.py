"""Models as columns of ROOT's RDataFrame, from Python: local with any number of threads, or on a cluster with Dask.

ROOT's interpreter runs vector code at half its speed. So a model becomes a library with its weights inside, compiled
once and kept in the cache, and the interpreter sees only the declaration of one function. Each thread has its own
session in it. Where there is no C++ compiler, the interpreter compiles the header itself.

    >>> df = sofie.root.define(df, "score", "higgs.onnx", columns=["pt", "eta", "phi"])
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
from xdsl.dialects.builtin import f64

from sofie import jit
from sofie.compiler import Options, default_name, lower
from sofie.emit.cpp import Program
from sofie.emit.functor import takes_columns
from sofie.emit.named import single
from sofie.emit.ports import Port
from sofie.emit.spelling import listed, literal, string
from sofie.errors import SofieError, printable
from sofie.files import write
from sofie.frontends.dimensions import Dim, with_batches
from sofie.frontends.onnx import read_model
from sofie.frontends.variables import read_variables

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-w")
_numbers = itertools.count()


def define(
    df: Any,
    name: str | Sequence[str],
    model: str | Path | bytes | onnx.ModelProto,
    columns: Sequence[str],
    *,
    pad: float | None = None,
    dims: Mapping[str, Dim] | None = None,
    set: Mapping[str, object] | None = None,  # named like the command line's --set
    variables: str | Path | None = None,
    without: Sequence[str] = (),
    reproducible: bool = False,
) -> Any:
    """A node of the RDataFrame `df`, local or distributed, with the model's result for each entry as column `name`.

    columns: one for each element of the model's inputs, in order, of any number type; or one collection (RVec,
    std::vector, array) for each input, of exactly its number of elements, or, with `pad`, of any number: the first
    ones are taken, and `pad` is put in the place of missing ones. A leading dimension that is free is 1, as others are
    that `dims` does not bind; the other options are those of `sofie.compile`.

    name: a name, or one for each output of the model. An output of one element is a number of its own type, any other
    a std::vector.

    Raises SofieError on anything wrong with the model, the options or the number of columns or names; ROOT itself
    raises on columns that are not there, and when it runs on collections of a wrong length.
    """
    options = Options(dict(dims or {}), set or {}, "multi", without=without, reproducible=reproducible)
    options = replace(options, variables=read_variables(str(variables)) if variables is not None else {})
    functions = Functions(_program(model, options))
    names = [name] if isinstance(name, str) else list(name)
    outputs = functions.program.outputs
    if len(names) != len(outputs):
        given = ", ".join(printable(port.name) for port in outputs)
        raise SofieError(f"the model has {len(outputs)} output(s) ({given}): give as many names, not {len(names)}")
    call = functions.call(columns, pad)
    if functions.namespace not in (known := _shipped if _is_distributed(df) else _declared):
        (_ship if _is_distributed(df) else _declare)(functions)
        known.add(functions.namespace)
    if len(outputs) == 1:
        return df.Define(names[0], call)
    together = f"sofie_all_{next(_numbers)}"  # one inference for all outputs
    df = df.Define(together, call)
    for k, column in enumerate(names):
        df = df.Define(column, f"std::get<{k}>({together})")
    return df


def _program(model: str | Path | bytes | onnx.ModelProto, options: Options) -> Program:
    """The lowered model with free leading dimensions of 1, and every other in the way named."""
    proto = read_model(model, options.dims, options.values)
    dims = with_batches(proto.graph, options.dims, options.values, 1)
    program = lower(proto, default_name(model), replace(options, dims=dims))
    if not takes_columns(program):
        raise SofieError(
            "an entry of an RDataFrame is no input of this model: it needs inputs, results of known extents, "
            "sizes that may be 1, and at most 1,024 numbers"
        )
    return program


@dataclass
class Functions:
    """The C++ functions that stand between RDataFrame and a program that `takes_columns`.

    The program gets a name that follows from its contents: others of its name may be in the same process.
    """

    program: Program

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.program.layout.encode())
        digest.update(" ".join(self.program.offsets).encode())  # digests of the weights
        self.program.name = f"{self.program.name}_{digest.hexdigest()[:16]}"

    @cached_property
    def header(self) -> str:
        """The program's header with its weights inside."""
        return self.program.header(embed=True)

    @property
    def namespace(self) -> str:
        """Where the functions are: equal programs share it."""
        return f"sofie_root_{self.program.name}"

    @cached_property
    def counts(self) -> list[tuple[Port, int]]:
        """Each input with its number of elements."""
        return [(port, single(self.program, port)) for port in self.program.inputs]

    @cached_property
    def results(self) -> list[tuple[Port, int, str]]:
        """Each output with its number of elements and the type of its column."""
        counts = [(port, single(self.program, port)) for port in self.program.outputs]
        return [(port, n, port.cpp if n == 1 else f"std::vector<{port.cpp}>") for port, n in counts]

    def call(self, columns: Sequence[str], pad: float | None) -> str:
        """The expression of a column. Raises SofieError on a wrong number of columns."""
        total = sum(count for _, count in self.counts)
        if len(columns) == total and pad is None:
            return f"{self.namespace}::eval({', '.join(columns)})"
        if len(columns) != len(self.counts):
            each = ", ".join(f"{printable(port.name)} {count}" for port, count in self.counts)
            raise SofieError(
                f"{len(columns)} column(s) for inputs of {total} numbers ({each}): give one for each number, "
                "or one collection for each input"
            )
        padding = "false, 0" if pad is None else f"true, {literal(float(pad), f64)}"
        parts = [
            f"{self.namespace}::elements<{port.cpp}, {count}>({column}, {padding}, {string(port.parameter)}).data()"
            for (port, count), column in zip(self.counts, columns, strict=True)
        ]
        return f"{self.namespace}::eval_arrays({', '.join(parts)})"

    @property
    def signatures(self) -> tuple[str, str]:
        """The two functions without their bodies: of single numbers, and of arrays."""
        kinds = [kind for _, _, kind in self.results]
        result = kinds[0] if len(kinds) == 1 else f"std::tuple<{', '.join(kinds)}>"
        numbers = [f"{port.cpp} {port.parameter}_{k}" for port, count in self.counts for k in range(count)]
        arrays = [f"const {port.cpp} *{port.parameter}" for port, _ in self.counts]
        return listed(f"{result} eval(", numbers, ")"), listed(f"{result} eval_arrays(", arrays, ")")

    @property
    def declaration(self) -> str:
        """What the interpreter is told of the library."""
        of_numbers, of_arrays = self.signatures
        return f"""{_INCLUDES}
namespace {self.namespace} {{

{of_numbers};
{of_arrays};

{_ELEMENTS}
}} // namespace {self.namespace}
"""

    @property
    def definition(self) -> str:
        """The library: the header, and the functions that RDataFrame calls, a session a thread."""
        of_numbers, of_arrays = self.signatures
        model = f"SOFIE_{self.program.name}"
        fills = [
            listed(
                f"   const {port.cpp} {port.parameter}[] = {{", [f"{port.parameter}_{k}" for k in range(count)], "};"
            )
            for port, count in self.counts
        ]
        rooms = [f"   {port.cpp} {port.parameter}[{max(count, 1)}];" for port, count, _ in self.results]
        inputs, outputs = ([port.parameter for port, *_ in ports] for ports in (self.counts, self.results))
        gives = [
            f"{p.parameter}[0]" if n == 1 else f"{{{p.parameter}, {p.parameter} + {n}}}" for p, n, _ in self.results
        ]
        arguments = ["1"] * len(self.program.sizes) + inputs + outputs
        return f"""{self.header}
namespace {self.namespace} {{

{of_arrays}
{{
   static const {model}::Weights weights;
   thread_local {model}::Session session(weights);
{chr(10).join(rooms)}
{listed("   session.infer(", arguments, ");")}
   return {gives[0] if len(gives) == 1 else f"{{{', '.join(gives)}}}"};
}}

{of_numbers}
{{
{chr(10).join(fills)}
   return eval_arrays({", ".join(inputs)});
}}

}} // namespace {self.namespace}
"""


_INCLUDES = "".join(f"#include <{name}>\n" for name in "array cstddef cstdint stdexcept string tuple vector".split())

_ELEMENTS = """// The first N elements of a collection; missing ones are `padding` where it is `padded`, else an error.
template <class T, std::size_t N, class Collection>
std::array<T, N> elements(const Collection &from, bool padded, double padding, const char *input)
{
   const std::size_t size = from.size();
   if (!padded && size != N)
      throw std::runtime_error(
          std::string("the input ") + input + " takes " + std::to_string(N) + " elements, not " + std::to_string(size) +
          "; with pad=0.0 missing ones are 0, and more are left out");
   std::array<T, N> to;
   for (std::size_t k = 0; k < N; ++k)
      to[k] = static_cast<T>(k < size ? from[k] : padding);
   return to;
}
"""


# -- into ROOT -------------------------------------------------------------------------------------------------------

_declared: set[str] = set()
"""The namespaces that this process' interpreter knows."""
_shipped: set[str] = set()
"""Those that the workers of distributed RDataFrames know as well."""


def _root() -> Any:
    """The module ROOT. Raises SofieError where it is not installed."""
    try:
        import ROOT
    except ImportError as error:
        raise SofieError("ROOT is not installed for this Python: pip install root, or source thisroot.sh") from error
    return ROOT


def _declare(functions: Functions) -> None:
    """Loads the library, or lets the interpreter compile it where there is no compiler: right, and half as fast."""
    root = _root()
    if jit.has_compiler():
        text, library = functions.declaration, jit.build(functions.definition, FLAGS)
    else:
        folder = jit.cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / f"{functions.namespace}.hxx"
        write(source, (functions.declaration + functions.definition).encode())
        text, library = f"#include {string(str(source))}", None
    if not root.gInterpreter.Declare(text):
        raise SofieError("ROOT's interpreter does not take the model: see what it printed")
    if library is not None and root.gSystem.Load(str(library)) < 0:
        raise SofieError(f"ROOT cannot load {printable(str(library))!r}: see what it printed")


def _is_distributed(df: Any) -> bool:
    """Whether a node is one of ROOT.RDF.Distributed: those are objects of Python."""
    return "distrdf" in type(df).__module__.lower()


def _ship(functions: Functions) -> None:
    """Sends the library and its declaration to all workers of distributed RDataFrames, and to this process."""
    distributed = _root().RDF.Distributed
    if not hasattr(distributed, "DistributeSharedLibs") or not hasattr(distributed, "DistributeCppCode"):
        raise SofieError("this ROOT cannot send libraries to workers: distributed RDataFrames need ROOT 6.36 or later")
    distributed.DistributeSharedLibs(str(jit.build(functions.definition, FLAGS)))
    distributed.DistributeCppCode(functions.declaration)
