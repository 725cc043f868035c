"""One embedding a section."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData
from spatialdata.models import TableModel

import sagefm
from sagefm.errors import ArgumentError, CoordinatesError, MissingKeyError


@pytest.fixture
def adata():
    """60 spots of sections "s1" to "s3" (33, 26 and one spot) in mixed order, an embedding of 4 dimensions."""
    rng = np.random.default_rng(0)
    section = rng.permutation(np.repeat([1, 2, 3], [33, 26, 1]))
    obs = pd.DataFrame(
        {
            "section": pd.Categorical([f"s{i}" for i in section], categories=["s3", "s1", "s2", "s9"], ordered=True),
            "donor": ["A" if i < 3 else "B" for i in section],
            "age": np.array([0, 61.5, 48, np.nan])[section],
            "subtype": pd.Categorical(np.array(["", "luminal", "basal", "basal"])[section]),
            "depth": rng.random(60),
            "sometimes": [None if i == 1 and j % 2 else "x" for j, i in enumerate(section)],
        },
        index=[f"spot{i}" for i in range(60)],
    )
    adata = ad.AnnData(np.ones((60, 2), np.float32), obs=obs)
    adata.obsm["X_sagefm"] = rng.normal(size=(60, 4)).astype(np.float32) + 100
    adata.uns["sagefm"] = {"X_sagefm": {"model": "m", "checkpoint_sha256": "abc"}, "other": {"a": 1}}
    return adata


def test_mean_and_deviation(adata):
    pooled = sagefm.tl.pool(adata, library_key="section", statistics=["mean", "std"])
    assert list(pooled.obs_names) == ["s3", "s1", "s2"]
    assert list(pooled.var_names) == [f"{name}_{i}" for name in ("mean", "std") for i in range(4)]
    assert pooled.X.dtype == np.float32
    for name in pooled.obs_names:
        spots = adata.obsm["X_sagefm"][(adata.obs["section"] == name).to_numpy()].astype(float)
        np.testing.assert_allclose(pooled[name].X[0, :4], spots.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(pooled[name].X[0, 4:], spots.std(axis=0), rtol=1e-6, atol=1e-12)
    assert (pooled["s3", 4:].X == 0).all()


def test_the_order_of_statistics_is_that_asked_for(adata):
    one = sagefm.tl.pool(adata, library_key="section", statistics=["mean", "std"])
    other = sagefm.tl.pool(adata, library_key="section", statistics=["std", "mean"])
    assert other.var_names[0] == "std_0"
    np.testing.assert_array_equal(other[:, one.var_names].X, one.X)
    np.testing.assert_array_equal(sagefm.tl.pool(adata, library_key="section").X, one.X[:, :4])
    np.testing.assert_array_equal(sagefm.tl.pool(adata, library_key="section", statistics="std").X, one.X[:, 4:])


def test_columns_that_are_constant_in_each_section(adata):
    obs = sagefm.tl.pool(adata, library_key="section").obs
    assert list(obs.columns) == ["section", "donor", "age", "subtype", "n_spots"]
    assert obs["n_spots"].tolist() == [1, 33, 26]
    assert obs["donor"].tolist() == ["B", "A", "A"]
    assert obs["subtype"].tolist() == ["basal", "luminal", "basal"]
    assert isinstance(obs["subtype"].dtype, pd.CategoricalDtype)
    np.testing.assert_array_equal(obs["age"], [np.nan, 61.5, 48])
    assert obs["section"].astype(str).tolist() == list(obs.index)


def test_order_of_spots_does_not_matter(adata):
    expected = sagefm.tl.pool(adata, library_key="section")
    shuffled = sagefm.tl.pool(adata[::-1].copy(), library_key="section")
    np.testing.assert_allclose(shuffled.X, expected.X, rtol=1e-6)
    pd.testing.assert_frame_equal(shuffled.obs, expected.obs)


def test_small_sections_are_left_out(adata):
    pooled = sagefm.tl.pool(adata, library_key="section", min_spots=26)
    assert list(pooled.obs_names) == ["s1", "s2"]
    np.testing.assert_array_equal(pooled.X, sagefm.tl.pool(adata, library_key="section")[["s1", "s2"]].X)


def test_provenance_and_files(adata, tmp_path, state):
    before = state(adata)
    pooled = sagefm.tl.pool(adata, library_key="section", statistics=["mean", "std"], min_spots=2)
    assert state(adata) == before
    assert pooled.uns["sagefm"] == {
        "X_sagefm": {"model": "m", "checkpoint_sha256": "abc"},
        "pool": {
            "library_key": "section",
            "use_rep": "X_sagefm",
            "statistics": ["mean", "std"],
            "min_spots": 2,
        },
    }
    pooled.write_h5ad(tmp_path / "pooled.h5ad")
    again = ad.read_h5ad(tmp_path / "pooled.h5ad")
    np.testing.assert_array_equal(again.X, pooled.X)
    assert list(again.uns["sagefm"]["pool"]["statistics"]) == ["mean", "std"]
    pooled.write_zarr(tmp_path / "pooled.zarr")
    pooled.uns["sagefm"]["X_sagefm"]["model"] = "changed"
    assert state(adata) == before


def test_another_embedding_without_provenance(adata):
    adata.obsm["X_pca"] = pd.DataFrame(np.arange(60.0)[:, None], index=adata.obs_names)
    pooled = sagefm.tl.pool(adata, library_key="donor", use_rep="X_pca")
    assert pooled.shape == (2, 1)
    assert set(pooled.uns["sagefm"]) == {"pool"}


def protein(adata):
    return ad.AnnData(np.ones((adata.n_obs, 1)), obs=adata.obs[[]].copy(), var=pd.DataFrame(index=["CD3"]))


def test_containers(adata):
    expected = sagefm.tl.pool(adata, library_key="section")
    mdata = md.MuData({"rna": adata.copy(), "protein": protein(adata)})
    found = sagefm.tl.pool(mdata, library_key="section", mod="rna")
    np.testing.assert_array_equal(found.X, expected.X)
    sdata = SpatialData(tables={"counts": TableModel.parse(adata.copy())})
    np.testing.assert_array_equal(sagefm.tl.pool(sdata, library_key="section", table_key="counts").X, expected.X)


def test_a_model(sections, default):
    sagefm.tl.embed(sections, default, library_key="library")
    pooled = sagefm.tl.pool(sections, library_key="library")
    expected = sections.obsm["X_sagefm"].reshape(2, 150, -1).mean(axis=1)
    np.testing.assert_allclose(pooled.X, expected, rtol=1e-5, atol=1e-6)
    assert pooled.uns["sagefm"]["X_sagefm"]["checkpoint_sha256"] == default.sha256


@pytest.mark.parametrize("statistics", [[], "median", ["mean", "median"], ["mean", "mean"]])
def test_statistics(adata, statistics, rejects):
    call = lambda: sagefm.tl.pool(adata, library_key="section", statistics=statistics)
    rejects(ArgumentError, adata, call, f"statistics={statistics!r}", "'mean'", "'std'")


def test_errors(adata, rejects):
    pool = sagefm.tl.pool
    rejects(MissingKeyError, adata, lambda: pool(adata, library_key="x"), "library_key='x'", "'donor'")
    call = lambda: pool(adata, library_key="section", use_rep="X_x")
    rejects(MissingKeyError, adata, call, "use_rep='X_x'", "sagefm.tl.embed(adata, model, key_added='X_x')")
    rejects(CoordinatesError, adata, lambda: pool(adata, library_key="sometimes"), "adata.obs['sometimes']", "of 60")
    rejects(ArgumentError, adata, lambda: pool(adata, library_key="section", min_spots=0), "min_spots=0")
    call = lambda: pool(adata, library_key="section", min_spots=34)
    rejects(ArgumentError, adata, call, "min_spots=34", "the largest of 3 sections has 33 spots")
    adata.obsm["X_sagefm"][[3, 5], 0] = np.nan
    rejects(ArgumentError, adata, lambda: pool(adata, library_key="section"), "NaN", "2 of 60", "sagefm.tl.embed")
