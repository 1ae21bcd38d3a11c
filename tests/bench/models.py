"""The suite: 28 models, each built from a seed that its name tells, so that every machine has the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import onnx

from tests.bench import attention, convolutional, dense
from tests.bench.graph import Graph

MODELS: Mapping[str, Callable[[str], Graph]] = {
    "alice_nn": dense.alice,
    "higgs_dense_b1": partial(dense.higgs_dense, batch=1),
    "higgs_dense_b32": partial(dense.higgs_dense, batch=32),
    "linear_1": partial(dense.linear, batch=1),
    "linear_16": partial(dense.linear, batch=16),
    "linear_32": partial(dense.linear, batch=32),
    "linear_64": partial(dense.linear, batch=64),
    "generator_mlp": partial(dense.shower_generator, batch=1),
    "conv2d_L1": partial(convolutional.chain_2d, channels=(2,)),
    "conv2d_L14": partial(convolutional.chain_2d, channels=convolutional.DEEP),
    "conv3d_L4": convolutional.chain_3d,
    "calo_convt": convolutional.shower_upsampler,
    "rnn_d10_L20_h8": partial(dense.recurrent, operator="RNN"),
    "gru_d10_L20_h8": partial(dense.recurrent, operator="GRU"),
    "lstm_d10_L20_h8": partial(dense.recurrent, operator="LSTM"),
    "deep_double_b": dense.deep_double_b,
    "pfn": attention.particle_flow,
    "particlenet": partial(attention.particle_net, search=False),
    "particlenet_knn": partial(attention.particle_net, search=True),
    "particle_transformer": attention.particle_transformer,
    "ad_autoencoder": dense.anomaly_autoencoder,
    "dscnn_kws": convolutional.keyword_spotting,
    "resnet8": convolutional.resnet8,
    "mobilenetv1_025": convolutional.mobilenet_v1,
    "tiny_bert": attention.tiny_bert,
    "gpt2_block": attention.gpt2_block,
    "mobilenetv2": convolutional.mobilenet_v2,
    "resnet18": convolutional.resnet18,
}


def model(name: str) -> onnx.ModelProto:
    """A model of the suite."""
    return MODELS[name](name).model()
