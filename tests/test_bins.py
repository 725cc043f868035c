"""Bins far smaller than Visium's spots: the warning, and the call that adds them up."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import sagefm
from sagefm.errors import ArgumentError


@pytest.fixture
def bins():
    """40 x 40 bins, 8 um wide, 4 pixels each."""
    rng = np.random.default_rng(0)
    at = np.stack(np.meshgrid(np.arange(40), np.arange(40)), axis=-1).reshape(-1, 2)
    counts = sparse.csr_matrix(rng.poisson(0.1, (1600, 30)).astype(np.float32))
    adata = AnnData(counts, obsm={"spatial": at * 4.0 + 100})
    adata.var["kind"] = "gene"
    adata.uns["spatial"] = {"hd": {"scalefactors": {"microns_per_pixel": 2.0, "bin_size_um": 8.0}}}
    return adata


def test_warning_and_repair(bins):
    with pytest.warns(UserWarning, match=r"spots are 8 um apart.*aggregate_bins\(adata, width=50\)"):
        sagefm.pp.spatial_neighbors(bins)
    tiles = sagefm.pp.aggregate_bins(bins, width=50)
    assert tiles.n_obs == 16
    assert tiles.X.sum() == bins.X.sum()
    assert tiles.obs["n_bins"].sum() == 1600
    assert list(tiles.var["kind"]) == list(bins.var["kind"])
    first = (bins.obsm["spatial"] < 150).all(axis=1)
    np.testing.assert_array_equal(tiles.X[0].toarray().ravel(), bins.X[first].toarray().sum(axis=0))
    np.testing.assert_allclose(tiles.obsm["spatial"][0], bins.obsm["spatial"][first].mean(axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sagefm.pp.spatial_neighbors(tiles)


def test_bin_size_without_pixels(bins):
    del bins.uns["spatial"]["hd"]["scalefactors"]["microns_per_pixel"]
    with pytest.warns(UserWarning, match=r"bins of 8 um.*width=50\)"):
        sagefm.pp.spatial_neighbors(bins)
    tiles = sagefm.pp.aggregate_bins(bins, width=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sagefm.pp.spatial_neighbors(tiles)
    assert "bin_size_um" in bins.uns["spatial"]["hd"]["scalefactors"]


def test_tiles_are_of_one_library(bins):
    bins.obs["library"] = pd.Categorical(np.where(np.arange(1600) % 2, "b", "a"))
    tiles = sagefm.pp.aggregate_bins(bins, width=50, library_key="library")
    sums = bins.obs.assign(total=bins.X.sum(axis=1)).groupby("library", observed=True)["total"].sum()
    tiles.obs["total"] = tiles.X.sum(axis=1)
    pd.testing.assert_series_equal(tiles.obs.groupby("library", observed=True)["total"].sum(), sums, check_dtype=False)


@pytest.mark.parametrize("width", [0, -1, np.nan, np.inf])
def test_bad_width(bins, width):
    with pytest.raises(ArgumentError, match="positive width"):
        sagefm.pp.aggregate_bins(bins, width=width)


def test_visium_does_not_warn(synovium):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sagefm.pp.spatial_neighbors(synovium)
