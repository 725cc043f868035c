"""Raw counts: what is accepted, and what the networks read of them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from sagefm.data._counts import check_counts, get_counts, log1p, log_normalize, with_values
from sagefm.data._input import depth_grid, expected_roots, sparse_root
from sagefm.errors import CountsError, MissingKeyError


@pytest.fixture
def counts() -> sparse.csr_matrix:
    dense = np.random.default_rng(0).poisson(0.7, (12, 30)).astype(np.float32)
    dense[4] = 0
    return sparse.csr_matrix(dense)


def test_log1p(counts):
    found = log1p(counts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), np.log1p(counts.toarray()), rtol=1e-6)
    assert np.shares_memory(found.indices, counts.indices), "the pattern is shared, not copied"


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_log_normalize(counts, scale):
    totals = np.asarray(counts.sum(axis=1)).ravel()
    found = log_normalize(counts, scale)
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(np.log1p(scale * counts.toarray() / totals[:, None]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    assert not found[4].nnz, "a spot without counts gives zeros"


def test_with_values(counts):
    found = with_values(counts, 2 * counts.data)
    assert (found != 2 * counts).nnz == 0
    assert np.shares_memory(found.indptr, counts.indptr)


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, lambda x: x.toarray()])
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.float32, np.float64])
def test_get_counts(make, dtype, counts):
    table = ad.AnnData(np.zeros(counts.shape))
    table.layers["counts"] = make(counts.astype(dtype)) if make is not sparse.coo_matrix else counts.astype(dtype)
    found = get_counts(table, "counts")
    assert found.format == "csr"
    assert found.dtype == np.float32
    assert found.has_canonical_format
    assert (found != counts).nnz == 0


def test_counts_of_the_right_form_are_not_copied(counts):
    table = ad.AnnData(counts)
    assert np.shares_memory(get_counts(table).data, table.X.data)


def test_a_layer_is_only_read_if_asked_for(counts):
    table = ad.AnnData(counts, layers={"bad": np.full(counts.shape, 0.5)})
    get_counts(table)
    with pytest.raises(CountsError, match=r"adata\.layers\['bad'\]"):
        get_counts(table, "bad")
    with pytest.raises(MissingKeyError, match=r"layer='x'.*\['bad'\]"):
        get_counts(table, "x")


GOOD = [[0, 1, 2], [0.0, 1.0, 3.0], [True, False], [], [65535.0], [-0.0], [2.0**24]]


@pytest.mark.parametrize("values", GOOD, ids=str)
def test_counts_that_pass(values):
    check_counts(np.array(values), where="here")


BAD = [
    ([0, -1], "negative values, e.g. -1"),
    ([1.0, -2.0], "negative values, e.g. -2"),
    ([0.5], r"fractional values, e.g. 0.5 \(100%"),
    ([1.0, 1.0, 1.0, 1.1], r"e.g. 1.1 \(25%"),
    ([np.nan], "NaN"),
    ([np.inf], "infinite"),
    ([1 + 1e-6], "fractional"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=str)
def test_counts_that_do_not_pass(values, message):
    with pytest.raises(CountsError, match=rf"^here holds .*{message}") as raised:
        check_counts(np.array(values), where="here")
    assert "layer=" in str(raised.value)


def test_values_that_are_no_numbers():
    for values in (np.array(["1", "2"]), np.array([1, 2], dtype=object)):
        with pytest.raises(CountsError, match="values of type"):
            check_counts(values, where="here")


def test_root_and_what_is_expected_of_it_at_a_depth():
    """Interpolated between depths, the expectation is that of each depth, to float32."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(0.5, (40, 30)).astype(np.float32))
    np.testing.assert_allclose(
        sparse_root(counts).toarray(), 2 * np.sqrt(counts.toarray() + 3 / 8) - 2 * np.sqrt(3 / 8), atol=1e-6
    )
    sizes = np.concatenate([[0, 1, 2], rng.lognormal(8, 2, 200)])
    profile = rng.dirichlet(np.full(30, 0.2))
    weights, depths = depth_grid(sizes)
    found = weights @ expected_roots(depths, profile)
    expected = 2 * np.sqrt(np.multiply.outer(np.maximum(sizes, 1), profile) + 3 / 8) - 2 * np.sqrt(3 / 8)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    assert len(depths) < 200
