"""Recovery of hidden genes: of a network, as it is and adapted to the section, and of principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from _research.network import Spots
from _research.sections import SCALE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from _research.network import Network
    from _research.sections import Reading

    #: Takes spots, a mask and genes to their expected counts, logs of the factors, and embeddings, if there are any.
    Predict = Callable[[Spots, Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]

#: Share of the spots in which a gene is detected that is evaluated.
DETECTED = 0.1
GENE_FOLDS, SPOT_FOLDS, PRECISION = 3, 5, 100.0


def network_predictor(network: Network, average: Tensor) -> Predict:
    """Predictions of a network."""

    def predict(spots: Spots, mask: Tensor, genes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        expected = spots.expected(mask)
        center = spots.deviations(network.options.input, mask, expected, average)
        latent = network(center, spots.neighborhood, spots.depth(mask))
        log_factor = latent @ network.readout.weight[genes].T + network.readout.bias[genes]
        return expected[:, genes], log_factor, latent

    return predict


def control_predictor(loadings: NDArray[np.float32], ridge: float) -> Predict:
    """Predictions of principal components (n_components, n_genes), fitted to the visible genes of each spot."""
    components = torch.from_numpy(np.ascontiguousarray(loadings))

    def predict(spots: Spots, mask: Tensor, genes: Tensor) -> tuple[Tensor, Tensor, None]:
        expected = spots.expected(mask)
        values = torch.log1p(spots.counts * (SCALE / expected.sum(1, keepdim=True)))
        others = (spots.mean * spots.n_spots - values) / (spots.n_spots - 1)
        visible = (spots.measured[0] > 0) & (mask[0] == 0)
        shown = components[:, visible]
        scores = torch.linalg.solve(
            shown @ shown.T + ridge * torch.eye(len(shown)), shown @ (values - others)[:, visible].T
        ).T
        before = others[:, genes].clamp(min=0)
        after = (others[:, genes] + scores @ components[:, genes]).clamp(min=0)
        factor = torch.expm1(after) / torch.expm1(before).clamp(min=1e-6)
        return expected[:, genes], factor.clamp(min=1e-3).log(), None

    return predict


def score(counts: Tensor, expected: Tensor, log_factor: Tensor) -> NDArray[np.float32]:
    """Deviance, deviance of the null model, and correlation of Pearson residuals of each gene (3, n_genes)."""
    predicted = expected * log_factor.exp()
    deviance = lambda mean: 2 * (torch.xlogy(counts, counts / mean) - counts + mean).sum(0)
    a, b = (counts - expected) / expected.sqrt(), (predicted - expected) / expected.sqrt()
    a, b = a - a.mean(0), b - b.mean(0)
    r = (a * b).sum(0) / ((a * a).sum(0) * (b * b).sum(0)).sqrt().clamp(min=1e-12)
    return torch.stack([deviance(predicted.clamp(min=1e-6)), deviance(expected.clamp(min=1e-6)), r]).numpy()


def adapt(counts: Tensor, expected: Tensor, log_factor: Tensor, latent: Tensor, folds: Tensor) -> Tensor:
    """Return log factors with a ridge regression of residual counts on the embedding, fitted on other spots."""
    scaled = (latent - latent.mean(0)) / latent.std(0).pow(2).sum().sqrt()
    residuals = counts - expected * log_factor.exp()
    size, adapted = expected.sum(1) / expected.sum(1).mean(), log_factor.clone()
    for fold in range(SPOT_FOLDS):
        fit, held = folds != fold, folds == fold
        values, vectors = torch.linalg.eigh((scaled[fit] * size[fit, None]).T @ scaled[fit])
        information = values.clamp(min=0)[:, None] * expected.mean(0)
        weights = (vectors.T @ (scaled[fit].T @ residuals[fit])) / (information + PRECISION)
        adapted[held] += (scaled[held] @ vectors @ weights).clamp(-3, 3)
    return adapted


@torch.no_grad()
def evaluate(readings: list[Reading], predict: Predict) -> pd.DataFrame:
    """Recovery of hidden genes, a row a donor."""
    rows = []
    for reading in readings:
        section, rng = reading.section, np.random.default_rng(0)
        gene_folds = rng.permutation(len(section.measured)) % GENE_FOLDS
        one = lambda row: torch.from_numpy(row)[None]
        spots = Spots(
            torch.from_numpy(section.counts[section.used].toarray()),
            torch.from_numpy(reading.neighborhood[section.used]),
            one(section.totals),
            one(section.measured),
            one(reading.mean),
            torch.tensor([[float(section.n_spots)]]),
        )
        plain, adapted = [], []
        for fold in range(GENE_FOLDS):
            genes = torch.from_numpy(np.flatnonzero((gene_folds == fold) & (section.detected >= DETECTED)))
            mask = (one((gene_folds == fold).astype(np.float32)) * spots.measured).expand_as(spots.counts)
            expected, log_factor, latent = predict(spots, mask, genes)
            hidden = spots.counts[:, genes]
            plain.append(score(hidden, expected, log_factor))
            if latent is not None:
                spot_folds = torch.from_numpy(rng.permutation(len(hidden)) % SPOT_FOLDS)
                changed = adapt(hidden, expected, log_factor, latent, spot_folds)
                adapted.append(score(hidden, expected, changed))
        row = {"donor": section.donor}
        for suffix, scores in (("", plain), (" adapted", adapted)):
            deviance, null, r = np.concatenate(scores, axis=1, dtype=float) if scores else np.full((3, 1), np.nan)
            row |= {f"r{suffix}": np.median(r), f"D2{suffix}": 1 - deviance.sum() / null.sum()}
        rows.append(row)
    return pd.DataFrame(rows).groupby("donor").mean()
