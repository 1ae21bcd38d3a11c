"""Models written as text, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import parser

Feeds = dict[str, np.ndarray]


def model(text: str) -> onnx.ModelProto:
    """A graph in ONNX's text form, without its name."""
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {text}')


def expected(proto: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    """What ONNX Runtime says."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_same(got: Sequence[np.ndarray], want: Sequence[np.ndarray], rtol: float = 1e-6) -> None:
    """The same shapes, and numbers within `rtol` and 1e-6."""
    for a, b in zip(got, want, strict=True):
        assert a.shape == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)
