"""The meaning of a module at any level, on numpy arrays: the referee of every pass, without a C++ compiler.

xDSL supplies the frame (`xdsl.interpreter`: functions registered by op); what an op means is written here, in the
element type's own precision. Memory that nobody wrote holds NaN or 0xA5, loops that call themselves parallel run
backwards, and an access outside its buffer is an error: a pass that relies on luck is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import DictionaryAttr, MemRefType, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue

from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.errors import SofieError, printable
from sofie.extents import symbols_by_argument
from sofie.interpreter.control import ControlFunctions
from sofie.interpreter.generic import GenericFunctions
from sofie.interpreter.machine import Machine, poison_of, poisoned, within
from sofie.interpreter.memory import MemoryFunctions
from sofie.interpreter.scalars import CastFunctions, ComparisonFunctions, ElementwiseFunctions
from sofie.interpreter.tensors import TensorFunctions, onnx_functions
from sofie.interpreter.vectors import VectorFunctions
from sofie.random_state import STATE
from sofie.sizes import at, bind, most, symbols_of
from sofie.weights import Array

_FUNCTIONS = (
    CastFunctions,
    ComparisonFunctions,
    ControlFunctions,
    ElementwiseFunctions,
    GenericFunctions,
    MemoryFunctions,
    TensorFunctions,
    VectorFunctions,
)
_ARENA_POISON = 0xFF
_NOTHING = DictionaryAttr({})


def run(module: ModuleOp, inputs: Sequence[Array], seed: int = 0, call: int = 0) -> list[Array]:
    """The results of @infer at whatever level `module` is, in the model's order.

    `seed` and `call` are what random operators draw from: the results are those of call number `call` of a session.

    `inputs` come in the model's order, with the shapes of the arguments and the dtypes of their `sofie.dtype`; results
    have theirs. Raises SofieError where an input does not fit, an op has no meaning here, or an access leaves its
    buffer.
    """
    infer = next((f for f in module.body.block.ops if isinstance(f, FuncOp) and f.sym_name.data == "infer"), None)
    if infer is None or not infer.body.blocks:
        raise SofieError("the module has no function @infer to run")
    attributes = list(infer.arg_attrs or [_NOTHING] * len(infer.body.block.args))
    ports = list(zip(infer.body.block.args, attributes, strict=True))
    symbols, state = symbols_by_argument(infer), np.array([seed % 2**64, call], np.uint64).view(np.int64)
    given = [port for port in ports if not _is_made(port[1]) and port[0] not in symbols]
    if len(given) != len(inputs):
        raise SofieError(f"@infer takes {len(given)} inputs, not {len(inputs)}")
    sizes: dict[str, int] = {}
    feeds = iter([_input(v, a, array, sizes) for (v, a), array in zip(given, inputs, strict=True)])
    arguments: list[Any] = []
    for argument, attrs in ports:
        if argument in symbols:
            arguments.append(np.int64(sizes[symbols[argument].name]))
        else:
            arguments.append(_made(argument, attrs, sizes, state) if _is_made(attrs) else next(feeds))
    functions = [*(functions() for functions in _FUNCTIONS), onnx_functions(module)]
    machine = Machine(module, functions, sizes, lambda alone, operands: run(alone, operands, seed, call))
    machine.late = [
        (argument, array)
        for (argument, attrs), array in zip(ports, arguments, strict=True)
        if "sofie.output" in attrs.data and any(s.name not in sizes for s in symbols_of(shape_of(argument)))
    ]
    with np.errstate(all="ignore"):
        returned = machine.run_ssacfg_region(infer.body, tuple(arguments))
    outputs = [k for k, (_, attrs) in enumerate(ports) if "sofie.output" in attrs.data]
    if not infer.function_type.outputs.data:
        return [_output(within(arguments[k], at(shape_of(ports[k][0]), machine.sizes)), attributes[k]) for k in outputs]
    results = infer.res_attrs or [_NOTHING] * len(returned)
    return [_output(value, attrs) for value, attrs in zip(returned, results, strict=True)]


def _is_made(attributes: DictionaryAttr) -> bool:
    """Whether the caller of the emitted code provides this argument by itself: an output, the arena, random state."""
    return any(name in attributes.data for name in ("sofie.output", "sofie.arena", STATE))


def _made(argument: SSAValue, attributes: DictionaryAttr, sizes: Mapping[str, int], state: Array) -> Array:
    if STATE in attributes.data:
        return state
    shape = shape_of(argument)
    known = all(s.name in sizes for s in symbols_of(shape))
    array = poisoned(argument, sizes) if known else poison_of(element_of(argument), tuple(map(most, shape)))
    if "sofie.arena" in attributes.data:
        array.view(np.uint8).fill(_ARENA_POISON)
    return array


def _input(argument: SSAValue, attributes: DictionaryAttr, array: Array, sizes: dict[str, int]) -> Array:
    """A read-only copy of `array` as the level stores it; raises SofieError where dtype or shape differ.

    Enters the run-time sizes that its shape tells into `sizes`.
    """
    assert isinstance(argument.type, TensorType | MemRefType)
    stored = numpy_dtype(element_of(argument))
    expected, shape = _dtype(attributes, stored), shape_of(argument)
    if array.dtype != expected or not bind(shape, array.shape, sizes):
        name = attributes.data.get("sofie.name")
        label = printable(name.data) if isinstance(name, StringAttr) else argument.name_hint or "?"
        given = f"{array.dtype}{list(array.shape)}"
        raise SofieError(f"input {label!r} is {given}, the model takes {expected}[{', '.join(map(str, shape))}]")
    copy = np.array(array, order="C").view(stored)
    copy.flags.writeable = False
    return copy


def _output(array: Array, attributes: DictionaryAttr) -> Array:
    """A copy of `array` in the dtype that the caller sees; raises SofieError where a bool is neither 0 nor 1."""
    dtype = _dtype(attributes, array.dtype)
    if dtype == np.bool_ and not np.all(array.view(np.uint8) <= 1):
        raise SofieError("an output of bools holds bytes that nobody wrote")
    return np.array(array, order="C").view(dtype)


def _dtype(attributes: DictionaryAttr, default: np.dtype[np.generic]) -> np.dtype[np.generic]:
    name = attributes.data.get("sofie.dtype")
    return np.dtype(name.data) if isinstance(name, StringAttr) else default
