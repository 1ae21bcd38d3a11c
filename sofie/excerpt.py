"""What became of one ONNX node: its part of the IR at every level, found through the locations of the ops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import StringIO

import onnx
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import CallOp, FuncOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.printer import Printer

from sofie import pipeline
from sofie.compiler import Options
from sofie.errors import printable
from sofie.frontends.onnx import load
from sofie.rewrite import node_names


@dataclass(frozen=True)
class Excerpt:
    """The ops of a node at one level. joined: the nodes ("Conv stem") that these ops stand for as well."""

    level: str
    joined: tuple[str, ...]
    text: str


def excerpts(model: onnx.ModelProto, options: Options, node: str) -> list[Excerpt]:
    """The ops of the node of this name at each level that the pipeline of `options` completes."""
    module = load(model, options.dims, options.values)
    found = {"onnx": _excerpt(module, "onnx", node)}
    stages = options.stages()
    level_of = {id(stage.instance): stage.level for stage in stages}

    def observe(done: ModulePass, module: ModuleOp, _seconds: float) -> None:
        level = level_of[id(done)]
        if level is not None:
            found[level] = _excerpt(module, level, node)

    pipeline.run(module, stages, observe=observe)
    return list(found.values())


def _excerpt(module: ModuleOp, level: str, node: str) -> Excerpt:
    label = printable(node)
    ops = _with_kernels(module, list(_ops_of(module, label)))
    names = dict.fromkeys(name for op in ops for name in node_names(op.location))
    joined = tuple(name for name in names if name.partition(" ")[2] != label)
    return Excerpt(level, joined, "\n".join(_text(op) for op in ops))


def _ops_of(parent: Operation, label: str) -> Iterator[Operation]:
    """The outermost ops that stand for a node."""
    for region in parent.regions:
        for op in (op for block in region.blocks for op in block.ops):
            if any(name.partition(" ")[2] == label for name in node_names(op.location)):
                yield op
            else:
                yield from _ops_of(op, label)


def _with_kernels(module: ModuleOp, ops: Iterable[Operation]) -> list[Operation]:
    """The ops with the kernels that they call: equal ones are shared, and name the first of their nodes only."""
    ops = list(ops)
    kernels = {op.sym_name.data: op for op in module.walk() if isinstance(op, FuncOp)}
    calls = [inner for op in ops for inner in op.walk() if isinstance(inner, CallOp)]
    called = [kernels[call.callee.string_value()] for call in calls if call.callee.string_value() in kernels]
    return list(dict.fromkeys([*(op for op in ops if not isinstance(op, FuncOp)), *called]))


def _text(op: Operation) -> str:
    text = StringIO()
    Printer(stream=text).print_op(op)
    return text.getvalue()
