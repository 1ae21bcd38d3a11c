"""The dimensions of a model's inputs: which are free, which sizes they get, and which are left to the run."""

from __future__ import annotations

import keyword
from collections.abc import Container, Mapping, Set

import onnx

from sofie.errors import SofieError, printable
from sofie.naming import EMITTED, Namer
from sofie.sizes import Size

Dim = int | tuple[int, int]
"""A size, or the bounds (low, high) of one that the run tells."""


def free_dimensions(graph: onnx.GraphProto) -> list[tuple[str, int, str]]:
    """The dimensions of the inputs that have no size: (input, axis, name of the dimension or "")."""
    initialised = {i.name for i in graph.initializer}
    return [
        (value.name, axis, dim.dim_param)
        for value in graph.input
        if value.name not in initialised and value.type.HasField("tensor_type")
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value")
    ]


def with_batches(graph: onnx.GraphProto, dims: Mapping[str, Dim], known: Container[str], batch: Dim) -> dict[str, Dim]:
    """`dims`, and `batch` for each leading dimension of an input that is free, not `known`, and has no size yet."""
    sized = dict(dims)
    for name, axis, parameter in free_dimensions(graph):
        if axis == 0 and name not in known and f"{name}:0" not in dims:
            sized.setdefault(parameter or f"{name}:0", batch)
    return sized


PLACEHOLDERS = frozenset({"?", "None", "-1"})
"""What some exporters write for a dimension without name or size."""


def forget_placeholders(graph: onnx.GraphProto) -> None:
    """Frees the dimensions of inputs whose name or size says nothing: two of them need not be the same."""
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0 or dim.dim_param in PLACEHOLDERS:
                dim.Clear()


BATCH = "batch"
"""Where no dimension has this name, it means the leading one of every input."""


def release(graph: onnx.GraphProto, dims: Mapping[str, Dim], constants: Set[str] = frozenset()) -> None:
    """Frees the dimensions that `dims` leaves to the run and the model fixes, or does not name.

    A key is the name of a dimension, "input:axis", or `BATCH`, where the leading dimensions of all inputs are the
    same; inputs that become `constants` do not count. What was stored of other shapes is forgotten.
    """
    constants = constants | {i.name for i in graph.initializer}
    inputs = [v for v in graph.input if v.name not in constants]
    tensors = {v.name: v.type.tensor_type.shape.dim for v in inputs}
    named = {d.dim_param for shape in tensors.values() for d in shape}
    freed = False
    for key in (k for k, bound in dims.items() if not isinstance(bound, int) and k not in named):
        name, _, axis = key.rpartition(":")
        if name in tensors and axis.isdigit() and int(axis) < len(tensors[name]):
            places = [tensors[name][int(axis)]]
        else:
            places = [shape[0] for shape in tensors.values() if len(shape)] if key == BATCH else []
            if len({d.dim_value for d in places}) > 1:
                continue  # nothing is called so, and not all inputs are batches of one size
        for dim in places:
            if not dim.dim_param:
                dim.dim_param = key
                freed = True
    if freed:
        forget_types(graph)


def bind_dimensions(graph: onnx.GraphProto, dims: dict[str, Dim], known: Set[str] = frozenset()) -> dict[str, Size]:
    """Writes the sizes of `dims` into the graph's inputs, names for those of the run; returns what stands behind them.

    Bounds that leave one size are that size. Dimensions whose names are in `known` need nothing. Raises SofieError
    where a size is missing or a name unknown.
    """
    used: set[str] = set()
    missing: list[str] = []
    sizes: dict[str, Size] = {}
    symbols: dict[str, Size] = {}
    namer = Namer(EMITTED | frozenset(keyword.kwlist))  # the text of sizes is read as Python's arithmetic
    tensors = {v.name: v.type.tensor_type for v in graph.input}
    for value in graph.input:
        kind = value.type.tensor_type
        if value.name not in {i.name for i in graph.initializer} and not kind.HasField("shape"):
            raise SofieError(
                f"input {printable(value.name)!r} has no shape, not even a rank: export the model with one"
            )
    for name, axis, param in free_dimensions(graph):
        dim = tensors[name].shape.dim[axis]
        key = f"{name}:{axis}" if f"{name}:{axis}" in dims else param
        bound = dims.get(key) if key else None
        if isinstance(bound, int):
            used.add(key)
            dim.dim_value = bound
        elif bound is not None:
            used.add(key)
            low, high = bound
            if low == high:
                dim.dim_value = low
                continue
            if key not in symbols:
                symbols[key] = Size.named(namer(key, "size"), low, high)
            dim.dim_param = str(symbols[key])
            sizes[dim.dim_param] = symbols[key]
        elif param not in known:
            missing.append(param or f"{name}:{axis}")
    if missing:
        names = ", ".join(dict.fromkeys(printable(m) for m in missing))
        flags = " ".join(f"--dim {m}=N" for m in dict.fromkeys(printable(m) for m in missing))
        raise SofieError(f"the sizes of these dimensions are not bound: {names}; give them with {flags}")
    _check_dims(dims, used, tensors)
    forget_types(graph)
    return sizes


def forget_types(graph: onnx.GraphProto) -> None:
    """Drops the sizes of results that the file declares: old ones would only contradict the inferred ones."""
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    del graph.value_info[:]


def _check_dims(dims: dict[str, Dim], used: set[str], tensors: dict[str, onnx.TypeProto.Tensor]) -> None:
    for key, size in dims.items():
        low, high = (size, size) if isinstance(size, int) else size
        given = f"--dim {printable(key)}={low if isinstance(size, int) else f'{low}..{high}'}"
        if low < 0:
            raise SofieError(f"{given}: a size cannot be negative")
        if low > high or high == 0 != size:
            raise SofieError(f"{given}: the upper bound must be positive and not below the lower one")
        if key in used:
            continue
        name, _, axis = key.rpartition(":")
        if name in tensors and axis.isdigit() and int(axis) < len(tensors[name].shape.dim):
            fixed = tensors[name].shape.dim[int(axis)].dim_value
            if fixed == size:
                continue
            raise SofieError(f"{given}: the model fixes this dimension at {fixed}")
        raise SofieError(f"--dim {printable(key)}: the model has no free dimension of that name")
