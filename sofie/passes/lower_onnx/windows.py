"""The geometry of sliding windows, shared by convolutions and poolings: ONNX's pads, auto_pad and ceil_mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sofie.dialects.onnx import OnnxOp
from sofie.errors import SofieError


@dataclass(frozen=True)
class Windows:
    """Per spatial axis: window extent, stride, dilation, padding, and the number of windows (all in elements)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    def overhang(self, inputs: Sequence[int]) -> tuple[int, ...]:
        """Elements behind the input that the last window touches: the trailing padding a buffer needs.

        Negative where windows stop short of the end of the input.
        """
        return tuple(
            (o - 1) * s + (k - 1) * d + 1 - b - i
            for o, s, k, d, b, i in zip(
                self.outputs, self.strides, self.kernel, self.dilations, self.before, inputs, strict=True
            )
        )


def windows_of(op: OnnxOp, inputs: Sequence[int], kernel: Sequence[int]) -> Windows:
    """The windows of a Conv or pooling op over spatial extents `inputs`; raises SofieError on contradictions."""
    rank = len(inputs)
    strides = op.ints("strides", [1] * rank) or (1,) * rank
    dilations = op.ints("dilations", [1] * rank) or (1,) * rank
    given = op.ints("kernel_shape", list(kernel)) or tuple(kernel)
    if not len(strides) == len(dilations) == len(given) == len(kernel) == rank:
        raise SofieError(f"strides, dilations or kernel_shape do not fit {rank} spatial axes")
    pads = op.ints("pads", [0] * 2 * rank) or (0,) * (2 * rank)
    before, after = list(pads[:rank]), list(pads[rank:])
    mode = op.string("auto_pad", "NOTSET")
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        for a in range(rank):
            total = max((-(-inputs[a] // strides[a]) - 1) * strides[a] + spans[a] - inputs[a], 0)
            small, large = total // 2, total - total // 2
            before[a], after[a] = (small, large) if mode == "SAME_UPPER" else (large, small)
    elif mode == "VALID":
        before, after = [0] * rank, [0] * rank
    ceil = "ceil_mode" in op.SCHEMA.attributes and op.integer("ceil_mode") == 1
    outputs = []
    for a in range(rank):
        room = inputs[a] + before[a] + after[a] - spans[a]
        if room < 0:
            raise SofieError(f"a window of {spans[a]} does not fit into {inputs[a] + before[a] + after[a]} elements")
        count = (-(-room // strides[a]) if ceil else room // strides[a]) + 1
        if ceil and (count - 1) * strides[a] >= inputs[a] + before[a]:
            count -= 1  # the last window would start in the trailing padding
        outputs.append(count)
    return Windows(tuple(kernel), tuple(strides), tuple(dilations), tuple(before), tuple(after), tuple(outputs))
