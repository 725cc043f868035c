"""The published network as defined, on any graph, by PyG's ``GCNConv``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch_geometric.nn import GCNConv

from sagefm.module._config import NetworkConfig
from sagefm.module._pooled import PooledNetwork


class PublishedNetwork(nn.Module):
    """Five graph convolutions and a linear read-out (Zhan et al. 2026).

    In matrix form, with A the adjacency with self-loops and D its degrees,
    ``H_k = leaky_relu(D^-1/2 A D^-1/2 H_{k-1} W_k^T + b_k)`` for k = 1..5, without the activation at k = 5;
    row i of H_5 is the embedding of spot i and ``relu(F H_5^T + f)`` the prediction.

    This is the definition, for any graph, and the oracle of the tests.
    On complete neighborhoods :class:`PooledNetwork` gives the same numbers from the same parameters.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.n_genes, *config.hidden)
        self.n_layers = len(config.hidden)
        for i in range(self.n_layers):
            self.add_module(f"conv{i + 1}", GCNConv(widths[i], widths[i + 1]))
        self.fc_gene = nn.Linear(widths[-1], config.n_genes)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding (n_nodes, hidden[-1]) and predicted log1p counts (n_nodes, n_genes).

        Parameters
        ----------
        x
            log1p counts of the spots (n_nodes, n_genes).
        edge_index
            Edges between spots (2, n_edges), without self-loops, which the convolution adds.
        """
        for i in range(self.n_layers):
            x = getattr(self, f"conv{i + 1}")(x, edge_index)
            if i < self.n_layers - 1:
                x = leaky_relu(x, 0.01)
        return x, torch.relu(self.fc_gene(x))

    def pooled(self) -> PooledNetwork:
        """Return the closed form on complete neighborhoods; parameters are shared, not copied."""
        with torch.device("meta"):
            network = PooledNetwork(self.config)
        network.load_state_dict(dict(self.named_parameters()), assign=True)
        return network
