"""What the visible genes of a section say of each spot: depth, components, profiles, surroundings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import linalg, sparse

from sagefm._transform import root
from sagefm.data._graph import averaging
from sagefm.module._factors import fit_factors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Genes that components and profiles are found in, over all folds.
N_GENES: Final = 1000
#: Principal components of a spot, of its neighborhood, and profiles of the factor model.
_N_COMPONENTS: Final = 30
_N_AROUND: Final = 20
_N_PROFILES: Final = 20
#: Spots that the factor model is fitted on.
_N_FACTOR_SPOTS: Final = 480
#: Total variance of the features of the surroundings; those of the spot itself have 1.
_AROUND: Final = 0.3
#: Rows made dense at a time.
_BLOCK_ROWS: Final = 2048
#: Counts added to a gene's total where genes are ranked: a single count is no excess.
_RANK_PRIOR: Final = 10.0
_TINY: Final = 1e-12


@dataclass(frozen=True)
class Visible:
    """What is known of each spot while a fold is hidden.

    Attributes
    ----------
    sizes
        Expected counts of a gene with a total of one (n_spots,).
    features
        y, uncorrelated over the spots (n_spots, n_features).
    variances
        Mean of y^2 over the spots, weighted by `sizes` (n_features,).
    weights, mean_weights
        Weights of the profiles of the factor model at a spot, and those of the mean spot at its depth, for genes with a
        total of one (n_spots, n_profiles); None where a spot shows nothing.
    """

    sizes: NDArray[np.float32]
    features: NDArray[np.float32]
    variances: NDArray[np.float32]
    weights: NDArray[np.float32] | None
    mean_weights: NDArray[np.float32] | None


def informative_genes(counts: sparse.csc_matrix, folds: Sequence[slice]) -> list[NDArray[np.int64]]:
    """Return, for each fold, the genes whose variance exceeds Poisson noise most, increasing.

    ``sum_j (x_j^2 / s_j) / p - p - n`` is that excess in units of the noise, with s_j the share of a spot in the fold's
    counts. Each fold is ranked by itself: which genes are visible does not depend on hidden counts.
    """
    genes = []
    for fold in folds:
        own = counts[:, fold]
        depth = np.asarray(own.sum(axis=1, dtype=np.float64)).ravel()
        shares = np.maximum(depth, 1) / max(depth.sum(), 1)
        total = np.asarray(own.sum(axis=0, dtype=np.float64)).ravel()
        squares = own.astype(np.float64).power(2).T @ (1 / shares)
        excess = (squares - total**2 - len(depth) * total) / (total + _RANK_PRIOR)
        best = np.argsort(-excess, kind="stable")[: -(-N_GENES // len(folds))]
        genes.append(np.sort(best[total[best] > 0]) + fold.start)
    return genes


def read_visible(
    counts: sparse.csr_matrix,
    depths: NDArray[np.float64],
    genes: NDArray[np.int64],
    neighbors: sparse.csr_matrix,
    sample: NDArray[np.int64],
    fitted_on: NDArray[np.bool_],
    *,
    shows_center: bool,
    embedding: NDArray[np.float32] | None,
    rng: int,
) -> Visible:
    """Return what `genes`, and an embedding of the visible genes, say of each spot.

    Parameters
    ----------
    counts
        Counts of the section (n_spots, n_genes).
    depths
        Visible counts of each spot (n_spots,), at least one.
    genes
        Positions of the genes that are read.
    neighbors
        For each spot (row), the other spots that may be read around it.
    sample, fitted_on
        Spots in random order that components and profiles are fitted on, as far as these may be read (n_spots,).
    shows_center
        Whether a spot shows its own counts of these genes.
    embedding
        Embedding of each spot by a network (n_spots, n_latent), if there is one.
    rng
        Seed of the factor model.
    """
    sizes = (depths / depths[fitted_on].sum()).astype(np.float32)
    fit_rows = sample[fitted_on[sample]]
    read = counts[:, genes]
    profile = np.asarray(read[fitted_on].sum(axis=0, dtype=np.float64)).ravel().astype(np.float32)
    dense = lambda rows: read[rows].toarray()
    deviations = lambda x, rows: root(x) - root(np.outer(sizes[rows], profile))

    x = dense(fit_rows)
    axes = _principal_axes(deviations(x, fit_rows), _N_COMPONENTS)
    factors = None
    if shows_center and x[:_N_FACTOR_SPOTS].any():
        factors = fit_factors(x[:_N_FACTOR_SPOTS], _N_PROFILES, rng)
    components = np.empty((len(sizes), axes.shape[1]), np.float32)
    weights, mean_weights = (
        np.zeros((2, len(sizes), len(factors.shares)), np.float32) if factors is not None else (None, None)
    )
    for start in range(0, len(sizes), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        x = dense(rows)
        components[rows] = deviations(x, rows) @ axes
        if factors is not None and weights is not None and mean_weights is not None:
            # The profiles sum to one over the genes that are read, the weights of a gene with a total of one do not.
            depth = sizes[rows, None] * profile.sum()
            weights[rows], mean_weights[rows] = factors.weights(x, depth)
    if weights is not None and mean_weights is not None:
        weights /= profile.sum()
        mean_weights /= profile.sum()

    near = averaging(neighbors, with_center=False)
    blocks = [(near @ components[:, :_N_AROUND], _AROUND if shows_center else 1.0)]
    if shows_center:
        blocks.append((components, 1.0))
    else:
        # The neighbors' neighbors, without the way back.
        wide = sparse.csr_matrix(near @ near)
        wide.setdiag(0)
        wide.eliminate_zeros()
        wide.data[:] = 1
        blocks.append((averaging(wide, with_center=False) @ components[:, :_N_AROUND], 1.0))
    if embedding is not None:
        blocks.append((embedding, 1.0))
    features, variances = _uncorrelated(blocks, np.where(fitted_on, sizes, 0).astype(np.float64))
    return Visible(sizes, features, variances, weights, mean_weights)


def _principal_axes(values: NDArray[np.float32], n_components: int) -> NDArray[np.float32]:
    """Return principal axes of uncentered values, the largest first (n_columns, n_components)."""
    # In float64: with less, which axes are the last ones would depend on the order of the spots.
    wide = values.astype(np.float64)
    is_wide = len(wide) < wide.shape[1]
    gram = wide @ wide.T if is_wide else wide.T @ wide
    n_axes = min(n_components, *wide.shape)
    if not n_axes:
        return np.zeros((values.shape[1], 0), np.float32)
    power, vectors = linalg.eigh(gram, subset_by_index=(len(gram) - n_axes, len(gram) - 1))
    if is_wide:
        vectors = wide.T @ (vectors / np.sqrt(power.clip(_TINY)))
    return np.asarray(vectors[:, ::-1], dtype=np.float32)


def _uncorrelated(
    blocks: Sequence[tuple[NDArray[np.float32], float]], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return features in which the mean of y y^T, weighted by sizes, is diagonal, and that diagonal.

    Each block is centered and scaled to a total variance.
    """
    share = sizes / max(sizes.sum(), _TINY)
    scaled = []
    for values, variance in blocks:
        centered = values.astype(np.float64)
        centered -= share @ centered
        total = float(share @ (centered**2).sum(axis=1))
        scaled.append(centered * np.sqrt(variance / total) if total > _TINY else 0 * centered)
    joined = np.concatenate(scaled, axis=1)
    variances, basis = np.linalg.eigh((joined * share[:, None]).T @ joined)
    return (joined @ basis).astype(np.float32), variances.clip(0).astype(np.float32)
