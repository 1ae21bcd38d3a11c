"""Inputs whose values tell shapes or axes: those that reach an operand which has to be known when compiling.

Such inputs are bound: by `--set` they become constants; at the first run of a model in Python their values are taken
for granted, until other ones come. Data is never bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx

from sofie.errors import UnsupportedError, printable

BINDABLE: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,),  # size
    "CenterCropPad": (1,),  # shape
    "Col2Im": (1, 2),  # image_shape, block_shape
    "ConstantOfShape": (0,),  # input
    "DFT": (1, 2),  # dft_length, axis
    "Expand": (1,),  # shape
    "Loop": (0, 1),  # M, cond
    "MelWeightMatrix": (0, 1, 2, 3, 4),  # num_mel_bins, dft_length, sample_rate and both edges
    "MaxUnpool": (2,),  # output_shape
    "OneHot": (1,),  # depth
    "Pad": (1, 3),  # pads, axes
    "Reshape": (1,),  # shape
    "Resize": (1, 2, 3),  # roi, scales, sizes
    "STFT": (1, 3),  # frame_step, frame_length
    "Slice": (1, 2, 3, 4),  # starts, ends, axes, steps
    "Split": (1,),  # split
    "Squeeze": (1,),  # axes
    "Tile": (1, 2),  # repeats; tiles and axis in Tile 1
    "TopK": (1,),  # k
    "Unsqueeze": (1,),  # axes
    "Upsample": (1,),  # scales
    **{
        f"Reduce{what}": (1,)  # axes
        for what in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}
"""The operands that lowerings take as constants, by position."""

TELLING: dict[str, tuple[int, ...]] = {
    "BlackmanWindow": (0,),  # size
    "HammingWindow": (0,),  # size
    "HannWindow": (0,),  # size
    "Range": (0, 1, 2),  # start, limit, delta
}
"""The operands that are read as data in the run and on whose values the extents of results depend."""

LARGEST = 64
"""Elements of an input that can be bound; its rank is at most 1."""

_ASKS_SHAPE = ("Shape", "Size")


def bindable(node: onnx.NodeProto, position: int) -> bool:
    """Whether the operand at a position is one that lowerings take as a constant."""
    return node.domain in ("", "ai.onnx") and position in BINDABLE.get(node.op_type, ())


def operand_inputs(graph: onnx.GraphProto, constants: Iterable[str] = ()) -> list[str]:
    """The inputs that reach an operand of `BINDABLE` or `TELLING`, in model order; `constants` are no inputs.

    Where such an operand is made of data (an input of rank above 1, or with more than LARGEST elements), what it is
    made of is left alone.
    """
    gone = {*constants, *(i.name for i in graph.initializer)}
    inputs = {v.name: v for v in graph.input if v.name not in gone}
    makers = {name: node for node in _nodes(graph) for name in node.output if name}
    found: set[str] = set()
    for node in _nodes(graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Loop" and len(node.output) <= len(node.input) - 2:
            continue  # no result grows with its iterations: it can count them in the run
        for position in (*BINDABLE.get(node.op_type, ()), *TELLING.get(node.op_type, ())):
            if position < len(node.input):
                leaves = _leaves(node.input[position], makers, inputs)
                if all(_is_small(inputs[name]) for name in leaves):
                    found |= leaves
    return [name for name in inputs if name in found]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _leaves(name: str, makers: Mapping[str, onnx.NodeProto], inputs: Mapping[str, onnx.ValueInfoProto]) -> set[str]:
    """The inputs whose elements a value is made of."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in inputs:
            found.add(current)
        elif (node := makers.get(current)) is not None and node.op_type not in _ASKS_SHAPE:
            inner = [n for a in node.attribute if a.type == onnx.AttributeProto.GRAPH for n in _nodes(a.g)]
            waiting += [name for n in (node, *inner) for name in n.input if name]
    return found


def _is_small(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or len(kind.shape.dim) > 1:
        return False
    return all(d.dim_value <= LARGEST for d in kind.shape.dim)


def needed(names: Sequence[str]) -> UnsupportedError:
    """The error of a model that cannot be compiled before the values of these inputs are known."""
    listed = ", ".join(repr(printable(n)) for n in names)
    flags = " ".join(f"--set {printable(n)}=VALUE" for n in names)
    return UnsupportedError(
        f"the model's shapes follow from the values of its input(s) {listed}; give them with {flags}"
    )
