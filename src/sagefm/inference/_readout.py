"""Fitting the read-out to a section: what its own spots add to what the network learned elsewhere.

An imputed rate is the geometric mean of two, each fitted on the spots of other parts:

    rate_ig = null_ig (ratio_ig (1 + B_g y_i))^(1/2) (factors_ig)^(1/2)

with ``ratio`` the network's, B the weights of :class:`SectionDecoder`, and ``factors`` those of :class:`SectionFactors`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import linear

from sagefm.module._factors import fit_factors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sagefm.module._reading import SpotNetwork

#: Parts of the spots; a part is predicted from a read-out that the others were fitted on.
N_PARTS: Final = 5
#: Prior precision lambda of the added weights.
PRECISION: Final = 200.0
#: Principal components of the section, profiles of its factor model, and spots that they are found in.
N_COMPONENTS: Final = 20
N_SAMPLE: Final = 640
#: A count counts as its share of what the network expects, but no more than four times.
_LEAST_RATIO: Final = 0.25
#: Total variance below which y is the same at all spots: nothing is shown at their centers.
_LEAST_VARIANCE: Final = 1e-4
#: Bound on the added log rate ratio.
_BOUND: Final = 3.0


def section_components(center: Tensor) -> Tensor:
    """Return the principal components of centers c (n_spots, n_genes) under one mask, of unit length (n_components, n_genes)."""
    wide = center.cpu().double()
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    values, vectors = values[-N_COMPONENTS:].clamp(min=1e-6), vectors[:, -N_COMPONENTS:]
    return ((vectors / values.sqrt()).T @ wide).float().to(center.device)


def _draw(names: pd.Index, rng: int) -> NDArray[np.uint64]:
    """Return a random number for each name (n_spots,): the order of the spots does not matter."""
    return pd.util.hash_array(names.to_numpy(dtype=object), hash_key=f"{rng:016d}"[-16:])


def draw_parts(names: pd.Index, rng: int) -> Tensor:
    """Return a random part for each spot (n_spots,), drawn from its name."""
    return torch.from_numpy((_draw(names, rng) % N_PARTS).astype(np.int64))


def draw_sample(names: pd.Index, rng: int) -> NDArray[np.int64]:
    """Return at most `N_SAMPLE` spots, chosen and put in order at random, likewise."""
    return np.argsort(_draw(names, rng + 1), kind="stable")[:N_SAMPLE]


@dataclass(frozen=True)
class FoldReadout:
    """What is fitted to a section for one fold of its genes: components of its centers, and weights on the features y."""

    network: SpotNetwork
    components: Tensor
    decoder: SectionDecoder

    @classmethod
    def of(cls, network: SpotNetwork, sample: Tensor, part: Tensor, n_columns: int) -> Self:
        """Return a read-out yet to be fitted, from the centers of a sample (n_sample, n_genes) and the spots' parts."""
        components = section_components(sample)
        widths = (network.config.hidden[-1], len(components))
        return cls(network, components, SectionDecoder(part, widths, n_columns, sample.device))

    def features(self, visible: Tensor, h: Tensor) -> Tensor:
        """Return y: the embedding of centers without a neighborhood, and their scores (n_spots, n_features).

        `visible` is c (n_spots, n_genes), and `h` the first layer of the center alone, ``W_center c + b``.
        """
        return torch.cat([self.network.encode(h), linear(visible, self.components)], dim=1)

    def add(self, rows: slice, y: Tensor, counts: Tensor, sizes: Tensor, genes: Tensor) -> None:
        """Add spots to the fit; `genes` are the vocabulary positions of `counts`, see :meth:`SectionDecoder.add`."""
        ratio = self.network.decode(y[:, : self.network.config.hidden[-1]], genes).exp_()
        self.decoder.add(rows, y, counts, sizes, ratio)


class Readout(NamedTuple):
    """The factor model of a section, and the fitted read-out of each fold."""

    factors: SectionFactors
    folds: list[FoldReadout]


class SectionDecoder:
    """Weights B of a section, which multiply the network's rates by 1 + B_g y_i.

    y holds the embedding of the center's visible genes alone, and their scores on the section's own principal
    components, each centered and scaled to a total variance of one (columns by `widths`). B_g is a ridge regression, over the spots of the
    *other* parts, of what the network leaves over in a gene's hidden counts:

        B_g = (p_g A + lambda)^-1 sum_j y_j (x_jg / ratio_jg - p_g s_j),    A = sum_j s_j y_j y_j^T

    with p_g the gene's total in these spots, s_j the expected counts of a gene with a total of one, and ratio_jg the
    network's from the same visible genes. Below zero the factor is exp(B_g y_i), so that rates stay positive. Neither y
    nor any sum reads a count that B predicts.
    """

    def __init__(self, part: Tensor, widths: tuple[int, ...], n_genes: int, device: torch.device) -> None:
        self.part, self.widths = part.to(device), widths
        n_latent = sum(widths)
        # A constant beside the features gives the sums that center them.
        shape = (N_PARTS, n_latent + 1, n_genes)
        self._observed, self._expected = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        self._gram = torch.zeros((N_PARTS, n_latent + 1, n_latent + 1), dtype=torch.float64)
        self._weighted = torch.zeros_like(self._gram)
        self._total = torch.zeros((N_PARTS, n_genes), dtype=torch.float64)
        self._fitted: tuple[Tensor, Tensor] | None = None

    def add(self, rows: slice, y: Tensor, counts: Tensor, sizes: Tensor, ratio: Tensor) -> None:
        """Add spots: features (n_rows, n_features), counts and the network's rate ratios (n_rows, n_genes).

        `sizes` are the expected counts of a gene with a total of one (n_rows, 1).
        """
        with_constant = torch.cat([y, torch.ones_like(y[:, :1])], dim=1)
        weight = 1 / ratio.clamp(min=_LEAST_RATIO)
        weighted, expected = counts * weight, sizes * (ratio * weight)
        for part in range(N_PARTS):
            own = self.part[rows] == part
            z = with_constant[own]
            self._observed[part] += (z.T @ weighted[own]).cpu()
            self._expected[part] += (z.T @ expected[own]).cpu()
            self._gram[part] += (z.T @ z).cpu()
            self._weighted[part] += (z.T @ (z * sizes[own])).cpu()
            self._total[part] += counts[own].sum(dim=0).cpu()

    def log_ratio(self, rows: slice, y: Tensor) -> Tensor:
        """Return what is added to the log rate ratios of spots (n_rows, n_genes)."""
        weights, center = self._weights()
        added = torch.empty((len(y), weights.shape[2]), device=y.device)
        for part in range(N_PARTS):
            own = self.part[rows] == part
            added[own] = (y[own] - center[part]) @ weights[part]
        # A first step is linear: taken as an exponent, it would overshoot where a gene rises several times.
        return torch.where(added > 0, added.clamp(min=0).log1p(), added.clamp(min=-_BOUND))

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Return B (n_parts, n_latent, n_genes) and the mean of y (n_parts, n_latent), for the spots of each part."""
        if self._fitted is None:
            weights, centers = [], []
            for part in range(N_PARTS):
                others = [i for i in range(N_PARTS) if i != part]
                gram, weighted = (sums[others].sum(dim=0) for sums in (self._gram, self._weighted))
                total = self._total[others].sum(dim=0)
                residual = self._observed[others].sum(dim=0)
                residual -= self._expected[others].sum(dim=0) * total
                n_spots = gram[-1, -1].clamp(min=1)
                mean = gram[:-1, -1] / n_spots
                variance = gram.diagonal()[:-1] / n_spots - mean**2
                scale = torch.cat(
                    [v.sum().clamp(min=_LEAST_VARIANCE).sqrt().expand(len(v)) for v in variance.split(self.widths)]
                )
                slope = residual[:-1] - torch.outer(mean, residual[-1])
                cross = torch.outer(weighted[:-1, -1], mean)
                curvature = weighted[:-1, :-1] - cross - cross.T + weighted[-1, -1] * torch.outer(mean, mean)
                # One eigenbasis for all genes, whose curvatures differ by their totals.
                values, basis = torch.linalg.eigh(curvature / torch.outer(scale, scale))
                step = (basis.T @ (slope / scale[:, None])) / (values.clamp(min=0)[:, None] * total + PRECISION)
                weights.append(basis @ step / scale[:, None])
                centers.append(mean)
            device = self.part.device
            self._fitted = torch.stack(weights).float().to(device), torch.stack(centers).float().to(device)
        return self._fitted


class SectionFactors:
    """A Poisson factor model of a section for each part of its spots, fitted on sampled spots of the others."""

    def __init__(self, part: Tensor, sample_rows: NDArray[np.int64], counts: Tensor, rng: int) -> None:
        self.part = part.to(counts.device)
        self._models = {}
        sample_part, sample = part[sample_rows].numpy(), counts.cpu().numpy()
        # Where the other parts have no counts there is no model: spots keep the section's profile.
        for i in np.unique(part):
            others = sample[sample_part != i]
            if others.any():
                factors = fit_factors(others, N_COMPONENTS, rng)
                profiles, shares = (
                    torch.from_numpy(array).to(counts.device) for array in (factors.profiles, factors.shares)
                )
                self._models[int(i)] = replace(factors, profiles=profiles, shares=shares)

    def log_ratio(self, rows: slice, counts: Tensor, depth: Tensor, hidden: Tensor, columns: Tensor) -> Tensor:
        """Return log rate ratios of the genes `columns` to the section's profile (n_rows, n_columns).

        `depth` are the counts that a spot is expected to have, from its visible genes (n_rows, 1).
        """
        shown = torch.nonzero(~hidden[0])[:, 0]
        visible = counts[:, shown]
        ratio = torch.ones((len(counts), len(columns)), device=counts.device)
        for i, model in self._models.items():
            own = self.part[rows] == i
            ratio[own] = model.ratio(visible[own], depth[own], shown, columns)
        return ratio.log()
