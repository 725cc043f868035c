"""Losses on the hidden genes of the center, and the deviance that is explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sagefm.module._reading import Batch, SpotNetwork


def masked_loss(network: SpotNetwork, batch: Batch, mask: Tensor) -> Tensor:
    """Return a network's loss on the hidden entries."""
    mask = mask.to(batch.counts.dtype)
    return network.loss(network.predict(batch, mask), batch, mask)


@torch.no_grad()
def masked_deviance(network: SpotNetwork, batch: Batch, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss on the hidden entries, and the deviances of model and null; D2 = 1 - model / null."""
    output = network.predict(batch, mask)
    rates = batch.null_rates(mask)
    loss = network.loss(output, batch, mask, rates)
    model, null = (poisson_deviance(batch.counts, r) for r in (network.expected_counts(output, rates), rates))
    return loss, model.masked_fill(~mask, 0.0).sum(), null.masked_fill(~mask, 0.0).sum()


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error on the hidden entries (Zhan et al. 2026)."""
    error = ((prediction - target) * mask).flatten()
    return torch.dot(error, error) / mask.sum().clamp(min=1)


def masked_poisson(log_ratio: Tensor, rates: Tensor, counts: Tensor, mask: Tensor) -> Tensor:
    """Return the mean Poisson negative log-likelihood on hidden entries, less terms in the counts alone.

    ``mu - x log mu`` with ``mu = rates exp(log_ratio)``; the constant x log(rates) is left out, so that the
    loss of the null model is its mean rate.
    """
    hidden_rates, hidden_counts = rates * mask, counts * mask
    nll = (hidden_rates * log_ratio.exp()).sum() - torch.dot(hidden_counts.flatten(), log_ratio.flatten())
    return nll / mask.sum().clamp(min=1)


def masked_negative_binomial(
    log_ratio: Tensor, rates: Tensor, counts: Tensor, mask: Tensor, log_dispersion: Tensor
) -> Tensor:
    """Return the mean negative-binomial negative log-likelihood on hidden entries.

    Variance mu + mu^2 / theta with theta = exp(log_dispersion) (n_genes,). The gamma terms are taken at
    non-zero counts only, elsewhere they cancel; log x! is left out.
    """
    theta = log_dispersion.exp()
    rate = rates * log_ratio.exp()
    log_total = torch.log(theta + rate)
    nll = (
        (theta + counts) * log_total - theta * log_dispersion - counts * (log_ratio + torch.log(rates.clamp(min=1e-12)))
    )
    nll = (nll * mask).sum()
    spots, genes = torch.nonzero(mask.bool() & (counts > 0), as_tuple=True)
    theta, x = theta[genes], counts[spots, genes]
    gamma = (torch.lgamma(theta) - torch.lgamma(theta + x)).sum()
    return (nll + gamma) / mask.sum().clamp(min=1)


def poisson_deviance(counts: Tensor, rates: Tensor) -> Tensor:
    """Return the Poisson deviance of expected counts at each entry (n_spots, n_genes)."""
    return 2 * (torch.xlogy(counts, counts) - torch.xlogy(counts, rates) - counts + rates)
