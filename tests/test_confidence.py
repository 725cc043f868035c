"""What `tl.impute` says of its own reliability: intervals, recovery and trust."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import sagefm
from sagefm.checkpoint._resolve import resolve_model
from sagefm.data._turns import overlapping_turns
from sagefm.errors import ArgumentError
from sagefm.metrics._recovery import correlation, moments
from sagefm.metrics._spectra import Spectra

GENES = ["CD3E", "MS4A1", "COL1A1", "ACTA2", "CXCL13"]
KEY = "sagefm_imputed"


@pytest.fixture(scope="module")
def imputed():
    adata = sagefm.datasets.synovium()
    sagefm.tl.impute(adata, genes=GENES, interval=0.8, progress=False)
    return adata


def columns(adata, key: str = KEY, genes=GENES) -> np.ndarray:
    return adata[:, genes].layers[key].toarray()


def test_intervals_hold_the_imputed_values(imputed):
    lower, values, upper = (columns(imputed, f"{KEY}{end}") for end in ("_lower", "", "_upper"))
    assert (lower <= values).all()
    # The median of few counts is zero, and so may be the upper end.
    assert (upper >= np.floor(values)).all()
    counts = imputed[:, GENES].X.toarray()
    assert 0.8 < ((lower <= counts) & (counts <= upper)).mean() < 1
    for end in ("_lower", "_upper"):
        assert imputed.layers[f"{KEY}{end}"].shape == imputed.shape
        assert imputed.layers[f"{KEY}{end}"].nnz == len(GENES) * imputed.n_obs
    assert imputed.uns["sagefm"][KEY]["interval"] == 0.8


def test_an_interval_does_not_depend_on_the_genes_beside_it_and_follows_the_scale(imputed):
    alone = sagefm.datasets.synovium()
    sagefm.tl.impute(alone, genes=GENES[:1], interval=0.8, scale="log1p", progress=False)
    for end in ("_lower", "_upper"):
        found, expected = columns(alone, f"{KEY}{end}", GENES[:1]), columns(imputed, f"{KEY}{end}", GENES[:1])
        assert np.mean(np.isclose(np.expm1(found), expected, atol=1e-3)) > 0.99
    # A call without intervals takes away those of an earlier one.
    sagefm.tl.impute(alone, genes=GENES[:1], progress=False)
    assert list(alone.layers) == [KEY]
    assert "interval" not in alone.uns["sagefm"][KEY]


def test_wider_where_more_is_to_be_covered(imputed):
    wide = sagefm.datasets.synovium()
    sagefm.tl.impute(wide, genes=GENES, interval=0.95, progress=False)
    assert (columns(wide, f"{KEY}_upper") >= columns(imputed, f"{KEY}_upper")).all()
    assert columns(wide, f"{KEY}_upper").sum() > columns(imputed, f"{KEY}_upper").sum()


@pytest.mark.parametrize("interval", [0, 1, 80, True, "0.8"])
def test_intervals_are_levels(interval):
    adata = sagefm.datasets.synovium()
    with pytest.raises(ArgumentError, match="expected a number between 0 and 1"):
        sagefm.tl.impute(adata, genes=GENES, interval=interval)
    assert not adata.layers


def test_intervals_are_of_chosen_genes():
    with pytest.raises(ArgumentError, match=r"interval= is for chosen genes.*genes=\[\.\.\.\]"):
        sagefm.tl.impute(sagefm.datasets.synovium(), interval=0.8)


def test_fields_of_recovery(imputed):
    table = imputed.var.loc[GENES]
    np.testing.assert_allclose(table[f"{KEY}_of_ceiling"], table[f"{KEY}_r"] / table[f"{KEY}_ceiling"])
    np.testing.assert_allclose(table[f"{KEY}_of_repeat"], table[f"{KEY}_r"] / table[f"{KEY}_ceiling"] ** 2)
    assert isinstance(table[f"{KEY}_trust"].dtype, pd.CategoricalDtype)
    assert table.loc["MS4A1", f"{KEY}_trust"] == "good"
    assert imputed.var[f"{KEY}_trust"].notna().sum() == len(GENES)


# Where nothing is to be found


def draw_anew(counts: sparse.csr_matrix, genes: np.ndarray) -> sparse.csr_matrix:
    """Return counts in which the molecules of some genes lie on spots drawn in proportion to depth."""
    rng, depth = np.random.default_rng(0), np.asarray(counts.sum(axis=1)).ravel().astype(float)
    dense = counts.toarray()
    for gene in genes:
        dense[:, gene] = rng.multinomial(int(dense[:, gene].sum()), depth / depth.sum())
    return sparse.csr_matrix(dense)


@pytest.mark.parametrize("model", ["default", None])
def test_genes_whose_counts_are_drawn_anew_are_not_recovered(model):
    adata = sagefm.datasets.synovium()
    detected = np.asarray((adata.X > 0).mean(axis=0)).ravel()
    known = adata.var_names.isin(resolve_model("default").vocabulary.symbols)
    genes = np.flatnonzero((detected > 0.1) & known)[::6]
    names = list(adata.var_names[genes])
    adata.X = draw_anew(adata.X, genes)
    sagefm.tl.impute(adata, model, genes=names, progress=False)
    table = adata.var.loc[names]
    assert len(names) > 500
    assert abs(table[f"{KEY}_r"].median()) < 0.02
    assert (table[f"{KEY}_q"] < 0.05).mean() < 0.02
    assert (table[f"{KEY}_trust"] == "none").mean() > 0.98


def test_turned_tissue_is_not_recovered():
    """Predictions that lie on turned tissue: neither q nor, by much, p finds what is not there."""
    adata = sagefm.datasets.synovium()
    detected = np.asarray((adata.X > 0).mean(axis=0)).ravel()
    known = adata.var_names.isin(resolve_model("default").vocabulary.symbols)
    names = list(adata.var_names[(detected > 0.2) & known][::5])
    sagefm.tl.impute(adata, genes=names, progress=False)
    counts, predicted = adata[:, names].X.toarray().astype(float), columns(adata, genes=names)
    depth = np.asarray(adata.X.sum(axis=1))
    null = depth * (counts.sum(axis=0) / depth.sum())
    residuals, expected = (counts - null) / np.sqrt(null), (predicted - null) / np.sqrt(null)
    small, false = [], []
    for spots, moved in overlapping_turns(adata.obsm["spatial"]):
        spectra = Spectra(len(names))
        spectra.begin(adata.obsm["spatial"][spots])
        pair = residuals[moved], expected[spots]
        spectra.add(slice(None), *pair, np.arange(len(names)))
        tested = np.ones(len(names), dtype=bool)
        _, pval, qval = correlation(moments(*pair), len(spots), tested, spectra.variance())
        small.append(np.mean(pval < 0.05))
        false.append(np.mean(qval < 0.05))
    assert len(false) == 7
    assert max(false) <= 0.06
    assert np.mean(small) < 0.09
