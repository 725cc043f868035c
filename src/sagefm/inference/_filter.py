"""Smoothing over a section: each component as much as its own spatial covariance says.

A component of a section is modelled as ``P = f + e`` with white noise e and a smooth signal f on the graph of nearest
spots, whose Laplacian is L:

    Cov P = v [share s(L) + (1 - share) I],    s(w) = (1 + range w)^-2 / mean over the eigenvalues of L

`range` and `share` maximize the marginal likelihood, and the posterior mean of f (a Wiener filter on the graph) is
``share s(L) [share s(L) + (1 - share) I]^-1 P``. Neither needs eigenvectors: quadratic forms and log-determinants are
Gauss quadratures by Lanczos steps (Golub and Meurant 2010), and the filter is a Chebyshev polynomial in L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.polynomial import chebyshev
from scipy import sparse
from scipy.linalg import eigh_tridiagonal
from scipy.optimize import minimize
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Neighbors of a spot, and by how much farther than the last of them a spot may be to count as one, too: four of the
#: eight around a spot of a square array are at the same distance.
_N_NEIGHBORS: Final = 6
_TIES: Final = 1.1
#: Bounds of range and share, and the grid that their search begins with.
_RANGES: Final = (1.0, 3000.0)
_SHARES: Final = (0.02, 0.97)
_N_GRID: Final = 16
#: Exponent of the covariance.
_POWER: Final = 2
#: Steps of a quadrature; below so many spots all eigenvalues are computed, above them so many random numbers drawn.
_N_STEPS: Final = 60
_MAX_EXACT: Final = 800
_N_RANDOM: Final = 200_000
#: Largest degree of the polynomial, and the sum of its coefficients that are left out.
_MAX_DEGREE: Final = 600
_TOLERANCE: Final = 1e-6


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues with weights that sum to one: of a matrix, or as seen from a vector (n_vectors, n_nodes)."""

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """Spatial covariance of each component (n_components,).

    Attributes
    ----------
    ranges
        Range in s(w) = (1 + range w)^-2: its root is a length in distances between neighboring spots, roughly.
    shares
        Share of the variance that is spatial.
    variances
        Variance v.
    scales
        Mean of (1 + range w)^-2 over the eigenvalues.
    """

    ranges: NDArray[np.float64]
    shares: NDArray[np.float64]
    variances: NDArray[np.float64]
    scales: NDArray[np.float64]


def nearest_graph(coordinates: NDArray[np.float64], sections: NDArray[np.int64]) -> sparse.csr_matrix:
    """Return ones between each spot and its 6 nearest of its section, and those as near (n_spots, n_spots), symmetric."""
    n_spots = len(coordinates)
    graph = sparse.csr_matrix((n_spots, n_spots))
    for code in np.unique(sections):
        rows = np.flatnonzero(sections == code)
        n_nearest = min(_N_NEIGHBORS, len(rows) - 1)
        distances, nearest = cKDTree(coordinates[rows]).query(coordinates[rows], k=min(2 * n_nearest + 1, len(rows)))
        is_near = distances <= _TIES * distances[:, n_nearest, None]
        pairs = np.repeat(rows, is_near.sum(axis=1)), rows[nearest[is_near]]
        graph += sparse.csr_matrix((np.ones(len(pairs[0])), pairs), shape=graph.shape)
    return symmetric(graph)


def symmetric(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a graph with ones in both directions of each edge, without the diagonal."""
    both = sparse.csr_matrix(((graph + graph.T) != 0), dtype=np.float64)
    both.setdiag(0)
    both.eliminate_zeros()
    return both


def laplacian(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the Laplacian of a symmetric graph over its mean number of neighbors."""
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    return sparse.csr_matrix((sparse.diags_array(degrees) - graph) / max(degrees.mean(), 1.0))


def fit_filter(operator: sparse.csr_matrix, components: NDArray[np.float64], rng: np.random.Generator) -> Fit:
    """Return range and share of each component (n_spots, n_components) of largest marginal likelihood.

    `operator` is the Laplacian.
    """
    all_values, own = spectrum(operator, rng), spectra(operator, components)
    power = (components**2).mean(axis=0)
    fits = np.array([_fit_one(all_values, own.nodes[k], power[k] * own.weights[k]) for k in range(len(power))])
    return Fit(*fits.T)


def smooth(operator: sparse.csr_matrix, components: NDArray[np.float64], fit: Fit) -> NDArray[np.float64]:
    """Return the posterior mean of the signal of each component (n_spots, n_components)."""
    top = _largest_eigenvalue(operator)

    def gains(x: NDArray[np.float64]) -> NDArray[np.float64]:
        signal = fit.shares * _decay((x[:, None] + 1) * top / 2, fit.ranges) / fit.scales
        return signal / (signal + 1 - fit.shares)

    points = np.cos(np.pi * (np.arange(_MAX_DEGREE + 1) + 0.5) / (_MAX_DEGREE + 1))
    coefficients = 2 / len(points) * chebyshev.chebvander(points, _MAX_DEGREE).T @ gains(points)
    coefficients[0] /= 2
    # Coefficients decrease: a component is done where the rest of them do not count.
    rest = np.cumsum(np.abs(coefficients[::-1]), axis=0)[::-1]
    degrees = (rest > _TOLERANCE).sum(axis=0)
    order = np.argsort(-degrees, kind="stable")
    result = np.empty_like(components)
    result[:, order] = _chebyshev(operator * (2 / top), components[:, order], coefficients[:, order], degrees[order])
    return result


def spectrum(operator: sparse.csr_matrix, rng: np.random.Generator) -> Spectrum:
    """Return the eigenvalues of a matrix, or an estimate of their density from random vectors; weights sum to 1."""
    n_spots = operator.shape[0]
    if n_spots <= _MAX_EXACT:
        return Spectrum(np.linalg.eigvalsh(operator.toarray()).clip(0), np.full(n_spots, 1 / n_spots))
    n_vectors = -(-_N_RANDOM // n_spots)
    estimate = spectra(operator, rng.choice([-1.0, 1.0], (n_spots, n_vectors)))
    return Spectrum(estimate.nodes.ravel(), estimate.weights.ravel() / n_vectors)


def spectra(operator: sparse.csr_matrix, vectors: NDArray[np.float64]) -> Spectrum:
    """Return nodes and weights with ``v^T g(L) v = |v|^2 sum weights g(nodes)`` of each column v, by Lanczos steps."""
    n_steps = min(_N_STEPS, len(vectors))
    # The first step has no step before it: the last row of `beside` is still zero then.
    diagonal, beside = np.zeros((2, n_steps, vectors.shape[1]))
    current = _unit(vectors, np.linalg.norm(vectors, axis=0))
    previous = np.zeros_like(current)
    for i in range(n_steps):
        following = operator @ current - beside[i - 1] * previous
        diagonal[i] = np.einsum("ij,ij->j", current, following)
        following -= diagonal[i] * current
        beside[i] = np.linalg.norm(following, axis=0)
        previous, current = current, _unit(following, beside[i])
    nodes, weights = np.empty((2, vectors.shape[1], n_steps))
    for k in range(vectors.shape[1]):
        nodes[k], basis = eigh_tridiagonal(diagonal[:, k], beside[:-1, k])
        weights[k] = basis[0] ** 2
    return Spectrum(nodes.clip(0), weights)


def _unit(vectors: NDArray[np.float64], norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return vectors of length one; what is left of one that has ended is rounding, and becomes zero."""
    # The norm is set to zero, too, so that the recurrence falls apart there.
    norms[norms < 1e-10] = 0
    return vectors / np.where(norms > 0, norms, np.inf)


def _decay(eigenvalues: NDArray[np.float64], ranges: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return (1 + ranges * eigenvalues) ** -_POWER


def _fit_one(
    all_values: Spectrum, nodes: NDArray[np.float64], power: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Return range, share, variance and scale of one component, of which `power` is the power at `nodes`."""

    def parts(log_range: float) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        decay = _decay(all_values.nodes, np.exp(log_range))
        scale = float(all_values.weights @ decay)
        return scale, decay / scale, _decay(nodes, np.exp(log_range)) / scale

    def deviance(log_range: float, share: float) -> float:
        _, signal, own = parts(log_range)
        log_determinant = all_values.weights @ np.log(share * signal + 1 - share)
        return float(np.log(power @ (1 / (share * own + 1 - share))) + log_determinant)

    if not power.sum() > 0:
        return 1.0, _SHARES[0], 0.0, parts(0.0)[0]
    bounds = [(float(np.log(_RANGES[0])), float(np.log(_RANGES[1]))), _SHARES]
    log_ranges, shares = (np.linspace(low, high, _N_GRID) for low, high in bounds)
    grid = [(log_range, share) for log_range in log_ranges for share in shares]
    start = min(grid, key=lambda point: deviance(*point))
    # Without derivatives, and to the last digits: the result must not depend on the order of sums.
    options = {"xatol": 1e-7, "fatol": 1e-12}
    best = minimize(lambda point: deviance(*point), start, bounds=bounds, method="Nelder-Mead", options=options).x
    log_range, share = (float(x) for x in best)
    scale, _, own = parts(log_range)
    variance = float(power @ (1 / (share * own + 1 - share)))
    return float(np.exp(log_range)), share, variance, scale


def _largest_eigenvalue(operator: sparse.csr_matrix) -> float:
    """Return a bound on the eigenvalues: the largest sum of the absolute values of a row (Gershgorin)."""
    return float(max(abs(operator).sum(axis=1).max(), 1e-12))


def _chebyshev(
    scaled: sparse.csr_matrix,
    vectors: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    degrees: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return polynomials of ``scaled - I`` applied to vectors, of which later ones have lower degrees."""
    step = lambda x: scaled @ x - x
    before, last = vectors, step(vectors)
    result = coefficients[0] * before + coefficients[1] * last
    for i in range(2, degrees.max(initial=0)):
        n_left = int((degrees > i).sum())
        before, last = last[:, :n_left], 2 * step(last[:, :n_left]) - before[:, :n_left]
        result[:, :n_left] += coefficients[i, :n_left] * last
    return result
