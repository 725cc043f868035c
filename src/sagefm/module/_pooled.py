"""The published network in closed form.

On a complete graph of n spots with self-loops, GCN normalisation gives every edge the weight
1/sqrt(n) 1/sqrt(n) = 1/n, so that each convolution averages all rows: after the first, the rows are
equal and stay equal. With x_mean_i the average over the neighborhood of spot i, the five convolutions are

    h_i = W1 x_mean_i + b1
    z_i = W5 s(W4 s(W3 s(W2 s(h_i) + b2) + b3) + b4) + b5          (embedding)
    p_i = relu(F z_i + f)                                          (prediction)

with s the leaky ReLU: one product per spot and no graph after the first layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear

from sagefm.module._config import NetworkConfig
from sagefm.module._losses import masked_mse
from sagefm.module._reading import Batch, log1p_center


class PooledConv(nn.Module):
    """Parameters of a ``GCNConv`` under its names, ``lin.weight`` and ``bias``, applied to rows that are equal."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(n_in, n_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.xavier_uniform_(self.lin.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n_spots, n_in) to (n_spots, n_out)."""
        return linear(x, self.lin.weight, self.bias)


class PooledNetwork(nn.Module):
    """The published network on complete neighborhoods, with the published parameter names.

    Parameters
    ----------
    config
        Architecture; ``config.hidden`` are the five widths.

    Notes
    -----
    Zhan et al. (2026), arXiv 2601.15504; the closed form is at the head of this file and is tested against
    :class:`sagefm.module._gcn.PublishedNetwork`, which shares its parameters.
    """

    #: Scale of what is predicted.
    scale = "log1p"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.n_genes, *config.hidden)
        self.n_layers = len(config.hidden)
        for i in range(self.n_layers):
            self.add_module(f"conv{i + 1}", PooledConv(widths[i], widths[i + 1]))
        self.fc_gene = nn.Linear(widths[-1], config.n_genes)

    def first_layer(self, genes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights on center and neighborhood, both W1 (hidden, n_genes), and the bias (hidden,)."""
        conv: Any = self.conv1
        weight = conv.lin.weight if genes is None else conv.lin.weight.index_select(1, genes)
        return weight, weight, conv.bias

    def encode(self, h: Tensor) -> Tensor:
        """Map h (n_spots, hidden[0]) to the embedding z (n_spots, hidden[-1])."""
        for i in range(1, self.n_layers):
            h = getattr(self, f"conv{i + 1}")(leaky_relu(h, 0.01))
        return h

    def decode(self, z: Tensor, genes: Tensor | None = None) -> Tensor:
        """Map z to predicted log1p counts (n_spots, n_genes), of `genes` alone where given."""
        weight: Tensor = self.fc_gene.weight
        bias: Tensor = self.fc_gene.bias
        if genes is not None:
            weight, bias = weight[genes], bias[genes]
        return torch.relu(linear(z, weight, bias))

    def predict(self, batch: Batch, mask: Tensor) -> Tensor:
        """Return predicted log1p counts (n_spots, n_genes), the center's genes hidden by `mask`."""
        _, weight, bias = self.first_layer(batch.genes)
        pooled = log1p_center(batch, mask).add_(batch.neighborhood)
        # Products may be in bfloat16 (mixed precision); losses are not.
        return self.decode(self.encode(linear(pooled, weight, bias)), batch.genes).to(batch.counts.dtype)

    def loss(self, output: Tensor, batch: Batch, mask: Tensor, rates: Tensor | None = None) -> Tensor:
        """Return the mean squared error of log1p counts on the hidden entries (Zhan et al. 2026)."""
        return masked_mse(output, batch.log1p, mask)

    def prediction(self, output: Tensor, rates: Tensor) -> Tensor:
        """Return what imputation writes, on :attr:`scale`: the log1p counts as they are."""
        return output

    def expected_counts(self, output: Tensor, rates: Tensor) -> Tensor:
        """Return expected counts; the ReLU's zeros become 1e-6, since one count there would be infinitely unlikely."""
        return torch.expm1(output).clamp(min=1e-6)

    def forward(self, x_mean: Tensor) -> tuple[Tensor, Tensor]:
        """Map neighborhood averages (n_spots, n_genes) to embedding and prediction."""
        _, weight, bias = self.first_layer()
        z = self.encode(linear(x_mean, weight, bias))
        return z, self.decode(z)
