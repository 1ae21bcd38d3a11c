"""Writes the C interface of a program: what every language with a foreign function interface can call.

The header declares plain functions of one prefix, the source defines them around a `Session`. A session is an opaque
pointer; what throws in C++ is a status here, and its sentence is kept for the thread that asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sofie.emit.printer import KernelPrinter
from sofie.emit.session import parameters
from sofie.emit.sources import source
from sofie.emit.spelling import comment, listed, string

if TYPE_CHECKING:
    from sofie.emit.cpp import Program


def c_header(program: Program) -> str:
    """The declarations, in C."""
    prefix = f"SOFIE_{program.name}"
    session = f"{prefix}_session"
    return f"""/* {comment(program.name)}: the C interface. Written by SOFIE. */

#ifndef {prefix}_H
#define {prefix}_H

#include <stddef.h>
#include <stdint.h>

#ifndef SOFIE_EXPORT
#define SOFIE_EXPORT
#endif

#ifdef __cplusplus
extern "C" {{
#endif

/* Scratch memory for one thread at a time; all sessions share the weights. */
typedef struct {session} {session};

/* A session, or NULL: see {prefix}_error. weights: a file of retrained weights, or NULL for those in the library. */
SOFIE_EXPORT {session} *{prefix}_new(const char *weights);
/* A session of the same weights, for another thread, or NULL. */
SOFIE_EXPORT {session} *{prefix}_copy(const {session} *session);
SOFIE_EXPORT void {prefix}_delete({session} *session);

/* {_says(program)} The arrays may not overlap. Returns 0, or -1: see {prefix}_error. */
{listed(f"SOFIE_EXPORT int {prefix}_infer(", [f"{session} *session", *_c_parameters(program)], ");")}

/* The same with arrays of pointers, in the order of the model: sizes, inputs, outputs, and for outputs whose extents
   the run finds a place for them, NULL for the others. */
SOFIE_EXPORT {_RUN.format(prefix=prefix)};

/* The sentence of this thread's last failure. */
SOFIE_EXPORT const char *{prefix}_error(void);

/* The number of sizes that a call gives, and of each its name and bounds. */
SOFIE_EXPORT size_t {prefix}_sizes(void);
SOFIE_EXPORT const char *{prefix}_size(size_t k, size_t *low, size_t *high);

/* The number of inputs, and of outputs. */
SOFIE_EXPORT size_t {prefix}_inputs(void);
SOFIE_EXPORT size_t {prefix}_outputs(void);
/* Tensor k, the outputs behind the inputs: its name, and through pointers its type (as "float32") and rank. */
SOFIE_EXPORT const char *{prefix}_tensor(size_t k, const char **type, size_t *rank);
/* The extents of tensor k for these sizes; at most, where the run finds them. */
SOFIE_EXPORT void {prefix}_shape(size_t k, const size_t *sizes, size_t *shape);
/* Whether the run finds the extents of output k. */
SOFIE_EXPORT int {prefix}_late(size_t k);

#ifdef __cplusplus
}}
#endif

#endif /* {prefix}_H */
"""


_RUN = """int {prefix}_run(
    {prefix}_session *session,
    const size_t *sizes,
    const void *const *inputs,
    void *const *outputs,
    size_t *const *found)"""


def _says(program: Program) -> str:
    """What the comment above `infer` says of its parameters."""
    sizes = "Sizes, inputs, outputs last." if program.sizes else "Inputs first, outputs last."
    late = [f" {p.parameter} has room for all elements there may be; {p.found} gets its extents." for p in program.late]
    return sizes + "".join(late)


def _c_parameters(program: Program) -> list[str]:
    """The parameters of `infer` in C."""
    takes, gives = parameters(program)
    return [text.replace("std::", "") for text in (*takes, *gives)]


def c_source(program: Program) -> str:
    """The definitions, in C++, for behind the program's header and the declarations in C."""
    model = f"SOFIE_{program.name}"
    return f"""
struct {model}_session {{
   {model}::Session session;
}};

namespace {{

{source("guarded.hxx")}

// Those in the library, once.
const {model}::Weights &own_weights()
{{
   static const {model}::Weights weights;
   return weights;
}}

// Tensor k, the outputs behind the inputs.
const {model}::Tensor &tensor(std::size_t k)
{{
   return k < {model}::number_of_inputs ? {model}::inputs[k] : {model}::outputs[k - {model}::number_of_inputs];
}}

}} // namespace

extern "C" {{

{_sessions(model)}
{_runs(program, model)}
{_tables(program, model)}
}} // extern "C"
"""


def _sessions(model: str) -> str:
    """The functions that make and delete sessions, and tell why that failed."""
    return f"""{model}_session *{model}_new(const char *weights)
{{
   return guarded(
       [=] {{
          return new {model}_session{{
              {model}::Session(weights == nullptr ? own_weights() : {model}::Weights(std::string(weights)))}};
       }},
       nullptr);
}}

{model}_session *{model}_copy(const {model}_session *session)
{{
   return guarded([=] {{ return new {model}_session(*session); }}, nullptr);
}}

void {model}_delete({model}_session *session) {{ delete session; }}

const char *{model}_error(void) {{ return problem.c_str(); }}
"""


def _runs(program: Program, model: str) -> str:
    """The two functions that run the model."""
    names = [*program.sizes.values(), *(p.parameter for p in program.inputs)]
    names += [name for p in program.outputs for name in (p.parameter, p.found) if name]
    declared = listed(f"int {model}_infer(", [f"{model}_session *session", *_c_parameters(program)], ")")
    return f"""{declared}
{_run("", names)}
{_RUN.format(prefix=model)}
{_run(_silenced(program), _from_arrays(program))}"""


def _run(silenced: str, arguments: list[str]) -> str:
    """The body of a function that runs the model on these arguments of `infer`."""
    return f"""{{
{silenced}   return guarded(
       [=] {{
{listed("          session->session.infer(", arguments, ");")}
          return 0;
       }},
       -1);
}}
"""


def _tables(program: Program, model: str) -> str:
    """The functions that tell of sizes and tensors."""
    sizes = [f"{{{string(s.name)}, {s.low}, {s.high}}}" for s in program.sizes] or ['{"", 0, 0}']
    late = ["true" if port.found else "false" for port in program.outputs] or ["false"]
    return f"""size_t {model}_sizes(void) {{ return {len(program.sizes)}; }}

const char *{model}_size(size_t k, size_t *low, size_t *high)
{{
   static const struct {{
      const char *name;
      std::size_t low, high;
   }} bounds[] = {{
{chr(10).join(f"       {size}," for size in sizes)}
   }};
   *low = bounds[k].low;
   *high = bounds[k].high;
   return bounds[k].name;
}}

size_t {model}_inputs(void) {{ return {model}::number_of_inputs; }}

size_t {model}_outputs(void) {{ return {model}::number_of_outputs; }}

const char *{model}_tensor(size_t k, const char **type, size_t *rank)
{{
   *type = tensor(k).type;
   *rank = tensor(k).rank;
   return tensor(k).name;
}}

void {model}_shape(size_t k, const size_t *sizes, size_t *shape)
{{
   static_cast<void>(sizes);
   for (std::size_t axis = 0; axis < tensor(k).rank; ++axis)
      shape[axis] = tensor(k).shape[axis];
{_extents(program)}}}

int {model}_late(size_t k)
{{
   static const bool late[] = {{{", ".join(late)}}};
   return late[k] ? 1 : 0;
}}
"""


def _silenced(program: Program) -> str:
    """Statements that use the parameters which a program has nothing for."""
    unused = ["sizes"] * (not program.sizes) + ["inputs"] * (not program.inputs) + ["found"] * (not program.late)
    return "".join(f"   static_cast<void>({name});\n" for name in unused)


def _from_arrays(program: Program) -> list[str]:
    """The arguments of `infer` out of arrays of pointers."""
    sizes = [f"sizes[{k}]" for k in range(len(program.sizes))]
    inputs = [f"static_cast<const {p.cpp} *>(inputs[{k}])" for k, p in enumerate(program.inputs)]
    outputs = []
    for k, port in enumerate(program.outputs):
        outputs += [f"static_cast<{port.cpp} *>(outputs[{k}])", *([f"found[{k}]"] if port.found else [])]
    return [*sizes, *inputs, *outputs]


def _extents(program: Program) -> str:
    """The statements that correct the extents which follow from sizes."""
    spell = KernelPrinter(sizes={symbol: f"sizes[{k}]" for k, symbol in enumerate(program.sizes)})
    lines = []
    for k, port in enumerate((*program.inputs, *program.outputs)):
        found = [
            f"      shape[{axis}] = static_cast<std::size_t>({spell.extent(extent)});"
            for axis, extent in enumerate(port.shape)
            if not isinstance(extent, int) and not port.found
        ]
        if found:
            lines += [f"   if (k == {k}) {{", *found, "   }"]
    return "".join(f"{line}\n" for line in lines)
