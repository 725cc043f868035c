"""The filter against eigenvectors, the likelihood against a dense normal density, components against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

import sagefm
from sagefm.inference import _domains, _filter
from sagefm.inference._domains import count_components, find_domains
from sagefm.inference._filter import Fit, fit_filter, laplacian, nearest_graph, smooth, spectra, spectrum


def hexagonal(n_rows, n_columns):
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    return np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2])


def hexagonal_graph(n_rows, n_columns):
    return nearest_graph(hexagonal(n_rows, n_columns), np.zeros(n_rows * n_columns, int))


@pytest.fixture(scope="module")
def operator():
    return laplacian(hexagonal_graph(15, 20))


@pytest.fixture(scope="module")
def signals(operator):
    """Components of known range and share, drawn with the eigenvectors (300, 3), and what they were drawn with."""
    values, vectors = np.linalg.eigh(operator.toarray())
    rng = np.random.default_rng(0)
    ranges, shares = np.array([3.0, 30.0, 100.0]), np.array([0.6, 0.8, 0.4])
    decay = (1 + ranges * values[:, None]) ** -2.0
    scales = decay.mean(axis=0)
    smooth_part = vectors @ (np.sqrt(shares * decay / scales) * rng.normal(size=(300, 3)))
    components = smooth_part + np.sqrt(1 - shares) * rng.normal(size=(300, 3))
    return components, Fit(ranges, shares, np.ones(3), scales)


# Graph


@pytest.mark.parametrize(("coordinates", "inner"), [(hexagonal(9, 9), 6), (np.indices((9, 9)).reshape(2, -1).T, 8)])
def test_graph_holds_whole_rings(coordinates, inner):
    """Six on a hexagonal array; on a square one the diagonal spots, too, of which two are no nearer than the others."""
    graph = nearest_graph(coordinates.astype(float), np.zeros(81, int))
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().sum() == 0
    assert np.diff(graph.indptr)[40] == inner


def test_graph_of_moved_coordinates():
    coordinates = hexagonal(9, 9)
    turn = np.array([[np.cos(0.7), np.sin(0.7)], [np.sin(0.7), -np.cos(0.7)]])
    moved = nearest_graph(coordinates @ turn * 37 - 5, np.zeros(81, int))
    assert (hexagonal_graph(9, 9) != moved).nnz == 0


def test_laplacian(operator):
    np.testing.assert_allclose(operator @ np.ones(300), 0, atol=1e-12)
    assert operator.diagonal().mean() == pytest.approx(1)


# Quadratures


def test_quadrature_of_a_vector(operator, signals):
    components, _ = signals
    values, vectors = np.linalg.eigh(operator.toarray())
    seen = spectra(operator, components)
    for power in (-2.0, 1.0):
        expected = ((1 + 50 * values[:, None]) ** power * (vectors.T @ components) ** 2).sum(axis=0)
        found = (components**2).sum(axis=0) * (seen.weights * (1 + 50 * seen.nodes) ** power).sum(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_quadrature_ends_where_the_vectors_do():
    """A vector of few eigenvectors leaves nothing for further steps."""
    operator = sparse.csr_matrix(np.diag([0.0, 1.0, 2.0, 3.0]))
    seen = spectra(operator, np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose((seen.weights * np.exp(seen.nodes)).sum(axis=1), [(1 + np.e) / 2, np.e**3])


def test_density_of_random_vectors(monkeypatch):
    operator = laplacian(hexagonal_graph(20, 25))
    exact = spectrum(operator, np.random.default_rng(0))
    monkeypatch.setattr(_filter, "_MAX_EXACT", 0)
    random = spectrum(operator, np.random.default_rng(0))
    assert exact.weights.sum() == pytest.approx(1)
    assert random.weights.sum() == pytest.approx(1)
    for range_ in (1, 30, 300):
        logarithms = [part.weights @ np.log(0.5 * (1 + range_ * part.nodes) ** -2.0 + 0.5) for part in (exact, random)]
        assert logarithms[1] == pytest.approx(logarithms[0], rel=0.01)


# Likelihood and filter


def test_density_of_a_large_section_has_its_moments():
    """Random vectors are many enough that the mean square of the eigenvalues is right within a percent."""
    operator = laplacian(hexagonal_graph(36, 36))
    estimate = spectrum(operator, np.random.default_rng(0))
    square = (estimate.weights * estimate.nodes**2).sum()
    assert estimate.weights.sum() == pytest.approx(1)
    assert square == pytest.approx((operator.data**2).sum() / operator.shape[0], rel=0.01)


def test_fit_maximizes_the_likelihood_of_a_normal_density(operator, signals):
    """The density of scipy, at the fit and around it."""
    components, _ = signals
    fit = fit_filter(operator, components, np.random.default_rng(0))
    values, vectors = np.linalg.eigh(operator.toarray())

    def log_density(k, range_, share, variance):
        decay = (1 + range_ * values) ** -2.0
        covariance = variance * (vectors * (share * decay / decay.mean() + 1 - share)) @ vectors.T
        return multivariate_normal(cov=covariance).logpdf(components[:, k])

    for k in range(3):
        best = (fit.ranges[k], fit.shares[k], fit.variances[k])
        highest = log_density(k, *best)
        for i in range(3):
            for factor in (0.97, 1.03):
                other = list(best)
                other[i] *= factor
                assert log_density(k, *other) < highest


def test_fit_finds_what_was_drawn(operator, signals):
    components, truth = signals
    fit = fit_filter(operator, components, np.random.default_rng(0))
    np.testing.assert_allclose(fit.shares, truth.shares, atol=0.2)
    np.testing.assert_allclose(np.log(fit.ranges), np.log(truth.ranges), atol=1.1)


def test_filter_is_the_posterior_mean(operator, signals):
    components, fit = signals
    values, vectors = np.linalg.eigh(operator.toarray())
    signal = fit.shares * (1 + fit.ranges * values[:, None]) ** -2.0 / fit.scales
    expected = vectors @ (signal / (signal + 1 - fit.shares) * (vectors.T @ components))
    np.testing.assert_allclose(smooth(operator, components, fit), expected, atol=1e-5)


def test_white_noise_is_not_called_a_signal(operator):
    noise = np.random.default_rng(1).normal(size=(300, 20))
    fit = fit_filter(operator, noise, np.random.default_rng(0))
    smoothed = smooth(operator, noise, fit)
    assert np.median(smoothed.var(axis=0) / noise.var(axis=0)) < 0.05


# Components


def graph_of(adata, codes=None):
    codes = np.zeros(adata.n_obs, int) if codes is None else codes
    return nearest_graph(np.asarray(adata.obsm["spatial"], float), codes), codes


def dense_components(adata, graph, codes, n_components, n_genes=2000):
    """The components by their definition: scores, and the genes they are of."""
    counts = adata.X.toarray().astype(float)
    totals = counts.sum(axis=1, keepdims=True)
    u = np.log1p(5 * np.median(totals) * counts / totals)
    deviations = u - np.stack([u[codes == code].mean(axis=0) for code in np.unique(codes)])[codes]
    variances = (deviations**2).mean(axis=0)
    covariances = (deviations * (graph @ deviations)).sum(axis=0) / graph.nnz
    genes = np.sort(np.argsort(-covariances, kind="stable")[:n_genes])
    noise = np.maximum(variances - covariances.clip(0), 0.05 * variances)[genes]
    return PCA(n_components, svd_solver="full").fit_transform(deviations[:, genes] / np.sqrt(noise)), genes


def assert_same_components(scores, expected):
    signs = np.sign((scores * expected).sum(axis=0))
    np.testing.assert_allclose(scores * signs, expected, atol=1e-3 * np.abs(expected).max())


def test_components_by_their_definition(synovium):
    graph, codes = graph_of(synovium)
    found = count_components(synovium.X, graph, codes, 10, 0)
    expected, genes = dense_components(synovium, graph, codes, 10)
    assert len(np.setdiff1d(genes, found.columns)) <= 1  # float32 logarithms: the last place
    assert_same_components(found.scores, expected)
    assert (found.loadings.max(axis=1) == np.abs(found.loadings).max(axis=1)).all()


def test_components_of_sections_are_of_deviations(sections):
    """A gene that is higher in all of one section makes no component."""
    graph, codes = graph_of(sections, sections.obs["library"].cat.codes.to_numpy().astype(int))
    found = count_components(sections.X, graph, codes, 5, 0)
    assert_same_components(found.scores, dense_components(sections, graph, codes, 5)[0])
    for code in (0, 1):
        np.testing.assert_allclose(found.scores[codes == code].mean(axis=0), 0, atol=1e-6)


def test_components_of_a_sample(synovium, monkeypatch):
    """Of many spots, genes and loadings are those of some, and all are projected."""
    graph, codes = graph_of(synovium)
    exact = count_components(synovium.X, graph, codes, 3, 0)
    monkeypatch.setattr(_domains, "_MAX_SPOTS", 250)
    rows = _domains._sample(graph, 0)
    assert 100 < len(rows) < 250
    sampled = count_components(synovium.X, graph, codes, 3, 0)
    assert sampled.scores.shape == exact.scores.shape
    left = exact.scores - sampled.scores @ np.linalg.lstsq(sampled.scores, exact.scores)[0]
    assert (left.var() / exact.scores.var()) < 0.1


def test_spots_without_counts_are_at_the_mean(section):
    graph, codes = graph_of(section)
    counts = section.X.tolil()
    counts[[3, 77]] = 0
    found = count_components(counts.tocsr(), graph, codes, 5, 0)
    assert not found.scores[[3, 77]].any()
    np.testing.assert_allclose(found.scores.mean(axis=0), 0, atol=1e-6)


# Domains


def test_large_tables_give_what_small_ones_give(monkeypatch):
    """With the approximations of large tables in place of eigenvalues and of all spots."""
    adata = sagefm.datasets.simulate(600, n_genes=300, n_domains=3, rng=4)
    graph, codes = graph_of(adata)
    exact = find_domains(count_components(adata.X, graph, codes, 30, 0).scores, graph, codes, 3, 0)
    monkeypatch.setattr(_filter, "_MAX_EXACT", 0)
    monkeypatch.setattr(_domains, "_MAX_SPOTS", 500)
    approximate = find_domains(count_components(adata.X, graph, codes, 30, 0).scores, graph, codes, 3, 0)
    assert (exact.domains == approximate.domains).mean() > 0.99


@pytest.mark.parametrize("n_domains", [2, 4, 6])
def test_number_of_domains(n_domains):
    adata = sagefm.datasets.simulate(500, n_genes=300, n_domains=n_domains, rng=n_domains)
    graph, codes = graph_of(adata)
    found = find_domains(count_components(adata.X, graph, codes, 30, 0).scores, graph, codes, None, 0)
    assert found.domains.max() + 1 == n_domains
    assert list(found.criterion) == list(range(1, 16))


def test_least_number_of_nearly_the_largest_gain():
    assert _domains._choose({1: 100.0, 2: 40.0, 3: 4.0, 4: 0.0}) == 3
    assert _domains._choose({1: 0.0, 2: 3.0}) == 1
