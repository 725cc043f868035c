"""MuData; files; and scanpy and squidpy on what the verbs wrote."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import squidpy as sq
from matplotlib.axes import Axes

import sagefm
from sagefm.errors import MissingKeyError
from sagefm.model import SAGEFM
from tests import OTHER_KERNELS
from tests.written import assert_equal, assert_everything_is_there


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def multi_modal(adata) -> md.MuData:
    protein = ad.AnnData(np.ones((adata.n_obs, 3), dtype=np.float32), obs=pd.DataFrame(index=adata.obs_names))
    protein.var_names = ["CD3", "CD19", "CD45"]
    return md.MuData({"rna": adata.copy(), "protein": protein})


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
    latent = model.get_latent_representation()
    assert latent.shape == (400, 4)
    np.testing.assert_array_equal(model.get_latent_representation(multi_modal(section)), latent)
    again = SAGEFM.from_pretrained(model.to_checkpoint(), multi_modal(section), mod="rna")
    np.testing.assert_array_equal(again.get_latent_representation(), latent)
    np.testing.assert_array_equal(again.get_latent_representation(mdata), latent)


# Files


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
    sagefm.tl.perturb(synovium, synovium_model, pairs=pairs, layer="counts", progress=False)
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
    np.testing.assert_allclose(section.obsm["X_sagefm"], expected, **OTHER_KERNELS)
    assert section.uns["sagefm"]["X_sagefm"]["neighbors_key"] == "spatial"


def test_squidpys_other_graphs_are_read(section, checkpoint):
    """Neighbors by radius: their number differs from spot to spot, and is 6 at most."""
    sq.gr.spatial_neighbors_radius(section, radius=110.0, key_added="ring")
    sagefm.tl.embed(section, checkpoint, neighbors_key="ring")
    sagefm.tl.impute(section, checkpoint, neighbors_key="ring", progress=False)
    assert np.isfinite(section.obsm["X_sagefm"]).all()
    assert np.isfinite(section.layers["sagefm_imputed"]).all()
