"""Predictors of hidden genes, each alone and stacked: against their definitions, without leaks, without signal."""

from __future__ import annotations

import copy
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.optimize import minimize

import sagefm
from sagefm.data._genes import assign_folds
from sagefm.data._input import make_input
from sagefm.data._reader import read_table
from sagefm.data._table import TableKeys
from sagefm.errors import ArgumentError, GenesError
from sagefm.inference import _impute, _parts
from sagefm.inference._impute_table import impute_table
from sagefm.inference._layout import Layout
from sagefm.inference._network import own_vocabulary
from sagefm.inference._network_reader import NetworkReader
from sagefm.inference._parts import draw_sample, random_parts, tiles
from sagefm.inference._predictors import PRECISION, Hidden, Ridge, Spots
from sagefm.inference._stacking import EDGES, fit_weights, genes_to_fit
from sagefm.inference._visible import Visible, _principal_axes
from sagefm.module._factors import project_genes
from tests import OTHER_KERNELS

CPU = torch.device("cpu")
PREDICTORS = ("network", "factors", "ridge", "neighbors")
each_mask = pytest.mark.parametrize("mask", ["center", "neighborhood"])


def imputed(adata, checkpoint, **arguments):
    vocabulary = own_vocabulary(adata) if checkpoint is None else checkpoint.vocabulary
    reader = read_table(adata, vocabulary)
    return impute_table(reader, checkpoint, vocabulary=vocabulary, device=CPU, **arguments)


def with_counts(section, spots, genes, change):
    counts = section.X.toarray()
    counts[np.ix_(spots, genes)] = change(counts[np.ix_(spots, genes)])
    return ad.AnnData(sparse.csr_matrix(counts), obs=section.obs, var=section.var, obsm=dict(section.obsm))


# No leak


@each_mask
@pytest.mark.parametrize("only", [*PREDICTORS, None])
def test_no_predictor_reads_what_is_hidden(only, mask, section, default, monkeypatch):
    """A fold's counts, changed where they are hidden, leave the prediction of each predictor alone as it was."""
    if only == "neighbors" and mask == "neighborhood":
        pytest.skip("neighbors are not read")

    def alone(self, part):
        weights = np.zeros((len(EDGES) + 1, len(self.predictors)))
        weights[:, list(self.predictors).index(only)] = 1
        return weights

    if only is not None:
        monkeypatch.setattr(_impute.Stack, "_fit_weights", alone)
    expected = imputed(section, default, mask=mask)
    assert np.abs(expected.recovery["r"]).median() > 0
    graph = section.obsp["sagefm_connectivities"]
    folds = assign_folds(np.arange(300), 300, 4, 0)
    for spot, fold in ((7, 0), (210, 2)):
        hidden = [spot] if mask == "center" else [spot, *graph[spot].indices]
        genes = np.flatnonzero(folds == fold)
        changed = with_counts(section, hidden, genes, lambda x: 3 * x[::-1, ::-1] + 11)
        found = imputed(changed, default, mask=mask)
        np.testing.assert_allclose(found.layer[spot, genes], expected.layer[spot, genes], rtol=2e-5, atol=1e-6)
        assert not np.allclose(found.layer[spot], expected.layer[spot], rtol=1e-3), "visible counts do matter"


@each_mask
def test_nothing_is_read_of_a_spot_that_hides_all_genes(mask, section, default):
    """Which genes it counts does not matter; how many in all is its depth."""
    hide_all = {"mask": mask, "n_folds": 3, "n_hidden": 3}
    expected, spot = imputed(section, default, **hide_all).layer, 5
    counts = section.X.toarray()
    counts[spot] = np.roll(counts[spot], 17)
    changed = with_counts(section, [spot], np.arange(300), lambda x: counts[[spot]])
    # The null's profile is that of the other spots.
    np.testing.assert_allclose(imputed(changed, default, **hide_all).layer[spot], expected[spot], **OTHER_KERNELS)


def test_genes_without_signal(section, default):
    """Counts of each gene, put to other spots at random by depth: nothing is recovered, and predictors get no weight."""
    rng, counts = np.random.default_rng(0), section.X.toarray().astype(int)
    depth = counts.sum(axis=1) / counts.sum()
    section.X = sparse.csr_matrix(np.stack([rng.multinomial(n, depth) for n in counts.sum(axis=0)], axis=1), dtype="f4")
    result = imputed(section, default)
    assert abs(result.recovery["r"].median()) < 0.02
    assert abs(result.recovery["d2"].median()) < 0.005
    assert result.weights["weight"].mean() < 0.15


# Definitions


def test_ridge_equals_its_definition_without_each_spot():
    rng, n_spots, n_features, n_genes = np.random.default_rng(0), 40, 6, 5
    y = rng.normal(size=(n_spots, n_features)).astype(np.float32)
    sizes = (rng.gamma(9.0, 1 / 9, n_spots) / n_spots).astype(np.float32)
    variances = (sizes[:, None] * y**2).sum(axis=0) / sizes.sum()
    counts = rng.poisson(4.0, (n_spots, n_genes)).astype(np.float32)
    visible = Visible(sizes, y, variances, None, None)
    others = np.arange(n_spots) % 5 != 0
    hidden = Hidden.of(np.arange(n_genes), counts, others, np.ones(n_spots, dtype=bool), sizes)
    np.testing.assert_allclose(hidden.total, (counts[others].sum(axis=0) + 0.5) / sizes[others].sum(), rtol=1e-5)
    found = Ridge(visible, np.arange(n_spots)).fit(hidden).log_ratio(Spots(np.arange(n_spots), counts))
    wide = y.astype(np.float64)
    for gene, total in enumerate(hidden.total):
        inverse = np.linalg.inv(total * sizes.sum() * np.diag(variances) + PRECISION * np.eye(n_features))
        for spot in range(n_spots):
            rest = np.arange(n_spots) != spot
            f = wide[spot] @ inverse @ wide[rest].T @ (counts[rest, gene] - total * sizes[rest])
            # The spot's part in the precision, taken out by the formula of Sherman and Morrison.
            f /= 1 - total * sizes[spot] * wide[spot] @ inverse @ wide[spot]
            assert found[spot, gene] == pytest.approx(np.log1p(f) if f > 0 else max(f, -3), rel=1e-3, abs=1e-5)


def test_rates_of_genes_are_found_from_weights():
    rng = np.random.default_rng(0)
    w = rng.dirichlet(np.full(3, 0.3), 500).astype(np.float32)
    rates = rng.gamma(2.0, 10.0, (3, 4)).astype(np.float32)
    counts = rng.poisson(w @ rates).astype(np.float32)
    found = project_genes(w, counts, counts.mean(axis=0))
    np.testing.assert_allclose(found, rates, rtol=0.25, atol=1)
    np.testing.assert_allclose(project_genes(w[:0], counts[:0], rates[0]), np.repeat(rates[:1], 3, axis=0))


def test_weights_maximize_the_likelihood():
    rng = np.random.default_rng(0)
    null = rng.gamma(2.0, 0.5, (600, 20))
    ratios = {name: rng.normal(0, 0.5, null.shape) for name in ("network", "ridge", "nothing")}
    counts = rng.poisson(null * np.exp(0.8 * ratios["network"] + 0.3 * ratios["ridge"]))
    weights = fit_weights(ratios, counts, null, np.full(20, 2))
    design = np.stack([ratio.ravel() for ratio in ratios.values()], axis=1)

    def loss(w):
        return (null.ravel() * np.exp(design @ w) - counts.ravel() * (design @ w)).sum()

    best = minimize(loss, np.full(3, 0.3), bounds=[(0, None)] * 3).x
    np.testing.assert_allclose(weights[2], best, atol=0.02)
    np.testing.assert_allclose(weights[2], [0.8, 0.3, 0], atol=0.06)
    assert (weights >= 0).all()


def test_genes_that_weights_are_fitted_on_come_from_all_bins():
    means = np.random.default_rng(0).lognormal(-1, 2, 5000)
    genes = genes_to_fit(means)
    assert len(np.unique(genes)) == len(genes)
    assert (np.bincount(np.searchsorted(EDGES, means[genes])) == 100).all()
    assert len(genes_to_fit(np.zeros(7))) == 0


def test_parts_do_not_reach_each_other(section):
    sagefm.pp.spatial_neighbors(section)
    neighbors = sparse.csr_matrix(section.obsp["sagefm_connectivities"])
    parts = random_parts(section.obs_names, 0)
    for part in range(parts.n_parts):
        np.testing.assert_array_equal(parts.readable[part], parts.part != part)
    parts = tiles(section.obsm["spatial"], neighbors)
    assert np.bincount(parts.part).min() > 400 / 9 - 2
    for spot in range(section.n_obs):
        hidden = [spot, *neighbors[spot].indices]
        assert not parts.readable[parts.part[spot], hidden].any()
    assert parts.readable.sum(axis=1).min() > 100


# Together


def test_it_recovers_what_the_network_does_not_know(default):
    """In tissue that the network never saw, the section's own spots say more."""
    adata = sagefm.datasets.simulate(600, n_genes=300, strength=1.0, rng=7)
    alone, stacked = (imputed(adata, default, adapt=adapt).recovery["d2"].median() for adapt in (False, True))
    assert stacked > alone + 0.01


def test_all_hidden_is_better_than_the_mean_of_the_neighbors(synovium):
    kept = synovium[:, np.asarray((synovium.X > 0).mean(axis=0)).ravel() > 0.2].copy()
    result = imputed(kept, None, n_folds=3, n_hidden=3).recovery
    control = sagefm.metrics.controls(kept, predictors=["neighborhood"], n_folds=3, n_hidden=3)["neighborhood"]
    assert result["r"].median() > control["r"].median()
    assert result["d2"].median() > 1.5 * control["d2"].median()


def test_without_a_model(section):
    """Genes that no model knows; the weights are of predictors of the section."""
    section.var_names = [f"gene{i}" for i in range(section.n_vars)]
    sagefm.tl.impute(section, model=None, progress=False)
    assert np.isfinite(section.layers["sagefm_imputed"]).all()
    params = section.uns["sagefm"]["sagefm_imputed"]
    assert set(params["weights"]["predictor"]) == {"factors", "ridge", "neighbors"}
    assert "checkpoint_sha256" not in params
    with pytest.raises(GenesError, match="not in"):
        sagefm.tl.impute(section, model=None, genes=["CD3E"])


def test_weights_are_stored_by_library(sections, default, tmp_path):
    sagefm.tl.impute(sections, default, library_key="library", genes=list(sections.var_names[:3]), progress=False)
    weights = sections.uns["sagefm"]["sagefm_imputed"]["weights"]
    assert list(weights.columns) == ["library", "bin", "predictor", "weight"]
    assert len(weights) == 2 * (len(EDGES) + 1) * len(PREDICTORS)
    assert (weights["weight"] >= 0).all()
    sections.write_h5ad(tmp_path / "a.h5ad")
    sections.write_zarr(tmp_path / "a.zarr")
    for stored in (ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "a.zarr")):
        found = stored.uns["sagefm"]["sagefm_imputed"]["weights"]
        np.testing.assert_allclose(found["weight"], weights["weight"])
        assert list(found["predictor"].astype(str)) == list(weights["predictor"])


def test_scale_and_depth(section, default):
    counts = imputed(section, default).layer
    np.testing.assert_allclose(imputed(section, default, scale="log1p").layer, np.log1p(counts), rtol=1e-6)
    common = imputed(section, default, target_sum=1000).layer
    # The depth of a spot is known from its visible genes, in each fold anew.
    ratio = np.median(common / counts, axis=1)
    totals = np.asarray(section.X.sum(axis=1)).ravel()
    np.testing.assert_allclose(ratio, 1000 / totals, rtol=0.2)
    assert np.std(common.sum(axis=1)) < 0.1 * 1000
    for wrong in ({"scale": "log"}, {"target_sum": 0}, {"target_sum": "1e4"}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            imputed(section, default, **wrong)


def test_levels_of_genes_that_were_not_measured(section, default):
    """Where levels of training are off by a factor of e, measured genes tell so: intervals hold as often as they say."""
    network = copy.deepcopy(default.network)
    network.prior *= torch.from_numpy(np.random.default_rng(0).lognormal(0, 1, 300)).float()
    left_out = list(section.var_names[::3])
    panel = section[:, ~section.var_names.isin(left_out)].copy()
    sagefm.tl.impute(panel, replace(default, network=network), genes=left_out, progress=False)
    levels = panel.uns["sagefm"]["sagefm_imputed"]["levels"].set_index("gene")
    assert list(levels.columns) == ["library", "mean", "lower", "upper"]
    values = panel.obsm["sagefm_imputed"]
    np.testing.assert_allclose(levels["mean"], values.mean()[levels.index], rtol=1e-4)
    measured = pd.Series(np.asarray(section.X.mean(axis=0)).ravel(), section.var_names)[levels.index]
    inside = (measured >= levels["lower"]) & (measured <= levels["upper"])
    assert 0.65 < inside.mean() < 0.95


def test_large_sections_are_fitted_on_a_sample(section, default, monkeypatch):
    whole = imputed(section, default).recovery["d2"].median()
    monkeypatch.setattr(_parts, "_MAX_SAMPLE", 300)
    monkeypatch.setattr(_parts, "_N_CENTERS", 20)
    sample = draw_sample(section.obs_names, sparse.csr_matrix(section.obsp["sagefm_connectivities"]), 0)
    assert 20 < len(sample) < 400
    assert len(np.unique(sample)) == len(sample)
    some = imputed(section, default)
    assert np.isfinite(some.layer).all()
    assert whole / 2 < some.recovery["d2"].median() < whole + 0.01


def test_a_section_of_a_few_spots(default):
    adata = sagefm.datasets.simulate(16, n_genes=300, n_domains=2, rng=3)
    for checkpoint in (default, None):
        for mask in ("center", "neighborhood"):
            assert np.isfinite(imputed(adata, checkpoint, mask=mask).layer).all()


def test_a_gene_seen_at_one_spot_is_predicted(section, default):
    changed = with_counts(section, range(section.n_obs), [5], lambda x: 0 * x)
    changed = with_counts(changed, [100], [5], lambda x: x + 30)
    found = imputed(changed, default).layer[:, 5]
    assert np.isfinite(found).all()
    assert found[100] < 0.1


@pytest.mark.parametrize("n_rows", [60, 20])
def test_principal_axes_are_those_of_a_decomposition(n_rows):
    values = np.random.default_rng(0).standard_normal((n_rows, 30)).astype(np.float32)
    axes = _principal_axes(values, 4)
    expected = np.linalg.svd(values.astype(float), full_matrices=False)[2][:4].T
    assert axes.shape == (30, 4)
    np.testing.assert_allclose(np.abs((axes * expected).sum(axis=0)), 1, rtol=1e-4)


@torch.no_grad()
def test_a_spot_that_shows_nothing_is_read_from_its_neighbors(section, default):
    """Their mean, less the mean of the readable spots but itself, through the first layer."""
    (read,) = read_table(section, default.vocabulary, TableKeys()).sections()
    layout = Layout(read, len(default.vocabulary), 4, 0)
    inputs = make_input(read, default.config.input, scale=default.config.scale)
    reader = NetworkReader(default.network, inputs, layout, torch.device("cpu"), 256)
    readable = np.arange(400) % 3 > 0
    neighbors = read.neighbors.copy().tolil()
    neighbors[7] = 0
    neighbors = sparse.csr_matrix(neighbors)
    neighbors.eliminate_zeros()
    z = reader.embed_around(neighbors, readable)
    product = sum(part.double().numpy() for part in reader.around)
    for spot in (0, 7, 8, 31):
        others = readable & (np.arange(400) != spot)
        around = product[neighbors[spot].indices]
        h = around.mean(axis=0) - product[others].mean(axis=0) if len(around) else np.zeros(product.shape[1])
        expected = default.network.encode((torch.from_numpy(h).float() + reader.bias)[None])[0]
        np.testing.assert_allclose(z[spot], expected, rtol=1e-3, atol=1e-5)


def test_levels_of_a_section_of_several_blocks(default):
    """Each spot counts once, also where they are read 1,024 at a time."""
    adata = sagefm.datasets.simulate(1100, n_genes=300, rng=1)
    left_out = list(adata.var_names[:5])
    panel = adata[:, 5:].copy()
    sagefm.tl.impute(panel, default, genes=left_out, progress=False)
    levels = panel.uns["sagefm"]["sagefm_imputed"]["levels"].set_index("gene")
    np.testing.assert_allclose(levels["mean"], panel.obsm["sagefm_imputed"].mean()[levels.index], rtol=1e-4)


def test_expected_counts_are_above_zero_where_no_spot_can_be_read():
    nowhere, counts = np.zeros(6, dtype=bool), np.ones((6, 3), np.float32)
    hidden = Hidden.of(np.arange(3), counts, nowhere, nowhere, np.ones(6, np.float32))
    assert (hidden.total > 0).all()
