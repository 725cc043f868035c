"""Measures of recovery on known cases, from matrices of every kind."""

from __future__ import annotations

import tracemalloc

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from dask import array as da
from scipy import sparse, stats

import sagefm
from sagefm.errors import ArgumentError, CountsError, MissingKeyError
from sagefm.metrics import Recovery, noise_ceiling, pooled_d2, recovery
from sagefm.metrics._recovery import correlation, moments
from sagefm.metrics._rows import BLOCK_ROWS

FORMS = {
    "dense": np.array,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "dask": lambda values: da.from_array(values, chunks=(100, -1)),
    "dask of csr": lambda values: da.from_array(values, chunks=(100, -1)).map_blocks(sparse.csr_matrix),
    "frame": pd.DataFrame,
}


@pytest.fixture(scope="module")
def case():
    """Counts, rates and null (300, 40)."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(2, size=(300, 40)) * np.linspace(0.01, 5, 40)
    counts = rng.poisson(rates).astype(np.float32)
    return counts, rates, np.tile(rates.mean(axis=0), (300, 1))


# Measures


def test_measures_by_their_definitions(case):
    counts, rates, null = case
    table = recovery(counts, rates, null=null)
    residuals = [(values - null) / np.sqrt(null) for values in (counts, rates)]
    for column, (a, b) in {"r": residuals, "raw_r": (np.log1p(counts), np.log1p(rates))}.items():
        expected = [np.corrcoef(a[:, g], b[:, g])[0, 1] for g in range(10, 40)]
        np.testing.assert_allclose(table[column][10:], expected, rtol=1e-6)
    surprise = np.where(counts > 0, counts * np.log(np.maximum(counts, 1) / rates), 0) - counts + rates
    np.testing.assert_allclose(table["deviance"], 2 * surprise.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(table["d2"], 1 - table["deviance"] / table["null_deviance"])
    np.testing.assert_allclose(table["detected"], (counts > 0).mean(axis=0))
    assert (table["qval"].dropna() >= table["pval"].dropna()).all()


def test_genes_of_few_spots_have_no_correlation():
    counts = np.zeros((50, 2))
    counts[:4, 0], counts[:5, 1] = 1, 1
    table = recovery(counts, np.random.default_rng(0).random((50, 2)))
    assert table["r"].isna().tolist() == [True, False]
    assert table["d2"].notna().all()


def test_the_null_by_default_is_profile_times_size_factor(case):
    counts, rates, _ = case
    null = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    pd.testing.assert_frame_equal(recovery(counts, rates), recovery(counts, rates, null=null), rtol=1e-5)
    assert (recovery(counts, null)["d2"].abs() < 1e-6).all()


def test_blocks_of_spots_in_any_order(case):
    counts, rates, null = case
    sums = Recovery(40)
    for rows in np.array_split(np.random.default_rng(0).permutation(300), 7):
        for genes in np.array_split(np.arange(40), 3):
            at = np.ix_(rows, genes)
            sums.update(counts[at], rates[at], null=null[at], genes=genes)
        sums.add_spots(len(rows))
    pd.testing.assert_frame_equal(sums.result(), recovery(counts, rates, null=null), rtol=1e-6)


def test_pooled_d2_weighs_by_deviance(case):
    counts, rates, null = case
    table = recovery(counts, rates, null=null)
    kept = table[table["detected"] >= 0.1]
    assert 0 < len(kept) < len(table)
    assert pooled_d2(table) == pytest.approx(1 - kept["deviance"].sum() / kept["null_deviance"].sum())
    assert pooled_d2(recovery(counts, null, null=null)) == pytest.approx(0, abs=1e-12)


def test_nothing_to_pool():
    assert np.isnan(pooled_d2(Recovery(3).result()))


# Matrices


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_recovery_reads_what_impute_writes(case, form):
    """Dense, sparse and Dask, for all three matrices."""
    expected = recovery(*case[:2], null=case[2])
    found = recovery(form(case[0]), form(case[1]), null=form(case[2]))
    # Stored matrices are read as float32.
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6)
    pd.testing.assert_frame_equal(recovery(form(case[0]), case[1]), recovery(*case[:2]), rtol=1e-4, atol=1e-6)


def test_recovery_of_layers_in_a_file(case, tmp_path):
    counts, rates, _ = case
    ad.AnnData(sparse.csr_matrix(counts), layers={"rate": rates}).write_h5ad(tmp_path / "section.h5ad")
    backed = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    found = recovery(backed.X, backed.layers["rate"])
    pd.testing.assert_frame_equal(found, recovery(counts, rates), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["dense", "csr", "csc", "dask"])
def test_memory_of_recovery_does_not_grow_with_spots(form):
    """Some eight arrays of a block are alive at a time, and a few chunks of Dask arrays, which are made CSR to be cut."""
    n_spots, n_genes = 16 * BLOCK_ROWS, 500
    counts = np.random.default_rng(0).poisson(1.0, (n_spots, n_genes)).astype(np.float32)
    matrices = [FORMS[form](values) for values in (counts, counts + 0.5, counts + 1)]
    recovery(matrices[0][:50], matrices[1][:50])
    tracemalloc.start()
    recovery(matrices[0], matrices[1], null=matrices[2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (20 if form == "dask" else 10) * BLOCK_ROWS * n_genes * 8


def test_genes_that_were_not_predicted_are_nan_and_leave_the_others(case):
    counts, rates, null = case
    expected = recovery(counts, rates, null=null)
    absent = np.isin(np.arange(40), [3, 17, 39])
    for predicted in (np.where(absent, np.nan, rates), sparse.csr_matrix(np.where(absent, 0, rates))):
        table = recovery(counts, predicted, null=null)
        assert table.loc[absent, ["r", "pval", "qval", "d2", "raw_r", "raw_qval", "deviance"]].isna().all(axis=None)
        columns = ["r", "pval", "d2", "raw_r", "deviance"]
        pd.testing.assert_frame_equal(table.loc[~absent, columns], expected.loc[~absent, columns])
        pd.testing.assert_series_equal(table["null_deviance"], expected["null_deviance"])
        kept = expected[~absent]
        assert pooled_d2(table) == pytest.approx(pooled_d2(kept))


def test_recovery_refuses_what_it_cannot_read():
    counts = np.ones((4, 3))
    with pytest.raises(ArgumentError, match=r"shapes \[\(4, 3\), \(4, 2\), \(4, 3\)\]; expected 3 genes"):
        Recovery(3).update(counts, counts[:, :2], null=counts, genes=np.arange(3))
    with pytest.raises(ArgumentError, match="n_spots=-1"):
        Recovery(3).add_spots(-1)
    with pytest.raises(ArgumentError, match="n_genes=-1"):
        Recovery(-1)
    with pytest.raises(MissingKeyError, match=r"lacks \['deviance', 'null_deviance'\]"):
        pooled_d2(Recovery(3).result()[["detected"]])
    for wrong, words in ((counts / 2, "fractional"), (-counts, "negative"), (counts * np.nan, "NaN")):
        with pytest.raises(CountsError, match=f"counts holds {words}"):
            recovery(wrong, counts)
        with pytest.raises(CountsError, match=f"counts holds {words}"):
            noise_ceiling(wrong)
    with pytest.raises(ArgumentError, match=r"counts has shape \(3,\); expected \(n_spots, n_genes\)"):
        recovery(counts[0], counts)
    with pytest.raises(ArgumentError, match=r"predicted has shape \(4, 2\); expected that of counts, \(4, 3\)"):
        recovery(counts, counts[:, :2])
    with pytest.raises(ArgumentError, match=r"null has shape \(2, 3\)"):
        recovery(counts, counts, null=counts[:2])
    with pytest.raises(ArgumentError, match="rng=-1"):
        noise_ceiling(counts, rng=-1)
    with pytest.raises(ArgumentError, match=r"counts has shape \(3,\)"):
        noise_ceiling(counts[0])


# The noise ceiling


def test_noise_ceiling_is_the_correlation_of_the_truth():
    rng = np.random.default_rng(0)
    signal = np.tile([0.5, 1.5], 1500)
    # Half of the genes rise where the others fall: depth is the same everywhere.
    ratio = np.column_stack([signal] * 20 + [2 - signal] * 20 + [np.ones(3000)] * 20)
    mean = 2.0
    counts = rng.poisson(mean * ratio)
    found = noise_ceiling(sparse.csr_matrix(counts.astype(np.float32)))
    # Poisson noise has unit variance in a residual, the signal this much.
    variance = mean * signal.var()
    expected = np.sqrt(variance / (1 + variance))
    assert abs(found["ceiling"][:40].median() - expected) < 0.03
    assert abs(found["r_half"][40:].median()) < 0.03
    truth = sagefm.metrics.recovery(counts, mean * ratio, null=np.full(ratio.shape, mean))
    assert abs(truth["r"][:40].median() - expected) < 0.03


@pytest.mark.parametrize("form", [np.array, sparse.csr_matrix, sparse.csc_matrix])
def test_noise_ceiling_of_other_forms_and_seeds(case, form):
    expected = noise_ceiling(case[0])
    pd.testing.assert_frame_equal(noise_ceiling(form(case[0])), expected)
    assert not noise_ceiling(form(case[0]), rng=1).equals(expected)
    drawn = [noise_ceiling(form(case[0]), rng=np.random.default_rng(7)) for _ in range(2)]
    pd.testing.assert_frame_equal(*drawn)


def test_p_values_are_those_of_a_positive_correlation():
    """Of a prediction that is the wrong way round, the p-value is near 1, not near 0."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(2.0, 2.0, (80, 5))
    counts = rng.poisson(rates).astype(float)
    null = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    for predicted in (rates, np.maximum(2 * null - rates, 0.01)):
        table = recovery(counts, predicted)
        for gene in range(5):
            root = np.sqrt(null[:, gene])
            residuals = [(values[:, gene] - null[:, gene]) / root for values in (counts, predicted)]
            expected = stats.pearsonr(*residuals, alternative="greater")
            assert table["r"][gene] == pytest.approx(expected.statistic)
            assert table["pval"][gene] == pytest.approx(expected.pvalue, rel=1e-6)
    assert (table["pval"] > 0.5).all()


def test_p_values_among_spots_that_are_alike_are_those_of_a_positive_correlation():
    """With coordinates, too: near 0 of a good prediction, near 1 of one that is the wrong way round."""
    adata = sagefm.datasets.simulate(300, n_genes=60, return_rates=True, rng=4)
    counts, rates = adata.X.toarray(), adata.layers["rate"]
    null = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    right, wrong = (
        recovery(counts, predicted, coordinates=adata.obsm["spatial"])
        for predicted in (rates, np.maximum(2 * null - rates, 0.01))
    )
    assert (right["pval"][right["r"] > 0.3] < 0.05).all()
    assert (wrong["pval"][wrong["r"] < -0.3] > 0.9).all()
    assert min((right["r"] > 0.3).sum(), (wrong["r"] < -0.3).sum()) > 5


def test_no_variance_is_below_that_of_independent_spots():
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 100, 20))
    sums = moments(a, b), 100, np.ones(20, dtype=bool)
    least, independent = (correlation(*sums, np.full(20, variance))[1] for variance in (1e-9, 1 / 99))
    np.testing.assert_array_equal(least, independent)


def test_columns_are_as_many_as_their_genes():
    values = np.ones((6, 3))
    for n_genes in (2, 4):
        with pytest.raises(ArgumentError, match=f"expected {n_genes} genes"):
            Recovery(5).update(values, values, null=values, genes=np.arange(n_genes))
