"""How well hidden counts are recovered, gene by gene, over what the section's mean profile gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from scipy import sparse, stats

from sagefm._arguments import whole_number
from sagefm.data._counts import check_counts
from sagefm.errors import ArgumentError, MissingKeyError

if TYPE_CHECKING:
    from numpy.typing import NDArray


#: A gene must be detected in this many spots: below, the residuals of spots without a count, which are a function of
#: depth alone, make the correlation.
MIN_DETECTED: Final = 5


class Measured:
    """Measured counts and expected counts of their null (n_spots, n_genes), with what predictions of them share."""

    def __init__(self, counts: NDArray[np.floating], null: NDArray[np.floating]) -> None:
        self.counts, self.null = counts, null
        self.root = np.sqrt(null)
        self.residual = (counts - null) / self.root
        self.log = np.log1p(counts)
        # Most counts are zero, and a logarithm costs more than the rest together.
        self._counted = np.nonzero(counts)
        self.detected = np.count_nonzero(counts, axis=0)
        self.null_deviance = self.deviance_of(null)

    def deviance_of(self, rates: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the Poisson deviance of expected counts, summed over spots (n_genes,)."""
        # A rate of exactly zero would make one count an infinite surprise.
        floored = np.maximum(rates, 1e-6)
        x = self.counts[self._counted].astype(np.float64)
        terms = x * np.log(x / floored[self._counted])
        logs = np.bincount(self._counted[1], weights=terms, minlength=rates.shape[1])
        deviance: NDArray[np.float64] = 2 * (logs + (floored - self.counts).sum(axis=0, dtype=np.float64))
        return deviance


class Recovery:
    """Sums over spots from which recovery is computed; blocks of spots may come in any order.

    The null model of a spot is its section's mean profile times its size factor: it knows depth and
    learns nothing. Correlations of raw or log-normalised counts are mostly depth, so all is measured
    over that null:

    - ``r``: correlation, over spots, of the Pearson residuals ``(x - null)/sqrt(null)`` of measured counts
      with ``(predicted - null)/sqrt(null)``;
    - ``d2``: share of the null's Poisson deviance that the prediction explains, 0 for the null itself.

    The correlation of log1p counts, ``raw_r``, is kept for comparison with published figures.

    Parameters
    ----------
    n_genes
        Number of genes.

    Examples
    --------
    >>> import numpy as np
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200, return_rates=True)
    >>> counts, rates = adata.X.toarray(), adata.layers["rate"]
    >>> null = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    >>> sums = sagefm.metrics.Recovery(200)
    >>> for rows in np.array_split(np.arange(300), 3):
    ...     sums.update(counts[rows], rates[rows], null=null[rows], genes=np.arange(200))
    ...     sums.add_spots(len(rows))
    >>> sums.result()["d2"].shape
    (200,)
    """

    def __init__(self, n_genes: int) -> None:
        self.n_spots = 0
        # Sums of a, b, a^2, b^2, ab of the residuals, then of the log1p counts; the deviances of prediction and null,
        # and detections.
        self._sums = np.zeros((13, n_genes))

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

        Raises
        ------
        ArgumentError
            Shapes differ.
        """
        if not counts.shape == predicted.shape == null.shape == (len(counts), len(genes)):
            shapes = [counts.shape, predicted.shape, null.shape]
            raise ArgumentError(f"counts, predicted and null have the shapes {shapes}; expected {len(genes)} genes.")
        add_measured(self, Measured(counts, null), predicted, genes)

    def add_spots(self, n_spots: int) -> None:
        """Count spots, once for all genes.

        Parameters
        ----------
        n_spots
            Spots that :meth:`update` was given.

        Raises
        ------
        ArgumentError
            Not a whole number of at least 0.
        """
        self.n_spots += whole_number(n_spots, name="n_spots", minimum=0)

    def result(self) -> pd.DataFrame:
        """Return the recovery of each gene.

        Returns
        -------
        A row a gene: ``r``, ``pval``, ``qval``, ``d2``; the same of log1p counts, ``raw_r``, ``raw_qval``; ``deviance``
        and ``null_deviance``; ``detected``, the share of spots with a count. Correlations are NaN for genes detected in
        few spots.

        Notes
        -----
        The p-value is one-sided, from Student's t with n_spots - 2 degrees of freedom; neighboring spots are
        not independent, so that it is a lower bound. ``qval`` is its Benjamini-Hochberg false discovery rate.
        """
        model, null, detected = self._sums[10:]
        found = detected >= MIN_DETECTED
        r, pval, qval = _correlation(self._sums[:5], self.n_spots, found)
        raw_r, _, raw_qval = _correlation(self._sums[5:10], self.n_spots, found)
        with np.errstate(divide="ignore", invalid="ignore"):
            d2 = np.where(null > 0, 1 - model / null, np.nan)
        columns = {"r": r, "pval": pval, "qval": qval, "d2": d2, "raw_r": raw_r, "raw_qval": raw_qval}
        return pd.DataFrame(
            columns | {"deviance": model, "null_deviance": null, "detected": detected / max(self.n_spots, 1)}
        )


def add_measured(sums: Recovery, measured: Measured, predicted: NDArray[np.floating], genes: NDArray[np.int64]) -> None:
    """Add spots whose counts and null several predictions share; see :meth:`Recovery.update`."""
    added = [
        *_products(measured.residual, (predicted - measured.null) / measured.root),
        *_products(measured.log, np.log1p(predicted)),
        measured.deviance_of(predicted),
        measured.null_deviance,
        measured.detected,
    ]
    for row, values in zip(sums._sums, added, strict=True):
        row[genes] += values


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
    One row a gene, with the columns of :meth:`Recovery.result`.

    Raises
    ------
    ArgumentError
        Shapes differ.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200, return_rates=True)
    >>> found = sagefm.metrics.recovery(adata.X, adata.layers["rate"])  # of the truth
    >>> found[["r", "d2"]].shape
    (200, 2)
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


def pooled_d2(table: pd.DataFrame, min_detected: float = 0.1) -> float:
    """Return the share of the null's deviance that is explained, pooled over genes.

    Unlike the median of ``d2``, genes with many counts weigh as much as they tell.

    Parameters
    ----------
    table
        Result of :func:`recovery`, or of :meth:`Recovery.result`.
    min_detected
        Genes detected in a smaller share of spots are left out.

    Returns
    -------
    The share; NaN where no gene is left.

    Raises
    ------
    MissingKeyError
        `table` lacks a column.

    Examples
    --------
    >>> import sagefm
    >>> adata = sagefm.datasets.simulate(300, n_genes=200, return_rates=True)
    >>> sagefm.metrics.pooled_d2(sagefm.metrics.recovery(adata.X, adata.layers["rate"])) > 0
    True
    """
    missing = [name for name in ("detected", "deviance", "null_deviance") if name not in table]
    if missing:
        raise MissingKeyError(f"The table lacks {missing}; expected one of sagefm.metrics.recovery(...).")
    kept = table[(table["detected"] >= min_detected) & table["deviance"].notna()]
    null = float(kept["null_deviance"].sum())
    return 1 - float(kept["deviance"].sum()) / null if null > 0 else float("nan")


def noise_ceiling(counts: sparse.csr_matrix | NDArray[np.floating], rng: int = 0) -> pd.DataFrame:
    """Return the correlation of residuals that no predictor can exceed but by chance, gene by gene.

    Every count is split into two independent halves by a fair coin for each molecule. With r_half the correlation,
    over spots, of the halves' Pearson residuals, each over its own profile times size factor, the reliability of the
    full count's residual is ``R = 2 r_half / (1 + r_half)`` (Spearman and Brown), and that of a perfect prediction
    with it ``ceiling = sqrt(R)``: the bound of ``r`` in :func:`recovery`.

    Parameters
    ----------
    counts
        Raw counts (n_spots, n_genes).
    rng
        Seed of the split.

    Returns
    -------
    ``r_half`` and ``ceiling``, a row a gene; NaN for genes detected in few spots, and 0 as the ceiling where r_half is
    not positive.

    Raises
    ------
    CountsError
        Values that are not raw counts.

    Notes
    -----
    One gene's ceiling is noisy; take medians over genes. That a predictor may read more than its gene does not matter:
    the bound is of the noise of what is predicted. Depth and the section's profile are in the null, not in the bound.

    Examples
    --------
    >>> import sagefm
    >>> ceiling = sagefm.metrics.noise_ceiling(sagefm.datasets.synovium().X)["ceiling"]
    >>> ceiling.shape
    (15005,)
    """
    whole = sparse.csr_matrix(counts)
    check_counts(whole.data, where="counts")
    n_spots, n_genes = whole.shape
    first = whole.astype(np.float64)
    first.data = np.random.default_rng(rng).binomial(whole.data.astype(np.int64), 0.5).astype(np.float64)
    halves = first, sparse.csr_matrix(whole - first)
    shares = [np.asarray(half.sum(axis=0)).ravel() / max(half.sum(), 1) for half in halves]
    sums = np.zeros((5, n_genes))
    for start in range(0, n_spots, 512):
        residuals = []
        for half, share in zip(halves, shares, strict=True):
            x = half[start : start + 512].toarray()
            null = np.maximum(x.sum(axis=1, keepdims=True) * share, np.finfo(np.float32).tiny)
            residuals.append((x - null) / np.sqrt(null))
        sums += _products(residuals[0], residuals[1])
    detected = np.asarray((whole > 0).sum(axis=0)).ravel()
    r_half = _correlation(sums, n_spots, detected >= MIN_DETECTED)[0]
    positive = np.maximum(r_half, 0)
    return pd.DataFrame({"r_half": r_half, "ceiling": np.sqrt(2 * positive / (1 + positive))})


def _products(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the sums over spots of a, b, a^2, b^2, ab (5, n_genes)."""
    return np.stack([values.sum(axis=0, dtype=np.float64) for values in (a, b, a * a, b * b, a * b)])


def _correlation(
    sums: NDArray[np.float64], n: int, found: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return correlations of `found` genes, one-sided p-values and false discovery rates, from sums of products."""
    a, b, aa, bb, ab = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (n * aa - a**2) * (n * bb - b**2)
        r = np.where(variance > 0, (n * ab - a * b) / np.sqrt(np.maximum(variance, 0)), np.nan)
        r = np.where(found, np.clip(r, -1, 1), np.nan)
        t = r * np.sqrt((n - 2) / np.maximum(1 - r**2, np.finfo(float).eps)) if n > 2 else np.full_like(r, np.nan)
    pval = stats.t.sf(t, max(n - 2, 1))
    qval = np.full_like(pval, np.nan)
    known = np.isfinite(pval)
    if known.any():
        qval[known] = stats.false_discovery_control(pval[known])
    return r, pval, qval
