"""Runs a module on data and sees values inside it: compiled where a C++ compiler is there, else by the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FunctionType, IndexType, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import SSAValue

from sofie import interpreter, jit
from sofie.compiler import Model, Options, lower
from sofie.dialects.types import element_of, numpy_dtype, shape_of
from sofie.errors import SofieError, UnsupportedError, printable
from sofie.feeds import check_names
from sofie.quantization.layers import infer_block
from sofie.sizes import Size
from sofie.weights import Array

CHUNK = 256
"""Rows of a call, where the model takes any number of them."""

CPU = "portable"
"""What programs are written for here: they compile for longer than they run, and AVX-512 takes g++ 15 times as long."""

Clone = tuple[ModuleOp, Mapping[SSAValue, SSAValue]]


def cloned(module: ModuleOp) -> Clone:
    """A copy of a module, and what stands there for each of its values."""
    mapper: dict[SSAValue, SSAValue] = {}
    return module.clone(mapper), mapper


@dataclass(frozen=True)
class _Port:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


def _ports(module: ModuleOp) -> list[_Port]:
    function = infer_block(module).parent_op()
    assert isinstance(function, FuncOp)
    arguments = function.body.block.args
    attributes = function.arg_attrs or [DictionaryAttr({})] * len(arguments)
    found = []
    for value, attrs in zip(arguments, attributes, strict=True):
        if not isinstance(value.type, IndexType):
            name = attrs.data.get("sofie.name", StringAttr(value.name_hint or ""))
            assert isinstance(name, StringAttr)
            found.append(_Port(name.data, shape_of(value), numpy_dtype(element_of(value))))
    return found


def inputs_of(module: ModuleOp) -> list[str]:
    """The names of a module's inputs. Raises SofieError where it has no @infer."""
    return [port.name for port in _ports(module)]


class Data:
    """Arrays by the names of a module's inputs, in pieces that the module takes.

    An array of the input's shape is given whole in each run; others have rows along axis 0, as many as a run takes:
    where the module takes any number, `CHUNK` at most. Rows that do not fill a run of a fixed size are left out.
    """

    def __init__(self, module: ModuleOp, arrays: Mapping[str, Array]) -> None:
        """Raises SofieError where names, types or shapes are not those of the inputs."""
        self._ports = _ports(module)
        check_names(arrays, [port.name for port in self._ports])
        self._arrays = {port.name: _converted(port, arrays[port.name]) for port in self._ports}
        batched = {p.name: p for p in self._ports if not _is_whole(p, self._arrays[p.name])}
        self._batched = list(batched)
        counts = {name: len(self._arrays[name]) for name in batched}
        takes = [p.shape[0] for p in batched.values()]
        if len(set(counts.values())) > 1 or len(set(takes)) > 1:
            listed = ", ".join(f"{printable(n)!r} has {c}" for n, c in counts.items())
            raise SofieError(f"the inputs differ in their numbers of rows: {listed}; give as many of each")
        self._step = 1 if not takes else min(takes[0].high, CHUNK) if isinstance(takes[0], Size) else takes[0]
        self._least = takes[0].low if takes and isinstance(takes[0], Size) else self._step
        self.rows = next(iter(counts.values()), 1)
        if self.rows < self._least:
            raise SofieError(f"the data have {self.rows} row(s), and a run of the model takes {self._least}: give more")

    def pieces(self, rows: int | None = None) -> Iterator[list[Array]]:
        """The inputs of run after run, of the first `rows` or all."""
        end = self.rows if rows is None else min(self.rows, max(rows, self._least))
        for start in range(0, end, self._step):
            stop = min(start + self._step, end)
            if stop - start < self._least:
                return
            yield [a[start:stop] if name in self._batched else a for name, a in self._arrays.items()]

    def used(self) -> int:
        """How many rows the runs take."""
        left = self.rows % self._step
        return self.rows - (left if left < self._least else 0)


def _converted(port: _Port, array: Array) -> Array:
    if array.dtype != port.dtype:
        if not np.can_cast(array.dtype, port.dtype, "same_kind"):
            raise SofieError(f"input {printable(port.name)!r} is {array.dtype}, the model takes {port.dtype}")
        array = array.astype(port.dtype)
    same = array.ndim == len(port.shape) and array.shape[1:] == port.shape[1:]
    if not same:
        shape = ", ".join(map(str, ("rows", *port.shape[1:])))
        raise SofieError(f"input {printable(port.name)!r} has shape {array.shape}, the model takes ({shape})")
    return array


def _is_whole(port: _Port, array: Array) -> bool:
    return array.shape == port.shape


Run = Callable[[Sequence[Array]], Sequence[Array]]


def observed(module: ModuleOp, values: Sequence[SSAValue]) -> Run:
    """A function from the inputs of a module to its results and, behind them, `values` of @infer. Raises SofieError."""
    copy, mapper = cloned(module)
    block = infer_block(copy)
    function, last = block.parent_op(), block.last_op
    assert isinstance(function, FuncOp) and isinstance(last, ReturnOp)
    seen = [mapper[value] for value in values]
    named = list(function.res_attrs or [DictionaryAttr({})] * len(last.arguments))
    named += [DictionaryAttr({"sofie.name": StringAttr(f"value #{k}")}) for k in range(len(seen))]
    results = [*last.arguments, *seen]
    block.add_op(ReturnOp(*results))
    last.detach()
    last.erase()
    function.function_type = FunctionType.from_lists([a.type for a in block.args], [r.type for r in results])
    function.res_attrs = ArrayAttr(named)
    model = _compiled(copy)
    return _interpreted(copy) if model is None else _of_model(model)


def _compiled(module: ModuleOp) -> Model | None:
    """The module as machine code; None without a compiler, and where it holds what has no lowering."""
    if not jit.has_compiler():
        return None
    try:
        program = lower(module.clone(), "observed", Options(cpu=CPU))
    except UnsupportedError:
        return None
    return Model(jit.compile_program(program, jit.FLAGS))


def _of_model(model: Model) -> Run:
    def run(inputs: Sequence[Array]) -> Sequence[Array]:
        given = model(*inputs)
        return given if isinstance(given, tuple) else (given,)

    return run


def _interpreted(module: ModuleOp) -> Run:
    return lambda inputs: interpreter.run(module, inputs)
