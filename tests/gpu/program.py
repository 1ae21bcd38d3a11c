"""The program that runs on the card: a translation unit a model, linked with `harness.cu` into one executable."""

from __future__ import annotations

from pathlib import Path

from sofie.emit.cuda import CudaProgram

HARNESS = Path(__file__).with_name("harness.cu")


def unit(program: CudaProgram) -> str:
    """The translation unit of a model without free sizes: it includes the .cuh and adds the model to the harness."""
    inputs = ", ".join(f"tensor<{port.cpp}>({port.elements})" for port in program.inputs)
    outputs = ", ".join(f"tensor<{port.cpp}>({port.elements})" for port in program.outputs)
    arguments = [f"static_cast<const {port.cpp} *>(in[{k}])" for k, port in enumerate(program.inputs)]
    arguments += [f"static_cast<{port.cpp} *>(out[{k}])" for k, port in enumerate(program.outputs)]
    return f"""#include "harness.hxx"

#include "{program.name}.cuh"

namespace {{

bool run_{program.name}(const harness::Plan &plan)
{{
   using harness::tensor;
   SOFIE_{program.name}::Session session(plan.folder + "/{program.name}.dat");
   return harness::measure(plan, {{{inputs}}}, {{{outputs}}}, [&](void *const *in, void *const *out) {{
      session.infer_device({", ".join(arguments)});
   }});
}}

const bool added_{program.name} = harness::add("{program.name}", run_{program.name});

}} // namespace
"""
