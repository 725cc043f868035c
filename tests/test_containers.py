"""AnnData, SpatialData and MuData; files; and scanpy and squidpy on what the verbs wrote."""

from __future__ import annotations

import anndata as ad
import geopandas as gpd
import matplotlib.pyplot as plt
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import spatialdata as sd
import squidpy as sq
from matplotlib.axes import Axes
from shapely import Point
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

import sagefm
from sagefm.errors import CoordinatesError, MissingKeyError
from sagefm.model import SAGEFM

WRITTEN = {
    "layers": ["sagefm_imputed"],
    "obsm": ["X_sagefm", "sagefm_perturb"],
    "obsp": ["sagefm_connectivities", "sagefm_distances"],
    "uns": ["sagefm", "sagefm_neighbors", "sagefm_perturb"],
}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def of_section(_section, folders, run_verbs):
    return run_verbs(_section.copy(), folders["default"])


def circles(coordinates, ids) -> gpd.GeoDataFrame:
    return ShapesModel.parse(
        gpd.GeoDataFrame({"radius": 27.5}, geometry=[Point(xy) for xy in coordinates], index=ids),
        transformations={"global": Identity()},
    )


def spatial_data(adata, *, with_spatial: bool = True, names=("table",)) -> sd.SpatialData:
    """Spots as circles, and tables that annotate them; the circles are in another order than the table's rows."""
    ids = np.arange(adata.n_obs) * 3 + 7
    order = np.random.default_rng(0).permutation(adata.n_obs)
    shapes = circles(adata.obsm["spatial"][order], ids[order])
    tables = {}
    for name in names:
        table = adata.copy()
        table.obs["region"] = pd.Categorical(["spots"] * adata.n_obs)
        table.obs["spot_id"] = ids
        if not with_spatial:
            del table.obsm["spatial"]
        tables[name] = TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")
    return sd.SpatialData(shapes={"spots": shapes}, tables=tables)


def multi_modal(adata) -> md.MuData:
    protein = ad.AnnData(np.ones((adata.n_obs, 3), dtype=np.float32), obs=pd.DataFrame(index=adata.obs_names))
    protein.var_names = ["CD3", "CD19", "CD45"]
    return md.MuData({"rna": adata.copy(), "protein": protein})


# SpatialData


@pytest.mark.parametrize("with_spatial", [True, False])
def test_spatialdata(with_spatial, section, default, of_section, run_verbs, assert_same):
    sdata = spatial_data(section, with_spatial=with_spatial)
    assert_same(run_verbs(sdata, default, table=lambda s: s["table"]), of_section)
    np.testing.assert_array_equal(sdata["table"].obsm["spatial"], section.obsm["spatial"])


def test_spatialdata_of_two_sections(sections, default):
    """The circles of two sections, each in its own element, as spatialdata-io reads several samples."""
    alone = sections.copy()
    sagefm.tl.embed(alone, default, library_key="library")
    shapes, table = {}, sections.copy()
    table.obs["spot_id"] = np.tile(np.arange(150), 2)
    for name in sections.obs["library"].cat.categories:
        rows = (sections.obs["library"] == name).to_numpy()
        shapes[name] = circles(sections.obsm["spatial"][rows], np.arange(150))
    del table.obsm["spatial"]
    table = TableModel.parse(table, region=list(shapes), region_key="library", instance_key="spot_id")
    sdata = sd.SpatialData(shapes=shapes, tables={"table": table})
    sagefm.tl.embed(sdata, default, library_key="library")
    np.testing.assert_array_equal(sdata["table"].obsm["X_sagefm"], alone.obsm["X_sagefm"])


def test_several_tables_need_a_name(section, default, of_section, run_verbs, assert_same, rejects):
    sdata = spatial_data(section, names=("counts", "other"))
    rejects(MissingKeyError, sdata, lambda: sagefm.tl.embed(sdata, default), "table_key", "'counts'", "'other'")
    rejects(MissingKeyError, sdata, lambda: sagefm.tl.embed(sdata, default, table_key="x"), "table_key='x'", "'counts'")
    assert_same(run_verbs(sdata, default, table=lambda s: s["counts"], table_key="counts"), of_section)
    assert not any("sagefm" in key for key in sdata["other"].obsm)


def test_spatialdata_without_tables(section, default):
    sdata = sd.SpatialData(shapes=spatial_data(section).shapes)
    with pytest.raises(MissingKeyError, match="table_key"):
        sagefm.tl.embed(sdata, default)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda table: table.X.__setitem__((0, 0), -1), "negative"),
        (lambda table: table.obs.drop(columns="domain", inplace=True), "domain"),
    ],
)
def test_an_error_leaves_spatialdata_as_it_was(damage, error, section, default, rejects):
    sdata = spatial_data(section, with_spatial=False)
    sdata["table"].X = sdata["table"].X.toarray()
    damage(sdata["table"])
    call = lambda: sagefm.tl.embed(sdata, default, library_key="domain")
    rejects({"negative": sagefm.errors.CountsError, "domain": MissingKeyError}[error], sdata, call, error)


def test_spots_without_a_shape(section, default, rejects):
    sdata = spatial_data(section, with_spatial=False)
    sdata.shapes["spots"] = sdata.shapes["spots"].drop(index=[7, 10])
    rejects(CoordinatesError, sdata, lambda: sagefm.tl.embed(sdata, default), "2 of 400", "spots")


def test_copy_of_spatialdata(section, default, state, of_section):
    sdata = spatial_data(section, with_spatial=False)
    before = state(sdata)
    copy = sagefm.tl.embed(sdata, default, copy=True)
    assert isinstance(copy, sd.SpatialData)
    assert state(sdata) == before
    np.testing.assert_array_equal(copy["table"].obsm["X_sagefm"], of_section.embedding)


def test_spatialdata_on_disk(section, default, of_section, run_verbs, assert_same, tmp_path):
    spatial_data(section, with_spatial=False).write(tmp_path / "raw.zarr")
    sdata = sd.read_zarr(tmp_path / "raw.zarr")
    result = run_verbs(sdata, default, table=lambda s: s["table"])
    assert_same(result, of_section)
    sdata.write(tmp_path / "result.zarr")
    again = sd.read_zarr(tmp_path / "result.zarr")
    assert_everything_is_there(again["table"], sdata["table"])
    sagefm.tl.embed(again, default)
    np.testing.assert_array_equal(again["table"].obsm["X_sagefm"], of_section.embedding)


def test_shapes_in_other_units(section, default):
    """Spots are compared with spots: a transformation to another coordinate system changes no neighborhood."""
    sdata = spatial_data(section, with_spatial=False)
    sd.transformations.set_transformation(sdata.shapes["spots"], Scale([0.5, 0.5], ("x", "y")), "global")
    sagefm.tl.embed(section, default)
    sagefm.tl.embed(sdata, default)
    np.testing.assert_array_equal(sdata["table"].obsm["X_sagefm"], section.obsm["X_sagefm"])


def test_setup_spatialdata(section):
    sdata = spatial_data(section, with_spatial=False)
    SAGEFM.setup_spatialdata(sdata)
    model = SAGEFM(sdata, hidden=(8, 4))
    model.train(max_epochs=1, accelerator="cpu")
    latent = model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(section), latent)
    np.testing.assert_array_equal(model.get_latent_representation(spatial_data(section)), latent)


# MuData


def test_mudata(section, default, of_section, run_verbs, assert_same, rejects):
    mdata = multi_modal(section)
    rejects(MissingKeyError, mdata, lambda: sagefm.tl.embed(mdata, default), "mod", "'rna'", "'protein'")
    rejects(MissingKeyError, mdata, lambda: sagefm.tl.embed(mdata, default, mod="atac"), "mod='atac'", "'rna'")
    assert_same(run_verbs(mdata, default, table=lambda m: m["rna"], mod="rna"), of_section)
    assert not mdata["protein"].obsm.keys()
    assert_same(run_verbs(md.MuData({"only": section}), default, table=lambda m: m["only"]), of_section)


def test_copy_of_mudata(section, default, state, of_section):
    mdata = multi_modal(section)
    before = state(mdata)
    copy = sagefm.tl.embed(mdata, default, mod="rna", copy=True)
    assert isinstance(copy, md.MuData)
    assert state(mdata) == before
    np.testing.assert_array_equal(copy["rna"].obsm["X_sagefm"], of_section.embedding)


def test_mudata_on_disk(section, default, run_verbs, tmp_path):
    mdata = multi_modal(section)
    run_verbs(mdata, default, table=lambda m: m["rna"], mod="rna")
    mdata.write_h5mu(tmp_path / "result.h5mu")
    assert_everything_is_there(md.read_h5mu(tmp_path / "result.h5mu")["rna"], mdata["rna"])


def test_setup_mudata(section):
    mdata = multi_modal(section)
    SAGEFM.setup_mudata(mdata, mod="rna")
    model = SAGEFM(mdata, mod="rna", hidden=(8, 4))
    model.train(max_epochs=1, accelerator="cpu")
    assert model.get_latent_representation().shape == (400, 4)


# Files


def assert_equal(found, expected) -> None:
    if isinstance(expected, dict):
        assert set(found) == set(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_names=False)
    elif hasattr(expected, "nnz"):
        assert type(found).__name__.startswith("csr")
        assert (found != expected).nnz == 0
    else:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def assert_everything_is_there(found, expected) -> None:
    for part, keys in WRITTEN.items():
        for key in keys:
            assert_equal(getattr(found, part)[key], getattr(expected, part)[key])
    for column in ("sagefm_imputed", "sagefm_imputed_r", "sagefm_imputed_q"):
        np.testing.assert_array_equal(found.var[column], expected.var[column])


def read(adata, path):
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return ad.read_h5ad(path)
    adata.write_zarr(path)
    return ad.read_zarr(path)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_files(suffix, section, default, run_verbs, assert_same, tmp_path):
    SAGEFM.setup_anndata(section)
    sagefm.pp.match_genes(section, model=default)
    result = run_verbs(section, default)
    again = read(section, tmp_path / f"section{suffix}")
    assert_everything_is_there(again, section)
    assert again.var["sagefm_gene"].to_list() == section.var["sagefm_gene"].to_list()
    assert again.uns["sagefm"]["coverage"]["n_matched"] == 300
    # The stored graph is taken for what it is, and the results are the same.
    graph = again.obsp["sagefm_connectivities"]
    assert_same(run_verbs(again, default), result)
    assert again.obsp["sagefm_connectivities"] is graph


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_files_of_some_genes(suffix, section, default, tmp_path):
    """Requested genes, measured and not: a sparse layer and a table in obsm; and every argument in uns."""
    measured = section[:, section.var_names != "MVP"].copy()
    measured.layers["counts"], measured.var["symbol"] = measured.X.copy(), measured.var_names
    arguments = {"layer": "counts", "gene_key": "symbol", "library_key": "library"}
    sagefm.tl.impute(measured, default, genes=["DBI", "MVP"], progress=False, **arguments)
    sagefm.tl.perturb(measured, default, sources="DBI", targets=["MVP"], progress=False, **arguments)
    again = read(measured, tmp_path / f"section{suffix}")
    assert_equal(again.layers["sagefm_imputed"], measured.layers["sagefm_imputed"])
    assert_equal(again.obsm["sagefm_imputed"], measured.obsm["sagefm_imputed"])
    assert_equal(again.uns["sagefm_perturb"], measured.uns["sagefm_perturb"])
    assert_equal(again.uns["sagefm"], measured.uns["sagefm"])
    assert again.uns["sagefm"]["sagefm_imputed"]["layer"] == "counts"
    sagefm.pl.imputation(again, "DBI")
    sagefm.pl.imputation(again, "MVP")


def test_a_table_that_was_read_is_set_up_again(section, tmp_path):
    SAGEFM.setup_anndata(section)
    again = read(section, tmp_path / "section.h5ad")
    SAGEFM.setup_anndata(again)
    model = SAGEFM(again, hidden=(8, 4))
    model.train(max_epochs=1, accelerator="cpu")
    assert model.get_latent_representation().shape == (400, 4)


# scanpy and squidpy


def assert_pictures(adata, pairs) -> None:
    source, target = pairs.iloc[0]
    gene = adata.var_names[adata.var["sagefm_imputed"]][0]
    pictures = [
        sagefm.pl.embedding(adata),
        *sagefm.pl.embedding(adata, components=[0, 1]),
        *sagefm.pl.imputation(adata, gene),
        sagefm.pl.perturbation(adata, source, target),
        sagefm.pl.perturbation_heatmap(adata),
        sagefm.pl.neighborhood(adata, adata.obs_names[3]),
    ]
    for ax in pictures:
        assert isinstance(ax, Axes)
        ax.figure.canvas.draw()


def test_a_scanpy_workflow(section, default, pairs, run_verbs, tmp_path):
    run_verbs(section, default)
    sc.pp.neighbors(section, use_rep="X_sagefm")
    sc.tl.leiden(section, flavor="igraph", n_iterations=2, directed=False)
    assert section.obs["leiden"].nunique() > 1
    sq.pl.spatial_scatter(section, color="leiden", shape=None)
    sc.pl.embedding(section, basis="spatial", color="leiden", show=False)
    assert_pictures(section, pairs)
    again = read(section, tmp_path / "section.h5ad")
    assert_everything_is_there(again, section)
    assert again.obs["leiden"].equals(section.obs["leiden"])
    sq.pl.spatial_scatter(again, color="leiden", shape=None)
    assert_pictures(again, pairs)


def test_a_workflow_on_a_real_section(synovium, synovium_model, tmp_path):
    synovium.layers["counts"] = synovium.X.copy()
    sc.pp.normalize_total(synovium)
    sc.pp.log1p(synovium)
    sagefm.tl.embed(synovium, synovium_model, layer="counts")
    sagefm.tl.impute(synovium, synovium_model, genes=["CD74", "COL1A1"], layer="counts", progress=False)
    pairs = pd.DataFrame({"source": ["CXCL12", "COL1A1"], "target": ["CD74", "CD44"]})
    sagefm.tl.perturb(synovium, synovium_model, pairs=pairs, layer="counts", n_null=50, progress=False)
    sc.pp.neighbors(synovium, use_rep="X_sagefm")
    sc.tl.leiden(synovium, flavor="igraph", n_iterations=2, directed=False)
    synovium.write_h5ad(tmp_path / "synovium.h5ad")
    again = ad.read_h5ad(tmp_path / "synovium.h5ad")
    assert_pictures(again[:, ["CD74", "COL1A1", "CD44"]].copy(), pairs)


def test_squidpys_graph_is_read(section, default):
    moved = section.obsm["spatial"] + np.random.default_rng(0).normal(scale=5, size=(400, 2))
    section.obsm["spatial"] = moved  # no ties: the 14 nearest are the 14 nearest
    sagefm.tl.embed(section, default)
    expected = section.obsm["X_sagefm"]
    sq.gr.spatial_neighbors_knn(section, n_neighs=14, key_added="spatial")
    sagefm.tl.embed(section, default, neighbors_key="spatial")
    np.testing.assert_allclose(section.obsm["X_sagefm"], expected, rtol=1e-6, atol=1e-6)
    assert section.uns["sagefm"]["X_sagefm"]["neighbors_key"] == "spatial"


def test_squidpys_other_graphs_are_read(section, checkpoint):
    """Neighbors by radius: their number differs from spot to spot, and is 6 at most."""
    sq.gr.spatial_neighbors_radius(section, radius=110.0, key_added="ring")
    sagefm.tl.embed(section, checkpoint, neighbors_key="ring")
    sagefm.tl.impute(section, checkpoint, neighbors_key="ring", progress=False)
    assert np.isfinite(section.obsm["X_sagefm"]).all()
    assert np.isfinite(section.layers["sagefm_imputed"]).all()
