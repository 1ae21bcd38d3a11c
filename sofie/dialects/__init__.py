"""The dialects of the descent: onnx (level 1), sofie (weights and fused groups), blas (named contractions)."""
