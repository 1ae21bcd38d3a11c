"""to-half: weights and activations are float16, and operators compute in it where ONNX lets them (level 1).

    %y = onnx.Gemm(%x, %w, %b) : f32     ->     %x1 = onnx.Cast(%x) ; %z = onnx.Gemm(%x1, %w1, %b1) : f16
                                                %y = onnx.Cast(%z) : f32

Between two such operators there is no cast; inputs and outputs stay float32. Declines for operators whose schema does
not take float16, for nodes named in `leave`, and inside If, Loop and Scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import Float16Type, ModuleOp
from xdsl.ir import Attribute
from xdsl.passes import ModulePass


@dataclass(frozen=True)
class ToHalf(ModulePass):
    """`leave` names nodes that stay in float32."""

    name: ClassVar[str] = "to-half"

    element: ClassVar[Attribute] = Float16Type()
    leave: tuple[str, ...] = ()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        from sofie.quantization.half import to_narrow

        to_narrow(op, self.element, self.leave)
