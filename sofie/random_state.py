"""What random operators draw from: the state of a session, an argument of @infer that no caller sees.

    func.func @infer(%x: ..., %random: tensor<2xi64> {sofie.state}) -> ...

Its elements are the seed and the number of the call. A number drawn depends on them, on the stream of its node and on
the place of its element, and on nothing else, so that it is the same on every target and behind every pass.
"""

from __future__ import annotations

import zlib

from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, UnitAttr, i64
from xdsl.ir import BlockArgument

from sofie.dialects.types import tensor

STATE = "sofie.state"
"""The attribute of the argument that is the state."""

STREAM = "sofie.stream"
"""The attribute of an onnx op that tells its numbers from those of other nodes."""


def stream_attribute(name: str) -> IntegerAttr:
    """The stream of the node whose first result has this name in the model: 32 bits."""
    return IntegerAttr(zlib.crc32(name.encode()), i64)


def state_of(function: func.FuncOp) -> BlockArgument | None:
    """The argument of a function that is the state, if it has one."""
    attributes = function.arg_attrs or ()
    return next((a for a, d in zip(function.body.block.args, attributes, strict=False) if STATE in d.data), None)


def ensure_state(function: func.FuncOp) -> BlockArgument:
    """The same, added behind the other arguments where it is missing; the function's type is left to the caller."""
    found = state_of(function)
    if found is not None:
        return found
    block = function.body.block
    attributes = list(function.arg_attrs or [DictionaryAttr({})] * len(block.args))
    argument = block.insert_arg(tensor(i64, [2]), len(block.args))
    argument.name_hint = "random"
    function.arg_attrs = ArrayAttr([*attributes, DictionaryAttr({STATE: UnitAttr()})])
    return argument
