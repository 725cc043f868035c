"""The network that keeps a spot apart from its neighborhood, and its factory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from sagefm.module._config import NetworkConfig
from sagefm.module._losses import masked_negative_binomial, masked_poisson
from sagefm.module._pooled import PooledNetwork
from sagefm.module._reading import Batch, root_center


class SageLayer(nn.Module):
    """GraphSAGE layer (Hamilton et al. 2017) on averaged neighbors, under the names of PyG's ``SAGEConv``.

    ``h_i = lin_r c_i + lin_l v_i`` with c_i the spot and v_i the mean of its neighbors.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin_l = nn.Linear(n_in, n_out)
        self.lin_r = nn.Linear(n_in, n_out, bias=False)


class CenterNeighborhoodNetwork(nn.Module):
    """A GraphSAGE layer and dense layers; reads deviations from the section's mean, returns log rate ratios.

    With c_i, v_i the deviations of center and neighborhood, s the SiLU and N layer normalisation,

        h_i = W_center c_i + W_neigh v_i + b
        z_i = B_L s(N(... s(N(h_i)))) + b_L                       (embedding, hidden[-1] wide)
        rate_ig = size_i profile_g exp(F_g z_i + f_g)             (expected counts)

    where profile is the section's mean profile and size_i the size factor of the spot's visible genes:
    the network predicts how a spot deviates from its section.

    Parameters
    ----------
    config
        Architecture; ``config.hidden`` are the widths, the last that of the embedding.
    """

    scale = "counts"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = SageLayer(config.n_genes, config.hidden[0])
        pairs = list(zip(config.hidden[:-1], config.hidden[1:], strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(n_in) for n_in, _ in pairs)
        self.dense = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairs)
        self.fc_gene = nn.Linear(config.hidden[-1], config.n_genes)
        # Training starts at the null model: every spot is its section's profile.
        nn.init.zeros_(self.fc_gene.weight)
        nn.init.zeros_(self.fc_gene.bias)
        if config.likelihood == "negative_binomial":
            self.log_dispersion = nn.Parameter(torch.zeros(config.n_genes))
        #: Mean profile of the training sections, for genes that a section did not measure.
        self.register_buffer("prior", torch.full((config.n_genes,), 1.0 / config.n_genes))

    def first_layer(self, genes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights on center and neighborhood (hidden, n_genes) and the bias (hidden,)."""
        center, neighborhood = self.conv.lin_r.weight, self.conv.lin_l.weight
        if genes is not None:
            center, neighborhood = (weight.index_select(1, genes) for weight in (center, neighborhood))
        return center, neighborhood, self.conv.lin_l.bias

    def encode(self, h: Tensor) -> Tensor:
        """Map h (n_spots, hidden[0]) to the embedding z (n_spots, hidden[-1])."""
        for norm, dense in zip(self.norms, self.dense, strict=True):
            h = dense(dropout(nn.functional.silu(norm(h)), self.config.dropout, self.training))
        return h

    def decode(self, z: Tensor, genes: Tensor | None = None) -> Tensor:
        """Map z to log rate ratios to the section's profile (n_spots, n_genes), of `genes` alone where given."""
        weight: Tensor = self.fc_gene.weight
        bias: Tensor = self.fc_gene.bias
        if genes is not None:
            weight, bias = weight[genes], bias[genes]
        return linear(z, weight, bias)

    def predict(self, batch: Batch, mask: Tensor) -> Tensor:
        """Return log rate ratios (n_spots, n_genes), the center's genes hidden by `mask`."""
        w_center, w_neighborhood, bias = self.first_layer(batch.genes)
        h = linear(root_center(batch, mask), w_center, bias) + linear(batch.neighborhood, w_neighborhood)
        # Products may be in bfloat16 (mixed precision); losses are not.
        return self.decode(self.encode(h), batch.genes).to(batch.counts.dtype)

    def loss(self, output: Tensor, batch: Batch, mask: Tensor, rates: Tensor | None = None) -> Tensor:
        """Return the negative log-likelihood of the hidden counts; `rates` are the null's, if they are known already."""
        rates = batch.null_rates(mask) if rates is None else rates
        if self.config.likelihood == "poisson":
            return masked_poisson(output, rates, batch.counts, mask)
        dispersion = self.log_dispersion if batch.genes is None else self.log_dispersion[batch.genes]
        return masked_negative_binomial(output, rates, batch.counts, mask, dispersion)

    def prediction(self, output: Tensor, rates: Tensor) -> Tensor:
        """Return what imputation writes: expected counts."""
        return self.expected_counts(output, rates)

    def expected_counts(self, output: Tensor, rates: Tensor) -> Tensor:
        """Return expected counts from log rate ratios and the null's rates (n_spots, n_genes)."""
        return rates * output.exp()


def make_network(config: NetworkConfig, seed: int | None = None) -> PooledNetwork | CenterNeighborhoodNetwork:
    """Return the network of a configuration, initialised from a seed, or from torch's current random state.

    Parameters
    ----------
    config
        The configuration.
    seed
        Seed of the parameters; torch's random state is left as it is.
    """
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make_network(config)
    return PooledNetwork(config) if config.architecture == "published" else CenterNeighborhoodNetwork(config)
