"""Controls: what a section's mean profile, its neighborhoods, and a linear model recover without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from sagefm._constants import PROFILE_PRIOR
from sagefm.data._counts import log_normalize
from sagefm.data._genes import assign_folds
from sagefm.errors import ArgumentError
from sagefm.metrics._recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def controls(
    counts: sparse.csr_matrix,
    neighbors: sparse.csr_matrix,
    *,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    predicted: NDArray[np.float32] | None = None,
    n_folds: int = 4,
    n_components: int = 20,
    ridge: float = 100.0,
    prior: float = 10.0,
    scale: float = 1e4,
    rng: int = 0,
    block_rows: int = 1024,
) -> dict[str, pd.DataFrame]:
    """Return the recovery of hidden genes by two predictors that know no network.

    Genes are hidden fold by fold at the spots `test`, as in :func:`sagefm.tl.impute`. Both predictors multiply the
    null model (the section's profile times the size factor of the spot's visible genes) by a ratio:

    - ``"neighborhood"``: the profile of the spot's neighbors, with `prior` spots of the section's profile added, over
      the section's profile;
    - ``"pca"``: principal components of ``u = log1p(scale x / total)`` less the section's mean, fitted on `train`; the
      scores of a spot are a ridge regression on its visible genes; ``expm1(u_mean + reconstruction) / expm1(u_mean)``.

    Parameters
    ----------
    counts
        Raw counts of a section (n_spots, n_genes).
    neighbors
        Ones where a spot is a neighbor (n_spots, n_spots), without the diagonal.
    train, test
        Spots that the components are fitted on, and spots that are predicted.
    predicted
        Expected counts of a model (n_spots, n_genes), to be held against the controls on the same spots, folds and
        null: ``adata.layers["sagefm_imputed"]``. Its genes must have been hidden in folds too.
    n_folds
        Number of folds.
    n_components
        Principal components.
    ridge
        Penalty on the scores, in units of the noise of u.
    prior
        Spots of the section's profile added to a neighborhood.
    scale
        Counts that spots are brought to.
    rng
        Seed of the folds.
    block_rows
        Spots made dense at a time.

    Returns
    -------
    For each predictor, and for ``"predicted"`` where given, a table as of :func:`sagefm.metrics.recovery`, a row a gene.

    Raises
    ------
    ArgumentError
        `predicted` has another shape than `counts`.
    """
    if predicted is not None and predicted.shape != counts.shape:
        raise ArgumentError(f"predicted has shape {predicted.shape}; expected that of counts, {counts.shape}.")
    n_genes = counts.shape[1]
    totals = np.maximum(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 1)
    gene_totals = np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
    folds = assign_folds(np.arange(n_genes), n_genes, n_folds, rng)
    loadings, mean = _components(counts, totals, train, n_components, scale)

    around = sparse.csr_matrix(neighbors[test] @ counts)
    around_totals = neighbors[test] @ totals
    profile_of_section = (gene_totals + PROFILE_PRIOR) / (gene_totals + PROFILE_PRIOR).sum()

    def neighborhood_ratio(rows: slice, hidden: NDArray[np.bool_], x: NDArray[np.float64]) -> NDArray[np.float64]:
        # `prior` spots of the section's mean depth.
        weight = prior * totals.mean()
        mixed = around[rows].toarray()[:, hidden] + weight * profile_of_section[hidden]
        ratio: NDArray[np.float64] = mixed / (around_totals[rows, None] + weight) / profile_of_section[hidden]
        return ratio

    def pca_ratio(rows: slice, hidden: NDArray[np.bool_], x: NDArray[np.float64]) -> NDArray[np.float64]:
        visible = ~hidden
        share = profile_of_section[visible].sum()
        sizes = np.maximum(x[:, visible].sum(axis=1, keepdims=True), 1) / share
        deviation = np.log1p(scale * x[:, visible] / sizes) - mean[visible]
        gram = loadings[:, visible] @ loadings[:, visible].T + ridge * np.eye(len(loadings))
        scores = np.linalg.solve(gram, loadings[:, visible] @ deviation.T).T
        reconstructed = np.maximum(mean[hidden] + scores @ loadings[:, hidden], 0)
        ratio: NDArray[np.float64] = np.expm1(reconstructed) / np.maximum(np.expm1(mean[hidden]), 1e-6)
        return ratio

    predictors: dict[str, Callable[..., NDArray[np.float64]]] = {"neighborhood": neighborhood_ratio, "pca": pca_ratio}
    names = [*predictors, *(["predicted"] if predicted is not None else [])]
    sums = {name: Recovery(n_genes) for name in names}
    for start in range(0, len(test), block_rows):
        rows = slice(start, start + block_rows)
        x = counts[test[rows]].toarray().astype(np.float64)
        profile = gene_totals - x + PROFILE_PRIOR
        for fold in range(n_folds):
            hidden = folds == fold
            size = np.maximum(x[:, ~hidden].sum(axis=1, keepdims=True), 1) / profile[:, ~hidden].sum(
                axis=1, keepdims=True
            )
            null = profile[:, hidden] * size
            rates = {name: null * predict(rows, hidden, x) for name, predict in predictors.items()}
            if predicted is not None:
                rates["predicted"] = predicted[test[rows]][:, hidden]
            for name, rate in rates.items():
                sums[name].update(x[:, hidden], rate, null=null, genes=np.flatnonzero(hidden))
        for recovery in sums.values():
            recovery.add_spots(len(x))
    return {name: recovery.result() for name, recovery in sums.items()}


def _components(
    counts: sparse.csr_matrix, totals: NDArray[np.float64], train: NDArray[np.int64], n_components: int, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return loadings (n_components, n_genes), scaled so that scores have unit variance, and the mean of u."""
    from sklearn.decomposition import PCA

    normalized = log_normalize(counts[train], scale, totals[train]).astype(np.float64)
    pca = PCA(n_components, svd_solver="arpack", random_state=0).fit(normalized)
    return pca.components_ * np.sqrt(pca.explained_variance_)[:, None], np.asarray(pca.mean_, dtype=np.float64)
