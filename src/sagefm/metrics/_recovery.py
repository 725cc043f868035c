"""How well hidden counts are recovered, gene by gene, over what the section's mean profile gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from scipy import sparse, special, stats

from sagefm.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray


#: A gene must be detected in this many spots: below, the residuals of spots without a count, which are a function of
#: depth alone, make the correlation.
MIN_DETECTED: Final = 5


class Recovery:
    """Sums over spots from which recovery is computed; blocks of spots may come in any order.

    The null model of a spot is its section's mean profile times its size factor: it knows depth and
    learns nothing. Correlations of raw or log-normalised counts are mostly depth, so all is measured
    over that null:

    - ``r``: correlation, over spots, of the Pearson residuals ``(x - null)/sqrt(null)`` of measured counts
      with ``(predicted - null)/sqrt(null)``;
    - ``d2``: share of the null's Poisson deviance that the prediction explains, 0 for the null itself.

    Parameters
    ----------
    n_genes
        Number of genes.
    """

    def __init__(self, n_genes: int) -> None:
        self.n_spots = 0
        # Sums of a, b, a^2, b^2, ab of the residuals, the deviances of prediction and null, and detections.
        self._sums = np.zeros((8, n_genes))

    def update(
        self,
        counts: NDArray[np.floating],
        predicted: NDArray[np.floating],
        *,
        null: NDArray[np.floating],
        genes: NDArray[np.int64],
    ) -> None:
        """Add the same spots for some genes.

        Parameters
        ----------
        counts, predicted, null
            Measured counts and expected counts of prediction and null (n_spots, n_genes).
        genes
            Positions of these genes in the sums (n_genes,).
        """
        root = np.sqrt(null)
        a, b = (counts - null) / root, (predicted - null) / root
        sums = [a, b, a * a, b * b, a * b, _deviance(counts, predicted), _deviance(counts, null), counts > 0]
        for row, values in zip(self._sums, sums, strict=True):
            row[genes] += values.sum(axis=0, dtype=np.float64)

    def add_spots(self, n_spots: int) -> None:
        """Count spots, once for all genes."""
        self.n_spots += n_spots

    def result(self) -> pd.DataFrame:
        """Return ``r``, ``pval``, ``qval`` and ``d2`` for each gene; all but d2 are NaN for genes detected in few spots.

        The p-value is one-sided, from Student's t with n_spots - 2 degrees of freedom; neighboring spots are
        not independent, so that it is a lower bound. ``qval`` is its Benjamini-Hochberg false discovery rate.
        """
        n = self.n_spots
        a, b, aa, bb, ab, model, null, detected = self._sums
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = (n * aa - a**2) * (n * bb - b**2)
            r = np.where(variance > 0, (n * ab - a * b) / np.sqrt(np.maximum(variance, 0)), np.nan)
            r = np.where(detected >= MIN_DETECTED, np.clip(r, -1, 1), np.nan)
            t = r * np.sqrt((n - 2) / np.maximum(1 - r**2, np.finfo(float).eps)) if n > 2 else np.full_like(r, np.nan)
            d2 = np.where(null > 0, 1 - model / null, np.nan)
        pval = stats.t.sf(t, max(n - 2, 1))
        qval = np.full_like(pval, np.nan)
        known = np.isfinite(pval)
        if known.any():
            qval[known] = stats.false_discovery_control(pval[known])
        return pd.DataFrame({"r": r, "pval": pval, "qval": qval, "d2": d2})


def recovery(
    counts: NDArray[np.floating] | sparse.csr_matrix,
    predicted: NDArray[np.floating],
    *,
    null: NDArray[np.floating] | None = None,
) -> pd.DataFrame:
    """Return how well predicted counts recover measured ones, gene by gene; see :class:`Recovery`.

    Parameters
    ----------
    counts
        Measured counts (n_spots, n_genes).
    predicted
        Expected counts at the spots' own depth (n_spots, n_genes).
    null
        Expected counts of the null model; left out: mean profile times size factor of these counts.

    Returns
    -------
    One row a gene: ``r``, ``pval``, ``qval``, ``d2``.

    Raises
    ------
    ArgumentError
        Shapes differ.
    """
    dense = counts if isinstance(counts, np.ndarray) else counts.toarray()
    measured = np.asarray(dense, dtype=np.float64)
    if null is None:
        null = measured.sum(axis=1, keepdims=True) * (measured.sum(axis=0) / measured.sum())
    for name, array in (("predicted", predicted), ("null", null)):
        if array.shape != measured.shape:
            raise ArgumentError(f"{name} has shape {array.shape}; expected that of counts, {measured.shape}.")
    sums = Recovery(measured.shape[1])
    floor = np.finfo(np.float32).tiny
    sums.update(measured, np.maximum(predicted, 0), null=np.maximum(null, floor), genes=np.arange(measured.shape[1]))
    sums.add_spots(len(measured))
    return sums.result()


def _deviance(counts: NDArray[np.floating], rates: NDArray[np.floating]) -> NDArray[np.float64]:
    # A rate of exactly zero would make one count an infinite surprise.
    floored = np.maximum(rates, 1e-6)
    deviance: NDArray[np.float64] = 2 * (special.xlogy(counts, counts / floored) - counts + floored)
    return deviance
