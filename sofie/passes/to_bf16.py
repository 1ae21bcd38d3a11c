"""to-bf16: weights and activations are bfloat16, and operators compute in it where ONNX lets them (level 1).

    %y = onnx.Gemm(%x, %w, %b) : f32     ->     %x1 = onnx.Cast(%x) ; %z = onnx.Gemm(%x1, %w1, %b1) : bf16
                                                %y = onnx.Cast(%z) : f32

All else is as `to-half` has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.dialects.builtin import BFloat16Type
from xdsl.ir import Attribute

from sofie.passes.to_half import ToHalf


@dataclass(frozen=True)
class ToBf16(ToHalf):
    """`leave` names nodes that stay in float32."""

    name: ClassVar[str] = "to-bf16"

    element: ClassVar[Attribute] = BFloat16Type()
