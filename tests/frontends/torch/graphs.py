"""Graph networks of torch_geometric and plain PyTorch, on nodes [n, 5] and edges [2, m]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch_geometric.nn import EdgeConv, GATConv, GCNConv, SAGEConv, global_mean_pool

FEATURES = 5


class Convolutions(nn.Module):
    """Two layers of one kind."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Any, edge_index: Any) -> Any:
        return self.second(self.first(x, edge_index).relu(), edge_index)


class Pooled(nn.Module):
    """One layer, and the mean over the nodes of each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = GCNConv(FEATURES, 8)

    def forward(self, x: Any, edge_index: Any, batch: Any) -> Any:
        return global_mean_pool(self.layer(x, edge_index), batch, size=3)


class Neighbours(nn.Module):
    """An edge convolution over the k nearest neighbours in the first two features, as in ParticleNet."""

    def __init__(self, k: int = 4) -> None:
        super().__init__()
        self.k = k
        self.edge = nn.Sequential(nn.Linear(2 * FEATURES, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Any) -> Any:
        distances = ((x[:, None, :2] - x[None, :, :2]) ** 2).sum(-1)
        nearest = torch.topk(distances, self.k + 1, dim=-1, largest=False).indices[:, 1:]
        others = x[nearest]
        own = x[:, None, :].expand_as(others)
        return self.edge(torch.cat([own, others - own], -1)).amax(1).mean(0, keepdim=True)


class Interaction(nn.Module):
    """An interaction network (Battaglia et al., 2016): messages along edges, added up at nodes, summed to a result."""

    def __init__(self) -> None:
        super().__init__()
        self.relation = nn.Sequential(nn.Linear(2 * FEATURES, 16), nn.ReLU(), nn.Linear(16, 6))
        self.object = nn.Sequential(nn.Linear(FEATURES + 6, 16), nn.ReLU(), nn.Linear(16, 4))
        self.result = nn.Linear(4, 2)

    def forward(self, x: Any, edge_index: Any) -> Any:
        sender, receiver = edge_index[0], edge_index[1]
        messages = self.relation(torch.cat([x[receiver], x[sender]], -1))
        gathered = torch.zeros(x.shape[0], 6).index_add(0, receiver, messages)
        return torch.sigmoid(self.result(self.object(torch.cat([x, gathered], -1)).sum(0, keepdim=True)))


def _edge(how: str) -> nn.Module:
    return EdgeConv(nn.Sequential(nn.Linear(2 * FEATURES, 16), nn.ReLU(), nn.Linear(16, 8)), aggr=how)


def _gat(loops: bool) -> nn.Module:
    return Convolutions(GATConv(FEATURES, 8, heads=2, add_self_loops=loops), GATConv(16, 3, add_self_loops=loops))


CASES: dict[str, Callable[[], nn.Module]] = {
    "gcn": lambda: Convolutions(GCNConv(FEATURES, 16), GCNConv(16, 3)),
    "gcn_without_loops": lambda: Convolutions(
        GCNConv(FEATURES, 16, add_self_loops=False), GCNConv(16, 3, add_self_loops=False)
    ),
    "gat": lambda: _gat(True),
    "gat_without_loops": lambda: _gat(False),
    "sage": lambda: SAGEConv(FEATURES, 8),
    "edge_max": lambda: _edge("max"),
    "edge_mean": lambda: _edge("mean"),
    "edge_sum": lambda: _edge("sum"),
    "interaction": Interaction,
}
