"""The operators of QONNX, by which Brevitas and QKeras write quantisation of any width, as schemas.

Meaning: Pappalardo et al., "QONNX: Representing Arbitrary-Precision Quantized Neural Networks" (arXiv:2206.07527), and
the documentation of the package qonnx; `frontends.qonnx` has the bodies.
"""

from __future__ import annotations

from sofie.dialects.rows import Row, row

DOMAIN = "qonnx.custom_op.general"
ALIASES = frozenset({"finn.custom_op.general", "onnx.brevitas"})
"""Domains that older exporters write for it."""

OPERATORS: dict[str, Row] = {
    "BipolarQuant": row("x:T scale:T", "y:T", "scale where x / scale is not negative, else -scale."),
    "Quant": row(
        "x:T scale:T zeropt:T bitwidth:T",
        "y:T",
        "x rounded to the nearest of the numbers (q - zeropt) scale, q an integer of bitwidth bits.",
        signed=1,
        narrow=0,
        rounding_mode="ROUND",
    ),
    "Trunc": row(
        "x:T scale:T zeropt:T in_bitwidth:T out_bitwidth:T",
        "y:T",
        "x / scale + zeropt without its lowest in_bitwidth - out_bitwidth bits.",
        rounding_mode="FLOOR",
    ),
}
