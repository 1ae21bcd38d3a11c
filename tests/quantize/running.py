"""Runs quantised models beside those they were made of, in ONNX Runtime and in ONNX's reference."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

Feeds = dict[str, np.ndarray]


def runtime(model: onnx.ModelProto, feeds: Feeds, exact: bool = True) -> list[np.ndarray]:
    """The outputs by ONNX Runtime, on one thread; it sums products with weights of 4 bits in float32.

    exact: whether those of bytes must not saturate at 16 bits, as they may on x86 without VNNI; where layers share
    weights, it cannot load a model so.
    """
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def reference(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    """The outputs by onnx.reference."""
    return ReferenceEvaluator(model).run(None, feeds)


def fused(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """How often each operator is in the graph that ONNX Runtime makes of a model."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options)
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def decibels(exact: np.ndarray, rounded: np.ndarray) -> float:
    """The signal-to-noise ratio."""
    noise = np.sum((exact.astype(np.float64) - rounded) ** 2)
    return float("inf") if noise == 0 else float(10 * np.log10(np.sum(exact.astype(np.float64) ** 2) / noise))
