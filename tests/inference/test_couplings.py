"""Couplings of a section against their definition, spot by spot, and what the method promises of its parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse, stats
from scipy.spatial.distance import cdist

import sagefm
from sagefm.data._genes import make_vocabulary
from sagefm.data._graph import get_neighbors
from sagefm.data._section import Section
from sagefm.data._table import TableKeys
from sagefm.data._turns import overlapping_turns
from sagefm.inference._couplings import Components, SectionFields, _leading_components
from sagefm.inference._couplings_table import SectionPairs, seen_genes
from tests import OTHER_KERNELS

#: The last of each covary at one spot, and so share what they have around it.
SOURCES, TARGETS = [3, 40, 77, 150, 122, 184], [8, 90, 201, 129, 197]


@pytest.fixture(scope="module")
def adata() -> AnnData:
    return sagefm.datasets.simulate(250, n_genes=240, n_effects=15, rng=3)


@pytest.fixture(scope="module")
def neighbors(adata: AnnData) -> sparse.csr_matrix:
    return get_neighbors(adata.copy(), TableKeys())


def fields_of(adata: AnnData, neighbors: sparse.csr_matrix, **arguments: object) -> SectionFields:
    folds = np.arange(adata.n_vars) % 4
    return SectionFields(adata.X.tocsc(), neighbors, adata.obsm["spatial"], folds, **arguments)


def columns(genes: list[int]) -> list[NDArray[np.int64]]:
    return [np.array([gene]) for gene in genes]


def test_scores_are_those_of_the_definition(adata: AnnData, neighbors: sparse.csr_matrix):
    """One pair at a time, with dense matrices and distances between all spots, in float64."""
    section = fields_of(adata, neighbors)
    scores = section.compare(section.of(columns(SOURCES)), section.of(columns(TARGETS)))
    assert float(scores.shared[4, 3]) > 0.2
    assert float(scores.shared[5, 4]) > 0.2
    n, x = adata.n_obs, adata.X.toarray().astype(float)
    around = neighbors.toarray() / neighbors.toarray().sum(axis=1, keepdims=True)
    depth = x.sum(axis=1)
    distance = cdist(adata.obsm["spatial"], adata.obsm["spatial"])
    pitch = np.sort(distance, axis=1)[:, 1].mean()
    of_pair = np.where(distance <= 6.4 * pitch, np.floor(distance / (pitch / 2) + 0.5), np.nan)
    np.fill_diagonal(of_pair, np.nan)
    n_regressors = 2 + np.mean([len(components.cosines) for components in section.components])

    def standardized(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return (values - values.mean()) / values.std()

    def residual(gene: int) -> NDArray[np.float64]:
        mean = depth * x[:, gene].sum() / depth.sum()
        dispersion = max(((x[:, gene] - mean) ** 2 - mean).sum() / (mean**2).sum(), 0)
        raw = np.arcsinh((x[:, gene] - mean) / np.sqrt(mean + dispersion * mean**2))
        components = section.components[gene % 4]
        raw = raw - components.basis @ (components.basis.T @ raw)
        return standardized(raw - components.scores @ ((components.scores.T @ raw) / components.cosines))

    def with_itself(gene: int) -> float:
        components = section.components[gene % 4]
        directions = np.hstack([components.basis, components.scores])
        lost = np.trace(directions.T @ around @ directions) / n
        center = residual(gene)
        return max(float((center * (around @ center)).mean()) + lost, 0)

    for i, source in enumerate(SOURCES):
        for j, target in enumerate(TARGETS):
            s, t = residual(source), residual(target)
            m, spread = standardized(around @ s), (around @ s).std()
            r, same_spot = (m * t).mean(), (s * t).mean()
            products = 0.0
            for k in np.unique(of_pair[np.isfinite(of_pair)]):
                row, column = np.nonzero(of_pair == k)
                products += len(row) * (m[row] * m[column]).mean() * (t[row] * t[column]).mean()
            variance = (m**2 * t**2).mean() / (n - n_regressors) + products / n**2
            sd = np.sqrt(max(variance, 0.5 / n) * (1 + same_spot**2))
            co_varying = np.sign(r) * same_spot - 0.5 * np.sqrt((1 + same_spot**2) / n)
            shared = min(max(co_varying, 0), np.sqrt(with_itself(source) * with_itself(target))) / spread
            expected = [r, shared, same_spot, sd, np.sign(r) * max(abs(r) - shared, 0) / sd]
            names = ("r", "shared", "same_spot", "sd", "z")
            found = [float(getattr(scores, name)[i, j]) for name in names]
            # Differences of float32 numbers of the order of 1.
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_complexes_count_as_their_least_abundant_subunit(adata: AnnData, neighbors: sparse.csr_matrix):
    counts = adata.X.toarray()
    joined = np.column_stack([counts, np.minimum(counts[:, 4], counts[:, 5])])
    folds = np.append(np.arange(adata.n_vars) % 4, 0)
    # The complex as a gene: depth and components are not its own, and have to be those of the genes.
    section = fields_of(adata, neighbors)
    other = fields_of(adata, neighbors)
    other.counts, other.folds = sparse.csc_matrix(joined), folds
    expected = other.of([np.array([adata.n_vars])])
    for name, values in vars(section.of([np.array([4, 5])])).items():
        np.testing.assert_allclose(values, getattr(expected, name), **OTHER_KERNELS)


def test_angles_of_components_are_those_of_spiked_matrices():
    rng = np.random.default_rng(0)
    for shape in ((400, 900), (900, 400)):
        spots = np.linalg.qr(rng.standard_normal((shape[0], 3)))[0]
        genes = np.linalg.qr(rng.standard_normal((shape[1], 3)))[0]
        signal = spots * np.array([5.0, 3.0, 2.0]) @ genes.T * np.sqrt(max(shape))
        noisy = signal + rng.standard_normal(shape)
        scores, cosines = _leading_components((noisy / noisy.std(axis=0)).astype(np.float32), 20)
        assert scores.shape == (shape[0], 3)
        # Each true component, and how much of it its estimate holds; sampling error is of the order of 1 / sqrt(n).
        np.testing.assert_allclose(((spots.T @ scores) ** 2).max(axis=1), cosines, atol=0.06)


def test_noise_has_no_components():
    noise = np.random.default_rng(1).standard_normal((500, 800)).astype(np.float32)
    scores, cosines = _leading_components(noise, 20)
    assert scores.shape == (500, 0)
    assert cosines.shape == (0,)


def test_adjustment_takes_all_of_a_component_that_is_known_with_noise():
    """A plain regression leaves the share 1 - cosine of what two genes have in common."""
    rng = np.random.default_rng(2)
    n = 4000
    truth, noise = rng.standard_normal((2, n))
    score = np.sqrt(0.7) * truth + np.sqrt(0.3) * noise
    basis = np.full((n, 1), 1 / np.sqrt(n), np.float32)
    scores = (score / np.linalg.norm(score)).astype(np.float32)[:, None]
    genes = (truth[:, None] + rng.standard_normal((n, 2))).astype(np.float32)
    exact = Components(basis, scores, np.array([0.7], np.float32)).adjust(genes)
    plain = Components(basis, scores, np.array([1.0], np.float32)).adjust(genes)
    left = [truth @ values[:, 0] / n for values in (exact, plain)]
    # Sampling error 1.4 / sqrt(4000) = .02
    assert abs(left[0]) < 0.1
    assert left[1] == pytest.approx(0.3, abs=0.1)


def test_what_is_lost_of_white_noise_is_given_back(adata: AnnData, neighbors: sparse.csr_matrix):
    """Removing smooth components makes noise covary negatively with its neighbors; `own` is free of that."""
    section = fields_of(adata, neighbors)
    components = section.components[0]
    noise = np.random.default_rng(3).standard_normal((adata.n_obs, 4000)).astype(np.float32)
    adjusted = noise - components.basis @ (components.basis.T @ noise)
    adjusted -= components.scores @ (components.scores.T @ adjusted)
    own = (adjusted * (section.operator @ adjusted)).mean(axis=0)
    # The mean of 4,000 genes, each with a standard deviation of about 1 / sqrt(14 x 250).
    assert own.mean() + components.lost(section.operator) == pytest.approx(0, abs=1e-3)
    assert components.lost(section.operator) > 5e-3


def test_expected_counts_of_the_section_are_the_default(adata: AnnData, neighbors: sparse.csr_matrix):
    x = adata.X.toarray()
    expected = (x.sum(axis=1, keepdims=True) * x.sum(axis=0) / x.sum()).astype(np.float32)
    plain, given = (fields_of(adata, neighbors, expected=values) for values in (None, expected))
    a, b = (section.compare(section.of(columns(SOURCES)), section.of(columns(TARGETS))).z for section in (plain, given))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_read_at_the_spot_itself(adata: AnnData, neighbors: sparse.csr_matrix):
    """Co-expression has no direction, and nothing is taken off."""
    section = fields_of(adata, neighbors)
    genes = section.of(columns(SOURCES))
    scores = section.compare(genes, genes, same_spot=True)
    np.testing.assert_allclose(scores.r, scores.same_spot, **OTHER_KERNELS)
    np.testing.assert_allclose(scores.z, scores.z.T, rtol=1e-3, atol=1e-3)
    assert float(scores.shared.max()) == 0
    assert torch.all(scores.r.diagonal() > 0.999)


def test_turned_tissue_lies_on_itself():
    x, y = np.meshgrid(np.arange(12.0), np.arange(12.0))
    square = np.column_stack([x.ravel(), y.ravel()])
    turned = overlapping_turns(square)
    assert len(turned) == 7
    for spots, moved in turned:
        assert len(spots) == len(set(moved.tolist())) == 144
    # A narrow strip beside a block: most turns leave too little overlap.
    shape = square[(square[:, 0] < 2) | ((square[:, 1] < 2) & (square[:, 0] < 12))]
    assert len(overlapping_turns(shape)) < 7


def test_type_one_error_of_genes_without_relation():
    """Sources and targets that nothing relates, in a section with domains; of 6,400 pairs that share genes."""
    adata = sagefm.datasets.simulate(600, n_genes=600, decoys=("absent", "domain"), n_decoys=40, n_effects=0, rng=4)
    truth = adata.uns["truth"]
    section = fields_of(adata, get_neighbors(adata, TableKeys()))
    sources, targets = (columns(adata.var_names.get_indexer(truth[side]).tolist()) for side in ("source", "target"))
    pval = 2 * stats.norm.sf(section.compare(section.of(sources), section.of(targets)).z.abs().numpy())
    assert 0.02 < (pval < 0.05).mean() < 0.07
    assert (pval < 0.001).mean() < 0.004


def test_genes_that_are_not_seen_are_not_tested_and_p_values_are_two_sided():
    adata = sagefm.datasets.simulate(250, n_genes=60, n_effects=5, rng=3)
    adata.X = sparse.csr_matrix(adata.X.multiply(np.arange(60) % 6 > 0))
    names = adata.var_names.to_numpy()
    sagefm.tl.regulatory_network(adata, names[:5].tolist(), names[5:12].tolist())
    edges = adata.uns["sagefm_network"]["edges"]
    assert set(edges["source"]) == set(names[1:5])
    assert set(edges["target"]) == {*names[7:12], names[5]}
    assert len(edges) == 4 * 6
    # The square of a standard normal z has a chi-squared distribution.
    np.testing.assert_allclose(edges["pval"], stats.chi2.sf(edges["z"] ** 2, 1), rtol=1e-6)


def test_only_genes_that_enough_spots_show_are_tested():
    """At least 5 % of them: 5 spots of 100, 6 of 101."""
    vocabulary = make_vocabulary(pd.Index(["A", "B"]))
    for n_spots, kept in ((100, ["A"]), (101, [])):
        counts = np.zeros((n_spots, 2), np.float32)
        counts[:5, 0] = counts[:4, 1] = 1
        empty = sparse.csr_matrix((n_spots, n_spots))
        section = Section(sparse.csr_matrix(counts), np.arange(2), empty, np.arange(n_spots), np.zeros((n_spots, 2)))
        assert list(seen_genes([section], vocabulary).names) == kept


def test_of_one_pair_that_is_significant_at_all_levels_all_pairs_are():
    share = SectionPairs._share_below(torch.tensor([[12.0]]), np.ones((1, 1), dtype=bool))
    np.testing.assert_array_equal(share, 1)
