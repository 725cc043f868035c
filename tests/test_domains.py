"""``tl.domains``: what it writes, what must not change it, what it refuses, and who takes its result."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

import sagefm
from sagefm.errors import ArgumentError, CoordinatesError, CountsError, MissingKeyError, NeighborsError
from tests.recipes import run_recipe

#: Rounding, which components of nearly the same variance enlarge; their own variance is of the order of 1.
ROUNDING = {"rtol": 0, "atol": 1e-3}
TURN = np.array([[np.cos(0.7), np.sin(0.7)], [-np.sin(0.7), np.cos(0.7)]])


def agreement(first, second):
    return adjusted_rand_score(first.obs["sagefm_domain"], second.obs["sagefm_domain"])


def smoothed(adata):
    return adata.obsm["X_sagefm_domains"]


# What is written


def test_fields(section, state):
    before = state(section)
    sagefm.tl.domains(section, 4)
    domain, probability = section.obs["sagefm_domain"], section.obs["sagefm_domain_probability"]
    assert domain.cat.categories.to_list() == ["0", "1", "2", "3"]
    assert domain.value_counts(sort=False).is_monotonic_decreasing
    assert probability.between(0.25, 1.000001).all()
    assert smoothed(section).shape == (400, 12)
    assert smoothed(section).dtype == np.float32
    assert smoothed(section).var(axis=0).mean() == pytest.approx(1, rel=1e-4)
    stored = section.uns["sagefm_domain"]
    assert len(stored["components"]) == 30
    assert stored["components"]["signal_share"].between(0.02, 0.97).all()
    assert set(stored["components"]["high"].str.split(", ").explode()) <= set(section.var_names)
    assert len(stored["criterion"]) == 0
    assert stored["params"]["n_domains"] == 4
    assert not stored["params"]["is_chosen"]
    after = state(section)
    assert {name: after[name] for name in ("X", "layers", "obsp", "var")} == {
        name: before[name] for name in ("X", "layers", "obsp", "var")
    }


def test_domains_are_found(section):
    sagefm.tl.domains(section, 4)
    assert adjusted_rand_score(section.obs["domain"], section.obs["sagefm_domain"]) > 0.95


def test_number_is_chosen(section):
    sagefm.tl.domains(section)
    stored = section.uns["sagefm_domain"]
    assert stored["params"]["is_chosen"]
    assert stored["criterion"]["n_domains"].to_list() == list(range(1, 16))
    assert section.obs["sagefm_domain"].nunique() == stored["params"]["n_domains"] == 4


def test_copy(section, state):
    before = state(section)
    copied = sagefm.tl.domains(section, 4, copy=True)
    assert state(section) == before
    assert sagefm.tl.domains(section, 4) is None
    assert agreement(section, copied) == 1


def test_other_key(section):
    sagefm.tl.domains(section, 3, key_added="region")
    assert {"region", "region_probability"} <= set(section.obs)
    assert "X_region" in section.obsm
    assert section.uns["region"]["params"]["basis"] == "X_region"


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_written_and_read(suffix, section, tmp_path):
    sagefm.tl.domains(section)
    path = tmp_path / f"section.{suffix}"
    (section.write_h5ad if suffix == "h5ad" else section.write_zarr)(path)
    stored = (ad.read_h5ad if suffix == "h5ad" else ad.read_zarr)(path)
    pd.testing.assert_series_equal(stored.obs["sagefm_domain"], section.obs["sagefm_domain"])
    found, expected = (table.uns["sagefm_domain"]["components"] for table in (stored, section))
    np.testing.assert_allclose(found["range"], expected["range"])
    assert stored.uns["sagefm_domain"]["params"]["rng"] == 0


# What must not matter


def test_seed(section):
    first, second = (sagefm.tl.domains(section, 4, rng=3, copy=True) for _ in range(2))
    np.testing.assert_array_equal(smoothed(first), smoothed(second))
    np.testing.assert_array_equal(*[table.obs["sagefm_domain_probability"] for table in (first, second)])
    drawn = sagefm.tl.domains(section, 4, rng=np.random.default_rng(0), copy=True)
    assert agreement(drawn, first) == 1


def test_threads(section):
    tables = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            tables.append(sagefm.tl.domains(section, 4, copy=True))
    np.testing.assert_allclose(*map(smoothed, tables), **ROUNDING)
    assert agreement(*tables) == 1


def test_order_of_spots(section, synovium):
    for adata in (section, synovium):
        order = np.random.default_rng(0).permutation(adata.n_obs)
        shuffled = sagefm.tl.domains(adata[order].copy(), 4, copy=True)
        expected = sagefm.tl.domains(adata, 4, copy=True)[order]
        np.testing.assert_allclose(smoothed(shuffled), smoothed(expected), **ROUNDING)
        assert agreement(shuffled, expected) == 1


def test_order_of_genes(section, synovium):
    for adata in (section, synovium):
        order = np.random.default_rng(1).permutation(adata.n_vars)
        shuffled, expected = (sagefm.tl.domains(table, 4, copy=True) for table in (adata[:, order].copy(), adata))
        np.testing.assert_allclose(smoothed(shuffled), smoothed(expected), **ROUNDING)
        assert agreement(shuffled, expected) == 1


@pytest.mark.parametrize("move", [TURN, np.diag([-1.0, 1.0]), 0.36 * np.eye(2), 1e-6 * np.eye(2)])
def test_moved_tissue(move, section, synovium):
    """Turned, mirrored and in other units, on a hexagonal and a square array: ties are no choice."""
    for adata in (section, synovium):
        expected = sagefm.tl.domains(adata, 4, copy=True)
        adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"], dtype=float) @ move
        sagefm.tl.domains(adata, 4)
        np.testing.assert_allclose(smoothed(adata), smoothed(expected), **ROUNDING)
        assert agreement(adata, expected) == 1


def test_kinds_of_counts(section, tmp_path):
    """Dense, CSC, float64, in a layer, and in a file."""
    expected = sagefm.tl.domains(section, 4, copy=True)
    layered = ad.AnnData(
        sparse.csr_matrix(section.shape), obsm=dict(section.obsm), layers={"counts": section.X.astype(np.int64)}
    )
    sagefm.tl.domains(layered, 4, layer="counts")
    section.write_h5ad(tmp_path / "section.h5ad")
    backed = ad.read_h5ad(tmp_path / "section.h5ad", backed="r")
    sagefm.tl.domains(backed, 4)
    others = [layered, backed]
    for kind in (lambda x: x.toarray(), lambda x: x.tocsc().astype(np.float64)):
        other = ad.AnnData(kind(section.X), obsm=dict(section.obsm))
        sagefm.tl.domains(other, 4)
        others.append(other)
    for other in others:
        np.testing.assert_allclose(smoothed(other), smoothed(expected), **ROUNDING)


def test_containers(section):
    """A modality of MuData, circles of SpatialData, and a Dask array give what AnnData gives."""
    import dask.array as da
    import geopandas as gpd
    from mudata import MuData
    from shapely import Point
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    expected = sagefm.tl.domains(section, 4, copy=True)
    chunked = section.copy()
    chunked.X = da.from_array(section.X.toarray(), chunks=(100, 300))
    sagefm.tl.domains(chunked, 4)
    mdata = MuData({"rna": section.copy()})
    sagefm.tl.domains(mdata, 4, mod="rna")
    circles = gpd.GeoDataFrame({"radius": np.full(400, 27.5)}, geometry=[Point(*xy) for xy in section.obsm["spatial"]])
    circles.index = pd.RangeIndex(400)
    del section.obsm["spatial"]
    section.obs = section.obs.assign(region=pd.Categorical(["spots"] * 400), spot=np.arange(400))
    table = TableModel.parse(section, region="spots", region_key="region", instance_key="spot")
    sdata = SpatialData(shapes={"spots": ShapesModel.parse(circles)}, tables={"table": table})
    sagefm.tl.domains(sdata, 4)
    for found in (chunked, mdata.mod["rna"], sdata.tables["table"]):
        np.testing.assert_allclose(smoothed(found), smoothed(expected), **ROUNDING)
        assert agreement(found, expected) == 1


# Several sections


def test_sections_share_domains():
    """Of one tissue, in two donors: a domain has one name."""
    both = sagefm.datasets.simulate(300, n_genes=300, n_sections=2, n_domains=3, rng=5)
    sagefm.tl.domains(both, 3, library_key="library")
    assert adjusted_rand_score(both.obs["domain"], both.obs["sagefm_domain"]) > 0.9
    components = both.uns["sagefm_domain"]["components"]
    assert components.groupby("section").size().to_list() == [30, 30]
    without_names = ad.AnnData(both.X, obsm={"spatial": both.obsm["spatial"]})
    with pytest.warns(UserWarning, match="300 spots have the coordinates of another spot.*Pass library_key"):
        with_donors = sagefm.tl.domains(without_names, 3, copy=True)
    assert adjusted_rand_score(both.obs["domain"], with_donors.obs["sagefm_domain"]) < 0.9


def test_regions_of_spatialdata_are_sections(sections):
    sections.uns["spatialdata_attrs"] = {"region": [], "region_key": "library", "instance_key": "id"}
    sagefm.tl.domains(sections, 4)
    assert sections.uns["sagefm_domain"]["components"]["section"].nunique() == 2


# Graph and embedding of the user


def test_own_graph(section):
    expected = sagefm.tl.domains(section, 4, copy=True)
    distances = np.linalg.norm(section.obsm["spatial"][:, None] - section.obsm["spatial"][None], axis=2)
    section.obsp["near_connectivities"] = sparse.csr_matrix((distances < 101) & (distances > 0)).astype(float)
    sagefm.tl.domains(section, 4, neighbors_key="near")
    # The six neighbors, but for spots at the edge.
    assert agreement(section, expected) > 0.95


def test_own_embedding(section):
    section.obsm["X_own"] = np.log1p(section.X.toarray())[:, :40]
    sagefm.tl.domains(section, 4, use_rep="X_own")
    assert section.uns["sagefm_domain"]["params"]["use_rep"] == "X_own"
    assert section.uns["sagefm_domain"]["components"]["high"].str.startswith("X_own ").all()
    turned = section.copy()
    turned.obsm["X_own"] = section.obsm["X_own"] @ np.linalg.qr(np.random.default_rng(0).normal(size=(40, 40)))[0]
    sagefm.tl.domains(turned, 4, use_rep="X_own")
    assert agreement(section, turned) > 0.99


# What is refused


@pytest.mark.parametrize(
    ("error", "arguments", "words"),
    [
        (ArgumentError, {"n_domains": 1}, ["n_domains=1"]),
        (ArgumentError, {"n_domains": 2.5}, ["n_domains=2.5"]),
        (ArgumentError, {"n_domains": 401}, ["n_domains=401", "400"]),
        (ArgumentError, {"rng": -1}, ["rng=-1"]),
        (ArgumentError, {"key_added": ""}, ["key_added=''"]),
        (ArgumentError, {"key_added": "spatial"}, ["key_added='spatial'"]),
        (MissingKeyError, {"layer": "counts"}, ["layer='counts'"]),
        (MissingKeyError, {"library_key": "donor"}, ["donor"]),
        (MissingKeyError, {"spatial_key": "xy"}, ["xy"]),
        (MissingKeyError, {"gene_key": "symbol"}, ["symbol"]),
        (MissingKeyError, {"use_rep": "X_pca"}, ["X_pca"]),
        (NeighborsError, {"neighbors_key": "other"}, ["other"]),
    ],
)
def test_refused(error, arguments, words, section, rejects):
    rejects(error, section, lambda: sagefm.tl.domains(section, **arguments), *words)


def test_refused_tables(section, rejects):
    logged = section.copy()
    logged.X = logged.X.log1p()
    rejects(CountsError, logged, lambda: sagefm.tl.domains(logged, 4), "raw counts")
    small = section[:6].copy()
    rejects(CoordinatesError, small, lambda: sagefm.tl.domains(small, 2), "7 spots", "(6)")
    alike = ad.AnnData(np.full((20, 2), 3, np.float32), obsm={"spatial": section.obsm["spatial"][:20]})
    rejects(ArgumentError, alike, lambda: sagefm.tl.domains(alike, 2), "alike")
    alike.X[:] = 0
    with pytest.warns(UserWarning, match="no counts"):
        rejects(ArgumentError, alike, lambda: sagefm.tl.domains(alike, 2), "alike")


def test_features_that_are_no_genes(section):
    """Proteins beside the genes take no part, however abundant they are."""
    expected = sagefm.tl.domains(section, 4, copy=True)
    proteins = sparse.csr_matrix(np.random.default_rng(0).negative_binomial(1, 1 / 500, (400, 10)).astype("f4"))
    both = ad.AnnData(sparse.hstack([proteins, section.X], format="csr"), obsm=dict(section.obsm))
    both.var_names = [*(f"protein{i}" for i in range(10)), *section.var_names]
    both.var["feature_types"] = ["Antibody Capture"] * 10 + ["Gene Expression"] * section.n_vars
    sagefm.tl.domains(both, 4)
    np.testing.assert_allclose(smoothed(both), smoothed(expected), **ROUNDING)
    found, high = (table.uns["sagefm_domain"]["components"]["high"].to_list() for table in (both, expected))
    assert found == high


def test_warns_of_empty_spots(section):
    counts = section.X.tolil()
    counts[[3, 77]] = 0
    section.X = counts.tocsr()
    with pytest.warns(UserWarning, match="2 of 400 spots have no counts"):
        sagefm.tl.domains(section, 4)
    assert adjusted_rand_score(section.obs["domain"], section.obs["sagefm_domain"]) > 0.95


def test_small_tables():
    """Few spots and few genes: fewer components, no failure."""
    for n_spots, n_genes in ((15, 300), (30, 3), (15, 1)):
        rng = np.random.default_rng(0)
        xy = np.column_stack([np.arange(n_spots) % 5, np.arange(n_spots) // 5]).astype(float)
        adata = ad.AnnData(1 + rng.poisson(3, (n_spots, n_genes)).astype(np.float32), obsm={"spatial": xy})
        if n_genes == 1:
            # A single gene says nothing beyond its total.
            with pytest.raises(ArgumentError, match="alike"):
                sagefm.tl.domains(adata, 2)
            continue
        for n_domains in (2, None):
            sagefm.tl.domains(adata, n_domains)
            assert adata.obs["sagefm_domain"].notna().all()


def test_disconnected_tissue(section):
    """Pieces of tissue far apart."""
    section.obsm["spatial"][200:] += 1e5
    sagefm.tl.domains(section, 4)
    assert adjusted_rand_score(section.obs["domain"], section.obs["sagefm_domain"]) > 0.9


# Who takes the result


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_other_tools_take_the_components(section):
    """The code of docs/domains.md: Leiden, UMAP, and the niches of squidpy and CellCharter."""
    import scanpy as sc
    import squidpy as sq

    cc = pytest.importorskip("cellcharter", reason="pip install 'sagefm[interop]'", exc_type=ImportError)
    sagefm.tl.domains(section, 4)
    run_recipe("domains.md", "In other tools", adata=section, sc=sc, sq=sq, cc=cc)
    assert section.obsm["X_umap"].shape == (400, 2)
    for column, least in (("leiden", 0.5), ("cellcharter_niche", 0.4), ("niche", 0.4)):
        assert adjusted_rand_score(section.obs["domain"], section.obs[column]) > least, column
    enrichment = section.uns["sagefm_domain_nhood_enrichment"]["zscore"]
    assert np.diag(enrichment).min() > 0
