"""Domains of a section, or of several: components of the counts, each smoothed as far as it is smooth, and a mixture."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, svds
from scipy.stats import median_abs_deviation

from sagefm._progress import ProgressBar
from sagefm.data._blocks import iter_blocks, take_columns, take_rows, to_memory
from sagefm.data._counts import log_normalize
from sagefm.inference._filter import fit_filter, laplacian, smooth

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.mixture import GaussianMixture

    from sagefm.data._blocks import StoredMatrix
    from sagefm.inference._filter import Fit

#: Counts that every spot is scaled to before the logarithm, in median counts of a spot.
_SCALE: Final = 5.0
#: Genes of largest spatial covariance, which components are made of, and the least share of a gene's variance that
#: counts as noise.
_N_GENES: Final = 2000
_LEAST_NOISE: Final = 0.05
#: Pairs of neighbors that are multiplied at a time.
_BLOCK_PAIRS: Final = 4096
#: Principal components that are smoothed, and those of the smoothed ones that domains are found in.
N_COMPONENTS: Final = 30
N_SMOOTHED: Final = 12
#: Spots that loadings and mixtures are fitted on, where there are more.
_MAX_SPOTS: Final = 20_000
#: Robust standard deviations beyond which a value counts as no farther out, for the number of domains.
_MAX_DEVIATION: Final = 5.0
#: Least number of spots for each component and each domain, where the number of domains is chosen.
_SPOTS_PER_COMPONENT: Final = 4
_SPOTS_PER_DOMAIN: Final = 7
#: Largest number of domains that is tried, and initializations for each number and of the mixture that is kept.
_MAX_DOMAINS: Final = 15
_N_TRIES: Final = 3
#: Share of the largest gain in the criterion that is enough: within domains of tissue expression changes, too.
_ENOUGH: Final = 0.95
_N_INIT: Final = 10


@dataclass(frozen=True)
class Components:
    """Principal components of deviations from each section's mean.

    Attributes
    ----------
    scores
        One row a spot (n_spots, n_components), mean 0 in every section.
    loadings
        One row a component (n_components, n_columns); the largest of each is positive.
    columns
        Genes of the table, or columns of the embedding, that the loadings are of (n_columns,).
    """

    scores: NDArray[np.float64]
    loadings: NDArray[np.float64]
    columns: NDArray[np.int64]


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
        Spatial covariance of the components in each section.
    criterion
        Criterion of each number of domains that was tried, smallest for the best.
    """

    domains: NDArray[np.int64]
    probability: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    fits: list[Fit]
    criterion: dict[int, float]


def count_components(
    counts: sparse.csr_matrix | StoredMatrix,
    graph: sparse.csr_matrix,
    sections: NDArray[np.int64],
    n_components: int,
    seed: int,
) -> Components:
    """Return components of counts on the graph of neighbors; `sections` is the code of each spot's section (n_spots,).

    Of ``u = log(1 + 5 median(total) x / total)``, the 2,000 genes of largest covariance between neighbors, each over
    the standard deviation of what neighbors do not share. Of many spots, genes and loadings are those of a sample. A
    spot without counts is at the mean of its section.
    """
    rows = _sample(graph, seed)
    sample = to_memory(take_rows(counts, rows))
    totals = _totals(sample)
    rows, sample, totals = rows[totals > 0], sample[totals > 0], totals[totals > 0]
    alike = Components(np.zeros((counts.shape[0], 1)), np.zeros((1, 0)), np.zeros(0, dtype=np.int64))
    if not len(totals):
        return alike
    scale = _SCALE * float(np.median(totals))
    logarithms = log_normalize(sample, scale).astype(np.float64)
    covariances, variances = _gene_covariances(logarithms, graph[rows][:, rows], sections[rows])
    genes = np.argsort(-covariances, kind="stable")[:_N_GENES]
    genes = np.sort(genes[variances[genes] > 0])
    if not len(genes):
        return alike
    noise = np.maximum(variances - covariances.clip(0), _LEAST_NOISE * variances)[genes]
    scaled = sparse.csr_matrix(logarithms[:, genes] @ sparse.diags_array(noise**-0.5))
    loadings = _loadings(scaled, sections[rows], n_components)

    projected, has_counts = np.zeros((counts.shape[0], len(loadings))), np.zeros(counts.shape[0], dtype=bool)
    for block_rows, block in iter_blocks(counts):
        totals = _totals(block)
        has_counts[block_rows] = totals > 0
        block = log_normalize(take_columns(block, genes), scale, totals.astype(np.float32))
        projected[block_rows] = block.astype(np.float64) @ (loadings * noise**-0.5).T
    scores = np.zeros_like(projected)
    scores[has_counts] = _deviations(projected[has_counts], sections[has_counts])
    return Components(scores, loadings, genes)


def embedding_components(values: NDArray[np.float64], sections: NDArray[np.int64], n_components: int) -> Components:
    """Return components of an embedding (n_spots, n_latent)."""
    deviations = _deviations(values, sections)
    loadings = _principal_axes(deviations, n_components)
    return Components(deviations @ loadings.T, loadings, np.arange(values.shape[1]))


def find_domains(
    scores: NDArray[np.float64],
    graph: sparse.csr_matrix,
    sections: NDArray[np.int64],
    n_domains: int | None,
    seed: int,
    *,
    progress: bool = False,
) -> Domains:
    """Return domains of components (n_spots, n_components); if `n_domains` is None, all numbers up to 15 are tried."""
    # In an order that is the same however the table is ordered: random numbers go to the same spots.
    order = np.argsort(scores[:, 0], kind="stable")
    smoothed, fits = np.empty_like(scores), []
    n_sections = int(sections.max()) + 1
    with ProgressBar("domains: smoothing", n_sections, "section", progress=progress) as bar:
        for code in range(n_sections):
            rows = order[sections[order] == code]
            operator, own = laplacian(graph[rows][:, rows]), scores[rows]
            fits.append(fit_filter(operator, own, np.random.default_rng(seed)))
            smoothed[rows] = smooth(operator, own, fits[-1])
            bar.update()
    values = smoothed @ _principal_axes(smoothed, N_SMOOTHED).T
    values /= np.sqrt(values.var(axis=0).mean())

    sample = order
    if len(order) > _MAX_SPOTS:
        sample = order[np.random.default_rng(seed).choice(len(order), _MAX_SPOTS, replace=False)]
    criterion = {}
    if n_domains is None:
        observed = _clipped(scores[sample, : len(sample) // _SPOTS_PER_COMPONENT])
        largest = min(_MAX_DOMAINS, len(sample) // _SPOTS_PER_DOMAIN)
        with ProgressBar("domains: choosing their number", largest, "number", progress=progress) as bar:
            for n in range(1, largest + 1):
                partition = _fit_mixture(values[sample], n, seed, _N_TRIES).predict(values[sample])
                criterion[n] = _criterion(observed, partition)
                bar.update()
        n_domains = _choose(criterion)
    with ProgressBar(f"domains: finding {n_domains} domains", progress=progress):
        mixture = _fit_mixture(values[sample], n_domains, seed, _N_INIT)
        probabilities = mixture.predict_proba(values)
    domains = probabilities.argmax(axis=1)
    rank = np.argsort(np.argsort(-np.bincount(domains, minlength=n_domains), kind="stable"))
    return Domains(rank[domains], probabilities.max(axis=1), values, fits, criterion)


def _sample(graph: sparse.csr_matrix, seed: int) -> NDArray[np.int64]:
    """Return all spots, or where they are too many, some at random with their neighbors, increasing."""
    n_spots = graph.shape[0]
    if n_spots <= _MAX_SPOTS:
        return np.arange(n_spots)
    n_centers = max(int(_MAX_SPOTS / (1 + graph.nnz / n_spots)), 1)
    centers = np.random.default_rng(seed).choice(n_spots, n_centers, replace=False)
    return np.unique(np.concatenate([centers, graph[centers].indices]))


def _totals(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def _gene_covariances(
    values: sparse.csr_matrix, graph: sparse.csr_matrix, sections: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the covariance of neighbors and the variance of each gene (n_genes,), of deviations from sections' means."""
    means, sizes = _means(values, sections), np.bincount(sections)
    squares = np.asarray(values.multiply(values).sum(axis=0)).ravel()
    variances = (squares - sizes @ means**2) / max(len(sections), 1)
    first, second = sparse.triu(graph).nonzero()
    products = np.zeros(values.shape[1])
    for start in range(0, len(first), _BLOCK_PAIRS):
        pairs = slice(start, start + _BLOCK_PAIRS)
        products += np.asarray(values[first[pairs]].multiply(values[second[pairs]]).sum(axis=0)).ravel()
    # Each pair subtracts the mean from both of its ends.
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    at_ends = (_members(sections).T @ sparse.diags_array(degrees) @ values).toarray()
    n_pairs = np.bincount(sections, weights=degrees) / 2
    covariances = (products - (means * at_ends).sum(axis=0) + n_pairs @ means**2) / max(len(first), 1)
    return covariances, variances


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


def _fit_mixture(values: NDArray[np.float64], n_domains: int, seed: int, n_init: int) -> GaussianMixture:
    """Return a Gaussian mixture with one covariance for all domains, the best of several initializations."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(n_domains, covariance_type="tied", n_init=n_init, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(values)


def _clipped(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return components without far outliers: a few spots alone are no domain."""
    center = np.median(scores, axis=0)
    limits = _MAX_DEVIATION * median_abs_deviation(scores, axis=0, scale="normal")
    return (scores - center).clip(-limits, limits)[:, limits > 0]


def _choose(criterion: dict[int, float]) -> int:
    """Return the least number of domains whose gain over one domain is nearly the largest."""
    largest = criterion[1] - min(criterion.values())
    return min(n for n, value in criterion.items() if criterion[1] - value >= _ENOUGH * largest)


def _criterion(scores: NDArray[np.float64], domains: NDArray[np.int64]) -> float:
    """Return the Bayesian information criterion of normal components around the mean of their domain.

    The components are those before smoothing: their noise is white, so that every spot is an observation.
    """
    n_spots, n_components = scores.shape
    residuals = _deviations(scores, domains)
    log_determinant = np.linalg.slogdet(residuals.T @ residuals / n_spots)[1]
    return float(n_spots * log_determinant + len(np.unique(domains)) * n_components * np.log(n_spots))
