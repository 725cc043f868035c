"""Sections in one table are what they are alone, and are clustered together by the recipe of docs/many_sections.md."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import squidpy as sq
from sklearn.metrics import homogeneity_score

import sagefm
from sagefm.errors import NeighborsError
from sagefm.model import SAGEFM
from tests import OTHER_KERNELS
from tests.recipes import run_recipe

PAGE = "many_sections.md"


@pytest.fixture
def same_values(section):
    """Two sections of the same spots in other places: each gene has the range of levels that it has in both."""
    other = section.copy()
    other.obsm["spatial"] = section.obsm["spatial"][np.random.default_rng(0).permutation(section.n_obs)]
    # Imputation draws by name; a section alone has the names that it has in the table.
    other.obs_names = [f"{name}-other" for name in section.obs_names]
    return {"first": section, "other": other}


def test_verbs_are_those_of_each_section(same_values, checkpoint, run_verbs):
    joined = ad.concat(same_values, label="library")
    joined = joined[np.random.default_rng(1).permutation(joined.n_obs)].copy()
    found = run_verbs(joined, checkpoint, library_key="library")
    for name, section in same_values.items():
        alone = run_verbs(section.copy(), checkpoint)
        order = joined.obs_names.get_indexer(section.obs_names)
        np.testing.assert_allclose(found.embedding[order], alone.embedding, **OTHER_KERNELS, err_msg=name)
        np.testing.assert_allclose(found.imputed[order], alone.imputed, **OTHER_KERNELS, err_msg=name)
        np.testing.assert_allclose(found.per_spot.iloc[order], alone.per_spot, **OTHER_KERNELS, err_msg=name)
        # Where the levels are the same, the mean over a section's spots is the score of the section.
        mean = found.per_spot.groupby(joined.obs["library"].to_numpy()).mean().loc[name]
        np.testing.assert_allclose(mean, alone.scores["effect"], **OTHER_KERNELS)


@pytest.mark.parametrize("n_sections", [2, 5])
def test_no_edge_joins_two_sections(n_sections, default):
    sections = sagefm.datasets.simulate(60, n_genes=300, n_sections=n_sections, rng=3)
    sections = sections[np.random.default_rng(0).permutation(sections.n_obs)].copy()
    sagefm.tl.embed(sections, default, library_key="library")
    graph = sections.obsp["sagefm_connectivities"].tocoo()
    library = sections.obs["library"].to_numpy()
    assert (library[graph.row] == library[graph.col]).all()
    assert (np.bincount(graph.row) == 14).all()


def test_a_graph_that_joins_sections_is_refused(sections, default, rejects):
    """The message has the call that builds one that does not."""
    sections.obsm["spatial"] = sections.obsm["spatial"] + np.random.default_rng(0).normal(size=(300, 2))
    sq.gr.spatial_neighbors_knn(sections, n_neighs=14, key_added="mixed")
    call = lambda: sagefm.tl.embed(sections, default, library_key="library", neighbors_key="mixed")
    rejects(NeighborsError, sections, call, "different libraries", "library_key='library'")
    sq.gr.spatial_neighbors_knn(sections, n_neighs=14, key_added="mixed", library_key="library")
    call()
    own = sections.obsm["X_sagefm"]
    sagefm.tl.embed(sections, default, library_key="library")
    np.testing.assert_allclose(sections.obsm["X_sagefm"], own, **OTHER_KERNELS)


def test_recipe_of_joining(sections, default, pairs):
    """Sections of different genes; what the table is for comes out as each section gave it."""
    parts = {name: sections[sections.obs["library"] == name].copy() for name in ("section1", "section2")}
    # The sources and targets of the pairs stay.
    genes = np.flatnonzero(~sections.var_names.isin(pairs.to_numpy().ravel()))
    for part, without in zip(parts.values(), (genes[:20], genes[20:40]), strict=True):
        part._inplace_subset_var(np.setdiff1d(np.arange(300), without))
    made = run_recipe(PAGE, "Joining", sections=parts, model=default, sagefm=sagefm, ad=ad)
    adata = made["adata"]
    assert adata.n_vars == 260
    both = np.vstack([part.obsm["X_sagefm"] for part in parts.values()])
    np.testing.assert_array_equal(adata.obsm["X_sagefm"], both)
    names = {"adata": adata, "model": default, "pairs": pairs, "sagefm": sagefm}
    by_section = run_recipe(PAGE, "What stays apart, and what does not", **names)["by_section"]
    assert list(by_section["group"].unique()) == list(parts)
    scores = adata.uns["sagefm_perturb"]["scores"]
    means = by_section.groupby(["source", "target"], sort=False)["effect"].mean()
    np.testing.assert_allclose(means, scores["effect"], **OTHER_KERNELS)


def mixing(adata: ad.AnnData) -> float:
    """Share of the edges of scanpy's graph that join two libraries, over that of a graph that knows of none."""
    graph = adata.obsp["connectivities"].tocoo()
    library = adata.obs["library"].to_numpy()
    shares = pd.Series(library).value_counts(normalize=True)
    return (library[graph.row] != library[graph.col]).mean() / (1 - (shares**2).sum())


def test_recipe_of_batch_effects():
    """Donors that differ much: clusters of both together are the domains, and Harmony mixes what is left."""
    harmonypy = pytest.importorskip("harmonypy", reason="pip install 'sagefm[interop]'")
    adata = sagefm.datasets.simulate(300, n_genes=300, n_sections=2, donor_sd=0.8, rng=4)
    adata.obs_names_make_unique()
    SAGEFM.setup_anndata(adata, library_key="library")
    model = SAGEFM(adata, hidden=(32, 16))
    model.train(max_epochs=10, accelerator="cpu", batch_size=64, lr=3e-3)
    sagefm.tl.embed(adata, model, library_key="library")
    sc.pp.neighbors(adata, use_rep="X_sagefm")
    before = mixing(adata)
    run_recipe(PAGE, "Batch effects", adata=adata, harmonypy=harmonypy, sc=sc)
    assert adata.obsm["X_harmony"].shape == adata.obsm["X_sagefm"].shape
    assert mixing(adata) > max(before, 0.7)
    counts = pd.crosstab(adata.obs["leiden"], adata.obs["library"])
    assert (counts > 0).all(axis=None)
    assert homogeneity_score(adata.obs["domain"], adata.obs["leiden"]) > 0.9
