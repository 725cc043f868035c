"""Fitting the read-out to a section: what its own spots add to what the network learned elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Parts of the spots; a part is predicted from a read-out that the others were fitted on.
N_PARTS: Final = 5
#: Prior precision of the added weights, on an embedding of unit variance in all. Chosen on held-out donors.
PRECISION: Final = 100.0
#: Principal components of the section, and spots that they are found in.
N_COMPONENTS: Final = 20
N_SAMPLE: Final = 1024
#: A count counts as its share of what the network expects, but no more than four times.
_LEAST_RATIO: Final = 0.25
#: Bound on the added log rate ratio.
_BOUND: Final = 3.0


def section_components(center: Tensor) -> Tensor:
    """Return the principal components of what centers show (n_components, n_genes), of one total variance of scores.

    Parameters
    ----------
    center
        ``c`` of some spots under one mask (n_spots, n_genes).
    """
    values, vectors = torch.linalg.eigh(center @ center.T)
    values, vectors = values[-N_COMPONENTS:].clamp(min=1e-6), vectors[:, -N_COMPONENTS:]
    components = (vectors / values.sqrt()).T @ center
    return components


class SectionDecoder:
    """Weights B of a section, added to the network's read-out: ``log ratio_ig = F_g z_i + f_g + B_g (z0_i - mean)``.

    z0 is the embedding of the center's visible genes alone. B_g is the first Newton step, from zero, of Poisson
    regression of a gene's hidden counts on z0, with a Gaussian prior of precision lambda on B_g:

        B_g = (p_g A + lambda)^-1 sum_j z0_j (x_jg - p_g e_jg),    A = sum_j s_j z0_j z0_j^T

    with sums over the spots of the *other* parts, p_g the gene's total in them, e_jg what the network expects of a
    gene with a total of one, and s_j the size of a spot over the mean. z0 is scaled to a total variance of one.
    Neither z0 nor any sum reads a count that B predicts.

    Parameters
    ----------
    part
        Part of each spot (n_spots,).
    n_latent
        Width of the embedding.
    n_genes
        Genes that are predicted.
    device
        Device to compute on.
    """

    def __init__(self, part: Tensor, n_latent: int, n_genes: int, device: torch.device) -> None:
        self.part = part.to(device)
        # A constant beside the embedding gives the sums that center it.
        shape = (N_PARTS, n_latent + 1, n_genes)
        self._observed, self._expected = (torch.zeros(shape, device=device) for _ in range(2))
        self._gram = torch.zeros((N_PARTS, n_latent + 1, n_latent + 1), device=device)
        self._weighted = torch.zeros_like(self._gram)
        self._total = torch.zeros((N_PARTS, n_genes), device=device)
        self._fitted: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def draw_parts(names: pd.Index, rng: int) -> Tensor:
        """Return a random part for each spot (n_spots,), drawn from its name: the order of the spots does not matter."""
        drawn = pd.util.hash_array(names.to_numpy(dtype=object), hash_key=f"{rng:016d}"[-16:])
        return torch.from_numpy((drawn % N_PARTS).astype(np.int64))

    @staticmethod
    def draw_spots(names: pd.Index, rng: int) -> NDArray[np.int64]:
        """Return at most `N_SAMPLE` spots at random, from their names likewise."""
        drawn = pd.util.hash_array(names.to_numpy(dtype=object), hash_key=f"{rng + 1:016d}"[-16:])
        return np.sort(np.argsort(drawn, kind="stable")[:N_SAMPLE])

    def add(self, rows: slice, z0: Tensor, counts: Tensor, sizes: Tensor, ratio: Tensor) -> None:
        """Add spots.

        Parameters
        ----------
        rows
            The spots.
        z0
            Their embedding from visible genes of the center (n_rows, n_latent).
        counts
            Counts of the genes (n_rows, n_genes).
        sizes
            Expected counts of a gene with a total of one (n_rows, 1).
        ratio
            Rate ratios of the network (n_rows, n_genes).
        """
        one = torch.cat([z0, torch.ones_like(z0[:, :1])], dim=1)
        weight = 1 / ratio.clamp(min=_LEAST_RATIO)
        weighted, expected = counts * weight, sizes * (ratio * weight)
        for part in range(N_PARTS):
            at = self.part[rows] == part
            z = one[at]
            self._observed[part] += z.T @ weighted[at]
            self._expected[part] += z.T @ expected[at]
            self._gram[part] += z.T @ z
            self._weighted[part] += z.T @ (z * sizes[at])
            self._total[part] += counts[at].sum(dim=0)

    def log_ratio(self, rows: slice, z0: Tensor) -> Tensor:
        """Return what is added to the log rate ratios of spots (n_rows, n_genes)."""
        weights, center = self._weights()
        added = torch.empty((len(z0), weights.shape[2]), device=z0.device)
        for part in range(N_PARTS):
            at = self.part[rows] == part
            added[at] = (z0[at] - center[part]) @ weights[part]
        # A first step is linear: taken as an exponent, it would overshoot where a gene rises several times.
        return torch.where(added > 0, added.clamp(min=0).log1p(), added.clamp(min=-_BOUND))

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Return B (n_parts, n_latent, n_genes) and the mean of z0 (n_parts, n_latent), for the spots of each part."""
        if self._fitted is None:
            weights, centers = [], []
            for part in range(N_PARTS):
                others = [i for i in range(N_PARTS) if i != part]
                gram, weighted = (sums[others].sum(dim=0).double() for sums in (self._gram, self._weighted))
                total = self._total[others].sum(dim=0).double()
                residual = self._observed[others].sum(dim=0).double()
                residual -= self._expected[others].sum(dim=0).double() * total
                n_spots = gram[-1, -1].clamp(min=1)
                mean = gram[:-1, -1] / n_spots
                variance = (gram.diagonal()[:-1] / n_spots - mean**2).sum().clamp(min=1e-12)
                slope = residual[:-1] - torch.outer(mean, residual[-1])
                cross = torch.outer(weighted[:-1, -1], mean)
                curvature = weighted[:-1, :-1] - cross - cross.T + weighted[-1, -1] * torch.outer(mean, mean)
                # One eigenbasis for all genes, whose curvatures differ by their totals.
                values, basis = torch.linalg.eigh(curvature)
                scaled = (basis.T @ slope) / (values.clamp(min=0)[:, None] * total + PRECISION * variance)
                weights.append(basis @ scaled)
                centers.append(mean)
            self._fitted = torch.stack(weights).float(), torch.stack(centers).float()
        return self._fitted
