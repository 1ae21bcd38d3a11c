"""The peers' reading of a graph: an operator that means something else there is timed for another model."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tests.bench.models import MODELS, model
from tests.gpu import graph, peers, truth
from tests.gpu.workloads import WORKLOADS

WITHOUT_RULES = {"rnn_d10_L20_h8", "gru_d10_L20_h8", "lstm_d10_L20_h8", "deep_double_b", "particlenet_knn"}
"""What PyTorch is not asked: recurrent layers and TopK have no rule."""


def read_back(proto: onnx.ModelProto) -> peers.Graph:
    """The graph as a peer reads it from its file."""
    content: peers.Graph = json.loads(json.dumps(graph.as_json(proto)))
    return content


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in proto.graph.initializer}


@pytest.mark.parametrize("name", MODELS)
def test_pytorch_computes_the_same(name: str) -> None:
    """An attribute that a rule forgets; an operator of another order of arguments."""
    torch = pytest.importorskip("torch")
    proto = model(name)
    content = read_back(proto)
    constants = {key: torch.from_numpy(array) for key, array in weights(proto).items()}
    if name in WITHOUT_RULES:
        with pytest.raises(peers.Unknown, match="no rule for"):
            peers.as_function(content, constants)
        return
    feeds = truth.inputs(proto, [0], None)
    found = peers.as_function(content, constants)(*(torch.from_numpy(array) for array in feeds.values()))
    want = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    for value, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["alice_nn", "conv2d_L1", "lstm_d10_L20_h8", "particlenet_knn", "resnet8"])
def test_onnxruntime_gets_the_same_model(name: str) -> None:
    """A constant of another type, an attribute that JSON has changed."""
    proto = model(name)
    again = peers.as_model(read_back(proto), weights(proto))
    feeds = truth.inputs(proto, [0], None)
    found, want = (onnxruntime.InferenceSession(m).run(None, feeds) for m in (again, proto.SerializeToString()))
    for value, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_onnxruntime_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding that does not run, on the CPU for want of a card."""
    monkeypatch.setattr(peers, "SECONDS", 0.001)
    assert 0 < peers.onnxruntime_us(read_back(model("alice_nn")), "CPUExecutionProvider", "cpu") < 1e6


def test_weights_are_like_the_models() -> None:
    """A variance below zero, which makes all behind it no numbers."""
    random, checked = np.random.default_rng(0), 0
    for about in read_back(model("resnet18"))["constants"]:
        values = peers.drawn(random, about)
        assert list(values.shape) == about["shape"] and values.dtype == about["dtype"]
        if "low" in about:
            assert about["low"] <= values.min() and values.max() <= about["high"]
            checked += values.std() == pytest.approx(about["deviation"], rel=0.3)
    assert checked > 20


def test_a_peer_that_is_not_there_says_so(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that ends, or a column of nothing, where a library is missing."""
    for peer in ("torch", "onnxruntime"):
        if why := peers.absent(peer):
            peers.main(tmp_path, peer, ["alice_nn"])
            assert json.loads(capsys.readouterr().out) == {"absent": why}
    assert set(WORKLOADS) > set(MODELS)
