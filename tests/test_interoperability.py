"""The packages that work on what the verbs write, by the code of docs/interoperability.md, on a real section."""

from __future__ import annotations

import importlib
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import squidpy as sq

import sagefm
from sagefm.model import SAGEFM
from tests.recipes import run_recipe

PAGE = "interoperability.md"
#: Markers of white matter and of astrocytes among the genes of the section.
MARKERS = {
    "myelin": ["PLP1", "MBP", "MOBP", "MAG", "CNP", "MAL", "CLDN11", "TF"],
    "astrocyte": ["GFAP", "AQP4", "AGT", "S100B"],
}


def optional(name: str) -> Any:
    """Return a package of the extra `interop`, or skip the test."""
    return pytest.importorskip(name, reason="pip install 'sagefm[interop]'", exc_type=ImportError)


@pytest.fixture(scope="module")
def _processed() -> ad.AnnData:
    whole = sagefm.datasets.dlpfc()
    # White matter and the layers next to it.
    near = (whole.obs["array_row"] < 30) & (whole.obs["array_col"] < 60)
    adata = whole[near].copy()
    sagefm.tl.embed(adata)
    sagefm.tl.impute(adata, progress=False)
    log = sc.pp.normalize_total(adata, inplace=False)["X"]
    adata.layers["log"] = sc.pp.log1p(log)
    sc.pp.neighbors(adata, use_rep="X_sagefm")
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
    return adata


@pytest.fixture
def processed(_processed: ad.AnnData) -> ad.AnnData:
    """A window of the bundled section with embedding, imputed genes, and clusters."""
    return _processed.copy()


def test_scanpy(processed):
    run_recipe(PAGE, "scanpy", adata=processed, sc=sc)
    assert processed.obs["leiden"].nunique() > 2
    assert processed.obsm["X_umap"].shape == (processed.n_obs, 2)
    matter = processed[:, "PLP1"].layers["log"].toarray().ravel()
    group = processed.obs["leiden"].cat.categories[
        pd.Series(matter).groupby(processed.obs["leiden"].to_numpy()).mean().argmax()
    ]
    markers = sc.get.rank_genes_groups_df(processed, group)["names"].head(20)
    assert {"PLP1", "MBP"} <= set(markers)


def test_squidpy(processed):
    imputed = run_recipe(PAGE, "squidpy", adata=processed, sq=sq)["imputed"]
    enrichment = processed.uns["leiden_nhood_enrichment"]["zscore"]
    # Clusters lie together.
    assert np.diag(enrichment).min() > 0
    assert np.diag(enrichment).mean() > enrichment[~np.eye(len(enrichment), dtype=bool)].mean()
    occurrence = processed.uns["leiden_co_occurrence"]["occ"]
    assert np.isfinite(occurrence).all()
    assert (occurrence[range(len(occurrence)), range(len(occurrence)), 0] > 1).all()
    moran = imputed.uns["moranI"]["I"]
    assert len(moran) == processed.var["sagefm_imputed"].sum() < processed.n_vars
    assert moran[MARKERS["myelin"]].mean() > moran.median()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_cellcharter(processed):
    run_recipe(PAGE, "CellCharter", adata=processed, cc=optional("cellcharter"))
    width = processed.obsm["X_sagefm"].shape[1]
    assert processed.obsm["X_cellcharter"].shape == (processed.n_obs, 3 * width)
    np.testing.assert_array_equal(processed.obsm["X_cellcharter"][:, :width], processed.obsm["X_sagefm"])
    assert processed.obs["niche"].nunique() == 4
    # Niches lie together, more than their shares would have it.
    graph = processed.obsp["sagefm_connectivities"].tocoo()
    niche = processed.obs["niche"].to_numpy()
    same = (niche[graph.row] == niche[graph.col]).mean()
    assert same > 1.5 * (processed.obs["niche"].value_counts(normalize=True) ** 2).sum()


def test_liana(processed):
    liana = optional("liana")
    scores = run_recipe(PAGE, "LIANA", adata=processed, sagefm=sagefm, model="default")["scores"]
    resource = liana.resource.select_resource("consensus")
    known = set(zip(resource["ligand"], resource["receptor"], strict=True))
    assert set(zip(scores["source"], scores["target"], strict=True)) <= known
    assert len(scores) > 100
    assert scores["source"].str.split("_").explode().isin(processed.var_names).all()
    assert scores["source"].str.contains("_").any()
    assert scores["target"].str.contains("_").any()
    is_measured = scores["target"].map(lambda name: set(name.split("_")) <= set(processed.var_names))
    # Of the others, complexes whose subunits were never counted together have no coupling.
    assert scores.loc[is_measured, "qval"].between(0, 1).mean() > 0.95
    assert scores.loc[~is_measured, "qval"].isna().all()
    pairs = processed.obsm["sagefm_perturb"]
    assert list(pairs.columns) == (scores["source"] + "^" + scores["target"]).to_list()
    np.testing.assert_allclose(pairs.mean().to_numpy(), scores["effect"], rtol=1e-3, atol=1e-5)


def test_decoupler(processed):
    net = pd.DataFrame([(name, gene, 1.0) for name, genes in MARKERS.items() for gene in genes])
    net.columns = ["source", "target", "weight"]
    run_recipe(PAGE, "decoupler", adata=processed, net=net, np=np, dc=optional("decoupler"))
    scores = processed.obsm["score_ulm"]
    assert list(scores.index) == list(processed.obs_names)
    assert set(scores.columns) == set(MARKERS)
    # Of the counts themselves, the markers say the same.
    for name, genes in MARKERS.items():
        measured = np.asarray(processed[:, genes].layers["log"].mean(axis=1)).ravel()
        assert np.corrcoef(scores[name], measured)[0, 1] > 0.5, name


# scvi-tools


def test_scvi_tools(section, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    query = sagefm.datasets.simulate(100, n_genes=200, rng=7)
    before = set(query.obs), set(query.obsm), set(query.uns)
    made = run_recipe(PAGE, "scvi-tools", adata=section, query=query, SAGEFM=SAGEFM)
    model, latent = made["model"], made["query_latent"]
    assert latent.shape == (100, 8)
    np.testing.assert_array_equal(model.get_latent_representation(query), latent)
    assert before[0] == set(query.obs)
    assert not set(query.uns) & {"_scvi_uuid"}
    loaded = SAGEFM.load("folder", section)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())

    model.view_anndata_setup()
    shown = capsys.readouterr().out
    for word in ("SAGEFM.setup_anndata", "adata.obsm['spatial']", "sagefm_connectivities", "n_edges"):
        assert word in shown
    assert model.is_trained
    assert "train_loss" in model.history
    assert model.adata_manager is model.get_anndata_manager(section)
    assert model.data_registry("neighbors").shape == (400, 400)
    assert list(model.get_var_names()) == list(section.var_names)
    assert "Training status: Trained" in model.summary_string
    assert str(model.device) == "cpu"
    model.to_device("cpu")
    model.deregister_manager()
    assert model.get_latent_representation().shape == (400, 8)


def test_every_recipe_is_run():
    """Headings of the page that have code to run have a test, here or beside what they are about."""
    text = (importlib.import_module("tests.recipes").DOCS / PAGE).read_text()
    headings = {part.split("\n", 1)[0] for part in text.split("\n## ")[1:] if "```python" in part}
    here = {"scanpy", "squidpy", "CellCharter", "LIANA", "decoupler", "scvi-tools"}
    assert headings == here | {"Readers", "SpatialData", "A second modality", "joblib and Dask"}
