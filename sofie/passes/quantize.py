"""quantize: layers compute with integers, written as QuantizeLinear and DequantizeLinear around them (level 1).

    %y = onnx.Conv(%x, %w, %b)          %q = onnx.QuantizeLinear(%x, %s, %z) ; %x1 = onnx.DequantizeLinear(%q, %s, %z)
    %r = onnx.Relu(%y)            ->    %w1 = onnx.DequantizeLinear(%int8, ...)     a scale for each output channel
                                        %b1 = onnx.DequantizeLinear(%int32, ...)    scales of x and w multiplied
                                        %r = onnx.Conv(%x1, %w1, %b1), quantised and dequantised in its turn

of Conv, ConvTranspose, Gemm and MatMul with constant weights, and MatMul of two activations; between them of Add,
Concat, pooling and what moves elements. Scales follow from `data`: a .npz with arrays by the names of the inputs, rows
along axis 0. Constants and batch normalisations are folded first. With `activations=none` only weights are integers,
of 8 bits or, a scale for each block of products that are summed, of 4. Declines inside If, Loop and Scan, for nodes
named in `leave`, for weights that are no constants of float32, and where `snr` decibels of the outputs would be lost.
`sofie-opt -p 'quantize{data="calib.npz"}' -t onnx` writes the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from sofie.quantization.scheme import Scheme


@dataclass(frozen=True)
class Quantize(Scheme, ModulePass):
    """What the options mean, and which words they take, is in [Quantisation](quantization.md)."""

    name: ClassVar[str] = "quantize"

    data: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        from sofie.feeds import read
        from sofie.quantization.process import quantize_module
        from sofie.quantization.running import inputs_of

        names = inputs_of(op)
        arrays = {k: a for k, a in read(Path(self.data), names).items() if k in names} if self.data else None
        quantize_module(op, arrays, self)
