"""What is done to the variables of an event before a network sees them: default for NaN, offset, scale; and names.

The rules come as lwtnn writes them, as JSON (https://github.com/lwtnn/lwtnn, "variable specification"):

    {"inputs": [{"name": "features",
                 "variables": [{"name": "pt", "offset": -50.0, "scale": 0.02}, {"name": "eta"}],
                 "defaults": {"eta": 0.0}}]}

A variable is one place along the last axis of its input. Where it is NaN and has a default, it becomes that; then it is
(variable + offset) * scale. All of it becomes nodes in front of the model's own, so it costs next to nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp

from sofie.errors import SofieError, printable

OLDEST_OPSET = 9
"""The opset that has all operators which are put in front."""


@dataclass(frozen=True)
class Variable:
    """One variable of an input: its name, what is added, by what it is multiplied then, what it is in place of NaN."""

    name: str
    offset: float = 0.0
    scale: float = 1.0
    default: float | None = None


Variables = Mapping[str, Sequence[Variable]]
"""The variables of inputs by name."""


def read_variables(text: str) -> dict[str, list[Variable]]:
    """The rules in a JSON file, or in JSON itself where the text begins with a brace. Raises SofieError."""
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text()
        except OSError as error:
            raise SofieError(f"{printable(text)!r} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SofieError(f"{printable(text)!r} is no text in UTF-8, so no JSON") from error
    try:
        inputs = json.loads(text)["inputs"]
        return {str(one["name"]): _variables(one) for one in inputs}
    except (json.JSONDecodeError, RecursionError) as error:
        raise SofieError(f"the variables are no JSON: {printable(str(error))}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SofieError(
            'the variables are not written as {"inputs": [{"name": ..., "variables": [{"name": ..., "offset": 0.0, '
            f'"scale": 1.0}}], "defaults": {{...}}}}]}}: {printable(str(error))}'
        ) from error


def _variables(one: Mapping[str, Any]) -> list[Variable]:
    """The variables of one input. Raises what a value of a wrong kind raises, and SofieError on wrong names."""
    defaults = {str(name): float(value) for name, value in one.get("defaults", {}).items()}
    found = [
        Variable(
            str(v["name"]), float(v.get("offset", 0.0)), float(v.get("scale", 1.0)), defaults.pop(str(v["name"]), None)
        )
        for v in one["variables"]
    ]
    where = f"input {printable(str(one['name']))!r}"
    if defaults:
        raise SofieError(f"{where} has a default for {printable(next(iter(defaults)))!r}, which is no variable of it")
    names = [v.name for v in found]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SofieError(f"{where} has two variables {printable(twice)!r}")
    if wrong := next((v for v in found if not (math.isfinite(v.offset) and math.isfinite(v.scale))), None):
        raise SofieError(f"{where}: offset and scale of {printable(wrong.name)!r} must be finite numbers")
    return found


def spelled(variables: Variables) -> str:
    """The rules as JSON on one line, as `read_variables` reads them."""
    inputs = []
    for name, listed in variables.items():
        defaults = {v.name: v.default for v in listed if v.default is not None}
        rows = [{"name": v.name, "offset": v.offset, "scale": v.scale} for v in listed]
        inputs.append({"name": name, "variables": rows, "defaults": defaults})
    return json.dumps({"inputs": inputs})


def prepare(model: onnx.ModelProto, variables: Variables) -> None:
    """Puts what is done to variables in front of a model's nodes. Raises SofieError where they are not its own."""
    inputs = {value.name: value for value in model.graph.input}
    if unknown := next((name for name in variables if name not in inputs), None):
        known = ", ".join(map(printable, inputs))
        raise SofieError(f"the variables are of an input {printable(unknown)!r}; the model's inputs are {known}")
    if next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OLDEST_OPSET) < OLDEST_OPSET:
        raise SofieError(f"variables need a model of opset {OLDEST_OPSET} or later: export it anew")
    nodes: list[onnx.NodeProto] = []
    for name, listed in variables.items():
        _check(inputs[name], listed)
        made = _nodes(model.graph, inputs[name], listed)
        if made:
            _rename(model.graph, name, made[-1].output[0])
        nodes += made
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *own])


def _check(value: onnx.ValueInfoProto, listed: Sequence[Variable]) -> None:
    """Raises SofieError unless an input is of floating point with a variable in each place of its last axis."""
    kind, where = value.type.tensor_type, f"input {printable(value.name)!r}"
    if helper.tensor_dtype_to_np_dtype(kind.elem_type) not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise SofieError(f"{where} is not float or double, so it has no variables")
    if not kind.shape.dim or kind.shape.dim[-1].dim_value != len(listed):
        size = kind.shape.dim[-1].dim_value if kind.shape.dim else 0
        raise SofieError(f"{where} has {len(listed)} variables, and {size or 'no fixed number of'} places for them")


def _nodes(graph: onnx.GraphProto, value: onnx.ValueInfoProto, listed: Sequence[Variable]) -> list[onnx.NodeProto]:
    """The nodes that prepare an input; their constants become initialisers."""
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    nodes: list[onnx.NodeProto] = []
    current = value.name

    def constant(what: str, numbers: Sequence[float]) -> str:
        name = f"{value.name}/{what}"
        graph.initializer.append(numpy_helper.from_array(np.array(numbers, dtype), name))
        return name

    def add(operator: str, inputs: Sequence[str], what: str) -> str:
        label = f"{value.name}/{what}"
        nodes.append(helper.make_node(operator, inputs, [label], name=label))
        return label

    if any(v.default is not None for v in listed):
        defaults = constant("defaults", [math.nan if v.default is None else v.default for v in listed])
        current = add("Where", [add("IsNaN", [current], "is_nan"), defaults, current], "without_nan")
    if any(v.offset for v in listed):
        current = add("Add", [current, constant("offsets", [v.offset for v in listed])], "centred")
    if any(v.scale != 1 for v in listed):
        add("Mul", [current, constant("scales", [v.scale for v in listed])], "scaled")
    return nodes


def _rename(graph: onnx.GraphProto, name: str, prepared: str) -> None:
    """Lets all that reads an input read what was prepared of it, in inner graphs too where it is not their own name."""
    for node in graph.node:
        for k, read in enumerate(node.input):
            if read == name:
                node.input[k] = prepared
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                own = {v.name for v in (*inner.input, *inner.initializer)}
                own |= {output for n in inner.node for output in n.output}
                if name not in own:
                    _rename(inner, name, prepared)
    for output in graph.output:
        if output.name == name:
            raise SofieError(f"input {printable(name)!r} is an output as well, so it has no variables")


def name_columns(module: ModuleOp, variables: Variables) -> None:
    """Notes the names of variables at the arguments of @infer that hold them."""
    (function,) = (op for op in module.body.block.ops if isinstance(op, FuncOp) and op.sym_name.data == "infer")
    assert function.arg_attrs is not None
    noted = []
    for attrs in function.arg_attrs.data:
        name = attrs.data.get("sofie.name")
        listed = variables.get(name.data) if isinstance(name, StringAttr) else None
        columns = {"sofie.columns": ArrayAttr([StringAttr(v.name) for v in listed])} if listed else {}
        noted.append(DictionaryAttr({**attrs.data, **columns}))
    function.arg_attrs = ArrayAttr(noted)
