"""Scores of pairs of genes by several methods, each a table that :func:`sagefm.metrics.couplings` reads.

Each function takes a section with its graph (:func:`sagefm.pp.spatial_neighbors`) and pairs [source, target], and
returns source, target, effect (signed), z (ranks the pairs) and, where the method has p-values, pval. All methods read
the same neighbors.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse, stats
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV

import sagefm
from sagefm.data._genes import assign_folds
from sagefm.data._turns import overlapping_turns
from sagefm.inference._couplings import N_FOLDS, SectionFields

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

N_COMPONENTS, N_CLUSTERS, N_PERMUTATIONS, BLOCK_GENES = 20, 6, 200, 512
GRAPH = "sagefm_connectivities"
COUPLINGS = "**couplings** (`tl.regulatory_network`)"


def methods(*, clusters: bool = True) -> dict[str, Callable[[AnnData, pd.DataFrame], pd.DataFrame]]:
    """Return all methods by the name of their row; those of packages that are not installed are left out."""
    rows: dict[str, Callable[[AnnData, pd.DataFrame], pd.DataFrame]] = {
        COUPLINGS: couplings,
        "correlation with neighbors' mean": correlation,
        "the same of adjusted residuals": residual_correlation,
        f"partial correlation given {N_COMPONENTS} components": partial_correlation,
        "ridge on all sources around": ridge,
        "smallest of four products": four_products,
    }
    try:
        import liana  # noqa: F401  (is it there?)
    except ImportError:
        print("LIANA is left out: pip install liana\n")
    else:
        rows |= {"LIANA bivariate Moran": partial(liana_global, "morans"), "LIANA Lee": partial(liana_global, "lee")}
    return rows | {f"squidpy ligrec, {N_CLUSTERS} clusters": ligrec} if clusters else rows


def couplings(adata: AnnData, pairs: pd.DataFrame) -> pd.DataFrame:
    """Score all combinations of the sources and targets of pairs by couplings."""
    sagefm.tl.regulatory_network(adata, list(pairs["source"].unique()), list(pairs["target"].unique()), device="cpu")
    edges: pd.DataFrame = adata.uns.pop("sagefm_network")["edges"]
    return edges


def residual_correlation(adata: AnnData, pairs: pd.DataFrame) -> pd.DataFrame:
    """Score pairs by the correlation that couplings start from, as if spots were independent."""
    edges = couplings(adata, pairs)
    return _of_correlation(edges, edges["r"].to_numpy(), adata.n_obs)


def four_products(adata: AnnData, pairs: pd.DataFrame) -> pd.DataFrame:
    """Score pairs by the smallest of four correlations of adjusted residuals, 0 where their signs differ.

    The source around, with and without what it shares with the source at the spot, against the target, with and without
    what it shares with the target around. The standard deviation is that of couplings.
    """
    section, names = fields(adata)
    source, target = (section.of(list(names.get_indexer(pairs[side])[:, None])) for side in ("source", "target"))
    sd = section.compare(source, target).sd.numpy().diagonal()
    around, own_center = source.around.numpy(), source.center.numpy()
    center, own_around = target.center.numpy(), target.around.numpy()
    products = np.stack(
        [
            _column_correlation(x, y)
            for x in (around, around - own_center * _column_correlation(around, own_center))
            for y in (center, center - own_around * _column_correlation(center, own_around))
        ]
    )
    agree = np.abs(np.sign(products).sum(axis=0)) == len(products)
    z = agree * np.sign(products[0]) * np.abs(products).min(axis=0) / sd
    return pairs[["source", "target"]].assign(effect=z, z=z, pval=2 * stats.norm.sf(np.abs(z)))


def correlation(adata: AnnData, pairs: pd.DataFrame) -> pd.DataFrame:
    """Score pairs by the correlation of the source's mean around with the target, both log-normalized."""
    around, center = _levels(adata, pairs)
    return _of_correlation(pairs, _column_correlation(around, center), adata.n_obs)


def partial_correlation(adata: AnnData, pairs: pd.DataFrame) -> pd.DataFrame:
    """Score pairs by the same correlation given principal components of all genes."""
    components = _components(adata)
    around, center = (_residuals(values, components) for values in _levels(adata, pairs))
    return _of_correlation(pairs, _column_correlation(around, center), adata.n_obs - N_COMPONENTS - 1)


def ridge(adata: AnnData, pairs: pd.DataFrame) -> pd.DataFrame:
    """Score pairs by coefficients of a ridge regression of the target on all sources around; it has no p-values."""
    sources, targets = pairs["source"].unique(), pairs["target"].unique()
    values = log_normalized(adata)
    around = _standardized(_averaged(adata, _dense(values, sources)))
    center = _standardized(_dense(values, targets))
    model = RidgeCV(np.logspace(0, 5, 11), alpha_per_target=True).fit(around, center)
    coefficients = pd.DataFrame(model.coef_.T, index=sources, columns=targets)
    effect = np.array([coefficients.at[pair.source, pair.target] for pair in pairs.itertuples()])
    return pairs[["source", "target"]].assign(effect=effect, z=effect)


def liana_global(name: str, adata: AnnData, pairs: pd.DataFrame) -> pd.DataFrame:
    """Score pairs by LIANA's global bivariate statistic: Moran with its own p-values, Lee with permuted ones."""
    from liana.method import bivariate

    values = log_normalized(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = bivariate(
            values,
            local_name=None,
            global_name=name,
            resource=pairs[["source", "target"]].set_axis(["ligand", "receptor"], axis=1),
            connectivity_key=GRAPH,
            n_perms=0 if name == "morans" else N_PERMUTATIONS,
            nz_prop=0.0,
            use_raw=False,
            complex_sep=None,
            verbose=False,
        )
    table = table.rename(columns={"ligand": "source", "receptor": "target", name: "z", f"{name}_pvals": "pval"})
    table["pval"] = table["pval"].astype(float)
    return table.assign(effect=table["z"])[["source", "target", "effect", "z", "pval"]]


def fields(adata: AnnData) -> tuple[SectionFields, pd.Index]:
    """Return the fields of a section's genes, from which any pairs are scored, and the genes: by name, each once."""
    names, columns = np.unique(adata.var_names.to_numpy(dtype=str), return_index=True)
    folds = assign_folds(np.arange(len(names)), len(names), N_FOLDS, 0)
    coordinates = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    counts = sparse.csc_matrix(adata.X)[:, columns]
    return SectionFields(counts, adata.obsp[GRAPH], coordinates, folds), pd.Index(names)


def all_pairs(adata: AnnData, genes: np.ndarray) -> dict[str, np.ndarray]:
    """Return z of couplings, and of the correlations around and at one spot, of all pairs (n_genes, n_genes).

    It is 0 for genes without counts.
    """
    section, names = fields(adata)
    of_genes = section.of(list(names.get_indexer(genes)[:, None]))
    scores = {name: np.empty((len(genes), len(genes)), np.float32) for name in ("coupling", "around", "same spot")}
    for start in range(0, len(genes), BLOCK_GENES):
        block = slice(start, start + BLOCK_GENES)
        pair, same = (section.compare(of_genes[block], of_genes, same_spot=same) for same in (False, True))
        for name, z in (("coupling", pair.z), ("around", pair.r / pair.sd), ("same spot", same.z)):
            scores[name][block] = np.nan_to_num(z.numpy())
    return scores


def turned_shares(adata: AnnData, sources: np.ndarray, targets: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Return the share of correlations with p below levels, the sources turned on the tissue (n_levels,)."""
    values = log_normalized(adata)
    around, center = _averaged(adata, _dense(values, sources)), _dense(values, targets)
    shares = []
    for spots, moved in overlapping_turns(np.asarray(adata.obsm["spatial"], dtype=np.float64)):
        r = _standardized(around[moved]).T @ _standardized(center[spots]) / len(spots)
        shares.append([(naive_pval(r, len(spots)) < level).mean() for level in levels])
    return np.mean(shares, axis=0) if shares else np.full(len(levels), np.nan)


def ligrec(adata: AnnData, pairs: pd.DataFrame) -> pd.DataFrame:
    """Score pairs by squidpy's ligrec between clusters: the least p-value, times the number of pairs of clusters.

    It asks whether two clusters express a pair more than others do, and has no sign.
    """
    import squidpy as sq

    values = log_normalized(adata)
    labels = KMeans(N_CLUSTERS, n_init=3, random_state=0).fit_predict(_components(adata))
    values.obs["cluster"] = pd.Categorical(labels.astype(str))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sq.gr.ligrec(
            values,
            "cluster",
            interactions=pairs[["source", "target"]],
            use_raw=False,
            n_perms=N_PERMUTATIONS,
            copy=True,
            show_progress_bar=False,
            n_jobs=1,
            seed=0,
        )
    least = np.minimum(result["pvalues"].min(axis=1) * N_CLUSTERS**2, 1)
    pval = least.reindex(pd.MultiIndex.from_frame(pairs[["source", "target"]])).fillna(1).to_numpy(float)
    return pairs[["source", "target"]].assign(effect=np.nan, z=1 - pval, pval=pval)


def log_normalized(adata: AnnData) -> AnnData:
    """Return a copy with log-normalized counts."""
    values = adata.copy()
    sc.pp.normalize_total(values, target_sum=1e4)
    sc.pp.log1p(values)
    return values


def naive_pval(r: np.ndarray, n: int) -> np.ndarray:
    """Return two-sided p-values of correlations over n independent spots."""
    return 2 * stats.norm.sf(np.abs(np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))) * np.sqrt(n - 3))


def _of_correlation(pairs: pd.DataFrame, r: np.ndarray, n: int) -> pd.DataFrame:
    return pairs[["source", "target"]].assign(effect=r, z=r, pval=naive_pval(r, n))


def _levels(adata: AnnData, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return sources around and targets at the spot, log-normalized, each (n_spots, n_pairs)."""
    values = log_normalized(adata)
    return _averaged(adata, _dense(values, pairs["source"])), _dense(values, pairs["target"])


def _dense(values: AnnData, genes: pd.Series | np.ndarray) -> np.ndarray:
    return np.asarray(values[:, list(genes)].X.toarray(), dtype=np.float64)


def _averaged(adata: AnnData, values: np.ndarray) -> np.ndarray:
    """Return means over neighbors, without the spot itself."""
    graph = adata.obsp[GRAPH]
    averages: np.ndarray = (graph @ values) / np.maximum(np.asarray(graph.sum(axis=1)), 1)
    return averages


def _components(adata: AnnData) -> np.ndarray:
    values = log_normalized(adata).X.toarray()
    return np.asarray(PCA(min(N_COMPONENTS, *values.shape), random_state=0).fit_transform(_standardized(values)))


def _residuals(values: np.ndarray, components: np.ndarray) -> np.ndarray:
    design = np.column_stack([np.ones(len(values)), components])
    residuals: np.ndarray = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return residuals


def _standardized(values: np.ndarray) -> np.ndarray:
    sd = values.std(axis=0)
    standardized: np.ndarray = (values - values.mean(axis=0)) / np.where(sd > 0, sd, 1)
    return standardized


def _column_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    r: np.ndarray = (_standardized(x) * _standardized(y)).mean(axis=0)
    return r
