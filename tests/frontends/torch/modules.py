"""Modules of PyTorch, each with inputs: every layer that CERN's parser knows, and what models have besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Case = tuple[Any, tuple[Any, ...]]


class Recurrent(nn.Module):
    """The sequence of results of a recurrent layer, and its last state."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = kind(6, 8, batch_first=True, **options)

    def forward(self, x: Any) -> Any:
        results, state = self.layer(x)
        return results, state[0] if isinstance(state, tuple) else state


class Attention(nn.Module):
    """Self-attention over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.layer(x, x, x, need_weights=False)[0]


class Set(nn.Module):
    """A network over the particles of a jet, with an embedding of their kinds and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.Embedding(9, 4)
        self.each = nn.Sequential(nn.Linear(7, 16), nn.GELU(), nn.Linear(16, 8))
        self.all = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 3))

    def forward(self, momenta: Any, kinds: Any) -> Any:
        particles = self.each(torch.cat([momenta, self.kinds(kinds)], -1))
        return self.all((particles * (kinds > 0).unsqueeze(-1)).sum(1)).softmax(-1)


class TwoInputs(nn.Module):
    """Two inputs, two results, and a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(5, 5)

    def forward(self, left: Any, right: Any) -> Any:
        a, b = self.shared(left), self.shared(right)
        return (a * b).sum(-1, keepdim=True), torch.maximum(a, b).transpose(0, 1).flip(0).transpose(0, 1)


def _row(layer: nn.Module, *shape: int) -> Callable[[], Case]:
    return lambda: (layer, (torch.randn(3, *shape),))


ACTIVATIONS = (
    "ReLU LeakyReLU ELU SELU CELU GELU SiLU Mish Sigmoid Tanh Softplus Softsign Hardtanh Hardsigmoid ReLU6 PReLU"
)

CASES: dict[str, Callable[[], Case]] = {
    "linear": _row(nn.Linear(7, 4), 7),
    "dense": _row(nn.Sequential(nn.Linear(7, 20), nn.Dropout(0.5), nn.ReLU(), nn.Linear(20, 2), nn.Sigmoid()), 7),
    "activations": _row(nn.Sequential(*(getattr(nn, name)() for name in ACTIVATIONS.split())), 9),
    "softmax": _row(nn.Sequential(nn.Softmax(-1), nn.LogSoftmax(-1)), 9),
    "conv1d": _row(nn.Sequential(nn.Conv1d(4, 6, 3, padding=1, stride=2), nn.BatchNorm1d(6), nn.ReLU()), 4, 15),
    "conv2d": _row(nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.MaxPool2d(2)), 3, 12, 10),
    "grouped": _row(nn.Conv2d(4, 8, (3, 1), groups=2, dilation=(2, 1), bias=False), 4, 12, 10),
    "conv3d": _row(nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.AvgPool3d(2)), 2, 6, 6, 6),
    "transposed": _row(nn.ConvTranspose2d(3, 5, 3, stride=2, output_padding=1, padding=1), 3, 6, 5),
    "norms": _row(nn.Sequential(nn.GroupNorm(2, 6), nn.InstanceNorm2d(6), nn.LayerNorm((6, 4, 4))), 6, 4, 4),
    "adaptive": _row(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)), 6, 8, 8),
    "upsample": _row(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), 2, 5, 4),
    "rnn": lambda: (Recurrent(nn.RNN), (torch.randn(3, 11, 6),)),
    "gru": lambda: (Recurrent(nn.GRU, num_layers=2), (torch.randn(3, 11, 6),)),
    "lstm": lambda: (Recurrent(nn.LSTM), (torch.randn(3, 11, 6),)),
    "bidirectional": lambda: (Recurrent(nn.LSTM, bidirectional=True), (torch.randn(3, 11, 6),)),
    "attention": lambda: (Attention(), (torch.randn(3, 9, 16),)),
    "transformer": _row(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True), 9, 16),
    "set": lambda: (Set(), (torch.randn(3, 12, 3), torch.randint(0, 9, (3, 12)))),
    "two_inputs": lambda: (TwoInputs(), (torch.randn(3, 5), torch.randn(3, 5))),
}
