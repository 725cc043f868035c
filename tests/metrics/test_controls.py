"""Controls read no hidden count, and find what is there."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from dask import array as da
from scipy import sparse
from sklearn.decomposition import PCA
from tests.benchmarks._evaluation._predictors import Profile, with_neighbors

import sagefm
from sagefm.checkpoint._resolve import resolve_model
from sagefm.data._genes import assign_folds
from sagefm.errors import ArgumentError, CoordinatesError, CountsError, GenesError, MissingKeyError, NeighborsError
from sagefm.metrics import controls, fit_components, pooled_d2
from sagefm.metrics._controls import PREDICTORS, make_predictors, split_spots
from sagefm.metrics._predictors import Components, SectionCounts

N_FOLDS = 3
CENTER = 17


@pytest.fixture(scope="module")
def tissue():
    """Counts (400, 150) of four factors, one of them a gradient in space, and a ring of neighbors on each side."""
    rng = np.random.default_rng(0)
    weights = rng.gamma(0.5, size=(400, 4))
    weights[:, 0] = 2 * (1 + np.sin(np.arange(400) / 30))
    rates = weights @ rng.gamma(0.3, size=(4, 150)) * rng.gamma(5, 0.4, size=(400, 1))
    neighbors = sum(sparse.eye_array(400, k=k) for k in (-3, -2, -1, 1, 2, 3))
    return sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), sparse.csr_matrix(neighbors)


@pytest.fixture
def adata(tissue):
    """The same as a table; ``neighbors_key="ring"``."""
    counts, neighbors = tissue
    coordinates = np.column_stack([np.arange(400.0), np.zeros(400)])
    adata = ad.AnnData(counts.copy(), obsp={"ring_connectivities": neighbors}, obsm={"spatial": coordinates})
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    return adata


def rates_of(counts, neighbors, n_hidden, folds, components=None):
    """Return the rates (n_genes,) that each predictor gives CENTER; those of the report are among them."""
    section = SectionCounts(counts, neighbors)
    train = np.setdiff1d(np.arange(counts.shape[0]), [CENTER])
    predictors = make_predictors(section, train, PREDICTORS, n_components=4, ridge=1.0, components=components)
    predictors["pca_around"] = with_neighbors(predictors["pca"], section, train)
    predictors["profile"] = Profile(np.linspace(1, 2, 150))
    rates = {name: np.empty(counts.shape[1]) for name in ("null", *predictors)}
    for view, hidden in section.views(np.array([CENTER]), folds, n_hidden):
        np.testing.assert_array_equal(hidden[0], counts[CENTER].toarray()[0, view.wanted])
        rates["null"][view.wanted] = view.null[0]
        for name, predict in predictors.items():
            rates[name][view.wanted] = (view.null * predict(view))[0]
    return rates


@pytest.mark.parametrize("source", ["section", "corpus"])
@pytest.mark.parametrize("n_hidden", [1, 2])
def test_no_hidden_count_is_read(tissue, n_hidden, source):
    counts, neighbors = tissue
    folds = assign_folds(np.arange(150), 150, N_FOLDS, 0)
    components = fit_components([counts[200:]], 4) if source == "corpus" else None
    before = rates_of(counts, neighbors, n_hidden, folds, components)
    changed = counts.toarray()
    hidden = (folds - 1) % N_FOLDS < n_hidden
    changed[CENTER, hidden] = np.random.default_rng(1).poisson(20, hidden.sum())
    after = rates_of(sparse.csr_matrix(changed), neighbors, n_hidden, folds, components)
    for name in before:
        np.testing.assert_allclose(after[name][folds == 1], before[name][folds == 1], rtol=1e-6, err_msg=name)
        assert not np.allclose(after[name][folds == 0], before[name][folds == 0], rtol=1e-3)


def test_where_all_is_hidden_the_neighborhood_and_depth_remain(tissue):
    counts, neighbors = tissue
    folds = assign_folds(np.arange(150), 150, N_FOLDS, 0)
    before = rates_of(counts, neighbors, N_FOLDS, folds)
    for name in ("pca", "factors"):
        np.testing.assert_allclose(before[name], before["null"], rtol=1e-5)
    # The same depth, of other genes.
    shuffled = counts.toarray()
    shuffled[CENTER] = np.random.default_rng(0).permutation(shuffled[CENTER])
    after = rates_of(sparse.csr_matrix(shuffled), neighbors, N_FOLDS, folds)
    doubled = counts.toarray()
    doubled[CENTER] *= 2
    twice = rates_of(sparse.csr_matrix(doubled), neighbors, N_FOLDS, folds)
    for name, rates in before.items():
        # The size factor is over the profile of the others, which no count of the spot enters.
        np.testing.assert_allclose(after[name], rates, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(twice[name], 2 * rates, rtol=1e-5, err_msg=name)
    around = counts.toarray()
    around[CENTER + 1] = around[CENTER + 1, ::-1]
    moved = rates_of(sparse.csr_matrix(around), neighbors, N_FOLDS, folds)
    for name in ("neighborhood", "pca_around"):
        assert not np.allclose(moved[name], before[name], rtol=1e-3)


def test_components_about_a_prior_mean(tissue):
    """``(L L' + ridge)^-1 (L d + ridge m)``, once from its definition."""
    section, train = SectionCounts(*tissue), np.arange(400)
    around = with_neighbors(Components(fit_components([tissue[0]], 3), 2.0), section, train)
    view, _ = next(section.views(train, np.arange(150) % N_FOLDS, 1))
    loadings = around.loadings[:, view.shown]
    u = np.log1p(view.counts[:, view.shown] * (1e4 / view.depth)) - view.mean[:, view.shown]
    target = loadings @ u.T + 2.0 * around.prior_mean.T
    expected = np.linalg.solve(loadings @ loadings.T + 2.0 * np.eye(3), target).T
    np.testing.assert_allclose(around.scores(view), expected, rtol=1e-9, atol=1e-12)


def test_controls_find_structure(adata):
    arguments = {"neighbors_key": "ring", "predictors": PREDICTORS, "n_components": 4, "ridge": 1.0, "n_folds": N_FOLDS}
    tables = controls(adata, **arguments)
    assert list(tables) == list(PREDICTORS)
    for name in ("pca", "factors"):
        assert tables[name]["r"].median() > 0.3
        assert list(tables[name].index) == list(adata.var_names)
    assert pooled_d2(tables["factors"]) > 0.3
    assert pooled_d2(tables["neighborhood"]) > 0.01
    blind = controls(adata, n_hidden=N_FOLDS, **arguments)
    assert pooled_d2(blind["pca"]) == 0
    assert blind["pca"]["r"].isna().all()
    assert blind["neighborhood"]["r"].median() > 0.05


def test_splits_are_a_partition():
    splits = split_spots(50, rng=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in splits])), np.arange(50))
    assert not any(np.intersect1d(train, test).size for train, test in splits)


def test_spots_as_positions_and_as_masks(adata):
    (train, test), *_ = split_spots(400)
    expected = controls(adata, train=train, test=test, neighbors_key="ring")
    masks = {"train": np.isin(np.arange(400), train), "test": np.isin(np.arange(400), test)}
    shuffled = {"train": train, "test": np.random.default_rng(0).permutation(test).tolist()}
    for spots in (masks, shuffled):
        tables = controls(adata, neighbors_key="ring", **spots)
        assert list(tables) == ["neighborhood", "pca"]
        for name, table in tables.items():
            pd.testing.assert_frame_equal(table, expected[name])
    assert not expected["pca"].equals(controls(adata, neighbors_key="ring")["pca"])


# Beside a model


@pytest.fixture(scope="module")
def imputed():
    """A section with genes that the bundled model does not know, imputed by it."""
    adata = sagefm.datasets.synovium()
    counted = np.asarray((adata.X > 0).mean(axis=0)).ravel()
    adata = adata[:, counted > 0.3].copy()
    adata.var_names = [f"unknown{i}" if i % 7 == 0 else name for i, name in enumerate(adata.var_names)]
    with pytest.warns(UserWarning, match="Found 726 of the 12,121 genes"):
        sagefm.tl.impute(adata, progress=False)
    return adata


def test_values_at_a_common_depth_are_refused(section, default):
    sagefm.tl.impute(section, default, target_sum=1000, progress=False)
    with pytest.raises(ArgumentError, match="1000 counts a spot"):
        controls(section, predicted="sagefm_imputed")


@pytest.mark.filterwarnings("ignore:Found 726 of the 12,121 genes:UserWarning")
def test_folds_and_null_are_those_of_impute(imputed):
    """With the vocabulary of the model, `r` of its predictions is what ``tl.impute`` wrote."""
    vocabulary = resolve_model("default").vocabulary.symbols
    tables = controls(imputed, predicted="sagefm_imputed", vocabulary=vocabulary, n_components=5)
    is_known = imputed.var["sagefm_imputed"]
    assert 0 < is_known.sum() < imputed.n_vars
    for column, key in (("r", "sagefm_imputed_r"), ("qval", "sagefm_imputed_q")):
        np.testing.assert_allclose(tables["predicted"][column], imputed.var[key], rtol=1e-4, atol=1e-5)
    # Genes that the model does not know are no part of depth and profile.
    for table in tables.values():
        assert table["r"].notna().equals(is_known.rename("r"))
    other = controls(imputed, predicted="sagefm_imputed", vocabulary=vocabulary, n_components=5, rng=1)
    assert not np.allclose(other["predicted"]["r"], imputed.var["sagefm_imputed_r"], atol=1e-4, equal_nan=True)


@pytest.mark.parametrize(
    "form",
    [
        lambda values: values,
        sparse.csr_matrix,
        sparse.csc_matrix,
        lambda values: da.from_array(values, chunks=(100, -1)),
        lambda values: da.from_array(values, chunks=(100, -1)).map_blocks(sparse.csr_matrix),
    ],
    ids=["dense", "csr", "csc", "dask", "dask of csr"],
)
def test_forms_of_predicted(imputed, form):
    expected = controls(imputed, predicted="sagefm_imputed", predictors=())["predicted"]
    layer = form(imputed.layers["sagefm_imputed"])
    found = controls(imputed, predicted=layer, predictors=())["predicted"]
    pd.testing.assert_frame_equal(found, expected)
    assert expected["r"].isna().sum() >= (~imputed.var["sagefm_imputed"]).sum()


@pytest.mark.filterwarnings("ignore:Found 726 of the 12,121 genes:UserWarning")
def test_genes_that_were_not_imputed_have_no_figures(imputed):
    """The sparse layer of ``tl.impute(genes=...)`` is zero at the genes that were not asked for."""
    genes = list(imputed.var_names[imputed.var["sagefm_imputed"]][:5])
    sagefm.tl.impute(imputed, genes=genes, key_added="few")
    found = controls(imputed, predicted="few", predictors=())["predicted"]
    assert list(found.index[found["d2"].notna()]) == genes


def test_predictions_on_the_scale_of_logarithms(imputed):
    expected = controls(imputed, predicted="sagefm_imputed", predictors=())["predicted"]
    imputed.layers["log"] = np.log1p(imputed.layers["sagefm_imputed"])
    imputed.uns["sagefm"]["log"] = {"scale": "log1p"}
    found = controls(imputed, predicted="log", predictors=())["predicted"]
    # Values are float32.
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)


# Tables


def test_the_graph_is_built_where_there_is_none():
    adata = sagefm.datasets.simulate(200, n_genes=60)
    adata.layers["counts"] = adata.X.copy()
    before = adata.X.copy()
    expected = controls(adata, n_components=4)["neighborhood"]
    assert adata.obsp["sagefm_connectivities"].nnz == 14 * 200
    assert not (before != adata.X).nnz
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray()))
    pd.testing.assert_frame_equal(controls(adata, n_components=4, layer="counts")["neighborhood"], expected)


def test_sections_of_a_table_have_profiles_and_neighbors_of_their_own():
    """Sums over sections are those of each alone: deviances add up."""
    both = sagefm.datasets.simulate(150, n_genes=60, n_sections=2)
    together = controls(both, n_components=4, library_key="library")
    parts = [both[(both.obs["library"] == name).to_numpy()].copy() for name in both.obs["library"].unique()]
    alone = [controls(part, n_components=4) for part in parts]
    for name, table in together.items():
        for column in ("deviance", "null_deviance"):
            np.testing.assert_allclose(table[column], sum(tables[name][column] for tables in alone), rtol=1e-6)
    spots = {"train": np.arange(150), "test": [0, 200]}
    with pytest.raises(ArgumentError, match="test has spots of library"):
        controls(both, n_components=4, library_key="library", **spots)


def test_a_generator_is_a_seed(adata):
    seed = int(np.random.default_rng(5).integers(2**32 - 1, endpoint=True))
    found = controls(adata, neighbors_key="ring", rng=np.random.default_rng(5))["pca"]
    pd.testing.assert_frame_equal(found, controls(adata, neighbors_key="ring", rng=seed)["pca"])


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"predictors": ["mean"]}, "mean"),
        ({"n_folds": 1}, "n_folds=1"),
        ({"n_hidden": 5}, "n_hidden=5; expected at most n_folds=4"),
        ({"n_hidden": 0}, "n_hidden=0"),
        ({"n_components": 0}, "n_components=0"),
        ({"ridge": 0}, "ridge=0"),
        ({"ridge": np.nan}, "ridge=nan"),
        ({"rng": -1}, "rng=-1"),
        ({"train": np.arange(5)}, "test"),
        ({"train": [0, 1], "test": [400]}, "test=.*from 0 to 399"),
        ({"train": [0.5], "test": [1]}, "train="),
        ({"train": [], "test": [1]}, "train="),
        ({"components": np.ones((2, 3))}, r"components has shape \(2, 3\); expected the 150 genes"),
        ({"components": np.ones(150)}, r"components has shape \(150,\)"),
        ({"predicted": np.ones((2, 3), np.float32)}, r"predicted has shape \(2, 3\)"),
        ({"vocabulary": "default"}, "vocabulary='default'"),
    ],
)
def test_arguments_that_cannot_be_used(adata, arguments, words):
    with pytest.raises(ArgumentError, match=words):
        controls(adata, neighbors_key="ring", **arguments)


def test_tables_that_cannot_be_used(adata):
    with pytest.raises(ArgumentError, match="csr_matrix; expected AnnData"):
        controls(adata.X)
    with pytest.raises(MissingKeyError, match=r"predicted='sagefm_imputed'.*sagefm\.tl\.impute"):
        controls(adata, predicted="sagefm_imputed", neighbors_key="ring")
    with pytest.raises(MissingKeyError, match="layer='counts'"):
        controls(adata, layer="counts", neighbors_key="ring")
    with pytest.raises(NeighborsError, match="circle"):
        controls(adata, neighbors_key="circle")
    with pytest.raises(MissingKeyError, match="spatial_key='xy'"):
        controls(adata, spatial_key="xy")
    with pytest.raises(MissingKeyError, match="gene_key='symbol'"):
        controls(adata, gene_key="symbol")
    with pytest.raises(GenesError, match="Found 0 of the 2 genes"):
        controls(adata, vocabulary=["CD3E", "MS4A1"], neighbors_key="ring")
    counts = adata.X.copy()
    for wrong in (counts / 2, da.from_array(counts.toarray() / 2, chunks=(100, -1))):
        adata.X = wrong
        with pytest.raises(CountsError, match="fractional"):
            controls(adata)
        # Stored counts are checked as they are read: the graph is not left behind.
        assert "sagefm_connectivities" not in adata.obsp
    adata.X = counts
    adata.obsm["spatial"] = np.full((400, 2), np.nan)
    with pytest.raises(CoordinatesError, match="NaN"):
        controls(adata)


# Components


def test_components_are_those_of_centered_values(tissue):
    counts, _ = tissue
    parts = [counts[:150], counts[150:]]
    loadings = fit_components(parts, 3)
    deviations = []
    for part in parts:
        dense = part.toarray().astype(float)
        u = np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True))
        deviations.append(u - u.mean(axis=0))
    expected = PCA(3, svd_solver="full").fit(np.concatenate(deviations))
    found = expected.components_ * np.sqrt(expected.explained_variance_)[:, None]
    np.testing.assert_allclose(loadings.T @ loadings, found.T @ found, rtol=1e-3, atol=1e-4)


def test_components_refuse_what_they_cannot_read():
    counts = sparse.csr_matrix(np.ones((4, 3)))
    for sections in ([], [counts, counts[:, :2]]):
        with pytest.raises(ArgumentError, match="expected the same genes"):
            fit_components(sections)
    with pytest.raises(ArgumentError, match="n_components=0"):
        fit_components([counts], 0)
    with pytest.raises(ArgumentError, match="1 spots and 3 genes"):
        fit_components([counts[:1]])
    with pytest.raises(CountsError, match="fractional"):
        fit_components([counts / 2])
