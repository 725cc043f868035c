"""Domains of a section, or of several: components of the counts, each smoothed as far as it is smooth, and a mixture."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, svds

from sagefm.data._blocks import iter_blocks, take_rows, to_memory
from sagefm.data._counts import log_normalize
from sagefm.inference._filter import fit_filter, laplacian, nearest_graph, smooth

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.mixture import GaussianMixture

    from sagefm.data._blocks import StoredMatrix
    from sagefm.data._table import Spots
    from sagefm.inference._filter import Fit

#: Counts that every spot is scaled to before the logarithm.
_SCALE: Final = 1e4
#: Principal components that are smoothed, and those of the smoothed ones that domains are found in.
N_COMPONENTS: Final = 30
N_SMOOTHED: Final = 12
#: Spots that loadings and mixtures are fitted on, where there are more.
_MAX_SPOTS: Final = 20_000
#: Numbers of domains that are tried, and initializations for each of them and of the mixture that is kept.
_MAX_DOMAINS: Final = 15
_N_TRIES: Final = 3
_N_INIT: Final = 10


@dataclass(frozen=True)
class Components:
    """Principal components of deviations from each section's mean.

    Attributes
    ----------
    scores
        One row a spot (n_spots, n_components), mean 0 in every section.
    loadings
        One row a component (n_components, n_features); the largest of each is positive.
    """

    scores: NDArray[np.float64]
    loadings: NDArray[np.float64]


@dataclass(frozen=True)
class Domains:
    """Domains, and what they were found in.

    Attributes
    ----------
    domains
        Domain of each spot (n_spots,), 0 for the largest.
    probability
        Its probability (n_spots,).
    smoothed
        Principal components of the smoothed components (n_spots, 12), of unit mean variance.
    fits
        Spatial covariance of the components in each section, by its name.
    criterion
        Criterion of each number of domains that was tried, smallest for the best.
    """

    domains: NDArray[np.int64]
    probability: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    fits: dict[str, Fit]
    criterion: dict[int, float]


def count_components(
    counts: sparse.csr_matrix | StoredMatrix, sections: NDArray[np.int64], n_components: int, seed: int
) -> Components:
    """Return components of ``u = log1p(10,000 x / total)``; of many spots, those of a sample of them.

    `sections` holds the section of each spot as a code (n_spots,). A spot without counts is at the mean of its section.
    """
    n_spots = counts.shape[0]
    rows = np.arange(n_spots)
    if n_spots > _MAX_SPOTS:
        rows = np.sort(np.random.default_rng(seed).choice(n_spots, _MAX_SPOTS, replace=False))
    sample = to_memory(take_rows(counts, rows))
    has_counts = _totals(sample) > 0
    loadings = _loadings(_logarithms(sample[has_counts]), sections[rows[has_counts]], n_components)
    blocks = [(_logarithms(block) @ loadings.T, _totals(block)) for _, block in iter_blocks(counts)]
    projected, totals = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    scores = np.zeros_like(projected)
    scores[totals > 0] = _deviations(projected[totals > 0], sections[totals > 0])
    return Components(scores, loadings)


def embedding_components(values: NDArray[np.float64], sections: NDArray[np.int64], n_components: int) -> Components:
    """Return components of an embedding (n_spots, n_latent)."""
    deviations = _deviations(values, sections)
    loadings = _principal_axes(deviations, n_components)
    return Components(deviations @ loadings.T, loadings)


def find_domains(
    scores: NDArray[np.float64],
    spots: Spots,
    n_domains: int | None,
    seed: int,
    *,
    neighbors: sparse.csr_matrix | None = None,
) -> Domains:
    """Return domains of components (n_spots, n_components).

    `neighbors` is a graph of the user's; by default, that of the nearest spots. If `n_domains` is None, all numbers up
    to 15 are tried.
    """
    # In an order that is the same however the table is ordered: random numbers go to the same spots.
    order = np.argsort(scores[:, 0], kind="stable")
    smoothed, fits = np.empty_like(scores), {}
    for code, name in enumerate(spots.names):
        rows = order[spots.libraries[order] == code]
        graph = nearest_graph(spots.coordinates[rows]) if neighbors is None else _symmetric(neighbors[rows][:, rows])
        operator, own = laplacian(graph), scores[rows]
        fits[name] = fit_filter(operator, own, np.random.default_rng(seed))
        smoothed[rows] = smooth(operator, own, fits[name])
    values = smoothed @ _principal_axes(smoothed, N_SMOOTHED).T
    values /= np.sqrt(values.var(axis=0).mean())

    criterion = {}
    if n_domains is None:
        tried = range(1, min(_MAX_DOMAINS, len(values)) + 1)
        criterion = {n: _criterion(scores[order], _partition(values[order], n, seed)) for n in tried}
        n_domains = min(criterion, key=criterion.__getitem__)
    mixture = _fit_mixture(values[order], n_domains, seed, _N_INIT)
    probabilities = mixture.predict_proba(values)
    domains = probabilities.argmax(axis=1)
    rank = np.argsort(np.argsort(-np.bincount(domains, minlength=n_domains), kind="stable"))
    return Domains(rank[domains], probabilities.max(axis=1), values, fits, criterion)


def _totals(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def _logarithms(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    return log_normalize(counts, _SCALE).astype(np.float64)


def _loadings(values: sparse.csr_matrix, sections: NDArray[np.int64], n_components: int) -> NDArray[np.float64]:
    """Return principal axes of deviations of sparse values from each section's mean (n_components, n_genes)."""
    n_components = min(n_components, *values.shape)
    if min(values.shape) <= 2 * n_components:
        return _principal_axes(_deviations(values.toarray(), sections), n_components)
    member, means = _members(sections), _means(values, sections)
    transposed = sparse.csr_matrix(values.T)
    centered = LinearOperator(
        values.shape,
        matvec=lambda x: values @ x - member @ (means @ x),
        rmatvec=lambda y: transposed @ y - means.T @ (member.T @ y),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).normal(size=min(values.shape))
    axes = svds(centered, k=n_components, v0=start)[2]
    return _signed(axes[::-1])


def _principal_axes(values: NDArray[np.float64], n_components: int) -> NDArray[np.float64]:
    """Return principal axes of centered values (n_components, n_columns)."""
    axes = linalg.svd(values, full_matrices=False)[2] if len(values) < values.shape[1] else _eigenvectors(values)
    return _signed(axes[:n_components])


def _eigenvectors(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.eigh(values.T @ values)[1][:, ::-1].T


def _signed(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return axes of which the largest loading is positive: their sign is arbitrary."""
    largest = np.abs(axes).argmax(axis=1)
    return axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]


def _members(codes: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return ones where a spot (row) has a code (column)."""
    n_spots = len(codes)
    return sparse.csr_matrix((np.ones(n_spots), (np.arange(n_spots), codes)), shape=(n_spots, codes.max() + 1))


def _means(values: Any, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean of the rows of each code, of a dense or sparse matrix (n_codes, n_columns)."""
    sums = _members(codes).T @ values
    sums = sums.toarray() if sparse.issparse(sums) else sums
    return np.asarray(sums / np.maximum(np.bincount(codes), 1)[:, None])


def _deviations(values: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return values less the mean of the rows of their code."""
    return values - _means(values, codes)[codes]


def _symmetric(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    graph = graph.astype(np.float64)
    return graph.maximum(graph.T)


def _fit_mixture(values: NDArray[np.float64], n_domains: int, seed: int, n_init: int) -> GaussianMixture:
    """Return a Gaussian mixture with one covariance for all domains, the best of several initializations."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(values) > _MAX_SPOTS:
        values = values[np.random.default_rng(seed).choice(len(values), _MAX_SPOTS, replace=False)]
    mixture = GaussianMixture(n_domains, covariance_type="tied", n_init=n_init, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(values)


def _partition(values: NDArray[np.float64], n_domains: int, seed: int) -> NDArray[np.int64]:
    return _fit_mixture(values, n_domains, seed, _N_TRIES).predict(values)


def _criterion(scores: NDArray[np.float64], domains: NDArray[np.int64]) -> float:
    """Return the Bayesian information criterion of normal components around the mean of their domain.

    The components are those before smoothing: their noise is white, so that every spot is an observation.
    """
    n_spots, n_components = scores.shape
    residuals = _deviations(scores, domains)
    log_determinant = np.linalg.slogdet(residuals.T @ residuals / n_spots)[1]
    return float(n_spots * log_determinant + len(np.unique(domains)) * n_components * np.log(n_spots))
