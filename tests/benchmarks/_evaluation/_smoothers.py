"""Controls that smooth hidden counts over similar spots, each a few lines of standard libraries.

A spot never takes part in its own prediction, and similarity reads visible genes alone. The hidden counts of the
spots j that a spot's weights w name, worth ``n = 1 / sum_j w_j^2`` spots, are shrunk to the section's profile by ten:

    ratio_ig = (n sum_j w_j x_jg / p_g + 10 s) / (n sum_j w_j s_j + 10 s)

with p_g the share of the gene, s_j the depth of spot j and s the mean depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import NearestNeighbors

from sagefm.metrics._predictors import View

N_NEAREST, N_STEPS, N_COMPONENTS, N_RING = 15, 3, 20, 6
PRIOR_SPOTS = 10.0


@dataclass(frozen=True)
class Smoothed:
    """Ratios of a section's genes to the null model (n_spots, n_genes), as a predictor."""

    ratios: np.ndarray

    def __call__(self, view: View) -> np.ndarray:
        return self.ratios[np.ix_(view.spots, view.wanted)].astype(np.float64)


def smoothers(
    counts: sparse.csr_matrix, coordinates: np.ndarray, folds: np.ndarray, n_hidden: int, genes: np.ndarray
) -> dict[str, Smoothed]:
    """Return the smoothing predictors of some genes (a mask) while `n_hidden` folds are hidden at a time."""
    n_folds = int(folds.max()) + 1
    found: dict[str, np.ndarray] = {}
    for fold in range(n_folds):
        shown = (folds - fold) % n_folds >= n_hidden
        columns = np.flatnonzero(genes & (folds == fold))
        for name, weights in _weights(counts[:, shown], coordinates).items():
            ratios = found.setdefault(name, np.ones(counts.shape, np.float32))
            ratios[:, columns] = _ratios(weights, counts, columns)
    return {name: Smoothed(ratios) for name, ratios in found.items()}


def _weights(visible: sparse.csr_matrix, coordinates: np.ndarray) -> dict[str, sparse.csr_matrix]:
    """Return the spots that each spot's hidden genes are read from, with weights (n_spots, n_spots)."""
    near = cKDTree(coordinates).query(coordinates, min(N_RING + 1, len(coordinates)))[1][:, 1:]
    space = _graph(near, np.ones(near.shape))
    space = space.maximum(space.T)
    if not visible.shape[1]:
        return {"joint filter": _without_own(_filter(space))}
    totals = np.maximum(np.asarray(visible.sum(axis=1)), 1)
    u = sparse.csr_matrix(visible.multiply(1e4 / totals)).log1p()
    scores = TruncatedSVD(min(N_COMPONENTS, min(u.shape) - 1) + 1, random_state=0).fit_transform(u)[:, 1:]
    distances, nearest = NearestNeighbors(n_neighbors=min(N_NEAREST + 1, len(scores))).fit(scores).kneighbors(scores)
    distances, nearest = distances[:, 1:], nearest[:, 1:]
    knn = _graph(nearest, np.ones(nearest.shape))
    # MAGIC: a Gaussian kernel as wide as the distance to the fifth nearest, symmetric, and a walk of three steps.
    kernel = _graph(nearest, np.exp(-((distances / np.maximum(distances[:, [4]], 1e-12)) ** 2)))
    walk = _rows(kernel + kernel.T + sparse.eye_array(len(scores)))
    diffused = walk
    for _ in range(N_STEPS - 1):
        diffused = diffused @ walk
    # Graph autoencoders smooth over a graph of both, twice.
    joint = _filter(space + knn.maximum(knn.T))
    return {"kNN": _rows(knn), "diffusion": _without_own(diffused), "joint filter": _without_own(joint)}


def _graph(neighbors: np.ndarray, values: np.ndarray) -> sparse.csr_matrix:
    n, k = neighbors.shape
    return sparse.csr_matrix((values.ravel(), neighbors.ravel(), np.arange(n + 1) * k), shape=(n, n))


def _filter(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return two steps of graph convolution."""
    step = _rows(graph + sparse.eye_array(graph.shape[0]))
    return step @ step


def _rows(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return weights whose rows sum to one."""
    sums = np.maximum(np.asarray(weights.sum(axis=1)).ravel(), 1e-12)
    return sparse.csr_matrix(sparse.diags_array(1 / sums) @ weights)


def _without_own(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    weights = sparse.csr_matrix(weights)
    weights.setdiag(0)
    weights.eliminate_zeros()
    return _rows(weights)


def _ratios(weights: sparse.csr_matrix, counts: sparse.csr_matrix, columns: np.ndarray) -> np.ndarray:
    depth = np.asarray(counts.sum(axis=1)).ravel()
    own = sparse.csc_matrix(counts)[:, columns]
    # The profile of the other spots: with its own count, a spot would tell of itself.
    totals = np.asarray(own.sum(axis=0)).ravel() - own.toarray() + 0.5
    profile = totals / (depth.sum() - depth)[:, None]
    worth = 1 / np.maximum(np.asarray(weights.multiply(weights).sum(axis=1)), 1e-12).reshape(-1, 1)
    prior = PRIOR_SPOTS * depth.mean()
    read = worth * (weights @ own).toarray()
    return (read / profile + prior) / (worth * (weights @ depth)[:, None] + prior)
