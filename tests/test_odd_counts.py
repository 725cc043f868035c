"""Counts that are none, or cannot be true: refused or told, and the call of the message repairs it."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

import sagefm
from sagefm.data._check_counts import find_processed
from sagefm.errors import CountsError, MissingKeyError
from sagefm.model import SAGEFM
from tests.repairs import repaired


def scaled(adata, target, *, log=False):
    other = adata.copy()
    sc.pp.normalize_total(other, target_sum=target)
    if log:
        sc.pp.log1p(other)
    return other.X


def size_factors(adata):
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    return sparse.csr_matrix(sparse.diags_array(np.median(totals) / totals) @ adata.X)


PROCESSED = {
    "CPM": lambda adata: scaled(adata, 1e6).rint(),
    "counts per 10,000": lambda adata: scaled(adata, 1e4).rint(),
    "counts per 10,000, cut": lambda adata: scaled(adata, 1e4).floor(),
    "scaled to the median": lambda adata: scaled(adata, None).rint(),
    "size factors": lambda adata: size_factors(adata).ceil(),
    "logarithms": lambda adata: scaled(adata, 1e4, log=True).rint(),
    "logarithms, cut": lambda adata: scaled(adata, 1e4, log=True).floor(),
    "logarithms of counts": lambda adata: adata.X.log1p().rint(),
    "roots": lambda adata: adata.X.sqrt().rint(),
    "detected": lambda adata: (adata.X > 0).astype(np.float32),
    "detected, bool": lambda adata: adata.X > 0,
    "detected, int": lambda adata: (adata.X > 0).astype(np.int8).toarray(),
}


@pytest.mark.parametrize("kind", PROCESSED)
def test_whole_numbers_that_are_no_counts(kind, synovium, synovium_model, rejects):
    raw = synovium.X.copy()
    synovium.X = PROCESSED[kind](synovium)
    if sparse.issparse(synovium.X):
        synovium.X.eliminate_zeros()
    words = ("adata.X holds", "0 and 1" if kind.startswith("detected") else "no counts", "layer=")
    rejects(CountsError, synovium, lambda: sagefm.tl.embed(synovium, synovium_model), *words)
    rejects(CountsError, synovium, lambda: SAGEFM.setup_anndata(synovium), *words)
    synovium.layers["counts"] = raw
    words = ("found in adata.layers['counts']", "pass layer='counts'")
    rejects(CountsError, synovium, lambda: sagefm.tl.embed(synovium, synovium_model), *words)
    sagefm.tl.embed(synovium, synovium_model, layer="counts")


@pytest.mark.parametrize("kind", ["CPM", "logarithms", "detected"])
def test_stored_whole_numbers_that_are_no_counts(kind, synovium, synovium_model, rejects):
    synovium.X = da.from_array(PROCESSED[kind](synovium).toarray(), chunks=(100, -1))
    rejects(CountsError, synovium, lambda: sagefm.tl.embed(synovium, synovium_model), "adata.X holds")


def poisson(rates, n_spots, seed=0):
    return sparse.csr_matrix(np.random.default_rng(seed).poisson(rates, (n_spots, len(rates))).astype(np.float32))


COUNTS = {
    "deep panel": lambda: poisson(np.full(40, 200.0), 300),
    "shallow": lambda: poisson(np.full(2000, 1e-3), 300),
    "no variation but that of counting": lambda: poisson(np.geomspace(1e-3, 300, 500), 400),
    "bins with a count or two": lambda: poisson(np.full(500, 2e-3), 5000).minimum(1),
    "few spots": lambda: poisson(np.full(100, 3.0), 15),
    "thinned to one depth": lambda: (
        sc.pp.downsample_counts(sagefm.datasets.synovium(), counts_per_cell=900, copy=True).X
    ),
    "empty": lambda: sparse.csr_matrix((100, 50), dtype=np.float32),
}


@pytest.mark.parametrize("kind", COUNTS)
def test_counts_are_counts(kind):
    assert find_processed(sparse.csr_matrix(COUNTS[kind]())) is None


def test_bundled_and_simulated_counts_are_counts(synovium, section):
    simulated = sagefm.datasets.simulate(200, n_genes=50, n_effects=5, n_decoys=5, depth_sd=0.0)
    for adata in (synovium, section, sagefm.datasets.dlpfc(), simulated):
        assert find_processed(adata.X) is None


def test_equal_depths_are_told(synovium, synovium_model):
    enough = np.asarray(synovium.X.sum(axis=1)).ravel() >= 900
    thinned = sc.pp.downsample_counts(synovium[enough].copy(), counts_per_cell=900, copy=True)
    with pytest.warns(UserWarning, match="nearly the same sum, 900.*raw counts"):
        sagefm.tl.embed(thinned, synovium_model)


# Fractions, and where the counts are


def test_counts_in_raw(section, default, rejects):
    expected = sagefm.tl.embed(section, default, copy=True)
    section.raw = section.copy()
    section.X = scaled(section, 1e4, log=True)
    section = section[:, :100].copy()
    message = rejects(CountsError, section, lambda: sagefm.tl.embed(section, default), "found in adata.raw")
    whole = repaired(section, message)
    sagefm.tl.embed(whole, default)
    np.testing.assert_array_equal(whole.obsm["X_sagefm"], expected.obsm["X_sagefm"])


def test_counts_in_x_or_another_layer(section, default, rejects):
    section.layers["scaled"] = scaled(section, 1e4)
    call = lambda: sagefm.tl.embed(section, default, layer="scaled")
    rejects(CountsError, section, call, "found in adata.X: pass layer=None")
    rejects(MissingKeyError, section, lambda: sagefm.tl.embed(section, default, layer="count"), "found in adata.X")
    section.layers["umi"] = section.X
    section.X = None
    rejects(MissingKeyError, section, lambda: sagefm.tl.embed(section, default), "adata.X is empty", "layer='umi'")


@pytest.mark.parametrize(
    "make", [sparse.csr_matrix, sparse.csc_matrix, lambda x: x.toarray()], ids=["csr", "csc", "dense"]
)
def test_counts_that_were_won_back_are_rounded(make, section, default, rejects):
    expected = sagefm.tl.embed(section, default, copy=True)
    totals = np.asarray(section.X.sum(axis=1)).ravel()
    section.X = scaled(section, 1e4, log=True).expm1()
    section.X = make(sparse.csr_matrix(sparse.diags_array(totals / 1e4) @ section.X).astype(np.float32))
    message = rejects(
        CountsError, section, lambda: sagefm.tl.embed(section, default), "fractional", "of whole numbers", "Round"
    )
    again = repaired(section, message)
    sagefm.tl.embed(again, default)
    np.testing.assert_array_equal(again.obsm["X_sagefm"], expected.obsm["X_sagefm"])


@pytest.mark.parametrize("share", [0.02, 1.0])
def test_counts_that_ambient_rna_was_removed_from_are_rounded(share, synovium, synovium_model, rejects):
    rng = np.random.default_rng(0)
    synovium.layers["clean"] = synovium.X.copy()
    data = synovium.layers["clean"].data
    data -= (0.45 * rng.random(data.size) * (rng.random(data.size) < share)).astype(np.float32)
    call = lambda adata: sagefm.tl.embed(adata, synovium_model, layer="clean")
    del synovium.raw
    synovium.X = synovium.layers["clean"]
    message = rejects(CountsError, synovium, lambda: call(synovium), "SoupX", "adata.layers['clean'].rint()")
    call(repaired(synovium, message))


def test_genes_that_are_nan_in_one_of_joined_sections(section, default, rejects):
    section.X = section.X.toarray()
    section.X[:200, 250:] = np.nan
    message = rejects(CountsError, section, lambda: sagefm.tl.embed(section, default), "NaN", "50 genes", "outer join")
    measured = repaired(section, message)
    assert measured.n_vars == 250
    sagefm.tl.embed(measured, default)


# Single counts that cannot be true


@pytest.mark.parametrize("value", [10_000, 65_535, 1e6, 2**32 - 1])
@pytest.mark.parametrize("n_wild", [1, 2])
def test_wild_counts_are_read_as_the_largest_of_the_others(value, n_wild, synovium, synovium_model, state):
    expected = sagefm.tl.embed(synovium, synovium_model, copy=True).obsm["X_sagefm"]
    gene = synovium.var_names.get_loc("MALAT1")
    counts = synovium.X.tolil()
    counts[:n_wild, gene] = value
    synovium.X = counts.tocsr()
    before = state(synovium)["X"]
    names = synovium.obs_names[:n_wild]
    with pytest.warns(
        UserWarning, match=f"{n_wild} of the counts cannot be true.*MALAT1 in spot {names[0]!r}"
    ) as caught:
        sagefm.tl.embed(synovium, synovium_model)
    assert state(synovium)["X"] == before
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(synovium.obsm["X_sagefm"], expected, strict=True)]
    assert np.mean(r) > 0.99
    kept = repaired(synovium, str(caught[0].message))
    assert kept.obs_names.equals(synovium.obs_names[n_wild:])


def test_wild_counts_of_one_spot(synovium, synovium_model):
    expected = sagefm.tl.embed(synovium, synovium_model, copy=True).obsm["X_sagefm"][1:]
    counts = synovium.X.tolil()
    counts[0, [3, 500, 9000]] = 65_535
    synovium.X = counts.tocsr()
    with pytest.warns(UserWarning, match="3 of the counts cannot be true"):
        sagefm.tl.embed(synovium, synovium_model)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(synovium.obsm["X_sagefm"][1:], expected, strict=True)]
    assert np.mean(r) > 0.99


def test_counts_that_are_high_but_true(synovium, synovium_model):
    """A hot spot: a gene that most of a spot's counts are of, less at the next spot, and so on."""
    gene = synovium.var_names.get_loc("MALAT1")
    counts = synovium.X.tolil()
    counts[:5, gene] = np.array([[20_000, 6_000, 2_500, 1_000, 400]]).T
    counts[7, :] = 30 * counts[7, :].toarray()  # a spot that is deep altogether
    synovium.X = counts.tocsr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sagefm.tl.embed(synovium, synovium_model)


def test_a_wild_count_is_compared_within_its_section(section, default):
    """A gene that is high in one section, and wild in one spot of another."""
    section.obs["library"] = np.repeat(["a", "b"], 200)
    counts = section.X.tolil()
    counts[:200, 3] = 5_000
    counts[200:, 3] = 2
    counts[200, 3] = 60_000
    section.X = counts.tocsr()
    with pytest.warns(UserWarning, match="1 of the counts cannot be true.*the largest elsewhere is 2;"):
        sagefm.tl.embed(section, default, library_key="library")
