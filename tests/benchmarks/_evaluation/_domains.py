"""Domains: `sagefm.tl.domains` beside linear controls and published methods, all clustered by one mixture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import sagefm
from _evaluation._models import average_around
from _evaluation._sections import donor, labels_of, tissue
from sagefm.data._counts import log_normalize

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

OURS = "sagefm.tl.domains"
#: Donors that no choice was made on.
HELD_OUT = ("RA4", "heart_CN74", "her2st_C", "her2st_G", "Br8100")


def embedders(adata: AnnData) -> dict[str, Callable[[], np.ndarray]]:
    """Return what makes each embedding of a section (n_spots, n_latent) from its counts, by name."""
    return {
        OURS: partial(smoothed, adata),
        "PCA of the spot": partial(_pca, adata, 20),
        "PCA of the mean of 15 spots": partial(average, adata),
        "30 PCs and their rings": partial(rings, adata),
        "MULTISPATI of 50 PCs": partial(multispati, adata),
        "implicit filter of scaled PCs": partial(implicit_filter, adata),
    }


def smoothed(adata: AnnData) -> np.ndarray:
    """Return the smoothed components; the number of domains does not change them."""
    return sagefm.tl.domains(adata, 2, copy=True).obsm["X_sagefm_domains"]


def average(adata: AnnData) -> np.ndarray:
    """Return 20 principal components of the mean of each spot and its 14 neighbors."""
    values = sparse.csr_matrix(average_around(adata, _logarithms(adata)))
    return PCA(20, svd_solver="arpack", random_state=0).fit_transform(values)


def rings(adata: AnnData) -> np.ndarray:
    """Return 12 principal components of 30 PCs beside their means over the nearest 6 spots, and the next 12."""
    scores = _pca(adata, 30)
    nearest = _nearest(adata, 18)
    beside = [scores, scores[nearest[:, :6]].mean(axis=1), scores[nearest[:, 6:]].mean(axis=1)]
    return PCA(12, random_state=0).fit_transform(np.hstack(beside))


def multispati(adata: AnnData) -> np.ndarray:
    """Return the 20 combinations of 50 PCs with the largest product of variance and Moran's I.

    References
    ----------
    Dray et al., "Spatial ordination of vegetation data using a generalization of Wartenberg's multivariate spatial
    correlation", Journal of Vegetation Science 19, 45 (2008), doi:10.3170/2007-8-18312.
    """
    scores = _pca(adata, 50)
    lagged = scores[_nearest(adata, 6)].mean(axis=1)
    products = scores.T @ lagged
    vectors = np.linalg.eigh(products + products.T)[1]
    return scores @ vectors[:, ::-1][:, :20]


def implicit_filter(adata: AnnData, *, strength: float = 0.5) -> np.ndarray:
    """Return (I + strength L)^-1 of 30 PCs of 3,000 variable genes of unit variance, clipped at 10; L is normalized."""
    table = ad.AnnData(adata.X.copy())
    sc.pp.filter_genes(table, min_cells=3)
    sc.pp.normalize_total(table, target_sum=1e4)
    sc.pp.log1p(table)
    sc.pp.highly_variable_genes(table, n_top_genes=min(3000, table.n_vars))
    table = table[:, table.var["highly_variable"]].copy()
    sc.pp.scale(table, max_value=10)
    scores = PCA(min(30, *table.shape), random_state=0).fit_transform(table.X)
    graph = NearestNeighbors(n_neighbors=6).fit(_coordinates(adata)).kneighbors_graph()
    graph = graph.maximum(graph.T)
    inverse_root = sparse.diags_array(np.asarray(graph.sum(axis=1)).ravel() ** -0.5)
    laplacian = sparse.eye_array(adata.n_obs) - inverse_root @ graph @ inverse_root
    return sparse.linalg.spsolve(sparse.csc_matrix(sparse.eye_array(adata.n_obs) + strength * laplacian), scores)


def _pca(adata: AnnData, n_components: int) -> np.ndarray:
    return PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(_logarithms(adata))


def _logarithms(adata: AnnData) -> sparse.csr_matrix:
    return log_normalize(adata.X, 1e4).astype(np.float64)


def _coordinates(adata: AnnData) -> np.ndarray:
    return np.asarray(adata.obsm["spatial"], dtype=np.float64)


def _nearest(adata: AnnData, n_neighbors: int) -> np.ndarray:
    return NearestNeighbors(n_neighbors=n_neighbors).fit(_coordinates(adata)).kneighbors(return_distance=False)


# Tables


def by_tissue(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean ARI of each method and tissue, their mean, and the regret.

    The regret is how far a method falls below the best of all methods on the tissue where it falls farthest.
    """
    means = rows.assign(tissue=rows["section"].map(tissue)).pivot_table(
        index="embedding", columns="tissue", values="ari", sort=False
    )
    regret = (means.max() - means).max(axis=1)
    return means.assign(mean=means.mean(axis=1), regret=regret).reset_index()


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """Return our lead over each method, mean over donors, its standard error, and the number of donors."""
    donors = rows.assign(donor=rows["section"].map(donor)).pivot_table(
        index="donor", columns="embedding", values="ari", sort=False
    )
    leads = donors.rsub(donors[OURS], axis=0).drop(columns=OURS)
    errors = leads.std() / np.sqrt(leads.notna().sum())
    return pd.DataFrame({"lead": leads.mean(), "standard_error": errors, "donors": leads.notna().sum()}).reset_index()


def is_held_out(section: str) -> bool:
    """Return whether no choice was made on the donor of a section."""
    return donor(section) in HELD_OUT


# Several sections together


def groups(sections: list[str]) -> dict[str, list[str]]:
    """Return the sections of each donor that has several, and of each tissue with several donors."""
    names = pd.DataFrame({"section": sections, "donor": map(donor, sections), "tissue": map(tissue, sections)})
    by_donor = {one: list(part["section"]) for one, part in names.groupby("donor") if len(part) > 1}
    several = {one: part for one, part in names.groupby("tissue") if part["donor"].nunique() > 1}
    return by_donor | {one: list(part["section"]) for one, part in several.items()}


def evaluate_together(sections: dict[str, AnnData], n_seeds: int) -> dict[str, float]:
    """Return the ARI of domains of several sections: each alone, together, and of all spots at once.

    Together, domains have as many names as the labels of all sections; alone, as those of that section. `pooled` is the
    ARI of all spots of all sections, which needs a domain to have one name; principal components of deviations are the
    control of it.
    """
    genes = sorted(set.intersection(*(set(adata.var_names) for adata in sections.values())))
    table = ad.concat({n: a[:, genes] for n, a in sections.items()}, label="section", index_unique="-")
    labels = pd.concat([labels_of(adata) for adata in sections.values()]).set_axis(table.obs_names)
    known, n_domains = labels.notna().to_numpy(), labels.nunique()
    section = table.obs["section"].to_numpy()
    alone, together, pooled = [], [], []
    for seed in range(n_seeds):
        sagefm.tl.domains(table, n_domains, library_key="section", rng=seed)
        domains = table.obs["sagefm_domain"].astype(str)
        pooled.append(adjusted_rand_score(labels[known], domains[known]))
        for name, adata in sections.items():
            rows = known & (section == name)
            together.append(adjusted_rand_score(labels[rows], domains[rows]))
            own = sagefm.tl.domains(adata, int(labels[rows].nunique()), rng=seed, copy=True)
            alone.append(
                adjusted_rand_score(labels[rows], own.obs["sagefm_domain"][labels_of(adata).notna().to_numpy()])
            )
    means = {"alone": np.mean(alone), "together": np.mean(together), "pooled": np.mean(pooled)}
    scores = sagefm.metrics.clustering(_deviation_scores(table, section), labels, n_clusters=n_domains, n_seeds=n_seeds)
    return {"n_sections": len(sections), **means, "pooled_pca": scores["ari"].mean()}


def _deviation_scores(table: AnnData, section: np.ndarray) -> np.ndarray:
    """Return 20 principal components of deviations from each section's mean."""
    u = log_normalize(sparse.csr_matrix(table.X, dtype=np.float32), 1e4).astype(np.float64)
    frame = pd.DataFrame(PCA(50, svd_solver="arpack", random_state=0).fit_transform(u))
    return PCA(20, random_state=0).fit_transform(frame - frame.groupby(section).transform("mean"))
