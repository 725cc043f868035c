"""Gene masks, what a network reads under a mask, and losses on the hidden genes of the center."""

from __future__ import annotations

import torch
from torch import Tensor

from sagefm.module._center import SpotNetwork
from sagefm.module._reading import Batch, null_rates, predict


def masked_loss(network: SpotNetwork, batch: Batch, mask: Tensor) -> Tensor:
    """Return a network's loss on the hidden entries."""
    # The published network needs no null.
    mask = mask.to(batch.counts.dtype)
    rates = None if network.config.likelihood == "mse" else _null_rates(batch, mask)
    return _loss(network, batch, mask, predict(network, batch, mask), rates)


@torch.no_grad()
def masked_deviance(network: SpotNetwork, batch: Batch, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss on the hidden entries, and the deviances of model and null (:func:`explained_deviance`)."""
    rates = _null_rates(batch, mask)
    output = predict(network, batch, mask)
    loss = _loss(network, batch, mask, output, rates)
    if network.config.likelihood == "mse":
        output = torch.log(torch.expm1(output).clamp(min=1e-3) / rates.clamp(min=1e-12))
    return loss, *explained_deviance(output, rates, batch.counts, mask)


def _null_rates(batch: Batch, mask: Tensor) -> Tensor:
    measured = None if batch.measured is None else batch.at_spots(batch.measured)
    return null_rates(batch.counts, batch.at_spots(batch.gene_totals), mask, measured)


def _loss(network: SpotNetwork, batch: Batch, mask: Tensor, output: Tensor, rates: Tensor | None) -> Tensor:
    if rates is None or network.config.likelihood == "mse":
        return masked_mse(output, batch.values, mask)
    if network.config.likelihood == "poisson":
        return masked_poisson(output, rates, batch.counts, mask)
    dispersion: Tensor = network.log_dispersion  # type: ignore[attr-defined]
    dispersion = dispersion if batch.genes is None else dispersion[batch.genes]
    return masked_negative_binomial(output, rates, batch.counts, mask, dispersion)


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


def explained_deviance(log_ratio: Tensor, rates: Tensor, counts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return Poisson deviances of the model and of the null on hidden entries; D2 = 1 - model / null."""
    saturated = torch.xlogy(counts, counts) - counts
    null = 2 * (saturated - torch.xlogy(counts, rates) + rates)
    ratio = rates * log_ratio.exp()
    model = 2 * (saturated - torch.xlogy(counts, ratio) + ratio)
    return model.masked_fill(~mask, 0.0).sum(), null.masked_fill(~mask, 0.0).sum()
