"""What counting noise allows a predictor to reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from sagefm._arguments import as_seed
from sagefm._progress import ProgressBar
from sagefm.data._blocks import column_sums
from sagefm.data._counts import check_counts
from sagefm.metrics._recovery import MIN_DETECTED, correlation, moments
from sagefm.metrics._rows import BLOCK_ROWS, MIN_NULL, Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray


def noise_ceiling(
    counts: sparse.csr_matrix | NDArray[np.floating], rng: int | np.random.Generator = 0, *, progress: bool = True
) -> pd.DataFrame:
    """Return the correlation of residuals that no predictor can exceed except by chance, gene by gene.

    Every count is split into two independent halves by a fair coin for each molecule. With r_half the correlation,
    over spots, of the halves' Pearson residuals, each over its own profile times size factor, the reliability of the
    full count's residual is ``R = 2 r_half / (1 + r_half)`` (Spearman and Brown). A perfect prediction correlates
    with it by ``ceiling = sqrt(R)``, the bound of ``r`` in :func:`recovery`.

    Parameters
    ----------
    counts
        Raw counts (n_spots, n_genes).
    rng
        Seed of the split.
    progress
        As in :func:`sagefm.tl.embed`.

    Returns
    -------
    ``r_half`` and ``ceiling``, one row per gene: NaN for genes detected in fewer than 5 spots, and a ceiling of 0 where
    r_half is not positive.

    Raises
    ------
    CountsError
        Values that are not raw counts.
    ArgumentError
        `counts` is not a matrix, or `rng` is no seed.

    Notes
    -----
    The ceiling of a single gene is noisy; take medians over genes. It holds for predictors that read other genes, too:
    it is set by the noise of the predicted counts. Depth and the section's profile belong to the null, not to the bound.

    Examples
    --------
    >>> import sagefm
    >>> ceiling = sagefm.metrics.noise_ceiling(sagefm.datasets.synovium().X)["ceiling"]
    >>> ceiling.shape
    (15005,)
    """
    whole = sparse.csr_matrix(Rows(counts, name="counts").matrix)
    check_counts(whole.data, where="counts")
    n_spots, n_genes = whole.shape
    first = whole.astype(np.float64)
    first.data = np.random.default_rng(as_seed(rng)).binomial(whole.data.astype(np.int64), 0.5).astype(np.float64)
    halves = first, sparse.csr_matrix(whole - first)
    profiles = [column_sums(half) / max(half.sum(), 1) for half in halves]
    sums = np.zeros((7, n_genes))
    with ProgressBar("noise ceiling", n_spots, "spot", progress=progress) as bar:
        for start in range(0, n_spots, BLOCK_ROWS):
            residuals = []
            for half, profile in zip(halves, profiles, strict=True):
                x = half[start : start + BLOCK_ROWS].toarray()
                null = np.maximum(x.sum(axis=1, keepdims=True) * profile, MIN_NULL)
                residuals.append((x - null) / np.sqrt(null))
            sums += moments(*residuals)
            bar.update(len(x))
    detected = np.asarray((whole > 0).sum(axis=0)).ravel()
    r_half = correlation(sums, n_spots, detected >= MIN_DETECTED)[0]
    positive = np.maximum(r_half, 0)
    return pd.DataFrame({"r_half": r_half, "ceiling": np.sqrt(2 * positive / (1 + positive))})
