"""The law of each level, as data: which ops may stand there. What nobody lowered is an error with a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xdsl.dialects.builtin import MemRefType, ModuleOp, TensorType, UnregisteredOp
from xdsl.ir import Operation

from sofie.errors import SofieError
from sofie.rewrite import blame


@dataclass(frozen=True)
class Level:
    """A level: what may stand there, and what else must hold of each op (a sentence if it does not)."""

    name: str
    dialects: frozenset[str]
    ops: frozenset[str]
    remedy: str
    also: Callable[[Operation], str | None] = lambda op: None

    def allows(self, op: Operation) -> bool:
        """Whether an op of this name may stand here."""
        name = op.op_name.data if isinstance(op, UnregisteredOp) and op.op_name is not None else op.name
        return name in self.ops or name.split(".")[0] in self.dialects


def _no_tensor(op: Operation) -> str | None:
    values = [*op.operands, *op.results, *(a for r in op.regions for b in r.blocks for a in b.args)]
    return "it still works on tensors; run bufferize" if any(isinstance(v.type, TensorType) for v in values) else None


def _no_memref(op: Operation) -> str | None:
    values = [*op.operands, *op.results]
    return (
        "it works on a buffer above the buffer level" if any(isinstance(v.type, MemRefType) for v in values) else None
    )


def _no_parallel(op: Operation) -> str | None:
    return "no thread runs it; run map-gpu" if op.name == "scf.parallel" else _no_tensor(op)


_CONTROL = ("scf.for", "scf.if")
_CODES = frozenset({"sofie.decode", "sofie.encode", "sofie.quantize", "sofie.requantize"})
_BYTES = frozenset({"sofie.load_word", "sofie.join", "sofie.dot", "sofie.dot_pairs", "sofie.widen_bytes"})
_FRAME = frozenset({"builtin.module", "func.func", "func.return", "sofie.weight"})

LEVELS = {
    level.name: level
    for level in (
        Level(
            "onnx",
            frozenset({"onnx"}),
            _FRAME | {"sofie.extents", "sofie.convert"},
            "only onnx ops and weights stand at level 1",
            _no_memref,
        ),
        Level(
            "tensor",
            frozenset({"tensor", "arith", "math", "scf"}),
            _FRAME
            | _CODES
            | {"linalg.generic", "linalg.yield", "linalg.index", "sofie.fused", "sofie.yield", "sofie.size"},
            "run lower-onnx first",
            _no_memref,
        ),
        Level(
            "buffer",
            frozenset({"arith", "math", "scf", "blas"}),
            _FRAME
            | _CODES
            | {"linalg.generic", "linalg.yield", "linalg.index"}
            | {"sofie.fused", "sofie.yield", "sofie.tile", "sofie.size"}
            | {f"memref.{n}" for n in ("view", "reinterpret_cast", "subview", "cast", "collapse_shape", "expand_shape")}
            | {
                "memref.load",  # the condition of a branch, and in groups of scalar code
                "memref.store",
            },
            "run bufferize and plan-memory first",
            _no_tensor,
        ),
        Level(
            "loop",
            frozenset({"scf", "memref", "vector", "arith", "math", "blas"}),
            _FRAME | _CODES | _BYTES | {"func.call", "sofie.size", "sofie.cast_lanes", "sofie.requantize_lanes"},
            "run lower-loops and outline-kernels first",
            _no_tensor,
        ),
        Level(
            "gpu",
            frozenset({"scf", "memref", "vector", "arith", "math", "gpu"}),
            _FRAME | _CODES | _BYTES | {"sofie.size", "sofie.narrow", "sofie.mma"},
            "run map-gpu first",
            _no_parallel,
        ),
    )
}
"""The levels from the top down; the last two are beside each other: a CPU's and a GPU's."""


def check(module: ModuleOp, name: str) -> None:
    """Raises SofieError, naming the ONNX node, for the first op that the law of level `name` forbids."""
    level = LEVELS[name]
    for op in module.walk():
        if not level.allows(op):
            raise SofieError(f"{blame(op)}: {op.name} may not stand at the {name} level; {level.remedy}")
        reason = level.also(op)
        if reason is not None:
            raise SofieError(f"{blame(op)}: {op.name} may not stand at the {name} level: {reason}")
    if name == "loop":
        _check_calls_only(module)


def _check_calls_only(module: ModuleOp) -> None:
    """At the loop level @infer calls kernels, repeats and chooses between calls, and does nothing itself."""
    for function in module.body.block.ops:
        if function.name != "func.func" or function.properties["sym_name"].data != "infer":
            continue
        for op in function.regions[0].walk():
            if (op.regions and op.name not in (*_CONTROL, "scf.parallel")) or op.name in (
                "memref.store",
                "memref.alloc",
            ):
                raise SofieError(
                    f"{blame(op)}: {op.name} may not stand in @infer at the loop level; run outline-kernels"
                )
